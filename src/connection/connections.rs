//! The connections of one worker: what has happened to them, which is next, what is due.
//!
//! An engine tells what came of its operations and asks for a connection's [`Wants`]; nothing here makes a system call,
//! knows a ring or reads a clock.

use std::num::NonZeroU32;

use super::lifecycle::{Due, Facts, Farewell, Lifecycle, Received, State, Timeouts, Wants};
use super::output::{Lender, Outputs};
use super::schedule::{self, Budget, Cost, Shares, Standing};
use super::table::{Connection, List, Table};
use super::wheel::Wheel;
use crate::protocol::{CloseCode, Event, Output, Settings};
use crate::worker::{Backlog, Tally};

/// Room that a slow reader must have below a cap: with less it is throttled rather than received from byte by byte.
const ROOM_MIN: usize = 512;

/// What a stall of the process counts as at most (engine/clock.rs).
const STALL_TICKS: u32 = 2;

/// Everything a worker knows about its connections.
pub(crate) struct Connections<E, L: Lender> {
    table: Table<E>,
    pub(crate) outputs: Outputs<L>,
    wheel: Wheel,
    foreground: List,
    background: List,
    shares: Shares,
    budget: Budget,
    /// What receives from bulk senders and slow readers have come to of late.
    usual_cost: Cost,
    /// What one of them was thought to come to when the last turn planned its own.
    planned_cost: Cost,
    settings: Settings,
    timeouts: Timeouts,
    backlog: Backlog,
    /// The worker's clock: ticks since it started.
    now: u32,
    /// Connections that want something else than before although no operation of theirs has completed.
    called: Vec<u32>,
    /// Connections that were ended because their output was stuck, since it was last asked.
    stalled: u32,
    tally: Tally,
}

impl<E, L: Lender> Connections<E, L> {
    /// Room for `capacity` connections.
    pub(crate) fn new(capacity: usize, backlog: Backlog, settings: Settings, timeouts: Timeouts) -> Self {
        Self {
            table: Table::new(capacity),
            outputs: Outputs::new(),
            wheel: Wheel::new(),
            foreground: List::EMPTY,
            background: List::EMPTY,
            shares: Shares::NEW,
            budget: Budget::NONE,
            usual_cost: schedule::QUANTUM,
            planned_cost: schedule::QUANTUM,
            settings,
            timeouts,
            backlog,
            now: 0,
            called: Vec::new(),
            stalled: 0,
            tally: Tally::default(),
        }
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

    /// What has been done so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Sets the worker's clock and begins a turn: the background gets another budget.
    #[inline]
    pub(crate) fn begin_turn(&mut self, now: u32) {
        self.now = now;
        self.budget = Budget::of_turn(self.budget);
    }

    /// Connections that want something else than before although no operation of theirs has completed.
    pub(crate) fn take_called(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.called)
    }

    /// A connection wants something else than before.
    pub(crate) fn call(&mut self, key: u32) {
        self.called.push(key);
    }

    /// How many connections were ended because their output was stuck, since this was last asked.
    pub(crate) fn take_stalled(&mut self) -> u32 {
        std::mem::take(&mut self.stalled)
    }

    // ----- a connection's beginning and end -----

    /// A socket has arrived.
    pub(crate) fn accepted(&mut self, io: E) -> u32 {
        let key = self.table.insert(Lifecycle::new(&self.settings, self.now), io);
        self.tally.accepted += 1;
        self.set_timer(key);
        key
    }

    /// Forgets a connection whose last operation is complete and whose output is gone.
    pub(crate) fn remove(&mut self, key: u32) -> E {
        self.unqueue(key);
        let connection = self.table.get_mut(key);
        self.wheel.cancel(&mut connection.timer);
        let connection = self.table.remove(key);
        assert!(connection.output.is_empty(), "closed with output left");
        self.tally.released += 1;
        connection.io
    }

    // ----- events -----

    /// Bytes from the peer, transformed in place where that is possible. Returns what to send, which is to be queued or
    /// sent at once, and what the receive came to.
    #[inline]
    pub(crate) fn received(&mut self, key: u32, bytes: &mut [u8]) -> (Output, Cost) {
        let len = bytes.len() as u32;
        let life = &mut self.table.get_mut(key).life;
        let Received { output, messages, frames, event } = life.received(&self.settings, bytes, self.now);
        self.tally.messages += u64::from(messages);
        let mut cost = schedule::cost_of_receive(len, frames);
        if let Some(event) = event {
            cost += self.happened(key, event);
        }
        (output, cost)
    }

