//! Targets of the load.

pub mod routes;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use data_encoding::BASE64;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use socket2::SockAddr;
use thiserror::Error;
use url::Url;

use crate::websocket::handshake::template::{Piece, Template, TemplateError};
use routes::Routes;

/// The protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6455.
    WebSocket,
    /// WebSocket over TLS.
    Tls,
    /// Messages without an upgrade and without frames, one behind the other: what a bare TCP echo costs is the yardstick
    /// for what WebSocket costs.
    Tcp,
}

/// The address of a server.
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
    /// The protocol.
    pub protocol: Protocol,
    /// The addresses that connections go to, taking turns: one at least.
    pub addresses: Vec<Address>,
    /// The `Host` header: without the protocol's default port (RFC 6455 section 4.1).
    pub host: String,
    /// The host alone, as a certificate names it.
    pub name: String,
    /// Path and query.
    pub path: Template,
    /// User and password, as `user:password` in base64 (RFC 7617).
    pub credentials: Option<String>,
}

/// Why a URL is no target.
#[derive(Debug, Error)]
pub enum TargetError {
    /// Not a URL.
    #[error(
        "`{0}` is not a URL like ws://host:port/path, wss://host/path, ws+unix:/socket:/path or tcp://host:port: {1}"
    )]
    Syntax(String, String),
    /// Another scheme.
    #[error("`{0}`: only ws://, wss://, ws+unix: and tcp:// targets are supported{1}")]
    Scheme(String, &'static str),
    /// A placeholder that there is not.
    #[error("`{0}`: {1}")]
    Placeholder(String, TemplateError),
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
        /// The resolver's error.
        cause: std::io::Error,
    },
}

impl TargetError {
    /// Whether the arguments are to blame.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::Resolve { .. })
    }
}

/// The prefix of a URL for a Unix socket.
const UNIX: &str = "ws+unix:";

/// Stands for a placeholder while a URL is parsed: nothing in it is changed by that.
const MARK: &str = "RINGLOAD-PLACEHOLDER-";

/// Characters that a request line cannot hold (RFC 3986 appendix A) and the URL parser lets pass.
const NOT_IN_REQUESTS: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

impl Target {
    /// Parses `url` and resolves its host.
    pub fn parse(url: &str, routes: &Routes) -> Result<Self, TargetError> {
        let syntax = |why: &str| TargetError::Syntax(url.to_owned(), why.to_owned());
        let template = Template::parse(url).map_err(|error| TargetError::Placeholder(url.to_owned(), error))?;
        let (marked, placeholders) = mark(&template);
        let (scheme, rest) = marked.split_once(':').ok_or_else(|| syntax("there is no scheme"))?;
        let protocol = match scheme.to_ascii_lowercase().as_str() {
            "ws" => Protocol::WebSocket,
            "wss" => Protocol::Tls,
            "tcp" => Protocol::Tcp,
            "ws+unix" => return Self::parse_unix(url, rest, &placeholders),
            "http" => return Err(TargetError::Scheme(url.to_owned(), "; a WebSocket's is ws://")),
            "https" => return Err(TargetError::Scheme(url.to_owned(), "; a WebSocket's through TLS is wss://")),
            _ if rest.starts_with("//") => return Err(TargetError::Scheme(url.to_owned(), "")),
            _ => return Err(syntax("there is no scheme")),
        };
        let authority = rest.strip_prefix("//").ok_or_else(|| syntax("behind the scheme there is no //"))?;
        if authority.is_empty() || authority.starts_with(['/', '?', '\\']) {
            return Err(syntax("there is no host"));
        }
        check_text(&marked).map_err(syntax)?;
        // Bare TCP has the form of the others, and no path.
        let form = if protocol == Protocol::Tls { "wss" } else { "ws" };
        let parsed = Url::parse(&format!("{form}:{rest}")).map_err(|error| syntax(explain(error)))?;
        let host_text = parsed.host_str().unwrap_or_default();
        let user = [parsed.username(), parsed.password().unwrap_or_default()];
        if host_text.contains(&MARK.to_ascii_lowercase()) || user.iter().any(|it| it.contains(MARK)) {
            return Err(syntax("placeholders stand in path, query and -H only"));
        }
        let port = parsed.port_or_known_default().filter(|&port| port > 0);
        let port = port.ok_or_else(|| syntax("0 is no port to connect to"))?;
        let name = host_text.trim_start_matches('[').trim_end_matches(']').to_owned();
        let host = parsed.port().map_or_else(|| host_text.to_owned(), |port| format!("{host_text}:{port}"));
        let path = request_target(&parsed);
        Ok(Self {
            protocol,
            addresses: resolve(&name, port, routes)?,
            host,
            name,
            path: unmark(&path, &placeholders),
            credentials: credentials(&parsed),
        })
    }

