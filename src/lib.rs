//! ringecho: a WebSocket echo server for Linux, one thread per core on `io_uring`.
//!
//! The house, from the outside in:
//! - [`cli`] reads flags and environment, [`config`] turns them into checked settings;
//! - [`server`] starts the workers, waits for a signal, drains and sums up;
//! - [`worker`] is what a worker shares with the rest of the process;
//! - [`engine`] moves the bytes;
//! - [`protocol`] knows what they mean, without I/O and without a clock;
//! - [`sys`] asks the operating system for descriptors and processors.

pub mod cli;
pub mod config;
pub mod engine;
pub mod protocol;
pub mod server;
pub mod sys;
pub mod worker;
