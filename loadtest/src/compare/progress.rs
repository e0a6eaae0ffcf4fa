//! Progress of a comparison: on a terminal the matrix so far and the time left, otherwise a line per measurement, or
//! nothing.

mod screen;

use std::time::{Duration, Instant};

use self::screen::Screen;
use super::metric::Metric;
use super::results::{Results, Run, ServerReport};
use super::rounds::Slot;
use super::statistics::median;
use super::words::one_line;
use crate::interrupt::Interrupt;
use crate::output::display::Show;
use crate::output::{is_on_stdout, say, terminal};

/// The kind of output.
pub struct Progress {
    shown: Shown,
    state: State,
}

enum Shown {
    Screen(Box<Screen>),
    Lines,
    Nothing,
}

/// The state shown.
#[derive(Debug, Default)]
struct State {
    title: String,
    baseline: String,
    servers: Vec<String>,
    cells: Vec<(String, Metric)>,
    /// Valid values, by server and cell.
    values: Vec<Vec<Vec<f64>>>,
    /// Number of measurements in which the cell's metric was not valid, by server and cell.
    spoiled: Vec<Vec<u32>>,
    discard: u32,
    /// Of each cell.
    rounds: Vec<u32>,
    /// The current measurement, and its attempt.
    now: Option<(Slot, u32)>,
    done: usize,
    total: usize,
    /// Durations of the measurements of each cell, and the number of measurements left.
    elapsed: Vec<Vec<f64>>,
    to_come: Vec<usize>,
    /// Expected duration of a measurement before the first one.
    expected_s: Vec<f64>,
    begun: Option<Instant>,
    is_ending: bool,
}

/// Expected overhead of starting and stopping a server and of opening connections, before it is measured.
const OVERHEAD_S: f64 = 1.0;

impl Progress {
    /// Starts the display requested by `show`.
    #[must_use]
    pub fn new(show: Show, interrupt: &Interrupt) -> Self {
        let shown = match show {
            Show::Nothing => Shown::Nothing,
            // A terminal that cannot show a screen still takes lines.
            Show::Best if is_on_stdout() && terminal::can_be_taken() => match Screen::open(interrupt.clone()) {
                Ok(screen) => Shown::Screen(Box::new(screen)),
                Err(_) => Shown::Lines,
            },
            Show::Best | Show::Lines => Shown::Lines,
        };
        Self { shown, state: State::default() }
    }

    /// A server has been checked.
    pub(super) fn checked(&mut self, server: &ServerReport) {
        let text = match &server.skipped {
            Some(why) => format!("{}: skipped: {}", server.name, one_line(why)),
            None => format!("{} passes the gate", describe(server)),
        };
        match &mut self.shown {
            Shown::Lines => say(format_args!("{text}\n")),
            Shown::Screen(screen) => screen.note(text),
            Shown::Nothing => {}
        }
    }

    /// The measurements begin.
    pub(super) fn begin(&mut self, results: &Results, plan: &[Slot]) {
        let (servers, cells) = (results.servers.len(), results.cells.len());
        let state = &mut self.state;
        state.title.clone_from(&results.title);
        state.baseline.clone_from(&results.settings.baseline);
        state.servers = results.servers.iter().map(|it| it.name.clone()).collect();
        state.cells = results.cells.iter().map(|it| (it.name.clone(), it.metric)).collect();
        state.values = vec![vec![Vec::new(); cells]; servers];
        state.spoiled = vec![vec![0; cells]; servers];
        state.elapsed = vec![Vec::new(); cells];
        state.expected_s = results.cells.iter().map(|it| it.duration_s + it.warmup_s + OVERHEAD_S).collect();
        state.discard = results.settings.discard;
        state.rounds = results.cells.iter().map(|it| it.rounds).collect();
        state.total = plan.len();
        let is_to_come = |slot: &&Slot| {
            let (server, cell) = (&results.servers[slot.server], &results.cells[slot.cell]);
            server.skipped.is_none() && !results.has(&server.name, &cell.name, slot.round)
        };
        state.to_come = vec![0; cells];
        plan.iter().filter(is_to_come).for_each(|slot| state.to_come[slot.cell] += 1);
        state.begun = Some(Instant::now());
        for run in &results.runs {
            let server = state.servers.iter().position(|it| *it == run.server);
            let cell = state.cells.iter().position(|it| it.0 == run.cell);
            if let (Some(server), Some(cell)) = (server, cell) {
                state.keep(server, cell, run);
            }
        }
        if matches!(self.shown, Shown::Lines) {
            let (total, left) = (self.state.total, show_time(self.state.left_s()));
            let seed = results.seed;
            say(format_args!("{}: {total} measurements, about {left}; seed {seed}\n", results.title));
        }
    }

    /// This measurement begins, as attempt number `attempt`.
    pub(super) fn measuring(&mut self, slot: Slot, attempt: u32) {
        self.state.now = Some((slot, attempt));
        self.look();
    }

    /// A measurement is skipped: it has been made already, or its server is skipped.
    pub(super) fn skip(&mut self) {
        self.state.done += 1;
    }

    /// This measurement is complete.
    pub(super) fn done(&mut self, slot: Slot, run: &Run) {
        self.state.done += 1;
        self.state.to_come[slot.cell] -= 1;
        self.state.elapsed[slot.cell].push(run.elapsed_s);
        self.state.keep(slot.server, slot.cell, run);
        if matches!(self.shown, Shown::Lines) {
            say(format_args!("{}\n", self.state.line(slot, run)));
        }
    }

