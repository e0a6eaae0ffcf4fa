//! What is on its way: bytes that are not acknowledged, and all that a connection needs to have them so.
//!
//! A flight exists as long as something is, or while a connection opens; an idle connection has none. Its bytes are kept as
//! they were given. Messages could be made again from their numbers, but handshakes, control frames, compressed messages
//! and TLS records could not, and what is in flight at a time is little: an echo's request is acknowledged with its answer.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

use super::entry::Entry;
use super::wheel::Wheel;
use super::{is_after, is_before};

/// Bytes of a connection that are kept at most: as many as a send of ringload's has.
pub(super) const BYTES_MAX: usize = 64 << 10;

/// A flight that ends keeps memory for so many bytes, for the next that uses its place.
const BYTES_KEPT: usize = 4 << 10;

/// RFC 6928: the initial window is ten segments.
const INITIAL_SEGMENTS: u32 = 10;

/// What one acknowledgement opens the window by in slow start. At first eight segments (RFC 9406 section 4.2, without pacing):
/// that of a packet of several is one. Behind a loss two (RFC 3465 section 2.3).
const SLOW_START_SEGMENTS: u32 = 8;
const CAREFUL_SEGMENTS: u32 = 2;

/// No deadline, no timer.
const NEVER: u64 = u64::MAX;

/// Names a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlightKey(NonZeroU32);

/// One connection's bytes on their way.
#[derive(Debug)]
pub(super) struct Flight {
    /// The connection's key.
    pub(super) key: u32,
    /// SND.NXT. Behind a timeout it goes back to SND.UNA.
    pub(super) nxt: u32,
    /// The highest SND.NXT there was: acknowledgements up to here are valid.
    pub(super) max: u32,
    /// From SND.UNA on, sent or not.
    pub(super) bytes: VecDeque<u8>,
    /// A FIN follows the bytes.
    pub(super) is_last: bool,
    /// The transport waits for room.
    pub(super) is_awaited: bool,
    /// Timeouts since there was progress.
    pub(super) backoff: u8,
    /// Timeouts since the peer last gave a sign of life.
    pub(super) unanswered: u8,
    pub(super) congestion: Congestion,
    /// What follows the segment whose round trip is being measured, and when that was sent.
    timed: Option<(u32, u64)>,
    deadline_ns: u64,
    /// The tick of the timer that counts; it may be a former flight's in this place.
    timer: u64,
}

const _: () = assert!(size_of::<Flight>() <= 112, "when a server stalls, every connection may have one");

/// What is to be sent next, a segment or several: its bytes begin so far behind SND.UNA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) is_last: bool,
}

impl Piece {
    /// Sequence numbers that it takes.
    pub(super) fn span(self) -> u32 {
        self.len as u32 + u32::from(self.is_last)
    }
}

impl Flight {
    fn new() -> Self {
        Self {
            key: 0,
            nxt: 0,
            max: 0,
            bytes: VecDeque::new(),
            is_last: false,
            is_awaited: false,
            backoff: 0,
            unanswered: 0,
            congestion: Congestion::new(0, 0),
            timed: None,
            deadline_ns: NEVER,
            timer: NEVER,
        }
    }

    /// What the windows allow to be sent next, in a packet of so many bytes: full segments and, at the end, what is left.
    pub(super) fn next_piece(&self, entry: &Entry, len_max: usize) -> Option<Piece> {
        let at = self.nxt.wrapping_sub(entry.una) as usize;
        // Otherwise the FIN has been sent.
        let unsent = self.bytes.len().checked_sub(at)?;
        let window = entry.send_window().min(self.congestion.window) as usize;
        let len = unsent.min(window.saturating_sub(at)).min(len_max);
        let (is_rest, mss) = (len == unsent, usize::from(entry.mss));
        let len = if is_rest || len < mss { len } else { len - len % mss };
        // Sender's silly window syndrome avoidance (RFC 9293 section 3.8.6.2.1). There is no Nagle algorithm.
        let is_silly = !is_rest && len < mss && at > 0;
        let is_last = is_rest && self.is_last;
        ((len > 0 && !is_silly) || (len == 0 && is_last)).then_some(Piece { at, len, is_last })
    }

