//! Deadlines: coarse, swept over the slab in slices, no timer object per connection.

use crate::engine::deadline::{Due, Ending};
use crate::protocol::CloseCode;

use super::super::connection::Flags;
use super::Connections;

impl Connections {
    /// Looks at the deadlines of a slice of the connections. Returns whether it has come to the slice's end; if not, it
    /// is to be called again in the next turn.
    pub fn sweep(&mut self, at_most: usize) -> bool {
        let (mut sweep, keys_used) = (self.sweep, self.keys_used);
        let check = |key| self.entries.contains(key) && self.check_deadline(key as u32);
        let is_done = sweep.go_on(keys_used, at_most, check);
        self.sweep = sweep;
        self.urgent |= !is_done;
        is_done
    }

    /// Whether it was met.
    fn check_deadline(&mut self, key: u32) -> bool {
        let connection = &self.entries[key as usize];
        let elapsed = self.now - connection.since;
        match self.timeouts.due(connection.ending, connection.session.phase(), elapsed) {
            Due::Nothing => return false,
            Due::Ping => return self.ping(key),
            // No Close can be sent inside a frame, and this peer will not finish it.
            Due::Close if !connection.session.at_frame_boundary() => self.abort(key),
            Due::Close => self.close(key, CloseCode::GOING_AWAY, "idle"),
            Due::Abort => self.abort(key),
        }
        true
    }

    fn abort(&mut self, key: u32) {
        self.end(key, Ending::Abort);
        self.settle(key);
    }

    /// Whether one was due, and not sent before.
    fn ping(&mut self, key: u32) -> bool {
        let connection = &mut self.entries[key as usize];
        // Who has output waiting is not idle but slow, and would get the Ping late anyway.
        if connection.flags.has(Flags::PINGED.or(Flags::CANCELLING).or(Flags::CLOSING)) || !connection.queue.is_empty()
        {
            return false;
        }
        let Some(frame) = connection.session.ping() else { return false };
        connection.flags.set(Flags::PINGED);
        self.chunks.push_owned(&mut connection.queue, frame);
        self.settle(key);
        true
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
