//! Provided buffers: memory that the kernel picks from when data arrives, so that an idle connection owns none.

use std::io;
use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::cqueue;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::ring::Ring;

/// `IOU_PBUF_RING_INC` (Linux 6.12): a receive takes as much of a buffer as it fills, the next one goes on behind it.
const INCREMENTAL: u16 = 2;

const WHOLE_BUFFER_SIZE: u32 = 16 << 10;

/// What one receive brought: a part of one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The buffer's number in its pool.
    pub buffer: u16,
    /// Where in the buffer it starts, in bytes.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// The shape of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// How many buffers; a power of two, at most 32,768.
    pub count: u16,
    /// Bytes in each.
    pub size: u32,
    /// Whether receives share a buffer, one behind the other. Falls back to whole buffers on older kernels.
    pub incremental: bool,
}

impl PoolShape {
    /// The same memory for kernels that use a whole buffer for each receive: more buffers, for more receives at once.
    fn in_whole_buffers(self) -> Self {
        let memory = usize::from(self.count) * self.size as usize;
        let size = self.size.min(WHOLE_BUFFER_SIZE);
        let count = (memory / size as usize).min(1 << 15);
        Self { count: 1 << count.ilog2(), size, incremental: false }
    }
}

#[derive(Clone, Copy, Default)]
struct BufferState {
    /// Bytes that completions have reported so far: the kernel gives no offset, the lengths have to be summed.
    filled: u32,
    /// Pieces handed out and not yet released.
    pieces: u32,
    /// The kernel is done with it; it can be provided again when its last piece is released.
    closed: bool,
}

/// A provided buffer ring (`io_uring_register_buf_ring(3)`) and the memory behind it.
///
/// A buffer belongs to the kernel until a completion names it without `IORING_CQE_F_BUF_MORE`; a [`Piece`] belongs to
/// its holder until [`BufferPool::release`].
pub struct BufferPool {
    group: u16,
    shape: PoolShape,
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    states: Vec<BufferState>,
    /// Buffers that nobody uses, to be provided again by the next [`BufferPool::publish`].
    returned: Vec<u16>,
    tail: u16,
    /// Buffers that the kernel has used up so far: where in the ring of entries it takes the next one from.
    head: u16,
    /// Buffers the kernel can still receive into.
    provided: usize,
    /// Bytes in them that are not filled.
    free: u32,
    /// A receive that fails has used up the buffer that it had chosen: so it is before Linux 6.12, which knows no
    /// incremental buffers. From then to 6.17 its completion names the buffer all the same.
    failures_use_buffers: bool,
}

impl BufferPool {
    /// Maps the memory and registers it with `ring` as buffer group `group`.
    ///
    /// The pool must be dropped after the ring: the kernel writes into it as long as the ring lives.
    pub fn new(ring: &Ring, group: u16, shape: PoolShape) -> io::Result<Self> {
        let incremental = match Self::registered(ring, group, PoolShape { incremental: true, ..shape }) {
            Err(e) if e.raw_os_error() != Some(libc::EINVAL) => return Err(e),
            outcome => outcome.ok(),
        };
        match incremental {
            Some(pool) if shape.incremental => Ok(pool),
            Some(_) => {
                ring.submitter().unregister_buf_ring(group)?;
                Self::registered(ring, group, shape)
            }
            None => {
                let shape = if shape.incremental { shape.in_whole_buffers() } else { shape };
                let mut pool = Self::registered(ring, group, shape)?;
                pool.failures_use_buffers = true;
                Ok(pool)
            }
        }
    }

    fn registered(ring: &Ring, group: u16, shape: PoolShape) -> io::Result<Self> {
        assert!(shape.count.is_power_of_two() && shape.count <= 1 << 15, "a buffer ring's size is a power of two");
        let entries = map(usize::from(shape.count) * size_of::<BufRingEntry>())?.cast::<BufRingEntry>();
        let memory = map(usize::from(shape.count) * shape.size as usize)?;
        let mut pool = Self {
            group,
            shape,
            entries,
            memory,
            states: vec![BufferState::default(); usize::from(shape.count)],
            returned: (0..shape.count).rev().collect(),
            tail: 0,
            head: 0,
            provided: 0,
            free: 0,
            failures_use_buffers: false,
        };
        let address = pool.entries.as_ptr() as u64;
        let flags = if shape.incremental { INCREMENTAL } else { 0 };
        // SAFETY: `entries` is a page-aligned mapping of `count` entries that lives until `drop`, after the ring.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, shape.count, group, flags)? };
        pool.publish();
        Ok(pool)
    }

