//! Plots of a comparison, as SVG: the ratio of each round with the median and its interval, and processor time against
//! memory.

use super::analysis::ratios_of;
use super::metric::Metric;
use super::results::{CellReport, ServerReport};
use super::statistics::{Interval, Verdict};
use super::table::{Matrix, add};
use crate::output::html::escape;

/// The size of the picture in its own units; the page scales it.
pub(super) const WIDTH: f64 = 640.0;
/// Margins for names at the left and for the axis labels.
const LEFT: f64 = 215.0;
const RIGHT: f64 = 20.0;
pub(super) const TOP: f64 = 8.0;
pub(super) const BOTTOM: f64 = 34.0;
/// The height of a row, enough for the letters of narrow pages (style.css: 18 px).
pub(super) const ROW: f64 = 27.0;

/// Ratios beyond these are drawn at the edge.
const LEAST: f64 = 0.05;
const MOST: f64 = 50.0;

/// Longer names are cut; a tooltip shows the whole name.
const NAME_MAX: usize = 20;

/// Ratios on a logarithmic axis.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// An axis that includes these ratios and 1.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (0.8_f64, 1.25_f64);
        for value in values {
            let value = value.clamp(LEAST, MOST);
            (low, high) = (low.min(value / 1.05), high.max(value * 1.05));
        }
        Self { low, high, from: LEFT, to: WIDTH - RIGHT }
    }

    fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        self.from + (value / self.low).ln() / (self.high / self.low).ln() * (self.to - self.from)
    }

    /// The values with a label, at a sufficient distance.
    fn ticks(&self) -> Vec<f64> {
        let all = [0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0];
        // 1 first, as the reference.
        let mut kept = vec![1.0];
        for value in all.into_iter().filter(|it| (self.low..=self.high).contains(it)) {
            if kept.iter().all(|&it| (self.at(it) - self.at(value)).abs() >= 55.0) {
                kept.push(value);
            }
        }
        kept
    }
}

fn class_of(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Better) => "better",
        Some(Verdict::Worse) => "worse",
        Some(Verdict::Same) => "same",
        Some(Verdict::CannotTell) | None => "unsure",
    }
}

