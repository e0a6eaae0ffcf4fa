//! The live matrix on a terminal.

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::time::{Duration, Instant};

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Gauge, Paragraph, Row, Table};
use ratatui::{DefaultTerminal, Frame};

use super::{State, show_time};
use crate::interrupt::Interrupt;
use crate::output::keys::Keys;
use crate::output::terminal;

/// Interval between two frames: drawing takes processor time on the machine under test.
const REFRESH: Duration = Duration::from_secs(1);

/// The widest name of a server, and the width of a field: a value and its ratio.
const NAME_WIDTH: usize = 22;
const FIELD_WIDTH: u16 = 17;

/// The terminal with the live matrix; it is restored on drop.
pub(super) struct Screen {
    terminal: ManuallyDrop<DefaultTerminal>,
    keys: Keys,
    notes: Vec<String>,
    has_colors: bool,
    drawn: Option<Instant>,
    /// The number of measurements in the last frame.
    done: usize,
}

impl Drop for Screen {
    fn drop(&mut self) {
        terminal::give_back();
    }
}

impl Screen {
    /// Takes over the terminal.
    pub(super) fn open(interrupt: Interrupt) -> io::Result<Self> {
        let terminal = terminal::take()?;
        let has_colors = terminal::has_colors();
        Ok(Self { terminal, keys: Keys::new(interrupt), notes: Vec::new(), has_colors, drawn: None, done: 0 })
    }

    /// The text before there is a matrix.
    pub(super) fn note(&mut self, text: String) {
        self.notes.push(text);
        self.drawn = None;
        self.refresh(&State::default());
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.keys.is_interrupted()
    }

    /// Reads the keys, and draws a frame if it is due.
    pub(super) fn refresh(&mut self, state: &State) {
        self.keys.read();
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < REFRESH) && self.done == state.done {
            return;
        }
        (self.drawn, self.done) = (Some(Instant::now()), state.done);
        let (terminal, notes, has_colors) = (&mut self.terminal, &self.notes, self.has_colors);
        // A terminal that has hung up must not end the comparison.
        let _ = terminal::draw(terminal, |frame| draw(frame, state, notes, has_colors));
    }
}

fn draw(frame: &mut Frame, state: &State, notes: &[String], has_colors: bool) {
    if state.servers.is_empty() {
        let height = usize::from(frame.area().height);
        let lines: Vec<Line> =
            notes.iter().skip(notes.len().saturating_sub(height)).map(|it| Line::from(it.as_str())).collect();
        return frame.render_widget(Paragraph::new(lines), frame.area());
    }
    let areas =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)]).split(frame.area());
    frame.render_widget(Paragraph::new(headline(state)), areas[0]);
    frame.render_widget(matrix(state, areas[1], has_colors), areas[1]);
    let share = state.done as f64 / state.total.max(1) as f64;
    let left =
        format!("{} of {}, {} left; q ends it, --resume goes on", state.done, state.total, show_time(state.left_s()));
    let mut gauge = Gauge::default().ratio(share.clamp(0.0, 1.0)).label(left);
    if has_colors {
        gauge = gauge.gauge_style(Style::new().fg(Color::Blue));
    }
    frame.render_widget(gauge, areas[2]);
}

fn headline(state: &State) -> Vec<Line<'_>> {
    let now = match state.now {
        _ if state.is_ending => "ending: the measurement under way does not count".to_owned(),
        Some((slot, attempt)) => {
            let again = if attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
            let (server, cell) = (&state.servers[slot.server], &state.cells[slot.cell].0);
            format!("{}: {server} in {cell}{again}", state.round_name(slot))
        }
        None => String::new(),
    };
    vec![Line::from(state.title.as_str().bold()), Line::from(now)]
}

/// The servers and cells that fit, including those being measured.
fn matrix<'a>(state: &State, area: Rect, has_colors: bool) -> Table<'a> {
    let name_width = state.servers.iter().map(|it| it.chars().count()).max().unwrap_or(0).clamp(8, NAME_WIDTH) as u16;
    let columns = usize::from(area.width.saturating_sub(name_width + 1) / (FIELD_WIDTH + 1));
    let (server, cell) = state.now.map_or((0, 0), |(slot, _)| (slot.server, slot.cell));
    let shown = window(state.cells.len(), columns, cell);
    let header =
        std::iter::once(Cell::from("")).chain(shown.clone().map(|cell| Cell::from(state.cells[cell].0.clone())));
    let row = |server: usize| {
        let name = Cell::from(state.servers[server].clone());
        let fields = shown.clone().map(move |cell| field(state, server, cell, has_colors));
        Row::new(std::iter::once(name).chain(fields))
    };
    let below_header = usize::from(area.height.saturating_sub(1));
    let rows: Vec<Row> = window(state.servers.len(), below_header, server).map(row).collect();
    let widths = std::iter::once(Constraint::Length(name_width)).chain(shown.map(|_| Constraint::Length(FIELD_WIDTH)));
    Table::new(rows, widths).header(Row::new(header).bold())
}

/// So many of `count` items as there is room for, `now` among them.
fn window(count: usize, room: usize, now: usize) -> Range<usize> {
    let room = room.max(1);
    let first = now.saturating_sub(room - 1).min(count.saturating_sub(room));
    first..(first + room).min(count)
}

fn field<'a>(state: &State, server: usize, cell: usize, has_colors: bool) -> Cell<'a> {
    let is_now = state.now.is_some_and(|(slot, _)| (slot.server, slot.cell) == (server, cell));
    let value = Span::from(state.field(server, cell));
    let ratio = state.ratio(server, cell).map_or(String::new(), |ratio| format!(" {ratio:.2}"));
    let ratio = Span::from(ratio).dim();
    let mut line = Line::from(vec![value, ratio]);
    if is_now {
        line = if has_colors { line.style(Style::new().fg(Color::Yellow)) } else { line.reversed() };
    }
    Cell::from(line)
}

#[cfg(test)]
mod tests {
    use super::window;

    #[test]
    fn what_is_measured_is_among_what_fits() {
        assert_eq!(window(5, 9, 4), 0..5);
        assert_eq!((window(20, 6, 0), window(20, 6, 5), window(20, 6, 6)), (0..6, 0..6, 1..7));
        assert_eq!((window(20, 6, 19), window(20, 0, 7), window(0, 6, 0)), (14..20, 7..8, 0..0));
    }
}
