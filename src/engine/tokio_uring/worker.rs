//! Shared state of one worker's tasks, and the supervisor task.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use io_uring_06::types::Timespec;
use rustix::io::Errno;

use super::operations::{self, Operation, is_over};
use super::pool::Pool;
use super::task::{SENDING_ECHO, Task};
use crate::connection::schedule::Grant;
use crate::engine::clock::Clock;
use crate::engine::connection_log::{ConnectionLog, peer_of};
use crate::engine::notice::Stalls;
use crate::engine::sockets::accepts::Accepts;
use crate::engine::sockets::connections::{Connections, HEADROOM};
use crate::engine::stopping::{SLICE, Stopping};
use crate::worker::{Control, Limits, Plan};

/// Bytes in a receive buffer (a message of 16 KiB and its header fit), and in those for connections that fill them.
/// The small ones together are the worker's receive memory, which should stay in the second-level cache; the large ones
/// are as much again at most.
const SMALL: usize = 20 << 10;
const LARGE: usize = 256 << 10;
/// Tasks that run between two polls of the supervisor, at least, if that many are ready (tokio's `MAX_TASKS_PER_TICK` of a
/// `LocalSet`).
const TASKS_PER_TURN: u32 = 61;

/// State shared by the tasks of one worker.
pub(super) struct Worker {
    index: usize,
    connections: RefCell<Connections>,
    clock: Clock,
    limits: Limits,
    control: Arc<Control>,
    small: Pool,
    large: Pool,
    pub(super) calls: Calls,
    /// Turns that tasks have been granted and have not taken.
    grants: RefCell<HashMap<u32, Grant>>,
    /// Wakes the supervisor.
    supervisor: RefCell<Option<Waker>>,
    is_supervisor_called: Cell<bool>,
    is_ticking: Cell<bool>,
}

impl Worker {
    pub(super) fn new(plan: &Plan, control: &Arc<Control>) -> Self {
        let clock = Clock::new(&plan.limits, TASKS_PER_TURN);
        let (small, large) = pools(plan);
        let timeouts = clock.timeouts(&plan.limits);
        let (settings, doors) = (plan.settings.clone(), plan.doors.clone());
        let mut connections = Connections::new(plan.capacity as usize, plan.backlog, settings, doors, timeouts);
        connections.count_in(control.counters());
        if plan.logs_connections {
            connections.keep_journal();
        }
        Self {
            index: plan.index,
            connections: RefCell::new(connections),
            clock,
            limits: plan.limits,
            control: Arc::clone(control),
            small,
            large,
            calls: Calls::default(),
            grants: RefCell::default(),
            supervisor: RefCell::new(None),
            is_supervisor_called: Cell::new(false),
            is_ticking: Cell::new(false),
        }
    }

    /// Not to be held while waiting.
    pub(super) fn connections(&self) -> RefMut<'_, Connections> {
        self.connections.borrow_mut()
    }

    /// Receive buffers.
    pub(super) fn pool(&self, wants_much: bool) -> &Pool {
        if wants_much { &self.large } else { &self.small }
    }

    /// Whether a receive with this result has filled a small buffer, or would have.
    pub(super) fn is_much(&self, result: i32) -> bool {
        result >= (self.small.size() - HEADROOM) as i32 && self.large.size() > self.small.size()
    }

    /// Gives a receive buffer back.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        self.pool(buffer.len() > self.small.size()).give_back(buffer);
    }

    /// Publishes the counters, and makes the supervisor check deadlines and waiting connections.
    pub(super) fn publish(&self) {
        let connections = self.connections.borrow();
        connections.end_turn();
        if connections.has_background() || (connections.has_deadlines() && !self.is_ticking.get()) {
            self.call_supervisor();
        }
    }

    /// Grants turns to the background, as far as the turn's budget allows.
    pub(super) fn grant_turns(&self) {
        let mut connections = self.connections();
        while let Some(key) = connections.next_foreground() {
            // It has become interactive while it waited.
            connections.call(key);
        }
        while let Some(key) = connections.next_background() {
            self.grants.borrow_mut().insert(key, connections.grant(key));
            connections.call(key);
        }
    }

    /// Takes the turn that a task was granted, if any.
    pub(super) fn take_grant(&self, key: u32) -> Option<Grant> {
        let mut grants = self.grants.borrow_mut();
        if grants.is_empty() { None } else { grants.remove(&key) }
    }

    /// Removes a connection and closes its socket.
    pub(super) fn remove(&self, key: u32) {
        let mut connections = self.connections();
        connections.end(key);
        if connections.is_empty() {
            *self.calls.wakers.borrow_mut() = Vec::new(); // the memory of a peak goes back
        }
        drop(connections);
        self.publish();
        // There is room again, or the drain is over, and no other event may wake it.
        self.call_supervisor();
    }

    fn call_supervisor(&self) {
        self.is_supervisor_called.set(true);
        if let Some(waker) = self.supervisor.take() {
            waker.wake();
        }
    }
}

