//! When the kernel received what a receive brings.
//!
//! An echo has come back when the kernel has it, not when this thread gets round to looking: so the thread may look at
//! several together without making their latencies longer, and what it does meanwhile does not count as the server's.
//! The kernel tells the time of the last byte (`SO_TIMESTAMPNS`, socket(7)) in front of the bytes, in the same buffer.

use std::time::Duration;

use io_uring::types::RecvMsgOut;
use ringecho::engine::uring::buffers::Piece;
use rustix::time::{ClockId, clock_gettime};

/// A control message with a time in it: its header, seconds and nanoseconds.
const CONTROL: usize = size_of::<libc::cmsghdr>() + size_of::<libc::timespec>();

/// What the kernel writes in front of the bytes.
pub(super) const FRONT: usize = size_of::<io_uring_recvmsg_out>() + CONTROL;

/// As in `linux/io_uring.h`; the crate has it only inside of [`RecvMsgOut`].
#[allow(non_camel_case_types)]
type io_uring_recvmsg_out = [u32; 4];

/// How stamped receives are asked for and read.
pub(super) struct Stamps {
    /// What a receive is to bring besides bytes. Boxed, because the kernel reads it where it is.
    header: Box<libc::msghdr>,
    /// The wall clock's time of this loop turn, which stamps are times of.
    wall_ns: u64,
    /// How long the last turn was.
    turn_ns: u64,
}

impl Stamps {
    pub(super) fn new() -> Self {
        // SAFETY: all-zero bytes are a valid `msghdr`: integers, and raw pointers, which may be null.
        let mut header: Box<libc::msghdr> = unsafe { Box::new(std::mem::zeroed()) };
        header.msg_controllen = CONTROL as _;
        Self { header, wall_ns: 0, turn_ns: 0 }
    }

    pub(super) fn header(&self) -> &libc::msghdr {
        &self.header
    }

    /// A new loop turn. To be called before any other clock is read: a pause between the two must not make echoes older.
    pub(super) fn look_at_the_clock(&mut self) {
        self.wall_ns = time_of(ClockId::Realtime).as_nanos() as u64;
    }

    /// The turn before it has taken so long.
    pub(super) fn bound_ages(&mut self, turn_ns: u64) {
        self.turn_ns = turn_ns;
    }

    /// The part of a receive's `piece` that the server has sent, and how long ago the kernel received it.
    #[inline]
    pub(super) fn read(&self, piece: Piece, bytes: &[u8]) -> (Piece, u64) {
        let Ok(out) = RecvMsgOut::parse(bytes, &self.header) else { return (Piece { len: 0, ..piece }, 0) };
        let payload = Piece { offset: piece.offset + FRONT as u32, len: out.payload_data().len() as u32, ..piece };
        // A wall clock that has been set meanwhile: what is in the future has just arrived. And no age beyond the turn's:
        // what was readable before the turn would have been read then. A stamp is that of the last segment in the stream's
        // order; where one before it was lost and came later, the stamp is too old.
        let age_ns =
            stamp_ns(out.control_data()).map_or(0, |stamp_ns| self.wall_ns.saturating_sub(stamp_ns)).min(self.turn_ns);
        (payload, age_ns)
    }
}

/// The time in a control message. There is none if the kernel has only begun to note times.
#[inline]
fn stamp_ns(control: &[u8]) -> Option<u64> {
    let control: &[u8; CONTROL] = control.try_into().ok()?;
    let kind = i32::from_ne_bytes(*control[12..].first_chunk()?);
    let seconds = u64::from_ne_bytes(*control[16..].first_chunk()?);
    let nanoseconds = u64::from_ne_bytes(*control[24..].first_chunk()?);
    (kind == libc::SCM_TIMESTAMPNS).then_some(seconds * 1_000_000_000 + nanoseconds)
}

/// What `clock` says.
pub(super) fn time_of(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer as the kernel fills it: lengths, control message, payload.
    fn received(kind: i32, at: Duration, payload: &[u8]) -> Vec<u8> {
        let lengths = [0, CONTROL as u32, payload.len() as u32, 0].map(u32::to_ne_bytes).concat();
        let header =
            [CONTROL.to_ne_bytes(), [libc::SOL_SOCKET.to_ne_bytes(), kind.to_ne_bytes()].concat().try_into().unwrap()];
        let time = [at.as_secs(), u64::from(at.subsec_nanos())].map(u64::to_ne_bytes).concat();
        [lengths, header.concat(), time, payload.to_vec()].concat()
    }

    #[test]
    fn the_payload_is_found_and_its_age() {
        let mut stamps = Stamps::new();
        stamps.wall_ns = 5_000_000_300;
        stamps.bound_ages(1000);
        let at = Duration::new(5, 100);
        let piece = |bytes: &[u8]| Piece { buffer: 3, offset: 1000, len: bytes.len() as u32 };
        let bytes = received(libc::SCM_TIMESTAMPNS, at, b"echo");
        let payload = Piece { buffer: 3, offset: 1000 + FRONT as u32, len: 4 };
        assert_eq!(stamps.read(piece(&bytes), &bytes), (payload, 200));
        assert_eq!(bytes[FRONT..], *b"echo");
        stamps.bound_ages(150);
        assert_eq!(stamps.read(piece(&bytes), &bytes), (payload, 150), "it was not there before the turn");
        let from_the_future = received(libc::SCM_TIMESTAMPNS, at * 2, b"echo");
        assert_eq!(stamps.read(piece(&bytes), &from_the_future), (payload, 0));
        let without_stamp = received(libc::SCM_RIGHTS, at, b"echo");
        assert_eq!(stamps.read(piece(&bytes), &without_stamp), (payload, 0));
        let at_the_end = received(libc::SCM_TIMESTAMPNS, at, b"");
        assert_eq!(stamps.read(piece(&at_the_end), &at_the_end).0.len, 0);
    }
}
