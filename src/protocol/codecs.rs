//! Inflaters and compressors for messages that are checked or recompressed (RFC 7692, section 7.2).
//!
//! Inflated data goes through a scratch buffer, is checked and discarded. So a decompression bomb takes no memory, and no
//! more time at once than an allowance, after which its input waits.

use flate2::{Compress, Compression as Level, Decompress, FlushCompress, FlushDecompress, Status};

use super::{close::Violation, extensions::WindowBits, utf8::Utf8};

/// Bytes that are inflated at a time: as many as fit into a first-level cache with the inflater's window beside them.
const SCRATCH: usize = 16 << 10;
/// Nominal nanoseconds, in the unit of the scheduler, that may be spent on a connection before others have their turn: a
/// quantum.
const ALLOWANCE: u32 = 50_000;
/// Cost of a byte of input: JSON of 1 to 16 KiB, level 6, without the cost of the output.
const INPUT_BYTE: u32 = 8;
/// Additional cost of a byte of input that produces less output than itself: the tables of dynamic blocks. Blocks of 21
/// bytes without output took 122 ns a byte.
const BARREN_BYTE: u32 = 114;
/// Input inflated at a time: this much of the most expensive takes 120 us.
const INPUT_AT_ONCE: usize = 1 << 10;
/// A message: the inflater is reset. Empty ones took 150 ns.
const MESSAGE: u32 = 120;
/// Four bytes of output: a quarter of a nanosecond each, and half of that for a bomb of zeros.
const FOUR_OUTPUT_BYTES: u32 = 1;
/// A recompressed byte, at level 1; and a message, for which the compressor's tables are cleared.
const COMPRESSED_BYTE: u32 = 5;
const COMPRESSED_MESSAGE: u32 = 8_000;
/// What is recompressed at most before an allowance is used up.
#[cfg(test)]
pub(super) const RECOMPRESSED_AT_ONCE: usize = (ALLOWANCE / COMPRESSED_BYTE) as usize;
/// Bytes of memory of an inflater: its window, its tables and itself (flate2 1.1 with zlib-rs 0.6, by a counting allocator).
const INFLATER: usize = 48 << 10;
/// Bytes of memory of a compressor, with any window.
const DEFLATER: usize = 384 << 10;
/// Inflaters and compressors that are kept for the next message, each: as many as have one open at once in a turn, of which
/// most are in one receive.
const IDLE_MAX: usize = 4;
/// The end of a compressed message, which is not sent (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The work done for compressed messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// In the nominal nanoseconds of a scheduler.
    pub cost: u32,
    /// Bytes that were inflated, as they are then.
    pub inflated: u64,
    /// Connections that have agreed on compression.
    pub agreed: u32,
}

/// A worker's inflaters and compressors, and what they share.
#[derive(Debug, Default)]
pub(super) struct Codecs {
    inflaters: Vec<Decompress>,
    deflaters: Vec<(WindowBits, Compress)>,
    /// Empty until it is needed.
    scratch: Box<[u8]>,
    /// The rest of the allowance.
    allowance: u32,
    /// Work since [`Shared::take_work`](super::Shared::take_work).
    pub(super) work: Work,
    /// Something was, or `held` has changed since.
    pub(super) has_news: bool,
    /// Bytes of memory of what sessions have taken, and of input that waits.
    pub(super) held: usize,
    /// What is handled is input that has waited: what waits on is not copied.
    pub(super) is_resuming: bool,
}

/// Input that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The receive that it came with. Empty while a turn handles it.
    pub(super) bytes: Vec<u8>,
    /// How many bytes of it are left: none, where bytes that are known to the inflater are to be inflated on.
    pub(super) left: usize,
}

impl Codecs {
    /// Begins a turn of a session.
    pub(super) fn allow(&mut self) {
        self.allowance = ALLOWANCE;
    }

    /// Whether something may still be inflated at once.
    pub(super) fn is_allowed(&self) -> bool {
        self.allowance > 0
    }

    fn spend(&mut self, cost: u32) {
        self.allowance = self.allowance.saturating_sub(cost);
        self.work.cost = self.work.cost.saturating_add(cost);
        self.has_news = true;
    }

