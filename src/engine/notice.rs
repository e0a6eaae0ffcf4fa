//! Notices of shortages in the log: one when it begins and one when it is over, not one per connection.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::worker::{Limits, WhenFull};

/// A shortage that begins again within this time is not reported again.
const PAUSE: Duration = Duration::from_secs(60);

/// One resource that can be short.
#[derive(Debug, Default)]
pub(super) struct Notice {
    said_at: Option<Instant>,
    /// The begin was logged, the end not yet.
    is_open: bool,
}

impl Notice {
    /// The shortage begins.
    pub(super) fn begins(&mut self, what: impl Display) {
        if !self.is_open && self.said_at.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.said_at = Some(Instant::now());
            self.is_open = true;
            tracing::warn!("{what}");
        }
    }

    /// The shortage, if any, is over.
    #[inline]
    pub(super) fn ends(&mut self, what: impl Display) {
        if std::mem::take(&mut self.is_open) {
            tracing::info!("{what}");
        }
    }
}

/// The notices about accepting.
#[derive(Debug)]
pub(super) struct Notices {
    when_full: WhenFull,
    full: Notice,
    failing: Notice,
}

impl Notices {
    pub(super) fn new(when_full: WhenFull) -> Self {
        Self { when_full, full: Notice::default(), failing: Notice::default() }
    }

    /// Whether there is room for more connections.
    pub(super) fn room(&mut self, has_room: bool) {
        if has_room {
            self.full.ends("there is room for further clients again");
        } else {
            let fate = match self.when_full {
                WhenFull::Refuse => "get 503 until a connection ends",
                WhenFull::Wait => "wait until a connection ends",
            };
            self.full.begins(format_args!(
                "all connections are taken: further clients {fate} (--max-connections is the limit)"
            ));
        }
    }

    /// An accept has failed for a shortage.
    pub(super) fn failed(&mut self, error: impl Display) {
        self.failing.begins(format_args!("cannot accept connections, but will try again: {error}"));
    }

    /// An accept has succeeded.
    #[inline]
    pub(super) fn accepted(&mut self) {
        self.failing.ends("accepting connections again");
    }
}

/// Logs that connections were closed because their output was stuck: the first at once, then their number per minute.
#[derive(Debug)]
pub(super) struct Stalls {
    timeout: Duration,
    said_at: Option<Instant>,
    unsaid: u32,
}

impl Stalls {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { timeout: limits.stall_timeout.unwrap_or_default(), said_at: None, unsaid: 0 }
    }

    /// Counts further ones.
    #[inline]
    pub(super) fn tell(&mut self, count: u32) {
        if count > 0 || self.unsaid > 0 {
            self.tell_some(count);
        }
    }

    #[cold]
    fn tell_some(&mut self, count: u32) {
        self.unsaid += count;
        if self.said_at.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.said_at = Some(Instant::now());
            let (count, seconds) = (std::mem::take(&mut self.unsaid), self.timeout.as_secs_f64());
            tracing::warn!(
                "ended {count} connection{} that did not read: no progress of their output for {seconds} s \
                 (--stall-timeout)",
                if count == 1 { "" } else { "s" }
            );
        }
    }
}
