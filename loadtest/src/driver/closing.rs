//! The end of a connection: closed in order, closed by the server, or given up. Its entry is freed once the transport
//! has released it.

use std::sync::atomic::Ordering;

use super::connection::{Connection, Flag, Stage};
use super::deadlines::{Deadline, Deadlines};
use super::{Driver, TURN, Want};
use crate::control::Phase;
use crate::scenario::Scenario;
use crate::stats::{Cause, Counter, EarlyEnd};
use crate::websocket::frames::{ServerClose, Violation};

/// Limit of closing handshakes in flight, over all threads, and the minimum per thread.
const WINDOW: u32 = 1024;
const WINDOW_MIN: u32 = 16;

/// A connection whose Close is unanswered after this time no longer occupies the window: a server that answers no Close
/// must not hold up every window.
const WINDOW_PATIENCE_NS: u64 = 1_000_000_000;

/// After both Closes the server ends the TCP connection. If it has ended none for this time, this side does, as RFC
/// 6455 section 7.1.1 allows.
const LINGER_NS: u64 = 1_000_000_000;

/// The orderly closing of connections.
#[derive(Debug)]
pub(super) struct Closing {
    /// The next key to visit.
    next: usize,
    window: u32,
    in_flight: u32,
    /// Deadlines after which closing handshakes no longer occupy the window.
    in_window: Deadlines,
    /// Deadlines of closing handshakes.
    incomplete: Deadlines,
    /// Deadlines for the end of TCP after both Closes.
    lingering: Deadlines,
}

impl Closing {
    pub(super) fn new(scenario: &Scenario, threads: u32) -> Self {
        Self {
            next: 0,
            window: (WINDOW / threads.max(1)).max(WINDOW_MIN),
            in_flight: 0,
            in_window: Deadlines::new(WINDOW_PATIENCE_NS),
            incomplete: Deadlines::new(scenario.close_timeout.as_nanos() as u64),
            lingering: Deadlines::new(LINGER_NS),
        }
    }
}

