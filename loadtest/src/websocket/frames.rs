//! Frames: strict parsing of a server's, writing of a client's.

use thiserror::Error;

use super::deflate::RSV1;
use super::utf8::Utf8;
use crate::message::mask;

/// The longest header that a client writes: 2 bytes, a 64-bit length, a masking key.
pub const MAX_CLIENT_HEADER: usize = 14;

/// The longest payload of a control frame (RFC 6455 section 5.5).
const MAX_CONTROL: usize = 125;

/// Length codes that announce a 16-bit and a 64-bit length (RFC 6455 section 5.2).
const LEN_16: u8 = 0x7e;
const LEN_64: u8 = 0x7f;

/// Opcodes (RFC 6455 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A text message's first frame.
    Text = 1,
    /// A binary message's first frame.
    Binary = 2,
    /// The closing handshake.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

/// The violation in a frame from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// RFC 6455 section 5.1.
    #[error("masked frame from the server")]
    Masked,
    /// RFC 6455 section 5.2: no extension was negotiated that gives it a meaning.
    #[error("reserved bit set")]
    ReservedBit,
    /// RFC 7692 section 6.
    #[error("frame marked as compressed (RSV1) that begins no message")]
    Compressed,
    /// RFC 7692 section 7.2.2.
    #[error("compressed message that cannot be inflated")]
    Deflate,
    /// The length of a message that is compressed shows only when it is inflated.
    #[error("compressed message that is inflated to more than can be expected")]
    Inflated,
    /// RFC 6455 section 5.2.
    #[error("reserved opcode")]
    ReservedOpcode,
    /// RFC 6455 section 5.2: the minimal number of bytes must be used, the topmost bit must be 0. (Here the topmost six.)
    #[error("length not encoded in the shortest way, or beyond all bounds")]
    Length,
    /// RFC 6455 section 5.5.
    #[error("control frame that is fragmented or longer than 125 bytes")]
    Control,
    /// RFC 6455 section 5.4.
    #[error("continuation of no message, or a new message inside a fragmented one")]
    Order,
    /// RFC 6455 sections 5.5.1 and 7.4.
    #[error("close frame with half a code, or one that must not be sent")]
    Close,
    /// RFC 6455 sections 8.1 and 5.5.1.
    #[error("text, or the reason of a close frame, that is not UTF-8")]
    Utf8,
    /// RFC 6455 section 5.5.1.
    #[error("data after the server's own close frame")]
    AfterClose,
}

/// The codes of this side's Close frames (RFC 6455 section 7.4.1).
pub mod close_code {
    /// This side has what it wanted.
    pub const NORMAL: u16 = 1000;
    /// The server has broken the protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// The server has sent text that is none.
    pub const INVALID_PAYLOAD: u16 = 1007;
    /// The server has sent a message that is too large.
    pub const MESSAGE_TOO_BIG: u16 = 1009;
}

impl Violation {
    /// The code that tells the server.
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::Utf8 | Self::Deflate => close_code::INVALID_PAYLOAD,
            Self::Inflated => close_code::MESSAGE_TOO_BIG,
            _ => close_code::PROTOCOL_ERROR,
        }
    }
}

/// The events of the reader.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Some of a message's payload.
    Payload {
        /// Whether the message is text.
        text: bool,
        /// Whether the bytes are compressed: then text has not been checked for UTF-8 yet.
        compressed: bool,
        /// The bytes; empty only if the frame is.
        bytes: &'a [u8],
        /// Whether they are the message's last ones.
        end: bool,
    },
    /// A ping, which asks for a pong with the same payload.
    Ping(Box<[u8]>),
    /// A pong, which is to have the payload of a ping.
    Pong(Box<[u8]>),
    /// The server's Close.
    Close(ServerClose),
}

/// The content of the server's Close frame (RFC 6455 section 5.5.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerClose {
    /// Its code, if it has one.
    pub code: Option<u16>,
    /// Its reason: empty if it gives none.
    pub reason: Box<str>,
}

impl ServerClose {
    /// The code of the Close that answers it: the same.
    #[must_use]
    pub fn answer(&self) -> u16 {
        self.code.unwrap_or(close_code::NORMAL)
    }
}

/// Incomplete input: a cut header, or a control frame.
#[derive(Debug)]
struct Partial {
    bytes: [u8; 10 + MAX_CONTROL],
    len: u8,
}

impl Default for Partial {
    fn default() -> Self {
        Self { bytes: [0; 10 + MAX_CONTROL], len: 0 }
    }
}

/// Reads one connection's frames from bytes that arrive in any pieces.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// Payload bytes of the current data frame that are still to come, above [`FLAGS`].
    state: u64,
    partial: Option<Box<Partial>>,
}

