//! Groups of runs that can be merged: runs of one target at the same time, each of them once.
//!
//! Rates reached at different times must not be added up.

use std::collections::BTreeSet;

use super::super::report::{Meeting, Report, RunReport};
use super::super::units::percent;
use crate::control::Phase;

/// Runs whose measured times overlap by less than this share of the shorter one are not merged. Runs started by hand
/// begin some seconds apart.
const TOGETHER: f64 = 0.5;

/// An overlap below this share of the longer run is worth a warning.
const MOSTLY: f64 = 0.9;

/// Results sorted into groups that can be merged.
#[derive(Debug, Default)]
pub struct Groups {
    /// The groups.
    pub groups: Vec<Group>,
    /// Notes about skipped runs and about why there are several groups.
    pub notes: Vec<String>,
}

/// Results that can be merged.
#[derive(Debug)]
pub struct Group {
    /// Their files.
    pub files: Vec<String>,
    /// The results.
    pub reports: Vec<Report>,
}

impl Groups {
    /// Sorts results, each given with its file name.
    #[must_use]
    pub fn of(results: Vec<(String, Report)>) -> Self {
        let mut all = Self::default();
        for (file, report) in results {
            if let Some(first) = all.holder_of(&report) {
                all.notes.push(format!("{file} holds the same run as {first}: it was given twice, and counts once"));
                continue;
            }
            let reasons: Vec<_> = all.groups.iter().map(|group| group.why_not(&report)).collect();
            if let Some(index) = reasons.iter().position(Option::is_none) {
                all.groups[index].files.push(file);
                all.groups[index].reports.push(report);
            } else {
                let reason = reasons.into_iter().flatten().next();
                all.notes.extend(reason.map(|reason| format!("{file} stays apart: {reason}")));
                all.groups.push(Group { files: vec![file], reports: vec![report] });
            }
        }
        all
    }

    /// The file that already contains any of the runs of `report`.
    fn holder_of(&self, report: &Report) -> Option<&str> {
        let ids = ids(report);
        let files = self.groups.iter().flat_map(|group| group.files.iter().zip(&group.reports));
        files.into_iter().find(|(_, other)| !ids.is_disjoint(&self::ids(other))).map(|(file, _)| file.as_str())
    }
}

impl Group {
    /// The reason why `report` cannot be merged with this group.
    fn why_not(&self, report: &Report) -> Option<String> {
        let meeting = |it: &Report| it.runs.iter().find_map(|run| Some(run.place.as_ref()?.meeting.clone()));
        match (meeting(&self.reports[0]), meeting(report)) {
            (Some(ours), Some(theirs)) if ours == theirs => return None,
            (None, None) => {}
            _ => {
                let file = &self.files[0];
                return Some(format!("it is not of the same run by several members as {file} (--members)"));
            }
        }
        let (ours, theirs) = (targets(&self.reports[0]), targets(report));
        if ours != theirs {
            let list = |targets: BTreeSet<&str>| targets.into_iter().collect::<Vec<_>>().join(", ");
            return Some(format!("it is of another target ({}) than {} ({})", list(theirs), self.files[0], list(ours)));
        }
        let apart = self.reports.iter().zip(&self.files).find_map(|(other, file)| {
            let (a, b) = (Span::of(report), Span::of(other));
            (a.overlap(b) < TOGETHER * a.length().min(b.length())).then_some(file)
        })?;
        Some(format!("it was not at the same time as {apart}, and their rates do not add up"))
    }
}

/// A warning if the runs overlap for only part of their measured time.
pub(super) fn overlap_warning(reports: &[Report]) -> Option<String> {
    if Meeting::of(reports).is_some() {
        return None;
    }
    let spans: Vec<_> = reports.iter().map(Span::of).collect();
    let common = spans.iter().copied().reduce(|a, b| Span { from: a.from.max(b.from), to: a.to.min(b.to) })?;
    let longest = spans.iter().map(|span| span.length()).fold(0.0, f64::max);
    let share = common.length() / longest.max(f64::MIN_POSITIVE);
    (share < MOSTLY).then(|| {
        let share = percent(share);
        format!(
            "the runs measured at the same time for only {share} of the longest: the sum of their rates is too high"
        )
    })
}

/// The identity of a run.
fn ids(report: &Report) -> BTreeSet<(&str, u64, u32)> {
    let id = |run: &'_ RunReport| (run.started_unix_s * 1e6) as u64;
    report.runs.iter().map(|run| (run.machine.boot_id.as_str(), id(run), run.pid)).collect()
}

fn targets(report: &Report) -> BTreeSet<&str> {
    report.runs.iter().map(|run| run.target.as_str()).collect()
}

