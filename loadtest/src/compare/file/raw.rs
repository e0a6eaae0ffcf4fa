//! The file as written: keys and values, each parsed separately.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::super::metric::Metric;
use crate::message::sizes::Sizes;
use crate::parsing;

/// The content of one file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) include: Vec<Spanned<String>>,
    pub(super) compare: Option<Spanned<Compare>>,
    pub(super) defaults: Option<Spanned<Defaults>>,
    pub(super) server: Vec<Spanned<Server>>,
    pub(super) cell: Vec<Spanned<Cell>>,
}

/// `[compare]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Compare {
    pub(super) title: Option<String>,
    pub(super) rounds: Option<u32>,
    pub(super) discard: Option<u32>,
    #[serde(deserialize_with = "time")]
    pub(super) duration: Option<Duration>,
    #[serde(deserialize_with = "time")]
    pub(super) warmup: Option<Duration>,
    pub(super) baseline: Option<Spanned<String>>,
    #[serde(deserialize_with = "share")]
    pub(super) same_within: Option<f64>,
    #[serde(deserialize_with = "share")]
    pub(super) confidence: Option<f64>,
    #[serde(deserialize_with = "cpus")]
    pub(super) server_cpus: Option<Vec<usize>>,
    #[serde(deserialize_with = "cpus")]
    pub(super) load_cpus: Option<Vec<usize>>,
    pub(super) fresh: Option<Fresh>,
    pub(super) idle: Option<Idle>,
    pub(super) retries: Option<u32>,
}

/// When a server is restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Fresh {
    /// For each cell of each round.
    #[default]
    Cell,
    /// For each round, in which it goes through all cells.
    Round,
}

/// How idle processors wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Idle {
    /// As the kernel is configured.
    #[default]
    AsIs,
    /// They poll before they halt, if the kernel allows this user to change it.
    Poll,
}

/// Defaults of all servers: `[defaults]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Defaults {
    #[serde(deserialize_with = "port")]
    pub(super) port: Option<Port>,
    pub(super) url: Option<String>,
    pub(super) ready: Option<Ready>,
    pub(super) stop: Option<Stop>,
}

/// `[[server]]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Server {
    pub(super) name: Option<Spanned<String>>,
    pub(super) class: Option<Class>,
    pub(super) language: Option<String>,
    pub(super) version: Option<String>,
    pub(super) version_cmd: Option<String>,
    pub(super) dir: Option<String>,
    pub(super) build: Option<String>,
    pub(super) command: Option<Spanned<String>>,
    pub(super) env: BTreeMap<String, String>,
    #[serde(deserialize_with = "port")]
    pub(super) port: Option<Port>,
    pub(super) url: Option<String>,
    pub(super) ready: Option<Ready>,
    pub(super) stop: Option<Stop>,
    pub(super) needs: Vec<Spanned<String>>,
    pub(super) limits: Limits,
    pub(super) tuned: Option<String>,
    pub(super) about: Option<String>,
    pub(super) skip: Option<String>,
}

/// The kind of server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Written for this purpose only.
    Engine,
    /// A WebSocket library with a small program around it.
    #[default]
    Library,
    /// A web framework.
    Framework,
    /// Measured as a reference, such as bare TCP, and never ranked.
    Reference,
}

impl Class {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Library => "library",
            Self::Framework => "framework",
            Self::Reference => "reference",
        }
    }
}

/// `ready = { ... }`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Ready {
    pub(super) tcp: Option<bool>,
    pub(super) http: Option<String>,
    pub(super) log: Option<String>,
    #[serde(deserialize_with = "time")]
    pub(super) timeout: Option<Duration>,
}

/// `stop = { ... }`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Stop {
    pub(super) signal: Option<StopSignal>,
    #[serde(deserialize_with = "time")]
    pub(super) timeout: Option<Duration>,
}

/// The signal that asks a server to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the signals of these names")]
pub enum StopSignal {
    #[default]
    Term,
    Int,
    Quit,
    Hup,
    Kill,
}

impl StopSignal {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Hup => "SIGHUP",
            Self::Kill => "SIGKILL",
        }
    }
}

/// `limits = { ... }`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[expect(clippy::struct_field_names, reason = "they are the names of the keys")]
pub(super) struct Limits {
    #[serde(deserialize_with = "bytes")]
    pub(super) max_message: Option<u64>,
    #[serde(deserialize_with = "most")]
    pub(super) max_connections: Option<u64>,
    #[serde(deserialize_with = "most")]
    pub(super) max_depth: Option<u64>,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Port {
    /// At a free port.
    #[default]
    Auto,
    /// At this one.
    Fixed(u16),
}

/// `[[cell]]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Cell {
    pub(super) name: Option<String>,
    pub(super) about: Option<String>,
    #[serde(deserialize_with = "counts")]
    pub(super) connections: Vec<u32>,
    #[serde(deserialize_with = "sizes")]
    pub(super) size: Vec<Sizes>,
    #[serde(deserialize_with = "counts")]
    pub(super) depth: Vec<u32>,
    #[serde(deserialize_with = "word")]
    pub(super) active: Option<String>,
    #[serde(deserialize_with = "rate")]
    pub(super) rate: Option<Rate>,
    #[serde(deserialize_with = "count")]
    pub(super) messages_per_connection: Option<u32>,
    #[serde(deserialize_with = "count")]
    pub(super) slow_readers: Option<u32>,
    #[serde(deserialize_with = "metric")]
    pub(super) metric: Option<Metric>,
    #[serde(deserialize_with = "time")]
    pub(super) duration: Option<Duration>,
    #[serde(deserialize_with = "time")]
    pub(super) warmup: Option<Duration>,
    pub(super) rounds: Option<u32>,
    pub(super) args: Option<Spanned<String>>,
}

