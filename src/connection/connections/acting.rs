//! Connections that do something later or of their own accord, among the others: their turns, their time, their memory.

use super::super::lifecycle::{Facts, State};
use super::super::output::Lender;
use super::super::schedule::{self, Standing};
use super::{Connections, ROOM_MIN};
use crate::protocol::{Behaviour, CloseCode, Event, Output};

impl<E, L: Lender> Connections<E, L> {
    /// A connection has opened: if it was asked for such a behaviour, that begins.
    pub(super) fn begin_behaving(&mut self, key: u32) {
        let Some(behaviour) = self.table.get(key).life.behaviour() else { return };
        let room = self.backlog.total.saturating_sub(self.outputs.held());
        let clock = (self.now, self.timeouts.tick_us);
        let is_source = matches!(behaviour, Behaviour::Source(_));
        let has_begun = self.actors.insert(key, behaviour, clock, room, &mut self.outputs);
        let facts = &mut self.table.get_mut(key).life.facts;
        facts.set(Facts::ACTS);
        if is_source && has_begun {
            facts.set(Facts::FED);
        }
    }

    /// Takes the output of such a connection, which is sent when its time has come; in front of an end that is now.
    #[cold]
    pub(super) fn defer(&mut self, key: u32, event: Event, bytes: &[u8]) -> Output {
        if event != Event::Deferred {
            self.release_all(key);
        }
        let is_held = event == Event::Deferred;
        let output = &mut self.table.get_mut(key).output;
        if is_held {
            self.actors.defer(key, bytes.to_vec(), self.now, &mut self.outputs, output);
        } else {
            self.outputs.push_owned(output, bytes.to_vec(), false);
        }
        if event == Event::Opened && !self.actors.contains(key) {
            self.close(key, CloseCode::TRY_AGAIN_LATER, "no memory for another source");
        }
        if self.actors.holds(key) && self.room_below_caps(key) < ROOM_MIN {
            self.table.get_mut(key).life.throttle(self.now);
        }
        self.enforce_caps(key);
        self.set_timer(key);
        Output::default()
    }

    /// Queues what was held back of a connection.
    pub(super) fn release_all(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        if connection.life.facts.has(Facts::ACTS) {
            self.actors.release(key, None, &mut self.outputs, &mut connection.output);
        }
    }

    /// When such a connection is to be looked at next.
    pub(super) fn acts_at(&self, key: u32) -> Option<u32> {
        let connection = self.table.get(key);
        if !connection.life.facts.has(Facts::ACTS) || connection.life.state() != State::Open {
            return None;
        }
        let has_turn = !connection.output.is_empty() || self.is_queued(key);
        self.actors.next_at(key, self.now, self.timeouts.tick_us, has_turn)
    }

    /// Its timer has come up.
    pub(super) fn act_in_time(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        if !connection.life.facts.has(Facts::ACTS) {
            return;
        }
        if self.actors.release(key, Some(self.now), &mut self.outputs, &mut connection.output) {
            connection.life.progressed(self.now); // as if it had come now
            self.budget.spend(schedule::RECEIVE / 2);
            self.called.push(key);
        }
        self.queue_source(key);
    }

    /// Has a source of which nothing is pending wait for its turn.
    pub(super) fn queue_source(&mut self, key: u32) {
        let connection = self.table.get(key);
        let may_send = connection.output.is_empty() && connection.life.state() == State::Open;
        if may_send && connection.life.facts.has(Facts::FED) {
            self.queue(key);
        }
    }

    /// A source's turn: it queues what it may send, which is paid for like a receive's echo. Returns whether it is to be
    /// served otherwise, too.
    #[cold]
    pub(super) fn feed(&mut self, key: u32) -> bool {
        let connection = self.table.get_mut(key);
        let has_output = !connection.output.is_empty();
        let is_readable = connection.life.facts.has(Facts::READABLE);
        if !has_output && connection.life.state() == State::Open {
            let clock = (self.now, self.timeouts.tick_us);
            if let Some(fed) = self.actors.feed(key, clock, &mut self.outputs, &mut connection.output) {
                let cost = schedule::cost_of_receive(fed.bytes as u32, 0) / 2;
                self.budget.spend(cost);
                connection.debt = Standing::after(connection.debt, cost, true).debt;
                self.called.push(key);
                if fed.is_last {
                    self.close(key, CloseCode::NORMAL, "all is sent");
                }
            } else {
                self.budget.spend(schedule::LOOK);
                self.set_timer(key);
            }
        }
        has_output || is_readable
    }
}
