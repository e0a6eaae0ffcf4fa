//! The hot parts of the server.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use instructions::counted;
use ringecho::Turns;
use ringecho::protocol::{Phase, Session, Shared};

#[path = "../../benches/frames/mod.rs"]
mod frames;

use frames::REQUEST;

const BINARY: u8 = 0x82;
const TEXT: u8 = 0x81;

/// Masked frames, one behind the other.
fn stream(first: u8, size: usize, count: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..count {
        frames::masked(&mut stream, first, &vec![b'x'; size]);
    }
    stream
}

/// A session that is open, and what it is going to receive.
struct Open {
    shared: Shared,
    session: Session,
    received: Vec<u8>,
}

fn open(first: u8, size: usize, count: usize) -> Open {
    let mut shared = Shared::default();
    let mut session = Session::new(&shared.settings);
    let _ = session.receive(&mut shared, &mut REQUEST.to_vec());
    assert_eq!(session.phase(), Phase::Open);
    Open { shared, session, received: stream(first, size, count) }
}

#[library_benchmark]
#[bench::binary_128(args = (BINARY, 128, 1), setup = open, config = counted(461))]
#[bench::binary_128_by_16(args = (BINARY, 128, 16), setup = open, config = counted(4_586))]
#[bench::text_128(args = (TEXT, 128, 1), setup = open, config = counted(508))]
#[bench::binary_64k(args = (BINARY, 65_536, 1), setup = open, config = counted(24_988))]
fn transform(mut open: Open) -> Open {
    let reply = open.session.receive(&mut open.shared, black_box(&mut open.received));
    assert!(reply.messages > 0);
    let _ = black_box(reply);
    open
}

fn request() -> (Shared, Vec<u8>) {
    (Shared::default(), REQUEST.to_vec())
}

#[library_benchmark]
#[bench::browser(setup = request, config = counted(17_466))]
fn handshake(request: (Shared, Vec<u8>)) -> (Shared, Vec<u8>, Session) {
    let (mut shared, mut bytes) = request;
    let mut session = Session::new(&shared.settings);
    let _ = black_box(session.receive(&mut shared, black_box(&mut bytes)));
    (shared, bytes, session)
}

/// Connections that have had some turns: bulk senders are known as such.
fn turns(connections: u32, size: usize, frames: usize) -> Turns {
    let mut turns = Turns::new(connections, REQUEST, stream(BINARY, size, frames));
    for now in 0..3 {
        turns.run(now);
    }
    turns
}

#[library_benchmark]
#[bench::interactive_64(args = (64, 128, 1), setup = turns, config = counted(51_006))]
#[bench::bulk_64(args = (64, 128, 512), setup = turns, config = counted(212_988))]
fn scheduler(mut turns: Turns) -> Turns {
    assert!(black_box(turns.run(3)) > 0);
    turns
}

library_benchmark_group!(name = hot; benchmarks = transform, handshake, scheduler);

main!(library_benchmark_groups = hot);
