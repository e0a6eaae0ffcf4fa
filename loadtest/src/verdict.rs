//! The verdict: what limited the rate: the server, the load generator, the machine that both share, or the requested load.
//!
//! A load generator's limit must not be mistaken for the server's. So the generator is checked first, and the server is the
//! limit only if its processors were full while the generator's were not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::output::report::{Connections, CpuReport, LatencyReport, MeasuredReport, Outcome};
use crate::output::units::{count, counted, percent, time};
use crate::sampling::quota::Throttling;
use crate::scenario::Scenario;
use crate::stats::Counter;

/// A side that has kept this part of what it may use busy has no more to give: the rest goes to ticks and wake-ups.
const FULL: f64 = 0.9;

/// The generator's own lateness must stay below this part of the latencies that it measures.
const MAX_LAG_SHARE: f64 = 0.25;

/// A quota that throttled a side in this part of its periods is its limit: one message in ten had to wait for it, and from
/// p90 on the latencies are the quota's.
const THROTTLED: f64 = 0.1;

/// Less of the rate asked for than this was not offered, if chance does not explain it.
const OFFERED: f64 = 0.98;

/// Standard deviations that chance explains: one run in a thousand has more (a Poisson process of so many messages).
const CHANCE: f64 = 3.0;

/// Without a processor for so long, the generator was stopped, or its machine was: the observer wakes up each 20 ms.
const STALL_MIN: Duration = Duration::from_millis(500);

/// What limited the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// The server's processor time is not known; the generator had time left.
    Unknown,
    /// Both sides had time left: the load asked for was the limit.
    Neither,
    /// The processors were full, but not with one side alone: both share them, or others used them.
    MachineBound,
    /// The server's processors were full, or its CPU quota used up.
    ServerBound,
    /// The generator's processors were full, or its CPU quota used up.
    GeneratorBound,
    /// The server's process ended before the run did.
    ServerEnded,
}

impl Bound {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Neither => "neither (rate-limited or idle)",
            Self::MachineBound => "machine-bound",
            Self::ServerBound => "server-bound",
            Self::GeneratorBound => "generator-bound",
            Self::ServerEnded => "the server ended",
        }
    }
}

/// The verdict with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// What limited the rate.
    pub bound: Bound,
    /// Why it is thought to be so.
    pub reason: String,
    /// What makes the results doubtful.
    pub warnings: Vec<String>,
}

/// What makes results doubtful beside the use of processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// How the server's process ended, if it did before the run.
    pub server_end: Option<String>,
    /// For people.
    pub warnings: Vec<String>,
}

impl Doubts {
    /// About a run.
    #[must_use]
    pub fn of(outcome: &Outcome, connections: &Connections, measured: Option<&MeasuredReport>) -> Self {
        let counts = &outcome.tally.counts;
        let (sent, unsent) = (counts[Counter::Sent], counts[Counter::Unsent]);
        let unsent_share = unsent as f64 / (sent + unsent).max(1) as f64;
        let unsent = (unsent_share >= 0.01)
            .then(|| format!("{} of the messages that were due had not been sent at the end", percent(unsent_share)));
        let stall = (outcome.stall >= STALL_MIN).then(|| {
            let stall = time(outcome.stall.as_secs_f64() * 1e6);
            format!("the generator was stopped for {stall}: it got no processor, or its machine slept")
        });
        let offered =
            measured.and_then(|it| offer_warning(it, asked_per_s(outcome.scenario, it.seconds)?, connections));
        let warnings = [unsent, offered, stall].into_iter().flatten().collect();
        Self { server_end: outcome.server_end.clone(), warnings }
    }
}

/// The rate that was asked for, on average over the measured time; `None` if it depends on how long the run took, or on
/// how many connections were planned to be open.
fn asked_per_s(scenario: &Scenario, seconds: f64) -> Option<f64> {
    let open = scenario.traffic.open.filter(|_| scenario.traffic.limit.is_none())?;
    if scenario.plan.connections.is_some() {
        return None;
    }
    let of_all = scenario.plan.rate.as_ref().map_or(open.rate, |rate| {
        let (from_ns, time_ns) = (scenario.warmup.as_nanos() as f64, seconds * 1e9);
        (rate.area_until(from_ns + time_ns) - rate.area_until(from_ns)) / time_ns
    });
    Some(of_all * scenario.own().active_share)
}

