//! Pending output: per connection a queue of chunks, in the receive buffers where they were made or in memory of their own.
//! Its memory is counted where it is queued, and the caps are enforced there.

use std::ops::Deref;
use std::sync::Arc;

use slab::Slab;

const NONE: u32 = u32::MAX;

/// Bytes in an owned block at most: what is sent is freed by blocks, and a block that is half sent still counts whole.
/// (In tests small ones, so that the simulation's queues have several.)
pub(crate) const BLOCK: usize = if cfg!(test) { 100 } else { 64 << 10 };
/// The overhead of a chunk: its entry in the slab, and the allocator's share.
pub(crate) const CHUNK_OVERHEAD: usize = 64;
/// Blocks of at least this size, a page, are freed as soon as they are sent, not at the worker's next activity.
const FREED_AT_ONCE: usize = 4096;
/// Entries that the slab of chunks keeps when all output is gone.
const CHUNKS_KEPT: usize = 4096;

/// Memory shared with the kernel and lent in pieces: the receive buffers of an engine that has such.
pub(crate) trait Lender {
    /// A part of it that is held, and must be released.
    type Piece;

    fn bytes<'a>(&'a self, piece: &'a Self::Piece) -> &'a [u8];
    fn len(piece: &Self::Piece) -> usize;
    /// Drops the first bytes of a piece, fewer than it has.
    fn advance(piece: &mut Self::Piece, by: usize);
    fn release(&mut self, piece: Self::Piece);
}

/// For engines that lend nothing.
pub(crate) struct NoLender;

impl Lender for NoLender {
    type Piece = std::convert::Infallible;

    fn bytes<'a>(&'a self, piece: &'a Self::Piece) -> &'a [u8] {
        match *piece {}
    }

    fn len(piece: &Self::Piece) -> usize {
        match *piece {}
    }

    fn advance(piece: &mut Self::Piece, _: usize) {
        match *piece {}
    }

    fn release(&mut self, piece: Self::Piece) {
        match piece {}
    }
}

/// Bytes to send, and the owner of their memory.
enum Source<P> {
    /// In the receive buffer.
    Lent(P),
    /// In memory of their own, `sent` of them already sent.
    Owned { bytes: Vec<u8>, sent: usize },
    /// In memory shared by connections, of which this one sends the bytes after the first `sent`.
    Shared { bytes: Arc<[u8]>, sent: usize },
}

/// A block that an operation owns while it sends it.
pub(crate) enum Block {
    Owned(Vec<u8>),
    Shared(Arc<[u8]>),
}

impl Deref for Block {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Block::Owned(bytes) => bytes,
            Block::Shared(bytes) => bytes,
        }
    }
}

struct Chunk<P> {
    source: Source<P>,
    /// The next one; after the last one the first.
    next: u32,
    /// In the last chunk of a queue: the bytes that the queue holds.
    pending: usize,
}

/// A connection's queue: its last chunk in the worker's [`Outputs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue(u32);

impl Queue {
    pub(crate) const EMPTY: Self = Self(NONE);

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.0 == NONE
    }
}

/// The pending output of all connections of a worker.
pub(crate) struct Outputs<L: Lender> {
    chunks: Slab<Chunk<L::Piece>>,
    /// Bytes of memory that the chunks own, with their overhead.
    held: usize,
}

impl<L: Lender> Outputs<L> {
    pub(super) fn new() -> Self {
        Self { chunks: Slab::new(), held: 0 }
    }

    /// Bytes of memory of pending output, receive buffers not included.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Bytes that a queue holds.
    #[inline]
    pub(crate) fn pending(&self, queue: Queue) -> usize {
        if queue.is_empty() { 0 } else { self.chunks[queue.0 as usize].pending }
    }

    /// Whether a queue holds more than one chunk.
    #[inline]
    pub(crate) fn has_several(&self, queue: Queue) -> bool {
        !queue.is_empty() && self.chunks[queue.0 as usize].next != queue.0
    }

