//! Invariants, for the simulation.

use crate::connection::lifecycle::{Due, Facts, PROBE_TICKS, State};
use crate::connection::output::Lender;
use crate::connection::schedule::Budget;
use crate::worker::{Backlog, Counter};

use super::Connections;

impl<E, L: Lender> Connections<E, L> {
    pub(crate) fn backlog(&self) -> Backlog {
        self.backlog
    }

    pub(crate) fn budget(&self) -> Budget {
        self.budget
    }

    pub(crate) fn take_throttled(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.throttled)
    }

    /// What the echo of a receive may be longer than what was received, since it is recompressed.
    pub(crate) fn recompressed_at_once(&self) -> usize {
        self.shared.recompressed_at_once()
    }

    pub(crate) fn timers(&self) -> usize {
        self.wheel.len()
    }

    pub(crate) fn held_for_inflation(&self) -> usize {
        self.shared.held()
    }

    /// Invariants after every turn, for all engines.
    pub(crate) fn check_invariants(&self) {
        let (mut chunks, mut held, mut queued, mut timers) = (0, 0, [0, 0], 0);
        for (_, connection) in self.table.iter() {
            let counted = self.outputs.count(connection.output);
            chunks += counted.0;
            held += counted.1;
            assert_eq!(counted.2, self.outputs.pending(connection.output), "pending output miscounted");
            let facts = connection.life.facts;
            queued[0] += usize::from(facts.has(Facts::IN_FOREGROUND));
            queued[1] += usize::from(facts.has(Facts::IN_BACKGROUND));
            timers += usize::from(connection.timer.is_set());
        }
        assert_eq!((chunks, held), (self.outputs.len(), self.outputs.held()), "a chunk that no queue holds");
        assert_eq!(queued, [self.foreground.len(), self.background.len()], "a place in a list without a connection");
        assert_eq!(timers, self.wheel.len(), "a timer without a connection");
        let is_inflating = self.table.iter().any(|(_, connection)| connection.life.is_inflating());
        assert_eq!(self.shared.held() > 0, is_inflating, "memory for compressed messages that no connection has");
        let told = self.counters.get(Counter::InflationMemory);
        assert_eq!(told, self.shared.held() as u64, "memory for compressed messages that is not told");
    }

    /// Invariants after every turn: each deadline has a timer that comes up by then, and what was due has been met, if
    /// `is_punctual`. A Ping that could not be sent in time is retried within half of the idle timeout.
    pub(crate) fn check_deadlines(&self, is_punctual: bool) {
        for (key, connection) in self.table.iter() {
            let (life, has_output) = (&connection.life, !connection.output.is_empty());
            if life.state() == State::Done && !has_output {
                continue; // it is being closed
            }
            let due = self.due(key);
            if due == Due::Later(None) {
                continue;
            }
            let timer = self.wheel.at(connection.timer).expect("a deadline without a timer");
            // Postponed by input that has been received since.
            let is_put_off = timer == self.now + 1;
            let at = match due {
                Due::Later(at) => at.expect("a deadline"),
                Due::Ping => self.now,
                _ if is_put_off => timer,
                due => {
                    assert!(!is_punctual, "{due:?} is due in state {:?}", life.state());
                    self.now
                }
            };
            let is_pingable = life.state() == State::Open && !life.facts.has(Facts::PINGED.or(Facts::THROTTLED));
            // A probe's ticks are not taken back when it has found progress.
            let extra = if life.facts.has(Facts::THROTTLED.or(Facts::PEER_DONE)) { PROBE_TICKS } else { 0 };
            let mut latest = (at + extra).max(self.now + u32::from(!is_punctual));
            if let Some(idle) = self.timeouts.idle.filter(|_| is_pingable) {
                latest = latest.max(self.now + idle.div_ceil(2)).max(life.since() + idle);
            }
            assert!(timer <= latest, "a timer at {timer} for a deadline at {at} in state {:?}", life.state());
        }
    }
}
