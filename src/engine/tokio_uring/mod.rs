//! The tokio-uring engine: one runtime per worker, a task per connection. It shows what the ecosystem's runtime makes
//! of `io_uring`, by the same protocol code and under the same options.
//!
//! A connection that is idle has no receive buffer: its task waits for readability (a one-shot poll), then takes a
//! buffer of the worker's pool, receives without waiting, sends, and gives the buffer back. Holding a buffer in a
//! waiting receive costs as much processor time (docs/ENGINES.md has the figures), and the buffer.
//!
//! Limits of tokio-uring 0.5, which are why it is not the default:
//! - no multishot operations, no provided buffers, no direct descriptors: an echo is three operations, each with a
//!   completion, a wake-up and a turn of the task;
//! - operations reach the kernel when the runtime has nothing else to do, in an `io_uring_enter` that does not wait; what
//!   waits is tokio's `epoll_wait` on the ring, one more system call per turn;
//! - each operation under way has an entry in the runtime's own slab, each task an allocation of its own: an idle
//!   connection takes several hundred bytes;
//! - `DEFER_TASKRUN` cannot be used: the runtime does not enter the ring to wait, and only that runs deferred work.

mod operations;
mod pool;
mod task;
mod worker;

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use io_uring_06::{IoUring, opcode};
use tokio_uring::Runtime;

use super::sockets::accepts::Accepts;
use crate::worker::{Control, Plan};
use worker::{Supervisor, Worker};

/// Submissions that fit in the queue; more than that enter the kernel at once.
const SQ_ENTRIES: u32 = 1024;
/// Completions that fit.
const CQ_ENTRIES: u32 = 8192;

/// Whether this machine can run it. The runtime does not report when the kernel refuses `io_uring_enter`: it waits for ever.
/// So a ring of the server's own is entered first.
pub(super) fn probe() -> io::Result<()> {
    let mut ring = IoUring::new(1)?;
    // SAFETY: the operation names no memory.
    unsafe { ring.submission().push(&opcode::Nop::new().build()).expect("a ring has room for one") };
    ring.submit_and_wait(1)?;
    runtime(None).map(drop)
}

fn runtime(entries: Option<u32>) -> io::Result<Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(entries.map_or(CQ_ENTRIES, |entries| 2 * entries)).setup_clamp();
    Runtime::new(tokio_uring::builder().entries(entries.unwrap_or(SQ_ENTRIES)).uring_builder(&ring))
}

/// Runs a worker on the calling thread until it is told to stop and its connections are gone or out of time.
///
/// `started` is called once with the result of the start.
pub(super) fn run(
    plan: &Plan,
    control: &Arc<Control>,
    accepts: Accepts,
    started: &dyn Fn(io::Result<()>),
) -> io::Result<()> {
    let runtime = match runtime(plan.ring_entries) {
        Ok(runtime) => runtime,
        Err(e) => {
            started(Err(e));
            return Ok(());
        }
    };
    started(Ok(()));
    let worker = Rc::new(Worker::new(plan, control));
    runtime.block_on(async { Supervisor::new(worker, accepts).run().await })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Doors;

    /// With the runtime's own fields these are 256 bytes, since tasks are aligned to 128.
    const FUTURE_MAX: usize = 144;

    #[test]
    fn a_connections_future_is_small() {
        let plan = Plan::for_tests(0, 1, Doors::from([]));
        let worker = Rc::new(Worker::new(&plan, &Arc::new(Control::new().unwrap())));
        let size = size_of_val(&task::Task::new(worker, 0));
        println!("a connection's future: {size} bytes");
        assert!(size <= FUTURE_MAX, "{size} bytes");
    }
}