    /// Whether the last chunk of a queue is a block that is freed as soon as it is sent.
    #[inline]
    pub(crate) fn is_freed_at_once(&self, queue: Queue) -> bool {
        let last = (!queue.is_empty()).then(|| &self.chunks[queue.0 as usize].source);
        matches!(last, Some(Source::Owned { bytes, .. }) if bytes.len() >= FREED_AT_ONCE)
    }

    /// Appends a piece of the receive buffers, which is not empty.
    #[inline]
    pub(crate) fn push_lent(&mut self, queue: &mut Queue, piece: L::Piece) {
        let len = L::len(&piece);
        self.push(queue, Source::Lent(piece), len);
    }

    /// Appends bytes in memory of their own. `joins`: they may be copied into the last chunk.
    pub(crate) fn push_owned(&mut self, queue: &mut Queue, mut bytes: Vec<u8>, joins: bool) {
        if bytes.is_empty() {
            return;
        }
        if joins && self.has_room_behind(*queue) {
            return self.copy(queue, &bytes);
        }
        bytes.shrink_to_fit(); // it may wait for long
        self.held += CHUNK_OVERHEAD + bytes.capacity();
        let len = bytes.len();
        self.push(queue, Source::Owned { bytes, sent: 0 }, len);
    }

    /// Appends the bytes of shared memory after the first `from`: they are not empty.
    pub(super) fn push_shared(&mut self, queue: &mut Queue, bytes: Arc<[u8]>, from: usize) {
        let len = bytes.len() - from;
        self.held += CHUNK_OVERHEAD;
        self.push(queue, Source::Shared { bytes, sent: from }, len);
    }

    /// Reserves memory outside the queues for future output, which counts like theirs.
    pub(super) fn take_memory(&mut self, bytes: usize) {
        self.held += bytes;
    }

    /// Releases such memory.
    pub(super) fn give_memory(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    /// Appends copies of bytes: into the last block while it has room, then into further ones.
    pub(crate) fn copy(&mut self, queue: &mut Queue, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if !self.has_room_behind(*queue) {
                self.held += CHUNK_OVERHEAD;
                self.push(queue, Source::Owned { bytes: Vec::new(), sent: 0 }, 0);
            }
            let last = &mut self.chunks[queue.0 as usize];
            let Source::Owned { bytes: block, .. } = &mut last.source else { unreachable!("a block has room") };
            let before = block.capacity();
            let fits;
            (fits, bytes) = bytes.split_at(bytes.len().min(BLOCK - block.len()));
            if block.is_empty() {
                block.reserve_exact(fits.len());
            } else if block.capacity() < block.len() + fits.len() {
                let capacity = (2 * block.len()).max(block.len() + fits.len()).min(BLOCK);
                block.reserve_exact(capacity - block.len());
            }
            block.extend_from_slice(fits);
            last.pending += fits.len();
            self.held += block.capacity() - before;
        }
    }

    /// Whether the last chunk is a block that is not full.
    fn has_room_behind(&self, queue: Queue) -> bool {
        let last = (!queue.is_empty()).then(|| &self.chunks[queue.0 as usize].source);
        matches!(last, Some(Source::Owned { bytes, .. }) if bytes.len() < BLOCK)
    }

    #[inline]
    fn push(&mut self, queue: &mut Queue, source: Source<L::Piece>, len: usize) {
        let entry = self.chunks.vacant_entry();
        let key = entry.key() as u32;
        if queue.is_empty() {
            entry.insert(Chunk { source, next: key, pending: len });
        } else {
            entry.insert(Chunk { source, next: NONE, pending: 0 });
            let last = &mut self.chunks[queue.0 as usize];
            let first = std::mem::replace(&mut last.next, key);
            let pending = last.pending + len;
            let chunk = &mut self.chunks[key as usize];
            (chunk.next, chunk.pending) = (first, pending);
        }
        queue.0 = key;
    }

