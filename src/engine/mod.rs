//! Who moves the bytes.

pub mod uring;
