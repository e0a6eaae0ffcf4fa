//! Connections whose compressed messages are inflated: their memory, and the turns of input that waits because the allowance
//! was used up.

use super::Connections;
use crate::connection::lifecycle::{Facts, Received, State};
use crate::connection::output::Lender;
use crate::connection::schedule::{self, Cost, Standing};
use crate::protocol::{CloseCode, Output, Work};
use crate::worker::{Counter, Ending};

impl<E, L: Lender> Connections<E, L> {
    /// Counts the work for compressed messages, and returns its cost.
    pub(super) fn take_work(&mut self) -> Cost {
        let Work { cost, inflated, agreed } = self.shared.take_work();
        self.counters.add(Counter::Agreed, u64::from(agreed));
        self.counters.add(Counter::BytesInflated, inflated);
        self.counters.set(Counter::InflationMemory, self.shared.held() as u64);
        cost
    }

    /// Whether a connection must be closed because of the memory of unfinished compressed messages: it counts like pending
    /// output, and above the total there is none for another one.
    pub(super) fn holds_too_much(&self, key: u32) -> bool {
        let life = &self.table.get(key).life;
        self.shared.held() > self.backlog.total && life.is_inflating() && life.state() == State::Open
    }

    /// Closes such a connection, after these bytes.
    pub(super) fn shed(&mut self, key: u32, bytes: Vec<u8>) -> Output {
        self.through_stage(key, |_, outputs, queue| outputs.push_owned(queue, bytes, false));
        let why = "no memory for another compressed message";
        self.close(key, (Ending::Violation, CloseCode::TRY_AGAIN_LATER), why);
        self.pass_over(key);
        self.table.get_mut(key).life.release(&mut self.shared);
        self.take_work();
        self.call(key);
        Output::default()
    }

    /// Handles waiting input of a connection that sends nothing more, all of it at once: nothing is inflated.
    fn pass_over(&mut self, key: u32) {
        let Some(received) = self.table.get_mut(key).life.resume(&mut self.shared, self.now) else { return };
        debug_assert!(received.output.is_empty(), "output behind a Close frame");
        self.count_messages(&received);
        self.budget.spend(schedule::cost_of_receive(0, received.frames));
        if let Some(event) = received.event {
            let cost = self.happened(key, event);
            self.budget.spend(cost);
        }
    }

    /// A turn of waiting input. Its echo is queued; the budget pays for it.
    pub(super) fn resume(&mut self, key: u32) {
        if !self.table.get(key).life.wants(false).resume {
            return;
        }
        let life = &mut self.table.get_mut(key).life;
        let Some(received) = life.resume(&mut self.shared, self.now) else { return };
        self.count_messages(&received);
        let Received { output, frames, event, .. } = received;
        let mut cost = schedule::cost_of_receive(output.len() as u32, frames);
        self.through_stage(key, |_, outputs, queue| outputs.push_owned(queue, output.head, false));
        if let Some(event) = event {
            cost = cost.saturating_add(self.happened(key, event));
        } else {
            self.take_work(); // the input itself is not held any more
        }
        self.budget.spend(cost);
        let connection = self.table.get_mut(key);
        connection.debt = Standing::after(connection.debt, cost, true).debt;
        self.end_resuming(key);
    }

    fn end_resuming(&mut self, key: u32) {
        self.enforce_caps(key);
        let life = &self.table.get(key).life;
        let has_ended = life.facts.has(Facts::PEER_DONE) || !life.state().is_served();
        if has_ended && !life.facts.has(Facts::LADEN) {
            self.push_goodbye(key);
        }
        self.go_on_leaving(key);
        if self.table.get(key).life.wants(false).resume {
            self.queue(key);
        }
        self.call(key);
    }
}
