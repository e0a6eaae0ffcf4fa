//! The frames of one receive turned into their echo, in place (RFC 6455, sections 5 and 6).
//!
//! A client's frame and its echo differ in the mask bit, the masking key and the mask itself, so the echo is four bytes
//! shorter and fits where the frame was. The first payload of a receive stays in place and the new header is written right
//! before it; later frames move down behind it. No payload is stored: a frame that is cut by the end of a receive goes on
//! with the next.
//!
//! The header of a cut binary frame announces all of it, and its payload streams through. Text may turn out not to be UTF-8,
//! and then a Close frame must be able to follow; so each piece of a cut text frame is echoed as a fragment of its own, and
//! the output is always at a frame boundary except within a binary frame.

use std::ops::Range;

use super::{
    CloseCode, Kinds,
    close::{self, Violation},
    codecs::Inflation,
    extensions::Compression,
    frame::{self, Header, Opcode},
    mask::{self, MaskingKey},
    utf8::Utf8,
};

/// The handling of the current message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Message {
    #[default]
    None,
    Text,
    /// Or compressed, and echoed as it is.
    Binary,
    /// Compressed, and inflated.
    Inflated,
}

/// The position within a connection's incoming frames.
#[derive(Debug, Default)]
pub(super) struct Echo {
    /// Payload bytes that the current message's headers have announced so far.
    message_size: u64,
    /// `None`: the next byte is a header's first, and no compressed message is open that is inflated.
    kept: Option<Box<Kept>>,
    pub(super) utf8: Utf8,
    pub(super) message: Message,
    /// A frame of the current message has been sent: the next is a continuation.
    pub(super) is_begun: bool,
    /// We have sent a Close frame of our own accord: frames are read, but nothing is sent any more.
    is_silent: bool,
    /// The negotiated parameters.
    pub(super) compression: Compression,
}

const _: () = assert!(size_of::<Echo>() <= 24, "an idle connection pays for every byte");

/// State kept until the next receive.
#[derive(Debug, Default)]
struct Kept {
    /// The frame that the end of the last receive has cut.
    cut: Option<Cut>,
    /// Of a compressed message that is open, or of a client that takes its context over.
    inflation: Option<Box<Inflation>>,
}

/// A frame that waits for the next receive.
#[derive(Debug)]
pub(super) enum Cut {
    /// Cut in its header, or anywhere if it is a control frame: what is there of it, to be given again.
    Head(Vec<u8>),
    Payload(Payload),
}

/// A frame that is cut in its payload.
#[derive(Debug)]
pub(super) struct Payload {
    /// Bytes that are still to come. Not zero, unless those before are still to be inflated.
    pub(super) left: u64,
    /// For the next of them.
    pub(super) key: MaskingKey,
    /// The frame is the last of its message.
    pub(super) is_final: bool,
    /// The Close frame that we send as soon as this frame has been echoed.
    pub(super) close: Option<Vec<u8>>,
}

/// The result of one receive.
pub(super) struct Pass {
    /// The output, as a range of the buffer; before it, the content of `head`.
    pub(super) output: Range<usize>,
    /// Data messages whose echo ends in `output`.
    pub(super) messages: u32,
    /// Frames whose headers were complete.
    pub(super) frames: u32,
    /// Of what kinds they were.
    pub(super) kinds: Kinds,
    pub(super) end: End,
}

/// Why a pass has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Every byte is used up.
    Consumed,
    /// The header or control frame that begins here is cut: to be given again together with what follows.
    Cut(usize),
    /// A compressed frame begins or goes on here that is to be inflated: [`Echo::pass_compressed`] does so.
    Compressed(usize),
    /// Input from here on waits for the session's next turn: the allowance for inflating is used up.
    Waits(usize),
    /// The peer has sent its Close frame, with this code; `output` ends with the answer.
    PeerClosed {
        code: Option<CloseCode>,
        /// Bytes follow the Close frame, which the peer must not send (section 5.5.1).
        has_more: bool,
    },
    Failed(Violation),
}

/// Why frames end before their bytes do.
pub(super) enum Stop {
    Violation(Violation),
    /// A compressed frame to be inflated comes next.
    Compressed,
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Stop::Violation(violation)
    }
}

