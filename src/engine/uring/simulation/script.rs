//! A peer's script: what it sends, what it must get back, and what the server sends without input.

use std::sync::LazyLock;

use flate2::{Compress, Compression, FlushCompress};

use crate::protocol::{Deflate, Protocol, Session, Shared};

use super::peer::Kind;
use super::random::Random;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// The end of a request that offers compression.
const OFFER: &[u8] = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
const RSV1: u8 = 0x40;
/// What a compressed message ends with, and does not carry.
const TAIL: &[u8] = &[0, 0, 0xff, 0xff];
/// A block of 32 KiB of spaces, compressed.
static SPACES: LazyLock<Vec<u8>> = LazyLock::new(|| [compress(&vec![b' '; 32 << 10]), TAIL.to_vec()].concat());
const CLOSE: &[u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];
/// A Ping of the server's own: it carries nothing.
pub(super) const OWN_PING: &[u8] = &[0x89, 0];
/// The answer to it.
pub(super) const PONG: &[u8] = &[0x8a, 0x80, 0, 0, 0, 0];

/// A peer's bytes: an upgrade, if it speaks WebSocket, and frames whose echo does not depend on how they are cut.
#[derive(Clone, Default)]
pub(super) struct Script {
    pub(super) bytes: Vec<u8>,
    /// Where its request and its frames end, in order.
    pub(super) ends: Vec<usize>,
    /// Where its Close begins, if it has one.
    close: Option<usize>,
}

impl Script {
    pub(super) fn new(random: &mut Random, kind: Kind) -> Self {
        let mut script = Self::default();
        match (kind.protocol, kind.deflate) {
            (Protocol::Tcp, _) => {}
            (Protocol::WebSocket, Deflate::Off) => script.push(REQUEST),
            (Protocol::WebSocket, _) => script.push(&[&REQUEST[..REQUEST.len() - 2], OFFER].concat()),
        }
        let scale = kind.scale;
        let frames = match (kind.floods, scale) {
            (true, 1) => 60,
            (true, _) => 12,
            (false, 1) if random.one_in(8) => 60,
            (false, _) => random.below(6),
        };
        for _ in 0..frames {
            if kind.deflate != Deflate::Off && random.one_in(2) {
                script.push_compressed(random, kind);
                continue;
            }
            match random.below(8) {
                0 | 1 => script.push_frame(random, 0x89, 126),
                2 => script.push_frame(random, 0x82, 900 * scale),
                3 => {
                    script.push_frame(random, 0x02, 120 * scale);
                    script.push_frame(random, 0x80, 120);
                }
                4 if scale > 1 => (0..100).for_each(|_| script.push_frame(random, 0x82, 20)),
                _ => script.push_frame(random, 0x82, 120 * scale),
            }
        }
        match random.below(6) {
            0 => script.push_close(),
            1 => {
                // Data behind a Close: discarded.
                script.push_close();
                let more = 1 + random.below(3);
                (0..more).for_each(|_| script.push_frame(random, 0x82, 300));
            }
            2 => {
                let len = 20 + random.below(300);
                script.bytes.extend(std::iter::repeat_n(0xff, len)); // no frame
            }
            _ => {}
        }
        script
    }

    /// An upgrade request alone.
    pub(super) fn upgrade() -> Self {
        let mut script = Self::default();
        script.push(REQUEST);
        script
    }

    fn push_close(&mut self) {
        self.close = Some(self.len());
        self.push(CLOSE);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
    }

    /// A compressed message in up to four fragments, with Pings between.
    fn push_compressed(&mut self, random: &mut Random, kind: Kind) {
        // More than is inflated in a turn, or a few words.
        let (blocks, frequency) = if kind.deflate == Deflate::Recompress { (1, 6) } else { (7, 12) };
        let payload = if random.one_in(frequency) {
            let spaces = SPACES.repeat(blocks + random.below(3));
            spaces[..spaces.len() - TAIL.len()].to_vec()
        } else {
            let count = 1 + random.below(60 * kind.scale.min(20));
            let words = (0..count).map(|_| ["a ", "€uro ", "0123456789"][random.below(3)]);
            compress(words.collect::<String>().as_bytes())
        };
        let opcode = if random.one_in(3) { 0x02 } else { 0x01 };
        let (mut first, mut at) = (RSV1 | opcode, 0);
        for _ in 0..random.below(4) {
            let end = at + random.below(payload.len() - at + 1);
            self.push_payload(random, first, &payload[at..end]);
            if random.one_in(2) {
                self.push_frame(random, 0x89, 20);
            }
            (first, at) = (0, end);
        }
        self.push_payload(random, 0x80 | first, &payload[at..]);
    }

    /// A frame with this payload, under a random key.
    fn push_payload(&mut self, random: &mut Random, first: u8, payload: &[u8]) {
        self.push_frame_of(random, first, payload.len());
        let start = self.bytes.len() - payload.len();
        let (head, masked) = self.bytes.split_at_mut(start);
        let key = head[start - 4..].iter().cycle();
        masked.iter_mut().zip(payload.iter().zip(key)).for_each(|(masked, (byte, key))| *masked = byte ^ key);
    }

