//! A worker's counters: plain stores into memory of its own, read by other threads.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Single counters and gauges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Counter {
    /// Connections accepted.
    Accepted,
    /// Connections closed and forgotten: slot and entry are free again.
    Released,
    /// Connections whose messages are echoed: upgraded ones, or all of bare TCP.
    Opened,
    /// Connections that were closed without having sent a byte.
    Silent,
    /// Clients that were turned away because the server was full.
    TurnedAway,
    /// Data messages echoed.
    Messages,
    /// Those of them that were text.
    Texts,
    /// Ping frames received.
    Pings,
    /// Pong frames received.
    Pongs,
    /// Connections that have agreed on compression.
    Agreed,
    /// Messages received compressed.
    Compressed,
    /// Bytes that compressed messages were inflated to.
    BytesInflated,
    /// Gauge: bytes of memory held for compressed messages that are open, and for their input that waits.
    InflationMemory,
    /// Bytes received.
    BytesReceived,
    /// Bytes handed to the kernel for sending.
    BytesSent,
    /// Turns of the worker's loop (of a task's, in the tokio-uring engine).
    Turns,
    /// Gauge: connections whose last send found the socket's buffer full.
    SlowReaders,
    /// Gauge: those of them that are not received from, because their pending output has reached a cap.
    Throttled,
    /// Gauge: bytes of memory that pending output takes beside the receive buffers.
    Backlog,
    /// Receives that had to wait because all receive buffers were in use.
    BufferShortages,
    /// Receives that found nothing.
    EmptyReceives,
    /// TLS handshakes that were made in full.
    TlsFull,
    /// Those that have resumed a session.
    TlsResumed,
    /// Those that have failed: by an alert, or because it was no TLS.
    TlsFailed,
    /// Accepts that failed for want of something.
    AcceptFailures,
    /// Nanoseconds that the measured turns have taken.
    TurnNs,
}

const COUNTERS: usize = Counter::TurnNs as usize + 1;

/// The cause of a connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ending {
    /// The request was answered with an error.
    Refused,
    /// The request was not for a WebSocket and got what it was for: a health check, the test page.
    Answered,
    /// The request was not complete in time.
    HandshakeTimeout,
    /// The peer's Close frame.
    PeerClose,
    /// The peer has violated the protocol or a limit.
    Violation,
    /// The peer was silent for longer than the idle timeout.
    Idle,
    /// The server stops.
    ServerStop,
    /// The peer did not read for longer than the stall timeout.
    Stalled,
    /// A reset, or another error of the socket.
    Reset,
    /// The peer has shut down its side without a Close frame.
    EndOfInput,
    /// The client has asked for it by a behaviour.
    Behaviour,
}

impl Ending {
    /// That of a request which was answered with this status, other than 101.
    pub(crate) const fn of_status(status: u16) -> Self {
        if status < 400 { Self::Answered } else { Self::Refused }
    }

    pub(crate) const ALL: [Self; 11] = [
        Self::Refused,
        Self::Answered,
        Self::HandshakeTimeout,
        Self::PeerClose,
        Self::Violation,
        Self::Idle,
        Self::ServerStop,
        Self::Stalled,
        Self::Reset,
        Self::EndOfInput,
        Self::Behaviour,
    ];

    /// As in metrics and logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Answered => "answered",
            Self::HandshakeTimeout => "handshake-timeout",
            Self::PeerClose => "peer-close",
            Self::Violation => "violation",
            Self::Idle => "idle",
            Self::ServerStop => "server-stop",
            Self::Stalled => "stalled",
            Self::Reset => "reset",
            Self::EndOfInput => "end-of-input",
            Self::Behaviour => "behaviour",
        }
    }
}

/// Statuses of errors that are counted apart; others share a counter.
const REFUSED: [u16; 9] = [400, 403, 404, 405, 426, 431, 500, 503, 505];
/// The same of other statuses: with others a behaviour has answered.
const ANSWERED: [u16; 2] = [200, 204];