/// The receive buffers: small ones and large ones, or all of one size if the plan says so.
fn pools(plan: &Plan) -> (Pool, Pool) {
    if let Some(shape) = plan.receive_buffers {
        let size = HEADROOM + shape.size as usize;
        return (Pool::new(shape.count.into(), size), Pool::new(0, size));
    }
    let small = SMALL.min(plan.receive_memory / 2);
    let large = LARGE.min(plan.receive_memory);
    let large_count = (plan.receive_memory / 2 / large).max(1);
    (Pool::new(plan.receive_memory / small, HEADROOM + small), Pool::new(large_count, HEADROOM + large))
}

/// Calls of tasks that wait for their sockets, so that they check for other work.
#[derive(Default)]
pub(super) struct Calls {
    wakers: RefCell<Vec<Option<Waker>>>,
}

impl Calls {
    /// The task waits for its call.
    pub(super) fn listen(&self, key: u32, cx: &Context) {
        let mut wakers = self.wakers.borrow_mut();
        if wakers.len() <= key as usize {
            wakers.resize(key as usize + 1, None);
        }
        let waker = &mut wakers[key as usize];
        if waker.is_none() {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Whether the task has been called since it listens.
    pub(super) fn has_called(&self, key: u32) -> bool {
        self.wakers.borrow()[key as usize].is_none()
    }

    pub(super) fn stop_listening(&self, key: u32) {
        if let Some(waker) = self.wakers.borrow_mut().get_mut(key as usize) {
            *waker = None;
        }
    }

    /// Calls the task, if it waits; otherwise it will check by itself.
    fn call(&self, key: u32) {
        let waker = self.wakers.borrow_mut().get_mut(key as usize).and_then(Option::take);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Spawns the tasks of new connections, grants turns to the background, meets deadlines and shuts the worker down.
pub(super) struct Supervisor {
    worker: Rc<Worker>,
    accepts: Accepts,
    /// Waits for the listeners.
    waits: Vec<Option<Operation<()>>>,
    /// A client may have connected, or other workers rely on this one to accept.
    may_accept: bool,
    is_needed: bool,
    is_called: Option<Operation<()>>,
    tick: Option<Operation<Box<Timespec>>>,
    stopping: Stopping,
    log: ConnectionLog,
    stalls: Stalls,
    /// All deadlines that are due have been met.
    is_punctual: bool,
}

impl Supervisor {
    pub(super) fn new(worker: Rc<Worker>, accepts: Accepts) -> Self {
        Self {
            waits: accepts.listeners().map(|_| None).collect(),
            may_accept: false,
            is_needed: false,
            is_called: Some(operations::readable(worker.control.bell())),
            stalls: Stalls::new(&worker.limits),
            log: ConnectionLog::new(worker.index, worker.clock.tick()),
            worker,
            accepts,
            tick: None,
            stopping: Stopping::No,
            is_punctual: true,
        }
    }

    /// Runs until the worker is told to stop and its connections are gone or out of time.
    pub(super) async fn run(mut self) -> io::Result<()> {
        while self.turn().await? {}
        Ok(())
    }

    async fn turn(&mut self) -> io::Result<bool> {
        let (had_deadlines, has_background) = {
            let connections = self.worker.connections();
            (connections.has_deadlines(), connections.has_background())
        };
        self.watch_listeners();
        let patience = self.stopping.patience(self.worker.clock.tick(), had_deadlines);
        match patience.into_iter().chain(self.accepts.patience()).min() {
            patience if has_background || !self.is_punctual || patience == Some(Duration::ZERO) => {
                pass_through_kernel().await;
                let _ = poll_fn(|cx| Poll::Ready(self.poll_events(cx))).await;
            }
            patience => {
                if self.tick.is_none() {
                    self.tick = patience.map(operations::timeout);
                }
                self.worker.is_ticking.set(self.tick.is_some());
                poll_fn(|cx| self.poll_events(cx)).await;
            }
        }
        let open = self.worker.connections().len();
        let now = self.worker.clock.advance(Instant::now(), had_deadlines, open);
        self.worker.connections().begin_turn(now);
        if std::mem::take(&mut self.may_accept) {
            self.accept();
        }
        let goes_on = self.look_at_time();
        self.worker.grant_turns();
        let called = self.worker.connections().take_called();
        for key in called {
            self.worker.calls.call(key);
        }
        self.worker.publish();
        Ok(goes_on)
    }

    /// Ready when the supervisor has work.
    fn poll_events(&mut self, cx: &mut Context) -> Poll<()> {
        *self.worker.supervisor.borrow_mut() = Some(cx.waker().clone());
        if is_over(&mut self.is_called, cx) {
            self.answer_bell();
            return Poll::Ready(());
        }
        let is_called = self.worker.is_supervisor_called.take();
        for wait in &mut self.waits {
            self.may_accept |= is_over(wait, cx);
        }
        if self.may_accept | is_over(&mut self.tick, cx) | is_called {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// The worker must stop, or others rely on it to accept.
    fn answer_bell(&mut self) {
        let bell = self.worker.control.bell();
        let _ = rustix::io::read(bell, &mut [0; 8]);
        self.is_called = Some(operations::readable(bell));
        self.may_accept = true;
        self.is_needed = true;
        if self.worker.control.is_stopping() {
            self.accepts.stop();
            self.worker.connections().close_at_leisure();
            self.stopping.begin(self.worker.limits.drain_timeout);
        }
    }

    /// Waits for the listeners while the worker accepts. A wait in flight stays when it no longer does: its result is then
    /// passed on.
    fn watch_listeners(&mut self) {
        let open = self.worker.connections().len();
        let (waits, is_stopping) = (&mut self.waits, self.stopping != Stopping::No);
        self.accepts.arrange(open, |listeners, _| {
            for (wait, listener) in waits.iter_mut().zip(listeners).filter(|_| is_stopping) {
                if wait.take().is_some() {
                    let listener = listener.try_clone().map_err(|_| Errno::MFILE)?;
                    // Detached: it keeps the listener until the kernel has released it.
                    drop(operations::cancel_all(listener));
                }
            }
            Ok(())
        });
        if self.accepts.is_watching() {
            for (wait, listener) in self.waits.iter_mut().zip(self.accepts.listeners()) {
                wait.get_or_insert_with(|| operations::connected(listener));
            }
        }
    }

    fn accept(&mut self) {
        let is_called = std::mem::take(&mut self.is_needed);
        let mut has_arrivals = false;
        self.accepts.take(is_called, |socket, listener| {
            has_arrivals = true;
            let mut connections = self.worker.connections();
            let key = connections.accepted(socket, listener);
            if connections.has_journal()
                && let Some(peer) = peer_of(connections.socket(key))
            {
                connections.set_peer(key, peer);
            }
            drop(connections);
            // Detached: the task reports its end by removing the connection.
            drop(tokio_uring::spawn(Task::new(Rc::clone(&self.worker), key)));
            Ok(())
        });
        if has_arrivals {
            self.stopping.has_arrivals();
        }
    }

    /// Deadlines and the drain. Returns whether the worker goes on.
    fn look_at_time(&mut self) -> bool {
        let mut connections = self.worker.connections();
        self.is_punctual = !self.worker.clock.is_behind() && connections.meet_deadlines();
        self.stalls.tell(connections.take_stalled());
        self.log.write(connections.take_ended());
        let is_empty = connections.is_empty() && self.accepts.is_over();
        self.stopping.goes_on(is_empty, |from| connections.ask_some_to_leave(from, SLICE, SENDING_ECHO))
    }
}

/// Lets the other tasks run, and the runtime submit and reap: it does so only when no task is ready.
async fn pass_through_kernel() {
    operations::nothing().await;
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::protocol::Protocol;
    use crate::transport::{Door, Doors};

    #[test]
    fn the_memory_of_a_peak_goes_back() {
        let doors = Doors::from([Door::new(Protocol::Tcp)]);
        let worker = Worker::new(&Plan::for_tests(0, 100, doors), &Arc::new(Control::new().expect("an eventfd")));
        let cx = Context::from_waker(Waker::noop());
        let accept = |_| {
            let (_peer, socket) = UnixStream::pair().expect("sockets");
            let key = worker.connections().accepted(socket.into(), 0);
            worker.calls.listen(key, &cx);
            key
        };
        let keys: Vec<u32> = (0..100).map(accept).collect();
        for key in keys {
            worker.remove(key);
        }
        assert_eq!(worker.calls.wakers.borrow().capacity(), 0);
    }
}
