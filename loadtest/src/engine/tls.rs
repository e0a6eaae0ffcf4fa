//! TLS between a transport and the driver, without I/O: records are opened in place, and sealed into the send buffer. rustls
//! makes the handshake; records of TLS 1.3 are then handled by [`tlsrecord`], those of TLS 1.2 by rustls. An idle connection
//! has no buffer, only its secrets or rustls' state.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rustls::client::ClientConnectionData;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{AlertDescription, ClientConfig, Error, ProtocolVersion};
use tlsrecord::{FRAGMENT_MAX, Failure, Handover, Keys, Progress, Records, Side, encode};

use super::Shared;
use super::sends::SendBuffer;
use crate::driver::{Driver, Output, Want};
use crate::message::{MessageId, Messages};
use crate::scenario::Part;
use crate::stats::{Cause, Counter, EarlyEnd};
use crate::tls::describe;
use crate::websocket::frames::{MAX_CLIENT_HEADER, Opcode, client_header_len, write_client_header};

/// Bytes of messages that are encrypted in one go: as many as four records hold, of which each costs a call and a tag.
const PLAIN_MAX: usize = 64 << 10;

/// Room for a request or two control frames, as [`Output`] promises it.
const PLAIN_MIN: usize = 512;

/// The most that rustls adds to a record: header, type, tag and, in TLS 1.2, a nonce.
const RECORD_OVERHEAD: usize = 64;

/// An alert record.
const ALERT_MAX: usize = 64;

/// TLS for all connections of a thread.
pub(super) struct Tls<'a> {
    config: &'a Arc<ClientConfig>,
    shared: &'a Shared,
    /// By the connections' keys.
    connections: Vec<Option<TlsConnection>>,
    /// Expanded keys of recently active connections.
    keys: Keys,
    /// Beginnings of records whose ends have not come, of the few connections that have one.
    partial: HashMap<u32, Vec<u8>>,
    pub(super) wants: VecDeque<Want>,
    /// Plain text being encrypted, and the result.
    plain: Plain,
    sealed: Vec<u8>,
}

/// One connection.
struct TlsConnection {
    layer: Layer,
    /// Records of the handshake, an alert, or a renewal of keys, that are to be sent.
    pending: Vec<u8>,
    state: State,
}

/// The state that opens and seals records.
enum Layer {
    /// In the handshake; with TLS 1.2 to the end.
    Rustls(Box<Rustls>),
    /// TLS 1.3, behind the handshake.
    Records(Box<Records>),
    /// The handed-over keys do not match the known ones.
    Lost,
}

/// A connection of rustls.
struct Rustls {
    connection: UnbufferedClientConnection,
    handover: Handover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Handshake,
    Established,
    /// The server has sent its `close_notify`.
    PeerClosed,
    /// This side's `close_notify`, or another alert, has been given to the transport.
    Closed,
}

impl<'a> Tls<'a> {
    pub(super) fn new(config: &'a Arc<ClientConfig>, shared: &'a Shared, part: Part) -> Self {
        let capacity = shared.longest_request().max(PLAIN_MIN);
        let plain = Plain { bytes: Vec::new(), capacity };
        let connections = (0..part.connections).map(|_| None).collect();
        Self {
            config,
            shared,
            connections,
            keys: Keys::default(),
            partial: HashMap::new(),
            wants: VecDeque::new(),
            plain,
            sealed: Vec::new(),
        }
    }

    /// The transport has connected: begins the handshake.
    pub(super) fn connected<T: Default>(&mut self, key: u32, driver: &mut Driver<'_, T>) {
        let Some(number) = driver.number(key) else { return };
        let endpoint = self.shared.endpoint_of(number);
        let name = endpoint.name.clone().expect("an endpoint that speaks TLS has a name");
        match TlsConnection::new(self.config, name) {
            Ok(connection) => {
                self.connections[key as usize] = Some(connection);
                self.received(key, &mut [], 0, driver);
            }
            Err(error) => failed(key, &error, driver),
        }
    }

