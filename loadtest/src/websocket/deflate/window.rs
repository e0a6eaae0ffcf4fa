//! Inflation with a window of exactly the negotiated size: references beyond it are refused. zlib-rs always uses 32 KiB.

use std::fmt;
use std::ops::Range;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::stream::Step;
use crate::websocket::frames::Violation;

/// A stream that is inflated into its window, a ring of bytes.
pub(super) struct Windowed {
    state: Box<DecompressorOxide>,
    window: Box<[u8]>,
    /// The position in the window.
    at: usize,
    /// The window has been filled since the stream began: before, nothing may refer to what is in front of the beginning.
    has_wrapped: bool,
    /// Inflated bytes not yet taken.
    pending: Range<usize>,
    is_ended: bool,
}

impl fmt::Debug for Windowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Windowed").field("at", &self.at).field("is_ended", &self.is_ended).finish_non_exhaustive()
    }
}

impl Windowed {
    /// A window of 2^`bits` bytes.
    pub(super) fn new(bits: u8) -> Self {
        let window = vec![0; 1 << bits].into();
        Self { state: Box::default(), window, at: 0, has_wrapped: false, pending: 0..0, is_ended: false }
    }

    /// Begins another stream.
    pub(super) fn reset(&mut self) {
        self.state.init();
        (self.at, self.has_wrapped, self.pending, self.is_ended) = (0, false, 0..0, false);
    }

    /// Inflates from `bytes` to `out` until one of them is used up, or the stream ends.
    pub(super) fn step(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<Step, Violation> {
        let mut step = Step { taken: 0, given: 0, is_ended: false };
        loop {
            let count = self.pending.len().min(out.len() - step.given);
            let from = self.pending.start;
            out[step.given..step.given + count].copy_from_slice(&self.window[from..from + count]);
            self.pending.start += count;
            step.given += count;
            if self.is_ended || !self.pending.is_empty() || step.given == out.len() {
                step.is_ended = self.is_ended && self.pending.is_empty();
                return Ok(step);
            }
            let input = &bytes[step.taken..];
            let once = if self.has_wrapped { 0 } else { TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF };
            let flags = TINFL_FLAG_HAS_MORE_INPUT | once;
            let (status, taken, given) = decompress(&mut self.state, input, &mut self.window, self.at, flags);
            step.taken += taken;
            self.pending = self.at..self.at + given;
            self.at += given;
            if self.at == self.window.len() {
                (self.at, self.has_wrapped) = (0, true);
            }
            match status {
                TINFLStatus::Done => self.is_ended = true,
                TINFLStatus::NeedsMoreInput if given == 0 => return Ok(step),
                TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput => {}
                _ => return Err(Violation::Deflate),
            }
        }
    }
}
