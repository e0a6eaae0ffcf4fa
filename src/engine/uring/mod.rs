//! The native engine.

pub mod buffers;
pub mod ring;
