//! WebSocket (RFC 6455) from the client's side, without I/O and without a clock.
//!
//! Nothing here is shared with the server: a judge must not make the same mistakes as the party it judges.

pub mod deflate;
pub mod frames;
pub mod handshake;
pub(crate) mod utf8;