    /// A frame with fewer payload bytes than `bound`; they are random, and so is the key.
    fn push_frame(&mut self, random: &mut Random, first: u8, bound: usize) {
        let len = random.below(bound);
        self.push_frame_of(random, first, len);
    }

    /// A frame with so many payload bytes.
    pub(super) fn push_frame_of(&mut self, random: &mut Random, first: u8, len: usize) {
        let bytes = &mut self.bytes;
        match len {
            0..126 => bytes.extend_from_slice(&[first, 0x80 | len as u8]),
            126..0x1_0000 => bytes.extend_from_slice(&[first, 0xfe, (len >> 8) as u8, len as u8]),
            _ => {
                bytes.extend_from_slice(&[first, 0xff]);
                bytes.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        let end = bytes.len() + 4 + len;
        while bytes.len() < end {
            bytes.extend_from_slice(&random.next().to_ne_bytes());
        }
        bytes.truncate(end);
        self.ends.push(end);
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets what is behind the first bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.ends.retain(|&end| end <= len);
    }

    /// Puts a Pong, which changes no answer, behind the first `at` bytes, if a frame ends there.
    pub(super) fn insert_pong(&mut self, at: usize) -> bool {
        let Ok(index) = self.ends.binary_search(&at) else { return false };
        self.bytes.splice(at..at, PONG.iter().copied());
        self.ends[index + 1..].iter_mut().for_each(|end| *end += PONG.len());
        self.ends.insert(index + 1, at + PONG.len());
        true
    }

    /// Whether its request or a frame ends behind the first `at` bytes.
    pub(super) fn is_boundary(&self, at: usize) -> bool {
        self.ends.binary_search(&at).is_ok()
    }

    /// Whether a part of its Close is among the first `at` bytes.
    pub(super) fn has_close_before(&self, at: usize) -> bool {
        self.close.is_some_and(|close| close < at)
    }

    /// The request and the frames that end within these bytes.
    pub(super) fn count_ends(&self, range: std::ops::Range<usize>) -> usize {
        self.ends.partition_point(|&end| end <= range.end) - self.ends.partition_point(|&end| end <= range.start)
    }

    /// The whole answer to the first `len` bytes, made in one piece.
    pub(super) fn answer(&self, len: usize, kind: Kind) -> Vec<u8> {
        let settings = kind.settings();
        let (mut session, mut shared) = (Session::new(&settings), Shared::new(settings));
        let mut data = self.bytes[..len].to_vec();
        let mut answer = session.receive(&mut shared, &mut data).output.to_vec(&data);
        while let Some(reply) = session.resume(&mut shared) {
            answer.extend(reply.output.head);
        }
        answer
    }
}

/// A compressed message that needs none before it.
fn compress(message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(message.len() + message.len() / 8 + 100);
    Compress::new(Compression::new(6), false)
        .compress_vec(message, &mut payload, FlushCompress::Sync)
        .expect("a compressor takes all");
    assert!(payload.ends_with(TAIL), "a flush ends with an empty block");
    payload.truncate(payload.len() - TAIL.len());
    payload
}

/// What was sent without the Pings and the Close frame that the server has sent of its own accord, and whether a Close
/// frame is there, of its own accord or not.
pub(super) fn without_own(sent: &[u8]) -> (Vec<u8>, bool) {
    // 1001; and 1013, where there is no memory for another compressed message.
    const OWN: [&[u8]; 2] = [&[0x03, 0xe9], &[0x03, 0xf5]];
    if !sent.starts_with(b"HTTP/") {
        return (sent.to_vec(), false); // bare TCP
    }
    let head = sent.windows(4).position(|window| window == b"\r\n\r\n").map_or(sent.len(), |end| end + 4);
    let mut echo = sent[..head].to_vec();
    let mut rest = &sent[head..];
    let mut is_closed = false;
    while !rest.is_empty() {
        let len = match rest {
            [_, 126, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
            [_, 127, len @ ..] if len.len() >= 8 => {
                10 + u64::from_be_bytes(len[..8].try_into().expect("8 bytes")) as usize
            }
            [_, len, ..] if *len < 126 => 2 + usize::from(*len),
            _ => usize::MAX,
        };
        let (frame, behind) = rest.split_at(len.min(rest.len()));
        is_closed |= frame.len() == len && frame[0] == 0x88;
        match frame {
            OWN_PING => {}
            // Cut off by the end of the connection: whose it is cannot be seen.
            [0x88 | 0x89, ..] if frame.len() < len => {}
            [0x88, _, payload @ ..] if OWN.iter().any(|code| payload.starts_with(code)) => {
                assert!(behind.is_empty(), "something is sent behind the Close frame");
            }
            _ => echo.extend_from_slice(frame),
        }
        rest = behind;
    }
    (echo, is_closed)
}
