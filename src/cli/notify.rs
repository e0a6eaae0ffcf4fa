//! Notifications to a service manager (`sd_notify(3)`): ready, reloading, stopping, watchdog.
//!
//! Without `NOTIFY_SOCKET` none is sent.

use std::io;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::server::Handle;
use crate::worker::Counter;

fn notify(states: &[NotifyState]) {
    // A manager that is gone wants to know nothing.
    let _ = sd_notify::notify(states);
}

pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// `within`: the time that stopping may take.
pub(super) fn stopping(status: &str, within: Duration) {
    let within_us = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::Status(status), NotifyState::ExtendTimeoutUsec(within_us)]);
}

/// If the manager wants to hear of the process at intervals (`WATCHDOG_USEC`), tells it twice in each, as long as all workers
/// make their turns: one that hangs leads to a restart.
pub(super) fn watch(handle: Handle) -> io::Result<()> {
    let Some(interval) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let watch = move || {
        let mut before = turns(&handle);
        notify(&[NotifyState::Watchdog]);
        loop {
            // A worker without connections makes a turn only when it is called.
            handle.call();
            thread::sleep(interval / 2);
            let now = turns(&handle);
            if now.iter().zip(&before).all(|(now, before)| now != before) {
                notify(&[NotifyState::Watchdog]);
            } else {
                tracing::error!("a worker makes no turns: the service manager is not told that all is well");
            }
            before = now;
        }
    };
    thread::Builder::new().name("watchdog".into()).spawn(watch).map(drop)
}

/// The turns that each worker has made.
fn turns(handle: &Handle) -> Vec<u64> {
    handle.tallies().iter().map(|tally| tally.get(Counter::Turns)).collect()
}