    #[cold]
    fn happened(&mut self, key: u32, event: Event) -> Cost {
        self.set_timer(key);
        match event {
            Event::Opened => schedule::HANDSHAKE,
            Event::Closing => 0,
            Event::Closed(_) => schedule::END,
        }
    }

    /// Judges a connection by what a receive has come to: interactive, or bulk. Its fact of being readable is up to date.
    #[inline]
    pub(crate) fn charge(&mut self, key: u32, bytes: u32, cost: Cost, was_within_frame: bool, is_budgeted: bool) {
        if is_budgeted {
            self.budget.correct(self.plan(key), cost);
            self.usual_cost = self.usual_cost - self.usual_cost / 8 + cost / 8;
        }
        let connection = self.table.get_mut(key);
        let was_bulk = connection.life.facts.has(Facts::BULK);
        let has_more = connection.life.facts.has(Facts::READABLE);
        let Standing { debt, is_bulk } = Standing::after(connection.debt, cost, has_more);
        connection.debt = debt;
        if is_bulk {
            connection.life.facts.set(Facts::BULK);
            self.shares.see_bulk(bytes, cost);
        } else {
            connection.life.facts.clear(Facts::BULK);
            // A small piece of a large message is no small message.
            let is_amidst = was_bulk || was_within_frame || connection.life.is_within_frame();
            if !is_amidst && !connection.life.is_background() {
                self.shares.see_interactive(self.now);
            }
        }
    }

    /// A receive from the background has brought nothing, or the end.
    pub(crate) fn spent_on_nothing(&mut self, is_budgeted: bool, is_end: bool) {
        if is_budgeted && is_end {
            self.budget.spend(schedule::END);
        }
    }

    /// Pending output of a connection of the background was sent.
    pub(crate) fn spend_on_send(&mut self, bytes: usize, is_budgeted: bool) {
        if is_budgeted {
            self.budget.spend(schedule::cost_of_receive(bytes as u32, 0) / 2);
        }
    }

    /// What a receive from a connection of the background is thought to come to.
    #[inline]
    fn plan(&self, key: u32) -> Cost {
        if self.table.get(key).life.facts.has(Facts::BULK.or(Facts::BLOCKED)) {
            self.planned_cost
        } else {
            schedule::RECEIVE
        }
    }

    /// A connection of the background is received from: what that is thought to come to is spent.
    #[inline]
    pub(crate) fn spend_on(&mut self, key: u32) {
        self.budget.spend(self.plan(key));
    }

    /// The kernel has taken `len` bytes of its pending output; `is_all`: all of what it was offered.
    #[inline]
    pub(crate) fn sent(&mut self, key: u32, len: usize, is_all: bool) {
        self.tally.bytes_sent += len as u64;
        let connection = self.table.get_mut(key);
        let has_output = !connection.output.is_empty();
        if !is_all {
            connection.life.facts.set(Facts::BLOCKED);
        }
        if !has_output && connection.life.facts.has(Facts::THROTTLED) {
            connection.life.facts.clear(Facts::THROTTLED);
            connection.life.progressed(self.now);
            self.set_timer(key);
        } else if len > 0 && (has_output || !connection.life.facts.has(Facts::PINGED)) {
            // But that a Ping could be sent says nothing of the peer.
            connection.life.progressed(self.now);
        }
    }

    /// The socket takes bytes again.
    #[inline]
    pub(crate) fn writable(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        if connection.life.facts.has(Facts::BLOCKED) {
            connection.life.progressed(self.now); // its peer has read something
            self.try_again(key);
        }
    }

    /// A send is to be tried, although nothing has told that the socket takes bytes again.
    pub(crate) fn try_again(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        if connection.life.facts.has(Facts::BLOCKED) {
            connection.life.facts.clear(Facts::BLOCKED);
            if connection.life.facts.has(Facts::IN_BACKGROUND) && !connection.life.is_background() {
                self.unqueue(key);
                self.queue(key);
            }
        }
    }

    /// Throttles a slow reader whose pending output has come to a cap.
    #[inline]
    pub(crate) fn enforce_caps(&mut self, key: u32) {
        if self.table.get(key).life.facts.has(Facts::BLOCKED) && self.room_below_caps(key) < ROOM_MIN {
            self.table.get_mut(key).life.throttle(self.now);
            self.set_timer(key);
        }
    }

