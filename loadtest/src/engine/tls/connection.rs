//! The life of one TLS connection: connect, handshake, upgrade, greet, echo, close.

use std::io;
use std::net::TcpStream;

use rustix::event::epoll;
use socket2::{Domain, SockAddr, Socket, Type};

use super::stream::{ReadEnd, TlsStream};
use super::{TURN, Worker};
use crate::engine::connection::Stage;
use crate::scenario::Scenario;
use crate::session::{Judging, Session};
use crate::stats::{Cause, Counter};
use crate::websocket::frames::{MAX_CLIENT_HEADER, Opcode, Violation, close_code, write_client_header, write_control};
use crate::websocket::handshake::Answer;

/// What one connection may read or write in a turn, about.
const PIECE: usize = 256 << 10;

/// One connection.
#[derive(Debug)]
pub(super) struct TlsConnection {
    stream: TlsStream,
    session: Session,
    stage: Stage,
    role: Role,
    /// Is to be closed in order and opened again.
    is_recycling: bool,
    /// The server has sent its Close.
    is_closed: bool,
    /// The Close went out at the end of the run, and counts among those in the closing window.
    is_in_window: bool,
    began_ns: u64,
    /// The beginning of an answer to the upgrade that came in several pieces.
    answer: Vec<u8>,
}

/// What a connection does while there is load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Active,
    Idle,
    /// Sends and does not read.
    SlowReader,
}

impl Role {
    fn of(number: u32, scenario: &Scenario) -> Self {
        match (scenario.is_slow_reader(number), scenario.is_active(number)) {
            (true, _) => Self::SlowReader,
            (false, true) => Self::Active,
            (false, false) => Self::Idle,
        }
    }
}

impl TlsConnection {
    /// Whether it is open, and is to stay so.
    pub(super) fn is_to_stay(&self) -> bool {
        self.stage == Stage::Open && !self.is_recycling && self.role != Role::SlowReader
    }

    /// Whether nobody reads here any more.
    fn is_unread(&self) -> bool {
        self.stage == Stage::Open && self.role == Role::SlowReader
    }

    fn is_upgraded(&self) -> bool {
        matches!(self.stage, Stage::Greeting | Stage::Open | Stage::Closing)
    }
}