    /// The shape that the kernel accepted.
    pub fn shape(&self) -> PoolShape {
        self.shape
    }

    /// The buffer group to name in a receive.
    pub fn group(&self) -> u16 {
        self.group
    }

    /// How many receives of about `len` bytes the provided buffers have room for. What finds none ends with `ENOBUFS`.
    #[inline]
    pub fn room_for(&self, len: u32) -> usize {
        if self.shape.incremental && self.provided > 0 {
            (self.free / len.max(1)).max(1) as usize
        } else {
            self.provided
        }
    }

    /// Whether some buffer has been used up and is kept from the kernel.
    pub fn is_short(&self) -> bool {
        self.provided < usize::from(self.shape.count)
    }

    /// Bytes in all buffers.
    pub fn memory(&self) -> usize {
        usize::from(self.shape.count) * self.shape.size as usize
    }

    /// Takes what a receive's completion brought; `None` if the completion names no buffer.
    #[inline]
    pub fn take(&mut self, result: i32, flags: u32) -> Option<Piece> {
        let buffer = cqueue::buffer_select(flags)?;
        if result < 0 && !self.failures_use_buffers {
            return None;
        }
        let len = u32::try_from(result).unwrap_or(0);
        let state = &mut self.states[usize::from(buffer)];
        let offset = state.filled;
        debug_assert!(!state.closed && offset + len <= self.shape.size, "the kernel wrote past buffer {buffer}");
        state.filled += len;
        self.free -= len;
        state.pieces += 1;
        if !cqueue::buffer_more(flags) {
            state.closed = true;
            self.head = self.head.wrapping_add(1);
            self.provided -= 1;
            self.free -= self.shape.size - state.filled;
        }
        Some(Piece { buffer, offset, len })
    }

    /// The bytes of a piece that has been taken and not been released.
    #[inline]
    pub fn bytes(&self, piece: Piece) -> &[u8] {
        // SAFETY: as for `bytes_mut`, with `&self` and so no mutable reference.
        unsafe { std::slice::from_raw_parts(self.address(piece).as_ptr(), piece.len as usize) }
    }

    /// The same, to be transformed in place.
    #[inline]
    pub fn bytes_mut(&mut self, piece: Piece) -> &mut [u8] {
        // SAFETY: the kernel has completed its write of exactly these bytes and will not touch them again before the
        // buffer is provided anew or rewound, which both wait for the release; pieces never overlap; `&mut self` makes it
        // the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.address(piece).as_ptr(), piece.len as usize) }
    }

    #[inline]
    fn address(&self, piece: Piece) -> NonNull<u8> {
        debug_assert!(self.states[usize::from(piece.buffer)].pieces > 0, "piece of a buffer that is not held");
        let offset = usize::from(piece.buffer) * self.shape.size as usize + piece.offset as usize;
        assert!(offset + piece.len as usize <= usize::from(self.shape.count) * self.shape.size as usize);
        // SAFETY: asserted to be inside the mapping.
        unsafe { self.memory.add(offset) }
    }

    /// Gives a piece back. When it was the last one of its buffer, the next `publish` provides that buffer again, or has
    /// the kernel, if it is still filling it, begin anew.
    #[inline]
    pub fn release(&mut self, buffer: u16) {
        let state = &mut self.states[usize::from(buffer)];
        assert!(state.pieces > 0, "buffer {buffer} released twice");
        state.pieces -= 1;
        if state.pieces == 0 && state.closed {
            *state = BufferState::default();
            self.returned.push(buffer);
        }
    }

    /// Has the kernel begin anew with the buffer that it is filling, if nobody holds a piece of it: a few connections are
    /// then received from into the same few cache lines, over and over.
    ///
    /// How far the kernel has filled it stands in the ring's entry, and there alone (the probe makes sure).
    #[inline]
    fn rewind(&mut self) {
        if self.head == self.tail {
            return;
        }
        let size = self.shape.size;
        // SAFETY: the slot is inside the ring (masked); the kernel reads and writes it in enters only, on this thread.
        let entry = unsafe { self.entries.add(usize::from(self.head & (self.shape.count - 1))).as_mut() };
        let state = &mut self.states[usize::from(entry.bid())];
        // What the kernel has filled beyond what completions have told is in one that has not been seen.
        if state.filled == 0 || state.pieces > 0 || entry.len() != size - state.filled {
            return;
        }
        self.free += state.filled;
        *state = BufferState::default();
        entry.set_addr(self.start(entry.bid()));
        entry.set_len(size);
    }

