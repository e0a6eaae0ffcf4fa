//! Operations that a ring can be asked to do.

use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::os::fd::RawFd;

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{self, CancelBuilder, DestinationSlot, TimeoutFlags, Timespec};

use crate::pool::GROUP;

/// `MSG_WAITALL`: a short send counts as a failure and posts its completion in spite of `SKIP_SUCCESS`.
/// `MSG_DONTWAIT`: the kernel is done with the bytes when the enter that submits them has returned.
const SILENT_SEND: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// The value of the socket options that are switched on.
static ON: libc::c_int = 1;

/// The address that dissolves a socket's association with another.
static NOWHERE: libc::sockaddr = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };

/// The codes of operations that receive into the pool.
const RECEIVES: [u32; 2] = [opcode::Recv::CODE as u32, opcode::RecvMsg::CODE as u32];

/// An operation to be pushed to a [`Ring`](crate::Ring), with the user data 0 until [`Operation::with_user_data`] sets it.
///
/// Sockets are named by their slots in the ring's table of direct descriptors. The memory that an operation names lives
/// for `'m`, and the kernel looks at it during the enter that submits the operation, at no other time.
#[must_use = "an operation does nothing before it is pushed"]
#[derive(Clone, Debug)]
pub struct Operation<'m> {
    entry: Entry,
    memory: PhantomData<&'m [u8]>,
}

impl Operation<'static> {
    /// Any operation.
    ///
    /// # Safety
    /// Every address in `entry` must stay valid, and what it points to unused by anything else in a way that conflicts
    /// with the kernel's, until the operation's last completion has been reaped; for one that completes silently or
    /// within its enter until the enter has returned. `entry` names no buffer group but that of a receive without
    /// waiting, which posts its completion, and has none of the flags `IO_LINK`, `IO_HARDLINK` and `IO_DRAIN`.
    #[inline]
    pub unsafe fn from_entry(entry: Entry) -> Self {
        Self::new(entry)
    }

    /// A multishot, edge-triggered poll for `events`. Errors are told unasked.
    #[inline]
    pub fn poll(slot: u32, events: u32) -> Self {
        Self::new(opcode::PollAdd::new(types::Fixed(slot), events).multi(true).build())
    }

    /// The same for a descriptor of the process.
    pub fn poll_descriptor(descriptor: RawFd, events: u32) -> Self {
        Self::new(opcode::PollAdd::new(types::Fd(descriptor), events).multi(true).build())
    }

    /// The same, which completes once.
    pub fn poll_descriptor_once(descriptor: RawFd, events: u32) -> Self {
        Self::new(opcode::PollAdd::new(types::Fd(descriptor), events).build())
    }

    /// A receive that does not wait, into the ring's pool, of `at_most` so many bytes if that is given. It completes within
    /// the enter that submits it.
    #[inline]
    pub fn receive(slot: u32, at_most: Option<NonZeroU32>) -> Self {
        let receive = opcode::Recv::new(types::Fixed(slot), std::ptr::null_mut(), at_most.map_or(0, NonZeroU32::get));
        let receive = receive.flags(libc::MSG_DONTWAIT).buf_group(GROUP).build();
        Self::new(receive.flags(Flags::BUFFER_SELECT))
    }

    /// The cancellation of the operation that carries `target`; silent if it was found.
    #[inline]
    pub fn cancel(target: u64) -> Self {
        Self::new(opcode::AsyncCancel::new(target).build()).skip_success()
    }

    /// The cancellation of all operations that carry `target`; its completion says how many there were.
    pub fn cancel_all(target: u64) -> Self {
        Self::new(opcode::AsyncCancel2::new(CancelBuilder::user_data(target).all()).build())
    }

    /// `shutdown(SHUT_WR)`.
    pub fn shutdown(slot: u32) -> Self {
        Self::new(opcode::Shutdown::new(types::Fixed(slot), libc::SHUT_WR).build())
    }

    /// `connect` to no address: it resets a TCP connection (`connect(2)`, `AF_UNSPEC`).
    pub fn disconnect(slot: u32) -> Self {
        Self::new(opcode::Connect::new(types::Fixed(slot), &raw const NOWHERE, size_of_val(&NOWHERE) as u32).build())
    }

    /// The close of a direct descriptor.
    pub fn close(slot: u32) -> Self {
        Self::new(opcode::Close::new(types::Fixed(slot)).build())
    }

    /// An accept into a free slot, which is its result.
    pub fn accept(listener: RawFd) -> Self {
        let accept = opcode::Accept::new(types::Fd(listener), std::ptr::null_mut(), std::ptr::null_mut());
        Self::new(accept.file_index(Some(DestinationSlot::auto_target())).build())
    }

    /// Installs what is in `slot` in the process's own table, too, close-on-exec: the number there is the result, and belongs to
    /// the code that sees the completion (Linux 6.8).
    pub fn install(slot: u32) -> Self {
        Self::new(opcode::FixedFdInstall::new(types::Fixed(slot), 0).build())
    }

    /// A new stream socket of this address family, in `slot`.
    pub fn socket(slot: u32, family: libc::sa_family_t) -> Self {
        let place = DestinationSlot::try_from_slot_target(slot).expect("tables are far below u32::MAX entries");
        Self::new(opcode::Socket::new(family.into(), libc::SOCK_STREAM, 0).file_index(Some(place)).build())
    }

    /// Switches a socket option on (Linux 6.7).
    pub fn switch_on(slot: u32, level: libc::c_int, option: libc::c_int) -> Self {
        let (value, size) = ((&raw const ON).cast(), size_of_val(&ON) as u32);
        Self::new(opcode::SetSockOpt::new(types::Fixed(slot), level as u32, option as u32, value, size).build())
    }
}

