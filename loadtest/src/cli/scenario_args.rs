//! The options that make a scenario, on the command line and in a scenario file.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Serialize, Serializer};

use super::values::{Active, number, positive_seconds, rate, seconds};
use crate::message::sizes::Sizes;
use crate::scenario::{Arrivals, Connect, OpenLoop, Scenario, Traffic, Upkeep};
use crate::search::Quantity;
use crate::source::SourceList;
use crate::tls::TlsOptions;
use crate::websocket::handshake::Extras;

/// The load. Serialized, this is a scenario file.
#[derive(Clone, Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct ScenarioArgs {
    /// The server, as ws://host:port/path, wss://host/path (TLS), ws+unix:/socket:/path or tcp://host:port (messages
    /// without frames, for comparison); connections to several take turns. Without it a ringecho is started on a free
    /// port for the run
    #[expect(clippy::doc_markdown, reason = "URLs in a help text")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) url: Vec<String>,

    /// Speak bare TCP with the server started for the run
    #[arg(long, conflicts_with = "url")]
    pub(super) tcp: bool,

    /// Connections to open
    #[arg(short = 'c', long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,

    /// Connections to begin per second; 0 is as fast as it goes
    #[arg(long, value_name = "N/S", default_value_t = 0.0, value_parser = rate)]
    connect_rate: f64,

    /// Connections being opened at the same time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    connect_window: u32,

    /// Time for a connection to become ready
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = positive_seconds)]
    #[serde(serialize_with = "as_seconds")]
    connect_timeout: Duration,

    /// Connections that send: a number, or a share like 1%
    #[arg(short = 'a', long, value_name = "N|P%", default_value = "100%")]
    active: Active,

    /// Payload bytes of a message: a size, a range like 16-4096, or sizes with weights like 128:90,65536:10; from 16 on,
    /// messages carry their connection and sequence number
    #[arg(short = 's', long, value_name = "BYTES", default_value = "128")]
    #[serde(serialize_with = "as_text")]
    size: Sizes,

    /// Open loop: so many messages a second, by all active connections together, whether or not echoes have come back;
    /// latency counts from when a message was due
    #[arg(short = 'r', long, value_name = "N/S", value_parser = positive)]
    rate: Option<f64>,

    /// How the messages of an open loop are spread over time
    #[arg(long, value_enum, default_value_t = Arrivals::Constant)]
    arrivals: Arrivals,

    /// Messages in flight on each active connection at most [default: 1, with --rate unlimited]
    #[arg(short = 'd', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    depth: Option<u32>,

    /// Measured time [default: 10, in a search 3]
    #[arg(short = 't', long, value_name = "SECONDS", value_parser = seconds)]
    #[serde(serialize_with = "as_maybe_seconds")]
    duration: Option<Duration>,

    /// Time with load before measuring begins [default: 2, with --messages 0, in a search 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    #[serde(serialize_with = "as_maybe_seconds")]
    warmup: Option<Duration>,

    /// End after so many messages, or after --duration if that comes first
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,

    /// Send text messages (printable ASCII)
    #[arg(long, overrides_with = "binary")]
    text: bool,

    /// Send binary messages (the default)
    #[arg(long, overrides_with = "text")]
    #[serde(skip)]
    binary: bool,

    /// Do not have each connection echo one message before it counts as ready
    #[arg(long)]
    no_greet: bool,

    /// Do not compare echoes with what was sent
    #[arg(long)]
    no_verify: bool,

    /// While there is load, close a connection in order and open it again so often; connections take turns
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    #[serde(serialize_with = "as_maybe_seconds")]
    reconnect_every: Option<Duration>,

    /// The same, said differently: how long each connection lives
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds, conflicts_with = "reconnect_every")]
    #[serde(serialize_with = "as_maybe_seconds")]
    lifetime: Option<Duration>,

    /// While there is load, ping each connection so often
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    #[serde(serialize_with = "as_maybe_seconds")]
    ping_every: Option<Duration>,

    /// Connections that send as much as the server takes, and read nothing; they are not among the active ones
    #[arg(long, value_name = "N", default_value_t = 0)]
    slow_readers: u32,

    /// Source addresses: a block like 127.1.0.0/16, or a list of addresses and blocks [default: on IPv4 loopback a block
    /// in 127.64.0.0/9, otherwise as the kernel chooses]
    #[arg(long, value_name = "CIDR|LIST")]
    source: Option<String>,

    /// A subprotocol to offer; may be said several times, the most wanted first
    #[arg(long, value_name = "NAME", value_parser = token)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subprotocol: Vec<String>,

    /// A header of the upgrade request; may be said several times
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    header: Vec<String>,

    /// wss: take any certificate
    #[arg(long)]
    insecure: bool,

    /// wss: trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Time to wait for outstanding echoes at the end
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    #[serde(serialize_with = "as_seconds")]
    drain_timeout: Duration,

    /// Time for closing all connections in order at the end
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    #[serde(serialize_with = "as_seconds")]
    close_timeout: Duration,
}

