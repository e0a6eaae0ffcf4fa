//! What a completion belongs to: the 64 bits of user data that every operation carries.

/// The kinds of operations that a ring can have in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
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
    /// A socket that the acceptor has moved into this ring; the result is its slot.
    Accepted,
    /// The worker's eventfd: somebody wants its attention.
    Wake,
}

impl Kind {
    const ALL: [Kind; 8] =
        [Kind::Ready, Kind::Receive, Kind::Send, Kind::Cancel, Kind::Shutdown, Kind::Close, Kind::Accepted, Kind::Wake];
}

/// Generations are counted in the 24 bits that key and kind leave.
pub const GENERATION_MASK: u32 = (1 << 24) - 1;

/// Slab key, generation and kind of an operation.
///
/// The generation tells apart two connections that use the same key one after the other, so that a cancellation can
/// never hit the wrong one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Key of the connection in the worker's slab.
    pub key: u32,
    /// The connection's generation, at most [`GENERATION_MASK`].
    pub generation: u32,
    /// What the operation does.
    pub kind: Kind,
}

impl Token {
    /// A token that belongs to the worker and to no connection.
    pub const fn of_worker(kind: Kind) -> Self {
        Self { key: 0, generation: 0, kind }
    }

    /// As user data.
    #[inline]
    pub const fn encode(self) -> u64 {
        (self.key as u64) << 32 | (self.generation as u64) << 8 | self.kind as u64
    }

    /// From user data that [`Token::encode`] made.
    #[inline]
    pub fn decode(user_data: u64) -> Self {
        Self {
            key: (user_data >> 32) as u32,
            generation: (user_data >> 8) as u32 & GENERATION_MASK,
            kind: Kind::ALL[usize::from(user_data as u8)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_round_trips() {
        for kind in Kind::ALL {
            let token = Token { key: u32::MAX, generation: GENERATION_MASK, kind };
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
