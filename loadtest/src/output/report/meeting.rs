//! The synchronisation figures of a run by several members.

use serde::{Deserialize, Serialize};

use super::Report;
use crate::control::Phase;

/// A member's place in a run that several did together. Times are by the conductor's clock, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// What tells the meeting and the run from all others.
    pub meeting: String,
    /// The member's number.
    pub member: u32,
    /// How many members there are.
    pub members: u32,
    /// When its series begins.
    pub began_s: f64,
    /// When it began which phase.
    pub starts: Vec<PhaseStart>,
}

/// How a member began a phase at an instant that had been agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PhaseStart {
    /// The phase.
    pub phase: Phase,
    /// The instant.
    pub at_s: f64,
    /// How late the member was by its own clock.
    pub late_us: f64,
    /// How far its idea of the conductor's clock may have been off in either direction: half a round trip, and drift.
    pub clock_bound_us: f64,
}

/// All members together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Meeting {
    /// How many there were to be.
    pub members: u32,
    /// Those whose part of the results is missing.
    pub missing: Vec<Missing>,
    /// How far apart they began each phase.
    pub skews: Vec<Skew>,
}

/// A member that was lost on the way. What it did is not among the results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// Its number.
    pub member: u32,
    /// Its number, host and address.
    pub name: String,
    /// Since when, in seconds from the start of the run.
    pub from_s: f64,
    /// Why.
    pub why: String,
}

/// From the first member to the last one that began a phase.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Skew {
    /// The phase.
    pub phase: Phase,
    /// As it was measured.
    pub us: f64,
    /// What it may have been at most, since clocks are compared over a network.
    pub bound_us: f64,
}

impl Meeting {
    /// Of the parts of one run, if these are some.
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

    /// How far apart the members began any phase with load or connections, in a few words.
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
    /// In a few words.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} lost {:.1} s after the start ({}): what it did is not in here", self.name, self.from_s, self.why)
    }
}

impl Skew {
    fn of(phase: Phase, places: &[&Place]) -> Option<Self> {
        let starts: Vec<_> =
            places.iter().flat_map(|place| &place.starts).filter(|start| start.phase == phase).collect();
        // After a member's early end, some may not have come to it.
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
    /// The member's place, if this is the part of one.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match self.runs.as_slice() {
            [run] => run.place.as_ref(),
            _ => None,
        }
    }

    /// Says which members are missing: then it is not all that was asked for.
    pub fn miss(&mut self, missing: Vec<Missing>) {
        self.ok &= missing.is_empty();
        if let Some(meeting) = &mut self.meeting {
            meeting.missing = missing;
        }
    }
}
