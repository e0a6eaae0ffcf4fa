//! Descriptor tables: one per worker, so that `RLIMIT_NOFILE` bounds a worker's connections and not the server's, and
//! so that workers that accept and close at the same time do not wait for each other.

use std::io;
use std::os::fd::RawFd;

/// Standard input, output and error, which every table keeps.
const STANDARD_STREAMS: u32 = 3;
/// Descriptors of a worker's table that are not connections: the standard streams, its eventfd, copies of the listeners, and
/// what an engine waits on (a ring, an epoll, an eventfd): 9 besides the listeners for tokio-uring, the most.
pub const RESERVED: u64 = 16;

/// Gives the calling thread a descriptor table of its own, with copies of the standard streams and of `kept` in it and
/// nothing else (`close_range(2)` with `CLOSE_RANGE_UNSHARE`, Linux 5.9).
///
/// Containers allow this call, unlike `unshare(2)`.
pub fn detach(kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<u32> = kept.iter().map(|&number| number as u32).collect();
    kept.sort_unstable();
    let behind = kept.last().map_or(STANDARD_STREAMS, |last| last + 1);
    close_range(behind, u32::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    let mut from = STANDARD_STREAMS;
    for number in kept {
        if from < number {
            close_range(from, number - 1, 0)?;
        }
        from = number + 1;
    }
    Ok(())
}

/// Whether threads can have tables of their own, by trying it in a short-lived thread. Sandboxes may refuse it.
pub(crate) fn probe() -> io::Result<()> {
    let try_it = || close_range(u32::MAX, u32::MAX, libc::CLOSE_RANGE_UNSHARE);
    std::thread::Builder::new().spawn(try_it)?.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

fn close_range(first: u32, last: u32, flags: u32) -> io::Result<()> {
    // SAFETY: no memory is involved. The first call of `detach` gives this thread a table of its own before it closes
    // anything, so descriptors that other threads use stay open in theirs; this thread owns none but those it keeps.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::fcntl_getfd;
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::thread;

    fn is_open(number: RawFd) -> bool {
        // SAFETY: only asked for its flags, and whether it is open is the question.
        fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok()
    }

    #[test]
    fn a_table_of_its_own_has_only_what_is_kept() {
        let descriptors: Vec<_> = (0..5).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect();
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let kept = [numbers[3], numbers[1]];
        let inside: Vec<_> = thread::scope(|scope| {
            let look = || {
                detach(&kept).unwrap();
                numbers.iter().map(|&number| is_open(number)).collect()
            };
            scope.spawn(look).join().unwrap()
        });
        assert_eq!(inside, [false, true, false, true, false]);
        assert!(numbers.iter().all(|&number| is_open(number)), "closed in everybody's table");
    }
}
