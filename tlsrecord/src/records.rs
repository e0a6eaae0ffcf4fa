//! Records, opened and sealed in place. An idle connection keeps secrets, keys and two numbers; the expanded keys that the
//! AEADs need, five times as large, are cached for some of the recently active ones.

use core::ops::Range;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::hkdf;

/// The progress of a connection by a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More may come.
    Goes,
    /// The peer has said goodbye (`close_notify`): nothing more comes from it.
    PeerFinished,
    /// It has failed, and its last words are in the output.
    Failed,
}

/// The side of the record layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server may send tickets, which are not kept.
    Client,
    /// A client's messages behind the handshake renew keys, and nothing else.
    Server,
}

/// Bytes in front of a record.
pub const HEADER: usize = 5;
/// The type of the content, which is sealed with it.
const TYPE: usize = 1;
const TAG: usize = 16;
/// The overhead of a sealed record.
const OVERHEAD: usize = HEADER + TYPE + TAG;
/// Plaintext in a record at most (5.1).
pub const FRAGMENT_MAX: usize = 1 << 14;
/// A record's bytes behind its header at most (5.2).
const CIPHERTEXT_MAX: usize = FRAGMENT_MAX + 256;
/// Records that are sealed with one key at most: AES-GCM is good for 2^24.5 (5.5).
const RECORDS_MAX: u64 = 1 << 23;
/// Maximum number of key renewals by a peer without data in between: each costs as much as an echo. OpenSSL allows as many.
const RENEWALS_MAX: u8 = 32;
/// Connections whose keys are kept expanded, 1.1 KB each. To expand those of another one takes half a microsecond.
const KEYS_MAX: usize = 512;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const CLOSE_NOTIFY: u8 = 0;
const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const USER_CANCELED: u8 = 90;

/// The type of a message with which a server hands out a ticket (4.6.1).
const NEW_SESSION_TICKET: u8 = 4;
/// The other message that is understood behind a handshake (4.6.3), and its length.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];

/// The longest secret: of a suite with SHA-384.
const SECRET_MAX: usize = 48;

/// The negotiated parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    Aes128GcmSha256,
    Aes256GcmSha384,
    Chacha20Poly1305Sha256,
}

impl Suite {
    fn aead(self) -> &'static Algorithm {
        match self {
            Self::Aes128GcmSha256 => &AES_128_GCM,
            Self::Aes256GcmSha384 => &AES_256_GCM,
            Self::Chacha20Poly1305Sha256 => &CHACHA20_POLY1305,
        }
    }

    fn hash(self) -> hkdf::Algorithm {
        match self {
            Self::Aes256GcmSha384 => hkdf::HKDF_SHA384,
            Self::Aes128GcmSha256 | Self::Chacha20Poly1305Sha256 => hkdf::HKDF_SHA256,
        }
    }

    fn secret_len(self) -> usize {
        match self {
            Self::Aes256GcmSha384 => 48,
            Self::Aes128GcmSha256 | Self::Chacha20Poly1305Sha256 => 32,
        }
    }
}

/// A traffic secret (7.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Secret([u8; SECRET_MAX]);

impl Secret {
    /// `None`: no suite has secrets of that length.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let mut secret = [0; SECRET_MAX];
        secret.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self(secret))
    }

    /// `HKDF-Expand-Label` with an empty context (7.1).
    fn expand(&self, suite: Suite, label: &str, out: &mut [u8]) {
        struct Len(usize);
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                self.0
            }
        }
        let prk = hkdf::Prk::new_less_safe(suite.hash(), &self.0[..suite.secret_len()]);
        let len = (out.len() as u16).to_be_bytes();
        let label_len = [(b"tls13 ".len() + label.len()) as u8];
        let info: [&[u8]; 5] = [&len, &label_len, b"tls13 ", label.as_bytes(), &[0]];
        let len = Len(out.len());
        prk.expand(&info, len).and_then(|okm| okm.fill(out)).expect("much less than HKDF can give");
    }
}

/// The longest key.
const KEY_MAX: usize = 32;

/// One direction of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Direction {
    secret: Secret,
    /// The number of the next record.
    sequence: u64,
    /// The keys derived from the secret.
    key: [u8; KEY_MAX],
    iv: [u8; 12],
}

impl Direction {
    pub(crate) fn new(suite: Suite, secret: Secret, sequence: u64) -> Self {
        let (mut key, mut iv) = ([0; KEY_MAX], [0; 12]);
        secret.expand(suite, "key", &mut key[..suite.aead().key_len()]);
        secret.expand(suite, "iv", &mut iv);
        Self { secret, sequence, key, iv }
    }

