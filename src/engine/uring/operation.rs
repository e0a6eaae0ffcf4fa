//! The submissions of a worker for its connections.

use std::num::NonZeroU32;

use ringio::Operation;

use super::token::{Kind, Token};

/// The events of the poll; errors are always reported.
///
/// `POLLPRI`, which is to report a TCP urgent mark, is not among them: the kernel wakes polls for any input with `POLLIN` and
/// `POLLPRI`, and a multishot poll reports what it was woken with.
const POLL_EVENTS: u32 = (libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP) as u32;

/// The events of a poll that mean an end after the remaining bytes.
pub(super) const END: i32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as i32;

/// An operation to submit; the kind of its token says which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) token: Token,
    /// The connection's descriptor.
    pub(super) slot: u32,
    /// Bytes to receive; `None`: as many as are available and fit into the buffer.
    pub(super) at_most: Option<NonZeroU32>,
}

impl Op {
    /// The submission. `output`: the bytes of a send, and whether the next turn sends what follows them.
    #[inline]
    pub(super) fn submission<'m>(self, output: impl FnOnce() -> (&'m [u8], bool)) -> Operation<'m> {
        let operation = match self.token.kind {
            Kind::Ready => Operation::poll(self.slot, POLL_EVENTS),
            Kind::Receive => Operation::receive(self.slot, self.at_most),
            Kind::Send => {
                let (bytes, has_more) = output();
                Operation::send(self.slot, bytes, has_more)
            }
            Kind::Cancel => Operation::cancel(Token { kind: Kind::Ready, ..self.token }.encode()),
            Kind::Shutdown => Operation::shutdown(self.slot),
            Kind::Reset => Operation::disconnect(self.slot),
            Kind::Close => Operation::close(self.slot),
            Kind::Install => Operation::install(self.slot),
            Kind::Accepted | Kind::Wake => unreachable!("not a connection's"),
        };
        operation.with_user_data(self.token.encode())
    }
}