    /// The bytes of the oldest chunk, which must exist.
    #[inline]
    pub(crate) fn front<'a>(&'a self, queue: Queue, lender: &'a L) -> &'a [u8] {
        let first = self.chunks[queue.0 as usize].next;
        match &self.chunks[first as usize].source {
            Source::Lent(piece) => lender.bytes(piece),
            Source::Owned { bytes, sent } => &bytes[*sent..],
            Source::Shared { bytes, sent } => &bytes[*sent..],
        }
    }

    /// Drops the first `sent` bytes of the oldest chunk, fewer than it has.
    pub(crate) fn advance(&mut self, queue: Queue, by: usize) {
        let last = &mut self.chunks[queue.0 as usize];
        last.pending -= by;
        let first = last.next;
        match &mut self.chunks[first as usize].source {
            Source::Lent(piece) => L::advance(piece, by),
            Source::Owned { bytes, sent } => {
                *sent += by;
                assert!(*sent < bytes.len(), "all of a chunk is sent: it is to be popped");
            }
            Source::Shared { bytes, sent } => {
                *sent += by;
                assert!(*sent < bytes.len(), "all of a chunk is sent: it is to be popped");
            }
        }
    }

    /// Drops the oldest chunk, releases its memory and returns how many bytes of it were unsent.
    #[inline]
    pub(crate) fn pop(&mut self, queue: &mut Queue, lender: &mut L) -> usize {
        match self.take_front(queue) {
            Source::Lent(piece) => {
                let len = L::len(&piece);
                lender.release(piece);
                len
            }
            Source::Owned { bytes, sent } => bytes.len() - sent,
            Source::Shared { bytes, sent } => bytes.len() - sent,
        }
    }

    #[inline]
    fn take_front(&mut self, queue: &mut Queue) -> Source<L::Piece> {
        let last = queue.0;
        let first = self.chunks[last as usize].next;
        let chunk = self.chunks.remove(first as usize);
        let len = match &chunk.source {
            Source::Lent(piece) => L::len(piece),
            Source::Owned { bytes, sent } => {
                self.held -= CHUNK_OVERHEAD + bytes.capacity();
                bytes.len() - sent
            }
            Source::Shared { bytes, sent } => {
                self.held -= CHUNK_OVERHEAD;
                bytes.len() - sent
            }
        };
        if first == last {
            *queue = Queue::EMPTY;
            if self.chunks.is_empty() && self.chunks.capacity() > CHUNKS_KEPT {
                self.chunks = Slab::new();
            }
        } else {
            let last = &mut self.chunks[last as usize];
            last.next = chunk.next;
            last.pending -= len;
        }
        chunk.source
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self, queue: &mut Queue, lender: &mut L) {
        while !queue.is_empty() {
            self.pop(queue, lender);
        }
    }

    /// Moves a queue's pieces in the receive buffers to memory of its own, so that the kernel can reuse these. Owned chunks
    /// stay. The queue may be empty: its output may have been sent by now.
    ///
    /// No part of the queue may be in a pending operation.
    pub(crate) fn move_out(&mut self, queue: Queue, lender: &mut L) {
        if queue.is_empty() {
            return;
        }
        let mut key = queue.0;
        loop {
            key = self.chunks[key as usize].next;
            let source = &mut self.chunks[key as usize].source;
            if let Source::Lent(piece) = source {
                let bytes = lender.bytes(piece).to_vec();
                self.held += CHUNK_OVERHEAD + bytes.capacity();
                if let Source::Lent(piece) = std::mem::replace(source, Source::Owned { bytes, sent: 0 }) {
                    lender.release(piece);
                }
            }
            if key == queue.0 {
                break;
            }
        }
    }

    /// Removes the oldest chunk for an operation that must own its bytes; returns how many of them are already sent. Only
    /// for engines that lend nothing.
    pub(crate) fn take_block(&mut self, queue: &mut Queue) -> (Block, usize) {
        match self.take_front(queue) {
            Source::Owned { bytes, sent } => (Block::Owned(bytes), sent),
            Source::Shared { bytes, sent } => (Block::Shared(bytes), sent),
            Source::Lent(_) => unreachable!("this engine lends nothing"),
        }
    }

