//! The answers to an upgrade request (RFC 6455, sections 4.2.2 and 4.4; RFC 9110, section 15).

use tungstenite::handshake::derive_accept_key;

/// Why a request is not an opening handshake, or not one for this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: Status,
    /// The text that the client is shown.
    why: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    BadRequest = 400,
    NotFound = 404,
    MethodNotAllowed = 405,
    UpgradeRequired = 426,
    HeaderFieldsTooLarge = 431,
    VersionNotSupported = 505,
}

/// A whole HTTP answer 400, which ends the connection.
pub fn refuse(why: &str) -> Vec<u8> {
    Refusal::bad_request("").answer_with(why)
}

/// 101: what follows on this connection is WebSocket.
pub(super) fn accept(key: &[u8], subprotocol: Option<&str>) -> Vec<u8> {
    let accept = derive_accept_key(key);
    let mut answer = String::with_capacity(192);
    answer.push_str("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    for (name, value) in [("Sec-WebSocket-Accept", Some(&*accept)), ("Sec-WebSocket-Protocol", subprotocol)] {
        if let Some(value) = value {
            answer.extend([name, ": ", value, "\r\n"]);
        }
    }
    answer.push_str("\r\n");
    answer.into_bytes()
}

impl Refusal {
    pub(super) const fn bad_request(why: &'static str) -> Self {
        Refusal { status: Status::BadRequest, why }
    }

    pub(super) const fn not_found() -> Self {
        Refusal { status: Status::NotFound, why: "There is no WebSocket at this path." }
    }

    pub(super) const fn method_not_allowed() -> Self {
        Refusal { status: Status::MethodNotAllowed, why: "A WebSocket is opened with GET." }
    }

    pub(super) const fn upgrade_required(why: &'static str) -> Self {
        Refusal { status: Status::UpgradeRequired, why }
    }

    pub(super) const fn too_large(why: &'static str) -> Self {
        Refusal { status: Status::HeaderFieldsTooLarge, why }
    }

    pub(super) const fn version_not_supported() -> Self {
        Refusal { status: Status::VersionNotSupported, why: "A WebSocket is opened with HTTP/1.1." }
    }

    /// The HTTP status code.
    pub(super) const fn status(self) -> u16 {
        self.status as u16
    }

    /// The whole HTTP answer, which ends the connection.
    pub(super) fn answer(self) -> Vec<u8> {
        self.answer_with(self.why)
    }

    fn answer_with(self, body: &str) -> Vec<u8> {
        let (status, headers) = match self.status {
            Status::BadRequest => ("400 Bad Request", "Connection: close\r\n"),
            Status::NotFound => ("404 Not Found", "Connection: close\r\n"),
            Status::MethodNotAllowed => ("405 Method Not Allowed", "Connection: close\r\nAllow: GET\r\n"),
            // Whoever sends Upgrade must name it in Connection, too (RFC 9110, section 7.8).
            Status::UpgradeRequired => (
                "426 Upgrade Required",
                "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            ),
            Status::HeaderFieldsTooLarge => ("431 Request Header Fields Too Large", "Connection: close\r\n"),
            Status::VersionNotSupported => ("505 HTTP Version Not Supported", "Connection: close\r\n"),
        };
        let length = body.len() + 1;
        format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{body}\n"
        )
        .into_bytes()
    }
}
