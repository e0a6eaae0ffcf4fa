//! The TLS of a single connection, for tests and fuzz targets; the connections of a worker use
//! [`Stages`](crate::transport::Stages).

use rustls::ServerConfig;

use super::{Acceptor, Keys, Progress, Tls};

/// What the keys know the connection by.
const NUMBER: u32 = 7;

/// The server's side of one connection.
#[allow(missing_debug_implementations)] // it has keys
pub struct Alone {
    pub(super) tls: Tls,
    pub(super) keys: Keys,
}

impl Alone {
    /// `None`: the configuration cannot be used.
    pub fn new(config: ServerConfig) -> Option<Self> {
        Some(Self { tls: Acceptor::new(config).accept()?, keys: Keys::default() })
    }

    /// Bytes from the peer: what it says goes behind `plain`, what is to be answered behind `out`.
    pub fn receive(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Progress {
        let mut apart = Vec::new();
        let received = self.tls.receive(NUMBER, &mut self.keys, bytes, &mut apart, out);
        assert!(apart.is_empty() || received.within.is_empty(), "only one of them");
        plain.extend_from_slice(&apart);
        plain.extend_from_slice(&bytes[received.within]);
        received.progress
    }

    /// The same, and what the peer says is echoed but for its last four bytes, where it lies if that can be done, as echoes
    /// are: shorter than what was heard, and from the same place on. Says whether it was.
    pub fn echo(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> (Progress, bool) {
        let mut apart = Vec::new();
        let received = self.tls.receive(NUMBER, &mut self.keys, bytes, &mut apart, out);
        let len = received.within.len().saturating_sub(4);
        let plain = received.within.start..received.within.start + len;
        if let Some(sealed) = self.tls.seal_within(NUMBER, &mut self.keys, bytes, plain) {
            out.extend_from_slice(&bytes[sealed]);
            return (received.progress, true);
        }
        self.seal(if received.within.is_empty() { &apart } else { &bytes[received.within] }, out);
        (received.progress, false)
    }

    /// Puts what is to be said behind `out`.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        self.tls.seal(NUMBER, &mut self.keys, plain, out);
    }

    /// Says goodbye behind `out`, once.
    pub fn say_goodbye(&mut self, out: &mut Vec<u8>) {
        self.tls.say_goodbye(NUMBER, &mut self.keys, out);
    }

    /// Whether the handshake is not over.
    pub fn is_shaking(&self) -> bool {
        self.tls.is_shaking()
    }

    /// Bytes of memory that incomplete records take.
    pub fn memory(&self) -> usize {
        self.tls.memory()
    }
}
