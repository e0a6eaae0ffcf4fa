//! ringload: a load generator for WebSocket echo servers.
//!
//! - [`cli`] parses the arguments into a [`scenario`]; [`run`] conducts a run from the first connection to the report,
//!   [`search`] a series of runs.
//! - [`engine`] moves the bytes, one ring per thread, following the phases of [`control`], [`pacing`] and, in an open loop,
//!   the [`schedule`].
//! - [`driver`] decides what each of a thread's connections does next; [`driver::plan`] is the load over time.
//! - [`session`] judges one connection's echoes: [`websocket`] parses the frames, [`message`] knows the expected bytes,
//!   [`times`] from when each latency counts; [`codecs`] compress and inflate.
//! - [`stack`] is a TCP of our own, for connections without the kernel's sockets, and [`tun`] its network.
//! - [`target`], [`source`] and [`tls`] define targets, source addresses and trusted certificates of connections.
//! - [`members`] synchronises several processes in one run.
//! - [`server`] finds or starts the server.
//! - [`compare`] compares servers, by runs of this command.
//! - [`stats`], [`ends`] and [`interval`] count, [`sampling`] reads the resource usage of both sides, [`observer`] combines
//!   them once a second, [`verdict`] says what limited the run, [`output`] presents the results and [`thresholds`] checks them.

pub mod cli;
pub mod codecs;
pub mod compare;
pub mod control;
#[cfg(test)]
mod counting;
pub mod driver;
pub mod ends;
pub mod engine;
pub mod interrupt;
pub mod interval;
pub mod machine;
pub mod members;
pub mod message;
pub mod observer;
pub mod output;
pub mod own_server;
pub mod pacing;
pub mod parsing;
pub mod run;
pub mod said;
pub mod sampling;
pub mod scenario;
pub mod schedule;
pub mod search;
pub mod series;
pub mod server;
pub mod server_command;
pub mod session;
pub mod source;
pub mod stack;
pub mod stats;
pub mod target;
pub mod thresholds;
pub mod times;
pub mod tls;
pub mod tun;
pub mod usage;
pub mod verdict;
pub mod websocket;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;
