//! ringload: a load generator for WebSocket echo servers.
//!
//! - [`cli`] reads the arguments, [`scenario`] is what they mean; [`run`] conducts a run from the first connection to
//!   the report, [`search`] conducts several.
//! - [`engine`] moves the bytes, one ring per thread, following [`control`]'s phases, [`pacing`] and, in an open loop, the
//!   [`schedule`].
//! - [`driver`] decides what each of a thread's connections does next; [`driver::plan`] is the load over time.
//! - [`session`] judges one connection's echoes: [`websocket`] reads the frames, [`message`] knows what must be in them,
//!   [`times`] since when each counts; [`codecs`] compress and inflate.
//! - [`stack`] is a TCP of our own, for connections without the kernel's sockets, and [`tun`] the network that it has.
//! - [`target`], [`source`] and [`tls`] say where connections go to, where they come from and which certificates they trust.
//! - [`members`] has many processes do one run together.
//! - [`server`] finds the server or starts it.
//! - [`compare`] sets servers against each other, in runs of this command.
//! - [`stats`], [`ends`] and [`interval`] count, [`sampling`] asks the system what both sides use, [`observer`] takes both together
//!   once a second, [`verdict`] says what limited the run, [`output`] shows it all and [`thresholds`] judge it.

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
