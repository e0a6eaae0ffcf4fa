//! Send buffers: a few, used last in first out, so that they stay in cache.

use std::num::NonZeroU32;

use super::Shared;
use crate::driver::Output;
use crate::message::{ID_LEN, MessageId, Messages};
use crate::scenario::Traffic;
use crate::websocket::frames::{MAX_CLIENT_HEADER, Opcode, client_header_len, write_client_header};

/// A buffer's bytes at most: what is due beyond that follows in the next send.
const MAX_BUFFER: usize = 64 * 1024;

/// The least that a buffer holds: an upgrade request or two control frames.
const MIN_BUFFER: usize = 512;

/// Parts of a large message in one send at most.
const MAX_PARTS: usize = 8;

/// Names a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendKey(NonZeroU32);

/// All buffers of a thread. There are as many as there ever were sends in flight at the same time.
pub(super) struct Sends {
    capacity: usize,
    buffers: Vec<SendBuffer>,
    free: Vec<SendKey>,
}

/// The output of one connection in progress.
pub(super) struct SendBuffer {
    /// Never moved or reallocated: the kernel reads from it.
    bytes: Box<[u8]>,
    len: usize,
    sent: usize,
    /// Bytes in the last offer.
    offered: usize,
    /// The large message whose payload follows behind the bytes, and from which position on.
    large: Option<(MessageId, usize)>,
    /// Only there once a large message was sent.
    vectors: Option<Box<Vectors>>,
}

/// The parts of one send, as the kernel wants them. Boxed, because the kernel reads it where it is.
struct Vectors {
    header: libc::msghdr,
    parts: [libc::iovec; 1 + MAX_PARTS],
}

impl Sends {
    /// For a thread of a run.
    pub(super) fn of(shared: &Shared) -> Self {
        let minimum = shared.longest_request().max(MIN_BUFFER);
        Self::new(&shared.messages, messages_per_send(&shared.scenario.traffic), minimum)
    }

    /// Buffers for `depth` messages at a time, and for at least `minimum` bytes.
    pub(super) fn new(messages: &Messages, depth: u32, minimum: usize) -> Self {
        let copied = messages.copied_at_most();
        let frame = MAX_CLIENT_HEADER + copied;
        let frames = frame.saturating_mul(depth as usize).min(MAX_BUFFER);
        Self { capacity: frames.max(frame).max(minimum), buffers: Vec::new(), free: Vec::new() }
    }

    /// A free, empty buffer.
    #[inline]
    pub(super) fn take(&mut self) -> SendKey {
        self.free.pop().unwrap_or_else(|| {
            let bytes = vec![0; self.capacity].into();
            self.buffers.push(SendBuffer { bytes, len: 0, sent: 0, offered: 0, large: None, vectors: None });
            SendKey(NonZeroU32::new(self.buffers.len() as u32).expect("just grown"))
        })
    }

    /// Releases a buffer. The kernel must have completed the send from it.
    #[inline]
    pub(super) fn give_back(&mut self, key: SendKey) {
        let buffer = self.get(key);
        (buffer.len, buffer.sent, buffer.large) = (0, 0, None);
        self.free.push(key);
    }

    /// The buffer of that name.
    #[inline]
    pub(super) fn get(&mut self, key: SendKey) -> &mut SendBuffer {
        &mut self.buffers[key.0.get() as usize - 1]
    }
}

/// Messages that a buffer has room for. A stalled server makes every connection of an open loop hold a buffer, so those
/// are small.
fn messages_per_send(traffic: &Traffic) -> u32 {
    if traffic.open.is_some() { traffic.depth.min(16) } else { traffic.depth }
}

