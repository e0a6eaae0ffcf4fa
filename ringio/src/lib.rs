//! `io_uring` as this project drives it, behind an interface that is safe to use: one ring per thread, one pool of
//! provided buffers per ring, sends that are silent when they succeed.
//!
//! - [`Ring`] sets up a ring with the newest flags that the kernel takes, queues [`Operation`]s, enters and reaps
//!   [`Completion`]s.
//! - [`Pool`] is the ring's memory for receives. What a receive brought is a [`Piece`] of it.
//! - [`Token`] names an operation by a slab key, a generation and a kind, as 64 bits of user data.
//!
//! # What makes it sound
//!
//! The kernel reads and writes memory that a program names in a submission. Four rules keep that within Rust's:
//!
//! 1. *The ring and its pool share the memory.* [`Ring`] and [`Pool`] each keep the buffers mapped, so they may be
//!    dropped in any order. If a [`Piece`] is left when both are gone, the memory stays mapped.
//! 2. *A piece is made once, by [`Ring::reap`], and owns its bytes.* It can be neither copied nor made by hand; the kernel
//!    does not write to its bytes before [`Pool::release`] has consumed it. Completions are turned into pieces in the
//!    order of the completion queue, because the kernel tells lengths and no offsets.
//! 3. *Borrowed memory is borrowed for an enter.* An [`Operation<'m>`](Operation) that names borrowed bytes is one of
//!    those that the kernel is done with when the enter that submits it returns: sends without waiting, and operations
//!    whose parameters are copied at submission. [`Ring::submit`] takes them, enters, and returns only when the kernel
//!    has taken all; if it cannot, the ring refuses to enter ever again.
//! 4. *Everything else is `unsafe`*, with its contract: [`Operation::from_entry`], [`Ring::push_borrowed`] and
//!    [`Ring::push_borrowed_chain`]: what is linked behind an operation that waits begins after the enter.
//!
//! A piece cannot be cloned:
//!
//! ```compile_fail,E0599
//! fn twice(piece: ringio::Piece) -> (ringio::Piece, ringio::Piece) {
//!     (piece.clone(), piece)
//! }
//! ```
//!
//! nor used after its release:
//!
//! ```compile_fail,E0382
//! fn after_release(pool: &ringio::Pool, piece: ringio::Piece) -> u8 {
//!     pool.release(piece);
//!     piece.bytes()[0]
//! }
//! ```
//!
//! nor released while its bytes are borrowed:
//!
//! ```compile_fail,E0505
//! fn while_borrowed(pool: &ringio::Pool, piece: ringio::Piece) -> u8 {
//!     let bytes = piece.bytes();
//!     pool.release(piece);
//!     bytes[0]
//! }
//! ```
//!
//! nor made by hand:
//!
//! ```compile_fail,E0451
//! fn forged() -> ringio::Piece {
//!     ringio::Piece { start: std::ptr::NonNull::dangling(), len: 1, buffer: 0, ends_buffer: false }
//! }
//! ```
//!
//! Bytes that are to be sent cannot be freed before the enter:
//!
//! ```compile_fail,E0505
//! fn freed_too_early(ring: &mut ringio::Ring, bytes: Vec<u8>) {
//!     let send = ringio::Operation::send(0, &bytes, false);
//!     drop(bytes);
//!     ring.submit([send], ringio::Wait::default()).unwrap();
//! }
//! ```
//!
//! nor be left in the queue when they are only borrowed:
//!
//! ```compile_fail
//! fn left_in_the_queue(ring: &mut ringio::Ring, bytes: Vec<u8>) {
//!     ring.push(ringio::Operation::send(0, &bytes, false));
//! }
//! ```
//!
//! And a ring stays on its thread, with its pool and its pieces:
//!
//! ```compile_fail,E0277
//! fn is_send<T: Send>() {}
//! is_send::<ringio::Ring>();
//! ```
//!
//! # Miri
//!
//! `MIRIFLAGS=-Zmiri-ignore-leaks cargo +nightly miri test -p ringio --lib` runs the tests of pools, pieces and tokens: a
//! detached pool is ordinary memory, written by a simulated kernel (`testing`). Leaks are ignored because a piece that is
//! not released keeps its memory, as rule 1 has it. Miri knows no `io_uring`, so it cannot run what needs a real ring: the
//! tests of `ring.rs`, which are left out there, the shared queues and the registered memory. That the
//! kernel keeps to its side (rule 3, and that it does not write to a buffer that it was not provided) no tool on this
//! side can show; the tests with real sockets do by example.

mod completion;
mod memory;
mod operation;
mod piece;
mod pool;
mod probe;
mod ring;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod token;
mod turn;

pub use completion::Completion;
pub use io_uring::squeue::Entry;
pub use io_uring::types::Timespec;
pub use io_uring::{opcode, types};
pub use operation::Operation;
pub use piece::Piece;
pub use pool::{Pool, PoolShape};
pub use probe::ends_closed_sockets;
pub use ring::{Ring, RingOptions, Wait};
pub use token::{GENERATION_MASK, Kind, Token};
pub use turn::{RECEIVES_MAX, Usual};
