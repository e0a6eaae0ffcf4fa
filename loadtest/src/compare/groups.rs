//! Groups of servers without a significant difference in a cell, instead of ranks.

use std::collections::BTreeSet;

use super::analysis::{Values, ratios, values_of};
use super::file::Class;
use super::metric::Metric;
use super::results::{CellReport, Results};
use super::statistics::{Paired, Verdict, holm, is_enough, median, p_of};

/// The places of a cell's servers; references have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// Groups of servers that are not significantly worse than the best of their group, the best group first.
    pub told: Vec<Vec<String>>,
    /// Servers whose place cannot be told: they have only this number of valid rounds, alone or together with the best of
    /// a group, which is too few for the confidence.
    pub untold: Vec<(String, u32)>,
}

/// A server with the values of its valid rounds.
struct Entry<'a> {
    name: &'a str,
    median: f64,
    values: Values,
}

/// A server's place beside the best of a group.
enum Place {
    Ahead,
    Tied,
    Behind,
    /// The number of rounds that are valid for both.
    Untold(u32),
}

/// The groups of a cell, by its metric.
#[must_use]
pub fn groups(results: &Results, cell: &CellReport) -> Groups {
    let confidence = results.settings.confidence;
    let (order, few): (Vec<Entry>, Vec<Entry>) =
        order(results, cell).into_iter().partition(|it| is_enough(it.values.len(), confidence));
    let untold = few.iter().map(|it| (it.name.to_owned(), it.values.len() as u32)).collect();
    let mut groups = Groups { told: Vec::new(), untold };
    let different = different(&order, confidence);
    let mut left: Vec<usize> = (0..order.len()).collect();
    while let Some(first) = best(results, cell.metric, &order, &left, &different) {
        let (mut tied, mut behind) = (Vec::new(), Vec::new());
        for at in left {
            let place =
                if at == first { Place::Tied } else { place(results, cell.metric, &order, [first, at], &different) };
            let name = order[at].name.to_owned();
            match place {
                Place::Tied | Place::Ahead => tied.push(name),
                Place::Behind => behind.push(at),
                Place::Untold(rounds) => groups.untold.push((name, rounds)),
            }
        }
        groups.told.push(tied);
        left = behind;
    }
    groups
}

/// The ranked servers, the one with the best median first.
fn order<'a>(results: &'a Results, cell: &CellReport) -> Vec<Entry<'a>> {
    let metric = cell.metric;
    // Memory that did not grow has no ratio. Less than a byte is not told apart from one, so it counts as one here.
    let least = if metric.is_speed() { 0.0 } else { 1.0 };
    let entry = |name: &'a str| {
        let mut values = values_of(results, name, &cell.name, metric);
        for value in &mut *values {
            value.1 = value.1.max(least);
        }
        let median = median(&values.iter().map(|it| it.1).collect::<Vec<_>>())?;
        Some(Entry { name, median, values })
    };
    let ranked = results.measured_servers().filter(|it| it.class != Class::Reference);
    let mut order: Vec<Entry> = ranked.filter_map(|it| entry(&it.name)).collect();
    order.sort_by(|a, b| {
        let order = a.median.total_cmp(&b.median);
        if metric.is_more_better() { order.reverse() } else { order }
    });
    order
}

/// The pairs of servers, as their places in `order`, that differ significantly. The correction is for all pairs, since the
/// same measurements decide which server is the best, and so which pairs are looked at.
fn different(order: &[Entry], confidence: f64) -> BTreeSet<(usize, usize)> {
    let pairs: Vec<(usize, usize)> =
        (0..order.len()).flat_map(|first| (first + 1..order.len()).map(move |other| (first, other))).collect();
    let p_of_pair = |&(first, other): &(usize, usize)| {
        let ratios = ratios(&order[other].values, &order[first].values);
        if is_enough(ratios.len(), confidence) { p_of(&ratios) } else { 1.0 }
    };
    let significant = holm(&pairs.iter().map(p_of_pair).collect::<Vec<_>>(), 1.0 - confidence);
    pairs.into_iter().zip(significant).filter(|it| it.1).map(|it| it.0).collect()
}

/// The server that no other is ahead of in their common rounds, beginning with the one with the best median: medians may be of
/// different rounds.
fn best(
    results: &Results,
    metric: Metric,
    order: &[Entry],
    left: &[usize],
    different: &BTreeSet<(usize, usize)>,
) -> Option<usize> {
    let mut first = *left.first()?;
    let mut seen = BTreeSet::from([first]);
    let is_ahead = |at: usize, of: usize| matches!(place(results, metric, order, [of, at], different), Place::Ahead);
    while let Some(&ahead) = left.iter().find(|&&at| !seen.contains(&at) && is_ahead(at, first)) {
        seen.insert(ahead);
        first = ahead;
    }
    Some(first)
}

