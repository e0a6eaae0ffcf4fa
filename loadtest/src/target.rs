//! Where the load goes.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use socket2::SockAddr;
use thiserror::Error;
use tungstenite::http::Uri;

/// What is spoken to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6455.
    WebSocket,
    /// The same through TLS.
    Tls,
    /// Messages without an upgrade and without frames, one behind the other: what a bare TCP echo costs is the yardstick
    /// for what WebSocket costs.
    Tcp,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Inet(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// A URL, its name resolved once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is spoken there.
    pub protocol: Protocol,
    /// The address that connections go to.
    pub address: Address,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
}

/// Why a URL is no target.
#[derive(Debug, Error)]
pub enum TargetError {
    /// Not a URL.
    #[error("`{0}` is not a URL like ws://host:port/path, wss://host/path, ws+unix:/socket:/path or tcp://host:port")]
    Syntax(String),
    /// Another scheme.
    #[error("`{0}`: only ws://, wss://, ws+unix: and tcp:// targets are supported")]
    Scheme(String),
    /// Several targets that do not go together.
    #[error("`{0}` and `{1}` speak different protocols: all targets of a run must speak the same")]
    Mixed(String, String),
    /// A path that the kernel does not take.
    #[error("`{0}` is no path for a socket: {1}")]
    Unix(String, std::io::Error),
    /// The name has no address.
    #[error("cannot resolve `{name}`: {cause}")]
    Resolve {
        /// The name and port that were looked up.
        name: String,
        /// What the resolver said.
        cause: std::io::Error,
    },
}

/// What a URL for a socket in the file system begins with.
const UNIX: &str = "ws+unix:";

