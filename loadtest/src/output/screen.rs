//! The live screen: where the run is, how fast it is and what goes wrong, drawn a few times a second.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};
use ratatui::{DefaultTerminal, Frame};

use super::progress::faults;
use super::table::{bytes, count};
use crate::control::Phase;
use crate::series::Sample;
use crate::stats::{Counter, Counts};

/// How long a picture stays.
const REFRESH: Duration = Duration::from_millis(200);

/// How much of the past the chart shows.
const HISTORY: usize = 120;

/// A terminal in use; it is given back when this is dropped, and by a panic hook.
pub struct Screen {
    terminal: DefaultTerminal,
    view: View,
    drawn: Option<Instant>,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("view", &self.view).finish_non_exhaustive()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

impl Screen {
    /// Takes the terminal for a run that `headline` describes.
    pub fn open(headline: String) -> io::Result<Self> {
        let terminal = ratatui::try_init()?;
        Ok(Self { terminal, view: View::new(headline), drawn: None })
    }

    /// Something to be said once.
    pub fn note(&mut self, text: &str) {
        self.view.notes.push(text.to_owned());
    }

    /// A phase begins; it is going to take `time`, if that is known.
    pub fn begin(&mut self, phase: Phase, time: Option<Duration>) {
        (self.view.phase, self.view.phase_begun, self.view.phase_time) = (phase, Instant::now(), time);
        self.drawn = None;
    }

    /// A sample has been taken.
    pub fn add(&mut self, sample: &Sample, counts: &Counts) {
        self.view.add(sample);
        self.view.counts = *counts;
        self.drawn = None;
    }

    /// Reads the keys and draws, if it is time. True if the user wants the run to end.
    pub fn refresh(&mut self, counts: &Counts) -> bool {
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < REFRESH) {
            return false;
        }
        self.drawn = Some(Instant::now());
        self.view.counts = *counts;
        let stop = self.read_keys();
        // A terminal that is gone must not end the run.
        let _ = self.terminal.draw(|frame| self.view.draw(frame));
        stop
    }

    /// In raw mode Ctrl-C is a key like others. The first ends the run in order, a second one the process.
    fn read_keys(&mut self) -> bool {
        let mut stop = false;
        while event::poll(Duration::ZERO).unwrap_or(false) {
            let Ok(Event::Key(key)) = event::read() else { continue };
            let is_control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if key.kind == KeyEventKind::Press && (is_control_c || key.code == KeyCode::Char('q')) {
                if self.view.stopping {
                    ratatui::restore();
                    std::process::exit(130);
                }
                self.view.stopping = true;
                stop = true;
            }
        }
        stop
    }
}

/// What is to be seen.
#[derive(Debug)]
struct View {
    headline: String,
    notes: Vec<String>,
    phase: Phase,
    phase_begun: Instant,
    phase_time: Option<Duration>,
    counts: Counts,
    history: VecDeque<Sample>,
    stopping: bool,
}

impl View {
    fn new(headline: String) -> Self {
        Self {
            headline,
            notes: Vec::new(),
            phase: Phase::Connect,
            phase_begun: Instant::now(),
            phase_time: None,
            counts: Counts::default(),
            history: VecDeque::with_capacity(HISTORY),
            stopping: false,
        }
    }