/// The place of the second of these two beside the first.
fn place(
    results: &Results,
    metric: Metric,
    order: &[Entry],
    [first, other]: [usize; 2],
    different: &BTreeSet<(usize, usize)>,
) -> Place {
    let settings = &results.settings;
    let differs = different.contains(&(first.min(other), first.max(other)));
    let ratios = ratios(&order[other].values, &order[first].values);
    let pair = Paired::of(&ratios, settings.confidence, results.seed);
    let Some(pair) = pair.filter(|pair| pair.interval.reaches(settings.confidence)) else {
        return Place::Untold(ratios.len() as u32);
    };
    match pair.verdict(differs, settings.same_within, settings.confidence, metric.is_more_better()) {
        Verdict::Worse => Place::Behind,
        Verdict::Better => Place::Ahead,
        Verdict::Same | Verdict::CannotTell => Place::Tied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::results;
    use crate::compare::statistics::Random;
    use crate::compare::statistics::tests::normal;

    /// The groups of the first cell, when only three of `server`'s rounds are valid.
    fn with_three_rounds(servers: &[(&str, f64)], server: &str) -> Groups {
        let mut it = results(servers);
        it.runs.retain(|run| run.server != server || (1..=3).contains(&run.round));
        groups(&it, &it.cells[0])
    }

    #[test]
    fn a_server_with_too_few_rounds_is_neither_first_nor_behind() {
        let groups = with_three_rounds(&[("base", 10.0), ("slow", 20.0), ("slower", 30.0)], "slow");
        assert_eq!(groups.told, [["base"], ["slower"]]);
        assert_eq!(groups.untold, [("slow".to_owned(), 3)]);
    }

    #[test]
    fn a_server_with_too_few_rounds_is_not_the_one_that_others_are_behind() {
        let groups = with_three_rounds(&[("base", 10.0), ("lucky", 5.0), ("slow", 20.0)], "lucky");
        assert_eq!(groups.told, [["base"], ["slow"]]);
        assert_eq!(groups.untold, [("lucky".to_owned(), 3)]);
    }

    #[test]
    fn rounds_that_are_valid_for_one_of_a_pair_only_tell_nothing() {
        let mut it = results(&[("base", 10.0), ("slow", 20.0)]);
        for round in 10..=18 {
            let run = it.runs.iter().find(|run| run.server == "slow" && run.round == round - 9).unwrap().clone();
            it.runs.push(crate::compare::results::Run { round, ..run });
        }
        it.runs.retain(|run| run.server != "slow" || run.round > 5);
        let groups = groups(&it, &it.cells[0]);
        assert_eq!((groups.told, groups.untold), (vec![vec!["base".to_owned()]], vec![("slow".to_owned(), 4)]));
    }

    #[test]
    fn the_best_is_the_one_that_is_ahead_in_common_rounds() {
        let mut it = results(&[("base", 10.0), ("other", 9.0)]);
        // The machine is slower from here on, and base has no valid rounds.
        for round in 10..=20 {
            let run = it.runs.iter().find(|run| run.server == "other" && run.round == 1).unwrap().clone();
            let values = [(Metric::CpuPerEcho, 14.0)].into();
            it.runs.push(crate::compare::results::Run { round, values, ..run });
        }
        assert_eq!(groups(&it, &it.cells[0]).told, [["other"], ["base"]]);
    }

    #[test]
    fn memory_that_did_not_grow_is_less_than_any() {
        let mut it = results(&[("base", 10.0), ("other", 10.0), ("none", 10.0)]);
        it.cells[0].metric = Metric::PeakMemory;
        for run in it.runs.iter_mut().filter(|run| run.server == "none") {
            run.values.insert(Metric::PeakMemory, 0.0);
        }
        let groups = groups(&it, &it.cells[0]);
        assert_eq!(groups.told, [vec!["none".to_owned()], vec!["base".to_owned(), "other".to_owned()]]);
        assert!(groups.untold.is_empty());
    }

    #[test]
    fn many_identical_servers_are_one_group() {
        let names: Vec<String> = (0..27).map(|number| format!("server-{number}")).collect();
        let mut it = results(&names.iter().map(|name| (name.as_str(), 10.0)).collect::<Vec<_>>());
        let mut is_split = |seed| {
            let mut random = Random(seed);
            for run in &mut it.runs {
                run.values.insert(Metric::CpuPerEcho, 10.0 * (0.05 * normal(&mut random)).exp());
            }
            groups(&it, &it.cells[0]).told.len() > 1
        };
        let split = (0..300).filter(|&seed| is_split(seed)).count();
        // At most 5 % of the cells; more than 24 by chance once in a hundred times.
        assert!(split <= 24, "{split} of 300 cells with 27 identical servers had several groups");
    }
}
