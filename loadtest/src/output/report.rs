//! The results of a run, computed once and shown in several ways. This is also the form of the JSON output, which
//! `ringload report` reads again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::sampling::{CpuTime, KernelMemory, Memory};
use crate::scenario::{Arrivals, Scenario};
use crate::series::{Encoded, Sample};
use crate::stats::{Counter, Latencies, Tally};
use crate::verdict::Verdict;

/// Changes with the form of [`Report`].
pub const VERSION: u32 = 2;

/// With fewer connections than this, what grows is something else.
const MIN_CONNECTIONS: u64 = 1000;

/// What was measured between two moments.
#[derive(Clone, Debug)]
pub struct Measured {
    /// From one to the other.
    pub time: Duration,
    /// Echoes in between.
    pub echoes: u64,
    /// What the server used, if its process is known.
    pub server: Option<Usage>,
    /// What the load generator used.
    pub load: Usage,
}

/// What one side used between two moments.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Processor time.
    pub cpu: CpuTime,
    /// That of its busiest thread.
    pub busiest_thread: Duration,
    /// Processors that it may use.
    pub cpus: Vec<usize>,
    /// How many of them it can keep busy: not more than it has threads for.
    pub cores_max: usize,
    /// What processes of neither side used of these processors.
    pub others: Duration,
}

/// Memory at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MemoryAt {
    /// The server's, with all its descendants, if its process is known.
    pub server: Option<Memory>,
    /// The load generator's.
    pub load: Memory,
    /// The kernel's.
    pub kernel: KernelMemory,
}

/// Memory over the run.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMarks {
    /// Before the first connection.
    pub before: MemoryAt,
    /// With all connections open and nothing going on.
    pub idle: MemoryAt,
    /// After the load.
    pub at_end: MemoryAt,
    /// Connections that were open for `idle`.
    pub open_when_idle: u64,
}

/// All that a run yields.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// What was asked for.
    pub scenario: &'a Scenario,
    /// The server's URL.
    pub target: String,
    /// Its process.
    pub server_pid: Option<u32>,
    /// Threads of the load generator.
    pub threads: u32,
    /// When the run began, since the Unix epoch.
    pub started: Duration,
    /// What was counted.
    pub tally: Tally,
    /// How long it took to open the connections.
    pub connect_time: Duration,
    /// The measured time, if it came.
    pub measured: Option<Measured>,
    /// Memory.
    pub memory: MemoryMarks,
    /// The samples.
    pub series: Vec<Sample>,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// Whether the server's process ended before the run did.
    pub has_server_ended: bool,
}

impl Outcome<'_> {
    /// What makes the results doubtful, beside the use of processors.
    fn doubts(&self) -> Vec<String> {
        let (sent, unsent) = (self.tally.counts[Counter::Sent], self.tally.counts[Counter::Unsent]);
        let unsent_percent = unsent as f64 / (sent + unsent).max(1) as f64 * 100.0;
        let unsent = format!("{unsent_percent:.0} % of the messages that were due had not been sent at the end");
        let ended = "the server's process ended before the run did".to_owned();
        let doubts = [(self.has_server_ended, ended), (unsent_percent >= 1.0, unsent)];
        doubts.into_iter().filter_map(|(holds, doubt)| holds.then_some(doubt)).collect()
    }
}

/// The results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Of this form; it changes with it.
    pub version: u32,
    /// The version of ringload.
    pub ringload: String,
    /// Whether nothing failed, got lost or came back wrong.
    pub ok: bool,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// The runs behind these results: one, or those that were merged.
    pub runs: Vec<RunReport>,
    /// What became of the connections.
    pub connections: Connections,
    /// What became of the messages, over the whole run.
    pub messages: MessageCounts,
    /// The measured time; absent if it never came.
    pub measured: Option<MeasuredReport>,
    /// What limited the rate; absent if nothing was measured.
    pub verdict: Option<Verdict>,
    /// Memory.
    pub memory: MemoryReport,
    /// The run second by second.
    pub series: Vec<Sample>,
}

/// One run: who ran what, where, against whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RunReport {
    /// The server's URL.
    pub target: String,
    /// The server's process, if it is known.
    pub server_pid: Option<u32>,
    /// Threads of the load generator.
    pub threads: u32,
    /// When the run began, in seconds since the Unix epoch.
    pub started_unix_s: f64,
    /// What was asked for.
    pub scenario: Load,
    /// Where the load generator ran.
    pub machine: Machine,
}

