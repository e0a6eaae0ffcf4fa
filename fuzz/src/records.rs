//! Records of TLS 1.3 behind a handshake: ringecho's record layer beside rustls' own, given the same by a client whose
//! records are sealed here.

use std::sync::{Arc, Mutex, OnceLock};

use arbitrary::{Arbitrary, Result, Unstructured};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use ringecho::transport::{Alone, Progress};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, KeyLog, RootCertStore, ServerConfig, ServerConnection, version};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const FRAGMENT_MAX: usize = 1 << 14;
/// A connection may hold an incomplete record.
const HELD_MAX: usize = FRAGMENT_MAX + 256 + 5;
/// Renewals in a row, and alerts that mean nothing, of which both sides take at least so many.
const RENEWALS: u32 = 30;
const ALERTS: u32 = 3;

/// What a client does.
#[derive(Clone, Debug)]
pub enum Act {
    /// Data of this length, in a record with so much padding.
    Data { len: usize, padding: usize },
    /// A record with whatever content, sealed as it should be.
    Content { kind: u8, content: Vec<u8> },
    /// New keys for its records, and asks for the same.
    Renewal { asks: bool },
    /// Bytes that are no record of its own.
    Raw(Vec<u8>),
    /// One bit of what was sealed last is another (not of the header's type and version, for which rustls puts what they are to
    /// be into what a record is opened with).
    Tampered { at: usize, bit: u8 },
    /// The last record again.
    Replayed,
    /// What is sealed and not sent yet arrives, in pieces of this size.
    Arrives(usize),
}

/// Acts of a client with one of three suites.
#[derive(Clone, Debug)]
pub struct Input {
    pub suite: u8,
    pub acts: Vec<Act>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let suite = u.arbitrary::<u8>()? % 3;
        let mut acts = Vec::new();
        while !u.is_empty() && acts.len() < 40 {
            acts.push(match u.arbitrary::<u8>()? % 12 {
                0..4 => Act::Data { len: length(u)?, padding: usize::from(u.arbitrary::<u8>()? % 8) },
                4 => {
                    let (kind, len) = (u.arbitrary::<u8>()? % 32, u.arbitrary::<u8>()? % 8);
                    Act::Content { kind, content: u.bytes(usize::from(len).min(u.len()))?.to_vec() }
                }
                5 => Act::Renewal { asks: u.arbitrary()? },
                6 => {
                    let len = usize::from(u.arbitrary::<u8>()? % 16).min(u.len());
                    Act::Raw(u.bytes(len)?.to_vec())
                }
                7 => Act::Tampered { at: usize::from(u.arbitrary::<u16>()?), bit: u.arbitrary::<u8>()? % 8 },
                8 => Act::Replayed,
                _ => Act::Arrives(length(u)?.max(1)),
            });
        }
        Ok(Self { suite, acts })
    }
}

/// Short ones, and those about the longest that a record may have.
fn length(u: &mut Unstructured) -> Result<usize> {
    Ok(match u.arbitrary::<u8>()? {
        byte @ 0..224 => usize::from(byte),
        byte => FRAGMENT_MAX + usize::from(byte) - 240,
    })
}

/// One direction, sealed or opened here (RFC 8446, 5 and 7).
struct Direction {
    algorithm: &'static Algorithm,
    secret: Vec<u8>,
    sequence: u64,
}

impl Direction {
    fn new(suite: u8, secret: Vec<u8>) -> Self {
        let algorithm = [&AES_128_GCM, &AES_256_GCM, &CHACHA20_POLY1305][usize::from(suite)];
        Self { algorithm, secret, sequence: 0 }
    }

    fn expand(&self, label: &str, len: usize) -> Vec<u8> {
        struct Len(usize);
        impl KeyType for Len {
            fn len(&self) -> usize {
                self.0
            }
        }
        let hash = if self.secret.len() == 48 { HKDF_SHA384 } else { HKDF_SHA256 };
        let label = [b"tls13 ", label.as_bytes()].concat();
        let info = [&[0, len as u8, label.len() as u8], &label[..], &[0]].concat();
        let mut out = vec![0; len];
        let prk = Prk::new_less_safe(hash, &self.secret);
        prk.expand(&[&info], Len(len)).and_then(|okm| okm.fill(&mut out)).expect("a short output");
        out
    }

