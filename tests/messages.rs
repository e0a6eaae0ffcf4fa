//! Echoes of messages of many shapes, with fragments, and control frames between them.

mod common;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;

use common::frames::{BINARY, CONTINUATION, FIN, PING, PONG, TEXT, close_frame, frame};
use common::peer::{Frame, full_duplex};
use common::server::Server;
use common::{KIB, Random, pattern, pattern_text};
use rustix::process::Signal;
use socket2::SockRef;
use tungstenite::Message;

/// Around each change of the length's encoding and around likely buffer sizes. Larger ones: `streaming.rs`.
const LENGTHS: [usize; 13] = [0, 1, 2, 125, 126, 127, 4095, 4096, 65_535, 65_536, 65_537, 256 * KIB, 256 * KIB + 1];

#[test]
fn messages_of_every_length() {
    let server = Server::start(&[]);
    let mut client = server.client();
    for length in LENGTHS {
        for message in [Message::binary(pattern(7, length)), Message::text(pattern_text(7, length))] {
            client.send(message.clone()).expect("sent");
            assert!(client.read().expect("an echo") == message, "{length} bytes came back different");
        }
    }
}

#[test]
fn every_payload_byte_value() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    let all_values: Vec<u8> = (0..=255).collect();
    peer.expect_echo(BINARY, &all_values);
}

#[test]
fn ten_thousand_frames_in_one_write() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    let mut random = Random::new(10_000);
    let payloads: Vec<Vec<u8>> = (0..10_000).map(|index| pattern(index, random.below(200))).collect();
    let everything: Vec<u8> = payloads.iter().flat_map(|payload| frame(FIN | BINARY, payload)).collect();
    peer.while_sending(&everything, |peer| {
        for (index, payload) in payloads.into_iter().enumerate() {
            assert_eq!(peer.read_frame(), Frame::new(FIN | BINARY, payload), "frame {index}");
        }
    });
}

#[test]
fn small_frames_cut_into_random_reads() {
    let server = Server::start(&[]);
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut peer = server.open();
        let payloads: Vec<String> = (0..50).map(|index| pattern_text(index, random.below(300))).collect();
        let everything: Vec<u8> = payloads.iter().flat_map(|payload| frame(FIN | TEXT, payload.as_bytes())).collect();
        let mut rest = &everything[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(1 + random.below(rest.len().min(40)));
            peer.send(piece);
            rest = behind;
        }
        for (index, payload) in payloads.into_iter().enumerate() {
            assert_eq!(peer.read_message(), Frame::new(FIN | TEXT, payload), "seed {seed}, message {index}");
        }
    }
}

#[test]
fn text_cut_within_its_characters() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    let text = "é→😀𝄞: each cut between two bytes of these";
    let whole = frame(FIN | TEXT, text.as_bytes());
    for cut in 1..whole.len() {
        peer.send(&whole[..cut]);
        // An event that proves nothing about the server's reads; the many cuts are what makes it likely to see some.
        thread::yield_now();
        peer.send(&whole[cut..]);
        assert_eq!(peer.read_message(), Frame::new(FIN | TEXT, text), "cut after {cut} bytes");
    }
}

#[test]
fn binary_fragments_come_back_as_they_were_sent() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    let fragments = [
        (BINARY, pattern(1, 10)),
        (CONTINUATION, pattern(2, 0)),
        (CONTINUATION, pattern(3, 70_000)),
        (CONTINUATION, pattern(4, 1)),
        (FIN | CONTINUATION, pattern(5, 126)),
    ];
    for (first_byte, payload) in &fragments {
        peer.send(frame(*first_byte, payload));
    }
    for (first_byte, payload) in fragments {
        assert_eq!(peer.read_frame(), Frame::new(first_byte, payload));
    }
}

#[test]
fn text_fragments_may_cut_characters() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    let text = "a😀b𝄞c→dée";
    for byte in text.as_bytes() {
        let first_byte = if *byte == b'a' { TEXT } else { CONTINUATION };
        peer.send(frame(first_byte, &[*byte]));
    }
    peer.send(frame(FIN | CONTINUATION, b""));
    assert_eq!(peer.read_message(), Frame::new(FIN | TEXT, text));
}

#[test]
fn pings_between_fragments_are_answered_in_order() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    let sent = [
        frame(BINARY, b"one"),
        frame(FIN | PING, b""),
        frame(CONTINUATION, b"two"),
        frame(FIN | PING, b"first"),
        frame(FIN | PING, b"second"),
        frame(FIN | PONG, b"nobody asked"),
        frame(FIN | CONTINUATION, b"three"),
    ];
    let expected = [
        (BINARY, &b"one"[..]),
        (FIN | PONG, b""),
        (CONTINUATION, b"two"),
        (FIN | PONG, b"first"),
        (FIN | PONG, b"second"),
        (FIN | CONTINUATION, b"three"),
    ];
    // All in one segment, then frame by frame.
    peer.send(sent.concat());
    for (first_byte, payload) in expected {
        peer.expect_frame(first_byte, payload);
    }
    let mut expected = expected.into_iter();
    for bytes in sent {
        let is_pong = bytes[0] == FIN | PONG;
        peer.send(bytes);
        if !is_pong {
            let (first_byte, payload) = expected.next().expect("an answer to each");
            peer.expect_frame(first_byte, payload);
        }
    }
}

#[test]
fn pings_of_every_length() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    for length in 0..=125 {
        let payload = pattern(3, length);
        peer.send(frame(FIN | PING, &payload));
        peer.expect_frame(FIN | PONG, payload);
    }
}

