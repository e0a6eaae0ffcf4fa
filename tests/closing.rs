//! The end of a connection: the closing handshake, and what fails a connection with which status code
//! (RFC 6455, sections 5.5.1, 7 and 8.1).

mod common;

use common::MIB;
use common::frames::{
    BINARY, CLOSE, CONTINUATION, FIN, LengthForm, PING, PONG, TEXT, close_frame, close_payload, frame, frame_with,
    masked_header, unmasked_frame,
};
use common::peer::Peer;
use common::server::Server;
use rustix::process::Signal;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message};

const PROTOCOL_ERROR: u16 = 1002;
const INVALID_DATA: u16 = 1007;
const TOO_BIG: u16 = 1009;

/// Sends bytes on a fresh connection and insists on the Close and the orderly end that answer them.
fn assert_fails(server: &Server, what: &str, bytes: &[u8], code: u16) {
    eprintln!("{what}"); // shown only if the test fails: which case it was
    let mut peer = server.open();
    peer.send(bytes);
    peer.expect_close(code);
    peer.expect_end();
}

#[test]
fn close_codes_that_are_echoed() {
    let server = Server::start(&[]);
    let codes = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
    for code in codes {
        for reason in ["", "good bye", "au revoir à bientôt 😀"] {
            let mut peer = server.open();
            peer.send(close_frame(code, reason.as_bytes()));
            let answer = peer.read_frame();
            assert_eq!(answer.first_byte, FIN | CLOSE, "{code} {reason:?}: {answer:?}");
            assert_eq!(answer.payload[..2], code.to_be_bytes(), "{code} {reason:?}: {answer:?}");
            assert!(
                answer.payload.len() == 2 || answer.payload[2..] == *reason.as_bytes(),
                "{code} {reason:?}: {answer:?}"
            );
            peer.expect_end();
        }
    }
}

/// A kernel may keep a socket that is closed until older operations on others have ended.
#[test]
fn connections_that_stay_do_not_keep_others_from_ending() {
    let server = Server::start(&["--workers", "1"]);
    let idle: Vec<Peer> = (0..3).map(|_| server.open()).collect();
    for _ in 0..20 {
        let mut peer = server.open();
        peer.send(close_frame(1000, b""));
        peer.expect_close(1000);
        peer.expect_end();
    }
    for mut peer in idle {
        peer.expect_echo(TEXT, "still there");
    }
}

#[test]
fn close_codes_that_may_not_be_sent() {
    let server = Server::start(&[]);
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        assert_fails(&server, &format!("code {code}"), &close_frame(code, b""), PROTOCOL_ERROR);
        assert_fails(&server, &format!("code {code}, reason"), &close_frame(code, b"reason"), PROTOCOL_ERROR);
    }
}

#[test]
fn close_without_a_code_is_answered_without_a_code() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    peer.send(frame(FIN | CLOSE, b""));
    peer.expect_frame(FIN | CLOSE, b"");
    peer.expect_end();
}

#[test]
fn malformed_close_payloads() {
    let server = Server::start(&[]);
    assert_fails(&server, "half a code", &frame(FIN | CLOSE, &[3]), PROTOCOL_ERROR);
    let reasons: [&[u8]; 4] = [b"\xff", b"cut \xc3", b"\xed\xa0\x80 surrogate", b"overlong \xc0\xaf"];
    for reason in reasons {
        assert_fails(&server, &format!("reason {reason:?}"), &close_frame(1000, reason), INVALID_DATA);
    }
    let longest = close_frame(1000, &[b'r'; 123]);
    assert_fails(&server, "the longest reason", &longest, 1000);
    let too_long = frame(FIN | CLOSE, &close_payload(1000, &[b'r'; 124]));
    assert_fails(&server, "a Close of 126 bytes", &too_long, PROTOCOL_ERROR);
    assert_fails(&server, "a fragmented Close", &frame(CLOSE, &close_payload(1000, b"")), PROTOCOL_ERROR);
}

#[test]
fn close_in_one_byte_pieces() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    for byte in close_frame(1000, b"piece by piece") {
        peer.send([byte]);
    }
    peer.expect_close(1000);
    peer.expect_end();
}

