//! The gate: correctness checks that a server must pass before it is measured.
//!
//! Each check has a connection of its own, so that a failed one does not affect the others, and compares every byte.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use serde::{Deserialize, Serialize};

use crate::interrupt::Interrupt;
use crate::message::mask;
use crate::target::{Address, Protocol, Target};
use crate::tls::{self, TlsOptions};
use crate::websocket::frames::{
    Event, FrameReader, MAX_CLIENT_HEADER, Opcode, close_code, write_client_header, write_control,
};
use crate::websocket::handshake::{Answer, Extras, UpgradeRequest};

/// Time limit of a whole check. A server that needs more time for one message cannot be measured.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of one read or write, after which the other is tried: a server may send before it has received everything.
const TURN: Duration = Duration::from_millis(5);

/// Size of the read buffer.
const READ: usize = 64 << 10;

/// Size of the large message.
const LARGE: usize = 1 << 20;

/// Number of messages in one segment.
const AT_ONCE: usize = 16;

/// The opcode of a continuation frame.
const CONTINUATION: u8 = 0;

/// The masking key need not be random here: no proxy is between the two sides.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A check and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// The fault; absent if the check has passed.
    pub fault: Option<String>,
}

type CheckOf = fn(&Target) -> Result<(), String>;

/// The first check of WebSocket servers.
const HANDSHAKE: &str = "handshake";

/// The checks of WebSocket servers.
const CHECKS: [(&str, CheckOf); 8] = [
    (HANDSHAKE, |target| Client::open(target).map(drop)),
    ("text", |target| Client::open(target)?.echo(Opcode::Text, "Grüße, κόσμε, 世界 \u{1f30d}".as_bytes())),
    ("binary", |target| Client::open(target)?.echo(Opcode::Binary, &pattern(300))),
    ("fragments", |target| Client::open(target)?.fragments()),
    ("ping", |target| Client::open(target)?.ping()),
    ("1 MiB", |target| Client::open(target)?.echo(Opcode::Binary, &pattern(LARGE))),
    ("16 at once", |target| Client::open(target)?.at_once()),
    ("close", |target| Client::open(target)?.close()),
];

/// The checks of TCP servers, without frames.
const TCP_CHECKS: [(&str, CheckOf); 3] = [
    ("bytes", |target| Client::connect(target)?.echo_bytes(&pattern(300))),
    ("1 MiB", |target| Client::connect(target)?.echo_bytes(&pattern(LARGE))),
    ("end", |target| Client::connect(target)?.end()),
];

/// Runs all checks on the server at `target`, or those until `interrupt` is raised. The large message is left out if
/// `max_message` is smaller, and so is everything behind a handshake that failed, without which no other check can pass.
#[must_use]
pub fn check(target: &Target, max_message: Option<u64>, interrupt: &Interrupt) -> Vec<Check> {
    let checks: &[(&str, CheckOf)] = if target.protocol == Protocol::Tcp { &TCP_CHECKS } else { &CHECKS };
    let is_to_be_made = |name: &str| name != "1 MiB" || max_message.is_none_or(|most| most >= LARGE as u64);
    let mut made: Vec<Check> = Vec::new();
    for (name, check) in checks.iter().filter(|(name, _)| is_to_be_made(name)) {
        let has_failed = made.last().is_some_and(|it| it.name == HANDSHAKE && it.fault.is_some());
        if has_failed || interrupt.is_raised() {
            break;
        }
        made.push(Check { name: (*name).to_owned(), fault: check(target).err() });
    }
    made
}

