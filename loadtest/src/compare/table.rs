//! The matrix: the text of each cell for each server, for all outputs.

use std::fmt::Write;

use super::analysis::warnings;
use super::file::Class;
use super::groups::{Groups, groups};
use super::results::{CellReport, Compared, Results, ServerReport};
use super::statistics::{Interval, Verdict};
use super::words::one_line;
use crate::output::units::{counted, percent};

/// The matrix of a comparison.
#[derive(Debug)]
pub struct Matrix<'a> {
    /// The results.
    pub results: &'a Results,
    /// Measured servers: the baseline first, then in the order of the file.
    pub servers: Vec<&'a ServerReport>,
    /// Cells.
    pub cells: Vec<&'a CellReport>,
    /// By cell: groups of servers without a significant difference.
    pub groups: Vec<Groups>,
}

impl<'a> Matrix<'a> {
    /// The matrix of these results.
    #[must_use]
    pub fn of(results: &'a Results) -> Self {
        let mut servers: Vec<&ServerReport> = results.measured_servers().collect();
        servers.sort_by_key(|server| server.name != results.settings.baseline);
        let cells: Vec<&CellReport> = results.cells.iter().collect();
        let groups = cells.iter().map(|cell| groups(results, cell)).collect();
        Self { results, servers, cells, groups }
    }

    /// The conclusion for a server in a cell.
    #[must_use]
    pub fn compared(&self, server: &ServerReport, cell: &CellReport) -> Option<&'a Compared> {
        self.results.compared(&server.name, &cell.name, cell.metric)
    }

    /// Whether the server is first in the cell or tied for it.
    #[must_use]
    pub fn is_first(&self, server: &ServerReport, cell: usize) -> bool {
        self.groups[cell].told.first().is_some_and(|first| first.contains(&server.name))
    }

    /// A remark if the server's place in the cell cannot be told, with the number of rounds that are too few for it.
    #[must_use]
    pub fn untold(&self, server: &ServerReport, cell: usize) -> Option<String> {
        let (_, rounds) = self.groups[cell].untold.iter().find(|it| it.0 == server.name)?;
        Some(format!("place not told ({})", counted((*rounds).into(), "round")))
    }

    /// A field as text: the value, its ratio to the baseline with the interval and the verdict, or the reason why there
    /// is none.
    #[must_use]
    pub fn field(&self, server: &ServerReport, index: usize) -> (String, String) {
        let cell = self.cells[index];
        let Some(compared) = self.compared(server, cell) else { return ("-".to_owned(), String::new()) };
        let value = compared.value.map_or("-".to_owned(), |value| cell.metric.show(value));
        let mark = if compared.is_generator_bound && compared.value.is_some() { " ‡" } else { "" };
        let more = match (&compared.ratio, compared.verdict, &compared.reason) {
            (Some(ratio), Some(verdict), _) => {
                let shown = show_ratio(self.results, compared, ratio);
                format!("{shown} {}", verdict_text(verdict, ratio, cell.metric.is_speed()))
            }
            (None, _, Some(reason)) => short(reason).to_owned(),
            _ if server.name == self.results.settings.baseline => "baseline".to_owned(),
            _ => String::new(),
        };
        let untold = self.untold(server, index).map_or(String::new(), |untold| format!(", {untold}"));
        (format!("{value}{mark}"), format!("{more}{untold}"))
    }
}

/// `1.12 [1.10, 1.14]`, or `1.12 (3 of 9 rounds)` if these are too few for an interval.
fn show_ratio(results: &Results, compared: &Compared, ratio: &Interval) -> String {
    let digits = |value: f64| if value >= 10.0 { format!("{value:.1}") } else { format!("{value:.2}") };
    let certainty = match too_few(results, compared, ratio) {
        Some(rounds) => format!("({rounds})"),
        None => format!("[{}, {}]", digits(ratio.low), digits(ratio.high)),
    };
    format!("{} {certainty}", digits(ratio.median))
}

/// `3 of 9 rounds`, if so few have a ratio that their interval has not the requested confidence.
fn too_few(results: &Results, compared: &Compared, ratio: &Interval) -> Option<String> {
    let all = results.cells.iter().find(|cell| cell.name == compared.cell)?.rounds;
    let common = compared.common_rounds?;
    (!ratio.reaches(results.settings.confidence)).then(|| format!("{common} of {}", counted(all.into(), "round")))
}

