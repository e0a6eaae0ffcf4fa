//! Merging of several runs: histograms are added, never averaged; counters are summed; seconds are aligned by the clock.
//!
//! The parts of one run by several members are aligned by the conductor's clock.
//!
//! Runs on several machines against one server are told apart by the machines' boot ids. A process or kernel that
//! several runs have sampled counts once.

mod groups;

use std::collections::{BTreeMap, BTreeSet};

pub use self::groups::{Group, Groups};

use super::report::{
    Connections, CpuReport, EarlyEnd, Failure, LatencyReport, MeasuredReport, Meeting, MemoryAt, MemoryMarks,
    MemoryReport, MessageCounts, Report, RunReport, Violation,
};
use crate::control::Phase;
use crate::sampling::{KernelMemory, Memory};
use crate::series::{Encoded, ProcessSample, Sample, SampleLatency};
use crate::verdict::Verdict;

/// A part that measured for less than this share of the time counts as incomplete: its process was stopped, or its
/// connections ended. Complete parts differ only by the milliseconds that sampling takes.
const ALL_THE_TIME: f64 = 0.9;

/// Merges runs that can be one result ([`Groups`]); `None` if there are none.
#[must_use]
pub fn merge(reports: &[Report]) -> Option<Report> {
    let [first, rest @ ..] = reports else { return None };
    if rest.is_empty() {
        return Some(first.clone());
    }
    let seen = Seen::of(reports);
    let verdicts: Vec<_> =
        reports.iter().zip(names(reports)).filter_map(|(it, name)| Some((name, it.verdict.clone()?))).collect();
    let (ping_us, ping_histogram) = latencies(reports.iter().filter_map(|it| it.ping_histogram.as_ref()));
    let mut verdict = Verdict::together(&verdicts);
    if let Some(verdict) = &mut verdict {
        verdict.warnings.splice(0..0, groups::overlap_warning(reports));
    }
    Some(Report {
        version: first.version,
        ringload: first.ringload.clone(),
        ok: reports.iter().all(|report| report.ok),
        interrupted: reports.iter().any(|report| report.interrupted),
        runs: reports.iter().flat_map(|report| report.runs.clone()).collect(),
        meeting: Meeting::of(reports),
        connections: connections(reports),
        messages: messages(reports),
        ping_us,
        ping_histogram,
        measured: measured(reports, &seen),
        verdict,
        memory: memory(reports, &seen),
        series: series(reports, &seen),
    })
}

/// The host names, with the run's number if a host has several runs. Members are named by their numbers.
fn names(reports: &[Report]) -> Vec<String> {
    if Meeting::of(reports).is_some() {
        let places = reports.iter().filter_map(Report::place);
        return places.map(|place| format!("member {}", place.member)).collect();
    }
    let host = |report: &Report| report.runs.first().map(|run| run.machine.hostname.clone()).unwrap_or_default();
    let hosts: Vec<_> = reports.iter().map(host).collect();
    let name = |(index, host): (usize, &String)| {
        let is_alone = hosts.iter().filter(|other| *other == host).count() == 1;
        if is_alone { host.clone() } else { format!("{host} (run {})", index + 1) }
    };
    hosts.iter().enumerate().map(name).collect()
}

/// When the report's first run began, which is the start of its series.
fn started(report: &Report) -> f64 {
    report.runs.iter().map(|run| run.started_unix_s).fold(f64::INFINITY, f64::min).min(f64::MAX)
}

/// For each report, whether it is the first with its server and the first with its machine.
struct Seen {
    server: Vec<bool>,
    machine: Vec<bool>,
}

impl Seen {
    fn of(reports: &[Report]) -> Self {
        let (mut servers, mut machines) = (BTreeSet::new(), BTreeSet::new());
        let mut is_new = |run: &RunReport| {
            let machine = &run.machine.boot_id;
            let server = run.server_pid.is_some_and(|pid| servers.insert((machine.clone(), pid)));
            (server, machines.insert(machine.clone()))
        };
        let (server, machine) = reports.iter().map(|it| it.runs.first().map_or((true, true), &mut is_new)).unzip();
        Self { server, machine }
    }

