//! What time brings, and the end of the server: deadlines, Pings, the closing handshake.

use super::Connections;
use crate::connection::lifecycle::{Due, Facts, Farewell, STALL_TICKS, State};
use crate::connection::output::Lender;
use crate::connection::schedule::{self, Cost};
use crate::connection::table::Connection;
use crate::connection::wheel::Timer;
use crate::protocol::CloseCode;
use crate::worker::Ending;

impl<E, L: Lender> Connections<E, L> {
    /// Whether some connection has a deadline, so that the clock is needed.
    #[inline]
    pub(crate) fn has_deadlines(&self) -> bool {
        !self.wheel.is_empty()
    }

    /// Meets deadlines that are due, as far as the turn's budget allows, and some in any case. Returns whether all are met;
    /// otherwise the next turn goes on.
    pub(crate) fn meet_deadlines(&mut self) -> bool {
        // All planned operations have completed: from here on the turn plans its own.
        self.planned_cost = self.usual_cost;
        let mut spent = 0;
        while self.budget.is_left() || spent < schedule::DEADLINE {
            let Some(key) = self.wheel.pop(self.now) else { return true };
            let cost = self.meet_deadline(key);
            self.budget.spend(cost);
            spent += cost;
        }
        self.wheel.is_empty()
    }

    /// Does what is due for a connection whose timer has expired. Returns the cost.
    fn meet_deadline(&mut self, key: u32) -> Cost {
        self.table.get_mut(key).timer = Timer::NONE;
        let acted = self.act_in_time(key);
        let due = self.due(key);
        match due {
            Due::Later(_) => {}
            Due::Ping => self.ping(key),
            Due::Close => self.close(key, (Ending::Idle, CloseCode::GOING_AWAY), "idle"),
            Due::Abort if self.table.get(key).life.state() == State::Opening => {
                self.abort(key, Ending::HandshakeTimeout);
            }
            // It is within a frame, or closing and has its ending already.
            Due::Abort => self.abort(key, Ending::Idle),
            Due::Probe => {
                self.table.get_mut(key).life.facts.set(Facts::PINGED);
                self.try_again(key);
            }
            Due::Stalled => {
                self.stalled += 1;
                self.abort(key, Ending::Stalled);
            }
        }
        let is_later = matches!(due, Due::Later(_));
        if !is_later {
            self.called.push(key);
        }
        self.set_timer(key);
        schedule::LOOK + acted + if is_later { 0 } else { schedule::DEADLINE }
    }

    /// Handles a deadline that has come up.
    pub(super) fn due(&self, key: u32) -> Due {
        let Connection { life, output, .. } = self.table.get(key);
        let has_output = !output.is_empty();
        // Input that has arrived already, during a stall perhaps, is received first: the deadline may have waited for it. A
        // request that arrives byte by byte always has some input: it is given no longer than a stall counts.
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
        self.due_by_state(key)
    }

    fn due_by_state(&self, key: u32) -> Due {
        let Connection { life, output, .. } = self.table.get(key);
        // Delayed echoes come first.
        if life.state() == State::Open && life.facts.has(Facts::ACTS) && self.actors.holds(key) {
            return Due::Later(None);
        }
        life.due(&self.timeouts, !output.is_empty(), self.now)
    }

    /// Sets the timer of a connection by its current state.
    pub(super) fn set_timer(&mut self, key: u32) {
        let (due, acts_at) = (self.due_by_state(key), self.acts_at(key));
        let timer = &mut self.table.get_mut(key).timer;
        match due {
            Due::Later(None) => self.wheel.cancel(timer),
            Due::Later(Some(at)) => self.wheel.set(timer, key, at, self.now),
            _ => self.wheel.set(timer, key, self.now.wrapping_add(1), self.now),
        }
        if let Some(at) = acts_at {
            self.wheel.set(timer, key, at, self.now);
        }
    }

    fn ping(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        if let Some(frame) = connection.life.ping(!connection.output.is_empty(), self.now) {
            self.push_own(key, frame);
        }
    }

    fn abort(&mut self, key: u32, ending: Ending) {
        self.table.get_mut(key).life.abort(ending, self.now);
    }

    /// Closes a connection: a Close frame if the protocol has one, then the peer's answer or the deadline.
    pub(super) fn close(&mut self, key: u32, (ending, code): (Ending, CloseCode), reason: &str) {
        self.release_all(key);
        let connection = self.table.get_mut(key);
        match connection.life.close(ending, code, reason, self.now) {
            Farewell::Frame(frame) => {
                self.counters.close_sent(code.into());
                self.push_own(key, frame);
            }
            Farewell::Nothing => {
                if matches!(connection.life.state(), State::Lingering | State::Done) {
                    self.push_goodbye(key);
                }
            }
        }
        self.set_timer(key);
    }

    /// Lets closing take as long as the peers need: from now on only the worker's drain deadline bounds it.
    pub(crate) fn close_at_leisure(&mut self) {
        self.timeouts.close = None;
    }

    /// Asks the next `at_most` connections, from this key on, to leave. One with a receive or its echo in flight, as the bit
    /// `busy` of its `flight` says, goes on leaving when that has completed. Returns the key to continue from.
    pub(crate) fn ask_some_to_leave(&mut self, from: usize, at_most: usize, busy: u8) -> Option<usize> {
        let all = self.table.keys_used() as usize;
        let end = all.min(from + at_most);
        for key in from as u32..end as u32 {
            if !self.table.contains(key) {
                continue;
            }
            self.table.get_mut(key).life.leave();
            if self.table.get(key).flight & busy == 0 {
                self.go_on_leaving(key);
            }
            self.call(key);
        }
        (end < all).then_some(end)
    }

    /// Closes a connection that is leaving, when all input that had arrived is received, or enough of it.
    #[inline]
    pub(crate) fn go_on_leaving(&mut self, key: u32) {
        if self.table.get(key).life.state() == State::Leaving {
            let connection = self.table.get_mut(key);
            if connection.life.has_brought_all(!connection.output.is_empty()) {
                self.close(key, (Ending::ServerStop, CloseCode::GOING_AWAY), "server is stopping");
            }
        }
    }
}