#[test]
fn close_within_a_fragmented_message() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    peer.send([frame(BINARY, b"begun"), close_frame(1001, b"")].concat());
    peer.expect_frame(BINARY, b"begun");
    peer.expect_close(1001);
    peer.expect_end();
}

#[test]
fn tungstenite_closes() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.close(Some(CloseFrame { code: CloseCode::Normal, reason: "done".into() })).expect("sent");
    match client.read() {
        Ok(Message::Close(Some(answer))) => assert_eq!(answer.code, CloseCode::Normal),
        other => panic!("a Close expected, {other:?} received"),
    }
    assert!(matches!(client.read(), Err(Error::ConnectionClosed)));
}

#[test]
fn protocol_violations() {
    let server = Server::start(&[]);
    let key = [1, 2, 3, 4];
    let reserved_opcodes = [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF];
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("unmasked text".into(), unmasked_frame(FIN | TEXT, b"hello")),
        ("unmasked empty text".into(), unmasked_frame(FIN | TEXT, b"")),
        ("unmasked ping".into(), unmasked_frame(FIN | PING, b"hello")),
        ("unmasked Close".into(), unmasked_frame(FIN | CLOSE, &close_payload(1000, b""))),
        ("continuation of nothing".into(), frame(FIN | CONTINUATION, b"hello")),
        ("first fragment of nothing".into(), frame(CONTINUATION, b"hello")),
        ("text within a message".into(), [frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat()),
        ("binary within a message".into(), [frame(TEXT, b"a"), frame(BINARY, b"b")].concat()),
        ("fragmented ping".into(), frame(PING, b"hello")),
        ("fragmented pong".into(), frame(PONG, b"hello")),
        ("ping of 126 bytes".into(), frame(FIN | PING, &[b'p'; 126])),
        ("pong of 65,536 bytes".into(), frame(FIN | PONG, &[b'p'; 65_536])),
        ("16-bit length for 5".into(), frame_with(FIN | TEXT, LengthForm::Bits16, b"hello")),
        ("16-bit length for 125".into(), frame_with(FIN | TEXT, LengthForm::Bits16, &[b'l'; 125])),
        ("64-bit length for 5".into(), frame_with(FIN | TEXT, LengthForm::Bits64, b"hello")),
        ("64-bit length for 65,535".into(), frame_with(FIN | TEXT, LengthForm::Bits64, &[b'l'; 65_535])),
        ("16-bit length for a ping".into(), frame_with(FIN | PING, LengthForm::Bits16, b"hello")),
        ("a length of 2^63".into(), masked_header(FIN | BINARY, 1 << 63, key)),
        ("a length of 2^64 - 1".into(), masked_header(FIN | BINARY, u64::MAX, key)),
    ];
    for bit in [0x40, 0x20, 0x10] {
        for opcode in [TEXT, BINARY, PING, CLOSE] {
            cases.push((format!("reserved bit {bit:#x} on opcode {opcode}"), frame(FIN | bit | opcode, b"")));
        }
        let continued = [frame(TEXT, b""), frame(FIN | bit | CONTINUATION, b"")].concat();
        cases.push((format!("reserved bit {bit:#x} on a continuation"), continued));
    }
    for opcode in reserved_opcodes {
        cases.push((format!("opcode {opcode:#x}"), frame(FIN | opcode, b"hello")));
        cases.push((format!("opcode {opcode:#x}, empty"), frame(FIN | opcode, b"")));
    }
    for (what, bytes) in cases {
        eprintln!("{what}");
        // Alone, and behind messages that must still be echoed.
        for before in [0, 3] {
            let mut peer = server.open();
            peer.send([frame(FIN | BINARY, b"before").repeat(before), bytes.clone()].concat());
            for _ in 0..before {
                peer.expect_frame(FIN | BINARY, b"before");
            }
            expect_failure(&mut peer, PROTOCOL_ERROR);
        }
    }
    server.open().expect_echo(TEXT, "unimpressed");
}