    /// That of the next secret (7.2).
    pub(crate) fn renewed(&self, suite: Suite) -> Self {
        let mut next = [0; SECRET_MAX];
        self.secret.expand(suite, "traffic upd", &mut next[..suite.secret_len()]);
        Self::new(suite, Secret(next), 0)
    }

    /// Whether these are its key and its IV.
    pub(crate) fn has(&self, suite: Suite, key: &[u8], iv: &[u8]) -> bool {
        self.key[..suite.aead().key_len()] == *key && self.iv == iv
    }

    pub(crate) fn at(self, sequence: u64) -> Self {
        Self { sequence, ..self }
    }

    fn expand(&self, suite: Suite) -> LessSafeKey {
        let key = UnboundKey::new(suite.aead(), &self.key[..suite.aead().key_len()]);
        LessSafeKey::new(key.expect("a key of its suite's length"))
    }

    /// Of the next record (5.3).
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, of_number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// The keys of one connection, expanded.
struct Pair {
    open: LessSafeKey,
    seal: LessSafeKey,
}

/// The keys of connections that were lately active, by the numbers of the connections: low ones, each at a place of its own as
/// long as there are no more than places.
pub struct Keys {
    places: Vec<Option<(u32, Box<Pair>)>>,
    /// Records that are sealed with one key at most.
    records_max: u64,
}

impl Default for Keys {
    fn default() -> Self {
        Self::renewed_after(RECORDS_MAX)
    }
}

impl Keys {
    /// Keys that seal so many records before they are renewed; for tests, which come to that.
    #[must_use]
    pub fn renewed_after(records: u64) -> Self {
        Self { places: Vec::new(), records_max: records }
    }

    /// Forgets those of a connection: it is gone, or has renewed them.
    pub fn forget(&mut self, number: u32) {
        if let Some(place) = self.places.get_mut(number as usize % KEYS_MAX)
            && place.as_ref().is_some_and(|(owner, _)| *owner == number)
        {
            *place = None;
        }
    }

    fn get(&mut self, number: u32, records: &Records) -> &Pair {
        let index = number as usize % KEYS_MAX;
        if self.places.len() <= index {
            self.places.resize_with(index + 1, || None);
        }
        let place = &mut self.places[index];
        if place.as_ref().is_none_or(|(owner, _)| *owner != number) {
            *place = None;
        }
        let expand =
            || Box::new(Pair { open: records.open.expand(records.suite), seal: records.seal.expand(records.suite) });
        &place.get_or_insert_with(|| (number, expand())).1
    }
}

/// The TLS of one connection whose handshake is over.
pub struct Records {
    open: Direction,
    seal: Direction,
    suite: Suite,
    has_said_goodbye: bool,
    /// The number of key renewals by the peer since it last sent data.
    renewals_in_a_row: u8,
    takes_tickets: bool,
    /// Bytes of a ticket that are still to come: it did not fit into its record.
    ticket_rest: u32,
}

const _: () = assert!(size_of::<Records>() <= 216, "each connection has one");

/// The content of a record.
enum Content {
    /// This many bytes of data, right after the header.
    Data(usize),
    /// The peer has renewed its keys, and asks for the same if `asks`.
    KeyUpdate {
        asks: bool,
    },
    CloseNotify,
    Nothing,
}

/// Why a connection has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer is told by this alert.
    Alert(u8),
    /// The peer has said that it has failed, by this alert.
    Peers(u8),
}

/// The result for the received records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub progress: Progress,
    /// Why it has failed, if so.
    pub failure: Option<Failure>,
    /// Bytes that were read: what is behind them is no complete record.
    pub used: usize,
    /// The position of all data now.
    pub plain: Range<usize>,
    /// Records that were opened.
    pub records: u32,
    /// The number of key renewals by the peer.
    pub renewals: u32,
}

impl Records {
    pub(crate) fn new(suite: Suite, open: Direction, seal: Direction, side: Side) -> Self {
        let takes_tickets = side == Side::Client;
        Self { open, seal, suite, has_said_goodbye: false, renewals_in_a_row: 0, takes_tickets, ticket_rest: 0 }
    }

    /// The peer's record layer, as far as it can be known: for tests.
    #[must_use]
    pub fn peers(&self) -> Self {
        let side = if self.takes_tickets { Side::Server } else { Side::Client };
        Self::new(self.suite, self.seal, self.open, side)
    }

