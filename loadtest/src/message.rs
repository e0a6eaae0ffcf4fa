//! Messages: their bytes, and the comparison of echoes with them.
//!
//! Every message is a function of its connection's number and its position in that connection's sequence, so an echo can be
//! checked byte for byte without storing what was sent. Messages of at least [`ID_LEN`] bytes start with both numbers in
//! letters (valid UTF-8 with either opcode); the rest is cut from one shared table. The user's own messages are a function
//! of the same two numbers.

pub mod expect;
pub mod own;
pub mod precompressed;
pub mod sizes;
mod table;

use std::ops::Range;

use crate::scenario::Traffic;
use expect::Expect;
use own::OwnMessages;
use sizes::Sizes;

/// Length of the identification at the start of a message. Shorter messages carry the pattern only.
pub const ID_LEN: usize = 16;

/// The table repeats after this many bytes: four times a prime, so that no power-of-two buffer boundary falls on it
/// and a block echoed in the wrong place cannot look right.
const PERIOD: usize = 4 * 16_381;

/// Where in the table messages start: at every fourth of the first 4096 bytes, so that small messages read memory that stays
/// in the first-level cache.
const STARTS: usize = 4092;

/// Messages of at least this size are sent straight from a table that is masked already, without being copied first.
/// With less, a second part to send costs as much as the copy.
const LARGE: usize = 8 * 1024;

/// Tells the numbers that choose sizes from those that choose bytes.
const SIZES: u64 = 0x7369_7a65_7369_7a65;

/// Masked tables, and so masking keys, of large messages. More would be more alike to real clients, but would no longer
/// stay in a second-level cache together with the receive buffers.
const LARGE_KEYS: usize = 2;

/// Bytes of a message that is none of those that were sent, at most: a welcome or an error in JSON, say, is judged like any
/// other. Only of compressed messages the rest is not looked at.
pub const STRAY_MAX: u64 = 64 << 10;

/// Bytes of a message at most of which nothing is known but that it is to come: as much as servers take (ringecho 16 MiB,
/// Python's `websockets` 1 MiB), and more; to inflate it takes some 20 ms.
const ANSWER_MAX: u64 = 64 << 20;

/// Makes and checks all messages of a run. Shared by all threads, read only.
#[derive(Debug)]
pub struct Messages {
    sizes: Sizes,
    text: bool,
    expect: Expect,
    /// Messages with which the server begins on each connection.
    welcomes: u32,
    framed: bool,
    /// The user's messages, which are sent instead of generated ones.
    own: Option<OwnMessages>,
    /// Bytes of the longest message.
    longest: usize,
    /// Bits of the places in the table where messages start.
    starts: usize,
    /// Two periods, so that any position has at least one period of bytes behind it.
    table: Box<[u8]>,
    /// The table under each key, for large messages only.
    masked: Vec<MaskedTable>,
}

#[derive(Debug)]
struct MaskedTable {
    key: [u8; 4],
    bytes: Box<[u8]>,
    /// The user's messages under the key. Small ones are copied when they are sent, and not here.
    own: Vec<Box<[u8]>>,
}

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId {
    /// The connection's number in the whole run.
    pub connection: u32,
    /// The message's number on that connection, from 0.
    pub sequence: u32,
}

impl Messages {
    /// Messages of these sizes; `text` ones consist of printable ASCII, binary ones of all byte values.
    #[must_use]
    pub fn new(sizes: impl Into<Sizes>, text: bool, verify: bool) -> Self {
        let expect = if verify { Expect::Echo } else { Expect::Answers(1) };
        Self::with(sizes.into(), text, expect, None, 0)
    }

    /// The messages of a load.
    #[must_use]
    pub fn of(traffic: &Traffic) -> Self {
        let (sizes, own) = (traffic.sizes.clone(), traffic.own.clone());
        let messages = Self::with(sizes, traffic.text, traffic.expect, own, traffic.compressibility);
        let is_precompressed = traffic.deflate.is_some_and(|deflate| deflate.is_precompressed);
        let starts = if is_precompressed { precompressed::STARTS } else { STARTS };
        Self { welcomes: traffic.welcomes, starts, ..messages }
    }

