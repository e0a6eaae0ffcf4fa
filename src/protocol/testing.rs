//! Helpers of unit tests: a client's frames, and a session driven by hand.

use super::{Event, Kinds, Output, Phase, Reply, Session, Settings, Shared, Then};

pub(super) const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(super) const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A frame as a client sends it: masked.
pub(super) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len(), 0x80);
    frame.extend(KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A frame as a server sends it.
pub(super) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [header(first, payload.len(), 0), payload.to_vec()].concat()
}

fn header(first: u8, len: usize, mask: u8) -> Vec<u8> {
    match len {
        0..126 => vec![first, mask | len as u8],
        126..65536 => [&[first, mask | 0x7e][..], &(len as u16).to_be_bytes()].concat(),
        _ => [&[first, mask | 0x7f][..], &(len as u64).to_be_bytes()].concat(),
    }
}

/// The payload of a Close frame.
pub(super) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// A session, and what it has sent so far.
pub(super) struct Driven {
    pub(super) session: Session,
    pub(super) shared: Shared,
    pub(super) sent: Vec<u8>,
    pub(super) messages: u32,
    pub(super) frames: u32,
    pub(super) kinds: Kinds,
    /// The last one.
    pub(super) event: Option<Event>,
    pub(super) then: Then,
}

impl Driven {
    pub(super) fn new(settings: Settings) -> Self {
        let session = Session::new(&settings);
        let shared = Shared::new(settings);
        let (kinds, then) = (Kinds::default(), Then::Continue);
        Driven { session, shared, sent: Vec::new(), messages: 0, frames: 0, kinds, event: None, then }
    }

    /// A session whose handshake is done.
    pub(super) fn open(settings: Settings) -> Self {
        let mut driven = Driven::new(settings);
        driven.receive(REQUEST.as_bytes());
        assert_eq!(driven.session.phase(), Phase::Open);
        driven.sent.clear();
        driven
    }

    /// Receives `bytes`, and goes on with what waits of them.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Output {
        let output = self.receive_once(bytes.to_vec());
        while self.resume() {}
        output
    }

    /// Receives `data`. Some of it may wait.
    pub(super) fn receive_once(&mut self, mut data: Vec<u8>) -> Output {
        let reply = self.session.receive(&mut self.shared, &mut data);
        self.note(&reply, &data);
        reply.output
    }

    /// Goes on with what waits. Returns whether there was something.
    pub(super) fn resume(&mut self) -> bool {
        let reply = self.session.resume(&mut self.shared);
        reply.inspect(|reply| self.note(reply, &[])).is_some()
    }

    fn note(&mut self, reply: &Reply, data: &[u8]) {
        self.sent.extend(reply.output.to_vec(data));
        self.messages += reply.messages;
        self.frames += reply.frames;
        self.kinds = self.kinds + reply.kinds;
        self.event = reply.event.or(self.event);
        self.then = reply.then;
    }

    /// Receives `bytes` one by one.
    pub(super) fn dribble(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(self.then, Then::Continue, "nothing is received after the end");
            self.receive(&[*byte]);
        }
    }
}
