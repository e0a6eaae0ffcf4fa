//! A session that is given a stream in pieces, and what must hold after each.

use ringecho::protocol::{Cause, CloseCode, Event, Phase, Session, Settings, Shared, Then};

use crate::input::{Cuts, Frames};
use crate::memory::allocated;
use crate::outgoing;

pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// What a frame can cost that waits for its rest: a cut header or control frame (130 bytes), for which a vector may have
/// twice the room, and the box that it is in.
const MAX_KEPT: usize = 2 * 131 + 64;
/// What a reply can have beside what fits where the frames were: a kept frame, the header of a text fragment, a Close.
const MAX_EXTRA: usize = 130 + 10 + 127;
/// The answer to an upgrade request, at most.
const MAX_ANSWER: usize = 400;

/// A session, and what it has sent so far.
pub struct Driven {
    pub session: Session,
    shared: Shared,
    pub sent: Vec<u8>,
    pub messages: u32,
    pub then: Then,
    /// The last one.
    pub event: Option<Event>,
    /// Frames whose headers were complete.
    pub frames: u32,
    /// Bytes of the stream that had been received when the server was told to close.
    pub told_to_close: Option<usize>,
    /// The server could close at once: it was not in the midst of a frame of its own.
    pub closed_at_once: bool,
    /// Bytes on the heap that the session holds.
    held: isize,
}

impl Driven {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let session = Session::new(&settings);
        Self {
            session,
            shared: Shared::new(settings),
            sent: Vec::new(),
            messages: 0,
            then: Then::Continue,
            event: None,
            frames: 0,
            told_to_close: None,
            closed_at_once: false,
            held: 0,
        }
    }

    /// What the session has sent for `frames`' stream in these cuts, behind the answer to the request.
    ///
    /// With `acts` the server pings and closes as `frames` says.
    #[must_use]
    pub fn run(frames: &Frames, cuts: &Cuts, acts: bool) -> Self {
        let mut driven = Self::new(frames.settings.clone());
        let mut reads = cuts.of(&frames.stream);
        let first = if frames.is_eager { reads.next() } else { None };
        driven.receive(&[REQUEST, first.unwrap_or_default()].concat());
        let answer_end = driven.sent.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer") + 4;
        driven.sent.drain(..answer_end);
        let mut received = first.unwrap_or_default().len();
        for (number, read) in reads.enumerate() {
            if driven.then != Then::Continue {
                break;
            }
            if acts && frames.ping_at == Some(number) {
                driven.ping();
            }
            if acts && frames.close_at == Some(number) {
                driven.close();
                driven.told_to_close = Some(received);
            }
            driven.receive(read);
            received += read.len();
        }
        driven.check_end();
        driven
    }

    /// Gives the session a read.
    pub fn receive(&mut self, read: &[u8]) {
        let phase = self.session.phase();
        let mut data = read.to_vec();
        let before = allocated();
        let reply = self.session.receive(&mut self.shared, &mut data);
        self.held += allocated() - before - reply.output.head.capacity().cast_signed();
        let extra = MAX_EXTRA + if phase == Phase::Handshake { MAX_ANSWER } else { 0 };
        assert!(reply.output.len() <= data.len() + extra, "a reply that does not fit where the frames were");
        assert!(phase != Phase::Closing || reply.output.is_empty(), "something is sent after the Close frame");
        self.sent.extend(reply.output.to_vec(&data));
        self.messages += reply.messages;
        self.then = reply.then;
        self.event = reply.event.or(self.event);
        self.frames += reply.frames;
        self.check_event(phase);
        self.check_memory();
    }

    /// The event of a receive says how the phase has changed.
    fn check_event(&self, before: Phase) {
        let after = self.session.phase();
        match self.event {
            None => assert_eq!(after, Phase::Handshake),
            Some(Event::Opened) => assert!(matches!(after, Phase::Open | Phase::Closing), "{after:?} after {before:?}"),
            Some(Event::Closing(_)) => assert_eq!(after, Phase::Closing),
            Some(Event::Deferred | Event::Inflated) => unreachable!("an echo is sent at once, and nothing compressed"),
            Some(Event::Closed(Cause::Refused(_))) => assert_eq!((before, after), (Phase::Handshake, Phase::Closed)),
            Some(Event::Closed(_)) => assert_eq!(after, Phase::Closed),
        }
        assert_eq!(matches!(self.event, Some(Event::Closed(_))), self.then != Then::Continue);
    }

    /// The peer's Close frame has ended the connection, and no violation.
    #[must_use]
    pub fn is_closed_by_peer(&self) -> bool {
        matches!(self.event, Some(Event::Closed(Cause::PeerClosed(_))))
    }

    /// A violation has ended the connection.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.then == Then::Linger && matches!(self.event, Some(Event::Closed(Cause::Violation(_))))
    }

    fn check_memory(&self) {
        let most = match self.session.phase() {
            // One byte more shows that it is too large; a vector may have twice the room that it needs.
            Phase::Handshake => 2 * (self.shared.settings.max_handshake_size + 1) + 64,
            Phase::Open | Phase::Closing => MAX_KEPT,
            Phase::Closed => 0,
        };
        assert!(self.held <= most.cast_signed(), "a session in {:?} holds {} bytes", self.session.phase(), self.held);
    }

    /// The server's own Ping is not kept: what else is sent must not depend on it.
    fn ping(&mut self) {
        let is_offered = self.session.ping().is_some();
        if is_offered {
            assert!(!outgoing::check(&self.sent).is_within_frame, "a Ping within a frame");
        }
        let is_open = self.session.phase() == Phase::Open;
        assert_eq!(is_offered, is_open && self.session.at_frame_boundary());
    }

    fn close(&mut self) {
        let is_open = self.session.phase() == Phase::Open;
        let before = allocated();
        let frame = self.session.close(CloseCode::GOING_AWAY, "bye");
        self.held += allocated() - before - frame.as_ref().map_or(0, Vec::capacity).cast_signed();
        assert_eq!(frame.is_some(), is_open && self.session.at_frame_boundary());
        self.closed_at_once = frame.is_some();
        if let Some(frame) = frame {
            self.sent.extend(frame);
            assert_eq!(self.session.phase(), Phase::Closing);
        }
    }

    /// What must hold whatever has come.
    fn check_end(&mut self) {
        assert_eq!(self.then != Then::Continue, self.session.phase() == Phase::Closed);
        if self.then == Then::Continue {
            return;
        }
        let reply = self.session.receive(&mut self.shared, &mut b"\x89\x80\0\0\0\0".to_vec());
        assert!(reply.output.is_empty() && reply.messages == 0, "a closed session answers");
        assert_eq!(self.held, 0, "a closed session holds memory");
    }

    /// Whether the session owns no memory, as an idle one must.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.held == 0
    }
}
