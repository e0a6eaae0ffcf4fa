//! The gate on instruction counts: what the hot parts of both programs take at most, by callgrind, which counts however busy the
//! machine is.
//!
//! `scripts/instructions` runs `benches/server.rs` and `benches/load.rs`, and fails where a part takes more than its limit there.
//!
//! Counts are the same in each run, but not with another compiler or libc: they were made with Rust 1.95 and on Debian 12, with AVX2, and
//! so CI does it. (Without AVX2 libc copies and compares otherwise: `one_of_64k` of the load takes twice as many.)
//!
//! To move one: run the script, put its count into the bench, and say in the commit's body what the instructions buy. A count that has
//! fallen is put there as well, so that what was won is kept.

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig};

/// What a limit leaves above the count, in hundredths: 9 instructions for an echo of 128 bytes. What the compiler makes of a change elsewhere
/// stays within; ten more instructions for each message do not.
const MARGIN_PERCENT: u64 = 2;

/// Fails the bench where it takes more instructions than were counted, and the margin.
pub fn counted(instructions: u64) -> LibraryBenchmarkConfig {
    let limit = instructions + instructions * MARGIN_PERCENT / 100;
    LibraryBenchmarkConfig::default().tool(Callgrind::default().hard_limits([(EventKind::Ir, limit)])).clone()
}
