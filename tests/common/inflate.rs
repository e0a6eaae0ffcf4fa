//! A strict client-side inflater: with a window of exactly the negotiated size, and no data before the beginning. zlib-rs
//! always uses 32 KiB.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// What a compressed message ends with, and does not carry (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

pub(crate) struct Inflater {
    state: Box<DecompressorOxide>,
    window: Vec<u8>,
    at: usize,
    has_wrapped: bool,
}

impl Inflater {
    /// With a window of 2^`bits` bytes.
    pub(crate) fn new(bits: u8) -> Self {
        Self { state: Box::default(), window: vec![0; 1 << bits], at: 0, has_wrapped: false }
    }

    /// Forgets what was before.
    pub(crate) fn reset(&mut self) {
        self.state.init();
        (self.at, self.has_wrapped) = (0, false);
    }

    /// A message.
    pub(crate) fn inflate(&mut self, payload: &[u8]) -> Result<Vec<u8>, TINFLStatus> {
        let input = [payload, &TAIL].concat();
        let (mut used, mut message) = (0, Vec::new());
        loop {
            // References to before the beginning are refused as long as the window is written for the first time.
            let once = if self.has_wrapped { 0 } else { TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF };
            let flags = TINFL_FLAG_HAS_MORE_INPUT | once;
            let (status, taken, given) = decompress(&mut self.state, &input[used..], &mut self.window, self.at, flags);
            used += taken;
            message.extend_from_slice(&self.window[self.at..self.at + given]);
            self.at += given;
            if self.at == self.window.len() {
                (self.at, self.has_wrapped) = (0, true);
            }
            match status {
                TINFLStatus::NeedsMoreInput if given == 0 => return Ok(message),
                TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput => {}
                TINFLStatus::Done if used == input.len() => return Ok(message),
                TINFLStatus::Done => self.reset(), // a block that says it is the last
                wrong => return Err(wrong),
            }
        }
    }
}
