//! What must come of a stream of frames, by the letter of RFC 6455 and with no thought of speed.
//!
//! It looks at the whole stream at once and says what is against the rules in a frame, not what is found first: where a
//! frame breaks several, any of their close codes is right.

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Close codes (section 7.4.1).
pub const PROTOCOL_ERROR: u16 = 1002;
pub const INVALID_DATA: u16 = 1007;
pub const TOO_BIG: u16 = 1009;

/// The sender of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// What a stream says; of a client's, that is what must come back as its echo.
#[derive(Debug, Default)]
pub struct Expected {
    /// Opcode and payload of each whole message, of each Ping (as the Pong that answers it) and of the Close, in order.
    pub messages: Vec<(u8, Vec<u8>)>,
    /// Where each good frame that is whole ends in the stream.
    pub frame_ends: Vec<usize>,
    /// The message that has begun and not ended: opcode, and what has come of it in good order.
    pub open: Option<(u8, Vec<u8>)>,
    pub end: End,
}

/// How a stream ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum End {
    /// It may go on.
    #[default]
    BetweenFrames,
    /// It may go on with the rest of a frame.
    WithinFrame,
    /// The client has closed, in good order.
    Closed,
    Failed(Failure),
}

/// The first frame that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The close codes of all the rules that it breaks.
    pub codes: Vec<u16>,
    /// Whether all of the frame is there. If not, the rule is broken whatever follows.
    pub is_whole: bool,
    /// The length in its header, if that is there.
    pub payload_len: Option<u64>,
    /// Whether its only fault is a length that is not in its shortest form.
    pub is_merely_long_form: bool,
    /// What is there of its payload, unmasked.
    pub payload: Vec<u8>,
}

/// Payload bytes of a frame that ringload takes from a server at most; no server echoes longer ones.
const MAX_FROM_SERVER: u64 = u64::MAX >> 6;

/// What must come of a client's `stream`, which begins with a frame.
#[must_use]
pub fn expect(stream: &[u8], max_message_size: u64) -> Expected {
    expect_from(Sender::Client, stream, max_message_size)
}

/// What must come of `stream`, which begins with a frame.
#[must_use]
pub fn expect_from(sender: Sender, stream: &[u8], max_message_size: u64) -> Expected {
    let mut expected = Expected::default();
    let mut utf8 = Utf8::default();
    let mut at = 0;
    while let Some(frame) = Frame::parse(&stream[at..]) {
        let faults = faults(sender, &frame, &expected, utf8, max_message_size);
        if !faults.is_empty() {
            let is_merely_long_form = faults.iter().all(|&fault| fault == Fault::LengthForm);
            let codes = faults.into_iter().map(Fault::code).collect();
            let Frame { is_whole, payload_len, payload, .. } = frame;
            expected.end = End::Failed(Failure { codes, is_whole, payload_len, is_merely_long_form, payload });
            return expected;
        }
        expected.take(&frame, &mut utf8);
        if !frame.is_whole {
            expected.end = End::WithinFrame;
            return expected;
        }
        at += frame.len;
        expected.frame_ends.push(at);
        if frame.opcode() == CLOSE {
            expected.end = End::Closed;
            return expected;
        }
    }
    expected
}

