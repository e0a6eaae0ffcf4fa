//! Compressors and inflaters of a thread's connections (RFC 7692).
//!
//! Messages without context takeover use the compressor and inflater that the thread has for all connections; a connection
//! with context takeover keeps its own from its first message on.

use crate::message::precompressed::Precompressed;
use crate::message::{MessageId, Messages};
use crate::websocket::deflate::{Agreed, Deflater, Inflater, MAX_BITS};
use crate::websocket::frames::Violation;
use crate::websocket::utf8::Utf8;

/// Inflated messages are judged in pieces of this size: what fits the first-level cache.
const PIECE: usize = 16 << 10;

/// Inflaters that are kept for messages to come; more of them were needed only for a moment.
const SPARE_MAX: usize = 16;

/// Windows that there are, by their binary logarithms.
const WINDOWS: usize = MAX_BITS as usize + 1;

/// The compressors and inflaters of a thread.
#[derive(Debug)]
#[expect(clippy::vec_box, reason = "inflaters move between here and their connections")]
pub struct Codecs {
    /// By the connections' keys.
    links: Vec<Link>,
    /// For messages that need no earlier ones, by window.
    deflaters: [Option<Box<Deflater>>; WINDOWS],
    /// Messages that are compressed already, by window.
    precompressed: [Option<Box<Precompressed>>; WINDOWS],
    is_precompressed: bool,
    /// Inflaters of finished messages without context takeover, by window.
    spare: [Vec<Box<Inflater>>; WINDOWS],
    /// The inflated data.
    piece: Box<[u8]>,
    /// The message that is being sent, compressed.
    payload: Vec<u8>,
}

/// One connection.
#[derive(Debug, Default)]
struct Link {
    agreed: Option<Agreed>,
    /// Only where this side's messages may need earlier ones.
    deflater: Option<Box<Deflater>>,
    /// The inflater of the arriving message; kept for good with context takeover.
    inflater: Option<Box<Inflater>>,
    /// The position within a code point at which inflated text was cut.
    utf8: Utf8,
}

const _: () = assert!(size_of::<Link>() == 24, "there is one for each connection");

impl Codecs {
    /// For so many connections, of which none has agreed on anything.
    #[must_use]
    pub fn new(connections: u32, is_precompressed: bool) -> Self {
        Self {
            links: (0..connections).map(|_| Link::default()).collect(),
            deflaters: [const { None }; WINDOWS],
            precompressed: [const { None }; WINDOWS],
            is_precompressed,
            spare: [const { Vec::new() }; WINDOWS],
            piece: vec![0; PIECE].into(),
            payload: Vec::new(),
        }
    }

    /// Connection `key` has agreed on this.
    pub fn agree(&mut self, key: u32, agreed: Agreed) {
        self.links[key as usize].agreed = Some(agreed);
    }

    /// Whether the messages of connection `key` are compressed.
    #[inline]
    #[must_use]
    pub fn has_agreed(&self, key: u32) -> bool {
        self.links[key as usize].agreed.is_some()
    }

    /// Message `id`, compressed, if connection `key` has agreed on that. A connection that sends often `keeps_context` if it
    /// may; one that does not is spared a compressor of its own.
    pub fn compress(&mut self, key: u32, id: MessageId, messages: &Messages, keeps_context: bool) -> Option<&[u8]> {
        let link = &mut self.links[key as usize];
        let agreed = link.agreed?;
        let bits = agreed.client_bits;
        self.payload.clear();
        if self.is_precompressed {
            let all = &mut self.precompressed[usize::from(bits)];
            let all = all.get_or_insert_with(|| Box::new(Precompressed::new(messages, bits)));
            all.write(id, messages, &mut self.payload);
            return Some(&self.payload);
        }
        let has_own = agreed.client_takes_over && keeps_context;
        let deflater = if has_own { &mut link.deflater } else { &mut self.deflaters[usize::from(bits)] };
        let deflater = deflater.get_or_insert_with(|| Box::new(Deflater::new(bits)));
        if !has_own {
            deflater.reset();
        }
        messages.parts_of(id, |part| deflater.push(part, &mut self.payload));
        deflater.end(0, &mut self.payload);
        Some(&self.payload)
    }

    /// Inflates some of a message of connection `key`, the last of it if it `is_last`, and hands what comes of it to `take`,
    /// with whether the message ends there. Text must be UTF-8 so far, as a message that is not compressed must. Of a message of
    /// more than `most` bytes no more is inflated.
    pub fn inflate(
        &mut self,
        key: u32,
        text: bool,
        bytes: &[u8],
        is_last: bool,
        most: u64,
        mut take: impl FnMut(&[u8], bool),
    ) -> Result<(), Violation> {
        let Link { agreed, inflater, utf8, .. } = &mut self.links[key as usize];
        let Some(agreed) = agreed else { return Err(Violation::ReservedBit) };
        let spare = &mut self.spare[usize::from(agreed.server_bits)];
        let new = || Box::new(Inflater::new(agreed.server_bits));
        let current = inflater.get_or_insert_with(|| spare.pop().unwrap_or_else(new));
        current.inflate(bytes, is_last, most, &mut self.piece, |piece, is_end| {
            if text {
                *utf8 = utf8.push(piece).ok_or(Violation::Utf8)?;
                if is_end && *utf8 != Utf8::Boundary {
                    return Err(Violation::Utf8);
                }
            }
            take(piece, is_end);
            Ok(())
        })?;
        if is_last && !agreed.server_takes_over {
            put_by(spare, inflater.take());
        }
        Ok(())
    }

