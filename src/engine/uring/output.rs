//! What waits to be sent: per connection a queue of chunks, in the receive buffers where they were made or, for peers
//! that do not read, in memory of their own.

use slab::Slab;

use super::buffers::{BufferPool, Piece};

const NONE: u32 = u32::MAX;
/// Evicted bytes go to blocks of one size: an allocator keeps a region for each size that it has seen.
/// (In tests small ones, so that the simulation's queues have several.)
pub(super) const EVICTED_BLOCK: usize = if cfg!(test) { 100 } else { 64 << 10 };

/// Bytes to send and whose memory they are in.
struct Chunk {
    source: Source,
    next: u32,
}

enum Source {
    /// Still where it was received. Has to be released to the pool.
    Pooled(Piece),
    /// In memory of its own, some of it sent already.
    Owned { bytes: Vec<u8>, sent: usize },
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Source::Pooled(piece) => piece.len as usize,
            Source::Owned { bytes, sent } => bytes.len() - sent,
        }
    }
}

/// A connection's queue: first and last chunk in the worker's [`Chunks`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Queue {
    head: u32,
    tail: u32,
}

impl Queue {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE };

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.head == NONE
    }

    /// Whether it holds more than one chunk.
    #[inline]
    pub(super) fn has_several(self) -> bool {
        self.head != NONE && self.head != self.tail
    }
}

/// All chunks of a worker's connections.
pub(super) struct Chunks {
    chunks: Slab<Chunk>,
    /// Bytes in memory of the chunks' own.
    owned: usize,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self { chunks: Slab::new(), owned: 0 }
    }

    #[inline]
    pub(super) fn push_pooled(&mut self, queue: &mut Queue, piece: Piece) {
        self.push(queue, Source::Pooled(piece));
    }

    pub(super) fn push_owned(&mut self, queue: &mut Queue, mut bytes: Vec<u8>) {
        bytes.shrink_to_fit(); // it may wait for long, and only its bytes are counted
        self.push(queue, Source::Owned { bytes, sent: 0 });
    }

    /// Bytes that all queues together hold in memory of their own.
    pub(super) fn owned(&self) -> usize {
        self.owned
    }

    #[inline]
    fn push(&mut self, queue: &mut Queue, source: Source) {
        if let Source::Owned { bytes, .. } = &source {
            self.owned += bytes.len();
        }
        debug_assert!(source.len() > 0, "an empty chunk would look like a peer that does not read");
        let key = self.chunks.insert(Chunk { source, next: NONE }) as u32;
        if queue.is_empty() {
            queue.head = key;
        } else {
            self.chunks[queue.tail as usize].next = key;
        }
        queue.tail = key;
    }

    /// The bytes of the oldest chunk, which must exist.
    #[inline]
    pub(super) fn front<'a>(&'a self, queue: Queue, pool: &'a BufferPool) -> &'a [u8] {
        match &self.chunks[queue.head as usize].source {
            Source::Pooled(piece) => pool.bytes(*piece),
            Source::Owned { bytes, sent } => &bytes[*sent..],
        }
    }

    /// Drops the first `sent` bytes of the oldest chunk, fewer than it has.
    pub(super) fn advance(&mut self, queue: Queue, sent: u32) {
        match &mut self.chunks[queue.head as usize].source {
            Source::Pooled(piece) => {
                assert!(sent < piece.len);
                piece.offset += sent;
                piece.len -= sent;
            }
            Source::Owned { bytes, sent: before } => {
                *before += sent as usize;
                assert!(*before < bytes.len());
            }
        }
    }

    /// Drops the oldest chunk, returns its length and gives its memory back.
    #[inline]
    pub(super) fn pop(&mut self, queue: &mut Queue, pool: &mut BufferPool) -> usize {
        let source = self.take_front(queue);
        if let Source::Pooled(piece) = source {
            pool.release(piece.buffer);
        }
        source.len()
    }

    #[inline]
    fn take_front(&mut self, queue: &mut Queue) -> Source {
        let chunk = self.chunks.remove(queue.head as usize);
        queue.head = chunk.next;
        if let Source::Owned { bytes, .. } = &chunk.source {
            self.owned -= bytes.len();
        }
        chunk.source
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, queue: &mut Queue, pool: &mut BufferPool) {
        while !queue.is_empty() {
            self.pop(queue, pool);
        }
    }

    /// Moves everything into memory of its own, so that no receive buffer waits for this peer. Returns how many bytes
    /// the queue holds.
    ///
    /// Nothing of the queue may be in the kernel's hands.
    pub(super) fn evict(&mut self, queue: &mut Queue, pool: &mut BufferPool) -> usize {
        let mut moved = Queue::EMPTY;
        let mut block = Vec::new();
        let mut total = 0;
        while !queue.is_empty() {
            let source = self.take_front(queue);
            total += source.len();
            match source {
                Source::Owned { bytes, sent } if bytes.len() - sent >= EVICTED_BLOCK / 2 => {
                    self.push_block(&mut moved, &mut block);
                    self.push(&mut moved, Source::Owned { bytes, sent });
                }
                Source::Owned { bytes, sent } => self.append(&mut moved, &mut block, &bytes[sent..]),
                Source::Pooled(piece) => {
                    self.append(&mut moved, &mut block, pool.bytes(piece));
                    pool.release(piece.buffer);
                }
            }
        }
        block.shrink_to_fit();
        self.push_block(&mut moved, &mut block);
        *queue = moved;
        total
    }

    /// Puts `bytes` into blocks: the last, unfinished one is `block`, full ones go to `queue`.
    fn append(&mut self, queue: &mut Queue, block: &mut Vec<u8>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            block.reserve_exact(EVICTED_BLOCK - block.len());
            let fits;
            (fits, bytes) = bytes.split_at(bytes.len().min(EVICTED_BLOCK - block.len()));
            block.extend_from_slice(fits);
            if block.len() == EVICTED_BLOCK {
                self.push_block(queue, block);
            }
        }
    }

    fn push_block(&mut self, queue: &mut Queue, block: &mut Vec<u8>) {
        if !block.is_empty() {
            self.push_owned(queue, std::mem::take(block));
        }
    }
}

#[cfg(test)]
impl Chunks {
    /// Chunks of all queues together.
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// The buffers of a queue's chunks that are still where they were received.
    pub(super) fn buffers(&self, queue: Queue) -> impl Iterator<Item = u16> {
        self.sources(queue).filter_map(|source| match source {
            Source::Pooled(piece) => Some(piece.buffer),
            Source::Owned { .. } => None,
        })
    }

    /// The memory that each of a queue's chunks takes, be it sent already or not.
    pub(super) fn memory(&self, queue: Queue) -> impl Iterator<Item = usize> {
        self.sources(queue).map(|source| match source {
            Source::Pooled(piece) => piece.len as usize,
            Source::Owned { bytes, .. } => bytes.capacity(),
        })
    }

    fn sources(&self, queue: Queue) -> impl Iterator<Item = &Source> {
        let chunk = |key: u32| (key != NONE).then(|| &self.chunks[key as usize]);
        std::iter::successors(chunk(queue.head), move |previous| chunk(previous.next)).map(|chunk| &chunk.source)
    }
}
