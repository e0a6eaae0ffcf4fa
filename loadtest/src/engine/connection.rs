//! What the engine remembers of a connection. There may be a million, so this is one cache line.

use super::operations::{Kind, Token};
use super::sends::SendKey;
use crate::session::Session;
use crate::stats::Tally;
use crate::times::SendTimes;

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
    /// Of 24 bits, as in [`Token`].
    pub(super) generation: u32,
    pub(super) stage: Stage,
    flags: u16,
    /// When the attempt began, in microseconds since the run's epoch, wrapping after 71 minutes.
    began_us: u32,
}

const _: () = assert!(size_of::<Connection>() <= 64, "a connection is one cache line");
const _: () = assert!(size_of::<Option<Connection>>() <= 64, "the slab finds room for its tag in `Stage`");

/// A yes or no that a connection remembers.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(super) enum Flag {
    /// A receive is under way.
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
    /// The server has sent its Close.
    ServerClosed = 128,
    /// Is to be closed in order and opened again.
    Recycling = 256,
    /// A ping is to be sent.
    PingDue = 512,
    /// Sends and does not read.
    SlowReader = 1024,
    /// A poll is under way.
    Polled = 2048,
    /// Waits for its turn to be received from.
    Waiting = 4096,
    /// There is an end behind what can be received.
    Ended = 8192,
}

impl Connection {
    pub(super) fn new(number: u32, generation: u32, now_ns: u64) -> Self {
        let began_us = (now_ns / 1000) as u32;
        Self { session: Session::new(number), send: None, generation, stage: Stage::Connecting, flags: 0, began_us }
    }

    /// How long ago the attempt began.
    pub(super) fn age_ns(&self, now_ns: u64) -> u64 {
        u64::from(((now_ns / 1000) as u32).wrapping_sub(self.began_us)) * 1000
    }

    #[inline]
    pub(super) fn has(&self, flag: Flag) -> bool {
        self.flags & flag as u16 != 0
    }

    #[inline]
    pub(super) fn set(&mut self, flag: Flag, on: bool) {
        if on {
            self.flags |= flag as u16;
        } else {
            self.flags &= !(flag as u16);
        }
    }

    /// The name of this connection's operation of this kind.
    #[inline]
    pub(super) fn token(&self, kind: Kind, key: u32) -> Token {
        Token { key, generation: self.generation, kind }
    }

    /// Whether the upgrade has succeeded and the connection has not been given up.
    pub(super) fn is_upgraded(&self) -> bool {
        matches!(self.stage, Stage::Greeting | Stage::Open | Stage::Closing)
    }

    /// Whether what the server sends is to be received.
    #[inline]
    pub(super) fn wants_input(&self) -> bool {
        self.stage != Stage::Ending && !(self.has(Flag::SlowReader) && self.stage == Stage::Open)
    }

    /// Whether a frame is to be sent that is no message.
    #[inline]
    pub(super) fn has_control_due(&self) -> bool {
        self.flags & (Flag::CloseDue as u16 | Flag::PongDue as u16 | Flag::PingDue as u16) != 0
    }

    /// Counts what has not come back as lost, unless nobody was going to read it.
    pub(super) fn abandon(&mut self, times: &mut SendTimes, tally: &mut Tally, until_ns: u64) {
        if self.has(Flag::SlowReader) && self.stage == Stage::Open {
            self.session.forget();
        }
        self.session.abandon(times, tally, until_ns);
    }
}
