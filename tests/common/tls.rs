//! TLS as clients have it, certificates, and files that go with a test.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::{env, fs};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};
use tungstenite::WebSocket;

use super::peer::connect;
use super::server::engine;

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Takes every certificate and remembers the last.
#[derive(Debug, Default)]
struct Witness {
    seen: Mutex<Vec<u8>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen.lock().unwrap() = certificate.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &crypto().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &crypto().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto().signature_verification_algorithms.supported_schemes()
    }
}

fn crypto() -> CryptoProvider {
    provider::default_provider()
}

/// A client's side, and what it has seen.
pub(crate) struct Client {
    pub(crate) config: Arc<ClientConfig>,
    witness: Arc<Witness>,
}

impl Client {
    pub(crate) fn new(version: &'static SupportedProtocolVersion) -> Self {
        Self::with(version, None)
    }

    pub(crate) fn with(version: &'static SupportedProtocolVersion, own: Option<&Made>) -> Self {
        let witness = Arc::new(Witness::default());
        let builder =
            ClientConfig::builder_with_provider(Arc::new(crypto())).with_protocol_versions(&[version]).unwrap();
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&witness) as _);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(made) => builder.with_client_auth_cert(vec![made.der.clone()], made.key().into()).unwrap(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { config: Arc::new(config), witness }
    }

    /// Not a byte is sent yet.
    pub(crate) fn stream_over(&self, socket: TcpStream) -> Stream {
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::clone(&self.config), name).unwrap(), socket)
    }

    pub(crate) fn stream(&self, address: SocketAddr) -> Stream {
        self.stream_over(connect(address))
    }

    pub(crate) fn open(&self, address: SocketAddr) -> WebSocket<Stream> {
        let config = tungstenite::protocol::WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let url = format!("wss://{address}/");
        tungstenite::client::client_with_config(url, self.stream(address), Some(config)).expect("an upgrade").0
    }

    pub(crate) fn seen(&self) -> Vec<u8> {
        self.witness.seen.lock().unwrap().clone()
    }
}

/// A certificate and its key.
pub(crate) struct Made {
    pub(crate) der: CertificateDer<'static>,
    key: Vec<u8>,
    pub(crate) pem: String,
    pub(crate) key_pem: String,
}

impl Made {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pem = |label: &str, der: &[u8]| {
            let lines: Vec<String> =
                base64(der).as_bytes().chunks(64).map(|l| String::from_utf8(l.into()).unwrap()).collect();
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
        };
        let (der, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
        Self { pem: pem("CERTIFICATE", &der), key_pem: pem("PRIVATE KEY", &key), der, key }
    }

    pub(crate) fn key(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone())
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { digit.into() } else { '=' });
        }
    }
    text
}

/// Files that go with the test.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new(name: &str) -> Self {
        let directory = env::temp_dir().join(format!("ringecho-test-{name}-{}-{}", engine(), std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
