//! Connections with a stage in front of the session: a PROXY protocol header, TLS.

use std::ops::Range;

use super::Connections;
use crate::connection::lifecycle::{Facts, Received};
use crate::connection::output::Lender;
use crate::connection::schedule::{self, Cost};
use crate::protocol::Output;
use crate::transport::{Handshake, Opened, Progress, Step};
use crate::worker::Counter;

impl<E, L: Lender> Connections<E, L> {
    /// [`Connections::received`] for a connection with a stage in front of its session.
    #[inline(never)]
    pub(super) fn received_through_stage(&mut self, key: u32, bytes: &mut [u8]) -> (Output, Cost) {
        let cost = schedule::cost_of_receive(bytes.len() as u32, 0);
        let life = &mut self.table.get_mut(key).life;
        if !life.state().is_served() {
            self.counters.add(Counter::BytesReceived, bytes.len() as u64);
            // Discarded, as from any other connection.
            let _ = life.received(&mut self.shared, bytes, self.now);
            return (Output::default(), cost);
        }
        life.heard(self.now);
        let step = self.stages.receive(key, bytes);
        // Input behind a header is counted where it is received.
        let len = if let Step::Passed { used, .. } = step { used } else { bytes.len() };
        self.counters.add(Counter::BytesReceived, len as u64);
        match step {
            Step::Partial => self.enforce_total_of_stages(key),
            Step::Refused(answer) => {
                life.refused(self.now);
                if !answer.is_empty() {
                    self.counters.answered(400);
                }
                self.set_timer(key);
                return (Output { head: answer, range: 0..0 }, cost + schedule::END);
            }
            Step::Passed { used, source } => {
                if !self.stages.has(key) {
                    self.stage_is_open(key, false);
                }
                if let (Some(source), Some(journal)) = (source, &mut self.journal) {
                    journal.set_client(key, source.to_string());
                }
                if used < bytes.len() {
                    let (Output { head, range }, cost) = self.received(key, &mut bytes[used..]);
                    return (Output { head, range: range.start + used..range.end + used }, cost);
                }
            }
            Step::Opened(opened) => return self.opened(key, opened, bytes, cost),
        }
        (Output::default(), cost)
    }

    /// The stage has finished, or, if it stays, lets the session begin.
    fn stage_is_open(&mut self, key: u32, stays: bool) {
        let has_opened = self.table.get_mut(key).life.stage_is_open(stays, self.now);
        self.counters.add(Counter::Opened, u64::from(has_opened));
        self.set_timer(key);
    }

    /// Handles the content of TLS records, and the answers to them.
    fn opened(&mut self, key: u32, opened: Opened, bytes: &mut [u8], mut cost: Cost) -> (Output, Cost) {
        let Opened { mut plain, within, records, renewals, mut out, handshake, progress } = opened;
        cost += records.saturating_mul(schedule::TLS_RECORD) + renewals.saturating_mul(schedule::TLS_RENEWAL);
        let mut range = 0..0;
        match handshake {
            Handshake::Nothing => {}
            Handshake::Answered => cost += self.price_of_handshake(),
            Handshake::Failed => self.counters.add(Counter::TlsFailed, 1),
            Handshake::Over { is_resumed } => {
                self.counters.add(if is_resumed { Counter::TlsResumed } else { Counter::TlsFull }, 1);
                cost += schedule::TLS_FINISH;
                self.stage_is_open(key, true);
            }
        }
        if !within.is_empty() {
            cost += self.received_within(key, bytes, within, &mut out, &mut range);
        } else if !plain.is_empty() {
            let (output, spent) = self.received_plain(key, &mut plain, &mut out);
            cost += spent;
            self.seal(key, &output, &plain, &mut out);
        }
        self.stages.give_back(plain);
        match progress {
            Progress::Goes if self.table.get(key).life.state().is_served() => {}
            // A reset needs no output.
            Progress::Goes if self.table.get(key).life.facts.has(Facts::RESET) => {}
            // The session sends nothing more.
            Progress::Goes => self.say_goodbye(key, &mut out, bytes, &mut range),
            Progress::PeerFinished => {
                if self.table.get(key).life.facts.has(Facts::ACTS) {
                    self.queue_first(key, &mut out);
                    self.release_all(key);
                }
                // More input follows the waiting one.
                if !self.table.get(key).life.facts.has(Facts::LADEN) {
                    self.say_goodbye(key, &mut out, bytes, &mut range);
                }
                self.peer_finished(key);
            }
            Progress::Failed => {
                self.table.get_mut(key).life.refused(self.now);
                self.set_timer(key);
            }
        }
        self.enforce_total_of_stages(key);
        (Output { head: out, range }, cost)
    }