    /// Bytes that may still be queued for a slow reader.
    fn room_below_caps(&self, key: u32) -> usize {
        let pending = self.outputs.pending(self.table.get(key).output);
        let of_its_own = self.backlog.per_connection.saturating_sub(pending);
        of_its_own.min(self.backlog.total.saturating_sub(self.outputs.held()))
    }

    /// The peer has shut down its side. What is pending is still sent, for as long as the peer takes it.
    pub(crate) fn peer_finished(&mut self, key: u32) {
        self.table.get_mut(key).life.peer_finished(self.now);
        self.set_timer(key);
    }

    /// The connection is broken: its output is to be dropped.
    pub(crate) fn broken(&mut self, key: u32) {
        self.table.get_mut(key).life.broken(self.now);
    }

    // ----- scheduling -----

    /// Has a connection that may have something to be received wait for its turn, unless it does already or is not to be
    /// received from.
    #[inline]
    pub(crate) fn queue(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        if connection.life.facts.has(Facts::IN_FOREGROUND.or(Facts::IN_BACKGROUND)) {
            return;
        }
        if connection.life.is_background() {
            connection.life.facts.set(Facts::IN_BACKGROUND);
            self.table.push_back(&mut self.background, key);
        } else {
            connection.life.facts.set(Facts::IN_FOREGROUND);
            self.table.push_back(&mut self.foreground, key);
        }
    }

    /// Takes a connection out of the list that it waits in, if it does.
    #[inline]
    pub(crate) fn unqueue(&mut self, key: u32) {
        let facts = &mut self.table.get_mut(key).life.facts;
        if facts.has(Facts::IN_FOREGROUND) {
            facts.clear(Facts::IN_FOREGROUND);
            self.table.unlink(&mut self.foreground, key);
        } else if facts.has(Facts::IN_BACKGROUND) {
            facts.clear(Facts::IN_BACKGROUND);
            self.table.unlink(&mut self.background, key);
        }
    }

    #[inline]
    pub(crate) fn has_foreground(&self) -> bool {
        !self.foreground.is_empty()
    }

    #[inline]
    pub(crate) fn has_background(&self) -> bool {
        !self.background.is_empty()
    }

    /// Whether a connection waits for its turn.
    #[inline]
    pub(crate) fn is_queued(&self, key: u32) -> bool {
        self.table.get(key).life.facts.has(Facts::IN_FOREGROUND.or(Facts::IN_BACKGROUND))
    }

    /// The interactive connection that has waited longest.
    #[inline]
    pub(crate) fn next_foreground(&mut self) -> Option<u32> {
        let key = self.foreground.first()?;
        self.unqueue(key);
        Some(key)
    }

    /// The next connection of the background, if the turn's budget has something left. What it gets is to be spent.
    pub(crate) fn next_background(&mut self) -> Option<u32> {
        while self.budget.is_left() {
            let key = self.background.first()?;
            self.unqueue(key);
            let connection = self.table.get_mut(key);
            if connection.life.is_background() {
                connection.debt = Standing::pay(connection.debt);
                if !Standing::may_be_served(connection.debt) {
                    self.budget.spend(schedule::LOOK);
                    self.queue(key);
                    continue;
                }
            }
            return Some(key);
        }
        None
    }

    /// How much may be received from a connection at once; `None`: as much as there is.
    #[inline]
    pub(crate) fn at_most(&self, key: u32) -> Option<NonZeroU32> {
        let life = &self.table.get(key).life;
        let facts = life.facts;
        if life.state() == State::Opening && self.shares.has_interactive(self.now) {
            return NonZeroU32::new(schedule::UPGRADE_RECEIVE);
        }
        let held = self.outputs.held();
        let is_backlog_large = held >= self.backlog.total / 2;
        let at_most = self.shares.at_most(facts.has(Facts::BULK), is_backlog_large, self.now);
        if !facts.has(Facts::BLOCKED) {
            // Each may turn out to be another slow reader, and what it has brought then comes on top of the total.
            return if held < self.backlog.total { at_most } else { NonZeroU32::new(schedule::LEAST_RECEIVE) };
        }
        // An echo is not longer than what it answers.
        let room = u32::try_from(self.room_below_caps(key)).unwrap_or(u32::MAX);
        NonZeroU32::new(at_most.map_or(room, |at_most| at_most.get().min(room)).max(1))
    }

    // ----- what time and the end of the server bring -----

    /// Whether some connection has a deadline: the clock is to be looked at.
    #[inline]
    pub(crate) fn has_deadlines(&self) -> bool {
        !self.wheel.is_empty()
    }

