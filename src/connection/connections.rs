//! The connections of one worker: events, scheduling, deadlines.
//!
//! An engine reports the outcome of its operations and asks for a connection's [`Wants`]; nothing here makes a system call,
//! uses a ring or reads a clock.

use std::sync::Arc;

use super::actors::Actors;
use super::journal::{Ended, Journal};
use super::lifecycle::{Facts, Lifecycle, Received, Timeouts, Wants};
use super::output::{Lender, Outputs};
use super::schedule::{self, Budget, Cost, Shares};
use super::table::{Connection, List, Table};
use super::wheel::Wheel;
use crate::protocol::{Cause, Event, Kinds, Output, Protocol, Settings, Shared};
use crate::transport::{Door, Doors, Stages};
use crate::worker::{Backlog, Counter, Counters, Ending};

/// Least room below a cap for a slow reader: with less it is throttled instead of received from byte by byte.
const ROOM_MIN: usize = 512;

/// The connections of a worker.
pub(crate) struct Connections<E, L: Lender> {
    table: Table<E>,
    pub(crate) outputs: Outputs<L>,
    wheel: Wheel,
    actors: Actors,
    foreground: List,
    background: List,
    shares: Shares,
    budget: Budget,
    /// Memory that pending output took when the last turn began.
    held_before: usize,
    /// Recent average cost of receives from bulk senders and slow readers.
    usual_cost: Cost,
    /// The planned cost of one of them in the last turn.
    planned_cost: Cost,
    /// State shared by its sessions.
    shared: Shared,
    doors: Doors,
    stages: Stages,
    timeouts: Timeouts,
    backlog: Backlog,
    /// The worker's clock: ticks since it started.
    now: u32,
    /// Connections whose wants have changed without a completed operation.
    called: Vec<u32>,
    /// Connections closed because their output was stuck, since the last call.
    stalled: u32,
    counters: Arc<Counters>,
    journal: Option<Box<Journal>>,
    /// Connections that were throttled since the last look, if only for a part of a turn.
    #[cfg(test)]
    throttled: Vec<u32>,
}

impl<E, L: Lender> Connections<E, L> {
    /// Room for `capacity` connections, which arrive at these listeners (`doors`).
    pub(crate) fn new(capacity: usize, backlog: Backlog, settings: Settings, doors: Doors, timeouts: Timeouts) -> Self {
        Self {
            table: Table::new(capacity),
            outputs: Outputs::new(),
            wheel: Wheel::new(),
            actors: Actors::default(),
            foreground: List::EMPTY,
            background: List::EMPTY,
            shares: Shares::NEW,
            budget: Budget::NONE,
            held_before: 0,
            usual_cost: schedule::QUANTUM,
            planned_cost: schedule::QUANTUM,
            shared: Shared::new(settings),
            doors,
            stages: Stages::default(),
            timeouts,
            backlog,
            now: 0,
            called: Vec::new(),
            stalled: 0,
            counters: Arc::default(),
            journal: None,
            #[cfg(test)]
            throttled: Vec::new(),
        }
    }

    /// Keeps a journal of connections, for the connection log.
    pub(crate) fn keep_journal(&mut self) {
        self.journal = Some(Box::default());
    }

    /// Whether there is a journal, for which [`Connections::set_peer`] is needed.
    #[inline]
    pub(crate) fn has_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// Notes the client's address for the journal.
    pub(crate) fn set_peer(&mut self, key: u32, peer: String) {
        if let Some(journal) = &mut self.journal {
            journal.set_peer(key, peer);
        }
    }

    /// Connections that have ended since the last call, if there is a journal.
    #[inline]
    pub(crate) fn take_ended(&mut self) -> Vec<Ended> {
        self.journal.as_mut().map(|journal| journal.take_ended()).unwrap_or_default()
    }

