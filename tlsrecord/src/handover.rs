//! The handover of a finished handshake from rustls' connection.

use std::cell::Cell;
use std::sync::Arc;

use rustls::unbuffered::{EncodeError, EncodeTlsData};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, KeyLog};

use crate::records::{Direction, Records, Secret, Side, Suite};

/// Maximum number of key renewals by a peer by the end of the handshake, which rustls does not report.
const EARLY_RENEWALS: usize = 4;

/// What a configuration of rustls needs for its connections to be handed over: its `key_log`. Set `enable_secret_extraction`
/// as well.
#[must_use]
pub fn prepare() -> Arc<dyn KeyLog> {
    Arc::new(Witness)
}

/// The traffic secrets that a handshake has come to: of the client, and of the server. rustls' own hand-over has the keys
/// only, with which keys cannot be renewed.
#[derive(Clone, Copy, Default)]
pub struct Handover([Option<Secret>; 2]);

thread_local! {
    /// The secrets of the handshake that this thread is making. rustls reports them in no other way.
    static LAST: Cell<Handover> = const { Cell::new(Handover([None; 2])) };
}

/// Notes secrets in [`LAST`].
#[derive(Debug)]
struct Witness;

impl KeyLog for Witness {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let Handover([client, server]) = LAST.get();
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => LAST.set(Handover([Secret::new(secret), server])),
            "SERVER_TRAFFIC_SECRET_0" => LAST.set(Handover([client, Secret::new(secret)])),
            _ => {}
        }
    }
}

impl Handover {
    /// Before rustls processes records of a connection's handshake: what this thread has seen of another one is forgotten.
    pub fn begin() {
        LAST.set(Self::default());
    }

    /// After that: the secrets, if the handshake has produced them meanwhile.
    #[must_use]
    pub fn take() -> Option<Self> {
        Some(LAST.take()).filter(|it| matches!(it, Self([Some(_), Some(_)])))
    }

    /// The record layer of a connection whose handshake is over, given what rustls extracts of it. `None`: that is not what
    /// is known of it.
    #[must_use]
    pub fn into_records(self, extracted: &ExtractedSecrets, side: Side) -> Option<Records> {
        let Self([Some(client), Some(server)]) = self else { return None };
        let (own, peers) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        let (suite, seal) = direction(own, &extracted.tx)?;
        let (_, open) = direction(peers, &extracted.rx)?;
        Some(Records::new(suite, open, seal, side))
    }
}

/// A direction, given its first secret and the key that rustls has made of that, or of one behind it.
fn direction(first: Secret, (sequence, key): &(u64, ConnectionTrafficSecrets)) -> Option<(Suite, Direction)> {
    let (suite, key, iv) = match key {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128GcmSha256, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256GcmSha384, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::Chacha20Poly1305Sha256, key, iv),
        _ => return None,
    };
    let first = Direction::new(suite, first, 0);
    let all = std::iter::successors(Some(first), |direction| Some(direction.renewed(suite)));
    let found = all.take(EARLY_RENEWALS).find(|direction| direction.has(suite, key.as_ref(), iv.as_ref()))?;
    Some((suite, found.at(*sequence)))
}

/// Room that is tried first for a message of the handshake.
const MESSAGE: usize = 512;

/// Puts a record that rustls has to say behind `out`: of its handshake, or an alert.
pub fn encode<Data>(mut record: EncodeTlsData<'_, Data>, out: &mut Vec<u8>) {
    let start = out.len();
    let mut size = MESSAGE;
    loop {
        out.resize(start + size, 0);
        match record.encode(&mut out[start..]) {
            Ok(written) => return out.truncate(start + written),
            Err(EncodeError::InsufficientSize(needed)) => size = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => return out.truncate(start),
        }
    }
}