impl Expected {
    fn take(&mut self, frame: &Frame, utf8: &mut Utf8) {
        match frame.opcode() {
            CLOSE if frame.is_whole => self.messages.push((CLOSE, frame.payload.clone())),
            PING if frame.is_whole => self.messages.push((PONG, frame.payload.clone())),
            opcode @ (CONTINUATION | TEXT | BINARY) if frame.has_header => {
                let (kind, message) = self.open.get_or_insert_with(|| (opcode, Vec::new()));
                message.extend_from_slice(&frame.payload);
                if *kind == TEXT {
                    assert!(utf8.push(&frame.payload), "checked before");
                }
                if frame.is_whole && frame.is_final() {
                    self.messages.extend(self.open.take());
                }
            }
            _ => {}
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Protocol,
    LengthForm,
    Utf8,
    Size,
}

impl Fault {
    fn code(self) -> u16 {
        match self {
            Fault::Protocol | Fault::LengthForm => PROTOCOL_ERROR,
            Fault::Utf8 => INVALID_DATA,
            Fault::Size => TOO_BIG,
        }
    }
}

/// Every rule that `frame` breaks, as the next one after `so_far`.
fn faults(sender: Sender, frame: &Frame, so_far: &Expected, mut utf8: Utf8, max_message_size: u64) -> Vec<Fault> {
    let opcode = frame.opcode();
    let is_control = opcode >= 8;
    let kind = so_far.open.as_ref().map(|(kind, _)| *kind);
    let size = so_far.open.as_ref().map_or(0, |(_, message)| message.len() as u64);
    let mut faults = Vec::new();
    let mut rule = |is_broken: bool, fault: Fault| faults.extend(is_broken.then_some(fault));

    rule(frame.first & 0x70 != 0, Fault::Protocol); // 5.2: reserved bits
    rule(!matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG), Fault::Protocol); // 5.2: opcodes
    rule(is_control && !frame.is_final(), Fault::Protocol); // 5.5: not fragmented
    rule(opcode == CONTINUATION && kind.is_none(), Fault::Protocol); // 5.4: nothing to continue
    rule(matches!(opcode, TEXT | BINARY) && kind.is_some(), Fault::Protocol); // 5.4: not within another
    if let Some(second) = frame.second {
        let is_masked = second & 0x80 != 0;
        rule(is_masked != (sender == Sender::Client), Fault::Protocol); // 5.1: a client masks, a server does not
        let is_short = frame.payload_len.is_some_and(|len| len <= 125); // in a form for longer ones
        rule(is_control && second & 0x7f > 125 && !is_short, Fault::Protocol); // 5.5: 125 bytes
    }
    rule(frame.is_huge, Fault::Protocol); // 5.2: the highest of 64 bits
    if let Some(len) = frame.payload_len {
        rule(sender == Sender::Server && len > MAX_FROM_SERVER, Fault::Protocol);
        rule(frame.length_bytes > shortest_form(len), Fault::LengthForm); // 5.2: the minimal number of bytes
        rule(!is_control && size.saturating_add(len) > max_message_size, Fault::Size); // 7.4.1
    }
    if opcode == TEXT || (opcode == CONTINUATION && kind == Some(TEXT)) {
        let is_complete = frame.is_whole && frame.is_final();
        rule(!utf8.push(&frame.payload) || (is_complete && !utf8.is_whole()), Fault::Utf8); // 8.1
    }
    if opcode == CLOSE && frame.is_whole {
        faults.extend(close_faults(&frame.payload));
    }
    faults
}

fn shortest_form(len: u64) -> usize {
    match len {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    }
}

/// The close codes of the rules that a Close frame's payload breaks (sections 5.5.1, 7.4 and 8.1).
#[must_use]
pub fn close_verdict(payload: &[u8]) -> Vec<u16> {
    close_faults(payload).into_iter().map(Fault::code).collect()
}

fn close_faults(payload: &[u8]) -> Vec<Fault> {
    let (code, reason) = match payload {
        [] => return Vec::new(),
        [_] => return vec![Fault::Protocol],
        [high, low, reason @ ..] => (u16::from(*high) << 8 | u16::from(*low), reason),
    };
    let mut faults = Vec::new();
    faults.extend((!may_be_sent(code)).then_some(Fault::Protocol));
    faults.extend((!is_utf8(reason)).then_some(Fault::Utf8));
    faults
}

/// Section 7.4.1, and the registry of section 11.7 as IANA keeps it.
fn may_be_sent(code: u16) -> bool {
    match code {
        1004..=1006 | 1015 => false,       // reserved, or must not be set by an endpoint
        1000..=1003 | 1007..=1011 => true, // defined in the RFC
        1012..=1014 => true,               // registered later: restart, try again later, bad gateway
        3000..=4999 => true,               // libraries and frameworks, then private use (7.4.2)
        _ => false,                        // not used, or not yet
    }
}

/// UTF-8 byte by byte, after the syntax of RFC 3629, section 4: how many bytes are still to come, and what the next
/// one may be.
#[derive(Clone, Copy, Debug)]
pub struct Utf8 {
    missing: u8,
    next: (u8, u8),
}

const TAIL: (u8, u8) = (0x80, 0xbf);

impl Default for Utf8 {
    fn default() -> Self {
        Self { missing: 0, next: TAIL }
    }
}

impl Utf8 {
    /// Whether the text can still become UTF-8.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| self.push_byte(byte))
    }

