//! Charts over time, as SVG.

use std::fmt::Write;

use super::escape;

/// The size of the picture in its own units; the page scales it.
pub(super) const WIDTH: f64 = 640.0;
pub(super) const HEIGHT: f64 = 270.0;

/// Margins for labels, which are larger on narrow pages (style.css).
pub(super) const LEFT: f64 = 76.0;
pub(super) const RIGHT: f64 = 24.0;
pub(super) const TOP: f64 = 28.0;
pub(super) const BOTTOM: f64 = 50.0;

/// Limit of points: more could not be told apart.
const MAX_POINTS: usize = 1200;

/// The narrowest phase with a label, and the narrowest one with a large label.
const MIN_PHASE_WIDTH: f64 = 50.0;
const MIN_PHASE_WIDTH_NARROW: f64 = 84.0;

/// A chart over time.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) axis: Axis,
    pub(super) lines: Vec<Line>,
    /// The phases with the times at which they end.
    pub(super) phases: Vec<(&'static str, f64)>,
}

/// The scale of the value axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// Linear from 0.
    Linear,
    /// Logarithmic, for times in microseconds.
    LogTime,
}

/// The range of a chart's values; charts on the same scale share the union of their ranges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) min: f64,
    pub(super) max: f64,
    /// The end of the time axis.
    pub(super) end_s: f64,
}

impl Range {
    pub(super) fn and(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max), end_s: self.end_s.max(other.end_s) }
    }
}

/// One line of a chart, with a gap where a value is unknown.
pub(super) struct Line {
    pub(super) name: &'static str,
    /// The index of the page's colour.
    pub(super) color: usize,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// The mapping of values to positions on an axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

impl Scale {
    /// From 0 to the next round number not below `max`.
    pub(super) fn linear(max: f64, from: f64, to: f64) -> Self {
        let max = if max > 0.0 { max } else { 1.0 };
        let step = round_step(max / 4.0);
        Self { low: 0.0, high: (max / step).ceil() * step, log: false, from, to }
    }

    /// From 0 to exactly `max`.
    pub(super) fn linear_to(max: f64, from: f64, to: f64) -> Self {
        Self { low: 0.0, high: max, log: false, from, to }
    }

    /// The powers of ten around `min` and `max`.
    pub(super) fn log(min: f64, max: f64, from: f64, to: f64) -> Self {
        let low = 10_f64.powf(min.max(1e-3).log10().floor());
        let high = 10_f64.powf(max.max(1e-3).log10().ceil()).max(low * 10.0);
        Self { low, high, log: true, from, to }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// The values with a label.
    pub(super) fn ticks(&self) -> Vec<f64> {
        if self.log {
            let decades = (self.high / self.low).log10().round() as i32;
            let between: &[f64] = if decades <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let values =
                (0..=decades).flat_map(|decade| between.iter().map(move |it| it * self.low * 10_f64.powi(decade)));
            return values.filter(|&value| value <= self.high * 1.001).collect();
        }
        let step = round_step((self.high - self.low) / 4.0);
        let count = ((self.high - self.low) / step + 0.001) as u32;
        (0..=count).map(|tick| self.low + f64::from(tick) * step).collect()
    }
}

/// The next larger of 1, 2, 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    factors.into_iter().map(|factor| factor * power).find(|&it| it >= step * 0.999).unwrap_or(power * 10.0)
}

impl Chart {
    pub(super) fn shows_something(&self) -> bool {
        self.lines.iter().any(Line::is_known)
    }

    /// The content as SVG.
    pub(super) fn range(&self) -> Range {
        let values = self.lines.iter().flat_map(|line| line.points.iter().filter_map(|point| point.1));
        let (min, max) = values.fold((f64::INFINITY, 0.0), |(min, max), it| (f64::min(min, it), f64::max(max, it)));
        Range { min, max, end_s: self.phases.last().map_or(1.0, |phase| phase.1) }
    }

