use super::super::{
    Phase, Settings,
    testing::{Driven, REQUEST, close_payload, masked, unmasked},
};
use super::*;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A session at this path that has received `bytes` behind its request, cut in pieces of `size`. Without the 101.
fn driven(path: &str, bytes: &[u8], size: usize) -> Driven {
    let mut driven = Driven::new(Settings { has_behaviours: true, ..Settings::default() });
    driven.receive(REQUEST.replace("/chat", path).as_bytes());
    for piece in bytes.chunks(size) {
        if driven.then == Then::Continue {
            driven.receive(piece);
        }
    }
    let end = driven.sent.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
    driven.sent.drain(..end);
    driven
}

/// A message in two fragments with a Ping between them, one of 300 bytes, a third and an empty one: as they are sent, and
/// their echoes.
fn messages() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let make = |frame: fn(u8, &[u8]) -> Vec<u8>, ping| {
        let fragments = [frame(0x02, b"one"), frame(ping, b"p"), frame(0x80, b" message")].concat();
        vec![fragments, frame(BINARY, &[7; 300]), frame(BINARY, b"third"), frame(BINARY, b"")]
    };
    (make(masked, PING), make(unmasked, PONG))
}

const SIZES: [usize; 6] = [1, 2, 5, 64, 310, 10_000];

#[test]
fn a_sink_answers_control_frames_alone() {
    let (sent, _) = messages();
    for path in ["/sink", "/source?rate=0"] {
        for size in SIZES {
            let mut driven = driven(path, &sent.concat(), size);
            assert_eq!((&driven.sent, driven.messages), (&unmasked(PONG, b"p"), 4), "{path} in pieces of {size}");
            driven.sent.clear();
            driven.receive(&masked(CLOSE, &close_payload(1000, "bye")));
            assert_eq!(driven.sent, unmasked(CLOSE, &close_payload(1000, "bye")));
            assert_eq!((driven.then, driven.session.phase()), (Then::Close, Phase::Closed));
        }
    }
}

#[test]
fn a_sink_is_never_in_the_midst_of_a_frame_of_its_own() {
    let frame = masked(BINARY, &[7; 300]);
    let mut driven = driven("/sink", &frame[..100], 100);
    assert!(driven.session.at_frame_boundary() && driven.session.can_ping());
    assert!(driven.session.close(CloseCode::GOING_AWAY, "bye").is_some());
    assert!(driven.session.close(CloseCode::GOING_AWAY, "bye").is_none(), "only once");
    assert_eq!((driven.session.phase(), driven.session.can_ping()), (Phase::Closing, false));
    driven.receive(&frame[100..]);
    driven.receive(&masked(CLOSE, b""));
    assert_eq!((driven.sent.len(), driven.then), (0, Then::Close));
}

#[test]
fn a_violation_fails_a_sink_like_any_websocket() {
    let driven = driven("/sink", &[&masked(TEXT, b"fine")[..], &masked(TEXT, b"\xff")].concat(), 1000);
    assert_eq!(driven.sent, unmasked(CLOSE, &close_payload(1007, "invalid UTF-8")));
    assert_eq!(driven.then, Then::Linger);
}

#[test]
fn so_many_messages_are_echoed_before_it_acts() {
    let (sent, echoes) = messages();
    let more = masked(PING, b"unanswered");
    for after in 0..=3_usize {
        let expected = echoes[..after].concat();
        for size in SIZES {
            let bytes = [&sent.concat()[..], &more].concat();
            let context = format!("after {after} in pieces of {size}");

            let closed = driven(&format!("/close?code=4000&after={after}"), &bytes, size);
            assert_eq!(closed.sent, [&expected[..], &unmasked(CLOSE, &close_payload(4000, ""))].concat(), "{context}");
            assert_eq!((closed.event, closed.messages), (Some(Event::Closing(4000.into())), after as u32), "{context}");
            assert_eq!((closed.session.phase(), closed.then), (Phase::Closing, Then::Continue));

            let aborted = driven(&format!("/abort?after={after}"), &bytes, size);
            assert_eq!(aborted.sent, expected, "{context}");
            assert_eq!((aborted.then, aborted.session.phase()), (Then::Reset, Phase::Closed));

            let hung = driven(&format!("/hang?after={after}"), &bytes, size);
            assert_eq!((&hung.sent, hung.then), (&expected, Then::Continue), "{context}");
        }
    }
    let mut closed = driven("/close", b"", 1);
    closed.receive(&masked(CLOSE, &close_payload(1000, "")));
    assert_eq!((closed.then, closed.session.phase()), (Then::Close, Phase::Closed));
}