    fn add(&mut self, sample: &Sample) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(Sample { latency_histogram: None, ..sample.clone() });
    }

    fn draw(&self, frame: &mut Frame) {
        let notes = self.notes.len() as u16;
        let [head, gauge, numbers, charts, foot] = Layout::vertical([
            Constraint::Length(1 + notes),
            Constraint::Length(1),
            Constraint::Length(7),
            Constraint::Min(6),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let lines = std::iter::once(Line::from(self.headline.as_str()).bold());
        let lines: Vec<_> = lines.chain(self.notes.iter().map(|note| Line::from(note.as_str()).dim())).collect();
        frame.render_widget(Paragraph::new(lines), head);
        self.draw_gauge(frame, gauge);
        let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(numbers);
        frame.render_widget(Paragraph::new(self.traffic()).block(Block::bordered().title(" traffic ")), left);
        frame.render_widget(Paragraph::new(self.usage()).block(Block::bordered().title(" machine ")), right);
        let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(charts);
        let connecting = self.phase == Phase::Connect;
        let (title, rate): (_, fn(&Sample) -> Option<f64>) = if connecting {
            (" connections/s ", |it| Some(it.connections_per_s))
        } else {
            (" echoes/s ", |it| Some(it.echoes_per_s))
        };
        self.draw_chart(frame, left, title, Color::Cyan, rate);
        self.draw_chart(frame, right, " p99 of each second, µs ", Color::Yellow, |it| Some(it.latency_us?.p99));
        let hint =
            if self.stopping { "ending in order; Ctrl-C again ends at once" } else { "q or Ctrl-C: end the run" };
        frame.render_widget(Line::from(hint).dim(), foot);
    }

    /// Progress of the phase: of its time, or of what it is to reach.
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
        frame.render_widget(gauge.gauge_style(Style::new().fg(Color::Blue)), area);
    }

    fn traffic(&self) -> Vec<Line<'_>> {
        let last = self.history.back();
        let rate = |value: fn(&Sample) -> f64| last.map_or(0.0, value);
        let latency = match last.and_then(|sample| sample.latency_us) {
            Some(it) => format!("p50 {:.0}  p99 {:.0}  max {:.0} µs", it.p50, it.p99, it.max),
            None => "-".to_owned(),
        };
        let errors = if self.counts.are_clean() {
            Span::from("none").green()
        } else {
            Span::from(faults(&self.counts)).red().bold()
        };
        let connections =
            format!("{} open, {}/s opened", count(self.counts.open()), count(rate(|it| it.connections_per_s) as u64));
        let echoes = format!(
            "{}/s, {}/s each way",
            count(rate(|it| it.echoes_per_s) as u64),
            bytes(rate(|it| it.payload_bytes_per_s))
        );
        let messages =
            format!("{} sent, {} in flight", count(self.counts[Counter::Sent]), count(self.counts.in_flight()));
        vec![
            named("connections", connections.into()),
            named("echoes", echoes.into()),
            named("latency", latency.into()),
            named("messages", messages.into()),
            named("errors", errors),
        ]
    }

    fn usage(&self) -> Vec<Line<'_>> {
        let Some(last) = self.history.back() else { return Vec::new() };
        let side = |it: &crate::series::ProcessSample| {
            format!("{:.2} cores ({:.2} system), {}", it.cores(), it.cpu_system_cores, bytes(it.rss_bytes as f64))
        };
        let server = last.server.as_ref().map_or_else(|| "not known (--server-pid)".to_owned(), side);
        let kernel = &last.kernel;
        let queues = bytes(kernel.tcp_queue_bytes as f64);
        vec![
            named("server", server.into()),
            named("load", side(&last.load).into()),
            named("sockets", format!("{}, {queues} in queues", count(kernel.tcp_sockets)).into()),
            named("slab", bytes(kernel.slab_bytes as f64).into()),
            named("available", bytes(kernel.available_bytes as f64).into()),
        ]
    }

    fn draw_chart(&self, frame: &mut Frame, area: Rect, title: &str, color: Color, value: fn(&Sample) -> Option<f64>) {
        let points: Vec<_> = self.history.iter().filter_map(|it| Some((it.time_s, value(it)?))).collect();
        let (first, last) = (points.first().map_or(0.0, |it| it.0), points.last().map_or(1.0, |it| it.0));
        let top = points.iter().map(|it| it.1).fold(1.0, f64::max) * 1.1;
        let line = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).data(&points).fg(color);
        let seconds = |time: f64| format!("{time:.0} s");
        let chart = Chart::new(vec![line])
            .block(Block::bordered().title(title))
            .x_axis(Axis::default().bounds([first, last.max(first + 1.0)]).labels([seconds(first), seconds(last)]))
            .y_axis(Axis::default().bounds([0.0, top]).labels(["0".to_owned(), count(top as u64)]));
        frame.render_widget(chart, area);
    }
}

fn named<'a>(name: &'static str, value: Span<'a>) -> Line<'a> {
    Line::from(vec![Span::from(format!("{name:<12}")).dim(), value])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::sample;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn picture(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_picture_shows_rates_percentiles_and_errors() {
        let mut view = View::new("ringload: 100 connections".to_owned());
        view.notes.push("ringecho listening".to_owned());
        (view.phase, view.phase_time) = (Phase::Measure, Some(Duration::from_secs(10)));
        view.add(&sample(1.0, 12_345.0, 80));
        view.add(&sample(2.0, 23_456.0, 90));
        let text = picture(&view, 100, 30);
        for part in
            ["100 connections", "ringecho listening", "measure 0 s of 10 s", "23,456/s", "p99 90", "none", "0.50 cores"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        (view.counts[Counter::Sent], view.counts[Counter::Lost]) = (5, 3);
        assert!(picture(&view, 100, 30).contains("lost 3"));
    }

    #[test]
    fn small_terminals_and_no_samples_are_no_problem() {
        let mut view = View::new("ringload".to_owned());
        for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 90)] {
            picture(&view, width, height);
        }
        for second in 0..200 {
            view.add(&sample(f64::from(second), 1.0, 1));
        }
        assert_eq!(view.history.len(), HISTORY);
        picture(&view, 80, 24);
    }
}
