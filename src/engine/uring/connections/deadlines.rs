//! Deadlines: coarse, swept over the slab in slices, no timer object per connection.

use crate::engine::deadline::{Due, Ending};
use crate::protocol::CloseCode;

use super::super::connection::Flags;
use super::Connections;

impl Connections {
    /// Looks at the deadlines of a slice of the connections.
    pub fn sweep(&mut self, at_most: usize) {
        for key in self.sweep.slice(self.keys_used, at_most) {
            if self.entries.contains(key) {
                self.check_deadline(key as u32);
            }
        }
    }

    fn check_deadline(&mut self, key: u32) {
        let connection = &self.entries[key as usize];
        let elapsed = self.now - connection.since;
        match self.timeouts.due(connection.ending, connection.session.phase(), elapsed) {
            Due::Nothing => {}
            Due::Ping => self.ping(key),
            // No Close can be sent inside a frame, and this peer will not finish it.
            Due::Close if !connection.session.at_frame_boundary() => self.abort(key),
            Due::Close => self.close(key, CloseCode::Away, "idle"),
            Due::Abort => self.abort(key),
        }
    }

    fn abort(&mut self, key: u32) {
        self.end(key, Ending::Abort);
        self.settle(key);
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