    /// Whether no code point is cut.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.missing == 0
    }

    fn push_byte(&mut self, byte: u8) -> bool {
        if self.missing > 0 {
            let (low, high) = std::mem::replace(&mut self.next, TAIL);
            self.missing -= 1;
            return (low..=high).contains(&byte);
        }
        (self.missing, self.next) = match byte {
            0x00..=0x7f => (0, TAIL),
            0xc2..=0xdf => (1, TAIL),
            0xe0 => (2, (0xa0, 0xbf)),
            0xe1..=0xec | 0xee..=0xef => (2, TAIL),
            0xed => (2, (0x80, 0x9f)),
            0xf0 => (3, (0x90, 0xbf)),
            0xf1..=0xf3 => (3, TAIL),
            0xf4 => (3, (0x80, 0x8f)),
            _ => return false,
        };
        true
    }
}

#[must_use]
pub fn is_utf8(text: &[u8]) -> bool {
    let mut utf8 = Utf8::default();
    utf8.push(text) && utf8.is_whole()
}

/// A frame, or as much of one as is there.
struct Frame {
    first: u8,
    second: Option<u8>,
    /// How many bytes the length has behind the second byte.
    length_bytes: usize,
    payload_len: Option<u64>,
    /// The length has 64 bits and the highest is set.
    is_huge: bool,
    /// The header is there, with its masking key if it has one; what follows is payload.
    has_header: bool,
    /// What is there of it, unmasked.
    payload: Vec<u8>,
    is_whole: bool,
    /// Bytes of the frame that are there.
    len: usize,
}

impl Frame {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let second = bytes.get(1).copied();
        let length_bytes = match second.map(|second| second & 0x7f) {
            Some(126) => 2,
            Some(127) => 8,
            _ => 0,
        };
        let payload_len = second.and_then(|second| {
            let extended = bytes.get(2..2 + length_bytes)?;
            let short = u64::from(second & 0x7f);
            Some(if extended.is_empty() {
                short
            } else {
                extended.iter().fold(0, |len, &byte| len << 8 | u64::from(byte))
            })
        });
        let is_huge = length_bytes == 8 && bytes.get(2).is_some_and(|byte| byte & 0x80 != 0);
        let is_masked = second.is_some_and(|second| second & 0x80 != 0);
        let payload_at = 2 + length_bytes + if is_masked { 4 } else { 0 };
        let mut frame = Self {
            first,
            second,
            length_bytes,
            payload_len,
            is_huge,
            has_header: false,
            payload: Vec::new(),
            is_whole: false,
            len: bytes.len(),
        };
        if let (Some(payload_len), Some(rest)) = (payload_len, bytes.get(payload_at..)) {
            let there = payload_len.min(rest.len() as u64);
            frame.has_header = true;
            frame.is_whole = there == payload_len;
            frame.payload = rest[..there as usize].to_vec();
            frame.len = payload_at + there as usize;
            if is_masked {
                apply(&mut frame.payload, &bytes[payload_at - 4..payload_at]);
            }
        }
        Some(frame)
    }

    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }
}