    /// The first segment again.
    pub(super) fn first_piece(&self, entry: &Entry) -> Piece {
        let sent = self.max.wrapping_sub(entry.una) as usize;
        let len = self.bytes.len().min(sent).min(entry.mss.into());
        Piece { at: 0, len, is_last: self.is_last && len == self.bytes.len() && sent > len }
    }

    /// How many segments of a piece, which is to be sent, have been sent before.
    pub(super) fn repeated(&self, entry: &Entry, piece: Piece) -> u64 {
        let sent = self.max.wrapping_sub(entry.una).saturating_sub(piece.at as u32);
        sent.min(piece.span()).div_ceil(entry.mss.max(1).into()).into()
    }

    /// A piece is sent now.
    pub(super) fn sent(&mut self, una: u32, piece: Piece, now_ns: u64) {
        let end = una.wrapping_add(piece.at as u32).wrapping_add(piece.span());
        let is_new = is_after(end, self.max);
        if is_new {
            self.max = end;
            self.timed = self.timed.or(Some((end, now_ns)));
        } else {
            self.timed = None; // Karn's algorithm: an acknowledgement may be of either
        }
        if is_after(end, self.nxt) {
            self.nxt = end;
        }
    }

    /// Everything up to `ack`, which is more than `una`, has arrived. Returns the round trip if it was measured.
    pub(super) fn acked(&mut self, una: u32, ack: u32, now_ns: u64) -> Option<u64> {
        let span = ack.wrapping_sub(una) as usize;
        if span > self.bytes.len() {
            self.is_last = false; // the FIN, too
        }
        self.bytes.drain(..span.min(self.bytes.len()));
        if is_before(self.nxt, ack) {
            self.nxt = ack;
        }
        (self.backoff, self.unanswered) = (0, 0);
        let (end, sent_ns) = self.timed.filter(|&(end, _)| !is_before(ack, end))?;
        debug_assert!(!is_after(end, self.max));
        self.timed = None;
        Some(now_ns - sent_ns)
    }

    /// The bytes of a piece. They lie in two places where the queue wraps around.
    pub(super) fn slices(&self, piece: Piece) -> [&[u8]; 2] {
        let (first, second) = self.bytes.as_slices();
        let (start, end, cut) = (piece.at, piece.at + piece.len, first.len());
        [&first[start.min(cut)..end.min(cut)], &second[start.saturating_sub(cut)..end.saturating_sub(cut)]]
    }

    /// Goes back to what is not acknowledged.
    pub(super) fn go_back(&mut self, una: u32) {
        self.nxt = una;
        self.timed = None;
    }

    /// Whether something is to be acknowledged or to be sent.
    pub(super) fn is_needed(&self, una: u32) -> bool {
        let has_fin_due = self.is_last && self.max.wrapping_sub(una) as usize == self.bytes.len();
        self.max != una || !self.bytes.is_empty() || has_fin_due
    }

    /// Whether a timeout is being waited for.
    pub(super) fn has_deadline(&self) -> bool {
        self.deadline_ns != NEVER
    }
}

/// The congestion window (RFC 5681), with the recovery of RFC 6582. It lasts as long as the flight: a connection that was
/// idle begins anew (RFC 5681 section 4.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Congestion {
    pub(super) window: u32,
    threshold: u32,
    /// Losses up to here have been answered.
    recover: u32,
    is_recovering: bool,
    duplicates: u8,
}

/// What is to be sent again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    Nothing,
    /// The first piece.
    First,
}

impl Congestion {
    pub(super) fn new(una: u32, mss: u16) -> Self {
        let window = INITIAL_SEGMENTS * u32::from(mss);
        Self { window, threshold: u32::MAX, recover: una, is_recovering: false, duplicates: 0 }
    }

    /// New bytes are acknowledged up to `ack`.
    pub(super) fn acked(&mut self, bytes: u32, ack: u32, mss: u16) -> Repeat {
        let mss = u32::from(mss).max(1);
        self.duplicates = 0;
        if self.is_recovering {
            if is_before(ack, self.recover) {
                return Repeat::First; // a partial acknowledgement: the next hole
            }
            self.is_recovering = false;
            self.window = self.threshold;
        } else if self.window < self.threshold {
            let segments = if self.threshold == u32::MAX { SLOW_START_SEGMENTS } else { CAREFUL_SEGMENTS };
            self.window = self.window.saturating_add(bytes.min(segments * mss));
        } else {
            // A segment for each window (RFC 3465 section 2.1), however many segments were acknowledged at once.
            let opened = u64::from(mss) * u64::from(bytes.min(self.window)) / u64::from(self.window);
            self.window = self.window.saturating_add((opened as u32).max(1));
        }
        Repeat::Nothing
    }