    fn renew(&mut self) {
        self.secret = self.expand("traffic upd", self.secret.len());
        self.sequence = 0;
    }

    fn next(&mut self) -> (LessSafeKey, Nonce) {
        let key = UnboundKey::new(self.algorithm, &self.expand("key", self.algorithm.key_len())).expect("its length");
        let mut nonce: [u8; 12] = self.expand("iv", 12).try_into().expect("its length");
        nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        self.sequence += 1;
        (LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce))
    }

    fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = [content, &[kind], &vec![0; padding][..]].concat();
        let [high, low] = ((inner.len() + 16) as u16).to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let (key, nonce) = self.next();
        key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).expect("a short record");
        [&header[..], &inner].concat()
    }

    /// The type and the content of a record, which must be good.
    fn open(&mut self, record: &[u8]) -> (u8, Vec<u8>) {
        let (header, sealed) = record.split_at(5);
        let (key, nonce) = self.next();
        let mut sealed = sealed.to_vec();
        let inner = key.open_in_place(nonce, Aad::from(header), &mut sealed).expect("a record of the server's");
        let kind = inner.iter().rposition(|&byte| byte != 0).expect("a type");
        assert!(kind <= FRAGMENT_MAX, "a record with {kind} bytes");
        (inner[kind], inner[..kind].to_vec())
    }
}

/// Notes the traffic secrets of client and server.
#[derive(Debug, Default)]
struct Secrets(Mutex<[Vec<u8>; 2]>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let place = match label {
            "CLIENT_TRAFFIC_SECRET_0" => 0,
            "SERVER_TRAFFIC_SECRET_0" => 1,
            _ => return,
        };
        self.0.lock().expect("not poisoned")[place] = secret.to_vec();
    }
}

/// One of the two servers.
trait Server {
    /// Takes bytes; what it says goes behind `out`, what it has heard behind `plain`.
    fn receive(&mut self, bytes: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Progress;
}

impl Server for Alone {
    fn receive(&mut self, bytes: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Progress {
        Alone::receive(self, &mut bytes.to_vec(), plain, out)
    }
}

impl Server for ServerConnection {
    fn receive(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Progress {
        let mut progress = Progress::Goes;
        while !bytes.is_empty() && progress == Progress::Goes {
            // It takes a part at a time.
            if self.read_tls(&mut bytes).is_err() {
                progress = Progress::Failed;
                break;
            }
            match self.process_new_packets() {
                Err(_) => progress = Progress::Failed,
                Ok(state) => {
                    let start = plain.len();
                    plain.resize(start + state.plaintext_bytes_to_read(), 0);
                    std::io::Read::read_exact(&mut self.reader(), &mut plain[start..]).expect("they are there");
                    if state.peer_has_closed() {
                        progress = Progress::PeerFinished;
                    }
                }
            }
        }
        while self.wants_write() {
            self.write_tls(out).expect("memory");
        }
        progress
    }
}

/// A client behind its handshake with one of the two.
struct Client {
    seal: Direction,
    open: Direction,
    /// Sealed and not sent.
    out: Vec<u8>,
    /// Where the last record begins in it.
    last: Option<usize>,
    heard: Vec<u8>,
    /// What the server has sent: data; how often it has renewed its keys.
    data: Vec<u8>,
    renewals: u32,
}

/// The certificate's two configurations.
fn configs(suite: u8) -> (ServerConfig, ClientConfig) {
    static MADE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let (certificate, key) = MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        (made.cert.der().to_vec(), made.signing_key.serialize_der())
    });
    use rustls::crypto::ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let suites = [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![suites[usize::from(suite)]];
    let provider = Arc::new(provider);
    let certificate = CertificateDer::from(certificate.clone());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let server = server.with_protocol_versions(&[&version::TLS13]).expect("1.3").with_no_client_auth();
    let key = PrivatePkcs8KeyDer::from(key.clone());
    let server = server.with_single_cert(vec![certificate.clone()], key.into()).expect("a pair");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13]);
    (server, client.expect("1.3").with_root_certificates(roots).with_no_client_auth())
}

