//! Replies: what a session tells its engine about received bytes.

use std::ops::Range;

use super::CloseCode;

/// The reply to a receive.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Reply {
    /// The output.
    pub output: Output,
    /// The event on the connection, other than frames, if any: the last one of the receive.
    pub event: Option<Event>,
    /// Frames whose headers were complete (none with `Protocol::Tcp`): what a receive costs depends on them.
    pub frames: u32,
    /// Data messages whose echo ends in `output` (none with `Protocol::Tcp`, which knows no messages).
    pub messages: u32,
    /// The kinds of messages.
    pub kinds: Kinds,
    /// The action after the output is sent.
    pub then: Then,
}

/// Of what kinds messages and control frames were. Binary messages are those that are not text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Text messages, among the data messages echoed.
    pub texts: u32,
    /// Pings received.
    pub pings: u32,
    /// Pongs received.
    pub pongs: u32,
    /// Messages that came compressed, counted where they began.
    pub compressed: u32,
}

impl std::ops::Add for Kinds {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            texts: self.texts + other.texts,
            pings: self.pings + other.pings,
            pongs: self.pongs + other.pongs,
            compressed: self.compressed + other.compressed,
        }
    }
}

/// A step in a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The upgrade request is answered with 101: messages follow.
    Opened,
    /// A Close frame of our own with this code is in the output: the peer's is awaited.
    Closing(CloseCode),
    /// The output is not to be sent at once: [`Session::behaviour`](super::Session::behaviour) says when.
    Deferred,
    /// Compressed messages were inflated, or what is held for them has changed: [`Shared::take_work`](super::Shared::take_work)
    /// tells more. Input may wait for another turn: [`Session::is_waiting`](super::Session::is_waiting). Either can be so with
    /// other events, too.
    Inflated,
    /// Nothing more is read or sent after the output.
    Closed(Cause),
}

/// Why a connection has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The request was answered with this HTTP status: of an error, or, for a health check, say, of a success.
    Refused(u16),
    /// The peer's Close frame has come, with this code; if it came first, the output ends with the answer.
    PeerClosed(Option<CloseCode>),
    /// The peer has violated the protocol or a limit; the output ends with a Close frame with this code, if none was
    /// sent before.
    Violation(CloseCode),
    /// The client has asked for it: a [`Behaviour`](super::Behaviour) that aborts.
    Behaviour,
}

/// Bytes to send: `head`, then `range` of the received bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Output that could not be made in place: the server's own answers, and the frame that the receive before had cut.
    /// Mostly empty.
    pub head: Vec<u8>,
    /// Output transformed in place.
    pub range: Range<usize>,
}

/// The action after the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Receive on.
    Continue,
    /// Close the TCP connection: the closing handshake is complete (RFC 6455, section 7.1.1: the server closes first).
    /// If the socket holds more input, linger instead.
    Close,
    /// Shut down sending, and discard what comes until the peer closes, too: it may still be sending, and a reset would
    /// destroy the answer on its way (RFC 6455, section 7.1.7; RFC 9112, section 9.6).
    Linger,
    /// Reset the TCP connection.
    Reset,
}

impl Reply {
    /// A reply without an event and without frames.
    pub(super) fn plain(output: Output) -> Self {
        Reply { output, event: None, frames: 0, messages: 0, kinds: Kinds::default(), then: Then::Continue }
    }
}

impl Output {
    #[inline]
    pub(super) fn in_place(range: Range<usize>) -> Self {
        Output { head: Vec::new(), range }
    }

    pub(super) fn owned(head: Vec<u8>) -> Self {
        Output { head, range: 0..0 }
    }

    /// The number of bytes to send.
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
