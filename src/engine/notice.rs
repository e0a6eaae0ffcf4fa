//! Says on standard error that something is short, and when that is over: once, and not for each connection.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::sys::log;

/// What comes and goes faster than this is said once.
const PAUSE: Duration = Duration::from_secs(60);

/// One thing that can be short.
#[derive(Debug, Default)]
pub(super) struct Notice {
    said_at: Option<Instant>,
    /// It has been said, and nothing has been said since.
    is_open: bool,
}

impl Notice {
    /// It is short.
    pub(super) fn begins(&mut self, what: impl Display) {
        if !self.is_open && self.said_at.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.said_at = Some(Instant::now());
            self.is_open = true;
            log(format_args!("{what}"));
        }
    }

    /// It is not, or no more.
    #[inline]
    pub(super) fn ends(&mut self, what: impl Display) {
        if std::mem::take(&mut self.is_open) {
            log(format_args!("{what}"));
        }
    }
}

/// What an acceptor has to say.
#[derive(Debug, Default)]
pub(super) struct Notices {
    full: Notice,
    failing: Notice,
}

impl Notices {
    /// How many more connections there is room for.
    pub(super) fn room(&mut self, room: u64) {
        if room == 0 {
            let remedy = "further clients wait until somebody leaves (--max-connections is the limit)";
            self.full.begins(format_args!("all connections are taken: {remedy}"));
        } else {
            self.full.ends("there is room for further clients again");
        }
    }

    /// An accept has failed for want of something.
    pub(super) fn failed(&mut self, error: impl Display) {
        self.failing.begins(format_args!("cannot accept connections, but will try again: {error}"));
    }

    /// An accept has succeeded.
    #[inline]
    pub(super) fn accepted(&mut self) {
        self.failing.ends("accepting connections again");
    }
}
