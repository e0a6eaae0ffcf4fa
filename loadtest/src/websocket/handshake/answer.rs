//! The server's answer to an upgrade request: an upgrade, a refusal, or something else.

use std::fmt;

use tungstenite::handshake::derive_accept_key;

use super::Offered;
use crate::websocket::deflate::{Agreed, NOT_ASKED_FOR, extensions};

/// Longest response head that is waited for, and the most lines in it: far beyond what servers and proxies accept
/// themselves (8 to 64 KiB, 100 to 128 lines).
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 512;

/// Header lines for which there is room without an allocation.
const USUAL_HEADERS: usize = 64;

/// A refusal's body is looked at so far.
const MAX_BODY: usize = 2048;

/// Longest text that is told of a refusal's headers and body.
const MAX_TEXT: usize = 160;

/// The result of parsing the server's answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is not complete yet.
    Incomplete,
    /// The connection is a WebSocket now.
    Upgraded {
        /// Frames start behind this many bytes.
        head: usize,
        /// The negotiated compression, if any.
        deflate: Option<Agreed>,
    },
    /// The server answered with another status than 101.
    Refused(Box<Refusal>),
    /// No valid answer, and why.
    Invalid(&'static str),
}

/// Another status than 101, and what the server says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// `Location`: where the server wants the client to go.
    pub location: Option<String>,
    /// `Retry-After`: seconds, or a date.
    pub retry_after: Option<String>,
    /// `WWW-Authenticate`: what the server wants to see.
    pub challenge: Option<String>,
    /// The first line of the body that holds text, markup left out.
    pub body: Option<String>,
}

impl fmt::Display for Refusal {
    /// The explanation with a status; empty if there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers =
            [("Location", &self.location), ("Retry-After", &self.retry_after), ("WWW-Authenticate", &self.challenge)];
        let mut parts: Vec<String> =
            headers.iter().filter_map(|(name, value)| Some(format!("{name}: {}", value.as_ref()?))).collect();
        parts.extend(self.body.as_ref().map(|body| format!("\"{body}\"")));
        f.write_str(&parts.join("; "))
    }
}

/// Judges what has arrived of the answer to a request with this key that has offered this. `is_over` says that nothing will
/// follow.
pub(super) fn judge(key: &[u8], offered: &Offered, received: &[u8], is_over: bool) -> Answer {
    match received {
        // A record of TLS: an alert, or a handshake message (RFC 8446 section 5.1).
        [0x15 | 0x16, 3, ..] => return Answer::Invalid("the server answers in TLS: use wss://"),
        [0x15 | 0x16] if !is_over => return Answer::Incomplete,
        _ => {}
    }
    let mut start = 0;
    loop {
        let head = match parse(&received[start..]) {
            Ok(Some(head)) => head,
            Ok(None) if is_over && !received.is_empty() => return Answer::Invalid("closed within the response head"),
            Ok(None) if received.len() - start < MAX_HEAD => return Answer::Incomplete,
            Ok(None) => return Answer::Invalid("response head longer than 64 KiB"),
            Err(why) => return Answer::Invalid(why),
        };
        start += head.len;
        return match head.status {
            101 => match head.upgrade(key, offered) {
                Ok(deflate) => Answer::Upgraded { head: start, deflate },
                Err(why) => Answer::Invalid(why),
            },
            // Informational: the answer itself is still to come (RFC 9110 section 15.2).
            100..=199 => continue,
            _ => head.refusal(&received[start..], is_over),
        };
    }
}

/// A response head.
struct Head {
    len: usize,
    status: u16,
    is_http_1_1: bool,
    headers: Vec<(String, Vec<u8>)>,
}

/// The head at the start of `bytes`; `None` when it is cut.
fn parse(bytes: &[u8]) -> Result<Option<Head>, &'static str> {
    let mut few = [httparse::EMPTY_HEADER; USUAL_HEADERS];
    match parse_into(bytes, &mut few) {
        Err(httparse::Error::TooManyHeaders) => {}
        result => return result.map_err(|_| "not an HTTP response"),
    }
    let mut many = vec![httparse::EMPTY_HEADER; MAX_HEADERS];
    parse_into(bytes, &mut many).map_err(|error| match error {
        httparse::Error::TooManyHeaders => "more than 512 header lines in the response",
        _ => "not an HTTP response",
    })
}

