//! The native engine: a ring per worker, connections as direct descriptors, one `io_uring_enter` per turn.

pub mod acceptor;
pub mod buffers;
mod connection;
pub mod connections;
mod output;
pub mod ring;
#[cfg(test)]
mod simulation;
mod submit;
pub mod token;
pub mod worker;