/// A dot for each round of each server in a cell.
#[must_use]
pub fn dots(matrix: &Matrix, cell: &CellReport) -> String {
    let results = matrix.results;
    let is_other = |server: &&&ServerReport| server.name != results.settings.baseline;
    let servers: Vec<&&ServerReport> = matrix.servers.iter().filter(is_other).collect();
    let rows: Vec<(&ServerReport, Vec<f64>)> =
        servers.into_iter().map(|it| (*it, ratios_of(results, &it.name, cell))).collect();
    let scale = Scale::of(rows.iter().flat_map(|it| it.1.iter().copied()));
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    let label =
        format!("{}: {} as a multiple of {}'s, each round", cell.name, cell.metric.title(), results.settings.baseline);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">\n", escape(&label));
    axis(&mut svg, &scale, height);
    for (index, (server, ratios)) in rows.iter().enumerate() {
        let y = TOP + ROW * (index as f64 + 0.5);
        name(&mut svg, &server.name, y);
        let compared = matrix.compared(server, cell);
        let class = class_of(compared.and_then(|it| it.verdict));
        let confidence = results.settings.confidence;
        if let Some(ratio) = compared.and_then(|it| it.ratio).filter(|ratio| ratio.reaches(confidence)) {
            interval(&mut svg, &scale, &ratio, y, class);
        }
        for ratio in ratios {
            let x = scale.at(*ratio);
            add(
                &mut svg,
                format_args!(
                    "<circle class=\"round {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{ratio:.3}</title></circle>\n"
                ),
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

fn name(svg: &mut String, name: &str, y: f64) {
    let cut: String = name.chars().take(NAME_MAX).collect();
    let shown = if cut == name { cut } else { format!("{cut}…") };
    let (y, x, shown, name) = (y + 5.0, LEFT - 12.0, escape(&shown), escape(name));
    add(svg, format_args!("<text class=\"tick y\" x=\"{x:.0}\" y=\"{y:.1}\">{shown}<title>{name}</title></text>\n"));
}

fn axis(svg: &mut String, scale: &Scale, height: f64) {
    let bottom = height - BOTTOM;
    for tick in scale.ticks() {
        let x = scale.at(tick);
        let class = if (tick - 1.0).abs() < 1e-9 { "axis" } else { "grid" };
        add(
            svg,
            format_args!("<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\"/>\n"),
        );
        let y = bottom + 18.0;
        add(svg, format_args!("<text class=\"tick x\" x=\"{x:.1}\" y=\"{y:.1}\">{tick}</text>\n"));
    }
}

fn interval(svg: &mut String, scale: &Scale, ratio: &Interval, y: f64, class: &str) {
    let (low, high, median) = (scale.at(ratio.low), scale.at(ratio.high), scale.at(ratio.median));
    let (top, width) = (y - 6.0, (high - low).max(1.5));
    add(
        svg,
        format_args!(
            "<rect class=\"interval {class}\" x=\"{low:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"12\"/>\n"
        ),
    );
    let (y1, y2) = (y - 9.0, y + 9.0);
    add(
        svg,
        format_args!(
            "<line class=\"median {class}\" x1=\"{median:.1}\" x2=\"{median:.1}\" y1=\"{y1:.1}\" y2=\"{y2:.1}\"/>\n"
        ),
    );
}

/// A small interval for a field of the matrix; all share one axis, from a quarter to four times the baseline's value.
#[must_use]
pub fn bar(ratio: &Interval, verdict: Option<Verdict>) -> String {
    let at = |value: f64| 60.0 + (value.clamp(0.25, 4.0).ln() / 4.0_f64.ln()) * 56.0;
    let (low, high, median) = (at(ratio.low), at(ratio.high), at(ratio.median));
    let (class, width) = (class_of(verdict), (high - low).max(2.0));
    format!(
        "<svg class=\"bar\" viewBox=\"0 0 120 12\" role=\"img\" aria-label=\"from {:.2} to {:.2}\">\
         <line class=\"grid\" x1=\"4\" x2=\"116\" y1=\"6\" y2=\"6\"/><line class=\"axis\" x1=\"60\" x2=\"60\" y1=\"0\" y2=\"12\"/>\
         <rect class=\"interval {class}\" x=\"{low:.1}\" y=\"2\" width=\"{width:.1}\" height=\"8\"/>\
         <line class=\"median {class}\" x1=\"{median:.1}\" x2=\"{median:.1}\" y1=\"1\" y2=\"11\"/></svg>",
        ratio.low, ratio.high
    )
}

/// Processor time per echo against memory per idle connection, both on logarithmic axes. `None` unless both were
/// measured.
#[must_use]
pub fn scatter(matrix: &Matrix) -> Option<(String, &'static str)> {
    let has = |metric| matrix.cells.iter().find(|cell| cell.metric == metric);
    let cpu = has(Metric::CpuPerEcho)?;
    // Memory per connection, or else the peak.
    let (memory, title) = match has(Metric::BytesPerConnection) {
        Some(cell) => (*cell, "memory for each idle connection"),
        None => (*cpu, "peak memory"),
    };
    let metric =
        if memory.metric == Metric::BytesPerConnection { Metric::BytesPerConnection } else { Metric::PeakMemory };
    let value = |server: &ServerReport, cell: &CellReport, metric| {
        matrix.results.compared(&server.name, &cell.name, metric)?.value.filter(|&value| value > 0.0)
    };
    let point = |server: &&ServerReport| {
        Some((server.name.clone(), value(server, cpu, Metric::CpuPerEcho)?, value(server, memory, metric)?))
    };
    let points: Vec<(String, f64, f64)> = matrix.servers.iter().filter_map(point).collect();
    (points.len() >= 2).then(|| (draw_points(&points, metric), title))
}

/// A range slightly wider than the values, at least a factor of two.
fn logarithmic(values: impl Iterator<Item = f64>, from: f64, to: f64) -> impl Fn(f64) -> f64 {
    let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
    for value in values {
        (low, high) = (low.min(value), high.max(value));
    }
    (low, high) = (low / 1.3, (high * 1.3).max(low * 2.0));
    move |value| from + (value / low).ln() / (high / low).ln() * (to - from)
}

fn draw_points(points: &[(String, f64, f64)], metric: Metric) -> String {
    let height = 360.0;
    let (left, bottom) = (20.0, height - 20.0);
    let x_of = logarithmic(points.iter().map(|it| it.1), left, WIDTH - RIGHT);
    let y_of = logarithmic(points.iter().map(|it| it.2), bottom, 20.0);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"processor time for an echo against memory\">\n"
    );
    add(
        &mut svg,
        format_args!("<line class=\"axis\" x1=\"{left}\" x2=\"{WIDTH}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\n"),
    );
    add(&mut svg, format_args!("<line class=\"axis\" x1=\"{left}\" x2=\"{left}\" y1=\"0\" y2=\"{bottom}\"/>\n"));
    let mut labels: Vec<[f64; 4]> = Vec::new();
    for (name, cpu, memory) in points {
        let (x, y) = (x_of(*cpu), y_of(*memory));
        let (shown_name, shown) =
            (escape(name), format!("{}, {}", Metric::CpuPerEcho.show(*cpu), metric.show(*memory)));
        add(
            &mut svg,
            format_args!(
                "<circle class=\"round same\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{shown_name}: {shown}</title></circle>\n"
            ),
        );
        // A label is drawn where it overlaps no other one at the letter width of narrow pages; otherwise there is only
        // a tooltip.
        let width = 10.5 * name.chars().count() as f64;
        let places =
            [(x + 8.0, y + 6.0), (x - 8.0 - width, y + 6.0), (x - width / 2.0, y - 9.0), (x - width / 2.0, y + 24.0)];
        let is_free = |&(at, base): &(f64, f64)| {
            let own = [at, base - 18.0, at + width, base + 6.0];
            let is_inside = own[0] >= left && own[2] <= WIDTH && own[1] >= 0.0 && own[3] <= height;
            is_inside
                && labels.iter().all(|it| own[2] <= it[0] || it[2] <= own[0] || own[3] <= it[1] || it[3] <= own[1])
        };
        if let Some((at, base)) = places.into_iter().find(is_free) {
            labels.push([at, base - 18.0, at + width, base + 6.0]);
            add(&mut svg, format_args!("<text x=\"{at:.1}\" y=\"{base:.1}\">{shown_name}</text>\n"));
        }
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::results;

    #[test]
    fn each_round_is_a_dot() {
        let results = results(&[("base", 10.0), ("slow", 11.0), ("fast", 9.0)]);
        let matrix = Matrix::of(&results);
        let svg = dots(&matrix, matrix.cells[0]);
        assert_eq!(svg.matches("<circle class=\"round worse\"").count(), 9);
        assert_eq!(svg.matches("<circle class=\"round better\"").count(), 9);
    }

    #[test]
    fn too_few_rounds_are_dots_without_an_interval() {
        let mut results = results(&[("base", 10.0), ("slow", 11.0)]);
        results.runs.retain(|run| run.server != "slow" || run.round <= 3);
        crate::compare::analysis::analyse(&mut results);
        let matrix = Matrix::of(&results);
        let svg = dots(&matrix, matrix.cells[0]);
        assert_eq!((svg.matches("<circle").count(), svg.matches("<rect").count()), (3, 0), "{svg}");
    }

    #[test]
    fn ticks_have_room_and_one_is_among_them() {
        for values in [vec![], vec![0.9, 1.1], vec![0.2, 3.0], vec![0.001, 1000.0]] {
            let scale = Scale::of(values.iter().copied());
            let ticks = scale.ticks();
            assert!(ticks.contains(&1.0) && ticks.len() >= 2, "{ticks:?}");
            for value in &values {
                assert!((LEFT..=WIDTH - RIGHT).contains(&scale.at(*value)), "{value}");
            }
        }
    }
}