/// A Close frame, possibly behind the echo of what was valid before it, and the orderly end.
fn expect_failure(peer: &mut Peer, code: u16) {
    loop {
        let frame = peer.read_frame();
        if frame.first_byte == FIN | CLOSE {
            assert_eq!(frame.payload.get(..2), Some(&code.to_be_bytes()[..]), "{frame:?}");
            return peer.expect_end();
        }
        assert_eq!(frame.first_byte, TEXT, "only a begun text message is valid in these: {frame:?}");
    }
}

/// A violation within the header is answered at once: the server does not wait for a payload that may never come.
#[test]
fn a_violation_is_answered_before_its_payload_arrives() {
    let server = Server::start(&[]);
    let headers: [&[u8]; 5] =
        [&[FIN | 0x40 | TEXT, 0x85], &[FIN | 0x3, 0x85], &[FIN | TEXT, 0x05], &[PING, 0x85], &[FIN | PING, 0xfe]];
    for header in headers {
        let mut peer = server.open();
        peer.send(header);
        peer.expect_close(PROTOCOL_ERROR);
        peer.expect_end();
    }
}

/// A client that goes on sending must still see the Close frame: a reset on its unread bytes would discard it.
#[test]
fn the_close_frame_survives_whatever_was_sent_behind_the_violation() {
    let server = Server::start(&[]);
    let violation = frame(FIN | 0x3, b"");
    for size in [1, 1000, 100_000, MIB] {
        for round in 0..10 {
            let mut peer = server.open();
            peer.send(&violation);
            if round % 2 == 0 {
                // The server has failed the connection; what follows finds it closing, or closed.
                peer.expect_close(PROTOCOL_ERROR);
                let _ = peer.try_send(vec![b'x'; size]);
            } else {
                let _ = peer.try_send(vec![b'x'; size]);
                peer.expect_close(PROTOCOL_ERROR);
                peer.expect_end();
            }
        }
        let mut peer = server.open();
        peer.send([&violation[..], &vec![b'x'; size]].concat());
        peer.expect_close(PROTOCOL_ERROR);
        peer.expect_end();
    }
}

/// When a client sends the data that gets no answer any more.
#[derive(Clone, Copy, Debug)]
enum Behind {
    /// In the same receive as the Close, as far as it fits.
    AtOnce,
    /// In a segment of its own, which is there when the server answers.
    Next,
    /// When it has the answer.
    Answer,
    /// When it has seen the end of the server's stream.
    End,
}

/// Sends `end`, and `data` behind it. The answer has to come, then FIN, and the server has to take and discard what still
/// comes until the client ends its own side: a reset may destroy the answer on its way (RFC 6455 7.1.1, RFC 9112 9.6).
fn assert_lingers(server: &Server, end: &[u8], data: &[u8], when: Behind, code: u16) {
    eprintln!("{code} with {} bytes behind it: {when:?}", data.len());
    let mut peer = server.open();
    match when {
        Behind::AtOnce => peer.send([end, data].concat()),
        Behind::Next => server.while_stopped(|| {
            peer.send(end);
            peer.send(data);
        }),
        Behind::Answer | Behind::End => peer.send(end),
    }
    peer.expect_close(code);
    if let Behind::Answer = when {
        peer.send(data);
    }
    peer.expect_end();
    if let Behind::End = when {
        peer.send(data);
    }
    peer.await_acknowledgement();
    peer.shut_down_sending();
}

/// Whatever is sent behind this.
fn assert_always_lingers(end: &[u8], code: u16, whens: &[Behind]) {
    let server = Server::start(&["--max-message-size", "1MiB"]);
    for size in [1, 1000, 60_000] {
        // What looks like a message of a MiB, as far as it goes.
        let header = masked_header(FIN | BINARY, MIB as u64, [0; 4]);
        let data = &[header, vec![b'x'; size]].concat()[..size];
        for &when in whens {
            for _ in 0..5 {
                assert_lingers(&server, end, data, when, code);
            }
        }
    }
    server.open().expect_echo(TEXT, "unmoved");
}

/// Whatever is there when the server answers: if nothing is, it closes first (RFC 6455 7.1.1), and what comes after that
/// finds no socket.
#[test]
fn the_answer_to_a_close_survives_whatever_was_sent_behind_it() {
    assert_always_lingers(&close_frame(1000, b"bye"), 1000, &[Behind::AtOnce, Behind::Next]);
}