impl Echo {
    pub(super) fn new(compression: Compression) -> Self {
        Echo { compression, ..Echo::default() }
    }

    /// Turns the frames in `buf[from..]` into their echo. A header that finds no room in front of them goes to the end
    /// of `head`: the first bytes may be the next piece of a cut text frame.
    pub(super) fn pass(&mut self, max_message_size: u64, buf: &mut [u8], from: usize, head: &mut Vec<u8>) -> Pass {
        let head_len = head.len();
        let mut tape =
            Tape { buf, head, read: from, output: from..from, messages: 0, frames: 0, kinds: Kinds::default() };
        let end = match self.frames(max_message_size, &mut tape) {
            Ok(end) => end,
            Err(Stop::Violation(violation)) => End::Failed(violation),
            Err(Stop::Compressed) => End::Compressed(tape.read),
        };
        self.finish(tape, head_len, end)
    }

    /// The result of a pass, before which the head had this many bytes.
    #[inline]
    pub(super) fn finish(&self, tape: Tape, head_len: usize, end: End) -> Pass {
        let Tape { head, output, messages, frames, kinds, .. } = tape;
        if self.is_silent {
            head.truncate(head_len);
            return Pass { output: 0..0, messages: 0, frames, kinds: Kinds { texts: 0, compressed: 0, ..kinds }, end };
        }
        Pass { output, messages, frames, kinds, end }
    }

    /// Payload bytes that must be sent before another frame can be: the rest of a binary frame.
    pub(super) fn owed(&self) -> u64 {
        match self.payload() {
            Some(payload) if self.message == Message::Binary => payload.left,
            _ => 0,
        }
    }

    /// Whether the last receive has ended with a frame, and nothing else is kept.
    #[inline]
    pub(super) fn is_between_frames(&self) -> bool {
        self.kept.is_none()
    }

    /// Keeps the beginning of a frame until the next receive.
    pub(super) fn keep_head(&mut self, head: Vec<u8>) {
        self.set_cut(Cut::Head(head));
    }

    /// Takes what [`Echo::keep_head`] has kept.
    pub(super) fn take_head(&mut self) -> Option<Vec<u8>> {
        let Some(Cut::Head(head)) = &mut self.kept.as_deref_mut()?.cut else { return None };
        let head = std::mem::take(head);
        self.clear_cut();
        Some(head)
    }

    /// Keeps a Close frame until the binary frame that is being echoed has ended, unless there is one already.
    pub(super) fn keep_close(&mut self, frame: Vec<u8>) {
        if let Some(payload) = self.payload_mut() {
            payload.close.get_or_insert(frame);
        }
    }

    /// Takes what [`Echo::keep_close`] has kept.
    pub(super) fn take_close(&mut self) -> Option<Vec<u8>> {
        self.payload_mut()?.close.take()
    }

    /// Whether a data frame has begun and not ended.
    #[inline]
    pub(super) fn is_within_frame(&self) -> bool {
        self.payload().is_some()
    }

    pub(super) fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// From now on nothing is sent, so nothing need be inflated.
    pub(super) fn silence(&mut self) {
        self.is_silent = true;
    }

    // ----- what is kept -----

    #[inline]
    pub(super) fn payload(&self) -> Option<&Payload> {
        match &self.kept.as_deref()?.cut {
            Some(Cut::Payload(payload)) => Some(payload),
            _ => None,
        }
    }

    pub(super) fn payload_mut(&mut self) -> Option<&mut Payload> {
        match &mut self.kept.as_deref_mut()?.cut {
            Some(Cut::Payload(payload)) => Some(payload),
            _ => None,
        }
    }

    pub(super) fn set_cut(&mut self, cut: Cut) {
        self.kept.get_or_insert_default().cut = Some(cut);
    }

    pub(super) fn clear_cut(&mut self) {
        match self.kept.as_deref_mut() {
            Some(kept) if kept.inflation.is_some() => kept.cut = None,
            _ => self.kept = None,
        }
    }

    pub(super) fn inflation(&self) -> Option<&Inflation> {
        self.kept.as_deref()?.inflation.as_deref()
    }