/// Section 5.3.
fn apply(payload: &mut [u8], key: &[u8]) {
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[i % 4];
    }
}

/// The stream whose payloads are `clear`'s, each masked with the key in its header. Its own inverse.
#[must_use]
pub fn mask(clear: &[u8]) -> Vec<u8> {
    let mut masked = Vec::with_capacity(clear.len());
    let mut rest = clear;
    while let Some(frame) = Frame::parse(rest) {
        masked.extend_from_slice(&rest[..frame.len - frame.payload.len()]);
        masked.extend_from_slice(&frame.payload);
        rest = &rest[frame.len..];
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_is_what_the_standard_library_takes_for_it() {
        // All of two bytes, then those of three and four that begin like the special cases.
        let starts: [&[u8]; 9] = [b"", b"\xe0", b"\xe1", b"\xed", b"\xef", b"\xf0\x90", b"\xf0", b"\xf4", b"\xf4\x8f"];
        for start in starts {
            for pair in 0..=u16::MAX {
                let text = [start, &pair.to_be_bytes()].concat();
                let mut utf8 = Utf8::default();
                let is_possible = std::str::from_utf8(&text).err().is_none_or(|error| error.error_len().is_none());
                assert_eq!(utf8.push(&text), is_possible, "{text:x?}");
                assert_eq!(is_utf8(&text), std::str::from_utf8(&text).is_ok(), "{text:x?}");
            }
        }
    }

    #[test]
    fn masking_is_its_own_inverse_and_leaves_headers() {
        let clear =
            [&b"\x81\x85\x37\xfa\x21\x3dHello"[..], b"\x82\x03raw", b"\x82\xfe\x00\x80\x01\x02\x03\x04cut"].concat();
        let masked = mask(&clear);
        assert_eq!(masked[..11], [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        assert_eq!(masked[11..16], clear[11..16], "no key, no mask");
        assert_eq!(mask(&masked), clear);
    }

    #[test]
    fn a_message_in_fragments_comes_back_whole_and_a_ping_within_it_before_it() {
        let stream = mask(b"\x01\x82\0\0\0\0ab\x89\x81\x01\x01\x01\x01p\x80\x81\0\0\0\0c\x88\x82\0\0\0\0\x03\xe8");
        let expected = expect(&stream, 3);
        let messages: [(u8, &[u8]); 3] = [(PONG, b"p"), (TEXT, b"abc"), (CLOSE, b"\x03\xe8")];
        assert!(expected.messages.iter().map(|(opcode, payload)| (*opcode, &payload[..])).eq(messages));
        assert_eq!((expected.end, expected.open), (End::Closed, None));
    }

    #[test]
    fn a_client_masks_and_a_server_does_not() {
        for (sender, stream) in [(Sender::Client, &b"\x82\x81\0\0\0\0x"[..]), (Sender::Server, b"\x82\x01x")] {
            let expected = expect_from(sender, stream, 1);
            assert_eq!((expected.messages, expected.frame_ends), (vec![(BINARY, b"x".to_vec())], vec![stream.len()]));
            let other = if sender == Sender::Client { Sender::Server } else { Sender::Client };
            let End::Failed(failure) = expect_from(other, stream, 1).end else { panic!("from a {other:?}") };
            assert_eq!(failure.codes, [PROTOCOL_ERROR]);
        }
    }

    #[test]
    fn all_faults_of_a_frame_are_named() {
        let End::Failed(failure) = expect(b"\xf1\x7e\x00\x05", 3).end else { panic!("many faults") };
        assert!(failure.codes.contains(&PROTOCOL_ERROR) && failure.codes.contains(&TOO_BIG));
        assert!(!failure.is_merely_long_form && !failure.is_whole);
        let End::Failed(failure) = expect(b"\x82\xfe\x00\x01\0\0\0\0x", 3).end else { panic!("a long form") };
        assert!(failure.is_merely_long_form && failure.is_whole);
    }
}