    fn hold(&mut self, bytes: usize) {
        self.held += bytes;
        self.has_news = true;
    }

    fn let_go(&mut self, bytes: usize) {
        self.held -= bytes;
        self.has_news = true;
    }

    /// The inflater of a compressed message, and with `window` its compressor.
    pub(super) fn take(&mut self, window: Option<WindowBits>) -> Box<Inflation> {
        if self.scratch.is_empty() {
            self.scratch = vec![0; SCRATCH].into();
        }
        // A larger window than the client's is as good.
        let inflater = self.inflaters.pop().unwrap_or_else(|| Decompress::new_with_window_bits(false, 15));
        let inflation = Box::new(Inflation {
            inflater,
            deflater: window.map(|window| (window, self.take_deflater(window))),
            size: 0,
            is_text: false,
            is_open: false,
            has_more: false,
            waiting: None,
        });
        self.hold(inflation.memory());
        inflation
    }

    fn take_deflater(&mut self, window: WindowBits) -> Compress {
        match self.deflaters.iter().position(|(its, _)| *its == window) {
            Some(index) => self.deflaters.swap_remove(index).1,
            None => Compress::new_with_window_bits(Level::fast(), false, window as u8),
        }
    }

    /// Takes back what [`Codecs::take`] has given, and its memory.
    pub(super) fn give_back(&mut self, mut inflation: Box<Inflation>) {
        self.take_waiting(&mut inflation);
        self.let_go(inflation.memory());
        let Inflation { mut inflater, deflater, is_open, .. } = *inflation;
        if self.inflaters.len() < IDLE_MAX {
            inflater.reset(false);
            self.inflaters.push(inflater);
        }
        // zlib-rs' reset at level 1 forgets that it is in the midst of a block (0.6.8): such a compressor is not used again.
        if let Some(deflater) = deflater
            && !is_open
            && self.deflaters.len() < IDLE_MAX
        {
            self.deflaters.push(deflater);
        }
    }

    /// Keeps input until the session's next turn.
    pub(super) fn keep_waiting(&mut self, inflation: &mut Inflation, waiting: Waiting) {
        self.hold(waiting.bytes.capacity());
        inflation.waiting = Some(waiting);
    }

    /// Takes the input that waits, if there is some.
    pub(super) fn take_waiting(&mut self, inflation: &mut Inflation) -> Option<Waiting> {
        let waiting = inflation.waiting.take()?;
        self.let_go(waiting.bytes.capacity());
        Some(waiting)
    }
}

/// A compressed message, or the context of a connection's.
pub(super) struct Inflation {
    inflater: Decompress,
    /// Compresses anew.
    deflater: Option<(WindowBits, Compress)>,
    /// Bytes of the message, inflated, so far.
    size: u64,
    /// Whether the message is text.
    pub(super) is_text: bool,
    /// The message has begun and not ended.
    is_open: bool,
    /// The input so far may come to more bytes than have been inflated.
    has_more: bool,
    /// Input that waits for the session's next turn.
    waiting: Option<Waiting>,
}

impl std::fmt::Debug for Inflation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflation").field("size", &self.size).field("has_more", &self.has_more).finish_non_exhaustive()
    }
}

impl Inflation {
    /// Begins a message; `has_context`: with what the inflater knows of those before.
    pub(super) fn begin(&mut self, codecs: &mut Codecs, is_text: bool, has_context: bool) {
        codecs.spend(MESSAGE);
        (self.size, self.is_text, self.is_open) = (0, is_text, true);
        if !has_context {
            self.inflater.reset(false);
        }
        if let Some((_, deflater)) = &mut self.deflater {
            deflater.reset();
        }
    }

    /// Whether the input so far may come to more bytes than have been inflated.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether its output is recompressed.
    pub(super) fn recompresses(&self) -> bool {
        self.deflater.is_some()
    }

    fn memory(&self) -> usize {
        INFLATER + if self.deflater.is_some() { DEFLATER } else { 0 }
    }