    fn with(sizes: Sizes, text: bool, expect: Expect, own: Option<OwnMessages>, compressibility: u8) -> Self {
        let mut random = SplitMix(0x0072_696e_676c_6f61);
        let table = table::make(&mut random, text, compressibility).repeat(2).into_boxed_slice();
        let masked = (0..if sizes.max() >= LARGE { LARGE_KEYS } else { 0 }).map(|_| {
            let key = nonzero_key(random.next());
            let masked = |bytes: &[u8]| {
                let mut bytes: Box<[u8]> = bytes.into();
                mask(&mut bytes, key);
                bytes
            };
            let own = own.iter().flat_map(OwnMessages::list);
            let own = own.map(|message| if message.len() < LARGE { Box::default() } else { masked(message) }).collect();
            MaskedTable { key, bytes: masked(&table), own }
        });
        let masked = masked.collect();
        let longest = own.iter().flat_map(OwnMessages::list).map(|message| message.len()).max();
        let longest = longest.unwrap_or(sizes.max());
        Self { sizes, text, expect, welcomes: 0, framed: true, own, longest, starts: STARTS, masked, table }
    }

    /// The messages without frames, and so without masks.
    #[must_use]
    pub fn unframed(mut self) -> Self {
        self.framed = false;
        for masked in &mut self.masked {
            // Masking once more undoes it.
            mask(&mut masked.bytes, masked.key);
            for message in &mut masked.own {
                mask(message, masked.key);
            }
            masked.key = [0; 4];
        }
        self
    }

    /// The user's message that is sent as message `id`.
    #[inline]
    fn own(&self, id: MessageId) -> Option<(usize, &[u8])> {
        let list = self.own.as_ref()?.list();
        let index = id.connection.wrapping_add(id.sequence) as usize % list.len();
        Some((index, &list[index]))
    }

    /// The expected answer.
    #[inline]
    #[must_use]
    pub fn expect(&self) -> Expect {
        self.expect
    }

    /// Whether answers are counted, not looked at. Without frames there is nothing to be counted but bytes.
    #[inline]
    #[must_use]
    pub fn are_counted(&self) -> bool {
        self.framed && self.expect != Expect::Echo
    }

    /// Messages with which the server begins on each connection.
    #[must_use]
    pub fn welcomes(&self) -> u32 {
        self.welcomes
    }

    /// Bytes to which an arriving message is inflated at most. An echo is as long as what was sent; what else comes may be
    /// longer, but not without end.
    #[must_use]
    pub fn inflated_at_most(&self) -> u64 {
        let is_known = self.expect.compares() && self.welcomes == 0;
        (self.longest as u64).max(if is_known { STRAY_MAX } else { ANSWER_MAX })
    }

    /// Whether each message is sent as a WebSocket frame.
    #[inline]
    #[must_use]
    pub fn are_framed(&self) -> bool {
        self.framed
    }

    /// The start in the table of the pattern of message `id`.
    #[inline]
    fn start_of(&self, id: MessageId) -> usize {
        (id.hash() >> 32) as usize & self.starts
    }

    /// Payload bytes of message `id`.
    #[inline]
    #[must_use]
    pub fn size_of(&self, id: MessageId) -> usize {
        if let Some((_, own)) = self.own(id) {
            return own.len();
        }
        // Not the number that chooses the message's bytes.
        self.sizes.choose(|| SplitMix(id.bits() ^ SIZES).next())
    }

    /// Bytes of a message at most that are to be copied for sending, the frame header apart.
    #[must_use]
    pub fn copied_at_most(&self) -> usize {
        let max = self.sizes.max();
        if self.sizes.min() >= LARGE { ID_LEN } else { max.min(LARGE) }
    }

