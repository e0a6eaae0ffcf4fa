//! One worker: the loop around its ring.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{opcode, types};

use crate::engine::deadline::Clock;
use crate::engine::stopping::Stopping;
use crate::worker::{Control, Limits, Plan, ReceiveBuffers};

use super::buffers::{BufferPool, PoolShape};
use super::connections::Connections;
use super::ring::{Ring, RingOptions, Wait};
use super::submit;
use super::token::{Kind, Token};

/// Submissions that fit in the queue; a turn with more enters the kernel more than once.
const SQ_ENTRIES: u32 = 1024;
/// Completions that fit. Every connection can complete a receive at once; what is beyond waits in the kernel.
const CQ_ENTRIES: u32 = 8192;
/// Under load, waiting for more than one completion lets the kernel run more of them per pass; this is the bound.
const WANT_MAX: usize = 128;
/// Deferred completions (of polls and shutdowns) that the kernel runs in an enter which does not wait for more
/// (`IO_LOCAL_TW_DEFAULT_MAX`, since Linux 6.13).
const DEFERRED_PER_ENTER: usize = 20;
/// When more of them wait, the turn asks again, up to so many: who has sent something would otherwise wait for many turns
/// behind thousands who have come or gone.
const BATCH_MAX: usize = 512;
/// How long it may wait for them before one is enough.
const MIN_WAIT_US: u32 = 20;
/// Connections told to close, or checked for deadlines, per turn: bounds the time between two looks at the ring.
const SLICE: usize = 2048;

/// A worker's loop and all it owns. Field order matters: the ring goes first, the memory it writes to after it.
struct Worker<'a> {
    ring: Ring,
    connections: Connections,
    control: &'a Control,
    clock: Clock,
    limits: Limits,
    stopping: Stopping,
    swept_at: u32,
    /// Where the kernel puts the eventfd's count.
    bell_count: Box<u64>,
    /// Completions reaped in the last turn.
    batch: usize,
}

/// Runs a worker on the calling thread until it is told to stop and its connections are gone or out of time.
///
/// `started` gets the ring's descriptor, to which the acceptor sends sockets, or why there is none.
pub(super) fn run(plan: &Plan, control: &Control, started: &dyn Fn(io::Result<RawFd>)) -> io::Result<()> {
    let mut worker = match Worker::new(plan, control) {
        Ok(worker) => {
            started(Ok(worker.ring.as_raw_fd()));
            worker
        }
        Err(e) => {
            started(Err(e));
            return Ok(());
        }
    };
    while worker.turn()? {}
    Ok(())
}

/// The receive buffers for `memory` bytes: one to be filled while the other is being sent. Few and large, because each
/// piece of a large message costs a receive and a send, and because they are used over and over while they are in cache.
pub fn pool_shape(memory: usize) -> PoolShape {
    PoolShape { count: 2, size: ((memory / 2) & !4095) as u32, incremental: true }
}

impl<'a> Worker<'a> {
    fn new(plan: &Plan, control: &'a Control) -> io::Result<Self> {
        let options = RingOptions {
            entries: plan.ring_entries.unwrap_or(SQ_ENTRIES),
            cq_entries: plan.ring_entries.map_or(CQ_ENTRIES, |entries| 2 * entries),
            direct_descriptors: plan.capacity,
        };
        let ring = Ring::new(&options)?;
        let shape = plan.receive_buffers.map_or_else(
            || pool_shape(plan.receive_memory),
            |ReceiveBuffers { count, size, incremental }| PoolShape { count, size, incremental },
        );
        let pool = BufferPool::new(&ring, submit::BUFFER_GROUP, shape)?;
        let clock = Clock::new(&plan.limits);
        let timeouts = clock.timeouts(&plan.limits);
        let connections = Connections::new(plan.capacity as usize, pool, plan.backlog, plan.settings.clone(), timeouts);
        let mut worker = Self {
            ring,
            connections,
            control,
            clock,
            limits: plan.limits,
            stopping: Stopping::No,
            swept_at: 0,
            bell_count: Box::new(0),
            batch: 0,
        };
        worker.listen_to_bell();
        Ok(worker)
    }

