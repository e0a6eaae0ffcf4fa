//! WebSocket (RFC 6455) from the client's side, without I/O and without a clock.
//!
//! No code is shared with the server, so that a mistake in its parser is not repeated here.

pub mod deflate;
pub mod frames;
pub mod handshake;
pub(crate) mod utf8;
