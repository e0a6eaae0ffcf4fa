//! Parsing of quantities, in one form everywhere: times (`30s`, `1m30s`), sizes (`16KiB`) and numbers (`10k`).

use std::time::Duration;

use bytesize::ByteSize;

/// Longer runs than this are a slip.
const MAX_DURATION: Duration = Duration::from_secs(31 * 24 * 3600);

/// Powers of ten that a number may end with.
const MULTIPLES: [(&[char], f64); 3] = [(&['k', 'K'], 1e3), (&['m', 'M'], 1e6), (&['g', 'G'], 1e9)];

/// A time with its unit, or in seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    match plain(text) {
        Some(seconds) => checked(Duration::try_from_secs_f64(seconds).map_err(|_| too_long())?),
        None => duration_with_unit(text),
    }
}

/// A time with its unit, where a bare number could be meant in any.
pub fn duration_with_unit(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time like 30s, 500ms or 1m30s");
    if plain(text).is_some() {
        return Err(format!("{text:?} has no unit: write a time like 5ms, 800us or 1s"));
    }
    checked(humantime::parse_duration(&without_separators(text)).map_err(|_| wrong())?)
}

fn checked(duration: Duration) -> Result<Duration, String> {
    if duration > MAX_DURATION { Err(too_long()) } else { Ok(duration) }
}

fn too_long() -> String {
    "longer than a month".to_owned()
}

/// A number of bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let size = without_separators(text).parse::<ByteSize>();
    size.map(|size| size.as_u64()).map_err(|_| format!("{text:?} is no size like 512, 16KiB or 1.5MiB"))
}

/// A number of 0 or more.
pub fn number(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let multiple = MULTIPLES.iter().find_map(|&(letters, factor)| Some((text.strip_suffix(letters)?, factor)));
    let (digits, factor) = multiple.unwrap_or((text, 1.0));
    let number = plain(digits).map(|number| number * factor).filter(|number| number.is_finite());
    number.ok_or_else(|| format!("{text:?} is not a number of 0 or more like 500, 10k or 1.5M"))
}

/// A number without a fraction.
pub fn whole(text: &str) -> Result<u64, String> {
    if let Ok(number) = without_separators(text).trim().parse() {
        return Ok(number);
    }
    // Up to 2^53 every whole number is a `f64` of its own.
    match number(text)? {
        number if (number - number.round()).abs() < 1e-6 && number < 9e15 => Ok(number.round() as u64),
        _ => Err(format!("{text:?} is not a whole number")),
    }
}

/// A list of processors, like `1` or `0-3,6`.
pub fn cpus(text: &str) -> Result<Vec<usize>, String> {
    let wrong = || format!("{text:?} is not a list of processors like 1 or 0-3,6");
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bound = |text: &str| text.trim().parse::<usize>().ok().filter(|&cpu| cpu < 1024).ok_or_else(wrong);
        let (first, last) = (bound(first)?, bound(last)?);
        if first > last {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// A time in the form that [`duration`] reads.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// A number without a unit.
fn plain(text: &str) -> Option<f64> {
    let text = without_separators(text);
    text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0 && !number.is_sign_negative())
}

/// `1_000_000` is easier to read.
fn without_separators(text: &str) -> String {
    text.replace('_', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_carry_their_unit_or_are_seconds() {
        let expected = [
            ("30", 30_000),
            ("0.25", 250),
            ("30s", 30_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("1h", 3_600_000),
            ("5000us", 5),
            ("5000µs", 5),
            ("1_000ms", 1000),
        ];
        for (text, ms) in expected {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "-1", "inf", "nan", "1e300", "5 parsecs", "s", "40d", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(duration_with_unit("5").unwrap_err().contains("has no unit"));
    }

    #[test]
    fn a_time_that_is_shown_is_read_again() {
        for ms in [0, 1, 250, 1000, 90_000, 3_600_000, 86_400_000] {
            let time = Duration::from_millis(ms);
            assert_eq!(duration(&show_duration(time)), Ok(time), "{}", show_duration(time));
        }
    }

    #[test]
    fn sizes_and_numbers_have_multiples() {
        for (text, expected) in [
            ("0", 0),
            ("128", 128),
            ("16KiB", 16_384),
            ("16 KiB", 16_384),
            ("1.5MiB", 1_572_864),
            ("16k", 16_000),
            ("1kB", 1000),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for (text, expected) in
            [("10k", 10_000), ("10K", 10_000), ("1.5M", 1_500_000), ("10_000", 10_000), ("7", 7), ("2G", 2_000_000_000)]
        {
            assert_eq!(whole(text), Ok(expected), "{text}");
        }
        assert_eq!(number("0.5k"), Ok(500.0));
        assert_eq!(whole("18446744073709551615"), Ok(u64::MAX));
        for wrong in ["", "x", "-5", "10kk", "k", "10 q", "inf", "nan"] {
            assert!(number(wrong).is_err() && bytes(wrong).is_err(), "{wrong}");
        }
        assert!(whole("0.5").is_err() && whole("1.0005k").is_err());
    }
}
