//! Compressed messages of the fuzzer's, valid or not, in the fuzzer's reads: what comes back is what was sent, or inflates to
//! the same; and what is refused is what zlib and the standard library do not take either.
#![no_main]

use flate2::{Compress, Compression, FlushCompress};
use libfuzzer_sys::fuzz_target;
use ringecho::protocol::{Cause, Deflate, Event, Session, Settings, Shared};
use ringecho_fuzz::input::Cuts;
use ringecho_fuzz::zlib::{Inflater, State};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
const MAX_MESSAGE_SIZE: u64 = 1 << 20;

// A message of the fuzzer's is compressed here; else it is the compressed bytes themselves.
fuzz_target!(|input: (u8, bool, bool, Cuts, &[u8])| {
    let (mode, is_text, is_message, cuts, bytes) = input;
    let deflate = [Deflate::Pass, Deflate::Verify, Deflate::Recompress][usize::from(mode) % 3];
    let payload = if is_message { compress(bytes) } else { bytes.to_vec() };
    let expected = inflate(&payload, is_text);
    let (echoed, code) = echo(deflate, is_text, &cuts, &payload);
    if deflate == Deflate::Pass && !is_text {
        assert_eq!(echoed.as_deref(), Some(&payload[..]), "binary comes back whatever it is");
        return;
    }
    match (expected, echoed) {
        (Ok(_), Some(echoed)) if deflate != Deflate::Recompress => assert_eq!(echoed, payload),
        (Ok(bytes), Some(echoed)) => assert_eq!(inflate(&echoed, is_text), Ok(bytes)),
        (Err(expected), None) => assert_eq!(code, Some(expected)),
        (expected, echoed) => panic!("{expected:?}, and the server: {echoed:?}, {code:?}"),
    }
});

/// What a message inflates to; or the code that it is to be refused with, by the first mistake in it.
fn inflate(payload: &[u8], is_text: bool) -> Result<Vec<u8>, u16> {
    let payload = [payload, &TAIL].concat();
    let mut inflater = Inflater::new(15);
    let (mut message, mut at) = (Vec::new(), 0);
    loop {
        let mut more = [0; 4096];
        let progress = inflater.inflate(&payload[at..], &mut more);
        at += progress.taken;
        message.extend(&more[..progress.written]);
        let cut = if is_text { std::str::from_utf8(&message).err() } else { None };
        if cut.is_some_and(|error| error.error_len().is_some()) {
            return Err(1007);
        }
        if message.len() as u64 > MAX_MESSAGE_SIZE {
            return Err(1009);
        }
        match progress.state {
            State::Wrong => return Err(1007),
            _ if at == payload.len() && progress.written < more.len() => {
                return if cut.is_some() { Err(1007) } else { Ok(message) };
            }
            State::Ended => inflater.reset(),
            State::Open => {}
        }
    }
}

fn compress(message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(message.len() * 2 + 100);
    Compress::new(Compression::fast(), false)
        .compress_vec(message, &mut payload, FlushCompress::Sync)
        .expect("compressed");
    payload.truncate(payload.len() - TAIL.len());
    payload
}

/// The echo of the message, if it came whole; and the code of the Close frame, if there is one.
fn echo(deflate: Deflate, is_text: bool, cuts: &Cuts, payload: &[u8]) -> (Option<Vec<u8>>, Option<u16>) {
    let mut shared = Shared::new(Settings { deflate, max_message_size: MAX_MESSAGE_SIZE, ..Settings::default() });
    let mut session = Session::new(&shared.settings);
    let _ = session.receive(&mut shared, &mut REQUEST.to_vec());
    let (mut sent, mut code) = (Vec::new(), None);
    let stream = frame(if is_text { 0xc1 } else { 0xc2 }, payload);
    for read in cuts.of(&stream) {
        if code.is_some() {
            break;
        }
        let mut data = read.to_vec();
        let mut next = Some(session.receive(&mut shared, &mut data));
        while let Some(reply) = next {
            assert!(shared.take_work().cost < 1_000_000, "too much at once");
            sent.extend(reply.output.to_vec(&data));
            if let Some(Event::Closed(Cause::Violation(violation))) = reply.event {
                code = Some(violation.into());
            }
            next = session.resume(&mut shared);
        }
    }
    assert_eq!(shared.held() > 0, session.is_inflating());
    (message(&sent), code)
}

/// A masked frame whose key is zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0xff];
    match payload.len() {
        len @ 0..126 => frame[1] = 0x80 | len as u8,
        len @ 126..65_536 => {
            frame[1] = 0xfe;
            frame.extend((len as u16).to_be_bytes());
        }
        len => frame.extend((len as u64).to_be_bytes()),
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The payload of the message that a server has sent, if it has ended.
fn message(mut sent: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    while !sent.is_empty() {
        let (header, len) = match sent[1] {
            126 => (4, usize::from(u16::from_be_bytes([sent[2], sent[3]]))),
            127 => (10, u64::from_be_bytes(*sent[2..].first_chunk().expect("a length")) as usize),
            len => (2, usize::from(len)),
        };
        if sent[0] == 0x88 {
            return None;
        }
        message.extend(&sent[header..header + len]);
        if sent[0] & 0x80 != 0 {
            return Some(message);
        }
        sent = &sent[header + len..];
    }
    None
}
