//! Compression and inflation of messages (RFC 7692 section 7.2): raw DEFLATE, each message ended by a flush whose last four
//! bytes are left out.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::MAX_BITS;
use super::window::Windowed;
use crate::websocket::frames::Violation;

/// The end of each message, which is not sent.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The compressed form of an empty message (section 7.2.3.6).
const EMPTY: u8 = 0;

/// Room for so many bytes at least is made each time that there is none.
const STEP: usize = 1024;

/// Compresses the messages of one connection, or of several that take no context over.
#[derive(Debug)]
pub struct Deflater(Compress);

impl Deflater {
    /// With a window of at most 2^`window_bits` bytes, as fast as it goes.
    #[must_use]
    pub fn new(window_bits: u8) -> Self {
        Self(Compress::new_with_window_bits(Compression::fast(), false, window_bits))
    }

    /// Forgets all messages before.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// Compresses some of a message, and puts what comes of it behind what is in `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.run(bytes, FlushCompress::None, out);
    }

    /// Ends the message, which begins at `start` of `out`.
    pub fn end(&mut self, start: usize, out: &mut Vec<u8>) {
        self.run(&[], FlushCompress::Sync, out);
        if out[start..].ends_with(&TAIL) {
            out.truncate(out.len() - TAIL.len());
        }
        if out.len() == start {
            // Nothing has come since the last flush, and so it does nothing.
            out.push(EMPTY);
        }
    }

    fn run(&mut self, mut bytes: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
        loop {
            if out.capacity() - out.len() < STEP {
                out.reserve(STEP.max(bytes.len() / 4));
            }
            let before = self.0.total_in();
            let status = self.0.compress_vec(bytes, out, flush);
            debug_assert!(matches!(status, Ok(Status::Ok | Status::BufError)), "{status:?}");
            bytes = &bytes[(self.0.total_in() - before) as usize..];
            // Room is left where nothing is.
            if bytes.is_empty() && out.len() < out.capacity() {
                return;
            }
        }
    }
}

/// Inflates the messages of one connection, or of several whose servers take no context over.
#[derive(Debug)]
pub struct Inflater {
    stream: Stream,
    /// The last block so far was a final one, behind which another stream may begin (section 7.2.3.4).
    is_ended: bool,
    /// Bytes that have been handed on of the message that is arriving.
    handed: u64,
}

/// A stream that is being inflated.
#[derive(Debug)]
enum Stream {
    /// With the largest window.
    Large(Decompress),
    /// With a smaller one, further back than which nothing may refer.
    Small(Windowed),
}

/// The result of a step.
#[derive(Debug)]
pub(super) struct Step {
    /// Bytes of the input that were used.
    pub(super) taken: usize,
    /// Bytes of the output that were written.
    pub(super) given: usize,
    /// The stream has ended with a final block.
    pub(super) is_ended: bool,
}

impl Inflater {
    /// With a window of exactly 2^`window_bits` bytes.
    #[must_use]
    pub fn new(window_bits: u8) -> Self {
        let stream = if window_bits == MAX_BITS {
            Stream::Large(Decompress::new_with_window_bits(false, MAX_BITS))
        } else {
            Stream::Small(Windowed::new(window_bits))
        };
        Self { stream, is_ended: false, handed: 0 }
    }

    /// Forgets all messages before.
    pub fn reset(&mut self) {
        self.stream.reset();
        (self.is_ended, self.handed) = (false, 0);
    }

    /// Inflates some of a message, the last of it if it `is_last`. Hands what comes of it to `take`, in pieces of at most
    /// `piece` bytes, and says with which one the message ends: that one may be empty. Beyond `most` bytes it is inflated no
    /// further than a piece.
    pub fn inflate(
        &mut self,
        bytes: &[u8],
        is_last: bool,
        most: u64,
        piece: &mut [u8],
        mut take: impl FnMut(&[u8], bool) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let mut handed = self.handed;
        let mut take = |piece: &[u8], is_end| {
            handed += piece.len() as u64;
            if handed > most { Err(Violation::Inflated) } else { take(piece, is_end) }
        };
        let mut filled = self.fill(bytes, 0, piece, &mut take)?;
        if is_last && !self.is_ended {
            filled = self.fill(&TAIL, filled, piece, &mut take)?;
        }
        if is_last || filled > 0 {
            take(&piece[..filled], is_last)?;
        }
        self.handed = if is_last { 0 } else { handed };
        Ok(())
    }

    /// Inflates `bytes` behind the first `filled` bytes of `piece`, which is handed on whenever it is full. Returns how many
    /// are in it at the end: there is room for more.
    fn fill(
        &mut self,
        mut bytes: &[u8],
        mut filled: usize,
        piece: &mut [u8],
        take: &mut impl FnMut(&[u8], bool) -> Result<(), Violation>,
    ) -> Result<usize, Violation> {
        while !bytes.is_empty() || filled == piece.len() {
            if filled == piece.len() {
                take(piece, false)?;
                filled = 0;
            }
            if std::mem::take(&mut self.is_ended) && !bytes.is_empty() {
                self.stream.reset();
            }
            let Step { taken, given, is_ended } = self.stream.step(bytes, &mut piece[filled..])?;
            bytes = &bytes[taken..];
            filled += given;
            self.is_ended = is_ended;
            if taken == 0 && given == 0 && !bytes.is_empty() && !self.is_ended {
                return Err(Violation::Deflate);
            }
        }
        Ok(filled)
    }
}

