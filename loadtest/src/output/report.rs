//! The results of a run, computed once and shown in several forms. This is also the form of the JSON output, which
//! `ringload report` reads.

mod connections;
mod meeting;
mod messages;
mod outcome;

use serde::{Deserialize, Serialize};

pub use self::connections::{Connections, EarlyEnd, Failure, Violation};
pub use self::meeting::{Meeting, Missing, PhaseStart, Place, Skew};
pub use self::messages::MessageCounts;
pub use self::outcome::{ConnectCpu, Measured, MemoryMarks, Outcome, Usage};
use super::units::{bytes, count, percent};
use crate::driver::plan::Ramp;
use crate::machine::Machine;
use crate::sampling::quota::Throttling;
use crate::sampling::{KernelMemory, Memory};
use crate::scenario::{Arrivals, Scenario, Transport};
use crate::series::{Encoded, Sample};
use crate::stack::Counters;
use crate::stats::{Counter, Counts, Latencies, Tally};
use crate::verdict::{Doubts, Verdict};

/// The version of the JSON form; it changes with [`Report`].
pub const VERSION: u32 = 5;

/// With fewer connections than this, memory grows mainly for other reasons.
const MIN_CONNECTIONS: u64 = 1000;

/// Memory at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MemoryAt {
    /// The memory of the server and all its descendants, if its process is known.
    pub server: Option<Memory>,
    /// The load generator's.
    pub load: Memory,
    /// The kernel's.
    pub kernel: KernelMemory,
}

/// The results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The version of this form.
    pub version: u32,
    /// The version of ringload.
    pub ringload: String,
    /// Whether there was no fault: nothing failed, was lost or came back wrong.
    pub ok: bool,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// The runs behind these results: one, or several merged ones.
    pub runs: Vec<RunReport>,
    /// The synchronisation of a run by several members; absent otherwise.
    pub meeting: Option<Meeting>,
    /// Outcomes of the connections.
    pub connections: Connections,
    /// Outcomes of the messages, over the whole run.
    pub messages: MessageCounts,
    /// Time from a ping to its pong, over the whole run; absent without pongs.
    pub ping_us: Option<LatencyReport>,
    /// The complete histogram: nanoseconds to three significant digits.
    pub ping_histogram: Option<Encoded>,
    /// The measured time; absent if it was never reached.
    pub measured: Option<MeasuredReport>,
    /// What limited the rate; absent if nothing was measured.
    pub verdict: Option<Verdict>,
    /// Memory.
    pub memory: MemoryReport,
    /// The run second by second.
    pub series: Vec<Sample>,
}

/// One run: the load, the servers and the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RunReport {
    /// The server's URL.
    pub target: String,
    /// The server's process, if it is known.
    pub server_pid: Option<u32>,
    /// The load generator's process.
    pub pid: u32,
    /// The number of its threads.
    pub threads: u32,
    /// Its transport: `ring` or `epoll`, or `tun`, which uses packets instead of sockets.
    pub transport: String,
    /// The TCP of its connections: `kernel`, or `user` for ringload's own.
    #[serde(default = "kernels")]
    pub stack: String,
    /// The counters of its own TCP.
    pub segments: Option<Counters>,
    /// When the run began, in seconds since the Unix epoch.
    pub started_unix_s: f64,
    /// The requested load.
    pub scenario: Load,
    /// Where the load generator ran.
    pub machine: Machine,
    /// The member's place in a run by several members; absent otherwise.
    pub place: Option<Place>,
}

/// The stack of results without that field, which are older than the second stack.
fn kernels() -> String {
    Transport::default().stack().to_owned()
}

