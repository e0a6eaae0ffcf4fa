//! The synchronisation figures of a run by several members.

use serde::{Deserialize, Serialize};

use super::Report;
use crate::control::Phase;

/// A member's part in a run that several did together. Times are by the conductor's clock, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The identity of the meeting and the run.
    pub meeting: String,
    /// The member's number.
    pub member: u32,
    /// The number of members.
    pub members: u32,
    /// When its series begins.
    pub began_s: f64,
    /// When it began each phase.
    pub starts: Vec<PhaseStart>,
}

/// How a member began a phase at the agreed instant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PhaseStart {
    /// The phase.
    pub phase: Phase,
    /// The agreed instant.
    pub at_s: f64,
    /// How late the member was by its own clock.
    pub late_us: f64,
    /// The error bound of its estimate of the conductor's clock, in either direction: half a round trip, and drift.
    pub clock_bound_us: f64,
}

/// The synchronisation of all members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Meeting {
    /// The number of members expected.
    pub members: u32,
    /// The members whose part of the results is missing.
    pub missing: Vec<Missing>,
    /// The spread of their starts of each phase.
    pub skews: Vec<Skew>,
}

/// A member that was lost during the run. Its work is not included in the results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// Its number.
    pub member: u32,
    /// Its number, host and address.
    pub name: String,
    /// When it was lost, in seconds from the start of the run.
    pub from_s: f64,
    /// The reason.
    pub why: String,
}

/// The time from the first to the last member's start of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Skew {
    /// The phase.
    pub phase: Phase,
    /// The measured spread.
    pub us: f64,
    /// The upper bound of the spread, since clocks are compared over a network.
    pub bound_us: f64,
}

impl Meeting {
    /// The meeting behind these reports, if they are the parts of one run.
    #[must_use]
    pub fn of(parts: &[Report]) -> Option<Self> {
        let places: Vec<_> = parts.iter().map(Report::place).collect::<Option<_>>()?;
        let (first, rest) = places.split_first()?;
        if rest.iter().any(|place| place.meeting != first.meeting) {
            return None;
        }
        let skews = Phase::ALL.iter().filter_map(|&phase| Skew::of(phase, &places)).collect();
        Some(Self { members: first.members, missing: Vec::new(), skews })
    }

    /// The largest spread of the starts of phases with load or connections, in words.
    #[must_use]
    pub fn text(&self) -> String {
        let time = super::super::units::time;
        let phases: Vec<_> = self.skews.iter().map(|skew| format!("{} {}", skew.phase.name(), time(skew.us))).collect();
        let bound_us = self.skews.iter().map(|skew| skew.bound_us).fold(0.0, f64::max);
        let skew = if phases.is_empty() {
            String::new()
        } else {
            format!("; began apart: {} (at most {})", phases.join(", "), time(bound_us))
        };
        let here = self.members as usize - self.missing.len();
        format!("{here} of {}{skew}", self.members)
    }
}

impl Missing {
    /// The meeting in words.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} lost {:.1} s after the start ({}): its work is not included", self.name, self.from_s, self.why)
    }
}

impl Skew {
    fn of(phase: Phase, places: &[&Place]) -> Option<Self> {
        let starts: Vec<_> =
            places.iter().flat_map(|place| &place.starts).filter(|start| start.phase == phase).collect();
        // After an early end some members may not have started the phase.
        if starts.len() < 2 {
            return None;
        }
        let most = |value: fn(&PhaseStart) -> f64| starts.iter().map(|start| value(start)).fold(f64::MIN, f64::max);
        let us = most(|it| it.late_us) + most(|it| -it.late_us);
        let bound_us = most(|it| it.late_us + it.clock_bound_us) + most(|it| it.clock_bound_us - it.late_us);
        Some(Self { phase, us, bound_us })
    }
}

impl Report {
    /// The member's place, if this is a part of a run.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match self.runs.as_slice() {
            [run] => run.place.as_ref(),
            _ => None,
        }
    }

    /// Records the missing members: the results are then incomplete.
    pub fn miss(&mut self, missing: Vec<Missing>) {
        self.ok &= missing.is_empty();
        if let Some(meeting) = &mut self.meeting {
            meeting.missing = missing;
        }
    }
}