    /// Inflates as much of `input` as is allowed at once, checks it, and compresses it anew behind `out` if that is wanted.
    /// Returns how much of the input is used up.
    pub(super) fn inflate(
        &mut self,
        codecs: &mut Codecs,
        input: &[u8],
        max_message_size: u64,
        utf8: &mut Utf8,
        out: &mut Vec<u8>,
    ) -> Result<usize, Violation> {
        let mut used = 0;
        while codecs.is_allowed() && (used < input.len() || self.has_more) {
            // Input has its part of the allowance before it is known what it comes to.
            let allowed = (codecs.allowance.div_ceil(INPUT_BYTE) as usize).min(INPUT_AT_ONCE);
            let offered = allowed.min(input.len() - used);
            let (read, inflated) = self.advance(codecs, &input[used..used + offered], max_message_size, utf8, out)?;
            used += read;
            codecs.spend(read.saturating_sub(inflated) as u32 * BARREN_BYTE);
        }
        Ok(used)
    }

    /// Inflates, checks and compresses anew as much of `input` as one call of the inflater does, whatever is allowed. Returns how
    /// many bytes it has read, and to how many they have come.
    fn advance(
        &mut self,
        codecs: &mut Codecs,
        input: &[u8],
        max_message_size: u64,
        utf8: &mut Utf8,
        out: &mut Vec<u8>,
    ) -> Result<(usize, usize), Violation> {
        let (read, inflated) = self.step(codecs, input)?;
        // A call of the inflater is never for nothing.
        codecs.spend(1 + read as u32 * INPUT_BYTE + inflated as u32 / 4 * FOUR_OUTPUT_BYTES);
        codecs.work.inflated += inflated as u64;
        self.size += inflated as u64;
        if self.size > max_message_size {
            return Err(Violation::MessageTooBig);
        }
        let bytes = &codecs.scratch[..inflated];
        if self.is_text {
            utf8.push(bytes)?;
        }
        if let Some((_, deflater)) = &mut self.deflater {
            compress(deflater, bytes, FlushCompress::None, out);
            codecs.spend(inflated as u32 * COMPRESSED_BYTE);
        }
        Ok((read, inflated))
    }

    /// Ends the message: what it does not carry is put behind it.
    pub(super) fn end(
        &mut self,
        codecs: &mut Codecs,
        max_message_size: u64,
        utf8: &mut Utf8,
        out: &mut Vec<u8>,
    ) -> Result<(), Violation> {
        debug_assert!(!self.has_more, "a message ends when it is inflated");
        let mut rest = &TAIL[..];
        while !rest.is_empty() || self.has_more {
            let (read, _) = self.advance(codecs, rest, max_message_size, utf8, out)?;
            rest = &rest[read..];
        }
        if self.is_text {
            utf8.end()?;
        }
        if let Some((_, deflater)) = &mut self.deflater {
            compress(deflater, &[], FlushCompress::Sync, out);
            codecs.spend(COMPRESSED_MESSAGE);
            debug_assert!(out.ends_with(&TAIL), "a flush ends with an empty block");
            out.truncate(out.len() - TAIL.len());
        }
        self.is_open = false;
        Ok(())
    }

    /// One call of the inflater: bytes that it has read, and bytes that are in the scratch buffer.
    fn step(&mut self, codecs: &mut Codecs, input: &[u8]) -> Result<(usize, usize), Violation> {
        let before = (self.inflater.total_in(), self.inflater.total_out());
        let status = self
            .inflater
            .decompress(input, &mut codecs.scratch, FlushDecompress::None)
            .map_err(|_| Violation::CorruptDeflate)?;
        let read = (self.inflater.total_in() - before.0) as usize;
        let inflated = (self.inflater.total_out() - before.1) as usize;
        self.has_more = inflated == codecs.scratch.len();
        if status == Status::StreamEnd {
            // A block that says it is the last (section 7.2.3.4): another stream follows, if anything does.
            self.inflater.reset(false);
            self.has_more = false;
        }
        Ok((read, inflated))
    }
}

/// Compresses all of `input` behind `out`.
fn compress(deflater: &mut Compress, input: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
    let start = deflater.total_in();
    loop {
        let rest = &input[(deflater.total_in() - start) as usize..];
        out.reserve(rest.len() / 4 + 64);
        deflater.compress_vec(rest, out, flush).expect("a compressor takes all input");
        // Room that is left is a sign that nothing else is to come.
        if out.len() < out.capacity() {
            return;
        }
    }
}
