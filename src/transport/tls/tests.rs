use proptest::prelude::*;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::Alone as Server;
use super::*;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// rustls' client, as independent of `Tls` as it can be.
struct Client {
    connection: UnbufferedClientConnection,
    incoming: Vec<u8>,
    plain: Vec<u8>,
    out: Vec<u8>,
    has_heard_goodbye: bool,
}

impl Client {
    fn receive(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.incoming);
            let mut is_over = false;
            match state.expect("a server that keeps to the protocol") {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        self.plain.extend_from_slice(record.unwrap().payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let start = self.out.len();
                    self.out.resize(start + 20_000, 0);
                    let written = data.encode(&mut self.out[start..]).unwrap();
                    self.out.truncate(start + written);
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.has_heard_goodbye = true,
                _ => is_over = true,
            }
            self.incoming.drain(..discard);
            if is_over {
                return;
            }
        }
    }

    /// Puts data behind `out`.
    fn send(&mut self, data: &[u8]) {
        let ConnectionState::WriteTraffic(mut traffic) = self.connection.process_tls_records(&mut []).state.unwrap()
        else {
            panic!("nothing can be sent")
        };
        let start = self.out.len();
        self.out.resize(start + data.len() + 1000 + data.len() / 100, 0);
        let written = traffic.encrypt(data, &mut self.out[start..]).unwrap();
        self.out.truncate(start + written);
    }

    /// Renews its keys, and asks for the same.
    fn renew(&mut self) {
        let ConnectionState::WriteTraffic(traffic) = self.connection.process_tls_records(&mut []).state.unwrap() else {
            panic!("nothing can be sent")
        };
        traffic.refresh_traffic_keys().unwrap();
        self.receive(&[]);
    }

    /// The alert that it is sent.
    fn alert(mut self, bytes: &[u8]) -> Option<u8> {
        match self.connection.process_tls_records(&mut bytes.to_vec()).state {
            Err(rustls::Error::AlertReceived(alert)) => Some(alert.into()),
            _ => None,
        }
    }

    fn say_goodbye(&mut self) {
        let ConnectionState::WriteTraffic(mut traffic) = self.connection.process_tls_records(&mut []).state.unwrap()
        else {
            panic!("nothing can be sent")
        };
        let start = self.out.len();
        self.out.resize(start + 100, 0);
        let written = traffic.queue_close_notify(&mut self.out[start..]).unwrap();
        self.out.truncate(start + written);
    }
}

impl Server {
    /// Its records, if TLS 1.3 has come to that.
    fn records(&mut self) -> &mut Records {
        match &mut self.tls.state {
            State::Records(records) => records,
            _ => panic!("rustls has not handed over"),
        }
    }
}

/// A record as the client seals its next one.
fn seal_as_peer(server: &mut Server, kind: u8, content: &[u8], out: &mut Vec<u8>) {
    server.records().peers().seal_as(0, &mut Keys::default(), kind, content, out);
}

/// A client and a server that have not begun yet.
fn both(version: &'static SupportedProtocolVersion) -> (Client, Server) {
    both_with(version, rustls::crypto::ring::DEFAULT_CIPHER_SUITES)
}

fn both_with(version: &'static SupportedProtocolVersion, suites: &[rustls::SupportedCipherSuite]) -> (Client, Server) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate: CertificateDer = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = suites.to_vec();
    let provider = Arc::new(provider);
    let server =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key.into()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());
    let name = ServerName::try_from("localhost").unwrap();
    let connection = UnbufferedClientConnection::new(client, name).unwrap();
    let (incoming, plain, out) = (Vec::new(), Vec::new(), Vec::new());
    let client = Client { connection, incoming, plain, out, has_heard_goodbye: false };
    let mut server = Server::new(server).unwrap();
    // So few that the tests come to that.
    server.keys = Keys::renewed_after(50);
    (client, server)
}

