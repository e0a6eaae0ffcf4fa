//! What the engine remembers of a connection. There may be a million, so this is one cache line.

use super::operations::{Kind, Token};
use super::sends::SendKey;
use crate::session::Session;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The chain up to `connect` is under way.
    Connecting,
    /// The upgrade request is sent, or being sent.
    Upgrading,
    /// Upgraded; the greeting's echo is awaited.
    Greeting,
    /// Ready.
    Open,
    /// This side has sent its Close, or is about to; the server is to close the TCP connection.
    Closing,
    /// Given up; waiting for the kernel to let go of it.
    Ending,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) session: Session,
    /// What is being sent; at most one send is in flight, for two could overtake each other.
    pub(super) send: Option<SendKey>,
    pub(super) generation: u16,
    pub(super) stage: Stage,
    flags: u8,
}

const _: () = assert!(size_of::<Connection>() <= 64, "a connection is one cache line");
const _: () = assert!(size_of::<Option<Connection>>() <= 64, "the slab finds room for its tag in `Stage`");

/// A yes or no that a connection remembers.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Flag {
    /// A multishot receive is under way.
    Receiving = 1,
    /// This connection echoes all the time.
    Active = 2,
    /// A Close is to be sent.
    CloseDue = 4,
    /// A pong is to be sent; the worker has its payload.
    PongDue = 8,
    /// The chain up to `connect` has not completed.
    ConnectPending = 16,
    /// The send in flight is a try: it does not wait, and is silent if all goes well.
    Trying = 32,
    /// The Close went out at the end of the run, and counts among those in the closing window.
    InCloseWindow = 64,
}

impl Connection {
    pub(super) fn new(number: u32, generation: u16, active: bool) -> Self {
        let flags = if active { Flag::Active as u8 } else { 0 };
        Self { session: Session::new(number), send: None, generation, stage: Stage::Connecting, flags }
    }

    #[inline]
    pub(super) fn has(&self, flag: Flag) -> bool {
        self.flags & flag as u8 != 0
    }

    #[inline]
    pub(super) fn set(&mut self, flag: Flag, on: bool) {
        if on {
            self.flags |= flag as u8;
        } else {
            self.flags &= !(flag as u8);
        }
    }

    /// The name of this connection's operation of this kind.
    #[inline]
    pub(super) fn token(&self, kind: Kind, key: u32) -> Token {
        Token::new(kind, self.generation, key)
    }

    /// Whether the upgrade has succeeded and the connection has not been given up.
    pub(super) fn is_upgraded(&self) -> bool {
        matches!(self.stage, Stage::Greeting | Stage::Open | Stage::Closing)
    }
}
