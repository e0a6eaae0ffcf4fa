//! The connections of one worker's ring: the effect of completions on them, and the next submissions.
//!
//! Nothing here makes a system call. Completions come in as method calls, operations go out as a list of [`Op`]s. The rules
//! for soundness:
//! - the kernel reads the memory of a send only during the `io_uring_enter` that submits it (`MSG_DONTWAIT`);
//! - an enter has at most one send of a connection, which a second one could overtake;
//! - an entry, its slot and its generation live until the last completion of the connection has been reaped.

use ringio::{Operation, Piece, Pool, RECEIVES_MAX, Usual};

use crate::connection::lifecycle::{Facts, State};
use crate::connection::output::{BLOCK, Lender};
use crate::connection::schedule::Planned;
use crate::connection::{Connections as Core, Timeouts};
use crate::protocol::{Output, Settings};
use crate::transport::Doors;
use crate::worker::{Backlog, Counter};

use super::operation::{END, Op};
use super::socket::Socket;
use super::token::{Kind, Token};

#[cfg(test)]
mod checks;
#[cfg(test)]
mod tests;

/// Output of a slow reader below this is copied behind its pending output, so that only few and large pieces stay in the
/// receive buffers: 128 in a buffer of 512 KiB, which a turn can move out (docs/ARCHITECTURE.md).
const COPY_BELOW: u32 = 4 << 10;

/// Limit of slow readers noted as holders of receive buffers: as many as have pieces in two of them. Of more, most will have
/// sent theirs by now.
const HOLDERS_MAX: usize = 256;

/// Operations of a connection in the kernel, one bit each.
pub(super) mod flight {
    /// A receive is among the operations to submit, or submitted.
    pub(in super::super) const RECEIVING: u8 = 1;
    /// The front of the output is among the operations to submit, or submitted.
    pub(in super::super) const SENDING: u8 = 1 << 1;
    /// The poll is armed.
    pub(in super::super) const POLLED: u8 = 1 << 2;
    /// A `shutdown(SHUT_WR)` or a reset is not completed.
    pub(in super::super) const SHUTTING: u8 = 1 << 3;
    /// The close of the descriptor is in flight: the last operation of all.
    pub(in super::super) const CLOSING: u8 = 1 << 4;
    /// The poll is being cancelled, because the descriptor is to be closed.
    pub(in super::super) const CANCELLING: u8 = 1 << 5;
    /// The unfinished send fell short, and can be retried at once.
    pub(in super::super) const RETRY: u8 = 1 << 6;
}
use flight::{CANCELLING, CLOSING, POLLED, RECEIVING, RETRY, SENDING, SHUTTING};

impl Lender for Pool {
    type Piece = Piece;

    #[inline]
    fn bytes<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        piece.bytes()
    }

    #[inline]
    fn len(piece: &Piece) -> usize {
        piece.len() as usize
    }

    #[inline]
    fn advance(piece: &mut Piece, by: usize) {
        piece.advance(by as u32);
    }

    #[inline]
    fn release(&mut self, piece: Piece) {
        Pool::release(self, piece);
    }
}

/// The recent size of receives, which determines a turn's number of them.
#[derive(Default)]
struct Receives {
    foreground: Usual,
    background: Usual,
    /// Receives among the operations to submit.
    queued: usize,
}

/// The connections of a worker.
pub(super) struct Connections {
    pub(super) core: Core<Socket, Pool>,
    pool: Pool,
    ops: Vec<Op>,
    /// Connections whose send is among `ops`.
    queued_sends: Vec<u32>,
    /// Connections whose send the last enter has submitted.
    submitted_sends: Vec<u32>,
    receives: Receives,
    /// Slow readers whose output lies in the receive buffers.
    holders: Vec<u32>,
    /// Below this, output of slow readers is copied.
    copy_below: u32,
    /// The next enter must not wait: work follows as soon as its sends are out.
    is_urgent: bool,
}

impl Connections {
    /// Room for `capacity` connections that receive into `pool`.
    pub(super) fn new(
        capacity: usize,
        pool: Pool,
        backlog: Backlog,
        settings: Settings,
        doors: Doors,
        timeouts: Timeouts,
    ) -> Self {
        Self {
            copy_below: COPY_BELOW.min(pool.shape().size / 4),
            core: Core::new(capacity, backlog, settings, doors, timeouts),
            pool,
            ops: Vec::new(),
            queued_sends: Vec::new(),
            submitted_sends: Vec::new(),
            receives: Receives::default(),
            holders: Vec::new(),
            is_urgent: false,
        }
    }