/// Carries what the client has sent to the server in pieces of `cut` bytes, and the answers back.
fn carry(client: &mut Client, server: &mut Server, cut: usize) -> (Vec<u8>, Progress) {
    let (mut plain, mut progress) = (Vec::new(), Progress::Goes);
    for piece in std::mem::take(&mut client.out).chunks(cut) {
        let mut out = Vec::new();
        progress = server.receive(&mut piece.to_vec(), &mut plain, &mut out);
        client.receive(&out);
    }
    (plain, progress)
}

fn shaken(version: &'static SupportedProtocolVersion, cut: usize) -> (Client, Server) {
    shake(both(version), cut)
}

fn shake((mut client, mut server): (Client, Server), cut: usize) -> (Client, Server) {
    client.receive(&[]);
    while !client.out.is_empty() {
        let (plain, progress) = carry(&mut client, &mut server, cut);
        assert!(plain.is_empty() && progress == Progress::Goes);
    }
    assert!(!server.is_shaking() && !client.connection.is_handshaking());
    (client, server)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 % 251) as u8).collect()
}

#[test]
fn everything_arrives_however_it_is_cut() {
    for version in VERSIONS {
        for cut in [1, 2, 5, 6, 100, 4096, 100_000] {
            let (mut client, mut server) = shaken(version, cut);
            let data = pattern(40_000);
            client.send(b"hello");
            client.send(&data);
            let (plain, progress) = carry(&mut client, &mut server, cut);
            assert!(plain == [b"hello", &data[..]].concat() && progress == Progress::Goes, "{version:?} by {cut}");
            assert_eq!(server.memory(), 0, "an idle connection holds nothing");

            let mut out = Vec::new();
            server.seal(&plain, &mut out);
            server.seal(b"", &mut out);
            server.say_goodbye(&mut out);
            server.say_goodbye(&mut out);
            out.chunks(cut).for_each(|piece| client.receive(piece));
            assert!(client.plain == plain && client.has_heard_goodbye);
        }
    }
}

#[test]
fn a_record_may_be_cut_at_every_byte() {
    for version in VERSIONS {
        let (mut client, mut server) = shaken(version, 1000);
        let mut cut = 1;
        loop {
            client.send(b"one record");
            client.send(b", and another");
            let mut sent = std::mem::take(&mut client.out);
            if cut >= sent.len() {
                break;
            }
            let (first, second) = sent.split_at_mut(cut);
            let (mut plain, mut out) = (Vec::new(), Vec::new());
            assert_eq!(server.receive(first, &mut plain, &mut out), Progress::Goes);
            assert_eq!(server.receive(second, &mut plain, &mut out), Progress::Goes);
            assert_eq!((&plain[..], out.len(), server.memory()), (&b"one record, and another"[..], 0, 0), "at {cut}");
            cut += 1;
        }
    }
}

/// As a client does that has nothing more to say: the server may still.
#[test]
fn a_goodbye_is_heard_and_what_is_sent_behind_it_arrives() {
    for version in VERSIONS {
        let (mut client, mut server) = shaken(version, 1000);
        client.send(b"all");
        client.say_goodbye();
        let (plain, progress) = carry(&mut client, &mut server, 100_000);
        assert_eq!((&plain[..], progress), (&b"all"[..], Progress::PeerFinished));
        let mut out = Vec::new();
        server.seal(b"all of it", &mut out);
        server.say_goodbye(&mut out);
        client.receive(&out);
        assert!(client.plain == b"all of it" && client.has_heard_goodbye);
    }
}

#[test]
fn nonsense_is_answered_with_an_alert() {
    let (_, mut server) = both(&version::TLS13);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let mut nonsense = [0x16, 3, 1, 0, 4, 99, 0, 0, 0];
    assert_eq!(server.receive(&mut nonsense, &mut plain, &mut out), Progress::Failed);
    assert_eq!((out.first(), out.len()), (Some(&0x15), 7), "{out:02x?}");

    // A record that was changed on its way.
    let (mut client, mut server) = shaken(&version::TLS13, 1000);
    client.send(b"data");
    let mut record = std::mem::take(&mut client.out);
    *record.last_mut().unwrap() ^= 1;
    out.clear();
    assert_eq!(server.receive(&mut record, &mut plain, &mut out), Progress::Failed);
    assert!(plain.is_empty() && !out.is_empty());
}

