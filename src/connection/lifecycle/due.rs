//! Deadlines, and the actions due at them.

/// Ticks that a turn of an engine's loop may take: if it takes longer, the process was stopped, suspended or throttled, which
/// is not the peers' delay, and counts as these. Two, since a turn may begin at the end of a tick.
pub(crate) const STALL_TICKS: u32 = 2;

/// The action that a connection's deadline asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// No action before this tick; `None`: no action at all.
    Later(Option<u32>),
    /// A Ping: half of the idle timeout is over.
    Ping,
    /// The closing handshake: a Ping went unanswered for the other half.
    Close,
    /// Abort, without a Close frame.
    Abort,
    /// A send without an event that reports room: the kernel reports it only when a third of a socket's buffer is free,
    /// which may take a slow reader longer than its timeout.
    Probe,
    /// Abort, because its output is stuck: the probe has found no room.
    Stalled,
}

/// Deadlines, in ticks of the worker's clock; `None`: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timeouts {
    /// From the accept to the end of the request.
    pub(crate) handshake: Option<u32>,
    /// Time without any input: at half of it a Ping, at the end Close 1001.
    pub(crate) idle: Option<u32>,
    /// Time without progress of the output of a connection that is not received from, because it is throttled or its peer
    /// has shut down its side.
    pub(crate) stall: Option<u32>,
    /// From the decision to close, or from the last progress after it, to the close.
    pub(crate) close: Option<u32>,
    /// The length of a tick, for delays and rates.
    pub(crate) tick_us: u32,
}

impl Timeouts {
    /// Whether a connection whose output is stuck is closed for that rather than for being idle.
    pub(super) fn has_stall_before_idle(&self) -> bool {
        self.stall.is_some_and(|stall| self.idle.is_none_or(|idle| stall <= idle))
    }
}
