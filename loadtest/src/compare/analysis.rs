//! Conclusions from the measurements: medians, ratios to the baseline with their verdicts, drift, and conditions that fail a
//! comparison.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::metric::Metric;
use super::results::{CellReport, Compared, FaultKind, RESUMED, Results, Run};
use super::statistics::{Paired, drift, holm, least_values, median};
use crate::output::units::percent;
use crate::verdict::Bound;

/// The valid values of one server in one cell for one metric, as pairs of round and value.
pub(super) type Values = Vec<(u32, f64)>;

/// Recomputes [`Results::comparisons`].
pub fn analyse(results: &mut Results) {
    let mut all = Vec::new();
    for metric in Metric::ALL {
        let mut of_metric = Vec::new();
        for cell in &results.cells {
            for server in results.measured_servers() {
                of_metric.extend(compare(results, &server.name, cell, metric));
            }
        }
        judge(results, &mut of_metric);
        all.extend(of_metric.into_iter().map(|(compared, _)| compared));
    }
    results.comparisons = all;
}

/// One server in one cell, before the correction for the number of pairs. `None` if there is no value for this metric
/// and it is not the cell's own.
fn compare(results: &Results, server: &str, cell: &CellReport, metric: Metric) -> Option<(Compared, Option<Paired>)> {
    let runs = counted_runs(results, server, &cell.name);
    let own = values(&runs, metric);
    if own.is_empty() && cell.metric != metric {
        return None;
    }
    let baseline = &results.settings.baseline;
    let base = values_of(results, baseline, &cell.name, metric);
    let (ratios, values): (Vec<f64>, Vec<f64>) = (ratios(&own, &base), own.iter().map(|it| it.1).collect());
    let seed = results.seed ^ metric as u64;
    let pair = if server == baseline { None } else { Paired::of(&ratios, results.settings.confidence, seed) };
    let reason = match &pair {
        _ if values.is_empty() => Some(why_not(&runs, metric)),
        None if server == baseline => None,
        None if base.is_empty() => Some(format!("{baseline} has no value here to compare with")),
        None if own.iter().any(|it| base.iter().any(|base| base.0 == it.0)) => Some("0 has no ratio".to_owned()),
        None => Some("no round counts for both".to_owned()),
        Some(_) => None,
    };
    let compared = Compared {
        server: server.to_owned(),
        cell: cell.name.clone(),
        metric,
        value: median(&values),
        rounds: values.len() as u32,
        common_rounds: (server != baseline).then_some(ratios.len() as u32),
        ratio: pair.map(|pair| pair.interval),
        p: pair.map(|pair| pair.p),
        verdict: None,
        reason,
        drift: drift(&values),
        is_generator_bound: runs
            .iter()
            .any(|run| run.bound == Some(Bound::GeneratorBound) && run.value(metric).is_some()),
    };
    Some((compared, pair))
}

fn counted_runs<'a>(results: &'a Results, server: &str, cell: &str) -> Vec<&'a Run> {
    let is_it = |run: &&Run| run.round >= results.settings.discard && run.server == server && run.cell == cell;
    results.runs.iter().filter(is_it).collect()
}

fn values(runs: &[&Run], metric: Metric) -> Values {
    let mut values: Values = runs.iter().filter_map(|run| Some((run.round, run.value(metric)?))).collect();
    values.sort_by_key(|it| it.0);
    values
}

/// The valid values of a server in a cell for a metric, in the order of the rounds.
pub(super) fn values_of(results: &Results, server: &str, cell: &str, metric: Metric) -> Values {
    values(&counted_runs(results, server, cell), metric)
}

/// Ratios of the rounds that are valid for both. A value of 0 (memory that did not grow) has no ratio.
pub(super) fn ratios(own: &Values, base: &Values) -> Vec<f64> {
    let of_round = |&(round, value): &(u32, f64)| {
        let (_, base) = base.iter().find(|it| it.0 == round)?;
        (*base > 0.0 && value > 0.0).then_some(value / base)
    };
    own.iter().filter_map(of_round).collect()
}

/// The ratios of a server to the baseline in a cell, by the cell's metric, in the order of the rounds.
#[must_use]
pub fn ratios_of(results: &Results, server: &str, cell: &CellReport) -> Vec<f64> {
    let of = |server: &str| values_of(results, server, &cell.name, cell.metric);
    ratios(&of(server), &of(&results.settings.baseline))
}

