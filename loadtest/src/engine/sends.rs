//! Bytes that are being sent: a few buffers, used last in first out, so that they stay in cache.

use std::num::NonZeroU32;

use crate::message::{MessageId, Messages};
use crate::websocket::frames::{MAX_CLIENT_HEADER, Opcode, client_header_len, write_client_header};

/// A buffer's bytes at most: larger messages go out in pieces.
const MAX_BUFFER: usize = 64 * 1024;

/// Names a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendKey(NonZeroU32);

/// All buffers of a thread. There are as many as there ever were sends in flight at the same time.
#[derive(Debug)]
pub(super) struct Sends {
    capacity: usize,
    buffers: Vec<SendBuffer>,
    free: Vec<SendKey>,
}

/// What one connection is sending.
#[derive(Debug)]
pub(super) struct SendBuffer {
    /// Never moved or reallocated: the kernel reads from it.
    bytes: Box<[u8]>,
    len: usize,
    sent: usize,
    /// The message of which only the beginning found room, and how much of its payload.
    rest: Option<(MessageId, usize)>,
}

impl Sends {
    /// Buffers for `depth` messages of `size` bytes at a time, or for at least `minimum` bytes.
    pub(super) fn new(size: usize, depth: u32, minimum: usize) -> Self {
        let frames = (client_header_len(size) + size).saturating_mul(depth as usize);
        Self { capacity: frames.min(MAX_BUFFER).max(minimum), buffers: Vec::new(), free: Vec::new() }
    }

    /// A free, empty buffer.
    #[inline]
    pub(super) fn take(&mut self) -> SendKey {
        self.free.pop().unwrap_or_else(|| {
            let bytes = vec![0; self.capacity].into();
            self.buffers.push(SendBuffer { bytes, len: 0, sent: 0, rest: None });
            SendKey(NonZeroU32::new(self.buffers.len() as u32).expect("just grown"))
        })
    }

    /// Gives a buffer back. The kernel must have completed the send from it.
    #[inline]
    pub(super) fn give_back(&mut self, key: SendKey) {
        let buffer = self.get(key);
        (buffer.len, buffer.sent, buffer.rest) = (0, 0, None);
        self.free.push(key);
    }

    /// The buffer of that name.
    #[inline]
    pub(super) fn get(&mut self, key: SendKey) -> &mut SendBuffer {
        &mut self.buffers[key.0.get() as usize - 1]
    }
}

impl SendBuffer {
    /// What is still to be sent.
    #[inline]
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..self.len]
    }

    /// The kernel has taken `count` bytes.
    #[inline]
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        debug_assert!(self.sent <= self.len, "more sent than there was");
        if self.sent == self.len {
            (self.sent, self.len) = (0, 0);
        }
    }

    /// Lets `write` fill the empty buffer and say how much it wrote.
    pub(super) fn fill(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        debug_assert!(self.len == 0 && self.rest.is_none(), "filling a buffer in use");
        self.len = write(&mut self.bytes);
    }

    /// Goes on with the message that was cut off.
    pub(super) fn continue_message(&mut self, messages: &Messages) {
        if let Some((id, at)) = self.rest.take() {
            self.payload(id, at, messages);
        }
    }

    /// Whether another message can be added. One that is too large for an empty buffer can: it is cut.
    #[inline]
    pub(super) fn has_room(&self, messages: &Messages) -> bool {
        let frame = client_header_len(messages.size()) + messages.size();
        self.rest.is_none() && (self.len == 0 || self.bytes.len() - self.len >= frame)
    }

    /// Adds message `id` as one masked frame.
    #[inline]
    pub(super) fn add_message(&mut self, id: MessageId, messages: &Messages) {
        debug_assert!(self.bytes.len() - self.len > MAX_CLIENT_HEADER || messages.size() <= 125);
        let opcode = if messages.is_text() { Opcode::Text } else { Opcode::Binary };
        let header = write_client_header(opcode, messages.size(), id.masking_key(), &mut self.bytes[self.len..]);
        self.len += header;
        self.payload(id, 0, messages);
    }

    #[inline]
    fn payload(&mut self, id: MessageId, at: usize, messages: &Messages) {
        let room = self.bytes.len() - self.len;
        let count = room.min(messages.size() - at);
        let end = self.len + count;
        messages.write_masked(id, at, id.masking_key(), &mut self.bytes[self.len..end]);
        self.len = end;
        self.rest = (at + count < messages.size()).then_some((id, at + count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::mask;

    fn id(sequence: u32) -> MessageId {
        MessageId { connection: 1, sequence }
    }

    #[test]
    fn messages_share_a_buffer_as_long_as_they_fit() {
        let messages = Messages::new(100, false, true);
        let mut sends = Sends::new(100, 3, 10);
        let key = sends.take();
        let buffer = sends.get(key);
        for sequence in 0..3 {
            assert!(buffer.has_room(&messages));
            buffer.add_message(id(sequence), &messages);
        }
        assert!(!buffer.has_room(&messages) && buffer.rest.is_none());
        assert_eq!(buffer.unsent().len(), 3 * 106);
        buffer.advance(200);
        assert_eq!(buffer.unsent().len(), 118);
        buffer.advance(118);
        assert!(buffer.unsent().is_empty());
        sends.give_back(key);
        assert_eq!(sends.take(), key, "last in, first out");
    }

    #[test]
    fn a_large_message_goes_out_in_pieces() {
        let size = 3 * MAX_BUFFER + 17;
        let messages = Messages::new(size, false, true);
        let mut sends = Sends::new(size, 1, 10);
        let key = sends.take();
        let buffer = sends.get(key);
        buffer.add_message(id(5), &messages);
        let mut stream = Vec::new();
        loop {
            stream.extend_from_slice(buffer.unsent());
            buffer.advance(buffer.unsent().len());
            if buffer.rest.is_none() {
                break;
            }
            buffer.continue_message(&messages);
        }
        let mut payload = stream.split_off(MAX_CLIENT_HEADER);
        mask(&mut payload, id(5).masking_key());
        assert_eq!(payload.len(), size);
        assert!(messages.matches(id(5), 0, &payload));
    }
}
