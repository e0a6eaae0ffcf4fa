//! The frames of one receive turned into their echo, in place (RFC 6455, sections 5 and 6).
//!
//! A client's frame and its echo differ in the mask bit, the masking key and the mask itself, so the echo is four
//! bytes shorter and fits where the frame was. The first payload of a receive stays where it is and the new header is
//! written right before it; what follows moves down behind it. Nothing is kept of a payload: a frame that is cut by
//! the end of the receive goes on with the next.
//!
//! A cut binary frame has been announced whole and its payload streams through. Text may turn out not to be UTF-8, and
//! then a Close frame must be able to follow; so each piece of a cut text frame is echoed as a fragment of its own, and
//! what we send is always between two frames except within a binary one.

use std::ops::Range;

use super::{
    CloseCode, Kinds,
    close::{self, Violation},
    frame::{self, Header, Opcode},
    mask::{self, MaskingKey},
    utf8::Utf8,
};

/// The kind of message whose frames are being received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Message {
    #[default]
    None,
    Text,
    Binary,
}

/// How far a connection's incoming frames have come.
#[derive(Debug, Default)]
pub(super) struct Echo {
    /// Payload bytes that the current message's headers have announced so far.
    message_size: u64,
    /// What is known of a frame that the end of a receive has cut; `None`: the next byte is a header's first.
    cut: Option<Box<Cut>>,
    utf8: Utf8,
    message: Message,
    /// A frame of the current message has been sent: the next is a continuation.
    is_begun: bool,
    /// We have sent a Close frame of our own accord: frames are read, but nothing is sent any more.
    is_silent: bool,
}

const _: () = assert!(size_of::<Echo>() <= 24, "an idle connection pays for every byte");

/// A frame that waits for the next receive.
#[derive(Debug)]
enum Cut {
    /// Cut in its header, or anywhere if it is a control frame: what is there of it, to be given again.
    Head(Vec<u8>),
    /// Cut in its payload.
    Payload {
        /// Bytes that are still to come; not zero.
        left: u64,
        /// For the next of them.
        key: MaskingKey,
        /// The frame is the last of its message.
        is_final: bool,
        /// The Close frame that we send as soon as this frame has been echoed.
        close: Option<Vec<u8>>,
    },
}

/// What has become of one receive.
pub(super) struct Pass {
    /// What to send, as a range of the buffer; before that, what was put into `head`.
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
    /// The peer has sent its Close frame, with this code; `output` ends with the answer.
    PeerClosed {
        code: Option<CloseCode>,
        /// Bytes follow the Close frame, which the peer must not send (section 5.5.1).
        has_more: bool,
    },
    Failed(Violation),
}

impl Echo {
    /// Turns the frames in `buf[from..]` into their echo. A header that finds no room in front of them goes to the end
    /// of `head`: the first bytes may be the next piece of a cut text frame.
    pub(super) fn pass(&mut self, max_message_size: u64, buf: &mut [u8], from: usize, head: &mut Vec<u8>) -> Pass {
        let head_len = head.len();
        let mut tape =
            Tape { buf, head, read: from, output: from..from, messages: 0, frames: 0, kinds: Kinds::default() };
        let end = self.frames(max_message_size, &mut tape).unwrap_or_else(End::Failed);
        if self.is_silent {
            tape.head.truncate(head_len);
            let kinds = Kinds { texts: 0, ..tape.kinds };
            return Pass { output: 0..0, messages: 0, frames: tape.frames, kinds, end };
        }
        Pass { output: tape.output, messages: tape.messages, frames: tape.frames, kinds: tape.kinds, end }
    }

    /// Payload bytes that must be sent before another frame can be: the rest of a binary frame.
    pub(super) fn owed(&self) -> u64 {
        match self.cut.as_deref() {
            Some(&Cut::Payload { left, .. }) if self.message == Message::Binary => left,
            _ => 0,
        }
    }

    /// Whether the last receive has ended with a frame.
    #[inline]
    pub(super) fn is_between_frames(&self) -> bool {
        self.cut.is_none()
    }

