//! What TLS 1.3 costs the server, without I/O: the constants of `src/connection/schedule.rs` are these, on the slow core that
//! they are nominal for.

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ringecho::transport::{Alone, Progress};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, version};

struct Configs {
    server: ServerConfig,
    client: Arc<ClientConfig>,
}

impl Configs {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let certificate: CertificateDer = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let server = server.with_safe_default_protocol_versions().expect("they are there").with_no_client_auth();
        let mut server = server.with_single_cert(vec![certificate.clone()], key.into()).expect("a pair");
        server.ticketer = rustls::crypto::ring::Ticketer::new().expect("random bytes");
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a certificate");
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13]);
        let client = client.expect("1.3").with_root_certificates(roots).with_no_client_auth();
        Self { server, client: Arc::new(client) }
    }

    /// A server that has heard nothing, and a client's first message.
    fn begun(&self) -> (Alone, ClientConnection, Vec<u8>) {
        let server = Alone::new(self.server.clone()).expect("a configuration");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::clone(&self.client), name).expect("a configuration");
        let first = sent(&mut client);
        (server, client, first)
    }

    /// The first message is answered, the second one is here.
    fn answered(&self) -> (Alone, ClientConnection, Vec<u8>) {
        let (mut server, mut client, mut first) = self.begun();
        let answer = receive(&mut server, &mut first);
        client.read_tls(&mut &answer[..]).expect("memory");
        client.process_new_packets().expect("a good server");
        let second = sent(&mut client);
        (server, client, second)
    }

    fn shaken(&self) -> (Alone, ClientConnection) {
        let (mut server, mut client, mut second) = self.answered();
        let tickets = receive(&mut server, &mut second);
        assert!(!server.is_shaking());
        client.read_tls(&mut &tickets[..]).expect("memory");
        client.process_new_packets().expect("a good server");
        (server, client)
    }
}

fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut out = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut out).expect("memory");
    }
    out
}

fn receive(server: &mut Alone, bytes: &mut [u8]) -> Vec<u8> {
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    assert_eq!(server.receive(bytes, &mut plain, &mut out), Progress::Goes);
    out
}

fn handshake(c: &mut Criterion) {
    let configs = Configs::new();
    let mut group = c.benchmark_group("tls");
    // The client is dropped outside of the measurement.
    group.bench_function("accept, first message", |b| {
        b.iter_batched(
            || configs.begun(),
            |(mut server, client, mut first)| (receive(&mut server, &mut first), server, client),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("second message", |b| {
        b.iter_batched(
            || configs.answered(),
            |(mut server, client, mut second)| (receive(&mut server, &mut second), server, client),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Records as a client seals them, so many with the same length.
fn records(client: &mut ClientConnection, count: usize, len: usize) -> Vec<Vec<u8>> {
    let record = |_| {
        client.writer().write_all(&vec![7; len]).expect("memory");
        sent(client)
    };
    (0..count).map(record).collect()
}

fn record(c: &mut Criterion) {
    const BATCH: usize = 64;
    let configs = Configs::new();
    let mut group = c.benchmark_group("tls record, opened and sealed");
    for len in [134, 16_000] {
        group.bench_function(format!("{len} B"), |b| {
            b.iter_custom(|iterations| {
                let (mut server, mut client) = configs.shaken();
                let mut out = Vec::with_capacity(32 << 10);
                let (mut left, mut time) = (iterations, std::time::Duration::ZERO);
                while left > 0 {
                    let mut batch = records(&mut client, BATCH.min(left as usize), len);
                    left -= batch.len() as u64;
                    let start = std::time::Instant::now();
                    for record in &mut batch {
                        out.clear();
                        assert_eq!(server.echo(record, &mut out), (Progress::Goes, true));
                        black_box(&out);
                    }
                    time += start.elapsed();
                }
                time
            });
        });
    }
    group.finish();
    // Both sides' keys: the client asks for those of the server's.
    c.bench_function("tls renewal of keys", |b| {
        b.iter_custom(|iterations| {
            let (mut server, mut client) = configs.shaken();
            let mut time = std::time::Duration::ZERO;
            for _ in 0..iterations {
                client.refresh_traffic_keys().expect("behind the handshake");
                client.writer().write_all(b"data").expect("memory");
                let mut renewal = sent(&mut client);
                let start = std::time::Instant::now();
                let mut answer = receive(&mut server, &mut renewal);
                time += start.elapsed();
                // Without data in between, rustls takes no more than 32.
                server.seal(b"x", &mut answer);
                client.read_tls(&mut &answer[..]).expect("memory");
                client.process_new_packets().expect("a good server");
                client.reader().read_exact(&mut [0]).expect("the server's data");
            }
            time
        });
    });
}

criterion_group!(benches, handshake, record);
criterion_main!(benches);
