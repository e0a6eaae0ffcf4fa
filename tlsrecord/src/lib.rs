//! The record layer of TLS 1.3 (RFC 8446, 5) for connections whose handshake rustls has made, without I/O: rustls makes the
//! handshake and hands over its result ([`Handover`]), and [`Records`] opens and seals records in place, by ring's AEADs. An
//! idle connection keeps 216 bytes, where rustls keeps some kilobytes.
//!
//! Both programs use it: the server on its side, the load generator on the client's.

#![forbid(unsafe_code)]

mod handover;
mod records;

pub use handover::{Handover, encode, prepare};
pub use records::{FRAGMENT_MAX, Failure, HEADER, Keys, Progress, Reading, Records, Side};
