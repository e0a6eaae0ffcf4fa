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
    for method in ["POST", "DELETE", "get"] {
        assert_refused(&with("GET", method), "405");
    }
    assert!(answer(&with("GET", "PUT")).contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"));
}

/// RFC 9110, section 9.3.2.
#[test]
fn head_is_answered_like_get_without_the_body() {
    for get in ["GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET * HTTP/1.0\r\n\r\n"] {
        let answer_to_get = answer(get.as_bytes());
        let (head, body) = answer_to_get.split_once("\r\n\r\n").unwrap();
        assert!(!body.is_empty());
        assert_eq!(answer(get.replace("GET", "HEAD").as_bytes()), format!("{head}\r\n\r\n"));
    }
    let upgrade = answer(&with("GET", "HEAD"));
    assert!(upgrade.starts_with("HTTP/1.1 426 ") && upgrade.ends_with("\r\n\r\n"), "{upgrade}");
}

#[test]
fn options_names_the_methods() {
    for target in ["*", "/", "/other"] {
        for version in ["1.0", "1.1"] {
            let answer = answer(format!("OPTIONS {target} HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 204 No Content\r\n"), "{answer}");
            assert!(answer.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n") && !answer.contains("Content-Length"));
        }
    }
}

#[test]
fn the_health_path_answers_200_whatever_path_is_served() {
    let settings = Settings { path: Some("/chat".to_owned()), ..Settings::default() };
    for request in ["GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "GET /health%7a?x HTTP/1.0\r\n\r\n"] {
        for settings in [&settings, &Settings::default()] {
            let answer = answer_with(settings, request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        }
        let without = Settings { health_path: None, ..settings.clone() };
        assert!(answer_with(&without, request.as_bytes()).starts_with("HTTP/1.1 404 "));
    }
    assert!(answer(&with("/chat", "/healthz")).starts_with("HTTP/1.1 101 "), "an upgrade is no health check");
    let elsewhere = Settings { health_path: Some("/ping".to_owned()), ..Settings::default() };
    assert!(answer_with(&elsewhere, b"GET /ping HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_browser_gets_the_page_where_there_is_a_websocket() {
    let accept = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{accept}\r\n").into_bytes();
    let settings = Settings { path: Some("/chat".to_owned()), ..Settings::default() };
    for (settings, path) in [(&Settings::default(), "/"), (&Settings::default(), "/any"), (&settings, "/chat")] {
        let answer = answer_with(settings, &get(path));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body.starts_with("<!DOCTYPE html>"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{head}");
        assert!(head.contains("\r\nContent-Security-Policy: default-src 'none';"), "{head}");
    }
    assert!(answer_with(&settings, &get("/")).starts_with("HTTP/1.1 404 "));
    assert!(answer(&get("/healthz")).ends_with("\r\n\r\nok\n"));
    assert!(answer(&with("Host:", &format!("{accept}Host:"))).starts_with("HTTP/1.1 101 "));
    let without = Settings { has_page: false, ..Settings::default() };
    assert!(answer_with(&without, &get("/")).starts_with("HTTP/1.1 426 "));
}

#[test]
fn another_major_version_of_http_is_505() {
    assert_refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505");
    assert_refused(&with("HTTP/1.1", "HTTP/0.9"), "505");
}

/// RFC 9110, section 2.5: a later minor version is taken for the one that is known; in HTTP/1.0 there is no Upgrade.
#[test]
fn other_minor_versions_of_http_are_answered() {
    for version in ["HTTP/1.2", "HTTP/1.9"] {
        assert!(answer(&with("HTTP/1.1", version)).starts_with("HTTP/1.1 101 "));
        assert!(answer(&[b"\r\n", &with("HTTP/1.1", version)[..]].concat()).starts_with("HTTP/1.1 101 "));
    }
    assert_refused(&with("HTTP/1.1", "HTTP/1.0"), "426");
    assert_refused(b"GET / HTTP/1.0\r\n\r\n", "426");
}

/// The parser blames the version, which is right: it must not be parsed again and again.
#[test]
fn a_space_too_many_before_the_version_is_400() {
    for version in ["HTTP/1.0", "HTTP/1.1", "HTTP/1.2", "HTTP/1.9"] {
        assert_refused(format!("GET /  {version}\r\nHost: a\r\n\r\n").as_bytes(), "400");
        assert_refused(format!("GET / x {version}\r\n").as_bytes(), "400");
    }
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
    for size in [Settings::HANDSHAKE_SIZE, 1 << 10] {
        let settings = Settings { max_handshake_size: size, ..Settings::default() };
        let filler = "x".repeat(size - REQUEST.len() - "A: \r\n".len());
        let largest = with("Host:", &format!("A: {filler}\r\nHost:"));
        assert_eq!(largest.len(), size);
        assert!(answer_with(&settings, &largest).starts_with("HTTP/1.1 101 "));
        let too_large = with("Host:", &format!("A: {filler}x\r\nHost:"));
        assert!(answer_with(&settings, &too_large).starts_with("HTTP/1.1 431 "));
    }
    assert_refused(&[b"GET /", &vec![b'a'; 1 << 20][..]].concat(), "431");
}

#[test]
fn more_header_lines_than_the_limit_are_431() {
    let known = REQUEST.lines().count() - 2;
    for most in [16, HEADERS, HEADERS + 1, 1024] {
        let settings = Settings { max_handshake_headers: most, ..Settings::default() };
        let with_lines = |lines: usize| with("Host:", &format!("{}Host:", "A: b\r\n".repeat(lines - known)));
        assert!(answer_with(&settings, &with_lines(most)).starts_with("HTTP/1.1 101 "), "{most}");
        assert!(answer_with(&settings, &with_lines(most + 1)).starts_with("HTTP/1.1 431 "), "{most}");
    }
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
    for target in ["/chat", "/chat?room=1", "http://example.org/chat", "ws://example.org/chat?x", "/%63h%61t?%63"] {
        assert!(answer_with(&settings, &with("/chat", target)).starts_with("HTTP/1.1 101 "), "{target}");
    }
    for target in ["/", "/chat/", "/chatter", "http://example.org"] {
        assert!(answer_with(&settings, &with("/chat", target)).starts_with("HTTP/1.1 404 "), "{target}");
    }
    let answer = answer_with(&settings, &with("/chat", "/chatter?x"));
    assert!(answer.ends_with("There is no WebSocket at /chatter: this server's is at /chat\n"), "{answer}");
    let answer = answer_with(&settings, &with("/chat", &format!("/{}", "ü".repeat(300))));
    assert!(answer.len() < 1000 && answer.contains("üü...: this"), "{answer}");
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

#[test]
fn an_asterisk_selects_the_first_subprotocol_that_is_offered() {
    let selected = |own: &[&str], offer: &str| {
        let subprotocols = own.iter().map(|&own| own.to_owned()).collect();
        let settings = Settings { subprotocols, ..Settings::default() };
        let offer = with("Host:", &format!("Sec-WebSocket-Protocol: {offer}\r\nHost:"));
        let answer = answer_with(&settings, &offer);
        assert!(answer.starts_with("HTTP/1.1 101 "));
        answer.split_once("Sec-WebSocket-Protocol: ").map(|(_, rest)| rest.split_once("\r\n").unwrap().0.to_owned())
    };
    assert_eq!(selected(&["*"], "mqtt, ocpp1.6").as_deref(), Some("mqtt"));
    assert_eq!(selected(&["ocpp1.6", "*"], "mqtt, ocpp1.6").as_deref(), Some("ocpp1.6"));
    assert_eq!(selected(&["*"], " , a b, c").as_deref(), Some("c"), "what is no token is no offer");
    assert_eq!(selected(&["*"], " , "), None);
}
