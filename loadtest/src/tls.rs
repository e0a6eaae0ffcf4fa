//! TLS configuration of `wss://` targets: trusted certificates, and the expected name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use thiserror::Error as ThisError;

/// Which certificates to trust, and this side's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Trust any certificate.
    pub insecure: bool,
    /// Trust those whose certificates are in this file, instead of those that the system trusts.
    pub ca: Option<PathBuf>,
    /// The name to ask for and to be found in the certificate, if it is not that of the URL (RFC 6066 section 3).
    pub sni: Option<String>,
    /// This side's certificate, with those that lead to its issuer.
    pub certificate: Option<PathBuf>,
    /// The certificate's key, if it is not in the same file.
    pub key: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, ThisError)]
pub enum TlsError {
    /// No certificates in the file.
    #[error("cannot read certificates from {0}: {1}")]
    Certificates(PathBuf, String),
    /// No key in the file.
    #[error("cannot read a private key from {0}: {1}")]
    Key(PathBuf, String),
    /// A certificate and a key that do not go together, or of a kind that is not known.
    #[error("--cert {} cannot be used: {}", .0.display(), in_words(.1))]
    Client(PathBuf, Error),
    /// The system has no trusted certificates.
    #[error("the system has no trusted certificates ({0}); name a file with --ca, or use --insecure")]
    NoRoots(String),
    /// A host that no certificate can name.
    #[error("`{0}` is no name for a server with a certificate; --sni names another")]
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
    let verifier: Arc<dyn ServerCertVerifier> =
        if options.insecure { Arc::new(Anybody(provider)) } else { trusted(options, &provider)? };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &options.certificate {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let (chain, key) = (certificates(path)?, private_key(options.key.as_ref().unwrap_or(path))?);
            builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::Client(path.clone(), error))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    // So that rustls hands connections over behind their handshakes.
    config.enable_secret_extraction = true;
    config.key_log = tlsrecord::prepare();
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error: &dyn std::fmt::Display| TlsError::Certificates(path.to_owned(), error.to_string());
    let found = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| failed(&error))?;
    if found.is_empty() { Err(failed(&"there are none")) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| TlsError::Key(path.to_owned(), error.to_string()))
}

/// Trusts those of --ca, or those that the system trusts.
fn trusted(options: &TlsOptions, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    let named = options.ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
    if let Some(path) = &options.ca {
        for certificate in &named {
            let failed = |error: Error| TlsError::Certificates(path.clone(), error.to_string());
            roots.add(certificate.clone()).map_err(failed)?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let errors = found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Err(TlsError::NoRoots(errors));
        }
    }
    let by_issuer = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    let by_issuer = by_issuer.map_err(|error| Error::General(error.to_string()))?;
    Ok(Arc::new(Named { by_issuer, named }))
}

/// The name as it is asked for and looked for in certificates: a host without brackets and port.
pub fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))
}

/// What the library says of no certificate but those that `openssl x509 -req` makes without extensions.
const VERSION_1: &str = "TLS: the certificate is of X.509 version 1, which the TLS library does not take, --insecure or not (one \
                         with a subjectAltName is of version 3)";

fn in_words(error: &Error) -> String {
    if is_of_version_1(error) { VERSION_1.to_owned() } else { error.to_string() }
}

fn is_of_version_1(error: &Error) -> bool {
    // The type of this error is that of a crate behind the library.
    matches!(error, Error::InvalidCertificate(CertificateError::Other(other)) if format!("{other:?}").contains("CertVersion"))
}

/// An error of the handshake in words that say what can be done.
#[must_use]
pub fn describe(error: &Error) -> &'static str {
    use CertificateError::{Expired, ExpiredContext, NotValidForName, NotValidForNameContext};
    match error {
        error if is_of_version_1(error) => VERSION_1,
        Error::InvalidCertificate(NotValidForNameContext { presented, .. }) if presented.is_empty() => {
            "TLS: the certificate has no subjectAltName, and so names no host (--insecure takes it)"
        }
        Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "TLS: the certificate is for another name (--sni names it, --insecure takes it)"
        }
        Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "TLS: the certificate has expired (--insecure takes it)"
        }
        Error::InvalidCertificate(_) => {
            "TLS: the certificate is not trusted (name its issuer with --ca, or use --insecure)"
        }
        Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion) => {
            "TLS: the server speaks no common version or cipher suite, or wants a client certificate (--cert)"
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "TLS: the server wants a client certificate (--cert, --key)"
        }
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate,
        ) => "TLS: the server does not take the client certificate (--cert)",
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "TLS: the server does not know the name that it is asked for (--sni)"
        }
        Error::AlertReceived(_) => "TLS: the server sent an alert",
        Error::InvalidMessage(_) => "TLS: the answer is not TLS (a server without TLS is ws://)",
        _ => "TLS: the handshake failed",
    }
}