#[test]
fn pings_cut_anywhere() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    for byte in [frame(FIN | PING, b"a ping in pieces"), frame(FIN | TEXT, b"and text")].concat() {
        peer.send([byte]);
    }
    peer.expect_frame(FIN | PONG, b"a ping in pieces");
    assert_eq!(peer.read_message(), Frame::new(FIN | TEXT, "and text"));
}

#[test]
fn unasked_pongs_are_ignored() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    for length in [0, 1, 125] {
        peer.send(frame(FIN | PONG, &pattern(9, length)));
    }
    peer.synchronize();
}

/// A client that has nothing more to send still wants its echoes.
#[test]
fn half_close() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    let payloads: Vec<Vec<u8>> = (0..100).map(|index| pattern(index, 1000)).collect();
    peer.send(payloads.iter().flat_map(|payload| frame(FIN | BINARY, payload)).collect::<Vec<u8>>());
    peer.shut_down_sending();
    for payload in payloads {
        assert!(peer.read_message() == Frame::new(FIN | BINARY, payload), "the echo differs");
    }
    peer.expect_end();
}

/// The same with more than the socket buffers hold: the end comes after the backlog, not instead of it.
#[test]
fn half_close_behind_a_backlog() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    let payload = pattern(5, 256 * KIB);
    let bytes = frame(FIN | BINARY, &payload).repeat(200);
    let stream = peer.socket().try_clone().expect("a descriptor");
    let send = |mut sender: TcpStream| {
        sender.write_all(&bytes).expect("the server reads");
        sender.shutdown(Shutdown::Write).expect("a connected socket");
    };
    full_duplex(&stream, send, || {
        for index in 0..200 {
            assert!(peer.read_message() == Frame::new(FIN | BINARY, &payload[..]), "message {index} differs");
        }
        peer.expect_end();
    });
}

#[test]
fn half_close_within_a_frame() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    let whole = frame(FIN | BINARY, &pattern(1, 1000));
    peer.send(frame(FIN | BINARY, b"whole"));
    peer.send(&whole[..500]);
    peer.shut_down_sending();
    peer.expect_frame(FIN | BINARY, b"whole");
    // What there is of the cut frame may be echoed; that the connection ends is what counts.
    peer.read_to_end().expect("an orderly end");
}

#[test]
fn resets_within_a_frame_leave_others_alone() {
    let server = Server::start(&["--workers", "1"]);
    let mut bystander = server.open();
    let whole = frame(FIN | BINARY, &pattern(1, 100 * KIB));
    for cut in [1, 2, 5, 13, 14, 15, 1000, 50 * KIB, whole.len()] {
        let mut peer = server.open();
        peer.send(&whole[..cut]);
        bystander.expect_echo(TEXT, "before");
        peer.reset();
        bystander.expect_echo(TEXT, "after");
    }
    // Once more with the echo unread and still being sent.
    let mut peer = server.open();
    peer.send(frame(FIN | BINARY, &pattern(2, 32 * KIB)).repeat(10));
    peer.reset();
    bystander.expect_echo(BINARY, pattern(3, 100 * KIB));
    server.open().expect_echo(TEXT, "a newcomer");
}

/// What it is, what is sent with a mark behind each part, and the messages that this makes.
type MarkedCase<'a> = (&'a str, &'a [&'a [u8]], &'a [&'a [u8]]);

/// Urgent data (`MSG_OOB`) is no part of the stream, but a receive ends at its mark, with more behind it.
#[test]
fn an_urgent_mark_is_not_the_end_of_what_can_be_received() {
    let server = Server::start(&["--workers", "1"]);
    let large = pattern(1, 20 * KIB);
    let cut_frame = frame(FIN | BINARY, &large);
    let (head, rest) = cut_frame.split_at(10 * KIB);
    let cases: [MarkedCase; 3] = [
        ("between messages", &[&frame(FIN | BINARY, b"one"), &frame(FIN | BINARY, b"two")], &[b"one", b"two"]),
        ("before the first", &[b"", &frame(FIN | BINARY, b"one")], &[b"one"]),
        ("within a message", &[head, rest], &[&large]),
    ];
    for (what, parts, messages) in cases {
        eprintln!("{what}");
        let mut peer = server.open();
        // All of it is there before the server looks, and nothing comes later: there is no second event.
        server.signal(Signal::STOP);
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                SockRef::from(peer.socket()).send_out_of_band(b"!").expect("room for a byte");
            }
            peer.send(part);
        }
        peer.await_acknowledgement();
        server.signal(Signal::CONT);
        for message in messages {
            assert!(peer.read_message() == Frame::new(FIN | BINARY, *message), "{what}");
        }
        peer.expect_echo(BINARY, b"and it goes on");
    }
}

#[test]
fn many_clients_at_once() {
    let server = Server::start(&[]);
    thread::scope(|scope| {
        for index in 0..16 {
            let server = &server;
            scope.spawn(move || {
                let mut random = Random::new(index);
                let mut client = server.client();
                for round in 0..100 {
                    let message = Message::binary(pattern(index * 1000 + round, random.below(20_000)));
                    client.send(message.clone()).expect("sent");
                    assert!(client.read().expect("an echo") == message, "client {index}, round {round}");
                }
            });
        }
    });
}

#[test]
fn a_message_behind_a_close_frame_is_not_echoed() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    peer.send([frame(FIN | TEXT, b"before"), close_frame(1000, b"bye"), frame(FIN | TEXT, b"after")].concat());
    peer.expect_frame(FIN | TEXT, b"before");
    peer.expect_close(1000);
    peer.expect_end();
}