fn parse_into<'a>(bytes: &'a [u8], headers: &mut [httparse::Header<'a>]) -> Result<Option<Head>, httparse::Error> {
    let mut response = httparse::Response::new(headers);
    let httparse::Status::Complete(len) = response.parse(bytes)? else { return Ok(None) };
    let headers = response.headers.iter().map(|it| (it.name.to_ascii_lowercase(), it.value.trim_ascii().to_vec()));
    Ok(Some(Head {
        len,
        status: response.code.unwrap_or(0),
        is_http_1_1: response.version == Some(1),
        headers: headers.collect(),
    }))
}

impl Head {
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_slice())
    }

    /// Whether the head completes the opening handshake (RFC 6455 section 4.1), and with which compression.
    fn upgrade(&self, key: &[u8], offered: &Offered) -> Result<Option<Agreed>, &'static str> {
        let mut connection_options = self.values("connection").flat_map(|value| value.split(|&byte| byte == b','));
        let accept = derive_accept_key(key);
        let mut chosen = self.values("sec-websocket-protocol");
        if !self.is_http_1_1 {
            Err("not HTTP/1.1")
        // The value as a whole: a server that lists other protocols has switched to those, too.
        } else if !self.values("upgrade").map(<[u8]>::to_ascii_lowercase).eq([b"websocket"]) {
            Err("no `Upgrade: websocket` in the response")
        } else if !connection_options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade")) {
            Err("no `Connection: Upgrade` in the response")
        } else if !self.values("sec-websocket-accept").eq([accept.as_bytes()]) {
            Err("wrong or missing Sec-WebSocket-Accept")
        } else if !chosen.all(|it| offered.subprotocols.iter().any(|own| own.as_bytes() == it)) {
            Err("a subprotocol that was not asked for")
        } else if self.values("sec-websocket-protocol").count() > 1 {
            Err("more than one subprotocol")
        } else {
            let mut values = self.values("sec-websocket-extensions");
            match offered.deflate {
                Some(offer) => offer.accept(values),
                None if extensions(values.by_ref()).next().is_some() => Err(NOT_ASKED_FOR),
                None => Ok(None),
            }
        }
    }

    /// What the server says with this status; waits for the body's first line if there is to be a body.
    fn refusal(&self, body: &[u8], is_over: bool) -> Answer {
        let text = |name| self.values(name).next().and_then(printable);
        let length =
            self.values("content-length").next().and_then(|value| str::from_utf8(value).ok()?.parse::<usize>().ok());
        let is_chunked = self.values("transfer-encoding").any(|it| it.to_ascii_lowercase().ends_with(b"chunked"));
        // Without a length the body ends with the connection, which need not end soon: what has come with the head will do.
        let (body, is_all) =
            if is_chunked { first_chunk(body) } else { (body, body.len() >= length.unwrap_or(0).min(MAX_BODY)) };
        let is_all = is_all || is_over;
        let line = first_line(&body[..body.len().min(MAX_BODY)], is_all);
        if line.is_none() && !is_all {
            return Answer::Incomplete;
        }
        Answer::Refused(Box::new(Refusal {
            status: self.status,
            location: text("location"),
            retry_after: text("retry-after"),
            challenge: text("www-authenticate"),
            body: line,
        }))
    }
}

/// The data of the first chunk as far as it has come, and whether that is all of it (RFC 9112 section 7.1).
fn first_chunk(body: &[u8]) -> (&[u8], bool) {
    let Ok(httparse::Status::Complete((at, size))) = httparse::parse_chunk_size(body) else { return (&[], false) };
    let data = &body[at..];
    let size = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_BODY);
    (&data[..data.len().min(size)], data.len() >= size)
}

/// The first line with text in it, tags left out. The last one counts only if nothing follows.
fn first_line(body: &[u8], is_all: bool) -> Option<String> {
    let end = if is_all { body.len() } else { body.iter().rposition(|&byte| byte == b'\n')? };
    body[..end].split(|&byte| byte == b'\n').find_map(|line| {
        let mut is_tag = false;
        let text = line.iter().copied().filter(|&byte| {
            let was_tag = is_tag;
            is_tag = byte == b'<' || (is_tag && byte != b'>');
            !is_tag && !was_tag
        });
        printable(&text.collect::<Vec<_>>())
    })
}

/// At most [`MAX_TEXT`] characters of what can be shown on any screen; `None` if there is nothing but blanks.
fn printable(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    let text: String = text.trim().chars().take(MAX_TEXT).collect();
    (!text.is_empty()).then_some(text)
}

