//! Counts of connections by outcome.

use serde::{Deserialize, Serialize};

use super::{LatencyReport, Outcome, encoded};
use crate::sampling::CpuTime;
use crate::series::Encoded;
use crate::stats::{self, Cause, Counter, Failures};

/// Outcomes of the connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see `Counter`")]
pub struct Connections {
    pub requested: u64,
    /// Outcomes of the requested connections: these add up to them.
    pub ready: u64,
    pub failed_at_first: u64,
    pub untried: u64,
    pub not_opened: u64,
    /// Connections opened over the whole run, including reopened ones.
    pub attempted: u64,
    pub opened: u64,
    /// Opened connections that agreed on compression.
    pub deflating: u64,
    pub failed: u64,
    pub failures: Vec<Failure>,
    /// Attempts that went on to another address of the same name, by the cause of the failure at the previous one.
    pub detours: Vec<Failure>,
    pub closed_early: u64,
    /// How the connections ended.
    pub early_ends: Vec<EarlyEnd>,
    pub violations: Vec<Violation>,
    pub connect_s: f64,
    pub opened_per_s: f64,
    /// The server's processor time per connection that was ready at first, if its process is known.
    pub server_cpu_us_per_connection: Option<f64>,
    /// The load generator's processor time per connection that was ready at first.
    pub load_cpu_us_per_connection: Option<f64>,
    pub closes_sent: u64,
    pub closes_answered: u64,
    pub close_timeouts: u64,
    pub lingered: u64,
    pub no_close_notify: u64,
    pub retired: u64,
    pub recycled: u64,
    pub slow_ended: u64,
    /// From the beginning of an attempt to a ready connection; absent without connections.
    pub latency_us: Option<LatencyReport>,
    /// The complete histogram: nanoseconds to three significant digits.
    pub latency_histogram: Option<Encoded>,
}

/// Attempts that failed for one cause at one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Failure {
    pub cause: String,
    pub address: String,
    pub count: u64,
    /// The server's first response text for this cause.
    pub said: Option<String>,
    pub remedy: Option<String>,
}

/// Connections that the server ended early in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EarlyEnd {
    /// How it ended them, in words.
    pub how: String,
    /// The code of the server's Close frame.
    pub code: Option<u16>,
    /// Its reason, if it gave one.
    pub reason: Option<String>,
    /// The number of connections.
    pub count: u64,
    /// The most likely cause.
    pub remedy: Option<String>,
}

/// Connections on which the server broke the protocol in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Violation {
    pub what: String,
    pub count: u64,
}

impl Failure {
    /// The cause, the address, and the server's response text.
    #[must_use]
    pub fn text(&self) -> String {
        let said = self.said.as_ref().map_or(String::new(), |said| format!(": {said}"));
        format!("{} at {}{said}", self.cause, self.address)
    }
}

impl EarlyEnd {
    /// How the connection ended, with the server's reason; terminal escapes are removed.
    #[must_use]
    pub fn text(&self) -> String {
        let shown =
            |reason: &String| reason.chars().map(|it| if it.is_control() { ' ' } else { it }).collect::<String>();
        let reason = self.reason.as_ref().map_or(String::new(), |reason| format!(": \"{}\"", shown(reason)));
        format!("{}{reason}", self.how)
    }
}

impl Connections {
    pub(super) fn of(outcome: &Outcome) -> Self {
        let &Outcome { scenario, transport, ref tally, ref addresses, ref at_first, connect_time, ready, .. } = outcome;
        let counts = &tally.counts;
        // A plan may want fewer connections at first than later.
        let requested = u64::from(scenario.own().connections_at_first);
        let (settled, failed_at_first) = (at_first[Counter::Settled], at_first[Counter::Failed]);
        let untried = at_first[Counter::Untried];
        let failures = |failures: &Failures| -> Vec<Failure> {
            let failure = |(&(cause, address), &count): (&(Cause, usize), &u64)| Failure {
                cause: cause.to_string(),
                address: addresses.get(address).cloned().unwrap_or_default(),
                count,
                said: tally.said(cause),
                remedy: cause.remedy(transport).map(str::to_owned),
            };
            failures.iter().map(failure).collect()
        };
        let early_end = |(end, count): (&stats::EarlyEnd, u64)| EarlyEnd {
            how: end.to_string(),
            code: end.code(),
            reason: (!end.reason().is_empty()).then(|| end.reason().to_owned()),
            count,
            remedy: end.remedy().map(str::to_owned),
        };
        let violation = |(what, &count): (&String, &u64)| Violation { what: what.clone(), count };
        let cpu_us_each = |cpu: CpuTime| (ready > 0).then(|| cpu.total().as_secs_f64() * 1e6 / ready as f64);
        Self {
            requested,
            ready,
            failed_at_first,
            untried,
            not_opened: requested.saturating_sub(settled + untried),
            attempted: counts[Counter::Attempted],
            opened: counts[Counter::Opened],
            deflating: counts[Counter::Deflating],
            failed: counts[Counter::Failed],
            failures: failures(&tally.failures),
            detours: failures(&tally.detours),
            early_ends: tally.early_ends.by_count().into_iter().map(early_end).collect(),
            closed_early: counts[Counter::ClosedEarly],
            violations: tally.violations.iter().map(violation).collect(),
            connect_s: connect_time.as_secs_f64(),
            opened_per_s: if ready > 0 { ready as f64 / connect_time.as_secs_f64() } else { 0.0 },
            server_cpu_us_per_connection: outcome.connect_cpu.server.and_then(cpu_us_each),
            load_cpu_us_per_connection: cpu_us_each(outcome.connect_cpu.load),
            closes_sent: counts[Counter::ClosesSent],
            closes_answered: counts[Counter::ClosesAnswered],
            close_timeouts: counts[Counter::CloseTimeouts],
            lingered: counts[Counter::Lingered],
            no_close_notify: counts[Counter::NoCloseNotify],
            retired: counts[Counter::Retired],
            recycled: counts[Counter::Recycled],
            slow_ended: counts[Counter::SlowEnded],
            latency_us: LatencyReport::of(tally.connects.histogram()),
            latency_histogram: encoded(&tally.connects),
        }
    }
}
