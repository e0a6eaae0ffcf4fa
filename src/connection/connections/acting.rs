//! Sources and delayed echoes among the other connections: their turns, their time, their memory.

use super::super::actors::Actors;
use super::super::lifecycle::{Facts, State};
use super::super::output::{Lender, Outputs, Queue};
use super::super::schedule::{self, Cost, Standing};
use super::{Connections, ROOM_MIN};
use crate::protocol::{Behaviour, CloseCode, Event, Output};
use crate::worker::Ending;

impl<E, L: Lender> Connections<E, L> {
    /// Begins the behaviour, if any, of a connection that has opened.
    pub(super) fn begin_behaving(&mut self, key: u32) {
        let Some(behaviour) = self.table.get(key).life.behaviour() else { return };
        let room = self.backlog.total.saturating_sub(self.held());
        let clock = (self.now, self.timeouts.tick_us);
        let is_source = matches!(behaviour, Behaviour::Source(_));
        let has_begun = self.actors.insert(key, behaviour, clock, room, &mut self.outputs);
        let facts = &mut self.table.get_mut(key).life.facts;
        facts.set(Facts::ACTS);
        if is_source && has_begun {
            facts.set(Facts::FED);
        }
    }

    /// Delays the output of such a connection until it is due; at its end, delayed output is sent at once.
    #[cold]
    pub(super) fn defer(&mut self, key: u32, event: Event, bytes: &[u8]) -> Output {
        if event != Event::Deferred {
            self.release_all(key);
        }
        let (is_held, now) = (event == Event::Deferred, self.now);
        self.through_stage(key, |actors, outputs, output| {
            if is_held {
                actors.defer(key, bytes.to_vec(), now, outputs, output);
            } else {
                outputs.push_owned(output, bytes.to_vec(), false);
            }
        });
        if event == Event::Opened && !self.actors.contains(key) {
            self.close(key, (Ending::Behaviour, CloseCode::TRY_AGAIN_LATER), "no memory for another source");
        }
        if self.actors.holds(key) && self.room_below_caps(key) < ROOM_MIN {
            self.throttle(key);
        }
        self.enforce_caps(key);
        self.set_timer(key);
        Output::default()
    }

    /// Queues the delayed output of a connection.
    pub(super) fn release_all(&mut self, key: u32) {
        if self.table.get(key).life.facts.has(Facts::ACTS) {
            self.through_stage(key, |actors, outputs, output| actors.release(key, None, outputs, output));
        }
    }

    /// Queues output of a connection, through the stage in front of its session if there is one.
    pub(super) fn through_stage<R>(
        &mut self,
        key: u32,
        queue: impl FnOnce(&mut Actors, &mut Outputs<L>, &mut Queue) -> R,
    ) -> R {
        let connection = self.table.get_mut(key);
        if !connection.life.is_staged() {
            return queue(&mut self.actors, &mut self.outputs, &mut connection.output);
        }
        let (mut plain, mut sealed) = (Queue::EMPTY, Vec::new());
        let result = queue(&mut self.actors, &mut self.outputs, &mut plain);
        self.outputs.take_all(&mut plain, |bytes| self.stages.seal(key, bytes, &mut sealed));
        self.outputs.push_owned(&mut connection.output, sealed, false);
        result
    }

    /// The tick at which such a connection is to be served next.
    pub(super) fn acts_at(&self, key: u32) -> Option<u32> {
        let connection = self.table.get(key);
        if !connection.life.facts.has(Facts::ACTS) || connection.life.state() != State::Open {
            return None;
        }
        let has_turn = !connection.output.is_empty() || self.is_queued(key);
        self.actors.next_at(key, self.now, self.timeouts.tick_us, has_turn)
    }

    /// Handles its timer. Returns the cost.
    pub(super) fn act_in_time(&mut self, key: u32) -> Cost {
        if !self.table.get(key).life.facts.has(Facts::ACTS) {
            return 0;
        }
        let (now, mut cost) = (self.now, 0);
        if self.through_stage(key, |actors, outputs, output| actors.release(key, Some(now), outputs, output)) {
            self.table.get_mut(key).life.progressed(now); // as if it had come now
            self.called.push(key);
            cost = schedule::RECEIVE / 2;
        }
        self.queue_source(key);
        cost
    }

    /// Queues a source without pending output for its turn.
    pub(super) fn queue_source(&mut self, key: u32) {
        let connection = self.table.get(key);
        let may_send = connection.output.is_empty() && connection.life.state() == State::Open;
        if may_send && connection.life.facts.has(Facts::FED) {
            self.queue(key);
        }
    }

    /// A source's turn: queues what it may send, which is charged like a receive's echo. Returns whether it also needs other
    /// service.
    #[cold]
    pub(super) fn feed(&mut self, key: u32) -> bool {
        let connection = self.table.get(key);
        let has_output = !connection.output.is_empty();
        let is_readable = connection.life.facts.has(Facts::READABLE);
        if !has_output && connection.life.state() == State::Open {
            let clock = (self.now, self.timeouts.tick_us);
            let fed = self.through_stage(key, |actors, outputs, output| actors.feed(key, clock, outputs, output));
            if let Some(fed) = fed {
                let cost = schedule::cost_of_receive(fed.bytes as u32, 0) / 2;
                self.budget.spend(cost);
                let connection = self.table.get_mut(key);
                connection.debt = Standing::after(connection.debt, cost, true).debt;
                self.called.push(key);
                if fed.is_last {
                    self.close(key, (Ending::Behaviour, CloseCode::NORMAL), "all is sent");
                }
            } else {
                self.budget.spend(schedule::LOOK);
                self.set_timer(key);
            }
        }
        has_output || is_readable
    }
}
