//! Operations that tokio-uring's own types do not offer, through its interface for these ([`UnsubmittedOneshot`]): waiting
//! for readiness, and non-blocking calls.

use std::future::Future;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use crate::connection::output::Block;
use crate::engine::sockets::connections::HEADROOM;
use io_uring_06::types::{CancelBuilder, Fd, Timespec};
use io_uring_06::{cqueue, opcode, squeue};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// An operation in flight. Its output is its result, in the kernel's form (negative: an error number), and the memory it
/// used, which the runtime keeps until the kernel has released it, even if the operation is dropped.
pub(super) type Operation<D> = InFlightOneshot<D, GiveBack<D>>;

/// Returns the memory of an operation.
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
    pub(super) memory: Block,
    pub(super) range: Range<usize>,
}

/// Waits until there is something to receive, or the end.
pub(super) fn readable(socket: BorrowedFd) -> Operation<()> {
    submit((), opcode::PollAdd::new(Fd(socket.as_raw_fd()), libc::POLLIN as u32).build())
}

/// Waits until a client has connected to the listener. A connection wakes one of several waiting workers.
pub(super) fn connected(listener: BorrowedFd) -> Operation<()> {
    let events = libc::EPOLLIN as u32 | libc::EPOLLEXCLUSIVE as u32;
    submit((), opcode::PollAdd::new(Fd(listener.as_raw_fd()), events).build())
}

/// Ends all waits for this listener, whose descriptor the operation keeps until then.
pub(super) fn cancel_all(listener: OwnedFd) -> Operation<OwnedFd> {
    let all = CancelBuilder::fd(Fd(listener.as_raw_fd())).all();
    submit(listener, opcode::AsyncCancel2::new(all).build())
}

/// Waits until the socket has room again. If the peer has shut down its side it returns at once (`POLLRDHUP`).
pub(super) fn writable(socket: BorrowedFd) -> Operation<()> {
    submit((), opcode::PollAdd::new(Fd(socket.as_raw_fd()), libc::POLLOUT as u32).build())
}

/// Receives available input, after the headroom, where there is `room` for so many bytes.
pub(super) fn receive(socket: BorrowedFd, mut buffer: Vec<u8>, room: usize) -> Operation<Vec<u8>> {
    let room = &mut buffer[HEADROOM..HEADROOM + room];
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

/// Waits for a tenth of a second: long compared with the try that follows. Its result is `-ETIME`.
pub(super) fn pause() -> Operation<()> {
    static PAUSE: Timespec = Timespec::new().nsec(100_000_000);
    submit((), opcode::Timeout::new(&raw const PAUSE).build())
}

/// Completes as soon as the kernel has seen it.
pub(super) fn nothing() -> Operation<()> {
    submit((), opcode::Nop::new().build())
}

/// Waits for some time.
pub(super) fn timeout(duration: Duration) -> Operation<Box<Timespec>> {
    let time = Box::new(Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos()));
    let entry = opcode::Timeout::new(&raw const *time).build();
    submit(time, entry)
}

/// Whether the operation is complete; if so, drops it with its result.
pub(super) fn is_over<D: Unpin + 'static>(slot: &mut Option<Operation<D>>, cx: &mut Context) -> bool {
    let is_ready = slot.as_mut().is_some_and(|operation| Pin::new(operation).poll(cx).is_ready());
    if is_ready {
        *slot = None;
    }
    is_ready
}