    /// A duplicate acknowledgement of `una`, while everything up to `max` has been sent.
    pub(super) fn duplicate(&mut self, una: u32, max: u32, mss: u16) -> Repeat {
        self.duplicates = self.duplicates.saturating_add(1);
        if self.duplicates != 3 || self.is_recovering || is_before(una, self.recover) {
            return Repeat::Nothing;
        }
        self.halve(una, max, mss);
        self.window = self.threshold;
        (self.recover, self.is_recovering) = (max, true);
        Repeat::First
    }

    /// A timeout: everything up to `max` is sent again. `is_first`: there was progress before.
    pub(super) fn timed_out(&mut self, una: u32, max: u32, mss: u16, is_first: bool) {
        if is_first {
            self.halve(una, max, mss);
        }
        self.window = u32::from(mss);
        (self.recover, self.is_recovering, self.duplicates) = (max, false, 0);
    }

    fn halve(&mut self, una: u32, max: u32, mss: u16) {
        self.threshold = (max.wrapping_sub(una) / 2).max(2 * u32::from(mss));
    }
}

/// All flights of a stack, and their timers.
#[derive(Debug)]
pub(super) struct Flights {
    list: Vec<Flight>,
    free: Vec<FlightKey>,
    wheel: Wheel,
}

impl Index<FlightKey> for Flights {
    type Output = Flight;

    #[inline]
    fn index(&self, key: FlightKey) -> &Flight {
        &self.list[key.0.get() as usize - 1]
    }
}

impl IndexMut<FlightKey> for Flights {
    #[inline]
    fn index_mut(&mut self, key: FlightKey) -> &mut Flight {
        &mut self.list[key.0.get() as usize - 1]
    }
}

impl Flights {
    pub(super) fn new() -> Self {
        Self { list: Vec::new(), free: Vec::new(), wheel: Wheel::new() }
    }

    /// A flight of the connection `key`, with nothing on its way yet.
    pub(super) fn take(&mut self, key: u32, una: u32, mss: u16) -> FlightKey {
        let name = self.free.pop().unwrap_or_else(|| {
            self.list.push(Flight::new());
            FlightKey(NonZeroU32::new(self.list.len() as u32).expect("just grown"))
        });
        let flight = &mut self[name];
        (flight.key, flight.nxt, flight.max) = (key, una, una);
        flight.congestion = Congestion::new(una, mss);
        name
    }

    /// Ends a flight. Its timer stays, for the next that takes the place.
    pub(super) fn give_back(&mut self, name: FlightKey) {
        let flight = &mut self[name];
        let mut bytes = std::mem::take(&mut flight.bytes);
        bytes.clear();
        if bytes.capacity() > BYTES_KEPT {
            bytes = VecDeque::new();
        }
        *flight = Flight { bytes, timer: flight.timer, ..Flight::new() };
        self.free.push(name);
    }

    /// Sets a flight's deadline, in place of the one before.
    pub(super) fn arm(&mut self, name: FlightKey, deadline_ns: u64, now_ns: u64) {
        let flight = &mut self.list[name.0.get() as usize - 1];
        flight.deadline_ns = deadline_ns;
        if Wheel::tick_of(deadline_ns) < flight.timer {
            flight.timer = self.wheel.set(name.0.get(), deadline_ns, now_ns);
        }
    }

    /// Brings a flight's deadline forward. One that is earlier stays.
    pub(super) fn hasten(&mut self, name: FlightKey, deadline_ns: u64, now_ns: u64) {
        if deadline_ns < self[name].deadline_ns {
            self.arm(name, deadline_ns, now_ns);
        }
    }

    /// Takes a flight's deadline away.
    pub(super) fn disarm(&mut self, name: FlightKey) {
        self[name].deadline_ns = NEVER;
    }

