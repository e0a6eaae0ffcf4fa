//! One TLS connection's bytes: a socket that never waits, and the library in between.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, Error};

use crate::stats::Cause;

/// A socket with TLS.
#[derive(Debug)]
pub(super) struct TlsStream {
    pub(super) tcp: TcpStream,
    tls: ClientConnection,
}

/// How far reading got.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// There is no more for now.
    Dry,
    /// The peer has ended the connection.
    Closed,
    /// The connection has failed.
    Failed(Cause),
}

impl TlsStream {
    pub(super) fn new(tcp: TcpStream, config: &Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let mut tls = ClientConnection::new(Arc::clone(config), name)?;
        // What is to be sent is bounded by who sends.
        tls.set_buffer_limit(None);
        Ok(Self { tcp, tls })
    }

    /// Whether the handshake goes on.
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether what was to be sent has not been sent in full.
    pub(super) fn is_sending(&self) -> bool {
        self.tls.wants_write()
    }

    /// Takes bytes to be sent; [`TlsStream::flush`] sends them.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).expect("a buffer without a limit takes everything");
    }

    /// Sends as much as the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Appends to `plain` what has arrived: up to about `limit` bytes, so that one connection does not hold up the others.
    pub(super) fn read(&mut self, plain: &mut Vec<u8>, limit: usize) -> ReadEnd {
        while plain.len() < limit {
            match self.tls.read_tls(&mut self.tcp) {
                Ok(0) => return ReadEnd::Closed,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return ReadEnd::Dry,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return ReadEnd::Failed(Cause::of_error(error.raw_os_error().unwrap_or(libc::EIO))),
            }
            let state = match self.tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    // The alert that says why is to reach the server.
                    let _ = self.flush();
                    return ReadEnd::Failed(Cause::Invalid(describe(&error)));
                }
            };
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            if self.tls.reader().read_exact(&mut plain[start..]).is_err() {
                return ReadEnd::Failed(Cause::Reset);
            }
            if state.peer_has_closed() {
                return ReadEnd::Closed;
            }
        }
        ReadEnd::Dry
    }
}

/// An error of the handshake in words that say what can be done.
fn describe(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "TLS: the certificate is for another name (--insecure takes it)",
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "TLS: the certificate has expired (--insecure takes it)"
        }
        Error::InvalidCertificate(_) => {
            "TLS: the certificate is not trusted (name its issuer with --ca, or use --insecure)"
        }
        Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion) => {
            "TLS: the server speaks no common version or cipher suite"
        }
        Error::AlertReceived(_) => "TLS: the server sent an alert",
        Error::InvalidMessage(_) => "TLS: the answer is not TLS",
        _ => "TLS: the handshake failed",
    }
}
