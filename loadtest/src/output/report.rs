//! The results of a run, computed once and shown in several ways.

use std::time::Duration;

use serde::Serialize;

use crate::sampling::{CpuTime, KernelMemory, Memory};
use crate::scenario::Scenario;
use crate::stats::{Counter, Latencies, Tally};
use crate::target::Target;

/// What was measured between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// From one to the other.
    pub time: Duration,
    /// Echoes in between.
    pub echoes: u64,
    /// The server's processor time, if its process is known.
    pub server_cpu: Option<CpuTime>,
    /// The load generator's.
    pub load_cpu: CpuTime,
}

/// Memory at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryAt {
    /// The server's, if its process is known.
    pub server: Option<Memory>,
    /// The load generator's.
    pub load: Memory,
    /// The kernel's.
    pub kernel: KernelMemory,
}

/// Memory over the run.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Before the first connection.
    pub before: MemoryAt,
    /// With all connections open and nothing going on.
    pub idle: MemoryAt,
    /// After the load.
    pub at_end: MemoryAt,
    /// Connections that were open for `idle`.
    pub open_when_idle: u64,
}

/// The results. This is also the form of the JSON output.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of this form; it changes with it.
    pub version: u32,
    /// Whether nothing failed, got lost or came back wrong.
    pub ok: bool,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// The server's URL.
    pub target: String,
    /// Threads of the load generator.
    pub threads: u32,
    /// The load.
    pub load: Load,
    /// What became of the connections.
    pub connections: Connections,
    /// What became of the messages, over the whole run.
    pub messages: MessageCounts,
    /// The measured time; absent if it never came.
    pub measured: Option<MeasuredReport>,
    /// Memory.
    pub memory: MemoryReport,
}

/// The load, as it was asked for.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the options of the same names")]
pub struct Load {
    pub connections: u32,
    pub active: u32,
    pub size_bytes: usize,
    pub depth: u32,
    pub text: bool,
    pub greet: bool,
    pub verify: bool,
}

/// What became of the connections.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "see `Counter`")]
pub struct Connections {
    pub requested: u32,
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
}

/// Attempts that failed for one cause.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Failure {
    pub cause: String,
    pub count: u64,
    pub remedy: Option<&'static str>,
}

/// Connections on which the server broke the protocol in one way.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Violation {
    pub what: String,
    pub count: u64,
}

/// What became of the messages.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
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
    /// How late the load generator itself noticed that messages were due; absent in a closed loop.
    pub lag_us: Option<LatencyReport>,
    /// The server's processor time, if its process is known.
    pub server_cpu: Option<CpuReport>,
    /// The load generator's.
    pub load_cpu: CpuReport,
}

/// Latencies in microseconds.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct LatencyReport {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

/// Processor time of one process.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct CpuReport {
    pub user_s: f64,
    pub system_s: f64,
    /// Processors that it kept busy on average.
    pub cores: f64,
    /// Absent without echoes.
    pub us_per_echo: Option<f64>,
}

/// Memory over the run, and for each idle connection.
#[derive(Debug, Serialize)]
pub struct MemoryReport {
    /// Before the first connection.
    pub before: MemoryAt,
    /// With all connections open and nothing going on.
    pub idle: MemoryAt,
    /// After the load.
    pub at_end: MemoryAt,
    /// Connections that were open for `idle`.
    pub open_when_idle: u64,
    /// Bytes by which the server's resident memory grew for each of them.
    pub server_bytes_per_connection: Option<f64>,
    /// The same of the load generator.
    pub load_bytes_per_connection: Option<f64>,
    /// The kernel's objects for each of them: both ends, if both are on this machine.
    pub slab_bytes_per_connection: Option<f64>,
}

impl Report {
    /// Computes the results.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "everything that a run yields meets here, once")]
    pub fn new(
        scenario: &Scenario,
        target: &Target,
        threads: u32,
        tally: &Tally,
        connect_time: Duration,
        measured: Option<Measured>,
        usage: Usage,
        interrupted: bool,
    ) -> Self {
        Self {
            version: 1,
            ok: tally.counts.are_clean(),
            interrupted,
            target: target.url(),
            threads,
            load: Load::of(scenario),
            connections: Connections::of(scenario, tally, connect_time),
            messages: MessageCounts::of(tally),
            measured: measured.map(|measured| MeasuredReport::of(&measured, scenario, tally)),
            memory: MemoryReport::of(&usage),
        }
    }