    /// `ws+unix:` has no authority: the socket's path comes first, then a colon and the request's path.
    fn parse_unix(url: &str, rest: &str, placeholders: &[Piece]) -> Result<Self, TargetError> {
        let syntax = |why: &str| TargetError::Syntax(url.to_owned(), why.to_owned());
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (socket, path) = rest.split_once(':').unwrap_or((rest, "/"));
        if !socket.starts_with('/') || !(path.starts_with('/') || path.starts_with('?')) {
            return Err(syntax("both paths begin with a /"));
        }
        if socket.contains(MARK) {
            return Err(syntax("placeholders stand in the request's path, its query and -H only"));
        }
        check_text(path).map_err(syntax)?;
        SockAddr::unix(socket).map_err(|error| TargetError::Unix(socket.to_owned(), error))?;
        let parsed = Url::parse(&format!("ws://localhost{path}")).map_err(|error| syntax(explain(error)))?;
        Ok(Self {
            protocol: Protocol::WebSocket,
            addresses: vec![Address::Unix(PathBuf::from(socket))],
            host: "localhost".to_owned(),
            name: "localhost".to_owned(),
            path: unmark(&request_target(&parsed), placeholders),
            credentials: None,
        })
    }

    /// Parses all `urls`, which must go together.
    pub fn parse_all(urls: &[String], routes: &Routes) -> Result<Vec<Self>, TargetError> {
        let targets = urls.iter().map(|url| Self::parse(url, routes)).collect::<Result<Vec<_>, _>>()?;
        match targets.iter().find(|target| target.protocol != targets[0].protocol) {
            Some(other) => Err(TargetError::Mixed(targets[0].url(), other.url())),
            None => Ok(targets),
        }
    }

    /// The root path of a server on this machine.
    #[must_use]
    pub fn local(protocol: Protocol, address: SocketAddr) -> Self {
        Self {
            protocol,
            addresses: vec![Address::Inet(address)],
            host: address.to_string(),
            name: address.ip().to_string(),
            path: Template::literal("/"),
            credentials: None,
        }
    }

    /// The target as a URL, without user and password.
    #[must_use]
    pub fn url(&self) -> String {
        match (self.protocol, self.addresses.first()) {
            (_, Some(Address::Unix(socket))) => format!("{UNIX}{}:{}", socket.display(), self.path),
            (Protocol::WebSocket, _) => format!("ws://{}{}", self.host, self.path),
            (Protocol::Tls, _) => format!("wss://{}{}", self.host, self.path),
            (Protocol::Tcp, _) => format!("tcp://{}", self.host),
        }
    }
}

/// The template as one text with a mark for each placeholder, and the placeholders.
fn mark(template: &Template) -> (String, Vec<Piece>) {
    let mut placeholders = Vec::new();
    let mut text = String::new();
    for piece in &template.0 {
        if let Piece::Literal(literal) = piece {
            text.push_str(literal);
        } else {
            text = format!("{text}{MARK}{}-", placeholders.len());
            placeholders.push(piece.clone());
        }
    }
    (text, placeholders)
}

/// The template behind a text with marks.
fn unmark(text: &str, placeholders: &[Piece]) -> Template {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((literal, behind)) = rest.split_once(MARK) {
        let Some((index, behind)) = behind.split_once('-') else { break };
        let Some(piece) = index.parse::<usize>().ok().and_then(|index| placeholders.get(index)) else { break };
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.to_owned()));
        }
        pieces.push(piece.clone());
        rest = behind;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest.to_owned()));
    }
    Template(pieces)
}

/// Rejects what the URL parser would drop or change silently.
fn check_text(text: &str) -> Result<(), &'static str> {
    if text.contains('#') {
        return Err("a WebSocket's URL has no fragment (RFC 6455 section 3); a # in path or query is %23");
    }
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("there is a control character in it");
    }
    if text.contains('\\') { Err("there is a backslash in it") } else { Ok(()) }
}

/// The error in the words of this program.
fn explain(error: url::ParseError) -> &'static str {
    match error {
        url::ParseError::InvalidPort => "the port is not a number from 1 to 65535",
        url::ParseError::EmptyHost => "there is no host",
        url::ParseError::IdnaError => "the host is no valid name",
        url::ParseError::InvalidIpv4Address => "the host is no valid IPv4 address",
        url::ParseError::InvalidIpv6Address => "the host is no valid IPv6 address",
        url::ParseError::InvalidDomainCharacter => "there is a character in the host that no name has",
        _ => "it cannot be parsed",
    }
}

/// Path and query as the request line has them (RFC 6455 section 4.1: `/` where there is no path).
fn request_target(url: &Url) -> String {
    let query = url.query().map_or(String::new(), |query| format!("?{query}"));
    utf8_percent_encode(&format!("{}{query}", url.path()), NOT_IN_REQUESTS).to_string()
}

