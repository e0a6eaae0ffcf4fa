//! Statistics: whether a difference is significant, from a few rounds of each server.
//!
//! The compared quantity is the ratio of a server's value to the baseline's *in the same round*, since changes of the
//! machine between rounds affect both. The result is the median of the ratios, never the best. Its interval makes no
//! assumption about their distribution: with few rounds it lies between two of the ratios, with many it is a bootstrap
//! interval. A difference is significant only if that interval excludes 1 *and* so does a paired t test on the
//! logarithms, at a level corrected for the number of pairs (Holm). With nine rounds the interval alone cannot be
//! sharpened for hundreds of pairs, and the test alone assumes too much.

use serde::{Deserialize, Serialize};

/// From this number of rounds on the interval is a bootstrap's: with fewer, resampled medians take too few different
/// values.
const BOOTSTRAP_FROM: usize = 20;

/// Number of bootstrap resamples: the ends of the interval then vary by less than a hundredth of its width.
const RESAMPLES: usize = 10_000;

/// The smallest Spearman correlation between value and round that counts as drift: with nine rounds chance alone
/// reaches 0.68 in one series of twenty.
const DRIFT_MIN: f64 = 0.5;
/// A drift that is more likely by chance than this is not reported: reports have hundreds of series.
const DRIFT_LEVEL: f64 = 0.01;
/// The smallest correlation of 6, 7, 8 and 9 values that is less likely by chance than [`DRIFT_LEVEL`], counted over all
/// their orders. (The t distribution is too generous with so few.) Of fewer values each order is more likely than that.
const DRIFT_OF_FEW: [f64; 4] = [1.0, 13.0 / 14.0, 37.0 / 42.0, 5.0 / 6.0];

/// A ratio with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The median.
    pub median: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// The probability that such an interval holds the true median: at least the requested one, unless there are too
    /// few rounds.
    pub coverage: f64,
}

/// The verdict of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Better than the baseline, by more than the threshold.
    Better,
    /// The difference is within the threshold.
    Same,
    /// Worse.
    Worse,
    /// The rounds vary too much, or are too few.
    CannotTell,
}

impl Verdict {
    /// The verdict in a word; `is_speed` where better means faster.
    #[must_use]
    pub fn name(self, is_speed: bool) -> &'static str {
        match (self, is_speed) {
            (Self::Better, true) => "faster",
            (Self::Worse, true) => "slower",
            (Self::Better, false) => "smaller",
            (Self::Worse, false) => "larger",
            (Self::Same, _) => "same within noise",
            (Self::CannotTell, _) => "cannot tell",
        }
    }
}

/// A comparison of one pair before the correction for the number of pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// The interval of the ratios.
    pub interval: Interval,
    /// The probability of such ratios by chance.
    pub p: f64,
}

impl Paired {
    /// From the ratios of a pair, one per round; `None` without any.
    #[must_use]
    pub fn of(ratios: &[f64], confidence: f64, seed: u64) -> Option<Self> {
        let interval = Interval::of(ratios, confidence, seed)?;
        Some(Self { interval, p: p_of(ratios) })
    }

    /// The verdict. Less is better unless `is_more_better`; `is_significant` is the corrected result of the test.
    #[must_use]
    pub fn verdict(&self, is_significant: bool, same_within: f64, confidence: f64, is_more_better: bool) -> Verdict {
        let Interval { median, low, high, .. } = self.interval;
        let band = 1.0 / (1.0 + same_within)..=1.0 + same_within;
        if !self.interval.reaches(confidence) {
            return Verdict::CannotTell;
        }
        if band.contains(&low) && band.contains(&high) {
            return Verdict::Same;
        }
        let differs = is_significant && (high < 1.0 || low > 1.0);
        // A significant difference whose median is within the threshold, but whose interval is not, may be a large one.
        if !differs || band.contains(&median) {
            return Verdict::CannotTell;
        }
        if (median < 1.0) == is_more_better { Verdict::Worse } else { Verdict::Better }
    }
}

/// Whether the interval of so many values can have this confidence.
#[must_use]
pub fn is_enough(values: usize, confidence: f64) -> bool {
    // At its widest it lies between the smallest and the largest: the median is beyond them if all are on one side of it.
    values >= BOOTSTRAP_FROM || 1.0 - 2.0 * 0.5_f64.powi(values as i32) >= confidence
}

/// The smallest number of values whose interval can have this confidence.
#[must_use]
pub fn least_values(confidence: f64) -> usize {
    (1..BOOTSTRAP_FROM).find(|&values| is_enough(values, confidence)).unwrap_or(BOOTSTRAP_FROM)
}

/// The probability of such ratios by chance (a t test of their logarithms).
#[must_use]
pub fn p_of(ratios: &[f64]) -> f64 {
    let logarithms: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    t_test(&logarithms)
}

impl Interval {
    /// The interval of the median of `values`.
    #[must_use]
    pub fn of(values: &[f64], confidence: f64, seed: u64) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = median_of_sorted(&sorted);
        if sorted.len() >= BOOTSTRAP_FROM {
            let (low, high) = bootstrap(&sorted, confidence, seed);
            return Some(Self { median, low, high, coverage: confidence });
        }
        let (rank, coverage) = ranks(sorted.len(), confidence);
        Some(Self { median, low: sorted[rank], high: sorted[sorted.len() - 1 - rank], coverage })
    }

    /// Whether it has the requested confidence: there were enough values for it.
    #[must_use]
    pub fn reaches(&self, confidence: f64) -> bool {
        self.coverage >= confidence
    }
}

