//! Parsing of option values.

use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::parsing;

/// A number of connections, or a share of all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Active {
    Count(u32),
    Percent(f64),
}

/// A share in whole percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percent(pub(super) u8);

/// A value together with its text, as a scenario file is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given<T> {
    pub(super) text: String,
    pub(super) value: T,
}

impl<T: FromStr> FromStr for Given<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { text: text.to_owned(), value: text.parse()? })
    }
}

/// A list of processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cpus(pub(super) Vec<usize>);

/// Messages in flight on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Limited(u32),
    Unlimited,
}

/// A part of the time with load: in that time the load changes, in a straight line, to that value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stage {
    pub(super) time: Duration,
    pub(super) value: f64,
}

/// A number of connections or processes, at least 1.
pub(super) fn count(text: &str) -> Result<u32, String> {
    match count_or_none(text)? {
        0 => Err("must be more than 0".to_owned()),
        count => Ok(count),
    }
}

/// A number of connections, or 0.
pub(super) fn count_or_none(text: &str) -> Result<u32, String> {
    u32::try_from(parsing::whole(text)?).map_err(|_| format!("more than {}", u32::MAX))
}

/// A number of messages, at least 1.
pub(super) fn messages(text: &str) -> Result<u64, String> {
    match parsing::whole(text)? {
        0 => Err("must be more than 0".to_owned()),
        count => Ok(count),
    }
}

/// Connections per second; 0 is no limit.
pub(super) fn connect_rate(text: &str) -> Result<f64, String> {
    match per_second(text)? {
        rate if rate > 0.0 && rate < 0.01 => Err("less than one connection in 100 seconds".to_owned()),
        rate => Ok(rate),
    }
}

/// Messages per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    match per_second(text)? {
        rate if rate >= 0.001 => Ok(rate),
        _ => Err("less than one message in 1000 seconds".to_owned()),
    }
}

/// `500`, `10k` or `10k/s`.
fn per_second(text: &str) -> Result<f64, String> {
    parsing::number(text.trim().strip_suffix("/s").unwrap_or(text))
}

/// A duration.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    parsing::duration(text)
}

/// A duration that is not 0.
pub(super) fn positive_seconds(text: &str) -> Result<Duration, String> {
    let duration = seconds(text)?;
    if duration.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(duration) }
}

impl FromStr for Depth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        match count(text)? {
            depth if depth <= MAX_DEPTH => Ok(Self::Limited(depth)),
            _ => Err(format!("more than {MAX_DEPTH}")),
        }
    }
}

/// More messages in flight on one connection than any socket buffers hold.
const MAX_DEPTH: u32 = 65_536;

impl Serialize for Depth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Limited(depth) => serializer.serialize_u32(*depth),
            Self::Unlimited => serializer.serialize_str("unlimited"),
        }
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: String| format!("{text:?} is no stage like 30s:1000 (a time and the value at its end){why}");
        let (time, value) = text.split_once(':').ok_or_else(|| wrong(String::new()))?;
        let time = seconds(time.trim()).map_err(|error| wrong(format!(": {error}")))?;
        let value = per_second(value).map_err(|error| wrong(format!(": {error}")))?;
        Ok(Self { time, value })
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}:{}", parsing::show_duration(self.time), self.value))
    }
}

impl FromStr for Active {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            return match parsing::number(percent)? {
                percent if percent <= 100.0 => Ok(Self::Percent(percent)),
                _ => Err("more than 100%".to_owned()),
            };
        }
        let wrong = |_| "neither a number of connections nor a share like 1%".to_owned();
        count_or_none(text).map(Self::Count).map_err(wrong)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim().parse().ok().filter(|&percent: &u8| percent <= 100);
        number.map(Self).ok_or_else(|| "not a share from 0% to 100%".to_owned())
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}%", self.0))
    }
}

impl Serialize for Active {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Percent(percent) => serializer.serialize_str(&format!("{percent}%")),
        }
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parsing::cpus(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_a_time_and_a_value() {
        let stage = |text: &str| text.parse::<Stage>().map(|stage| (stage.time, stage.value));
        assert_eq!(stage(" 2m:20k"), Ok((Duration::from_secs(120), 20_000.0)));
        assert_eq!(stage("1.5: 0"), Ok((Duration::from_millis(1500), 0.0)));
        assert_eq!(stage("30s:500/s"), Ok((Duration::from_secs(30), 500.0)));
        for wrong in ["", "30s", "30s:", ":5", "30s:-1", "x:5", "30s:5:6"] {
            assert!(stage(wrong).unwrap_err().contains("is no stage like 30s:1000"), "{wrong}");
        }
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!("1".parse(), Ok(Cpus(vec![1])));
        assert_eq!("0-2,5".parse(), Ok(Cpus(vec![0, 1, 2, 5])));
        for wrong in ["", "a", "3-1", "1,", "99999"] {
            assert!(wrong.parse::<Cpus>().is_err(), "{wrong}");
        }
    }
}
