//! Output of a run: a live screen or lines during it, and at its end a table, and files for people and programs.

pub mod csv;
pub mod diff;
pub mod display;
pub mod files;
pub mod hdr;
pub mod html;
pub mod json;
pub mod keys;
pub mod live;
pub mod merge;
pub mod metrics;
pub mod progress;
pub mod report;
pub mod result;
pub mod screen;
pub mod summary;
pub mod table;
pub mod terminal;
pub mod units;

use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::termios::tcgetwinsize;

/// Where output for people goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Voice {
    /// Standard output.
    Stdout,
    /// Standard error, since standard output is one of the files.
    Stderr,
    /// Nowhere.
    Nowhere,
}

static VOICE: AtomicU8 = AtomicU8::new(Voice::Stdout as u8);

/// Sets where output for people goes.
pub fn speak_on(voice: Voice) {
    VOICE.store(voice as u8, Ordering::Relaxed);
}

/// Whether output for people goes to standard output.
#[must_use]
pub fn is_on_stdout() -> bool {
    VOICE.load(Ordering::Relaxed) == Voice::Stdout as u8
}

/// The terminal's width in columns; unlimited if the output is no terminal.
#[must_use]
pub fn columns() -> usize {
    let size = match VOICE.load(Ordering::Relaxed) {
        voice if voice == Voice::Stdout as u8 => tcgetwinsize(io::stdout()),
        _ => tcgetwinsize(io::stderr()),
    };
    size.ok().map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0).unwrap_or(usize::MAX)
}

/// Prints a remark. An output error (`| head`, a full disk) does not end the run.
pub fn say(text: std::fmt::Arguments) {
    let _ = tell(text);
}

/// Prints a result. A reader that has closed the pipe is no error; a write that fails otherwise, as on a full disk, is
/// one.
pub fn tell(text: std::fmt::Arguments) -> io::Result<()> {
    let written = match VOICE.load(Ordering::Relaxed) {
        voice if voice == Voice::Stdout as u8 => {
            let mut out = io::stdout().lock();
            out.write_fmt(text).and_then(|()| out.flush())
        }
        voice if voice == Voice::Stderr as u8 => io::stderr().write_fmt(text),
        _ => Ok(()),
    };
    unless_nobody_reads(written)
}

/// Whether standard output is a file: then EIO is a disk error rather than a terminal's hang-up.
fn is_stdout_a_file() -> bool {
    std::fs::metadata("/proc/self/fd/1").is_ok_and(|it| it.is_file())
}

/// The error, unless the reader of a pipe or a terminal has hung up.
pub(crate) fn unless_nobody_reads(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EIO) && !is_stdout_a_file() => Ok(()),
        written => written,
    }
}