/// The median.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| median_of_sorted(&sorted))
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], sorted[middle]) } else { sorted[middle] }
}

/// How many of `count` sorted values to leave out at each end so that the true median lies between the next two with at
/// least this confidence, and the actual confidence. Each value lies above or below the median with equal probability.
fn ranks(count: usize, confidence: f64) -> (usize, f64) {
    let coverage = |rank: usize| 1.0 - 2.0 * binomial_below(count, rank);
    let mut rank = 0;
    while rank + 1 < count.div_ceil(2) && coverage(rank + 1) >= confidence {
        rank += 1;
    }
    (rank, coverage(rank))
}

/// The probability of at most `most` heads in `count` tosses of a coin.
fn binomial_below(count: usize, most: usize) -> f64 {
    let (mut term, mut sum) = (0.5_f64.powi(count as i32), 0.0);
    for heads in 0..=most {
        sum += term;
        term *= (count - heads) as f64 / (heads + 1) as f64;
    }
    sum
}

fn bootstrap(values: &[f64], confidence: f64, seed: u64) -> (f64, f64) {
    let mut random = Random(seed);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut sample: Vec<f64> = (0..values.len()).map(|_| values[random.below(values.len())]).collect();
            sample.sort_by(f64::total_cmp);
            median_of_sorted(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    let at = |share: f64| medians[((RESAMPLES - 1) as f64 * share).round() as usize];
    (at(tail), at(1.0 - tail))
}

/// The probability of a mean as far from 0 as that of `values` by chance (Student's t test, two-sided).
fn t_test(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    if values.len() < 2 {
        return 1.0;
    }
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    if variance <= 0.0 {
        return if mean == 0.0 { 1.0 } else { 0.0 };
    }
    student_two_sided(mean / (variance / count).sqrt(), count - 1.0)
}

/// The probability of |T| >= |t| with this number of degrees of freedom.
fn student_two_sided(t: f64, freedom: f64) -> f64 {
    incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t))
}

/// The regularized incomplete beta function, by its continued fraction (Abramowitz and Stegun 26.5.8).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges fast only on this side of the mean.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp() / a;
    front / continued_fraction(a, b, x)
}

/// Lentz' method.
#[expect(clippy::many_single_char_names, reason = "they are those of the formula")]
fn continued_fraction(a: f64, b: f64, x: f64) -> f64 {
    let tiny = 1e-300;
    let away = |it: f64| if it.abs() < tiny { tiny } else { it };
    let (mut value, mut c, mut d) = (1.0_f64, 1.0_f64, 0.0_f64);
    for step in 1..300 {
        let m = f64::from(step / 2);
        let numerator = if step % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        d = 1.0 / away(1.0 + numerator * d);
        c = away(1.0 + numerator / c);
        value *= c * d;
        if (c * d - 1.0).abs() < 1e-12 {
            break;
        }
    }
    value
}

/// The logarithm of the gamma function (Lanczos' approximation with g = 7, nine terms), for arguments above 0.
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let mut sum = 0.999_999_999_999_809_9;
    for (index, term) in TERMS.iter().enumerate() {
        sum += term / (x + index as f64 + 1.0);
    }
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// Which of many tests are significant at a joint `level` (Holm).
#[must_use]
pub fn holm(p_values: &[f64], level: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut significant = vec![false; p_values.len()];
    for (place, &index) in order.iter().enumerate() {
        if p_values[index] > level / (p_values.len() - place) as f64 {
            break;
        }
        significant[index] = true;
    }
    significant
}

/// The correlation of values with their rounds (Spearman), if it is more than chance.
#[must_use]
pub fn drift(values: &[f64]) -> Option<f64> {
    let rounds: Vec<f64> = (0..values.len()).map(|round| round as f64).collect();
    let rho = correlation(&rounds, &ranked(values))?;
    let is_unlikely = match values.len() {
        0..6 => false,
        // As fractions the limits are exact, as sums of squares only nearly.
        few @ 6..10 => rho.abs() > DRIFT_OF_FEW[few - 6] - 1e-9,
        _ if rho.abs() >= 1.0 => true,
        many => {
            let freedom = many as f64 - 2.0;
            student_two_sided(rho * (freedom / (1.0 - rho * rho)).sqrt(), freedom) < DRIFT_LEVEL
        }
    };
    (rho.abs() > DRIFT_MIN && is_unlikely).then_some(rho)
}

/// Each value's rank; equal values share a mean rank.
#[expect(clippy::float_cmp, reason = "a tie is one of equal values")]
fn ranked(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal - 1) as f64 / 2.0
    };
    values.iter().map(rank).collect()
}

fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |pick: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| pick(a - mean_a, b - mean_b)).sum::<f64>();
    let (both, of_a, of_b) = (sum(&|a, b| a * b), sum(&|a, _| a * a), sum(&|_, b| b * b));
    (of_a > 0.0 && of_b > 0.0).then(|| both / (of_a * of_b).sqrt())
}

/// A seeded sequence of random numbers (`SplitMix64`): orders and resamples can be reproduced.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next_u64()) * end as u128) >> 64) as usize
    }

    /// Shuffles `list` (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