    /// Counts in the memory that the worker shares with other threads.
    pub(crate) fn count_in(&mut self, counters: &Arc<Counters>) {
        self.counters = Arc::clone(counters);
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    #[inline]
    pub(crate) fn contains(&self, key: u32) -> bool {
        self.table.contains(key)
    }

    #[inline]
    pub(crate) fn get(&self, key: u32) -> &Connection<E> {
        self.table.get(key)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: u32) -> &mut Connection<E> {
        self.table.get_mut(key)
    }

    #[inline]
    pub(crate) fn get_with_outputs(&mut self, key: u32) -> (&mut Connection<E>, &mut Outputs<L>) {
        (self.table.get_mut(key), &mut self.outputs)
    }

    #[inline]
    pub(crate) fn generation(&self, key: u32) -> super::table::Generation {
        self.table.get(key).generation
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Connection<E>)> {
        self.table.iter()
    }

    /// What a connection wants next.
    #[inline]
    pub(crate) fn wants(&self, key: u32) -> Wants {
        let connection = self.table.get(key);
        connection.life.wants(!connection.output.is_empty())
    }

    /// The counters of all that has been done.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Ends a turn.
    #[inline]
    pub(crate) fn end_turn(&self) {
        self.counters.add(Counter::Turns, 1);
        self.counters.set(Counter::Backlog, self.outputs.held() as u64);
    }

    /// Sets the worker's clock and begins a turn: the background gets another budget, less the cost of the memory that the
    /// last turn took for slow readers.
    #[inline]
    pub(crate) fn begin_turn(&mut self, now: u32) {
        self.now = now;
        let held = self.outputs.held();
        self.budget.spend(schedule::cost_of_memory(held.saturating_sub(self.held_before)));
        self.held_before = held;
        self.budget = Budget::of_turn(self.budget, self.shares.has_interactive(now));
    }

    /// Connections whose wants have changed without a completed operation.
    pub(crate) fn take_called(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.called)
    }

    /// Marks a connection whose wants have changed.
    pub(crate) fn call(&mut self, key: u32) {
        self.called.push(key);
    }

    /// The number of connections closed because their output was stuck, since the last call.
    pub(crate) fn take_stalled(&mut self) -> u32 {
        std::mem::take(&mut self.stalled)
    }

    // ----- a connection's beginning and end -----

    /// The settings for connections of the listener with this number.
    pub(crate) fn door(&self, listener: usize) -> &Door {
        &self.doors[listener]
    }

    /// A socket has arrived through the listener of this number.
    pub(crate) fn accepted(&mut self, io: E, listener: usize) -> u32 {
        let door = &self.doors[listener];
        let is_staged = door.has_stage();
        let key = self.table.insert(Lifecycle::new(door.protocol, is_staged, self.now), io);
        self.counters.add(Counter::Accepted, 1);
        if door.protocol == Protocol::Tcp && !is_staged {
            self.counters.add(Counter::Opened, 1);
        }
        if let Some(journal) = &mut self.journal {
            journal.begin(key, self.now);
        }
        if is_staged && !self.stages.insert(key, door) {
            let life = &mut self.table.get_mut(key).life;
            life.stage_is_open(false, self.now);
            life.abort(Ending::Reset, self.now);
            self.called.push(key);
        }
        self.set_timer(key);
        key
    }

    /// Forgets a connection whose last operation is complete and whose output is gone.
    pub(crate) fn remove(&mut self, key: u32) -> E {
        self.unqueue(key);
        let connection = self.table.get_mut(key);
        self.wheel.cancel(&mut connection.timer);
        if connection.life.facts.has(Facts::ACTS) {
            self.actors.remove(key, &mut self.outputs);
        }
        let mut connection = self.table.remove(key);
        connection.life.release(&mut self.shared);
        if self.shared.has_news() {
            self.take_work();
        }
        if connection.life.is_staged() {
            self.stages.remove(key);
        }
        assert!(connection.output.is_empty(), "closed with output left");
        let Connection { life, io, .. } = connection;
        let ending = life.ending().unwrap_or(Ending::Reset);
        self.counters.ended(ending);
        if let Some(journal) = &mut self.journal {
            journal.end(key, ending, self.now);
        }
        self.counters.add(Counter::Silent, u64::from(!life.facts.has(Facts::HEARD)));
        self.counters.subtract(Counter::SlowReaders, u64::from(life.facts.has(Facts::BLOCKED)));
        self.counters.subtract(Counter::Throttled, u64::from(life.facts.has(Facts::THROTTLED)));
        io
    }