/// Close codes that are counted apart. 1005 stands for a Close frame without a code; codes of libraries and applications are
/// too many to be told apart.
const CODES: [(u16, &str); 15] = [
    (1000, "1000"),
    (1001, "1001"),
    (1002, "1002"),
    (1003, "1003"),
    (1005, "none"),
    (1007, "1007"),
    (1008, "1008"),
    (1009, "1009"),
    (1010, "1010"),
    (1011, "1011"),
    (1012, "1012"),
    (1013, "1013"),
    (1014, "1014"),
    (3000, "3xxx"),
    (4000, "4xxx"),
];

/// Upper bounds of the buckets for a turn's time, in microseconds: a turn's budget is 100 µs, and what takes milliseconds is
/// noticed by people.
pub(crate) const TURN_BOUNDS_US: [u64; 11] = [25, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 250_000];

const ENDINGS_AT: usize = COUNTERS;
const REFUSED_AT: usize = ENDINGS_AT + Ending::ALL.len();
const ANSWERED_AT: usize = REFUSED_AT + REFUSED.len() + 1;
const RECEIVED_CODES_AT: usize = ANSWERED_AT + ANSWERED.len() + 1;
const SENT_CODES_AT: usize = RECEIVED_CODES_AT + CODES.len();
const TURNS_AT: usize = SENT_CODES_AT + CODES.len();
const CELLS: usize = TURNS_AT + TURN_BOUNDS_US.len() + 1;

/// The counters of a worker, which alone writes them. Aligned so that two workers never write to the same cache lines.
#[repr(align(128))]
pub(crate) struct Counters {
    cells: [AtomicU64; CELLS],
}

impl Default for Counters {
    fn default() -> Self {
        Self { cells: [const { AtomicU64::new(0) }; CELLS] }
    }
}

impl Counters {
    /// A load and a store, not one atomic operation: there is one writer.
    #[inline]
    fn add_to(&self, cell: usize, by: u64) {
        let cell = &self.cells[cell];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn add(&self, counter: Counter, by: u64) {
        self.add_to(counter as usize, by);
    }

    /// For gauges.
    #[inline]
    pub(crate) fn subtract(&self, counter: Counter, by: u64) {
        self.add_to(counter as usize, by.wrapping_neg());
    }

    /// For gauges.
    #[inline]
    pub(crate) fn set(&self, counter: Counter, value: u64) {
        self.cells[counter as usize].store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.cells[counter as usize].load(Ordering::Relaxed)
    }

    /// A connection has been closed and forgotten.
    pub(crate) fn ended(&self, ending: Ending) {
        self.add(Counter::Released, 1);
        self.add_to(ENDINGS_AT + ending as usize, 1);
    }

    /// A request was answered with this HTTP status, other than 101.
    pub(crate) fn answered(&self, status: u16) {
        let (first, statuses) = match Ending::of_status(status) {
            Ending::Answered => (ANSWERED_AT, &ANSWERED[..]),
            _ => (REFUSED_AT, &REFUSED[..]),
        };
        let at = statuses.iter().position(|&it| it == status).unwrap_or(statuses.len());
        self.add_to(first + at, 1);
    }

    /// A Close frame came with this code.
    pub(crate) fn close_received(&self, code: Option<u16>) {
        self.add_to(RECEIVED_CODES_AT + place_of_code(code.unwrap_or(1005)), 1);
    }

    /// A Close frame with this code was queued, other than as the answer to the peer's.
    pub(crate) fn close_sent(&self, code: u16) {
        self.add_to(SENT_CODES_AT + place_of_code(code), 1);
    }

    /// A turn has taken so long.
    pub(crate) fn turn_took(&self, time: Duration) {
        let ns = time.as_nanos() as u64;
        let at = TURN_BOUNDS_US.iter().position(|&bound| ns <= bound * 1000).unwrap_or(TURN_BOUNDS_US.len());
        self.add_to(TURNS_AT + at, 1);
        self.add(Counter::TurnNs, ns);
    }

    /// All of them as they are; one is read after the other, while the worker writes.
    pub(crate) fn read(&self) -> Tally {
        Tally { cells: std::array::from_fn(|cell| self.cells[cell].load(Ordering::Relaxed)) }
    }
}

fn place_of_code(code: u16) -> usize {
    let listed = match code {
        3000..=3999 => 3000,
        4000.. => 4000,
        code => code,
    };
    // A code that is not listed may not be sent, and leads to a violation.
    CODES.iter().position(|(it, _)| *it == listed).unwrap_or(CODES.len() - 1)
}

/// The counts of one worker since it started, or of all of them together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    cells: [u64; CELLS],
}