    /// Keeps the beginning of a frame until the next receive.
    pub(super) fn keep_head(&mut self, head: Vec<u8>) {
        self.cut = Some(Box::new(Cut::Head(head)));
    }

    /// Takes what [`Echo::keep_head`] has kept.
    pub(super) fn take_head(&mut self) -> Option<Vec<u8>> {
        let Some(Cut::Head(head)) = self.cut.as_deref_mut() else { return None };
        let head = std::mem::take(head);
        self.cut = None;
        Some(head)
    }

    /// Keeps a Close frame until the binary frame that is being echoed has ended, unless there is one already.
    pub(super) fn keep_close(&mut self, frame: Vec<u8>) {
        if let Some(Cut::Payload { close, .. }) = self.cut.as_deref_mut() {
            close.get_or_insert(frame);
        }
    }

    /// Takes what [`Echo::keep_close`] has kept.
    pub(super) fn take_close(&mut self) -> Option<Vec<u8>> {
        let Some(Cut::Payload { close, .. }) = self.cut.as_deref_mut() else { return None };
        close.take()
    }

    /// Whether a data frame has begun and not ended.
    #[inline]
    pub(super) fn is_within_frame(&self) -> bool {
        matches!(self.cut.as_deref(), Some(Cut::Payload { .. }))
    }

    pub(super) fn is_silent(&self) -> bool {
        self.is_silent
    }

    pub(super) fn silence(&mut self) {
        self.is_silent = true;
    }

    fn frames(&mut self, max_message_size: u64, tape: &mut Tape) -> Result<End, Violation> {
        if self.cut.is_some() {
            self.continue_frame(tape)?;
        }
        while tape.read < tape.buf.len() {
            let opcode = self.opcode(tape.buf[tape.read])?;
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

    /// The opcode in a frame's first byte, when such a frame may come now (section 5.4).
    #[inline]
    fn opcode(&self, first: u8) -> Result<Opcode, Violation> {
        let opcode = frame::opcode(first)?;
        match opcode {
            Opcode::Continuation if self.message == Message::None => Err(Violation::StrayContinuation),
            Opcode::Text | Opcode::Binary if self.message != Message::None => Err(Violation::InterruptedMessage),
            _ => Ok(opcode),
        }
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
    fn cut_frame(&mut self, opcode: Opcode, header: &Header, tape: &mut Tape) -> Result<(), Violation> {
        self.begin_frame(opcode, header);
        let (left, is_final) = (header.payload_len, header.is_final());
        self.cut = Some(Box::new(Cut::Payload { left, key: header.key, is_final, close: None }));
        tape.read += header.len;
        if self.message == Message::Binary {
            tape.header(header.first, header.payload_len);
        }
        self.continue_frame(tape)
    }

    /// Goes on with a frame whose payload is cut.
    #[inline(never)]
    fn continue_frame(&mut self, tape: &mut Tape) -> Result<(), Violation> {
        let Some(&Cut::Payload { left, key, is_final, .. }) = self.cut.as_deref() else { return Ok(()) };
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
            self.cut = None;
            self.end_frame(is_final, tape);
        } else if let Some(Cut::Payload { left, key, .. }) = self.cut.as_deref_mut() {
            *left -= len as u64;
            *key = mask::turn(*key, len);
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
    fn end_frame(&mut self, is_final: bool, tape: &mut Tape) {
        if is_final {
            self.message = Message::None;
            self.message_size = 0;
            self.is_begun = false;
            tape.messages += 1;
        }
    }
}

/// A receive's bytes while they are being transformed: what is read shrinks, what is to be sent grows behind it.
struct Tape<'a> {
    buf: &'a mut [u8],
    /// Goes out before `output`.
    head: &'a mut Vec<u8>,
    read: usize,
    /// Ends at or before `read`; a client's header is longer than ours, so each echo ends before the next frame.
    output: Range<usize>,
    messages: u32,
    frames: u32,
    kinds: Kinds,
}

impl Tape<'_> {
    #[inline]
    fn unread(&self) -> &[u8] {
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
    fn header(&mut self, first: u8, payload_len: u64) {
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