    pub(super) fn render(&self, range: Range) -> String {
        let lines: Vec<_> = self.lines.iter().filter(|line| line.is_known()).collect();
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let x = Scale::linear_to(range.end_s.max(0.001), LEFT, right);
        let y = match self.axis {
            Axis::Linear => Scale::linear(range.max, bottom, TOP),
            Axis::LogTime => Scale::log(range.min, range.max, bottom, TOP),
        };
        let label = self.axis.label();
        let mut svg = open(self.title, &format!("{} over the time of the run in seconds", self.unit));
        draw_phases(&mut svg, x, &self.phases);
        draw_y_axis(&mut svg, y, self.unit, label);
        draw_time_axis(&mut svg, x, range.end_s);
        for line in &lines {
            line.draw(&mut svg, x, y);
        }
        svg.push_str("</svg>");
        let legend: String = lines.iter().map(|line| line.legend()).collect();
        let (title, unit) = (escape(self.title), escape(self.unit));
        let data = data(&lines, x, label);
        format!(
            "<figure data-chart=\"{}\"><figcaption><b>{title}</b> <span class=\"unit\">{unit}</span>\
             <span class=\"legend\">{legend}</span></figcaption>\n{svg}\n</figure>",
            escape(&data)
        )
    }
}

impl Axis {
    /// The format of its values.
    pub(super) fn label(self) -> fn(f64) -> String {
        match self {
            Self::Linear => number,
            Self::LogTime => short_time,
        }
    }
}

/// A round time in microseconds: `10 µs`, `1 ms`.
pub(super) fn short_time(us: f64) -> String {
    match us {
        it if it >= 1e6 => format!("{} s", number(it / 1e6)),
        it if it >= 1e3 => format!("{} ms", number(it / 1e3)),
        it => format!("{} µs", number(it)),
    }
}

pub(super) fn draw_phases(svg: &mut String, x: Scale, phases: &[(&'static str, f64)]) {
    let mut begin = 0.0;
    for (index, &(name, end)) in phases.iter().enumerate() {
        let (from, to) = (x.at(begin), x.at(end));
        let (width, height) = (to - from, HEIGHT - TOP - BOTTOM);
        let shade = if index % 2 == 0 { "phase" } else { "phase odd" };
        let rect = format!("x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"");
        add(svg, format_args!("<rect class=\"{shade}\" {rect}><title>{name}</title></rect>"));
        if width >= MIN_PHASE_WIDTH {
            let class = if width >= MIN_PHASE_WIDTH_NARROW { "name" } else { "name minor" };
            let middle = f64::midpoint(from, to);
            add(svg, format_args!("<text class=\"{class}\" x=\"{middle:.1}\" y=\"{}\">{name}</text>", TOP - 9.0));
        }
        begin = end;
    }
}

/// The time axis.
pub(super) fn draw_time_axis(svg: &mut String, x: Scale, end_s: f64) {
    for time in time_ticks(end_s) {
        draw_x_tick(svg, x.at(time), &number(time), false);
    }
    draw_x_title(svg, "time in s");
}

impl Line {
    fn is_known(&self) -> bool {
        self.points.iter().any(|point| point.1.is_some())
    }

    fn legend(&self) -> String {
        format!("<span class=\"key c{}\">{}</span>", self.color, escape(self.name))
    }

    /// With many points, each step shows the highest value of its interval, so that peaks stay visible.
    fn draw(&self, svg: &mut String, x: Scale, y: Scale) {
        let mut path = String::new();
        let mut pen_down = false;
        for places in self.points.chunks(self.points.len().div_ceil(MAX_POINTS).max(1)) {
            let highest =
                places.iter().filter_map(|point| Some((point.0, point.1?))).max_by(|a, b| a.1.total_cmp(&b.1));
            let Some((time, value)) = highest else {
                pen_down = false;
                continue;
            };
            let command = if pen_down { 'L' } else { 'M' };
            add(&mut path, format_args!("{command}{:.1} {:.1}", x.at(time), y.at(value)));
            pen_down = true;
        }
        let known: Vec<_> = self.points.iter().filter_map(|point| Some((point.0, point.1?))).collect();
        add(
            svg,
            format_args!(
                "<path class=\"line c{}\" d=\"{path}\"><title>{}</title></path>",
                self.color,
                escape(self.name)
            ),
        );
        // A single point has no line and is drawn as a dot.
        if let [(time, value)] = known[..] {
            let (cx, cy) = (x.at(time), y.at(value));
            add(svg, format_args!("<circle class=\"dot c{}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\"/>", self.color));
        }
    }
}

/// Data for the script: each sample's position, its time and the lines' values.
fn data(lines: &[&Line], x: Scale, label: fn(f64) -> String) -> String {
    let names: Vec<_> = lines.iter().map(|line| line.name).collect();
    let row = |index: usize| {
        let time = lines[0].points[index].0;
        let place = (x.at(time) / WIDTH * 10_000.0).round() / 10_000.0;
        let values: Vec<_> = lines.iter().map(|line| line.points[index].1.map(label)).collect();
        serde_json::json!([place, number(time), values])
    };
    let count = lines.first().map_or(0, |line| line.points.len());
    let rows: Vec<_> = (0..count).step_by(count.div_ceil(MAX_POINTS).max(1)).map(row).collect();
    serde_json::json!({ "names": names, "rows": rows }).to_string()
}

/// The opening tag of a picture, with its name and description.
pub(super) fn open(title: &str, description: &str) -> String {
    let label = escape(&format!("{title}: {description}"));
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">")
}

pub(super) fn draw_y_axis(svg: &mut String, y: Scale, unit: &str, label: fn(f64) -> String) {
    let right = WIDTH - RIGHT;
    for value in y.ticks() {
        let at = y.at(value);
        add(svg, format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"));
        let (x, baseline, text) = (LEFT - 7.0, at + 4.0, label(value));
        add(svg, format_args!("<text class=\"tick y\" x=\"{x}\" y=\"{baseline:.1}\">{text}</text>"));
    }
    let middle = f64::midpoint(TOP, HEIGHT - BOTTOM);
    let turned = format!("transform=\"translate(12 {middle}) rotate(-90)\"");
    add(svg, format_args!("<text class=\"name turned\" {turned}>{}</text>", escape(unit)));
}

/// A minor label is left out where labels are large.
pub(super) fn draw_x_tick(svg: &mut String, at: f64, text: &str, is_minor: bool) {
    let (bottom, end, baseline) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 4.0, HEIGHT - BOTTOM + 20.0);
    add(svg, format_args!("<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{end}\"/>"));
    let class = if is_minor { "tick x minor" } else { "tick x" };
    add(svg, format_args!("<text class=\"{class}\" x=\"{at:.1}\" y=\"{baseline}\">{text}</text>"));
}

pub(super) fn draw_x_title(svg: &mut String, text: &str) {
    let (middle, baseline) = (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 6.0);
    add(svg, format_args!("<text class=\"name\" x=\"{middle}\" y=\"{baseline}\">{}</text>", escape(text)));
}

pub(super) fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes everything");
}

/// Round times within the run, for labels.
fn time_ticks(end: f64) -> Vec<f64> {
    let step = round_step(end / 8.0);
    (0..=(end / step * 1.001) as u32).map(|tick| f64::from(tick) * step).collect()
}

/// A number with as many digits as fit into a label.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        it if it >= 1e9 => return format!("{}G", trimmed(value / 1e9, 2)),
        it if it >= 1e6 => return format!("{}M", trimmed(value / 1e6, 2)),
        it if it >= 1e4 => return format!("{}k", trimmed(value / 1e3, 1)),
        it if it >= 100.0 => 0,
        it if it >= 10.0 => 1,
        it if it >= 1.0 => 2,
        _ => 3,
    };
    trimmed(value, digits)
}

fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers_around_the_values() {
        let y = Scale::linear(83.0, 200.0, 0.0);
        assert_eq!(y.ticks(), [0.0, 50.0, 100.0]);
        assert!((y.at(0.0) - 200.0).abs() < 1e-9 && y.at(100.0).abs() < 1e-9);
        let y = Scale::log(35.0, 12_000.0, 0.0, 100.0);
        let ticks: Vec<_> = y.ticks().into_iter().map(number).collect();
        assert_eq!(ticks, ["10", "100", "1000", "10k", "100k"]);
        assert!((y.at(1000.0) - 50.0).abs() < 1e-9);
        let narrow: Vec<_> = Scale::log(35.0, 80.0, 0.0, 100.0).ticks().into_iter().map(number).collect();
        assert_eq!(narrow, ["10", "20", "50", "100"]);
        assert_eq!(Scale::linear(0.0, 0.0, 1.0).ticks(), [0.0, 0.5, 1.0], "an axis without values");
        for max in (1..100_000).map(|it| f64::from(it) / 1000.0) {
            let y = Scale::linear(max, 0.0, 1.0);
            assert!(
                y.ticks().iter().all(|&tick| y.at(tick) <= 1.001),
                "a label beyond the axis: {max}, {:?}",
                y.ticks()
            );
        }
    }

    #[test]
    fn times_on_an_axis_are_round() {
        let labels = [10.0, 200.0, 1e3, 5e4, 1e6, 2e7].map(short_time);
        assert_eq!(labels, ["10 µs", "200 µs", "1 ms", "50 ms", "1 s", "20 s"]);
    }

    #[test]
    fn labels_are_short() {
        let labels = [0.0, 0.25, 1.5, 42.125, 999.6, 1234.0, 12_345.0, 1_000_000.0, 2.5e9].map(number);
        assert_eq!(labels, ["0", "0.25", "1.5", "42.1", "1000", "1234", "12.3k", "1M", "2.5G"]);
    }

    #[test]
    fn a_gap_lifts_the_pen_and_a_peak_among_many_points_stays() {
        let mut points: Vec<_> = (0..10_000).map(|second| (f64::from(second), Some(1.0))).collect();
        points[4321].1 = Some(400.0);
        points[5000..6000].fill((5500.0, None));
        let chart = Chart {
            title: "Rate",
            unit: "echoes/s",
            axis: Axis::Linear,
            lines: vec![Line { name: "echoes", color: 0, points }],
            phases: vec![("connect", 10.0), ("measure", 9999.0)],
        };
        let svg = chart.render(chart.range());
        let path = svg.split("d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(path.matches('M').count(), 2);
        assert!(
            path.matches('L').count() < MAX_POINTS && path.contains(&format!(" {TOP}.0")),
            "the peak is at the top"
        );
        assert!(svg.contains(">measure</text>") && !svg.contains(">connect</text>"), "no room for the short phase");
    }
}
