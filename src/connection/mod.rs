//! The connection core of all engines, without I/O: no ring, no socket, no clock.
//!
//! | file | what it knows |
//! |---|---|
//! | `connections.rs` | a worker's connections together: what engines call |
//! | `lifecycle.rs` | a connection's states, what an event changes, what is wanted next, what is due when |
//! | `journal.rs` | peers of connections and how these ended, for the connection log |
//! | `table.rs` | entries by key, and the lists that run through them |
//! | `output.rs` | pending output and its memory |
//! | `schedule.rs` | the scheduler: costs, the budget of a turn, a connection's quantum |
//! | `wheel.rs` | timers |
//! | `actors.rs` | behaviours that send later or without input |
//! | `bench.rs` | turns without a kernel, for instruction counts |

mod actors;
mod bench;
mod connections;
mod journal;
pub(crate) mod lifecycle;
pub(crate) mod output;
pub(crate) mod schedule;
mod table;
mod wheel;

pub use bench::Turns;
pub(crate) use connections::Connections;
pub(crate) use journal::Ended;
pub(crate) use lifecycle::{STALL_TICKS, Timeouts};
#[cfg(test)]
pub(crate) use table::Connection;
