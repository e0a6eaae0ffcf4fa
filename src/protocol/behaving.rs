//! Behaviours other than an echo, as an echo whose output is modified afterwards. So clients' input is checked as
//! everywhere, and the echo does not know of behaviours.

use super::{
    Behaviour, Cause, CloseCode, Event, Output, Reply, Session, Shared, Then, close,
    frame::{self, FIN, Opcode},
};

/// The state of such a connection.
#[derive(Debug)]
pub(super) struct Behaving {
    /// A WebSocket.
    pub(super) echo: Session,
    pub(super) behaviour: Behaviour,
    /// The position of the end of the echo's output within a frame.
    place: Place,
    /// Echoes until it acts; `None`: it has acted, or never does.
    left: Option<u32>,
}

impl Behaving {
    pub(super) fn new(behaviour: Behaviour) -> Self {
        let left = match behaviour {
            Behaviour::Close { after, .. } | Behaviour::Abort { after } => Some(after),
            Behaviour::Hang { after } => after,
            _ => None,
        };
        Behaving { echo: Session::open(), behaviour, place: Place::default(), left }
    }

    /// Handles one receive, like [`Session::receive`].
    pub(super) fn receive(&mut self, shared: &mut Shared, data: &mut [u8]) -> Reply {
        let reply = self.echo.receive(shared, data);
        match (self.behaviour, self.left) {
            (Behaviour::Sink, _) => Reply { output: self.without_messages(&reply.output, data), ..reply },
            (Behaviour::Source(_), _) => {
                deferred(Reply { output: self.without_messages(&reply.output, data), ..reply })
            }
            (Behaviour::Delay { .. }, _) => deferred(reply),
            (_, Some(left)) => self.up_to_act(left, reply, data),
            _ => reply,
        }
    }

    /// Whether from now on nothing is sent and nothing is looked at.
    pub(super) fn is_mute(&self) -> bool {
        matches!(self.behaviour, Behaviour::Hang { .. }) && self.left.is_none()
    }

    /// Whether the frames that it sends are those that it receives: if not, it is never in the midst of one.
    pub(super) fn has_echoes(&self) -> bool {
        !matches!(self.behaviour, Behaviour::Sink | Behaviour::Source(_))
    }

    /// See [`Session::close`].
    pub(super) fn close(&mut self, code: CloseCode, reason: &str) -> Option<Vec<u8>> {
        if self.has_echoes() {
            return self.echo.close(code, reason);
        }
        self.echo.silence().then(|| close::close_frame(code, reason))
    }

    /// The output without messages: control frames.
    fn without_messages(&mut self, output: &Output, data: &[u8]) -> Output {
        let mut controls = Vec::new();
        for mut rest in [&output.head[..], &data[output.range.clone()]] {
            while !rest.is_empty() {
                let part = self.place.advance(rest);
                if part.is_control {
                    controls.extend_from_slice(&rest[..part.len]);
                }
                rest = &rest[part.len..];
            }
        }
        Output::owned(controls)
    }

    /// Ends the output behind as many echoes as are left, and acts there.
    fn up_to_act(&mut self, mut left: u32, reply: Reply, data: &[u8]) -> Reply {
        let Output { head, range } = reply.output;
        let (mut sent, mut messages) = (Vec::new(), 0);
        for mut rest in [&head[..], &data[range]] {
            while left > 0 && !rest.is_empty() {
                let part = self.place.advance(rest);
                sent.extend_from_slice(&rest[..part.len]);
                rest = &rest[part.len..];
                left -= u32::from(part.ends_message);
                messages += u32::from(part.ends_message);
            }
        }
        self.left = (left > 0).then_some(left);
        if left > 0 {
            return Reply { output: Output::owned(sent), ..reply };
        }
        let (event, then) = match self.behaviour {
            Behaviour::Close { code, .. } => {
                sent.extend(close::close_frame(code.into(), ""));
                // After those messages the peer may have closed or failed already.
                if matches!(reply.event, Some(Event::Closed(_))) {
                    (reply.event, reply.then)
                } else {
                    self.echo.silence();
                    (Some(Event::Closing(code.into())), Then::Continue)
                }
            }
            Behaviour::Abort { .. } => (Some(Event::Closed(Cause::Behaviour)), Then::Reset),
            _ => (None, Then::Continue),
        };
        Reply { output: Output::owned(sent), event, messages, then, ..reply }
    }
}

/// A reply whose output is to be sent later.
fn deferred(reply: Reply) -> Reply {
    let event = reply.event.or_else(|| (!reply.output.is_empty()).then_some(Event::Deferred));
    Reply { event, ..reply }
}

/// The position of the end of a stream within the server's frames, followed from the beginning. The stream may be cut
/// anywhere but in a header.
#[derive(Debug, Default)]
struct Place {
    /// Payload bytes of the frame that are still to come.
    left: u64,
    /// The frame's first byte.
    first: u8,
}

/// A part of a frame.
struct Part {
    len: usize,
    is_control: bool,
    /// It ends with the last frame of a message.
    ends_message: bool,
}

impl Place {
    /// Goes on by as much of `bytes` as belongs to one frame. They are not empty.
    fn advance(&mut self, bytes: &[u8]) -> Part {
        let mut len = 0;
        if self.left == 0 {
            self.first = bytes[0];
            (len, self.left) = frame::read_header(bytes);
        }
        let payload = self.left.min((bytes.len() - len) as u64);
        self.left -= payload;
        let is_control = Opcode::of(self.first).is_some_and(Opcode::is_control);
        let ends_message = self.left == 0 && !is_control && self.first & FIN != 0;
        Part { len: len + payload as usize, is_control, ends_message }
    }
}

#[cfg(test)]
mod tests;