/// Why no round of a server is valid: its most frequent fault.
fn why_not<'a>(runs: &[&'a Run], metric: Metric) -> String {
    let of_run = |run: &'_ &'a Run| -> BTreeMap<FaultKind, &'a str> {
        let spoiling = run.faults.iter().filter(|fault| fault.kind.spoils(metric));
        spoiling.map(|fault| (fault.kind, fault.why.as_str())).collect()
    };
    // With the number of rounds that have it.
    let mut counts: BTreeMap<FaultKind, (&str, usize)> = BTreeMap::new();
    for (kind, why) in runs.iter().flat_map(of_run) {
        counts.entry(kind).or_insert((why, 0)).1 += 1;
    }
    match counts.iter().max_by_key(|it| it.1.1) {
        Some((FaultKind::NotSupported, (why, _))) => format!("not supported: {why}"),
        Some((kind, (why, count))) => format!("{} in {count} of {} rounds: {why}", kind.short(), runs.len()),
        None if runs.is_empty() => "not measured yet".to_owned(),
        None => "not measured: not meaningful in this cell, or not available".to_owned(),
    }
}

/// Gives verdicts, corrected for all pairs of this metric in all cells. A pair with too few rounds is not tested: it must not
/// make the correction of the others milder.
fn judge(results: &Results, compared: &mut [(Compared, Option<Paired>)]) {
    let settings = &results.settings;
    let pairs: Vec<usize> = (0..compared.len()).filter(|&index| compared[index].1.is_some()).collect();
    let p_of = |pair: &Paired| if pair.interval.reaches(settings.confidence) { pair.p } else { 1.0 };
    let p_values: Vec<f64> = pairs.iter().filter_map(|&index| Some(p_of(compared[index].1.as_ref()?))).collect();
    let significant = holm(&p_values, 1.0 - settings.confidence);
    for (&index, is_significant) in pairs.iter().zip(significant) {
        let (compared, Some(pair)) = &mut compared[index] else { continue };
        let (same, confidence) = (settings.same_within, settings.confidence);
        compared.verdict = Some(pair.verdict(is_significant, same, confidence, compared.metric.is_more_better()));
    }
}

/// Problems of the comparison as a whole.
#[must_use]
pub fn warnings(results: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    let cell_metric =
        |it: &&Compared| results.cells.iter().any(|cell| cell.name == it.cell && cell.metric == it.metric);
    for it in results.comparisons.iter().filter(cell_metric) {
        if let Some(rho) = it.drift {
            let way = if rho > 0.0 { "rose" } else { "fell" };
            let text = "the machine changed meanwhile, or the server does with time";
            warnings.push(format!("drift: {} in {} {way} from round to round ({rho:+.2}): {text}", it.server, it.cell));
        }
    }
    let (confidence, least) = (results.settings.confidence, least_values(results.settings.confidence));
    let few = results.cells.iter().filter(|cell| (cell.rounds as usize) < least);
    let few: Vec<String> = few.map(|cell| format!("{} ({})", cell.name, cell.rounds)).collect();
    if !few.is_empty() {
        let confidence = percent(confidence);
        let text = format!("too few rounds to tell anything with {confidence} confidence, which takes {least}");
        warnings.push(format!("{text}: {}", few.join(", ")));
    }
    for (name, text) in results.conditions.iter().filter(|it| it.0.starts_with(RESUMED)) {
        warnings.push(format!("{name}: {text}"));
    }
    let baseline = results.servers.iter().find(|it| it.name == results.settings.baseline);
    if let Some(baseline) = baseline.filter(|it| it.skipped.is_some()) {
        warnings.push(format!("the baseline {} was skipped: there are no ratios", baseline.name));
    }
    if !results.is_complete {
        warnings.push("the comparison is not complete: it was interrupted, or goes on".to_owned());
    }
    warnings
}