/// The requested load; of a member, its part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the options of the same names")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct Load {
    pub connections: u32,
    pub active: u32,
    pub connect_per_s: Option<f64>,
    pub connect_window: u32,
    pub greet: bool,
    pub sizes: String,
    pub size_bytes_mean: f64,
    /// Total messages per second; absent in a closed loop.
    pub rate_per_s: Option<f64>,
    /// The stages of that rate, of which it is the highest; absent without stages.
    pub rate_stages: Option<Vec<StagePoint>>,
    /// The stages of the number of connections, of which `connections` is the highest; absent without stages.
    pub connection_stages: Option<Vec<StagePoint>>,
    /// How the messages are spread over time.
    pub arrivals: Option<Arrivals>,
    /// Limit of messages in flight on each active connection; absent without a limit.
    pub depth: Option<u32>,
    /// The source of the user's own messages; absent if they are generated.
    pub own_messages: Option<String>,
    pub text: bool,
    /// The compressible part of generated messages, in percent.
    pub compressibility_percent: u8,
    /// The compression offered; absent if none was.
    pub deflate: Option<String>,
    /// Whether messages were compressed before they were sent.
    pub deflate_precompressed: bool,
    /// The expected answer: `echo`, `any`, `none`, or a number of answers.
    pub expect: String,
    /// Number of messages that the server is expected to send first on each connection.
    pub welcomes: u32,
    /// Whether every byte of every echo was compared.
    pub verify: bool,
    /// What was verified, in words.
    pub verified: String,
    pub messages: Option<u64>,
    pub reconnect_every_s: Option<f64>,
    pub messages_per_connection: Option<u32>,
    pub ping_every_s: Option<f64>,
    pub slow_readers: u32,
    pub warmup_s: f64,
    pub duration_s: f64,
}

/// A value at a time after the load began. Values change linearly from one point to the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct StagePoint {
    pub at_s: f64,
    pub value: f64,
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
    /// Echoes per second.
    pub echoes_per_s: f64,
    /// Messages due per second on open connections; absent in a closed loop.
    pub offered_per_s: Option<f64>,
    /// Payload bytes per second in each direction, before compression.
    pub payload_bytes_per_s: f64,
    /// Bytes of frames sent per second, with headers and after compression, but before TLS.
    pub wire_sent_bytes_per_s: f64,
    /// The same of frames received.
    pub wire_received_bytes_per_s: f64,
    /// Time from sending a message, or in an open loop from when it was due, to the last byte of its echo; absent
    /// without echoes.
    pub latency_us: Option<LatencyReport>,
    /// The complete histogram: nanoseconds to three significant digits.
    pub latency_histogram: Option<Encoded>,
    /// The load generator's own lag in sending due messages; absent in a closed loop.
    pub lag_us: Option<LatencyReport>,
    /// The complete histogram of the lag.
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
    pub p95: f64,
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
    /// Processors kept busy on average.
    pub cores: f64,
    /// Processors that it can keep busy: those it may use, but at most one per busy thread.
    pub cores_max: usize,
    /// Utilisation of its busiest thread; 1 is a whole processor.
    pub busiest_thread_cores: f64,
    /// The numbers of the processors that it may use.
    pub cpus: Vec<usize>,
    /// Usage of these processors by processes of neither side.
    pub others_cores: f64,
    /// Softirqs of these processors in the kernel's own threads, where both sides share them: nothing tells whose they are.
    #[serde(default)]
    pub shared_softirq_cores: f64,
    /// Throttling by its CPU quota; absent without a quota.
    pub throttling: Option<Throttling>,
    /// Processor time per echo in microseconds; absent without echoes.
    pub us_per_echo: Option<f64>,
}

/// Memory over the run and per idle connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MemoryReport {
    /// Before the first connection.
    pub before: MemoryAt,
    /// With all connections open and idle.
    pub idle: MemoryAt,
    /// After the load.
    pub at_end: MemoryAt,
    /// Connections that were open for `idle`.
    pub open_when_idle: u64,
    /// Growth of the server's resident memory in bytes per connection; absent with fewer than 1000 connections.
    pub server_bytes_per_connection: Option<f64>,
    /// The same for the load generator.
    pub load_bytes_per_connection: Option<f64>,
    /// Growth of kernel objects per connection: both ends, if both are on this machine.
    pub slab_bytes_per_connection: Option<f64>,
}