    /// The connection of a flight whose deadline has passed. It has none any more.
    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<u32> {
        while let Some((item, tick)) = self.wheel.pop(now_ns) {
            let flight = &mut self.list[item as usize - 1];
            if flight.timer != tick {
                continue; // an earlier one was set since
            }
            flight.timer = NEVER;
            if flight.deadline_ns <= now_ns {
                flight.deadline_ns = NEVER;
                return Some(flight.key);
            }
            if flight.deadline_ns != NEVER {
                flight.timer = self.wheel.set(item, flight.deadline_ns, now_ns);
            }
        }
        None
    }

    /// When [`Flights::pop_due`] may have something.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.wheel.next_ns()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn flight(len: usize, window: u16) -> (Flight, Entry) {
        let una = u32::MAX - 5;
        let entry = Entry { una, window, mss: 100, ..Entry::default() };
        let congestion = Congestion::new(una, 100);
        let flight = Flight { nxt: una, max: una, bytes: vec![1; len].into(), congestion, ..Flight::new() };
        (flight, entry)
    }

    fn send_all(flight: &mut Flight, entry: &Entry) -> Vec<(usize, usize, bool)> {
        send_all_in(flight, entry, entry.mss.into())
    }

    fn send_all_in(flight: &mut Flight, entry: &Entry, len_max: usize) -> Vec<(usize, usize, bool)> {
        let mut pieces = Vec::new();
        while let Some(piece) = flight.next_piece(entry, len_max) {
            pieces.push((piece.at, piece.len, piece.is_last));
            flight.sent(entry.una, piece, 0);
        }
        pieces
    }

    #[test]
    fn segments_fill_the_window_and_no_more() {
        let (mut flight, mut entry) = flight(500, 250);
        assert_eq!(send_all(&mut flight, &entry), [(0, 100, false), (100, 100, false)], "50 would be silly");
        flight.acked(entry.una, entry.una.wrapping_add(200), 0);
        entry.una = entry.una.wrapping_add(200);
        entry.window = 1000;
        flight.is_last = true;
        assert_eq!(send_all(&mut flight, &entry), [(0, 100, false), (100, 100, false), (200, 100, true)]);
        assert!(flight.is_needed(entry.una) && flight.next_piece(&entry, 100).is_none());
        flight.acked(entry.una, entry.una.wrapping_add(301), 0);
        assert!(!flight.is_needed(entry.una.wrapping_add(301)));
    }

    #[test]
    fn a_packet_of_several_segments_ends_with_a_full_one_or_with_the_last() {
        let (mut flight, mut entry) = flight(950, 480);
        flight.is_last = true;
        assert_eq!(send_all_in(&mut flight, &entry, 300), [(0, 300, false), (300, 100, false)], "80 would be silly");
        entry.window = 2000;
        assert_eq!(send_all_in(&mut flight, &entry, 300), [(400, 300, false), (700, 250, true)]);
        flight.go_back(entry.una);
        flight.congestion.timed_out(entry.una, flight.max, 100, true);
        let repeated = flight.repeated(&entry, Piece { at: 0, len: 300, is_last: false });
        assert_eq!((send_all_in(&mut flight, &entry, 300), repeated), (vec![(0, 100, false)], 3), "one at a time");
        assert_eq!(flight.first_piece(&entry), Piece { at: 0, len: 100, is_last: false });
    }

    #[test]
    fn what_is_sent_again_is_counted_in_segments() {
        let (mut flight, entry) = flight(450, 1000);
        let repeated = |flight: &Flight, at, len, is_last| flight.repeated(&entry, Piece { at, len, is_last });
        assert_eq!(repeated(&flight, 0, 300, false), 0);
        flight.sent(entry.una, Piece { at: 0, len: 250, is_last: false }, 0);
        assert_eq!((repeated(&flight, 0, 300, false), repeated(&flight, 100, 100, false)), (3, 1));
        assert_eq!((repeated(&flight, 200, 250, true), repeated(&flight, 250, 200, true)), (1, 0));
        flight.sent(entry.una, Piece { at: 250, len: 200, is_last: true }, 0);
        assert_eq!((repeated(&flight, 450, 0, true), repeated(&flight, 400, 50, true)), (1, 1));
    }

    #[test]
    fn the_window_opens_by_what_is_acknowledged_in_one_packet_or_in_many() {
        let mut congestion = Congestion::new(0, 100);
        congestion.acked(600, 600, 100);
        assert_eq!(congestion.window, 1600);
        congestion.acked(1600, 2200, 100);
        assert_eq!(congestion.window, 2400, "by eight segments at most");
        congestion.timed_out(2200, 4200, 100, true);
        congestion.acked(1000, 3200, 100);
        assert_eq!(congestion.window, 300, "behind a loss by two");
        congestion.window = congestion.threshold;
        congestion.acked(1000, 4200, 100);
        let at_once = congestion.window;
        congestion.window = congestion.threshold;
        for ack in (3300..=4200).step_by(100) {
            congestion.acked(100, ack, 100);
        }
        assert_eq!((at_once, congestion.window / 10), (1100, 109), "a segment for each window");
    }

    #[test]
    fn a_small_window_is_used_if_nothing_is_on_its_way() {
        let (mut flight, entry) = flight(500, 30);
        assert_eq!(send_all(&mut flight, &entry), [(0, 30, false)]);
        let (flight, entry) = self::flight(500, 0);
        assert_eq!(flight.next_piece(&entry, 100), None);
    }

    #[test]
    fn a_fin_follows_the_bytes_or_goes_alone() {
        let (mut flight, entry) = flight(0, 0);
        assert!(!flight.is_needed(entry.una));
        flight.is_last = true;
        assert!(flight.is_needed(entry.una));
        assert_eq!(send_all(&mut flight, &entry), [(0, 0, true)]);
        assert_eq!(flight.first_piece(&entry), Piece { at: 0, len: 0, is_last: true });
    }

    #[test]
    fn round_trips_are_measured_of_what_is_sent_once() {
        let (mut flight, entry) = flight(150, 1000);
        let (una, end) = (entry.una, entry.una.wrapping_add(150));
        flight.sent(una, Piece { at: 0, len: 100, is_last: false }, 10);
        flight.sent(una, Piece { at: 100, len: 50, is_last: false }, 20);
        assert_eq!(flight.acked(una, una.wrapping_add(100), 35), Some(25));
        let una = una.wrapping_add(100);
        assert_eq!(flight.acked(una, end, 50), None, "one at a time");
        let (mut flight, entry) = self::flight(100, 1000);
        flight.sent(entry.una, Piece { at: 0, len: 100, is_last: false }, 10);
        flight.go_back(entry.una);
        flight.sent(entry.una, Piece { at: 0, len: 100, is_last: false }, 20);
        assert_eq!(flight.acked(entry.una, entry.una.wrapping_add(100), 50), None, "sent twice");
    }

    #[test]
    fn three_duplicates_are_answered_once_for_each_loss() {
        use Repeat::{First, Nothing};
        let mut congestion = Congestion::new(0, 100);
        let seen: Vec<_> = (0..5).map(|_| congestion.duplicate(0, 1000, 100)).collect();
        assert_eq!(seen, [Nothing, Nothing, First, Nothing, Nothing]);
        assert_eq!(congestion.window, 500);
        assert_eq!((congestion.acked(300, 300, 100), congestion.acked(700, 1000, 100)), (First, Nothing));
        congestion.timed_out(1000, 2000, 100, true);
        assert_eq!(congestion.window, 100);
        for _ in 0..4 {
            assert_eq!(congestion.duplicate(1000, 2000, 100), Nothing, "of what was sent before the timeout");
        }
    }

    #[test]
    fn a_timer_serves_all_flights_in_its_place() {
        let mut flights = Flights::new();
        let name = flights.take(7, 0, 100);
        flights.arm(name, 300 * MS, 0);
        flights.give_back(name);
        let name = flights.take(8, 0, 100);
        flights.arm(name, 500 * MS, 100 * MS);
        assert_eq!(flights.pop_due(400 * MS), None, "the first one's");
        assert_eq!(flights.pop_due(520 * MS), Some(8));
        flights.arm(name, 9_000 * MS, 520 * MS);
        flights.arm(name, 600 * MS, 520 * MS);
        assert_eq!((flights.pop_due(590 * MS), flights.pop_due(620 * MS)), (None, Some(8)));
        flights.arm(name, 9_000 * MS, 620 * MS);
        flights.hasten(name, 700 * MS, 620 * MS);
        flights.hasten(name, 800 * MS, 620 * MS);
        assert_eq!((flights.pop_due(690 * MS), flights.pop_due(720 * MS)), (None, Some(8)));
        flights.disarm(name);
        assert_eq!((flights.pop_due(20_000 * MS), flights.next_ns(), flights.len()), (None, None, 1));
    }
}