impl ScenarioArgs {
    /// Fills in the defaults that depend on other options.
    pub(super) fn fill_in(&mut self, is_search: bool) {
        let (duration, warmup) = match (is_search, self.messages) {
            (true, _) => (3, 1),
            (false, Some(_)) => (10, 0),
            (false, None) => (10, 2),
        };
        self.duration.get_or_insert(Duration::from_secs(duration));
        self.warmup.get_or_insert(Duration::from_secs(warmup));
    }

    /// Gives the quantity that a search varies a value.
    pub(super) fn set(&mut self, quantity: Quantity, value: u64) {
        match quantity {
            Quantity::Rate => self.rate = Some(value as f64),
            Quantity::Connections => self.connections = u32::try_from(value).unwrap_or(u32::MAX),
        }
    }

    /// What the options mean, once they are all filled in; refuses those that contradict each other.
    pub(super) fn resolve(&self) -> Result<Scenario, String> {
        let Some(regular) = self.connections.checked_sub(self.slow_readers) else {
            return Err(format!(
                "--slow-readers {} is more than --connections {}",
                self.slow_readers, self.connections
            ));
        };
        let active = match self.active {
            Active::Count(count) if count > regular => {
                return Err(format!("--active {count} is more than the {regular} connections that read"));
            }
            Active::Count(count) => count,
            Active::Percent(percent) => (f64::from(regular) * percent / 100.0).round() as u32,
        };
        let open = self.rate.map(|rate| OpenLoop { rate, arrivals: self.arrivals });
        if open.is_some() && active == 0 {
            return Err("--rate needs active connections".to_owned());
        }
        Ok(Scenario {
            connections: self.connections,
            connect: Connect {
                rate: self.connect_rate,
                window: self.connect_window,
                timeout: self.connect_timeout,
                greet: !self.no_greet,
            },
            active,
            traffic: Traffic {
                sizes: self.size.clone(),
                depth: self.depth.unwrap_or(if open.is_some() { u32::MAX } else { 1 }),
                open,
                text: self.text,
                verify: !self.no_verify,
                limit: self.messages,
            },
            upkeep: Upkeep {
                reconnect_every: self.reconnect_every.or_else(|| self.lifetime.map(|it| it / self.connections)),
                ping_every: self.ping_every,
                slow_readers: self.slow_readers,
            },
            warmup: self.warmup.unwrap_or_default(),
            duration: self.duration.unwrap_or_default(),
            drain_timeout: self.drain_timeout,
            close_timeout: self.close_timeout,
        })
    }

    /// What the upgrade requests ask for.
    pub(super) fn extras(&self) -> Extras {
        Extras { subprotocols: self.subprotocol.clone(), headers: self.header.clone() }
    }

    /// Whom to trust.
    pub(super) fn tls(&self) -> TlsOptions {
        TlsOptions { insecure: self.insecure, ca: self.ca.clone() }
    }

    /// Where connections come from.
    pub(super) fn sources(&self) -> Result<Option<SourceList>, String> {
        self.source.as_deref().map(|list| list.parse().map_err(|error| format!("--source: {error}"))).transpose()
    }

    /// The options as a scenario file, all defaults included.
    pub(super) fn to_toml(&self) -> String {
        toml::to_string(self).expect("options are plain values")
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match number(text)? {
        rate if rate >= 0.001 => Ok(rate),
        _ => Err("less than one message in 1000 seconds".to_owned()),
    }
}

/// A token (RFC 9110 section 5.6.2).
fn token(text: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err("not a token: letters, digits and !#$%&'*+-.^_`|~".to_owned());
    }
    Ok(text.to_owned())
}

fn header(text: &str) -> Result<String, String> {
    let (name, value) = text.split_once(':').ok_or("not a header like `Name: value`")?;
    token(name)?;
    if value.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("a control character in a header".to_owned());
    }
    Ok(format!("{name}: {}", value.trim()))
}

fn as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[expect(clippy::ref_option, reason = "serde wants it so")]
fn as_maybe_seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

fn as_text<S: Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}