    /// The values of the reports that are the first with their server.
    fn servers<'a, T>(&self, reports: &'a [Report], value: impl Fn(&'a Report) -> Option<T>) -> Vec<T> {
        reports.iter().zip(&self.server).filter(|(_, new)| **new).filter_map(|(report, _)| value(report)).collect()
    }
}

fn sum<T>(items: &[T], value: impl Fn(&T) -> u64) -> u64 {
    items.iter().map(value).sum()
}

/// The load's processor time per connection: of all members together, if each has said its own.
fn load_cpu_us(all: &[&Connections]) -> Option<f64> {
    let used = |it: &&Connections| Some(it.load_cpu_us_per_connection? * it.ready as f64);
    let used: f64 = all.iter().map(used).sum::<Option<f64>>()?;
    let ready = sum(all, |it| it.ready);
    (ready > 0).then(|| used / ready as f64)
}

fn connections(reports: &[Report]) -> Connections {
    let mut violations: BTreeMap<String, Violation> = BTreeMap::new();
    let mut early_ends: BTreeMap<(String, Option<String>), EarlyEnd> = BTreeMap::new();
    for report in reports {
        for it in &report.connections.violations {
            let violation = violations.entry(it.what.clone()).or_insert_with(|| Violation { count: 0, ..it.clone() });
            violation.count += it.count;
        }
        for it in &report.connections.early_ends {
            let key = (it.how.clone(), it.reason.clone());
            early_ends.entry(key).or_insert_with(|| EarlyEnd { count: 0, ..it.clone() }).count += it.count;
        }
    }
    let all: Vec<_> = reports.iter().map(|report| &report.connections).collect();
    let (latency_us, latency_histogram) = latencies(all.iter().filter_map(|it| it.latency_histogram.as_ref()));
    // The parts of one run start together, so the longest time counts.
    let is_one_run = Meeting::of(reports).is_some();
    let connect_s = all.iter().map(|it| it.connect_s).fold(0.0, f64::max);
    let share = |it: &Connections| if is_one_run && connect_s > 0.0 { it.connect_s / connect_s } else { 1.0 };
    Connections {
        requested: sum(&all, |it| it.requested),
        ready: sum(&all, |it| it.ready),
        failed_at_first: sum(&all, |it| it.failed_at_first),
        untried: sum(&all, |it| it.untried),
        not_opened: sum(&all, |it| it.not_opened),
        attempted: sum(&all, |it| it.attempted),
        opened: sum(&all, |it| it.opened),
        deflating: sum(&all, |it| it.deflating),
        failed: sum(&all, |it| it.failed),
        failures: failures(reports, |it| &it.failures),
        detours: failures(reports, |it| &it.detours),
        early_ends: early_ends.into_values().collect(),
        closed_early: sum(&all, |it| it.closed_early),
        violations: violations.into_values().collect(),
        connect_s,
        opened_per_s: all.iter().map(|it| it.opened_per_s * share(it)).sum(),
        // Each of several generators has sampled the server's work for all of them.
        server_cpu_us_per_connection: if let [only] = all.as_slice() {
            only.server_cpu_us_per_connection
        } else {
            None
        },
        load_cpu_us_per_connection: load_cpu_us(&all),
        closes_sent: sum(&all, |it| it.closes_sent),
        closes_answered: sum(&all, |it| it.closes_answered),
        close_timeouts: sum(&all, |it| it.close_timeouts),
        lingered: sum(&all, |it| it.lingered),
        no_close_notify: sum(&all, |it| it.no_close_notify),
        retired: sum(&all, |it| it.retired),
        recycled: sum(&all, |it| it.recycled),
        slow_ended: sum(&all, |it| it.slow_ended),
        latency_us,
        latency_histogram,
    }
}

/// Adds up failures with the same cause at the same address.
fn failures(reports: &[Report], of: fn(&Connections) -> &Vec<Failure>) -> Vec<Failure> {
    let mut sum: BTreeMap<(String, String), Failure> = BTreeMap::new();
    for it in reports.iter().flat_map(|report| of(&report.connections)) {
        let key = (it.cause.clone(), it.address.clone());
        sum.entry(key).or_insert_with(|| Failure { count: 0, ..it.clone() }).count += it.count;
    }
    sum.into_values().collect()
}