    /// Meets what is due, as far as the turn's budget goes. Returns whether that is all; if not, it is to go on in the
    /// next turn.
    pub(crate) fn meet_deadlines(&mut self) -> bool {
        // All that was planned has completed: from here on the turn plans its own.
        self.planned_cost = self.usual_cost;
        while self.budget.is_left() {
            let Some(key) = self.wheel.pop(self.now) else { return true };
            self.table.get_mut(key).timer = super::wheel::Timer::NONE;
            self.budget.spend(schedule::LOOK);
            let due = self.due(key);
            match due {
                Due::Later(_) => {}
                Due::Ping => self.ping(key),
                Due::Close => self.close(key, CloseCode::GOING_AWAY, "idle"),
                Due::Abort => self.abort(key),
                Due::Probe => {
                    self.table.get_mut(key).life.facts.set(Facts::PINGED);
                    self.try_again(key);
                }
                Due::Stalled => {
                    self.stalled += 1;
                    self.abort(key);
                }
            }
            if !matches!(due, Due::Later(_)) {
                self.budget.spend(schedule::DEADLINE);
                self.called.push(key);
            }
            self.set_timer(key);
        }
        self.wheel.is_empty()
    }

    /// What a deadline that has come up asks for.
    fn due(&self, key: u32) -> Due {
        let Connection { life, output, .. } = self.table.get(key);
        let has_output = !output.is_empty();
        // What has arrived already, during a stall perhaps, is received first: it may be what the deadline has waited for. A
        // request that comes byte by byte has something there whenever one looks: for it that holds no longer than a stall
        // counts.
        let is_put_off = match life.state() {
            State::Open => true,
            State::Opening => {
                let since = self.now.wrapping_sub(life.since());
                self.timeouts.handshake.is_none_or(|timeout| since < timeout.saturating_add(STALL_TICKS))
            }
            _ => false,
        };
        if is_put_off && life.facts.has(Facts::READABLE) && life.wants(has_output).receive {
            return Due::Later(None);
        }
        life.due(&self.timeouts, has_output, self.now)
    }

    /// Sets the timer of a connection by its state as it is.
    fn set_timer(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        match connection.life.due(&self.timeouts, !connection.output.is_empty(), self.now) {
            Due::Later(None) => self.wheel.cancel(&mut connection.timer),
            Due::Later(Some(at)) => self.wheel.set(&mut connection.timer, key, at, self.now),
            _ => self.wheel.set(&mut connection.timer, key, self.now.wrapping_add(1), self.now),
        }
    }

    fn ping(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        if let Some(frame) = connection.life.ping(!connection.output.is_empty(), self.now) {
            self.outputs.push_owned(&mut connection.output, frame, false);
        }
    }

    fn abort(&mut self, key: u32) {
        self.table.get_mut(key).life.abort(self.now);
    }

    /// Closes from our side: a Close frame if the protocol has one, then whatever the peer answers or the deadline.
    fn close(&mut self, key: u32, code: CloseCode, reason: &str) {
        let connection = self.table.get_mut(key);
        if let Farewell::Frame(frame) = connection.life.close(&self.settings, code, reason, self.now) {
            self.outputs.push_owned(&mut connection.output, frame, false);
        }
        self.set_timer(key);
    }

    /// From now on closing may take as long as the peers like: the worker's drain deadline bounds it.
    pub(crate) fn close_at_leisure(&mut self) {
        self.timeouts.close = None;
    }

    /// Asks the connection with this key, if there is one, to leave; to be followed by [`Connections::go_on_leaving`].
    /// Returns whether there is one.
    pub(crate) fn ask_to_leave(&mut self, key: u32) -> bool {
        let exists = self.table.contains(key);
        if exists {
            self.table.get_mut(key).life.leave();
        }
        exists
    }

    /// One more than the highest key that was ever used.
    pub(crate) fn keys_used(&self) -> u32 {
        self.table.keys_used()
    }

    /// Closes a connection that is leaving, if all that had arrived is received or it has brought enough.
    #[inline]
    pub(crate) fn go_on_leaving(&mut self, key: u32) {
        if self.table.get(key).life.state() == State::Leaving {
            let connection = self.table.get_mut(key);
            if connection.life.has_brought_all(!connection.output.is_empty()) {
                self.close(key, CloseCode::GOING_AWAY, "server is stopping");
            }
        }
    }
}

#[cfg(test)]
mod checks;
#[cfg(test)]
mod tests;