    // ----- events -----

    /// Handles bytes from the peer, transformed in place where possible. Returns the output, which is to be queued or sent
    /// at once, and the cost of the receive.
    #[inline]
    pub(crate) fn received(&mut self, key: u32, bytes: &mut [u8]) -> (Output, Cost) {
        let len = bytes.len() as u32;
        if self.table.get(key).life.is_staged() {
            return self.received_through_stage(key, bytes);
        }
        self.counters.add(Counter::BytesReceived, u64::from(len));
        let Received { mut output, frames, event, has_opened, .. } = self.received_by_session(key, bytes);
        let mut cost = schedule::cost_of_receive(len, frames);
        if let Some(event) = event {
            cost = cost.saturating_add(self.happened(key, event));
            if has_opened {
                self.note_opening(key);
            }
            if self.table.get(key).life.facts.has(Facts::ACTS) {
                output = self.defer(key, event, &output.to_vec(bytes));
            } else if self.holds_too_much(key) {
                output = self.shed(key, output.to_vec(bytes));
            }
        }
        (output, cost)
    }

    /// Passes bytes to a connection's session, whatever stage they have come through; its messages are counted.
    #[inline]
    fn received_by_session(&mut self, key: u32, bytes: &mut [u8]) -> Received {
        let received = self.table.get_mut(key).life.received(&mut self.shared, bytes, self.now);
        self.count_messages(&received);
        received
    }

    #[inline]
    fn count_messages(&self, received: &Received) {
        self.counters.add(Counter::Messages, u64::from(received.messages));
        if received.kinds != Kinds::default() {
            self.count_kinds(received.kinds);
        }
    }

    fn count_kinds(&self, kinds: Kinds) {
        self.counters.add(Counter::Texts, u64::from(kinds.texts));
        if kinds.pings | kinds.pongs | kinds.compressed != 0 {
            self.counters.add(Counter::Pings, u64::from(kinds.pings));
            self.counters.add(Counter::Pongs, u64::from(kinds.pongs));
            self.counters.add(Counter::Compressed, u64::from(kinds.compressed));
        }
    }

    #[cold]
    fn happened(&mut self, key: u32, event: Event) -> Cost {
        let work = self.take_work();
        if event == Event::Inflated {
            return work;
        }
        self.set_timer(key);
        match event {
            Event::Opened => {
                self.begin_behaving(key);
                return schedule::HANDSHAKE.saturating_add(work);
            }
            Event::Deferred | Event::Inflated => return 0,
            Event::Closing(code) => {
                self.counters.close_sent(code.into());
                return work;
            }
            Event::Closed(Cause::Refused(status)) => self.counters.answered(status),
            Event::Closed(Cause::PeerClosed(code)) => self.counters.close_received(code.map(u16::from)),
            // A session that has sent a Close frame sends no other one.
            Event::Closed(Cause::Violation(code)) => {
                if self.table.get(key).life.ending() == Some(Ending::Violation) {
                    self.counters.close_sent(code.into());
                }
            }
            Event::Closed(Cause::Behaviour) => {}
        }
        schedule::END.saturating_add(work)
    }

