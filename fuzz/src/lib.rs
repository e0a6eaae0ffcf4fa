//! What the fuzz targets share.
//!
//! | file | what it is |
//! |---|---|
//! | `input.rs` | what a fuzzer's bytes mean: settings, cuts between reads, a stream |
//! | `model.rs` | what must come of a stream, by the letter of RFC 6455: written for this, shares nothing with the server |
//! | `conversation.rs` | ringload's TCP, and the server that a fuzzer plays |
//! | `driven.rs` | a session that is given a stream in pieces, and what must hold after each |
//! | `memory.rs` | how much memory is allocated |
//! | `packet.rs` | IP packets and TCP segments, read and written by the letter of the RFCs |
//! | `records.rs` | records of TLS 1.3, for ringecho and for rustls |
//! | `seeds.rs` | the seed corpus |
//! | `zlib.rs` | zlib, to judge what is inflated |
//!
//! The strict reader of what a server sends is the one of the property tests.

#[cfg(feature = "ringload")]
pub mod conversation;
pub mod driven;
pub mod input;
pub mod memory;
pub mod model;
#[path = "../../tests/outgoing/mod.rs"]
pub mod outgoing;
pub mod packet;
pub mod records;
pub mod seeds;
pub mod zlib;