    /// To be called repeatedly.
    pub(super) fn look(&mut self) {
        if let Shown::Screen(screen) = &mut self.shown {
            self.state.is_ending = screen.is_interrupted();
            screen.refresh(&self.state);
        }
    }

    /// All measurements are complete.
    pub(super) fn end(&mut self) {
        self.shown = Shown::Nothing;
    }
}

impl State {
    fn keep(&mut self, server: usize, cell: usize, run: &Run) {
        if run.round < self.discard {
            return;
        }
        match run.value(self.cells[cell].1) {
            Some(value) => self.values[server][cell].push(value),
            None => self.spoiled[server][cell] += 1,
        }
    }

    /// The time left, estimated from each cell's durations so far.
    fn left_s(&self) -> f64 {
        let of_cell = |(cell, &count): (usize, &usize)| {
            let each = median(&self.elapsed[cell]).unwrap_or(self.expected_s[cell]);
            each * count as f64
        };
        self.to_come.iter().enumerate().map(of_cell).sum()
    }

    fn round_name(&self, slot: Slot) -> String {
        match slot.round.checked_sub(self.discard) {
            Some(round) => format!("round {} of {}", round + 1, self.rounds[slot.cell]),
            None => "discarded round".to_owned(),
        }
    }

    /// The line for a measurement.
    fn line(&self, slot: Slot, run: &Run) -> String {
        let metric = self.cells[slot.cell].1;
        let value = run.value(metric).map_or("-".to_owned(), |value| metric.show(value));
        let fault = run
            .faults
            .first()
            .map_or(String::new(), |fault| format!("  {}: {}", fault.kind.short(), one_line(&fault.why)));
        let (done, total, round) = (self.done, self.total, self.round_name(slot));
        let left = show_time(self.left_s());
        format!("[{done}/{total}, {left} left] {round}, {}, {}: {value}{fault}", run.cell, run.server)
    }

    /// A field of the matrix: the median, or else the state.
    fn field(&self, server: usize, cell: usize) -> String {
        let metric = self.cells[cell].1;
        match median(&self.values[server][cell]) {
            Some(value) => metric.show(value),
            None if self.spoiled[server][cell] > 0 => "×".to_owned(),
            None => "·".to_owned(),
        }
    }

    /// The ratio to the baseline so far.
    fn ratio(&self, server: usize, cell: usize) -> Option<f64> {
        let base = self.servers.iter().position(|it| *it == self.baseline).filter(|&base| base != server)?;
        let (own, base) = (median(&self.values[server][cell])?, median(&self.values[base][cell])?);
        (base > 0.0).then_some(own / base)
    }
}

fn describe(server: &ServerReport) -> String {
    match &server.version {
        Some(version) => format!("{} ({version})", server.name),
        None => server.name.clone(),
    }
}

/// `1 h 05 min`, `12 min 30 s` or `8 s`.
fn show_time(seconds: f64) -> String {
    let seconds = Duration::from_secs_f64(seconds.max(0.0)).as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::results;

    #[test]
    fn times_are_short() {
        let shown = [0.4, 59.9, 75.0, 3900.0].map(show_time);
        assert_eq!(shown, ["0 s", "59 s", "1 min 15 s", "1 h 05 min"]);
    }

    #[test]
    fn the_matrix_fills_and_the_time_runs_down() {
        let mut results = results(&[("base", 10.0), ("other", 12.0)]);
        let runs = std::mem::take(&mut results.runs);
        let plan: Vec<Slot> =
            (0..10).flat_map(|round| (0..2).map(move |server| Slot { server, cell: 0, round })).collect();
        let mut progress = Progress { shown: Shown::Nothing, state: State::default() };
        progress.begin(&results, &plan);
        assert!((progress.state.left_s() - 20.0 * 4.0).abs() < 1e-9);
        assert_eq!(progress.state.field(1, 0), "·");
        for (slot, run) in plan.iter().zip(&runs).take(10) {
            progress.measuring(*slot, 1);
            progress.done(*slot, run);
        }
        let state = &progress.state;
        assert!((state.left_s() - 10.0 * 3.0).abs() < 1e-9, "as long as they took");
        assert_eq!((state.field(0, 0).as_str(), state.field(1, 0).as_str()), ("10.0 µs", "12.0 µs"));
        assert!((state.ratio(1, 0).unwrap() - 1.2).abs() < 0.01 && state.ratio(0, 0).is_none());
        let line = state.line(plan[9], &runs[9]);
        assert!(line.starts_with("[10/20, 30 s left] round 4 of 9, 128 B x 100, other: 12.0 µs"), "{line}");

        // Resumed after those, and one of the servers is skipped now.
        results.runs.extend_from_slice(&runs[..10]);
        results.servers[1].skipped = Some("it crashed".to_owned());
        let mut progress = Progress { shown: Shown::Nothing, state: State::default() };
        progress.begin(&results, &plan);
        assert!((progress.state.left_s() - 5.0 * 4.0).abs() < 1e-9, "{}", progress.state.left_s());
        progress.skip();
        assert!((progress.state.left_s() - 5.0 * 4.0).abs() < 1e-9);
    }
}
