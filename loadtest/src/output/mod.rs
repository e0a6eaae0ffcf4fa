//! What a run shows: a screen or lines while it goes on; at its end a table, and files for people and programs.

pub mod csv;
pub mod display;
pub mod files;
pub mod hdr;
pub mod html;
pub mod json;
pub mod merge;
pub mod progress;
pub mod report;
pub mod screen;
pub mod table;

use std::io::Write;

/// Writes to standard output. That nobody reads it any more (`| head`) is no reason to end: there are files, too.
pub fn say(text: std::fmt::Arguments) {
    let _ = std::io::stdout().write_fmt(text);
}
