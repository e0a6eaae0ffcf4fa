//! Operations as submission queue entries.

use std::num::NonZeroU32;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use super::connections::Op;
use super::token::Token;

/// The buffer group of a worker's pool; each ring numbers its own.
pub const BUFFER_GROUP: u16 = 0;

/// `MSG_WAITALL`: a short send counts as a failure and posts its completion in spite of `SKIP_SUCCESS`.
/// `MSG_DONTWAIT`: the kernel is done with the bytes when the enter that submits them has returned.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// Errors are told unasked.
const POLL_EVENTS: u32 = (libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP) as u32;

/// What a poll tells of if there is an end to be found behind what can be received.
pub const END: i32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as i32;

/// The submission for `op`, carrying `token`.
#[inline]
pub(super) fn entry(token: Token, op: Op) -> Entry {
    let entry = match op {
        Op::Poll { slot } => poll(slot, POLL_EVENTS),
        Op::Receive { slot, at_most } => receive(slot, at_most),
        Op::Send { slot, address, len, has_more } => opcode::Send::new(types::Fixed(slot), address.as_ptr(), len)
            .flags(SEND_FLAGS | if has_more { libc::MSG_MORE } else { 0 })
            .build()
            .flags(Flags::SKIP_SUCCESS),
        Op::Cancel { target } => opcode::AsyncCancel::new(target.encode()).build().flags(Flags::SKIP_SUCCESS),
        Op::Shutdown { slot } => opcode::Shutdown::new(types::Fixed(slot), libc::SHUT_WR).build(),
        Op::Close { slot } => opcode::Close::new(types::Fixed(slot)).build(),
    };
    entry.user_data(token.encode())
}

/// A multishot, edge-triggered poll for `events`.
#[inline]
pub fn poll(slot: u32, events: u32) -> Entry {
    opcode::PollAdd::new(types::Fixed(slot), events).multi(true).build()
}

/// A receive that does not wait, into a buffer of the pool. So it completes within the enter that submits it.
#[inline]
pub fn receive(slot: u32, at_most: Option<NonZeroU32>) -> Entry {
    opcode::Recv::new(types::Fixed(slot), std::ptr::null_mut(), at_most.map_or(0, NonZeroU32::get))
        .flags(libc::MSG_DONTWAIT)
        .buf_group(BUFFER_GROUP)
        .build()
        .flags(Flags::BUFFER_SELECT)
}
