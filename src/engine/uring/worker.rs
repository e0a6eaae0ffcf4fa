//! One worker: the loop around its ring.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ringio::{Completion, Operation, PoolShape, Ring, RingOptions, Wait};

use crate::engine::clock::{Clock, TurnTimer};
use crate::engine::connection_log::{ConnectionLog, peer_of_installed};
use crate::engine::notice::Stalls;
use crate::engine::stopping::{SLICE, Stopping};
use crate::worker::{Control, Limits, Plan, ReceiveBuffers};

use super::accepts::{Accepts, Arrival};
use super::connections::Connections;
use super::token::{Kind, Token};

/// Size of the submission queue; a turn with more enters the kernel more than once.
const SQ_ENTRIES: u32 = 1024;
/// Size of the completion queue. Every connection can complete a receive at once; further completions wait in the kernel.
const CQ_ENTRIES: u32 = 8192;
/// Limit of completions to wait for under load, when waiting for several lets the kernel run more of them per pass.
const WANT_MAX: usize = 128;
/// Deferred completions (of polls and shutdowns) that the kernel runs in an enter that waits for no more
/// (`IO_LOCAL_TW_DEFAULT_MAX`, since Linux 6.13).
const DEFERRED_PER_ENTER: usize = 20;
/// Limit of completions in a turn, which enters again if more are deferred: an interactive message would otherwise wait for
/// many turns behind thousands of handshakes or teardowns.
const BATCH_MAX: usize = 512;
/// Time to wait for several completions before one is enough.
const MIN_WAIT_US: u32 = 20;
/// Time that a worker keeps its processor while the background has work: the promise of docs/RELIABILITY.md allows half a
/// millisecond more for other messages. With a yield each turn, on busy processors, a compressed message of 16 MiB that took
/// 80 ms of work took seconds.
const YIELD_AFTER: Duration = Duration::from_micros(500);

/// A worker's loop and all it owns.
struct Worker<'a> {
    ring: Ring,
    accepts: Accepts,
    connections: Connections,
    control: &'a Control,
    clock: Clock,
    limits: Limits,
    stopping: Stopping,
    stalls: Stalls,
    turns: TurnTimer,
    log: ConnectionLog,
    /// All deadlines that are due have been met.
    is_punctual: bool,
    /// Completions reaped in the last turn.
    batch: usize,
    /// The time of its last yield.
    yielded_at: Instant,
}

