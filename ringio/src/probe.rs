//! What the kernel is tried for, since it cannot be asked.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::{Operation, Ring, RingOptions, Wait};

/// How long a close may take. A kernel that ends closed sockets does so before the call returns.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whether a socket that is closed as a direct descriptor ends at once, whatever goes on with others. Before Linux 6.13 the
/// kernel keeps it until all operations on direct descriptors have ended that were begun before the close: on a connection that
/// is closed beside one with an armed poll, no FIN goes out and no memory comes back.
pub fn ends_closed_sockets() -> io::Result<bool> {
    let mut ring = Ring::new(&RingOptions { entries: 8, cq_entries: 16, direct_descriptors: 2 })?;
    let (_staying_peer, staying) = UnixStream::pair()?;
    let (mut peer, leaving) = UnixStream::pair()?;
    for (slot, socket) in [staying, leaving].into_iter().enumerate() {
        ring.set_descriptor(slot as u32, socket.as_fd())?;
    }
    let poll = Operation::poll(0, libc::POLLIN as u32).with_user_data(1);
    ring.submit(
        [poll, Operation::close(1).with_user_data(2)],
        Wait { want: 1, min_wait_us: 0, timeout: Some(PATIENCE) },
    )?;
    ring.reap(|_| {});
    peer.set_read_timeout(Some(PATIENCE))?;
    loop {
        match peer.read(&mut [0]) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // Work that the kernel has left for this thread interrupts calls.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probe on the kernel that runs this: it ends, with an answer that does not change.
    #[test]
    #[cfg_attr(miri, ignore = "a real ring")]
    fn the_answer_is_the_kernel_s() {
        let Ok(first) = ends_closed_sockets() else { return }; // io_uring is forbidden here
        assert_eq!(ends_closed_sockets().expect("it was there before"), first);
    }
}
