//! A comparison as one self-contained SVG, for a README.

use super::file::Class;
use super::metric::Metric;
use super::plot::{BOTTOM, ROW, TOP, WIDTH, dots};
use super::results::{CellReport, Results, ServerReport};
use super::table::{Matrix, add};
use crate::output::html::escape;

/// Colours of a standalone picture, for light and dark mode.
const ALONE: &str = "\
svg { background: #fff; } text { font: 13px system-ui, sans-serif; fill: #57606a; } .title { font-weight: 600; fill: #1b1f24; }
.tick.x { text-anchor: middle; } .tick.y { text-anchor: end; } .grid { stroke: #d8dee4; } .axis { stroke: #57606a; }
.interval, .round { fill: #57606a; } .median { stroke: #57606a; stroke-width: 2; } .interval { opacity: .35; } .round { opacity: .7; }
.interval.better, .round.better { fill: #16703a; } .median.better { stroke: #16703a; }
.interval.worse, .round.worse { fill: #b3261e; } .median.worse { stroke: #b3261e; }
.head { font-weight: 600; } .bar { fill: #8b98a5; } .bar.own { fill: #0969da; } .bar.reference { fill: #c9d1d9; } text.own { font-weight: 600; fill: #0969da; }
@media (prefers-color-scheme: dark) {
  svg { background: #14181d; } text { fill: #9aa5b1; } .title { fill: #e6e9ed; } .grid { stroke: #333c46; } .axis { stroke: #9aa5b1; }
  .interval, .round { fill: #9aa5b1; } .median { stroke: #9aa5b1; }
  .interval.better, .round.better { fill: #6bd08f; } .median.better { stroke: #6bd08f; }
  .interval.worse, .round.worse { fill: #ff8a80; } .median.worse { stroke: #ff8a80; }
  .bar { fill: #6b7785; } .bar.own, text.own { fill: #58a6ff; } .bar.reference { fill: #3d4752; }
}";

/// A standalone chart: for one cell with processor times and one with memory, bars of both side by side; otherwise the
/// ratios in all cells, one below the other.
#[must_use]
pub fn alone(results: &Results) -> String {
    let matrix = Matrix::of(results);
    let (body, height) = match matrix.cells[..] {
        [cpu, memory] if (cpu.metric, memory.metric) == (Metric::CpuPerEcho, Metric::BytesPerConnection) => {
            bars(&matrix, cpu, memory)
        }
        _ => all_dots(&matrix),
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         role=\"img\" aria-label=\"{}\">\n<style>\n{ALONE}\n</style>\n{body}</svg>\n",
        escape(&results.title)
    )
}

fn all_dots(matrix: &Matrix) -> (String, f64) {
    let results = matrix.results;
    let (mut body, mut y) = (String::new(), 0.0);
    for cell in &matrix.cells {
        let others = matrix.servers.iter().filter(|it| it.name != results.settings.baseline).count() as f64;
        let height = TOP + ROW * others + BOTTOM;
        let title = format!("{}: {}, {} = 1", cell.name, cell.metric.title(), results.settings.baseline);
        let (title_y, top) = (y + 20.0, y + 28.0);
        add(&mut body, format_args!("<text class=\"title\" x=\"10\" y=\"{title_y}\">{}</text>\n", escape(&title)));
        let inner = dots(matrix, cell).replacen(
            "<svg ",
            &format!("<svg x=\"0\" y=\"{top}\" width=\"{WIDTH}\" height=\"{height:.0}\" "),
            1,
        );
        body.push_str(&inner);
        body.push('\n');
        y = top + height;
    }
    (body, y + 10.0)
}

/// The left edges and the maximum lengths of the bars of processor time and of memory; figures follow the bars.
const BARS: [f64; 2] = [170.0, 425.0];
const BAR_MAX: f64 = 140.0;
const BAR_ROW: f64 = 22.0;
/// The first row, below two lines of heads.
const BARS_TOP: f64 = 42.0;

/// Servers by processor time. The bars of memory are logarithmic, since servers differ by factors of a thousand.
fn bars(matrix: &Matrix, cpu: &CellReport, memory: &CellReport) -> (String, f64) {
    let value = |server: &ServerReport, cell: &CellReport| {
        let compared = matrix.compared(server, cell)?;
        compared.value.filter(|&value| value > 0.0)
    };
    let mut rows: Vec<_> =
        matrix.servers.iter().filter_map(|it| Some((*it, value(it, cpu)?, value(it, memory)))).collect();
    rows.sort_by(|a, b| a.1.total_cmp(&b.1));
    let most = rows.iter().map(|it| it.1).fold(f64::MIN_POSITIVE, f64::max);
    let (low, high) = rows
        .iter()
        .filter_map(|it| it.2)
        .fold((f64::MAX, 1.0_f64), |(low, high), memory| (low.min(memory), high.max(memory)));
    let logarithmic = |value: f64| (value / low * 2.0).ln() / (high / low * 2.0).ln().max(1.0);
    let mut body = String::new();
    let heads = [[&cpu.name, cpu.metric.short_title()], [&memory.name, "memory each (log)"]];
    for (x, head) in BARS.into_iter().zip(heads) {
        // Below each other: side by side a long name would reach into the next column.
        for (y, line) in [16, 32].into_iter().zip(head) {
            add(&mut body, format_args!("<text class=\"head\" x=\"{x}\" y=\"{y}\">{}</text>\n", escape(line)));
        }
    }
    for (index, (server, cpu_us, bytes)) in rows.iter().enumerate() {
        let y = BARS_TOP + BAR_ROW * index as f64;
        let class = match (server.name == matrix.results.settings.baseline, server.class) {
            (true, _) => "own",
            (_, Class::Reference) => "reference",
            _ => "other",
        };
        let x = BARS[0] - 8.0;
        add(
            &mut body,
            format_args!(
                "<text class=\"tick y {class}\" x=\"{x}\" y=\"{:.0}\">{}</text>\n",
                y + 13.0,
                escape(&server.name)
            ),
        );
        let lengths = [
            Some((cpu_us / most, cpu.metric.show(*cpu_us))),
            bytes.map(|it| (logarithmic(it), memory.metric.show(it))),
        ];
        for (x, (share, shown)) in BARS.into_iter().zip(lengths).filter_map(|(x, it)| Some((x, it?))) {
            let width = (share * BAR_MAX).max(2.0);
            add(
                &mut body,
                format_args!(
                    "<rect class=\"bar {class}\" x=\"{x}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{}\" rx=\"2\"/>\n",
                    BAR_ROW - 6.0
                ),
            );
            add(
                &mut body,
                format_args!("<text x=\"{:.1}\" y=\"{:.0}\">{}</text>\n", x + width + 6.0, y + 13.0, escape(&shown)),
            );
        }
    }
    (body, BARS_TOP + BAR_ROW * rows.len() as f64 + 6.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::results;

    #[test]
    fn cells_stand_below_each_other() {
        let svg = alone(&results(&[("base", 10.0), ("slow", 11.0), ("fast", 9.0)]));
        assert!(svg.starts_with("<svg xmlns") && svg.contains("class=\"round worse\""), "{svg}");
    }

    #[test]
    fn processor_time_and_memory_stand_beside_each_other() {
        let mut results = results(&[("base", 10.0), ("slow", 20.0)]);
        let mut memory = results.cells[0].clone();
        (memory.name, memory.metric) = ("idle".to_owned(), Metric::BytesPerConnection);
        for server in ["base", "slow"] {
            let mut it = results.compared(server, &results.cells[0].name, Metric::CpuPerEcho).unwrap().clone();
            (it.cell, it.metric, it.value) = ("idle".to_owned(), Metric::BytesPerConnection, Some(64.0));
            results.comparisons.push(it);
        }
        results.cells.push(memory);
        let svg = alone(&results);
        assert_eq!(svg.matches("<rect class=\"bar").count(), 4, "{svg}");
        assert!(svg.find(">base<").unwrap() < svg.find(">slow<").unwrap(), "the one that takes less comes first");
    }
}
