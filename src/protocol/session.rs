//! Sessions: the protocol state of a connection, from the first byte of its handshake to its end.

use std::ops::Range;

use super::{
    Behaviour, Cause, CloseCode, Event, Output, Protocol, Reply, Settings, Shared, Then,
    answer::Answer,
    behaving::Behaving,
    close,
    codecs::Waiting,
    echo::{Echo, End, Pass},
    extensions::Compression,
    frame::{self, Opcode},
    handshake::{self, Handshake},
};

/// One connection's protocol state.
///
/// It owns memory only while something is half read: a handshake (at most `max_handshake_size`), a frame header or a
/// control frame (at most 139 bytes), a compressed message that is inflated (an inflater, and input that waits).
#[derive(Debug)]
pub struct Session {
    state: State,
}

const _: () = assert!(size_of::<Session>() <= 24, "an idle connection pays for every byte");
const _: () = assert!(size_of::<Option<Session>>() == size_of::<Session>(), "room for a container's own tag");

#[derive(Debug)]
enum State {
    /// The bytes of the request so far; `None`: not one yet.
    Handshake(Option<Box<Handshake>>),
    Tcp,
    WebSocket(Echo),
    /// A WebSocket that does something else than to echo.
    Behaving(Box<Behaving>),
    /// Input is ignored and nothing is sent, as if the request were never complete.
    Mute,
    Closed,
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The upgrade request is not complete.
    Handshake,
    /// Messages are echoed.
    Open,
    /// We have sent a Close frame of our own accord and wait for the peer's.
    Closing,
    /// Nothing more will be read or sent.
    Closed,
}

