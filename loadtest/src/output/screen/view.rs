//! The content of the live screen, for terminals of any size. If space is short, text is abbreviated or left out, least
//! important first; numbers are never cut.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};

use crate::control::Phase;
use crate::output::progress::faults;
use crate::output::units::{bytes, count, time};
use crate::series::{ProcessSample, Sample};
use crate::stats::{Counter, Counts};

/// The samples shown in the charts.
const HISTORY: usize = 120;

/// The minimum height of a chart: a lower one shows little more than its frame.
const CHART_HEIGHT: u16 = 6;

/// The width of names before their values.
const NAME_WIDTH: usize = 13;

/// The state shown.
#[derive(Debug)]
pub(super) struct View {
    headline: String,
    notes: Vec<String>,
    has_colors: bool,
    phase: Phase,
    phase_begun: Instant,
    phase_time: Option<Duration>,
    /// The current values.
    pub(super) counts: Counts,
    history: VecDeque<Sample>,
    /// Whether the run is being ended early.
    pub(super) is_ending: bool,
}

/// A line of the screen: a name and its value in several lengths, the longest first.
struct Row {
    name: &'static str,
    values: Vec<String>,
    style: Style,
}

impl Row {
    fn new(name: &'static str, values: impl Into<Vec<String>>) -> Self {
        Self { name, values: values.into(), style: Style::new() }
    }

    /// The longest value that fits; otherwise as many words of the shortest one as fit.
    fn fit(&self, width: u16) -> Line<'_> {
        let room = usize::from(width).saturating_sub(NAME_WIDTH);
        let length = |text: &str| text.chars().count();
        let value = self.values.iter().find(|value| length(value) <= room);
        let value = value.cloned().or_else(|| Some(first_words(self.values.last()?, room)));
        let name = Span::from(format!("{:<NAME_WIDTH$}", self.name)).dim();
        Line::from(vec![name, Span::styled(value.unwrap_or_default(), self.style)])
    }

    /// The width with the longest value.
    fn width(&self) -> usize {
        NAME_WIDTH + self.values.first().map_or(0, |value| value.chars().count())
    }
}

/// As many words as fit into `room`, with a mark if some were left out.
fn first_words(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    for word in text.split(' ') {
        let separator = usize::from(!kept.is_empty());
        if kept.chars().count() + separator + word.chars().count() + 2 > room {
            break;
        }
        if separator > 0 {
            kept.push(' ');
        }
        kept.push_str(word);
    }
    if room >= 1 {
        kept.push_str(if kept.is_empty() { "…" } else { " …" });
    }
    kept
}

impl View {
    pub(super) fn new(headline: String, has_colors: bool) -> Self {
        Self {
            headline,
            notes: Vec::new(),
            has_colors,
            phase: Phase::Connect,
            phase_begun: Instant::now(),
            phase_time: None,
            counts: Counts::default(),
            history: VecDeque::with_capacity(HISTORY),
            is_ending: false,
        }
    }

    pub(super) fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    pub(super) fn begin(&mut self, phase: Phase, time: Option<Duration>) {
        (self.phase, self.phase_begun, self.phase_time) = (phase, Instant::now(), time);
    }