    /// Records, or parts of them, from the server.
    pub(super) fn received<T: Default>(
        &mut self,
        key: u32,
        bytes: &mut [u8],
        arrived_ns: u64,
        driver: &mut Driver<'_, T>,
    ) {
        let Some(connection) = &mut self.connections[key as usize] else { return };
        let was_handshake = connection.state == State::Handshake;
        let earlier = if self.partial.is_empty() { None } else { self.partial.remove(&key) };
        let outcome = match earlier {
            None => {
                let outcome = connection.process(key, &mut self.keys, bytes, arrived_ns, driver);
                if let Ok(used) = outcome
                    && used < bytes.len()
                {
                    self.partial.insert(key, bytes[used..].to_vec());
                }
                outcome
            }
            Some(mut records) => {
                records.extend_from_slice(bytes);
                let outcome = connection.process(key, &mut self.keys, &mut records, arrived_ns, driver);
                if let Ok(used) = outcome
                    && used < records.len()
                {
                    records.drain(..used);
                    self.partial.insert(key, records);
                }
                outcome
            }
        };
        let is_established = was_handshake && connection.state == State::Established;
        if !connection.pending.is_empty() || is_established {
            self.wants.push_back(Want::Send { key });
        }
        match outcome {
            Err(error) => failed(key, &error, driver),
            Ok(_) if connection.state == State::PeerClosed => driver.ended(key, Cause::Reset, EarlyEnd::Eof),
            Ok(_) => {}
        }
    }

    /// Fills in what the connection is to send: the handshake, what the driver has, or a goodbye.
    pub(super) fn fill<T: Default>(&mut self, key: u32, buffer: &mut SendBuffer, driver: &mut Driver<'_, T>) -> bool {
        let Some(connection) = &mut self.connections[key as usize] else { return false };
        if !connection.pending.is_empty() {
            let pending = std::mem::take(&mut connection.pending);
            buffer.reserve(pending.len());
            buffer.add(|bytes| {
                bytes[..pending.len()].copy_from_slice(&pending);
                pending.len()
            });
            // The driver's output follows in the next send.
            return connection.state != State::Handshake;
        }
        if matches!(connection.state, State::Handshake | State::Closed) {
            return false;
        }
        let is_ending = driver.is_ending(key);
        self.plain.bytes.clear();
        let has_more = driver.fill(key, &mut self.plain);
        let plain = &self.plain.bytes;
        if plain.is_empty() && !is_ending {
            return has_more;
        }
        match &mut connection.layer {
            Layer::Records(records) => {
                self.sealed.clear();
                if !plain.is_empty() {
                    records.seal(key, &mut self.keys, plain, &mut self.sealed);
                }
                if is_ending {
                    records.say_goodbye(key, &mut self.keys, &mut self.sealed);
                }
                buffer.reserve(self.sealed.len());
                buffer.add(|bytes| {
                    bytes[..self.sealed.len()].copy_from_slice(&self.sealed);
                    self.sealed.len()
                });
            }
            Layer::Rustls(rustls) => {
                buffer.reserve(plain.len() + (plain.len() / FRAGMENT_MAX + 1) * RECORD_OVERHEAD + ALERT_MAX);
                buffer.add(|bytes| rustls.seal(plain, is_ending, bytes));
            }
            Layer::Lost => {}
        }
        if is_ending {
            connection.state = State::Closed;
        }
        has_more
    }

    /// Whether a connection that is to be released has something to send before.
    pub(super) fn has_last_words(&self, key: u32) -> bool {
        let connection = self.connections[key as usize].as_ref();
        connection
            .is_some_and(|it| !it.pending.is_empty() || matches!(it.state, State::Established | State::PeerClosed))
    }

    /// The TCP connection has ended.
    pub(super) fn ended<T: Default>(&mut self, key: u32, driver: &mut Driver<'_, T>) {
        let connection = self.connections[key as usize].as_ref();
        if connection.is_some_and(|it| it.state == State::Established) && !driver.is_ending(key) {
            driver.tally_mut().count(Counter::NoCloseNotify);
        }
    }

    pub(super) fn released(&mut self, key: u32) {
        self.connections[key as usize] = None;
        self.keys.forget(key);
        self.partial.remove(&key);
    }
}

impl TlsConnection {
    fn new(config: &Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new(Arc::clone(config), name)?;
        let layer = Layer::Rustls(Box::new(Rustls { connection, handover: Handover::default() }));
        Ok(Self { layer, pending: Vec::new(), state: State::Handshake })
    }

    /// Handles all whole records in `bytes`. Returns how many bytes they were.
    fn process<T: Default>(
        &mut self,
        key: u32,
        keys: &mut Keys,
        bytes: &mut [u8],
        arrived_ns: u64,
        driver: &mut Driver<'_, T>,
    ) -> Result<usize, Error> {
        let was_handshake = self.state == State::Handshake;
        let used = match &mut self.layer {
            Layer::Records(records) => {
                let reading = records.open(key, keys, bytes, &mut self.pending);
                if !reading.plain.is_empty() {
                    driver.received(key, &bytes[reading.plain], arrived_ns);
                }
                if let Some(failure) = reading.failure {
                    self.state = State::Closed;
                    return Err(in_rustls_words(failure));
                }
                if reading.progress == Progress::PeerFinished {
                    self.state = State::PeerClosed;
                }
                reading.used
            }
            Layer::Rustls(rustls) => {
                let outcome = rustls.process(&mut self.pending, bytes, |plain| driver.received(key, plain, arrived_ns));
                match outcome {
                    Ok((used, state)) => {
                        self.state = state.unwrap_or(self.state);
                        used
                    }
                    Err(error) => {
                        self.state = State::Closed;
                        return Err(error);
                    }
                }
            }
            Layer::Lost => bytes.len(),
        };
        if was_handshake && self.state == State::Established {
            self.take_over()?;
        }
        Ok(used)
    }

