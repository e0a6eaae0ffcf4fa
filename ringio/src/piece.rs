//! A piece: the bytes of one receive.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

/// The bytes that one receive brought, in the buffer where the kernel put them: never empty.
///
/// It owns them until it is given to [`Pool::release`](crate::Pool::release). One that is dropped instead keeps its
/// buffer from the kernel for good.
#[must_use = "a piece that is not released keeps its buffer from the kernel"]
pub struct Piece {
    /// Its first byte.
    start: NonNull<u8>,
    /// Its length in bytes.
    len: u32,
    /// The buffer's number in its pool.
    buffer: u16,
    /// See [`Piece::ends_buffer`].
    ends_buffer: bool,
    /// It owns bytes, which are of use to the thread of its ring alone.
    owns: PhantomData<*mut [u8]>,
}

const _: () = assert!(size_of::<Piece>() == 16 && size_of::<Option<Piece>>() == 16, "queues hold many of them");

impl Piece {
    /// # Safety
    /// The `len` bytes at `start` are initialized, in buffer `buffer` of a pool, and in no other piece. Until the piece is
    /// released nothing else reads or writes them, and they stay mapped.
    #[inline]
    pub(crate) unsafe fn new(start: NonNull<u8>, len: u32, buffer: u16, ends_buffer: bool) -> Self {
        debug_assert!(len > 0);
        Self { start, len, buffer, ends_buffer, owns: PhantomData }
    }

    /// Its bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: what `new` was promised; narrowing keeps within it; `&self` lets nothing write meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }

    /// The same, for transforming in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: what `new` was promised; narrowing keeps within it; `&mut self` is the only way to the bytes.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len as usize) }
    }

    /// The number of bytes, at least one.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // it never is
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Drops all bytes but those in `range`, counted from its first byte. An empty range is a bug: release the piece.
    #[inline]
    pub fn narrow(&mut self, range: Range<usize>) {
        assert!(
            range.start < range.end && range.end <= self.len as usize,
            "a piece of {} narrowed to {range:?}",
            self.len
        );
        // SAFETY: asserted to be inside the piece.
        self.start = unsafe { self.start.add(range.start) };
        self.len = (range.end - range.start) as u32;
    }

    /// Drops the first `count` bytes, fewer than it has.
    #[inline]
    pub fn advance(&mut self, count: u32) {
        self.narrow(count as usize..self.len as usize);
    }

    /// The number of its buffer in the pool.
    #[inline]
    pub fn buffer(&self) -> u16 {
        self.buffer
    }

    /// Whether the receive has filled its buffer to the end. Then it may have left bytes for want of room.
    #[inline]
    pub fn ends_buffer(&self) -> bool {
        self.ends_buffer
    }

    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece").field("buffer", &self.buffer).field("len", &self.len).finish_non_exhaustive()
    }
}