    /// Whether the next enter must not wait for completions. Called before [`Connections::take_ops`].
    pub(super) fn is_urgent(&self) -> bool {
        self.is_urgent || self.core.has_foreground() || self.core.has_background()
    }

    /// The number of operations that will have completed when the enter that submits them returns.
    pub(super) fn queued_receives(&self) -> usize {
        self.receives.queued
    }

    /// Takes the operations to submit, in order, for [`Connections::submission`].
    pub(super) fn take_ops(&mut self) -> Vec<Op> {
        self.is_urgent = false;
        self.receives.queued = 0;
        self.submitted_sends.append(&mut self.queued_sends);
        std::mem::take(&mut self.ops)
    }

    /// Gives back the memory that [`Connections::take_ops`] took; the operations are submitted.
    pub(super) fn give_back(&mut self, mut ops: Vec<Op>) {
        ops.clear();
        if self.ops.is_empty() {
            self.ops = ops;
        }
    }

    /// An operation as a submission.
    #[inline]
    pub(super) fn submission(&self, op: Op) -> Operation<'_> {
        op.submission(|| {
            let queue = self.core.get(op.token.key).output;
            (self.core.outputs.front(queue, &self.pool), self.core.outputs.has_several(queue))
        })
    }

    // ----- completions -----

    /// A socket has arrived in `slot`, through the listener of this number.
    pub(super) fn accepted(&mut self, slot: u32, listener: usize) {
        let socket = Socket::new(slot, self.core.door(listener).hides_more);
        let key = self.core.accepted(socket, listener);
        if self.core.has_journal() {
            self.submit(key, Kind::Install, None);
        }
        self.settle(key);
    }

    /// A socket's descriptor in the process's table has this peer.
    pub(super) fn installed(&mut self, token: Token, peer: Option<String>) {
        let is_there = self.core.contains(token.key) && u32::from(self.core.generation(token.key)) == token.generation;
        if let Some(peer) = peer.filter(|_| is_there) {
            self.core.set_peer(token.key, peer);
        }
    }

    /// Handles a completion of a socket's poll.
    #[inline]
    pub(super) fn ready(&mut self, token: Token, result: i32, goes_on: bool) {
        let key = self.checked(token);
        let connection = self.core.get_mut(key);
        if !goes_on {
            // Cancelled; or ended by the kernel for want of room for completions: `settle` arms it again.
            connection.flight &= !POLLED;
        }
        if result < 0 {
            if result != -libc::ECANCELED {
                self.core.broken(key);
            }
        } else {
            // A receive also reports errors and the end.
            if result & !i32::from(libc::POLLOUT) != 0 {
                connection.life.has_input();
            }
            if result & END != 0 {
                connection.life.facts.set(Facts::END_AHEAD);
            }
            if result & i32::from(libc::POLLOUT) != 0 && connection.life.facts.has(Facts::BLOCKED) {
                if connection.flight & SENDING != 0 {
                    connection.flight |= RETRY;
                } else {
                    self.core.writable(key);
                }
            }
        }
        self.settle(key);
    }

    /// Handles the completion of a receive.
    #[inline]
    pub(super) fn received(&mut self, token: Token, result: i32, piece: Option<Piece>, has_more: bool) {
        let key = self.checked(token);
        let connection = self.core.get_mut(key);
        let planned = connection.io.planned();
        connection.flight &= !RECEIVING;
        if let Some(piece) = piece {
            connection.life.facts.clear(Facts::LOOKS_AGAIN);
            if !has_more && !connection.life.facts.has(Facts::END_AHEAD) && !connection.io.hides_more() {
                // An event will report later input.
                connection.life.facts.clear(Facts::READABLE);
            }
            self.input(key, piece, planned);
        } else {
            self.received_nothing(key, result);
            let is_end = self.core.get(key).life.facts.has(Facts::PEER_DONE);
            self.core.spent_on_nothing(planned, is_end);
        }
        if result != -libc::ENOBUFS {
            self.core.go_on_leaving(key);
        }
        self.settle(key);
    }

    #[cold]
    fn received_nothing(&mut self, key: u32, result: i32) {
        match -result {
            0 => self.core.peer_finished(key),
            libc::EAGAIN => self.found_nothing(key),
            // It stays readable, and waits for another receive.
            libc::EINTR => {}
            libc::ENOBUFS => self.core.counters().add(Counter::BufferShortages, 1),
            // ECONNRESET, ETIMEDOUT, EPIPE and whatever else: the connection is gone.
            _ => self.core.broken(key),
        }
    }

    fn found_nothing(&mut self, key: u32) {
        let connection = self.core.get(key);
        // Sockets that hide whether there is more have no marks. Behind a Close, input is not wanted, and to look once is enough.
        let may_be_at_mark = !connection.io.hides_more() && connection.life.state() != State::Finishing;
        self.core.found_nothing(key, may_be_at_mark);
    }

    /// Handles bytes from the peer: their echo is queued.
    #[inline]
    fn input(&mut self, key: u32, mut piece: Piece, planned: Planned) {
        let was_within_frame = self.core.get(key).life.is_within_frame();
        let len = piece.len();
        let (Output { mut head, mut range }, cost) = self.core.received(key, piece.bytes_mut());
        let copied_below = self.copied_below();
        let (connection, outputs) = self.core.get_with_outputs(key);
        let is_blocked = connection.life.facts.has(Facts::BLOCKED);
        // Output in flight must stay where it is.
        let joins = is_blocked && connection.flight & SENDING == 0;
        if !head.is_empty() {
            // An enter has one send of a connection: of a peer that has a frame cut in each receive, a chunk for the frame
            // and one for the rest would pile up, and keep the receive buffers from all others.
            if !is_blocked && range.len() <= BLOCK {
                head.extend_from_slice(&piece.bytes()[std::mem::take(&mut range)]);
            }
            outputs.push_owned(&mut connection.output, head, joins);
        }
        if range.is_empty() {
            self.pool.release(piece);
        } else if joins && (range.len() as u32) < copied_below {
            outputs.copy(&mut connection.output, &piece.bytes()[range]);
            self.pool.release(piece);
        } else {
            piece.narrow(range);
            outputs.push_lent(&mut connection.output, piece);
            if is_blocked {
                self.note_holder(key);
            }
        }
        self.core.charge(key, len, cost, was_within_frame, planned);
        if is_blocked {
            self.core.enforce_caps(key);
        }
        let is_foreground = planned == Planned::Nothing;
        let usual = if is_foreground { &mut self.receives.foreground } else { &mut self.receives.background };
        usual.see(len);
    }

    /// Handles the completion of a send: it fell short.
    pub(super) fn send_fell_short(&mut self, token: Token, result: i32) {
        let key = self.checked(token);
        let (connection, outputs) = self.core.get_with_outputs(key);
        assert!(connection.flight & SENDING != 0, "a completion of a send that was not submitted");
        match result {
            1.. => {
                outputs.advance(connection.output, result as usize);
                self.core.sent(key, result as usize, false);
            }
            _ if result == -libc::EAGAIN => self.core.sent(key, 0, false),
            _ if result == -libc::ENOBUFS || result == -libc::ENOMEM => {
                // No event reports when to retry.
                connection.flight |= RETRY;
                self.core.sent(key, 0, false);
            }
            // EPIPE, ECONNRESET: the peer is gone.
            _ => self.core.broken(key),
        }
    }

    /// All completions of the last enter are reaped: the sends that posted none are complete.
    pub(super) fn finish_sends(&mut self) {
        let mut sends = std::mem::take(&mut self.submitted_sends);
        for key in sends.drain(..) {
            let (connection, outputs) = self.core.get_with_outputs(key);
            let is_retried = connection.flight & RETRY != 0;
            connection.flight &= !(SENDING | RETRY);
            if connection.life.facts.has(Facts::BLOCKED) {
                self.keep_unsent(key);
                if is_retried {
                    self.core.try_again(key);
                }
            } else if connection.life.state() != State::Aborted {
                let sent = outputs.pop(&mut connection.output, &mut self.pool);
                self.core.sent(key, sent, true);
            }
            self.settle(key);
        }
        self.submitted_sends = sends;
    }

    /// Limit below which output of slow readers is moved to memory of its own at once. While an interactive connection is
    /// active, all of it is: moving a full buffer when the kernel needs it takes a millisecond in one turn, moving the
    /// output of one turn a tenth of that.
    #[inline]
    fn copied_below(&self) -> u32 {
        if self.core.has_interactive() { u32::MAX } else { self.copy_below }
    }

    /// A send fell short: if many, the unsent bytes stay where they were received until the kernel needs the buffer.
    #[cold]
    fn keep_unsent(&mut self, key: u32) {
        let copied_below = self.copied_below();
        let (connection, outputs) = self.core.get_with_outputs(key);
        if outputs.pending(connection.output) < copied_below as usize {
            outputs.move_out(connection.output, &mut self.pool);
        } else {
            self.note_holder(key);
        }
        self.core.enforce_caps(key);
    }

    /// A cancellation has not found its target (a successful one is silent): the target has completed, and its completion
    /// follows, or the kernel was just about to run it, and it goes on. Then it is cancelled again.
    pub(super) fn cancel_missed(&mut self, token: Token) {
        let key = token.key;
        if !self.core.contains(key) || u32::from(self.core.generation(key)) != token.generation {
            return;
        }
        let connection = self.core.get_mut(key);
        if connection.flight & CANCELLING != 0 {
            connection.flight &= !CANCELLING;
            self.settle(key);
        }
    }

    /// Handles the completion of a shutdown, which can only fail if the peer is gone, as the receive will report; or of a
    /// reset, after which the descriptor is closed in any case.
    pub(super) fn shut_down(&mut self, token: Token) {
        let key = self.checked(token);
        self.core.get_mut(key).flight &= !SHUTTING;
        self.settle(key);
    }

    /// Handles the completion of a close: the connection is over.
    pub(super) fn closed(&mut self, token: Token) {
        let key = self.checked(token);
        debug_assert_eq!(self.core.get(key).flight & (RECEIVING | SENDING | POLLED), 0);
        self.forget_holder(key);
        self.core.remove(key);
    }

    // ----- what a turn does -----

    /// Settles connections that a deadline or the server's stop has changed.
    pub(super) fn settle_called(&mut self) {
        for key in self.core.take_called() {
            if self.core.contains(key) {
                self.settle(key);
            }
        }
    }

    /// Tells some connections, from this key on, that the server stops. Returns the key to continue from.
    pub(super) fn ask_some_to_leave(&mut self, from: usize, at_most: usize) -> Option<usize> {
        let next = self.core.ask_some_to_leave(from, at_most, RECEIVING);
        self.settle_called();
        next
    }

    /// Returns buffers to the kernel that it may fill again.
    pub(super) fn provide_buffers(&mut self) {
        if (!self.holders.is_empty() && self.pool.is_short()) || self.holders.len() > HOLDERS_MAX {
            self.move_holders_out();
        }
        self.pool.publish();
    }

    /// Frees receive buffers from slow readers: all that they hold there, which is at most the buffers' size.
    #[cold]
    fn move_holders_out(&mut self) {
        for key in std::mem::take(&mut self.holders) {
            let (connection, outputs) = self.core.get_with_outputs(key);
            if connection.flight & SENDING != 0 {
                self.holders.push(key);
                continue;
            }
            connection.life.facts.clear(Facts::HOLDS_BUFFERS);
            outputs.move_out(connection.output, &mut self.pool);
            self.core.enforce_caps(key);
        }
    }

    fn note_holder(&mut self, key: u32) {
        let facts = &mut self.core.get_mut(key).life.facts;
        if !facts.has(Facts::HOLDS_BUFFERS) {
            facts.set(Facts::HOLDS_BUFFERS);
            self.holders.push(key);
        }
    }

    fn forget_holder(&mut self, key: u32) {
        if self.core.get(key).life.facts.has(Facts::HOLDS_BUFFERS) {
            self.core.get_mut(key).life.facts.clear(Facts::HOLDS_BUFFERS);
            self.holders.retain(|&holder| holder != key);
        }
    }

    /// Receives from waiting interactive connections, as many as the receive buffers are expected to have room for.
    pub(super) fn receive_from_foreground(&mut self) {
        if !self.core.has_foreground() {
            return;
        }
        let usual = self.receives.foreground;
        let room = self.pool.room_for(usual.average());
        // Whole buffers may be fewer than interactive connections: some are kept for the background.
        let kept = if self.core.has_background() { (room / 8).max(1).min(room / 2) } else { 0 };
        for _ in 0..usual.per_turn().min(room - kept) {
            let Some(key) = self.core.next_foreground() else { return };
            self.receive(key, false);
        }
    }

    /// Receives from the background, as far as the turn's budget and the receive buffers allow.
    pub(super) fn receive_from_background(&mut self) {
        if !self.core.has_background() {
            return;
        }
        let usual = self.receives.background;
        let room = self.pool.room_for(usual.average().max(1)).saturating_sub(self.receives.queued);
        for _ in 0..room.clamp(1, RECEIVES_MAX) {
            let Some(key) = self.core.next_background() else { break };
            self.receive(key, true);
        }
        self.settle_called(); // sources that have had their turn
    }

    fn receive(&mut self, key: u32, is_budgeted: bool) {
        let connection = self.core.get(key);
        let is_wanted = connection.life.wants(!connection.output.is_empty()).receive;
        if is_wanted && connection.flight & (RECEIVING | CANCELLING | CLOSING) == 0 {
            let planned = if is_budgeted { self.core.spend_on(key) } else { Planned::Nothing };
            let at_most = self.core.at_most(key);
            let connection = self.core.get_mut(key);
            connection.io.set_planned(planned);
            connection.flight |= RECEIVING;
            self.submit(key, Kind::Receive, at_most);
            self.receives.queued += 1;
        }
    }

    // ----- what a connection wants -----

    /// Submits all wants of the connection that are not yet in flight.
    #[inline]
    fn settle(&mut self, key: u32) {
        let connection = self.core.get(key);
        if connection.life.state() == State::Aborted {
            return self.settle_aborted(key);
        }
        let flight = connection.flight;
        let wants = connection.life.wants(!connection.output.is_empty());
        if wants.send && flight & SENDING == 0 {
            self.core.get_mut(key).flight |= SENDING;
            self.submit(key, Kind::Send, None);
            self.queued_sends.push(key);
        }
        let connection = self.core.get(key);
        if connection.flight & SENDING != 0 {
            // A successful send is silent. If work waits for that, the enter must not wait for anything else.
            let (output, outputs) = (connection.output, &self.core.outputs);
            self.is_urgent |=
                connection.life.awaits_output() || outputs.has_several(output) || outputs.is_freed_at_once(output);
        }
        let can_receive = wants.receive && flight & (RECEIVING | CANCELLING | CLOSING) == 0;
        if (can_receive && connection.life.facts.has(Facts::READABLE)) || wants.resume {
            self.core.queue(key);
        }
        if flight & (POLLED | CANCELLING | CLOSING) == 0 {
            self.core.get_mut(key).flight |= POLLED;
            self.submit(key, Kind::Ready, None);
        }
        if wants.shutdown && flight & (SHUTTING | CLOSING) == 0 {
            let connection = self.core.get_mut(key);
            connection.life.shut_down();
            connection.flight |= SHUTTING;
            self.submit(key, Kind::Shutdown, None);
        }
        if wants.close && flight & (SHUTTING | CLOSING) == 0 {
            self.close_descriptor(key);
        }
    }

    fn settle_aborted(&mut self, key: u32) {
        let (connection, outputs) = self.core.get_with_outputs(key);
        if connection.flight & (SENDING | CLOSING | SHUTTING) != 0 {
            self.is_urgent |= connection.flight & SENDING != 0;
            return;
        }
        outputs.clear(&mut connection.output, &mut self.pool);
        self.forget_holder(key);
        self.close_descriptor(key);
    }

    /// Cancels what the kernel still holds, then closes. Closing does not cancel by itself.
    fn close_descriptor(&mut self, key: u32) {
        self.core.unqueue(key);
        let connection = self.core.get_mut(key);
        connection.life.finish();
        if connection.flight & POLLED != 0 {
            if connection.flight & CANCELLING == 0 {
                connection.flight |= CANCELLING;
                self.submit(key, Kind::Cancel, None);
            }
        } else if connection.flight & (RECEIVING | SENDING | SHUTTING | CLOSING) == 0 {
            if connection.life.facts.has(Facts::RESET) {
                connection.life.facts.clear(Facts::RESET);
                connection.flight |= SHUTTING | CANCELLING; // no poll is to be armed in between
                return self.submit(key, Kind::Reset, None);
            }
            connection.flight |= CLOSING;
            self.submit(key, Kind::Close, None);
        }
    }

    #[inline]
    fn submit(&mut self, key: u32, kind: Kind, at_most: Option<std::num::NonZeroU32>) {
        let connection = self.core.get(key);
        let token = Token { key, generation: self.core.generation(key).into(), kind };
        self.ops.push(Op { token, slot: connection.io.slot(), at_most });
    }

    #[inline]
    fn checked(&self, token: Token) -> u32 {
        let generation = u32::from(self.core.generation(token.key));
        assert_eq!(generation, token.generation, "a completion outlived its connection");
        token.key
    }
}