    /// After a handshake of TLS 1.3, rustls is dropped.
    fn take_over(&mut self) -> Result<(), Error> {
        let Layer::Rustls(rustls) = std::mem::replace(&mut self.layer, Layer::Lost) else { return Ok(()) };
        self.layer = if rustls.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
            let (extracted, _) = rustls.connection.dangerous_into_kernel_connection()?;
            let records = rustls.handover.into_records(&extracted, Side::Client);
            Layer::Records(Box::new(records.ok_or_else(|| Error::General("secrets of no known suite".to_owned()))?))
        } else {
            Layer::Rustls(rustls)
        };
        Ok(())
    }
}

impl Rustls {
    /// Handles all whole records in `bytes`. Returns how many bytes they were, and what the connection has come to.
    fn process(
        &mut self,
        pending: &mut Vec<u8>,
        bytes: &mut [u8],
        mut received: impl FnMut(&[u8]),
    ) -> Result<(usize, Option<State>), Error> {
        let mut used = 0;
        Handover::begin();
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut bytes[used..]);
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    self.take_alert(pending, &mut bytes[used + discard..]);
                    return Err(error);
                }
            };
            let end = match state {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        received(record.payload);
                    }
                    None
                }
                ConnectionState::EncodeTlsData(encoding) => {
                    encode(encoding, pending);
                    None
                }
                ConnectionState::TransmitTlsData(transmission) => {
                    // It is handed on, in this order.
                    transmission.done();
                    None
                }
                ConnectionState::WriteTraffic(_) => Some(Some(State::Established)),
                ConnectionState::PeerClosed => Some(Some(State::PeerClosed)),
                _ => Some(None),
            };
            used += discard;
            if let Some(handover) = Handover::take() {
                self.handover = handover;
            }
            if let Some(state) = end {
                return Ok((used, state));
            }
        }
    }

    /// The alert that says what is wrong is to reach the server. `bytes` are those behind what has been discarded: the
    /// library still knows where in them the message is that it has refused, and looks there.
    fn take_alert(&mut self, pending: &mut Vec<u8>, mut bytes: &mut [u8]) {
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(bytes);
            let Ok(ConnectionState::EncodeTlsData(encoding)) = state else { break };
            encode(encoding, pending);
            bytes = &mut bytes[discard..];
        }
    }

    /// Puts `plain` into `bytes`, and a goodbye behind it if this is the end. The handshake is done. Returns how many bytes
    /// that is.
    fn seal(&mut self, plain: &[u8], is_ending: bool, bytes: &mut [u8]) -> usize {
        let mut len = 0;
        self.write(|traffic| {
            if !plain.is_empty() {
                len = traffic.encrypt(plain, bytes)?;
            }
            if is_ending {
                len += traffic.queue_close_notify(&mut bytes[len..])?;
            }
            Ok(())
        });
        len
    }

    /// Lets `write` encrypt something.
    fn write(&mut self, write: impl FnOnce(&mut WriteTraffic<'_, ClientConnectionData>) -> Result<(), EncryptError>) {
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
        let written = match state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => write(&mut traffic),
            Ok(ConnectionState::TransmitTlsData(mut transmission)) => {
                transmission.may_encrypt_app_data().map_or(Ok(()), |mut traffic| write(&mut traffic))
            }
            // An error has been told when its record came.
            _ => Ok(()),
        };
        debug_assert!(written.is_ok(), "{written:?}");
    }
}

/// A failure of the record layer, as rustls tells of the same.
fn in_rustls_words(failure: Failure) -> Error {
    match failure {
        Failure::Peers(alert) => Error::AlertReceived(AlertDescription::from(alert)),
        Failure::Alert(alert) => match AlertDescription::from(alert) {
            AlertDescription::BadRecordMac => Error::DecryptError,
            AlertDescription::RecordOverflow => Error::PeerSentOversizedRecord,
            other => Error::General(format!("a record that may not come behind the handshake ({other:?})")),
        },
    }
}

/// Bytes that are to be encrypted.
struct Plain {
    bytes: Vec<u8>,
    /// Room for a request.
    capacity: usize,
}

