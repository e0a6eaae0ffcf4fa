//! Two results side by side: both values, the change, and differences of the load.

use std::fmt::Write;

use super::report::{CpuReport, LatencyReport, Report};
use super::result::{Mark, Summary};
use super::units::{bytes, count, percent, time};

/// Two results with their differences.
#[derive(Clone, Debug)]
pub struct Diff<'a> {
    /// The results.
    pub reports: [&'a Report; 2],
    /// The names of the results.
    pub names: [String; 2],
    /// The figures compared.
    pub rows: Vec<Row>,
    /// Differences of load and machine: the name and both values.
    pub differences: Vec<(String, [String; 2])>,
}

/// One figure of both results.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The name of the figure.
    pub name: &'static str,
    /// The values as text; `-` where there is none.
    pub values: [String; 2],
    /// The change from the first to the second, as a fraction of the first.
    pub change: Option<f64>,
    /// Whether more or less of it is better.
    pub better: Better,
}

/// Which direction of a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    More,
    /// Less is better.
    Less,
    /// Neither is better.
    Neither,
}

/// Changes below this fraction are not called better or worse: they may be chance.
const NOTABLE: f64 = 0.05;

impl Row {
    /// The change as text.
    #[must_use]
    pub fn change_text(&self) -> String {
        match self.change {
            None => String::new(),
            Some(change) if change.abs() < 0.0005 => "same".to_owned(),
            Some(change) if change > 0.0 => format!("+{}", percent(change)),
            Some(change) => percent(change),
        }
    }

    /// Whether the second value is notably better (true) or worse (false) than the first.
    #[must_use]
    pub fn is_better(&self) -> Option<bool> {
        let change = self.change.filter(|change| change.abs() >= NOTABLE)?;
        match self.better {
            Better::More => Some(change > 0.0),
            Better::Less => Some(change < 0.0),
            Better::Neither => None,
        }
    }
}

impl<'a> Diff<'a> {
    /// Compares two results with names.
    #[must_use]
    pub fn of(reports: [&'a Report; 2], names: [String; 2]) -> Self {
        Self { reports, names, rows: rows(reports), differences: differences(reports) }
    }

    /// The differences as text for a terminal.
    #[must_use]
    pub fn render(&self) -> String {
        let width = |column: usize, least: usize| {
            let cells = self.rows.iter().map(|row| row.values[column].chars().count());
            cells.max().unwrap_or(0).max(self.names[column].chars().count() + 3).max(least)
        };
        let (a, b) = (width(0, 10), width(1, 10));
        let mut text = String::new();
        let mut line = |name: &str, values: [&str; 2], change: &str| {
            let [first, second] = values;
            let line = format!("{name:<28} {first:>a$}  {second:>b$}  {change:>9}");
            writeln!(text, "{}", line.trim_end()).expect("a string takes everything");
        };
        let heads = [format!("A: {}", self.names[0]), format!("B: {}", self.names[1])];
        line("", [&heads[0], &heads[1]], "change");
        for row in &self.rows {
            line(row.name, [&row.values[0], &row.values[1]], &row.change_text());
        }
        for (name, [a, b]) in &self.differences {
            writeln!(text, "not the same: {name}: {a} in A, {b} in B").expect("a string takes everything");
        }
        text
    }
}

/// The format of a value.
type Show = fn(f64) -> String;

/// Selects one of the latencies.
type Pick = fn(&LatencyReport) -> f64;

fn server(report: &Report) -> Option<&CpuReport> {
    report.measured.as_ref()?.server_cpu.as_ref()
}

fn rows(reports: [&Report; 2]) -> Vec<Row> {
    let words = |name, value: &dyn Fn(&Report) -> String| Row {
        name,
        values: reports.map(value),
        change: None,
        better: Better::Neither,
    };
    let mut rows = vec![
        words("result", &|it| mark(Summary::of(it, &[]).mark).to_owned()),
        words("verdict", &|it| it.verdict.as_ref().map_or("-", |verdict| verdict.bound.name()).to_owned()),
    ];
    let whole: Show = |value| count(value.round() as u64);
    let mut add = |name, better, show: Show, value: &dyn Fn(&Report) -> Option<f64>| {
        let values = reports.map(value);
        if values == [None, None] {
            return;
        }
        let change = values[0].zip(values[1]).and_then(|(a, b)| change(a, b));
        let values = values.map(|value| value.map_or("-".to_owned(), show));
        rows.push(Row { name, values, change, better });
    };
    add("errors", Better::Less, whole, &|it| Some(it.errors() as f64));
    add("connections opened", Better::Neither, whole, &|it| Some(it.connections.ready as f64));
    add("connections opened/s", Better::More, whole, &|it| Some(it.connections.opened_per_s));
    add("echoes/s", Better::More, whole, &|it| Some(it.measured.as_ref()?.echoes_per_s));
    add("offered/s", Better::Neither, whole, &|it| it.measured.as_ref()?.offered_per_s);
    add("payload/s each way", Better::More, bytes, &|it| Some(it.measured.as_ref()?.payload_bytes_per_s));
    // Without compression this repeats the row before, plus the headers.
    let is_deflating = reports.iter().any(|it| it.runs.iter().any(|run| run.scenario.deflate.is_some()));
    let wire = |it: &Report| it.measured.as_ref().filter(|_| is_deflating).cloned();
    add("wire/s sent", Better::Neither, bytes, &|it| Some(wire(it)?.wire_sent_bytes_per_s));
    add("wire/s received", Better::Neither, bytes, &|it| Some(wire(it)?.wire_received_bytes_per_s));
    let picks: [(&str, Pick); 7] = [
        ("latency p50", |it| it.p50),
        ("latency p90", |it| it.p90),
        ("latency p95", |it| it.p95),
        ("latency p99", |it| it.p99),
        ("latency p99.9", |it| it.p99_9),
        ("latency max", |it| it.max),
        ("latency mean", |it| it.mean),
    ];
    for (name, pick) in picks {
        add(name, Better::Less, time, &|it| Some(pick(it.measured.as_ref()?.latency_us.as_ref()?)));
    }
    add("own lag p99", Better::Less, time, &|it| Some(it.measured.as_ref()?.lag_us?.p99));
    add("ping to pong p99", Better::Less, time, &|it| Some(it.ping_us?.p99));
    add("time until ready p99", Better::Less, time, &|it| Some(it.connections.latency_us?.p99));
    let cores: Show = |value| format!("{value:.2} cores");
    add("server CPU per echo", Better::Less, time, &|it| server(it)?.us_per_echo);
    add("server CPU", Better::Neither, cores, &|it| Some(server(it)?.cores));
    add("generator CPU per echo", Better::Neither, time, &|it| it.measured.as_ref()?.load_cpu.us_per_echo);
    add("generator CPU", Better::Neither, cores, &|it| Some(it.measured.as_ref()?.load_cpu.cores));
    add("server memory, connected", Better::Less, bytes, &|it| Some(it.memory.idle.server?.rss_bytes as f64));
    add("server memory, at the end", Better::Less, bytes, &|it| Some(it.memory.at_end.server?.rss_bytes as f64));
    add("server memory/connection", Better::Less, bytes, &|it| it.memory.server_bytes_per_connection);
    rows
}

fn mark(mark: Mark) -> &'static str {
    match mark {
        Mark::Good => "ok",
        Mark::Partial => "PARTIAL",
        Mark::Failed => "FAILED",
    }
}

