//! Segments that came out of order, in a pool that all connections share. What does not fit is dropped; the peer sends it
//! again.

use std::collections::HashMap;

use super::is_before;

/// What a segment costs beside its bytes, roughly: its place in a list and the allocator's share.
const OVERHEAD: usize = 64;

/// Segments of one connection at most. The window of 256 KiB has 489 of IPv4's default size (536 bytes). Each that comes is compared
/// with all of them: with tiny ones a server could make that long (as in CVE-2018-5390).
const SEGMENTS_MAX: usize = 512;

/// A segment that waits for those before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Early {
    pub(super) seq: u32,
    pub(super) is_last: bool,
    pub(super) bytes: Box<[u8]>,
}

/// The pool.
#[derive(Debug)]
pub(super) struct Reassembly {
    /// By connection, in the order of their sequence numbers.
    segments: HashMap<u32, Vec<Early>>,
    used: usize,
    limit: usize,
}

impl Early {
    fn cost(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }

    /// The sequence number behind it.
    fn end(&self) -> u32 {
        self.seq.wrapping_add(self.bytes.len() as u32 + u32::from(self.is_last))
    }
}

impl Reassembly {
    /// A pool of `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { segments: HashMap::new(), used: 0, limit }
    }

    /// Keeps a segment. Returns whether there was room for it, or no need.
    pub(super) fn insert(&mut self, key: u32, seq: u32, bytes: &[u8], is_last: bool) -> bool {
        let cost = bytes.len() + OVERHEAD;
        let list = self.segments.get(&key).map_or(&[][..], Vec::as_slice);
        let end = seq.wrapping_add(bytes.len() as u32 + u32::from(is_last));
        // Others may overlap with it: what has been delivered by then is cut off.
        if list.iter().any(|kept| !is_before(seq, kept.seq) && !is_before(kept.end(), end)) {
            return true;
        }
        if self.used + cost > self.limit || list.len() >= SEGMENTS_MAX {
            return false;
        }
        self.used += cost;
        let list = self.segments.entry(key).or_default();
        let at = list.partition_point(|kept| is_before(kept.seq, seq));
        list.insert(at, Early { seq, is_last, bytes: bytes.into() });
        true
    }

    /// A connection's next segment that is not early any more: it begins at `rcv_nxt` or before, and may lie before it
    /// altogether.
    pub(super) fn take(&mut self, key: u32, rcv_nxt: u32) -> Option<Early> {
        let list = self.segments.get_mut(&key)?;
        if list.first().is_none_or(|first| is_before(rcv_nxt, first.seq)) {
            return None;
        }
        let early = list.remove(0);
        self.used -= early.cost();
        if list.is_empty() {
            self.segments.remove(&key);
        }
        Some(early)
    }

    /// Whether a connection has segments here.
    pub(super) fn holds(&self, key: u32) -> bool {
        self.segments.contains_key(&key)
    }

    /// Drops a connection's segments.
    pub(super) fn remove(&mut self, key: u32) {
        let dropped = self.segments.remove(&key).unwrap_or_default();
        self.used -= dropped.iter().map(Early::cost).sum::<usize>();
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_come_out_in_order_as_those_before_them_arrive() {
        let mut pool = Reassembly::new(1000);
        let base = u32::MAX - 2; // sequence numbers wrap around
        for (after, bytes, is_last) in [(8, &b"ij"[..], true), (4, b"efgh", false), (2, b"cdef", false)] {
            assert!(pool.insert(7, base.wrapping_add(after), bytes, is_last));
        }
        assert_eq!(pool.take(7, base), None);
        let mut out = Vec::new();
        while let Some(early) = pool.take(7, base.wrapping_add(8)) {
            out.push((early.seq.wrapping_sub(base), early.bytes.to_vec(), early.is_last));
        }
        let expected = [(2, b"cdef".to_vec(), false), (4, b"efgh".to_vec(), false), (8, b"ij".to_vec(), true)];
        assert_eq!(out, expected);
        assert_eq!((pool.used(), pool.holds(7)), (0, false));
    }

    #[test]
    fn what_is_kept_already_takes_no_room_again() {
        let mut pool = Reassembly::new(200);
        assert!(pool.insert(1, 10, b"0123456789", false));
        let used = pool.used();
        assert!(pool.insert(1, 10, b"0123456789", false) && pool.insert(1, 12, b"2345", false));
        assert_eq!(pool.used(), used);
        assert!(pool.insert(1, 10, b"0123456789", true), "its FIN is new");
        assert!(pool.used() > used);
    }

    #[test]
    fn a_connection_has_a_bound_of_its_own() {
        let mut pool = Reassembly::new(1 << 20);
        for count in 0..SEGMENTS_MAX as u32 {
            assert!(pool.insert(1, 2 * count, b"x", false), "{count}");
        }
        assert!(!pool.insert(1, 5_000, b"x", false));
        assert!(pool.insert(1, 2, b"x", false), "one that is kept already");
        assert!(pool.insert(2, 5_000, b"x", false), "another connection's");
        assert!(pool.take(1, 0).is_some() && pool.insert(1, 5_000, b"x", false), "there is room again");
    }

    #[test]
    fn the_pool_has_a_bound_for_all_connections_together() {
        let mut pool = Reassembly::new(2 * OVERHEAD + 20);
        assert!(pool.insert(1, 10, &[0; 10], false) && pool.insert(2, 10, &[0; 10], false));
        assert!(!pool.insert(3, 10, b"", true));
        pool.remove(1);
        assert!(pool.insert(3, 10, b"", true));
        pool.remove(2);
        pool.remove(3);
        assert_eq!(pool.used(), 0);
    }
}
