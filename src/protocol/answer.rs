//! The answers to upgrade requests (RFC 6455, sections 4.2.2 and 4.4; RFC 9110, section 15).

use tungstenite::handshake::derive_accept_key;
use tungstenite::http::StatusCode;

/// When clients are to come again that get 429 or 503: not all of them at once and at once. Connections that are held for
/// long leave in minutes, those of a burst in seconds.
const RETRY_AFTER: &str = "Retry-After: 5\r\n";
/// Characters of a path that an answer repeats, at most.
const PATH_SHOWN: usize = 200;

/// An answer that ends the connection: the request is no opening handshake, or none for this server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) bytes: Vec<u8>,
}

/// A whole HTTP answer 400, which ends the connection.
pub fn refuse(why: &str) -> Vec<u8> {
    Answer::bad_request(why).bytes
}

/// A whole HTTP answer 503 of a server that is full.
pub fn full() -> Vec<u8> {
    let headers = format!("Connection: close\r\n{RETRY_AFTER}Content-Type: text/plain; charset=utf-8\r\n");
    Answer::new(503, &headers, "All of its connections are taken.").bytes
}

/// 101: what follows on this connection is WebSocket.
pub(super) fn accept(key: &[u8], subprotocol: Option<&str>, extensions: Option<&str>) -> Vec<u8> {
    let accept = derive_accept_key(key);
    let mut answer = String::with_capacity(192);
    answer.push_str("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    for (name, value) in [
        ("Sec-WebSocket-Accept", Some(&*accept)),
        ("Sec-WebSocket-Protocol", subprotocol),
        ("Sec-WebSocket-Extensions", extensions),
    ] {
        if let Some(value) = value {
            answer.extend([name, ": ", value, "\r\n"]);
        }
    }
    answer.push_str("\r\n");
    answer.into_bytes()
}

impl Answer {
    /// 200, for load balancers and probes.
    pub(super) fn healthy() -> Self {
        Self::text(200, "Cache-Control: no-store\r\n", "ok")
    }

    /// A status that a client has asked for.
    pub(super) fn asked_for(status: u16) -> Self {
        let headers = if matches!(status, 429 | 503) { RETRY_AFTER } else { "" };
        match status {
            426 => Self::upgrade_required("This status was asked for."),
            204 | 304 => Self::new(status, "Connection: close\r\n", ""),
            _ => Self::text(status, headers, "This status was asked for."),
        }
    }

    /// The methods that there are.
    pub(super) fn options() -> Self {
        Self::new(204, "Connection: close\r\nAllow: GET, HEAD, OPTIONS\r\n", "")
    }

    pub(super) fn bad_request(why: &str) -> Self {
        Self::text(400, "", why)
    }

    /// `served`: the only path that is.
    pub(super) fn not_found(path: &str, served: &str) -> Self {
        let end = path.char_indices().nth(PATH_SHOWN).map_or(path.len(), |(at, _)| at);
        let (shown, dots) = (&path[..end], if end < path.len() { "..." } else { "" });
        Self::text(404, "", &format!("There is no WebSocket at {shown}{dots}: this server's is at {served}"))
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::text(405, "Allow: GET, HEAD, OPTIONS\r\n", "A WebSocket is opened with GET.")
    }

    pub(super) fn upgrade_required(why: &str) -> Self {
        // A sender of Upgrade must name it in Connection, too (RFC 9110, section 7.8).
        let headers = "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
        Self::new(426, &[headers, PLAIN].concat(), &[why, "\n"].concat())
    }

    pub(super) fn too_large(why: &str) -> Self {
        Self::text(431, "", why)
    }

    pub(super) fn version_not_supported() -> Self {
        Self::text(505, "", "A WebSocket is opened with HTTP/1.1.")
    }

    fn text(status: u16, headers: &str, text: &str) -> Self {
        Self::new(status, &["Connection: close\r\n", headers, PLAIN].concat(), &[text, "\n"].concat())
    }

    /// An answer with these header lines, and `Content-Length` if this status has a body.
    pub(super) fn new(status: u16, headers: &str, body: &str) -> Self {
        let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let reason = reason.unwrap_or_default();
        let head = format!("HTTP/1.1 {status} {reason}\r\n{headers}");
        let answer = match status {
            204 | 304 => [&head, "\r\n"].concat(),
            _ => format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        };
        Answer { status, bytes: answer.into_bytes() }
    }

    /// The answer to HEAD (RFC 9110, section 9.3.2).
    pub(super) fn without_body(mut self) -> Self {
        let end =
            self.bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head ends with an empty line");
        self.bytes.truncate(end + 4);
        self
    }
}

/// Text that repeats what the client has sent is not to be taken for anything else.
const PLAIN: &str = "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n";

#[cfg(test)]
mod tests {
    #[test]
    fn the_answer_of_a_full_server_is_as_long_as_it_says() {
        let answer = String::from_utf8(super::full()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
        assert!(
            head.starts_with("HTTP/1.1 503 Service Unavailable\r\n") && head.contains("\r\nRetry-After: 5\r\n"),
            "{head}"
        );
        assert_eq!(body, "All of its connections are taken.");
    }
}
