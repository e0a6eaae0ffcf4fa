//! The results as Markdown, for the page of a CI job.

use std::fmt::Write;

use super::diff::Diff;
use super::report::{LatencyReport, Report};
use super::result::{Mark, Summary};
use super::units::{bytes, count, time};
use crate::thresholds::Breach;

/// The summary of one result, with the conditions of `--fail-if` that held. It ends with an empty line, so that another
/// may follow.
#[must_use]
pub fn of_run(report: &Report, breaches: &[Breach]) -> String {
    let result = Summary::of(report, breaches);
    let mut text = format!("### {} ringload: {}\n\n", sign(result.mark), escape(&result.text));
    let targets: Vec<_> = report.runs.iter().map(|run| escape(&run.target)).collect();
    let connections = count(report.connections.requested);
    add(&mut text, format_args!("{connections} connections to {}\n\n", targets.join(", ")));
    if let Some(verdict) = &report.verdict {
        let (name, reason) = (escape(verdict.bound.name()), escape(&verdict.reason));
        add(&mut text, format_args!("**Verdict: {name}**: {reason}\n\n"));
        for warning in &verdict.warnings {
            add(&mut text, format_args!("- WARNING: {}\n", escape(warning)));
        }
        if !verdict.warnings.is_empty() {
            text.push('\n');
        }
    }
    figures(report, &mut text);
    latencies(report, &mut text);
    failures(report, &mut text);
    text
}

/// The summary of two results side by side.
#[must_use]
pub fn of_diff(diff: &Diff) -> String {
    let (a, b) = (escape(&diff.names[0]), escape(&diff.names[1]));
    let mut text = format!("### ringload: {a} and {b}\n\n| | A: {a} | B: {b} | change |\n|---|--:|--:|--:|\n");
    for row in &diff.rows {
        let [a, b] = row.values.each_ref().map(|value| escape(value));
        add(&mut text, format_args!("| {} | {a} | {b} | {} |\n", row.name, row.change_text()));
    }
    text.push('\n');
    for (name, [a, b]) in &diff.differences {
        add(&mut text, format_args!("- {}: {} in A, {} in B\n", escape(name), escape(a), escape(b)));
    }
    if !diff.differences.is_empty() {
        text.push('\n');
    }
    text
}

fn sign(mark: Mark) -> &'static str {
    match mark {
        Mark::Good => "✅",
        Mark::Partial => "⚠️",
        Mark::Failed => "❌",
    }
}

fn figures(report: &Report, text: &mut String) {
    let it = &report.connections;
    let opened = format!("{} of {} in {:.2} s", count(it.ready), count(it.requested), it.connect_s);
    let mut rows = vec![("connections opened", opened)];
    rows.extend(report.compression().map(|compression| ("compression", compression)));
    if let Some(measured) = &report.measured {
        rows.push(("echoes per second", count(measured.echoes_per_s as u64)));
        rows.push(("measured", format!("{} echoes in {:.2} s", count(measured.echoes), measured.seconds)));
        rows.push(("payload each way", format!("{}/s", bytes(measured.payload_bytes_per_s))));
        rows.extend(report.wire().map(|wire| ("on the wire", wire)));
        let server = measured.server_cpu.as_ref().and_then(|cpu| cpu.us_per_echo);
        rows.extend(server.map(|us| ("server CPU per echo", time(us))));
        rows.extend(measured.load_cpu.us_per_echo.map(|us| ("generator CPU per echo", time(us))));
    }
    let each = report.memory.server_bytes_per_connection;
    rows.extend(each.map(|each| ("server memory per idle connection", format!("{each:.0} B"))));
    rows.push(("verified", report.verified()));
    text.push_str("| | |\n|---|--:|\n");
    for (name, value) in rows {
        add(text, format_args!("| {name} | {value} |\n"));
    }
    text.push('\n');
}

fn latencies(report: &Report, text: &mut String) {
    let Some(measured) = &report.measured else { return };
    let rows = [("latency", measured.latency_us.as_ref()), ("own lag", measured.lag_us.as_ref())];
    if rows.iter().all(|(_, row)| row.is_none()) {
        return;
    }
    text.push_str("| | p50 | p90 | p95 | p99 | p99.9 | max |\n|---|--:|--:|--:|--:|--:|--:|\n");
    for (name, row) in rows {
        if let Some(LatencyReport { p50, p90, p95, p99, p99_9, max, .. }) = row {
            let cells = [p50, p90, p95, p99, p99_9, max].map(|&us| time(us)).join(" | ");
            add(text, format_args!("| {name} | {cells} |\n"));
        }
    }
    text.push('\n');
}

fn failures(report: &Report, text: &mut String) {
    let it = &report.connections;
    let failures = it.failures.iter().map(|it| (it.count, format!("failed: {}", it.text())));
    let detours = it.detours.iter().map(|it| (it.count, format!("went on to the next address: {}", it.text())));
    let ends = it.early_ends.iter().map(|it| (it.count, format!("closed early by {}", it.text())));
    let violations = it.violations.iter().map(|it| (it.count, format!("given up: {}", it.what)));
    let rows: Vec<_> = failures.chain(detours).chain(ends).chain(violations).collect();
    for (number, what) in &rows {
        add(text, format_args!("- {} {}\n", count(*number), escape(what)));
    }
    if !rows.is_empty() {
        text.push('\n');
    }
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes everything");
}

/// Text escaped for Markdown, since a server's text may contain anything.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' | '~' | '!' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::report::Failure;
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_summary_begins_with_the_result_and_ends_with_an_empty_line() {
        let text = of_run(&report(), &[]);
        assert!(text.starts_with("### ✅ ringload: ok: 100 connections held, 1,100 echoes right\n\n"), "{text}");
        assert!(text.contains("| latency | 100 µs | 100 µs | 100 µs | 100 µs | 2.00 ms | 2.00 ms |"), "{text}");
        assert!(text.contains("**Verdict: neither"), "{text}");
        assert!(text.ends_with("\n\n"));
    }

    #[test]
    fn what_servers_say_cannot_become_markdown() {
        let mut hostile = report();
        let cause = "a|b\n# <img src=x> `c` [d](e)".to_owned();
        hostile.connections.failures.push(Failure {
            cause,
            address: "127.0.0.1:1".to_owned(),
            count: 7,
            said: None,
            remedy: None,
        });
        let text = of_run(&hostile, &[]);
        assert!(text.contains("- 7 failed: a\\|b \\# &lt;img src=x> \\`c\\` \\[d\\](e) at 127.0.0.1:1\n"), "{text}");
    }
}
