//! What limited the rate: the server, the load generator, the machine that both share, or nothing but the load asked for.
//!
//! A load generator's limit must never be taken for the server's. So the generator is looked at first, and a server is
//! said to be the limit only if its processors were full while the generator's were not.

use serde::{Deserialize, Serialize};

use crate::output::report::{CpuReport, LatencyReport, MeasuredReport};

/// A side that has kept this part of what it may use busy has no more to give: the rest goes to ticks and wake-ups.
const FULL: f64 = 0.9;

/// The generator's own lateness must stay below this part of the latencies that it measures.
const MAX_LAG_SHARE: f64 = 0.25;

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
    /// The server's processors were full.
    ServerBound,
    /// The generator's processors were full.
    GeneratorBound,
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

impl Verdict {
    /// On what was measured.
    #[must_use]
    pub fn on(measured: &MeasuredReport) -> Self {
        let (bound, reason) = judge(measured.server_cpu.as_ref(), &measured.load_cpu);
        let mut warnings = Vec::new();
        if let (Some(latency), Some(lag)) = (&measured.latency_us, &measured.lag_us) {
            warnings.extend(lag_warning(latency, lag));
        }
        if bound == Bound::GeneratorBound {
            let more = "the server may do more than this: give the generator more processors or machines";
            warnings.push(more.to_owned());
        }
        for (name, side) in [("server", measured.server_cpu.as_ref()), ("generator", Some(&measured.load_cpu))] {
            if let Some(others) = side.map(|side| side.others_cores).filter(|&others| others >= 0.1) {
                let where_ = format!("used {others:.2} cores of the {name}'s processors");
                warnings.push(format!("other processes {where_}"));
            }
        }
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
    if is_full(load) {
        return (Bound::GeneratorBound, load_says);
    }
    let Some(server) = server else {
        let reason = format!("{load_says}; the server's processor time is not known (--server-pid)");
        return (Bound::Unknown, reason);
    };
    let both = format!("the server used {}, {load_says}", side(server));
    if is_full(server) {
        return (Bound::ServerBound, both);
    }
    let shared = server.cpus.iter().any(|cpu| load.cpus.contains(cpu));
    let all = server.cpus.iter().chain(&load.cpus).collect::<std::collections::BTreeSet<_>>().len();
    let (sides, others) = (server.cores + load.cores, server.others_cores.max(load.others_cores));
    if shared && sides >= others && sides + others >= FULL * all as f64 {
        let advice = "on the same processors: keep them apart with --cpus and --server-cpus, or use two machines";
        return (Bound::MachineBound, format!("{both}, {advice}"));
    }
    // Processors that both share hold the other side's work as well.
    let crowd = if shared { sides + others } else { 0.0 };
    let is_crowded =
        |it: &CpuReport| it.others_cores >= 0.1 && crowd.max(it.cores + it.others_cores) >= FULL * it.cpus.len() as f64;
    if is_crowded(server) || is_crowded(load) {
        return (Bound::MachineBound, format!("{both}; other processes used the rest of the processors"));
    }
    (Bound::Neither, both)
}

fn is_full(side: &CpuReport) -> bool {
    side.cores >= FULL * side.cores_max as f64 || side.busiest_thread_cores >= FULL
}

fn side(it: &CpuReport) -> String {
    let mut text = format!("{:.2} of {} cores", it.cores, it.cores_max);
    if it.busiest_thread_cores >= FULL && it.cores < FULL * it.cores_max as f64 {
        text = format!("{text}, and one thread all of its own");
    }
    text
}

/// The generator's own lateness is part of what it measures. It matters when it is not small beside the result.
fn lag_warning(latency: &LatencyReport, lag: &LatencyReport) -> Option<String> {
    let percentiles =
        [("p50", latency.p50, lag.p50), ("p99", latency.p99, lag.p99), ("p99.9", latency.p99_9, lag.p99_9)];
    let (name, latency, lag) = percentiles.into_iter().find(|(_, latency, lag)| *lag > MAX_LAG_SHARE * latency)?;
    let share = lag / latency * 100.0;
    let late =
        format!("the generator itself was late by {lag:.0} µs at {name}: {share:.0} % of what it measured there");
    Some(format!("{late}; from there on, the latencies are its own as well as the server's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(cores: f64, busiest_thread_cores: f64, cpus: &[usize]) -> CpuReport {
        CpuReport {
            user_s: 0.0,
            system_s: cores,
            cores,
            cores_max: cpus.len(),
            busiest_thread_cores,
            cpus: cpus.to_vec(),
            others_cores: 0.0,
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
    fn one_full_thread_limits_a_server_that_has_more_processors() {
        let server = cpu(1.1, 0.98, &[0, 2, 3]);
        let (bound, reason) = judge(Some(&server), &cpu(0.5, 0.5, &[1]));
        assert_eq!(bound, Bound::ServerBound);
        assert!(reason.contains("one thread"), "{reason}");
    }

    #[test]
    fn shared_or_crowded_processors_are_the_machines_limit() {
        let (server, load) = (cpu(1.1, 0.6, &[0, 1]), cpu(0.8, 0.4, &[0, 1]));
        assert_eq!(bound(Some(&server), &load), Bound::MachineBound);
        let crowded = CpuReport { others_cores: 0.4, ..cpu(0.58, 0.58, &[0]) };
        assert_eq!(bound(Some(&crowded), &cpu(0.5, 0.5, &[1])), Bound::MachineBound);
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
