//! The probe: whether this kernel, as this process may use it, offers what the native engine needs.
//!
//! It does not look at the kernel's version, since distributions port features back, and containers forbid them. It does
//! what a worker does, at small scale.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ringio::{Completion, Pool, PoolShape, Ring, RingOptions, Wait};

use super::operation::Op;
use super::token::{Kind, Token};

/// Time for a receive; far longer than the kernel needs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sets up a small ring with a worker's flags, direct descriptors and provided buffers, and receives as a worker
/// would.
pub(in crate::engine) fn probe() -> io::Result<()> {
    let mut ring = Ring::new(&RingOptions { entries: 8, cq_entries: 16, direct_descriptors: 1 })?;
    if !ringio::ends_closed_sockets()? {
        let why = "io_uring keeps closed connections until older ones end (Linux 6.13 or newer does not)";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let shape = PoolShape { count: 1, size: 4096, incremental: true };
    let pool = ring.add_pool(shape)?;
    receive_two_bytes(&mut ring, &pool)
}

/// Receives twice into the same place: in between, the buffer is rewound.
fn receive_two_bytes(ring: &mut Ring, pool: &Pool) -> io::Result<()> {
    let (mut peer, socket) = UnixStream::pair()?;
    ring.set_descriptor(0, socket.as_fd())?;
    for (byte, poll) in [(b"?", true), (b"!", false)] {
        peer.write_all(byte)?;
        if poll {
            complete(ring, Kind::Ready)?;
        }
        match complete(ring, Kind::Receive)?.piece {
            Some(piece) if piece.bytes() == byte => pool.release(piece),
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring does not receive as it should")),
        }
        pool.publish();
    }
    Ok(())
}

/// Whether a receive from a Unix socket says that the socket holds more (`IORING_CQE_F_SOCK_NONEMPTY`, since Linux 6.17).
pub(super) fn unix_sockets_tell_of_more() -> io::Result<bool> {
    let mut ring = Ring::new(&RingOptions { entries: 8, cq_entries: 16, direct_descriptors: 1 })?;
    let pool = ring.add_pool(PoolShape { count: 1, size: 4096, incremental: false })?;
    let (mut peer, socket) = UnixStream::pair()?;
    ring.set_descriptor(0, socket.as_fd())?;
    peer.write_all(b"?!")?;
    let completion = complete_in_part(&mut ring, Kind::Receive, NonZeroU32::new(1))?;
    let tells = completion.is_socket_nonempty();
    completion.piece.into_iter().for_each(|piece| pool.release(piece));
    Ok(tells)
}

/// The first completion of this operation.
fn complete(ring: &mut Ring, kind: Kind) -> io::Result<Completion> {
    complete_in_part(ring, kind, None)
}

/// The same for a receive of at most so many bytes.
fn complete_in_part(ring: &mut Ring, kind: Kind, at_most: Option<NonZeroU32>) -> io::Result<Completion> {
    let token = Token::of_worker(kind);
    let operation = Op { token, slot: 0, at_most }.submission(|| unreachable!("nothing is sent"));
    ring.submit([operation], Wait { want: 1, min_wait_us: 0, timeout: Some(PATIENCE) })?;
    let mut found = None;
    ring.reap(|completion| {
        if found.is_none() && completion.user_data == token.encode() {
            found = Some(completion);
        }
    });
    match found {
        Some(completion) if completion.result < 0 => Err(io::Error::from_raw_os_error(-completion.result)),
        Some(completion) => Ok(completion),
        None => Err(io::ErrorKind::TimedOut.into()),
    }
}
