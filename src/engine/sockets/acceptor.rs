//! The acceptor for workers with descriptor tables of their own: accepts in batches and sends each socket to the least
//! loaded worker (`SCM_RIGHTS`, `unix(7)`).
//!
//! Workers that accept by themselves from the shared listener (`EPOLLEXCLUSIVE`) connect no faster (docs/ENGINES.md has
//! the figures), and would have to agree on who is full and who has too many.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, accept_with, sendmsg};

use crate::engine::balance::Balance;
use crate::engine::notice::Notices;
use crate::worker::Control;

/// Sockets accepted before they are handed over, and sockets in one message; the kernel takes up to 253 (`SCM_MAX_FD`).
pub(super) const BATCH: usize = 64;
/// How often a full server looks whether it has room again.
const RETRY: Duration = Duration::from_millis(10);

/// Accepts on `listeners` and sends the sockets through the workers' `doors`, until `control` says stop.
///
/// That closes listeners and doors: further connections are refused, and the workers see that no more will come.
pub(super) fn run(
    listeners: Vec<TcpListener>,
    doors: Vec<OwnedFd>,
    balance: Balance,
    control: &Control,
    started: &dyn Fn(io::Result<()>),
) -> io::Result<()> {
    started(listeners.iter().try_for_each(|listener| listener.set_nonblocking(true)));
    let outgoing = doors.iter().map(|_| VecDeque::new()).collect();
    let notices = Notices::default();
    let mut acceptor = Acceptor { listeners, doors, balance, outgoing, is_short: false, notices };
    while !control.is_stopping() {
        acceptor.turn(control.bell())?;
    }
    Ok(())
}

struct Acceptor {
    listeners: Vec<TcpListener>,
    doors: Vec<OwnedFd>,
    balance: Balance,
    /// Accepted and not yet sent, for each worker.
    outgoing: Vec<VecDeque<OwnedFd>>,
    /// Descriptors or memory are short: wait a moment.
    is_short: bool,
    notices: Notices,
}

impl Acceptor {
    fn turn(&mut self, bell: BorrowedFd) -> io::Result<()> {
        let has_room = self.balance.room() > 0;
        self.notices.room(self.balance.room());
        let must_retry = self.is_short || !has_room;
        let mut sources = vec![PollFd::from_borrowed_fd(bell, PollFlags::IN)];
        if !must_retry {
            sources.extend(self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        }
        let timeout = Timespec::try_from(RETRY).map_err(io::Error::other)?;
        match poll(&mut sources, must_retry.then_some(&timeout)) {
            Err(Errno::INTR) | Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        let called: Vec<bool> = sources[1..].iter().map(|source| !source.revents().is_empty()).collect();
        self.is_short = false;
        for (number, _) in called.iter().enumerate().filter(|(_, called)| **called) {
            self.accept(number);
        }
        for worker in 0..self.doors.len() {
            self.hand_over(worker);
        }
        Ok(())
    }

    /// Accepts what waits at one listener: a batch of it, and no more than there is room for.
    fn accept(&mut self, number: usize) {
        for _ in 0..BATCH {
            // Assigned first: what is accepted has a place.
            let Some(worker) = self.balance.assign() else { return };
            match accept_with(&self.listeners[number], SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    self.outgoing[worker].push_back(socket);
                    self.notices.accepted();
                }
                Err(e) => {
                    self.balance.take_back(worker);
                    match e {
                        Errno::AGAIN => return,
                        // The peer was gone before it was accepted, or has been turned away by a filter.
                        Errno::CONNABORTED | Errno::INTR | Errno::PERM | Errno::PROTO => {}
                        // EMFILE, ENFILE: too many are on their way, or the system is out of files; ENOBUFS, ENOMEM.
                        _ => {
                            self.is_short = true;
                            self.notices.failed(e);
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Sends a worker what was accepted for it.
    fn hand_over(&mut self, worker: usize) {
        let outgoing = &mut self.outgoing[worker];
        while !outgoing.is_empty() {
            let batch: Vec<BorrowedFd> = outgoing.iter().take(BATCH).map(AsFd::as_fd).collect();
            match send(&self.doors[worker], &batch) {
                Ok(()) => {
                    let sent = batch.len();
                    outgoing.drain(..sent);
                }
                Err(Errno::INTR) => {}
                // EAGAIN: the worker has not taken the last ones yet; ETOOMANYREFS: nor have the others; ENOMEM.
                Err(_) => {
                    self.is_short = true;
                    return;
                }
            }
        }
    }
}

fn send(door: &OwnedFd, sockets: &[BorrowedFd]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = control.push(SendAncillaryMessage::ScmRights(sockets));
    debug_assert!(fits, "room for a whole batch");
    // A message needs a byte: an empty one is the end.
    sendmsg(door, &[IoSlice::new(b"!")], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}
