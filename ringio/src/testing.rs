//! Pools without a ring, and the kernel's side of them: for simulations, and for Miri.
//!
//! The simulated kernel posts completions ([`Posted`]); its user delays them, and reaps each in the end, those that name a
//! buffer in the order of their posting: that is the order of a completion queue.

use std::cell::Cell;
use std::ptr;

use crate::completion::Completion;
use crate::memory::Memory;
use crate::pool::{Buffers, Pool, PoolShape};

/// `IORING_CQE_F_BUFFER`, and where the buffer's number stands.
const BUFFER: u32 = 1;
const BUFFER_SHIFT: u32 = 16;
/// `IORING_CQE_F_MORE`.
const MORE: u32 = 1 << 1;
/// `IORING_CQE_F_SOCK_NONEMPTY`.
const SOCK_NONEMPTY: u32 = 1 << 2;
/// `IORING_CQE_F_BUF_MORE`.
const BUFFER_MORE: u32 = 1 << 4;

/// The simulated kernel's state of a pool.
#[derive(Default)]
pub(crate) struct Kernel {
    /// The position in the ring of entries from which it takes the next buffer.
    head: Cell<u16>,
    /// Completions posted and reaped so far that name a buffer.
    posted: Cell<u64>,
    reaped: Cell<u64>,
}

/// A completion that has been posted and not yet reaped.
#[derive(Debug)]
pub struct Posted {
    user_data: u64,
    result: i32,
    flags: u32,
    /// The pool of the buffer that it names, and its number among all that do.
    named: Option<(*const Buffers, u64)>,
}

impl Posted {
    /// The completion of an operation that has nothing to do with a pool. `goes_on`: of a multishot one.
    pub fn plain(user_data: u64, result: i32, goes_on: bool) -> Self {
        Self { user_data, result, flags: if goes_on { MORE } else { 0 }, named: None }
    }

    /// The user data of the operation.
    pub fn user_data(&self) -> u64 {
        self.user_data
    }

    /// Its result.
    pub fn result(&self) -> i32 {
        self.result
    }

    /// Whether it names a buffer, so that its place among others that do is given.
    pub fn names_buffer(&self) -> bool {
        self.named.is_some()
    }

    /// Notes that there are more bytes in the socket.
    #[must_use]
    pub fn with_nonempty_socket(mut self) -> Self {
        self.flags |= SOCK_NONEMPTY;
        self
    }

    /// The completion that a ring would return.
    pub fn reap(self, pool: &Pool) -> Completion {
        let buffers = &**pool.buffers();
        let piece = self.named.and_then(|(named, number)| {
            let reaped = &buffers.kernel.reaped;
            assert!(ptr::eq(named, buffers), "a completion of another pool");
            assert_eq!(number, reaped.replace(number + 1), "completions that name buffers are reaped out of order");
            // SAFETY: posted for this pool, and reaped once and in order: `named` is private, and `self` is gone.
            unsafe { buffers.take(self.result, self.flags) }
        });
        Completion::new(self.user_data, self.result, self.flags, piece)
    }
}

impl Pool {
    /// A pool that belongs to no ring, in ordinary memory.
    pub fn detached(shape: PoolShape) -> Self {
        let mut pool = Self::new(shape, |len| Ok(Memory::ordinary(len))).expect("ordinary memory");
        if !shape.incremental {
            pool.set_failures_use_buffers();
        }
        pool
    }

    /// The kernel receives: copies as much of `data` as fits into the next buffer. `None` if no buffer is provided.
    pub fn post_received(&self, user_data: u64, data: &[u8]) -> Option<Posted> {
        let buffers = self.simulated();
        let kernel = &buffers.kernel;
        if kernel.head.get() == buffers.tail.get() {
            return None;
        }
        // SAFETY: one of the pool's entries, which nothing else refers to during this call.
        let entry = unsafe { buffers.entry(kernel.head.get()).as_mut() };
        let (buffer, room, incremental) = (entry.bid(), entry.len(), buffers.shape.incremental);
        let state = &buffers.states[usize::from(buffer)];
        assert!(!state.is_closed.get() && (incremental || state.pieces.get() == 0), "a buffer in use was provided");
        let len = data.len().min(room as usize);
        let filled = buffers.shape.size - room;
        assert_eq!(entry.addr(), buffers.at(buffer, filled).as_ptr() as u64, "the entry's address and length differ");
        // SAFETY: the room behind what is filled, in a buffer that is the kernel's, so that no piece is there.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), buffers.at(buffer, filled).as_ptr(), len) };
        let mut flags = BUFFER | u32::from(buffer) << BUFFER_SHIFT;
        let left = room - len as u32;
        if incremental {
            entry.set_addr(entry.addr() + len as u64);
            entry.set_len(left);
        }
        if incremental && left > 0 {
            flags |= BUFFER_MORE;
        } else {
            kernel.head.set(kernel.head.get().wrapping_add(1));
        }
        Some(self.post(user_data, len as i32, flags))
    }

    /// The kernel fails to receive after it has chosen a buffer, which the completion names.
    pub fn post_failed(&self, user_data: u64, result: i32) -> Posted {
        let buffers = self.simulated();
        let kernel = &buffers.kernel;
        if kernel.head.get() == buffers.tail.get() {
            return Posted::plain(user_data, result, false);
        }
        // SAFETY: one of the pool's entries, which nothing else refers to during this call.
        let buffer = unsafe { buffers.entry(kernel.head.get()).as_ref() }.bid();
        if buffers.failures_use_buffers {
            kernel.head.set(kernel.head.get().wrapping_add(1));
        }
        self.post(user_data, result, BUFFER | u32::from(buffer) << BUFFER_SHIFT)
    }

    fn post(&self, user_data: u64, result: i32, flags: u32) -> Posted {
        let buffers = self.simulated();
        let number = buffers.kernel.posted.get();
        buffers.kernel.posted.set(number + 1);
        Posted { user_data, result, flags, named: Some((ptr::from_ref(buffers), number)) }
    }

    fn simulated(&self) -> &Buffers {
        let buffers = self.buffers();
        assert!(!buffers.entries.is_mapped(), "the real kernel fills this pool");
        buffers
    }

    /// What must hold after every turn, when `held` are the buffers of all pieces that are held: none is lost, and each
    /// buffer is the kernel's, is about to be, or has pieces.
    pub fn check_pieces(&self, held: impl Iterator<Item = u16>) {
        let buffers = self.buffers();
        let mut pieces = vec![0; buffers.states.len()];
        held.for_each(|buffer| pieces[usize::from(buffer)] += 1);
        let counted: Vec<u32> = buffers.states.iter().map(|state| state.pieces.get()).collect();
        assert_eq!(pieces, counted, "pieces of buffers leaked, or given back twice");
        let kept = buffers.states.iter().filter(|state| state.is_closed.get()).count();
        let not_lent = buffers.provided.get() + buffers.returned.borrow().len();
        assert_eq!(not_lent + kept, buffers.states.len(), "a buffer is neither the kernel's nor in use");
    }
}
