//! Provided buffers: memory that the kernel picks from when data arrives, so that an idle connection owns none.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, cqueue};

use crate::memory::Memory;
use crate::piece::Piece;

/// `IOU_PBUF_RING_INC` (Linux 6.12): a receive takes as much of a buffer as it fills, the next one goes on behind it.
const INCREMENTAL: u16 = 2;

/// The size of buffers that each hold one receive: what most receives fit in, and few enough bytes to waste on a small
/// one.
const WHOLE_BUFFER_SIZE: u32 = 16 << 10;

/// `IO_URING_BUF_RING` rings have at most so many entries.
const BUFFERS_MAX: u16 = 1 << 15;

/// The group of a ring's pool; each ring numbers its own, and has one.
pub(crate) const GROUP: u16 = 0;

/// The shape of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// The number of buffers; a power of two, at most 32,768.
    pub count: u16,
    /// Bytes in each.
    pub size: u32,
    /// Whether receives share a buffer, one behind the other. Falls back to whole buffers on older kernels.
    pub incremental: bool,
}

impl PoolShape {
    /// The same memory for kernels that use a whole buffer for each receive: more buffers, for more receives at once.
    fn in_whole_buffers(self) -> Self {
        let memory = self.memory();
        let size = self.size.min(WHOLE_BUFFER_SIZE);
        let count = (memory / size as usize).min(BUFFERS_MAX.into());
        Self { count: 1 << count.ilog2(), size, incremental: false }
    }

    fn memory(self) -> usize {
        usize::from(self.count) * self.size as usize
    }
}

/// The receive buffers of one [`Ring`](crate::Ring), which shares the memory and so may go before the pool or after it.
///
/// A buffer belongs to the kernel until a completion names it without `IORING_CQE_F_BUF_MORE`; a [`Piece`] belongs to
/// its holder until [`Pool::release`].
pub struct Pool {
    buffers: Rc<Buffers>,
}

/// A provided buffer ring (`io_uring_register_buf_ring(3)`) and the memory behind it. The ring takes pieces of it, the
/// pool's owner gives them back, both on the same thread.
pub(crate) struct Buffers {
    pub(crate) shape: PoolShape,
    /// `shape.count` entries of type [`BufRingEntry`].
    pub(crate) entries: Memory,
    /// The buffers, one behind the other. `drop` sees to it.
    memory: ManuallyDrop<Memory>,
    pub(crate) states: Box<[BufferState]>,
    /// Buffers that hold no piece, to be provided again by the next [`Pool::publish`].
    pub(crate) returned: RefCell<Vec<u16>>,
    pub(crate) tail: Cell<u16>,
    /// Buffers that the kernel has used up so far: where in the ring of entries it takes the next one from.
    head: Cell<u16>,
    /// Buffers the kernel can still receive into.
    pub(crate) provided: Cell<usize>,
    /// Bytes in them that are not filled.
    free: Cell<u32>,
    /// A receive that fails has used up the buffer that it had chosen: so it is before Linux 6.12, which knows no
    /// incremental buffers. From then to 6.17 its completion names the buffer all the same.
    #[allow(clippy::struct_field_names)] // what failures use, not whose field it is
    pub(crate) failures_use_buffers: bool,
    #[cfg(any(test, feature = "testing"))]
    pub(crate) kernel: crate::testing::Kernel,
}

#[derive(Default)]
pub(crate) struct BufferState {
    /// Bytes that completions have reported so far: the kernel gives no offset, the lengths have to be summed.
    filled: Cell<u32>,
    /// Pieces taken and not yet released.
    pub(crate) pieces: Cell<u32>,
    /// The kernel is done with it; it can be provided again when its last piece is released.
    pub(crate) is_closed: Cell<bool>,
}

impl BufferState {
    fn reset(&self) {
        self.filled.set(0);
        self.is_closed.set(false);
    }
}

impl Pool {
    /// Maps the memory and registers it with `ring`.
    pub(crate) fn register(ring: &IoUring, shape: PoolShape) -> io::Result<Self> {
        let mapped = |shape| Self::new(shape, Memory::mapped);
        let incremental = PoolShape { incremental: true, ..shape };
        let pool = mapped(incremental)?;
        match pool.register_with(ring) {
            Err(e) if e.raw_os_error() != Some(libc::EINVAL) => Err(e),
            Ok(()) if shape.incremental => Ok(pool),
            Ok(()) => {
                let unregistered = ring.submitter().unregister_buf_ring(GROUP);
                if unregistered.is_err() {
                    std::mem::forget(pool); // the kernel may write to it
                }
                unregistered?;
                let pool = mapped(shape)?;
                pool.register_with(ring)?;
                Ok(pool)
            }
            Err(_) => {
                let shape = if shape.incremental { shape.in_whole_buffers() } else { shape };
                let mut pool = mapped(shape)?;
                pool.set_failures_use_buffers();
                pool.register_with(ring)?;
                Ok(pool)
            }
        }
    }