#[test]
fn plain_http_is_told_what_to_do() {
    let (_, mut server) = both(&version::TLS13);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    assert_eq!(server.receive(&mut b"GET / HTTP/1.1\r\n".to_vec(), &mut plain, &mut out), Progress::Failed);
    let answer = String::from_utf8(out).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("wss://"), "{answer}");
}

/// A first message that has no end.
#[test]
fn what_is_half_read_is_bounded() {
    let (_, mut server) = both(&version::TLS13);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let mut record = vec![0x16, 3, 1, 0x40, 0];
    record.resize(5 + 0x4000, 0);
    record[5..9].copy_from_slice(&[1, 0, 0xff, 0xff]);
    let mut progress = Progress::Goes;
    for _ in 0..20 {
        progress = server.receive(&mut record.clone(), &mut plain, &mut out);
        if progress == Progress::Failed {
            break;
        }
        assert!(server.memory() <= 2 * HALF_MAX);
    }
    assert_eq!(progress, Progress::Failed);
}

/// A client that has agreed on this suite.
fn with_suite(suite: rustls::SupportedCipherSuite) -> (Client, Server) {
    shake(both_with(&version::TLS13, &[suite]), 1000)
}

fn echo(server: &mut Server, bytes: &mut [u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let (progress, is_within) = server.echo(bytes, &mut out);
    assert_eq!(progress, Progress::Goes);
    (out, is_within)
}

#[test]
fn an_echo_is_sealed_where_it_lies_with_every_suite() {
    for &suite in rustls::crypto::ring::DEFAULT_CIPHER_SUITES {
        if suite.version().version != ProtocolVersion::TLSv1_3 {
            continue;
        }
        let (mut client, mut server) = with_suite(suite);
        let mut expected = Vec::new();
        for len in [5, 6, 100, 1000, FRAGMENT_MAX] {
            let data = pattern(len);
            client.send(&data);
            let (out, is_within) = echo(&mut server, &mut std::mem::take(&mut client.out));
            assert!(is_within && out.len() == len - 4 + 22, "{suite:?}: {len}");
            client.receive(&out);
            expected.extend_from_slice(&data[..len - 4]);
        }
        assert!(client.plain == expected, "{suite:?}");
        // Several records are one when they are sealed again, with the rest of another behind them.
        for piece in pattern(300).chunks(100) {
            client.send(piece);
        }
        let sent = std::mem::take(&mut client.out);
        client.plain.clear();
        let (out, is_within) = echo(&mut server, &mut sent[..sent.len() - 1].to_vec());
        assert!(is_within);
        client.receive(&out);
        assert!(client.plain == pattern(196), "{suite:?}");
        let (out, is_within) = echo(&mut server, &mut sent[sent.len() - 1..].to_vec());
        assert!(!is_within);
        client.receive(&out);
        assert!(client.plain[196..] == pattern(300)[200..], "{suite:?}");
    }
}

#[test]
fn keys_are_renewed_by_either_side() {
    let (mut client, mut server) = shaken(&version::TLS13, 1000);
    let (mut plain, mut out, mut renewals) = (Vec::new(), Vec::new(), 0);
    for round in 0..5 {
        // The client asks for new keys of the server's, too; between the two halves of what it says.
        client.send(b"first half, ");
        client.renew();
        client.send(b"second half");
        plain.clear();
        out.clear();
        assert_eq!(server.receive(&mut std::mem::take(&mut client.out), &mut plain, &mut out), Progress::Goes);
        assert_eq!(plain, b"first half, second half", "{round}");
        assert!(!out.is_empty(), "the answer to a renewal");
        server.seal(b"with other keys", &mut out);
        client.receive(&out);
        assert_eq!(std::mem::take(&mut client.plain), b"with other keys");
    }
    // The server's turn: a key seals as many records as it may, and no more.
    for number in 0..200 {
        client.send(&[number; 10]);
        let (out, is_within) = echo(&mut server, &mut std::mem::take(&mut client.out));
        assert!(is_within == (out.len() == 6 + 22), "{number}");
        client.receive(&out);
        let len = if is_within { 6 } else { 10 };
        assert_eq!(std::mem::take(&mut client.plain), vec![number; len]);
        renewals += u32::from(!is_within);
    }
    assert!((3..=4).contains(&renewals), "{renewals}");
}

/// The end of a record without data, and one with data behind it.
#[test]
fn data_behind_the_rest_of_a_renewal_are_where_they_are_said_to_be() {
    let (mut client, mut server) = shaken(&version::TLS13, 1000);
    client.renew();
    let cut = client.out.len() - 3;
    client.send(b"data");
    let mut sent = std::mem::take(&mut client.out);
    let (first, second) = sent.split_at_mut(cut);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    assert_eq!(server.receive(first, &mut plain, &mut out), Progress::Goes);
    assert_eq!(server.receive(second, &mut plain, &mut out), Progress::Goes);
    assert_eq!(plain, b"data");
}

/// What a client may not send behind the handshake, each sealed as it should be.
#[test]
fn violations_are_answered_with_their_alert() {
    let overlong = vec![7; FRAGMENT_MAX + 1];
    // Data and their type, with padding behind.
    let padded = [&[7; 100][..], &[23], &vec![0; FRAGMENT_MAX - 100]].concat();
    for (kind, content, alert) in [
        (22, &[24, 0, 0, 1, 2][..], 10),
        (22, &[24, 0, 0, 1], 10),
        (22, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], 10),
        (22, &[1, 0, 0, 0], 10),
        (20, &[1], 10),
        (0, &[0, 0, 0], 10),
        (23, &overlong, 22),
        (0, &padded, 22),
    ] {
        let (client, mut server) = shaken(&version::TLS13, 1000);
        let mut sealed = Vec::new();
        seal_as_peer(&mut server, kind, content, &mut sealed);
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        assert_eq!(server.receive(&mut sealed, &mut plain, &mut out), Progress::Failed, "{kind} {content:?}");
        assert!(plain.is_empty());
        assert_eq!(client.alert(&out), Some(alert), "{kind}");
        // Nothing more is said.
        let len = out.len();
        server.say_goodbye(&mut out);
        assert_eq!(out.len(), len);
    }
    for (record, alert) in [(&[23, 3, 3, 0x41, 1][..], 22), (&[20, 3, 3, 0, 1, 1], 10), (&[23, 3, 3, 0, 0], 20)] {
        let (client, mut server) = shaken(&version::TLS13, 1000);
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        assert_eq!(server.receive(&mut record.to_vec(), &mut plain, &mut out), Progress::Failed);
        assert_eq!(client.alert(&out), Some(alert), "{record:?}");
    }
}