impl Report {
    /// Computes the results.
    #[must_use]
    pub fn new(outcome: Outcome<'_>) -> Self {
        let Outcome { scenario, tally, .. } = &outcome;
        let load = Load::of(scenario);
        let connections = Connections::of(&outcome);
        let measured = outcome.measured.as_ref().map(|measured| MeasuredReport::of(measured, &load, tally));
        let doubts = Doubts::of(&outcome, &connections, measured.as_ref());
        Self {
            version: VERSION,
            ringload: env!("CARGO_PKG_VERSION").to_owned(),
            ok: tally.counts.are_clean(),
            interrupted: outcome.interrupted,
            messages: MessageCounts::of(tally),
            ping_us: LatencyReport::of(tally.pings.histogram()),
            ping_histogram: encoded(&tally.pings),
            verdict: measured.as_ref().map(|measured| Verdict::on(measured, doubts)),
            connections,
            measured,
            memory: MemoryReport::of(&outcome.memory),
            runs: vec![RunReport {
                target: outcome.target,
                server_pid: outcome.server_pid,
                pid: std::process::id(),
                threads: outcome.threads,
                transport: outcome.transport.name().to_owned(),
                stack: outcome.transport.stack().to_owned(),
                segments: (outcome.transport == Transport::Tun).then_some(outcome.tally.segments),
                started_unix_s: outcome.started.as_secs_f64(),
                scenario: load,
                machine: outcome.machine,
                place: None,
            }],
            meeting: None,
            series: outcome.series,
        }
    }

    /// The number of faults: connections and messages.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let (connections, messages) = (&self.connections, &self.messages);
        let violations: u64 = connections.violations.iter().map(|violation| violation.count).sum();
        connections.failed + connections.closed_early + violations + messages.faults()
    }

    /// The traffic on the wire while measuring, in words; `None` if nothing was measured, or if compression was not
    /// offered and headers are all that is added to the payload.
    #[must_use]
    pub fn wire(&self) -> Option<String> {
        let measured = self.measured.as_ref().filter(|_| self.runs.iter().any(|run| run.scenario.deflate.is_some()))?;
        let (sent, received) = (measured.wire_sent_bytes_per_s, measured.wire_received_bytes_per_s);
        let share = |wire: f64| match measured.payload_bytes_per_s {
            payload if payload > 0.0 => format!(" ({})", percent(wire / payload)),
            _ => String::new(),
        };
        Some(format!(
            "{}/s sent{}, {}/s received{} for {}/s of payload each way",
            bytes(sent),
            share(sent),
            bytes(received),
            share(received),
            bytes(measured.payload_bytes_per_s)
        ))
    }

    /// What was verified, in words.
    #[must_use]
    pub fn verified(&self) -> String {
        let mut all: Vec<&str> = self.runs.iter().map(|run| run.scenario.verified.as_str()).collect();
        all.dedup();
        all.join("; elsewhere ")
    }

    /// The counters of ringload's own TCP, in words; `None` if all runs used the kernel's.
    #[must_use]
    pub fn user_stack(&self) -> Option<String> {
        let mut all = Counters::default();
        let runs =
            self.runs.iter().filter_map(|run| run.segments.as_ref()).inspect(|segments| all.add(segments)).count();
        let of = if runs == self.runs.len() { "ringload's own" } else { "ringload's own in some runs" };
        (runs > 0).then(|| {
            format!("{of}: {} segments sent again, {} came out of order", count(all.repeated), count(all.early))
        })
    }

    /// The unit of the measured rate.
    #[must_use]
    pub fn what_is_measured(&self) -> &'static str {
        match self.messages.unawaited {
            _ if self.is_verified() => "echoes",
            0 => "answered messages",
            _ => "messages sent",
        }
    }

    /// The number of connections with compression, in words; `None` if no run offered it.
    #[must_use]
    pub fn compression(&self) -> Option<String> {
        let mut offers: Vec<String> = self.runs.iter().filter_map(|run| run.scenario.compression()).collect();
        offers.dedup();
        let (deflating, opened) = (self.connections.deflating, self.connections.opened);
        let declined = match opened.saturating_sub(deflating) {
            0 => String::new(),
            declined => format!(", declined on {}: those went uncompressed", count(declined)),
        };
        let agreed = format!("agreed on {} of {} connections{declined}", count(deflating), count(opened));
        (!offers.is_empty()).then(|| format!("{agreed} (offered: {})", offers.join(" and ")))
    }

    /// Whether every echo was compared.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.runs.iter().all(|run| run.scenario.verify)
    }
}

fn stage_points(ramp: &Ramp, share: f64) -> Vec<StagePoint> {
    ramp.points().map(|(at_s, value)| StagePoint { at_s, value: value * share }).collect()
}

