//! What `wss://` targets need: whom to trust, and under which name.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use thiserror::Error as ThisError;

/// Whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Anybody.
    pub insecure: bool,
    /// Those whose certificates are in this file, instead of those that the system trusts.
    pub ca: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, ThisError)]
pub enum TlsError {
    /// No certificates in the file.
    #[error("cannot read certificates from {0}: {1}")]
    Ca(PathBuf, String),
    /// The system trusts nobody.
    #[error("the system has no trusted certificates ({0}); name a file with --ca, or use --insecure")]
    NoRoots(String),
    /// A host that no certificate can name.
    #[error("`{0}` is no name for a server with a certificate")]
    Name(String),
    /// The library's own.
    #[error("TLS: {0}")]
    Library(#[from] Error),
}

/// A client's configuration. Sessions are not resumed: every handshake is a full one, and costs the server what a new
/// client's does.
pub fn config(options: &TlsOptions) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut config = if options.insecure {
        let anybody = Arc::new(Anybody(provider));
        builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth()
    } else {
        builder.with_root_certificates(roots(options)?).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(options: &TlsOptions) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &options.ca else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        let errors = || found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return if roots.is_empty() { Err(TlsError::NoRoots(errors())) } else { Ok(roots) };
    };
    let failed = |error: &dyn std::fmt::Display| TlsError::Ca(path.clone(), error.to_string());
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
        roots.add(certificate.map_err(|error| failed(&error))?)?;
    }
    if roots.is_empty() { Err(failed(&"there are none")) } else { Ok(roots) }
}

/// The name that the certificate of `host` (as in a `Host` header) must carry.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

/// Takes every certificate. The handshake's signatures are still checked: they cost what they cost.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_without_ports() {
        for (host, name) in [("example.org:8443", "example.org"), ("127.0.0.1", "127.0.0.1"), ("[::1]:1", "::1")] {
            assert_eq!(server_name(host).unwrap().to_str(), name);
        }
        assert!(server_name("a_b..c:1").is_err());
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let ca = Some(PathBuf::from("/dev/null"));
        assert!(matches!(config(&TlsOptions { insecure: false, ca }), Err(TlsError::Ca(..))));
        assert!(config(&TlsOptions { insecure: true, ca: None }).is_ok());
    }
}
