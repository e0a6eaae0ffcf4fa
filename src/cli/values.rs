//! Parsing of flag values.

use std::time::Duration;

use crate::worker::ReceiveBuffers;

/// Longer than anything runs, and short enough to be added to any clock's time.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Seconds as a number (`0.5`), or with a unit (`500ms`, `2min`).
pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let duration = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?,
        Err(_) => humantime::parse_duration(text).map_err(|e| e.to_string())?,
    };
    if duration > DURATION_MAX {
        return Err("a year is the most".into());
    }
    Ok(duration)
}

/// Seconds, which the kernel counts as whole ones in 16 bits.
pub(super) fn parse_keepalive(text: &str) -> Result<Duration, String> {
    let duration = parse_seconds(text)?;
    let is_whole = duration.subsec_nanos() == 0 && duration.as_secs() <= 32_767;
    if is_whole { Ok(duration) } else { Err("whole seconds, 32767 at most".into()) }
}

/// A list of CPUs: one argument, not several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CpuList(pub(super) Vec<usize>);

/// Numbers and ranges, separated by commas.
pub(super) fn parse_cpus(text: &str) -> Result<CpuList, String> {
    let number = |text: &str| text.trim().parse().map_err(|e| format!("{text:?}: {e}"));
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (number(first)?, number(last)?);
        if first > last || last >= CPUS_MAX {
            return Err(format!("{part:?}: a range from the lower number to the higher, below {CPUS_MAX}"));
        }
        cpus.extend(first..=last);
    }
    Ok(CpuList(cpus))
}

/// More than any kernel has been built for (`CONFIG_NR_CPUS`), so that a typing error asks for no gigabytes.
const CPUS_MAX: usize = 1 << 16;

/// `COUNTxBYTES` or `COUNTxBYTES,whole`.
pub(super) fn parse_receive_buffers(text: &str) -> Result<ReceiveBuffers, String> {
    let (shape, incremental) = text.strip_suffix(",whole").map_or((text, true), |shape| (shape, false));
    let (count, size) = shape.split_once('x').ok_or("it takes COUNTxBYTES or COUNTxBYTES,whole")?;
    let count: u16 = count.parse().map_err(|e| format!("{count:?}: {e}"))?;
    let size: u32 = size.parse().map_err(|e| format!("{size:?}: {e}"))?;
    if !count.is_power_of_two() || size == 0 {
        return Err("the count is a power of two up to 32768, the size at least a byte".into());
    }
    Ok(ReceiveBuffers { count, size, incremental })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_carry_their_unit() {
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_seconds("250ms"), Ok(Duration::from_millis(250)));
        for nonsense in ["", "-1", "NaN", "inf", "1e300", "1e19", "soon"] {
            assert!(parse_seconds(nonsense).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn cpus_are_a_list_of_numbers_and_ranges() {
        assert_eq!(parse_cpus("3"), Ok(CpuList(vec![3])));
        assert_eq!(parse_cpus("6,0-2, 4"), Ok(CpuList(vec![6, 0, 1, 2, 4])));
        for nonsense in ["", ",", "1,", "a", "2-1", "-1", "0-", "0-99999999999", "1-2-3"] {
            assert!(parse_cpus(nonsense).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn receive_buffers_are_a_count_of_a_size() {
        assert_eq!(parse_receive_buffers("64x16"), Ok(ReceiveBuffers { count: 64, size: 16, incremental: true }));
        assert_eq!(
            parse_receive_buffers("1x4096,whole"),
            Ok(ReceiveBuffers { count: 1, size: 4096, incremental: false })
        );
        for nonsense in ["", "64", "x", "0x16", "63x16", "65536x16", "64x0", "64x16,half", "-1x1"] {
            assert!(parse_receive_buffers(nonsense).is_err(), "{nonsense:?}");
        }
    }
}