fn verdict_text(verdict: Verdict, ratio: &Interval, is_speed: bool) -> String {
    match verdict {
        Verdict::Better | Verdict::Worse => {
            format!("{} by {}", verdict.name(is_speed), percent((ratio.median - 1.0).abs()))
        }
        Verdict::Same | Verdict::CannotTell => verdict.name(is_speed).to_owned(),
    }
}

/// The first words of a reason: the full text is in the JSON and below the page's matrix.
#[must_use]
pub fn short(reason: &str) -> &str {
    let reason = reason.lines().next().unwrap_or_default();
    reason.split_once(": ").map_or(reason, |(first, _)| first)
}

/// One sentence per pair and cell, for a terminal.
#[must_use]
pub fn text(results: &Results) -> String {
    let matrix = Matrix::of(results);
    let mut text = String::new();
    let name_width = matrix.servers.iter().map(|it| it.name.chars().count()).max().unwrap_or(0);
    for (index, cell) in matrix.cells.iter().enumerate() {
        add(&mut text, format_args!("\n{}: {}{}\n", cell.name, cell.metric.title(), rate_note(cell)));
        for server in &matrix.servers {
            let (value, more) = matrix.field(server, index);
            let first = if matrix.is_first(server, index) { "*" } else { " " };
            add(&mut text, format_args!("  {first} {:name_width$}  {value:>14}  {more}\n", server.name));
        }
    }
    add(&mut text, format_args!("\n{}\n", legend(results)));
    for server in results.servers.iter().filter(|it| it.skipped.is_some()) {
        let why = server.skipped.as_deref().unwrap_or_default();
        add(&mut text, format_args!("skipped: {}: {}\n", server.name, one_line(why)));
    }
    for (server, remark) in remarks(results) {
        add(&mut text, format_args!("remark: {server}: {remark}\n"));
    }
    for warning in warnings(results) {
        add(&mut text, format_args!("WARNING: {warning}\n"));
    }
    text
}

/// Notes for the reader of the figures, in a few sentences.
#[must_use]
pub fn legend(results: &Results) -> String {
    let settings = &results.settings;
    let generator = if results.comparisons.iter().any(|it| it.is_generator_bound) {
        " ‡: the generator was full in some rounds; what the server used for an echo is its own nevertheless, rates and \
         latencies are not compared."
    } else {
        ""
    };
    let rounds = results.rounds_of_cells();
    format!(
        "Medians of the valid rounds, of {rounds}; ratios to {} in the same round, with their median and a {} interval; less \
         is better but for rates. *: first, or not to be told apart from it.{generator} Differences within {} are called the \
         same. Seed {}.",
        settings.baseline,
        percent(settings.confidence),
        percent(settings.same_within),
        results.seed
    )
}

/// The rate found for an open loop.
#[must_use]
pub fn rate_note(cell: &CellReport) -> String {
    match (&cell.rate, cell.rate_per_s) {
        (Some(_), Some(rate)) => format!(" at {}/s for all", crate::output::units::count(rate.round() as u64)),
        _ => String::new(),
    }
}