    pub(super) fn inflation_mut(&mut self) -> Option<&mut Inflation> {
        self.kept.as_deref_mut()?.inflation.as_deref_mut()
    }

    pub(super) fn keep_inflation(&mut self, inflation: Box<Inflation>) {
        self.kept.get_or_insert_default().inflation = Some(inflation);
    }

    pub(super) fn take_inflation(&mut self) -> Option<Box<Inflation>> {
        let kept = self.kept.as_deref_mut()?;
        let inflation = kept.inflation.take();
        if kept.cut.is_none() {
            self.kept = None;
        }
        inflation
    }

    // ----- frames -----

    /// All frames, up to one that is to be inflated.
    pub(super) fn frames(&mut self, max_message_size: u64, tape: &mut Tape) -> Result<End, Stop> {
        if self.kept.is_some() {
            self.continue_frame(tape)?;
        }
        while tape.read < tape.buf.len() {
            let opcode = self.opcode(tape)?;
            let Some(header) = self.header(opcode, max_message_size, tape.unread())? else {
                return Ok(End::Cut(tape.read));
            };
            let is_whole = header.payload_len <= (tape.unread().len() - header.len) as u64;
            if !is_whole && opcode.is_control() {
                return Ok(End::Cut(tape.read));
            }
            tape.frames += 1;
            match opcode {
                Opcode::Continuation | Opcode::Text | Opcode::Binary if is_whole => {
                    self.whole_frame(opcode, &header, tape)?;
                }
                Opcode::Continuation | Opcode::Text | Opcode::Binary => self.cut_frame(opcode, &header, tape)?,
                Opcode::Ping => {
                    tape.kinds.pings += 1;
                    tape.frame(frame::FIN | Opcode::Pong as u8, &header);
                }
                Opcode::Pong => {
                    tape.kinds.pongs += 1;
                    tape.read += header.len + header.payload_len as usize;
                }
                Opcode::Close => {
                    let code = tape.close_frame(&header)?;
                    return Ok(End::PeerClosed { code, has_more: !tape.unread().is_empty() });
                }
            }
        }
        Ok(End::Consumed)
    }

    /// The opcode in the next frame's first byte, when such a frame may come now (section 5.4).
    #[inline]
    fn opcode(&self, tape: &mut Tape) -> Result<Opcode, Stop> {
        let opcode = match frame::opcode(tape.buf[tape.read]) {
            Ok(opcode) => opcode,
            Err(Violation::ReservedBits) => self.compressed_opcode(tape)?,
            Err(violation) => return Err(violation.into()),
        };
        match opcode {
            Opcode::Continuation if !matches!(self.message, Message::Text | Message::Binary) => {
                Err(self.other_continuation())
            }
            Opcode::Text | Opcode::Binary if self.message != Message::None => Err(Violation::InterruptedMessage.into()),
            _ => Ok(opcode),
        }
    }

    #[cold]
    fn other_continuation(&self) -> Stop {
        if self.message == Message::Inflated { Stop::Compressed } else { Violation::StrayContinuation.into() }
    }

    /// The same for a first byte with reserved bits: RSV1 alone says that the message is compressed, if that was agreed upon,
    /// and stands in the first of its frames (RFC 7692, section 6). What is not inflated is as good as binary.
    #[inline(never)]
    fn compressed_opcode(&self, tape: &mut Tape) -> Result<Opcode, Stop> {
        let first = tape.buf[tape.read];
        let opcode = frame::opcode(first & !frame::RSV1)?;
        let is_inflated = match (opcode, self.compression) {
            (_, Compression::None) | (Opcode::Continuation, _) => return Err(Violation::ReservedBits.into()),
            (Opcode::Text | Opcode::Binary, _) if self.is_silent => false,
            (Opcode::Text, _) => true,
            (Opcode::Binary, compression) => compression != Compression::Pass,
            _ => return Err(Violation::ReservedBits.into()),
        };
        if self.message == Message::None {
            if is_inflated {
                return Err(Stop::Compressed);
            }
            // A header that is cut comes again.
            let is_whole = matches!(self.header(opcode, u64::MAX, tape.unread()), Ok(Some(_)));
            tape.kinds.compressed += u32::from(is_whole);
        }
        Ok(Opcode::Binary)
    }

