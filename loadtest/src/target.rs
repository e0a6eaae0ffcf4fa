//! Where the load goes.

use std::net::{SocketAddr, ToSocketAddrs};

use thiserror::Error;
use tungstenite::http::Uri;

/// What is spoken to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6455.
    WebSocket,
    /// Messages without an upgrade and without frames, one behind the other: what a bare TCP echo costs is the yardstick
    /// for what WebSocket costs.
    Tcp,
}

/// A URL, its name resolved once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is spoken there.
    pub protocol: Protocol,
    /// The address that all connections go to.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
}

/// Why a URL is no target.
#[derive(Debug, Error)]
pub enum TargetError {
    /// Not a URL.
    #[error("`{0}` is not a URL like ws://host:port/path or tcp://host:port")]
    Syntax(String),
    /// Another scheme.
    #[error("`{0}`: only ws:// and tcp:// targets are supported")]
    Scheme(String),
    /// The name has no address.
    #[error("cannot resolve `{name}`: {cause}")]
    Resolve {
        /// The name and port that were looked up.
        name: String,
        /// What the resolver said.
        cause: std::io::Error,
    },
}

impl Target {
    /// Parses `url` and resolves its host.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let uri: Uri = url.parse().map_err(|_| TargetError::Syntax(url.to_owned()))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(TargetError::Syntax(url.to_owned()));
        };
        let protocol = match scheme {
            "ws" => Protocol::WebSocket,
            "tcp" => Protocol::Tcp,
            _ => return Err(TargetError::Scheme(url.to_owned())),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // What `Uri` lets pass: a user, and a port that is no number.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 80,
            Some(_) => authority.port_u16().ok_or_else(|| TargetError::Syntax(url.to_owned()))?,
            None => return Err(TargetError::Syntax(url.to_owned())),
        };
        let name = format!("{}:{port}", authority.host());
        let found = name.to_socket_addrs().map(|mut addresses| addresses.next());
        let cause = match found {
            Ok(Some(address)) => {
                let host = if authority.port().is_some() { name } else { authority.host().to_owned() };
                return Ok(Self { protocol, address, host, path: path.to_owned() });
            }
            Ok(None) => std::io::ErrorKind::NotFound.into(),
            Err(cause) => cause,
        };
        Err(TargetError::Resolve { name, cause })
    }

    /// The root path of a server on this machine.
    #[must_use]
    pub fn local(protocol: Protocol, address: SocketAddr) -> Self {
        Self { protocol, address, host: address.to_string(), path: "/".to_owned() }
    }

    /// The target as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        match self.protocol {
            Protocol::WebSocket => format!("ws://{}{}", self.host, self.path),
            Protocol::Tcp => format!("tcp://{}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_addresses() {
        let target = Target::parse("ws://127.0.0.1:9001/echo?a=b").unwrap();
        assert_eq!(target.address, "127.0.0.1:9001".parse().unwrap());
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:9001", "/echo?a=b"));
        let target = Target::parse("ws://[::1]:80").unwrap();
        assert_eq!(target.address, "[::1]:80".parse().unwrap());
        assert_eq!(target.url(), "ws://[::1]:80/");
        assert_eq!(Target::parse("ws://127.0.0.1").unwrap().address.port(), 80);
        let target = Target::parse("tcp://127.0.0.1:9001").unwrap();
        assert_eq!((target.protocol, target.url().as_str()), (Protocol::Tcp, "tcp://127.0.0.1:9001"));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        assert!(matches!(Target::parse("wss://127.0.0.1/"), Err(TargetError::Scheme(_))));
        assert!(matches!(Target::parse("http://127.0.0.1/"), Err(TargetError::Scheme(_))));
        for url in ["", "127.0.0.1:9001", "ws://", "ws://a:b", "ws://user@a/", "/echo"] {
            assert!(matches!(Target::parse(url), Err(TargetError::Syntax(_))), "{url}");
        }
        assert!(matches!(Target::parse("ws://no-such-host.invalid:1/"), Err(TargetError::Resolve { .. })));
    }
}
