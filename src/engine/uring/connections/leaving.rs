//! The server's end: everybody is told, once all is received that had arrived.

use crate::engine::deadline::Ending;
use crate::protocol::CloseCode;

use super::super::connection::Flags;
use super::Connections;

impl Connections {
    /// From now on closing may take as long as the peers like: the worker's drain deadline bounds it.
    pub fn close_at_leisure(&mut self) {
        self.timeouts.close = None;
    }

    /// Asks a slice of the connections to leave, from the slab key `from` on. Returns where to go on.
    pub fn ask_some_to_leave(&mut self, from: usize, at_most: usize) -> Option<usize> {
        let end = self.keys_used.min(from + at_most);
        for key in from..end {
            if let Some(connection) = self.entries.get_mut(key) {
                if connection.ending == Ending::No {
                    connection.ending = Ending::Leaving;
                    // There may be something that no event has told of yet.
                    connection.flags.set(Flags::READABLE);
                }
                self.go_on_leaving(key as u32);
                self.settle(key as u32);
            }
        }
        (end < self.keys_used).then_some(end)
    }

    /// Says goodbye to a connection that is leaving, if nothing is left to be received or it has brought enough.
    #[inline]
    pub(super) fn go_on_leaving(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        if connection.ending != Ending::Leaving {
            return;
        }
        let flags = connection.flags;
        if flags.has(Flags::READABLE) && connection.wants_input() && connection.last_receives > 0 {
            connection.last_receives -= 1;
        } else if !flags.has(Flags::RECEIVING) {
            self.close(key, CloseCode::GOING_AWAY, "server is stopping");
        }
    }
}
