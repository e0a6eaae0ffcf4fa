//! A connection's socket, as its entry has it.

use crate::connection::schedule::Planned;

/// Its slot in the ring's table of direct descriptors, its properties, and what is planned for its receive in flight. The slot
/// takes 20 of the 32 bits (`IORING_MAX_FIXED_FILES`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket(u32);

impl Socket {
    const HIDES_MORE: u32 = 1 << 31;
    const PLANNED_AT: u32 = 28;
    const PLANNED: u32 = 0b111 << Self::PLANNED_AT;

    pub(super) fn new(slot: u32, hides_more: bool) -> Self {
        debug_assert!(slot < 1 << Self::PLANNED_AT);
        Self(slot | if hides_more { Self::HIDES_MORE } else { 0 })
    }

    #[inline]
    pub(super) fn slot(self) -> u32 {
        self.0 & !(Self::HIDES_MORE | Self::PLANNED)
    }

    /// What is planned for its receive in flight.
    #[inline]
    pub(super) fn planned(self) -> Planned {
        Planned::ALL[((self.0 & Self::PLANNED) >> Self::PLANNED_AT) as usize]
    }

    #[inline]
    pub(super) fn set_planned(&mut self, planned: Planned) {
        self.0 = self.0 & !Self::PLANNED | (planned as u32) << Self::PLANNED_AT;
    }

    /// Its receives do not report whether it holds more: only a receive that finds nothing does.
    #[inline]
    pub(super) fn hides_more(self) -> bool {
        self.0 & Self::HIDES_MORE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_kept_beside_slot_and_properties() {
        for (slot, hides_more) in [(0, true), ((1 << 20) - 1, false)] {
            let mut socket = Socket::new(slot, hides_more);
            for planned in [&Planned::ALL[..], &[Planned::Nothing]].concat() {
                socket.set_planned(planned);
                assert_eq!((socket.planned(), socket.slot(), socket.hides_more()), (planned, slot, hides_more));
            }
        }
    }
}