/// Bytes that differ from their neighbours, and do not repeat: a buffer that is sent twice or left out must be seen.
fn pattern(len: usize) -> Vec<u8> {
    // 2^32 divided by the golden ratio.
    (0..len as u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// A message or control frame from the server, reassembled.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Message { text: bool, bytes: Vec<u8> },
    Pong(Vec<u8>),
    Close(Option<u16>),
}

/// One connection.
struct Client {
    stream: Stream,
    reader: FrameReader,
    /// The payload of the incomplete message.
    message: Vec<u8>,
    said: std::collections::VecDeque<Said>,
    has_ended: bool,
    deadline: Instant,
}

fn show(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "it reset the connection".to_owned(),
        _ => error.to_string(),
    }
}

impl Client {
    fn connect(target: &Target) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("no connection: {error}");
        let mut connected = target.addresses.iter().map(open);
        let mut stream = connected.next().expect("a target has an address");
        // A name may have addresses at which the server does not listen.
        while stream.is_err() {
            let Some(next) = connected.next() else { break };
            stream = next;
        }
        let stream = match stream.map_err(failed)? {
            Stream::Tcp(stream) if target.protocol == Protocol::Tls => encrypted(target, stream)?,
            stream => stream,
        };
        Ok(Self {
            stream,
            reader: FrameReader::default(),
            message: Vec::new(),
            said: std::collections::VecDeque::new(),
            has_ended: false,
            deadline: Instant::now() + TIMEOUT,
        })
    }

    /// Connects and performs the handshake.
    fn open(target: &Target) -> Result<Self, String> {
        let mut client = Self::connect(target)?;
        let request = UpgradeRequest::new(target, &Extras::default(), 1).map_err(|error| error.to_string())?;
        let mut bytes = vec![0; request.max_len()];
        let len = request.write(0, &mut bytes);
        let mut received = Vec::new();
        let mut answer = Answer::Incomplete;
        client.exchange(&bytes[..len], |client, bytes| {
            received.extend_from_slice(bytes);
            answer = request.judge(0, &received, client.has_ended);
            Ok(!matches!(answer, Answer::Incomplete))
        })?;
        match answer {
            Answer::Upgraded { head, .. } => client.take(&received[head..]).map(|()| client),
            Answer::Refused(refusal) => Err(format!("it refused the upgrade with status {}", refusal.status)),
            Answer::Invalid(why) => Err(format!("its answer to the upgrade is invalid: {why}")),
            Answer::Incomplete => Err("it ended the connection instead of upgrading it".to_owned()),
        }
    }

    /// Sends `bytes` while receiving; returns once all is sent and `is_done` holds for the received items.
    fn exchange(
        &mut self,
        mut bytes: &[u8],
        mut is_done: impl FnMut(&mut Self, &[u8]) -> Result<bool, String>,
    ) -> Result<(), String> {
        let mut buffer = vec![0; READ];
        loop {
            if !bytes.is_empty() {
                match self.stream.write(bytes) {
                    Ok(sent) => bytes = &bytes[sent..],
                    Err(error) if is_pause(&error) => {}
                    Err(error) => return Err(show(&error)),
                }
            }
            // TLS has taken bytes that it may not have sent yet.
            match self.stream.flush() {
                Err(error) if !is_pause(&error) => return Err(show(&error)),
                _ => {}
            }
            let received = match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.has_ended = true;
                    0
                }
                Ok(received) => received,
                Err(error) if is_pause(&error) => 0,
                // After both Closes a reset counts as the end as well, and so does one without TLS' close_notify.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof)
                        && bytes.is_empty() =>
                {
                    self.has_ended = true;
                    0
                }
                Err(error) => return Err(show(&error)),
            };
            if (received > 0 || self.has_ended) && is_done(self, &buffer[..received])? && bytes.is_empty() {
                return Ok(());
            }
            if self.has_ended {
                return Ok(());
            }
            if Instant::now() >= self.deadline {
                return Err(format!("nothing more came within {} s", TIMEOUT.as_secs()));
            }
        }
    }

    /// Processes received frames.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(event) = self.reader.next(&mut bytes).map_err(|violation| violation.to_string())? {
            match event {
                Event::Payload { text, bytes, end, .. } => {
                    self.message.extend_from_slice(bytes);
                    if end {
                        self.said.push_back(Said::Message { text, bytes: std::mem::take(&mut self.message) });
                    }
                }
                Event::Pong(payload) => self.said.push_back(Said::Pong(payload.into())),
                Event::Close(close) => self.said.push_back(Said::Close(close.code)),
                // Pings stay unanswered: a check takes five seconds at most, and whether a server closes for lack of a
                // pong is not checked.
                Event::Ping(_) => {}
            }
        }
        Ok(())
    }

    /// Sends `bytes` and waits for `count` items from the server.
    fn ask(&mut self, bytes: &[u8], count: usize) -> Result<Vec<Said>, String> {
        if self.said.len() < count || !bytes.is_empty() {
            self.exchange(bytes, |client, bytes| {
                client.take(bytes)?;
                Ok(client.said.len() >= count)
            })?;
        }
        if self.said.len() < count {
            return Err(format!("it ended the connection after {} of {count} answers", self.said.len()));
        }
        Ok(self.said.drain(..).collect())
    }

    fn echo(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), String> {
        let said = self.ask(&frame(0x80 | opcode as u8, payload), 1)?;
        same(&said, &[(opcode, payload)])
    }

    fn fragments(&mut self) -> Result<(), String> {
        let payload = pattern(1000);
        let mut bytes = frame(Opcode::Binary as u8, &payload[..1]);
        bytes.extend(frame(CONTINUATION, &payload[1..700]));
        bytes.extend(frame(0x80 | CONTINUATION, &payload[700..]));
        let said = self.ask(&bytes, 1)?;
        same(&said, &[(Opcode::Binary, &payload)])
    }

    fn ping(&mut self) -> Result<(), String> {
        let payload = b"are you there?";
        let said = self.ask(&control(Opcode::Ping, payload), 1)?;
        match said.as_slice() {
            [Said::Pong(answer)] if answer == payload => Ok(()),
            [Said::Pong(_)] => Err("its pong has another payload than the ping".to_owned()),
            other => Err(format!("instead of a pong it sent {}", describe(&other[0]))),
        }
    }

    fn at_once(&mut self) -> Result<(), String> {
        let payloads: Vec<Vec<u8>> = (0..AT_ONCE).map(|at| vec![b'a' + at as u8; 10 + at]).collect();
        let bytes: Vec<u8> = payloads.iter().flat_map(|it| frame(0x80 | Opcode::Binary as u8, it)).collect();
        let said = self.ask(&bytes, AT_ONCE)?;
        same(&said, &payloads.iter().map(|it| (Opcode::Binary, it.as_slice())).collect::<Vec<_>>())
    }

    /// The closing handshake after an echo: the Close, and the end of the connection. (The server may drop an echo
    /// still pending when it receives the Close: RFC 6455 does not require it, and some libraries answer a Close while
    /// they parse.)
    fn close(&mut self) -> Result<(), String> {
        self.echo(Opcode::Binary, b"last")?;
        let mut said = self.ask(&control(Opcode::Close, &close_code::NORMAL.to_be_bytes()), 1)?;
        match &said[0] {
            Said::Close(None | Some(close_code::NORMAL)) => {}
            Said::Close(Some(code)) => return Err(format!("it answers Close 1000 with {code}")),
            other => return Err(format!("instead of a Close it sent {}", describe(other))),
        }
        if !self.has_ended {
            let ended = self.exchange(&[], |client, bytes| {
                client.take(bytes)?;
                Ok(client.has_ended)
            });
            match ended {
                Err(_) if Instant::now() >= self.deadline => {
                    let seconds = TIMEOUT.as_secs();
                    return Err(format!("it has not ended the connection {seconds} s after both Closes"));
                }
                ended => ended?,
            }
        }
        said.extend(self.said.drain(..));
        match said.get(1) {
            None => Ok(()),
            Some(more) => Err(format!("behind its Close it sent {}", describe(more))),
        }
    }

    fn echo_bytes(&mut self, payload: &[u8]) -> Result<(), String> {
        let mut received = Vec::new();
        self.exchange(payload, |_, bytes| {
            received.extend_from_slice(bytes);
            Ok(received.len() >= payload.len())
        })?;
        if received == payload { Ok(()) } else { Err("what came back is not what was sent".to_owned()) }
    }

    /// Without frames: this side shuts down the connection, and the server does the same.
    fn end(&mut self) -> Result<(), String> {
        self.echo_bytes(b"last")?;
        if let Stream::Tcp(stream) = &self.stream {
            stream.shutdown(std::net::Shutdown::Write).map_err(|error| show(&error))?;
        }
        self.exchange(&[], |client, _| Ok(client.has_ended))
    }
}

