//! Helpers of the integration tests: the server as a child process, a client that sees every byte, and data in which every
//! byte identifies its position.
//!
//! Nothing here waits for time to pass: what is awaited is an event (a line, a frame, the end of a process), and
//! `PATIENCE` only turns an event that never comes into a failure.

#![allow(dead_code, unused_imports, reason = "every test file uses its own part of this module")]

pub(crate) mod browser;
pub(crate) mod data;
pub(crate) mod frames;
pub(crate) mod inflate;
pub(crate) mod peer;
pub(crate) mod sandbox;
pub(crate) mod server;
#[cfg(feature = "tls")]
pub(crate) mod tls;

use std::thread;
use std::time::{Duration, Instant};

pub(crate) use data::{Random, fill_pattern, pattern, pattern_text};

/// How long an awaited event may take: far more than any machine needs, so that a slow and busy one passes too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const KIB: usize = 1024;
pub(crate) const MIB: usize = 1024 * KIB;

/// Polls until the condition holds: for states that no descriptor announces, such as a figure in `/proc`.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "still waiting after {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