    /// The address of a buffer.
    #[inline]
    fn start(&self, buffer: u16) -> u64 {
        self.memory.as_ptr() as u64 + u64::from(buffer) * u64::from(self.shape.size)
    }

    /// Provides all returned buffers to the kernel, the most recently used one first: it is still in cache.
    #[inline]
    pub fn publish(&mut self) {
        self.rewind();
        if self.returned.is_empty() {
            return;
        }
        let mask = self.shape.count - 1;
        while let Some(buffer) = self.returned.pop() {
            // SAFETY: the slot is inside the ring (masked) and not the kernel's: at most `count` buffers exist, so
            // the tail never overtakes the head. The tail field shares the first entry's memory with `resv`, which
            // the setters below do not write.
            let entry = unsafe { self.entries.add(usize::from(self.tail & mask)).as_mut() };
            entry.set_addr(self.start(buffer));
            entry.set_len(self.shape.size);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            self.provided += 1;
            self.free += self.shape.size;
        }
        // SAFETY: the tail is the `resv` field of the first entry, valid as long as the mapping; the kernel reads it
        // with acquire semantics, so the entries above are visible first.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for BufferPool {
    fn drop(&mut self) {
        let count = usize::from(self.shape.count);
        // SAFETY: both mappings were made by `map` with these lengths, and the ring that used them is gone.
        unsafe {
            let _ = munmap(self.entries.as_ptr().cast(), count * size_of::<BufRingEntry>());
            let _ = munmap(self.memory.as_ptr().cast(), count * self.shape.size as usize);
        }
    }
}

fn map(len: usize) -> io::Result<NonNull<u8>> {
    let len = NonZeroU32::new(u32::try_from(len).map_err(io::Error::other)?).expect("a pool is not empty").get();
    // Populated at once: page faults in the midst of receives would cost more, and the size is known from the start.
    let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
    // SAFETY: a new private anonymous mapping; no existing memory is touched.
    let address =
        unsafe { mmap_anonymous(std::ptr::null_mut(), len as usize, ProtFlags::READ | ProtFlags::WRITE, flags)? };
    Ok(NonNull::new(address.cast()).expect("mmap does not map address zero here"))
}

#[cfg(test)]
mod tests {
    use super::kernel::Consumer;
    use super::*;

    const SHAPE: PoolShape = PoolShape { count: 2, size: 100, incremental: true };

    #[test]
    fn a_buffer_that_nobody_holds_is_filled_from_its_start_again() {
        let (mut pool, mut consumer) = (BufferPool::detached(SHAPE), Consumer::default());
        for round in 0..3 {
            let mut offsets = Vec::new();
            for data in [[round; 60], [round + 100; 60], [round + 200; 60]] {
                let (len, flags) = consumer.receive(&mut pool, &data).expect("room");
                let piece = pool.take(len as i32, flags).expect("a buffer");
                assert_eq!(pool.bytes(piece), &data[..len]);
                offsets.push((piece, piece.offset, piece.len));
                // It is held by one who has it.
                pool.publish();
            }
            let [(first, 0, 60), (second, 60, 40), (third, 0, 60)] = offsets[..] else { panic!("{offsets:?}") };
            assert_eq!((first.buffer, pool.room_for(1)), (second.buffer, 40));
            for piece in [third, first, second] {
                pool.release(piece.buffer);
            }
            pool.publish();
            assert_eq!(pool.room_for(1), 200);
        }
    }

    #[test]
    fn a_buffer_is_not_filled_again_while_a_completion_is_unseen() {
        let (mut pool, mut consumer) = (BufferPool::detached(SHAPE), Consumer::default());
        let mut receive = |pool: &mut BufferPool, data: &[u8]| consumer.receive(pool, data).expect("room");
        let (len, flags) = receive(&mut pool, b"seen");
        let seen = pool.take(len as i32, flags).expect("a buffer");
        let (len, flags) = receive(&mut pool, b"unseen");
        pool.release(seen.buffer);
        pool.publish();
        receive(&mut pool, &[0; 10]);
        let unseen = pool.take(len as i32, flags).expect("a buffer");
        assert_eq!(pool.bytes(unseen), b"unseen");
    }

