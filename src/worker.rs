//! What a worker shares with the rest of the process: its counters and the bell that wakes it. Nothing on the way of a
//! message is shared between workers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::protocol::Settings;

/// What a worker has to do; the same for all of an engine's workers except for the first fields.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its number, from 0.
    pub index: usize,
    /// The processor it stays on, if the kernel lets it.
    pub cpu: usize,
    /// Whether it has a descriptor table of its own, in engines with ordinary descriptors.
    pub has_own_table: bool,
    /// How many connections it can hold.
    pub capacity: u32,
    /// Bytes of receive memory.
    pub receive_memory: usize,
    /// How much output may wait for peers that do not read.
    pub backlog: Backlog,
    /// The shape of that memory, if it is not for the engine to choose.
    pub receive_buffers: Option<ReceiveBuffers>,
    /// Submission queue entries of its ring, half as many as completion queue entries, if it is not for the engine to
    /// choose.
    pub ring_entries: Option<u32>,
    /// The protocol's options.
    pub settings: Settings,
    /// See [`Limits`].
    pub limits: Limits,
}

/// The shape of a worker's receive memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveBuffers {
    /// How many buffers; a power of two, at most 32,768.
    pub count: u16,
    /// Bytes in each.
    pub size: u32,
    /// Whether receives share a buffer, one behind the other.
    pub incremental: bool,
}

/// How many unsent bytes a worker keeps.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    /// For one connection, which is at least twice the receive memory.
    pub per_connection: usize,
    /// For all of them, beyond which peers that do not read are not read either. They may exceed it by what a worker
    /// can receive before it stops.
    pub total: usize,
}

/// How long things may take. `None`: as long as they like.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names)] // as the options and the flags are called
pub struct Limits {
    /// From the accept to the end of the upgrade request.
    pub handshake_timeout: Option<Duration>,
    /// Without input from a peer.
    pub idle_timeout: Option<Duration>,
    /// Without progress of the output that waits for a peer, while its connection is not read from for that reason.
    pub stall_timeout: Option<Duration>,
    /// Without progress, from the decision to close a connection to the close of its socket.
    pub close_timeout: Duration,
    /// From the signal to stop to the end.
    pub drain_timeout: Duration,
}

/// What a worker has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed and forgotten: slot and entry are free again.
    pub released: u64,
    /// Data messages echoed.
    pub messages: u64,
    /// Bytes handed to the kernel for sending.
    pub bytes_sent: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.released += other.released;
        self.messages += other.messages;
        self.bytes_sent += other.bytes_sent;
    }
}

/// One worker as seen from other threads. Aligned so that two workers never write to the same cache lines.
#[repr(align(128))]
pub struct Control {
    accepted: AtomicU64,
    released: AtomicU64,
    messages: AtomicU64,
    bytes_sent: AtomicU64,
    is_stopping: AtomicBool,
    bell: OwnedFd,
}

impl Control {
    /// Fails only when the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            accepted: AtomicU64::new(0),
            released: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    /// Publishes the counters. Only the worker itself calls this, so plain stores do.
    pub fn publish(&self, tally: &Tally) {
        self.accepted.store(tally.accepted, Ordering::Relaxed);
        self.released.store(tally.released, Ordering::Relaxed);
        self.messages.store(tally.messages, Ordering::Relaxed);
        self.bytes_sent.store(tally.bytes_sent, Ordering::Relaxed);
    }

    /// The counters as last published.
    pub fn tally(&self) -> Tally {
        Tally {
            accepted: self.accepted.load(Ordering::Relaxed),
            released: self.released.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
        }
    }

    /// Connections released so far: what an acceptor needs to know.
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    /// Tells the worker to drain its connections and to return.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        // The worker may have come to its end already, but not its eventfd, which is this one's.
        rustix::io::write(&self.bell, &1u64.to_ne_bytes()).expect("an eventfd takes a write");
    }

    /// Whether [`Control::stop`] has been called.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// An eventfd (`eventfd(2)`) that becomes readable when the worker is wanted.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