/// Connections that are not open are due nothing: then the load is less than what was asked for.
fn offer_warning(measured: &MeasuredReport, asked_per_s: f64, connections: &Connections) -> Option<String> {
    let offered_per_s = measured.offered_per_s?;
    let expected = asked_per_s * measured.seconds;
    let missing = expected - offered_per_s * measured.seconds;
    if offered_per_s >= OFFERED * asked_per_s || missing <= CHANCE * expected.sqrt() {
        return None;
    }
    let failed = connections.failed_at_first + connections.untried + connections.not_opened;
    let early = connections.closed_early;
    let mut causes = Vec::new();
    if failed > 0 {
        causes.push(format!("{} of {} connections had not been opened", count(failed), count(connections.requested)));
    }
    if early > 0 {
        causes.push(format!("the server closed {}", counted(early, "connection")));
    }
    if connections.recycled > 0 {
        causes.push("a connection that is being opened again is due nothing".to_owned());
    }
    let causes = if causes.is_empty() { String::new() } else { format!(": {}", causes.join(", ")) };
    let (offered, asked) = (count(offered_per_s.round() as u64), count(asked_per_s.round() as u64));
    Some(format!("only {offered}/s of the {asked}/s asked for were offered{causes}"))
}

impl Verdict {
    /// On what was measured.
    #[must_use]
    pub fn on(measured: &MeasuredReport, doubts: Doubts) -> Self {
        let (server, load) = (measured.server_cpu.as_ref(), &measured.load_cpu);
        let (bound, reason) = match doubts.server_end {
            Some(end) => (Bound::ServerEnded, format!("{end}; what came before does not tell a limit")),
            None => judge(server, load),
        };
        let mut warnings = Vec::new();
        if let (Some(latency), Some(lag)) = (&measured.latency_us, &measured.lag_us) {
            warnings.extend(lag_warning(latency, lag));
        }
        if bound == Bound::GeneratorBound {
            let more = "the server may do more than this: give the generator more processors or machines";
            warnings.push(more.to_owned());
        }
        for (name, side) in [("server", server), ("generator", Some(load))] {
            let Some(side) = side else { continue };
            if side.others_cores >= 0.1 {
                let others = side.others_cores;
                warnings.push(format!("other processes used {others:.2} cores of the {name}'s processors"));
            }
            let throttling = side.throttling.as_ref().filter(|it| (f64::MIN_POSITIVE..THROTTLED).contains(&it.share()));
            if let Some(it) = throttling {
                let how = quota(it);
                warnings.push(format!("the {name} was throttled by {how}: it shows in the highest latencies"));
            }
        }
        warnings.extend(doubts.warnings);
        Self { bound, reason, warnings }
    }

    /// On several runs against one server: what limited any of them limited all.
    #[must_use]
    pub fn together(verdicts: &[(String, Self)]) -> Option<Self> {
        let bound = verdicts.iter().map(|(_, verdict)| verdict.bound).max()?;
        let decisive = verdicts.iter().filter(|(_, verdict)| verdict.bound == bound);
        let reasons: Vec<_> = decisive.map(|(name, verdict)| format!("{name}: {}", verdict.reason)).collect();
        let warnings = verdicts
            .iter()
            .flat_map(|(name, verdict)| verdict.warnings.iter().map(move |warning| format!("{name}: {warning}")));
        Some(Self { bound, reason: reasons.join("; "), warnings: warnings.collect() })
    }
}

