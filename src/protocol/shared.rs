//! What the sessions of a worker share.

use super::{Settings, codecs::Codecs};

/// The settings, and what compressed messages need.
#[derive(Debug, Default)]
pub struct Shared {
    pub settings: Settings,
    pub(super) codecs: Codecs,
}

impl Shared {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Shared { settings, codecs: Codecs::default() }
    }

    /// Bytes of memory that sessions hold for compressed messages which are open, and for input that waits.
    #[inline]
    pub fn held(&self) -> usize {
        self.codecs.held
    }

    /// What compressed messages have come to since this was last asked, in the nominal nanoseconds of a scheduler.
    pub fn take_work(&mut self) -> u32 {
        std::mem::take(&mut self.codecs.work)
    }
}