    /// One turn: submit and wait, reap everything, decide what is next. Returns whether there is a next turn.
    fn turn(&mut self) -> io::Result<bool> {
        let wait = self.wait();
        self.queue_operations();
        let all_submitted = self.ring.submit_and_wait(wait)?;
        let now = self.clock.now();
        self.connections.set_now(now);
        self.batch = 0;
        let mut bound = wait.want.max(DEFERRED_PER_ENTER);
        while self.reap() >= bound && self.batch < BATCH_MAX {
            bound = DEFERRED_PER_ENTER;
            self.ring.submit_and_wait(Wait::default())?;
        }
        // A send without a completion is complete only if there is no completion left to be seen.
        while self.ring.has_overflow() {
            self.ring.submit_and_wait(Wait::default())?;
            self.reap();
        }
        if all_submitted {
            self.connections.finish_sends();
        }
        self.sweep(now);
        let is_empty = self.connections.is_empty();
        let goes_on = self.stopping.goes_on(is_empty, |from| self.connections.ask_some_to_leave(from, SLICE));
        self.connections.end_turn();
        self.control.publish(self.connections.tally());
        if self.connections.has_passing_left() {
            // A processor may have several workers, and each keeps it for as long as the scheduler lets it.
            std::thread::yield_now();
        }
        Ok(goes_on)
    }

    #[inline]
    fn queue_operations(&mut self) {
        for (token, op) in self.connections.take_ops() {
            // SAFETY: a send's bytes stay where they are until `finish_sends`, which follows the enter that submits
            // the send; no other operation on connections names memory.
            unsafe { self.ring.push(&submit::entry(token, op)) };
        }
    }

    fn wait(&self) -> Wait {
        let receives = self.connections.queued_receives();
        if receives > 0 {
            // They complete in the enter itself: this waits for nothing, but lets as many polls complete in the same pass.
            return Wait { want: receives, min_wait_us: MIN_WAIT_US, timeout: None };
        }
        if self.connections.is_urgent() {
            return Wait::default();
        }
        let timeout = self.stopping.patience(self.clock.tick(), self.connections.needs_sweep());
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Wait::default();
        }
        Wait { want: (self.batch / 2).clamp(1, WANT_MAX), min_wait_us: MIN_WAIT_US, timeout }
    }

    /// Hands every completion to the connection it belongs to. Returns how many the kernel had deferred.
    fn reap(&mut self) -> usize {
        let (mut is_called, mut has_arrivals) = (false, false);
        let mut deferred = 0;
        for completion in self.ring.completions() {
            self.batch += 1;
            let token = Token::decode(completion.user_data());
            let result = completion.result();
            deferred += usize::from(matches!(token.kind, Kind::Ready | Kind::Shutdown));
            match token.kind {
                Kind::Ready => self.connections.ready(token, result, completion.flags()),
                Kind::Receive => self.connections.received(token, result, completion.flags()),
                Kind::Send => self.connections.send_fell_short(token, result),
                Kind::Cancel => self.connections.cancel_missed(token),
                Kind::Shutdown => self.connections.shut_down(token),
                Kind::Close => self.connections.closed(token),
                Kind::Accepted => {
                    self.connections.accepted(result as u32);
                    has_arrivals = true;
                }
                Kind::Wake => is_called = true,
            }
        }
        if has_arrivals {
            self.stopping.has_arrivals();
        }
        if is_called {
            self.listen_to_bell();
            self.connections.close_at_leisure();
            self.stopping.begin(self.limits.drain_timeout);
        }
        deferred
    }

    fn sweep(&mut self, now: u32) {
        if now != self.swept_at && self.connections.needs_sweep() {
            let is_done = self.connections.sweep(SLICE.max(self.connections.len() / 4));
            self.swept_at = if is_done { now } else { self.swept_at };
        }
    }

    fn listen_to_bell(&mut self) {
        let count: *mut u64 = &raw mut *self.bell_count;
        let read = opcode::Read::new(types::Fd(self.control.bell().as_raw_fd()), count.cast(), 8)
            .build()
            .user_data(Token::of_worker(Kind::Wake).encode());
        // SAFETY: the box lives as long as the worker and goes after the ring; the kernel alone writes to it.
        unsafe { self.ring.push(&read) };
    }
}