/// The matrix as a Markdown table.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let matrix = Matrix::of(results);
    let mut text = format!("### {}\n\n| |", escape(&results.title));
    for cell in &matrix.cells {
        let metric = cell.metric.short_title();
        add(&mut text, format_args!(" {}<br>{metric}{} |", escape(&cell.name), rate_note(cell)));
    }
    text.push_str("\n|---|");
    text.push_str(&"--:|".repeat(matrix.cells.len()));
    text.push('\n');
    for server in &matrix.servers {
        let class = if server.class == Class::Reference { " (reference)" } else { "" };
        let version = server.version.as_ref().map_or(String::new(), |version| format!(" {}", escape(version)));
        add(&mut text, format_args!("| {}{version}{class} |", escape(&server.name)));
        for (index, cell) in matrix.cells.iter().enumerate() {
            let (value, _) = matrix.field(server, index);
            let value = if matrix.is_first(server, index) { format!("**{value}**") } else { value };
            let more = matrix.compared(server, cell).map_or(String::new(), |it| match (&it.ratio, &it.reason) {
                (Some(ratio), _) => {
                    let sure = if it.verdict == Some(Verdict::CannotTell) { "?" } else { "" };
                    let few = too_few(results, it, ratio).map_or(String::new(), |rounds| format!(" ({rounds})"));
                    format!("<br>×{:.2}{sure}{few}", ratio.median)
                }
                (None, Some(reason)) => format!("<br>{}", escape(short(reason))),
                _ => String::new(),
            });
            let untold = matrix.untold(server, index).map_or(String::new(), |untold| format!("<br>{untold}"));
            add(&mut text, format_args!(" {value}{more}{untold} |"));
        }
        text.push('\n');
    }
    add(&mut text, format_args!("\n{} **Bold** is what * stands for; ? cannot be told.\n", legend(results)));
    let skipped: Vec<String> = results.servers.iter().filter_map(skipped).collect();
    if !skipped.is_empty() {
        add(&mut text, format_args!("\nSkipped:\n\n{}", skipped.concat()));
    }
    let remarks: Vec<String> =
        remarks(results).map(|(server, remark)| format!("- {}: {}\n", escape(server), escape(remark))).collect();
    if !remarks.is_empty() {
        add(&mut text, format_args!("\nRemarks:\n\n{}", remarks.concat()));
    }
    for warning in warnings(results) {
        add(&mut text, format_args!("\n- WARNING: {}\n", escape(&warning)));
    }
    text
}

/// The remarks on measured servers, with their names.
fn remarks(results: &Results) -> impl Iterator<Item = (&str, &str)> {
    results.measured_servers().flat_map(|it| it.remarks.iter().map(move |remark| (it.name.as_str(), remark.as_str())))
}

fn skipped(server: &ServerReport) -> Option<String> {
    let why = one_line(server.skipped.as_deref()?);
    Some(format!("- {}: {}\n", escape(&server.name), escape(&why)))
}