fn judge(server: Option<&CpuReport>, load: &CpuReport) -> (Bound, String) {
    let load_says = format!("the generator used {}", side(load));
    if let Some(throttling) = throttled(load) {
        let how = quota(throttling);
        let is_shared = server.and_then(throttled).is_some_and(|it| it.group == throttling.group);
        return if is_shared {
            let both = format!("server and generator were throttled by {how}, which they share");
            (Bound::MachineBound, format!("{both}; {}{load_says}", server_says(server)))
        } else {
            (Bound::GeneratorBound, format!("the generator was throttled by {how}; {load_says}"))
        };
    }
    if is_full(load) {
        return (Bound::GeneratorBound, load_says);
    }
    let Some(server) = server else {
        let reason = format!("{load_says}; the server's processor time is not known (--server-pid)");
        return (Bound::Unknown, reason);
    };
    let both = format!("{}{load_says}", server_says(Some(server)));
    if let Some(throttling) = throttled(server) {
        return (Bound::ServerBound, format!("the server was throttled by {}; {both}", quota(throttling)));
    }
    if is_full(server) {
        return (Bound::ServerBound, both);
    }
    let shared = server.cpus.iter().any(|cpu| load.cpus.contains(cpu));
    let all = server.cpus.iter().chain(&load.cpus).collect::<std::collections::BTreeSet<_>>().len();
    let (sides, others) = (server.cores + load.cores, server.others_cores.max(load.others_cores));
    let softirqs = server.shared_softirq_cores.max(load.shared_softirq_cores);
    if shared && sides + softirqs >= others && sides + softirqs + others >= FULL * all as f64 {
        let both =
            if softirqs < 0.05 { both } else { format!("{both}, softirqs in the kernel's own threads {softirqs:.2}") };
        let advice = "on the same processors: keep them apart (--cpus here, taskset or --server-cpus there), or use two \
                      machines";
        return (Bound::MachineBound, format!("{both}, {advice}"));
    }
    // Processors that both share hold the other side's work as well.
    let crowd = if shared { sides + softirqs + others } else { 0.0 };
    let is_crowded =
        |it: &CpuReport| it.others_cores >= 0.1 && crowd.max(it.cores + it.others_cores) >= FULL * it.cpus.len() as f64;
    if is_crowded(server) || is_crowded(load) {
        return (Bound::MachineBound, format!("{both}; other processes used the rest of the processors"));
    }
    (Bound::Neither, both)
}

/// What a side's CPU quota did, if it was its limit.
fn throttled(side: &CpuReport) -> Option<&Throttling> {
    side.throttling.as_ref().filter(|it| it.share() >= THROTTLED)
}

fn quota(it: &Throttling) -> String {
    format!("its CPU quota ({:.2} cores, {}) in {} of the periods", it.quota_cores, it.group, percent(it.share()))
}

fn is_full(side: &CpuReport) -> bool {
    // Nothing can be full of no processors: then nothing is known of the threads.
    let quota = side.throttling.as_ref().map_or(f64::INFINITY, |it| it.quota_cores);
    let is_all_used = side.cores_max > 0 && side.cores >= FULL * (side.cores_max as f64).min(quota);
    is_all_used || side.busiest_thread_cores >= FULL
}

fn server_says(server: Option<&CpuReport>) -> String {
    server.map_or(String::new(), |server| format!("the server used {}, ", side(server)))
}

fn side(it: &CpuReport) -> String {
    let mut text = format!("{:.2} of {}", it.cores, counted(it.cores_max as u64, "core"));
    if let Some(quota) = it.throttling.as_ref().map(|it| it.quota_cores).filter(|&quota| quota < it.cores_max as f64) {
        text = format!("{text} (CPU quota: {quota:.2})");
    }
    if it.busiest_thread_cores >= FULL && it.cores < FULL * it.cores_max as f64 {
        text = format!("{text}, and one thread all of its own");
    }
    text
}