impl SendBuffer {
    /// Whether everything has been sent.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && self.large.is_none()
    }

    /// The kernel has taken `count` bytes.
    #[inline]
    pub(super) fn advance(&mut self, count: usize, messages: &Messages) {
        let from_bytes = count.min(self.len - self.sent);
        self.sent += from_bytes;
        if self.sent == self.len {
            (self.sent, self.len) = (0, 0);
        }
        if let Some((id, at)) = &mut self.large {
            *at += count - from_bytes;
            if *at >= messages.size_of(*id) {
                self.large = None;
            }
        }
    }

    /// The kernel has taken all that was offered last.
    #[inline]
    pub(super) fn advance_all(&mut self, messages: &Messages) {
        self.advance(self.offered, messages);
    }

    /// Whether the last offer, of which nothing has been taken yet, was not all that is to be sent.
    #[inline]
    pub(super) fn has_more(&self, messages: &Messages) -> bool {
        let large = self.large.map_or(0, |(id, at)| messages.size_of(id) - at);
        self.offered < self.len - self.sent + large
    }

    /// Makes room for `len` bytes behind those in the buffer, of which nothing has been offered yet.
    pub(super) fn reserve(&mut self, len: usize) {
        debug_assert!(self.sent == 0 && self.large.is_none(), "growing a buffer in use");
        if self.bytes.len() < self.len + len {
            let mut bytes = vec![0; (self.len + len).next_power_of_two()];
            bytes[..self.len].copy_from_slice(&self.bytes[..self.len]);
            self.bytes = bytes.into();
        }
    }

    /// What has not been sent yet, or the first parts of it. Everything that the offer names stays where it is as long as
    /// this buffer is not written to and `messages` lives.
    #[inline]
    pub(super) fn offer(&mut self, messages: &Messages) -> Offer<'_> {
        let bytes = &self.bytes[self.sent..self.len];
        let Some((id, at)) = self.large else {
            self.offered = bytes.len();
            return Offer::Bytes(bytes);
        };
        let vectors = self.vectors.get_or_insert_with(Vectors::new);
        let (parts, count) = parts_of(bytes, id, at, messages);
        self.offered = vectors.set(&parts[..count]);
        Offer::Parts(&vectors.header)
    }

    /// The same, for a reader that is no kernel: its parts, and how many there are.
    #[inline]
    pub(super) fn parts<'a>(&'a mut self, messages: &'a Messages) -> ([&'a [u8]; 1 + MAX_PARTS], usize) {
        let bytes = &self.bytes[self.sent..self.len];
        let Some((id, at)) = self.large else {
            let mut parts = [&[][..]; 1 + MAX_PARTS];
            parts[0] = bytes;
            return (parts, 1);
        };
        parts_of(bytes, id, at, messages)
    }
}