#[test]
fn padding_and_empty_records_mean_nothing() {
    let (_, mut server) = shaken(&version::TLS13, 1000);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    for content in [&b"padded"[..], b"", b" and more"] {
        let mut sealed = Vec::new();
        // The padding stands behind the type: as content of that type 0.
        seal_as_peer(&mut server, 0, &[content, &[23], &[0; 50]].concat(), &mut sealed);
        for piece in sealed.chunks_mut(30) {
            assert_eq!(server.receive(piece, &mut plain, &mut out), Progress::Goes);
        }
    }
    assert_eq!((&plain[..], out.len()), (&b"padded and more"[..], 0));
}

#[test]
fn a_flood_of_renewals_has_an_end() {
    let (_, mut server) = shaken(&version::TLS13, 1000);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let mut renewals = 0;
    loop {
        let mut sealed = Vec::new();
        seal_as_peer(&mut server, 22, &[24, 0, 0, 1, 1], &mut sealed);
        if server.receive(&mut sealed, &mut plain, &mut out) == Progress::Failed {
            break;
        }
        renewals += 1;
        assert!(renewals < 100, "it has no end");
    }
    assert_eq!(renewals, 32);
}

/// An idle connection's memory beside its entry, as docs/DEPLOYMENT.md has it: the place of its stage, the stage, the records.
#[test]
fn what_an_idle_connection_keeps_is_small() {
    let kept = size_of::<u32>() + crate::transport::STAGE + size_of::<Records>();
    assert!(kept <= 270, "{kept} bytes");
}

