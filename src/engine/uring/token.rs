//! The kinds of operations that a worker's ring can have in flight.

/// What an operation of a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Multishot poll of a connection's socket.
    Ready,
    /// Receive.
    Receive,
    /// Send from a connection's queue. Posts a completion only when it could not send everything.
    Send,
    /// Cancellation of the poll.
    Cancel,
    /// `shutdown(SHUT_WR)`.
    Shutdown,
    /// Close of a direct descriptor.
    Close,
    /// Accept, or what concerns the listeners otherwise.
    Accepted,
    /// Multishot poll of the worker's eventfd.
    Wake,
    /// A descriptor of the process for a connection's socket, to ask for its peer: for the connection log.
    Install,
    /// The reset of a connection.
    Reset,
}

impl ringio::Kind for Kind {
    const ALL: &'static [Self] = &[
        Self::Ready,
        Self::Receive,
        Self::Send,
        Self::Cancel,
        Self::Shutdown,
        Self::Close,
        Self::Accepted,
        Self::Wake,
        Self::Install,
        Self::Reset,
    ];

    #[inline]
    fn number(self) -> u8 {
        self as u8
    }
}

/// Slab key, generation and kind of an operation.
pub(super) type Token = ringio::Token<Kind>;

#[cfg(test)]
mod tests {
    use super::*;
    use ringio::Kind as _;

    #[test]
    fn kinds_are_at_the_place_of_their_number() {
        for (place, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(place, usize::from(kind.number()));
        }
    }
}