    /// Passes bytes for the session, which lie within the received bytes. Their answer is sealed there, in `range`, if
    /// possible; otherwise it is added to `out`.
    fn received_within(
        &mut self,
        key: u32,
        bytes: &mut [u8],
        within: Range<usize>,
        out: &mut Vec<u8>,
        range: &mut Range<usize>,
    ) -> Cost {
        let (output, cost) = self.received_plain(key, &mut bytes[within.clone()], out);
        let place = within.start + output.range.start..within.start + output.range.end;
        if output.head.is_empty()
            && let Some(sealed) = self.stages.seal_within(key, bytes, place)
        {
            *range = sealed;
        } else {
            self.seal(key, &output, &bytes[within], out);
        }
        cost
    }

    /// Passes bytes for the session that a stage has brought. The answer to them is added to `out`.
    fn received_plain(&mut self, key: u32, plain: &mut [u8], out: &mut Vec<u8>) -> (Output, Cost) {
        let Received { mut output, frames, event, has_opened, .. } = self.received_by_session(key, plain);
        let mut cost = schedule::cost_of_receive(0, frames) - schedule::RECEIVE;
        if let Some(event) = event {
            cost = cost.saturating_add(self.happened(key, event));
            if has_opened {
                self.note_opening(key);
            }
            if self.table.get(key).life.facts.has(Facts::ACTS) {
                self.queue_first(key, out);
                output = self.defer(key, event, &output.to_vec(plain));
            } else if self.holds_too_much(key) {
                self.queue_first(key, out);
                output = self.shed(key, output.to_vec(plain));
            }
        }
        (output, cost)
    }

    /// Queues what is already sealed, in front of the output that follows.
    fn queue_first(&mut self, key: u32, out: &mut Vec<u8>) {
        self.outputs.push_owned(&mut self.table.get_mut(key).output, std::mem::take(out), false);
    }

    fn seal(&mut self, key: u32, output: &Output, plain: &[u8], out: &mut Vec<u8>) {
        self.stages.seal(key, &output.head, out);
        self.stages.seal(key, &plain[output.range.clone()], out);
    }

    /// Sends a `close_notify` after all output: `out`, then the `range` of the received bytes.
    fn say_goodbye(&mut self, key: u32, out: &mut Vec<u8>, bytes: &[u8], range: &mut Range<usize>) {
        out.extend_from_slice(&bytes[std::mem::take(range)]);
        self.stages.say_goodbye(key, out);
    }

    /// Counts half-read input like pending output, although its connection has no output yet.
    fn enforce_total_of_stages(&mut self, key: u32) {
        if self.stages.held() > self.backlog.total && self.stages.holds(key) {
            self.broken(key);
        }
    }

    /// The cost of the answer to a TLS client's first message.
    pub(super) fn price_of_handshake(&self) -> Cost {
        if self.shares.has_interactive(self.now) { schedule::TLS_HANDSHAKE } else { schedule::TLS_HANDSHAKE_AT_REST }
    }

    /// Queues a frame that the server sends without input.
    pub(super) fn push_own(&mut self, key: u32, mut frame: Vec<u8>) {
        let connection = self.table.get_mut(key);
        if connection.life.is_staged() {
            let mut sealed = Vec::new();
            self.stages.seal(key, &frame, &mut sealed);
            frame = sealed;
        }
        self.outputs.push_owned(&mut connection.output, frame, false);
    }

    /// Queues the last output of the stage.
    pub(super) fn push_goodbye(&mut self, key: u32) {
        let connection = self.table.get_mut(key);
        if connection.life.is_staged() {
            let mut goodbye = Vec::new();
            self.stages.say_goodbye(key, &mut goodbye);
            self.outputs.push_owned(&mut connection.output, goodbye, false);
        }
    }
}