    /// Opens all records in `bytes` that are complete; there may be an incomplete one behind them. Their data are moved to one
    /// place. What is to be said goes to `out`.
    pub fn open(&mut self, number: u32, keys: &mut Keys, bytes: &mut [u8], out: &mut Vec<u8>) -> Reading {
        let mut reading =
            Reading { progress: Progress::Goes, failure: None, used: 0, plain: 0..0, records: 0, renewals: 0 };
        let (mut end, mut asks_for_keys) = (HEADER, false);
        let outcome = loop {
            let at = reading.used;
            let len = match complete(&bytes[at..]) {
                Ok(None) => break Ok(Progress::Goes),
                Ok(Some(len)) => len,
                Err(alert) => break Err(Failure::Alert(alert)),
            };
            reading.used += len;
            reading.records += 1;
            let content = self.open_record(keys.get(number, self), &mut bytes[at..at + len]);
            match content {
                Ok(Content::Data(len)) => {
                    bytes.copy_within(at + HEADER..at + HEADER + len, end);
                    end += len;
                    self.renewals_in_a_row = 0;
                }
                Ok(Content::KeyUpdate { asks }) if self.renewals_in_a_row < RENEWALS_MAX => {
                    self.open = self.open.renewed(self.suite);
                    keys.forget(number);
                    self.renewals_in_a_row += 1;
                    reading.renewals += 1;
                    asks_for_keys |= asks;
                }
                Ok(Content::KeyUpdate { .. }) => break Err(Failure::Alert(UNEXPECTED_MESSAGE)),
                Ok(Content::Nothing) => {}
                Ok(Content::CloseNotify) => break Ok(Progress::PeerFinished),
                Err(failure) => break Err(failure),
            }
        };
        reading.failure = outcome.err();
        reading.progress = outcome.unwrap_or_else(|failure| self.fail(number, keys, failure, out));
        if end > HEADER {
            reading.plain = HEADER..end;
        }
        // Once, however often it was asked for.
        if asks_for_keys && reading.progress != Progress::Failed {
            self.renew(number, keys, out);
        }
        reading
    }

    fn open_record(&mut self, keys: &Pair, record: &mut [u8]) -> Result<Content, Failure> {
        let (header, sealed) = record.split_at_mut(HEADER);
        if header[0] != APPLICATION_DATA {
            return Err(Failure::Alert(UNEXPECTED_MESSAGE));
        }
        let nonce = self.open.nonce();
        let opened = keys.open.open_in_place(nonce, Aad::from(&*header), sealed);
        let inner = opened.map_err(|_| Failure::Alert(BAD_RECORD_MAC))?;
        // With its padding (5.4).
        if inner.len() > FRAGMENT_MAX + TYPE {
            return Err(Failure::Alert(RECORD_OVERFLOW));
        }
        let kind = inner.iter().rposition(|&byte| byte != 0).ok_or(Failure::Alert(UNEXPECTED_MESSAGE))?;
        match (inner[kind], &inner[..kind]) {
            (HANDSHAKE, messages) if !messages.is_empty() => self.on_handshake(messages),
            // No other record may come between the parts of a message (5.1).
            _ if self.ticket_rest > 0 => Err(Failure::Alert(UNEXPECTED_MESSAGE)),
            (APPLICATION_DATA, data) => Ok(Content::Data(data.len())),
            (ALERT, [_, CLOSE_NOTIFY]) => Ok(Content::CloseNotify),
            (ALERT, [_, USER_CANCELED]) => Ok(Content::Nothing),
            (ALERT, [_, alert]) => Err(Failure::Peers(*alert)),
            _ => Err(Failure::Alert(UNEXPECTED_MESSAGE)),
        }
    }

    /// Messages behind the handshake: tickets, where there may be some, and a renewal of the peer's keys, with which a record
    /// ends (5.1).
    fn on_handshake(&mut self, mut messages: &[u8]) -> Result<Content, Failure> {
        let skipped = messages.len().min(self.ticket_rest as usize);
        self.ticket_rest -= skipped as u32;
        messages = &messages[skipped..];
        loop {
            match messages {
                [] => return Ok(Content::Nothing),
                [NEW_SESSION_TICKET, a, b, c, behind @ ..] if self.takes_tickets => {
                    let len = u32::from_be_bytes([0, *a, *b, *c]);
                    let here = behind.len().min(len as usize);
                    self.ticket_rest = len - here as u32;
                    messages = &behind[here..];
                }
                [message @ .., asks @ (0 | 1)] if *message == KEY_UPDATE => {
                    return Ok(Content::KeyUpdate { asks: *asks == 1 });
                }
                _ => return Err(Failure::Alert(UNEXPECTED_MESSAGE)),
            }
        }
    }