#[test]
fn the_answer_to_a_violation_survives_whatever_was_sent_behind_it() {
    let whens = [Behind::AtOnce, Behind::Next, Behind::Answer, Behind::End];
    assert_always_lingers(&frame(FIN | 0x3, b""), PROTOCOL_ERROR, &whens);
    assert_always_lingers(&masked_header(FIN | BINARY, 2 * MIB as u64, [0; 4]), TOO_BIG, &whens);
}

/// A proxy that has nothing more to send ends its side at once; what it hears until then goes to its client.
#[test]
fn a_close_with_data_and_the_end_behind_it() {
    let server = Server::start(&[]);
    for size in [0, 1, 1000, 200_000] {
        for cut in [true, false] {
            let mut peer = server.open();
            if cut {
                server.while_stopped(|| {
                    peer.send(close_frame(1000, b"bye"));
                    peer.send(vec![b'x'; size]);
                });
            } else {
                peer.send([close_frame(1000, b"bye"), vec![b'x'; size]].concat());
            }
            peer.shut_down_sending();
            peer.expect_frame(FIN | CLOSE, close_payload(1000, b"bye"));
            peer.expect_end();
            peer.expect_no_reset();
        }
    }
}

/// The answer to the server's own Close, and more behind it.
#[test]
fn data_behind_the_answer_to_a_close() {
    let server = Server::start(&["--drain-timeout", "300"]);
    let mut peers: Vec<Peer> = (0..20).map(|_| server.open()).collect();
    server.signal(Signal::TERM);
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.expect_close(1001);
        let data = vec![b'x'; if index % 2 == 0 { 1000 } else { 200_000 }];
        peer.send([close_frame(1001, b""), data].concat());
        peer.expect_end();
        peer.await_acknowledgement();
    }
    drop(peers);
    assert_eq!(server.wait().code, Some(0));
}

/// The server lingers for its close timeout, not for as long as such a client likes.
#[test]
fn a_close_does_not_hold_the_slot_of_a_client_that_stays() {
    let server = Server::start(&["--workers", "1", "--max-connections", "2", "--when-full", "wait"]);
    let mut stubborn: Vec<Peer> = (0..2).map(|_| server.open()).collect();
    for peer in &mut stubborn {
        peer.send([close_frame(1000, b""), b"more".to_vec()].concat());
        peer.expect_close(1000);
    }
    server.open().expect_echo(TEXT, "a newcomer");
    drop(stubborn);
}

/// Invalid UTF-8 in every form, each at every cut between fragments.
#[test]
fn invalid_utf8() {
    let server = Server::start(&[]);
    let good = "κόσμε".as_bytes();
    let bad: [&[u8]; 9] = [
        b"\xff",             // never valid
        b"\x80",             // a continuation of nothing
        b"\xc3(",            // a character that is not continued
        b"\xc0\x80",         // overlong, two bytes
        b"\xe0\x80\x80",     // overlong, three bytes
        b"\xf0\x80\x80\x80", // overlong, four bytes
        b"\xed\xa0\x80",     // a surrogate
        b"\xf4\x90\x80\x80", // beyond U+10FFFF
        b"\xf8\x88\x80\x80\x80",
    ];
    for bad in bad {
        let whole = [good, bad, b"edited"].concat();
        for cut in 0..=whole.len() {
            eprintln!("{bad:02x?} cut at {cut}");
            let fragments = if cut == whole.len() {
                vec![frame(FIN | TEXT, &whole)]
            } else {
                vec![frame(TEXT, &whole[..cut]), frame(FIN | CONTINUATION, &whole[cut..])]
            };
            let mut peer = server.open();
            peer.send(fragments.concat());
            let echoed = echo_before_close(&mut peer, INVALID_DATA);
            // At most the valid text and the bytes of a character that could still have become valid.
            assert!(whole.starts_with(&echoed), "{bad:02x?} cut at {cut}: {echoed:02x?}");
            let first_invalid = good.len() + bad.len() - 1;
            assert!(echoed.len() <= first_invalid, "{bad:02x?} cut at {cut}: {echoed:02x?}");
        }
    }
}

