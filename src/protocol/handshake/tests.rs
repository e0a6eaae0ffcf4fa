use super::{
    super::{
        Phase, Then,
        testing::{Driven, REQUEST},
    },
    *,
};

/// The whole answer to `request`, which must be the same when it comes byte by byte, as far as that goes.
fn answer_with(settings: &Settings, request: &[u8]) -> String {
    let mut whole = Driven::new(settings.clone());
    whole.receive(request);
    let mut dribbled = Driven::new(settings.clone());
    for byte in request {
        if dribbled.then == Then::Continue {
            dribbled.receive(&[*byte]);
        }
    }
    assert_eq!(String::from_utf8_lossy(&whole.sent), String::from_utf8_lossy(&dribbled.sent));
    assert_eq!(whole.then, dribbled.then);
    if whole.session.phase() == Phase::Closed {
        assert_eq!(whole.then, Then::Linger);
    }
    String::from_utf8(whole.sent).unwrap()
}

fn answer(request: &[u8]) -> String {
    answer_with(&Settings::default(), request)
}

fn assert_refused(request: &[u8], status: &str) {
    let answer = answer(request);
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status} expected: {answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Connection: close"), "{answer}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
    assert!(!body.is_empty() && body.ends_with('\n'), "{answer}");
}

/// The valid request with one part replaced.
fn with(part: &str, replacement: &str) -> Vec<u8> {
    assert!(REQUEST.contains(part));
    REQUEST.replace(part, replacement).into_bytes()
}

#[test]
fn the_rfc_example_is_accepted() {
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(answer(REQUEST.as_bytes()), expected);
}

#[test]
fn header_names_and_tokens_know_no_case_and_lists_may_span_lines() {
    let request = with("Connection: Upgrade", "CONNECTION: keep-alive ,\r\nconnection: foo,uPGRADE");
    let request = String::from_utf8(request).unwrap().replace("Upgrade: websocket", "upgrade: h2c,\tWebSocket");
    assert!(answer(request.as_bytes()).starts_with("HTTP/1.1 101 "));
}

#[test]
fn empty_lines_before_the_request_are_ignored() {
    assert!(answer(&[b"\r\n", REQUEST.as_bytes()].concat()).starts_with("HTTP/1.1 101 "));
}

#[test]
fn another_method_is_405() {
    for method in ["POST", "HEAD", "OPTIONS"] {
        assert_refused(&with("GET", method), "405");
    }
    assert!(answer(&with("GET", "PUT")).contains("\r\nAllow: GET\r\n"));
}

#[test]
fn another_http_version_is_505() {
    assert_refused(&with("HTTP/1.1", "HTTP/1.0"), "505");
    assert_refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505");
}

#[test]
fn a_request_without_upgrade_or_with_another_version_is_426() {
    for request in [
        with("Upgrade: websocket\r\n", ""),
        with("Upgrade: websocket", "Upgrade: h2c"),
        with("Sec-WebSocket-Version: 13\r\n", ""),
        with("Version: 13", "Version: 8"),
        with("Version: 13", "Version: 13, 8"),
    ] {
        assert_refused(&request, "426");
        assert!(answer(&request).contains("\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"));
    }
}

#[test]
fn a_request_that_breaks_a_rule_is_400() {
    for request in [
        with("Host: example.org\r\n", ""),
        with("Host: example.org\r\n", "Host: a\r\nHost: b\r\n"),
        with("Connection: Upgrade", "Connection: keep-alive"),
        with("Connection: Upgrade\r\n", ""),
        with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
        with("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: "),
        with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ"),
        with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZ==="),
        with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZ!=="),
        with("Host:", "Content-Length: 5\r\nHost:"),
        with("Host:", "Transfer-Encoding: chunked\r\nHost:"),
        with("Host: example.org", "Host : example.org"),
        with("Host: example.org", " Host: example.org"),
    ] {
        assert_refused(&request, "400");
    }
    assert!(answer(&with("Host:", "Content-Length: 0\r\nHost:")).starts_with("HTTP/1.1 101 "));
}