/// The generator's own lateness is part of what it measures. It matters when it is not small beside the result.
fn lag_warning(latency: &LatencyReport, lag: &LatencyReport) -> Option<String> {
    let percentiles = [
        ("p50", latency.p50, lag.p50),
        ("p95", latency.p95, lag.p95),
        ("p99", latency.p99, lag.p99),
        ("p99.9", latency.p99_9, lag.p99_9),
    ];
    let (name, latency, lag) = percentiles.into_iter().find(|(_, latency, lag)| *lag > MAX_LAG_SHARE * latency)?;
    let (late, share) = (time(lag), percent(lag / latency));
    let late = format!("the generator itself was late by {late} at {name}: {share} of what it measured there");
    Some(format!("{late}; from there on, the latencies are its own as well as the server's"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::report::tests::report;

    fn cpu(cores: f64, busiest_thread_cores: f64, cpus: &[usize]) -> CpuReport {
        CpuReport {
            user_s: 0.0,
            system_s: cores,
            cores,
            cores_max: cpus.len(),
            busiest_thread_cores,
            cpus: cpus.to_vec(),
            others_cores: 0.0,
            shared_softirq_cores: 0.0,
            throttling: None,
            us_per_echo: None,
        }
    }

    fn bound(server: Option<&CpuReport>, load: &CpuReport) -> Bound {
        judge(server, load).0
    }

    #[test]
    fn who_is_full_is_the_limit_and_the_generator_comes_first() {
        let (idle, full) = (cpu(0.3, 0.3, &[1]), cpu(0.97, 0.97, &[1]));
        let (idle_server, full_server) = (cpu(0.3, 0.3, &[0]), cpu(0.95, 0.95, &[0]));
        assert_eq!(bound(Some(&full_server), &idle), Bound::ServerBound);
        assert_eq!(bound(Some(&idle_server), &full), Bound::GeneratorBound);
        assert_eq!(bound(Some(&full_server), &full), Bound::GeneratorBound);
        assert_eq!(bound(Some(&idle_server), &idle), Bound::Neither);
        assert_eq!(bound(None, &idle), Bound::Unknown);
        assert_eq!(bound(None, &full), Bound::GeneratorBound);
    }

    #[test]
    fn softirqs_in_threads_of_the_kernel_fill_shared_processors() {
        let of = |cores| CpuReport { shared_softirq_cores: 0.33, ..cpu(cores, cores / 2.0, &[0, 1]) };
        let (bound, reason) = judge(Some(&of(0.83)), &of(0.84));
        assert_eq!(bound, Bound::MachineBound, "{reason}");
        assert!(reason.contains("softirqs in the kernel's own threads 0.33"), "{reason}");
        assert_eq!(self::bound(Some(&of(0.3)), &of(0.3)), Bound::Neither);
    }

    #[test]
    fn one_full_thread_limits_a_server_that_has_more_processors() {
        let server = cpu(1.1, 0.98, &[0, 2, 3]);
        let (bound, reason) = judge(Some(&server), &cpu(0.5, 0.5, &[1]));
        assert_eq!(bound, Bound::ServerBound);
        assert!(reason.contains("one thread"), "{reason}");
    }

    #[test]
    fn shared_or_crowded_processors_are_the_machines_limit() {
        let (server, load) = (cpu(1.1, 0.6, &[0, 1]), cpu(0.8, 0.4, &[0, 1]));
        let (bound_by, reason) = judge(Some(&server), &load);
        assert_eq!(bound_by, Bound::MachineBound);
        // Only a server of the run's own takes --server-cpus.
        assert!(reason.contains("taskset or --server-cpus"), "{reason}");
        let crowded = CpuReport { others_cores: 0.4, ..cpu(0.58, 0.58, &[0]) };
        assert_eq!(bound(Some(&crowded), &cpu(0.5, 0.5, &[1])), Bound::MachineBound);
    }

    fn quota(cores: f64, periods_throttled: u64, group: &str) -> Throttling {
        let group = group.to_owned();
        Throttling { group, quota_cores: cores, periods: 100, periods_throttled, throttled_s: 1.0 }
    }

    /// A side that has to wait for its quota has no time left, however idle its processors are.
    #[test]
    fn a_throttled_side_is_the_limit() {
        let idle = cpu(0.1, 0.1, &[0, 1]);
        let throttled = |group| CpuReport { throttling: Some(quota(0.1, 98, group)), ..idle.clone() };
        let (bound, reason) = judge(Some(&idle), &throttled("/a"));
        assert_eq!(bound, Bound::GeneratorBound);
        assert!(reason.contains("throttled by its CPU quota (0.10 cores, /a) in 98 % of the periods"), "{reason}");
        assert_eq!(judge(None, &throttled("/a")).0, Bound::GeneratorBound);
        let (bound, reason) = judge(Some(&throttled("/b")), &idle);
        assert_eq!(bound, Bound::ServerBound);
        assert!(reason.starts_with("the server was throttled by its CPU quota"), "{reason}");
        assert_eq!(judge(Some(&throttled("/a")), &throttled("/a")).0, Bound::MachineBound);
        let lavish = CpuReport { throttling: Some(quota(1.5, 0, "/a")), ..idle.clone() };
        assert_eq!(judge(Some(&idle), &lavish).0, Bound::Neither);
        let used_up = CpuReport { throttling: Some(quota(0.11, 0, "/a")), ..idle.clone() };
        assert_eq!(judge(Some(&idle), &used_up).0, Bound::GeneratorBound);
    }

    #[test]
    fn a_side_of_no_known_processors_is_not_full_of_them() {
        assert_eq!(bound(Some(&cpu(0.64, 0.01, &[])), &cpu(0.2, 0.2, &[0])), Bound::Neither);
    }

    fn measured(offered_per_s: f64) -> MeasuredReport {
        MeasuredReport { seconds: 2.0, offered_per_s: Some(offered_per_s), ..report().measured.unwrap() }
    }

    #[test]
    fn what_was_not_offered_is_told_with_its_cause() {
        let mut connections = Connections { requested: 20, ready: 10, failed_at_first: 10, ..report().connections };
        let warning = offer_warning(&measured(100.0), 200.0, &connections).unwrap();
        let expected = "only 100/s of the 200/s asked for were offered: 10 of 20 connections had not been opened";
        assert_eq!(warning, expected);
        connections.failed_at_first = 0;
        assert!(offer_warning(&measured(100.0), 200.0, &connections).unwrap().ends_with("offered"));
        // What chance makes of 400 messages.
        assert_eq!(offer_warning(&measured(185.0), 200.0, &connections), None);
    }

    #[test]
    fn a_server_that_has_ended_has_no_limit() {
        let doubts = Doubts { server_end: Some("the server was killed by signal 9".to_owned()), ..Doubts::default() };
        let verdict = Verdict::on(&measured(1.0), doubts);
        assert_eq!(verdict.bound, Bound::ServerEnded);
        assert!(verdict.reason.contains("signal 9"), "{verdict:?}");
    }

    #[test]
    fn some_throttling_is_a_warning() {
        let mut measured = measured(1.0);
        measured.load_cpu.throttling = Some(quota(1.0, 5, "/a"));
        let verdict = Verdict::on(&measured, Doubts::default());
        assert!(verdict.warnings.iter().any(|it| it.contains("throttled by its CPU quota")), "{verdict:?}");
        assert_ne!(verdict.bound, Bound::GeneratorBound);
    }

    #[test]
    fn lateness_matters_beside_what_is_measured() {
        let at = |us| LatencyReport { p50: us, p99: us * 2.0, p99_9: us * 3.0, ..LatencyReport::default() };
        assert_eq!(lag_warning(&at(100.0), &at(10.0)), None);
        assert!(lag_warning(&at(100.0), &at(60.0)).unwrap().contains("p50"));
    }

    #[test]
    fn one_limited_run_limits_the_sum() {
        let verdict = |bound| Verdict { bound, reason: format!("{bound:?}"), warnings: vec!["w".to_owned()] };
        let runs = [("a".to_owned(), verdict(Bound::Neither)), ("b".to_owned(), verdict(Bound::GeneratorBound))];
        let together = Verdict::together(&runs).unwrap();
        assert_eq!(together.bound, Bound::GeneratorBound);
        assert_eq!(together.reason, "b: GeneratorBound");
        assert_eq!(together.warnings, ["a: w", "b: w"]);
        assert_eq!(Verdict::together(&[]), None);
    }
}