fn messages(reports: &[Report]) -> MessageCounts {
    let all: Vec<_> = reports.iter().map(|report| &report.messages).collect();
    MessageCounts {
        sent: sum(&all, |it| it.sent),
        echoed: sum(&all, |it| it.echoed),
        lost: sum(&all, |it| it.lost),
        reordered: sum(&all, |it| it.reordered),
        corrupted: sum(&all, |it| it.corrupted),
        late: sum(&all, |it| it.late),
        duplicated: sum(&all, |it| it.duplicated),
        unexpected: sum(&all, |it| it.unexpected),
        unawaited: sum(&all, |it| it.unawaited),
        pushed: sum(&all, |it| it.pushed),
        welcomes: sum(&all, |it| it.welcomes),
        unsent: sum(&all, |it| it.unsent),
        pings_answered: sum(&all, |it| it.pings_answered),
        pings_sent: sum(&all, |it| it.pings_sent),
        pings_unanswered: sum(&all, |it| it.pings_unanswered),
        pongs: sum(&all, |it| it.pongs),
        pongs_unasked: sum(&all, |it| it.pongs_unasked),
        slow_sent: sum(&all, |it| it.slow_sent),
        compressed_sent: sum(&all, |it| it.compressed_sent),
        compressed_received: sum(&all, |it| it.compressed_received),
        wire_sent: sum(&all, |it| it.wire_sent),
        wire_received: sum(&all, |it| it.wire_received),
    }
}

/// The measured time of all parts.
struct Window {
    seconds: f64,
    /// Parts that measured for at least this time are complete.
    whole_s: f64,
}

impl Window {
    fn of(reports: &[Report], all: &[&MeasuredReport]) -> Self {
        let runs = || reports.iter().flat_map(|report| &report.runs);
        let longest_s = all.iter().map(|it| it.seconds).fold(0.0, f64::max);
        if Meeting::of(reports).is_none() {
            return Self { seconds: longest_s, whole_s: 0.0 };
        }
        // The parts of one run start together. If they end when all messages are sent, the longest time counts.
        if runs().any(|run| run.scenario.messages.is_some()) {
            return Self { seconds: longest_s, whole_s: f64::INFINITY };
        }
        // Otherwise they also end together and differ only by when each thread sampled its counters. A part that got no
        // processor for that must not prolong the time.
        let planned_s = runs().map(|run| run.scenario.duration_s).fold(0.0, f64::max);
        let whole_s = ALL_THE_TIME * longest_s.min(planned_s);
        let whole: Vec<_> = all.iter().map(|it| it.seconds).filter(|&seconds| seconds >= whole_s).collect();
        Self { seconds: whole.iter().sum::<f64>() / whole.len() as f64, whole_s }
    }

    /// The share of the time that this part measured.
    fn share(&self, part: &MeasuredReport) -> f64 {
        if part.seconds >= self.whole_s { 1.0 } else { part.seconds / self.seconds }
    }
}

fn measured(reports: &[Report], seen: &Seen) -> Option<MeasuredReport> {
    let all: Vec<_> = reports.iter().filter_map(|report| report.measured.as_ref()).collect();
    if all.is_empty() {
        return None;
    }
    let echoes = sum(&all, |it| it.echoes);
    let window = Window::of(reports, &all);
    let together = |rate: fn(&MeasuredReport) -> f64| all.iter().map(|it| rate(it) * window.share(it)).sum::<f64>();
    let (latency_us, latency_histogram) = latencies(all.iter().filter_map(|it| it.latency_histogram.as_ref()));
    let (lag_us, lag_histogram) = latencies(all.iter().filter_map(|it| it.lag_histogram.as_ref()));
    let servers = seen.servers(reports, |report| report.measured.as_ref()?.server_cpu.as_ref());
    let loads: Vec<_> = all.iter().map(|it| &it.load_cpu).collect();
    let load_cpu = CpuReport { cores_max: load_cores(reports), ..cpu(&loads, echoes)? };
    Some(MeasuredReport {
        seconds: window.seconds,
        echoes,
        echoes_per_s: together(|it| it.echoes_per_s),
        offered_per_s: all.iter().filter_map(|it| it.offered_per_s).reduce(|sum, other| sum + other),
        payload_bytes_per_s: together(|it| it.payload_bytes_per_s),
        wire_sent_bytes_per_s: together(|it| it.wire_sent_bytes_per_s),
        wire_received_bytes_per_s: together(|it| it.wire_received_bytes_per_s),
        latency_us,
        latency_histogram,
        lag_us,
        lag_histogram,
        server_cpu: cpu(&servers, echoes),
        load_cpu,
    })
}

