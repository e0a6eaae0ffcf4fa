//! Time stamps: when the kernel received the bytes of a receive.
//!
//! An echo counts as received when the kernel has it, not when this thread reads it: so the thread may read several together
//! without lengthening their latencies, and its own delays do not count as the server's. The kernel reports the time of the
//! last byte (`SO_TIMESTAMPNS`, socket(7)) beside the bytes.

use std::time::Duration;

use ringio::RECEIVES_MAX;
use rustix::time::{ClockId, clock_gettime};

/// A control message with a time in it: its header, seconds and nanoseconds.
const CONTROL: usize = size_of::<libc::cmsghdr>() + size_of::<libc::timespec>();

/// The memory for receive time stamps.
pub(super) struct Stamps {
    /// One for each receive of a turn. Boxed, because the kernel writes to it where it is.
    stamps: Box<[Stamp]>,
    /// The wall clock's time of this loop turn, which stamps are times of.
    wall_ns: u64,
}

/// The ancillary data requested with a receive.
#[derive(Clone, Copy)]
#[repr(C)]
struct Stamp {
    header: libc::msghdr,
    control: [u8; CONTROL],
}

impl Stamps {
    pub(super) fn new() -> Self {
        // SAFETY: all-zero bytes are valid for both parts: integers, and raw pointers, which may be null.
        let stamp: Stamp = unsafe { std::mem::zeroed() };
        Self { stamps: vec![stamp; RECEIVES_MAX].into(), wall_ns: 0 }
    }

    /// The request of the receive at this position of a turn. The kernel writes to it until the receive has completed.
    #[inline]
    pub(super) fn header(&mut self, place: u32) -> &mut libc::msghdr {
        let Stamp { header, control } = &mut self.stamps[place as usize];
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = CONTROL as _;
        header
    }

    /// A new loop turn. To be called before any other clock is read: a pause between the two must not make echoes older.
    pub(super) fn look_at_the_clock(&mut self) {
        self.wall_ns = time_of(ClockId::Realtime).as_nanos() as u64;
    }

    /// The age of the bytes that the receive at this position has brought.
    ///
    /// The stamp is that of the last segment in the stream's order; where one before it was lost and came later, it is too
    /// old.
    #[inline]
    pub(super) fn age_ns(&self, place: u32) -> u64 {
        let Stamp { header, control } = &self.stamps[place as usize];
        // There is none if the kernel has only begun to note times.
        let stamp_ns = (header.msg_controllen > 0).then(|| stamp_ns(control)).flatten();
        // A wall clock that has been set meanwhile: what is in the future has just arrived.
        stamp_ns.map_or(0, |stamp_ns| self.wall_ns.saturating_sub(stamp_ns))
    }
}

/// The time in a control message.
#[inline]
fn stamp_ns(control: &[u8; CONTROL]) -> Option<u64> {
    let kind = i32::from_ne_bytes(*control[12..].first_chunk()?);
    let seconds = u64::from_ne_bytes(*control[16..].first_chunk()?);
    let nanoseconds = u64::from_ne_bytes(*control[24..].first_chunk()?);
    (kind == libc::SCM_TIMESTAMPNS).then_some(seconds * 1_000_000_000 + nanoseconds)
}

/// The time of `clock`.
pub(super) fn time_of(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills in a stamp as the kernel does.
    fn receive(stamps: &mut Stamps, place: u32, kind: i32, at: Duration) {
        let lengths =
            [CONTROL.to_ne_bytes(), [libc::SOL_SOCKET.to_ne_bytes(), kind.to_ne_bytes()].concat().try_into().unwrap()];
        let time = [at.as_secs(), u64::from(at.subsec_nanos())].map(u64::to_ne_bytes);
        stamps.header(place);
        let control = [lengths.concat(), time.concat()].concat();
        stamps.stamps[place as usize].control.copy_from_slice(&control);
    }

    #[test]
    fn the_age_is_that_of_the_right_receive() {
        let mut stamps = Stamps::new();
        stamps.wall_ns = 5_000_000_300;
        let at = Duration::new(5, 100);
        receive(&mut stamps, 0, libc::SCM_TIMESTAMPNS, at);
        receive(&mut stamps, 7, libc::SCM_TIMESTAMPNS, at + Duration::from_nanos(50));
        assert_eq!([0, 7].map(|place| stamps.age_ns(place)), [200, 150]);
        receive(&mut stamps, 7, libc::SCM_TIMESTAMPNS, at * 2);
        assert_eq!(stamps.age_ns(7), 0, "from the future");
        receive(&mut stamps, 7, libc::SCM_RIGHTS, at);
        assert_eq!(stamps.age_ns(7), 0, "something else");
    }

    #[test]
    fn no_stamp_is_no_age() {
        let mut stamps = Stamps::new();
        stamps.wall_ns = 5_000_000_300;
        receive(&mut stamps, 3, libc::SCM_TIMESTAMPNS, Duration::new(5, 100));
        // The time stamp of the last receive at this position no longer counts.
        stamps.header(3);
        stamps.stamps[3].header.msg_controllen = 0;
        assert_eq!(stamps.age_ns(3), 0);
    }
}