    /// The kernel has taken `len` bytes of its pending output; `is_all`: all that was offered.
    #[inline]
    pub(crate) fn sent(&mut self, key: u32, len: usize, is_all: bool) {
        self.counters.add(Counter::BytesSent, len as u64);
        let connection = self.table.get_mut(key);
        let has_output = !connection.output.is_empty();
        if !is_all && !connection.life.facts.has(Facts::BLOCKED) {
            connection.life.facts.set(Facts::BLOCKED);
            self.counters.add(Counter::SlowReaders, 1);
        }
        if !has_output && connection.life.facts.has(Facts::THROTTLED.or(Facts::FED)) {
            self.drained(key, len);
        } else if len > 0 && (has_output || !connection.life.facts.has(Facts::PINGED)) {
            // A Ping that could be sent says nothing about the peer.
            connection.life.progressed(self.now);
        }
    }

    /// A connection that was waiting for it has sent all its output, `len` bytes of it now.
    fn drained(&mut self, key: u32, len: usize) {
        let life = &mut self.table.get_mut(key).life;
        if life.facts.has(Facts::THROTTLED) {
            life.facts.clear(Facts::THROTTLED);
            life.progressed(self.now);
            self.counters.subtract(Counter::Throttled, 1);
            self.set_timer(key);
        } else if len > 0 && !life.facts.has(Facts::PINGED) {
            life.progressed(self.now);
        }
        self.queue_source(key);
    }

    /// The socket has room again.
    #[inline]
    pub(crate) fn writable(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        if connection.life.facts.has(Facts::BLOCKED) {
            connection.life.progressed(self.now); // its peer has read something
            self.try_again(key);
        }
    }

    /// Requests a send without an event that reports room.
    pub(crate) fn try_again(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        if connection.life.facts.has(Facts::BLOCKED) {
            connection.life.facts.clear(Facts::BLOCKED);
            self.counters.subtract(Counter::SlowReaders, 1);
            if connection.life.facts.has(Facts::IN_BACKGROUND) && !connection.life.is_background() {
                self.unqueue(key);
                self.queue(key);
            }
        }
    }

    /// Throttles a slow reader whose pending output has reached a cap.
    #[inline]
    pub(crate) fn enforce_caps(&mut self, key: u32) {
        if self.table.get(key).life.facts.has(Facts::BLOCKED) && self.room_below_caps(key) < ROOM_MIN {
            self.throttle(key);
            self.set_timer(key);
        }
    }

    fn throttle(&mut self, key: u32) {
        let life = &mut self.table.get_mut(key).life;
        self.counters.add(Counter::Throttled, u64::from(!life.facts.has(Facts::THROTTLED)));
        life.throttle(self.now);
        #[cfg(test)]
        self.throttled.push(key);
    }

    /// Bytes that may still be queued for a slow reader.
    fn room_below_caps(&self, key: u32) -> usize {
        let pending = self.outputs.pending(self.table.get(key).output) + self.actors.held(key);
        let of_its_own = self.backlog.per_connection.saturating_sub(pending);
        of_its_own.min(self.backlog.total.saturating_sub(self.held()))
    }

    /// Bytes of memory that pending output and half-read input take.
    fn held(&self) -> usize {
        self.outputs.held() + self.stages.held() + self.shared.held()
    }

    /// A receive has found nothing ([`Lifecycle::found_nothing`](super::lifecycle::Lifecycle::found_nothing)).
    pub(crate) fn found_nothing(&mut self, key: u32, may_be_at_mark: bool) {
        self.counters.add(Counter::EmptyReceives, 1);
        self.table.get_mut(key).life.found_nothing(may_be_at_mark);
    }

    /// The peer has shut down its side. Pending output is still sent, as long as the peer takes it.
    pub(crate) fn peer_finished(&mut self, key: u32) {
        self.release_all(key);
        self.table.get_mut(key).life.peer_finished(self.now);
        self.set_timer(key);
    }

    /// The connection is broken: its output is dropped.
    pub(crate) fn broken(&mut self, key: u32) {
        self.table.get_mut(key).life.broken(self.now);
    }
}

mod acting;
#[cfg(test)]
mod checks;
mod inflating;
mod staged;
#[cfg(test)]
mod tests;
mod time;
mod turns;
