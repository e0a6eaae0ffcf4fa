//! State that a worker shares with the rest of the process: its counters and an eventfd that wakes it. Workers share no
//! state on the path of a message.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::protocol::Settings;
use crate::transport::Doors;

mod counters;

#[cfg(feature = "admin")]
pub(crate) use counters::TURN_BOUNDS_US;
pub(crate) use counters::{Counter, Counters, Ending, Tally};

/// The plan of a worker; the same for all of an engine's workers except for the first fields.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its number, from 0.
    pub(crate) index: usize,
    /// The processor it stays on, if the kernel lets it; `None`: the kernel chooses, and chooses again.
    pub(crate) cpu: Option<usize>,
    /// Whether it has a descriptor table of its own, in engines with ordinary descriptors.
    pub(crate) has_own_table: bool,
    /// Its capacity in connections.
    pub(crate) capacity: u32,
    /// Bytes of receive memory.
    pub(crate) receive_memory: usize,
    /// The caps of pending output.
    pub(crate) backlog: Backlog,
    /// The shape of that memory, if it is not for the engine to choose.
    pub(crate) receive_buffers: Option<ReceiveBuffers>,
    /// Submission queue entries of its ring, half as many as completion queue entries, if it is not for the engine to
    /// choose.
    pub(crate) ring_entries: Option<u32>,
    /// The protocol's options.
    pub(crate) settings: Settings,
    /// The listeners, by their numbers.
    pub(crate) doors: Doors,
    /// Whether there is a connection log.
    pub(crate) logs_connections: bool,
    /// See [`Limits`].
    pub(crate) limits: Limits,
}

#[cfg(test)]
impl Plan {
    /// A worker at these listeners, without limits on time but for its end.
    pub(crate) fn for_tests(index: usize, capacity: u32, doors: Doors) -> Self {
        let limits = Limits {
            handshake_timeout: None,
            idle_timeout: None,
            stall_timeout: None,
            close_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(1),
            has_fine_ticks: false,
        };
        Self {
            index,
            cpu: None,
            has_own_table: false,
            capacity,
            receive_memory: 1 << 20,
            receive_buffers: None,
            ring_entries: None,
            backlog: Backlog { per_connection: 1 << 20, total: 1 << 20 },
            settings: Settings::default(),
            doors,
            logs_connections: false,
            limits,
        }
    }
}

/// The shape of a worker's receive memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveBuffers {
    /// The number of buffers; a power of two, at most 32,768.
    pub count: u16,
    /// Bytes in each.
    pub size: u32,
    /// Whether receives share a buffer, one behind the other.
    pub incremental: bool,
}

/// The caps of pending output: of a slow reader above them nothing is received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backlog {
    /// For one connection, which is at least twice the receive memory.
    pub(crate) per_connection: usize,
    /// For all of a worker's connections together, in memory of their own. What still lies in the receive buffers, and one
    /// receive of each connection that was no slow reader before it, may come on top.
    pub(crate) total: usize,
}

/// What happens to further clients while all connections are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// They get 503 with Retry-After at once; with bare TCP they are closed.
    #[default]
    Refuse,
    /// The kernel connects them, and they wait until a connection ends.
    Wait,
}

/// Time limits. `None`: no limit.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names)] // as the options and the flags are called
pub(crate) struct Limits {
    /// From the accept to the end of the upgrade request.
    pub(crate) handshake_timeout: Option<Duration>,
    /// Without input from a peer.
    pub(crate) idle_timeout: Option<Duration>,
    /// Without progress of the pending output of a connection that is throttled: a slow reader above a cap.
    pub(crate) stall_timeout: Option<Duration>,
    /// Without progress, from the decision to close a connection to the close of its socket.
    pub(crate) close_timeout: Duration,
    /// From the signal to stop to the end.
    pub(crate) drain_timeout: Duration,
    /// Delays and rates are counted in ticks, too: these are as fine as can be.
    pub(crate) has_fine_ticks: bool,
}

/// One worker as seen from other threads. Aligned so that two workers never write to the same cache lines.
#[repr(align(128))]
pub(crate) struct Control {
    counters: Arc<Counters>,
    is_stopping: AtomicBool,
    bell: OwnedFd,
}

impl Control {
    /// Fails only when the process is out of descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            counters: Arc::default(),
            is_stopping: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    /// The counters, which the worker alone writes.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Tells the worker to drain its connections and to return.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        // The worker may have come to its end already, but not its eventfd, which is this one's.
        rustix::io::write(&self.bell, &1u64.to_ne_bytes()).expect("an eventfd takes a write");
    }

    /// Wakes the worker, since others cannot accept and this one is to. An eventfd that is readable already stays so.
    pub(crate) fn call(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Whether [`Control::stop`] has been called.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// An eventfd (`eventfd(2)`) that becomes readable when the worker is wanted.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
