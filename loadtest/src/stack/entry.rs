//! What each connection costs, idle or not: an entry of 28 bytes. All else is in tables of those that are active.

use super::flight::FlightKey;

/// States of RFC 9293 section 3.3.2. TIME-WAIT is not among them: such connections are in [`super::waiting`], and their
/// slots are free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// There is no connection.
    #[default]
    Closed,
    SynSent,
    /// Both sides' SYNs have crossed.
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    /// Both sides' FINs have crossed.
    Closing,
    CloseWait,
    LastAck,
}

/// A yes or no.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Flag {
    /// An acknowledgement is to be sent, with data or without.
    AckDue = 1,
    /// Nothing is to be received: no window is offered.
    Paused = 2,
    /// Both sides scale their windows.
    Scaled = 4,
    /// Segments that came out of order wait in the pool.
    Reassembling = 8,
    /// The transport has let go of the connection, which goes on until both sides have closed.
    LetGo = 16,
}

/// A connection. Names are those of RFC 9293 section 3.3.1.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    /// SND.UNA. Without a flight it is SND.NXT as well.
    pub(super) una: u32,
    /// RCV.NXT.
    pub(super) rcv_nxt: u32,
    /// SND.WL1: the segment that brought the last window.
    pub(super) wl1: u32,
    /// What is on its way, if anything is.
    pub(super) flight: Option<FlightKey>,
    /// SND.WND as the peer wrote it, before it is scaled.
    pub(super) window: u16,
    /// Payload bytes of a segment at most.
    pub(super) mss: u16,
    /// Which life of its slot it is.
    pub(super) life: u16,
    /// The server's number.
    pub(super) server: u16,
    pub(super) state: State,
    pub(super) flags: u8,
    /// Bits by which the peer's window is shifted.
    pub(super) scale: u8,
}

/// Bits by which this side's windows are shifted: 256 KiB, some 180 segments, which a device's usual queue of 500 packets
/// holds (`txqueuelen`).
pub(super) const OWN_SCALE: u8 = 2;

const _: () = assert!(size_of::<Entry>() == 28, "there are millions of them; the budget is 32 bytes");

impl Entry {
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

    /// SND.WND.
    #[inline]
    pub(super) fn send_window(&self) -> u32 {
        u32::from(self.window) << self.scale
    }

    /// The largest window that the peer can have offered.
    pub(super) fn send_window_max(&self) -> u32 {
        u32::from(u16::MAX) << self.scale
    }

    /// RCV.WND: what is received is used at once, so the same is offered all the time. A pause withdraws it for the peer; what
    /// arrives from within it is looked at all the same, for its acknowledgement.
    pub(super) fn receive_window(&self) -> u32 {
        let scale = if self.has(Flag::Scaled) { OWN_SCALE } else { 0 };
        u32::from(u16::MAX) << scale
    }

    /// Whether a segment that takes `span` sequence numbers from `seq` on is at least in part within the window
    /// (RFC 9293 section 3.4). An acknowledgement may also be right behind it, as Linux sends it when it has filled the window.
    pub(super) fn is_acceptable(&self, seq: u32, span: u32) -> bool {
        let is_within = |at: u32| at.wrapping_sub(self.rcv_nxt) < self.receive_window();
        let is_behind = || seq.wrapping_sub(self.rcv_nxt) == self.receive_window();
        is_within(seq) || if span > 0 { is_within(seq.wrapping_add(span - 1)) } else { is_behind() }
    }

    /// Whether the transport may add to what is sent.
    #[inline]
    pub(super) fn can_send(&self) -> bool {
        matches!(self.state, State::Established | State::CloseWait)
    }

    /// Whether the peer has not closed its side yet.
    #[inline]
    pub(super) fn can_receive(&self) -> bool {
        matches!(self.state, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// Ends the connection. The slot keeps its count of lives.
    pub(super) fn clear(&mut self) {
        *self = Self { life: self.life, ..Self::default() };
    }
}
