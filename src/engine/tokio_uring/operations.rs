//! Operations that tokio-uring's own types do not offer, by the door that it leaves open for them
//! ([`UnsubmittedOneshot`]): waiting for readiness, and calls that do not wait.

use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring_06::types::{Fd, Timespec};
use io_uring_06::{cqueue, opcode, squeue};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// An operation under way. Its output is its result, as system calls have it in the kernel (negative: an error number),
/// and what it has used, which the runtime keeps until the kernel is done with it, even if nobody waits any more.
pub(super) type Operation<D> = InFlightOneshot<D, GiveBack<D>>;

/// Hands back what an operation has used.
pub(super) struct GiveBack<D>(PhantomData<D>);

impl<D: 'static> OneshotOutputTransform for GiveBack<D> {
    type Output = (i32, D);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, completion: cqueue::Entry) -> (i32, D) {
        (completion.result(), data)
    }
}

fn submit<D: 'static>(data: D, entry: squeue::Entry) -> Operation<D> {
    UnsubmittedOneshot::new(data, GiveBack(PhantomData), entry).submit()
}

/// Bytes to send.
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    pub(super) range: Range<usize>,
}

/// Waits until there is something to receive, or the end.
pub(super) fn readable(socket: BorrowedFd) -> Operation<()> {
    submit((), opcode::PollAdd::new(Fd(socket.as_raw_fd()), libc::POLLIN as u32).build())
}

/// Waits until the socket takes bytes again.
pub(super) fn writable(socket: BorrowedFd) -> Operation<()> {
    submit((), opcode::PollAdd::new(Fd(socket.as_raw_fd()), libc::POLLOUT as u32).build())
}

/// Receives what is there.
pub(super) fn receive(socket: BorrowedFd, mut buffer: Vec<u8>) -> Operation<Vec<u8>> {
    let (start, len) = (buffer.as_mut_ptr(), buffer.len() as u32);
    let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), start, len).flags(libc::MSG_DONTWAIT).build();
    submit(buffer, entry)
}

/// Sends as much as fits.
pub(super) fn send(socket: BorrowedFd, outgoing: Outgoing) -> Operation<Outgoing> {
    let bytes = &outgoing.bytes[outgoing.range.clone()];
    let entry = opcode::Send::new(Fd(socket.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32)
        .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        .build();
    submit(outgoing, entry)
}

/// Waits for some time.
pub(super) fn timeout(duration: Duration) -> Operation<Box<Timespec>> {
    let time = Box::new(Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos()));
    let entry = opcode::Timeout::new(&raw const *time).build();
    submit(time, entry)
}
