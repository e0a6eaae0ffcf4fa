//! What an engine gets back for the bytes that it has received.

use std::ops::Range;

/// What is to be done after a receive.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Reply {
    /// What to send.
    pub output: Output,
    /// What to do when it is sent.
    pub then: Then,
    /// Data messages whose echo ends in `output` (none with `Protocol::Tcp`, which knows no messages).
    pub messages: u32,
}

/// Bytes to send.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    Nothing,
    /// This range of the received bytes, which have been transformed in place.
    InPlace(Range<usize>),
    /// This range of bytes that had to be put together elsewhere.
    Owned {
        bytes: Vec<u8>,
        range: Range<usize>,
    },
}

/// What follows the sending of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Receive on.
    Continue,
    /// Close the TCP connection: the closing handshake is complete (RFC 6455, section 7.1.1: the server closes first).
    Close,
    /// Shut down sending, and discard what comes until the peer closes, too: it may still be sending, and a reset would
    /// destroy the answer on its way (RFC 6455, section 7.1.7).
    Linger,
}

impl Output {
    pub(super) fn in_place(range: Range<usize>) -> Self {
        if range.is_empty() { Output::Nothing } else { Output::InPlace(range) }
    }

    pub(super) fn owned(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Output::Owned { bytes, range }
    }

    /// The bytes to send, when `received` is what was given to [`Session::receive`](super::Session::receive).
    #[must_use]
    pub fn bytes<'a>(&'a self, received: &'a [u8]) -> &'a [u8] {
        match self {
            Output::Nothing => &[],
            Output::InPlace(range) => &received[range.clone()],
            Output::Owned { bytes, range } => &bytes[range.clone()],
        }
    }

    /// This output with `head` before and `tail` behind it. Copies: for what happens once in a connection's life.
    pub(super) fn framed_by(&self, head: &[u8], received: &[u8], tail: &[u8]) -> Self {
        Output::owned([head, self.bytes(received), tail].concat())
    }
}
