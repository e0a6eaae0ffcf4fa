//! The state of a connection that belongs to this transport.

use crate::engine::sends::SendKey;

/// Eight bytes within the driver's own cache line for a connection.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// The send in progress; at most one is in flight, since two could overtake each other.
    pub(super) send: Option<SendKey>,
    /// The lowest bits of the generation in its tokens.
    pub(super) generation: u16,
    flags: u16,
}

const _: () = assert!(size_of::<Slot>() == 8, "the driver's connections have room for this");

/// A yes or no.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(super) enum Flag {
    /// The chain up to `connect` has not completed.
    Connecting = 1,
    /// A poll is under way.
    Polled = 2,
    /// Waits for its turn to be received from.
    Waiting = 4,
    /// A receive is under way.
    Receiving = 8,
    /// There is an end behind what can be received.
    Ended = 16,
    /// The send in flight is a try: it does not wait, and is silent if all goes well.
    Trying = 32,
    /// The send in flight has had to wait for the peer.
    HasWaited = 64,
    /// To be released as soon as the kernel has nothing under way for it.
    Releasing = 128,
    /// A send has failed or was ended early: there is nothing that could follow it.
    Cut = 256,
}

impl Slot {
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

    /// Whether the kernel has nothing under way.
    pub(super) fn is_idle(&self) -> bool {
        let under_way = [Flag::Connecting, Flag::Polled, Flag::Receiving];
        self.send.is_none() && !under_way.into_iter().any(|flag| self.has(flag))
    }
}
