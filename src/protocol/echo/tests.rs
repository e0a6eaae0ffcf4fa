use super::super::{
    Output, Phase, Settings, Then,
    testing::{Driven, close_payload, masked, unmasked},
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

fn open() -> Driven {
    Driven::open(Settings::default())
}

/// What is sent for `bytes`, in one receive and byte by byte; both must fail with `code`.
fn assert_fails(bytes: &[u8], code: u16) {
    let mut whole = open();
    whole.receive(bytes);
    let mut dribbled = open();
    dribbled.dribble(bytes);
    for driven in [whole, dribbled] {
        assert_eq!((driven.then, driven.session.phase()), (Then::Linger, Phase::Closed), "{bytes:x?}");
        assert_eq!(driven.sent[0], CLOSE, "{bytes:x?}");
        assert_eq!(driven.sent[2..4], code.to_be_bytes(), "{bytes:x?}");
        assert_eq!(driven.sent.len(), 2 + usize::from(driven.sent[1]), "the Close frame is all");
    }
}

#[test]
fn a_frame_is_echoed_in_place_without_moving_its_payload() {
    for (len, header) in [(0, 2), (5, 2), (125, 2), (126, 4), (65535, 4), (65536, 10), (70000, 10)] {
        let payload = vec![b'x'; len];
        for first in [TEXT, BINARY] {
            let mut driven = open();
            let output = driven.receive(&masked(first, &payload));
            assert_eq!(output, Output::in_place(4..4 + header + len));
            assert_eq!(driven.sent, unmasked(first, &payload));
            assert_eq!(driven.messages, 1);
        }
    }
}

#[test]
fn the_frames_of_one_receive_leave_as_one_range() {
    let payloads: Vec<Vec<u8>> = (0..300).map(|len| vec![len as u8; len]).collect();
    let mut driven = open();
    let output = driven.receive(&payloads.iter().flat_map(|payload| masked(BINARY, payload)).collect::<Vec<_>>());
    assert!(output.head.is_empty() && !output.is_empty());
    assert_eq!(driven.sent, payloads.iter().flat_map(|payload| unmasked(BINARY, payload)).collect::<Vec<_>>());
    assert_eq!(driven.messages, 300);
}

#[test]
fn fragments_are_echoed_as_they_come() {
    let mut driven = open();
    driven.receive(&masked(0x02, b"one"));
    driven.receive(&masked(0x00, b"two"));
    driven.receive(&masked(PING, b"!"));
    assert_eq!(driven.messages, 0);
    driven.receive(&masked(0x80, b"three"));
    let expected = [unmasked(0x02, b"one"), unmasked(0, b"two"), unmasked(PONG, b"!"), unmasked(0x80, b"three")];
    assert_eq!(driven.sent, expected.concat());
    assert_eq!(driven.messages, 1);
}

#[test]
fn a_cut_binary_frame_streams_through_under_one_header() {
    let payload: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let mut driven = open();
    for piece in masked(BINARY, &payload).chunks(7919) {
        let output = driven.receive(piece);
        assert!(output.head.is_empty() && !output.is_empty(), "nothing is copied");
    }
    assert_eq!(driven.sent, unmasked(BINARY, &payload));
    assert_eq!(driven.messages, 1);
}

#[test]
fn a_cut_text_frame_is_echoed_as_fragments() {
    let frame = masked(TEXT, "aé€z".as_bytes());
    let mut driven = open();
    driven.receive(&frame[..6]);
    assert!(driven.sent.is_empty(), "a header alone is no piece");
    driven.receive(&frame[6..8]);
    driven.receive(&frame[8..10]);
    driven.receive(&frame[10..]);
    let bytes = "aé€z".as_bytes();
    let expected = [unmasked(0x01, &bytes[..2]), unmasked(0x00, &bytes[2..4]), unmasked(0x80, &bytes[4..])];
    assert_eq!(driven.sent, expected.concat());
    assert_eq!(driven.messages, 1);
}

#[test]
fn the_fragments_of_a_cut_text_frame_keep_their_message_open() {
    let mut driven = open();
    let bytes = [masked(0x01, b"first"), masked(0x80, b"last")].concat();
    driven.receive(&bytes[..8]);
    driven.receive(&bytes[8..13]);
    driven.receive(&bytes[13..]);
    let expected = [unmasked(0x01, b"fi"), unmasked(0x00, b"rst"), unmasked(0x80, b"last")];
    assert_eq!(driven.sent, expected.concat());
    assert_eq!(driven.messages, 1);
}

#[test]
fn a_ping_is_answered_with_its_payload_and_a_pong_is_ignored() {
    let mut driven = open();
    driven.receive(&[masked(PONG, b"unasked"), masked(PING, b""), masked(PING, &[7; 125])].concat());
    assert_eq!(driven.sent, [unmasked(PONG, b""), unmasked(PONG, &[7; 125])].concat());
    assert_eq!(driven.messages, 0);
}

#[test]
fn a_cut_control_frame_waits_for_its_rest() {
    let frame = [masked(BINARY, b"before"), masked(PING, &[9; 125])].concat();
    for cut in 13..frame.len() {
        let mut driven = open();
        driven.receive(&frame[..cut]);
        assert_eq!(driven.sent, unmasked(BINARY, b"before"), "cut at {cut}");
        driven.receive(&frame[cut..]);
        assert_eq!(driven.sent, [unmasked(BINARY, b"before"), unmasked(PONG, &[9; 125])].concat(), "cut at {cut}");
    }
}

#[test]
fn the_first_byte_alone_can_be_wrong() {
    for first in [0xc2, 0xa2, 0x92, 0x83, 0x87, 0x8b, 0x8f, 0x08, 0x09, 0x0a, 0x80, 0x00] {
        assert_fails(&[first], 1002);
    }
}

#[test]
fn frames_must_be_masked() {
    assert_fails(&[TEXT, 0x05], 1002);
}

#[test]
fn a_control_frame_of_more_than_125_bytes_fails_by_its_length() {
    assert_fails(&[PING, 0xfe], 1002);
    assert_fails(&[CLOSE, 0xff], 1002);
}

#[test]
fn lengths_must_have_their_shortest_form() {
    assert_fails(&[BINARY, 0xfe, 0, 125], 1002);
    assert_fails(&[BINARY, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 1002);
}

#[test]
fn the_highest_bit_of_a_64_bit_length_must_be_zero() {
    assert_fails(&[BINARY, 0xff, 0x80], 1002);
}

#[test]
fn a_message_must_end_before_another_begins() {
    assert_fails_after(&masked(0x01, b"open"), &[TEXT], 1002);
    assert_fails_after(&masked(0x02, b"open"), &[0x02], 1002);
}

#[test]
fn what_is_valid_before_a_violation_is_echoed() {
    let mut driven = open();
    driven.receive(&[masked(TEXT, b"good"), masked(PING, b"p"), vec![0xff; 9]].concat());
    let good = [unmasked(TEXT, b"good"), unmasked(PONG, b"p")].concat();
    assert!(driven.sent.starts_with(&good));
    assert_eq!(driven.sent[good.len() + 2..good.len() + 4], 1002u16.to_be_bytes());
    assert_eq!((driven.messages, driven.then), (1, Then::Linger));
}

#[test]
fn invalid_utf8_is_not_echoed_and_fails_with_1007() {
    let frame = masked(TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80edited");
    let mut driven = open();
    driven.receive(&frame);
    assert_eq!(driven.sent[..4], [&[CLOSE, 2 + 13][..], &1007u16.to_be_bytes()].concat());
    assert_eq!((driven.messages, driven.then), (0, Then::Linger));
}

#[test]
fn an_impossible_byte_fails_before_its_frame_is_complete() {
    for invalid in [&b"\xf4\x90"[..], b"\xed\xa0", b"\xc0", b"\xf5"] {
        let frame = masked(TEXT, &[invalid, b"and more"].concat());
        let mut driven = open();
        driven.receive(&frame[..6 + invalid.len()]);
        assert_eq!(driven.sent[2..4], 1007u16.to_be_bytes(), "{invalid:x?}");
        assert_eq!(driven.then, Then::Linger);
    }
}

#[test]
fn a_code_point_may_be_cut_between_frames_but_not_at_the_end() {
    let mut driven = open();
    driven.receive(&[masked(0x01, b"\xe2\x82"), masked(0x80, b"\xac")].concat());
    assert_eq!((driven.messages, driven.then), (1, Then::Continue));

    assert_fails_after(b"", &masked(TEXT, b"\xe2\x82"), 1007);
    assert_fails_after(&masked(0x01, b"\xe2\x82"), &masked(0x80, b""), 1007);
}

#[test]
fn binary_messages_may_hold_anything() {
    let mut driven = open();
    driven.receive(&masked(BINARY, b"\xff\xfe\xc0"));
    assert_eq!(driven.sent, unmasked(BINARY, b"\xff\xfe\xc0"));
}

#[test]
fn a_message_beyond_the_limit_fails_from_its_header() {
    let limited = || Driven::open(Settings { max_message_size: 1000, ..Settings::default() });
    let mut driven = limited();
    driven.receive(&masked(BINARY, &[0; 1000]));
    assert_eq!((driven.messages, driven.then), (1, Then::Continue), "the limit itself is within");

    driven.sent.clear();
    driven.receive(&[BINARY, 0xfe, 0x03, 0xe9]);
    assert_eq!(driven.sent[2..4], 1009u16.to_be_bytes(), "without waiting for the masking key");

    let mut driven = limited();
    driven.receive(&[masked(0x01, &[b'x'; 600]), masked(0x80, &[b'y'; 401])].concat());
    assert_eq!(driven.sent[..604], unmasked(0x01, &[b'x'; 600]));
    assert_eq!(driven.sent[606..608], 1009u16.to_be_bytes(), "the sum over the fragments counts");
}

#[test]
fn each_message_has_the_whole_limit() {
    let mut driven = Driven::open(Settings { max_message_size: 1000, ..Settings::default() });
    let fragmented = [masked(0x02, &[0; 400]), masked(0x80, &[0; 600])].concat();
    for _ in 0..3 {
        driven.receive(&masked(TEXT, &[b'x'; 1000]));
        driven.dribble(&fragmented);
    }
    assert_eq!((driven.messages, driven.then), (6, Then::Continue));
}

#[test]
fn control_frames_do_not_count_towards_the_limit() {
    let mut driven = Driven::open(Settings { max_message_size: 10, ..Settings::default() });
    driven.receive(&[masked(0x02, &[0; 10]), masked(PING, &[0; 125]), masked(0x80, b"")].concat());
    assert_eq!((driven.messages, driven.then), (1, Then::Continue));
}

#[test]
fn without_a_limit_the_largest_length_is_accepted() {
    let mut driven = Driven::open(Settings { max_message_size: u64::MAX, ..Settings::default() });
    let largest = [&[BINARY, 0xff][..], &(u64::MAX >> 1).to_be_bytes(), &[0; 4], b"start"].concat();
    driven.receive(&largest);
    assert_eq!(driven.sent, [&[BINARY, 127][..], &(u64::MAX >> 1).to_be_bytes(), b"start"].concat());
}

#[test]
fn a_close_is_answered_with_its_own_payload() {
    for payload in [vec![], close_payload(1000, ""), close_payload(4999, "é"), close_payload(1000, &"x".repeat(123))] {
        let mut driven = open();
        driven.receive(&[masked(TEXT, b"last"), masked(CLOSE, &payload), masked(TEXT, b"too late")].concat());
        assert_eq!(driven.sent, [unmasked(TEXT, b"last"), unmasked(CLOSE, &payload)].concat());
        assert_eq!((driven.then, driven.session.phase()), (Then::Linger, Phase::Closed));
        assert_eq!(driven.messages, 1);
    }
}

#[test]
fn close_codes_are_those_that_may_be_sent() {
    let allowed = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    for code in (0..6000).chain([u16::MAX]) {
        let mut driven = open();
        driven.receive(&masked(CLOSE, &close_payload(code, "")));
        let answer = if allowed(code) { code } else { 1002 };
        assert_eq!(driven.sent[2..4], answer.to_be_bytes(), "{code}");
        assert_eq!(driven.then, if allowed(code) { Then::Close } else { Then::Linger }, "{code}");
    }
}

#[test]
fn half_a_close_code_and_a_reason_that_is_not_utf8_are_violations() {
    assert_fails(&masked(CLOSE, &[3]), 1002);
    assert_fails(&masked(CLOSE, b"\x03\xe8\xc0"), 1007);
    assert_fails(&masked(CLOSE, b"\x03\xe8\xe2\x82"), 1007);
}

/// `valid` is echoed, and `bytes` behind it fail with `code`.
fn assert_fails_after(valid: &[u8], bytes: &[u8], code: u16) {
    let mut driven = open();
    driven.receive(valid);
    driven.sent.clear();
    driven.receive(bytes);
    assert_eq!(driven.sent[2..4], code.to_be_bytes());
    assert_eq!(driven.then, Then::Linger);
}
