//! One byte of the lifecycle: the remaining receives while leaving, then how the connection ended.

use super::LAST_RECEIVES;
use crate::worker::Ending;

/// The remaining receives of a connection or, as soon as something has ended it, the cause of that; the highest bit: it has
/// a stage in front of its session.
#[derive(Clone, Copy)]
pub(super) struct Rest(u8);

impl Rest {
    /// For a new connection. `is_staged`: it has a stage in front of its session.
    pub(super) fn new(is_staged: bool) -> Self {
        Self(LAST_RECEIVES | if is_staged { Self::STAGED } else { 0 })
    }

    pub(super) fn is_staged(self) -> bool {
        self.0 & Self::STAGED != 0
    }

    pub(super) fn unstage(&mut self) {
        self.0 &= !Self::STAGED;
    }

    const STAGED: u8 = 1 << 7;
    /// Values from here on are causes: the first one of [`Ending::ALL`].
    const ENDINGS: u8 = LAST_RECEIVES + 1;

    /// Takes one of the receives, if one is left.
    pub(super) fn take(&mut self) -> bool {
        let is_left = (1..Self::ENDINGS).contains(&(self.0 & !Self::STAGED));
        self.0 -= u8::from(is_left);
        is_left
    }

    /// Sets the cause, unless there is one.
    pub(super) fn set_ending(&mut self, ending: Ending) {
        if self.ending().is_none() {
            self.0 = self.0 & Self::STAGED | (Self::ENDINGS + ending as u8);
        }
    }

    pub(super) fn ending(self) -> Option<Ending> {
        let number = (self.0 & !Self::STAGED).checked_sub(Self::ENDINGS)?;
        Ending::ALL.get(usize::from(number)).copied()
    }
}

const _: () = assert!(Rest::ENDINGS as usize + Ending::ALL.len() <= Rest::STAGED as usize, "they share seven bits");