/// Takes certificates of trusted issuers, and those that `--ca` names themselves.
///
/// `openssl req -x509` makes a certificate that is its own issuer and says of itself that it is an authority. As a
/// server's own certificate that is against the rules (RFC 5280 section 4.2.1.9), and yet it is what a user means who
/// names it.
#[derive(Debug)]
struct Named {
    by_issuer: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.by_issuer.verify_server_cert(certificate, intermediates, name, ocsp, now);
        let Err(Error::InvalidCertificate(why)) = &judged else { return judged };
        // The library looks at the time first: what it says otherwise, it says of a certificate that is valid now.
        let is_of_its_time = !matches!(
            why,
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
                | CertificateError::BadEncoding
        );
        if !is_of_its_time || !self.named.iter().any(|named| named == certificate) {
            return judged;
        }
        match verify_server_name(&ParsedCertificate::try_from(certificate)?, name) {
            // Without a subjectAltName there is no name that could be another.
            Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }))
                if presented.is_empty() =>
            {
                Ok(ServerCertVerified::assertion())
            }
            named => named.map(|()| ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_issuer.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_issuer.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_issuer.supported_verify_schemes()
    }
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
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    /// A certificate like those of `openssl req -x509`: its own issuer, an authority, valid up to 1970 or for long.
    fn authority(names: &[&str], is_expired: bool) -> (CertificateDer<'static>, KeyPair) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if is_expired {
            parameters.not_after = rcgen::date_time_ymd(1999, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (parameters.self_signed(&key).unwrap().der().clone(), key)
    }

    fn verdict(named: &CertificateDer<'static>, presented: &CertificateDer<'static>, name: &str) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        roots.add(named.clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let by_issuer = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let verifier = Named { by_issuer, named: vec![named.clone()] };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_790_000_000));
        verifier.verify_server_cert(presented, &[], &server_name(name).unwrap(), &[], now).map(|_| ())
    }

    #[test]
    fn names_are_those_of_hosts() {
        for name in ["example.org", "127.0.0.1", "::1"] {
            assert_eq!(server_name(name).unwrap().to_str(), name);
        }
        assert!(server_name("a_b..c").is_err());
    }

    #[test]
    fn a_certificate_that_is_named_itself_is_trusted_though_it_is_an_authority() {
        let (own, _) = authority(&["localhost"], false);
        assert_eq!(verdict(&own, &own, "localhost"), Ok(()));
        let other_name = verdict(&own, &own, "example.org").unwrap_err();
        assert!(describe(&other_name).contains("another name"), "{other_name}");
        let (stranger, _) = authority(&["localhost"], false);
        assert!(verdict(&own, &stranger, "localhost").is_err());
        let (without_names, _) = authority(&[], false);
        assert_eq!(verdict(&without_names, &without_names, "localhost"), Ok(()));
        let (old, _) = authority(&["localhost"], true);
        let expired = verdict(&old, &old, "localhost").unwrap_err();
        assert!(describe(&expired).contains("expired"), "{expired}");
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let ca = TlsOptions { ca: Some("/dev/null".into()), ..TlsOptions::default() };
        assert!(matches!(config(&ca), Err(TlsError::Certificates(..))));
        let insecure = TlsOptions { insecure: true, ..TlsOptions::default() };
        assert!(config(&insecure).is_ok());
        let client = TlsOptions { certificate: Some("/dev/null".into()), ..insecure };
        assert!(matches!(config(&client), Err(TlsError::Certificates(..))));
    }

    /// Made with `openssl x509 -req`, without extensions.
    const OF_VERSION_1: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBIjCByQIUL+J5huK6cu/aJ9sngHWFcGc5pU0wCgYIKoZIzj0EAwIwFDESMBAG\n\
        A1UEAwwJbG9jYWxob3N0MB4XDTI2MTEyOTIyMTAwOVoXDTI2MTIyOTIyMTAwOVow\n\
        FDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n\
        hxBYk6V7cGToeRLZk1mPJ3pA5bJuYm/4/qusyJVkFp2pwkyM6bkYS/5OwnnOd+LY\n\
        hP+YQ7ZSzUnaha/LiFK50TAKBggqhkjOPQQDAgNIADBFAiEAnGN0Yh4h/kYONFCh\n\
        fX/PTyRA9W9DNaEpxBwF8MW6bW4CIGofPAi20G3XWXX8exJzB5RLauE+RnJ8MYEK\n\
        4cr397GQ\n\
        -----END CERTIFICATE-----\n\
        -----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg8o44tU3o8iyXOHkj\n\
        XB6J6uY+XrgbYESAZSevsDsKbKyhRANCAASHEFiTpXtwZOh5EtmTWY8nekDlsm5i\n\
        b/j+q6zIlWQWnanCTIzpuRhL/k7Cec534tiE/5hDtlLNSdqFr8uIUrnR\n\
        -----END PRIVATE KEY-----";

    #[test]
    fn a_certificate_of_version_1_is_refused_in_words() {
        let path = std::env::temp_dir().join(format!("ringload-version-1-{}", std::process::id()));
        std::fs::write(&path, OF_VERSION_1).unwrap();
        let presented = &certificates(&path).unwrap()[0];
        let unnamed = authority(&["localhost"], false).0;
        for said in [
            describe(&verdict(&unnamed, presented, "localhost").unwrap_err()).to_owned(),
            config(&TlsOptions { insecure: true, certificate: Some(path.clone()), ..TlsOptions::default() })
                .unwrap_err()
                .to_string(),
        ] {
            assert!(said.contains("X.509 version 1"), "{said}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_client_certificate_needs_its_key() {
        let directory = std::env::temp_dir().join(format!("ringload-client-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let certified = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        let (certificate, key, both) = (directory.join("c"), directory.join("k"), directory.join("both"));
        let (certificate_pem, key_pem) = (certified.cert.pem(), certified.signing_key.serialize_pem());
        std::fs::write(&certificate, &certificate_pem).unwrap();
        std::fs::write(&key, &key_pem).unwrap();
        std::fs::write(&both, certificate_pem + &key_pem).unwrap();
        let with = |certificate: &Path, key: Option<&Path>| {
            let (certificate, key) = (Some(certificate.to_owned()), key.map(Path::to_owned));
            config(&TlsOptions { insecure: true, certificate, key, ..TlsOptions::default() })
        };
        assert!(with(&certificate, Some(&key)).is_ok() && with(&both, None).is_ok());
        assert!(matches!(with(&certificate, None), Err(TlsError::Key(..))));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
