//! The upgrade request in one piece and cut: the same answer, and the request ends at the same byte. Whatever is accepted
//! is a valid upgrade for tungstenite's server, too, and what is refused is none for it either, but for the differences
//! listed in docs/FUZZING.md.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringecho::protocol::{Phase, Settings, Then, is_token, normalize_path};
use ringecho_fuzz::driven::Driven;
use ringecho_fuzz::input::Cuts;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response};
use tungstenite::http::HeaderValue;

const KEY: &str = "Sec-WebSocket-Key";
const VERSION: &str = "Sec-WebSocket-Version";

#[derive(Debug)]
struct Input {
    settings: Settings,
    cuts: Cuts,
    stream: Vec<u8>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        let size = *u.choose(&[Some(8192), Some(200), Some(20), None])?;
        let subprotocols: &[&str] = u.choose(&[&[][..], &["chat", "echo"], &["chat", "*"]])?;
        let mut settings = Settings {
            subprotocols: subprotocols.iter().map(|&name| name.to_owned()).collect(),
            path: u.arbitrary::<bool>()?.then(|| "/chat".into()),
            max_handshake_headers: 100, // tungstenite takes 124
            ..Settings::default()
        };
        let (cuts, stream) = (u.arbitrary()?, u.bytes(u.len())?.to_vec());
        // Just enough for the request, at its bound.
        let end = stream.windows(4).position(|window| window == b"\r\n\r\n").map_or(stream.len(), |at| at + 4);
        settings.max_handshake_size = size.unwrap_or(end);
        Ok(Self { settings, cuts, stream })
    }
}

fuzz_target!(|input: Input| {
    let whole = read(&input, &Cuts::none());
    let cut = read(&input, &input.cuts);
    assert_eq!(answer(&whole.sent), answer(&cut.sent), "the answer depends on how the request is cut");
    check_answer(&input, &whole);
    if whole.session.phase() == Phase::Handshake {
        assert!(input.stream.len() <= input.settings.max_handshake_size, "more than the limit is waited for");
    }
});

fn read(input: &Input, cuts: &Cuts) -> Driven {
    read_bytes(&input.settings, &input.stream, cuts)
}

/// What a session makes of a request, and of what comes in the same read.
fn read_bytes(settings: &Settings, stream: &[u8], cuts: &Cuts) -> Driven {
    let mut driven = Driven::new(settings.clone());
    for read in cuts.of(stream) {
        if driven.session.phase() == Phase::Handshake {
            driven.receive(read);
        }
    }
    driven
}

/// The HTTP answer; when it is a 101, frames may follow.
fn answer(sent: &[u8]) -> &[u8] {
    match sent.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(end) if sent.starts_with(b"HTTP/1.1 101 ") => &sent[..end + 4],
        _ => sent,
    }
}

