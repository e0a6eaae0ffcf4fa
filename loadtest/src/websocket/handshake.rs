//! The opening handshake (RFC 6455 section 4.1): the request, and what counts as an answer to it.

use data_encoding::BASE64;
use tungstenite::handshake::derive_accept_key;

use crate::message::SplitMix;

/// Longest response head that is waited for.
const MAX_HEAD: usize = 16 * 1024;

/// Length of a `Sec-WebSocket-Key`: 16 bytes in base64.
const KEY_LEN: usize = 24;

/// The upgrade request of a run: the same for every connection but for its key.
#[derive(Debug)]
pub struct UpgradeRequest {
    bytes: Vec<u8>,
    key_at: usize,
    seed: u64,
    subprotocols: Vec<String>,
}

/// What a request asks for beside the upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Subprotocols, the most wanted first (RFC 6455 section 1.9).
    pub subprotocols: Vec<String>,
    /// Header lines, like `Authorization: Bearer x`.
    pub headers: Vec<String>,
}

/// What the server's answer comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The head is not complete yet.
    Incomplete,
    /// The connection is a WebSocket now; frames start behind this many bytes.
    Upgraded(usize),
    /// The server answered with another status than 101.
    Status(u16),
    /// No valid answer, and why.
    Invalid(&'static str),
}