impl<T: Default> Driver<'_, T> {
    /// When the next deadline or step of closing is due.
    pub(super) fn closing_deadline_ns(&self) -> Option<u64> {
        let Closing { in_window, incomplete, lingering, .. } = &self.closing;
        let until_ns = self.close_timeout_ns();
        let incomplete_ns = incomplete.next_ns().map(|due_ns| due_ns.max(self.progress_counts_until_ns(until_ns)));
        let lingering_ns = lingering.next_ns().map(|due_ns| due_ns.max(self.progress_counts_until_ns(LINGER_NS)));
        [in_window.next_ns(), incomplete_ns, lingering_ns].into_iter().flatten().min()
    }

    fn close_timeout_ns(&self) -> u64 {
        self.load.scenario.close_timeout.as_nanos() as u64
    }

    /// The time before which no connection is given up. In the close phase `allowed_ns` starts again with each step of
    /// the server on any connection of any thread.
    fn progress_counts_until_ns(&self, allowed_ns: u64) -> u64 {
        if self.phase != Phase::Close {
            return 0;
        }
        self.load.closing_progress_ns.load(Ordering::Relaxed).saturating_add(allowed_ns)
    }

    /// Notes that the server has answered a Close, or ended a TCP connection after both Closes.
    fn note_closing_progress(&self) {
        self.load.closing_progress_ns.fetch_max(self.now_ns, Ordering::Relaxed);
    }

    /// Starts closing handshakes on the next connections, as far as the window allows.
    pub(super) fn close_more(&mut self) {
        let end = self.closing.next.saturating_add(TURN).min(self.connections.capacity());
        while self.closing.in_flight < self.closing.window && self.closing.next < end {
            let key = self.closing.next as u32;
            self.closing.next += 1;
            let Some(connection) = self.connections.get_mut(key as usize) else { continue };
            match connection.stage {
                Stage::Greeting | Stage::Open if self.load.messages.are_framed() && !connection.is_unread() => {
                    connection.set(Flag::InCloseWindow, true);
                    let began_us = connection.began_us;
                    self.closing.in_flight += 1;
                    self.closing.in_window.set(self.now_ns, key, began_us);
                    self.send_close(key);
                }
                // A closing handshake is under way already, with its own deadline.
                Stage::Closing | Stage::Ending => {}
                // No Close is possible without frames; slow readers would not read the answer, and the others are not
                // upgraded.
                _ => self.finish(key),
            }
        }
        let has_more = self.closing.next < self.connections.capacity();
        self.is_held_up |= has_more && self.closing.in_flight < self.closing.window;
    }

    fn send_close(&mut self, key: u32) {
        self.tally.count(Counter::ClosesSent);
        self.begin_closing(key);
    }

    fn begin_closing(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        connection.stage = Stage::Closing;
        connection.set(Flag::CloseDue, true);
        self.closing.incomplete.set(self.now_ns, key, connection.began_us);
        self.ask_to_send(key);
    }

    /// Waits for the server to end the TCP connection if both Closes are complete.
    pub(super) fn linger_if_closed(&mut self, key: u32) {
        let connection = &self.connections[key as usize];
        if connection.stage == Stage::Closing && has_closed(connection) {
            self.closing.lingering.set(self.now_ns, key, connection.began_us);
        }
    }

    /// Closes a connection in order during the load, after all its messages have come back.
    pub(super) fn leave(&mut self, key: u32) {
        self.connections[key as usize].set(Flag::Leaving, true);
        self.close_if_settled(key);
    }

    /// Closes such a connection once no message is in flight.
    pub(super) fn close_if_settled(&mut self, key: u32) {
        let connection = &self.connections[key as usize];
        if connection.stage != Stage::Open || connection.session.in_flight() > 0 {
            return;
        }
        if self.load.messages.are_framed() { self.send_close(key) } else { self.finish(key) }
    }

    /// The server's Close has arrived. If this side's is not sent yet, it repeats the code. The server then closes the
    /// TCP connection (RFC 6455 section 7.1.1).
    pub(super) fn on_close(&mut self, key: u32, close: ServerClose) {
        let connection = &mut self.connections[key as usize];
        connection.set(Flag::ServerClosed, true);
        if connection.stage == Stage::Closing {
            self.tally.count(Counter::ClosesAnswered);
            self.note_closing_progress();
            self.leave_window(key);
            return self.linger_if_closed(key);
        }
        self.close_codes.insert(key, close.answer());
        self.closed_early(key, EarlyEnd::Close(close));
        self.begin_closing(key);
    }

    fn leave_window(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        if connection.has(Flag::InCloseWindow) {
            connection.set(Flag::InCloseWindow, false);
            self.closing.in_flight -= 1;
        }
    }

    /// Gives up connections whose deadline for the server's next closing step is over.
    pub(super) fn expire_closes(&mut self) {
        while let Some(late) = self.pop_late(|closing| &mut closing.in_window, |it| it.has(Flag::InCloseWindow)) {
            self.leave_window(late.key);
        }
        if self.now_ns >= self.progress_counts_until_ns(self.close_timeout_ns()) {
            while let Some(late) = self.pop_late(|closing| &mut closing.incomplete, |it| !has_closed(it)) {
                self.tally.count(Counter::CloseTimeouts);
                self.finish(late.key);
            }
        }
        if self.now_ns >= self.progress_counts_until_ns(LINGER_NS) {
            while let Some(late) = self.pop_late(|closing| &mut closing.lingering, has_closed) {
                self.tally.count(Counter::Lingered);
                self.finish(late.key);
            }
        }
    }

    /// The next connection with an expired deadline of this kind that is closing and still waits for that step.
    fn pop_late(
        &mut self,
        deadlines: impl Fn(&mut Closing) -> &mut Deadlines,
        is_pending: impl Fn(&Connection<T>) -> bool,
    ) -> Option<Deadline> {
        let connections = &self.connections;
        deadlines(&mut self.closing).pop(self.now_ns, |deadline| {
            let connection = connections.get(deadline.key as usize).filter(|it| it.began_us == deadline.began_us);
            connection.is_some_and(|it| it.stage == Stage::Closing && is_pending(it))
        })
    }

    /// The TCP connection has ended: with `cause` before the upgrade, with `end` after it.
    #[cold]
    pub fn ended(&mut self, key: u32, cause: Cause, end: EarlyEnd) {
        let Some(connection) = self.connections.get(key as usize) else { return };
        match connection.stage {
            Stage::Connecting | Stage::Upgrading => self.fail_unanswered(key, cause),
            Stage::Greeting | Stage::Open => {
                self.closed_early(key, end);
                self.finish(key);
            }
            Stage::Closing => {
                self.note_closing_progress();
                self.finish(key);
            }
            Stage::Ending => {}
        }
    }

    /// The server has broken the protocol, so its further output cannot be parsed: the connection is given up. A Close
    /// tells the server why (RFC 6455 section 7.1.7), unless sending it would block.
    #[cold]
    pub(super) fn on_violation(&mut self, key: u32, violation: Violation) {
        self.tally.count(Counter::Violations);
        *self.tally.violations.entry(violation.to_string()).or_default() += 1;
        self.settle_greeting(key);
        let connection = &mut self.connections[key as usize];
        if connection.stage != Stage::Closing || connection.has(Flag::CloseDue) {
            connection.set(Flag::CloseDue, true);
            self.close_codes.insert(key, violation.close_code());
            self.ask_to_send(key);
        }
        self.finish(key);
    }

    fn closed_early(&mut self, key: u32, end: EarlyEnd) {
        if self.connections[key as usize].is_unread() {
            self.tally.count(Counter::SlowEnded);
        } else {
            self.tally.closed_early(end);
        }
        self.settle_greeting(key);
        // The server has ended the connection: its pending pings count as neither answered nor unanswered.
        if let Some(pings) = self.pings.remove(&key) {
            pings.abandon(&mut self.tally, true);
        }
    }

    /// An attempt that ends during its greeting counts as settled, too.
    fn settle_greeting(&mut self, key: u32) {
        if self.connections[key as usize].stage == Stage::Greeting {
            self.tally.count(Counter::Settled);
        }
    }

    /// Gives a connection up and has the transport release it.
    pub(super) fn finish(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        if connection.stage == Stage::Ending {
            return;
        }
        if connection.is_upgraded() {
            self.tally.count(Counter::Ended);
        }
        self.leave_window(key);
        let connection = &mut self.connections[key as usize];
        let until_ns = if self.phase.is_sending() && self.quota > 0 { self.now_ns } else { 0 };
        connection.abandon(&mut self.times, &mut self.tally, until_ns);
        connection.stage = Stage::Ending;
        if let Some(pings) = self.pings.remove(&key) {
            pings.abandon(&mut self.tally, false);
        }
        self.wants.push_back(Want::Release { key });
    }

    /// Whether a connection has been given up, and is to be released.
    #[must_use]
    pub fn is_ending(&self, key: u32) -> bool {
        self.connections.get(key as usize).is_none_or(|connection| connection.stage == Stage::Ending)
    }

    /// The transport has released a connection: its slot may be reused.
    pub fn released(&mut self, key: u32) {
        let Some(gone) = self.connections.try_remove(key as usize) else { return };
        debug_assert!(gone.stage == Stage::Ending, "a connection was released unasked");
        self.pongs.remove(&key);
        self.close_codes.remove(&key);
        if let Some(codecs) = &mut self.codecs {
            codecs.release(key);
        }
        self.on_left(&gone, key);
    }
}

/// Whether both sides have sent their Close.
fn has_closed<T>(connection: &Connection<T>) -> bool {
    connection.has(Flag::ServerClosed) && !connection.has(Flag::CloseDue)
}
