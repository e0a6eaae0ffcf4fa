//! What the tasks of one worker share, and the one that keeps an eye on the others.

use std::cell::{Cell, RefCell, RefMut};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring_06::types::Timespec;

use super::operations::{self, Operation, is_over};
use super::pool::Pool;
use super::task::Task;
use crate::engine::deadline::Clock;
use crate::engine::sockets::arrivals::Arrivals;
use crate::engine::sockets::connections::{Connections, HEADROOM};
use crate::engine::stopping::Stopping;
use crate::worker::{Control, Limits, Plan};

/// Bytes in a receive buffer (a message of 16 KiB and its header fit), and in those for connections that fill them.
/// The small ones together are the worker's receive memory, which should stay in the second-level cache; the large ones
/// are as much again at most.
const SMALL: usize = 20 << 10;
const LARGE: usize = 256 << 10;
/// Connections told to close, or checked for deadlines, at once.
const SLICE: usize = 2048;

/// What the tasks of one worker share.
pub(super) struct Worker {
    connections: RefCell<Connections>,
    clock: Clock,
    limits: Limits,
    control: Arc<Control>,
    small: Pool,
    large: Pool,
    pub(super) calls: Calls,
    /// Wakes the keeper.
    keeper: RefCell<Option<Waker>>,
    is_keeper_called: Cell<bool>,
    is_ticking: Cell<bool>,
}

impl Worker {
    pub(super) fn new(plan: &Plan, control: &Arc<Control>) -> Self {
        let clock = Clock::new(&plan.limits);
        let (small, large) = pools(plan);
        let receive = small.size().max(large.size());
        let connections = Connections::new(plan, clock.timeouts(&plan.limits), receive);
        Self {
            connections: RefCell::new(connections),
            clock,
            limits: plan.limits,
            control: Arc::clone(control),
            small,
            large,
            calls: Calls::default(),
            keeper: RefCell::new(None),
            is_keeper_called: Cell::new(false),
            is_ticking: Cell::new(false),
        }
    }

    /// Not to be held while waiting.
    pub(super) fn connections(&self) -> RefMut<'_, Connections> {
        self.connections.borrow_mut()
    }

    /// The connections, with the clock set.
    pub(super) fn connections_now(&self) -> RefMut<'_, Connections> {
        let mut connections = self.connections();
        connections.set_now(self.clock.now());
        connections
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

    /// Publishes the counters, and has the keeper look at what has got a deadline.
    pub(super) fn publish(&self) {
        let connections = self.connections.borrow();
        self.control.publish(connections.tally());
        if connections.needs_sweep() && !self.is_ticking.get() {
            self.call_keeper();
        }
    }

    /// Forgets a connection and closes its socket.
    pub(super) fn remove(&self, key: u32) {
        self.connections().remove(key);
        self.publish();
        if self.connections().is_empty() {
            self.call_keeper();
        }
    }

    fn call_keeper(&self) {
        self.is_keeper_called.set(true);
        if let Some(waker) = self.keeper.take() {
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

/// How tasks that wait for their sockets are told to look what else there is to do.
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

    /// Calls the task, if it waits. One that does not will see for itself.
    fn call(&self, key: u32) {
        let waker = self.wakers.borrow_mut().get_mut(key as usize).and_then(Option::take);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Spawns the tasks of those who arrive, looks after deadlines and after the worker's end.
pub(super) struct Keeper {
    worker: Rc<Worker>,
    /// `None`: nobody will come any more.
    arrivals: Option<Arrivals>,
    has_arrivals: Option<Operation<()>>,
    is_told_to_stop: Option<Operation<()>>,
    tick: Option<Operation<Box<Timespec>>>,
    stopping: Stopping,
    swept_at: u32,
    /// The last sweep has come to its end.
    is_swept: bool,
}

impl Keeper {
    pub(super) fn new(worker: Rc<Worker>, arrivals: Arrivals) -> Self {
        Self {
            has_arrivals: Some(operations::readable(arrivals.as_fd())),
            is_told_to_stop: Some(operations::readable(worker.control.bell())),
            worker,
            arrivals: Some(arrivals),
            tick: None,
            stopping: Stopping::No,
            swept_at: 0,
            is_swept: true,
        }
    }

    /// Until the worker is told to stop and its connections are gone or out of time.
    pub(super) async fn run(mut self) -> io::Result<()> {
        while self.turn().await? {}
        Ok(())
    }

    async fn turn(&mut self) -> io::Result<bool> {
        let needs_tick = self.worker.connections().needs_sweep();
        match self.stopping.patience(self.worker.clock.tick(), needs_tick) {
            Some(Duration::ZERO) => yield_now().await,
            _ if !self.is_swept => yield_now().await,
            patience => {
                if self.tick.is_none() {
                    self.tick = patience.map(operations::timeout);
                }
                self.worker.is_ticking.set(self.tick.is_some());
                poll_fn(|cx| self.poll_events(cx)).await;
            }
        }
        if self.has_arrivals.is_none() {
            self.take_arrivals()?;
        }
        let goes_on = self.look_at_time();
        let called = self.worker.connections().take_called();
        for key in called {
            self.worker.calls.call(key);
        }
        self.worker.publish();
        Ok(goes_on)
    }

    /// Ready when there is something for the keeper to do.
    fn poll_events(&mut self, cx: &mut Context) -> Poll<()> {
        *self.worker.keeper.borrow_mut() = Some(cx.waker().clone());
        if is_over(&mut self.is_told_to_stop, cx) {
            self.worker.connections().close_at_leisure();
            self.stopping.begin(self.worker.limits.drain_timeout);
            return Poll::Ready(());
        }
        let is_called = self.worker.is_keeper_called.take();
        if is_over(&mut self.has_arrivals, cx) | is_over(&mut self.tick, cx) | is_called {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn take_arrivals(&mut self) -> io::Result<()> {
        let Some(arrivals) = &self.arrivals else { return Ok(()) };
        let more_may_come = arrivals.take(|socket| {
            let key = self.worker.connections_now().accepted(socket);
            // Detached: the task tells by removing the connection that it is done.
            drop(tokio_uring::spawn(Task::new(Rc::clone(&self.worker), key)));
        })?;
        self.stopping.has_arrivals();
        if more_may_come {
            self.has_arrivals = Some(operations::readable(arrivals.as_fd()));
        } else {
            self.arrivals = None;
        }
        Ok(())
    }

    /// Deadlines and the drain. Returns whether the worker goes on.
    fn look_at_time(&mut self) -> bool {
        let now = self.worker.clock.now();
        let mut connections = self.worker.connections_now();
        let at_most = SLICE.max(connections.len() / 4);
        let is_due = now != self.swept_at && connections.needs_sweep();
        self.is_swept = !is_due || connections.sweep(at_most);
        if self.is_swept {
            self.swept_at = now;
        }
        let is_empty = connections.is_empty() && self.arrivals.is_none();
        self.stopping.goes_on(is_empty, |from| connections.ask_some_to_leave(from, SLICE))
    }
}

/// Lets the other tasks run.
async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
