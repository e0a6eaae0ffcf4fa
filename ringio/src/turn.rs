//! The amount of receiving in one turn of a loop.

/// Receives per turn. More would let the first of them fall out of the caches before they are answered.
pub const RECEIVES_MAX: usize = 128;
/// Bytes that the receives of a turn are to bring: they stay in the second-level cache until they are looked at and
/// answered, and so does what the next turn receives meanwhile.
const BYTES: u32 = 256 << 10;

/// The recent yield of receives: a moving average of their lengths, or of their cost.
#[derive(Clone, Copy, Default)]
pub struct Usual(u32);

impl Usual {
    /// Another receive has brought so much.
    #[inline]
    pub fn see(&mut self, len: u32) {
        self.0 = self.0 - self.0 / 8 + len / 8;
    }

    /// The average.
    #[inline]
    pub fn average(self) -> u32 {
        self.0
    }

    /// The number of such receives in a turn.
    #[inline]
    pub fn per_turn(self) -> usize {
        (BYTES / self.0.max(1)).clamp(1, RECEIVES_MAX as u32) as usize
    }
}