/// The remedy for a refusal with this status, if known.
#[must_use]
pub fn remedy(status: u16) -> Option<&'static str> {
    Some(match status {
        200..=299 => "the server answers with a page there: is the path that of a WebSocket?",
        300..=399 => "a redirect, which is not followed: use the URL that it names, with ws:// or wss://",
        400 => "the server does not take the request: ws:// at a TLS port (wss://)? a header that it wants (-H)?",
        401 => "it wants credentials: -H \"Authorization: ...\", or ws://user:password@host/",
        403 => "it does not let this client in: -H \"Origin: ...\" or \"Authorization: ...\"?",
        404 | 405 | 410 => "no WebSocket there: is the path right? is the Host (-H) what the server expects?",
        407 => "that is a proxy, which wants credentials of its own",
        408 | 425 => "the server gave up on the request: lower --connect-rate or --connect-window",
        421 => "the server is not the one of this name: see --sni, -H \"Host: ...\"",
        426 => "the server wants another protocol, or another version of it",
        429 => "too many connections or attempts for its limits: lower --connect-rate or --connections",
        431 => "the request's headers are too large for the server",
        502 | 504 => "a proxy answers, and the server behind it does not",
        503 => "the server is full or not ready: fewer --connections, a lower --connect-rate, or later",
        500..=599 => "the server failed: its log will say why",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";

    const NOTHING: Offered = Offered { subprotocols: Vec::new(), deflate: None };

    fn upgraded(head: usize) -> Answer {
        Answer::Upgraded { head, deflate: None }
    }

    fn upgrade(more: &str) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{more}\r\n",
            derive_accept_key(KEY)
        )
    }

    fn judged(text: &str) -> Answer {
        judge(KEY, &NOTHING, text.as_bytes(), false)
    }

    fn refusal(text: &str, is_over: bool) -> Refusal {
        match judge(KEY, &NOTHING, text.as_bytes(), is_over) {
            Answer::Refused(refusal) => *refusal,
            other => panic!("{other:?}: {text}"),
        }
    }

    #[test]
    fn a_good_answer_is_upgraded_only_when_complete_also_behind_informational_ones() {
        for before in
            ["", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 x\r\n\r\n"]
        {
            let whole = before.to_owned() + &upgrade("Server: x\r\n");
            for cut in 0..whole.len() {
                assert_eq!(judged(&whole[..cut]), Answer::Incomplete, "{cut} of {whole}");
            }
            assert_eq!(judged(&(whole.clone() + "\u{1}")), upgraded(whole.len()));
        }
    }

    /// Answers with bytes changed, left out and put in at random: the verdict on a part stands whatever follows.
    #[test]
    fn what_has_been_judged_stays_so_when_more_comes() {
        let mut random = crate::message::SplitMix(7);
        let mut below = |bound: usize| (random.next() % bound as u64) as usize;
        let (mut upgraded, mut invalid) = (0, 0);
        for round in 0..400 {
            let mut bytes = (upgrade("Server: x\r\n") + "\u{1}abc").into_bytes();
            for _ in 0..round % 4 {
                let (at, byte) = (below(bytes.len()), [b'\r', b'\n', b' ', b':', b'x', 0, 0x15, 0xff][below(8)]);
                match below(3) {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            let judged: Vec<_> = (0..=bytes.len()).map(|len| judge(KEY, &NOTHING, &bytes[..len], false)).collect();
            let first = judged.iter().position(|answer| *answer != Answer::Incomplete).unwrap_or(bytes.len());
            match &judged[first] {
                Answer::Upgraded { .. } => upgraded += 1,
                Answer::Invalid(_) => invalid += 1,
                Answer::Incomplete | Answer::Refused(_) => continue,
            }
            assert!(judged[first..].iter().all(|answer| *answer == judged[first]), "{:?}", bytes.escape_ascii());
        }
        assert!(upgraded > 100 && invalid > 50, "{upgraded} {invalid}");
    }

    #[test]
    fn many_header_lines_are_taken_and_too_many_named() {
        let lines = |count| (0..count).map(|index| format!("X-Field-{index}: y\r\n")).collect::<Vec<_>>().concat();
        assert!(matches!(judged(&upgrade(&lines(300))), Answer::Upgraded { .. }));
        assert_eq!(judged(&upgrade(&lines(600))), Answer::Invalid("more than 512 header lines in the response"));
        let endless = format!("HTTP/1.1 101 x\r\nX: {}", "y".repeat(MAX_HEAD));
        assert_eq!(judged(&endless), Answer::Invalid("response head longer than 64 KiB"));
    }

    #[test]
    fn an_upgrade_that_is_not_all_there_is_none() {
        let good = upgrade("");
        for (part, other, why) in [
            ("HTTP/1.1", "HTTP/1.0", "not HTTP/1.1"),
            ("Upgrade: WebSocket\r\n", "", "no `Upgrade: websocket` in the response"),
            ("Upgrade: WebSocket\r\n", "Upgrade: h2c, websocket\r\n", "no `Upgrade: websocket` in the response"),
            ("Upgrade: WebSocket", "Upgrade: websocket\r\nUpgrade: h2c", "no `Upgrade: websocket` in the response"),
            ("keep-alive, Upgrade", "keep-alive", "no `Connection: Upgrade` in the response"),
            ("keep-alive, Upgrade", "Upgraded", "no `Connection: Upgrade` in the response"),
            ("Sec-WebSocket-Accept", "Sec-WebSocket-Key", "wrong or missing Sec-WebSocket-Accept"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Accept: x\r\n\r\n", "wrong or missing Sec-WebSocket-Accept"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n", "a subprotocol that was not asked for"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x\r\n\r\n", "an extension that was not asked for"),
        ] {
            let bad = good.replacen(part, other, 1);
            assert_ne!(bad, good);
            assert_eq!(judged(&bad), Answer::Invalid(why), "{bad}");
        }
        let in_two_lines = good.replace("keep-alive, Upgrade", "keep-alive\r\nConnection: upgrade");
        assert_eq!(judged(&in_two_lines), upgraded(in_two_lines.len()));
        let of_another = judge(b"another key", &NOTHING, good.as_bytes(), false);
        assert_eq!(of_another, Answer::Invalid("wrong or missing Sec-WebSocket-Accept"));
    }

    #[test]
    fn what_is_no_http_is_told_apart() {
        assert_eq!(judged("SSH-2.0-OpenSSH_9.6\r\n"), Answer::Invalid("not an HTTP response"));
        let alert = judge(KEY, &NOTHING, b"\x15\x03\x01\x00\x02\x02\x46", false);
        assert_eq!(alert, Answer::Invalid("the server answers in TLS: use wss://"));
        assert_eq!(judge(KEY, &NOTHING, b"\x15", false), Answer::Incomplete);
        let cut = judge(KEY, &NOTHING, b"HTTP/1.1 101 Switch", true);
        assert_eq!(cut, Answer::Invalid("closed within the response head"));
        assert_eq!(judge(KEY, &NOTHING, b"", true), Answer::Incomplete);
    }

    #[test]
    fn a_refusal_tells_what_the_server_says() {
        let moved = refusal("HTTP/1.1 301 x\r\nLocation: wss://x.example/y\r\nContent-Length: 0\r\n\r\n", false);
        assert_eq!((moved.status, moved.to_string().as_str()), (301, "Location: wss://x.example/y"));
        let full = refusal("HTTP/1.1 503 x\r\nRetry-After: 5\r\nContent-Length: 12\r\n\r\nfull\nsorry.\n", false);
        assert_eq!(full.to_string(), "Retry-After: 5; \"full\"");
        let page = "HTTP/1.1 403 x\r\nTransfer-Encoding: chunked\r\n\r\n2f\r\n<html>\r\n<head><title>403 Forbidden</title>\x1b\r\n\r\n";
        assert_eq!(refusal(page, false).body.as_deref(), Some("403 Forbidden"));
        let login = refusal("HTTP/1.1 401 x\r\nWWW-Authenticate: Basic realm=\"a\"\r\n\r\n", false);
        assert_eq!(login.to_string(), "WWW-Authenticate: Basic realm=\"a\"");
    }

    #[test]
    fn a_refusals_first_line_is_waited_for_if_it_is_to_come() {
        let head = "HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\n";
        for (body, is_over, line) in [
            ("", true, None),
            ("oh", true, Some("oh")),
            ("oh no", true, Some("oh no")),
            ("oh no\n", false, Some("oh no")),
            ("oh no, no", false, Some("oh no, no")),
        ] {
            assert_eq!(refusal(&format!("{head}{body}"), is_over).body.as_deref(), line, "{body}");
        }
        assert_eq!(judged(&format!("{head}oh n")), Answer::Incomplete);
        assert_eq!(judged("HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n5"), Answer::Incomplete);
        assert_eq!(refusal("HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", false).body, None);
        assert_eq!(refusal("HTTP/1.1 500 x\r\n\r\n", false).body, None);
    }
}
