//! Operations that tokio-uring's own types do not offer, by the door that it leaves open for them
//! ([`UnsubmittedOneshot`]): waiting for readiness, and calls that do not wait.

use std::future::Future;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use crate::engine::sockets::connections::HEADROOM;
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

/// Bytes to send, and the memory they are in.
pub(super) struct Bytes {
    pub(super) memory: Vec<u8>,
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

/// Receives what is there, behind the headroom.
pub(super) fn receive(socket: BorrowedFd, mut buffer: Vec<u8>) -> Operation<Vec<u8>> {
    let room = &mut buffer[HEADROOM..];
    let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), room.as_mut_ptr(), room.len() as u32)
        .flags(libc::MSG_DONTWAIT)
        .build();
    submit(buffer, entry)
}

/// Sends as much as fits.
pub(super) fn send(socket: BorrowedFd, bytes: Bytes) -> Operation<Bytes> {
    let range = &bytes.memory[bytes.range.clone()];
    let entry = opcode::Send::new(Fd(socket.as_raw_fd()), range.as_ptr(), range.len() as u32)
        .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        .build();
    submit(bytes, entry)
}

/// Waits for some time.
pub(super) fn timeout(duration: Duration) -> Operation<Box<Timespec>> {
    let time = Box::new(Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos()));
    let entry = opcode::Timeout::new(&raw const *time).build();
    submit(time, entry)
}

/// Whether the operation is over. Forgets it then, with what it has come to.
pub(super) fn is_over<D: Unpin + 'static>(slot: &mut Option<Operation<D>>, cx: &mut Context) -> bool {
    let is_ready = slot.as_mut().is_some_and(|operation| Pin::new(operation).poll(cx).is_ready());
    if is_ready {
        *slot = None;
    }
    is_ready
}
