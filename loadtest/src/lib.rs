//! ringload: a load generator for WebSocket echo servers.
//!
//! - [`cli`] reads the arguments, [`scenario`] is what they mean; [`run`] conducts a run from the first connection to
//!   the report, [`search`] conducts several.
//! - [`engine`] moves the bytes, one ring per thread, following [`control`]'s phases, [`pacing`] and, in an open loop, the
//!   [`schedule`].
//! - [`session`] judges one connection's echoes: [`websocket`] reads the frames, [`message`] knows what must be in them,
//!   [`times`] since when each counts.
//! - [`target`], [`source`] and [`tls`] say where connections go to, where they come from and whom they trust.
//! - [`stats`] counts, [`sampling`] asks the system what both sides use, [`output`] shows it.

pub mod cli;
pub mod control;
pub mod engine;
pub mod message;
pub mod output;
pub mod own_server;
pub mod pacing;
pub mod run;
pub mod sampling;
pub mod scenario;
pub mod schedule;
pub mod search;
pub mod session;
pub mod source;
pub mod stats;
pub mod target;
pub mod times;
pub mod tls;
pub mod websocket;
