//! A worker's connections, and the lists that run through them.

use slab::Slab;

use super::lifecycle::Lifecycle;
use super::output::Queue;
use super::wheel::Timer;

const NONE: u32 = u32::MAX;

/// Generations have 16 bits: an operation's completion is reaped before its entry has been reused that often.
pub(crate) type Generation = u16;

/// A connection's entry; `E` is the engine's part: a descriptor, and the operations in flight.
pub(crate) struct Connection<E> {
    pub(crate) life: Lifecycle,
    /// Pending output.
    pub(crate) output: Queue,
    pub(super) timer: Timer,
    link: Link,
    pub(crate) io: E,
    pub(super) generation: Generation,
    /// Its deficit: see `schedule`.
    pub(super) debt: u8,
    /// The engine's part: the operations in flight.
    pub(crate) flight: u8,
}

const _: () = assert!(size_of::<Connection<u32>>() <= 56, "an idle connection pays for every byte");
// The slab stores `enum { Vacant(usize), Occupied(Connection) }`: it must fit beside a niche, without a tag of its own.
const _: () = assert!(size_of::<Option<Connection<u32>>>() == size_of::<Connection<u32>>());

/// A place in a list. A connection is in one list at most.
#[derive(Clone, Copy)]
struct Link {
    next: u32,
    previous: u32,
}

/// A list of connections, first come first served.
#[derive(Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0 };

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head == NONE
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub(super) fn first(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }
}

/// All connections of a worker, by key.
pub(crate) struct Table<E> {
    entries: Slab<Connection<E>>,
    generation: Generation,
    /// One more than the highest key that was ever used.
    keys_used: usize,
}

impl<E> Table<E> {
    /// Room for `capacity` connections: pages that no connection has used yet cost nothing.
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: Slab::with_capacity(capacity), generation: 0, keys_used: 0 }
    }

    pub(super) fn insert(&mut self, life: Lifecycle, io: E) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let link = Link { next: NONE, previous: NONE };
        let (output, timer, generation) = (Queue::EMPTY, Timer::NONE, self.generation);
        let key = self.entries.insert(Connection { life, output, timer, link, io, generation, debt: 0, flight: 0 });
        self.keys_used = self.keys_used.max(key + 1);
        key as u32
    }

    /// Removes a connection, which must be in no list.
    pub(super) fn remove(&mut self, key: u32) -> Connection<E> {
        self.entries.remove(key as usize)
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline]
    pub(super) fn contains(&self, key: u32) -> bool {
        self.entries.contains(key as usize)
    }

    /// One more than the highest key that was ever used.
    pub(super) fn keys_used(&self) -> u32 {
        self.keys_used as u32
    }

    #[inline]
    pub(super) fn get(&self, key: u32) -> &Connection<E> {
        &self.entries[key as usize]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: u32) -> &mut Connection<E> {
        &mut self.entries[key as usize]
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Connection<E>)> {
        self.entries.iter().map(|(key, connection)| (key as u32, connection))
    }

    /// Appends a connection, which must be in no list, to one.
    #[inline]
    pub(super) fn push_back(&mut self, list: &mut List, key: u32) {
        let previous = std::mem::replace(&mut list.tail, key);
        self.get_mut(key).link = Link { next: NONE, previous };
        if previous == NONE {
            list.head = key;
        } else {
            self.get_mut(previous).link.next = key;
        }
        list.len += 1;
    }

    /// Removes a connection from the list that it is in.
    #[inline]
    pub(super) fn unlink(&mut self, list: &mut List, key: u32) {
        let Link { next, previous } = self.get(key).link;
        match previous {
            NONE => list.head = next,
            previous => self.get_mut(previous).link.next = next,
        }
        match next {
            NONE => list.tail = previous,
            next => self.get_mut(next).link.previous = previous,
        }
        list.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    #[test]
    fn lists_keep_their_order_whoever_leaves() {
        let mut table = Table::new(8);
        let keys: Vec<u32> =
            (0..5).map(|io: u32| table.insert(Lifecycle::new(Protocol::WebSocket, false, 0), io)).collect();
        let mut list = List::EMPTY;
        for &key in &keys {
            table.push_back(&mut list, key);
        }
        for key in [keys[2], keys[0], keys[4]] {
            table.unlink(&mut list, key);
        }
        table.push_back(&mut list, keys[0]);
        let mut seen = Vec::new();
        while let Some(key) = list.first() {
            table.unlink(&mut list, key);
            seen.push(key);
        }
        assert_eq!((seen, list.len()), (vec![keys[1], keys[3], keys[0]], 0));
    }
}
