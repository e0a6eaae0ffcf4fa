//! Sending: what a connection is to send next, and how a send goes on until it is over.

use super::connection::{Connection, Flag, Stage};
use super::operations::{Kind, SendMode, Token};
use super::worker::{TURN, Worker};
use crate::message::MessageId;
use crate::stats::Counter;
use crate::websocket::frames::{Opcode, close_code, write_control};

/// Messages that a slow reader sends in one go.
const UNREAD_AT_A_TIME: u64 = 16;

impl Worker<'_> {
    /// Sends first: their buffers, still in cache, then serve what the rest of the batch has to send.
    pub(super) fn settle_sends(&mut self) {
        let mut batch = std::mem::take(&mut self.send_batch);
        for &(token, _) in &batch {
            if let Some(connection) = self.connection(token) {
                connection.set(Flag::Trying, false);
            }
        }
        // What goes on from here queues tries anew, in a list of their own.
        let mut tries = std::mem::replace(&mut self.tries, std::mem::take(&mut self.spare_tries));
        for token in tries.drain(..) {
            self.on_silence(token);
        }
        self.spare_tries = tries;
        for (token, result) in batch.drain(..) {
            self.on_send(token, result);
        }
        self.send_batch = batch;
    }

    /// A try was submitted, and has sent everything unless its completion has said otherwise.
    #[inline]
    fn on_silence(&mut self, token: Token) {
        let Some(connection) = self.connection(token).filter(|connection| connection.has(Flag::Trying)) else { return };
        connection.set(Flag::Trying, false);
        let is_ending = connection.stage == Stage::Ending;
        let send = connection.send.take().expect("a try was under way");
        let buffer = self.sends.get(send);
        buffer.advance_all(&self.shared.messages);
        if !is_ending && !buffer.is_empty() {
            self.connections[token.key as usize].send = Some(send);
            return self.submit_send(token.key, SendMode::Try);
        }
        let is_complete = buffer.is_empty();
        self.sends.give_back(send);
        self.go_on(token, is_complete);
    }

    /// What comes behind a send that is over; `is_complete` says whether the server has got all of it.
    #[inline]
    fn go_on(&mut self, token: Token, is_complete: bool) {
        let connection = &self.connections[token.key as usize];
        if connection.stage != Stage::Ending {
            self.send_due(token.key);
        } else if is_complete && connection.has(Flag::CloseDue) {
            // It was given up meanwhile, and the server is to know why.
            self.send_control(token.key);
        } else {
            self.release_if_ended(token);
        }
    }

    /// A waiting send has got further, or a try has not sent everything.
    #[cold]
    fn on_send(&mut self, token: Token, result: i32) {
        let Some(connection) = self.connection(token) else {
            debug_assert!(false, "completion of a connection that is gone");
            return;
        };
        let send = connection.send.expect("a send completed, so one was in flight");
        let is_ending = connection.stage == Stage::Ending;
        let result = if result == -libc::EAGAIN { 0 } else { result };
        let Ok(count) = usize::try_from(result) else {
            connection.send = None;
            self.sends.give_back(send);
            return self.on_gone(token, Some(-result));
        };
        let buffer = self.sends.get(send);
        buffer.advance(count, &self.shared.messages);
        if !is_ending && !buffer.is_empty() {
            return self.submit_send(token.key, SendMode::Wait);
        }
        self.connections[token.key as usize].send = None;
        let is_complete = buffer.is_empty();
        self.sends.give_back(send);
        self.go_on(token, is_complete);
    }

    /// Sends what the connection is to send now, if anything, and if nothing is in flight already.
    pub(super) fn send_due(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        if !connection.is_upgraded() {
            return;
        }
        if connection.send.is_some() {
            self.is_held_up |= connection.has(Flag::Trying) && self.is_something_due(key);
            return;
        }
        if connection.has_control_due() {
            return self.send_control(key);
        }
        if connection.stage == Stage::Greeting && connection.session.is_new() {
            return self.send_greeting(key);
        }
        let due = self.messages_due(key);
        if due > 0 {
            self.send_messages(key, due);
        }
    }

    fn is_something_due(&mut self, key: u32) -> bool {
        let connection = &self.connections[key as usize];
        connection.has_control_due()
            || (connection.stage == Stage::Greeting && connection.session.is_new())
            || self.messages_due(key) > 0
    }

    /// How many messages the connection may send now: in a closed loop as many as have come back, in an open loop at
    /// least one if one is due.
    #[inline]
    fn messages_due(&mut self, key: u32) -> u64 {
        let connection = &self.connections[key as usize];
        let may_send = self.phase.is_sending() && connection.stage == Stage::Open && connection.has(Flag::Active);
        if !may_send || connection.has(Flag::Recycling) {
            return if may_send || !connection.has(Flag::SlowReader) { 0 } else { self.unread_due(key) };
        }
        let room = self.shared.scenario.traffic.depth.saturating_sub(connection.session.in_flight());
        if self.shared.scenario.traffic.open.is_some() {
            return self.due_by_the_clock(key, room);
        }
        u64::from(room).min(self.quota)
    }

    /// Open loop: whether a message is due and may be sent; sees to it that the next one will be noticed.
    fn due_by_the_clock(&mut self, key: u32, room: u32) -> u64 {
        let connection = &mut self.connections[key as usize];
        let Some(schedule) = self.times.schedule() else { return 0 };
        let clock = connection.session.clock().unwrap_or_else(|| {
            let number = connection.session.number();
            let clock = schedule.start(key, number, self.shared.scenario.phase_of(number), self.now_ns);
            connection.session.set_clock(clock);
            clock
        });
        if !schedule.is_due(clock, self.now_ns) {
            schedule.queue(clock);
            return 0;
        }
        u64::from(room.min(1)).min(self.quota)
    }

    /// Open loop: sends on connections whose time has come, a turn's worth. Returns whether there may be more.
    pub(super) fn send_what_is_due(&mut self) -> bool {
        if self.times.schedule().is_none() {
            return false;
        }
        self.now_ns = self.clock_ns();
        for _ in 0..TURN {
            let next = self.times.schedule().and_then(|schedule| schedule.pop(self.now_ns));
            let Some(due) = next else { return false };
            self.tally.lag(self.now_ns - due.due_ns);
            self.send_due(due.key);
        }
        true
    }

    /// How many messages a slow reader sends now: as many as fit into a buffer.
    #[cold]
    fn unread_due(&self, key: u32) -> u64 {
        let is_open = self.connections[key as usize].stage == Stage::Open;
        if self.phase.is_sending() && is_open { UNREAD_AT_A_TIME } else { 0 }
    }

    /// Sends the one message that proves a connection.
    fn send_greeting(&mut self, key: u32) {
        let send = self.sends.take();
        let connection = &mut self.connections[key as usize];
        connection.send = Some(send);
        let id = connection.session.send_untimed(&mut self.tally);
        self.sends.get(send).add_message(id, &self.shared.messages);
        self.submit_send(key, SendMode::Try);
    }

    /// Sends up to `due` messages in one go, as many as fit into one buffer; in an open loop as many as are due.
    fn send_messages(&mut self, key: u32, due: u64) {
        let send = self.sends.take();
        self.connections[key as usize].send = Some(send);
        let messages = &self.shared.messages;
        let mut left = due;
        while left > 0 {
            let connection = &mut self.connections[key as usize];
            let buffer = self.sends.get(send);
            if !buffer.has_room(connection.session.next_id(), messages) {
                // What is left goes on as soon as this is submitted.
                self.is_held_up |= self.shared.scenario.traffic.open.is_some();
                break;
            }
            let id = if connection.has(Flag::SlowReader) {
                self.tally.count(Counter::SlowSent);
                connection.session.send_unread()
            } else {
                self.quota -= 1;
                connection.session.send(self.now_ns, &mut self.times, &mut self.tally)
            };
            buffer.add_message(id, messages);
            left -= 1;
            if left == 0 && self.shared.scenario.traffic.open.is_some() {
                left = self.messages_due(key) * u64::from(!self.connections[key as usize].has(Flag::SlowReader));
            }
        }
        self.submit_send(key, SendMode::Try);
    }

    /// Sends a Close, a ping or a pong; the Close is the last frame on a connection.
    fn send_control(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        // Control frames' masking keys need not be those of any message.
        let id = MessageId { connection: !connection.session.number(), sequence: 0 };
        let key_bytes = self.shared.messages.masking_key(id);
        let pong = self.pongs.remove(&key);
        let close_code = self.close_codes.remove(&key).unwrap_or(close_code::NORMAL);
        self.tally.counts[Counter::Pings] += u64::from(pong.is_some());
        self.tally.counts[Counter::PingsSent] += u64::from(connection.has(Flag::PingDue));
        self.write_send(key, |bytes, connection| {
            let mut len = 0;
            if let Some(payload) = pong {
                len += write_control(Opcode::Pong, &payload, key_bytes, bytes);
            }
            if connection.has(Flag::PingDue) {
                len += write_control(Opcode::Ping, b"ringload", key_bytes, &mut bytes[len..]);
            }
            if connection.has(Flag::CloseDue) {
                len += write_control(Opcode::Close, &close_code.to_be_bytes(), key_bytes, &mut bytes[len..]);
            }
            for flag in [Flag::PongDue, Flag::PingDue, Flag::CloseDue] {
                connection.set(flag, false);
            }
            len
        });
    }

    /// Sends what `write` writes. Nothing else may be in flight on the connection.
    pub(super) fn write_send(&mut self, key: u32, write: impl FnOnce(&mut [u8], &mut Connection) -> usize) {
        let send = self.sends.take();
        let connection = &mut self.connections[key as usize];
        debug_assert!(connection.send.is_none(), "a second send");
        connection.send = Some(send);
        self.sends.get(send).fill(|bytes| write(bytes, connection));
        self.submit_send(key, SendMode::Try);
    }

    fn submit_send(&mut self, key: u32, mode: SendMode) {
        let connection = &mut self.connections[key as usize];
        let token = connection.token(Kind::Send, key);
        let buffer = self.sends.get(connection.send.expect("what is to be sent was taken"));
        if mode == SendMode::Try {
            connection.set(Flag::Trying, true);
            self.tries.push(token);
        }
        // SAFETY: what the buffer owns is never moved, and it is neither written nor given back before this send is over
        // (`Connection::send` holds it until then); `sends` and the messages' tables outlive the ring.
        unsafe { self.ring.push_borrowed(buffer.operation(token, &self.shared.messages, mode)) };
    }
}
