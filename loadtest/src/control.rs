//! Shared state of a run: how phases and counts travel between the main thread and the load threads.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};

use crate::interval::LiveLatencies;
use crate::stats::{Counts, PublishedCounts};

/// The phase of the threads. Phases only go forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Phase {
    /// Open connections; each proves itself with one echo, if wanted.
    Connect,
    /// Echo on the active connections, uncounted.
    WarmUp,
    /// Echo, and measure.
    Measure,
    /// Send nothing new; wait for what is in flight.
    Drain,
    /// Close every connection in order.
    Close,
    /// Return, whatever is left.
    Stop,
}

impl Phase {
    /// All, in their order.
    pub const ALL: [Self; 6] = [Self::Connect, Self::WarmUp, Self::Measure, Self::Drain, Self::Close, Self::Stop];

    /// Whether active connections send.
    #[must_use]
    pub fn is_sending(self) -> bool {
        matches!(self, Self::WarmUp | Self::Measure)
    }

    /// The phase's name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::WarmUp => "warm-up",
            Self::Measure => "measure",
            Self::Drain => "drain",
            Self::Close => "close",
            Self::Stop => "stop",
        }
    }
}

/// The current phase, the threads' alarm bells and their published counts.
#[derive(Debug)]
pub struct Control {
    phase: AtomicU8,
    threads: Vec<ThreadPost>,
}

/// State that one thread shares with the others.
#[derive(Debug)]
struct ThreadPost {
    counts: PublishedCounts,
    latencies: Arc<LiveLatencies>,
    /// The phase that it follows.
    followed: AtomicU8,
    bell: OwnedFd,
}

impl Control {
    /// For `threads` threads, in phase [`Phase::Connect`].
    pub fn new(threads: usize) -> io::Result<Self> {
        let post = |_| {
            let followed = AtomicU8::new(Phase::Connect as u8);
            let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
            Ok(ThreadPost { counts: PublishedCounts::default(), latencies: Arc::default(), followed, bell })
        };
        let threads = (0..threads).map(post).collect::<io::Result<_>>()?;
        Ok(Self { phase: AtomicU8::new(Phase::Connect as u8), threads })
    }

    /// The current phase.
    #[inline]
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    /// Begins `phase` and wakes all threads.
    pub fn begin(&self, phase: Phase) -> io::Result<()> {
        self.phase.store(phase as u8, Ordering::Relaxed);
        for thread in &self.threads {
            // The write orders the store before it: a thread that hears the bell sees the phase.
            rustix::io::write(&thread.bell, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }

    /// The descriptor that becomes readable when thread `index` is to look at the phase.
    #[must_use]
    pub fn bell(&self, index: usize) -> RawFd {
        self.threads[index].bell.as_raw_fd()
    }

    /// Thread `index` publishes its counts, which hold what it has done so far in `phase`.
    #[inline]
    pub fn publish(&self, index: usize, phase: Phase, counts: &Counts) {
        let post = &self.threads[index];
        post.counts.publish(counts);
        // Release: a thread that sees the phase sees these counts, or later ones.
        post.followed.store(phase as u8, Ordering::Release);
    }

    /// Whether the counts, read after this, are those of threads that all follow `phase`.
    #[must_use]
    pub fn is_followed(&self, phase: Phase) -> bool {
        self.threads.iter().all(|thread| thread.followed.load(Ordering::Acquire) == phase as u8)
    }

    /// The published latencies of thread `index`.
    #[must_use]
    pub fn live_latencies(&self, index: usize) -> &Arc<LiveLatencies> {
        &self.threads[index].latencies
    }

    /// All threads' live latencies.
    pub fn all_live_latencies(&self) -> impl Iterator<Item = &LiveLatencies> {
        self.threads.iter().map(|thread| &*thread.latencies)
    }

    /// All threads' published counts together.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for thread in &self.threads {
            sum.add(&thread.counts.read());
        }
        sum
    }
}