    pub(super) fn add(&mut self, sample: &Sample) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(Sample { latency_histogram: None, ..sample.clone() });
    }

    pub(super) fn draw(&self, frame: &mut Frame) {
        let area = frame.area();
        let (traffic, usage) = (self.traffic(), self.usage());
        // Side by side if both fit at full length.
        let widest = |rows: &[Row]| rows.iter().map(Row::width).max().unwrap_or(0) as u16 + 2;
        let is_wide = area.width >= 2 * widest(&traffic).max(widest(&usage));
        let rows = if is_wide { traffic.len().max(usage.len()) } else { traffic.len() + usage.len() } as u16;
        // From the top: the headline, the phase and the figures, then charts and notes if there is room.
        let fixed = 3 + rows;
        let left = area.height.saturating_sub(fixed);
        let notes = (self.notes.len() as u16).min(left);
        let charts = if left - notes >= CHART_HEIGHT { left - notes } else { 0 };
        let [head, gauge, notes, numbers, charts, _, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(notes),
            Constraint::Length(rows.min(area.height.saturating_sub(3))),
            Constraint::Length(charts),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(area);
        frame.render_widget(Line::from(first_words(&self.headline, usize::from(area.width))).bold(), head);
        self.draw_gauge(frame, gauge);
        let lines = self.notes.iter().map(|note| Line::from(first_words(note, usize::from(area.width))).dim());
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), notes);
        Self::draw_rows(frame, numbers, &traffic, &usage, is_wide);
        self.draw_charts(frame, charts);
        let hints = if self.is_ending {
            ["ending in order; Ctrl-C again ends at once", "ending; Ctrl-C: at once"]
        } else {
            ["q or Ctrl-C: end the run, with its results", "q: end the run"]
        };
        let hint = hints.into_iter().find(|hint| hint.len() <= usize::from(area.width)).unwrap_or_default();
        frame.render_widget(Line::from(hint).dim(), foot);
    }

    fn draw_rows(frame: &mut Frame, area: Rect, traffic: &[Row], usage: &[Row], is_wide: bool) {
        let lines = |rows: &[Row], width| rows.iter().map(|row| owned(row.fit(width))).collect::<Vec<_>>();
        if is_wide {
            let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(area);
            frame.render_widget(Paragraph::new(lines(traffic, left.width)), left);
            frame.render_widget(Paragraph::new(lines(usage, right.width)), right);
        } else {
            let lines = [lines(traffic, area.width), lines(usage, area.width)].concat();
            frame.render_widget(Paragraph::new(lines), area);
        }
    }

    fn draw_charts(&self, frame: &mut Frame, area: Rect) {
        if area.height == 0 {
            return;
        }
        let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(area);
        let rate = |number: f64| count(number as u64);
        if self.phase == Phase::Connect {
            self.draw_chart(frame, left, " connections/s ", Color::Cyan, rate, |it| Some(it.connections_per_s));
        } else {
            self.draw_chart(frame, left, " echoes/s ", Color::Cyan, rate, |it| Some(it.echoes_per_s));
        }
        self.draw_chart(frame, right, " p99 of each second ", Color::Yellow, time, |it| Some(it.latency_us?.p99));
    }

    /// Progress of the phase: its share of the time, or of its goal.
    fn draw_gauge(&self, frame: &mut Frame, area: Rect) {
        let passed = self.phase_begun.elapsed();
        let ratio = match self.phase_time {
            Some(time) if !time.is_zero() => passed.as_secs_f64() / time.as_secs_f64(),
            _ => {
                let attempted = self.counts[Counter::Attempted].max(1);
                self.counts[Counter::Settled] as f64 / attempted as f64
            }
        };
        let of = self.phase_time.map_or(String::new(), |time| format!(" of {:.0} s", time.as_secs_f64()));
        let label = format!("{} {:.0} s{of}", self.phase.name(), passed.as_secs_f64());
        let gauge = Gauge::default().ratio(ratio.clamp(0.0, 1.0)).label(label).use_unicode(true);
        frame.render_widget(gauge.gauge_style(self.color(Color::Blue)), area);
    }

    /// The most important figures first: they stay on the smallest screen.
    fn traffic(&self) -> Vec<Row> {
        let last = self.history.back();
        let rate = |value: fn(&Sample) -> f64| last.map_or(0.0, value);
        let mut errors = Row::new("errors", ["none".to_owned()]);
        errors.style = self.color(Color::Green);
        if !self.counts.are_clean() {
            let all = faults(&self.counts);
            let short = format!("{} in all", count(self.counts.errors()));
            errors = Row { values: vec![all, short], style: self.color(Color::Red).bold(), ..errors };
        }
        let latency = match last.and_then(|sample| sample.latency_us) {
            Some(it) => {
                let (p50, p99, max) = (time(it.p50), time(it.p99), time(it.max));
                vec![format!("p50 {p50}  p99 {p99}  max {max}"), format!("p50 {p50} p99 {p99}"), format!("p99 {p99}")]
            }
            None => vec!["-".to_owned()],
        };
        let per_second = count(rate(|it| it.echoes_per_s) as u64);
        let payload = bytes(rate(|it| it.payload_bytes_per_s));
        let (open, opened) = (count(self.counts.open()), count(rate(|it| it.connections_per_s) as u64));
        let mut connections = vec![format!("{open} open, {opened}/s opened"), format!("{open} open")];
        let mut echoes = vec![format!("{per_second}/s, {payload}/s each way"), format!("{per_second}/s")];
        if self.counts[Counter::Deflating] > 0 {
            let deflating = count(self.counts[Counter::Deflating]);
            connections.insert(0, format!("{open} open, {opened}/s opened, {deflating} compressed"));
            let (out, back) =
                (bytes(rate(|it| it.wire_sent_bytes_per_s)), bytes(rate(|it| it.wire_received_bytes_per_s)));
            echoes.insert(0, format!("{per_second}/s, {payload}/s each way as {out}/s and {back}/s"));
        }
        let (sent, in_flight) = (count(self.counts[Counter::Sent]), count(self.counts.in_flight()));
        vec![
            errors,
            Row::new("latency", latency),
            Row::new("echoes", echoes),
            Row::new("connections", connections),
            Row::new("messages", [format!("{sent} sent, {in_flight} in flight"), format!("{in_flight} in flight")]),
        ]
    }

    fn usage(&self) -> Vec<Row> {
        let Some(last) = self.history.back() else { return Vec::new() };
        let side = |it: &ProcessSample| {
            let (cores, system, rss) = (it.cores(), it.cpu_system_cores, bytes(it.rss_bytes as f64));
            vec![
                format!("{cores:.2} cores ({system:.2} system), {rss}"),
                format!("{cores:.2} cores, {rss}"),
                format!("{cores:.2} cores"),
            ]
        };
        let unknown = || vec!["not known (--server-pid)".to_owned(), "not known".to_owned()];
        let kernel = &last.kernel;
        let (sockets, queues) = (count(kernel.tcp_sockets), bytes(kernel.tcp_queue_bytes as f64));
        let (slab, available) = (bytes(kernel.slab_bytes as f64), bytes(kernel.available_bytes as f64));
        vec![
            Row::new("server", last.server.as_ref().map_or_else(unknown, side)),
            Row::new("load", side(&last.load)),
            Row::new("sockets", [format!("{sockets}, {queues} in queues"), sockets]),
            Row::new("memory", [format!("{available} available, {slab} slab"), format!("{available} available")]),
        ]
    }

    fn draw_chart(
        &self,
        frame: &mut Frame,
        area: Rect,
        title: &str,
        color: Color,
        show: impl Fn(f64) -> String,
        value: fn(&Sample) -> Option<f64>,
    ) {
        let points: Vec<_> = self.history.iter().filter_map(|it| Some((it.time_s, value(it)?))).collect();
        let (first, last) = (points.first().map_or(0.0, |it| it.0), points.last().map_or(1.0, |it| it.0));
        let top = points.iter().map(|it| it.1).fold(1.0, f64::max) * 1.1;
        let line = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).data(&points);
        let seconds = |time: f64| format!("{time:.0} s");
        let chart = Chart::new(vec![line.style(self.color(color))])
            .block(Block::bordered().title(title))
            .x_axis(Axis::default().bounds([first, last.max(first + 1.0)]).labels([seconds(first), seconds(last)]))
            .y_axis(Axis::default().bounds([0.0, top]).labels(["0".to_owned(), show(top)]));
        frame.render_widget(chart, area);
    }

    fn color(&self, color: Color) -> Style {
        if self.has_colors { Style::new().fg(color) } else { Style::new() }
    }
}