fn latencies<'a>(histograms: impl Iterator<Item = &'a Encoded>) -> (Option<LatencyReport>, Option<Encoded>) {
    let sum = histograms.cloned().reduce(|sum, other| sum.plus(&other));
    (sum.as_ref().and_then(Encoded::decode).and_then(|all| LatencyReport::of(&all)), sum)
}

fn cpu(all: &[&CpuReport], echoes: u64) -> Option<CpuReport> {
    let total = |value: fn(&CpuReport) -> f64| all.iter().map(|it| value(it)).sum::<f64>();
    let used_s = total(|it| it.user_s + it.system_s);
    (!all.is_empty()).then(|| CpuReport {
        user_s: total(|it| it.user_s),
        system_s: total(|it| it.system_s),
        cores: total(|it| it.cores),
        cores_max: all.iter().map(|it| it.cores_max).sum(),
        busiest_thread_cores: all.iter().map(|it| it.busiest_thread_cores).fold(0.0, f64::max),
        // Processor numbers of several machines must not be mixed.
        cpus: if let [one] = all { one.cpus.clone() } else { Vec::new() },
        others_cores: total(|it| it.others_cores),
        shared_softirq_cores: total(|it| it.shared_softirq_cores),
        throttling: all.iter().filter_map(|it| it.throttling.clone()).max_by(|a, b| a.share().total_cmp(&b.share())),
        us_per_echo: (echoes > 0).then(|| used_s * 1e6 / echoes as f64),
    })
}

/// Processors that all generators can keep busy; shared ones count once.
fn load_cores(reports: &[Report]) -> usize {
    let mut machines: BTreeMap<&str, (usize, BTreeSet<usize>)> = BTreeMap::new();
    for (run, measured) in reports.iter().filter_map(|it| Some((it.runs.first()?, it.measured.as_ref()?))) {
        let (cores, cpus) = machines.entry(&run.machine.boot_id).or_default();
        *cores += measured.load_cpu.cores_max;
        cpus.extend(&measured.load_cpu.cpus);
    }
    // Merged results do not name their processors.
    machines.into_values().map(|(cores, cpus)| if cpus.is_empty() { cores } else { cores.min(cpus.len()) }).sum()
}

fn memory(reports: &[Report], seen: &Seen) -> MemoryReport {
    let at = |moment: fn(&MemoryReport) -> MemoryAt| {
        let servers = seen.servers(reports, |report| moment(&report.memory).server);
        let kernels =
            reports.iter().zip(&seen.machine).filter(|(_, new)| **new).map(|(it, _)| moment(&it.memory).kernel);
        MemoryAt {
            server: servers.into_iter().reduce(|sum: Memory, other| sum + other),
            load: reports.iter().map(|it| moment(&it.memory).load).fold(Memory::default(), |sum, other| sum + other),
            kernel: kernels.fold(KernelMemory::default(), add_kernel),
        }
    };
    MemoryReport::of(&MemoryMarks {
        before: at(|it| it.before),
        idle: at(|it| it.idle),
        at_end: at(|it| it.at_end),
        open_when_idle: reports.iter().map(|it| it.memory.open_when_idle).sum(),
    })
}

fn add_kernel(sum: KernelMemory, other: KernelMemory) -> KernelMemory {
    KernelMemory {
        slab_bytes: sum.slab_bytes + other.slab_bytes,
        available_bytes: sum.available_bytes + other.available_bytes,
        tcp_sockets: sum.tcp_sockets + other.tcp_sockets,
        tcp_queue_bytes: sum.tcp_queue_bytes + other.tcp_queue_bytes,
    }
}