impl UpgradeRequest {
    /// A request for `path` on `host` (as in a `Host` header), with more headers behind. `seed` makes the keys differ from
    /// run to run.
    #[must_use]
    pub fn new(host: &str, path: &str, more: &Extras, seed: u64) -> Self {
        let before = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        );
        let key_at = before.len();
        let mut text = format!("{before}{}\r\n", "=".repeat(KEY_LEN));
        if !more.subprotocols.is_empty() {
            text = format!("{text}Sec-WebSocket-Protocol: {}\r\n", more.subprotocols.join(", "));
        }
        for header in &more.headers {
            text = format!("{text}{header}\r\n");
        }
        let bytes = (text + "\r\n").into_bytes();
        Self { bytes, key_at, seed, subprotocols: more.subprotocols.clone() }
    }

    /// Bytes of every request.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a request has at least a request line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes connection number `connection`'s request to the start of `out`.
    pub fn write(&self, connection: u32, out: &mut [u8]) {
        out[..self.len()].copy_from_slice(&self.bytes);
        out[self.key_at..self.key_at + KEY_LEN].copy_from_slice(&self.key(connection));
    }

    /// A key can be computed anew whenever it is needed, so that no connection has to remember its own.
    fn key(&self, connection: u32) -> [u8; KEY_LEN] {
        let mut random = SplitMix(self.seed ^ u64::from(connection) << 32);
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&random.next().to_le_bytes());
        nonce[8..].copy_from_slice(&random.next().to_le_bytes());
        let mut key = [0; KEY_LEN];
        BASE64.encode_mut(&nonce, &mut key);
        key
    }

    /// Judges what has arrived of the answer to connection number `connection`'s request.
    #[must_use]
    pub fn judge(&self, connection: u32, received: &[u8]) -> Answer {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let head = match response.parse(received) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) if received.len() < MAX_HEAD => return Answer::Incomplete,
            Ok(httparse::Status::Partial) => return Answer::Invalid("response head longer than 16 KiB"),
            Err(_) => return Answer::Invalid("not an HTTP response"),
        };
        match response.code {
            Some(101) => {}
            code => return Answer::Status(code.unwrap_or(0)),
        }
        if response.version != Some(1) {
            return Answer::Invalid("not HTTP/1.1");
        }
        let values = |name: &'static str| {
            let named = response.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
            named.map(|header| header.value.trim_ascii())
        };
        let mut connection_options = values("connection").flat_map(|value| value.split(|&byte| byte == b','));
        let accept = derive_accept_key(&self.key(connection));
        // The value as a whole: who lists other protocols has switched to those, too.
        if !values("upgrade").map(<[u8]>::to_ascii_lowercase).eq([b"websocket"]) {
            Answer::Invalid("no `Upgrade: websocket` in the response")
        } else if !connection_options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade")) {
            Answer::Invalid("no `Connection: Upgrade` in the response")
        } else if !values("sec-websocket-accept").eq([accept.as_bytes()]) {
            Answer::Invalid("wrong or missing Sec-WebSocket-Accept")
        } else if values("sec-websocket-extensions").any(|value| !value.is_empty()) {
            Answer::Invalid("an extension that was not asked for")
        } else if !values("sec-websocket-protocol").all(|it| self.subprotocols.iter().any(|own| own.as_bytes() == it)) {
            Answer::Invalid("a subprotocol that was not asked for")
        } else if values("sec-websocket-protocol").count() > 1 {
            Answer::Invalid("more than one subprotocol")
        } else {
            Answer::Upgraded(head)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: u32 = 5;

    fn request() -> UpgradeRequest {
        UpgradeRequest::new("localhost:9001", "/echo?x=1", &Extras::default(), 42)
    }

    fn response(request: &UpgradeRequest, more: &str) -> String {
        let accept = derive_accept_key(&request.key(CONNECTION));
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
        )
    }

    #[test]
    fn a_server_library_accepts_the_request() {
        let request = request();
        let mut bytes = vec![0; request.len()];
        request.write(CONNECTION, &mut bytes);
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut headers);
        assert_eq!(parsed.parse(&bytes), Ok(httparse::Status::Complete(bytes.len())));
        assert_eq!(parsed.path, Some("/echo?x=1"));
    }

    #[test]
    fn a_good_answer_is_upgraded_only_when_complete() {
        let request = request();
        let whole = response(&request, "Server: x\r\n");
        for cut in 0..whole.len() {
            assert_eq!(request.judge(CONNECTION, &whole.as_bytes()[..cut]), Answer::Incomplete);
        }
        let with_frame = format!("{whole}\u{1}");
        assert_eq!(request.judge(CONNECTION, with_frame.as_bytes()), Answer::Upgraded(whole.len()));
    }

    #[test]
    fn other_answers_are_told_apart() {
        let request = request();
        let judge = |text: &str| request.judge(CONNECTION, text.as_bytes());
        assert_eq!(judge("HTTP/1.1 503 Service Unavailable\r\n\r\n"), Answer::Status(503));
        assert!(matches!(judge("SSH-2.0-OpenSSH_9.6\r\n"), Answer::Invalid(_)));
        assert!(matches!(
            judge(&response(&request, "Sec-WebSocket-Extensions: permessage-deflate\r\n")),
            Answer::Invalid(_)
        ));
        assert!(matches!(judge(&response(&request, "Sec-WebSocket-Protocol: chat\r\n")), Answer::Invalid(_)));
        let other = request.judge(CONNECTION + 1, response(&request, "").as_bytes());
        assert_eq!(other, Answer::Invalid("wrong or missing Sec-WebSocket-Accept"));
        let endless = format!("HTTP/1.1 101 x\r\nX: {}", "y".repeat(MAX_HEAD));
        assert!(matches!(judge(&endless), Answer::Invalid(_)));
    }

    #[test]
    fn an_upgrade_that_is_not_all_there_is_none() {
        let request = request();
        let good = response(&request, "");
        for (part, other, why) in [
            ("HTTP/1.1", "HTTP/1.0", "not HTTP/1.1"),
            ("Upgrade: WebSocket\r\n", "", "no `Upgrade: websocket` in the response"),
            ("Upgrade: WebSocket\r\n", "Upgrade: h2c, websocket\r\n", "no `Upgrade: websocket` in the response"),
            ("Upgrade: WebSocket", "Upgrade: websocket\r\nUpgrade: h2c", "no `Upgrade: websocket` in the response"),
            ("keep-alive, Upgrade", "keep-alive", "no `Connection: Upgrade` in the response"),
            ("keep-alive, Upgrade", "Upgraded", "no `Connection: Upgrade` in the response"),
            ("Sec-WebSocket-Accept", "Sec-WebSocket-Key", "wrong or missing Sec-WebSocket-Accept"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Accept: x\r\n\r\n", "wrong or missing Sec-WebSocket-Accept"),
        ] {
            let bad = good.replacen(part, other, 1);
            assert_ne!(bad, good);
            assert_eq!(request.judge(CONNECTION, bad.as_bytes()), Answer::Invalid(why), "{bad}");
        }
        let in_two_lines = good.replace("keep-alive, Upgrade", "keep-alive\r\nConnection: upgrade");
        assert_eq!(request.judge(CONNECTION, in_two_lines.as_bytes()), Answer::Upgraded(in_two_lines.len()));
    }

    #[test]
    fn extras_are_asked_for_and_only_then_taken() {
        let more = Extras { subprotocols: vec!["a".into(), "chat".into()], headers: vec!["X-Test: 1".into()] };
        let request = UpgradeRequest::new("localhost", "/", &more, 42);
        let mut bytes = vec![0; request.len()];
        request.write(CONNECTION, &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("Sec-WebSocket-Protocol: a, chat\r\n") && text.ends_with("X-Test: 1\r\n\r\n"), "{text}");
        let judge = |line: &str| request.judge(CONNECTION, response(&request, line).as_bytes());
        assert!(matches!(judge("Sec-WebSocket-Protocol: chat\r\n"), Answer::Upgraded(_)));
        assert!(matches!(judge(""), Answer::Upgraded(_)));
        assert!(matches!(judge("Sec-WebSocket-Protocol: other\r\n"), Answer::Invalid(_)));
        let twice = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: a\r\n";
        assert_eq!(judge(twice), Answer::Invalid("more than one subprotocol"));
    }
}
