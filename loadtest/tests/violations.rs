//! Servers that break the protocol: each is found out, told why and counted, whichever way its bytes came.

mod runner;
mod server;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver, Sender};

use runner::{Outcome, PATIENCE, run_any};
use tungstenite::Message;

/// What a server sends behind its upgrade, how that is called, and the code of the Close that answers it.
const BREACHES: [(&[u8], &str, u16); 15] = [
    (b"\x82\x81\0\0\0\0a", "masked frame from the server", 1002),
    (b"\xc2\x01a", "reserved bit set", 1002),
    (b"\x83\x01a", "reserved opcode", 1002),
    (b"\x8f\x00", "reserved opcode", 1002),
    (b"\x09\x00", "control frame that is fragmented or longer than 125 bytes", 1002),
    (b"\x89\x7e\x00\x7e", "control frame that is fragmented or longer than 125 bytes", 1002),
    (b"\x80\x01a", "continuation of no message, or a new message inside a fragmented one", 1002),
    (b"\x01\x01a\x81\x01a", "continuation of no message, or a new message inside a fragmented one", 1002),
    (b"\x82\x7e\x00\x01a", "length not encoded in the shortest way, or beyond all bounds", 1002),
    (b"\x88\x01\x03", "close frame with half a code, or one that must not be sent", 1002),
    (b"\x88\x02\x03\xed", "close frame with half a code, or one that must not be sent", 1002),
    (b"\x88\x03\x03\xe8\xff", "text, or the reason of a close frame, that is not UTF-8", 1007),
    (b"\x81\x02a\xff", "text, or the reason of a close frame, that is not UTF-8", 1007),
    (b"\x01\x01\xe2\x80\x00", "text, or the reason of a close frame, that is not UTF-8", 1007),
    (b"\x88\x02\x03\xe8\x82\x01a", "data after the server's own close frame", 1002),
];

/// Sends `bytes` behind the upgrade, then waits for the client's Close; reports its code.
fn send_and_listen(stream: impl Read + Write, bytes: &[u8], codes: &Sender<Option<u16>>) -> server::Outcome {
    let mut socket = tungstenite::accept(stream).map_err(|error| error.to_string())?;
    socket.get_mut().write_all(bytes)?;
    socket.get_mut().flush()?;
    let code = loop {
        match socket.read() {
            Ok(Message::Close(close)) => break close.map(|close| close.code.into()),
            Ok(_) => {}
            Err(_) => break None,
        }
    };
    Ok(codes.send(code)?)
}

/// The codes that the four connections' Closes had.
fn four_of(codes: &Receiver<Option<u16>>) -> Vec<Option<u16>> {
    let next = |number| {
        let code = codes.recv_timeout(PATIENCE);
        code.unwrap_or_else(|error| panic!("only {number} of 4 connections have ended: {error} after {PATIENCE:?}"))
    };
    (0..4).map(next).collect()
}

/// Runs four connections against a server that does that.
fn run_against(bytes: &'static [u8]) -> (Outcome, Receiver<Option<u16>>) {
    let (sender, codes) = mpsc::channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || send_and_listen(stream, bytes, &sender));
        }
    });
    (run_any(&[&url]), codes)
}

fn assert_broken(outcome: &Outcome, what: &str) {
    assert_eq!(outcome.code, Some(1), "{what}: {}", outcome.output);
    let violations = &outcome.json["connections"]["violations"];
    assert_eq!(violations.as_array().map(Vec::len), Some(1), "{what}: {}", outcome.output);
    assert_eq!((violations[0]["what"].as_str(), violations[0]["count"].as_u64()), (Some(what), Some(4)));
    assert_eq!(outcome.number("/connections/closed_early") + outcome.number("/connections/failed"), 0, "{what}");
}

#[test]
fn each_breach_is_counted_and_answered_with_its_code() {
    for (bytes, what, code) in BREACHES {
        let (outcome, codes) = run_against(bytes);
        assert_broken(&outcome, what);
        assert_eq!(four_of(&codes), [Some(code); 4], "{bytes:x?}");
    }
}

#[test]
fn through_tls_it_is_the_same() {
    for (bytes, what, code) in [BREACHES[0], BREACHES[12]] {
        let (sender, codes) = mpsc::channel();
        let (address, _) = server::start_tls_with(move |stream| send_and_listen(stream, bytes, &sender));
        let outcome = run_any(&[&format!("wss://{address}/"), "--insecure"]);
        assert_broken(&outcome, what);
        assert_eq!(four_of(&codes), [Some(code); 4], "{bytes:x?}");
    }
}

#[test]
fn a_close_is_answered_with_its_own_code() {
    for (bytes, code) in [(&b"\x88\x02\x03\xe9"[..], 1001), (b"\x88\x06\x0f\xa0busy", 4000), (b"\x88\x00", 1000)] {
        let (outcome, codes) = run_against(bytes);
        assert_eq!(outcome.number("/connections/closed_early"), 4, "{}", outcome.output);
        assert_eq!(four_of(&codes), [Some(code); 4]);
    }
}
