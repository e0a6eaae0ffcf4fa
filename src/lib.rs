//! ringecho: a WebSocket echo server for Linux, one thread per core on `io_uring`.

pub mod engine;
pub mod protocol;
pub mod sys;
