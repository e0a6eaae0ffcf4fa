//! Memory of a session beside itself, by a counting allocator. Of an idle one: none, whatever was negotiated and exchanged before. So
//! an idle connection costs its entry in the table (`connection/table.rs`: at most 56 bytes).

#[path = "../loadtest/src/counting.rs"]
mod counting;

use counting::{Counting, live_bytes, taken_bytes};
use flate2::{Compress, Compression, FlushCompress};
use ringecho::Deflate;
use ringecho::protocol::{Session, Settings, Shared};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SESSIONS: usize = 1000;
const RSV1: u8 = 0x40;

/// A session of a client that has offered compression, has sent messages of all kinds, cut anywhere, and is idle now.
fn idle_session(settings: &Settings, shared: &mut Shared) -> Session {
    let mut session = Session::new(settings);
    let request = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let answer = String::from_utf8(exchange(&mut session, shared, request)).expect("HTTP");
    assert_eq!(answer.contains("permessage-deflate"), settings.deflate != Deflate::Off, "{answer}");
    let (text, is_compressed) = (b"some text, and some more text", settings.deflate != Deflate::Off);
    let mut messages = vec![frame(0x81, text), frame(0x82, text)];
    if is_compressed {
        messages.extend([frame(0x81 | RSV1, &compress(text)), frame(0x82 | RSV1, &compress(text))]);
    }
    let messages = messages.concat();
    for size in [1, 7, messages.len()] {
        let echo: usize = messages.chunks(size).map(|bytes| exchange(&mut session, shared, bytes).len()).sum();
        assert!(echo > text.len(), "{echo} bytes come back");
    }
    session
}

/// What a session sends when it has received this.
fn exchange(session: &mut Session, shared: &mut Shared, input: &[u8]) -> Vec<u8> {
    let mut input = input.to_vec();
    let mut sent = session.receive(shared, &mut input).output.to_vec(&input);
    while let Some(reply) = session.resume(shared) {
        sent.extend(reply.output.head);
    }
    sent
}

/// A client's frame, under a key of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126, "a short frame");
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

fn compress(message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(200);
    Compress::new(Compression::new(6), false)
        .compress_vec(message, &mut payload, FlushCompress::Sync)
        .expect("a compressor takes all");
    // The last four bytes are known to the other side.
    payload.truncate(payload.len() - 4);
    payload
}

/// Bytes that so many idle sessions keep, beside themselves and what their worker's sessions share.
fn kept(settings: &Settings) -> isize {
    let mut shared = Shared::new(settings.clone());
    let mut sessions = Vec::with_capacity(SESSIONS);
    // It fills the pool.
    let first = idle_session(settings, &mut shared);
    let before = live_bytes();
    sessions.extend((0..SESSIONS).map(|_| idle_session(settings, &mut shared)));
    let kept = live_bytes() - before;
    for mut session in sessions.into_iter().chain([first]) {
        session.release(&mut shared);
    }
    assert_eq!(shared.held(), 0);
    kept
}

#[test]
fn an_idle_session_that_has_agreed_on_compression_keeps_nothing() {
    for deflate in [Deflate::Off, Deflate::Pass, Deflate::Verify, Deflate::Recompress] {
        assert_eq!(kept(&Settings { deflate, ..Settings::default() }), 0, "{deflate:?}");
    }
}

/// Messages that may need those before have their price.
#[test]
fn an_idle_session_with_context_keeps_an_inflater() {
    let settings = Settings { deflate: Deflate::Pass, has_deflate_context: true, ..Settings::default() };
    let each = kept(&settings) / SESSIONS as isize;
    assert!((32 << 10..60 << 10).contains(&each), "{each} bytes");
}

/// Compressed input that takes many turns is kept where it is; copying the rest in each turn took a worker more time than
/// inflating did.
#[test]
fn input_that_waits_is_copied_once() {
    let settings = Settings { deflate: Deflate::Pass, ..Settings::default() };
    let mut shared = Shared::new(settings.clone());
    let mut session = idle_session(&settings, &mut shared);
    let bomb = compress(&vec![0; 64 << 10]);
    let mut input = frame(0x81 | RSV1, &bomb).repeat(2000);
    let before = taken_bytes();
    let mut echoed = session.receive(&mut shared, &mut input).output.len();
    let mut turns = 0;
    while let Some(reply) = session.resume(&mut shared) {
        echoed += reply.output.len();
        turns += 1;
    }
    let taken = (taken_bytes() - before) as usize;
    assert!(turns > 200, "{turns} turns");
    assert!(echoed > 2000 * bomb.len(), "{echoed} bytes come back");
    assert!(taken < 6 * input.len(), "{taken} bytes were taken for {} of input", input.len());
    session.release(&mut shared);
}
