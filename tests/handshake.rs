//! The opening handshake (RFC 6455, section 4): what upgrades, what is refused, and with which answer.

mod common;

use common::frames::{BINARY, FIN, PING, PONG, TEXT, frame};
use common::peer::{Answer, Frame, Peer, UPGRADE, connect};
use common::server::Server;
use tungstenite::client::ClientRequestBuilder;

/// The accept key that belongs to the key in `UPGRADE` (RFC 6455, section 1.3).
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// `UPGRADE` with one of its lines replaced (by none, if the replacement is empty).
fn upgrade_with(line: &str, replacement: &str) -> String {
    let line = format!("{line}\r\n");
    let replacement = if replacement.is_empty() { String::new() } else { format!("{replacement}\r\n") };
    assert!(UPGRADE.contains(&line), "{line:?} is no line of the request");
    UPGRADE.replace(&line, &replacement)
}

/// `UPGRADE` with one more header.
fn upgrade_and(header: &str) -> String {
    upgrade_with("Sec-WebSocket-Version: 13", &format!("Sec-WebSocket-Version: 13\r\n{header}"))
}

fn answer_to(server: &Server, request: impl AsRef<[u8]>) -> (Peer, Answer) {
    let mut peer = server.connect();
    peer.send(request);
    let answer = peer.read_answer();
    (peer, answer)
}

fn assert_upgraded((mut peer, answer): (Peer, Answer)) {
    assert_eq!(answer.status, 101, "{answer:?}");
    peer.expect_echo(TEXT, "upgraded");
}