    /// Whether messages are text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.text
    }

    /// Whether messages carry their identification, at least those that are long enough.
    #[must_use]
    pub fn are_identified(&self) -> bool {
        self.expect.compares() && self.own.is_none() && self.sizes.max() >= ID_LEN
    }

    /// Whether message `id` is large: then all of its payload but the identification is to be sent from
    /// [`Messages::masked_part`].
    #[inline]
    #[must_use]
    pub fn is_large(&self, id: MessageId) -> bool {
        !self.masked.is_empty() && self.size_of(id) >= LARGE
    }

    /// The masking key of message `id`. Every small message has another, as RFC 6455 section 5.3 wants it, so that a
    /// server that confuses keys is found out; large ones share a few.
    #[inline]
    #[must_use]
    pub fn masking_key(&self, id: MessageId) -> [u8; 4] {
        match self.is_large(id) {
            _ if !self.framed => [0; 4],
            false => nonzero_key(id.hash()),
            true => self.masked_table(id).key,
        }
    }

    #[inline]
    fn masked_table(&self, id: MessageId) -> &MaskedTable {
        &self.masked[id.hash() as usize % LARGE_KEYS]
    }

    /// Masked payload bytes of the large message `id` from position `at` (behind its identification) on, as many as
    /// lie next to each other: at least one period, unless the message ends before.
    #[must_use]
    pub fn masked_part(&self, id: MessageId, at: usize) -> &[u8] {
        debug_assert!(at >= ID_LEN, "the identification is in no table");
        if let Some((index, _)) = self.own(id) {
            return &self.masked_table(id).own[index][at..];
        }
        // Start and period are multiples of four: the key's phase at a position is the same in table and message.
        let position = (self.start_of(id) + at) % PERIOD;
        let end = (position + self.size_of(id) - at).min(self.table.len());
        &self.masked_table(id).bytes[position..end]
    }

    /// Writes the payload bytes of message `id` from position `at` on into `out`, masked with `key`.
    #[inline]
    pub fn write_masked(&self, id: MessageId, at: usize, key: [u8; 4], out: &mut [u8]) {
        self.for_each_part(id, at..at + out.len(), |range, part| {
            let mut rotated = key;
            rotated.rotate_left((at + range.start) % 4);
            copy_masked(part, rotated, &mut out[range]);
            true
        });
    }

    /// Whether `bytes` are the payload bytes of message `id` from position `at` on. Always true without verification.
    #[inline]
    #[must_use]
    pub fn matches(&self, id: MessageId, at: usize, bytes: &[u8]) -> bool {
        if !self.expect.compares() {
            return true;
        }
        at + bytes.len() <= self.size_of(id)
            && self.for_each_part(id, at..at + bytes.len(), |range, part| bytes[range] == *part)
    }

    /// Hands the payload of message `id` to `take` in parts, in their order.
    pub fn parts_of(&self, id: MessageId, mut take: impl FnMut(&[u8])) {
        self.for_each_part(id, 0..self.size_of(id), |_, part| {
            take(part);
            true
        });
    }

    /// Walks over the contiguous parts that make up `range` of a payload: where each goes, relative to the start of
    /// the range, and its bytes. Stops, and returns false, when `f` does.
    #[inline]
    fn for_each_part(
        &self,
        id: MessageId,
        range: Range<usize>,
        mut f: impl FnMut(Range<usize>, &[u8]) -> bool,
    ) -> bool {
        if let Some((_, own)) = self.own(id) {
            return f(0..range.len(), &own[range]);
        }
        let mut at = range.start;
        if at < ID_LEN && !range.is_empty() && self.size_of(id) >= ID_LEN {
            let end = range.end.min(ID_LEN);
            if !f(0..end - at, &id.encode()[at..end]) {
                return false;
            }
            at = end;
        }
        let start = self.start_of(id);
        while at < range.end {
            let position = (start + at) % PERIOD;
            let len = (range.end - at).min(self.table.len() - position);
            if !f(at - range.start..at - range.start + len, &self.table[position..position + len]) {
                return false;
            }
            at += len;
        }
        true
    }
}

impl MessageId {
    #[inline]
    fn hash(self) -> u64 {
        SplitMix(self.bits()).next()
    }

    #[inline]
    fn bits(self) -> u64 {
        u64::from(self.connection) << 32 | u64::from(self.sequence)
    }

