//! The admin listener: health, readiness, metrics and status of a running server over HTTP, on a separate thread.
//!
//! Requests read the workers' counters; workers do nothing for it.

mod health;
mod metrics;
mod status;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::server::{Condition, Handle};
use crate::sys;

pub(crate) use health::ask;

/// Connections that are served at a time; further ones wait in the kernel's queue. Monitoring has a handful.
const CONNECTIONS_MAX: usize = 32;
/// Time for a client to send a request, and to keep its connection without one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum duration of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Before another accept is tried when one has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address of an admin listener: `ADDRESS:PORT`, `unix:PATH` or `unix:@NAME` (abstract, `unix(7)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// TCP: a name or an address, and a port.
    Tcp(String),
    /// A Unix socket in the file system.
    Path(PathBuf),
    /// A Unix socket in the abstract name space.
    Abstract(String),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let has_port = |text: &str| text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        match text.strip_prefix("unix:") {
            Some("" | "@") => Err("unix: needs a path, or a name behind @".into()),
            Some(name) if name.starts_with('@') => Ok(Self::Abstract(name[1..].into())),
            Some(path) => Ok(Self::Path(path.into())),
            None if has_port(text) => Ok(Self::Tcp(text.into())),
            None => Err("it takes ADDRESS:PORT, unix:PATH or unix:@NAME".into()),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// Why there is no admin listener.
#[derive(Debug, Error)]
#[error("cannot listen for admin requests on {address}: {source}")]
pub struct AdminError {
    address: AdminAddress,
    source: io::Error,
}

/// An admin listener, which answers as long as the process lives.
#[derive(Debug)]
pub struct Admin {
    address: AdminAddress,
    /// A socket in the file system, to be removed at the end.
    path: Option<PathBuf>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Admin {
    /// Listens on `address`, and answers requests about the server that `handle` reaches from now on.
    pub fn start(address: &AdminAddress, handle: Handle) -> Result<Self, AdminError> {
        let fail = |source| AdminError { address: address.clone(), source };
        let (listener, bound) = Listener::bind(address).map_err(fail)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let serve = move || {
            sys::block_signals();
            runtime.block_on(serve(listener, Arc::new(handle)));
        };
        thread::Builder::new().name("admin".into()).spawn(serve).map_err(fail)?;
        let path = if let AdminAddress::Path(path) = &bound { Some(path.clone()) } else { None };
        Ok(Self { address: bound, path })
    }

    /// Its address, with the actual port.
    pub fn address(&self) -> &AdminAddress {
        &self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener {
    fn bind(address: &AdminAddress) -> io::Result<(Self, AdminAddress)> {
        let mut bound = address.clone();
        let listener = match address {
            AdminAddress::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                bound = AdminAddress::Tcp(listener.local_addr()?.to_string());
                Self::Tcp(listener)
            }
            AdminAddress::Path(path) => {
                // The socket file of a killed process refuses connections.
                let is_stale =
                    || UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
                let listener = match UnixListener::bind(path) {
                    Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_stale() => {
                        std::fs::remove_file(path)?;
                        UnixListener::bind(path)?
                    }
                    outcome => outcome?,
                };
                Self::unix(listener)?
            }
            AdminAddress::Abstract(name) => {
                Self::unix(UnixListener::bind_addr(&UnixAddress::from_abstract_name(name)?)?)?
            }
        };
        Ok((listener, bound))
    }

    fn unix(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(listener))
    }
}

async fn serve(listener: Listener, handle: Arc<Handle>) {
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener that does not block");
            serve_all(async || listener.accept().await.map(|(stream, _): (_, SocketAddr)| stream), &handle).await;
        }
        Listener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener).expect("a listener that does not block");
            serve_all(async || listener.accept().await.map(|(stream, _)| stream), &handle).await;
        }
    }
}

/// Serves connections for ever.
async fn serve_all<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    accept: impl AsyncFn() -> io::Result<S>,
    handle: &Arc<Handle>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        let Ok(stream) = accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let handle = Arc::clone(handle);
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(async |request| Ok::<_, Infallible>(answer(&request, &handle)));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT).max_buf_size(16 << 10);
            let connection = http.serve_connection(TokioIo::new(stream), answer);
            // A client that breaks off or takes too long wants no answer.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(place);
        });
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn answer(request: &Request<Incoming>, handle: &Handle) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut answer = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "This is read with GET.\n");
        answer.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/healthz" => respond(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => match handle.condition() {
            Condition::Ready => respond(StatusCode::OK, TEXT, "ready\n"),
            condition => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{}\n", status::name(condition))),
        },
        "/metrics" => respond(StatusCode::OK, metrics::CONTENT_TYPE, metrics::text(handle)),
        "/status.json" => respond(StatusCode::OK, "application/json", status::json(handle)),
        "/" => respond(StatusCode::OK, TEXT, "/healthz\n/readyz\n/metrics\n/status.json\n"),
        _ => respond(StatusCode::NOT_FOUND, TEXT, "There are /healthz, /readyz, /metrics and /status.json.\n"),
    }
}

fn respond(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status).header(CONTENT_TYPE, kind).header(CACHE_CONTROL, "no-store");
    answer.body(Full::new(body.into())).expect("valid headers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_three_kinds() {
        for text in ["127.0.0.1:9002", "[::1]:9002", "localhost:0", "unix:/run/x.sock", "unix:@name"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
        for nonsense in ["", "9002", "localhost", "localhost:port", "unix:", "unix:@"] {
            assert!(nonsense.parse::<AdminAddress>().is_err(), "{nonsense:?}");
        }
    }
}