/// Samples that end nearest to the same second are merged. Separate runs are aligned by their machines' wall clocks,
/// the parts of one run by the conductor's clock from the start of the phase.
fn series(reports: &[Report], seen: &Seen) -> Vec<Sample> {
    let is_one_run = Meeting::of(reports).is_some();
    let began = |report: &Report| match report.place() {
        Some(place) if is_one_run => place.began_s,
        _ => started(report),
    };
    let zero = reports.iter().map(began).fold(f64::INFINITY, f64::min);
    let places = || reports.iter().filter_map(Report::place).filter(|_| is_one_run);
    let phase_began = |phase: Phase| {
        let starts = places().flat_map(|place| &place.starts).filter(|start| start.phase == phase);
        starts.map(|start| start.at_s).reduce(f64::min).unwrap_or(zero)
    };
    let mut seconds: BTreeMap<(u8, i64), Vec<Sample>> = BTreeMap::new();
    for (index, report) in reports.iter().enumerate() {
        let offset = began(report) - zero;
        let mut last = None;
        for sample in &report.series {
            let mut sample = Sample { time_s: sample.time_s + offset, ..sample.clone() };
            sample.server = sample.server.filter(|_| seen.server[index]);
            if !seen.machine[index] {
                sample.kernel = KernelMemory::default();
            }
            let (phase, since) =
                if is_one_run { (sample.phase as u8, phase_began(sample.phase) - zero) } else { (0, 0.0) };
            let mut second = (phase, (sample.time_s - since).round() as i64);
            // Two samples of one run that end nearest to the same second stay separate.
            if let Some(last) = last.filter(|&last| second <= last) {
                second = (last.0, last.1 + 1);
            }
            last = Some(second);
            seconds.entry(second).or_default().push(sample);
        }
    }
    seconds.into_values().filter_map(|samples| samples.into_iter().reduce(|sum, other| beside(&sum, &other))).collect()
}

/// Adds the samples of two machines in the same second.
#[must_use]
pub(crate) fn beside(sum: &Sample, other: &Sample) -> Sample {
    let both = |a: Option<ProcessSample>, b: Option<ProcessSample>| match (a, b) {
        (Some(a), Some(b)) => Some(processes(a, b)),
        (a, b) => a.or(b),
    };
    let latency_histogram = match (&sum.latency_histogram, &other.latency_histogram) {
        (Some(a), Some(b)) => Some(a.plus(b)),
        (a, b) => a.as_ref().or(b.as_ref()).cloned(),
    };
    Sample {
        time_s: sum.time_s.max(other.time_s),
        interval_s: sum.interval_s.max(other.interval_s),
        phase: sum.phase.min(other.phase),
        connections_open: sum.connections_open + other.connections_open,
        connections_per_s: sum.connections_per_s + other.connections_per_s,
        errors: sum.errors + other.errors,
        echoes_per_s: sum.echoes_per_s + other.echoes_per_s,
        payload_bytes_per_s: sum.payload_bytes_per_s + other.payload_bytes_per_s,
        wire_sent_bytes_per_s: sum.wire_sent_bytes_per_s + other.wire_sent_bytes_per_s,
        wire_received_bytes_per_s: sum.wire_received_bytes_per_s + other.wire_received_bytes_per_s,
        latency_us: latency_histogram.as_ref().and_then(Encoded::decode).and_then(|all| SampleLatency::of(&all)),
        latency_histogram,
        server: both(sum.server, other.server),
        load: processes(sum.load, other.load),
        kernel: add_kernel(sum.kernel, other.kernel),
    }
}

