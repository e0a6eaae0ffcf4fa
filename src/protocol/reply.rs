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

/// Bytes to send: `head`, then `range` of the received bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// What could not be made in place: answers of our own, and the frame that the receive before had cut. Mostly empty.
    pub head: Vec<u8>,
    /// What has been transformed in place.
    pub range: Range<usize>,
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
    #[inline]
    pub(super) fn in_place(range: Range<usize>) -> Self {
        Output { head: Vec::new(), range }
    }

    pub(super) fn owned(head: Vec<u8>) -> Self {
        Output { head, range: 0..0 }
    }

    /// How many bytes there are to send.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.range.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that is to be sent, when `received` is what was given to [`Session::receive`](super::Session::receive).
    #[must_use]
    pub fn to_vec(&self, received: &[u8]) -> Vec<u8> {
        [&self.head, &received[self.range.clone()]].concat()
    }
}