    fn fail(&mut self, number: u32, keys: &mut Keys, failure: Failure, out: &mut Vec<u8>) -> Progress {
        if let Failure::Alert(alert) = failure {
            self.seal_as(number, keys, ALERT, &[2, alert], out);
        }
        self.has_said_goodbye = true;
        Progress::Failed
    }

    /// Renews the keys of what is sent, and says so.
    fn renew(&mut self, number: u32, keys: &mut Keys, out: &mut Vec<u8>) {
        let [kind, a, b, len] = KEY_UPDATE;
        self.seal_as(number, keys, HANDSHAKE, &[kind, a, b, len, 0], out);
        self.seal = self.seal.renewed(self.suite);
        keys.forget(number);
    }

    /// Puts data behind `out`, in as few records as it fits.
    pub fn seal(&mut self, number: u32, keys: &mut Keys, data: &[u8], out: &mut Vec<u8>) {
        out.reserve(data.len() + (data.len() / FRAGMENT_MAX + 1) * OVERHEAD);
        for fragment in data.chunks(FRAGMENT_MAX) {
            if self.seal.sequence >= keys.records_max {
                self.renew(number, keys, out);
            }
            self.seal_as(number, keys, APPLICATION_DATA, fragment, out);
        }
    }

    /// Puts a record of this type behind `out`, with at most [`FRAGMENT_MAX`] bytes of content.
    pub fn seal_as(&mut self, number: u32, keys: &mut Keys, kind: u8, content: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&header(content.len()));
        out.extend_from_slice(content);
        out.push(kind);
        let tag = self.seal_in_place(keys.get(number, self), &mut out[start..]);
        out.extend_from_slice(tag.as_ref());
    }

    /// `record` is its header, its content and the content's type.
    fn seal_in_place(&mut self, keys: &Pair, record: &mut [u8]) -> Tag {
        let nonce = self.seal.nonce();
        let (header, inner) = record.split_at_mut(HEADER);
        let sealed = keys.seal.seal_in_place_separate_tag(nonce, Aad::from(&*header), inner);
        sealed.expect("a record is no longer than an AEAD takes")
    }

    /// Seals data where they lie, as one record: there are the header's bytes free in front of them, and those of type and tag
    /// behind them. `None`: that is not so, or it takes more than one record. Else what to send.
    pub fn seal_within(
        &mut self,
        number: u32,
        keys: &mut Keys,
        bytes: &mut [u8],
        data: Range<usize>,
    ) -> Option<Range<usize>> {
        let start = data.start.checked_sub(HEADER)?;
        let end = data.end + TYPE + TAG;
        if data.is_empty() || data.len() > FRAGMENT_MAX || end > bytes.len() || self.seal.sequence >= keys.records_max {
            return None;
        }
        bytes[start..data.start].copy_from_slice(&header(data.len()));
        bytes[data.end] = APPLICATION_DATA;
        let tag = self.seal_in_place(keys.get(number, self), &mut bytes[start..=data.end]);
        bytes[data.end + TYPE..end].copy_from_slice(tag.as_ref());
        Some(start..end)
    }

    /// Adds a `close_notify` to `out`, once.
    pub fn say_goodbye(&mut self, number: u32, keys: &mut Keys, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_said_goodbye, true) {
            self.seal_as(number, keys, ALERT, &[1, CLOSE_NOTIFY], out);
        }
    }
}

/// Of a record with so many bytes of content.
fn header(content: usize) -> [u8; HEADER] {
    let [high, low] = ((content + TYPE + TAG) as u16).to_be_bytes();
    [APPLICATION_DATA, 3, 3, high, low]
}

/// The length of the record at the start of `bytes`, if it is complete; or the alert that its length calls for.
fn complete(bytes: &[u8]) -> Result<Option<usize>, u8> {
    let Some(&[_, _, _, high, low]) = bytes.get(..HEADER) else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > CIPHERTEXT_MAX {
        return Err(RECORD_OVERFLOW);
    }
    Ok(Some(HEADER + len).filter(|&len| len <= bytes.len()))
}

#[cfg(test)]
mod tests;
