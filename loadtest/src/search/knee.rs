//! The search strategy: up in large steps until a value fails, then bisection.

/// The values of a search.
#[derive(Debug)]
pub(super) struct Knee {
    next: Option<u64>,
    limit: u64,
    /// The highest value that held, and the lowest one that did not.
    good: Option<u64>,
    bad: Option<u64>,
    steps: u32,
}

/// From one value to the next, as long as all hold.
const FACTOR: u64 = 4;

/// Near enough: the lowest bad value is at most so many times the highest good one.
const PRECISION: f64 = 1.08;

/// Values at most.
const MAX_STEPS: u32 = 16;

impl Knee {
    /// Begins with `start` and never goes beyond `limit`.
    pub(super) fn new(start: u64, limit: u64) -> Self {
        let limit = limit.max(1);
        Self { next: Some(start.min(limit)), limit, good: None, bad: None, steps: 0 }
    }

    /// The next value to try; `None` if the knee is found, or not to be found.
    pub(super) fn next(&self) -> Option<u64> {
        self.next.filter(|_| self.steps < MAX_STEPS)
    }

    /// Notes whether `value` held.
    pub(super) fn note(&mut self, value: u64, holds: bool) {
        self.steps += 1;
        if holds {
            self.good = self.good.max(Some(value));
        } else {
            self.bad = Some(self.bad.map_or(value, |bad| bad.min(value)));
        }
        self.next = match (self.good, self.bad) {
            (Some(good), None) => Some((good * FACTOR).min(self.limit)).filter(|&next| next > good),
            (None, Some(bad)) => Some((bad / FACTOR).max(1)).filter(|&next| next < bad),
            (Some(good), Some(bad)) if bad as f64 > good as f64 * PRECISION => {
                // Halfway in proportion, with few digits.
                let middle = round((good as f64 * bad as f64).sqrt());
                Some(middle).filter(|&middle| good < middle && middle < bad)
            }
            _ => None,
        };
    }

    /// The result of a search that is ended early, in words.
    pub(super) fn describe_unfinished(&self, unit: &str) -> String {
        let count = crate::output::units::count;
        let known = match (self.good, self.bad) {
            (Some(good), Some(bad)) => format!("{}{unit} hold, {} do not", count(good), count(bad)),
            (Some(good), None) => format!("{}{unit} hold, nothing higher was tried", count(good)),
            (None, Some(bad)) => format!("{}{unit} do not hold, nothing lower was tried", count(bad)),
            (None, None) => "nothing was tried to its end".to_owned(),
        };
        format!("search interrupted, knee not found: {known}")
    }

    /// The result in words.
    pub(super) fn describe(&self, unit: &str, machine_limit: bool) -> String {
        let count = crate::output::units::count;
        match (self.good, self.bad) {
            (Some(good), Some(bad)) => format!("knee: {}{unit} hold, {} do not", count(good), count(bad)),
            (Some(good), None) if good == self.limit && machine_limit => {
                format!("no knee: {}{unit} hold, and this machine's memory is not enough for more", count(good))
            }
            (Some(good), None) => format!("no knee found: {}{unit} hold, the most that was tried", count(good)),
            (None, Some(bad)) => format!("nothing holds: not even {}{unit}", count(bad)),
            (None, None) => "nothing was tried".to_owned(),
        }
    }
}

/// To two significant digits and a half: 1234 becomes 1250.
fn round(value: f64) -> u64 {
    let unit = (10_f64.powf(value.log10().floor()) / 20.0).max(1.0);
    ((value / unit).round() * unit) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches where everything up to `capacity` holds; what was tried, and the result.
    fn search(start: u64, limit: u64, capacity: u64) -> (Vec<u64>, Knee) {
        let mut knee = Knee::new(start, limit);
        let mut tried = Vec::new();
        while let Some(value) = knee.next() {
            tried.push(value);
            knee.note(value, value <= capacity);
        }
        (tried, knee)
    }

    #[test]
    fn the_knee_is_found_in_few_steps() {
        for capacity in [3, 70, 999, 1000, 5_500, 123_456, 9_000_000] {
            let (tried, knee) = search(1000, 100_000_000, capacity);
            let (good, bad) = (knee.good.unwrap(), knee.bad.unwrap());
            assert!(good <= capacity && capacity < bad);
            assert!(bad as f64 <= good as f64 * PRECISION || bad == good + 1, "{good} {bad}");
            assert!(tried.len() <= 14, "{tried:?}");
        }
    }

    #[test]
    fn a_limit_is_tried_and_not_passed() {
        let (tried, knee) = search(1000, 50_000, 1_000_000);
        assert_eq!(tried, [1000, 4000, 16_000, 50_000]);
        assert!(knee.describe("/s", false).contains("50,000/s hold, the most that was tried"));
        assert!(knee.describe("/s", true).contains("memory"));
    }

    #[test]
    fn an_unfinished_search_claims_no_knee() {
        let mut knee = Knee::new(1000, 50_000);
        assert!(knee.describe_unfinished("/s").contains("nothing was tried"));
        knee.note(1000, true);
        assert!(knee.describe_unfinished("/s").contains("1,000/s hold, nothing higher"));
        knee.note(4000, false);
        let text = knee.describe_unfinished("/s");
        assert!(text.starts_with("search interrupted") && text.contains("1,000/s hold, 4,000 do not"), "{text}");
    }

    #[test]
    fn nothing_holds() {
        let (tried, knee) = search(1000, 50_000, 0);
        assert_eq!(tried.last(), Some(&1));
        assert!(knee.describe("/s", false).contains("not even 1/s"));
    }
}
