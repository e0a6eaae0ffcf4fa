//! State shared by the sessions of a worker.

use super::{
    Settings,
    codecs::{Codecs, Work},
};
#[cfg(test)]
use super::{codecs, settings::Deflate};

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

    /// Bytes that a connection may bring by recompressing before others have their turn.
    #[cfg(test)]
    pub fn recompressed_at_once(&self) -> usize {
        if self.settings.deflate == Deflate::Recompress { codecs::RECOMPRESSED_AT_ONCE } else { 0 }
    }

    /// Bytes of memory that sessions hold for compressed messages which are open, and for input that waits.
    #[inline]
    pub fn held(&self) -> usize {
        self.codecs.held
    }

    /// Whether compressed messages were inflated since [`Shared::take_work`], or what is held for them has changed.
    #[inline]
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.codecs.has_news
    }

    /// The work for compressed messages since the last call.
    pub fn take_work(&mut self) -> Work {
        self.codecs.has_news = false;
        std::mem::take(&mut self.codecs.work)
    }
}
