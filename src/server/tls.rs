//! Certificates and keys: read from files, reloaded, or made for this run.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::{CipherSuite, RootCertStore, ServerConfig, version};
use thiserror::Error;

use super::Address;
use crate::config::TlsFiles;
use crate::transport::Acceptor;

/// Why there can be no TLS.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant is its message
pub enum TlsError {
    #[error("{flag} {}: {cause}", .path.display())]
    File { flag: &'static str, path: PathBuf, cause: String },
    #[error("--tls-cert and --tls-key: {0}")]
    Pair(rustls::Error),
    #[error("cannot make a certificate: {0}")]
    SelfSigned(String),
    #[error("cannot set up TLS: {0}")]
    Other(String),
}

/// The certificates of the TLS listeners of a server, which can be reloaded.
pub(super) struct Certificates {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    /// The ticket keys, the same for all configurations: clients resume their sessions with any of them, at any worker.
    tickets: Arc<dyn ProducesTickets>,
    /// Made for this run, if there are no files.
    made: Option<Pair>,
    pub(super) acceptor: Arc<Acceptor>,
}

/// A certificate with its chain, and its key.
type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Certificates {
    /// Loads the files, or makes a certificate for these addresses and says so.
    pub(super) fn new(files: TlsFiles, addresses: &[Address]) -> Result<Self, TlsError> {
        let provider = Arc::new(fast_ciphers_first(provider::default_provider()));
        let tickets = provider::Ticketer::new().map_err(|e| TlsError::Other(e.to_string()))?;
        let made = if files.pair.is_none() { Some(self_signed(addresses)?) } else { None };
        let config = configure(&files, pair(&files, made.as_ref())?, &provider, &tickets)?;
        let acceptor = Arc::new(Acceptor::new(config));
        Ok(Self { files, provider, tickets, made, acceptor })
    }

    /// Loads the files again: handshakes from now on are made with what is in them. If they cannot be used, nothing changes.
    /// A certificate that was made for this run stays.
    pub(super) fn reload(&self) -> Result<(), TlsError> {
        let pair = pair(&self.files, self.made.as_ref())?;
        let config = configure(&self.files, pair, &self.provider, &self.tickets)?;
        self.acceptor.replace(config);
        Ok(())
    }
}

/// The certificate that was made, or that is in the files now.
fn pair(files: &TlsFiles, made: Option<&Pair>) -> Result<Pair, TlsError> {
    match (made, &files.pair) {
        (Some((chain, key)), _) => Ok((chain.clone(), key.clone_key())),
        (None, Some((cert, key))) => read_pair(cert, key),
        (None, None) => Err(TlsError::Other("no certificate".into())),
    }
}

/// AES-128 costs a third less than AES-256, and is what the server chooses where a client offers both.
fn fast_ciphers_first(mut provider: CryptoProvider) -> CryptoProvider {
    let is_slow = |suite: CipherSuite| {
        let name = format!("{suite:?}");
        u8::from(!name.contains("AES_128")) + u8::from(name.contains("AES_256"))
    };
    provider
        .cipher_suites
        .sort_by_key(|suite| (suite.version().version != rustls::ProtocolVersion::TLSv1_3, is_slow(suite.suite())));
    provider
}

fn configure(
    files: &TlsFiles,
    (chain, key): Pair,
    provider: &Arc<CryptoProvider>,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|e| TlsError::Other(e.to_string()))?;
    let builder = match &files.client_ca {
        Some(path) => builder.with_client_cert_verifier(client_verifier(path, provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    // Tickets need no memory here, and workers share nothing.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::clone(tickets);
    Ok(config)
}

fn client_verifier(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let fail = |cause: String| TlsError::File { flag: "--tls-client-ca", path: path.into(), cause };
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path).map_err(fail)? {
        roots.add(certificate).map_err(|e| fail(e.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|e| fail(e.to_string()))
}

fn read_pair(cert: &Path, key: &Path) -> Result<Pair, TlsError> {
    let chain =
        read_certificates(cert).map_err(|cause| TlsError::File { flag: "--tls-cert", path: cert.into(), cause })?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| TlsError::File {
        flag: "--tls-key",
        path: key.into(),
        cause: e.to_string(),
    })?;
    Ok((chain, key))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("there is no certificate in it".into()),
        Ok(certificates) => Ok(certificates),
        Err(e) => Err(e.to_string()),
    }
}

/// A certificate for this machine's names and the addresses that are listened on. Clients can check its fingerprint.
fn self_signed(addresses: &[Address]) -> Result<Pair, TlsError> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names = vec!["localhost".into(), "127.0.0.1".into(), "::1".into(), host];
    names.extend(addresses.iter().filter_map(Address::inet).map(|address| address.ip().to_string()));
    names.retain(|name| !matches!(name.as_str(), "" | "0.0.0.0" | "::"));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let made = rcgen::generate_simple_self_signed(names.clone()).map_err(|e| TlsError::SelfSigned(e.to_string()))?;
    let certificate = made.cert.der().clone();
    tracing::info!(
        "TLS with a self-signed certificate for {}; SHA-256 fingerprint {}",
        names.join(", "),
        fingerprint(&certificate)
    );
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![certificate], key.into()))
}

/// As `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint(certificate: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let mut text = String::new();
    for byte in digest.as_ref() {
        let separator = if text.is_empty() { "" } else { ":" };
        let _ = write!(text, "{separator}{byte:02X}");
    }
    text
}
