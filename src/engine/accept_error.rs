//! Errors of `accept(2)` and their meaning, and the handling of connections that are no longer accepted: once for all
//! engines.

use std::os::fd::OwnedFd;

use rustix::io::ioctl_fionbio;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};

use crate::transport::Door;

/// Limit of connections closed at one listener: further ones may keep arriving, and this must end.
const TURNED_AWAY_MAX: usize = 4096;
/// Bytes read of a request, longer than that of any browser. Further unread input makes the kernel send a reset.
const REQUEST_MAX: usize = 4096;

/// The reaction to a failed accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptError {
    /// No fault: no connection waits, a signal arrived, or the accept was cancelled.
    Nothing,
    /// That connection was lost before it was accepted: go on with the next one.
    Connection,
    /// Descriptors or memory are short, or accepting is forbidden: an immediate retry would fail as well, so it waits.
    Lasting,
}

impl AcceptError {
    /// The class of an error number.
    pub(super) fn of(errno: i32) -> Self {
        match errno {
            libc::EAGAIN | libc::EINTR | libc::ECANCELED => Self::Nothing,
            // The peer has reset it, or an error of the network was pending on it (accept(2), "Error handling").
            libc::ECONNABORTED
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENONET => Self::Connection,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; EPERM, EACCES of a security module, and any error of a seccomp filter: none
            // of them takes the connection out of the kernel's queue.
            _ => Self::Lasting,
        }
    }
}

/// Closes the connections in the queues of listeners that are about to be closed: the kernel would reset them. A listener of
/// the service manager stays open there, and its queue is left to the next server.
pub(super) fn turn_away(listeners: &[OwnedFd], doors: &[Door]) {
    let own = listeners.iter().zip(doors).filter(|(_, door)| !door.is_inherited);
    for (listener, _) in own.filter(|(listener, _)| ioctl_fionbio(listener, true).is_ok()) {
        for _ in 0..TURNED_AWAY_MAX {
            match accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    let _ = recv(socket, &mut [0; REQUEST_MAX], RecvFlags::DONTWAIT);
                }
                Err(e) if AcceptError::of(e.raw_os_error()) == AcceptError::Connection => {}
                Err(_) => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_a_connection_out_of_the_queue_is_followed_by_another_accept_at_once() {
        for (errno, class) in [
            (libc::EAGAIN, AcceptError::Nothing),
            (libc::ECANCELED, AcceptError::Nothing),
            (libc::ECONNABORTED, AcceptError::Connection),
            (libc::EPROTO, AcceptError::Connection),
            (libc::ENFILE, AcceptError::Lasting),
            (libc::EMFILE, AcceptError::Lasting),
            (libc::ENOMEM, AcceptError::Lasting),
            (libc::EPERM, AcceptError::Lasting),
            (libc::ENOSYS, AcceptError::Lasting),
        ] {
            assert_eq!(AcceptError::of(errno), class, "{errno}");
        }
    }
}
