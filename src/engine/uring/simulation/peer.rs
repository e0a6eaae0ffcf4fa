//! A connection's other end and its socket in the kernel: what it sends, and what it must get back.

use crate::connection::lifecycle::LAST_RECEIVES;
use crate::engine::uring::token::Token;
use crate::protocol::{Deflate, Protocol, Settings};

use super::heard::Heard;
use super::random::Random;
use super::script::{OWN_PING, Script, without_own};

/// What a peer is due when the server stops.
struct Due {
    /// The answer to all that had arrived.
    echo: Vec<u8>,
    /// Receives that it may still have. When they are used up, nothing is due.
    receives: usize,
}

/// What the peers of a schedule are like.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) protocol: Protocol,
    /// What the server does with compressed messages, which the peers offer.
    pub(super) deflate: Deflate,
    /// Such messages may need those before.
    pub(super) has_context: bool,
    /// The server closes, pings and loses patience by itself: what it sends is not only echo, and not all of it.
    pub(super) server_acts: bool,
    /// They send much and do not read.
    pub(super) floods: bool,
    /// Their sockets do not say whether they hold more: Unix sockets before Linux 6.17.
    pub(super) hides_more: bool,
    /// How much longer than small their larger frames are, and what they send and read at once.
    pub(super) scale: usize,
}

impl Kind {
    pub(super) fn settings(self) -> Settings {
        let Self { protocol, deflate, has_context, .. } = self;
        Settings { protocol, deflate, has_deflate_context: has_context, ..Settings::default() }
    }
}

/// A peer and its socket.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own about a socket
pub(super) struct Peer {
    /// What it will send, how much of that it has, and how much of that the server has received.
    pub(super) script: Script,
    pub(super) sent: usize,
    pub(super) received: usize,
    pub(super) has_finished: bool,
    pub(super) has_reset: bool,
    /// Sent by the server and not read by the peer.
    pub(super) in_socket: usize,
    pub(super) socket_size: usize,
    pub(super) reads: bool,
    /// It cuts its frames into pieces of a few bytes.
    pub(super) dribbles: bool,
    /// It answers Pings at once.
    pub(super) answers_pings: bool,
    pub(super) is_pinged: bool,
    /// It answers Pings and reads, and did so when all others began to do nothing.
    pub(super) is_faithful: bool,
    pub(super) poll: Option<Token>,
    /// Something has arrived that the poll has not told.
    pub(super) has_arrival: bool,
    /// The socket takes bytes again, and the poll has not told.
    pub(super) has_room: bool,
    /// A receive has told that nothing is left, and no event has come since.
    pub(super) is_known_empty: bool,
    /// The last receive has found nothing, or the end.
    pub(super) is_drained: bool,
    /// A send has found the socket's buffer full; when there is room again, that is an event.
    pub(super) lacks_room: bool,
    /// Where in its script the peer has set the last TCP urgent mark: a receive ends there.
    mark: Option<usize>,
    /// The poll has reported an end.
    has_told_end: bool,
    /// A receive has found nothing, and there may be a mark: the next one counts.
    pub(super) was_vain: bool,
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
    kind: Kind,
    pub(super) server_acts: bool,
}

impl Peer {
    pub(super) fn new(random: &mut Random, kind: Kind) -> Self {
        let script = Script::new(random, kind);
        // Down to a byte; but of much at least a part at a time: the other turns would show nothing new.
        let socket_size = (1 + random.below(300 * kind.scale)).max(script.len() / 64);
        let mut peer = Self::with_script(script, socket_size, kind);
        peer.reads = !kind.floods && !random.one_in(5);
        peer.dribbles = kind.scale > 1 && random.one_in(4);
        peer.answers_pings = random.one_in(2);
        peer
    }

    /// One that reads.
    pub(super) fn with_script(script: Script, socket_size: usize, kind: Kind) -> Self {
        Self {
            expected: script.answer(script.len(), kind),
            script,
            sent: 0,
            received: 0,
            has_finished: false,
            has_reset: false,
            in_socket: 0,
            socket_size,
            reads: true,
            dribbles: false,
            answers_pings: false,
            is_pinged: false,
            is_faithful: false,
            poll: None,
            has_arrival: false,
            has_room: false,
            is_known_empty: false,
            is_drained: false,
            lacks_room: false,
            mark: None,
            has_told_end: false,
            was_vain: false,
            shutdown: None,
            was_shut: false,
            fin_delivered: false,
            is_corked: false,
            owner: None,
            echoed: Vec::new(),
            due_at_stop: None,
            kind,
            server_acts: kind.server_acts,
        }
    }

    /// What has arrived at the server's socket and is not received.
    pub(super) fn inbox(&self) -> &[u8] {
        &self.script.bytes[self.received..self.sent]
    }

    /// How much of it the next receive can bring at most.
    pub(super) fn available(&self) -> usize {
        let end = self.mark.filter(|&mark| mark > self.received).unwrap_or(self.sent);
        end - self.received
    }

    /// The next receive finds nothing if a signal is pending, since it starts at an urgent mark.
    pub(super) fn is_at_mark(&self) -> bool {
        self.mark == Some(self.received) && self.received < self.sent
    }

    /// The peer sets an urgent mark in front of what it sends next, if its kind of socket has marks.
    pub(super) fn mark(&mut self) {
        if !self.has_reset && !self.has_finished && !self.kind.hides_more {
            (self.mark, self.has_arrival) = (Some(self.sent), true);
        }
    }