/// Runs a worker on the calling thread until it is told to stop and its connections are gone or out of time.
///
/// `started` is called once, when there is a ring or not.
pub(super) fn run(
    plan: &Plan,
    control: &Control,
    accepts: Accepts,
    started: &dyn Fn(io::Result<()>),
) -> io::Result<()> {
    let mut worker = match Worker::new(plan, control, accepts) {
        Ok(worker) => {
            started(Ok(()));
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
fn pool_shape(memory: usize) -> PoolShape {
    PoolShape { count: 2, size: ((memory / 2) & !4095) as u32, incremental: true }
}

impl<'a> Worker<'a> {
    fn new(plan: &Plan, control: &'a Control, accepts: Accepts) -> io::Result<Self> {
        let options = RingOptions {
            entries: plan.ring_entries.unwrap_or(SQ_ENTRIES),
            cq_entries: plan.ring_entries.map_or(CQ_ENTRIES, |entries| 2 * entries),
            direct_descriptors: plan.capacity,
        };
        let mut ring = Ring::new(&options)?;
        let shape = plan.receive_buffers.map_or_else(
            || pool_shape(plan.receive_memory),
            |ReceiveBuffers { count, size, incremental }| PoolShape { count, size, incremental },
        );
        let pool = ring.add_pool(shape)?;
        let clock = Clock::new(&plan.limits, BATCH_MAX as u32);
        let log = ConnectionLog::new(plan.index, clock.tick());
        let timeouts = clock.timeouts(&plan.limits);
        let (settings, doors) = (plan.settings.clone(), plan.doors.clone());
        let mut connections = Connections::new(plan.capacity as usize, pool, plan.backlog, settings, doors, timeouts);
        connections.core.count_in(control.counters());
        if plan.logs_connections {
            connections.core.keep_journal();
        }
        let mut worker = Self {
            ring,
            accepts,
            connections,
            control,
            clock,
            limits: plan.limits,
            stopping: Stopping::No,
            stalls: Stalls::new(&plan.limits),
            turns: TurnTimer::new(control.counters()),
            log,
            is_punctual: true,
            batch: 0,
            yielded_at: Instant::now(),
        };
        worker.listen_to_bell();
        Ok(worker)
    }

    /// One turn. Interactive connections whose input this turn has noticed are received from before the background, so that
    /// their messages wait for at most one budget of the background.
    fn turn(&mut self) -> io::Result<bool> {
        let had_deadlines = self.connections.core.has_deadlines();
        self.batch = 0;
        self.accepts.submit(self.connections.core.len(), &mut self.ring);
        self.enter(self.wait())?;
        let (now, open) = (Instant::now(), self.connections.core.len());
        self.connections.core.begin_turn(self.clock.advance(now, had_deadlines, open));
        self.see_all()?;
        if self.connections.core.has_foreground() && self.connections.core.has_background() {
            self.connections.provide_buffers();
            self.connections.receive_from_foreground();
            self.enter(Wait::default())?;
            self.see_all()?;
        }
        self.is_punctual = !self.clock.is_behind() && self.connections.core.meet_deadlines();
        self.connections.settle_called();
        self.stalls.tell(self.connections.core.take_stalled());
        self.log.write(self.connections.core.take_ended());
        let is_empty = self.connections.core.is_empty() && self.accepts.is_over();
        let goes_on = self.stopping.goes_on(is_empty, |from| self.connections.ask_some_to_leave(from, SLICE));
        self.connections.provide_buffers();
        self.connections.receive_from_foreground();
        self.connections.receive_from_background();
        self.connections.core.end_turn();
        self.turns.end(now, self.batch);
        if self.connections.core.has_background() && now.duration_since(self.yielded_at) >= YIELD_AFTER {
            // A processor may have several workers, and each keeps it for as long as the scheduler lets it.
            std::thread::yield_now();
            self.yielded_at = Instant::now();
        }
        Ok(goes_on)
    }

    /// Submits what is to be submitted, and waits.
    #[inline]
    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let ops = self.connections.take_ops();
        let connections = &self.connections;
        self.ring.submit(ops.iter().map(|&op| connections.submission(op)), wait)?;
        self.connections.give_back(ops);
        Ok(())
    }

    fn wait(&self) -> Wait {
        let receives = self.connections.queued_receives();
        if receives > 0 {
            // They complete in the enter itself: this wait returns at once, but lets as many polls complete in the same
            // pass.
            return Wait { want: receives, min_wait_us: MIN_WAIT_US, timeout: None };
        }
        if self.connections.is_urgent() || !self.is_punctual {
            return Wait::default();
        }
        let patience = self.stopping.patience(self.clock.tick(), self.connections.core.has_deadlines());
        let timeout = patience.into_iter().chain(self.accepts.patience()).min();
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Wait::default();
        }
        Wait { want: (self.batch / 2).clamp(1, WANT_MAX), min_wait_us: MIN_WAIT_US, timeout }
    }

    /// Passes all completions to the connections, including deferred ones.
    fn see_all(&mut self) -> io::Result<()> {
        while self.reap() >= DEFERRED_PER_ENTER && self.batch < BATCH_MAX {
            self.ring.enter(Wait::default())?;
        }
        // A send without a completion is complete only if no completion is left to be reaped.
        while self.ring.has_overflow() {
            self.ring.enter(Wait::default())?;
            self.reap();
        }
        self.connections.finish_sends();
        Ok(())
    }

    /// Passes every completion to its connection. Returns how many the kernel had deferred.
    fn reap(&mut self) -> usize {
        let (mut is_called, mut has_arrivals, mut listens) = (false, false, true);
        let (mut deferred, mut all) = (0, 0);
        let (connections, accepts) = (&mut self.connections, &mut self.accepts);
        self.ring.reap(|completion: Completion| {
            all += 1;
            let token = Token::decode(completion.user_data);
            let (result, goes_on) = (completion.result, completion.goes_on());
            deferred += usize::from(matches!(token.kind, Kind::Ready | Kind::Shutdown));
            match token.kind {
                Kind::Ready => connections.ready(token, result, goes_on),
                Kind::Receive => {
                    let has_more = completion.is_socket_nonempty();
                    connections.received(token, result, completion.piece, has_more);
                }
                Kind::Send => connections.send_fell_short(token, result),
                Kind::Cancel => connections.cancel_missed(token),
                Kind::Shutdown | Kind::Reset => connections.shut_down(token),
                Kind::Close => connections.closed(token),
                Kind::Accepted => {
                    if let Some(Arrival { slot, listener }) = accepts.completed(token.key, result) {
                        connections.accepted(slot, listener);
                        has_arrivals = true;
                    }
                }
                Kind::Install => connections.installed(token, peer_of_installed(result)),
                Kind::Wake => {
                    is_called = true;
                    listens &= goes_on;
                }
            }
        });
        self.batch += all;
        if has_arrivals {
            self.stopping.has_arrivals();
        }
        if !listens {
            self.listen_to_bell();
        }
        if is_called {
            self.accepts.call();
        }
        if is_called && self.control.is_stopping() {
            self.accepts.stop();
            self.connections.core.close_at_leisure();
            self.stopping.begin(self.limits.drain_timeout);
        }
        deferred
    }

    fn listen_to_bell(&mut self) {
        let bell = Operation::poll_descriptor(self.control.bell().as_raw_fd(), libc::POLLIN as u32);
        self.ring.push(bell.with_user_data(Token::of_worker(Kind::Wake).encode()));
    }
}
