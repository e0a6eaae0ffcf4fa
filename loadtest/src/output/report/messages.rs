//! Counts of messages by outcome.

use serde::{Deserialize, Serialize};

use crate::stats::{Counter, Tally};

/// Outcomes of the messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see `Counter`")]
pub struct MessageCounts {
    pub sent: u64,
    pub echoed: u64,
    pub lost: u64,
    pub reordered: u64,
    pub corrupted: u64,
    pub late: u64,
    pub duplicated: u64,
    pub unexpected: u64,
    pub unawaited: u64,
    pub pushed: u64,
    pub welcomes: u64,
    pub unsent: u64,
    pub pings_answered: u64,
    pub pings_sent: u64,
    pub pings_unanswered: u64,
    pub pongs: u64,
    pub pongs_unasked: u64,
    pub slow_sent: u64,
    pub compressed_sent: u64,
    pub compressed_received: u64,
    pub wire_sent: u64,
    pub wire_received: u64,
}

impl MessageCounts {
    /// The outcomes with their names, in order of importance. Answers are called echoes only if they were compared.
    #[must_use]
    pub fn rows(&self, are_echoes: bool) -> Vec<(&'static str, u64)> {
        let mut rows = vec![
            ("sent", self.sent),
            (if are_echoes { "echoed" } else { "answered" }, self.echoed),
            ("lost", self.lost),
            ("corrupted", self.corrupted),
            ("reordered", self.reordered),
            ("late", self.late),
            ("duplicated", self.duplicated),
            ("unexpected", self.unexpected),
            ("due but not sent", self.unsent),
        ];
        let besides = [
            ("sent with no answer awaited", self.unawaited),
            ("pushed by the server", self.pushed),
            ("with which the server began", self.welcomes),
            ("sent by slow readers", self.slow_sent),
            ("sent compressed", self.compressed_sent),
            ("received compressed", self.compressed_received),
            ("pings sent", self.pings_sent),
            ("pings unanswered", self.pings_unanswered),
            ("pongs", self.pongs),
            ("pongs that answer no ping", self.pongs_unasked),
            ("pings answered", self.pings_answered),
        ];
        rows.extend(besides.into_iter().filter(|&(_, number)| number > 0));
        rows
    }

    /// The number of messages with a fault.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.lost + self.corrupted + self.reordered + self.late + self.duplicated + self.unexpected
    }

    pub(super) fn of(tally: &Tally) -> Self {
        let counts = &tally.counts;
        Self {
            sent: counts[Counter::Sent],
            echoed: counts[Counter::Echoed],
            lost: counts[Counter::Lost],
            reordered: counts[Counter::Reordered],
            corrupted: counts[Counter::Corrupted],
            late: counts[Counter::Late],
            duplicated: counts[Counter::Duplicated],
            unexpected: counts[Counter::Unexpected],
            unawaited: counts[Counter::Unawaited],
            pushed: counts[Counter::Pushed],
            welcomes: counts[Counter::Welcomes],
            unsent: counts[Counter::Unsent],
            pings_answered: counts[Counter::Pings],
            pings_sent: counts[Counter::PingsSent],
            pings_unanswered: counts[Counter::PingsUnanswered],
            pongs: counts[Counter::Pongs],
            pongs_unasked: counts[Counter::PongsUnasked],
            slow_sent: counts[Counter::SlowSent],
            compressed_sent: counts[Counter::CompressedSent],
            compressed_received: counts[Counter::CompressedReceived],
            wire_sent: counts[Counter::WireSent],
            wire_received: counts[Counter::WireReceived],
        }
    }
}