impl Client {
    /// Makes the handshake.
    fn new(suite: u8, mut config: ClientConfig, server: &mut impl Server) -> Self {
        let secrets = Arc::new(Secrets::default());
        config.key_log = Arc::clone(&secrets) as _;
        let name = ServerName::try_from("localhost").expect("a name");
        let mut rustls = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let (mut answer, mut plain) = (Vec::new(), Vec::new());
        while rustls.is_handshaking() || rustls.wants_write() {
            rustls.read_tls(&mut &answer[..]).expect("memory");
            rustls.process_new_packets().expect("a good server");
            let mut out = Vec::new();
            while rustls.wants_write() {
                rustls.write_tls(&mut out).expect("memory");
            }
            answer.clear();
            assert_eq!(server.receive(&out, &mut plain, &mut answer), Progress::Goes);
        }
        let [client, server] = std::mem::take(&mut *secrets.0.lock().expect("not poisoned"));
        let (seal, open) = (Direction::new(suite, client), Direction::new(suite, server));
        let (out, heard, data) = (Vec::new(), Vec::new(), Vec::new());
        let mut this = Self { seal, open, out, last: None, heard, data, renewals: 0 };
        this.hear(&answer); // tickets
        this
    }

    /// Records of the server, which are complete.
    fn hear(&mut self, bytes: &[u8]) -> Option<u8> {
        self.heard.extend_from_slice(bytes);
        let mut alert = None;
        while let Some(&[kind, _, _, high, low]) = self.heard.get(..5) {
            let len = 5 + usize::from(u16::from_be_bytes([high, low]));
            assert!(
                kind == DATA && self.heard.len() >= len && alert.is_none(),
                "half a record, or one behind an alert"
            );
            let record: Vec<u8> = self.heard.drain(..len).collect();
            match self.open.open(&record) {
                (DATA, data) => self.data.extend(data),
                (HANDSHAKE, message) if message == [24, 0, 0, 1, 0] => {
                    self.open.renew();
                    self.renewals += 1;
                }
                (HANDSHAKE, message) => assert_eq!(message[0], 4, "no ticket"),
                (ALERT, message) => alert = Some(message[1]),
                other => panic!("{other:?}"),
            }
        }
        alert
    }

    fn push(&mut self, record: &[u8]) {
        self.last = Some(self.out.len());
        self.out.extend_from_slice(record);
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Data { len, padding } => {
                let data: Vec<u8> = (0..*len).map(|at| (at * 7 % 251) as u8).collect();
                let record = self.seal.seal(DATA, &data, *padding);
                self.push(&record);
            }
            Act::Content { kind, content } => {
                let record = self.seal.seal(*kind, content, 0);
                self.push(&record);
            }
            Act::Renewal { asks } => {
                let record = self.seal.seal(HANDSHAKE, &[24, 0, 0, 1, u8::from(*asks)], 0);
                self.push(&record);
                self.seal.renew();
            }
            Act::Raw(bytes) => self.out.extend_from_slice(bytes),
            Act::Tampered { at, bit } => {
                if let Some(last) = self.last {
                    let at = last + at % (self.out.len() - last);
                    if at >= last + 3 {
                        self.out[at] ^= 1 << bit;
                    }
                }
            }
            Act::Replayed => {
                if let Some(last) = self.last {
                    self.out.extend_from_within(last..);
                }
            }
            Act::Arrives(_) => {}
        }
    }
}

/// Whether the two servers may differ from here on, in ways that are known: rustls looks at the level of an alert and waits
/// for the rest of a message of the handshake; RFC 8446 has neither (6) or leaves it open (4.6.3).
fn may_differ(act: &Act) -> bool {
    match act {
        Act::Content { kind, content } => {
            // Zeros at the end are padding, and the type is in front of them.
            let inner = [&content[..], &[*kind]].concat();
            let at = inner.iter().rposition(|&byte| byte != 0).unwrap_or(0);
            match (inner[at], &inner[..at]) {
                (ALERT, [level, _]) => *level != 1,
                (HANDSHAKE, [_, a, b, c, rest @ ..]) => u32::from_be_bytes([0, *a, *b, *c]) as usize > rest.len(),
                (HANDSHAKE, _) => true,
                _ => false,
            }
        }
        _ => false,
    }
}