    /// Both numbers as sixteen letters `a` to `p`, one for each half byte.
    #[inline]
    #[must_use]
    pub fn encode(self) -> [u8; ID_LEN] {
        let mut bytes = [0; ID_LEN];
        bytes[..8].copy_from_slice(&letters(self.connection));
        bytes[8..].copy_from_slice(&letters(self.sequence));
        bytes
    }

    /// Reads what `encode` wrote; `None` if it cannot have been written by it.
    #[must_use]
    pub fn decode(bytes: &[u8; ID_LEN]) -> Option<Self> {
        let number = |part: &[u8]| {
            part.iter().rev().try_fold(0_u32, |number, &letter| {
                let digit = letter.checked_sub(b'a').filter(|&digit| digit < 16)?;
                Some(number << 4 | u32::from(digit))
            })
        };
        Some(Self { connection: number(&bytes[..8])?, sequence: number(&bytes[8..])? })
    }
}

/// A masking key that is not zero, which would leave the payload bare.
#[inline]
fn nonzero_key(random: u64) -> [u8; 4] {
    (random as u32 | 0x0100).to_le_bytes()
}

/// The eight half bytes of a number as letters, the lowest first.
#[inline]
fn letters(number: u32) -> [u8; 8] {
    // Spread the half bytes over the eight bytes of a word, halving the distance each time.
    let mut word = u64::from(number);
    word = (word | word << 16) & 0x0000_ffff_0000_ffff;
    word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
    word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    (word + 0x6161_6161_6161_6161).to_le_bytes()
}

/// Copies `from` to `to` and masks it on the way; the first byte meets the first byte of the key.
#[inline]
pub fn copy_masked(from: &[u8], key: [u8; 4], to: &mut [u8]) {
    let word = key_word(key);
    let ((to_words, to_rest), (from_words, from_rest)) = (to.as_chunks_mut::<8>(), from.as_chunks::<8>());
    for (to, from) in to_words.iter_mut().zip(from_words) {
        *to = (u64::from_ne_bytes(*from) ^ word).to_ne_bytes();
    }
    for ((to, from), key) in to_rest.iter_mut().zip(from_rest).zip(word.to_ne_bytes()) {
        *to = from ^ key;
    }
}

/// The key twice, as it lies in memory.
#[inline]
fn key_word(key: [u8; 4]) -> u64 {
    let word = u64::from(u32::from_ne_bytes(key));
    word | word << 32
}