impl Session {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self::of(settings.protocol)
    }

    /// One that speaks this, whatever the settings say.
    #[must_use]
    pub fn of(protocol: Protocol) -> Self {
        let state = match protocol {
            Protocol::WebSocket => State::Handshake(None),
            Protocol::Tcp => State::Tcp,
        };
        Session { state }
    }

    /// A WebSocket whose handshake is over.
    pub(super) fn open() -> Self {
        Session { state: State::WebSocket(Echo::new(Compression::None)) }
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Handshake(_) | State::Mute => Phase::Handshake,
            State::Behaving(behaving) => behaving.echo.phase(),
            State::WebSocket(echo) if echo.is_silent() => Phase::Closing,
            State::Tcp | State::WebSocket(_) => Phase::Open,
            State::Closed => Phase::Closed,
        }
    }

    /// Whether bytes are echoed as they are.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        matches!(self.state, State::Tcp)
    }

    /// Handles one receive. `data` is transformed in place where possible.
    ///
    /// `shared` is the same throughout a session. In `Phase::Closed` nothing is left to do for what still comes. While input
    /// waits ([`Session::is_waiting`]) nothing else may come.
    #[inline]
    pub fn receive(&mut self, shared: &mut Shared, data: &mut [u8]) -> Reply {
        match &self.state {
            State::WebSocket(echo) if echo.is_between_frames() => self.receive_frames(shared, data),
            _ => self.receive_otherwise(shared, data),
        }
    }

    /// Whether input waits, since no more was to be inflated at once.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(&self.state, State::WebSocket(echo) if echo.is_waiting())
    }

    /// Handles the input that waits, in another turn: as [`Session::receive`] does, but none of the output is in place. Some of
    /// the input may wait on. `None`: none waits.
    pub fn resume(&mut self, shared: &mut Shared) -> Option<Reply> {
        let State::WebSocket(echo) = &mut self.state else { return None };
        let Waiting { mut bytes, left } = echo.take_waiting(shared)?;
        let input_at = bytes.len() - left;
        let input = &mut bytes[input_at..];
        shared.codecs.is_resuming = true;
        let reply = self.receive(shared, input);
        shared.codecs.is_resuming = false;
        let output = Output::owned(reply.output.to_vec(input));
        if let State::WebSocket(echo) = &mut self.state {
            echo.wait_on(shared, bytes);
        }
        Some(Reply { output, ..reply })
    }

    /// Whether it holds memory for compressed messages, input that waits among it.
    #[must_use]
    pub fn is_inflating(&self) -> bool {
        matches!(&self.state, State::WebSocket(echo) if echo.inflation().is_some())
    }

    /// Releases its part of the shared state. It is dropped afterwards.
    pub fn release(&mut self, shared: &mut Shared) {
        if let State::WebSocket(echo) = &mut self.state {
            echo.release(shared);
        }
    }

    /// Frames that begin in `data`, behind the rest of one whose payload is cut.
    #[inline]
    fn receive_frames(&mut self, shared: &mut Shared, data: &mut [u8]) -> Reply {
        let State::WebSocket(echo) = &mut self.state else { unreachable!("only a WebSocket has frames") };
        let mut head = Vec::new();
        let pass = echo.pass(shared.settings.max_message_size, data, 0, &mut head);
        if pass.end == End::Consumed {
            let output = Output { head, range: pass.output };
            let Pass { messages, frames, kinds, .. } = pass;
            return Reply { frames, messages, kinds, ..Reply::plain(output) };
        }
        self.conclude(shared, pass, head, data)
    }

    /// A Ping to send now. `None`: not in the midst of a frame, and not outside of `Phase::Open` of a WebSocket.
    #[must_use]
    pub fn ping(&self) -> Option<Vec<u8>> {
        self.can_ping().then(|| vec![frame::FIN | Opcode::Ping as u8, 0])
    }

    /// Whether [`Session::ping`] would give one.
    #[must_use]
    pub fn can_ping(&self) -> bool {
        match &self.state {
            State::WebSocket(echo) => echo.owed() == 0 && !echo.is_silent(),
            State::Behaving(behaving) => self.at_frame_boundary() && behaving.echo.phase() == Phase::Open,
            _ => false,
        }
    }

    /// The behaviour of the connection that sends later or without input, if any.
    #[must_use]
    pub fn behaviour(&self) -> Option<Behaviour> {
        let State::Behaving(behaving) = &self.state else { return None };
        let is_timed = matches!(behaving.behaviour, Behaviour::Source(_) | Behaviour::Delay { .. });
        is_timed.then_some(behaving.behaviour)
    }

    /// Sends nothing any more. Returns whether that is new to a WebSocket.
    pub(super) fn silence(&mut self) -> bool {
        let State::WebSocket(echo) = &mut self.state else { return false };
        let is_news = !echo.is_silent();
        echo.silence();
        is_news
    }

    /// Starts the closing handshake from our side (section 7.1.2).
    ///
    /// `Some`: the Close frame to send now; what the peer still sends is not echoed any more. `None`: nothing can be
    /// sent now. In the midst of a binary frame the Close frame is part of the reply that ends that frame, and the
    /// phase remains `Open` until then. In a handshake or with `Protocol::Tcp` there is no closing handshake; in later
    /// phases it has begun already.
    #[must_use]
    pub fn close(&mut self, code: CloseCode, reason: &str) -> Option<Vec<u8>> {
        if let State::Behaving(behaving) = &mut self.state {
            return behaving.close(code, reason);
        }
        let State::WebSocket(echo) = &mut self.state else { return None };
        if echo.is_silent() {
            return None;
        }
        let frame = close::close_frame(code, reason);
        if echo.owed() > 0 {
            echo.keep_close(frame);
            return None;
        }
        echo.silence();
        Some(frame)
    }

    /// Whether the output so far ends with a whole frame, so that another one may follow.
    #[must_use]
    pub fn at_frame_boundary(&self) -> bool {
        match &self.state {
            State::WebSocket(echo) => echo.owed() == 0,
            State::Behaving(behaving) => !behaving.has_echoes() || behaving.echo.at_frame_boundary(),
            _ => true,
        }
    }

    /// Whether the peer is in the midst of a data frame.
    #[inline]
    #[must_use]
    pub fn is_within_frame(&self) -> bool {
        match &self.state {
            State::WebSocket(echo) => echo.is_within_frame(),
            State::Behaving(behaving) => behaving.echo.is_within_frame(),
            _ => false,
        }
    }

    /// Everything but a receive that begins with a frame.
    #[inline(never)]
    fn receive_otherwise(&mut self, shared: &mut Shared, data: &mut [u8]) -> Reply {
        debug_assert!(!self.is_waiting(), "input that waits comes first");
        match &mut self.state {
            State::Tcp => Reply::plain(Output::in_place(0..data.len())),
            State::Closed | State::Mute => Reply::plain(Output::default()),
            State::Behaving(behaving) => {
                let reply = behaving.receive(shared, data);
                if behaving.is_mute() {
                    self.state = State::Mute;
                } else if matches!(reply.event, Some(Event::Closed(_))) {
                    self.state = State::Closed;
                }
                reply
            }
            State::Handshake(half_read) => {
                let progress = Handshake::receive(half_read, &shared.settings, data);
                self.handshake(progress, shared, data)
            }
            State::WebSocket(echo) => {
                if let Some(head) = echo.take_head() {
                    self.complete_frame(shared, head, data)
                } else if let Some(close) = echo.take_close() {
                    self.close_after_frame(shared, data, close)
                } else {
                    self.receive_frames(shared, data)
                }
            }
        }
    }

    /// Goes on with a cut header or control frame. As many bytes as it can need are put behind it; from the end of the
    /// last frame that this completes, or of those bytes, the rest is transformed in place.
    fn complete_frame(&mut self, shared: &mut Shared, mut head: Vec<u8>, data: &mut [u8]) -> Reply {
        let State::WebSocket(echo) = &mut self.state else { unreachable!("only a WebSocket has frames") };
        let max_message_size = shared.settings.max_message_size;
        let cut_len = head.len();
        let borrowed = data.len().min(frame::MAX_CONTROL_FRAME);
        head.extend_from_slice(&data[..borrowed]);
        let mut made = Vec::new();
        let mut pass = echo.pass(max_message_size, &mut head, 0, &mut made);
        if let End::Compressed(at) = pass.end {
            pass = echo.pass_compressed(shared, &mut head, (pass, at), &mut made);
        }
        let Pass { output, messages, frames, kinds, end } = pass;
        let resume = match end {
            End::Consumed => borrowed,
            End::Cut(0) => {
                debug_assert_eq!(borrowed, data.len(), "what was added completes any header and any control frame");
                echo.keep_head(head);
                // A message that is not answered any more may have given back what it was inflated with.
                let event = shared.has_news().then_some(Event::Inflated);
                return Reply { event, frames, messages, kinds, ..Reply::plain(Output::default()) };
            }
            End::Cut(at) | End::Compressed(at) => at - cut_len,
            End::Waits(at) => {
                let pass = Pass { output: 0..0, messages, frames, kinds, end: End::Waits(at - cut_len) };
                return self.conclude(shared, pass, append_range(&made, &head, output), data);
            }
            End::PeerClosed { code, has_more } => {
                let end = End::PeerClosed { code, has_more: has_more || borrowed < data.len() };
                let pass = Pass { output: 0..0, messages, frames, kinds, end };
                return self.conclude(shared, pass, append_range(&made, &head, output), data);
            }
            End::Failed(_) => {
                let pass = Pass { output: 0..0, messages, frames, kinds, end };
                return self.conclude(shared, pass, append_range(&made, &head, output), data);
            }
        };
        let mut head = append_range(&made, &head, output);
        let pass = echo.pass(max_message_size, data, resume, &mut head);
        let (messages, frames, kinds) = (messages + pass.messages, frames + pass.frames, kinds + pass.kinds);
        let pass = Pass { messages, frames, kinds, ..pass };
        self.conclude(shared, pass, head, data)
    }

    fn handshake(&mut self, progress: handshake::Progress, shared: &mut Shared, data: &mut [u8]) -> Reply {
        match progress {
            handshake::Progress::Partial => Reply::plain(Output::default()),
            handshake::Progress::Refused(Answer { status, bytes }) => {
                self.state = State::Closed;
                let event = Some(Event::Closed(Cause::Refused(status)));
                Reply { event, then: Then::Linger, ..Reply::plain(Output::owned(bytes)) }
            }
            handshake::Progress::Accepted { answer, request_end, behaviour, compression } => {
                shared.codecs.work.agreed += u32::from(compression != Compression::None);
                self.state = match behaviour {
                    Behaviour::Echo => State::WebSocket(Echo::new(compression)),
                    Behaviour::Hang { after: None } => State::Mute,
                    behaviour => State::Behaving(Box::new(Behaving::new(behaviour))),
                };
                if matches!(self.state, State::Mute) {
                    return Reply::plain(Output::default());
                }
                let reply = self.receive(shared, &mut data[request_end..]);
                let Output { head, range } = reply.output;
                let output = Output { head: [answer, head].concat(), range: shift(range, request_end) };
                let event = reply.event.filter(|event| !matches!(event, Event::Deferred | Event::Inflated));
                let event = event.unwrap_or(Event::Opened);
                Reply { output, event: Some(event), ..reply }
            }
        }
    }

    /// We want to close, but owe the rest of a binary frame first.
    fn close_after_frame(&mut self, shared: &mut Shared, data: &mut [u8], frame: Vec<u8>) -> Reply {
        let code = CloseCode::from(u16::from_be_bytes([frame[2], frame[3]]));
        let State::WebSocket(echo) = &mut self.state else { unreachable!("only a WebSocket owes a frame") };
        let owed = echo.owed().min(data.len() as u64) as usize;
        let (payload, rest) = data.split_at_mut(owed);
        let Pass { output, messages, frames, kinds, .. } =
            echo.pass(shared.settings.max_message_size, payload, 0, &mut Vec::new());
        if echo.owed() > 0 {
            echo.keep_close(frame);
            return Reply { frames, messages, kinds, ..Reply::plain(Output::in_place(output)) };
        }
        echo.silence();
        let output = Output::owned([&payload[output], &frame].concat());
        let behind = self.receive(shared, rest);
        Reply {
            output,
            event: behind.event.filter(|&event| event != Event::Inflated).or(Some(Event::Closing(code))),
            frames: frames + behind.frames,
            messages,
            kinds: kinds + behind.kinds,
            ..behind
        }
    }

    /// Draws the consequences of a pass over `data`.
    #[inline(never)]
    fn conclude(&mut self, shared: &mut Shared, mut pass: Pass, mut head: Vec<u8>, data: &mut [u8]) -> Reply {
        let State::WebSocket(echo) = &mut self.state else { unreachable!("only a WebSocket has passes") };
        if let End::Compressed(at) = pass.end {
            pass = echo.pass_compressed(shared, data, (pass, at), &mut head);
        }
        let Pass { output: range, messages, frames, kinds, end } = pass;
        let event = shared.has_news().then_some(Event::Inflated);
        let plain = |head, range| Reply { event, frames, messages, kinds, ..Reply::plain(Output { head, range }) };
        match end {
            End::Consumed => plain(head, range),
            End::Cut(at) => {
                echo.keep_head(data[at..].to_vec());
                plain(head, range)
            }
            End::Compressed(_) => unreachable!("compressed frames are inflated"),
            End::Waits(at) => {
                echo.keep_waiting(shared, &data[at..]);
                Reply { event: Some(Event::Inflated), ..plain(head, range) }
            }
            End::PeerClosed { code, has_more } => {
                echo.release(shared);
                self.state = State::Closed;
                let then = if has_more { Then::Linger } else { Then::Close };
                Reply { event: Some(Event::Closed(Cause::PeerClosed(code))), then, ..plain(head, range) }
            }
            End::Failed(violation) => {
                let close = if echo.is_silent() { Vec::new() } else { violation.close_frame() };
                echo.release(shared);
                self.state = State::Closed;
                let output = [&head, &data[range], &close].concat();
                let event = Some(Event::Closed(Cause::Violation(violation.code())));
                Reply { event, then: Then::Linger, ..plain(output, 0..0) }
            }
        }
    }
}

/// `made`, and behind it those of `bytes` that are in `range`.
fn append_range(made: &[u8], bytes: &[u8], range: Range<usize>) -> Vec<u8> {
    [made, &bytes[range]].concat()
}

fn shift(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

#[cfg(test)]
mod tests;
