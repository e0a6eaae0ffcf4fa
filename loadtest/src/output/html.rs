//! The results as one page: charts, numbers, scenario and machine in a single file that loads nothing from anywhere.
//!
//! It is drawn here, as SVG, and readable without any script; the small script only reads values out under the pointer.

mod chart;
mod facts;
mod percentiles;

use std::io::{self, Write};

use self::chart::{Chart, Line};
use super::report::Report;
use super::table::count;
use crate::series::Sample;
use crate::verdict::Bound;

const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/script.js");

const MIB: f64 = 1024.0 * 1024.0;

/// Writes the page.
pub fn write(report: &Report, file: &mut impl Write) -> io::Result<()> {
    let title = title(report);
    writeln!(file, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>")?;
    writeln!(file, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>")?;
    writeln!(file, "<meta name=\"color-scheme\" content=\"light dark\"/>")?;
    // Nothing can be loaded from anywhere, not even by mistake.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
    writeln!(file, "<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\"/>")?;
    writeln!(file, "<link rel=\"icon\" href=\"data:,\"/>")?;
    writeln!(file, "<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>", escape(&title))?;
    writeln!(file, "<header><h1>{}</h1>{}</header>\n<main>", escape(&title), facts::result(report))?;
    writeln!(file, "{}{}", verdict(report), facts::key_figures(report))?;
    writeln!(file, "<section><h2>Over time</h2>\n<div class=\"charts\">")?;
    for chart in charts(&report.series) {
        writeln!(file, "{}", chart.render())?;
    }
    writeln!(file, "</div></section>")?;
    if let Some(section) = percentiles::section(report) {
        writeln!(file, "{section}")?;
    }
    writeln!(file, "{}{}{}", facts::details(report), facts::scenario(report), facts::machines(report))?;
    let tail = format!("ringload {}, form of results {}", report.ringload, report.version);
    writeln!(file, "</main>\n<footer>{}</footer>\n<script>\n{SCRIPT}</script>\n</body>\n</html>", escape(&tail))
}

fn title(report: &Report) -> String {
    let connections = count(report.connections.requested);
    match report.runs.as_slice() {
        [run] => format!("{connections} connections to {}", run.target),
        runs => format!("{connections} connections in {} runs", runs.len()),
    }
}

fn verdict(report: &Report) -> String {
    let Some(verdict) = &report.verdict else { return String::new() };
    let class = match verdict.bound {
        Bound::GeneratorBound | Bound::MachineBound => "warn",
        Bound::ServerBound | Bound::Neither | Bound::Unknown => "plain",
    };
    let mut warnings = String::new();
    for warning in &verdict.warnings {
        chart::add(&mut warnings, format_args!("<li>{}</li>", escape(warning)));
    }
    let warnings = if warnings.is_empty() { warnings } else { format!("<ul class=\"warnings\">{warnings}</ul>") };
    let (name, reason) = (escape(verdict.bound.name()), escape(&verdict.reason));
    format!("<section class=\"verdict {class}\"><h2>Verdict: {name}</h2><p>{reason}</p>{warnings}</section>\n")
}

fn charts(series: &[Sample]) -> Vec<Chart> {
    let line = |name, color, value: &dyn Fn(&Sample) -> Option<f64>| {
        // A sample speaks of its whole interval: the first one begins where that does.
        let begin = series.first().map(|first| (first.time_s - first.interval_s, value(first)));
        let points = begin.into_iter().chain(series.iter().map(|sample| (sample.time_s, value(sample)))).collect();
        Line { name, color, points }
    };
    let server = |value: fn(&crate::series::ProcessSample) -> Option<f64>| {
        move |sample: &Sample| sample.server.as_ref().and_then(value)
    };
    let charts = [
        ("Open connections", "connections", false, vec![line("open", 0, &|it| Some(it.connections_open as f64))]),
        ("Connections opened", "connections/s", false, vec![line("opened", 0, &|it| Some(it.connections_per_s))]),
        ("Rate", "echoes/s", false, vec![line("echoes", 0, &|it| Some(it.echoes_per_s))]),
        ("Payload, each way", "MiB/s", false, vec![line("payload", 0, &|it| Some(it.payload_bytes_per_s / MIB))]),
        (
            "Latency of each second",
            "µs, log scale",
            true,
            vec![
                line("p50", 0, &|it| Some(it.latency_us?.p50)),
                line("p99", 1, &|it| Some(it.latency_us?.p99)),
                line("max", 2, &|it| Some(it.latency_us?.max)),
            ],
        ),
        (
            "Processor time",
            "cores",
            false,
            vec![
                line("server", 0, &server(|it| Some(it.cores()))),
                line("server, user space only", 2, &server(|it| Some(it.cpu_user_cores))),
                line("load generator", 1, &|it| Some(it.load.cores())),
            ],
        ),
        (
            "Memory of the processes",
            "MiB",
            false,
            vec![
                line("server, resident", 0, &server(|it| Some(it.rss_bytes as f64 / MIB))),
                line("server, proportional", 2, &server(|it| Some(it.pss_bytes? as f64 / MIB))),
                line("load generator", 1, &|it| Some(it.load.rss_bytes as f64 / MIB)),
            ],
        ),
        (
            "Memory of the kernel",
            "MiB",
            false,
            vec![
                line("slab", 0, &|it| Some(it.kernel.slab_bytes as f64 / MIB)),
                line("TCP queues", 1, &|it| Some(it.kernel.tcp_queue_bytes as f64 / MIB)),
            ],
        ),
    ];
    let phases = phases(series);
    let chart = |(title, unit, log, lines)| Chart { title, unit, log, lines, phases: phases.clone() };
    charts.into_iter().map(chart).filter(Chart::shows_something).collect()
}

/// The phases with the times at which they end.
fn phases(series: &[Sample]) -> Vec<(&'static str, f64)> {
    let mut phases: Vec<(&'static str, f64)> = Vec::new();
    for sample in series {
        match phases.last_mut() {
            Some((name, end)) if *name == sample.phase.name() => *end = sample.time_s,
            _ => phases.push((sample.phase.name(), sample.time_s)),
        }
    }
    phases
}

/// Text as it may stand in an element or an attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Not allowed in a document, whatever a server may have sent.
            c if c.is_control() && !c.is_whitespace() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::super::report::{Failure, Report};
    use super::*;

    fn page(report: &Report) -> String {
        let mut page = Vec::new();
        write(report, &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    /// Every tag closed in its order, but for those that close themselves.
    fn check_tags(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = page;
        while let Some((_, behind)) = rest.split_once('<') {
            let (tag, behind) = behind.split_once('>').expect("a tag ends");
            rest = behind;
            if tag.starts_with('!') || tag.ends_with('/') {
                continue;
            }
            assert!(!tag.contains('<'), "a tag within the tag {tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closed out of order");
                continue;
            }
            let name = tag.split_whitespace().next().unwrap_or_default();
            open.push(name);
            if name == "script" || name == "style" {
                rest = &rest[rest.find("</").expect("it ends")..];
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
    }

    #[test]
    fn the_page_is_well_formed_and_complete() {
        let page = page(&report());
        check_tags(&page);
        for part in
            ["Verdict", "Open connections", "Latency by percentile", "somaxconn", "neither", "prefers-color-scheme"]
        {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("role=\"img\"").count(), "each chart has a name");
    }

    #[test]
    fn nothing_is_loaded_from_anywhere() {
        let page = page(&report());
        for reference in ["src=", "@import", "url(", "fetch(", "XMLHttpRequest", "http://", "https://"] {
            assert!(!page.contains(reference), "{reference}");
        }
        assert_eq!(page.matches("href=").count(), page.matches("href=\"data:,\"").count());
    }

    #[test]
    fn what_servers_say_cannot_become_markup() {
        let mut hostile = report();
        let cause = "<script>alert(1)</script>&\u{1}\"".to_owned();
        hostile.connections.failures.push(Failure { cause, count: 1, remedy: Some("<u>".to_owned()) });
        hostile.runs[0].target = "ws://x/?a=<i>&b='\"".to_owned();
        let page = page(&hostile);
        check_tags(&page);
        assert!(!page.contains("alert(1)</script>") && !page.contains("<u>") && !page.contains("<i>"));
    }

    #[test]
    fn a_run_that_never_measured_has_a_page_too() {
        let empty = Report { measured: None, verdict: None, series: Vec::new(), ..report() };
        check_tags(&page(&empty));
        let merged = super::super::merge::merge(&[report(), report()]).unwrap();
        check_tags(&page(&merged));
    }
}