impl Target {
    /// Parses `url` and resolves its host.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        if let Some(rest) = url.strip_prefix(UNIX) {
            return Self::parse_unix(url, rest);
        }
        let uri: Uri = url.parse().map_err(|_| TargetError::Syntax(url.to_owned()))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(TargetError::Syntax(url.to_owned()));
        };
        let (protocol, default_port) = match scheme {
            "ws" => (Protocol::WebSocket, 80),
            "wss" => (Protocol::Tls, 443),
            "tcp" => (Protocol::Tcp, 80),
            _ => return Err(TargetError::Scheme(url.to_owned())),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // What `Uri` lets pass: a user, and a port that is no number.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => default_port,
            Some(_) => authority.port_u16().ok_or_else(|| TargetError::Syntax(url.to_owned()))?,
            None => return Err(TargetError::Syntax(url.to_owned())),
        };
        let name = format!("{}:{port}", authority.host());
        let found = name.to_socket_addrs().map(|mut addresses| addresses.next());
        let cause = match found {
            Ok(Some(address)) => {
                let host = if authority.port().is_some() { name } else { authority.host().to_owned() };
                return Ok(Self { protocol, address: Address::Inet(address), host, path: path.to_owned() });
            }
            Ok(None) => std::io::ErrorKind::NotFound.into(),
            Err(cause) => cause,
        };
        Err(TargetError::Resolve { name, cause })
    }

    /// `ws+unix:` has no authority: the socket's path comes first, then a colon and the request's path.
    fn parse_unix(url: &str, rest: &str) -> Result<Self, TargetError> {
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (socket, path) = rest.split_once(':').unwrap_or((rest, "/"));
        if !socket.starts_with('/') || !path.starts_with('/') {
            return Err(TargetError::Syntax(url.to_owned()));
        }
        SockAddr::unix(socket).map_err(|error| TargetError::Unix(socket.to_owned(), error))?;
        let address = Address::Unix(PathBuf::from(socket));
        Ok(Self { protocol: Protocol::WebSocket, address, host: "localhost".to_owned(), path: path.to_owned() })
    }

    /// Parses all `urls`, which must go together.
    pub fn parse_all(urls: &[String]) -> Result<Vec<Self>, TargetError> {
        let targets = urls.iter().map(|url| Self::parse(url)).collect::<Result<Vec<_>, _>>()?;
        match targets.iter().find(|target| target.protocol != targets[0].protocol) {
            Some(other) => Err(TargetError::Mixed(targets[0].url(), other.url())),
            None => Ok(targets),
        }
    }

    /// The root path of a server on this machine.
    #[must_use]
    pub fn local(protocol: Protocol, address: SocketAddr) -> Self {
        let host = address.to_string();
        Self { protocol, address: Address::Inet(address), host, path: "/".to_owned() }
    }

    /// The target as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        match (self.protocol, &self.address) {
            (_, Address::Unix(socket)) => format!("{UNIX}{}:{}", socket.display(), self.path),
            (Protocol::WebSocket, _) => format!("ws://{}{}", self.host, self.path),
            (Protocol::Tls, _) => format!("wss://{}{}", self.host, self.path),
            (Protocol::Tcp, _) => format!("tcp://{}", self.host),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    /// In the kernel's form.
    ///
    /// # Panics
    /// If a path does not fit, which [`Target::parse`] has refused.
    #[must_use]
    pub fn to_kernel(&self) -> SockAddr {
        match self {
            Self::Inet(address) => (*address).into(),
            Self::Unix(path) => SockAddr::unix(path).expect("the path's length was checked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_addresses() {
        let target = Target::parse("ws://127.0.0.1:9001/echo?a=b").unwrap();
        let inet = |text: &str| Address::Inet(text.parse().unwrap());
        assert_eq!(target.address, inet("127.0.0.1:9001"));
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:9001", "/echo?a=b"));
        let target = Target::parse("ws://[::1]:80").unwrap();
        assert_eq!(target.address, inet("[::1]:80"));
        assert_eq!(target.url(), "ws://[::1]:80/");
        assert_eq!(Target::parse("ws://127.0.0.1").unwrap().address, inet("127.0.0.1:80"));
        let target = Target::parse("wss://127.0.0.1").unwrap();
        assert_eq!((target.protocol, target.address), (Protocol::Tls, inet("127.0.0.1:443")));
        let target = Target::parse("tcp://127.0.0.1:9001").unwrap();
        assert_eq!((target.protocol, target.url().as_str()), (Protocol::Tcp, "tcp://127.0.0.1:9001"));
    }

    #[test]
    fn sockets_in_the_file_system() {
        for url in ["ws+unix:/run/echo", "ws+unix:///run/echo", "ws+unix:/run/echo:/"] {
            let target = Target::parse(url).unwrap();
            assert_eq!((&target.address, target.path.as_str()), (&Address::Unix("/run/echo".into()), "/"), "{url}");
            assert_eq!(target.url(), "ws+unix:/run/echo:/");
        }
        assert_eq!(Target::parse("ws+unix:/run/echo:/a?b").unwrap().path, "/a?b");
        let long = format!("ws+unix:/{}", "x".repeat(200));
        assert!(matches!(Target::parse(&long), Err(TargetError::Unix(..))));
    }

    #[test]
    fn several_targets_speak_the_same() {
        let all = |urls: &[&str]| Target::parse_all(&urls.iter().map(|&url| url.to_owned()).collect::<Vec<_>>());
        assert_eq!(all(&["ws://127.0.0.1:1", "ws+unix:/x", "ws://[::1]:1"]).unwrap().len(), 3);
        assert!(matches!(all(&["ws://127.0.0.1:1", "tcp://127.0.0.1:1"]), Err(TargetError::Mixed(..))));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        assert!(matches!(Target::parse("http://127.0.0.1/"), Err(TargetError::Scheme(_))));
        for url in ["", "127.0.0.1:9001", "ws://", "ws://a:b", "ws://user@a/", "/echo", "ws+unix:x", "ws+unix:/x:y"] {
            assert!(matches!(Target::parse(url), Err(TargetError::Syntax(_))), "{url}");
        }
        assert!(matches!(Target::parse("ws://no-such-host.invalid:1/"), Err(TargetError::Resolve { .. })));
    }
}