/// A connection whose reads and writes end after [`TURN`].
fn open(address: &Address) -> std::io::Result<Stream> {
    match address {
        Address::Inet(address) => {
            let stream = TcpStream::connect_timeout(address, TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TURN))?;
            stream.set_write_timeout(Some(TURN))?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TURN))?;
            stream.set_write_timeout(Some(TURN))?;
            Ok(Stream::Unix(stream))
        }
    }
}

/// Accepts any certificate: trust is not under test.
fn encrypted(target: &Target, stream: TcpStream) -> Result<Stream, String> {
    let options = TlsOptions { insecure: true, ..TlsOptions::default() };
    let config = tls::config(&options).map_err(|error| error.to_string())?;
    let name = tls::server_name(&target.name).map_err(|error| error.to_string())?;
    let connection = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
    Ok(Stream::Tls(Box::new(StreamOwned::new(connection, stream))))
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// A masked frame with the given first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; MAX_CLIENT_HEADER + payload.len()];
    let header = write_client_header(Opcode::Binary, payload.len(), KEY, &mut bytes);
    bytes[0] = first;
    bytes[header..header + payload.len()].copy_from_slice(payload);
    mask(&mut bytes[header..header + payload.len()], KEY);
    bytes.truncate(header + payload.len());
    bytes
}

