//! The driver's state of a connection. There may be millions, so it is one cache line.

use crate::message::Messages;
use crate::session::Session;
use crate::stats::Tally;
use crate::times::SendTimes;

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The transport is connecting.
    Connecting,
    /// The upgrade request is due or sent; the answer is pending.
    Upgrading,
    /// Upgraded; the echo of the greeting is pending.
    Greeting,
    /// Ready.
    Open,
    /// This side's Close is due or sent; the server is then to end the TCP connection.
    Closing,
    /// Given up: the transport is releasing it.
    Ending,
}

/// One connection, with the transport's own slot of at most eight bytes.
#[derive(Debug)]
pub(super) struct Connection<T> {
    pub(super) session: Session,
    pub(super) slot: T,
    /// When the attempt began, in microseconds since the run's epoch, wrapping after 71 minutes. No two attempts in one
    /// slot begin at the same time, so this names the attempt.
    pub(super) began_us: u32,
    flags: u16,
    pub(super) stage: Stage,
    /// Addresses at which this attempt has failed.
    pub(super) failures: u8,
}

const _: () = assert!(size_of::<Connection<[u32; 2]>>() <= 64, "a connection is one cache line");
const _: () = assert!(size_of::<Option<Connection<[u32; 2]>>>() <= 64, "the slab finds room for its tag in `Stage`");

/// The flags of a connection.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(super) enum Flag {
    /// Sends messages as the load demands.
    Active = 1,
    /// A slow reader: sends and does not read.
    SlowReader = 2,
    /// The upgrade request is to be sent.
    RequestDue = 4,
    /// A Close is to be sent.
    CloseDue = 8,
    /// A pong is to be sent; its payload is in the driver.
    PongDue = 16,
    /// A ping is to be sent.
    PingDue = 32,
    /// The server has sent its Close.
    ServerClosed = 64,
    /// The Close was sent in the close phase and occupies a place in the closing window.
    InCloseWindow = 128,
    /// Is to be closed in order; it sends no more messages.
    Leaving = 256,
    /// Is to be reopened once it has been released.
    Returning = 512,
    /// Did not connect within the time for its address; the attempt goes on at the next address.
    Rerouted = 1024,
}

impl<T> Connection<T> {
    pub(super) fn new(number: u32, messages: &Messages, now_ns: u64, slot: T) -> Self {
        let began_us = (now_ns / 1000) as u32;
        let session = Session::new(number, messages);
        Self { session, slot, began_us, flags: 0, stage: Stage::Connecting, failures: 0 }
    }

    /// The time since the attempt began.
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

    /// Whether it is still being opened.
    #[inline]
    pub(super) fn is_attempt(&self) -> bool {
        matches!(self.stage, Stage::Connecting | Stage::Upgrading | Stage::Greeting)
    }

    /// Whether the upgrade has succeeded and the connection has not been given up.
    #[inline]
    pub(super) fn is_upgraded(&self) -> bool {
        matches!(self.stage, Stage::Greeting | Stage::Open | Stage::Closing)
    }

    /// Whether it is open, and is to stay so.
    #[inline]
    pub(super) fn is_to_stay(&self) -> bool {
        self.stage == Stage::Open && !self.has(Flag::Leaving) && !self.has(Flag::SlowReader)
    }

    /// Whether this side does not read what the server sends.
    #[inline]
    pub(super) fn is_unread(&self) -> bool {
        self.stage == Stage::Open && self.has(Flag::SlowReader)
    }

    /// Whether a control frame is to be sent.
    #[inline]
    pub(super) fn has_control_due(&self) -> bool {
        self.flags & (Flag::CloseDue as u16 | Flag::PongDue as u16 | Flag::PingDue as u16) != 0
    }

    /// Counts messages without an echo as lost, unless this side is a slow reader.
    pub(super) fn abandon(&mut self, times: &mut SendTimes, tally: &mut Tally, until_ns: u64) {
        if self.is_unread() {
            self.session.forget();
        }
        self.session.abandon(times, tally, until_ns);
    }
}
