//! The journal for the connection log: peers of connections and how these ended. It exists only if the log is enabled.

use std::collections::HashMap;

use crate::worker::Ending;

/// A connection that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The client's address, if it is known.
    pub(crate) peer: Option<Box<str>>,
    /// Ticks from its accept to its end.
    pub(crate) ticks: u32,
    /// The cause of its end.
    pub(crate) ending: Ending,
}

/// The open connections, and those that have ended since they were last taken.
#[derive(Default)]
pub(super) struct Journal {
    entries: HashMap<u32, Entry>,
    ended: Vec<Ended>,
}

struct Entry {
    peer: Option<Box<str>>,
    since: u32,
}

impl Journal {
    pub(super) fn begin(&mut self, key: u32, now: u32) {
        self.entries.insert(key, Entry { peer: None, since: now });
    }

    /// The socket's peer, unless a balancer has already named the client.
    pub(super) fn set_peer(&mut self, key: u32, peer: String) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.peer.get_or_insert_with(|| peer.into());
        }
    }

    /// The client named by a balancer.
    pub(super) fn set_client(&mut self, key: u32, client: String) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.peer = Some(client.into());
        }
    }

    pub(super) fn end(&mut self, key: u32, ending: Ending, now: u32) {
        if let Some(Entry { peer, since }) = self.entries.remove(&key) {
            self.ended.push(Ended { peer, ticks: now.wrapping_sub(since), ending });
        }
        if self.entries.is_empty() {
            self.entries = HashMap::new(); // the memory of a peak goes back
        }
    }

    pub(super) fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_peak_goes_back() {
        let mut journal = Journal::default();
        (0..1000).for_each(|key| journal.begin(key, 0));
        (0..1000).for_each(|key| journal.end(key, Ending::PeerClose, 1));
        assert_eq!((journal.entries.capacity(), journal.take_ended().len()), (0, 1000));
    }
}