/// The ratios to the baseline in results of several days or machines side by side, as Markdown.
#[must_use]
pub fn side_by_side(all: &[(String, Results)]) -> String {
    let mut text = String::new();
    for (name, results) in all {
        add(&mut text, format_args!("- {}: {}\n", escape(name), escape(&legend(results))));
        for server in results.servers.iter().filter_map(skipped) {
            add(&mut text, format_args!("- {}: skipped: {}", escape(name), server.trim_start_matches("- ")));
        }
        for warning in warnings(results) {
            add(&mut text, format_args!("- {}: WARNING: {}\n", escape(name), escape(&warning)));
        }
    }
    text.push('\n');
    let mut cells: Vec<&CellReport> = Vec::new();
    let mut servers: Vec<&str> = Vec::new();
    for (_, results) in all {
        for cell in &results.cells {
            if !cells.iter().any(|it| it.name == cell.name && it.metric == cell.metric) {
                cells.push(cell);
            }
        }
        for server in results.measured_servers() {
            if !servers.contains(&server.name.as_str()) {
                servers.push(&server.name);
            }
        }
    }
    for cell in cells {
        add(&mut text, format_args!("### {}: {}\n\n| |", escape(&cell.name), cell.metric.title()));
        for (name, results) in all {
            add(&mut text, format_args!(" {}<br>{} |", escape(name), escape(&results.machine.hostname)));
        }
        add(&mut text, format_args!("\n|---|{}\n", "--:|".repeat(all.len())));
        for server in &servers {
            add(&mut text, format_args!("| {} |", escape(server)));
            for (_, results) in all {
                let field = results.compared(server, &cell.name, cell.metric).map_or("-".to_owned(), |it| {
                    let value = it.value.map_or("-".to_owned(), |value| cell.metric.show(value));
                    match (&it.ratio, &it.reason) {
                        (Some(ratio), _) => {
                            let sure = if it.verdict == Some(Verdict::CannotTell) { "?" } else { "" };
                            format!("{value}<br>×{}{sure}", show_ratio(results, it, ratio))
                        }
                        (None, Some(reason)) => format!("{value}<br>{}", escape(short(reason))),
                        _ if *server == results.settings.baseline => format!("{value}<br>baseline"),
                        _ => value,
                    }
                });
                add(&mut text, format_args!(" {field} |"));
            }
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

/// Text escaped for a Markdown table.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' => escaped.extend(['\\', c]),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

pub(super) fn add(text: &mut String, arguments: std::fmt::Arguments) {
    text.write_fmt(arguments).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::results;

    #[test]
    fn the_text_says_who_is_faster_by_how_much_and_how_sure() {
        let text = text(&results(&[("base", 10.0), ("slow", 11.0), ("same", 10.0)]));
        let line =
            |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(line("* base").contains("10.0 µs  baseline"), "{text}");
        assert!(line("  slow").contains("11.0 µs  1.10 [1.10, 1.10] slower by 10 %"), "{text}");
        assert!(line("* same").contains("same within noise"), "{text}");
        assert!(text.contains("Medians of the valid rounds, of 9; ratios to base"), "{text}");
    }

    #[test]
    fn too_few_rounds_have_no_interval_and_no_place() {
        let mut it = results(&[("base", 10.0), ("slow", 20.0)]);
        it.runs.retain(|run| run.server != "slow" || run.round <= 3);
        crate::compare::analysis::analyse(&mut it);
        let (text, markdown) = (text(&it), markdown(&it));
        let line = text.lines().find(|line| line.contains("slow")).unwrap();
        assert!(line.starts_with("    slow"), "it is not first: {text}");
        assert!(line.ends_with("2.00 (3 of 9 rounds) cannot tell, place not told (3 rounds)"), "{text}");
        assert!(
            markdown.contains("| slow | 20.0 µs<br>×2.00? (3 of 9 rounds)<br>place not told (3 rounds) |"),
            "{markdown}"
        );
        it.cells.push(CellReport { name: "other".to_owned(), rounds: 6, ..it.cells[0].clone() });
        assert!(legend(&it).starts_with("Medians of the valid rounds, of 6 to 9; "), "{}", legend(&it));
    }

    #[test]
    fn markdown_has_a_row_for_each_and_lists_what_was_skipped() {
        let mut it = results(&[("base", 10.0), ("slow", 11.0), ("gone", 11.0)]);
        it.servers[2].skipped = Some("it did not pass the gate: | text |".to_owned());
        crate::compare::analysis::analyse(&mut it);
        let text = markdown(&it);
        assert!(text.contains("| | 128 B x 100<br>CPU per echo |\n|---|--:|\n"), "{text}");
        assert!(text.contains("| base | **10.0 µs** |") && text.contains("| slow | 11.0 µs<br>×1.10 |"), "{text}");
        assert!(text.contains("- gone: it did not pass the gate: \\| text \\|"), "{text}");
        assert!(!text.contains("| gone |") && !text.contains("Remarks"), "{text}");
        it.servers[1].remark("round 1, 128 B x 100: it died; repeated");
        assert!(markdown(&it).contains("\nRemarks:\n\n- slow: round 1, 128 B x 100: it died; repeated\n"));
    }

    #[test]
    fn days_are_laid_side_by_side() {
        let days = [("monday", 11.0), ("tuesday", 12.0)];
        let all = days.map(|(day, value)| (day.to_owned(), results(&[("base", 10.0), ("other", value)])));
        let text = side_by_side(&all);
        assert!(text.contains("| other | 11.0 µs<br>×1.10") && text.contains("| 12.0 µs<br>×1.20"), "{text}");
        assert!(text.contains("- tuesday: Medians of the valid rounds, of 9; ratios to base"), "{text}");
        assert!(text.contains("| base | 10.0 µs<br>baseline |"), "{text}");

        let [monday, (day, mut tuesday)] = all;
        tuesday.servers[0].skipped = Some("it crashed".to_owned());
        tuesday.runs.retain(|run| run.server != "base");
        crate::compare::analysis::analyse(&mut tuesday);
        let text = side_by_side(&[monday, (day, tuesday)]);
        for part in [
            "- tuesday: skipped: base: it crashed\n",
            "- tuesday: WARNING: the baseline base was skipped: there are no ratios\n",
            "| base | 10.0 µs<br>baseline | - |\n",
            "| 12.0 µs<br>base has no value here to compare with |",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
