//! The same in records of TLS, where what is inflated, and what waits for that, is opened before and sealed behind it.

use std::io::{Read, Write};

use flate2::{Decompress, FlushDecompress};
use rustls::{SupportedProtocolVersion, version};

use super::common::frames::{BINARY, CLOSE, FIN, TEXT, close_frame, close_payload, frame};
use super::common::peer::UPGRADE;
use super::common::server::{Server, command};
use super::common::tls::{Client, Stream};
use super::common::{KIB, MIB, pattern, pattern_text};
use super::{BROWSER, RSV1, STATELESS, TAIL, compress};

fn serve(mode: &str) -> Server {
    Server::launch(command(&["serve", "--listen", "tls:127.0.0.1:0", "--workers", "1", "--deflate", mode]))
}

/// A client that has agreed on compression, in which no message needs another.
fn open(server: &Server, version: &'static SupportedProtocolVersion) -> Stream {
    let mut stream = Client::new(version).stream(server.address());
    let offer = format!("\r\nSec-WebSocket-Extensions: {BROWSER}\r\n\r\n");
    stream.write_all(UPGRADE.replace("\r\n\r\n", &offer).as_bytes()).expect("the server reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).expect("HTTP");
    assert!(answer.contains(&format!("Sec-WebSocket-Extensions: {STATELESS}\r\n")), "{answer}");
    stream
}

fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(8 * MIB);
    Decompress::new(false)
        .decompress_vec(&[payload, &TAIL].concat(), &mut message, FlushDecompress::None)
        .expect("a valid stream");
    message
}

/// The next message or control frame, whatever its fragments: its first byte without FIN, and its payload.
fn read_message(stream: &mut Stream) -> (u8, Vec<u8>) {
    let (mut opening, mut message) = (None, Vec::new());
    loop {
        let (first, payload) = read_frame(stream);
        message.extend(payload);
        let opening = *opening.get_or_insert(first & !FIN);
        if first & FIN != 0 {
            return (opening, message);
        }
    }
}

fn read_frame(stream: &mut Stream) -> (u8, Vec<u8>) {
    let (mut start, mut length) = ([0; 2], [0; 8]);
    stream.read_exact(&mut start).expect("a frame");
    match start[1] {
        126 => stream.read_exact(&mut length[6..]).expect("its length"),
        127 => stream.read_exact(&mut length).expect("its length"),
        short => length[7] = short,
    }
    let mut payload = vec![0; u64::from_be_bytes(length) as usize];
    stream.read_exact(&mut payload).expect("its payload");
    (start[0], payload)
}

/// Inflated in a turn and in several, with plain messages between and an end behind.
#[test]
fn compressed_messages_through_tls() {
    for (mode, version) in [
        ("pass", &version::TLS12),
        ("pass", &version::TLS13),
        ("verify", &version::TLS13),
        ("recompress", &version::TLS12),
        ("recompress", &version::TLS13),
    ] {
        let server = serve(mode);
        let mut stream = open(&server, version);
        let messages = [
            (TEXT, pattern_text(1, 20 * KIB).into_bytes()),
            (BINARY, pattern(2, 100 * KIB)),
            (TEXT, vec![b' '; 4 * MIB]),
            (BINARY, vec![7; 4 * MIB]),
        ];
        for (opcode, message) in &messages {
            stream.write_all(&frame(FIN | RSV1 | opcode, &compress(message))).expect("the server reads");
            stream.write_all(&frame(FIN | TEXT, b"plain")).expect("the server reads");
        }
        stream.write_all(&close_frame(1000, b"bye")).expect("the server reads");
        for (opcode, message) in &messages {
            let (opening, payload) = read_message(&mut stream);
            assert_eq!(opening, RSV1 | opcode, "{mode} {version:?}");
            assert!(inflate(&payload) == *message, "{mode} {version:?}: {} bytes came back different", message.len());
            assert_eq!(read_message(&mut stream), (TEXT, b"plain".to_vec()), "{mode} {version:?}");
        }
        assert_eq!(read_message(&mut stream), (CLOSE, close_payload(1000, b"bye")), "{mode} {version:?}");
        // An end without a goodbye would be an error.
        assert_eq!(stream.read_to_end(&mut Vec::new()).expect("a goodbye"), 0);
    }
}

/// It is echoed, and the server's goodbye comes behind it.
#[test]
fn what_waits_of_a_client_that_has_ended_its_side_of_tls() {
    for version in [&version::TLS12, &version::TLS13] {
        let server = serve("pass");
        let mut stream = open(&server, version);
        let bomb = vec![b' '; 4 * MIB];
        let sent = [frame(FIN | RSV1 | TEXT, &compress(&bomb)), frame(FIN | TEXT, b"last")].concat();
        stream.write_all(&sent).expect("the server reads");
        stream.conn.send_close_notify();
        stream.flush().expect("the server reads");
        let (opening, payload) = read_message(&mut stream);
        assert!(opening == RSV1 | TEXT && inflate(&payload) == bomb, "{version:?}");
        assert_eq!(read_message(&mut stream), (TEXT, b"last".to_vec()), "{version:?}");
        assert_eq!(stream.read_to_end(&mut Vec::new()).expect("a goodbye"), 0, "{version:?}");
    }
}