#[test]
fn text_that_ends_within_a_character() {
    let server = Server::start(&[]);
    for cut in ["\u{e9}", "\u{20ac}", "\u{1f600}"] {
        let cut = &cut.as_bytes()[..cut.len() - 1];
        for bytes in [frame(FIN | TEXT, cut), [frame(TEXT, cut), frame(FIN | CONTINUATION, b"")].concat()] {
            let mut peer = server.open();
            peer.send(bytes);
            assert!(cut.starts_with(&echo_before_close(&mut peer, INVALID_DATA)));
        }
    }
}

/// The payload bytes echoed before the Close frame with this code, and the orderly end.
fn echo_before_close(peer: &mut Peer, code: u16) -> Vec<u8> {
    let mut echoed = Vec::new();
    loop {
        let frame = peer.read_frame();
        if frame.first_byte == FIN | CLOSE {
            assert_eq!(frame.payload.get(..2), Some(&code.to_be_bytes()[..]), "{frame:?}");
            peer.expect_end();
            return echoed;
        }
        assert!(matches!(frame.first_byte, TEXT | CONTINUATION), "no complete message was valid: {frame:?}");
        echoed.extend(frame.payload);
    }
}

/// The server need not have seen the end of the message to know that it will never be valid.
#[test]
fn invalid_utf8_fails_at_once() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    peer.send(masked_header(FIN | TEXT, 1000, [0; 4]));
    peer.send(b"valid so far \xff");
    let echoed = echo_before_close(&mut peer, INVALID_DATA);
    assert!(b"valid so far ".starts_with(&echoed[..]), "{echoed:?}");
}

#[test]
fn binary_messages_need_not_be_utf8() {
    let server = Server::start(&[]);
    server.open().expect_echo(BINARY, b"\xff\xfe\x80");
}

#[test]
fn messages_beyond_the_limit() {
    let server = Server::start(&["--max-message-size", "1000"]);
    let mut peer = server.open();
    peer.expect_echo(BINARY, [b'b'; 1000]);
    peer.expect_echo(TEXT, [b't'; 1000]);
    // Pings have a limit of their own, and fragments count together.
    peer.send([frame(BINARY, &[b'1'; 999]), frame(FIN | PING, &[b'p'; 125])].concat());
    peer.expect_frame(BINARY, [b'1'; 999]);
    peer.expect_frame(FIN | PONG, [b'p'; 125]);
    peer.send(frame(FIN | CONTINUATION, b"2"));
    peer.expect_frame(FIN | CONTINUATION, b"2");

    for opcode in [TEXT, BINARY] {
        let mut peer = server.open();
        peer.send(frame(FIN | opcode, &[b'x'; 1001]));
        peer.expect_close(TOO_BIG);
        peer.expect_end();

        let mut peer = server.open();
        peer.send(frame(opcode, &[b'1'; 600]));
        assert_eq!(peer.read_frame().payload, [b'1'; 600]);
        peer.send(frame(FIN | CONTINUATION, &[b'2'; 401]));
        peer.expect_close(TOO_BIG);
        peer.expect_end();
    }
}

/// The header alone tells, and no memory is set aside for what it promises.
#[test]
fn a_promise_beyond_the_limit_is_refused_at_once() {
    let server = Server::start(&[]);
    for length in [16 * MIB as u64 + 1, 1 << 32, (1 << 63) - 1] {
        let mut peer = server.open();
        peer.send(masked_header(FIN | BINARY, length, [0; 4]));
        peer.expect_close(TOO_BIG);
        peer.expect_end();
    }
    // Without a limit it is a message like any other, as far as it comes.
    let unlimited = Server::start(&["--max-message-size", "0"]);
    let mut peer = unlimited.open();
    peer.send(masked_header(FIN | BINARY, (1 << 63) - 1, [0; 4]));
    peer.send(b"a beginning");
    assert_eq!(peer.read_header(), (FIN | BINARY, (1 << 63) - 1));
    let mut echo = [0; 11];
    peer.read_exact(&mut echo);
    assert_eq!(&echo, b"a beginning");
}
