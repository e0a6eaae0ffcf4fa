//! The log: lines on standard error, written by a separate thread.
//!
//! No worker waits for standard error: lines that it does not take are dropped.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, reload};

use super::program_args::LogFormat;
use crate::sys;

/// Lines that may wait for standard error. Each has its memory reserved.
const LINES_MAX: usize = 1024;

/// Ends the thread when the process does.
static LAST: Mutex<Option<Last>> = Mutex::new(None);

struct Last {
    guard: WorkerGuard,
    dropped: ErrorCounter,
}

/// The log's level, which can be changed while it is in use.
pub(super) struct Level {
    handle: reload::Handle<LevelFilter, Registry>,
}

impl Level {
    pub(super) fn set(&self, level: LevelFilter) -> Result<(), String> {
        self.handle.reload(level).map_err(|e| e.to_string())
    }
}

/// From here on what is logged goes to standard error. To be called once, with the signals blocked that a thread is to wait
/// for: the log's thread inherits that. It fails only if no thread can be started.
pub(super) fn start(level: LevelFilter, format: LogFormat) -> io::Result<Level> {
    // The appender panics if its thread cannot be started. One that ends at once tells beforehand, and leaves its memory.
    let _ = thread::Builder::new().spawn(|| {})?.join();
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).thread_name("log");
    let (writer, guard) = builder.finish(io::stderr());
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Last { guard, dropped: writer.error_counter() });
    let (filter, handle) = reload::Layer::new(level);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).with_target(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // It can only fail if there is one already, of a program around this one: then that one is used.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(filter).with(lines));
    sys::at_last(flush);
    Ok(Level { handle })
}

/// Writes the waiting lines, within a moment. Called before the process ends.
pub(super) fn flush() {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Last { guard, dropped }) = last
        && dropped.dropped_lines() > 0
    {
        // Standard error takes nothing: waiting for it is in vain.
        std::mem::forget(guard);
    }
}
