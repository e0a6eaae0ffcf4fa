//! The result in one sentence, with its reasons: the head of table, page and summary.

use super::report::Report;
use super::units::{count, counted};
use crate::thresholds::Breach;

/// The grade of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Everything requested was done, without a fault.
    Good,
    /// No fault, but less was done than requested.
    Partial,
    /// There were faults.
    Failed,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The grade.
    pub mark: Mark,
    /// The sentence.
    pub text: String,
}

impl Summary {
    /// The result of a run, with the conditions of `--fail-if` that held.
    #[must_use]
    pub fn of(report: &Report, breaches: &[Breach]) -> Self {
        let mut faults = faults(report);
        faults.extend(breaches.iter().map(|breach| format!("--fail-if {breach}")));
        let ended = if report.interrupted { "PARTIAL, ended early" } else { "ok" };
        if !faults.is_empty() {
            let ended = if report.interrupted { " (PARTIAL, ended early)" } else { "" };
            return Self { mark: Mark::Failed, text: format!("FAILED{ended}: {}", faults.join(", ")) };
        }
        let connections = counted(report.connections.ready, "connection");
        let messages = &report.messages;
        let right = if report.is_verified() {
            format!("{} right", counted(messages.echoed, "echo"))
        } else {
            let done =
                if messages.unawaited > 0 { (messages.unawaited, "sent") } else { (messages.echoed, "answered") };
            format!("{} {} ({})", counted(done.0, "message"), done.1, report.verified())
        };
        let measured = if report.interrupted && report.measured.is_none() { ", nothing measured" } else { "" };
        let mark = if report.interrupted { Mark::Partial } else { Mark::Good };
        Self { mark, text: format!("{ended}: {connections} held, {right}{measured}") }
    }
}

/// The faults with their counts.
fn faults(report: &Report) -> Vec<String> {
    let (connections, messages) = (&report.connections, &report.messages);
    let violations = connections.violations.iter().map(|violation| violation.count).sum();
    let mut faults = Vec::new();
    let failed = mostly(connections.failures.iter().map(|it| (it.count, it.cause.clone())));
    let ended = mostly(connections.early_ends.iter().map(|it| (it.count, it.text())));
    let broke = mostly(connections.violations.iter().map(|it| (it.count, it.what.clone())));
    let of_connections = [
        (connections.failed, "failed", failed),
        (connections.untried, "not tried any more", String::new()),
        (connections.closed_early, "closed early", ended),
        (violations, "broke the protocol", broke),
    ];
    for (number, what, why) in of_connections {
        if number > 0 {
            faults.push(format!("{} {what}{why}", counted(number, "connection")));
        }
    }
    let of_messages = [
        (messages.lost, "lost"),
        (messages.corrupted, "corrupted"),
        (messages.reordered, "reordered"),
        (messages.late, "late"),
        (messages.duplicated, "duplicated"),
        (messages.unexpected, "unexpected"),
    ];
    for (number, what) in of_messages.into_iter().filter(|&(number, _)| number > 0) {
        let messages = counted(messages.sent.max(number), "message");
        faults.push(format!("{} of {messages} {what}", count(number)));
    }
    let missing: Vec<_> = report.meeting.iter().flat_map(|meeting| &meeting.missing).collect();
    if let [first, ..] = missing.as_slice() {
        let of = report.meeting.as_ref().map_or(0, |meeting| meeting.members);
        faults.push(format!("{} of {of} members lost ({} from {:.1} s on)", missing.len(), first.name, first.from_s));
    }
    if faults.is_empty() && !report.ok {
        faults.push("see the counters".to_owned());
    }
    faults
}

/// The most frequent of several causes, in brackets.
fn mostly(causes: impl Iterator<Item = (u64, String)>) -> String {
    let causes: Vec<_> = causes.collect();
    let mostly = if causes.len() > 1 { "mostly " } else { "" };
    let most = causes.iter().rev().max_by_key(|(number, _)| *number);
    most.map_or(String::new(), |(_, cause)| format!(" ({mostly}{cause})"))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_result_tells_numbers() {
        let mut run = report();
        assert_eq!(Summary::of(&run, &[]).text, "ok: 100 connections held, 1,100 echoes right");
        run.interrupted = true;
        let partial = Summary::of(&run, &[]);
        assert_eq!(partial.mark, Mark::Partial);
        assert_eq!(partial.text, "PARTIAL, ended early: 100 connections held, 1,100 echoes right");
        run.messages.lost = 13;
        run.connections.failed = 1;
        run.ok = false;
        let failed = Summary::of(&run, &[]);
        assert_eq!(failed.mark, Mark::Failed);
        let expected = "FAILED (PARTIAL, ended early): 1 connection failed, 13 of 1,100 messages lost";
        assert_eq!(failed.text, expected);
    }

    #[test]
    fn the_most_frequent_cause_is_named() {
        let cause = |number: u64, text: &str| (number, text.to_owned());
        assert_eq!(mostly([cause(3, "HTTP status 503")].into_iter()), " (HTTP status 503)");
        assert_eq!(mostly([cause(3, "a"), cause(9, "b"), cause(9, "c")].into_iter()), " (mostly b)");
        assert_eq!(mostly(std::iter::empty()), "");
    }

    #[test]
    fn a_condition_that_held_is_a_reason() {
        let breach = "rate<5000".parse::<crate::thresholds::Threshold>().unwrap().check(&report());
        let result = Summary::of(&report(), &[breach.unwrap()]);
        assert_eq!(result.text, "FAILED: --fail-if rate<5000: it is 1,000");
    }
}
