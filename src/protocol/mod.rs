//! WebSocket (RFC 6455) without I/O and without a clock: bytes in, bytes out.
//!
//! An engine gives each connection a [`Session`], passes it the bytes of every receive and sends what the [`Reply`] says.
//! Nothing here knows sockets, time or threads.
//!
//! | file | content |
//! |---|---|
//! | `session.rs` | a connection's life: handshake, open, closing, closed |
//! | `handshake.rs`, `target.rs`, `answer.rs` | the HTTP/1.1 upgrade request, its target, and the answers to it (section 4) |
//! | `extensions.rs` | the negotiation of permessage-deflate (RFC 7692, section 7.1) |
//! | `page.rs`, `page.html` | the test page for browsers |
//! | `echo.rs` | the frames of one receive turned into their echo, in place (sections 5 and 6) |
//! | `compressed.rs` | the same for compressed frames that are inflated (RFC 7692, section 6) |
//! | `codecs.rs` | inflaters and compressors, and how much may be inflated at once (section 7.2) |
//! | `behaviour.rs`, `behaving.rs` | behaviours other than an echo: their requests, and how they work |
//! | `frame.rs` | frame headers (section 5.2) |
//! | `mask.rs` | unmasking, in place or while moving (section 5.3) |
//! | `utf8.rs` | UTF-8 that arrives in pieces (section 8.1) |
//! | `close.rs`, `close_code.rs` | Close frames and their codes, and violations (section 7) |
//! | `reply.rs` | a session's replies to its engine |
//! | `settings.rs`, `shared.rs` | settings; state shared by the sessions of a worker |
//!
//! `docs/PROTOCOL.md` describes the echo, and the deviations from the RFCs.

#![forbid(unsafe_code)]

mod answer;
mod behaving;
mod behaviour;
mod close;
mod close_code;
mod codecs;
mod compressed;
mod echo;
mod extensions;
mod frame;
mod handshake;
pub mod mask;
mod page;
mod reply;
mod session;
mod settings;
mod shared;
mod target;
#[cfg(test)]
mod testing;
mod utf8;

pub use answer::{full, refuse};
pub use behaviour::{Behaviour, Source};
pub use close_code::CloseCode;
pub use codecs::Work;
pub use frame::{Opcode, write_binary_header};
pub use handshake::is_token;
pub use reply::{Cause, Event, Kinds, Output, Reply, Then};
pub use session::{Phase, Session};
pub use settings::{Deflate, Protocol, Settings};
pub use shared::Shared;
pub use target::normalize_path;
