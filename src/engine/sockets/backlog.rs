//! Bytes that wait because a peer does not read: in blocks, so that what is sent is freed, and nothing is ever moved.

use std::collections::VecDeque;

/// Bytes in a block at most, except for those that were put in front as they were.
const BLOCK: usize = 64 << 10;

/// What a connection could not send yet, in order.
#[derive(Default)]
pub(super) struct Backlog {
    blocks: VecDeque<Vec<u8>>,
    /// Bytes of the first block that are out.
    sent: usize,
    len: usize,
}

impl Backlog {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts bytes behind the others.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            if self.blocks.back().is_none_or(|last| last.len() >= BLOCK) {
                self.blocks.push_back(Vec::new());
            }
            let last = self.blocks.back_mut().expect("just pushed");
            let fits;
            (fits, bytes) = bytes.split_at(bytes.len().min(BLOCK - last.len()));
            last.extend_from_slice(fits);
        }
    }

    /// The bytes that are next, some of them.
    pub(super) fn front(&self) -> &[u8] {
        self.blocks.front().map_or(&[], |block| &block[self.sent..])
    }

    /// The first `sent` bytes of [`Backlog::front`] are out.
    pub(super) fn advance(&mut self, sent: usize) {
        assert!(sent <= self.front().len(), "more sent than there was");
        self.len -= sent;
        self.sent += sent;
        if self.front().is_empty() {
            self.blocks.pop_front();
            self.sent = 0;
        }
    }

    /// Takes the first block out, and says how many bytes of it are out already.
    pub(super) fn take_front(&mut self) -> (Vec<u8>, usize) {
        let block = self.blocks.pop_front().unwrap_or_default();
        let sent = std::mem::take(&mut self.sent);
        self.len -= block.len() - sent;
        (block, sent)
    }

    /// Puts a block in front of the others, of which `sent` bytes are out. Nothing of what it gets in front of may be.
    pub(super) fn put_front(&mut self, block: Vec<u8>, sent: usize) {
        if sent < block.len() {
            assert_eq!(self.sent, 0, "in front of what is half sent");
            self.len += block.len() - sent;
            self.sent = sent;
            self.blocks.push_front(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(backlog: &mut Backlog, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !backlog.is_empty() {
            let len = backlog.front().len().min(step);
            sent.extend_from_slice(&backlog.front()[..len]);
            backlog.advance(len);
        }
        sent
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let bytes: Vec<u8> = (0..3 * BLOCK + 7).map(|index| (index % 251) as u8).collect();
        for piece in [1000, BLOCK - 1, BLOCK, 3 * BLOCK] {
            let mut backlog = Backlog::default();
            for piece in bytes.chunks(piece) {
                backlog.push(piece);
            }
            assert_eq!((backlog.len(), backlog.front().len()), (bytes.len(), BLOCK));
            assert!(drain(&mut backlog, 777) == bytes, "pieces of {piece}");
        }
    }

    #[test]
    fn what_was_taken_out_goes_back_in_front() {
        let mut backlog = Backlog::default();
        backlog.push(b"front");
        backlog.advance(1);
        let (block, sent) = backlog.take_front();
        assert_eq!((&block[..], sent, backlog.len()), (&b"front"[..], 1, 0));
        backlog.push(b" and behind");
        backlog.put_front(block, sent + 2);
        assert_eq!(backlog.len(), 13);
        backlog.put_front(Vec::new(), 0);
        assert_eq!(drain(&mut backlog, 3), b"nt and behind");
        assert_eq!(backlog.take_front(), (Vec::new(), 0));
    }
}