/// A condition like `ringecho/ws cpu-per-echo > 1.03`, or with ` in CELL` after the metric. If it holds in any cell,
/// the comparison fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    one: String,
    other: String,
    metric: Metric,
    cell: Option<String>,
    is_greater: bool,
    limit: f64,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            format!(
                "{text:?} is no condition like \"ringecho/ws cpu-per-echo > 1.03\", or with \"in CELL\" before the sign"
            )
        };
        let (left, is_greater, limit) = match (text.split_once('>'), text.split_once('<')) {
            (Some((left, limit)), None) => (left, true, limit),
            (None, Some((left, limit))) => (left, false, limit),
            _ => return Err(form()),
        };
        let limit = limit.trim().parse::<f64>().ok().filter(|limit| limit.is_finite()).ok_or_else(form)?;
        let (left, cell) = match left.split_once(" in ") {
            Some((left, cell)) => (left, Some(cell.trim().to_owned())),
            None => (left, None),
        };
        let (servers, metric) = left.trim().rsplit_once(' ').ok_or_else(form)?;
        let (one, other) = servers.trim().split_once('/').ok_or_else(form)?;
        Ok(Self {
            text: text.trim().to_owned(),
            one: one.trim().to_owned(),
            other: other.trim().to_owned(),
            metric: metric.parse()?,
            cell,
            is_greater,
            limit,
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Condition {
    /// Names in the condition that do not occur in the results.
    pub fn check_names<'a>(
        &self,
        servers: impl Iterator<Item = &'a str> + Clone,
        mut cells: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), String> {
        for name in [&self.one, &self.other] {
            if !servers.clone().any(|it| it == name) {
                return Err(format!("--fail-if {:?}: {}", self.text, super::words::unknown("server", name, servers)));
            }
        }
        match &self.cell {
            Some(cell) if !cells.clone().any(|it| it == cell) => {
                let all: Vec<&str> = cells.by_ref().collect();
                Err(format!("--fail-if {:?}: {}", self.text, super::words::unknown("cell", cell, all)))
            }
            _ => Ok(()),
        }
    }

    /// The cells in which it holds, with a sentence for each. A missing measurement counts as holding.
    #[must_use]
    pub fn breaches(&self, results: &Results) -> Vec<String> {
        let mut breaches = Vec::new();
        let mut was_measured = false;
        for cell in results.cells.iter().filter(|it| self.cell.as_ref().is_none_or(|cell| *cell == it.name)) {
            let of = |server: &str| values_of(results, server, &cell.name, self.metric);
            let Some(ratio) = median(&ratios(&of(&self.one), &of(&self.other))) else {
                if self.cell.is_some() || cell.metric == self.metric {
                    breaches.push(format!("{}: not measured in {}", self.text, cell.name));
                }
                continue;
            };
            was_measured = true;
            if (self.is_greater && ratio > self.limit) || (!self.is_greater && ratio < self.limit) {
                breaches.push(format!("{}: it is {ratio:.3} in {}", self.text, cell.name));
            }
        }
        if !was_measured && breaches.is_empty() {
            breaches.push(format!("{}: not measured", self.text));
        }
        breaches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::groups::groups;
    use crate::compare::results::tests::results;
    use crate::compare::statistics::Verdict;

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let results = results(&[("base", 10.0), ("slow", 11.0), ("same", 10.05)]);
        let of = |server: &str| results.compared(server, "128 B x 100", Metric::CpuPerEcho).unwrap();
        assert_eq!(of("base").ratio, None);
        assert!((of("slow").ratio.unwrap().median - 1.1).abs() < 1e-3);
        assert_eq!(of("slow").verdict, Some(Verdict::Worse));
        assert_eq!(of("same").verdict, Some(Verdict::Same));
        assert_eq!(
            groups(&results, &results.cells[0]).told,
            [vec!["base".to_owned(), "same".to_owned()], vec!["slow".to_owned()]]
        );
    }

    #[test]
    fn what_does_not_count_has_no_ratio_and_says_why() {
        let mut it = results(&[("base", 10.0), ("other", 11.0)]);
        for run in it.runs.iter_mut().filter(|run| run.server == "other") {
            run.faults.push(super::super::results::Fault { kind: FaultKind::Generator, why: "it was full".to_owned() });
            run.values.insert(Metric::Rate, 5.0);
        }
        for run in it.runs.iter_mut().filter(|run| run.server == "base") {
            run.values.insert(Metric::Rate, 6.0);
        }
        it.cells[0].metric = Metric::Rate;
        analyse(&mut it);
        let rate = it.compared("other", "128 B x 100", Metric::Rate).unwrap();
        assert_eq!((rate.ratio, rate.value), (None, None));
        assert_eq!(rate.reason.as_deref(), Some("generator-bound in 9 of 9 rounds: it was full"));
        let cpu = it.compared("other", "128 B x 100", Metric::CpuPerEcho).unwrap();
        assert_eq!(cpu.verdict, Some(Verdict::Worse), "what the server used is its own");
    }

    #[test]
    fn rounds_with_a_fault_are_counted_once() {
        let mut it = results(&[("base", 10.0), ("other", 11.0)]);
        for run in it.runs.iter_mut().filter(|run| run.server == "other") {
            let fault = |why: &str| super::super::results::Fault { kind: FaultKind::Failed, why: why.to_owned() };
            run.faults = vec![fault("it died"), fault("an echo was lost")];
        }
        analyse(&mut it);
        let reason = it.compared("other", "128 B x 100", Metric::CpuPerEcho).unwrap().reason.clone().unwrap();
        assert!(reason.starts_with("failed in 9 of 9 rounds: "), "{reason}");
    }

    #[test]
    fn pairs_with_too_few_rounds_do_not_make_the_correction_milder() {
        let verdict = |rounds_of_clear: u32| {
            let mut it = results(&[("base", 10.0), ("near", 10.0), ("clear", 20.0)]);
            let ratios = [1.0, 1.05, 1.06, 1.055, 1.07, 1.065, 1.06, 1.05, 1.07, 0.915];
            for run in it.runs.iter_mut().filter(|run| run.server != "clear") {
                let ratio = if run.server == "near" { ratios[run.round as usize] } else { 1.0 };
                run.values.insert(Metric::CpuPerEcho, 10.0 * ratio);
            }
            it.runs.retain(|run| run.server != "clear" || run.round <= rounds_of_clear);
            analyse(&mut it);
            let pair = it.compared("near", "128 B x 100", Metric::CpuPerEcho).unwrap();
            (pair.p.unwrap(), pair.verdict.unwrap())
        };
        let (p, with_all) = verdict(9);
        assert!((0.025..0.05).contains(&p), "significant alone or as the second, and not as the first of two: {p}");
        assert_eq!((with_all, verdict(3).1), (Verdict::Worse, Verdict::CannotTell));
    }

    #[test]
    fn discarded_rounds_do_not_count() {
        let mut it = results(&[("base", 10.0), ("other", 10.0)]);
        for run in it.runs.iter_mut().filter(|run| run.round == 0 && run.server == "other") {
            run.values.insert(Metric::CpuPerEcho, 1000.0);
        }
        analyse(&mut it);
        let cpu = it.compared("other", "128 B x 100", Metric::CpuPerEcho).unwrap();
        assert!(cpu.ratio.unwrap().high < 1.01 && cpu.rounds == 9);
    }

    #[test]
    fn rounds_in_common_are_counted_and_a_value_of_0_has_no_ratio() {
        let mut it = results(&[("base", 10.0), ("other", 11.0)]);
        it.runs.retain(|run| run.server != "other" || run.round <= 3);
        it.runs.retain(|run| run.server != "base" || run.round != 2);
        for run in it.runs.iter_mut().filter(|run| run.server == "other") {
            run.values.insert(Metric::PeakMemory, 0.0);
        }
        analyse(&mut it);
        let of = |server: &str, metric| it.compared(server, "128 B x 100", metric).unwrap();
        let cpu = of("other", Metric::CpuPerEcho);
        assert_eq!((cpu.rounds, cpu.common_rounds, cpu.verdict), (3, Some(2), Some(Verdict::CannotTell)));
        assert_eq!(of("base", Metric::CpuPerEcho).common_rounds, None);
        let memory = of("other", Metric::PeakMemory);
        assert_eq!((memory.value, memory.reason.as_deref()), (Some(0.0), Some("0 has no ratio")));
    }

    #[test]
    fn cells_with_too_few_rounds_for_the_confidence_are_named() {
        let mut it = results(&[("base", 10.0), ("other", 11.0)]);
        assert_eq!(warnings(&it), Vec::<String>::new());
        it.cells[0].rounds = 7;
        assert_eq!(warnings(&it), Vec::<String>::new());
        it.settings.confidence = 0.99;
        let text = "too few rounds to tell anything with 99 % confidence, which takes 8: 128 B x 100 (7)";
        assert_eq!(warnings(&it), [text]);
    }

    #[test]
    fn conditions_hold_or_do_not() {
        let it = results(&[("base", 10.0), ("slow", 11.0)]);
        let breaches = |text: &str| text.parse::<Condition>().unwrap().breaches(&it);
        assert_eq!(breaches("base/slow cpu-per-echo > 1.03"), Vec::<String>::new());
        assert_eq!(breaches("slow/base cpu-per-echo > 1.03").len(), 1);
        assert!(breaches("slow/base cpu-per-echo in 128 B x 100 > 1.03")[0].contains("it is 1.1"));
        assert_eq!(breaches("base/slow cpu-per-echo < 0.5"), Vec::<String>::new());
        assert_eq!(breaches("base/slow p99 > 1"), ["base/slow p99 > 1: not measured"]);
        for (wrong, message) in [
            ("base cpu-per-echo > 1", "is no condition"),
            ("a/b cpu-per-echo", "is no condition"),
            ("a/b cpu-per-eco > 1", "did you mean `cpu-per-echo`?"),
            ("a/b cpu-per-echo > x", "is no condition"),
        ] {
            assert!(wrong.parse::<Condition>().unwrap_err().contains(message), "{wrong}");
        }
        let names = |text: &str| {
            text.parse::<Condition>().unwrap().check_names(["base", "slow"].into_iter(), ["128 B x 100"].into_iter())
        };
        assert_eq!(names("base/slow rate < 1"), Ok(()));
        assert!(names("bas/slow rate < 1").unwrap_err().contains("did you mean `base`?"));
        assert!(names("base/slow rate in 128 x 100 < 1").unwrap_err().contains("did you mean `128 B x 100`?"));
    }
}
