//! The end of a connection's life: closed in order, closed by the server, or given up; then let go of, but not before
//! the kernel has.

use super::connection::{Flag, Stage};
use super::operations::{self, Kind, Token};
use super::worker::Worker;
use crate::stats::{Cause, Counter};
use crate::websocket::frames::Violation;

/// Closing handshakes in flight at most, all threads together, and the least for one thread.
const CLOSE_WINDOW: u32 = 1024;
const MIN_CLOSE_WINDOW: u32 = 16;

/// The orderly closing of all connections.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// The next key to look at.
    next: usize,
    in_flight: u32,
}

impl Worker<'_> {
    /// Begins closing handshakes on the next connections, as many as may be in flight.
    pub(super) fn close_more(&mut self) {
        let window = (CLOSE_WINDOW / self.shared.threads).max(MIN_CLOSE_WINDOW);
        while self.closing.in_flight < window && self.closing.next < self.connections.capacity() {
            let key = self.closing.next;
            self.closing.next += 1;
            let Some(connection) = self.connections.get_mut(key) else { continue };
            match connection.stage {
                Stage::Open if connection.has(Flag::SlowReader) => self.finish(key as u32),
                Stage::Greeting | Stage::Open if self.shared.messages.are_framed() => {
                    connection.set(Flag::InCloseWindow, true);
                    self.closing.in_flight += 1;
                    self.send_close(key as u32);
                }
                Stage::Ending => {}
                // Without frames there is no Close. The others are half open, or were closed by the server with the TCP
                // connection left open.
                _ => self.finish(key as u32),
            }
        }
    }

    fn send_close(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        connection.stage = Stage::Closing;
        connection.set(Flag::CloseDue, true);
        self.tally.count(Counter::ClosesSent);
        self.send_due(key);
    }

    /// Closes a connection that is to be opened again, in order: not before all its messages have come back.
    pub(super) fn recycle(&mut self, key: u32) {
        self.tally.count(Counter::Recycled);
        self.connections[key as usize].set(Flag::Recycling, true);
        self.close_if_settled(key);
    }

    /// Goes on with that when a message has come back.
    pub(super) fn close_if_settled(&mut self, key: u32) {
        let connection = &self.connections[key as usize];
        if connection.stage != Stage::Open || connection.session.in_flight() > 0 {
            return;
        }
        if self.shared.messages.are_framed() { self.send_close(key) } else { self.finish(key) }
    }

    /// The server's Close has arrived, and this side's is to have this code if it is still to be sent. Then the server is
    /// to close the TCP connection (RFC 6455 section 7.1.1).
    pub(super) fn on_close(&mut self, key: u32, code: u16) {
        let connection = &mut self.connections[key as usize];
        connection.set(Flag::ServerClosed, true);
        if connection.stage == Stage::Closing {
            self.tally.count(Counter::ClosesAnswered);
            return;
        }
        self.closed_early(key);
        let connection = &mut self.connections[key as usize];
        connection.stage = Stage::Closing;
        connection.set(Flag::CloseDue, true);
        self.close_codes.insert(key, code);
        self.send_due(key);
    }

    /// The TCP connection has ended, with or without an error.
    #[cold]
    pub(super) fn on_gone(&mut self, token: Token, errno: Option<i32>) {
        let Some(connection) = self.connection(token) else { return };
        match connection.stage {
            Stage::Connecting | Stage::Upgrading => self.fail(token.key, errno.map_or(Cause::Reset, Cause::of_error)),
            Stage::Greeting | Stage::Open => {
                self.closed_early(token.key);
                self.finish(token.key);
            }
            Stage::Closing => self.finish(token.key),
            Stage::Ending => self.release_if_ended(token),
        }
    }

    /// The server has broken the protocol: what follows cannot be understood, so the connection is given up. The server
    /// is told why (RFC 6455 section 7.1.7) unless it would have to be waited for.
    #[cold]
    pub(super) fn on_violation(&mut self, key: u32, violation: Violation) {
        self.tally.count(Counter::Violations);
        *self.tally.violations.entry(violation.to_string()).or_default() += 1;
        self.settle_greeting(key);
        let connection = &mut self.connections[key as usize];
        if connection.stage != Stage::Closing || connection.has(Flag::CloseDue) {
            connection.set(Flag::CloseDue, true);
            self.close_codes.insert(key, violation.close_code());
            self.send_due(key);
        }
        self.finish(key);
    }

    fn closed_early(&mut self, key: u32) {
        let connection = &self.connections[key as usize];
        let may_be = connection.has(Flag::SlowReader) && connection.stage == Stage::Open;
        self.tally.count(if may_be { Counter::SlowEnded } else { Counter::ClosedEarly });
        self.settle_greeting(key);
    }

    /// An attempt that gets no further than its greeting is settled all the same.
    fn settle_greeting(&mut self, key: u32) {
        if self.connections[key as usize].stage == Stage::Greeting {
            self.tally.count(Counter::Settled);
        }
    }

    /// Gives a connection up: ends what the kernel still does for it. It is let go of when all of that has completed.
    pub(super) fn finish(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        if connection.stage == Stage::Ending {
            return;
        }
        if connection.is_upgraded() {
            self.tally.count(Counter::Ended);
        }
        if connection.has(Flag::InCloseWindow) {
            self.closing.in_flight -= 1;
        }
        let until_ns = if self.phase.is_sending() && self.quota > 0 { self.now_ns } else { 0 };
        connection.abandon(&mut self.times, &mut self.tally, until_ns);
        connection.stage = Stage::Ending;
        let under_way = [
            (connection.has(Flag::ConnectPending), Kind::Connect),
            (connection.has(Flag::Polled), Kind::Ready),
            (connection.send.is_some() && !connection.has(Flag::Trying), Kind::Send),
        ];
        let token = |kind| Token { key, generation: connection.generation, kind };
        let released_by = token(Kind::Ready);
        let cancels = under_way.map(|(is_under_way, kind)| is_under_way.then(|| operations::cancel(token(kind))));
        for cancel in cancels.into_iter().flatten() {
            self.ring.push(cancel);
        }
        self.release_if_ended(released_by);
    }

    /// Lets go of a connection that was given up and for which the kernel has nothing under way any more.
    pub(super) fn release_if_ended(&mut self, token: Token) {
        let Some(connection) = self.connection(token) else { return };
        let under_way = [Flag::ConnectPending, Flag::Polled, Flag::Receiving];
        let is_idle = connection.send.is_none() && !under_way.into_iter().any(|flag| connection.has(flag));
        if connection.stage != Stage::Ending || !is_idle {
            return;
        }
        let gone = self.connections.remove(token.key as usize);
        self.pongs.remove(&token.key);
        self.close_codes.remove(&token.key);
        self.ring.push(operations::close(token.key));
        if gone.has(Flag::Recycling) && self.phase.is_sending() {
            self.begin(gone.session.number());
        }
    }
}