impl Worker<'_> {
    /// Begins as many attempts as pacing allows, and gives up on those that take too long.
    pub(super) fn open_more(&mut self) {
        self.expire();
        let allowance = self.pacing.allowance(self.now_ns, self.begun, self.attempts_in_flight());
        let left = self.part.connections - self.begun;
        for _ in 0..allowance.min(left).min(TURN as u32) {
            let number = self.part.first + self.begun;
            self.begun += 1;
            self.begin(number);
        }
    }

    /// Begins to open connection number `number`.
    fn begin(&mut self, number: u32) {
        self.tally.count(Counter::Attempted);
        if let Err(error) = self.try_to_begin(number) {
            self.tally.fail(Cause::of_error(error.raw_os_error().unwrap_or(libc::EIO)));
        }
    }

    fn try_to_begin(&mut self, number: u32) -> io::Result<()> {
        let endpoint = &self.shared.endpoints[self.shared.endpoint_of(number)];
        let (Some(config), Some(name)) = (&self.shared.tls, &endpoint.name) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let source = self.shared.sources.of_connections(number, 1).first().copied().map(SockAddr::from);
        let tcp = connect(&endpoint.address, source.as_ref())?;
        let stream = TlsStream::new(tcp, config, name.clone()).map_err(io::Error::other)?;
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &stream.tcp, epoll::EventData::new_u64(key as u64), flags)?;
        entry.insert(TlsConnection {
            stream,
            session: Session::new(number),
            stage: Stage::Connecting,
            role: Role::of(number, &self.shared.scenario),
            is_recycling: false,
            is_closed: false,
            is_in_window: false,
            began_ns: self.now_ns,
            answer: Vec::new(),
        });
        let deadline_ns = self.now_ns + self.shared.scenario.connect.timeout.as_nanos() as u64;
        self.deadlines.push_back((deadline_ns, key, number));
        Ok(())
    }

    /// Gives up attempts whose time is over.
    pub(super) fn expire(&mut self) {
        while let Some(&(deadline_ns, key, number)) = self.deadlines.front() {
            let connection = self.connections.get(key).filter(|connection| connection.session.number() == number);
            let cause = match connection.map(|connection| connection.stage) {
                Some(Stage::Connecting) => Cause::ConnectTimeout,
                Some(Stage::Upgrading) => Cause::UpgradeTimeout,
                Some(Stage::Greeting) => Cause::GreetingTimeout,
                _ => {
                    self.deadlines.pop_front();
                    continue;
                }
            };
            if deadline_ns > self.now_ns {
                return;
            }
            self.deadlines.pop_front();
            self.fail(key, cause);
        }
    }

    /// The socket has something to read, or takes more, or has failed.
    pub(super) fn on_ready(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.stage == Stage::Connecting {
            match connection.stream.tcp.take_error() {
                Ok(None) if connection.stream.tcp.peer_addr().is_ok() => self.on_connected(key),
                Ok(None) => return,
                Ok(Some(error)) | Err(error) => {
                    return self.fail(key, Cause::of_error(error.raw_os_error().unwrap_or(libc::EIO)));
                }
            }
        }
        self.read(key);
        self.send_due(key);
    }

    /// Asks for the upgrade: the request waits within TLS until the handshake is done.
    fn on_connected(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        connection.stage = Stage::Upgrading;
        let number = connection.session.number();
        let request = self.shared.request_of(number);
        self.frames.clear();
        self.frames.resize(request.len(), 0);
        request.write(number, &mut self.frames);
        connection.stream.write(&self.frames);
        self.flush(key);
    }

    fn flush(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.stream.flush().is_err() {
            self.on_gone(key, Cause::Reset);
        }
    }

    /// Takes all that has arrived, in pieces.
    fn read(&mut self, key: usize) {
        loop {
            let Some(connection) = self.connections.get_mut(key).filter(|it| !it.is_unread()) else { return };
            let was_handshaking = connection.stream.is_handshaking();
            let mut plain = std::mem::take(&mut self.plain);
            plain.clear();
            let end = connection.stream.read(&mut plain, PIECE);
            if was_handshaking {
                self.flush(key);
            }
            if !plain.is_empty() && self.connections.contains(key) {
                self.on_bytes(key, &plain);
            }
            self.plain = plain;
            match end {
                ReadEnd::Dry if self.plain.len() >= PIECE => {}
                ReadEnd::Dry => return,
                ReadEnd::Closed => return self.on_gone(key, Cause::Reset),
                ReadEnd::Failed(cause) => return self.on_gone(key, cause),
            }
        }
    }

    fn on_bytes(&mut self, key: usize, bytes: &[u8]) {
        let connection = &mut self.connections[key];
        if connection.stage == Stage::Upgrading {
            return self.on_answer(key, bytes);
        }
        let mut judging = Judging {
            now_ns: self.now_ns,
            messages: &self.shared.messages,
            times: &mut self.times,
            tally: &mut self.tally,
            is_closing: connection.stage == Stage::Closing,
            is_closed: connection.is_closed,
        };
        let signals = match connection.session.receive(bytes, &mut judging) {
            Ok(signals) => signals,
            Err(violation) => return self.on_violation(key, violation),
        };
        if let Some(payload) = signals.ping {
            self.tally.count(Counter::Pings);
            self.send_control(key, Opcode::Pong, &payload);
        }
        if let Some(code) = signals.close {
            return self.on_close(key, code);
        }
        match self.connections.get(key) {
            Some(it) if it.stage == Stage::Greeting && it.session.has_echoed() => self.on_open(key),
            Some(it) if it.is_recycling => self.close_if_settled(key),
            _ => {}
        }
    }

    fn on_answer(&mut self, key: usize, bytes: &[u8]) {
        let connection = &mut self.connections[key];
        connection.answer.extend_from_slice(bytes);
        let number = connection.session.number();
        match self.shared.request_of(number).judge(number, &connection.answer) {
            Answer::Incomplete => {}
            Answer::Upgraded(head) => {
                let answer = std::mem::take(&mut connection.answer);
                self.tally.count(Counter::Opened);
                connection.stage = Stage::Greeting;
                if !self.shared.scenario.connect.greet {
                    self.on_open(key);
                }
                if answer.len() > head {
                    self.on_bytes(key, &answer[head..]);
                }
            }
            Answer::Status(status) => self.fail(key, Cause::Status(status)),
            Answer::Invalid(why) => self.fail(key, Cause::Invalid(why)),
        }
    }

    fn on_open(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        connection.stage = Stage::Open;
        self.tally.connects.record(self.now_ns - connection.began_ns);
        self.tally.count(Counter::Settled);
    }

    /// Sends what the connection is to send now, unless the socket still has to take what was sent before.
    pub(super) fn send_due(&mut self, key: usize) {
        self.flush(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !connection.is_upgraded() || connection.stream.is_sending() {
            return;
        }
        if connection.is_unread() {
            return self.send_unread(key);
        }
        self.frames.clear();
        if connection.stage == Stage::Greeting && connection.session.is_new() {
            let id = connection.session.send_untimed(&mut self.tally);
            add_message(&mut self.frames, id, &self.shared.messages);
        }
        while self.frames.len() < PIECE && self.is_message_due(key) {
            self.quota -= 1;
            let id = self.connections[key].session.send(self.now_ns, &mut self.times, &mut self.tally);
            add_message(&mut self.frames, id, &self.shared.messages);
        }
        if !self.frames.is_empty() {
            self.is_held_up |= self.frames.len() >= PIECE && self.is_message_due(key);
            self.connections[key].stream.write(&self.frames);
            self.flush(key);
        }
    }

    /// Sends a turn's worth of messages whose echoes nobody reads.
    #[cold]
    fn send_unread(&mut self, key: usize) {
        if !self.phase.is_sending() {
            return;
        }
        let connection = &mut self.connections[key];
        self.frames.clear();
        while self.frames.len() < PIECE {
            add_message(&mut self.frames, connection.session.send_unread(), &self.shared.messages);
            self.tally.count(Counter::SlowSent);
        }
        connection.stream.write(&self.frames);
        self.flush(key);
        // There is an event only when the socket has not taken everything.
        if self.connections.get(key).is_some_and(|connection| !connection.stream.is_sending()) {
            self.unread.push(key);
        }
    }

    /// Goes on with those.
    pub(super) fn send_more_unread(&mut self) {
        let mut unread = std::mem::take(&mut self.unread);
        unread.sort_unstable();
        unread.dedup();
        for key in unread {
            self.send_due(key);
        }
    }

    fn is_message_due(&mut self, key: usize) -> bool {
        let connection = &mut self.connections[key];
        let traffic = &self.shared.scenario.traffic;
        if !self.phase.is_sending() || connection.role != Role::Active || !connection.is_to_stay() {
            return false;
        }
        let has_room = connection.session.in_flight() < traffic.depth && self.quota > 0;
        let Some(schedule) = self.times.schedule() else { return has_room };
        let clock = connection.session.clock().unwrap_or_else(|| {
            let number = connection.session.number();
            let clock = schedule.start(key as u32, number, self.shared.scenario.phase_of(number), self.now_ns);
            connection.session.set_clock(clock);
            clock
        });
        if !schedule.is_due(clock, self.now_ns) {
            schedule.queue(clock);
            return false;
        }
        has_room
    }

    pub(super) fn ping(&mut self, key: usize) {
        self.tally.count(Counter::PingsSent);
        self.send_control(key, Opcode::Ping, b"ringload");
    }

    fn send_control(&mut self, key: usize, opcode: Opcode, payload: &[u8]) {
        let connection = &mut self.connections[key];
        let mut frame = [0; MAX_CLIENT_HEADER + 125];
        let len = write_control(opcode, payload, [0x5a, 0x17, 0xc3, 0x88], &mut frame);
        connection.stream.write(&frame[..len]);
        self.flush(key);
    }

    /// Closes a connection in order, or gives it up if it is no connection yet.
    pub(super) fn close(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        if connection.is_unread() || !matches!(connection.stage, Stage::Greeting | Stage::Open) {
            return self.finish(key);
        }
        connection.is_in_window = true;
        self.closing += 1;
        self.send_close(key);
    }

    fn send_close(&mut self, key: usize) {
        self.connections[key].stage = Stage::Closing;
        self.tally.count(Counter::ClosesSent);
        self.send_control(key, Opcode::Close, &close_code::NORMAL.to_be_bytes());
    }

    /// Closes a connection that is to be opened again, in order: not before all its messages have come back.
    pub(super) fn recycle(&mut self, key: usize) {
        self.tally.count(Counter::Recycled);
        self.connections[key].is_recycling = true;
        self.close_if_settled(key);
    }

    /// Goes on with that when a message has come back.
    fn close_if_settled(&mut self, key: usize) {
        let connection = &self.connections[key];
        if connection.stage == Stage::Open && connection.session.in_flight() == 0 {
            self.send_close(key);
        }
    }

    /// The server's Close has arrived, and this side's is to have this code if it is still to be sent.
    fn on_close(&mut self, key: usize, code: u16) {
        let connection = &mut self.connections[key];
        connection.is_closed = true;
        if connection.stage == Stage::Closing {
            return self.tally.count(Counter::ClosesAnswered);
        }
        self.closed_early(key);
        self.connections[key].stage = Stage::Closing;
        self.send_control(key, Opcode::Close, &code.to_be_bytes());
    }

    /// The connection has ended, for this cause if it was not ready yet.
    fn on_gone(&mut self, key: usize, cause: Cause) {
        let Some(connection) = self.connections.get(key) else { return };
        match connection.stage {
            Stage::Connecting | Stage::Upgrading => return self.fail(key, cause),
            Stage::Greeting | Stage::Open => self.closed_early(key),
            Stage::Closing | Stage::Ending => {}
        }
        self.finish(key);
    }

    /// The server has broken the protocol. It is told why (RFC 6455 section 7.1.7), not waited for.
    fn on_violation(&mut self, key: usize, violation: Violation) {
        self.tally.count(Counter::Violations);
        *self.tally.violations.entry(violation.to_string()).or_default() += 1;
        self.settle_greeting(key);
        if std::mem::replace(&mut self.connections[key].stage, Stage::Closing) != Stage::Closing {
            self.send_control(key, Opcode::Close, &violation.close_code().to_be_bytes());
        }
        self.finish(key);
    }

    fn closed_early(&mut self, key: usize) {
        let may_be = self.connections[key].is_unread();
        self.tally.count(if may_be { Counter::SlowEnded } else { Counter::ClosedEarly });
        self.settle_greeting(key);
    }

    /// An attempt that gets no further than its greeting is settled all the same.
    fn settle_greeting(&mut self, key: usize) {
        if self.connections[key].stage == Stage::Greeting {
            self.tally.count(Counter::Settled);
        }
    }

    fn fail(&mut self, key: usize, cause: Cause) {
        self.tally.fail(cause);
        self.finish(key);
    }

    /// Lets go of a connection: closing the socket takes it out of the epoll set. Opens it again if that is what it was
    /// closed for.
    pub(super) fn finish(&mut self, key: usize) {
        let Some(mut connection) = self.connections.try_remove(key) else { return };
        if connection.is_upgraded() {
            self.tally.count(Counter::Ended);
        }
        if connection.is_in_window {
            self.closing -= 1;
        }
        if connection.is_unread() {
            connection.session.forget();
        }
        let until_ns = if self.phase.is_sending() && self.quota > 0 { self.now_ns } else { 0 };
        connection.session.abandon(&mut self.times, &mut self.tally, until_ns);
        let (number, is_to_return) = (connection.session.number(), connection.is_recycling && self.phase.is_sending());
        drop(connection);
        if is_to_return {
            self.begin(number);
        }
    }
}

/// A socket that is being connected.
fn connect(target: &SockAddr, source: Option<&SockAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::from(i32::from(target.family())), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source.filter(|source| source.family() == target.family()) {
        socket.bind(source)?;
    }
    match socket.connect(target) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Appends message `id` as one masked frame.
fn add_message(frames: &mut Vec<u8>, id: crate::message::MessageId, messages: &crate::message::Messages) {
    let (size, key) = (messages.size_of(id), messages.masking_key(id));
    let opcode = if messages.is_text() { Opcode::Text } else { Opcode::Binary };
    let start = frames.len();
    frames.resize(start + MAX_CLIENT_HEADER + size, 0);
    let header = write_client_header(opcode, size, key, &mut frames[start..]);
    frames.truncate(start + header + size);
    messages.write_masked(id, 0, key, &mut frames[start + header..]);
}