/// The measured time of a run, in seconds since the Unix epoch; the whole run if it never measured.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: f64,
    to: f64,
}

impl Span {
    fn of(report: &Report) -> Self {
        let zero = super::started(report);
        let measuring = |it: &&crate::series::Sample| it.phase == Phase::Measure;
        let has_measured = report.series.iter().any(|sample| measuring(&sample));
        let mut samples = report.series.iter().filter(|sample| !has_measured || measuring(sample));
        let first = samples.clone().next().map_or(0.0, |sample| sample.time_s - sample.interval_s);
        let last = samples.next_back().map_or(first, |sample| sample.time_s);
        Self { from: zero + first, to: zero + last }
    }

    fn length(self) -> f64 {
        (self.to - self.from).max(0.0)
    }

    fn overlap(self, other: Self) -> f64 {
        // A run too short for a sample has length 0; it overlaps if it began within the other run.
        (self.to.min(other.to) - self.from.max(other.from)).max(if self.length() == 0.0 { -1.0 } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::report::Place;
    use super::super::super::report::tests::report;
    use super::*;

    /// The report's series takes two seconds.
    fn run(pid: u32, target: &str, started_unix_s: f64) -> Report {
        let mut report = report();
        let run = &mut report.runs[0];
        (run.pid, run.started_unix_s) = (pid, started_unix_s);
        run.target = target.to_owned();
        report
    }

    fn groups(reports: &[Report]) -> (Vec<Vec<String>>, String) {
        let named = reports.iter().enumerate().map(|(index, it)| (format!("{index}.json"), it.clone())).collect();
        let groups = Groups::of(named);
        (groups.groups.into_iter().map(|group| group.files).collect(), groups.notes.join("\n"))
    }

    #[test]
    fn runs_at_one_time_are_one() {
        let (groups, notes) = groups(&[run(1, "ws://a/", 100.0), run(2, "ws://a/", 100.9)]);
        assert_eq!((groups.len(), notes.as_str()), (1, ""));
    }

    #[test]
    fn runs_one_after_the_other_stay_apart() {
        let (groups, notes) = groups(&[run(1, "ws://a/", 100.0), run(2, "ws://a/", 101.5)]);
        assert_eq!(groups.len(), 2);
        assert!(notes.contains("1.json stays apart: it was not at the same time as 0.json"), "{notes}");
    }

    #[test]
    fn parts_of_one_run_are_one_whatever_their_machines_clocks_say() {
        let part = |member, meeting: &str, started_unix_s| {
            let mut part = run(member, "ws://a/", started_unix_s);
            let meeting = meeting.to_owned();
            part.runs[0].place = Some(Place { meeting, member, members: 2, began_s: 7.0, starts: Vec::new() });
            part
        };
        let all = [part(0, "m", 100.0), part(1, "m", 9000.0), part(0, "n", 100.3), run(5, "ws://a/", 100.0)];
        let (groups, notes) = groups(&all);
        assert_eq!(groups, [vec!["0.json", "1.json"], vec!["2.json"], vec!["3.json"]]);
        assert!(
            notes.contains("2.json stays apart: it is not of the same run by several members as 0.json"),
            "{notes}"
        );
        assert_eq!(overlap_warning(&all[..2]), None);
    }

    #[test]
    fn other_targets_stay_apart() {
        let (groups, notes) = groups(&[run(1, "ws://a/", 100.0), run(2, "ws://b/", 100.0), run(3, "ws://a/", 100.0)]);
        assert_eq!(groups, [vec!["0.json", "2.json"], vec!["1.json"]]);
        assert!(notes.contains("another target (ws://b/) than 0.json (ws://a/)"), "{notes}");
    }

    #[test]
    fn a_run_counts_once_however_often_it_is_given() {
        let both = super::super::merge(&[run(1, "ws://a/", 100.0), run(2, "ws://a/", 100.0)]).unwrap();
        let (groups, notes) = groups(&[run(1, "ws://a/", 100.0), run(1, "ws://a/", 100.0), both]);
        assert_eq!(groups, [["0.json"]]);
        assert_eq!(notes.matches("it was given twice").count(), 2, "{notes}");
    }

    #[test]
    fn half_of_the_time_is_worth_a_warning() {
        let warning = overlap_warning(&[run(1, "ws://a/", 100.0), run(2, "ws://a/", 100.9)]).unwrap();
        assert!(warning.contains("55 % of the longest"), "{warning}");
        assert_eq!(overlap_warning(&[run(1, "ws://a/", 100.0), run(2, "ws://a/", 100.1)]), None);
    }
}
