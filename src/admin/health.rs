//! A client of the admin listener: health checks in images without a shell.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use thiserror::Error;

use super::AdminAddress;

/// For each step. Probes are given some seconds, too.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of an answer that are read.
const ANSWER_MAX: u64 = 64 << 10;

/// Why the answer is no good one.
#[derive(Debug, Error)]
pub(crate) enum HealthError {
    #[error("{address} does not answer: {source}")]
    Silent { address: AdminAddress, source: io::Error },
    #[error("{address} does not speak HTTP: {line:?}")]
    NoHttp { address: AdminAddress, line: String },
    #[error("{address} answers {status}: {body}")]
    Status { address: AdminAddress, status: u16, body: String },
}

/// Asks for `path`. Returns the answer's first line, if its status is 200.
pub(crate) fn ask(address: &AdminAddress, path: &str) -> Result<String, HealthError> {
    let answer = fetch(address, path).map_err(|source| HealthError::Silent { address: address.clone(), source })?;
    let status = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).lines().next().unwrap_or_default().to_owned();
    match status {
        Some(200) => Ok(body),
        Some(status) => Err(HealthError::Status { address: address.clone(), status, body }),
        None => {
            let line = answer.lines().next().unwrap_or_default().to_owned();
            Err(HealthError::NoHttp { address: address.clone(), line })
        }
    }
}

fn fetch(address: &AdminAddress, path: &str) -> io::Result<String> {
    match address {
        AdminAddress::Tcp(address) => {
            let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
            for address in address.to_socket_addrs()? {
                outcome = TcpStream::connect_timeout(&address, TIMEOUT);
                if outcome.is_ok() {
                    break;
                }
            }
            let stream = outcome?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            exchange(stream, path)
        }
        AdminAddress::Path(name) => over_unix(UnixStream::connect(name)?, path),
        AdminAddress::Abstract(name) => {
            over_unix(UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?, path)
        }
    }
}

fn over_unix(stream: UnixStream, path: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    exchange(stream, path)
}

fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: ringecho\r\nConnection: close\r\n\r\n")?;
    let mut stream = BufReader::new(stream.take(ANSWER_MAX));
    if stream.fill_buf()?.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