    #[test]
    fn older_kernels_get_the_same_memory_in_more_buffers() {
        let shape = PoolShape { count: 2, size: 512 << 10, incremental: true };
        assert_eq!(shape.in_whole_buffers(), PoolShape { count: 64, size: 16 << 10, incremental: false });
        let tiny = PoolShape { count: 2, size: 100, incremental: true };
        assert_eq!(tiny.in_whole_buffers(), PoolShape { count: 2, size: 100, incremental: false });
    }
}

/// The kernel's side of a pool, for simulations.
#[cfg(test)]
pub(super) mod kernel {
    use super::{BufRingEntry, BufferPool, BufferState, PoolShape, map};

    /// `IORING_CQE_F_BUFFER`, and where the buffer's number stands.
    pub(in super::super) const CQE_BUFFER: u32 = 1;
    const CQE_BUFFER_SHIFT: u32 = 16;
    /// `IORING_CQE_F_BUF_MORE`.
    const CQE_BUFFER_MORE: u32 = 1 << 4;

    /// Where the kernel takes the next buffer from.
    #[derive(Default)]
    pub(in super::super) struct Consumer {
        head: u16,
    }

    impl Consumer {
        /// Copies as much of `data` as fits in the next buffer. Returns how much, and the completion's flags; `None`
        /// if no buffer is provided.
        pub(in super::super) fn receive(&mut self, pool: &mut BufferPool, data: &[u8]) -> Option<(usize, u32)> {
            if self.head == pool.tail {
                return None;
            }
            let slot = usize::from(self.head & (pool.shape.count - 1));
            // SAFETY: inside the mapping, and single-threaded.
            let entry: &mut BufRingEntry = unsafe { pool.entries.add(slot).as_mut() };
            let state = pool.states[usize::from(entry.bid())];
            assert!(!state.closed && (pool.shape.incremental || state.pieces == 0), "a buffer in use was provided");
            let len = data.len().min(entry.len() as usize);
            // SAFETY: the pool set the address, `len` bytes behind it are inside the buffer.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), entry.addr() as *mut u8, len) };
            let mut flags = CQE_BUFFER | u32::from(entry.bid()) << CQE_BUFFER_SHIFT;
            let left = entry.len() - len as u32;
            if pool.shape.incremental {
                entry.set_addr(entry.addr() + len as u64);
                entry.set_len(left);
            }
            if pool.shape.incremental && left > 0 {
                flags |= CQE_BUFFER_MORE;
            } else {
                self.head = self.head.wrapping_add(1);
            }
            Some((len, flags))
        }
    }

    impl Consumer {
        /// A receive finds nothing after it has chosen a buffer. Returns the completion's flags.
        pub(in super::super) fn fail(&mut self, pool: &BufferPool) -> u32 {
            if self.head == pool.tail {
                return 0;
            }
            let slot = usize::from(self.head & (pool.shape.count - 1));
            // SAFETY: inside the mapping, and single-threaded.
            let buffer = unsafe { pool.entries.add(slot).as_ref() }.bid();
            if pool.failures_use_buffers {
                self.head = self.head.wrapping_add(1);
            }
            CQE_BUFFER | u32::from(buffer) << CQE_BUFFER_SHIFT
        }
    }

    impl BufferPool {
        /// What must hold after every turn, when `held` are the buffers of all pieces that somebody holds: each piece is
        /// held once, and each buffer is the kernel's or has pieces.
        pub(in super::super) fn check_pieces(&self, held: impl Iterator<Item = u16>) {
            let mut pieces = vec![0; self.states.len()];
            held.for_each(|buffer| pieces[usize::from(buffer)] += 1);
            let counted: Vec<u32> = self.states.iter().map(|state| state.pieces).collect();
            assert_eq!(pieces, counted, "pieces of buffers leaked, or given back twice");
            let kept = self.states.iter().filter(|state| state.closed).count();
            assert_eq!(self.provided + kept, self.states.len(), "a buffer is neither the kernel's nor in use");
        }

        /// A pool that belongs to no ring.
        pub(in super::super) fn detached(shape: PoolShape) -> Self {
            let count = usize::from(shape.count);
            let mut pool = Self {
                group: 0,
                shape,
                entries: map(count * size_of::<BufRingEntry>()).expect("memory").cast(),
                memory: map(count * shape.size as usize).expect("memory"),
                states: vec![BufferState::default(); count],
                returned: (0..shape.count).rev().collect(),
                tail: 0,
                head: 0,
                provided: 0,
                free: 0,
                failures_use_buffers: !shape.incremental,
            };
            pool.publish();
            pool
        }
    }
}
