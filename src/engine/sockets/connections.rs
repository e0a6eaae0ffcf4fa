//! The connection core on ordinary descriptors, for two engines: sockets as descriptors, and immediate sends from the
//! receive buffer.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::connect_unspec;

use crate::connection::Connections as Core;
use crate::connection::lifecycle::Facts;
use crate::connection::output::{Block, NoLender};
use crate::connection::schedule::Planned;
use crate::protocol::Output;

/// The connections of a worker.
pub(in crate::engine) type Connections = Core<OwnedFd, NoLender>;

/// Headroom of a receive, for output that must be sent before its echo.
pub(in crate::engine) const HEADROOM: usize = 256;

/// The output of a receive, contiguous.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::engine) enum Outgoing {
    /// This range of the buffer, which may be empty.
    InPlace(Range<usize>),
    /// An answer that the headroom does not hold.
    Owned(Vec<u8>),
}

impl Outgoing {
    #[inline]
    fn new(output: Output, buffer: &mut [u8]) -> Self {
        let range = HEADROOM + output.range.start..HEADROOM + output.range.end;
        if output.head.is_empty() {
            return Outgoing::InPlace(range);
        }
        if range.is_empty() && output.head.len() > HEADROOM {
            return Outgoing::Owned(output.head);
        }
        Self::with_head(&output.head, range, buffer)
    }

    /// Prepends `head` to the range, if there is room.
    fn with_head(head: &[u8], range: Range<usize>, buffer: &mut [u8]) -> Self {
        match range.start.checked_sub(head.len()) {
            Some(start) => {
                buffer[start..range.start].copy_from_slice(head);
                Outgoing::InPlace(start..range.end)
            }
            None => Outgoing::Owned([head, &buffer[range]].concat()),
        }
    }

    /// The bytes, when `buffer` is what was given to [`Connections::received_into`].
    #[inline]
    pub(in crate::engine) fn bytes<'a>(&'a self, buffer: &'a [u8]) -> &'a [u8] {
        match self {
            Outgoing::InPlace(range) => &buffer[range.clone()],
            Outgoing::Owned(bytes) => bytes,
        }
    }
}

impl Connections {
    /// A connection's socket.
    #[inline]
    pub(in crate::engine) fn socket(&self, key: u32) -> BorrowedFd<'_> {
        self.get(key).io.as_fd()
    }

    /// Handles `len` bytes from the peer, in `buffer` after its [`HEADROOM`].
    /// Returns the output to send now, of which [`Connections::keep`] keeps what the kernel does not take.
    #[inline]
    pub(in crate::engine) fn received_into(
        &mut self,
        key: u32,
        buffer: &mut [u8],
        len: usize,
        planned: Planned,
    ) -> Outgoing {
        let was_within_frame = self.get(key).life.is_within_frame();
        let (output, cost) = self.received(key, &mut buffer[HEADROOM..HEADROOM + len]);
        let outgoing = Outgoing::new(output, buffer);
        self.charge(key, len as u32, cost, was_within_frame, planned);
        if self.get(key).output.is_empty() {
            return outgoing;
        }
        self.keep(key, outgoing.bytes(buffer));
        Outgoing::InPlace(0..0)
    }

    /// Appends bytes to the pending output.
    pub(in crate::engine) fn keep(&mut self, key: u32, bytes: &[u8]) {
        let (connection, outputs) = self.get_with_outputs(key);
        outputs.copy(&mut connection.output, bytes);
        self.enforce_caps(key);
    }

    /// The kernel has taken `sent` of the bytes offered from the receive buffer.
    #[inline]
    pub(in crate::engine) fn sent_from_buffer(&mut self, key: u32, bytes: &[u8], sent: usize) {
        let is_all = sent == bytes.len();
        self.sent(key, sent, is_all);
        if !is_all {
            self.keep(key, &bytes[sent..]);
        }
    }

    /// The first part of the pending output, which must exist.
    pub(in crate::engine) fn front(&self, key: u32) -> &[u8] {
        self.outputs.front(self.get(key).output, &NoLender)
    }

    /// The kernel has taken `sent` bytes of [`Connections::front`].
    pub(in crate::engine) fn sent_from_front(&mut self, key: u32, sent: usize) {
        let len = self.front(key).len();
        let (connection, outputs) = self.get_with_outputs(key);
        if sent == len {
            outputs.pop(&mut connection.output, &mut NoLender);
        } else {
            outputs.advance(connection.output, sent);
        }
        self.sent(key, sent, sent == len);
    }

    /// Removes the first part of the pending output, for an operation that must own it, and returns how much of it is
    /// already sent. [`Connections::put_front`] follows.
    pub(in crate::engine) fn take_front(&mut self, key: u32) -> (Block, usize) {
        let (connection, outputs) = self.get_with_outputs(key);
        outputs.take_block(&mut connection.output)
    }

    /// Puts back the unsent rest: of `bytes` so many are sent, `sent` of them by the operation.
    pub(in crate::engine) fn put_front(&mut self, key: u32, bytes: Block, out: usize, sent: usize) {
        let is_all = out == bytes.len();
        let (connection, outputs) = self.get_with_outputs(key);
        outputs.put_block(&mut connection.output, bytes, out);
        self.sent(key, sent, is_all);
    }

    /// Updates the facts about a socket by the size of a receive, which had room for `room` bytes.
    #[inline]
    pub(in crate::engine) fn note_received(&mut self, key: u32, len: usize, room: usize) {
        let facts = &mut self.get_mut(key).life.facts;
        // A receive that fills its buffer may have left input; so may one before an end or at a TCP urgent mark.
        if len < room && !facts.has(Facts::END_AHEAD) {
            facts.clear(Facts::READABLE);
        }
    }

    /// Resets a connection that is to end so, which wakes all waits for its socket.
    pub(in crate::engine) fn reset_if_wanted(&mut self, key: u32) -> bool {
        let is_wanted = self.get(key).life.facts.has(Facts::RESET);
        if is_wanted {
            self.get_mut(key).life.facts.clear(Facts::RESET);
            // Sockets other than TCP have no reset: they are just closed.
            let _ = connect_unspec(self.socket(key));
        }
        is_wanted
    }

    /// Closes and removes a connection, with its unsent output.
    pub(in crate::engine) fn end(&mut self, key: u32) {
        self.reset_if_wanted(key);
        let (connection, outputs) = self.get_with_outputs(key);
        outputs.clear(&mut connection.output, &mut NoLender);
        self.remove(key);
    }
}
