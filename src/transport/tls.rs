//! TLS in front of a session. rustls makes the handshake with its unbuffered connection, which does no I/O and holds no
//! buffers; with TLS 1.2 it also opens and seals records. This file is the only one of this crate that uses rustls'
//! connections. Records of TLS 1.3 are handled by [`tlsrecord`].

use core::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};

use crate::protocol;
pub use alone::Alone;
pub(super) use tlsrecord::Keys;
pub use tlsrecord::Progress;
use tlsrecord::{FRAGMENT_MAX, HEADER, Handover, Reading, Records, Side, encode};

mod alone;

/// What sealing a record adds to it at most: its header and, in TLS 1.2, an explicit nonce of 8 bytes, in TLS 1.3 the inner
/// type; a tag of 16 bytes.
const OVERHEAD: usize = HEADER + 8 + 16;
/// Bytes of an incomplete handshake message that are kept at most: rustls takes messages of 64 KiB, each of its records has a
/// header.
const HALF_MAX: usize = 80 << 10;

/// The TLS configuration with which all TLS listeners of a server begin handshakes. It can be replaced meanwhile.
#[derive(Debug)]
pub(crate) struct Acceptor {
    config: RwLock<Arc<ServerConfig>>,
}

impl Acceptor {
    pub(crate) fn new(config: ServerConfig) -> Self {
        Self { config: RwLock::new(prepared(config)) }
    }

    /// Handshakes that begin from now on are made with this.
    pub(crate) fn replace(&self, config: ServerConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = prepared(config);
    }

    /// For a connection that has come. `None`: the configuration cannot be used, which was found out when it was made.
    pub(super) fn accept(&self) -> Option<Tls> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let connection = UnbufferedServerConnection::new(config).ok()?;
        let state = State::Rustls(Box::new(Rustls {
            connection,
            handover: Handover::default(),
            has_answered: false,
            has_said_goodbye: false,
        }));
        Some(Tls { state, half_read: Vec::new() })
    }
}

/// Makes rustls hand over its secrets.
fn prepared(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.enable_secret_extraction = true;
    config.key_log = tlsrecord::prepare();
    Arc::new(config)
}

/// The TLS of one connection.
pub(super) struct Tls {
    state: State,
    /// Records that are not complete, or are parts of a message that is not.
    half_read: Vec<u8>,
}

enum State {
    /// In the handshake; with TLS 1.2 to the end.
    Rustls(Box<Rustls>),
    /// TLS 1.3, behind the handshake.
    Records(Box<Records>),
    Failed,
}

/// The result of a receive, beside the content of `plain` and `out`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) progress: Progress,
    /// The peer's data, in place within the received bytes. If there is some, `plain` is empty.
    pub(super) within: Range<usize>,
    /// Records of TLS 1.3 that were opened, and keys that were renewed.
    pub(super) records: u32,
    pub(super) renewals: u32,
    /// The handshake that has ended has resumed a session.
    pub(super) is_resumed: bool,
}

impl Received {
    fn new(progress: Progress) -> Self {
        Self { progress, within: 0..0, records: 0, renewals: 0, is_resumed: false }
    }

    fn note(&mut self, reading: &Reading) {
        self.progress = reading.progress;
        self.records += reading.records;
        self.renewals += reading.renewals;
    }
}

impl Tls {
    /// Bytes from the peer, which are opened in place: what it says goes to `plain`, if it does not stay where it is, and what is
    /// to be answered to `out`. `number` is what `keys` knows the connection by.
    pub(super) fn receive(
        &mut self,
        number: u32,
        keys: &mut Keys,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Received {
        let mut received = match &mut self.state {
            State::Records(records) => receive(records, &mut self.half_read, number, keys, bytes, plain, out),
            State::Rustls(rustls) => {
                let was_shaking = rustls.is_shaking();
                let progress = rustls.receive(&mut self.half_read, bytes, plain, out);
                let mut received = Received::new(progress);
                if progress == Progress::Goes && was_shaking && !rustls.is_shaking() {
                    received.is_resumed = rustls.connection.handshake_kind() == Some(HandshakeKind::Resumed);
                    self.take_over();
                }
                received
            }
            State::Failed => Received::new(Progress::Failed),
        };
        if matches!(self.state, State::Failed) {
            received.progress = Progress::Failed;
        }
        if received.progress == Progress::Failed {
            self.half_read = Vec::new();
        }
        received
    }

    /// After a handshake of TLS 1.3, rustls is dropped.
    fn take_over(&mut self) {
        let State::Rustls(rustls) = std::mem::replace(&mut self.state, State::Failed) else { return };
        if rustls.connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            self.state = State::Rustls(rustls);
        } else if let Some(records) = rustls.into_records() {
            self.state = State::Records(Box::new(records));
        }
    }