fn processes(a: ProcessSample, b: ProcessSample) -> ProcessSample {
    ProcessSample {
        cpu_user_cores: a.cpu_user_cores + b.cpu_user_cores,
        cpu_system_cores: a.cpu_system_cores + b.cpu_system_cores,
        rss_bytes: a.rss_bytes + b.rss_bytes,
        pss_bytes: a.pss_bytes.zip(b.pss_bytes).map(|(a, b)| a + b),
        processes: a.processes + b.processes,
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::super::report::{PhaseStart, Place, Skew};
    use super::*;

    fn of_machine(boot_id: &str, server_pid: Option<u32>, started_unix_s: f64) -> Report {
        let mut report = report();
        let run = &mut report.runs[0];
        run.machine.boot_id = boot_id.to_owned();
        (run.server_pid, run.started_unix_s) = (server_pid, started_unix_s);
        report
    }

    #[test]
    fn counters_are_summed_and_histograms_added() {
        let mut slow = of_machine("b", None, 1000.0);
        let mut histogram = crate::stats::Latencies::default();
        (0..2000).for_each(|_| histogram.record(9_000_000));
        slow.measured.as_mut().unwrap().latency_histogram = Some(Encoded::new(histogram.histogram()));
        let merged = merge(&[of_machine("a", Some(7), 1000.0), slow]).unwrap();
        let measured = merged.measured.unwrap();
        assert_eq!((merged.connections.opened, measured.echoes, merged.runs.len()), (200, 2000, 2));
        // Of 3000 echoes 2000 took 9 ms; an average of both medians would be half of that.
        let latency = measured.latency_us.unwrap();
        assert!((8990.0..9010.0).contains(&latency.p50), "{latency:?}");
        assert_eq!(measured.latency_histogram.unwrap().decode().unwrap().len(), 3000);
        assert!((measured.echoes_per_s - 2000.0).abs() < 1e-6);
        assert_eq!(measured.load_cpu.cores_max, 2);
    }

    #[test]
    fn a_server_seen_twice_counts_once() {
        let same = [of_machine("a", Some(7), 1000.0), of_machine("a", Some(7), 1000.0)];
        let merged = merge(&same).unwrap();
        let one = &same[0];
        assert_eq!(merged.memory.idle.server, one.memory.idle.server);
        assert_eq!(merged.measured.unwrap().server_cpu.unwrap().cores_max, 1);
        assert_eq!(merged.series[0].server, one.series[0].server);
        let two = merge(&[of_machine("a", Some(7), 1000.0), of_machine("b", Some(7), 1000.0)]).unwrap();
        assert_eq!(two.memory.idle.server.unwrap().rss_bytes, 2 * one.memory.idle.server.unwrap().rss_bytes);
    }

    #[test]
    fn seconds_are_laid_over_each_other_by_the_clock() {
        let merged = merge(&[of_machine("a", None, 1000.0), of_machine("b", None, 1001.2)]).unwrap();
        let rates: Vec<_> = merged.series.iter().map(|sample| sample.echoes_per_s as u64).collect();
        assert_eq!(rates, [1000, 900 + 1000, 900]);
        let both = merged.series[1].latency_histogram.as_ref().unwrap().decode().unwrap();
        assert_eq!(both.len(), 1900);
    }

    /// The part of a member whose series began at `began_s` by the conductor's clock, with this lateness.
    fn part(member: u32, began_s: f64, late_us: f64, clock_bound_us: f64) -> Report {
        let mut part = of_machine(&member.to_string(), None, 5000.0 * f64::from(member));
        let start = PhaseStart { phase: Phase::Measure, at_s: began_s + 0.45, late_us, clock_bound_us };
        let starts = vec![start];
        part.runs[0].place = Some(Place { meeting: "m".to_owned(), member, members: 2, began_s, starts });
        part
    }

    #[test]
    fn parts_of_one_run_are_laid_over_each_other_by_the_conductors_clock() {
        // The wall clocks are hours apart. The samples end 1 ms before and after half a second from the start of the
        // phase.
        let mut parts = [part(0, 50.0, 10.0, 5.0), part(1, 50.0, 60.0, 20.0)];
        for (part, shift_s) in parts.iter_mut().zip([-0.051, -0.049]) {
            part.series.iter_mut().for_each(|sample| sample.time_s += 0.45 + 0.5 + shift_s);
        }
        let merged = merge(&parts).unwrap();
        let rates: Vec<_> = merged.series.iter().map(|sample| sample.echoes_per_s as u64).collect();
        assert_eq!(rates, [2000, 1800]);
        let meeting = merged.meeting.unwrap();
        let skew = Skew { phase: Phase::Measure, us: 50.0, bound_us: 75.0 };
        assert_eq!((meeting.members, meeting.skews), (2, vec![skew]));
    }

    #[test]
    fn a_member_that_is_done_early_was_not_faster_for_all_that() {
        let mut early = part(0, 50.0, 0.0, 0.0);
        let measured = early.measured.as_mut().unwrap();
        (measured.seconds, measured.echoes_per_s) = (0.5, 2000.0);
        early.runs[0].scenario.messages = Some(1000);
        let merged = merge(&[early, part(1, 50.0, 0.0, 0.0)]).unwrap().measured.unwrap();
        assert_eq!((merged.seconds, merged.echoes), (1.0, 2000));
        assert!((merged.echoes_per_s - 2000.0).abs() < 1e-6, "{}", merged.echoes_per_s);
    }

    #[test]
    fn a_member_that_was_not_there_all_the_time_makes_the_run_no_shorter() {
        let measured_for = |member, seconds| {
            let mut part = part(member, 50.0, 0.0, 0.0);
            part.runs[0].scenario.duration_s = 1.0;
            let measured = part.measured.as_mut().unwrap();
            (measured.seconds, measured.echoes_per_s) = (seconds, 1000.0 / seconds);
            part
        };
        // The second part was stopped while the others measured, or lost its connections.
        let merged = merge(&[measured_for(0, 1.0), measured_for(1, 0.25), measured_for(2, 1.002)]).unwrap();
        let measured = merged.measured.unwrap();
        assert!((measured.seconds - 1.001).abs() < 1e-9 && measured.echoes == 3000, "{measured:?}");
        assert!((measured.echoes_per_s - 3000.0).abs() < 5.0, "{}", measured.echoes_per_s);
        // The second part got no processor to sample its counters in time.
        let merged = merge(&[measured_for(0, 1.0), measured_for(1, 2.0), measured_for(2, 1.0)]).unwrap();
        let measured = merged.measured.unwrap();
        assert!((measured.echoes_per_s - 2500.0).abs() < 1e-6, "{measured:?}");
    }

    #[test]
    fn a_member_that_has_connected_early_was_not_faster_for_all_that() {
        let connected_in = |member, connect_s| {
            let mut part = part(member, 50.0, 0.0, 0.0);
            let connections = &mut part.connections;
            (connections.connect_s, connections.opened_per_s) = (connect_s, 100.0 / connect_s);
            part
        };
        let merged = merge(&[connected_in(0, 0.1), connected_in(1, 0.4)]).unwrap().connections;
        assert!((merged.opened_per_s - 200.0 / 0.4).abs() < 1e-6, "{}", merged.opened_per_s);
    }

    #[test]
    fn processors_that_generators_have_in_common_count_once() {
        let on = |boot_id: &str, cores_max, cpus: &[usize]| {
            let mut report = of_machine(boot_id, None, 1000.0);
            let load = &mut report.measured.as_mut().unwrap().load_cpu;
            (load.cores_max, load.cpus) = (cores_max, cpus.to_vec());
            report
        };
        let cores_max = |reports: &[Report]| merge(reports).unwrap().measured.unwrap().load_cpu.cores_max;
        assert_eq!(cores_max(&[on("a", 2, &[0, 1]), on("a", 2, &[0, 1]), on("b", 2, &[0, 1])]), 4);
        assert_eq!(cores_max(&[on("a", 2, &[0, 1]), on("a", 2, &[2, 3])]), 4);
        assert_eq!(cores_max(&[on("a", 1, &[0, 1]), on("a", 1, &[0, 1])]), 2);
    }

    #[test]
    fn two_runs_of_one_host_have_names_of_their_own() {
        let mut other = of_machine("b", None, 1000.0);
        other.runs[0].machine.hostname = "elsewhere".to_owned();
        let host = report().runs[0].machine.hostname.clone();
        let names = names(&[of_machine("a", None, 1000.0), other, of_machine("a", None, 1000.0)]);
        assert_eq!(names, [format!("{host} (run 1)"), "elsewhere".to_owned(), format!("{host} (run 3)")]);
    }

    #[test]
    fn one_run_stays_as_it_is() {
        assert_eq!(merge(&[report()]), Some(report()));
        assert_eq!(merge(&[]), None);
    }
}