impl<'m> Operation<'m> {
    #[inline]
    fn new(entry: Entry) -> Self {
        Self { entry, memory: PhantomData }
    }

    /// Sends `bytes` without waiting, all or as many as fit now. A send of all of them posts no completion, so that it is
    /// known to be complete when the enter has returned and no completion says otherwise. `has_more`: what belongs behind
    /// it follows soon (`MSG_MORE`).
    ///
    /// At most one send per socket in an enter: a second one could overtake a first that falls short.
    #[inline]
    pub fn send(slot: u32, bytes: &'m [u8], has_more: bool) -> Self {
        let flags = SILENT_SEND | if has_more { libc::MSG_MORE } else { 0 };
        let send = opcode::Send::new(types::Fixed(slot), bytes.as_ptr(), bytes.len() as u32).flags(flags).build();
        Self::new(send).skip_success()
    }

    /// The same for the parts of a message.
    ///
    /// # Safety
    /// What `message` points to must stay valid and unchanged for `'m`.
    #[inline]
    pub unsafe fn send_message(slot: u32, message: &'m libc::msghdr) -> Self {
        let send = opcode::SendMsg::new(types::Fixed(slot), message).flags(SILENT_SEND as u32).build();
        Self::new(send).skip_success()
    }

    /// A receive like [`Operation::receive`], with what `message` asks for beside the bytes.
    ///
    /// # Safety
    /// What `message` points to must stay valid, and be used by nothing else, for `'m`.
    #[inline]
    pub unsafe fn receive_message(slot: u32, message: &'m mut libc::msghdr) -> Self {
        let receive = opcode::RecvMsg::new(types::Fixed(slot), message).flags(libc::MSG_DONTWAIT as u32);
        Self::new(receive.buf_group(GROUP).build().flags(Flags::BUFFER_SELECT))
    }

    /// `bind`, in a chain. The kernel copies the address when it takes the submission.
    ///
    /// # Safety
    /// `address` is the start of a socket address of `len` bytes, which stay valid and unchanged for `'m`.
    pub unsafe fn bind(slot: u32, address: *const libc::sockaddr, len: libc::socklen_t) -> Self {
        Self::new(opcode::Bind::new(types::Fixed(slot), address, len).build())
    }

    /// `connect`. The kernel copies the address when it takes the submission.
    ///
    /// # Safety
    /// `address` is the start of a socket address of `len` bytes, which stay valid and unchanged for `'m`.
    pub unsafe fn connect(slot: u32, address: *const libc::sockaddr, len: libc::socklen_t) -> Self {
        Self::new(opcode::Connect::new(types::Fixed(slot), address, len).build())
    }

    /// Completes at this `time` of `CLOCK_MONOTONIC`, which the kernel copies when it takes the submission.
    pub fn timeout_at(time: &'m Timespec) -> Self {
        Self::new(opcode::Timeout::new(time).flags(TimeoutFlags::ABS).build())
    }

    /// The user data of its completion.
    #[inline]
    pub fn with_user_data(mut self, user_data: u64) -> Self {
        self.entry.set_user_data(user_data);
        self
    }

    /// Posts a completion only if it fails (`IOSQE_CQE_SKIP_SUCCESS`). For receives that is a bug: only the completions say
    /// how far the pool's buffers are filled.
    #[inline]
    pub fn silent(self) -> Self {
        let code = self.entry.get_opcode();
        assert!(!RECEIVES.contains(&code), "a receive without a completion");
        self.skip_success()
    }

    #[inline]
    fn skip_success(self) -> Self {
        Self::new(self.entry.flags(Flags::SKIP_SUCCESS))
    }

    #[inline]
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a receive without a completion")]
    fn a_receive_is_not_silent() {
        let _ = Operation::receive(0, None).silent();
    }
}