    /// The poll tells of these events.
    pub(super) fn tell(&mut self, events: i32) {
        self.has_told_end |= events & self.end() != 0;
        self.was_vain &= events & !i32::from(libc::POLLOUT) == 0;
        self.is_known_empty = false;
    }

    /// A receive finds nothing; `is_last`: behind a Close.
    pub(super) fn find_nothing(&mut self, is_last: bool) {
        let may_be_at_mark = self.has_told_end || !self.kind.hides_more && !is_last;
        self.is_known_empty = self.was_vain || !may_be_at_mark;
        self.was_vain = !self.is_known_empty;
    }

    /// The server has received this much, and is told whether there is more.
    pub(super) fn bring(&mut self, len: usize) {
        self.received += len;
        self.was_vain = false;
        let has_more = !self.inbox().is_empty() || self.has_finished;
        self.is_known_empty = !has_more && !self.kind.hides_more && !self.has_told_end;
        self.mark = self.mark.filter(|&mark| mark >= self.received);
    }

    pub(super) fn has_sent_all(&self) -> bool {
        self.sent == self.script.len()
    }

    /// The peer sends the next `amount` bytes of its script.
    pub(super) fn send(&mut self, amount: usize) {
        if self.has_reset || self.has_finished {
            return;
        }
        let end = self.script.len().min(self.sent.saturating_add(amount));
        self.has_arrival |= end > self.sent;
        self.sent = end;
    }

    /// It answers a Ping, if it does and has one to answer.
    pub(super) fn answer_ping(&mut self) {
        if self.is_pinged && self.script.insert_pong(self.sent) {
            self.is_pinged = false;
            self.send(super::script::PONG.len());
        }
    }

    /// It is to stay open: it does nothing but answer Pings from now on, if it always has, and read at once.
    pub(super) fn begin_vigil(&mut self) {
        let has_end = self.has_finished || self.has_reset || self.script.has_close_before(self.sent);
        if self.answers_pings && !has_end && self.script.is_boundary(self.sent) {
            self.is_faithful = true;
            self.reads = true;
            self.socket_size = usize::MAX;
            self.read(usize::MAX);
        }
    }

    /// It reads all there is, if it reads.
    pub(super) fn read_all(&mut self) {
        self.read(usize::MAX);
    }

    /// Bytes that it was sent so far.
    pub(super) fn echoed_len(&self) -> usize {
        self.echoed.len()
    }

    /// Whether the socket is that of a token's connection.
    pub(super) fn is_owned_by(&self, token: Token) -> bool {
        self.owner == Some((token.key, token.generation))
    }

    /// It sends its frames once more; what it has got until now is forgotten.
    pub(super) fn begin_again(&mut self) {
        (self.sent, self.received) = (self.script.ends[0], self.script.ends[0]);
        self.mark = None;
        self.echoed.clear();
    }

    /// The peer sends its FIN, if it has not yet; what it has not sent it never will.
    pub(super) fn finish(&mut self) {
        if !self.has_reset && !self.has_finished {
            self.has_arrival = true;
            self.has_finished = true;
            if !self.has_sent_all() {
                self.script.truncate(self.sent);
                self.expected = self.script.answer(self.sent, self.kind);
            }
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
        let input = !self.inbox().is_empty() || self.has_finished || self.has_reset;
        let room = self.in_socket < self.socket_size || self.has_reset;
        self.end() | (i32::from(libc::POLLIN) * i32::from(input)) | (i32::from(libc::POLLOUT) * i32::from(room))
    }

    /// The server's socket takes these bytes. Every byte is echoed once and in order.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.in_socket += bytes.len();
        self.echoed.extend_from_slice(bytes);
        self.is_pinged |= bytes == OWN_PING;
        if !self.server_acts && self.kind.deflate == Deflate::Off {
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
        let echo = self.script.answer(self.sent, self.kind);
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
        assert!(self.begins(&due.echo, &echo), "an echo is lost when the server stops");
        let is_open = self.kind.protocol == Protocol::WebSocket && !due.echo.is_empty() && !self.has_finished;
        assert!(is_closed || !is_open, "the server stops without a Close frame");
    }

    /// All that is due has been echoed.
    pub(super) fn check_complete(&self) {
        if self.kind.deflate == Deflate::Off {
            assert_eq!(self.echoed.len(), self.expected.len(), "an echo that never comes");
        } else {
            assert!(self.hears(&self.echoed).equals(&self.hears(&self.expected)), "an echo that never comes");
        }
    }

    fn hears(&self, sent: &[u8]) -> Heard {
        Heard::new(sent, self.kind.deflate)
    }

    /// Whether something that was sent comes first in something else.
    fn begins(&self, beginning: &[u8], whole: &[u8]) -> bool {
        match self.kind.deflate {
            Deflate::Off => whole.starts_with(beginning),
            _ => self.hears(beginning).begins(&self.hears(whole)),
        }
    }

    /// The server closes the socket.
    pub(super) fn check_end(&self) {
        assert!(self.poll.is_none(), "closed with a poll in flight");
        assert!(self.shutdown.is_none(), "closed with a shutdown in flight");
        if self.server_acts {
            let echo = without_own(&self.echoed).0;
            assert!(self.begins(&echo, &self.expected), "the echo is not what was sent");
            self.check_farewell();
            return;
        }
        assert!(self.begins(&self.echoed, &self.expected), "the echo is not what was sent");
        assert!(self.is_drained || self.has_reset, "closed without a look whether something is unread");
        if self.fin_delivered && !self.has_reset {
            self.check_complete();
        }
    }
}
