//! A connection's socket, as its entry has it.

/// Its slot in the ring's table of direct descriptors, and its properties. The slot takes 20 of the 32 bits
/// (`IORING_MAX_FIXED_FILES`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket(u32);

impl Socket {
    const HIDES_MORE: u32 = 1 << 31;

    pub(super) fn new(slot: u32, hides_more: bool) -> Self {
        debug_assert!(slot < Self::HIDES_MORE);
        Self(slot | if hides_more { Self::HIDES_MORE } else { 0 })
    }

    #[inline]
    pub(super) fn slot(self) -> u32 {
        self.0 & !Self::HIDES_MORE
    }

    /// Its receives do not report whether it holds more: only a receive that finds nothing does.
    #[inline]
    pub(super) fn hides_more(self) -> bool {
        self.0 & Self::HIDES_MORE != 0
    }
}