    /// A pool that no kernel knows yet.
    pub(crate) fn new(shape: PoolShape, memory: impl Fn(NonZeroUsize) -> io::Result<Memory>) -> io::Result<Self> {
        assert!(shape.count.is_power_of_two() && shape.count <= BUFFERS_MAX, "a buffer ring's size is a power of two");
        let count = usize::from(shape.count);
        let bytes = |len: usize| NonZeroUsize::new(len).expect("a pool is not empty");
        u32::try_from(shape.memory()).map_err(io::Error::other)?; // its bytes are counted in 32 bits
        let buffers = Buffers {
            shape,
            entries: memory(bytes(count * size_of::<BufRingEntry>()))?,
            memory: ManuallyDrop::new(memory(bytes(shape.memory()))?),
            states: (0..count).map(|_| BufferState::default()).collect(),
            returned: RefCell::new((0..shape.count).rev().collect()),
            tail: Cell::new(0),
            head: Cell::new(0),
            provided: Cell::new(0),
            free: Cell::new(0),
            failures_use_buffers: false,
            #[cfg(any(test, feature = "testing"))]
            kernel: crate::testing::Kernel::default(),
        };
        buffers.publish();
        Ok(Self { buffers: Rc::new(buffers) })
    }

    fn register_with(&self, ring: &IoUring) -> io::Result<()> {
        let Buffers { entries, shape, .. } = &*self.buffers;
        let flags = if shape.incremental { INCREMENTAL } else { 0 };
        // SAFETY: a page-aligned mapping of `count` entries, each of which names memory of this pool. Both live as long as
        // the ring, which keeps a reference ([`Ring::add_pool`](crate::Ring::add_pool)), or until it is unregistered.
        unsafe {
            let address = entries.start().as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(address, shape.count, GROUP, flags)
        }
    }

    /// Notes that the kernel is an old one.
    pub(crate) fn set_failures_use_buffers(&mut self) {
        Rc::get_mut(&mut self.buffers).expect("a new pool").failures_use_buffers = true;
    }

    pub(crate) fn buffers(&self) -> &Rc<Buffers> {
        &self.buffers
    }

    /// The shape that the kernel accepted.
    pub fn shape(&self) -> PoolShape {
        self.buffers.shape
    }

    /// The number of receives of about `len` bytes that the provided buffers have room for. A receive without room ends with
    /// `ENOBUFS`.
    #[inline]
    pub fn room_for(&self, len: u32) -> usize {
        let Buffers { shape, provided, free, .. } = &*self.buffers;
        if shape.incremental && provided.get() > 0 { (free.get() / len.max(1)).max(1) as usize } else { provided.get() }
    }

    /// Whether some buffer has been used up and is kept from the kernel.
    #[inline]
    pub fn is_short(&self) -> bool {
        self.buffers.provided.get() < usize::from(self.buffers.shape.count)
    }

    /// Bytes in all buffers.
    pub fn memory(&self) -> usize {
        self.buffers.shape.memory()
    }

    /// Gives a piece back. When it was the last one of its buffer, the next `publish` provides that buffer again, or has
    /// the kernel, if it is still filling it, begin anew.
    #[inline]
    #[allow(clippy::needless_pass_by_value)] // it is gone
    pub fn release(&self, piece: Piece) {
        self.buffers.release(&piece);
    }

    /// Provides all returned buffers to the kernel, the most recently used one first: it is still in cache. Has the kernel
    /// begin anew with the buffer that it is filling, if no piece of it is held: a few connections are then received from
    /// into the same few cache lines, over and over.
    #[inline]
    pub fn publish(&self) {
        self.buffers.rewind();
        self.buffers.publish();
    }
}

impl Buffers {
    /// What the completion of a receive brought; `None` if that is nothing. To be called once for each completion that
    /// names a buffer, in their order.
    ///
    /// # Safety
    /// The kernel has posted a completion with this result and these flags, for a receive into this pool, and this call
    /// is the only one for it.
    #[inline]
    pub(crate) unsafe fn take(&self, result: i32, flags: u32) -> Option<Piece> {
        let buffer = cqueue::buffer_select(flags)?;
        if result < 0 && !self.failures_use_buffers {
            return None;
        }
        let len = u32::try_from(result).unwrap_or(0);
        let state = &self.states[usize::from(buffer)];
        let offset = state.filled.get();
        let filled = offset + len;
        debug_assert!(!state.is_closed.get() && filled <= self.shape.size, "the kernel wrote past buffer {buffer}");
        state.filled.set(filled);
        self.free.set(self.free.get() - len);
        let ends_buffer = filled == self.shape.size;
        if !cqueue::buffer_more(flags) {
            state.is_closed.set(true);
            self.head.set(self.head.get().wrapping_add(1));
            self.provided.set(self.provided.get() - 1);
            self.free.set(self.free.get() - (self.shape.size - filled));
        }
        if len == 0 {
            self.reuse_if_unused(buffer);
            return None;
        }
        state.pieces.set(state.pieces.get() + 1);
        // SAFETY: the kernel has filled these bytes, as the caller promises, behind those of all earlier pieces of the
        // buffer. It does not touch them before the buffer is provided anew or rewound, which both wait for the release of
        // all its pieces. `drop` leaves the memory mapped if a piece is left.
        Some(unsafe { Piece::new(self.at(buffer, offset), len, buffer, ends_buffer) })
    }