/// The rest of the copied bytes, then message `id` from position `start` on, as much as there is room for.
fn parts_of<'a>(
    bytes: &'a [u8],
    id: MessageId,
    start: usize,
    messages: &'a Messages,
) -> ([&'a [u8]; 1 + MAX_PARTS], usize) {
    let mut parts = [bytes; 1 + MAX_PARTS];
    let (mut count, mut at) = (1, start);
    while count <= MAX_PARTS && at < messages.size_of(id) {
        parts[count] = messages.masked_part(id, at);
        at += parts[count].len();
        count += 1;
    }
    (parts, count)
}

/// The bytes to pass to the kernel.
pub(super) enum Offer<'a> {
    /// Bytes that follow each other.
    Bytes(&'a [u8]),
    /// Several pieces of memory.
    Parts(&'a libc::msghdr),
}

impl Output for SendBuffer {
    /// A large message has a buffer to itself.
    #[inline]
    fn has_room(&self, id: MessageId, messages: &Messages) -> bool {
        let size = messages.size_of(id);
        let frame = client_header_len(size) + size;
        self.is_empty() || (self.large.is_none() && !messages.is_large(id) && self.bytes.len() - self.len >= frame)
    }

    #[inline]
    fn add_message(&mut self, id: MessageId, messages: &Messages) -> usize {
        let start = self.len;
        let (key, size, is_large) = (messages.masking_key(id), messages.size_of(id), messages.is_large(id));
        if messages.are_framed() {
            let opcode = if messages.is_text() { Opcode::Text } else { Opcode::Binary };
            self.len += write_client_header(opcode, size, key, &mut self.bytes[self.len..]);
        }
        let copied = if is_large { ID_LEN } else { size };
        messages.write_masked(id, 0, key, &mut self.bytes[self.len..self.len + copied]);
        self.len += copied;
        self.large = is_large.then_some((id, copied));
        self.len - start + size - copied
    }

    #[inline]
    fn has_room_for(&self, bytes: usize) -> bool {
        self.is_empty() || (self.large.is_none() && self.bytes.len() - self.len >= bytes)
    }

    fn add_frame(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) {
        self.reserve(bytes);
        write(&mut self.bytes[self.len..self.len + bytes]);
        self.len += bytes;
    }

    fn add(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        self.len += write(&mut self.bytes[self.len..]);
    }
}

impl Vectors {
    fn new() -> Box<Self> {
        // SAFETY: all-zero bytes are valid for both structures: integers, and raw pointers, which may be null.
        unsafe { Box::new(std::mem::zeroed()) }
    }

    /// Sets the parts of the next send. Returns how many bytes that is.
    fn set(&mut self, parts: &[&[u8]]) -> usize {
        for (to, part) in self.parts.iter_mut().zip(parts) {
            *to = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        }
        self.header.msg_iov = self.parts.as_mut_ptr();
        self.header.msg_iovlen = parts.len() as _; // size_t in glibc, int in musl
        parts.iter().map(|part| part.len()).sum()
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
        // 14 bytes of header are reckoned with, 6 are needed.
        let mut sends = Sends::new(&messages, 3, 10);
        let key = sends.take();
        let buffer = sends.get(key);
        for sequence in 0..3 {
            assert!(buffer.has_room(id(sequence), &messages));
            buffer.add_message(id(sequence), &messages);
        }
        assert!(!buffer.has_room(id(3), &messages));
        assert_eq!(buffer.len, 3 * 106);
        buffer.advance(200, &messages);
        assert_eq!(buffer.len - buffer.sent, 118);
        assert!(!buffer.is_empty());
        buffer.advance(118, &messages);
        assert!(buffer.is_empty());
        sends.give_back(key);
        assert_eq!(sends.take(), key, "last in, first out");
    }

    /// What the kernel would read for the next send of this buffer.
    fn parts(buffer: &mut SendBuffer, messages: &Messages) -> Vec<u8> {
        assert!(matches!(buffer.offer(messages), Offer::Parts(_)));
        let vectors = buffer.vectors.as_ref().expect("a large message");
        let mut bytes = Vec::new();
        for part in &vectors.parts[..vectors.header.msg_iovlen] {
            // SAFETY: `set` has just made the part from a slice that is still borrowed.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(part.iov_base.cast(), part.iov_len) });
        }
        bytes
    }

    #[test]
    fn a_large_message_is_sent_from_where_it_is_however_it_is_taken() {
        let size = 2_000_003;
        let messages = Messages::new(size, false, true);
        for taken in [1, 13, 31, 5000, 700_000, usize::MAX] {
            let mut sends = Sends::new(&messages, 1, 10);
            let key = sends.take();
            let buffer = sends.get(key);
            buffer.add_message(id(5), &messages);
            let mut stream = Vec::new();
            while !buffer.is_empty() {
                let offered = parts(buffer, &messages);
                assert_eq!(buffer.has_more(&messages), stream.len() + offered.len() < client_header_len(size) + size);
                // The small steps matter at the beginning only.
                let step = if stream.len() > 100 { usize::MAX } else { taken };
                let count = offered.len().min(step);
                stream.extend_from_slice(&offered[..count]);
                buffer.advance(count, &messages);
            }
            let mut payload = stream.split_off(client_header_len(size));
            mask(&mut payload, messages.masking_key(id(5)));
            assert_eq!(payload.len(), size);
            assert!(messages.matches(id(5), 0, &payload), "taken by {taken}");
        }
    }
}
