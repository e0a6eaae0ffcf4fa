//! Completions: what the kernel reports about an operation.

use io_uring::cqueue;

use crate::piece::Piece;

/// The completion of an operation, as [`Ring::reap`](crate::Ring::reap) found it.
#[derive(Debug)]
pub struct Completion {
    /// The user data of the operation.
    pub user_data: u64,
    /// Its result; negative: an error number.
    pub result: i32,
    /// The bytes of a receive: present if and only if there is at least one.
    pub piece: Option<Piece>,
    flags: u32,
}

impl Completion {
    #[inline]
    pub(crate) fn new(user_data: u64, result: i32, flags: u32, piece: Option<Piece>) -> Self {
        Self { user_data, result, piece, flags }
    }

    /// Whether a multishot operation goes on (`IORING_CQE_F_MORE`).
    #[inline]
    pub fn goes_on(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// Whether the socket had more bytes than the receive has taken (`IORING_CQE_F_SOCK_NONEMPTY`).
    #[inline]
    pub fn is_socket_nonempty(&self) -> bool {
        cqueue::sock_nonempty(self.flags)
    }
}