    #[inline]
    fn release(&self, piece: &Piece) {
        let start = piece.start().addr().get().wrapping_sub(self.memory.start().addr().get());
        assert!(start < self.memory.len(), "a piece was released to another pool than its own");
        let state = &self.states[usize::from(piece.buffer())];
        state.pieces.set(state.pieces.get() - 1);
        self.reuse_if_unused(piece.buffer());
    }

    /// Notes a buffer that the kernel is done with and no piece of which is held, to be provided again.
    #[inline]
    fn reuse_if_unused(&self, buffer: u16) {
        let state = &self.states[usize::from(buffer)];
        if state.pieces.get() == 0 && state.is_closed.get() {
            state.reset();
            self.returned.borrow_mut().push(buffer);
        }
    }

    /// The fill level of a buffer is in the ring's entry, and only there (the server's probe makes sure).
    #[inline]
    fn rewind(&self) {
        if self.head.get() == self.tail.get() {
            return;
        }
        // SAFETY: the entry is the kernel's, which reads and writes it in enters only, on this thread.
        let entry = unsafe { self.entry(self.head.get()).as_mut() };
        let state = &self.states[usize::from(entry.bid())];
        let filled = state.filled.get();
        // What the kernel has filled beyond what completions have told is in one that has not been reaped.
        if filled == 0 || state.pieces.get() > 0 || entry.len() != self.shape.size - filled {
            return;
        }
        self.free.set(self.free.get() + filled);
        state.reset();
        entry.set_addr(self.at(entry.bid(), 0).as_ptr() as u64);
        entry.set_len(self.shape.size);
    }

    #[inline]
    fn publish(&self) {
        let mut returned = self.returned.borrow_mut();
        if returned.is_empty() {
            return;
        }
        let mut tail = self.tail.get();
        while let Some(buffer) = returned.pop() {
            // SAFETY: the entry is not the kernel's: at most `count` buffers exist, so the tail never overtakes the head.
            // The tail field shares the first entry's memory with `resv`, which the setters below do not write.
            let entry = unsafe { self.entry(tail).as_mut() };
            entry.set_addr(self.at(buffer, 0).as_ptr() as u64);
            entry.set_len(self.shape.size);
            entry.set_bid(buffer);
            tail = tail.wrapping_add(1);
            self.provided.set(self.provided.get() + 1);
            self.free.set(self.free.get() + self.shape.size);
        }
        self.tail.set(tail);
        // SAFETY: the tail is the `resv` field of the first entry, valid as long as the memory; the kernel reads it with
        // acquire semantics, so the entries above are visible first.
        unsafe {
            let field = BufRingEntry::tail(self.entry(0).as_ptr()).cast::<AtomicU16>();
            (*field).store(tail, Ordering::Release);
        }
    }

    /// The entry at place `number` of the ring of entries, counted on and on.
    #[inline]
    pub(crate) fn entry(&self, number: u16) -> NonNull<BufRingEntry> {
        let slot = usize::from(number & (self.shape.count - 1));
        // SAFETY: masked to be one of the `count` entries in the memory.
        unsafe { self.entries.start().cast::<BufRingEntry>().add(slot) }
    }

    /// The byte at `offset` of a buffer.
    #[inline]
    pub(crate) fn at(&self, buffer: u16, offset: u32) -> NonNull<u8> {
        let from_start = usize::from(buffer) * self.shape.size as usize + offset as usize;
        debug_assert!(from_start < self.memory.len() || (offset > 0 && from_start == self.memory.len()));
        // SAFETY: `buffer` is one of the pool's, as `states` has been indexed by it, and `offset` is at most its size.
        unsafe { self.memory.start().add(from_start) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // Pieces that are left own their bytes: then the memory stays, for good.
        if self.states.iter().all(|state| state.pieces.get() == 0) {
            // SAFETY: nothing uses the memory after `drop`: no piece is left, and ring and pool are gone.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

#[cfg(test)]
mod tests;