/// The load, as it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the options of the same names")]
pub struct Load {
    pub connections: u32,
    pub active: u32,
    pub connect_per_s: Option<f64>,
    pub connect_window: u32,
    pub greet: bool,
    pub sizes: String,
    pub size_bytes_mean: f64,
    /// Messages per second in all; absent in a closed loop.
    pub rate_per_s: Option<f64>,
    /// How they are spread over time.
    pub arrivals: Option<Arrivals>,
    /// Messages in flight on each active connection at most; absent if there is no limit.
    pub depth: Option<u32>,
    pub text: bool,
    pub verify: bool,
    pub messages: Option<u64>,
    pub reconnect_every_s: Option<f64>,
    pub ping_every_s: Option<f64>,
    pub slow_readers: u32,
    pub warmup_s: f64,
    pub duration_s: f64,
}

/// What became of the connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see `Counter`")]
pub struct Connections {
    pub requested: u64,
    pub attempted: u64,
    pub opened: u64,
    pub failed: u64,
    pub failures: Vec<Failure>,
    pub closed_early: u64,
    pub violations: Vec<Violation>,
    pub connect_s: f64,
    pub opened_per_s: f64,
    pub closes_sent: u64,
    pub closes_answered: u64,
    pub recycled: u64,
    pub slow_ended: u64,
    /// From the beginning of an attempt to a ready connection; absent without connections.
    pub latency_us: Option<LatencyReport>,
    /// The same in full: nanoseconds to three significant digits.
    pub latency_histogram: Option<Encoded>,
}

/// Attempts that failed for one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Failure {
    pub cause: String,
    pub count: u64,
    pub remedy: Option<String>,
}

/// Connections on which the server broke the protocol in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Violation {
    pub what: String,
    pub count: u64,
}

/// What became of the messages.
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
    pub unsent: u64,
    pub pings_answered: u64,
    pub pings_sent: u64,
    pub pongs: u64,
    pub slow_sent: u64,
}

/// The measured time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MeasuredReport {
    /// Its length.
    pub seconds: f64,
    /// Echoes in it.
    pub echoes: u64,
    /// Per second.
    pub echoes_per_s: f64,
    /// Payload bytes per second, in each direction.
    pub payload_bytes_per_s: f64,
    /// From sending a message, or in an open loop from when it was due, to the last byte of its echo; absent without
    /// echoes.
    pub latency_us: Option<LatencyReport>,
    /// The same in full: nanoseconds to three significant digits.
    pub latency_histogram: Option<Encoded>,
    /// How late the load generator itself noticed that messages were due; absent in a closed loop.
    pub lag_us: Option<LatencyReport>,
    /// The same in full.
    pub lag_histogram: Option<Encoded>,
    /// The server's processor time, if its process is known.
    pub server_cpu: Option<CpuReport>,
    /// The load generator's.
    pub load_cpu: CpuReport,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct LatencyReport {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub p99_99: f64,
    pub max: f64,
}

/// Processor time of one side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CpuReport {
    /// In user space.
    pub user_s: f64,
    /// In the kernel.
    pub system_s: f64,
    /// Processors that it kept busy on average.
    pub cores: f64,
    /// Processors that it can keep busy: those it may use, but not more than it has busy threads for.
    pub cores_max: usize,
    /// How busy its busiest thread was; 1 is all of a processor.
    pub busiest_thread_cores: f64,
    /// The numbers of the processors that it may use.
    pub cpus: Vec<usize>,
    /// What processes of neither side used of them.
    pub others_cores: f64,
    /// Absent without echoes.
    pub us_per_echo: Option<f64>,
}

/// Memory over the run, and for each idle connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MemoryReport {
    /// Before the first connection.
    pub before: MemoryAt,
    /// With all connections open and nothing going on.
    pub idle: MemoryAt,
    /// After the load.
    pub at_end: MemoryAt,
    /// Connections that were open for `idle`.
    pub open_when_idle: u64,
    /// Bytes by which the server's resident memory grew for each of them; absent if they were fewer than 1000.
    pub server_bytes_per_connection: Option<f64>,
    /// The same of the load generator.
    pub load_bytes_per_connection: Option<f64>,
    /// The kernel's objects for each of them: both ends, if both are on this machine.
    pub slab_bytes_per_connection: Option<f64>,
}