fn control(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; MAX_CLIENT_HEADER + payload.len()];
    let len = write_control(opcode, payload, KEY, &mut bytes);
    bytes.truncate(len);
    bytes
}

/// Whether the received items are the echoes of these messages.
fn same(said: &[Said], sent: &[(Opcode, &[u8])]) -> Result<(), String> {
    for (index, (said, (opcode, payload))) in said.iter().zip(sent).enumerate() {
        let Said::Message { text, bytes } = said else {
            return Err(format!("instead of echo {} it sent {}", index + 1, describe(said)));
        };
        if *text != (*opcode == Opcode::Text) {
            return Err(format!("a {} message came back as {}", kind(*opcode == Opcode::Text), kind(*text)));
        }
        if bytes != payload {
            let (sent, came) = (payload.len(), bytes.len());
            let differ = bytes.iter().zip(*payload).position(|(a, b)| a != b);
            return Err(match differ {
                _ if sent != came => format!("echo {} has {came} bytes, {sent} were sent", index + 1),
                at => format!("echo {} differs from what was sent at byte {}", index + 1, at.unwrap_or(0)),
            });
        }
    }
    match said.get(sent.len()) {
        None => Ok(()),
        Some(more) => Err(format!("behind the echoes it sent {}", describe(more))),
    }
}

fn kind(text: bool) -> &'static str {
    if text { "text" } else { "binary" }
}

fn describe(said: &Said) -> String {
    match said {
        Said::Message { text, bytes } => format!("a {} message of {} bytes", kind(*text), bytes.len()),
        Said::Pong(_) => "a pong".to_owned(),
        Said::Close(Some(code)) => format!("a Close with code {code}"),
        Said::Close(None) => "a Close without a code".to_owned(),
    }
}