/// The rate of an open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Messages per second in all.
    PerSecond(f64),
    /// A share of the lowest rate that a server reached in the closed loop.
    ShareOfSlowest(f64),
}

/// The suffix of the share in [`Rate::ShareOfSlowest`].
const OF_SLOWEST: &str = "-of-slowest";

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(share) = text.strip_suffix(OF_SLOWEST) {
            let share = parse_share(share)?;
            return if share > 0.0 {
                Ok(Self::ShareOfSlowest(share))
            } else {
                Err("a share of 0 is no load".to_owned())
            };
        }
        let rate = parsing::number(text.strip_suffix("/s").unwrap_or(text))
            .map_err(|_| format!("{text:?} is neither messages per second like 10k nor a share like 60%-of-slowest"))?;
        if rate > 0.0 { Ok(Self::PerSecond(rate)) } else { Err("a rate of 0 is no load".to_owned()) }
    }
}

/// `2%` or 0.02.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let share = match text.trim().strip_suffix('%') {
        Some(percent) => parsing::number(percent).map(|percent| percent / 100.0),
        None => parsing::number(text),
    };
    let share = share.map_err(|_| format!("{text:?} is no share like 2% or 0.02"))?;
    if share < 1.0 { Ok(share) } else { Err(format!("{text:?} is not less than 100%")) }
}

fn parse_count(text: &str) -> Result<u32, String> {
    match u32::try_from(parsing::whole(text)?) {
        Ok(0) => Err("must be more than 0".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("more than {}", u32::MAX)),
    }
}

// ----- values written as a number or as text -----

/// A number or a text, as a text.
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Word;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a number or a text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Word, E> {
                Ok(Word(text.to_owned()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Word, E> {
                Ok(Word(number.to_string()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Word, E> {
                Ok(Word(number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Word, E> {
                Ok(Word(number.to_string()))
            }
        }
        deserializer.deserialize_any(Words)
    }
}

/// One [`Word`], or a list of them.
struct WordList(Vec<String>);

impl<'de> Deserialize<'de> for WordList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lists;
        impl<'de> Visitor<'de> for Lists {
            type Value = WordList;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a number, a text, or a list of those")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<WordList, E> {
                Ok(WordList(vec![text.to_owned()]))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<WordList, E> {
                Ok(WordList(vec![number.to_string()]))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<WordList, E> {
                Ok(WordList(vec![number.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<WordList, A::Error> {
                let mut words = Vec::new();
                while let Some(Word(word)) = list.next_element()? {
                    words.push(word);
                }
                Ok(WordList(words))
            }
        }
        deserializer.deserialize_any(Lists)
    }
}

fn parsed<'de, D, T>(deserializer: D, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
{
    let Word(text) = Word::deserialize(deserializer)?;
    parse(&text).map(Some).map_err(D::Error::custom)
}

fn parsed_list<'de, D, T>(deserializer: D, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
{
    let WordList(words) = WordList::deserialize(deserializer)?;
    words.iter().map(|word| parse(word)).collect::<Result<_, _>>().map_err(D::Error::custom)
}

fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    parsed(deserializer, |text| Ok(text.to_owned()))
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    parsed(deserializer, parsing::duration)
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    parsed(deserializer, parse_share)
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    parsed(deserializer, parsing::bytes)
}

fn cpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<usize>>, D::Error> {
    parsed(deserializer, parsing::cpus)
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rate>, D::Error> {
    parsed(deserializer, str::parse)
}

fn metric<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Metric>, D::Error> {
    parsed(deserializer, str::parse)
}

fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    parsed(deserializer, parse_count)
}

/// A number, or the word for no limit.
fn most<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    parsed(deserializer, |text| match text {
        "unlimited" => Ok(u64::MAX),
        _ => parsing::whole(text).map_err(|_| format!("{text:?} is neither a number like 20k nor \"unlimited\"")),
    })
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Port>, D::Error> {
    parsed(deserializer, |text| match (text, text.parse::<u16>()) {
        ("auto", _) => Ok(Port::Auto),
        (_, Ok(port)) if port > 0 => Ok(Port::Fixed(port)),
        _ => Err(format!("{text:?} is neither a port nor \"auto\"")),
    })
}

fn counts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    parsed_list(deserializer, parse_count)
}

fn sizes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Sizes>, D::Error> {
    parsed_list(deserializer, str::parse::<Sizes>)
}
