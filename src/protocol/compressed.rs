//! Frames of compressed messages that are inflated, for checking or recompressing (RFC 7692, section 6).
//!
//! Messages that are echoed as they are do not come here (`echo.rs`). Each piece of a frame is inflated before it is echoed,
//! as a separate fragment unless it is the whole frame, so that a Close frame can follow instead of it.

use super::{
    close::Violation,
    codecs::{Codecs, Inflation, Waiting},
    echo::{Cut, Echo, End, Message, Pass, Payload, Stop, Tape},
    extensions::{Compression, WindowBits},
    frame::{self, FIN, Header, Opcode, RSV1},
    mask,
    shared::Shared,
};

/// The position within a frame.
enum Step {
    /// To its end.
    Done,
    /// To the end of what was received, in its payload.
    Cut,
    /// The position within its header.
    HeaderCut,
    /// As far as may be inflated at once.
    Waits,
}

impl Echo {
    /// Goes on with a pass that has come to a compressed frame at `at`, which is to be inflated.
    pub(super) fn pass_compressed(
        &mut self,
        shared: &mut Shared,
        buf: &mut [u8],
        (pass, at): (Pass, usize),
        head: &mut Vec<u8>,
    ) -> Pass {
        let (Pass { output, messages, frames, kinds, .. }, head_len) = (pass, head.len());
        let mut tape = Tape { buf, head, read: at, output, messages, frames, kinds };
        let mut inflation = self.take_inflation();
        let end = if self.is_silent() {
            self.stop_inflating();
            self.frames(shared.settings.max_message_size, &mut tape).map_err(|stop| match stop {
                Stop::Violation(violation) => violation,
                Stop::Compressed => unreachable!("nothing is inflated any more"),
            })
        } else {
            shared.codecs.allow();
            self.compressed_frames(shared, &mut tape, &mut inflation)
        };
        let end = end.unwrap_or_else(End::Failed);
        if let Some(inflation) = inflation {
            let is_open = self.message == Message::Inflated || matches!(end, End::Waits(_));
            let is_context = self.compression == Compression::Context && !self.is_silent();
            if is_open || is_context {
                self.keep_inflation(inflation);
            } else {
                shared.codecs.give_back(inflation);
            }
        }
        self.finish(tape, head_len, end)
    }

    /// Nothing is sent any more: the rest of the message is handled like binary data.
    fn stop_inflating(&mut self) {
        self.message = Message::Binary;
        if let Some(&Payload { left: 0, is_final, .. }) = self.payload() {
            self.clear_cut();
            if is_final {
                self.message = Message::None;
            }
        }
    }

    /// Keeps input behind which nothing may be received until it is taken.
    pub(super) fn keep_waiting(&mut self, shared: &mut Shared, input: &[u8]) {
        let bytes = if shared.codecs.is_resuming { Vec::new() } else { input.to_vec() };
        let inflation = self.inflation_mut().expect("input waits for an inflater");
        shared.codecs.keep_waiting(inflation, Waiting { bytes, left: input.len() });
    }

    /// Takes the input that waits, if there is some.
    pub(super) fn take_waiting(&mut self, shared: &mut Shared) -> Option<Waiting> {
        shared.codecs.take_waiting(self.inflation_mut()?)
    }

