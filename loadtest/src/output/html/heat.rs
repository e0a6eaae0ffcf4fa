//! Latency over time as a heat map: a column per interval, coloured by the share of its echoes in each range of latencies.
//!
//! Percentiles hide shapes: if some echoes are held up by a stall and the others are not, the median may be a latency
//! that no echo had.

use super::chart::{
    self, Axis, BOTTOM, HEIGHT, LEFT, RIGHT, Range, Scale, TOP, WIDTH, add, draw_phases, draw_time_axis, draw_y_axis,
};
use super::over_time::phases;
use crate::interval::IntervalHistogram;
use crate::series::{Encoded, Sample};

/// Limit of columns: at four units each, more could not be told apart.
const MAX_COLUMNS: usize = 135;

/// Rows per factor of ten: one row spans about 29 % of its latency, similar in size to a column.
const ROWS_PER_DECADE: f64 = 9.0;

/// The number of shades, and the smallest share of a column that is drawn: one echo in a hundred thousand.
const SHADES: usize = 8;
const MIN_SHARE: f64 = 1e-5;

/// A heat map.
pub(super) struct Map {
    columns: Vec<Column>,
    phases: Vec<(&'static str, f64)>,
}

struct Column {
    from_s: f64,
    to_s: f64,
    histogram: IntervalHistogram,
}

impl Map {
    /// The heat map of a series; `None` without echoes.
    pub(super) fn of(series: &[Sample]) -> Option<Self> {
        let per_column = series.len().div_ceil(MAX_COLUMNS).max(1);
        let columns: Vec<_> = series.chunks(per_column).filter_map(Column::of).collect();
        (!columns.is_empty()).then(|| Self { columns, phases: phases(series) })
    }

    /// The content as SVG.
    pub(super) fn range(&self) -> Range {
        let us = |ns: u64| (ns as f64 / 1000.0).max(1.0);
        let min = self.columns.iter().map(|it| us(it.histogram.min())).fold(f64::INFINITY, f64::min);
        let max = self.columns.iter().map(|it| us(it.histogram.max())).fold(0.0, f64::max);
        Range { min, max, end_s: self.phases.last().map_or(1.0, |phase| phase.1) }
    }

    pub(super) fn render(&self, range: Range) -> String {
        let x = Scale::linear_to(range.end_s.max(0.001), LEFT, WIDTH - RIGHT);
        let y = Scale::log(range.min, range.max, HEIGHT - BOTTOM, TOP);
        let title = "Latency of each second, by how many";
        let mut svg =
            chart::open(title, "latency over the time of the run in seconds, darker where more echoes took so long");
        draw_phases(&mut svg, x, &self.phases);
        draw_y_axis(&mut svg, y, "log scale", Axis::LogTime.label());
        draw_time_axis(&mut svg, x, range.end_s);
        for (shade, path) in self.paths(x, y).iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            add(&mut svg, format_args!("<path class=\"heat h{}\" d=\"{path}\"/>", shade + 1));
        }
        svg.push_str("</svg>");
        let mut keys = String::new();
        for shade in 1..=SHADES {
            add(&mut keys, format_args!("<i class=\"h{shade}\"></i>"));
        }
        format!(
            "<figure><figcaption><b>{title}</b> <span class=\"unit\">log scale</span><span class=\"legend\">0.001 % \
             <span class=\"shades\">{keys}</span> all echoes of the second</span></figcaption>\n{svg}\n</figure>"
        )
    }

    /// The cells of each shade.
    fn paths(&self, x: Scale, y: Scale) -> [String; SHADES] {
        let mut paths: [String; SHADES] = Default::default();
        for column in &self.columns {
            let (left, right) = (x.at(column.from_s), x.at(column.to_s));
            for (row, share) in column.rows() {
                let edge = |row: i32| y.at(10_f64.powf(f64::from(row) / ROWS_PER_DECADE));
                let (bottom, top) = (edge(row), edge(row + 1));
                let (width, height) = (right - left, bottom - top);
                let cell = format_args!("M{left:.1} {top:.1}h{width:.1}v{height:.1}h{:.1}z", -width);
                add(&mut paths[shade(share)], cell);
            }
        }
        paths
    }
}

impl Column {
    fn of(samples: &[Sample]) -> Option<Self> {
        let mut histograms = samples.iter().filter_map(|it| it.latency_histogram.as_ref().and_then(Encoded::decode));
        let mut histogram = histograms.next().filter(|it| !it.is_empty() || samples.len() > 1)?;
        histogram.auto(true);
        histograms.for_each(|other| histogram.add(other).expect("there is memory for a larger histogram"));
        let (first, last) = (samples.first()?, samples.last()?);
        let (from_s, to_s) = (first.time_s - first.interval_s, last.time_s);
        (!histogram.is_empty()).then_some(Self { from_s, to_s, histogram })
    }

    /// The rows that have echoes, with their share of all.
    fn rows(&self) -> std::collections::BTreeMap<i32, f64> {
        let mut rows = std::collections::BTreeMap::new();
        for bar in self.histogram.iter_recorded() {
            let us = (bar.value_iterated_to() as f64 / 1000.0).max(1.0);
            let row = (us.log10() * ROWS_PER_DECADE).floor() as i32;
            *rows.entry(row).or_default() += bar.count_at_value() as f64 / self.histogram.len() as f64;
        }
        rows
    }
}

/// The shade of a share, in equal steps of its logarithm.
fn shade(share: f64) -> usize {
    let step = 1.0 - share.max(MIN_SHARE).log10() / MIN_SHARE.log10();
    ((step * SHADES as f64) as usize).min(SHADES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::sample;

    #[test]
    fn rare_echoes_have_a_shade_of_their_own() {
        assert_eq!([1e-9, 1e-5, 1e-3, 0.02, 0.5, 1.0].map(shade), [0, 0, 3, 5, 7, 7]);
    }

    #[test]
    fn two_groups_of_echoes_stay_two() {
        let mut both = sample(2.0, 1000.0, 100);
        let mut histogram = both.latency_histogram.as_ref().unwrap().decode().unwrap();
        histogram.record_n(80_000_000, 10).unwrap();
        both.latency_histogram = Some(Encoded::new(&histogram));
        let map = Map::of(&[sample(1.0, 1000.0, 100), both]).unwrap();
        assert_eq!(map.columns.iter().map(|column| column.rows().len()).collect::<Vec<_>>(), [1, 2]);
        let svg = map.render(map.range());
        let cells = |shade: usize| {
            let path = svg.split(&format!("heat h{shade}\" d=\"")).nth(1).map(|rest| rest.split('"').next().unwrap());
            path.map_or(0, |path| path.matches('M').count())
        };
        assert_eq!((cells(8), cells(5)), (2, 1), "{svg}");
    }

    #[test]
    fn a_long_run_has_no_more_columns_than_can_be_seen() {
        let series: Vec<_> = (1..=1000).map(|second| sample(f64::from(second), 10.0, 50)).collect();
        let map = Map::of(&series).unwrap();
        assert!(map.columns.len() <= MAX_COLUMNS);
        let last = map.columns.last().unwrap();
        assert!((last.to_s - 1000.0).abs() < 1e-9 && map.columns[0].histogram.len() == 80);
        assert!(Map::of(&[]).is_none());
    }
}
