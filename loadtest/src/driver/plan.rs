//! The plan of a run: the number of connections and the message rate as functions of time.
//!
//! Time 0 is when load begins: the start of the warm-up, or without one of the measured time.

use std::time::Duration;

/// The changes during the load. By default there are none: all connections are open, and the rate is that of the
/// scenario's open loop.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The number of connections to hold. `Scenario::connections` is the most that are open at a time, [`Ramp::max`];
    /// the connect phase opens the number for time 0.
    pub connections: Option<Ramp>,
    /// The rate of an open loop in messages per second, over all of the scenario's active connections: each sends an
    /// equal share. The rate in `Traffic::open` is the highest one, [`Ramp::max`].
    pub rate: Option<Ramp>,
}

/// A piecewise linear function of time. It is constant before its first point and after its last one.
#[derive(Clone, Debug, PartialEq)]
pub struct Ramp(Vec<Point>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    at_ns: f64,
    value: f64,
    /// The integral of the function from time 0 to this point, in values times nanoseconds.
    area: f64,
}

impl Ramp {
    /// Starts with `start` and changes linearly to each stage's value within that stage's time. A stage of zero length
    /// is a step. Values must be finite and not negative.
    #[must_use]
    pub fn new(start: f64, stages: &[(Duration, f64)]) -> Self {
        let mut points = vec![Point { at_ns: 0.0, value: start, area: 0.0 }];
        for &(time, value) in stages {
            debug_assert!(value.is_finite() && value >= 0.0, "{value} connections or messages a second");
            let last = points[points.len() - 1];
            let time_ns = time.as_nanos() as f64;
            let area = last.area + time_ns * (last.value + value) / 2.0;
            points.push(Point { at_ns: last.at_ns + time_ns, value, area });
        }
        Self(points)
    }

    /// The points, as times in seconds and values; the function is linear between them.
    pub fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.0.iter().map(|point| (point.at_ns / 1e9, point.value))
    }

    /// The value at `time_ns`.
    #[must_use]
    pub fn at(&self, time_ns: u64) -> f64 {
        let time_ns = time_ns as f64;
        match self.segment(|point| point.at_ns <= time_ns) {
            (last, None) => last.value,
            (from, Some(to)) => from.value + slope(from, to) * (time_ns - from.at_ns),
        }
    }

    /// The highest value.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.0.iter().map(|point| point.value).fold(0.0, f64::max)
    }

    /// The total time of all stages.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.0[self.0.len() - 1].at_ns as u64)
    }

    /// The integral from time 0 to `time_ns`, in values times nanoseconds.
    #[must_use]
    pub fn area_until(&self, time_ns: f64) -> f64 {
        match self.segment(|point| point.at_ns <= time_ns) {
            (last, None) => last.area + last.value * (time_ns - last.at_ns),
            (from, Some(to)) => {
                let time_ns = time_ns - from.at_ns;
                from.area + time_ns * (from.value + slope(from, to) * time_ns / 2.0)
            }
        }
    }

    /// When [`Ramp::area_until`] reaches `area`, in nanoseconds; `None` if it never does.
    #[must_use]
    pub fn time_of_area(&self, area: f64) -> Option<f64> {
        let (from, to) = self.segment(|point| point.area < area);
        let missing = area - from.area;
        if missing <= 0.0 {
            return Some(from.at_ns);
        }
        let slope = to.map_or(0.0, |to| slope(from, to));
        // missing = value x time + slope x time^2 / 2, solved in the form without cancellation.
        let root = (from.value * from.value + 2.0 * slope * missing).max(0.0).sqrt();
        (from.value + root > 0.0).then(|| from.at_ns + 2.0 * missing / (from.value + root))
    }

    /// The last point for which `is_before` holds, or else the first one, and the point after it.
    fn segment(&self, is_before: impl Fn(&Point) -> bool) -> (Point, Option<Point>) {
        let index = self.0.partition_point(is_before).saturating_sub(1);
        (self.0[index], self.0.get(index + 1).copied())
    }
}

/// The change of the value per nanosecond.
fn slope(from: Point, to: Point) -> f64 {
    if to.at_ns > from.at_ns { (to.value - from.value) / (to.at_ns - from.at_ns) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: f64 = 1e9;

    fn seconds(stages: &[(u64, f64)]) -> Vec<(Duration, f64)> {
        stages.iter().map(|&(time_s, value)| (Duration::from_secs(time_s), value)).collect()
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * b.abs().max(1.0)
    }

    #[test]
    fn values_lie_on_straight_lines_between_the_stages() {
        let ramp = Ramp::new(0.0, &seconds(&[(10, 100.0), (5, 100.0), (0, 20.0), (10, 0.0)]));
        for (at_s, value) in
            [(0.0, 0.0), (5.0, 50.0), (10.0, 100.0), (12.0, 100.0), (20.0, 10.0), (25.0, 0.0), (99.0, 0.0)]
        {
            assert!(close(ramp.at((at_s * SECOND) as u64), value), "{at_s} s: {}", ramp.at((at_s * SECOND) as u64));
        }
        assert!(close(ramp.at(15_000_000_000), 20.0), "a step is taken when it is reached");
        assert!(close(ramp.max(), 100.0));
        assert_eq!(ramp.duration(), Duration::from_secs(25));
    }

    #[test]
    fn the_time_of_an_area_is_where_the_area_is_reached() {
        let ramp = Ramp::new(0.0, &seconds(&[(10, 100.0), (5, 0.0), (3, 0.0), (10, 40.0), (0, 7.0)]));
        for step in 1..600 {
            let time_ns = f64::from(step) * 0.05 * SECOND;
            let found_ns = ramp.time_of_area(ramp.area_until(time_ns)).expect("it grows again and again");
            // At a rate of 0 the integral is constant; the earliest time is returned.
            let is_pause = (15.0..=18.0).contains(&(time_ns / SECOND));
            let expected_ns = if is_pause { 15.0 * SECOND } else { time_ns };
            assert!((found_ns - expected_ns).abs() < 1e-4 * SECOND, "{found_ns} {expected_ns}");
        }
        assert!(close(ramp.area_until(15.0 * SECOND), 750.0 * SECOND));
    }

    #[test]
    fn what_a_ramp_to_nothing_leaves_out_is_never_due() {
        let ramp = Ramp::new(10.0, &seconds(&[(10, 0.0)]));
        assert!(ramp.time_of_area(50.0 * SECOND).is_some());
        assert_eq!(ramp.time_of_area(50.1 * SECOND), None);
    }
}