/// The current data frame is the last of its message.
const FINAL: u64 = 1;
/// A message has begun and not ended.
const IN_MESSAGE: u64 = 2;
/// That message is text.
const TEXT: u64 = 4;
/// The position within a code point at which text was cut.
const UTF8_SHIFT: u32 = 3;
const UTF8: u64 = 7 << UTF8_SHIFT;
/// Compression was negotiated. At the place that RSV1 has in a frame's first byte.
const NEGOTIATED: u64 = RSV1 as u64;
/// The message is compressed.
const COMPRESSED: u64 = 128;
/// All flags, in the lowest bits of the reader's state.
const FLAGS: u64 = FINAL | IN_MESSAGE | TEXT | UTF8 | NEGOTIATED | COMPRESSED;
const FLAG_BITS: u32 = FLAGS.count_ones();

/// Frames of this length, which leave no room for the flags, are never echoed.
const MAX_PAYLOAD: u64 = u64::MAX >> FLAG_BITS;

/// A frame header, decoded.
#[derive(Clone, Copy)]
struct Header {
    first: u8,
    len: usize,
    payload: u64,
}

impl FrameReader {
    /// From now on messages may be compressed (RFC 7692).
    pub fn allow_compression(&mut self) {
        self.state |= NEGOTIATED;
    }

    /// The next event in `input`, which is moved on behind it; `None` when more bytes are needed.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Violation> {
        if self.remaining() > 0 {
            return self.payload(input);
        }
        if self.partial.is_some() || input.is_empty() {
            return self.resume(input);
        }
        match Header::decode(input, self.state)? {
            Some(header) if header.is_data() => {
                *input = &input[header.len..];
                self.begin(header)?;
                self.payload_or_empty(input)
            }
            _ => self.resume(input),
        }
    }

    #[inline]
    fn remaining(&self) -> u64 {
        self.state >> FLAG_BITS
    }

    /// Payload of the current data frame, as much as there is.
    #[inline]
    fn payload<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Violation> {
        let len = usize::try_from(self.remaining()).map_or(input.len(), |remaining| remaining.min(input.len()));
        if len == 0 {
            return Ok(None);
        }
        let (bytes, rest) = input.split_at(len);
        *input = rest;
        self.state -= (len as u64) << FLAG_BITS;
        self.event(bytes).map(Some)
    }

    /// The first event of a frame: an empty one is complete with its header.
    #[inline]
    fn payload_or_empty<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Violation> {
        if self.remaining() == 0 { self.event(&[]).map(Some) } else { self.payload(input) }
    }

    #[inline]
    fn event<'a>(&mut self, bytes: &'a [u8]) -> Result<Event<'a>, Violation> {
        let (text, compressed) = (self.state & TEXT != 0, self.state & COMPRESSED != 0);
        let end = self.state & !(FLAGS & !FINAL) == FINAL;
        if text && !compressed {
            self.read_text(bytes, end)?;
        }
        if end {
            self.state &= NEGOTIATED;
        }
        Ok(Event::Payload { text, compressed, bytes, end })
    }

    /// Checks that text goes on, or ends, as UTF-8.
    #[inline]
    fn read_text(&mut self, bytes: &[u8], end: bool) -> Result<(), Violation> {
        let before = Utf8::STATES[((self.state & UTF8) >> UTF8_SHIFT) as usize];
        let utf8 = before.push(bytes).ok_or(Violation::Utf8)?;
        if end && utf8 != Utf8::Boundary {
            return Err(Violation::Utf8);
        }
        self.state = self.state & !UTF8 | (utf8 as u64) << UTF8_SHIFT;
        Ok(())
    }

    /// Starts a data frame.
    #[inline]
    fn begin(&mut self, header: Header) -> Result<(), Violation> {
        let continues = header.opcode() == 0;
        if continues != (self.state & IN_MESSAGE != 0) {
            return Err(Violation::Order);
        }
        let kind = match (continues, header.opcode()) {
            (true, _) => self.state & (TEXT | UTF8 | COMPRESSED),
            (false, opcode) => {
                (TEXT * u64::from(opcode == Opcode::Text as u8)) | (COMPRESSED * u64::from(header.first & RSV1 != 0))
            }
        };
        let is_final = FINAL * u64::from(header.is_final());
        self.state = header.payload << FLAG_BITS | self.state & NEGOTIATED | IN_MESSAGE | kind | is_final;
        Ok(())
    }

    /// The rare path: collects a cut header or a control frame byte by byte.
    #[cold]
    fn resume<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Violation> {
        loop {
            if input.is_empty() {
                return Ok(None);
            }
            let partial = self.partial.get_or_insert_default();
            let Some(header) = Header::decode(partial.bytes(), self.state)? else {
                partial.take_from(input, 1);
                if let Some(header) = Header::decode(partial.bytes(), self.state)?
                    && (header.is_data() || header.payload == 0)
                {
                    return self.complete(header, input);
                }
                continue;
            };
            let missing = header.len + header.payload as usize - usize::from(partial.len);
            partial.take_from(input, missing);
            if usize::from(partial.len) == header.len + header.payload as usize {
                return self.complete(header, input);
            }
        }
    }

    /// A collected header (data) or frame (control) is whole.
    fn complete<'a>(&mut self, header: Header, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Violation> {
        let partial = self.partial.take().expect("collected by the caller");
        if header.is_data() {
            self.begin(header)?;
            return self.payload_or_empty(input);
        }
        let payload = &partial.bytes()[header.len..];
        Ok(Some(match header.opcode() {
            8 => Event::Close(server_close(payload)?),
            9 => Event::Ping(payload.into()),
            _ => Event::Pong(payload.into()),
        }))
    }
}