    /// Puts what is to be said behind `out`.
    pub(super) fn seal(&mut self, number: u32, keys: &mut Keys, plain: &[u8], out: &mut Vec<u8>) {
        match &mut self.state {
            State::Records(records) => records.seal(number, keys, plain, out),
            State::Rustls(rustls) => rustls.seal(&mut self.half_read, plain, out),
            State::Failed => {}
        }
    }

    /// Seals what is to be said where it lies, if that can be done. Says what to send then.
    pub(super) fn seal_within(
        &mut self,
        number: u32,
        keys: &mut Keys,
        bytes: &mut [u8],
        plain: Range<usize>,
    ) -> Option<Range<usize>> {
        match &mut self.state {
            State::Records(records) => records.seal_within(number, keys, bytes, plain),
            State::Rustls(_) | State::Failed => None,
        }
    }

    /// Adds a `close_notify` to `out`, once, if the handshake is complete.
    pub(super) fn say_goodbye(&mut self, number: u32, keys: &mut Keys, out: &mut Vec<u8>) {
        match &mut self.state {
            State::Records(records) => records.say_goodbye(number, keys, out),
            State::Rustls(rustls) => rustls.say_goodbye(&mut self.half_read, out),
            State::Failed => {}
        }
    }

    /// Whether the handshake is not over.
    pub(super) fn is_shaking(&self) -> bool {
        matches!(&self.state, State::Rustls(rustls) if rustls.is_shaking())
    }

    /// Whether the client's first message is answered, which is what a handshake costs.
    pub(super) fn has_answered(&self) -> bool {
        !matches!(&self.state, State::Rustls(rustls) if !rustls.has_answered)
    }

    /// Bytes of memory that incomplete records take.
    pub(super) fn memory(&self) -> usize {
        self.half_read.capacity()
    }
}

