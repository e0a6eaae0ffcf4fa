//! The results as one self-contained page: charts, numbers, scenario and machine.
//!
//! Charts are drawn here, as SVG, and readable without scripts; the small script only shows values under the pointer.

mod chart;
mod diff;
mod facts;
mod heat;
mod over_time;
mod percentiles;

use std::io::{self, Write};

pub(super) use self::facts::asked_for;
use super::diff::Diff;
use super::report::Report;
use super::units::count;
use crate::thresholds::Breach;
use crate::verdict::Bound;

const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/script.js");

/// Writes the page of one result.
pub fn write(report: &Report, breaches: &[Breach], file: &mut impl Write) -> io::Result<()> {
    let title = title(report);
    begin(&title, file)?;
    writeln!(file, "<header><h1>{}</h1>{}</header>\n<main>", escape(&title), facts::result(report, breaches))?;
    writeln!(file, "{}{}", verdict(report), facts::key_figures(report))?;
    writeln!(file, "<section><h2>Over time</h2>\n<div class=\"charts\">")?;
    for figure in over_time::figures(report) {
        writeln!(file, "{figure}")?;
    }
    writeln!(file, "</div></section>")?;
    if let Some(section) = percentiles::section(report) {
        writeln!(file, "{section}")?;
    }
    writeln!(file, "{}{}{}", facts::details(report), facts::scenario(report), facts::machines(report))?;
    end(report, file)
}

/// Writes the page of two results side by side.
pub fn write_diff(diff: &Diff, file: &mut impl Write) -> io::Result<()> {
    let title = format!("{} and {}", diff.names[0], diff.names[1]);
    begin(&title, file)?;
    writeln!(file, "<header><h1>{}</h1></header>\n<main>\n{}", escape(&title), diff::sections(diff))?;
    end(diff.reports[1], file)
}

/// The page down to its body.
pub(crate) fn begin(title: &str, file: &mut impl Write) -> io::Result<()> {
    writeln!(file, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>")?;
    writeln!(file, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>")?;
    writeln!(file, "<meta name=\"color-scheme\" content=\"light dark\"/>")?;
    // The policy forbids all requests, even by mistake.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
    writeln!(file, "<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\"/>")?;
    writeln!(file, "<link rel=\"icon\" href=\"data:,\"/>")?;
    writeln!(file, "<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>", escape(title))
}

fn end(report: &Report, file: &mut impl Write) -> io::Result<()> {
    end_with(&format!("ringload {}, form of results {}", report.ringload, report.version), file)
}

/// The end of the page, with a footer.
pub(crate) fn end_with(tail: &str, file: &mut impl Write) -> io::Result<()> {
    writeln!(file, "</main>\n<footer>{}</footer>\n<script>\n{SCRIPT}</script>\n</body>\n</html>", escape(tail))
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
        Bound::GeneratorBound | Bound::MachineBound | Bound::ServerEnded => "warn",
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

/// Text escaped for an element or an attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters are not allowed in HTML, but a server may send them.
            c if c.is_control() && !c.is_whitespace() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::report::tests::report;
    use super::super::report::{EarlyEnd, Failure, Report};
    use super::*;

    fn page(report: &Report) -> String {
        let mut page = Vec::new();
        write(report, &[], &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    /// Every tag is closed in order, except for void elements.
    pub(crate) fn check_tags(page: &str) {
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
    fn two_results_are_laid_side_by_side() {
        let (before, mut after) = (report(), report());
        after.measured.as_mut().unwrap().echoes_per_s = 500.0;
        let mut page = Vec::new();
        let names = ["<before>".to_owned(), "after".to_owned()];
        write_diff(&Diff::of([&before, &after], names), &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        check_tags(&page);
        assert!(page.contains("&lt;before&gt;") && page.contains("-50 %") && page.contains("class=\"worse\""));
        assert_eq!(page.matches("<b>Rate</b>").count(), 2, "one chart of each");
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
        let (address, said) = ("<i>".to_owned(), Some("<i>".to_owned()));
        hostile.connections.failures.push(Failure { cause, address, count: 1, said, remedy: Some("<u>".to_owned()) });
        let (how, reason) = ("<i>".to_owned(), Some("<u>".to_owned()));
        hostile.connections.early_ends.push(EarlyEnd { how, code: None, reason, count: 1, remedy: None });
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