/// The relative change; `None` from 0.
fn change(a: f64, b: f64) -> Option<f64> {
    if (a - b).abs() < f64::EPSILON { Some(0.0) } else { (a != 0.0).then(|| (b - a) / a) }
}

/// Fields of the load, the target and the machine that have different values.
fn differences(reports: [&Report; 2]) -> Vec<(String, [String; 2])> {
    let facts = reports.map(|report| {
        let mut facts = Vec::new();
        if let Some(run) = report.runs.first() {
            facts.extend(super::html::asked_for(run));
            let machine = &run.machine;
            facts.push(("machine".to_owned(), machine.hostname.clone()));
            facts.push(("kernel".to_owned(), machine.kernel.clone()));
            facts.push(("processor".to_owned(), machine.cpu_model.clone()));
            facts.push(("processors usable".to_owned(), machine.cpus_usable.to_string()));
            facts.extend(machine.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        facts.push(("runs merged".to_owned(), report.runs.len().to_string()));
        facts.push(("ringload".to_owned(), report.ringload.clone()));
        facts
    });
    let value = |side: usize, name: &str| {
        facts[side].iter().find(|(known, _)| known == name).map_or("-".to_owned(), |(_, value)| value.clone())
    };
    let mut names: Vec<&String> = facts[0].iter().map(|(name, _)| name).collect();
    names.extend(facts[1].iter().map(|(name, _)| name).filter(|name| facts[0].iter().all(|(known, _)| known != *name)));
    let both = names.into_iter().map(|name| (name.clone(), [value(0, name), value(1, name)]));
    both.filter(|(_, [a, b])| a != b).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    fn pair() -> [Report; 2] {
        let mut other = report();
        let measured = other.measured.as_mut().unwrap();
        measured.echoes_per_s = 1500.0;
        measured.latency_us.as_mut().unwrap().p99 = 130.0;
        other.runs[0].target = "ws://other/".to_owned();
        other.runs[0].scenario.connections = 7;
        [report(), other]
    }

    #[test]
    fn what_changed_is_told_with_its_direction() {
        let [a, b] = pair();
        let diff = Diff::of([&a, &b], ["a.json".to_owned(), "b.json".to_owned()]);
        let row = |name: &str| diff.rows.iter().find(|row| row.name == name).unwrap();
        assert_eq!((row("echoes/s").change_text(), row("echoes/s").is_better()), ("+50 %".to_owned(), Some(true)));
        assert_eq!(row("latency p99").values, ["100 µs", "130 µs"]);
        assert_eq!(row("latency p99").is_better(), Some(false));
        assert_eq!(row("latency p50").change_text(), "same");
        assert_eq!(row("errors").change_text(), "same");
        let names: Vec<_> = diff.differences.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["target", "connections"]);
    }

    #[test]
    fn columns_are_under_their_heads() {
        let [a, b] = pair();
        let text = Diff::of([&a, &b], ["before/a.json".to_owned(), "b.json".to_owned()]).render();
        let lines: Vec<_> = text.lines().collect();
        let end = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count() + word.chars().count());
        let rate = lines.iter().find(|line| line.starts_with("echoes/s")).unwrap();
        assert_eq!(end(rate, "1,000"), end(lines[0], "A: before/a.json"), "{text}");
        assert!(text.contains("not the same: target: ws://127.0.0.1:9001/ in A, ws://other/ in B"), "{text}");
    }

    #[test]
    fn what_neither_has_is_not_shown() {
        let bare = Report { measured: None, verdict: None, ..report() };
        let whole = report();
        let diff = Diff::of([&bare, &whole], ["a".to_owned(), "b".to_owned()]);
        let row = diff.rows.iter().find(|row| row.name == "echoes/s").unwrap();
        assert_eq!((row.values.each_ref().map(String::as_str), row.change), (["-", "1,000"], None));
        let diff = Diff::of([&bare, &bare], ["a".to_owned(), "b".to_owned()]);
        assert!(diff.rows.iter().all(|row| row.name != "echoes/s"));
    }
}
