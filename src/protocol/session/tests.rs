use super::super::{
    Cause, CloseCode, Event, Output, Phase, Protocol, Session, Settings, Then,
    testing::{Driven, REQUEST, close_payload, masked, unmasked},
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

fn open() -> Driven {
    Driven::open(Settings::default())
}

fn going_away() -> Vec<u8> {
    unmasked(CLOSE, &close_payload(1001, "bye"))
}

#[test]
fn a_slab_entry_adds_nothing() {
    #[allow(dead_code)]
    enum Entry {
        Vacant(usize),
        Occupied(Session),
    }
    assert_eq!(size_of::<Entry>(), size_of::<Session>());
}

#[test]
fn tcp_is_a_bare_echo() {
    let mut driven = Driven::new(Settings { protocol: Protocol::Tcp, ..Settings::default() });
    assert_eq!(driven.session.phase(), Phase::Open);
    assert_eq!(driven.receive(b"any bytes"), Output::in_place(0..9));
    assert_eq!(driven.sent, b"any bytes");
    assert_eq!((driven.messages, driven.session.at_frame_boundary()), (0, true));
    assert_eq!(driven.session.ping(), None);
    assert_eq!(driven.session.close(CloseCode::GOING_AWAY, "bye"), None);
}

#[test]
fn frames_behind_the_request_are_echoed_behind_the_answer() {
    let frames = [masked(TEXT, b"eager"), masked(PING, b"p")].concat();
    let mut driven = Driven::new(Settings::default());
    driven.receive(&[REQUEST.as_bytes(), &frames[..15]].concat());
    driven.receive(&frames[15..]);
    let echo = [unmasked(TEXT, b"eager"), unmasked(0x8a, b"p")].concat();
    assert!(driven.sent.starts_with(b"HTTP/1.1 101 "));
    assert!(driven.sent.ends_with(&[&b"\r\n\r\n"[..], &echo].concat()));
    assert_eq!(driven.messages, 1);
}

#[test]
fn a_violation_behind_the_request_is_answered_behind_the_answer() {
    let mut driven = Driven::new(Settings::default());
    driven.receive(&[REQUEST.as_bytes(), &[0xff]].concat());
    assert!(driven.sent.starts_with(b"HTTP/1.1 101 "));
    assert!(driven.sent.ends_with(b"reserved bits must be zero"));
    assert_eq!(driven.then, Then::Linger);
}

#[test]
fn a_ping_is_sent_between_frames_only() {
    let settings = Settings::default();
    assert_eq!(Session::new(&settings).ping(), None, "not in the handshake");

    let mut driven = open();
    assert_eq!(driven.session.ping(), Some(vec![PING, 0]));

    let frame = masked(BINARY, b"payload");
    driven.receive(&frame[..8]);
    assert!(!driven.session.at_frame_boundary());
    assert_eq!(driven.session.ping(), None, "not in the midst of a binary frame");
    driven.receive(&frame[8..]);
    assert!(driven.session.at_frame_boundary());
    assert!(driven.session.ping().is_some());

    driven.receive(&masked(TEXT, b"text")[..8]);
    assert!(driven.session.ping().is_some(), "a cut text frame has been echoed as a whole fragment");
}

#[test]
fn after_our_close_nothing_is_sent_until_the_peer_closes() {
    let mut driven = open();
    assert_eq!(driven.session.close(CloseCode::GOING_AWAY, "bye"), Some(going_away()));
    assert_eq!(driven.session.phase(), Phase::Closing);
    assert_eq!(driven.session.close(CloseCode::GOING_AWAY, "bye"), None, "only once");
    assert_eq!(driven.session.ping(), None);

    let late = [masked(TEXT, b"late"), masked(BINARY, &[1; 300]), masked(PING, b"p")].concat();
    driven.dribble(&late);
    driven.receive(&late);
    assert_eq!((driven.sent.len(), driven.messages, driven.then), (0, 0, Then::Continue));

    driven.receive(&masked(CLOSE, &close_payload(1001, "")));
    assert_eq!((driven.sent.len(), driven.then, driven.session.phase()), (0, Then::Close, Phase::Closed));
}

#[test]
fn a_violation_after_our_close_sends_no_other() {
    let mut driven = open();
    assert!(driven.session.close(CloseCode::GOING_AWAY, "").is_some());
    driven.receive(&[0xff]);
    assert_eq!((driven.sent.len(), driven.then, driven.session.phase()), (0, Then::Linger, Phase::Closed));
}

#[test]
fn our_close_waits_for_the_end_of_a_binary_frame() {
    let frame = masked(BINARY, b"payload");
    let mut driven = open();
    driven.receive(&frame[..8]);
    assert_eq!(driven.session.close(CloseCode::GOING_AWAY, "bye"), None);
    assert_eq!((driven.session.phase(), driven.session.ping()), (Phase::Open, None));
    driven.receive(&frame[8..10]);
    driven.receive(&[&frame[10..], &masked(TEXT, b"late")].concat());
    assert_eq!(driven.sent, [unmasked(BINARY, b"payload"), going_away()].concat());
    assert_eq!((driven.messages, driven.session.phase(), driven.then), (1, Phase::Closing, Then::Continue));
}

#[test]
fn the_peers_close_may_come_with_the_end_of_that_frame() {
    let bytes = [masked(BINARY, b"payload"), masked(CLOSE, b"")].concat();
    let mut driven = open();
    driven.receive(&bytes[..8]);
    assert_eq!(driven.session.close(CloseCode::GOING_AWAY, "bye"), None);
    driven.receive(&bytes[8..]);
    assert_eq!(driven.sent, [unmasked(BINARY, b"payload"), going_away()].concat());
    assert_eq!((driven.then, driven.session.phase()), (Then::Close, Phase::Closed));
}

#[test]
fn our_close_does_not_wait_for_a_text_frame() {
    let frame = masked(TEXT, b"text");
    let mut driven = open();
    driven.receive(&frame[..8]);
    assert_eq!(driven.session.close(CloseCode::GOING_AWAY, "bye"), Some(going_away()));
    driven.receive(&[&frame[8..], &masked(CLOSE, b"")].concat());
    assert_eq!(driven.sent, unmasked(0x01, b"te"));
    assert_eq!(driven.then, Then::Close);
}

#[test]
fn a_close_reason_that_does_not_fit_is_left_out() {
    let mut driven = open();
    let frame = driven.session.close(CloseCode::GOING_AWAY, &"long".repeat(40));
    assert_eq!(frame, Some(unmasked(CLOSE, &close_payload(1001, ""))));
}

#[test]
fn each_step_is_told_and_each_frame_counted() {
    let mut driven = Driven::new(Settings::default());
    driven.receive(&REQUEST.as_bytes()[..20]);
    assert_eq!((driven.event, driven.frames), (None, 0));
    driven.receive(&[&REQUEST.as_bytes()[20..], &masked(PING, b"")].concat());
    assert_eq!((driven.event, driven.frames), (Some(Event::Opened), 1));
    let frames = [masked(TEXT, b"text"), masked(0x8a, b"pong"), masked(BINARY, &[7; 300])].concat();
    for (index, _) in frames.iter().enumerate() {
        driven.receive(&frames[index..=index]);
    }
    assert_eq!((driven.event, driven.frames, driven.messages), (Some(Event::Opened), 4, 2));
    driven.receive(&masked(CLOSE, &close_payload(1000, "")));
    let closed = Event::Closed(Cause::PeerClosed(Some(CloseCode::NORMAL)));
    assert_eq!((driven.event, driven.frames), (Some(closed), 5));

    let mut driven = Driven::new(Settings::default());
    driven.receive(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(driven.event, Some(Event::Closed(Cause::Refused(405))));
    let mut driven = open();
    driven.receive(&[0xff]);
    assert_eq!(driven.event, Some(Event::Closed(Cause::Violation(CloseCode::PROTOCOL_ERROR))));
    let (mut driven, frame) = (open(), masked(BINARY, b"payload"));
    driven.receive(&frame[..8]);
    assert!(driven.session.close(CloseCode::GOING_AWAY, "bye").is_none());
    driven.receive(&frame[8..]);
    assert_eq!(driven.event, Some(Event::Closing(CloseCode::GOING_AWAY)));
}

/// A close of the socket with unread input makes the kernel send a reset, which may destroy the answer.
#[test]
fn bytes_behind_the_peers_close_are_lingered_for() {
    let close = masked(CLOSE, &close_payload(1000, ""));
    let with_more = [&close[..], b"more"].concat();
    for cut in 0..close.len() {
        for (bytes, then) in [(&close, Then::Close), (&with_more, Then::Linger)] {
            let mut driven = open();
            driven.receive(&bytes[..cut]);
            driven.receive(&bytes[cut..]);
            assert_eq!((driven.then, driven.sent.len()), (then, 4), "cut at {cut}");
        }
    }
}

#[test]
fn an_empty_receive_changes_nothing() {
    let mut driven = Driven::new(Settings::default());
    assert_eq!(driven.receive(b""), Output::default());
    driven.dribble(REQUEST.as_bytes());
    driven.sent.clear();
    let frame = masked(TEXT, b"text");
    for piece in [&frame[..1], b"", &frame[1..8], b"", &frame[8..], b""] {
        driven.receive(piece);
    }
    assert_eq!(driven.sent, [unmasked(0x01, b"te"), unmasked(0x80, b"xt")].concat());
}
