//! Whether this kernel, as this process may use it, offers what the native engine needs.
//!
//! Not its version: distributions port features back, and containers forbid them. So the probe does what a worker
//! does, in small.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::{Probe, opcode};

use super::buffers::{BufferPool, PoolShape};
use super::connections::Op;
use super::ring::{Ring, RingOptions, Wait};
use super::submit::{self, BUFFER_GROUP};
use super::token::{Kind, Token};

/// How long the kernel may take for a receive; far longer than it needs.
const PATIENCE: Duration = Duration::from_secs(5);

/// The operations of workers and acceptor.
const OPERATIONS: [u8; 8] = [
    opcode::Accept::CODE,
    opcode::Recv::CODE,
    opcode::Send::CODE,
    opcode::PollAdd::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Shutdown::CODE,
    opcode::Close::CODE,
    opcode::MsgRingSendFd::CODE,
];

/// Sets up a small ring with a worker's flags, direct descriptors and provided buffers, and receives as a worker
/// would.
pub(in crate::engine) fn probe() -> io::Result<()> {
    let mut ring = Ring::new(&RingOptions { entries: 8, cq_entries: 16, direct_descriptors: 1 })?;
    let mut offered = Probe::new();
    ring.submitter().register_probe(&mut offered)?;
    if let Some(code) = OPERATIONS.into_iter().find(|&code| !offered.is_supported(code)) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("io_uring has no operation {code}")));
    }
    let shape = PoolShape { count: 1, size: 4096, incremental: true };
    let mut pool = BufferPool::new(&ring, BUFFER_GROUP, shape)?;
    let outcome = receive_two_bytes(&mut ring, &mut pool);
    // The ring goes first: until then the kernel may write to the pool.
    drop(ring);
    outcome
}

/// Twice into the same place: between the two, the buffer is rewound.
fn receive_two_bytes(ring: &mut Ring, pool: &mut BufferPool) -> io::Result<()> {
    let (mut peer, socket) = UnixStream::pair()?;
    ring.submitter().register_files_update(0, &[socket.as_raw_fd()])?;
    for (byte, poll) in [(b"?", true), (b"!", false)] {
        peer.write_all(byte)?;
        if poll {
            complete(ring, Kind::Ready, Op::Poll { slot: 0 })?;
        }
        let (result, flags) = complete(ring, Kind::Receive, Op::Receive { slot: 0, at_most: None })?;
        match pool.take(result, flags) {
            Some(piece) if pool.bytes(piece) == byte => pool.release(piece.buffer),
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring does not receive as it should")),
        }
        pool.publish();
    }
    Ok(())
}

/// The first completion of this operation: result and flags.
fn complete(ring: &mut Ring, kind: Kind, op: Op) -> io::Result<(i32, u32)> {
    let token = Token::of_worker(kind);
    // SAFETY: names no memory but the pool, which outlives the ring.
    unsafe { ring.push(&submit::entry(token, op)) };
    ring.submit_and_wait(Wait { want: 1, min_wait_us: 0, timeout: Some(PATIENCE) })?;
    let completion = ring.completions().find(|completion| Token::decode(completion.user_data()) == token);
    match completion.map(|completion| (completion.result(), completion.flags())) {
        Some((result, _)) if result < 0 => Err(io::Error::from_raw_os_error(-result)),
        Some(completed) => Ok(completed),
        None => Err(io::ErrorKind::TimedOut.into()),
    }
}
