//! The record layer of TLS 1.3 (RFC 8446, 5) for connections whose handshake rustls has made, without I/O: rustls shakes hands
//! and hands over what was agreed on ([`Handover`]), and [`Records`] opens and seals records where they lie, by ring's AEADs.
//! An idle connection keeps 216 bytes, where rustls keeps some kilobytes.
//!
//! Both programs use it: the server for its side, the load generator for the client's.

#![forbid(unsafe_code)]

mod handover;
mod records;

pub use handover::{Handover, encode, prepare};
pub use records::{FRAGMENT_MAX, Failure, HEADER, Keys, Progress, Reading, Records, Side};