/// What a client and a server may do to each other.
#[derive(Clone, Debug)]
enum Act {
    ClientSays(usize),
    ClientRenews,
    ServerSays(usize),
    /// What the client has sent arrives, in pieces of this size.
    Arrives(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let len = prop_oneof![0..40_usize, 0..3000_usize, 16_300..16_500_usize, 0..50_000_usize];
    prop_oneof![
        4 => len.clone().prop_map(Act::ClientSays),
        1 => Just(Act::ClientRenews),
        2 => len.prop_map(Act::ServerSays),
        4 => (1..20_000_usize).prop_map(Act::Arrives),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// rustls' client is the measure: whatever both say, in whatever pieces, whenever keys are renewed, all of it arrives.
    #[test]
    fn both_sides_understand_each_other(acts in proptest::collection::vec(act(), 1..40), suite in 0..3_usize) {
        let is_13 = |suite: &&rustls::SupportedCipherSuite| suite.version().version == ProtocolVersion::TLSv1_3;
        let suites: Vec<_> = rustls::crypto::ring::DEFAULT_CIPHER_SUITES.iter().filter(is_13).collect();
        let (mut client, mut server) = with_suite(*suites[suite]);
        let (mut said, mut heard, mut answered) = (Vec::new(), Vec::new(), Vec::new());
        for act in acts.into_iter().chain([Act::Arrives(100), Act::ClientSays(1), Act::Arrives(1)]) {
            match act {
                Act::ClientSays(len) => {
                    client.send(&pattern(len));
                    said.extend(pattern(len));
                }
                Act::ClientRenews => client.renew(),
                Act::ServerSays(len) => {
                    let mut out = Vec::new();
                    server.seal(&pattern(len), &mut out);
                    client.receive(&out);
                    answered.extend(pattern(len));
                }
                Act::Arrives(cut) => {
                    let (plain, progress) = carry(&mut client, &mut server, cut);
                    prop_assert_eq!(progress, Progress::Goes);
                    heard.extend(plain);
                }
            }
            prop_assert!(server.memory() <= 17_000);
        }
        heard.extend(carry(&mut client, &mut server, 1000).0);
        prop_assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
        prop_assert!(client.plain == answered);
    }

    /// Whatever a client seals, it is data, or an end; and bytes that were not sealed are an end.
    #[test]
    fn no_content_does_harm(
        contents in proptest::collection::vec((0..30_u8, proptest::collection::vec(any::<u8>(), 0..8)), 1..20),
        raw in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let (_, mut server) = shaken(&version::TLS13, 1000);
        let (mut plain, mut out, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, content) in contents {
            let mut sealed = Vec::new();
            seal_as_peer(&mut server, kind, &content, &mut sealed);
            let progress = server.receive(&mut sealed, &mut plain, &mut out);
            // Zeros behind the type are padding.
            let inner = [&content[..], &[kind]].concat();
            let at = inner.iter().rposition(|&byte| byte != 0).unwrap_or(0);
            if inner[at] == 23 {
                expected.extend_from_slice(&inner[..at]);
            }
            if progress != Progress::Goes {
                return Ok(());
            }
        }
        prop_assert_eq!(&plain, &expected);
        let progress = server.receive(&mut raw.clone(), &mut plain, &mut out);
        prop_assert!(progress == Progress::Failed || server.memory() == raw.len());
        prop_assert_eq!(plain, expected);
    }
}