/// Bytes for `records`, behind those that are half read.
fn receive(
    records: &mut Records,
    half_read: &mut Vec<u8>,
    number: u32,
    keys: &mut Keys,
    mut bytes: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Received {
    let mut received = Received::new(Progress::Goes);
    let len = bytes.len();
    while !half_read.is_empty() && !bytes.is_empty() && received.progress == Progress::Goes {
        let (first, rest) = bytes.split_at_mut(lacking(half_read).min(bytes.len()));
        bytes = rest;
        half_read.reserve_exact(first.len());
        half_read.extend_from_slice(first);
        let reading = records.open(number, keys, half_read, out);
        received.note(&reading);
        plain.extend_from_slice(&half_read[reading.plain]);
        if reading.used == half_read.len() {
            *half_read = Vec::new();
        }
    }
    if bytes.is_empty() || received.progress != Progress::Goes {
        return received;
    }
    let reading = records.open(number, keys, bytes, out);
    received.note(&reading);
    if received.progress == Progress::Goes {
        *half_read = bytes[reading.used..].to_vec();
    }
    if plain.is_empty() {
        // The record completed before may have had no data: a key update, for example.
        let behind = len - bytes.len();
        received.within = behind + reading.plain.start..behind + reading.plain.end;
    } else {
        plain.extend_from_slice(&bytes[reading.plain]);
    }
    received
}

/// A connection of rustls.
struct Rustls {
    connection: UnbufferedServerConnection,
    handover: Handover,
    /// The client's first message is answered.
    has_answered: bool,
    has_said_goodbye: bool,
}

impl Rustls {
    fn receive(
        &mut self,
        half_read: &mut Vec<u8>,
        mut bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Progress {
        if !self.has_answered && half_read.is_empty() && bytes.first().is_some_and(u8::is_ascii_uppercase) {
            out.extend_from_slice(&protocol::refuse(
                "This port speaks TLS: the URL must begin with wss:// or https://.",
            ));
            return Progress::Failed;
        }
        while !half_read.is_empty() && !bytes.is_empty() {
            let lacking = if self.is_shaking() { bytes.len() } else { lacking(half_read) };
            let (first, rest) = bytes.split_at_mut(lacking.min(bytes.len()));
            bytes = rest;
            half_read.reserve_exact(first.len());
            half_read.extend_from_slice(first);
            let (used, progress) = self.process(half_read, plain, out);
            discard(half_read, used);
            if progress != Progress::Goes || half_read.len() > HALF_MAX {
                return if progress == Progress::Goes { Progress::Failed } else { progress };
            }
        }
        if bytes.is_empty() {
            return Progress::Goes;
        }
        let (used, progress) = self.process(bytes, plain, out);
        if progress == Progress::Goes {
            *half_read = bytes[used..].to_vec();
        }
        progress
    }

    /// All complete records; says how many bytes are used up.
    fn process(&mut self, records: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> (usize, Progress) {
        let mut used = 0;
        Handover::begin();
        loop {
            let UnbufferedStatus { discard, state, .. } = self.connection.process_tls_records(&mut records[used..]);
            used += discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        used += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, out);
                    self.has_answered = true;
                    if let Some(handover) = Handover::take() {
                        self.handover = handover;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => return (used, Progress::PeerFinished),
                // All that is complete has been read.
                Ok(_) => return (used, Progress::Goes),
                Err(_) => {
                    self.say_why(out);
                    return (used, Progress::Failed);
                }
            }
        }
    }

    /// The alert about a failure. Nothing more may be read.
    fn say_why(&mut self, out: &mut Vec<u8>) {
        self.has_said_goodbye = true;
        while self.connection.wants_write() {
            // Its own output comes before anything is read.
            let Ok(ConnectionState::EncodeTlsData(data)) = self.connection.process_tls_records(&mut []).state else {
                return;
            };
            encode(data, out);
        }
    }

    fn seal(&mut self, half_read: &mut Vec<u8>, plain: &[u8], out: &mut Vec<u8>) {
        if plain.is_empty() {
            return;
        }
        let records = plain.len() / FRAGMENT_MAX + 1;
        // A renewal of the keys is a record, too.
        let size = plain.len() + (records + 1) * OVERHEAD;
        self.write(half_read, size, out, |traffic, room| traffic.encrypt(plain, room));
    }

    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method is one for a certain lifetime")]
    fn say_goodbye(&mut self, half_read: &mut Vec<u8>, out: &mut Vec<u8>) {
        if !self.is_shaking() && !std::mem::replace(&mut self.has_said_goodbye, true) {
            self.write(half_read, 2 * OVERHEAD, out, |traffic, room| traffic.queue_close_notify(room));
        }
    }

    /// Makes rustls write at most this many bytes, after its own output.
    fn write(
        &mut self,
        half_read: &mut Vec<u8>,
        mut size: usize,
        out: &mut Vec<u8>,
        mut write: impl FnMut(&mut WriteTraffic<ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) {
        loop {
            // It looks at what is half read again, and must find it.
            let UnbufferedStatus { discard: used, state, .. } = self.connection.process_tls_records(half_read);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let start = out.len();
                    out.resize(start + size, 0);
                    match write(&mut traffic, &mut out[start..]) {
                        Ok(written) => return out.truncate(start + written),
                        Err(EncryptError::InsufficientSize(needed)) => {
                            out.truncate(start);
                            size = needed.required_size;
                        }
                        // The limit of its keys: nothing can be said any more.
                        Err(_) => return out.truncate(start),
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {}
                _ => return,
            }
            discard(half_read, used);
        }
    }

    fn is_shaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The result of its handshake, once that is complete. `None`: the handed-over keys do not match the known ones.
    fn into_records(self) -> Option<Records> {
        let (extracted, _) = self.connection.dangerous_into_kernel_connection().ok()?;
        self.handover.into_records(&extracted, Side::Server)
    }
}

/// Drops what is used up, and the memory behind it if that is all.
fn discard(records: &mut Vec<u8>, used: usize) {
    if used == records.len() {
        *records = Vec::new();
    } else {
        records.drain(..used);
    }
}

/// How many bytes are lacking for the next complete record, or for its header. Complete ones may stand in front of it: rustls
/// keeps those that are parts of one message.
fn lacking(records: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let Some(&[_, _, _, high, low]) = records.get(at..at + HEADER) else { return at + HEADER - records.len() };
        at += HEADER + usize::from(u16::from_be_bytes([high, low]));
        if at > records.len() {
            return at - records.len();
        }
    }
}

#[cfg(test)]
mod tests;