/// Both servers come to the same, and what ringecho answers can be read.
pub fn check(input: &Input) {
    let suite = input.suite % 3;
    let (server, client) = configs(suite);
    let mut reference = ServerConnection::new(Arc::new(server.clone())).expect("a configuration");
    let mut ours = Alone::new(server).expect("a configuration");
    let mut client_of_ours = Client::new(suite, client.clone(), &mut ours);
    let mut client_of_rustls = Client::new(suite, client, &mut reference);
    let (mut heard_all, mut renewals, mut contents) = (0, 0, 0);
    for act in input.acts.iter().chain([&Act::Arrives(1 << 20)]) {
        match act {
            Act::Renewal { .. } => renewals += 1,
            Act::Content { .. } => contents += 1,
            _ => {}
        }
        if renewals > RENEWALS || contents > ALERTS || may_differ(act) {
            return;
        }
        client_of_ours.act(act);
        client_of_rustls.act(act);
        let Act::Arrives(cut) = act else { continue };
        let (our_plain, our_end) = deliver(&mut client_of_ours, &mut ours, *cut);
        let (their_plain, their_end) = deliver(&mut client_of_rustls, &mut reference, *cut);
        if our_end == Progress::Goes && their_end == Progress::Failed && ours.memory() > 0 {
            return; // rustls fails a record by its header, ringecho when all of it is there
        }
        assert_eq!(our_end, their_end, "ringecho and rustls come to different ends: {input:?}");
        assert!(our_plain == their_plain || our_end == Progress::Failed, "they have heard different things");
        assert!(ours.memory() <= HELD_MAX, "{} bytes are held", ours.memory());
        if our_end != Progress::Goes {
            return;
        }
        // What is said, and what is asked for, can be read in its order.
        heard_all += our_plain.len();
        let mut out = Vec::new();
        ours.seal(&our_plain, &mut out);
        client_of_ours.hear(&out);
        assert_eq!(client_of_ours.data.len(), heard_all, "not all of it has come");
        assert!(client_of_ours.data.ends_with(&our_plain), "something else has come");
        assert!(client_of_ours.renewals <= renewals + contents, "keys were renewed unasked");
    }
}

/// Sends all of a client's records in pieces. Behind an end nothing more is sent.
fn deliver(client: &mut Client, server: &mut impl Server, cut: usize) -> (Vec<u8>, Progress) {
    let (mut plain, mut progress) = (Vec::new(), Progress::Goes);
    client.last = None;
    for piece in std::mem::take(&mut client.out).chunks(cut) {
        let mut out = Vec::new();
        progress = server.receive(piece, &mut plain, &mut out);
        let alert = client.hear(&out);
        assert!(alert.is_none() || progress == Progress::Failed, "an alert without a failure");
        if progress != Progress::Goes {
            break;
        }
    }
    (plain, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a fuzzer would begin: whatever bytes.
    #[test]
    fn any_acts_come_to_the_same() {
        let mut number = 1_u64;
        for round in 0..600 {
            let bytes: Vec<u8> = (0..20 + round % 200)
                .map(|_| {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (number >> 56) as u8
                })
                .collect();
            let input = Input::arbitrary(&mut Unstructured::new(&bytes)).expect("enough bytes");
            check(&input);
        }
    }

    #[test]
    fn all_of_a_long_talk_arrives() {
        for suite in 0..3 {
            let data = |len| Act::Data { len, padding: 0 };
            let acts = vec![
                data(5),
                Act::Renewal { asks: true },
                data(FRAGMENT_MAX),
                Act::Arrives(7),
                data(0),
                Act::Arrives(1),
                Act::Renewal { asks: false },
                data(100),
                Act::Arrives(30),
                Act::Content { kind: ALERT, content: vec![1, 0] },
            ];
            check(&Input { suite, acts });
        }
    }
}
