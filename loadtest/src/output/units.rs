//! Formatting of numbers with suitable units.

/// A number with thousands separators: `1,234,567`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 connection`, `2 connections`.
#[must_use]
pub fn counted(number: u64, what: &str) -> String {
    let plural = match what {
        _ if number == 1 => "",
        what if what.ends_with('o') => "es",
        _ => "s",
    };
    format!("{} {what}{plural}", count(number))
}

/// A number of bytes: `1.5 KiB`.
#[must_use]
pub fn bytes(number: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut unit) = (number, 0);
    while number >= 1024.0 && unit + 1 < units.len() {
        number /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number:.0} B") } else { format!("{number:.1} {}", units[unit]) }
}

/// A time given in microseconds, to three significant digits or more: `85.3 µs`, `1.23 ms`, `12.5 s`.
#[must_use]
pub fn time(us: f64) -> String {
    // A value that rounds up to the next unit is shown in that unit.
    let (value, unit) = match us {
        it if it >= 999_500.0 => (it / 1e6, "s"),
        it if it >= 999.5 => (it / 1e3, "ms"),
        it => (it, "µs"),
    };
    let digits = match value {
        it if it >= 99.95 => 0,
        it if it >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

/// A share of one as a percentage: `0.4 %`, `17 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent.abs() >= 9.95 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(12_345_678), "12,345,678");
        assert_eq!(counted(1, "connection"), "1 connection");
        assert_eq!(counted(2000, "connection"), "2,000 connections");
        assert_eq!(counted(0, "echo"), "0 echoes");
        assert_eq!(bytes(17.0), "17 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(3.0 * 1024.0 * 1024.0 * 1024.0), "3.0 GiB");
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [0.0, 7.25, 85.34, 360.0, 999.7, 1234.5, 45_678.0, 360_448.0, 999_999.0, 12_345_678.0].map(time);
        let expected =
            ["0.00 µs", "7.25 µs", "85.3 µs", "360 µs", "1.00 ms", "1.23 ms", "45.7 ms", "360 ms", "1.00 s", "12.3 s"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn small_shares_keep_a_digit() {
        assert_eq!([0.0, 0.004, 0.0994, 0.17, 1.0].map(percent), ["0 %", "0.4 %", "9.9 %", "17 %", "100 %"]);
    }
}