impl Default for Tally {
    fn default() -> Self {
        Self { cells: [0; CELLS] }
    }
}

impl Tally {
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.cells[counter as usize]
    }

    /// Connections that are open. Accepts and releases are read one after the other, while workers write.
    pub(crate) fn open(&self) -> u64 {
        self.get(Counter::Accepted).saturating_sub(self.get(Counter::Released))
    }

    /// Connections closed, by what has brought them to their end.
    pub(crate) fn endings(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Ending::ALL.iter().map(|ending| (ending.name(), self.cells[ENDINGS_AT + *ending as usize]))
    }

    /// Requests that were answered with an error, by status.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (String, u64)> {
        self.statuses(&REFUSED, REFUSED_AT)
    }

    /// Requests for something else than a WebSocket that got it, by status.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (String, u64)> {
        self.statuses(&ANSWERED, ANSWERED_AT)
    }

    fn statuses(&self, statuses: &'static [u16], first: usize) -> impl Iterator<Item = (String, u64)> {
        let names = statuses.iter().map(u16::to_string).chain(["other".into()]);
        names.zip(self.cells[first..].iter().copied())
    }

    /// Close frames received, by code.
    pub(crate) fn closes_received(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CODES.iter().map(|(_, name)| *name).zip(self.cells[RECEIVED_CODES_AT..].iter().copied())
    }

    /// Close frames sent by the server of its own accord, by code.
    pub(crate) fn closes_sent(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CODES.iter().map(|(_, name)| *name).zip(self.cells[SENT_CODES_AT..].iter().copied())
    }

    /// Measured turns by their time: of each bucket of [`TURN_BOUNDS_US`], and of those beyond.
    pub(crate) fn turn_times(&self) -> &[u64] {
        &self.cells[TURNS_AT..]
    }
}

impl AddAssign<&Tally> for Tally {
    fn add_assign(&mut self, other: &Tally) {
        for (cell, other) in self.cells.iter_mut().zip(&other.cells) {
            *cell += other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_read_where_it_belongs() {
        let counters = Counters::default();
        counters.add(Counter::Accepted, 3);
        counters.add(Counter::SlowReaders, 2);
        counters.subtract(Counter::SlowReaders, 1);
        for ending in Ending::ALL {
            counters.ended(ending);
        }
        for status in [505, 418, 204, 302] {
            counters.answered(status);
        }
        counters.close_received(None);
        counters.close_received(Some(4321));
        counters.close_sent(1009);
        counters.turn_took(Duration::from_micros(25));
        counters.turn_took(Duration::from_secs(1));
        let mut tally = counters.read();
        assert_eq!((tally.open(), tally.get(Counter::SlowReaders)), (0, 1));
        assert!(tally.endings().all(|(_, count)| count == 1));
        let counted = |it: Vec<(&'static str, u64)>| it.into_iter().filter(|it| it.1 > 0).collect::<Vec<_>>();
        assert_eq!(counted(tally.closes_received().collect()), [("none", 1), ("4xxx", 1)]);
        assert_eq!(counted(tally.closes_sent().collect()), [("1009", 1)]);
        let refused: Vec<_> = tally.refusals().filter(|it| it.1 > 0).collect();
        assert_eq!(refused, [("505".into(), 1), ("other".into(), 1)]);
        let answered: Vec<_> = tally.answers().filter(|it| it.1 > 0).collect();
        assert_eq!(answered, [("204".into(), 1), ("other".into(), 1)]);
        assert_eq!((tally.turn_times()[0], tally.turn_times().last()), (1, Some(&1)));
        assert_eq!(tally.turn_times().len(), TURN_BOUNDS_US.len() + 1);
        let again = tally.clone();
        tally += &again;
        assert_eq!((tally.get(Counter::Accepted), tally.get(Counter::TurnNs)), (6, 2 * 1_000_025_000));
    }
}
