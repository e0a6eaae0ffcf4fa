//! A connection's other end and its socket in the kernel: what it sends, and what it must get back.

use std::collections::VecDeque;

use crate::engine::fairness::LAST_RECEIVES;
use crate::engine::uring::token::Token;
use crate::protocol::{Protocol, Session, Settings};

use super::random::Random;

/// What a peer is due when the server stops.
struct Due {
    /// The answer to all that had arrived.
    echo: Vec<u8>,
    /// Receives that it may still have. When they are used up, nothing is due.
    receives: usize,
}

/// A peer and its socket.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own about a socket
pub(super) struct Peer {
    /// What it will send, and how much of that it has.
    pub(super) script: Vec<u8>,
    pub(super) sent: usize,
    /// Arrived at the server's socket and not received.
    pub(super) inbox: VecDeque<u8>,
    pub(super) has_finished: bool,
    pub(super) has_reset: bool,
    /// Sent by the server and not read by the peer.
    pub(super) in_socket: usize,
    pub(super) socket_size: usize,
    pub(super) reads: bool,
    pub(super) poll: Option<Token>,
    /// Something has arrived that the poll has not told.
    pub(super) has_arrival: bool,
    /// The socket takes bytes again, and the poll has not told.
    pub(super) has_room: bool,
    /// A receive has told that nothing is left, and no event has come since.
    pub(super) is_known_empty: bool,
    /// A send has found the socket's buffer full; when there is room again, that is an event.
    pub(super) lacks_room: bool,
    pub(super) shutdown: Option<Token>,
    pub(super) was_shut: bool,
    pub(super) fin_delivered: bool,
    /// What the server sent last was announced as not all (`MSG_MORE`): the kernel keeps it back for a while.
    pub(super) is_corked: bool,
    /// Slab key and generation of the entry that the socket belongs to.
    pub(super) owner: Option<(u32, u32)>,
    expected: Vec<u8>,
    echoed: Vec<u8>,
    due_at_stop: Option<Due>,
    protocol: Protocol,
    /// The server closes, pings and loses patience by itself: what it sends is not only echo, and not all of it.
    pub(super) server_acts: bool,
}

impl Peer {
    /// `floods`: it sends much and does not read.
    pub(super) fn new(random: &mut Random, protocol: Protocol, server_acts: bool, floods: bool) -> Self {
        let script = script(random, protocol, floods);
        Self {
            expected: expected(&script, protocol),
            script,
            sent: 0,
            inbox: VecDeque::new(),
            has_finished: false,
            has_reset: false,
            in_socket: 0,
            socket_size: 1 + random.below(300),
            reads: !floods && !random.one_in(5),
            poll: None,
            has_arrival: false,
            has_room: false,
            is_known_empty: false,
            lacks_room: false,
            shutdown: None,
            was_shut: false,
            fin_delivered: false,
            is_corked: false,
            owner: None,
            echoed: Vec::new(),
            due_at_stop: None,
            protocol,
            server_acts,
        }
    }

    /// The peer sends the next `amount` bytes of its script.
    pub(super) fn send(&mut self, amount: usize) {
        if self.has_reset {
            return;
        }
        let end = self.script.len().min(self.sent.saturating_add(amount));
        self.has_arrival |= end > self.sent;
        self.inbox.extend(&self.script[self.sent..end]);
        self.sent = end;
    }

    /// The peer sends its FIN, if it has not yet.
    pub(super) fn finish(&mut self) {
        if !self.has_reset {
            self.has_arrival |= !self.has_finished;
            self.has_finished = true;
        }
    }

    /// The peer resets the connection.
    pub(super) fn reset(&mut self) {
        self.has_arrival = true;
        self.has_room = true;
        self.has_reset = true;
    }

    /// The peer reads some of what has been sent to it.
    pub(super) fn read(&mut self, amount: usize) {
        if self.reads {
            self.in_socket = self.in_socket.saturating_sub(amount);
            if self.lacks_room && self.in_socket < self.socket_size {
                self.lacks_room = false;
                self.has_room = true;
            }
        }
    }

    /// The end, if there is one.
    pub(super) fn end(&self) -> i32 {
        let end = i32::from(libc::POLLRDHUP) * i32::from(self.has_finished || self.has_reset);
        end | (i32::from(libc::POLLHUP | libc::POLLERR) * i32::from(self.has_reset))
    }

    /// What a poll finds.
    pub(super) fn readiness(&self) -> i32 {
        let input = !self.inbox.is_empty() || self.has_finished || self.has_reset;
        let room = self.in_socket < self.socket_size || self.has_reset;
        self.end() | (i32::from(libc::POLLIN) * i32::from(input)) | (i32::from(libc::POLLOUT) * i32::from(room))
    }

