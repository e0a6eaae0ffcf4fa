//! Message sizes.

use std::str::FromStr;

use crate::parsing;

/// The largest message.
pub const MAX_SIZE: usize = 1 << 30;

/// Payload bytes of messages: a message's own number decides, so that both ends of its life agree without keeping it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All alike.
    Fixed(usize),
    /// Every size from `min` to `max` equally often.
    Uniform {
        /// The smallest.
        min: usize,
        /// The largest.
        max: usize,
    },
    /// Some sizes, each with a weight.
    Weighted(Vec<Weighted>),
}

/// One of several sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// Bytes.
    pub size: usize,
    /// Its frequency, relative to the others.
    pub weight: u32,
}

impl From<usize> for Sizes {
    fn from(size: usize) -> Self {
        Self::Fixed(size)
    }
}

impl Sizes {
    /// The size that `random` chooses.
    #[inline]
    pub(super) fn choose(&self, random: impl FnOnce() -> u64) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Uniform { min, max } => min + below(random(), (max - min) as u64 + 1) as usize,
            Self::Weighted(list) => {
                let mut left = below(random(), list.iter().map(|it| u64::from(it.weight)).sum());
                let found = list.iter().find(|it| {
                    let is_here = left < u64::from(it.weight);
                    left = left.wrapping_sub(u64::from(it.weight));
                    is_here
                });
                found.map_or(0, |it| it.size)
            }
        }
    }

    /// The largest.
    #[must_use]
    pub fn max(&self) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Uniform { max, .. } => *max,
            Self::Weighted(list) => list.iter().map(|it| it.size).max().unwrap_or(0),
        }
    }

    /// All of them, in ascending order.
    #[must_use]
    pub fn all(&self) -> Vec<usize> {
        let mut all: Vec<usize> = match self {
            Self::Fixed(size) => vec![*size],
            Self::Uniform { min, max } => (*min..=*max).collect(),
            Self::Weighted(list) => list.iter().map(|it| it.size).collect(),
        };
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The smallest.
    #[must_use]
    pub fn min(&self) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Uniform { min, .. } => *min,
            Self::Weighted(list) => list.iter().map(|it| it.size).min().unwrap_or(0),
        }
    }

    /// The mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match self {
            Self::Fixed(size) => *size as f64,
            Self::Uniform { min, max } => (min + max) as f64 / 2.0,
            Self::Weighted(list) => {
                let weights: f64 = list.iter().map(|it| f64::from(it.weight)).sum();
                list.iter().map(|it| it.size as f64 * f64::from(it.weight)).sum::<f64>() / weights
            }
        }
    }
}

/// A number below `bound`, as evenly as `random` is.
#[inline]
fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

impl FromStr for Sizes {
    type Err = String;

    /// `128`, `16-4KiB`, or `128:90,64KiB:10`.
    fn from_str(text: &str) -> Result<Self, String> {
        let size = |text: &str| match parsing::bytes(text.trim()) {
            Ok(size) if size <= MAX_SIZE as u64 => Ok(size as usize),
            Ok(_) => Err("more than 1 GiB".to_owned()),
            Err(_) => {
                Err("not a size like 128 or 16KiB, a range like 16-4KiB or a list like 128:90,64KiB:10".to_owned())
            }
        };
        if text.contains(':') {
            let weighted = |part: &str| {
                let (left, right) =
                    part.split_once(':').ok_or_else(|| format!("`{part}` has no weight, like 128:90"))?;
                let weight = right.trim().parse().ok().filter(|&weight: &u32| weight > 0);
                Ok(Weighted { size: size(left)?, weight: weight.ok_or_else(|| format!("`{right}` is no weight"))? })
            };
            return text.split(',').map(weighted).collect::<Result<_, String>>().map(Self::Weighted);
        }
        match text.split_once('-') {
            None => size(text).map(Self::Fixed),
            Some((min, max)) => match (size(min)?, size(max)?) {
                (min, max) if min < max => Ok(Self::Uniform { min, max }),
                _ => Err("the range is empty".to_owned()),
            },
        }
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Uniform { min, max } => write!(f, "{min}-{max}"),
            Self::Weighted(list) => {
                let parts: Vec<String> = list.iter().map(|it| format!("{}:{}", it.size, it.weight)).collect();
                f.write_str(&parts.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SplitMix;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["0", "128", "16-4096", "128:90,65536:10"] {
            assert_eq!(text.parse::<Sizes>().unwrap().to_string(), text);
        }
        assert_eq!("1KiB-2KiB".parse::<Sizes>().unwrap().to_string(), "1024-2048");
        assert_eq!("128:90,64KiB:10".parse::<Sizes>().unwrap().to_string(), "128:90,65536:10");
        for wrong in ["", "x", "5-5", "9-5", "-1", "1:0", "1:2,3", "1073741825", "1:x"] {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_as_frequent_as_asked_for() {
        let mut random = SplitMix(1);
        let mut draw = |text: &str| -> Vec<usize> {
            let sizes: Sizes = text.parse().unwrap();
            (0..10_000).map(|_| sizes.choose(|| random.next())).collect()
        };
        let uniform = draw("10-19");
        assert!((10..20).all(|size| uniform.iter().filter(|&&it| it == size).count().abs_diff(1000) < 150));
        let weighted = draw("5:1,7:3");
        assert!(weighted.iter().filter(|&&it| it == 7).count().abs_diff(7500) < 200);
        assert!(weighted.iter().all(|it| [5, 7].contains(it)));
    }

    #[test]
    fn the_mean_weighs() {
        assert!(("100:9,1100:1".parse::<Sizes>().unwrap().mean() - 200.0).abs() < 1e-9);
        assert!(("0-10".parse::<Sizes>().unwrap().mean() - 5.0).abs() < 1e-9);
    }
}
