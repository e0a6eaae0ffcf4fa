//! Tokens: the 64 bits of user data by which a completion is matched to its operation.

/// The kinds of operations that a program has in flight: an enumeration of at most 256 variants, numbered from 0.
pub trait Kind: Copy + 'static {
    /// All kinds, each at the place of its number.
    const ALL: &'static [Self];

    /// Its number.
    fn number(self) -> u8;
}

/// Generations are counted in the 24 bits that key and kind leave.
pub const GENERATION_MASK: u32 = (1 << 24) - 1;

/// Slab key, generation and kind of an operation.
///
/// The generation tells apart two connections that use the same key one after the other, so that a cancellation cannot
/// hit the wrong one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<K> {
    /// Key of the connection in its slab.
    pub key: u32,
    /// The connection's generation, at most [`GENERATION_MASK`].
    pub generation: u32,
    /// The kind of operation.
    pub kind: K,
}

impl<K> Token<K> {
    /// A token that belongs to the ring's owner and to no connection.
    pub const fn of_worker(kind: K) -> Self {
        Self { key: 0, generation: 0, kind }
    }
}

impl<K: Kind> Token<K> {
    /// As user data.
    #[inline]
    pub fn encode(self) -> u64 {
        debug_assert!(self.generation <= GENERATION_MASK);
        u64::from(self.key) << 32 | u64::from(self.generation) << 8 | u64::from(self.kind.number())
    }

    /// From user data that [`Token::encode`] made.
    #[inline]
    pub fn decode(user_data: u64) -> Self {
        Self {
            key: (user_data >> 32) as u32,
            generation: (user_data >> 8) as u32 & GENERATION_MASK,
            kind: K::ALL[usize::from(user_data as u8)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    enum Example {
        Receive,
        Send,
    }

    impl Kind for Example {
        const ALL: &'static [Self] = &[Example::Receive, Example::Send];

        fn number(self) -> u8 {
            self as u8
        }
    }

    #[test]
    fn user_data_round_trips() {
        for &kind in Example::ALL {
            let token = Token { key: u32::MAX, generation: GENERATION_MASK, kind };
            assert_eq!(Token::decode(token.encode()), token);
            let token = Token::of_worker(kind);
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