fn check_answer(input: &Input, driven: &Driven) {
    if driven.sent.is_empty() {
        assert!(driven.then == Then::Continue && driven.session.phase() == Phase::Handshake);
        return;
    }
    let answer = String::from_utf8(answer(&driven.sent).to_vec()).expect("an answer is text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let (status, headers) = head.split_once("\r\n").expect("a status line");
    let length = headers.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    if status == "HTTP/1.1 101 Switching Protocols" {
        assert!(length.is_none() && body.is_empty());
        check_accepted(input, headers);
    } else {
        let statuses = ["200 ", "204 ", "400 ", "404 ", "405 ", "426 ", "431 ", "505 "].map(|code| format!("HTTP/1.1 {code}"));
        assert!(statuses.iter().any(|known| status.starts_with(known)), "{status}");
        assert!(driven.then == Then::Linger && headers.contains("Connection: close"), "{headers}");
        // The answer to HEAD says how long a body there would be.
        let is_head = input.stream.trim_ascii_start().starts_with(b"HEAD ");
        assert!(is_head && body.is_empty() || length.unwrap_or("0") == body.len().to_string(), "{answer}");
        check_refused(input, status);
    }
}

/// tungstenite parses the request, too, finds the same end and makes the same answer of it. (It knows no later version.)
fn check_accepted(input: &Input, headers: &str) {
    let mut lines = input.stream.split(|&byte| byte == b'\r').map(<[u8]>::trim_ascii);
    if !lines.find(|line| !line.is_empty()).is_some_and(|line| line.ends_with(b" HTTP/1.1")) {
        return;
    }
    let (end, mut request) = Request::try_parse(&input.stream).expect("a valid request").expect("a whole request");
    assert_eq!(reasons(input, &request, end), [""; 0], "a request is accepted");
    for (request, phase) in [(&input.stream[..end], Phase::Open), (&input.stream[..end - 1], Phase::Handshake)] {
        assert_eq!(read_bytes(&input.settings, request, &Cuts::none()).session.phase(), phase, "another end");
    }
    for (name, token) in [("Connection", "upgrade"), ("Upgrade", "websocket")] {
        assert!(has_token(&request, name, token), "no {token} in {name}");
    }
    let accept = derive_accept_key(request.headers()[KEY].as_bytes());
    adapt(&mut request);
    create_response(&request).expect("an upgrade");
    assert!(headers.lines().any(|line| line == format!("Sec-WebSocket-Accept: {accept}")), "{headers}");
    let selected = headers.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
    let offered: Vec<&[u8]> = tokens(&request, "Sec-WebSocket-Protocol").collect();
    let best = input.settings.subprotocols.iter().find_map(|own| match own.as_str() {
        Settings::ANY => offered.iter().copied().find(|name| is_token(name)),
        own => offered.contains(&own.as_bytes()).then_some(own.as_bytes()),
    });
    assert_eq!(selected.map(str::as_bytes), best);
}

/// What tungstenite would take for an upgrade is refused for a reason of ours, and with its status.
fn check_refused(input: &Input, status: &str) {
    let Ok(Some((end, request))) = Request::try_parse(&input.stream) else { return };
    let mut adapted = request.clone();
    adapt(&mut adapted);
    if create_response(&adapted).is_err() {
        return;
    }
    let reasons = reasons(input, &request, end);
    assert!(reasons.iter().any(|code| status.contains(code)), "refused with {status}: {request:?}");
}

/// Why a request that tungstenite parses is refused nevertheless: the statuses that are right.
fn reasons(input: &Input, request: &Request, end: usize) -> Vec<&'static str> {
    let head = &input.stream[..end];
    let count = |name| request.headers().get_all(name).iter().count();
    let has_control = head.iter().any(|byte| byte.is_ascii_control() && !b"\r\n\t".contains(byte));
    let has_lone_lf = (0..head.len()).any(|at| head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r'));
    let has_body = count("Transfer-Encoding") > 0
        || request.headers().get_all("Content-Length").iter().any(|value| value.as_bytes() != b"0");
    // Two digits' worth of padding, but maybe not at the end (RFC 4648, section 4).
    let is_padded = request.headers().get(KEY).is_some_and(|key| key.as_bytes().ends_with(b"=="));
    let path = &*normalize_path(request.uri().path());
    let reasons = [
        (has_control || has_lone_lf, "400 "),
        (count("Host") != 1 || count(KEY) != 1 || !is_padded || has_body, "400 "),
        (!path.starts_with('/'), "400 "),
        (input.settings.path.as_ref().is_some_and(|own| path != own), "404 "),
        (count(VERSION) != 1, "426 "),
        (end > input.settings.max_handshake_size || request.headers().len() > input.settings.max_handshake_headers, "431 "),
    ];
    reasons.iter().filter(|(holds, _)| *holds).map(|(_, status)| *status).collect()
}

/// Makes the lists in a request such as tungstenite reads them as we do.
fn adapt(request: &mut Request) {
    for (name, token) in [("Connection", "upgrade"), ("Upgrade", "websocket")] {
        // It looks at the first line alone, separates by spaces, too, and takes no list for Upgrade (RFC 9110, sections
        // 5.3, 5.6.1 and 7.8).
        if has_token(request, name, token) {
            request.headers_mut().insert(name, HeaderValue::from_static(token));
        } else {
            request.headers_mut().remove(name);
        }
    }
    if let Some(key) = request.headers().get(KEY).and_then(|key| canonical(key.as_bytes())) {
        request.headers_mut().insert(KEY, HeaderValue::from_bytes(&key).expect("as before"));
    }
}

/// The key with the four bits of its last digit clear that no byte has. tungstenite wants them so; RFC 4648, section 3.5,
/// leaves it to the decoder.
fn canonical(key: &[u8]) -> Option<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut key = key.to_vec();
    let value = DIGITS.iter().position(|digit| key.get(21) == Some(digit))?;
    key[21] = DIGITS[value & !0xf];
    Some(key)
}

fn has_token(request: &Request, name: &str, token: &str) -> bool {
    tokens(request, name).any(|it| it.eq_ignore_ascii_case(token.as_bytes()))
}

/// The elements of the list that all lines of a header make up.
fn tokens<'r>(request: &'r Request, name: &str) -> impl Iterator<Item = &'r [u8]> {
    let lines = request.headers().get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}
