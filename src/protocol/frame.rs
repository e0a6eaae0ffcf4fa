//! Frame headers (RFC 6455, section 5.2).

use super::{close::Violation, mask::MaskingKey};

/// First byte: the last frame of its message.
pub(super) const FIN: u8 = 0x80;
/// First byte, reserved for extensions: the first frame of a compressed message (RFC 7692, section 6).
pub(super) const RSV1: u8 = 0x40;
const RESERVED_BITS: u8 = 0x70;
const OPCODE: u8 = 0x0f;
/// Second byte: a masking key follows the length.
const MASK: u8 = 0x80;
const LENGTH: u8 = 0x7f;

/// Opcodes (section 5.2); the value is in a frame's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation = 0x0,
    /// Text in UTF-8, or its first fragment.
    Text = 0x1,
    /// Binary data, or its first fragment.
    Binary = 0x2,
    /// The end of what this endpoint sends.
    Close = 0x8,
    /// Asks for a Pong with the same payload.
    Ping = 0x9,
    /// Answers a Ping, or says of its own accord that the endpoint is there.
    Pong = 0xa,
}

impl Opcode {
    /// Of a frame's first byte; `None`: reserved.
    #[inline]
    pub const fn of(first: u8) -> Option<Self> {
        Some(match first & OPCODE {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    /// Close, Ping and Pong: never fragmented, and allowed between the fragments of a message (section 5.5).
    #[inline]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// Payload bytes that a control frame may carry (section 5.5).
pub(super) const MAX_CONTROL_LEN: usize = 125;
/// Bytes of the longest control frame that a client sends; its header is two bytes and the masking key. No header of a
/// data frame is longer.
pub(super) const MAX_CONTROL_FRAME: usize = 2 + 4 + MAX_CONTROL_LEN;
/// Bytes of the longest header that a server sends: two, and a 64-bit length.
pub(super) const MAX_UNMASKED_HEADER: usize = 10;

/// Lengths up to this stand in the second byte itself; up to `MAX_LENGTH_16` in 16 bits, beyond in 64.
const MAX_SHORT_LEN: u64 = 125;
const MIN_LENGTH_16: u64 = MAX_SHORT_LEN + 1;
const MAX_LENGTH_16: u64 = u16::MAX as u64;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// The header of a frame from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The first byte, as it goes back: FIN, RSV1 and opcode.
    pub(super) first: u8,
    pub(super) payload_len: u64,
    pub(super) key: MaskingKey,
    /// Bytes of the header itself.
    pub(super) len: usize,
}

impl Header {
    pub(super) fn is_final(&self) -> bool {
        self.first & FIN != 0
    }
}

/// The opcode in a frame's first byte; every rule that this byte alone can break is checked.
#[inline]
pub(super) fn opcode(first: u8) -> Result<Opcode, Violation> {
    if first & RESERVED_BITS != 0 {
        return Err(Violation::ReservedBits);
    }
    match Opcode::of(first) {
        None => Err(Violation::UnknownOpcode),
        Some(opcode) if opcode.is_control() && first & FIN == 0 => Err(Violation::FragmentedControl),
        Some(opcode) => Ok(opcode),
    }
}

/// The payload length and where the masking key begins; `None`: the length is cut.
#[inline]
pub(super) fn payload_len(bytes: &[u8], opcode: Opcode) -> Result<Option<(u64, usize)>, Violation> {
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    if second & MASK == 0 {
        return Err(Violation::Unmasked);
    }
    let short = second & LENGTH;
    if u64::from(short) <= MAX_SHORT_LEN {
        return Ok(Some((u64::from(short), 2)));
    }
    if opcode.is_control() {
        return Err(Violation::LongControl);
    }
    if short == LENGTH_16 { length_16(&bytes[2..]) } else { length_64(&bytes[2..]) }
}

fn length_16(bytes: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    let Some(&len) = bytes.first_chunk() else { return Ok(None) };
    let len = u64::from(u16::from_be_bytes(len));
    if len >= MIN_LENGTH_16 { Ok(Some((len, 4))) } else { Err(Violation::LongLengthForm) }
}

fn length_64(bytes: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    if bytes.first().is_some_and(|&highest| highest & 0x80 != 0) {
        return Err(Violation::HugeLength);
    }
    let Some(&len) = bytes.first_chunk() else { return Ok(None) };
    let len = u64::from_be_bytes(len);
    if len > MAX_LENGTH_16 { Ok(Some((len, 10))) } else { Err(Violation::LongLengthForm) }
}

/// Bytes that [`write_header`] needs for a frame with this payload.
#[inline]
pub(super) fn header_len(payload_len: u64) -> usize {
    match payload_len {
        0..=MAX_SHORT_LEN => 2,
        MIN_LENGTH_16..=MAX_LENGTH_16 => 4,
        _ => MAX_UNMASKED_HEADER,
    }
}

/// The header of a whole binary message that the server sends.
#[must_use]
pub fn write_binary_header(payload_len: u64) -> Vec<u8> {
    let mut header = vec![0; header_len(payload_len)];
    write_header(&mut header, FIN | Opcode::Binary as u8, payload_len);
    header
}

/// The length of the header at the start of `bytes`, which [`write_header`] has written, and that of the payload.
pub(super) fn read_header(bytes: &[u8]) -> (usize, u64) {
    match bytes[1] {
        LENGTH_16 => (4, u64::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
        LENGTH_64 => {
            let len = bytes[2..].first_chunk().expect("a header is written whole");
            (MAX_UNMASKED_HEADER, u64::from_be_bytes(*len))
        }
        len => (2, u64::from(len)),
    }
}

/// Writes the header of an unmasked frame at the start of `to`, which has room for it.
#[inline]
pub(super) fn write_header(to: &mut [u8], first: u8, payload_len: u64) {
    to[0] = first;
    match payload_len {
        0..=MAX_SHORT_LEN => to[1] = payload_len as u8,
        MIN_LENGTH_16..=MAX_LENGTH_16 => {
            to[1] = LENGTH_16;
            to[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
        }
        _ => {
            to[1] = LENGTH_64;
            to[2..10].copy_from_slice(&payload_len.to_be_bytes());
        }
    }
}