impl Output for Plain {
    fn has_room(&self, id: MessageId, messages: &Messages) -> bool {
        let size = messages.size_of(id);
        self.bytes.is_empty() || self.bytes.len() + client_header_len(size) + size <= PLAIN_MAX
    }

    fn add_message(&mut self, id: MessageId, messages: &Messages) -> usize {
        let (size, key) = (messages.size_of(id), messages.masking_key(id));
        let start = self.bytes.len();
        self.bytes.resize(start + MAX_CLIENT_HEADER + size, 0);
        let mut header = 0;
        if messages.are_framed() {
            let opcode = if messages.is_text() { Opcode::Text } else { Opcode::Binary };
            header = write_client_header(opcode, size, key, &mut self.bytes[start..]);
        }
        self.bytes.truncate(start + header + size);
        messages.write_masked(id, 0, key, &mut self.bytes[start + header..]);
        header + size
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.is_empty() || self.bytes.len() + bytes <= PLAIN_MAX
    }

    fn add_frame(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) {
        let start = self.bytes.len();
        self.bytes.resize(start + bytes, 0);
        write(&mut self.bytes[start..]);
    }

    fn add(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        let start = self.bytes.len();
        self.bytes.resize(start + self.capacity, 0);
        let written = write(&mut self.bytes[start..]);
        self.bytes.truncate(start + written);
    }
}

/// TLS has failed on a connection.
fn failed<T: Default>(key: u32, error: &Error, driver: &mut Driver<'_, T>) {
    let cause = Cause::Invalid(describe(error));
    driver.ended(key, cause, EarlyEnd::Error(cause.errno()));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::server::NoServerSessionStorage;
    use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion, version};

    use super::*;
    use crate::counting::live_bytes;
    use crate::driver::{Load, Route};
    use crate::stats::Tally;
    use crate::target::Target;
    use crate::target::routes::Routes;
    use crate::tls::TlsOptions;
    use crate::websocket::handshake::{Extras, UpgradeRequest};

    /// What an idle connection may keep beside its place among the others, by the version that is spoken.
    const IDLE_MAX: [(&SupportedProtocolVersion, isize); 2] = [(&version::TLS13, 256), (&version::TLS12, 4000)];

    fn server(version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()).into();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let certificates = vec![certified.cert.der().clone()];
        let mut config = config.with_no_client_auth().with_single_cert(certificates, key).unwrap();
        // What it keeps of each session is none of the connection's.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Arc::new(config)
    }

    /// A connection that has shaken hands with `server`, and the bytes that it keeps.
    fn established(
        config: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
        driver: &mut Driver<'_, ()>,
    ) -> (TlsConnection, isize) {
        let before = live_bytes();
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = TlsConnection::new(config, name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
        let (mut records, mut keys) = (Vec::new(), Keys::default());
        while connection.state == State::Handshake || server.is_handshaking() || server.wants_write() {
            let used = connection.process(0, &mut keys, &mut records, 0, driver).unwrap();
            records.drain(..used);
            let pending = std::mem::take(&mut connection.pending);
            server.read_tls(&mut pending.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            while server.wants_write() {
                server.write_tls(&mut records).unwrap();
            }
        }
        // Tickets, if any.
        connection.process(0, &mut keys, &mut records, 0, driver).unwrap();
        drop((server, records, keys));
        (connection, live_bytes() - before)
    }

    #[test]
    fn an_idle_connection_keeps_little() {
        let options = TlsOptions { insecure: true, ..TlsOptions::default() };
        let config = crate::tls::config(&options).unwrap();
        let messages = Messages::new(20, false, true);
        let target = Target::parse("ws://127.0.0.1:1", &Routes::default()).unwrap();
        let request = UpgradeRequest::new(&target, &Extras::default(), 1).unwrap();
        let scenario = crate::scenario::tests::scenario(1, 0, None);
        let closing_progress_ns = &AtomicU64::new(0);
        let routes = vec![Route { request: &request, addresses: 0..1 }];
        let part = scenario.divide(1)[0];
        let load = Load { scenario: &scenario, messages: &messages, routes, part, threads: 1, closing_progress_ns };
        let mut driver = Driver::new(load, Tally::default(), 0);
        for (version, idle_max) in IDLE_MAX {
            let server = server(version);
            // The first one leaves behind what all have in common.
            drop(established(&config, &server, &mut driver));
            let (connection, bytes) = established(&config, &server, &mut driver);
            let has_records = matches!(connection.layer, Layer::Records(_));
            assert_eq!(has_records, version.version == ProtocolVersion::TLSv1_3);
            assert!(bytes <= idle_max, "{version:?}: {bytes} bytes");
        }
    }
}
