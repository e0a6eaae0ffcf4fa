//! Where a worker gets its sockets from.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::acceptor::BATCH;

/// A worker's end of its connection to the acceptor.
pub struct Arrivals {
    inside: OwnedFd,
}

impl Arrivals {
    pub(super) fn new(inside: OwnedFd) -> Self {
        Self { inside }
    }

    /// Takes all sockets that have arrived. Returns whether more may come.
    pub fn take(&self, mut take: impl FnMut(OwnedFd)) -> io::Result<bool> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.inside, &mut [IoSliceMut::new(&mut byte)], &mut control, flags) {
                Ok(message) if message.bytes == 0 => return Ok(false),
                Ok(_) => {
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(sockets) = message {
                            sockets.for_each(&mut take);
                        }
                    }
                }
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for Arrivals {
    /// Readable when sockets have arrived, or when no more will.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }
}