    /// Removes all of a queue of which nothing is lent.
    pub(super) fn take_all(&mut self, queue: &mut Queue, mut take: impl FnMut(&[u8])) {
        while !queue.is_empty() {
            match self.take_front(queue) {
                Source::Owned { bytes, sent } => take(&bytes[sent..]),
                Source::Shared { bytes, sent } => take(&bytes[sent..]),
                Source::Lent(_) => unreachable!("nothing of it is lent"),
            }
        }
    }

    /// Prepends a block, of whose bytes `sent` are sent.
    pub(crate) fn put_block(&mut self, queue: &mut Queue, block: Block, sent: usize) {
        let len = block.len() - sent;
        if len == 0 {
            return;
        }
        let source = match block {
            Block::Owned(bytes) => {
                self.held += CHUNK_OVERHEAD + bytes.capacity();
                Source::Owned { bytes, sent }
            }
            Block::Shared(bytes) => {
                self.held += CHUNK_OVERHEAD;
                Source::Shared { bytes, sent }
            }
        };
        if queue.is_empty() {
            return self.push(queue, source, len);
        }
        let last = queue.0 as usize;
        let next = self.chunks[last].next;
        let first = self.chunks.insert(Chunk { source, next, pending: 0 }) as u32;
        self.chunks[last].next = first;
        self.chunks[last].pending += len;
    }
}

#[cfg(test)]
impl<L: Lender> Outputs<L> {
    /// Chunks of all queues together.
    pub(crate) fn len(&self) -> usize {
        self.chunks.len()
    }

    fn sources(&self, queue: Queue) -> Vec<&Source<L::Piece>> {
        let mut sources = Vec::new();
        let mut key = queue.0;
        while key != NONE {
            key = self.chunks[key as usize].next;
            sources.push(&self.chunks[key as usize].source);
            if key == queue.0 {
                break;
            }
        }
        sources
    }

    /// The pieces of the receive buffers that a queue holds.
    pub(crate) fn lent(&self, queue: Queue) -> Vec<&L::Piece> {
        let mut pieces = Vec::new();
        for source in self.sources(queue) {
            if let Source::Lent(piece) = source {
                pieces.push(piece);
            }
        }
        pieces
    }