#[test]
fn the_answer_is_the_one_of_the_rfc() {
    let server = Server::start(&[]);
    let (mut peer, answer) = answer_to(&server, UPGRADE);
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
    assert!(answer.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")), "{answer:?}");
    assert!(answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")), "{answer:?}");
    assert_eq!(answer.header("sec-websocket-protocol"), None, "no subprotocol was offered");
    assert_eq!(answer.header("sec-websocket-extensions"), None, "no extension was offered");
    peer.expect_echo(TEXT, "hello");
}

#[test]
fn request_in_one_byte_pieces() {
    let server = Server::start(&[]);
    let mut peer = server.connect();
    for byte in UPGRADE.as_bytes() {
        peer.send([*byte]);
    }
    peer.expect_upgrade();
    for byte in frame(FIN | TEXT, "in pieces, too".as_bytes()) {
        peer.send([byte]);
    }
    assert_eq!(peer.read_message(), Frame::new(FIN | TEXT, "in pieces, too"));
}

#[test]
fn bytes_behind_the_request_are_frames_already() {
    let server = Server::start(&[]);
    let first = frame(FIN | BINARY, b"right behind");
    let second = frame(FIN | PING, b"and another");
    let everything = [UPGRADE.as_bytes(), &first, &second].concat();
    // Cut everywhere from the last bytes of the request to the end: all of the frames, part of them, none of them.
    for cut in UPGRADE.len() - 2..=everything.len() {
        let mut peer = server.connect();
        peer.send(&everything[..cut]);
        if cut >= UPGRADE.len() {
            peer.expect_upgrade();
            peer.send(&everything[cut..]);
        } else {
            peer.send(&everything[cut..]);
            peer.expect_upgrade();
        }
        peer.expect_frame(FIN | BINARY, b"right behind");
        peer.expect_frame(FIN | PONG, b"and another");
    }
}

#[test]
fn a_large_frame_behind_the_request() {
    let server = Server::start(&[]);
    let payload = common::pattern(1, 3 * common::MIB);
    let mut peer = server.connect();
    peer.while_sending(&[UPGRADE.as_bytes(), &frame(FIN | BINARY, &payload)].concat(), |peer| {
        peer.expect_upgrade();
        assert!(peer.read_message() == Frame::new(FIN | BINARY, payload), "the echo differs");
    });
}

#[test]
fn what_clients_may_write_differently() {
    let server = Server::start(&[]);
    let version = "Sec-WebSocket-Version: 13";
    let requests = [
        upgrade_with("GET /echo HTTP/1.1", "GET / HTTP/1.1"),
        upgrade_with("GET /echo HTTP/1.1", "GET /any/path?with=query&and=%20more HTTP/1.1"),
        upgrade_with("Upgrade: websocket", "Upgrade: WebSocket"),
        upgrade_with("Upgrade: websocket", "upgrade: websocket"),
        upgrade_with("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        upgrade_with("Connection: Upgrade", "CONNECTION: upgrade"),
        upgrade_with("Host: localhost", "Host:localhost:9001"),
        upgrade_with(version, "sec-websocket-version:   13  "),
        upgrade_and("Origin: https://example.com"),
        upgrade_and("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
        upgrade_and(&format!("Cookie: {}", "c".repeat(15_000))),
        upgrade_and(&vec!["X-Filler: filler"; 120].join("\r\n")),
    ];
    for request in requests {
        let (peer, answer) = answer_to(&server, &request);
        assert_eq!(answer.status, 101, "to {request:?}: {answer:?}");
        assert_upgraded((peer, answer));
    }
}

#[test]
fn tungstenite_upgrades() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.send("hello".into()).expect("sent");
    assert_eq!(client.read().expect("an echo"), "hello".into());
}

/// A header's name and value.
type Header = (&'static str, &'static str);

/// Every refusal: what is wrong with the request, the status, and a header that the answer must have.
#[test]
fn refusals() {
    let server = Server::start(&[]);
    let get = "GET /echo HTTP/1.1";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let version = "Sec-WebSocket-Version: 13";
    let version_13 = Some(("sec-websocket-version", "13"));
    let upgrade_websocket = Some(("upgrade", "websocket"));
    let cases: [(&str, String, u16, Option<Header>); 24] = [
        ("another method", upgrade_with(get, "POST /echo HTTP/1.1"), 405, Some(("allow", "GET, HEAD, OPTIONS"))),
        ("HTTP/1.0", upgrade_with(get, "GET /echo HTTP/1.0"), 426, upgrade_websocket),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505, None),
        ("no HTTP at all", "hello, are you an echo server?\r\n\r\n".into(), 400, None),
        ("a TLS client hello", "\u{16}\u{3}\u{1}\u{0}\u{5}\u{1}\u{0}\u{0}\u{1}\u{3}\r\n\r\n".into(), 400, None),
        ("a NUL in a header", upgrade_and("X-Null: \0"), 400, None),
        ("a header without a colon", upgrade_and("no colon here"), 400, None),
        ("a lone line feed", UPGRADE.replace("localhost\r\n", "localhost\n"), 400, None),
        ("a space before the colon", upgrade_and("X-Space : here"), 400, None),
        ("a body", upgrade_and("Content-Length: 5"), 400, None),
        ("a body in chunks", upgrade_and("Transfer-Encoding: chunked"), 400, None),
        ("two Hosts", upgrade_and("Host: elsewhere"), 400, None),
        ("no Host", upgrade_with("Host: localhost", ""), 400, None),
        ("a plain GET", upgrade_with("Upgrade: websocket", ""), 426, upgrade_websocket),
        ("another upgrade", upgrade_with("Upgrade: websocket", "Upgrade: h2c"), 426, upgrade_websocket),
        ("no Connection", upgrade_with("Connection: Upgrade", ""), 400, None),
        ("a Connection without Upgrade", upgrade_with("Connection: Upgrade", "Connection: close"), 400, None),
        ("no key", upgrade_with(key, ""), 400, None),
        ("two keys", upgrade_and(key), 400, None),
        ("a key that is not 16 bytes", upgrade_with(key, "Sec-WebSocket-Key: c2hvcnQ="), 400, None),
        ("a key that is not base64", upgrade_with(key, "Sec-WebSocket-Key: %%%%%%%%%%%%%%%%%%%%%%=="), 400, None),
        ("no version", upgrade_with(version, ""), 426, version_13),
        ("two versions", upgrade_and("Sec-WebSocket-Version: 8"), 426, version_13),
        ("another version", upgrade_with(version, "Sec-WebSocket-Version: 8"), 426, version_13),
    ];
    for (what, request, status, header) in cases {
        let (mut peer, answer) = answer_to(&server, &request);
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        if let Some((name, value)) = header {
            assert_eq!(answer.header(name), Some(value), "{what}: {answer:?}");
        }
        assert!(answer.body.trim().len() > 10, "{what}: the body should say what is wrong: {answer:?}");
        let connection = answer.header("connection").unwrap_or_default();
        assert!(connection.split(", ").any(|option| option == "close"), "{what}: {answer:?}");
        peer.expect_end();
    }
    assert_upgraded(answer_to(&server, UPGRADE));
}

#[test]
fn a_head_that_is_too_large() {
    let server = Server::start(&[]);
    let endless_line = format!("GET /{} HTTP/1.1\r\n", "a".repeat(300 * common::KIB));
    let endless_header = upgrade_and(&format!("Cookie: {}", "c".repeat(300 * common::KIB)));
    let endless_headers = upgrade_and(&"X-Filler: filler\r\n".repeat(20_000));
    for request in [endless_line, endless_header, endless_headers] {
        let mut peer = server.connect();
        // The server refuses as soon as it has seen enough; how much of the rest it takes is up to it.
        let _ = peer.try_send(&request);
        let answer = peer.read_answer();
        assert_eq!(answer.status, 431, "to {:?}...: {answer:?}", &request[..40]);
        peer.expect_end();
    }
    assert_upgraded(answer_to(&server, UPGRADE));
}

#[test]
fn the_limits_of_a_head_can_be_chosen() {
    let server = Server::start(&["--max-handshake-size", "64KiB", "--max-handshake-headers", "500"]);
    let large = upgrade_and(&format!("Cookie: {}", "c".repeat(60 * common::KIB)));
    assert_upgraded(answer_to(&server, &large));
    assert_upgraded(answer_to(&server, upgrade_and(&vec!["X-Filler: filler"; 490].join("\r\n"))));
    assert_eq!(answer_to(&server, upgrade_and(&vec!["X-Filler: filler"; 501].join("\r\n"))).1.status, 431);
}

/// What load balancers and probes send by default: Kubernetes, curl, `HAProxy` (`option httpchk`), nginx and old ones.
#[test]
fn checks_of_load_balancers_are_answered() {
    for arguments in [&[][..], &["--path", "/ws"]] {
        let server = Server::start(arguments);
        let status = |request: &str| {
            let mut peer = server.connect();
            peer.send(request);
            let answer = String::from_utf8(peer.read_to_end().expect("an orderly end")).expect("text");
            let status = answer[9..12].to_owned();
            (status, answer)
        };
        for get in ["GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "GET /healthz HTTP/1.0\r\n\r\n"] {
            let (code, answer) = status(get);
            assert!(code == "200" && answer.ends_with("\r\n\r\nok\n"), "{answer}");
            let (code, answer) = status(&get.replace("GET", "HEAD"));
            assert!(code == "200" && answer.ends_with("Content-Length: 3\r\n\r\n"), "{answer}");
        }
        assert_eq!(status("OPTIONS / HTTP/1.0\r\n\r\n").0, "204");
        for head in ["HEAD / HTTP/1.0\r\n\r\n", "HEAD /any HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let (code, answer) = status(head);
            assert!(code.starts_with('4') && answer.ends_with("\r\n\r\n"), "{answer}");
        }
    }
    let server = Server::start(&["--health-path", "none"]);
    assert_eq!(answer_to(&server, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").1.status, 426);
}

#[test]
fn the_path_that_is_served_has_many_spellings() {
    let server = Server::start(&["--path", "/%77s"]);
    for path in ["/ws", "/%77s", "/w%73?x"] {
        assert_upgraded(answer_to(&server, UPGRADE.replace("/echo", path)));
    }
    let (_, answer) = answer_to(&server, UPGRADE);
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("/echo") && answer.body.contains("/ws"), "{answer:?}");
}

#[test]
fn a_head_that_ends_early() {
    let server = Server::start(&[]);
    for cut in [0, 1, 20, UPGRADE.len() / 2, UPGRADE.len() - 1] {
        let mut peer = server.connect();
        peer.send(&UPGRADE[..cut]);
        peer.shut_down_sending();
        let answer = peer.read_to_end().expect("an orderly end");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    }
    assert_upgraded(answer_to(&server, UPGRADE));
}

#[test]
fn the_first_common_subprotocol_is_selected() {
    let server = Server::start(&["--subprotocol", "chat.v2", "--subprotocol", "chat.v1"]);
    let selected = |offer: &str| {
        let (peer, answer) = answer_to(&server, upgrade_and(offer));
        let selected = answer.header("sec-websocket-protocol").map(ToOwned::to_owned);
        assert_upgraded((peer, answer));
        selected
    };
    assert_eq!(selected("Sec-WebSocket-Protocol: chat.v1"), Some("chat.v1".into()));
    assert_eq!(selected("Sec-WebSocket-Protocol: other, chat.v1, another"), Some("chat.v1".into()));
    assert_eq!(selected("Sec-WebSocket-Protocol: other\r\nSec-WebSocket-Protocol: chat.v2"), Some("chat.v2".into()));
    assert_eq!(selected("Sec-WebSocket-Protocol: chat.v1, chat.v2"), Some("chat.v2".into()), "the server's order");
    assert_eq!(selected("Sec-WebSocket-Protocol: CHAT.V1"), None, "names are case-sensitive");
    assert_eq!(selected("Sec-WebSocket-Protocol: other"), None);
    assert_eq!(selected("Origin: nobody"), None);
}

#[test]
fn any_subprotocol_is_the_first_that_is_offered() {
    let server = Server::start(&["--subprotocol", "*"]);
    for (offer, selected) in [("mqtt, ocpp1.6", "mqtt"), ("ocpp1.6", "ocpp1.6")] {
        let (peer, answer) = answer_to(&server, upgrade_and(&format!("Sec-WebSocket-Protocol: {offer}")));
        assert_eq!(answer.header("sec-websocket-protocol"), Some(selected));
        assert_upgraded((peer, answer));
    }
    assert_eq!(answer_to(&server, UPGRADE).1.header("sec-websocket-protocol"), None);
}

#[test]
fn tungstenite_gets_its_subprotocol() {
    let server = Server::start(&["--subprotocol", "echo.example"]);
    let address = server.address();
    let uri = format!("ws://{address}/").parse().expect("a URI");
    let request = ClientRequestBuilder::new(uri).with_sub_protocol("echo.example");
    let (_, response) = tungstenite::client(request, connect(address)).expect("an upgrade");
    assert_eq!(response.headers()["sec-websocket-protocol"], "echo.example");
}