    /// The header at the start of `bytes`, which is not empty; `None`: it is cut. What is there of it is checked.
    #[inline]
    fn header(&self, opcode: Opcode, max_message_size: u64, bytes: &[u8]) -> Result<Option<Header>, Violation> {
        let Some((payload_len, key_at)) = frame::payload_len(bytes, opcode)? else { return Ok(None) };
        // From the length alone: nothing of a frame that is too big is echoed.
        if !opcode.is_control() && self.message_size.saturating_add(payload_len) > max_message_size {
            return Err(Violation::MessageTooBig);
        }
        let Some(&key) = bytes[key_at..].first_chunk() else { return Ok(None) };
        Ok(Some(Header { first: bytes[0], payload_len, key, len: key_at + key.len() }))
    }

    #[inline]
    fn whole_frame(&mut self, opcode: Opcode, header: &Header, tape: &mut Tape) -> Result<(), Violation> {
        self.begin_frame(opcode, header);
        let before = tape.output.clone();
        tape.frame(header.first, header);
        if self.message == Message::Text {
            let payload = &tape.buf[tape.output.end - header.payload_len as usize..tape.output.end];
            if let Err(violation) = self.check_text(payload, header.is_final()) {
                tape.output = before;
                return Err(violation);
            }
            tape.kinds.texts += u32::from(header.is_final());
        }
        self.is_begun = true;
        self.end_frame(header.is_final(), tape);
        Ok(())
    }

    /// Begins a frame whose end is not there yet.
    #[inline(never)]
    fn cut_frame(&mut self, opcode: Opcode, header: &Header, tape: &mut Tape) -> Result<(), Stop> {
        self.begin_frame(opcode, header);
        let (left, is_final) = (header.payload_len, header.is_final());
        self.set_cut(Cut::Payload(Payload { left, key: header.key, is_final, close: None }));
        tape.read += header.len;
        if self.message == Message::Binary {
            tape.header(header.first, header.payload_len);
        }
        self.continue_frame(tape)
    }

    /// Goes on with a frame whose payload is cut.
    #[inline(never)]
    fn continue_frame(&mut self, tape: &mut Tape) -> Result<(), Stop> {
        let Some(&Payload { left, key, is_final, .. }) = self.payload() else { return Ok(()) };
        if self.message == Message::Inflated {
            return Err(Stop::Compressed);
        }
        let len = left.min(tape.unread().len() as u64) as usize;
        let is_last = len as u64 == left;
        if len == 0 {
            return Ok(());
        }
        if self.message == Message::Text {
            self.text_piece(tape, len, key, is_last && is_final)?;
        } else {
            tape.payload(len, key);
        }
        if is_last {
            self.clear_cut();
            self.end_frame(is_final, tape);
        } else if let Some(payload) = self.payload_mut() {
            payload.left -= len as u64;
            payload.key = mask::turn(payload.key, len);
        }
        Ok(())
    }

    /// Echoes the next `len` bytes of a cut text frame as a frame of their own.
    fn text_piece(&mut self, tape: &mut Tape, len: usize, key: MaskingKey, is_final: bool) -> Result<(), Violation> {
        let before = tape.mark();
        let opcode = if self.is_begun { Opcode::Continuation } else { Opcode::Text } as u8;
        tape.header(if is_final { frame::FIN | opcode } else { opcode }, len as u64);
        tape.payload(len, key);
        let piece = &tape.buf[tape.output.end - len..tape.output.end];
        if let Err(violation) = self.check_text(piece, is_final) {
            tape.take_back(before);
            return Err(violation);
        }
        tape.kinds.texts += u32::from(is_final);
        self.is_begun = true;
        Ok(())
    }

    #[inline]
    fn check_text(&mut self, piece: &[u8], is_final: bool) -> Result<(), Violation> {
        self.utf8.push(piece)?;
        if is_final {
            self.utf8.end()?;
        }
        Ok(())
    }

    #[inline]
    fn begin_frame(&mut self, opcode: Opcode, header: &Header) {
        match opcode {
            Opcode::Text => self.message = Message::Text,
            Opcode::Binary => self.message = Message::Binary,
            _ => {} // a continuation: `header()` has let nothing else pass
        }
        self.message_size += header.payload_len;
    }