impl Partial {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Moves up to `count` bytes over. Headers are at most 10 bytes and control payloads 125, so there is room.
    fn take_from(&mut self, input: &mut &[u8], count: usize) {
        let (taken, rest) = input.split_at(count.min(input.len()));
        let start = usize::from(self.len);
        self.bytes[start..start + taken.len()].copy_from_slice(taken);
        self.len += taken.len() as u8;
        *input = rest;
    }
}

impl Header {
    /// Decodes and checks the header at the start of `input`; `None` when it is cut. What can be refused by the first
    /// two bytes is refused by them. The reader's state says whether RSV1 has a meaning.
    #[inline]
    fn decode(input: &[u8], state: u64) -> Result<Option<Self>, Violation> {
        let &[first, second, ref rest @ ..] = input else { return Ok(None) };
        let opcode = first & 0x0f;
        if first & 0x70 != 0 {
            check_reserved(first, state)?;
        }
        if !matches!(opcode, 0..=2 | 8..=10) {
            return Err(Violation::ReservedOpcode);
        }
        if second & 0x80 != 0 {
            return Err(Violation::Masked);
        }
        if opcode >= 8 && (first & 0x80 == 0 || usize::from(second) > MAX_CONTROL) {
            return Err(Violation::Control);
        }
        let (len, payload) = match (second, rest) {
            (LEN_16, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
            (LEN_64, rest) => match rest.first_chunk() {
                Some(length) => (10, u64::from_be_bytes(*length)),
                None => return Ok(None),
            },
            (LEN_16, _) => return Ok(None),
            (short, _) => (2, u64::from(short)),
        };
        let shortest = match payload {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => 10,
        };
        if len != shortest || payload > MAX_PAYLOAD {
            return Err(Violation::Length);
        }
        Ok(Some(Self { first, len, payload }))
    }

    fn opcode(self) -> u8 {
        self.first & 0x0f
    }

    fn is_final(self) -> bool {
        self.first & 0x80 != 0
    }

    fn is_data(self) -> bool {
        self.opcode() < 8
    }
}

/// Reserved bits are set: that is right for the first frame of a compressed message alone.
#[cold]
fn check_reserved(first: u8, state: u64) -> Result<(), Violation> {
    if first & 0x70 != RSV1 || state & NEGOTIATED == 0 {
        return Err(Violation::ReservedBit);
    }
    let begins_message = matches!(first & 0x0f, 1 | 2);
    if begins_message { Ok(()) } else { Err(Violation::Compressed) }
}

/// Checks a Close frame's payload (RFC 6455 sections 5.5.1 and 7.4): none, or a code that may be sent and a reason in
/// UTF-8.
fn server_close(payload: &[u8]) -> Result<ServerClose, Violation> {
    let [high, low, reason @ ..] = payload else {
        return if payload.is_empty() { Ok(ServerClose::default()) } else { Err(Violation::Close) };
    };
    let code = u16::from_be_bytes([*high, *low]);
    let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    match str::from_utf8(reason) {
        _ if !may_be_sent => Err(Violation::Close),
        Err(_) => Err(Violation::Utf8),
        Ok(reason) => Ok(ServerClose { code: Some(code), reason: reason.into() }),
    }
}

/// Bytes of a client frame's header for a payload of `len` bytes.
#[inline]
#[must_use]
pub fn client_header_len(len: usize) -> usize {
    match len {
        0..=125 => 6,
        126..=0xffff => 8,
        _ => MAX_CLIENT_HEADER,
    }
}

/// Writes the header of a final, masked frame into `out`; returns its length.
#[inline]
pub fn write_client_header(opcode: Opcode, len: usize, key: [u8; 4], out: &mut [u8]) -> usize {
    out[0] = 0x80 | opcode as u8;
    let at = match len {
        0..=125 => {
            out[1] = 0x80 | len as u8;
            2
        }
        126..=0xffff => {
            out[1] = 0x80 | LEN_16;
            out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = 0x80 | LEN_64;
            out[2..10].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    out[at..at + 4].copy_from_slice(&key);
    at + 4
}

/// The same of a compressed message (RFC 7692 section 6).
pub fn write_compressed_header(opcode: Opcode, len: usize, key: [u8; 4], out: &mut [u8]) -> usize {
    let header = write_client_header(opcode, len, key, out);
    out[0] |= RSV1;
    header
}

/// Writes a masked control frame into `out`; returns its length.
pub fn write_control(opcode: Opcode, payload: &[u8], key: [u8; 4], out: &mut [u8]) -> usize {
    let header = write_client_header(opcode, payload.len(), key, out);
    let frame = header + payload.len();
    out[header..frame].copy_from_slice(payload);
    mask(&mut out[header..frame], key);
    frame
}

#[cfg(test)]
mod tests;
