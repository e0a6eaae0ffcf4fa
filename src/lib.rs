//! ringecho: a WebSocket echo server for Linux, one thread per core on `io_uring`.
//!
//! [`Options`] are the requested settings, [`Config`] is the result of checking them on this machine, [`Server`] runs it,
//! [`Handle`] stops it and has its statistics:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = ringecho::Options { listen: vec!["127.0.0.1:0".into()], ..ringecho::Options::default() };
//! let server = ringecho::Server::bind(ringecho::Config::new(&options)?)?;
//! println!("listening on {:?}", server.addresses());
//! server.run()?;
//! # Ok(()) }
//! ```
//!
//! The layers, from top to bottom; each uses those below it (`tests/layering.rs`):
//! - `cli` reads flags and environment and runs the program;
//! - `admin` serves health, metrics and status of a running server (feature `admin`);
//! - `server` binds, starts the workers and drains them;
//! - `doctor` checks how many connections a machine can hold (feature `cli`);
//! - `config` turns options into checked settings, `machine` asks the operating system what it grants;
//! - `engine` moves the bytes;
//! - `connection` has lifecycle, pending output, deadlines and scheduling of connections, without I/O and without a clock;
//! - `worker` has the state that a worker shares with the rest of the process;
//! - `transport` has the stages between a connection's bytes and its session;
//! - `protocol` is WebSocket, without I/O and without a clock;
//! - `sys` makes single system calls.

#![warn(missing_docs)]
// Some of what engines share is used by the tokio-uring engine alone, some of what is counted by the admin listener.
#![cfg_attr(
    any(not(all(feature = "admin", feature = "cli", feature = "tokio-uring")), target_env = "musl"),
    allow(dead_code)
)]

#[cfg(feature = "admin")]
mod admin;
#[cfg(feature = "cli")]
pub mod cli;
mod config;
mod connection;
#[cfg(feature = "cli")]
mod doctor;
#[allow(unreachable_pub)] // what is `pub` in it is so for this crate
mod engine;
mod machine;
mod options;
mod server;
mod worker;

// For the benches, the fuzz targets and ringload, which are built with this crate. No part of its interface.
#[doc(hidden)]
pub use connection::Turns;
#[doc(hidden)]
pub mod protocol;
#[doc(hidden)]
pub mod sys;
#[doc(hidden)]
pub mod transport;

#[cfg(feature = "admin")]
pub use admin::{Admin, AdminAddress, AdminError};
pub use config::{Config, ConfigError};
pub use engine::{Engine, EngineError};
pub use machine::{Bound, Machine};
pub use options::Options;
pub use protocol::{Deflate, Protocol};
pub use server::{Address, Condition, Handle, Running, Server, ServerError, Stats, TlsError};
pub use worker::WhenFull;