    /// Whether nothing failed, got lost or came back wrong.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.ok
    }
}

impl Load {
    fn of(scenario: &Scenario) -> Self {
        let traffic = &scenario.traffic;
        Self {
            connections: scenario.connections,
            active: scenario.active,
            size_bytes: traffic.sizes.mean() as usize,
            depth: traffic.depth,
            text: traffic.text,
            greet: scenario.connect.greet,
            verify: traffic.verify,
        }
    }
}

impl Connections {
    fn of(scenario: &Scenario, tally: &Tally, connect_time: Duration) -> Self {
        let counts = &tally.counts;
        let failure = |(cause, &count): (&crate::stats::Cause, &u64)| Failure {
            cause: cause.to_string(),
            count,
            remedy: cause.remedy(),
        };
        let violation = |(what, &count): (&String, &u64)| Violation { what: what.clone(), count };
        Self {
            requested: scenario.connections,
            attempted: counts[Counter::Attempted],
            opened: counts[Counter::Opened],
            failed: counts[Counter::Failed],
            failures: tally.failures.iter().map(failure).collect(),
            closed_early: counts[Counter::ClosedEarly],
            violations: tally.violations.iter().map(violation).collect(),
            connect_s: connect_time.as_secs_f64(),
            opened_per_s: counts[Counter::Opened] as f64 / connect_time.as_secs_f64(),
            closes_sent: counts[Counter::ClosesSent],
            closes_answered: counts[Counter::ClosesAnswered],
            recycled: counts[Counter::Recycled],
            slow_ended: counts[Counter::SlowEnded],
            latency_us: LatencyReport::of(&tally.connects),
        }
    }
}

impl MessageCounts {
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
            unsent: counts[Counter::Unsent],
            pings_sent: counts[Counter::PingsSent],
            pongs: counts[Counter::Pongs],
            slow_sent: counts[Counter::SlowSent],
            unexpected: counts[Counter::Unexpected],
            pings_answered: counts[Counter::Pings],
        }
    }
}

impl MeasuredReport {
    fn of(measured: &Measured, scenario: &Scenario, tally: &Tally) -> Self {
        let seconds = measured.time.as_secs_f64();
        let echoes_per_s = measured.echoes as f64 / seconds;
        let cpu = |time: CpuTime| CpuReport::of(time, seconds, measured.echoes);
        Self {
            seconds,
            echoes: measured.echoes,
            echoes_per_s,
            payload_bytes_per_s: echoes_per_s * scenario.traffic.sizes.mean(),
            latency_us: LatencyReport::of(&tally.latencies),
            lag_us: LatencyReport::of(&tally.lag),
            server_cpu: measured.server_cpu.map(cpu),
            load_cpu: cpu(measured.load_cpu),
        }
    }
}

impl LatencyReport {
    fn of(latencies: &Latencies) -> Option<Self> {
        let micros = |latency: Duration| latency.as_nanos() as f64 / 1000.0;
        let at = |percent| latencies.percentile(percent).map(micros);
        Some(Self {
            mean: latencies.mean().map(micros)?,
            p50: at(50.0)?,
            p90: at(90.0)?,
            p99: at(99.0)?,
            p99_9: at(99.9)?,
            max: latencies.max().map(micros)?,
        })
    }
}

impl CpuReport {
    fn of(time: CpuTime, seconds: f64, echoes: u64) -> Self {
        let total = time.total().as_secs_f64();
        Self {
            user_s: time.user.as_secs_f64(),
            system_s: time.system.as_secs_f64(),
            cores: total / seconds,
            us_per_echo: (echoes > 0).then(|| total * 1e6 / echoes as f64),
        }
    }
}

impl MemoryReport {
    fn of(usage: &Usage) -> Self {
        let per_connection = |before: u64, idle: u64| {
            (usage.open_when_idle > 0).then(|| (idle as f64 - before as f64) / usage.open_when_idle as f64)
        };
        let (before, idle) = (usage.before, usage.idle);
        let server = before.server.zip(idle.server);
        Self {
            before,
            idle,
            at_end: usage.at_end,
            open_when_idle: usage.open_when_idle,
            server_bytes_per_connection: server.and_then(|(a, b)| per_connection(a.rss_bytes, b.rss_bytes)),
            load_bytes_per_connection: per_connection(before.load.rss_bytes, idle.load.rss_bytes),
            slab_bytes_per_connection: per_connection(before.kernel.slab_bytes, idle.kernel.slab_bytes),
        }
    }
}