impl Load {
    /// The compression offered, and the compressibility of the messages.
    fn compression(&self) -> Option<String> {
        let offer = self.deflate.as_ref()?;
        let messages = if self.own_messages.is_some() {
            String::new()
        } else {
            format!("; messages {} % compressible", self.compressibility_percent)
        };
        let precompressed = if self.deflate_precompressed { ", compressed before the run" } else { "" };
        Some(format!("{offer}{messages}{precompressed}"))
    }

    fn of(scenario: &Scenario) -> Self {
        let (traffic, own) = (&scenario.traffic, scenario.own());
        Self {
            connections: own.connections,
            active: own.active,
            connect_per_s: (scenario.connect.rate > 0.0).then_some(scenario.connect.rate * own.share),
            connect_window: (f64::from(scenario.connect.window) * own.share).ceil() as u32,
            greet: scenario.connect.greet,
            sizes: traffic.sizes.to_string(),
            size_bytes_mean: traffic.mean_size(),
            own_messages: traffic.own.as_ref().map(|own| own.from().to_owned()),
            rate_per_s: traffic.open.map(|open| open.rate * own.active_share),
            rate_stages: scenario.plan.rate.as_ref().map(|ramp| stage_points(ramp, own.active_share)),
            connection_stages: scenario.plan.connections.as_ref().map(|ramp| stage_points(ramp, own.share)),
            arrivals: traffic.open.map(|open| open.arrivals),
            depth: (traffic.depth < u32::MAX).then_some(traffic.depth),
            text: traffic.text,
            compressibility_percent: traffic.compressibility,
            deflate: traffic.deflate.map(|deflate| deflate.offer.to_string()),
            deflate_precompressed: traffic.deflate.is_some_and(|deflate| deflate.is_precompressed),
            expect: traffic.expect.to_string(),
            welcomes: traffic.welcomes,
            verify: traffic.expect.compares(),
            verified: traffic.expect.verified(),
            messages: own.limit,
            reconnect_every_s: scenario.upkeep.reconnect_every.map(|every| every.as_secs_f64() / own.share),
            messages_per_connection: scenario.upkeep.messages_per_connection,
            ping_every_s: scenario.upkeep.ping_every.map(|every| every.as_secs_f64()),
            slow_readers: own.slow_readers,
            warmup_s: scenario.warmup.as_secs_f64(),
            duration_s: scenario.duration.as_secs_f64(),
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
            offered_per_s: load.rate_per_s.map(|_| offered(&tally.counts) as f64 / seconds),
            payload_bytes_per_s: echoes_per_s * load.size_bytes_mean,
            wire_sent_bytes_per_s: measured.wire_sent_bytes as f64 / seconds,
            wire_received_bytes_per_s: measured.wire_received_bytes as f64 / seconds,
            latency_us: LatencyReport::of(tally.latencies.histogram()),
            latency_histogram: encoded(&tally.latencies),
            lag_us: LatencyReport::of(tally.lag.histogram()),
            lag_histogram: encoded(&tally.lag),
            server_cpu: measured.server.as_ref().map(cpu),
            load_cpu: cpu(&measured.load),
        }
    }
}

/// Messages of an open loop that were due in the measured time: at least those that came back and those that did not,
/// even if fewer were counted as due.
fn offered(counts: &Counts) -> u64 {
    use Counter::{Corrupted, Late, Lost, MeasuredDue, MeasuredEchoes, Unsent};
    counts[MeasuredDue].max([MeasuredEchoes, Unsent, Lost, Corrupted, Late].iter().map(|&end| counts[end]).sum())
}

fn encoded(latencies: &Latencies) -> Option<Encoded> {
    (latencies.count() > 0).then(|| Encoded::new(latencies.histogram()))
}

impl LatencyReport {
    /// The percentiles of a histogram in nanoseconds; `None` if it is empty.
    #[must_use]
    pub fn of(histogram: &hdrhistogram::Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Self {
            min: histogram.min() as f64 / 1000.0,
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
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
            shared_softirq_cores: usage.shared_softirqs.as_secs_f64() / seconds,
            throttling: usage.throttling.clone(),
            us_per_echo: (echoes > 0).then(|| total * 1e6 / echoes as f64),
        }
    }
}

impl MemoryReport {
    /// The growth per connection.
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