#[test]
fn what_comes_behind_the_last_echo_does_not_matter() {
    let message = masked(TEXT, b"last");
    let peer_closes = [&message[..], &masked(CLOSE, &close_payload(1000, ""))].concat();
    let peer_fails = [&message[..], &[0xff]].concat();
    for (bytes, then) in [(peer_closes, Then::Close), (peer_fails, Then::Linger)] {
        let driven = driven("/close?code=1011&after=1", &bytes, 1000);
        let expected = [unmasked(TEXT, b"last"), unmasked(CLOSE, &close_payload(1011, ""))].concat();
        assert_eq!((driven.sent, driven.then), (expected, then));
    }
}

#[test]
fn what_hangs_says_nothing_whatever_comes() {
    let (sent, _) = messages();
    for path in ["/hang", "/hang?after=0"] {
        let mut driven = driven(path, &sent.concat(), 64);
        driven.receive(&masked(CLOSE, b""));
        driven.receive(&[0xff]);
        assert_eq!((driven.sent.len(), driven.then), (0, Then::Continue), "{path}");
        assert_eq!((driven.session.ping(), driven.session.close(CloseCode::GOING_AWAY, "")), (None, None));
    }
}

#[test]
fn a_delayed_echo_is_to_be_sent_later() {
    let mut driven = driven("/delay?ms=5", b"", 1);
    assert_eq!(driven.event, Some(Event::Opened));
    assert_eq!(driven.session.behaviour(), Some(Behaviour::Delay { ms: 5 }));
    driven.receive(&masked(TEXT, b"late"));
    assert_eq!((&driven.sent, driven.event), (&unmasked(TEXT, b"late"), Some(Event::Deferred)));
}

/// A message right behind the request: the connection opens first.
#[test]
fn opening_comes_before_what_is_deferred() {
    let mut driven = Driven::new(Settings { has_behaviours: true, ..Settings::default() });
    let request = REQUEST.replace("/chat", "/delay?ms=5");
    driven.receive(&[request.as_bytes(), &masked(TEXT, b"eager")].concat());
    assert_eq!(driven.event, Some(Event::Opened));
}

#[test]
fn statuses_and_bad_queries_are_answered_whatever_the_request() {
    let settings = Settings { has_behaviours: true, path: Some("/ws".to_owned()), ..Settings::default() };
    for (target, status) in [
        ("/status/503", "503 Service Unavailable"),
        ("/status/302", "302 Found"),
        ("/source?size=x", "400 Bad Request"),
        ("/st%61tus/429", "429 Too Many Requests"),
        ("/chat", "404 Not Found"),
        ("/status/42", "400 Bad Request"),
    ] {
        for request in [REQUEST.to_owned(), "GET /chat HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()] {
            let mut driven = Driven::new(settings.clone());
            driven.receive(request.replace("/chat", target).as_bytes());
            let answer = String::from_utf8_lossy(&driven.sent).into_owned();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{target}: {answer}");
        }
    }
    for path in ["/ws", "/sink"] {
        let mut driven = Driven::new(settings.clone());
        driven.receive(REQUEST.replace("/chat", path).as_bytes());
        assert_eq!(driven.session.phase(), Phase::Open, "{path}");
    }
    let mut driven = Driven::new(Settings::default());
    driven.receive(REQUEST.replace("/chat", "/status/503").as_bytes());
    assert!(driven.sent.starts_with(b"HTTP/1.1 101 "), "behaviours are off");
}