    /// Gives back the memory of what was taken, if some of that waits on.
    pub(super) fn wait_on(&mut self, shared: &mut Shared, bytes: Vec<u8>) {
        if let Some(waiting) = self.take_waiting(shared) {
            let inflation = self.inflation_mut().expect("input waits for an inflater");
            shared.codecs.keep_waiting(inflation, Waiting { bytes, ..waiting });
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.inflation().is_some_and(Inflation::is_waiting)
    }

    /// Releases what it holds for compressed messages.
    pub(super) fn release(&mut self, shared: &mut Shared) {
        if let Some(inflation) = self.take_inflation() {
            shared.codecs.give_back(inflation);
        }
    }

    /// Compressed frames, and what is between them, up to the end of the bytes.
    fn compressed_frames(
        &mut self,
        shared: &mut Shared,
        tape: &mut Tape,
        inflation: &mut Option<Box<Inflation>>,
    ) -> Result<End, Violation> {
        loop {
            match self.compressed_frame(shared, tape, inflation)? {
                Step::Done => {}
                Step::Cut => return Ok(End::Consumed),
                Step::HeaderCut => return Ok(End::Cut(tape.read)),
                Step::Waits => return Ok(End::Waits(tape.read)),
            }
            match self.frames(shared.settings.max_message_size, tape) {
                Err(Stop::Compressed) => {}
                Err(Stop::Violation(violation)) => return Err(violation),
                Ok(end) => return Ok(end),
            }
        }
    }

    /// The frame that is next, or the rest of it.
    fn compressed_frame(
        &mut self,
        shared: &mut Shared,
        tape: &mut Tape,
        inflation: &mut Option<Box<Inflation>>,
    ) -> Result<Step, Violation> {
        let is_new = self.payload().is_none();
        if is_new {
            let Some(header) = compressed_header(tape.unread())? else { return Ok(Step::HeaderCut) };
            let inflation = inflation.get_or_insert_with(|| shared.codecs.take(self.window()));
            if !shared.codecs.is_allowed() {
                return Ok(Step::Waits);
            }
            self.begin_compressed(&mut shared.codecs, &header, inflation);
            tape.kinds.compressed += u32::from(header.first & RSV1 != 0);
            tape.frames += 1;
            tape.read += header.len;
        }
        let inflation = inflation.as_mut().expect("a message that is open has one");
        self.compressed_payload(shared, tape, inflation, is_new)
    }

    /// The compressor of a message that is recompressed.
    fn window(&self) -> Option<WindowBits> {
        if let Compression::Recompress(window) = self.compression { Some(window) } else { None }
    }

    fn begin_compressed(&mut self, codecs: &mut Codecs, header: &Header, inflation: &mut Inflation) {
        if header.first & RSV1 != 0 {
            self.message = Message::Inflated;
            let is_text = Opcode::of(header.first) == Some(Opcode::Text);
            inflation.begin(codecs, is_text, self.compression == Compression::Context);
        }
        let (left, is_final) = (header.payload_len, header.is_final());
        self.set_cut(Cut::Payload(Payload { left, key: header.key, is_final, close: None }));
    }

    /// Inflates what is there of a frame's payload, as far as is allowed at once, and echoes it.
    fn compressed_payload(
        &mut self,
        shared: &mut Shared,
        tape: &mut Tape,
        inflation: &mut Inflation,
        is_new: bool,
    ) -> Result<Step, Violation> {
        let &Payload { left, key, is_final, .. } = self.payload().expect("a frame that has begun");
        let max = shared.settings.max_message_size;
        let (len, mut out) = (left.min(tape.unread().len() as u64) as usize, Vec::new());
        let payload = &mut tape.buf[tape.read..tape.read + len];
        mask::unmask(payload, key);
        let used = inflation.inflate(&mut shared.codecs, payload, max, &mut self.utf8, &mut out)?;
        let waits = used < len || inflation.has_more();
        // Unused input comes again, unchanged.
        mask::unmask(&mut payload[used..], mask::turn(key, used));
        let is_over = used as u64 == left && !waits;
        let ends = is_over && is_final;
        if ends {
            inflation.end(&mut shared.codecs, max, &mut self.utf8, &mut out)?;
        }
        let first = self.compressed_first(inflation.is_text, ends);
        if inflation.recompresses() {
            if ends || !out.is_empty() {
                tape.insert(first, &out);
                self.is_begun = true;
            }
            tape.read += used;
        } else if ends || used > 0 || (is_over && is_new) {
            tape.header(first, used as u64);
            tape.keep(used);
            self.is_begun = true;
        }
        if is_over {
            self.clear_cut();
            tape.kinds.texts += u32::from(ends && inflation.is_text);
            self.end_frame(is_final, tape);
            return Ok(Step::Done);
        }
        if let Some(payload) = self.payload_mut() {
            (payload.left, payload.key) = (left - used as u64, mask::turn(key, used));
        }
        Ok(if waits { Step::Waits } else { Step::Cut })
    }

    /// The first byte of the next frame of the echo.
    fn compressed_first(&self, is_text: bool, ends: bool) -> u8 {
        let first = match (self.is_begun, is_text) {
            (true, _) => Opcode::Continuation as u8,
            (false, true) => RSV1 | Opcode::Text as u8,
            (false, false) => RSV1 | Opcode::Binary as u8,
        };
        if ends { FIN | first } else { first }
    }
}

/// The header at the start of `bytes`, whose first byte is known to be right; `None`: it is cut. How large the message becomes
/// it does not say.
fn compressed_header(bytes: &[u8]) -> Result<Option<Header>, Violation> {
    let opcode = frame::opcode(bytes[0] & !RSV1)?;
    let Some((payload_len, key_at)) = frame::payload_len(bytes, opcode)? else { return Ok(None) };
    let Some(&key) = bytes[key_at..].first_chunk() else { return Ok(None) };
    Ok(Some(Header { first: bytes[0], payload_len, key, len: key_at + key.len() }))
}

#[cfg(test)]
mod tests;
