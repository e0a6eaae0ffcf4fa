//! Scheduling of a worker's connections: which is next, how much it may bring, and what its turn has cost
//! (`connection/schedule.rs`).

use std::num::NonZeroU32;

use super::Connections;
use crate::connection::lifecycle::{Facts, State};
use crate::connection::output::Lender;
use crate::connection::schedule::{self, Cost, Grant, Planned, Standing};
use crate::connection::table::Connection;
use crate::worker::Counter;

impl<E, L: Lender> Connections<E, L> {
    /// Classifies a connection by the cost of a receive: interactive, or bulk. Its fact of being readable is up to date.
    #[inline]
    pub(crate) fn charge(&mut self, key: u32, bytes: u32, cost: Cost, was_within_frame: bool, planned: Planned) {
        if planned != Planned::Nothing {
            self.budget.correct(self.cost_of(planned), cost);
        }
        if self.table.get(key).life.is_staged() && self.stages.take_expectation(key) {
            // A TLS handshake is no evidence of what its connection is like.
            return;
        }
        if planned == Planned::Usual {
            self.usual_cost = self.usual_cost - self.usual_cost / 8 + cost / 8;
        }
        let connection = self.table.get_mut(key);
        let was_bulk = connection.life.facts.has(Facts::BULK);
        let has_more = connection.life.facts.has(Facts::READABLE);
        let Standing { debt, is_bulk } = Standing::after(connection.debt, cost, has_more);
        let is_untried = connection.debt == schedule::UNTRIED && has_more;
        if is_untried && planned == Planned::Receive && !is_bulk {
            // The receive has brought its request, which is no evidence either.
            return;
        }
        connection.debt = debt;
        // The first piece of what is behind a request may be a small one, which the end of a buffer has cut.
        if is_bulk || is_untried {
            connection.life.facts.set(Facts::BULK);
            self.shares.see_bulk(bytes, cost);
        } else {
            connection.life.facts.clear(Facts::BULK);
            // A small piece of a large message is not a small message.
            let is_amidst = was_bulk || was_within_frame || connection.life.is_within_frame();
            if !is_amidst && !connection.life.is_background() {
                self.shares.see_interactive(self.now);
            }
        }
    }

    /// A request is answered: the connection has opened. More input behind it waits in the background.
    pub(super) fn note_opening(&mut self, key: u32) {
        self.counters.add(Counter::Opened, 1);
        let connection = self.table.get_mut(key);
        if connection.life.state() == State::Open && connection.life.facts.has(Facts::READABLE) {
            connection.life.facts.set(Facts::BULK);
            connection.debt = schedule::UNTRIED;
        }
    }

    /// Whether an interactive connection is active.
    #[inline]
    pub(crate) fn has_interactive(&self) -> bool {
        self.shares.has_interactive(self.now)
    }

    /// A receive has brought nothing, or the end; or it was not made.
    pub(crate) fn spent_on_nothing(&mut self, planned: Planned, is_end: bool) {
        if planned != Planned::Nothing {
            let cost = schedule::RECEIVE + if is_end { schedule::END } else { 0 };
            self.budget.correct(self.cost_of(planned), cost);
        }
    }

    /// Pending output of a connection of the background was sent.
    pub(crate) fn spend_on_send(&mut self, bytes: usize, is_budgeted: bool) {
        if is_budgeted {
            self.budget.spend(schedule::cost_of_receive(bytes as u32, 0) / 2);
        }
    }

    /// The plan of a receive from a connection of the background.
    #[inline]
    pub(crate) fn plan(&self, key: u32) -> Planned {
        let Connection { life, debt, .. } = self.table.get(key);
        // Masses of frames may come together with the end, or behind the request, before any receive has shown what their
        // sender is.
        let has_end = life.facts.has(Facts::END_AHEAD) && life.state() != State::Opening;
        let is_untried = *debt == schedule::UNTRIED;
        if life.is_staged() && self.stages.expects_work(key) {
            if self.has_interactive() { Planned::Handshake } else { Planned::HandshakeAtRest }
        } else if (has_end || is_untried) && self.has_interactive() {
            Planned::Masses
        } else if life.facts.has(Facts::BULK.or(Facts::BLOCKED)) {
            Planned::Usual
        } else {
            Planned::Receive
        }
    }

    #[inline]
    fn cost_of(&self, planned: Planned) -> Cost {
        match planned {
            Planned::Nothing => 0,
            Planned::Receive => schedule::RECEIVE,
            Planned::Usual => self.planned_cost,
            Planned::Masses => self.planned_cost.max(schedule::QUANTUM),
            Planned::Handshake => schedule::TLS_HANDSHAKE,
            Planned::HandshakeAtRest => schedule::TLS_HANDSHAKE_AT_REST,
        }
    }

    /// Spends the expected cost of a receive from a connection of the background.
    #[inline]
    pub(crate) fn spend_on(&mut self, key: u32) -> Planned {
        let planned = self.plan(key);
        self.budget.spend(self.cost_of(planned));
        planned
    }

    /// The same for a receive that may outlast the turn.
    pub(crate) fn grant(&mut self, key: u32) -> Grant {
        let planned = self.spend_on(key);
        Grant { planned, spent: self.cost_of(planned) }
    }

    /// Returns what was planned, for a correction in this turn.
    pub(crate) fn reprice(&mut self, Grant { planned, spent }: Grant) -> Planned {
        self.budget.reprice(spent, self.cost_of(planned));
        planned
    }

    /// Queues a connection that may have input for its turn, unless it is queued already or must not be received from.
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

    /// Removes a connection from the list that it waits in, if it does.
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

    /// The next connection of the background, if something of the turn's budget is left. The caller spends its cost.
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
            if self.table.get(key).life.facts.has(Facts::FED.or(Facts::LADEN)) && !self.act_in_turn(key) {
                continue;
            }
            return Some(key);
        }
        None
    }

    /// The turn of a connection with other work than being received from. Returns whether it also needs other service.
    #[cold]
    fn act_in_turn(&mut self, key: u32) -> bool {
        if self.table.get(key).life.facts.has(Facts::LADEN) {
            self.resume(key);
            return false;
        }
        self.feed(key)
    }

    /// Bytes that may be received from a connection at once; `None`: as many as there are.
    #[inline]
    pub(crate) fn at_most(&self, key: u32) -> Option<NonZeroU32> {
        let life = &self.table.get(key).life;
        let facts = life.facts;
        if life.state() == State::Opening && self.has_interactive() {
            return NonZeroU32::new(schedule::UPGRADE_RECEIVE);
        }
        let held = self.held();
        let is_backlog_large = held >= self.backlog.total / 2;
        let is_bulk = facts.has(Facts::BULK.or(Facts::END_AHEAD));
        let at_most = self.shares.at_most(is_bulk, is_backlog_large, self.now);
        if !facts.has(Facts::BLOCKED) {
            // Each may turn out to be another slow reader, whose input then comes on top of the total.
            return if held < self.backlog.total { at_most } else { NonZeroU32::new(schedule::LEAST_RECEIVE) };
        }
        // An echo is not longer than what it answers.
        let room = u32::try_from(self.room_below_caps(key)).unwrap_or(u32::MAX);
        NonZeroU32::new(at_most.map_or(room, |at_most| at_most.get().min(room)).max(1))
    }
}
