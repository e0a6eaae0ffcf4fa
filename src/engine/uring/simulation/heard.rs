//! A peer's view of the messages it receives, where these may come back in other fragments than they were sent in:
//! compressed messages that are inflated on their way (`protocol/compressed.rs`).

use flate2::{Decompress, FlushDecompress};

use crate::protocol::Deflate;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const CONTROL: u8 = 0x08;

/// The answer to its request, messages and control frames.
pub(super) struct Heard {
    /// Those that have ended, in the order of their ends: the first byte without FIN, and what was in them.
    ended: Vec<(u8, Vec<u8>)>,
    /// The message that has begun and not ended.
    open: Option<(u8, Vec<u8>)>,
    /// Messages were compressed anew: what of an open one has come depends on the compressor, and so on how it was fed.
    is_anew: bool,
}

impl Heard {
    pub(super) fn new(sent: &[u8], deflate: Deflate) -> Self {
        let mut heard = Self { ended: Vec::new(), open: None, is_anew: deflate == Deflate::Recompress };
        let Some(blank) = sent.windows(4).position(|window| window == b"\r\n\r\n") else { return heard };
        let (answer, mut rest) = sent.split_at(blank + 4);
        heard.ended.push((0, answer.to_vec()));
        while let Some(Frame { first, payload, is_whole, behind }) = Frame::read(rest) {
            heard.take(first, payload, is_whole);
            rest = behind;
        }
        if heard.is_anew {
            for (first, message) in heard.ended.iter_mut().chain(&mut heard.open) {
                if *first & RSV1 != 0 {
                    *message = inflate(message);
                }
            }
        }
        heard
    }

    fn take(&mut self, first: u8, payload: &[u8], is_whole: bool) {
        if first & CONTROL != 0 {
            if is_whole {
                self.ended.push((first & !FIN, payload.to_vec()));
            }
            return;
        }
        let begins = first & 0x0f != 0;
        assert_eq!(begins, self.open.is_none(), "a message within another, or a continuation of none");
        let (_, message) = self.open.get_or_insert_with(|| (first & !FIN, Vec::new()));
        message.extend_from_slice(payload);
        if is_whole && first & FIN != 0 {
            self.ended.extend(self.open.take());
        }
    }

    /// Whether all of this comes first in `whole`.
    pub(super) fn begins(&self, whole: &Self) -> bool {
        if !whole.ended.starts_with(&self.ended) {
            return false;
        }
        let Some((first, message)) = self.open.as_ref().filter(|(_, message)| !message.is_empty()) else { return true };
        let mut behind = whole.ended[self.ended.len()..].iter().chain(&whole.open);
        match behind.find(|(first, _)| first & CONTROL == 0) {
            Some((its_first, all)) => {
                first == its_first && (all.starts_with(message) || self.is_anew && message.starts_with(all))
            }
            None => self.is_anew,
        }
    }

    /// Whether it is the same as another.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.ended.len() == other.ended.len() && self.begins(other) && other.begins(self)
    }
}

/// A frame of a server, or what is there of it behind its header.
struct Frame<'a> {
    first: u8,
    payload: &'a [u8],
    is_whole: bool,
    behind: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes`; `None`: its header is not there in full.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let [first, short, rest @ ..] = bytes else { return None };
        let (len, rest) = match short {
            126 => rest.split_first_chunk().map(|(len, rest)| (usize::from(u16::from_be_bytes(*len)), rest))?,
            127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len) as usize, rest))?,
            short => (usize::from(*short), rest),
        };
        let (payload, behind) = rest.split_at(len.min(rest.len()));
        Some(Self { first: *first, payload, is_whole: payload.len() == len, behind })
    }
}

/// What comes of as much of a message as is there.
fn inflate(payload: &[u8]) -> Vec<u8> {
    let (mut inflater, mut message) = (Decompress::new(false), Vec::new());
    loop {
        message.reserve(16 << 10);
        let rest = &payload[inflater.total_in() as usize..];
        inflater.decompress_vec(rest, &mut message, FlushDecompress::None).expect("a valid stream");
        // Room is left where nothing else is to come.
        if message.len() < message.capacity() {
            return message;
        }
    }
}