fn owned(line: Line) -> Line<'static> {
    Line::from(
        line.spans.into_iter().map(|span| Span::styled(span.content.into_owned(), span.style)).collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::SampleLatency;
    use crate::series::tests::sample;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn terminal(view: &View, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal
    }

    fn picture(view: &View, width: u16, height: u16) -> String {
        terminal(view, width, height).backend().to_string()
    }

    fn view() -> View {
        let mut view = View::new("ringload: 100 connections to ws://127.0.0.1:9001/ on 2 threads".to_owned(), true);
        view.note("ringecho listening on 127.0.0.1:9001");
        view.begin(Phase::Measure, Some(Duration::from_secs(10)));
        view.add(&sample(1.0, 12_345.0, 80));
        view.add(&sample(2.0, 23_456.0, 90));
        view
    }

    #[test]
    fn the_picture_shows_rates_percentiles_and_errors() {
        let mut view = view();
        let text = picture(&view, 130, 30);
        for part in [
            "100 connections",
            "ringecho listening",
            "measure 0 s of 10 s",
            "23,456/s",
            "p99 90.1 µs",
            "none",
            "0.50 cores",
            "p99 of each second",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        (view.counts[Counter::Sent], view.counts[Counter::Lost]) = (5, 3);
        assert!(picture(&view, 130, 30).contains("lost 3"));
    }

    /// The longest numbers, on a terminal of the usual size and on a small one.
    #[test]
    fn no_number_is_cut_and_the_important_ones_stay() {
        let mut view = view();
        let latency = SampleLatency { p50: 123_456.0, p99: 12_345_678.0, max: 123_456_789.0 };
        view.add(&Sample { latency_us: Some(latency), ..sample(3.0, 12_345_678.0, 1) });
        view.counts[Counter::Lost] = 1_234_567;
        view.counts[Counter::Sent] = 123_456_789_012;
        for (width, height) in [(80, 24), (40, 12), (30, 10)] {
            let text = picture(&view, width, height);
            for part in ["1,234,567", "p99 12.3 s", "12,345,678/s", "measure 0 s of 10 s", "q"] {
                assert!(text.contains(part), "{width}x{height}: {part} is not in\n{text}");
            }
            for line in text.lines().filter(|line| line.contains("messages")) {
                let whole = ["123,456,789,012", "in flight", "…"];
                assert!(whole.iter().any(|whole| line.contains(whole)), "{width}x{height}: {line}");
            }
        }
        assert!(picture(&view, 80, 24).contains("p99 of each second"), "there is room for charts");
    }

    #[test]
    fn without_colors_there_are_none() {
        let view = View { has_colors: false, ..view() };
        for (width, height) in [(130, 30), (40, 12)] {
            let terminal = terminal(&view, width, height);
            let is_plain = |color| color == Color::Reset;
            assert!(terminal.backend().buffer().content.iter().all(|it| is_plain(it.fg) && is_plain(it.bg)));
        }
    }

    #[test]
    fn small_terminals_and_no_samples_are_no_problem() {
        let mut view = View::new("ringload".to_owned(), true);
        let sizes = [(1, 1), (2, 40), (20, 5), (80, 1), (80, 24), (300, 90)];
        for (width, height) in sizes {
            picture(&view, width, height);
        }
        for second in 0..200 {
            view.add(&sample(f64::from(second), 1.0, 1));
        }
        assert_eq!(view.history.len(), HISTORY);
        for (width, height) in sizes {
            picture(&view, width, height);
        }
    }
}