impl Stream {
    fn reset(&mut self) {
        match self {
            Self::Large(stream) => stream.reset(false),
            Self::Small(stream) => stream.reset(),
        }
    }

    /// Inflates from `bytes` to `out` until one of them is used up, or the stream ends.
    fn step(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<Step, Violation> {
        match self {
            Self::Large(stream) => {
                let (taken, given) = (stream.total_in(), stream.total_out());
                let status = stream.decompress(bytes, out, FlushDecompress::None).map_err(|_| Violation::Deflate)?;
                Ok(Step {
                    taken: (stream.total_in() - taken) as usize,
                    given: (stream.total_out() - given) as usize,
                    is_ended: status == Status::StreamEnd,
                })
            }
            Self::Small(stream) => stream.step(bytes, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counting::live_bytes;
    use crate::message::SplitMix;

    fn compress(deflater: &mut Deflater, message: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let (first, second) = message.split_at(message.len() / 3);
        deflater.push(first, &mut out);
        deflater.push(second, &mut out);
        deflater.end(6, &mut out);
        out.split_off(6)
    }

    /// What an inflater makes of a message in pieces of at most `size` bytes, taken in by pieces of `piece` bytes.
    fn inflate(inflater: &mut Inflater, message: &[u8], size: usize, piece: usize) -> Result<Vec<u8>, Violation> {
        let (mut whole, mut ends) = (Vec::new(), 0);
        let mut piece = vec![0; piece];
        let mut feed = |bytes: &[u8], is_last| {
            inflater.inflate(bytes, is_last, u64::MAX, &mut piece, |bytes, is_end| {
                assert_eq!(ends, 0, "something behind the end");
                whole.extend_from_slice(bytes);
                ends += usize::from(is_end);
                Ok(())
            })
        };
        let count = message.len().div_ceil(size);
        for (index, bytes) in message.chunks(size).enumerate() {
            feed(bytes, index + 1 == count)?;
        }
        if count == 0 {
            feed(&[], true)?;
        }
        assert_eq!(ends, 1);
        Ok(whole)
    }

    /// Messages of all kinds: random, alike, alike to earlier ones, empty.
    fn messages() -> Vec<Vec<u8>> {
        let mut random = SplitMix(5);
        let mut list: Vec<Vec<u8>> = vec![Vec::new(), b"a".to_vec(), b"Hello".repeat(30), Vec::new(), vec![7; 70_000]];
        for index in 0..40 {
            let len = (random.next() % 3000) as usize;
            let noise = |random: &mut SplitMix| random.next() as u8 & if index % 2 == 0 { 0xff } else { 3 };
            let mut message: Vec<u8> = (0..len).map(|_| noise(&mut random)).collect();
            if let Some(earlier) = list.get(index) {
                message.extend_from_slice(earlier);
            }
            list.push(message);
        }
        list
    }

    #[test]
    fn what_is_compressed_is_inflated_to_the_same_however_it_is_cut() {
        for bits in 9..=15 {
            for takes_over in [true, false] {
                for (size, piece) in [(1, 100), (7, 1), (1000, 16_384), (usize::MAX, 512)] {
                    let (mut deflater, mut inflater) = (Deflater::new(bits), Inflater::new(bits));
                    for message in messages() {
                        let compressed = compress(&mut deflater, &message);
                        assert!(!compressed.is_empty(), "a message is never without a byte");
                        let outcome = inflate(&mut inflater, &compressed, size, piece);
                        assert!(outcome.as_ref() == Ok(&message), "{bits} {takes_over} {size} {piece}");
                        if !takes_over {
                            deflater.reset();
                            inflater.reset();
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn without_context_an_inflater_may_be_kept_or_not() {
        let (mut deflater, mut kept) = (Deflater::new(15), Inflater::new(15));
        for message in messages() {
            deflater.reset();
            let compressed = compress(&mut deflater, &message);
            assert!(inflate(&mut kept, &compressed, 100, 100).as_ref() == Ok(&message));
            assert!(inflate(&mut Inflater::new(15), &compressed, 100, 100).as_ref() == Ok(&message));
        }
    }

    /// The examples of RFC 7692 section 7.2.3.
    #[test]
    fn the_examples_of_the_rfc_are_inflated() {
        for bits in [8, 12, 15] {
            examples_are_inflated(bits);
        }
    }

    fn examples_are_inflated(bits: u8) {
        let cases: [&[u8]; 6] = [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            // With the context of the one before.
            &[0xf2, 0x00, 0x11, 0x00, 0x00],
            // Stored.
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            // In a final block, with an empty one behind.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            // The same without that.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            // In two blocks.
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ];
        for (index, case) in cases.into_iter().enumerate() {
            for size in 1..=case.len() {
                let mut inflater = Inflater::new(bits);
                if index == 1 {
                    inflate(&mut inflater, cases[0], 100, 100).unwrap();
                }
                assert_eq!(inflate(&mut inflater, case, size, 3).as_deref(), Ok(&b"Hello"[..]), "{index} {size}");
                assert_eq!(inflate(&mut inflater, cases[0], size, 3).as_deref(), Ok(&b"Hello"[..]), "behind {index}");
            }
        }
        assert_eq!(inflate(&mut Inflater::new(bits), &[0], 1, 9).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn what_cannot_be_inflated_is_a_breach() {
        // A block of the type that there is not, a stored one whose length is wrong, a distance to before the beginning.
        let beyond = &[0xf2, 0x00, 0x11, 0x00, 0x00][..];
        for (wrong, bits) in [
            (&[0x06_u8, 0x00, 0x00][..], 15),
            (&[0x06, 0x00, 0x00], 9),
            (&[0x00, 0x05, 0x00, 0xfa, 0xfe, 0x48], 15),
            (&[0x00, 0x05, 0x00, 0xfa, 0xfe, 0x48], 9),
            (beyond, 15),
            (beyond, 12),
            (beyond, 8),
        ] {
            for size in 1..=wrong.len() {
                let outcome = inflate(&mut Inflater::new(bits), wrong, size, 10);
                assert_eq!(outcome, Err(Violation::Deflate), "{bits} {wrong:x?}");
            }
        }
    }

    /// What an earlier stream has left in the window is not there for the next one, also when it has filled it.
    #[test]
    fn a_new_stream_refers_to_nothing_of_the_one_before() {
        let beyond = &[0xf2, 0x00, 0x11, 0x00, 0x00][..];
        for len in [10, 511, 512, 513, 5000] {
            let mut inflater = Inflater::new(9);
            let message = vec![7; len];
            let compressed = compress(&mut Deflater::new(9), &message);
            assert_eq!(inflate(&mut inflater, &compressed, usize::MAX, 1000), Ok(message));
            inflater.reset();
            assert_eq!(inflate(&mut inflater, beyond, usize::MAX, 10), Err(Violation::Deflate), "{len}");
        }
    }

    /// A block of random bytes, and the same again behind it at some distance.
    #[test]
    fn what_refers_further_back_than_was_agreed_on_is_refused() {
        let mut random = SplitMix(17);
        for (distance, needed) in [(256, 8), (300, 9), (512, 9), (513, 10), (4096, 12), (16_384, 14), (16_390, 15)] {
            let block: Vec<u8> = (0..distance).map(|_| random.next() as u8).collect();
            let message = [&block[..], &block[..100]].concat();
            let compressed = compress(&mut Deflater::new(15), &message);
            for bits in 8..=15 {
                for size in [1, 1000, usize::MAX] {
                    let outcome = inflate(&mut Inflater::new(bits), &compressed, size, 1000);
                    let expected = if bits >= needed { Ok(message.clone()) } else { Err(Violation::Deflate) };
                    assert!(outcome == expected, "{distance} {bits} {size}");
                }
            }
        }
    }

    /// Random bytes are refused or inflated, and neither takes for ever.
    #[test]
    fn nonsense_comes_to_an_end() {
        let mut random = SplitMix(11);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..3000 {
            let len = 1 + (random.next() % 60) as usize;
            let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            match inflate(&mut Inflater::new(15), &bytes, 1 + len / 3, 50) {
                Ok(_) => good += 1,
                Err(_) => bad += 1,
            }
        }
        assert!(good > 0 && bad > 1000, "{good} {bad}");
    }

    /// Memory of a connection as docs/LOADTEST.md states it.
    #[test]
    fn a_connection_takes_what_the_documentation_says() {
        let taken = |make: &dyn Fn() -> Box<dyn std::any::Any>| {
            let before = live_bytes();
            let kept = make();
            let taken = live_bytes() - before;
            drop(kept);
            taken
        };
        let deflater = |bits| {
            taken(&move || {
                let mut deflater = Box::new(Deflater::new(bits));
                compress(&mut deflater, b"Hello");
                deflater
            })
        };
        let inflater = |bits| {
            taken(&move || {
                let mut inflater = Box::new(Inflater::new(bits));
                inflate(&mut inflater, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 1, 10).unwrap();
                inflater
            })
        };
        let (deflaters, inflaters) = ([15, 9].map(deflater), [15, 14, 9].map(inflater));
        println!("compressors of 2^15 and 2^9: {deflaters:?} bytes; inflaters of 2^15, 2^14, 2^9: {inflaters:?} bytes");
        assert!(deflaters[0] < 400 << 10 && deflaters[1] < 260 << 10, "{deflaters:?}");
        assert!(inflaters[0] < 50 << 10 && inflaters[1] < 30 << 10 && inflaters[2] < 15 << 10, "{inflaters:?}");
    }
}