impl Report {
    /// Connections that were opened in the first place, and not again.
    #[must_use]
    pub fn opened_first(&self) -> u64 {
        if self.connections.recycled > 0 { self.memory.open_when_idle } else { self.connections.opened }
    }

    /// Computes the results.
    #[must_use]
    pub fn new(outcome: Outcome<'_>) -> Self {
        let Outcome { scenario, tally, .. } = &outcome;
        let load = Load::of(scenario);
        let measured = outcome.measured.as_ref().map(|measured| MeasuredReport::of(measured, &load, tally));
        let mut verdict = measured.as_ref().map(Verdict::on);
        if let Some(verdict) = &mut verdict {
            verdict.warnings.extend(outcome.doubts());
        }
        Self {
            version: VERSION,
            ringload: env!("CARGO_PKG_VERSION").to_owned(),
            ok: tally.counts.are_clean(),
            interrupted: outcome.interrupted,
            connections: Connections::of(scenario, tally, outcome.connect_time, outcome.memory.open_when_idle),
            messages: MessageCounts::of(tally),
            verdict,
            measured,
            memory: MemoryReport::of(&outcome.memory),
            runs: vec![RunReport {
                target: outcome.target,
                server_pid: outcome.server_pid,
                threads: outcome.threads,
                started_unix_s: outcome.started.as_secs_f64(),
                scenario: load,
                machine: Machine::this(),
            }],
            series: outcome.series,
        }
    }

    /// How many things went wrong: connections and messages.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let (connections, messages) = (&self.connections, &self.messages);
        let violations: u64 = connections.violations.iter().map(|violation| violation.count).sum();
        connections.failed + connections.closed_early + violations + messages.faults()
    }

    /// Whether every echo was compared.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.runs.iter().all(|run| run.scenario.verify)
    }
}

impl Load {
    fn of(scenario: &Scenario) -> Self {
        let traffic = &scenario.traffic;
        Self {
            connections: scenario.connections,
            active: scenario.active,
            connect_per_s: (scenario.connect.rate > 0.0).then_some(scenario.connect.rate),
            connect_window: scenario.connect.window,
            greet: scenario.connect.greet,
            sizes: traffic.sizes.to_string(),
            size_bytes_mean: traffic.sizes.mean(),
            rate_per_s: traffic.open.map(|open| open.rate),
            arrivals: traffic.open.map(|open| open.arrivals),
            depth: (traffic.depth < u32::MAX).then_some(traffic.depth),
            text: traffic.text,
            verify: traffic.verify,
            messages: traffic.limit,
            reconnect_every_s: scenario.upkeep.reconnect_every.map(|every| every.as_secs_f64()),
            ping_every_s: scenario.upkeep.ping_every.map(|every| every.as_secs_f64()),
            slow_readers: scenario.upkeep.slow_readers,
            warmup_s: scenario.warmup.as_secs_f64(),
            duration_s: scenario.duration.as_secs_f64(),
        }
    }
}

impl Connections {
    fn of(scenario: &Scenario, tally: &Tally, connect_time: Duration, open_when_idle: u64) -> Self {
        let counts = &tally.counts;
        // Those that were opened again took their time later.
        let opened_first = if counts[Counter::Recycled] > 0 { open_when_idle } else { counts[Counter::Opened] };
        let failure = |(cause, &count): (&crate::stats::Cause, &u64)| Failure {
            cause: cause.to_string(),
            count,
            remedy: cause.remedy().map(str::to_owned),
        };
        let violation = |(what, &count): (&String, &u64)| Violation { what: what.clone(), count };
        Self {
            requested: u64::from(scenario.connections),
            attempted: counts[Counter::Attempted],
            opened: counts[Counter::Opened],
            failed: counts[Counter::Failed],
            failures: tally.failures.iter().map(failure).collect(),
            closed_early: counts[Counter::ClosedEarly],
            violations: tally.violations.iter().map(violation).collect(),
            connect_s: connect_time.as_secs_f64(),
            opened_per_s: opened_first as f64 / connect_time.as_secs_f64(),
            closes_sent: counts[Counter::ClosesSent],
            closes_answered: counts[Counter::ClosesAnswered],
            recycled: counts[Counter::Recycled],
            slow_ended: counts[Counter::SlowEnded],
            latency_us: LatencyReport::of(tally.connects.histogram()),
            latency_histogram: encoded(&tally.connects),
        }
    }
}

