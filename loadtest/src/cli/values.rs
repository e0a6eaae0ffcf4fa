//! Values of options: as they are written, and what they mean.

use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A number of connections, or a share of all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Active {
    Count(u32),
    Percent(f64),
}

/// A list of processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cpus(pub(super) Vec<usize>);

/// A number of 0 or more.
pub(super) fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("not a number of 0 or more".to_owned()),
    }
}

/// Connections per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    match number(text)? {
        rate if rate > 0.0 && rate < 0.01 => Err("less than one connection in 100 seconds".to_owned()),
        rate => Ok(rate),
    }
}

/// Longer runs than this are a slip.
const MAX_SECONDS: f64 = 31.0 * 24.0 * 3600.0;

/// A duration.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match number(text)? {
        seconds if seconds > MAX_SECONDS => Err("longer than a month".to_owned()),
        seconds => Ok(Duration::from_secs_f64(seconds)),
    }
}

/// A duration that is not 0.
pub(super) fn positive_seconds(text: &str) -> Result<Duration, String> {
    let duration = seconds(text)?;
    if duration.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(duration) }
}

impl FromStr for Active {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            return match number(percent)? {
                percent if percent <= 100.0 => Ok(Self::Percent(percent)),
                _ => Err("more than 100%".to_owned()),
            };
        }
        text.parse().map(Self::Count).map_err(|_| "neither a number of connections nor a share like 1%".to_owned())
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
        let wrong = || "not a list of processors like 1 or 0-3,6".to_owned();
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let bound = |text: &str| text.parse::<usize>().ok().filter(|&cpu| cpu < 1024).ok_or_else(wrong);
            let (first, last) = (bound(first)?, bound(last)?);
            if first > last {
                return Err(wrong());
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!("1".parse(), Ok(Cpus(vec![1])));
        assert_eq!("0-2,5".parse(), Ok(Cpus(vec![0, 1, 2, 5])));
        for wrong in ["", "a", "3-1", "1,", "99999"] {
            assert!(wrong.parse::<Cpus>().is_err(), "{wrong}");
        }
    }
}