    /// Chunks of a queue, the memory that it owns with its overhead, and its bytes, counted anew.
    pub(crate) fn count(&self, queue: Queue) -> (usize, usize, usize) {
        let mut count = (0, 0, 0);
        for source in self.sources(queue) {
            count.0 += 1;
            match source {
                Source::Lent(piece) => count.2 += L::len(piece),
                Source::Owned { bytes, sent } => {
                    count.1 += CHUNK_OVERHEAD + bytes.capacity();
                    count.2 += bytes.len() - sent;
                }
                Source::Shared { bytes, sent } => {
                    count.1 += CHUNK_OVERHEAD;
                    count.2 += bytes.len() - sent;
                }
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outputs = super::Outputs<NoLender>;

    fn drain(outputs: &mut Outputs, queue: &mut Queue, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !queue.is_empty() {
            let front = outputs.front(*queue, &NoLender);
            let len = front.len().min(step);
            sent.extend_from_slice(&front[..len]);
            if len == front.len() {
                outputs.pop(queue, &mut NoLender);
            } else {
                outputs.advance(*queue, len);
            }
            assert_eq!(outputs.pending(*queue), outputs.count(*queue).2);
        }
        sent
    }

    #[test]
    fn bytes_come_out_as_they_went_in_and_memory_goes_back() {
        let bytes: Vec<u8> = (0..3 * BLOCK + 7).map(|index| (index % 251) as u8).collect();
        for piece in [1, 7, BLOCK - 1, BLOCK, 3 * BLOCK] {
            let (mut outputs, mut queue) = (Outputs::new(), Queue::EMPTY);
            for (index, piece) in bytes.chunks(piece).enumerate() {
                if index % 3 == 0 {
                    outputs.push_owned(&mut queue, piece.to_vec(), index % 2 == 0);
                } else {
                    outputs.copy(&mut queue, piece);
                }
            }
            let (chunks, held, pending) = outputs.count(queue);
            assert_eq!((outputs.len(), outputs.held(), outputs.pending(queue)), (chunks, held, pending));
            assert_eq!(pending, bytes.len());
            assert!(drain(&mut outputs, &mut queue, 77) == bytes, "pieces of {piece}");
            assert_eq!((outputs.held(), outputs.len()), (0, 0));
        }
    }

    /// Frames that are cut between receives bring a few bytes at a time: they must not cost a block each.
    #[test]
    fn small_pieces_join_in_blocks() {
        let (mut outputs, mut queue) = (Outputs::new(), Queue::EMPTY);
        for _ in 0..10 * BLOCK / 2 {
            outputs.push_owned(&mut queue, vec![7; 2], true);
        }
        assert!(outputs.len() <= 12, "{} chunks", outputs.len());
        assert!(outputs.held() <= 12 * (BLOCK + CHUNK_OVERHEAD), "{} bytes", outputs.held());
    }

    /// A peer that was slow has read all, and is still among those that hold receive buffers.
    #[test]
    fn of_an_empty_queue_nothing_is_moved() {
        let (mut outputs, mut other) = (Outputs::new(), Queue::EMPTY);
        outputs.copy(&mut other, b"another connection's");
        outputs.move_out(Queue::EMPTY, &mut NoLender);
        outputs.move_out(other, &mut NoLender);
        assert_eq!(drain(&mut outputs, &mut other, 100), b"another connection's");
    }

    #[test]
    fn a_block_that_was_taken_out_goes_back_in_front() {
        let (mut outputs, mut queue) = (Outputs::new(), Queue::EMPTY);
        outputs.copy(&mut queue, b"front");
        outputs.advance(queue, 1);
        let (block, sent) = outputs.take_block(&mut queue);
        assert_eq!((&block[..], sent, outputs.pending(queue)), (&b"front"[..], 1, 0));
        outputs.copy(&mut queue, b" and behind");
        outputs.put_block(&mut queue, block, sent + 2);
        outputs.put_block(&mut queue, Block::Owned(vec![1]), 1);
        assert_eq!((outputs.pending(queue), drain(&mut outputs, &mut queue, 3)), (13, b"nt and behind".to_vec()));
    }

    /// However many slow readers there are of the same source.
    #[test]
    fn shared_memory_counts_by_its_chunks_alone() {
        let template: Arc<[u8]> = (0..200).collect();
        let (mut outputs, mut queue) = (Outputs::new(), Queue::EMPTY);
        outputs.copy(&mut queue, b"head");
        let before = outputs.held();
        outputs.push_shared(&mut queue, Arc::clone(&template), 150);
        outputs.push_shared(&mut queue, Arc::clone(&template), 0);
        assert_eq!((outputs.held() - before, outputs.pending(queue)), (2 * CHUNK_OVERHEAD, 254));
        outputs.pop(&mut queue, &mut NoLender);
        let (block, sent) = outputs.take_block(&mut queue);
        outputs.put_block(&mut queue, block, sent + 7);
        assert_eq!((outputs.held(), outputs.pending(queue)), (2 * CHUNK_OVERHEAD, 243));
        outputs.move_out(queue, &mut NoLender);
        assert!(drain(&mut outputs, &mut queue, 9) == [&template[157..], &template].concat());
        assert_eq!((outputs.held(), Arc::strong_count(&template)), (0, 1));
    }

    /// A slow reader may have taken everything by the time that the receive buffers run short.
    #[test]
    fn nothing_is_moved_out_of_an_empty_queue() {
        let (mut outputs, mut other) = (Outputs::new(), Queue::EMPTY);
        outputs.copy(&mut other, b"another's");
        outputs.move_out(Queue::EMPTY, &mut NoLender);
        assert_eq!(drain(&mut outputs, &mut other, 100), b"another's");
    }
}