    #[inline]
    pub(super) fn end_frame(&mut self, is_final: bool, tape: &mut Tape) {
        if is_final {
            self.message = Message::None;
            self.message_size = 0;
            self.is_begun = false;
            tape.messages += 1;
        }
    }
}

/// A receive's bytes while they are being transformed: what is read shrinks, what is to be sent grows behind it.
pub(super) struct Tape<'a> {
    pub(super) buf: &'a mut [u8],
    /// Goes out before `output`.
    pub(super) head: &'a mut Vec<u8>,
    pub(super) read: usize,
    /// Ends at or before `read`; a client's header is longer than ours, so each echo ends before the next frame.
    pub(super) output: Range<usize>,
    pub(super) messages: u32,
    pub(super) frames: u32,
    pub(super) kinds: Kinds,
}

impl Tape<'_> {
    #[inline]
    pub(super) fn unread(&self) -> &[u8] {
        &self.buf[self.read..]
    }

    /// Echoes the frame that is next and whole, with `first` for its first byte.
    #[inline]
    fn frame(&mut self, first: u8, header: &Header) {
        self.read += header.len;
        self.header(first, header.payload_len);
        self.payload(header.payload_len as usize, header.key);
    }

    /// Echoes the Close frame that is next and whole, when it is a valid one.
    #[inline(never)]
    fn close_frame(&mut self, header: &Header) -> Result<Option<CloseCode>, Violation> {
        let before = self.output.clone();
        self.frame(header.first, header);
        let payload = &self.buf[self.output.end - header.payload_len as usize..self.output.end];
        let verdict = close::check_close(payload);
        if verdict.is_err() {
            self.output = before;
        }
        verdict
    }

    fn mark(&self) -> (usize, Range<usize>) {
        (self.head.len(), self.output.clone())
    }

    fn take_back(&mut self, (head_len, output): (usize, Range<usize>)) {
        self.head.truncate(head_len);
        self.output = output;
    }

    /// Puts a header behind the output. The payload, at `read`, is next; the very first need not move.
    #[inline]
    pub(super) fn header(&mut self, first: u8, payload_len: u64) {
        let len = frame::header_len(payload_len);
        if self.output.is_empty() {
            if self.read < len {
                return self.header_apart(first, payload_len, len);
            }
            let at = self.read - len;
            self.output = at..at;
        }
        frame::write_header(&mut self.buf[self.output.end..], first, payload_len);
        self.output.end += len;
    }

    #[cold]
    fn header_apart(&mut self, first: u8, payload_len: u64, len: usize) {
        let mut header = [0; frame::MAX_UNMASKED_HEADER];
        frame::write_header(&mut header, first, payload_len);
        self.head.extend_from_slice(&header[..len]);
    }

    /// Puts a frame that was made elsewhere behind the output, which moves out of its way.
    pub(super) fn insert(&mut self, first: u8, payload: &[u8]) {
        self.head.extend_from_slice(&self.buf[std::mem::take(&mut self.output)]);
        self.header_apart(first, payload.len() as u64, frame::header_len(payload.len() as u64));
        self.head.extend_from_slice(payload);
    }

    /// Puts the next `len` bytes behind the output, which are unmasked already.
    pub(super) fn keep(&mut self, len: usize) {
        if self.output.is_empty() {
            self.output = self.read..self.read;
        }
        self.buf.copy_within(self.read..self.read + len, self.output.end);
        self.read += len;
        self.output.end += len;
    }

    /// Unmasks the next `len` bytes and puts them behind the output.
    #[inline]
    fn payload(&mut self, len: usize, key: MaskingKey) {
        if self.output.is_empty() {
            self.output = self.read..self.read; // in the midst of a binary frame: nothing precedes
        }
        if self.output.end == self.read {
            mask::unmask(&mut self.buf[self.read..self.read + len], key);
        } else {
            mask::unmask_down(self.buf, self.read, self.output.end, len, key);
        }
        self.read += len;
        self.output.end += len;
    }
}

#[cfg(test)]
mod tests;