/// Masks `bytes` in place; the first byte meets the first byte of the key (RFC 6455 section 5.3).
#[inline]
pub fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let word = key_word(key);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(word.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// Sebastiano Vigna's `splitmix64`: one well-mixed number for each state.
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn payload(messages: &Messages, id: MessageId) -> Vec<u8> {
        let mut bytes = vec![0; messages.size_of(id)];
        messages.write_masked(id, 0, [0; 4], &mut bytes);
        bytes
    }

    #[test]
    fn identification_survives_the_round_trip() {
        for (connection, sequence) in [(0, 0), (1, 2), (u32::MAX, 0x1234_5678), (0xfedc_ba98, u32::MAX)] {
            let id = MessageId { connection, sequence };
            assert_eq!(MessageId::decode(&id.encode()), Some(id));
            assert!(id.encode().iter().all(u8::is_ascii_lowercase));
        }
        assert_eq!(MessageId::decode(b"abcdefghijklmnoq"), None);
    }

    #[test]
    fn written_in_any_pieces_it_matches_in_any_pieces() {
        let messages = Messages::new(3 * PERIOD + 5, false, true);
        let id = MessageId { connection: 77, sequence: 9 };
        let whole = payload(&messages, id);
        let key = [1, 2, 3, 4];
        for cut in [0, 1, 7, 15, 16, 17, PERIOD - 1, PERIOD, 2 * PERIOD + 3, whole.len()] {
            let mut pieces = vec![0; whole.len()];
            let (left, right) = pieces.split_at_mut(cut);
            messages.write_masked(id, 0, key, left);
            messages.write_masked(id, cut, key, right);
            mask(&mut pieces, key);
            assert!(pieces == whole, "cut at {cut}");
            assert!(messages.matches(id, 0, &whole[..cut]) && messages.matches(id, cut, &whole[cut..]));
        }
    }

    #[test]
    fn the_masked_parts_of_a_large_message_are_its_masked_payload() {
        let messages = Messages::new(3 * PERIOD + 5, false, true);
        let any = MessageId { connection: 1, sequence: 0 };
        assert!(messages.is_large(any) && !Messages::new(LARGE - 1, false, true).is_large(any));
        let keys: HashSet<_> =
            (0..20).map(|sequence| messages.masking_key(MessageId { connection: 1, sequence })).collect();
        assert_eq!(keys.len(), LARGE_KEYS);
        for sequence in 0..20 {
            let id = MessageId { connection: 1, sequence };
            let mut whole = vec![0; messages.size_of(id)];
            messages.write_masked(id, 0, messages.masking_key(id), &mut whole);
            let mut at = ID_LEN;
            while at < messages.size_of(id) {
                let part = messages.masked_part(id, at);
                assert!(part.len() >= PERIOD || at + part.len() == messages.size_of(id));
                assert!(whole[at..at + part.len()] == *part);
                at += part.len();
            }
        }
    }

    #[test]
    fn the_users_messages_are_sent_in_turn() {
        let path = std::env::temp_dir().join(format!("ringload-own-{}.txt", std::process::id()));
        let large = "x".repeat(LARGE + 3);
        std::fs::write(&path, format!("a\nbc\n{large}\n")).unwrap();
        let own = OwnMessages::read(&path, true).unwrap();
        std::fs::remove_file(&path).unwrap();
        let messages = Messages::with(own.sizes(), true, Expect::Echo, Some(own), 0);
        let id = |connection, sequence| MessageId { connection, sequence };
        let text = |id| String::from_utf8(payload(&messages, id)).unwrap();
        let of_second: Vec<_> = (0..4).map(|sequence| text(id(1, sequence)).len()).collect();
        assert_eq!(of_second, [2, LARGE + 3, 1, 2]);
        assert_eq!((text(id(0, 0)), text(id(0, 1))), ("a".to_owned(), "bc".to_owned()));
        assert!(messages.matches(id(0, 1), 0, b"bc") && !messages.matches(id(0, 1), 0, b"bx"));
        assert!(messages.matches(id(0, 1), 1, b"c") && !messages.are_identified());
        let long = id(2, 0);
        assert!(messages.is_large(long) && !messages.is_large(id(0, 0)));
        let mut whole = vec![0; LARGE + 3];
        messages.write_masked(long, 0, messages.masking_key(long), &mut whole);
        assert!(whole[ID_LEN..] == *messages.masked_part(long, ID_LEN));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        for size in [1, 15, 16, 17, 128] {
            let messages = Messages::new(size, true, true);
            let id = MessageId { connection: 3, sequence: 4 };
            let good = payload(&messages, id);
            assert!(good.is_ascii());
            for at in 0..size {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert!(!messages.matches(id, 0, &bad), "byte {at} of {size}");
            }
        }
    }

    #[test]
    fn more_bytes_than_the_message_has_do_not_match() {
        let messages = Messages::new(20, false, true);
        let id = MessageId { connection: 0, sequence: 0 };
        let mut long = payload(&messages, id);
        long.push(0);
        assert!(!messages.matches(id, 0, &long));
    }

    #[test]
    fn neighbouring_messages_differ() {
        let messages = Messages::new(8, false, true);
        let first = payload(&messages, MessageId { connection: 1, sequence: 1 });
        assert_ne!(first, payload(&messages, MessageId { connection: 1, sequence: 2 }));
        assert_ne!(first, payload(&messages, MessageId { connection: 2, sequence: 1 }));
    }

    #[test]
    fn masking_matches_its_definition() {
        let key = [0xa1, 0x02, 0x33, 0xf4];
        for len in 0..40 {
            let plain: Vec<u8> = (0..len).collect();
            let mut masked = plain.clone();
            mask(&mut masked, key);
            assert!(masked.iter().enumerate().all(|(i, byte)| *byte == plain[i] ^ key[i % 4]));
        }
    }
}