    /// The server's socket takes these bytes. Every byte is echoed once and in order.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.in_socket += bytes.len();
        self.echoed.extend_from_slice(bytes);
        if !self.server_acts {
            let from = self.echoed.len() - bytes.len();
            assert!(self.expected[from..].starts_with(bytes), "the echo is not what was sent");
        }
    }

    /// Nothing can happen to this socket by itself: all has been received that the server wants, and, by a peer that
    /// reads, all been read.
    pub(super) fn is_quiet(&self) -> bool {
        let has_event = self.poll.is_some() && (self.has_arrival || self.has_room);
        let is_read = !self.reads || (self.in_socket == 0 && !self.lacks_room);
        !has_event && self.shutdown.is_none() && is_read
    }

    /// The server stops.
    pub(super) fn server_stops(&mut self) {
        let echo = expected(&self.script[..self.sent], self.protocol);
        self.due_at_stop = Some(Due { echo, receives: LAST_RECEIVES.into() });
        self.server_acts = true;
    }

    /// The server has received from it.
    pub(super) fn is_received_from(&mut self) {
        if let Some(due) = &mut self.due_at_stop {
            due.receives = due.receives.saturating_sub(1);
        }
    }

    /// It is read no further for now, for it does not read.
    pub(super) fn is_throttled(&mut self) {
        self.due_at_stop = None;
    }

    /// When the server stops, all that had arrived is echoed, and a Close frame comes behind it.
    pub(super) fn check_farewell(&self) {
        let Some(due) = self.due_at_stop.as_ref().filter(|due| due.receives > 0 && !self.has_reset) else { return };
        let (echo, is_closed) = without_own(&self.echoed);
        assert!(echo.starts_with(&due.echo), "an echo is lost when the server stops");
        let is_open = self.protocol == Protocol::WebSocket && !due.echo.is_empty() && !self.has_finished;
        assert!(is_closed || !is_open, "the server stops without a Close frame");
    }

    /// All that is due has been echoed.
    pub(super) fn check_complete(&self) {
        assert_eq!(self.echoed.len(), self.expected.len(), "an echo that never comes");
    }

    /// The server closes the socket.
    pub(super) fn check_end(&self) {
        assert!(self.poll.is_none(), "closed with a poll in flight");
        assert!(self.shutdown.is_none(), "closed with a shutdown in flight");
        if self.server_acts {
            assert!(self.expected.starts_with(&without_own(&self.echoed).0), "the echo is not what was sent");
            self.check_farewell();
        } else if self.fin_delivered && !self.has_reset {
            self.check_complete();
        }
    }
}

/// What the peer sends: for WebSocket an upgrade and frames whose echo does not depend on how they are cut.
fn script(random: &mut Random, protocol: Protocol, is_long: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if protocol == Protocol::WebSocket {
        bytes.extend_from_slice(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
    }
    let frames = if is_long || random.one_in(8) { 60 } else { random.below(6) };
    for _ in 0..frames {
        match random.below(8) {
            0 | 1 => bytes.extend(frame(random, 0x89, 126)),
            2 => bytes.extend(frame(random, 0x82, 900)),
            3 => {
                bytes.extend(frame(random, 0x02, 120));
                bytes.extend(frame(random, 0x80, 120));
            }
            _ => bytes.extend(frame(random, 0x82, 120)),
        }
    }
    match random.below(4) {
        0 => bytes.extend_from_slice(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]),
        1 => bytes.extend_from_slice(b"\xff\xff garbage that is no frame"),
        _ => {}
    }
    bytes
}

/// A frame with fewer payload bytes than `bound`; they are random, and so is the key.
fn frame(random: &mut Random, first: u8, bound: usize) -> Vec<u8> {
    let len = random.below(bound);
    let mut frame = match len {
        0..126 => vec![first, 0x80 | len as u8],
        _ => [&[first, 0xfe], &(len as u16).to_be_bytes()[..]].concat(),
    };
    let end = frame.len() + 4 + len;
    while frame.len() < end {
        frame.extend(random.next().to_ne_bytes());
    }
    frame.truncate(end);
    frame
}

/// The whole answer to `script`, made in one piece.
fn expected(script: &[u8], protocol: Protocol) -> Vec<u8> {
    let settings = Settings { protocol, ..Settings::default() };
    let mut session = Session::new(&settings);
    let mut data = script.to_vec();
    session.receive(&settings, &mut data).output.to_vec(&data)
}

/// What was sent without the Pings and the Close frame that the server has sent of its own accord, and whether a Close
/// frame is there, of its own accord or not.
fn without_own(sent: &[u8]) -> (Vec<u8>, bool) {
    const PING: &[u8] = &[0x89, 0];
    const CLOSE_AWAY: &[u8] = &[0x03, 0xe9];
    if !sent.starts_with(b"HTTP/") {
        return (sent.to_vec(), false); // bare TCP
    }
    let head = sent.windows(4).position(|window| window == b"\r\n\r\n").map_or(sent.len(), |end| end + 4);
    let mut echo = sent[..head].to_vec();
    let mut rest = &sent[head..];
    let mut is_closed = false;
    while !rest.is_empty() {
        let len = match rest {
            [_, 126, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
            [_, len, ..] if *len < 126 => 2 + usize::from(*len),
            _ => usize::MAX,
        };
        let (frame, behind) = rest.split_at(len.min(rest.len()));
        is_closed |= frame.len() == len && frame[0] == 0x88;
        match frame {
            PING => {}
            // Cut off by the end of the connection: whose it is cannot be seen.
            [0x88 | 0x89, ..] if frame.len() < len => {}
            [0x88, _, payload @ ..] if payload.starts_with(CLOSE_AWAY) => {
                assert!(behind.is_empty(), "something is sent behind the Close frame");
            }
            _ => echo.extend_from_slice(frame),
        }
        rest = behind;
    }
    (echo, is_closed)
}