/// `user:password` in base64.
fn credentials(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut bytes: Vec<u8> = percent_decode_str(url.username()).collect();
    bytes.push(b':');
    bytes.extend(percent_decode_str(url.password().unwrap_or_default()));
    Some(BASE64.encode(&bytes))
}

/// The addresses of a host: those that were given, or all that the resolver knows.
fn resolve(host: &str, port: u16, routes: &Routes) -> Result<Vec<Address>, TargetError> {
    let (host, port) = routes.destination(host, port);
    if let Some(given) = routes.addresses(&host, port) {
        return Ok(given.iter().map(|&ip| Address::Inet(SocketAddr::new(ip, port))).collect());
    }
    let failed = |cause| TargetError::Resolve { name: format!("{host}:{port}"), cause };
    let mut addresses = Vec::new();
    for address in (host.as_str(), port).to_socket_addrs().map_err(failed)?.map(Address::Inet) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(failed(std::io::ErrorKind::NotFound.into())) } else { Ok(addresses) }
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

    fn parse(url: &str) -> Result<Target, TargetError> {
        Target::parse(url, &Routes::default())
    }

    fn inet(text: &str) -> Vec<Address> {
        vec![Address::Inet(text.parse().unwrap())]
    }

    #[test]
    fn urls_become_addresses() {
        let target = parse("ws://127.0.0.1:9001/echo?a=b").unwrap();
        assert_eq!(target.addresses, inet("127.0.0.1:9001"));
        assert_eq!((target.host.as_str(), target.path.to_string().as_str()), ("127.0.0.1:9001", "/echo?a=b"));
        assert_eq!(parse("ws://127.0.0.1").unwrap().addresses, inet("127.0.0.1:80"));
        let target = parse("wss://127.0.0.1").unwrap();
        assert_eq!((target.protocol, target.addresses), (Protocol::Tls, inet("127.0.0.1:443")));
        let target = parse("tcp://127.0.0.1:9001").unwrap();
        assert_eq!((target.protocol, target.url().as_str()), (Protocol::Tcp, "tcp://127.0.0.1:9001"));
    }

    #[test]
    fn a_default_port_is_not_in_the_host() {
        for (url, host) in [
            ("ws://[::1]:80", "[::1]"),
            ("ws://127.0.0.1:80/", "127.0.0.1"),
            ("WSS://127.0.0.1:443", "127.0.0.1"),
            ("wss://127.0.0.1:80", "127.0.0.1:80"),
            ("ws://127.0.0.1:443", "127.0.0.1:443"),
        ] {
            assert_eq!(parse(url).unwrap().host, host, "{url}");
        }
        assert_eq!(parse("ws://[::1]:80").unwrap().name, "::1");
    }

    #[test]
    fn the_request_target_is_one_whatever_the_url_is() {
        for (url, path) in [
            ("ws://127.0.0.1:1?q=1", "/?q=1"),
            ("WS://127.0.0.1:1/A", "/A"),
            ("ws://127.0.0.1:1/ü ?ö={{x}|", "/%C3%BC%20?%C3%B6=%7Bx%7D%7C"),
            ("ws://127.0.0.1:1/%7e?%zz", "/%7e?%zz"),
            ("ws+unix:/x:?q", "/?q"),
        ] {
            assert_eq!(parse(url).unwrap().path.to_string(), path, "{url}");
        }
    }

    #[test]
    fn international_names_are_looked_up_in_ascii() {
        let routes =
            Routes { resolve: vec!["xn--bcher-kva.example:80:127.0.0.7".parse().unwrap()], ..Routes::default() };
        let target = Target::parse("ws://BÜCHER.example/", &routes).unwrap();
        assert_eq!((target.host.as_str(), target.addresses), ("xn--bcher-kva.example", inet("127.0.0.7:80")));
    }

    #[test]
    fn names_go_where_they_are_routed() {
        let routes = Routes {
            connect_to: vec!["chat.example:443:other.example:8443".parse().unwrap()],
            resolve: vec!["other.example:8443:127.0.0.2,::1".parse().unwrap()],
        };
        let target = Target::parse("wss://chat.example/", &routes).unwrap();
        assert_eq!(target.addresses, [inet("127.0.0.2:8443"), inet("[::1]:8443")].concat());
        assert_eq!((target.host.as_str(), target.name.as_str()), ("chat.example", "chat.example"));
    }

    #[test]
    fn user_and_password_become_credentials_and_are_not_shown() {
        let target = parse("ws://user:p%40ss@127.0.0.1:1/").unwrap();
        assert_eq!(target.credentials, Some(BASE64.encode(b"user:p@ss")));
        assert_eq!(target.url(), "ws://127.0.0.1:1/");
        assert_eq!(parse("ws://token@127.0.0.1:1/").unwrap().credentials, Some(BASE64.encode(b"token:")));
        assert_eq!(parse("ws://127.0.0.1:1/").unwrap().credentials, None);
    }

    #[test]
    fn placeholders_stay_what_they_are() {
        let target = parse("ws://127.0.0.1:1/room/{n}?t={line:/a/b#c?.txt}&x").unwrap();
        assert_eq!(target.path.to_string(), "/room/{n}?t={line:/a/b#c?.txt}&x");
        assert_eq!(target.path.0.len(), 5);
        assert!(matches!(parse("ws://127.0.0.1/{id}"), Err(TargetError::Placeholder(..))));
        for url in ["ws://{n}/", "ws://{n}@127.0.0.1/", "ws://127.0.0.1:{n}/", "ws+unix:/x{n}:/"] {
            assert!(matches!(parse(url), Err(TargetError::Syntax(..))), "{url}");
        }
    }

    /// Paths and queries at random: what goes into the request line is one word, and stays the same when it is parsed again.
    #[test]
    fn any_path_becomes_one_that_can_be_asked_for() {
        let mut random = crate::message::SplitMix(5);
        let parts = [
            "/", "?", "a", "%", "%2f", " ", "{n}", "{{", "}", "ü", "|", "^", "..", ".", "&=", "'", "\"", "<", "\u{7f}",
        ];
        for _ in 0..2000 {
            let text: String =
                (0..random.next() % 9).map(|_| parts[(random.next() % parts.len() as u64) as usize]).collect();
            let Ok(target) = parse(&format!("ws://127.0.0.1:1/{text}")) else { continue };
            let shown = target.path.to_string();
            let bare = shown.replace("{n}", "7");
            assert!(bare.starts_with('/') && bare.bytes().all(|byte| byte.is_ascii_graphic()), "{text}: {shown}");
            assert!(!bare.contains(['{', '}', '"', '<', '|', '^']), "{text}: {shown}");
            assert_eq!(parse(&target.url()).unwrap().path, target.path, "{text}");
        }
    }

    #[test]
    fn sockets_in_the_file_system() {
        for url in ["ws+unix:/run/echo", "ws+unix:///run/echo", "WS+UNIX:/run/echo:/"] {
            let target = parse(url).unwrap();
            assert_eq!(target.addresses, [Address::Unix("/run/echo".into())], "{url}");
            assert_eq!(target.url(), "ws+unix:/run/echo:/");
        }
        assert_eq!(parse("ws+unix:/run/echo:/a?b").unwrap().path.to_string(), "/a?b");
        let long = format!("ws+unix:/{}", "x".repeat(200));
        assert!(matches!(parse(&long), Err(TargetError::Unix(..))));
    }

    #[test]
    fn several_targets_speak_the_same() {
        let all = |urls: &[&str]| {
            Target::parse_all(&urls.iter().map(|&url| url.to_owned()).collect::<Vec<_>>(), &Routes::default())
        };
        assert_eq!(all(&["ws://127.0.0.1:1", "ws+unix:/x", "ws://[::1]:1"]).unwrap().len(), 3);
        assert!(matches!(all(&["ws://127.0.0.1:1", "tcp://127.0.0.1:1"]), Err(TargetError::Mixed(..))));
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_reason() {
        let http = parse("http://127.0.0.1/").unwrap_err();
        assert!(matches!(http, TargetError::Scheme(..)) && http.to_string().ends_with("ws://"));
        assert!(matches!(parse("ftp://127.0.0.1/"), Err(TargetError::Scheme(..))));
        for (url, why) in [
            ("", "no scheme"),
            ("127.0.0.1:9001", "no scheme"),
            ("localhost:9001", "no scheme"),
            ("/echo", "no scheme"),
            ("ws:127.0.0.1", "no //"),
            ("ws://", "no host"),
            ("ws:///a", "no host"),
            ("ws://:80/", "no host"),
            ("ws://a:b", "port"),
            ("ws://a:70000", "port"),
            ("ws://127.0.0.1:0", "port"),
            ("ws://[::1", "IPv6"),
            ("ws://300.1.1.1/", "IPv4"),
            ("ws://a b/", "no valid name"),
            ("ws://127.0.0.1/#x", "fragment"),
            ("ws://127.0.0.1/\n", "control character"),
            ("ws://127.0.0.1\\x", "backslash"),
            ("ws+unix:x", "begin with a /"),
            ("ws+unix:/x:y", "begin with a /"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(matches!(error, TargetError::Syntax(..)) && error.is_usage(), "{url}: {error}");
            assert!(error.to_string().contains(why), "{url}: {error}");
        }
        assert!(matches!(parse("ws://no-such-host.invalid:1/"), Err(TargetError::Resolve { .. })));
    }
}