impl MessageCounts {
    /// What became of them, with names for people, in the order in which it matters.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, u64)> {
        let mut rows = vec![
            ("sent", self.sent),
            ("echoed", self.echoed),
            ("lost", self.lost),
            ("corrupted", self.corrupted),
            ("reordered", self.reordered),
            ("late", self.late),
            ("duplicated", self.duplicated),
            ("unexpected", self.unexpected),
            ("due but not sent", self.unsent),
        ];
        let besides = [
            ("sent by slow readers", self.slow_sent),
            ("pings sent", self.pings_sent),
            ("pongs", self.pongs),
            ("pings answered", self.pings_answered),
        ];
        rows.extend(besides.into_iter().filter(|&(_, number)| number > 0));
        rows
    }

    /// How many did not come back as they should.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.lost + self.corrupted + self.reordered + self.late + self.duplicated + self.unexpected
    }

    fn of(tally: &Tally) -> Self {
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
            unsent: counts[Counter::Unsent],
            pings_answered: counts[Counter::Pings],
            pings_sent: counts[Counter::PingsSent],
            pongs: counts[Counter::Pongs],
            slow_sent: counts[Counter::SlowSent],
        }
    }
}

impl MeasuredReport {
    fn of(measured: &Measured, load: &Load, tally: &Tally) -> Self {
        let seconds = measured.time.as_secs_f64();
        let echoes_per_s = measured.echoes as f64 / seconds;
        let cpu = |usage: &Usage| CpuReport::of(usage, seconds, measured.echoes);
        Self {
            seconds,
            echoes: measured.echoes,
            echoes_per_s,
            payload_bytes_per_s: echoes_per_s * load.size_bytes_mean,
            latency_us: LatencyReport::of(tally.latencies.histogram()),
            latency_histogram: encoded(&tally.latencies),
            lag_us: LatencyReport::of(tally.lag.histogram()),
            lag_histogram: encoded(&tally.lag),
            server_cpu: measured.server.as_ref().map(cpu),
            load_cpu: cpu(&measured.load),
        }
    }
}

fn encoded(latencies: &Latencies) -> Option<Encoded> {
    (latencies.count() > 0).then(|| Encoded::new(latencies.histogram()))
}

impl LatencyReport {
    /// Of a histogram in nanoseconds; `None` if it is empty.
    #[must_use]
    pub fn of(histogram: &hdrhistogram::Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Self {
            min: histogram.min() as f64 / 1000.0,
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max() as f64 / 1000.0,
        })
    }
}

impl CpuReport {
    fn of(usage: &Usage, seconds: f64, echoes: u64) -> Self {
        let total = usage.cpu.total().as_secs_f64();
        Self {
            user_s: usage.cpu.user.as_secs_f64(),
            system_s: usage.cpu.system.as_secs_f64(),
            cores: total / seconds,
            cores_max: usage.cores_max,
            busiest_thread_cores: usage.busiest_thread.as_secs_f64() / seconds,
            cpus: usage.cpus.clone(),
            others_cores: usage.others.as_secs_f64() / seconds,
            us_per_echo: (echoes > 0).then(|| total * 1e6 / echoes as f64),
        }
    }
}

impl MemoryReport {
    /// What grew by how much for each connection.
    #[must_use]
    pub fn of(marks: &MemoryMarks) -> Self {
        let per_connection = |before: u64, idle: u64| {
            let grown = idle.checked_sub(before).filter(|_| marks.open_when_idle >= MIN_CONNECTIONS)?;
            Some(grown as f64 / marks.open_when_idle as f64)
        };
        let (before, idle) = (marks.before, marks.idle);
        let server = before.server.zip(idle.server);
        Self {
            before,
            idle,
            at_end: marks.at_end,
            open_when_idle: marks.open_when_idle,
            server_bytes_per_connection: server.and_then(|(a, b)| per_connection(a.rss_bytes, b.rss_bytes)),
            load_bytes_per_connection: per_connection(before.load.rss_bytes, idle.load.rss_bytes),
            slab_bytes_per_connection: per_connection(before.kernel.slab_bytes, idle.kernel.slab_bytes),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