#[test]
fn what_is_no_http_is_400_as_soon_as_it_shows() {
    let bytes: [&[u8]; 7] =
        [b"\x16", b"GET / HTTP/1.1\n", b"GET /\0", b"\n", b"GET / FOO\r\n", b"GET /\r\n", b"G\xc3\x89T / HTTP/1.1\r\n"];
    for bytes in bytes {
        assert_refused(bytes, "400");
    }
    assert_refused(&with("Host:", "A: b\nHost:"), "400");
}

#[test]
fn of_two_faults_the_first_decides_however_the_request_is_cut() {
    // The parser would stumble over the version, but only once its line is complete.
    assert_refused(&with("HTTP/1.1", "HTTP/1.\x0e"), "400");
    assert_refused(&with("HTTP/1.1\r\n", "HTTP/3.7\r\n\0"), "505");
}

#[test]
fn a_lone_lf_may_not_hide_behind_a_cut() {
    let mut driven = Driven::new(Settings::default());
    driven.receive(b"GET / HTTP/1.1");
    driven.receive(b"\nHost: a\r\n");
    assert!(driven.sent.starts_with(b"HTTP/1.1 400 "));
}

#[test]
fn a_request_beyond_the_limit_is_431() {
    let filler = "x".repeat(8192 - REQUEST.len() - "A: \r\n".len());
    let largest = with("Host:", &format!("A: {filler}\r\nHost:"));
    assert_eq!(largest.len(), 8192);
    assert!(answer(&largest).starts_with("HTTP/1.1 101 "));

    assert_refused(&with("Host:", &format!("A: {filler}x\r\nHost:")), "431");
    assert_refused(&[b"GET /", &vec![b'a'; 1 << 20][..]].concat(), "431");
    assert_refused(&with("Host:", &format!("{}Host:", "A: b\r\n".repeat(64))), "431");
}

/// There may be as many of them as there are connections.
#[test]
fn a_request_that_is_half_read_takes_no_more_memory_than_it_has_bytes() {
    let settings = Settings::default();
    let mut request = REQUEST.as_bytes()[..REQUEST.len() - 2].to_vec();
    request.resize(settings.max_handshake_size, b'x');
    for at in [1, 100, 5000, request.len() - 1] {
        let mut half_read = None;
        for piece in [&request[..at], &request[at..]] {
            assert_eq!(Handshake::receive(&mut half_read, &settings, piece), Progress::Partial);
        }
        assert_eq!(half_read.unwrap().request.capacity(), request.len(), "cut at {at}");
    }
}

#[test]
fn only_the_path_that_is_served_is_found() {
    let settings = Settings { path: Some("/chat".to_owned()), ..Settings::default() };
    for target in ["/chat", "/chat?room=1", "http://example.org/chat", "ws://example.org/chat?x"] {
        assert!(answer_with(&settings, &with("/chat", target)).starts_with("HTTP/1.1 101 "), "{target}");
    }
    for target in ["/", "/chat/", "/chatter", "http://example.org"] {
        assert!(answer_with(&settings, &with("/chat", target)).starts_with("HTTP/1.1 404 "), "{target}");
    }
}

#[test]
fn a_target_that_is_no_path_and_no_uri_with_one_is_400() {
    for target in ["A/", "chat", "*", "example.org:80", "http://", "/a<b"] {
        assert_refused(&with("/chat", target), "400");
    }
    for target in ["/?a|b^c", "//", "http://example.org?x"] {
        assert!(answer(&with("/chat", target)).starts_with("HTTP/1.1 101 "), "{target}");
    }
}

#[test]
fn the_servers_first_subprotocol_that_is_offered_is_selected() {
    let settings = Settings { subprotocols: vec!["b".to_owned(), "a".to_owned()], ..Settings::default() };
    let selected = |offer: &str| {
        let answer = answer_with(&settings, &with("Host:", &format!("{offer}Host:")));
        assert!(answer.starts_with("HTTP/1.1 101 "));
        answer.split_once("Sec-WebSocket-Protocol: ").map(|(_, rest)| rest.split_once("\r\n").unwrap().0.to_owned())
    };
    assert_eq!(selected("Sec-WebSocket-Protocol: a, b\r\n").as_deref(), Some("b"));
    assert_eq!(selected("Sec-WebSocket-Protocol: x\r\nSec-WebSocket-Protocol: a\r\n").as_deref(), Some("a"));
    assert_eq!(selected("Sec-WebSocket-Protocol: A\r\n"), None);
    assert_eq!(selected(""), None);
}