    /// Connection `key` is gone.
    pub fn release(&mut self, key: u32) {
        let link = std::mem::take(&mut self.links[key as usize]);
        if let Some(agreed) = link.agreed {
            put_by(&mut self.spare[usize::from(agreed.server_bits)], link.inflater);
        }
    }
}

/// Keeps an inflater for another message.
#[expect(clippy::vec_box, reason = "inflaters move between here and their connections")]
fn put_by(spare: &mut Vec<Box<Inflater>>, inflater: Option<Box<Inflater>>) {
    if let Some(mut inflater) = inflater.filter(|_| spare.len() < SPARE_MAX) {
        inflater.reset();
        spare.push(inflater);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counting::live_bytes;

    fn agreed(takes_over: bool) -> Agreed {
        Agreed { client_takes_over: takes_over, server_takes_over: takes_over, client_bits: 15, server_bits: 15 }
    }

    fn echo(codecs: &mut Codecs, key: u32, sequence: u32, messages: &Messages, text: bool) -> (usize, bool) {
        let id = MessageId { connection: key, sequence };
        let compressed = codecs.compress(key, id, messages, true).unwrap().to_vec();
        let mut inflated = Vec::new();
        let take = |piece: &[u8], _| inflated.extend_from_slice(piece);
        codecs.inflate(key, text, &compressed, true, messages.inflated_at_most(), take).unwrap();
        (compressed.len(), inflated.len() == messages.size_of(id) && messages.matches(id, 0, &inflated))
    }

    #[test]
    fn connections_do_not_get_into_each_others_context() {
        let messages = Messages::new(3000, true, true);
        let mut codecs = Codecs::new(4, false);
        for key in 0..3 {
            codecs.agree(key, agreed(key < 2));
        }
        for sequence in 0..50 {
            for key in 0..3 {
                assert!(echo(&mut codecs, key, sequence, &messages, true).1, "{key} {sequence}");
            }
        }
        let lens = [0, 2].map(|key| echo(&mut codecs, key, 50, &messages, true).0);
        assert!(lens[0] * 2 < lens[1], "messages repeat earlier ones, which a context finds: {lens:?}");
        assert!(codecs.compress(3, MessageId { connection: 3, sequence: 0 }, &messages, true).is_none());
        let refused = codecs.inflate(3, false, &[0], true, u64::MAX, |_, _| {});
        assert_eq!(refused, Err(Violation::ReservedBit));
    }

    #[test]
    fn without_context_an_idle_connection_keeps_nothing() {
        let messages = Messages::new(100, false, true);
        let mut codecs = Codecs::new(1001, false);
        (0..1001).for_each(|key| codecs.agree(key, agreed(false)));
        echo(&mut codecs, 0, 0, &messages, false);
        let before = live_bytes();
        for key in 1..1001 {
            assert!(echo(&mut codecs, key, 0, &messages, false).1);
        }
        assert!((live_bytes() - before).abs() < 1000, "{} bytes", live_bytes() - before);
    }

    /// 64 MiB in 64 KiB, cut anywhere, behind messages that are as long as they may be.
    #[test]
    fn a_bomb_is_inflated_no_further_than_is_expected() {
        const MOST: usize = 100_000;
        let compress = |len: usize| {
            let (mut deflater, mut out) = (Deflater::new(15), Vec::new());
            deflater.push(&vec![0; len], &mut out);
            deflater.end(0, &mut out);
            out
        };
        let (longest, bomb) = (compress(MOST), compress(64 << 20));
        for (takes_over, size) in [(false, 1), (false, 1000), (true, 1), (true, usize::MAX)] {
            let mut codecs = Codecs::new(1, false);
            codecs.agree(0, agreed(takes_over));
            let mut receive = |bytes: &[u8]| {
                let (mut inflated, count) = (0, bytes.len().div_ceil(size));
                let mut pieces = bytes.chunks(size).enumerate();
                let outcome = pieces.try_for_each(|(at, it)| {
                    codecs.inflate(0, false, it, at + 1 == count, MOST as u64, |piece, _| inflated += piece.len())
                });
                (outcome, inflated)
            };
            for _ in 0..3 {
                assert_eq!(receive(&longest), (Ok(()), MOST), "{takes_over} {size}");
            }
            let before = live_bytes();
            let (outcome, inflated) = receive(&bomb);
            assert_eq!(outcome, Err(Violation::Inflated), "{takes_over} {size}");
            assert!(inflated <= MOST && (live_bytes() - before).abs() < 100_000, "{takes_over} {size}: {inflated}");
            // The connection is gone; the next one begins anew.
            codecs.release(0);
            codecs.agree(0, agreed(takes_over));
            let outcome = codecs.inflate(0, false, &longest, true, MOST as u64, |_, _| {});
            assert_eq!(outcome, Ok(()), "{takes_over} {size}");
        }
    }

    #[test]
    fn text_that_is_none_is_found_whatever_it_is_cut_into() {
        let mut deflater = Deflater::new(15);
        let mut out = Vec::new();
        for (text, is_right) in [("aé€\u{10ffff}".as_bytes(), true), (b"a\xff", false), (b"\xe2\x82", false)] {
            deflater.reset();
            out.clear();
            deflater.push(text, &mut out);
            deflater.end(0, &mut out);
            for size in 1..=out.len() {
                let mut codecs = Codecs::new(1, false);
                codecs.agree(0, agreed(false));
                let count = out.len().div_ceil(size);
                let mut pieces = out.chunks(size).enumerate();
                let outcome =
                    pieces.try_for_each(|(at, it)| codecs.inflate(0, true, it, at + 1 == count, 100, |_, _| {}));
                assert_eq!(outcome, if is_right { Ok(()) } else { Err(Violation::Utf8) }, "{text:x?} by {size}");
            }
        }
    }
}
