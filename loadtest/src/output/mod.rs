//! Output of a run: a screen or lines during it; at its end a table, and files for people and programs.

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

/// The output for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Voice {
    /// Standard output.
    Stdout,
    /// Standard error, because standard output takes one of the files.
    Stderr,
    /// Nowhere.
    Nowhere,
}

static VOICE: AtomicU8 = AtomicU8::new(Voice::Stdout as u8);

/// From here on people read what is said there.
pub fn speak_on(voice: Voice) {
    VOICE.store(voice as u8, Ordering::Relaxed);
}

/// Whether people read standard output.
#[must_use]
pub fn is_on_stdout() -> bool {
    VOICE.load(Ordering::Relaxed) == Voice::Stdout as u8
}

/// The columns of the terminal where people read, or as many as they like where it is none.
#[must_use]
pub fn columns() -> usize {
    let size = match VOICE.load(Ordering::Relaxed) {
        voice if voice == Voice::Stdout as u8 => tcgetwinsize(io::stdout()),
        _ => tcgetwinsize(io::stderr()),
    };
    size.ok().map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0).unwrap_or(usize::MAX)
}

/// Prints a remark. A closed output (`| head`, a full disk) does not end the run.
pub fn say(text: std::fmt::Arguments) {
    let _ = tell(text);
}

/// Prints a result. A reader that has gone is no fault; a result that is lost, as on a full disk, is one.
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

/// Whether EIO is that of a disk, and not that of a terminal that has hung up.
fn is_stdout_a_file() -> bool {
    std::fs::metadata("/proc/self/fd/1").is_ok_and(|it| it.is_file())
}

/// An error, unless it says that the reader of a pipe has gone, or that a terminal has hung up.
pub(crate) fn unless_nobody_reads(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EIO) && !is_stdout_a_file() => Ok(()),
        written => written,
    }
}
