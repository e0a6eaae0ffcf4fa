//! Deadlines: coarse, swept over the slab in slices, no timer object per connection.

use crate::protocol::{CloseCode, Phase};

use super::super::connection::{Ending, Flags};
use super::Connections;

/// Deadlines, in ticks of the worker's clock; `None`: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeouts {
    /// From the accept to the end of the request.
    pub handshake: Option<u32>,
    /// Without any input: at half of it a Ping, at the end Close 1001.
    pub idle: Option<u32>,
    /// From the decision to close, or from the last progress after it, to the close.
    pub close: Option<u32>,
}

impl Connections {
    /// Looks at the deadlines of a slice of the connections.
    pub fn sweep(&mut self, at_most: usize) {
        let end = self.keys_used.min(self.swept + at_most);
        for key in self.swept..end {
            if self.entries.contains(key) {
                self.check_deadline(key as u32);
            }
        }
        self.swept = if end >= self.keys_used { 0 } else { end };
    }

    fn check_deadline(&mut self, key: u32) {
        let connection = &self.entries[key as usize];
        let elapsed = self.now - connection.since;
        let is_over = |limit: Option<u32>| limit.is_some_and(|limit| elapsed >= limit);
        let is_alive = connection.ending == Ending::No;
        let idle = self.timeouts.idle;
        match connection.session.phase() {
            Phase::Handshake if is_alive && is_over(self.timeouts.handshake) => self.abort(key),
            Phase::Open if is_alive && is_over(idle) => self.close_idle(key),
            Phase::Open if is_alive && is_over(idle.map(|limit| limit.div_ceil(2))) => self.ping(key),
            Phase::Handshake | Phase::Open if is_alive => {}
            _ if is_over(self.timeouts.close) => self.abort(key),
            _ => {}
        }
    }

    fn abort(&mut self, key: u32) {
        self.end(key, Ending::Abort);
        self.settle(key);
    }

    fn close_idle(&mut self, key: u32) {
        let is_in_frame = !self.entries[key as usize].session.at_frame_boundary();
        if is_in_frame {
            // No Close can be sent inside a frame, and this peer will not finish it.
            self.abort(key);
        } else {
            self.close(key, CloseCode::Away, "idle");
        }
    }

    fn ping(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        // Who has output waiting is not idle but slow, and would get the Ping late anyway.
        if connection.flags.has(Flags::PINGED.or(Flags::CLOSING)) || !connection.queue.is_empty() {
            return;
        }
        if let Some(frame) = connection.session.ping() {
            connection.flags.set(Flags::PINGED);
            self.chunks.push_owned(&mut connection.queue, frame);
            self.settle(key);
        }
    }

    pub(super) fn set_timed(&mut self, key: u32, timed: bool) {
        let flags = &mut self.entries[key as usize].flags;
        match (flags.has(Flags::TIMED), timed) {
            (false, true) => {
                flags.set(Flags::TIMED);
                self.timed += 1;
            }
            (true, false) => {
                flags.clear(Flags::TIMED);
                self.timed -= 1;
            }
            _ => {}
        }
    }
}
