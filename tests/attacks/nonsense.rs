//! Invalid HTTP requests, and the required answer to each.

use super::UPGRADE;

/// A request that is none.
pub(crate) struct Nonsense {
    pub(crate) name: &'static str,
    pub(crate) request: fn() -> Vec<u8>,
    /// The status of the answer.
    pub(crate) status: u16,
}

/// What is sent to ports that speak HTTP.
pub(crate) const NONSENSE: &[Nonsense] = &[
    Nonsense { name: "a TLS ClientHello", request: tls_hello, status: 400 },
    Nonsense { name: "a header of 1 MB", request: || with_header("X", &"x".repeat(1 << 20)), status: 431 },
    Nonsense { name: "a thousand headers", request: thousand_headers, status: 431 },
    Nonsense {
        name: "a path of 1 MB",
        request: || replaced("GET / ", &format!("GET /{} ", "p".repeat(1 << 20))),
        status: 431,
    },
    Nonsense { name: "NUL in a value", request: || with_header("X", "a\0b"), status: 400 },
    Nonsense { name: "NUL in a name", request: || with_header("X\0Y", "a"), status: 400 },
    Nonsense { name: "nothing but NUL", request: || vec![0; 1000], status: 400 },
    Nonsense { name: "lone LF", request: || replaced("\r\n", "\n"), status: 400 },
    Nonsense { name: "one lone LF", request: || replaced("localhost\r\n", "localhost\n"), status: 400 },
    Nonsense { name: "lone CR", request: || replaced("localhost\r\n", "localhost\r"), status: 400 },
    Nonsense { name: "a folded header", request: || with_header("X", "a\r\n b"), status: 400 },
    Nonsense { name: "a body by its length", request: || with_header("Content-Length", "5"), status: 400 },
    Nonsense { name: "a body in chunks", request: || with_header("Transfer-Encoding", "chunked"), status: 400 },
    Nonsense { name: "a second request behind a refused one", request: refused_and_second, status: 405 },
    Nonsense { name: "the preface of HTTP/2", request: || b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), status: 505 },
    Nonsense { name: "a smuggled second request", request: smuggled, status: 101 },
];

/// The start of what a browser sends to a port that it takes for an https one.
fn tls_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend((0..507).map(|number| (number * 37) as u8));
    hello
}

fn text() -> String {
    String::from_utf8(UPGRADE.to_vec()).expect("a request is ASCII")
}

fn replaced(what: &str, by: &str) -> Vec<u8> {
    text().replace(what, by).into_bytes()
}

fn with_header(name: &str, value: &str) -> Vec<u8> {
    replaced("Host: localhost\r\n", &format!("Host: localhost\r\n{name}: {value}\r\n"))
}

fn thousand_headers() -> Vec<u8> {
    replaced("Host: localhost\r\n", &format!("Host: localhost\r\n{}", "X: 1\r\n".repeat(1000)))
}

/// Whatever a proxy takes it for: behind an upgrade there are frames, and this is none (Close 1002).
fn smuggled() -> Vec<u8> {
    [UPGRADE, b"GET /admin HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat()
}

/// A refusal ends the connection: nothing behind it is looked at.
fn refused_and_second() -> Vec<u8> {
    [b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", UPGRADE].concat()
}
