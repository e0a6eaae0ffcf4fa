//! Deadlines of connections.

use std::collections::VecDeque;

/// A queue of deadlines that are all set the same time ahead, so they expire in the order in which they were set.
#[derive(Debug)]
pub(super) struct Deadlines {
    after_ns: u64,
    queue: VecDeque<Deadline>,
}

/// The deadline of one attempt's connection. The connection may have ended by then, and its slot may have been reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    due_ns: u64,
    pub(super) key: u32,
    /// When the attempt began: compared with the connection's own value.
    pub(super) began_us: u32,
}

impl Deadlines {
    pub(super) fn new(after_ns: u64) -> Self {
        Self { after_ns, queue: VecDeque::new() }
    }

    pub(super) fn set(&mut self, now_ns: u64, key: u32, began_us: u32) {
        self.queue.push_back(Deadline { due_ns: now_ns.saturating_add(self.after_ns), key, began_us });
    }

    /// The next deadline that has expired at `now_ns`; deadlines that are no longer pending are dropped.
    pub(super) fn pop(&mut self, now_ns: u64, is_pending: impl Fn(Deadline) -> bool) -> Option<Deadline> {
        while let Some(&deadline) = self.queue.front() {
            let is_pending = is_pending(deadline);
            if is_pending && deadline.due_ns > now_ns {
                return None;
            }
            self.queue.pop_front();
            if is_pending {
                return Some(deadline);
            }
        }
        None
    }

    /// The time from setting to deadline.
    pub(super) fn after_ns(&self) -> u64 {
        self.after_ns
    }

    /// When the next deadline may be due.
    #[inline]
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.queue.front().map(|deadline| deadline.due_ns)
    }
}

/// A turn this long after a deadline shows that the thread had no processor or was stopped.
const LATE_NS: u64 = 100_000_000;

/// Time to process the events that happened in the meantime.
const GRACE_NS: u64 = 1_000_000_000;

/// Extra time before deadlines expire after the thread was held up: the server may have acted in time, without its
/// events being processed yet.
#[derive(Debug, Default)]
pub(super) struct Grace {
    until_ns: Option<u64>,
}

impl Grace {
    /// Whether deadlines may expire now; the next one is due at `due_ns`.
    pub(super) fn is_over(&mut self, due_ns: Option<u64>, now_ns: u64) -> bool {
        let Some(due_ns) = due_ns else { return true };
        if now_ns > self.postpone(due_ns).saturating_add(LATE_NS) {
            self.until_ns = Some(now_ns + GRACE_NS);
        }
        if self.until_ns.is_some_and(|until_ns| until_ns > now_ns) {
            return false;
        }
        self.until_ns = None;
        true
    }

    /// When a deadline that is due at `due_ns` may expire.
    pub(super) fn postpone(&self, due_ns: u64) -> u64 {
        self.until_ns.map_or(due_ns, |until_ns| until_ns.max(due_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_comes_late_looks_before_it_judges() {
        let mut grace = Grace::default();
        assert!(grace.is_over(None, 5 * GRACE_NS));
        assert!(grace.is_over(Some(GRACE_NS), GRACE_NS + LATE_NS), "as late as any thread");
        let woken_ns = 7 * GRACE_NS;
        assert!(!grace.is_over(Some(GRACE_NS), woken_ns));
        assert_eq!(grace.postpone(GRACE_NS), woken_ns + GRACE_NS, "there is something to wake up for");
        assert!(!grace.is_over(Some(GRACE_NS), woken_ns + GRACE_NS - 1));
        // Held up again in the meantime.
        assert!(!grace.is_over(Some(GRACE_NS), woken_ns + 3 * GRACE_NS));
        assert!(grace.is_over(Some(GRACE_NS), woken_ns + 4 * GRACE_NS));
        assert!(grace.is_over(Some(20 * GRACE_NS), 20 * GRACE_NS));
    }

    #[test]
    fn a_deadline_is_that_of_its_own_attempt() {
        let mut deadlines = Deadlines::new(100);
        deadlines.set(0, 7, 1);
        deadlines.set(10, 7, 2);
        deadlines.set(20, 8, 3);
        assert_eq!(deadlines.next_ns(), Some(100));
        // The first attempt in slot 7 has ended; the next attempt in the slot has its own deadline.
        let is_pending = |it: Deadline| it.began_us != 1;
        assert_eq!(deadlines.pop(105, is_pending), None);
        assert_eq!(deadlines.next_ns(), Some(110));
        assert_eq!(deadlines.pop(200, is_pending).map(|it| (it.key, it.began_us)), Some((7, 2)));
        assert_eq!(deadlines.pop(200, is_pending).map(|it| it.key), Some(8));
        assert_eq!((deadlines.pop(200, is_pending), deadlines.next_ns()), (None, None));
    }
}
