//! The epoll engine: readiness, one receive buffer per worker, sends at once. It runs wherever Linux does.
//!
//! - **Edge-triggered.** A socket is registered once, for everything, and costs no `epoll_ctl` after that. A receive
//!   that does not fill the buffer has emptied the socket, so an echo is one `recv` and one `send`. Level-triggered it
//!   would cost the same (docs/ENGINES.md has the figures), and an `epoll_ctl` whenever a peer does not read.
//! - **One buffer per worker.** What a receive brought is transformed in place and sent from there before anything else
//!   is received. Only what the socket buffer does not take is copied, to memory of the connection's own.
//! - **A bounded turn.** A connection with more to do than its share goes on in the next turn, behind the others, and so
//!   does one that has ended: thousands may end in one moment.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::deadline::Clock;
use super::fairness::{LAST_RECEIVES, Modest, SHARE};
use super::sockets::arrivals::Arrivals;
use super::sockets::connections::{Connections, HEADROOM, Outgoing, Step};
use super::stopping::Stopping;
use crate::worker::{Control, Limits, Plan};

/// Events taken per turn.
const EVENTS: usize = 256;
/// The receive buffer, if the worker may have that much memory. It should stay in the second-level cache.
const BUFFER_MAX: usize = 256 << 10;
/// How many of those that wait for their turn have it while others send little, between two looks at everybody else.
const TURNS: usize = 1;
/// Steps that a connection can take per turn.
const STEPS: usize = 8;
/// Connections told to close, or checked for deadlines, per turn: bounds the time between two looks at the sockets.
const SLICE: usize = 2048;

/// Event data that are no connection's key.
const BELL: u64 = u64::MAX;
const ARRIVALS: u64 = u64::MAX - 1;

/// Behind the bytes that can be received there is an end to be found.
const END: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// Runs a worker on the calling thread until it is told to stop and its connections are gone or out of time.
///
/// `started` is told once whether it could start.
pub(super) fn run(
    plan: &Plan,
    control: &Arc<Control>,
    arrivals: Arrivals,
    started: &dyn Fn(io::Result<()>),
) -> io::Result<()> {
    let mut worker = match Worker::new(plan, control, arrivals) {
        Ok(worker) => worker,
        Err(e) => {
            started(Err(e));
            return Ok(());
        }
    };
    started(Ok(()));
    while worker.turn()? {}
    Ok(())
}

/// A worker's loop and all it owns.
struct Worker<'a> {
    epoll: OwnedFd,
    events: Vec<Event>,
    connections: Connections,
    buffer: Vec<u8>,
    /// Connections that have had their share and may want more, or have ended: they take turns, and have no events
    /// meanwhile. A key may be another connection's by now, which then is served early, or not at all.
    unfinished: VecDeque<u32>,
    modest: Modest,
    now: u32,
    /// `None`: nobody will come any more.
    arrivals: Option<Arrivals>,
    control: &'a Control,
    clock: Clock,
    limits: Limits,
    stopping: Stopping,
    swept_at: u32,
    /// The last sweep has come to its end.
    is_swept: bool,
}

/// What a call on a socket came to.
#[derive(PartialEq, Eq)]
enum Outcome {
    /// There may be more to do at once.
    GoOn,
    /// Until the next event there is nothing to do.
    Wait,
    /// It has had its share.
    TakeTurns,
}

impl<'a> Worker<'a> {
    fn new(plan: &Plan, control: &'a Control, arrivals: Arrivals) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, control.bell(), EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        epoll::add(&epoll, arrivals.as_fd(), EventData::new_u64(ARRIVALS), EventFlags::IN)?;
        let clock = Clock::new(&plan.limits);
        let timeouts = clock.timeouts(&plan.limits);
        let receive = plan.receive_buffers.map_or(plan.receive_memory.min(BUFFER_MAX), |shape| shape.size as usize);
        Ok(Self {
            epoll,
            events: Vec::with_capacity(EVENTS),
            connections: Connections::new(plan, timeouts, receive),
            buffer: vec![0; HEADROOM + receive],
            unfinished: VecDeque::new(),
            modest: Modest::default(),
            now: 0,
            arrivals: Some(arrivals),
            control,
            clock,
            limits: plan.limits,
            stopping: Stopping::No,
            swept_at: 0,
            is_swept: true,
        })
    }

    /// One turn: wait, serve whoever has an event, look at the time. Returns whether there is a next turn.
    fn turn(&mut self) -> io::Result<bool> {
        let mut events = std::mem::take(&mut self.events);
        self.wait(&mut events, !self.unfinished.is_empty() || !self.is_swept)?;
        let now = self.clock.now();
        self.now = now;
        self.connections.set_now(now);
        for event in events.drain(..) {
            let Event { flags, data } = event;
            match data.u64() {
                BELL => {
                    self.connections.close_at_leisure();
                    self.stopping.begin(self.limits.drain_timeout);
                }
                ARRIVALS => self.take_arrivals()?,
                key => self.has_event(key as u32, flags),
            }
        }
        self.events = events;
        self.serve_unfinished();
        self.sweep(now);
        let is_empty = self.connections.is_empty() && self.arrivals.is_none();
        let goes_on = self.stopping.goes_on(is_empty, |from| self.connections.ask_some_to_leave(from, SLICE));
        for key in self.connections.take_called() {
            self.serve(key, true);
        }
        self.control.publish(self.connections.tally());
        Ok(goes_on)
    }

    fn wait(&self, events: &mut Vec<Event>, is_urgent: bool) -> io::Result<()> {
        let patience = self.stopping.patience(self.clock.tick(), self.connections.needs_sweep());
        let timeout = if is_urgent { Some(Duration::ZERO) } else { patience };
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn take_arrivals(&mut self) -> io::Result<()> {
        let Some(arrivals) = &self.arrivals else { return Ok(()) };
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let more_may_come = arrivals.take(|socket| {
            let key = self.connections.accepted(socket);
            if epoll::add(&self.epoll, self.connections.socket(key), EventData::new_u64(key.into()), events).is_err() {
                // ENOMEM, ENOSPC (fs.epoll.max_user_watches): without events it cannot be served.
                self.connections.remove(key);
            }
        })?;
        self.stopping.has_arrivals();
        if !more_may_come {
            self.arrivals = None;
        }
        Ok(())
    }

    /// An event may be stale, its key another connection's by now: then there is nothing to receive, and that is all.
    #[inline]
    fn has_event(&mut self, key: u32, flags: EventFlags) {
        if !self.connections.contains(key) {
            return;
        }
        if flags.contains(EventFlags::OUT) {
            self.connections.writable(key);
        }
        // Whose turn is to come is served then, until nothing is left.
        if self.connections.is_queued(key) {
            return;
        }
        if flags.intersects(END) {
            self.wait_for_turn(key);
        } else {
            self.serve(key, false);
        }
    }

    fn wait_for_turn(&mut self, key: u32) {
        if !self.connections.set_queued(key, true) {
            self.unfinished.push_back(key);
        }
    }

    /// Lets connections that wait for their turn go on: some of them while others send little, otherwise all.
    fn serve_unfinished(&mut self) {
        let turns = if self.modest.is_there(self.now) { TURNS } else { usize::MAX };
        for _ in 0..self.unfinished.len().min(turns) {
            let Some(key) = self.unfinished.pop_front() else { return };
            if self.connections.contains(key) && self.connections.set_queued(key, false) {
                self.serve(key, true);
            }
        }
    }

    /// Where in the buffer a receive has to end.
    #[inline]
    fn share(&self) -> usize {
        let share = self.modest.share(self.now, self.connections.is_backlog_large());
        self.buffer.len().min(HEADROOM + share.map_or(BUFFER_MAX, |share| share as usize))
    }

    /// Does what a connection wants until it has to wait, or has had its share of this turn.
    ///
    /// `has_end`: it has to be received from until nothing is left, for no further edge may tell of the end.
    #[inline]
    fn serve(&mut self, key: u32, has_end: bool) {
        if !self.connections.contains(key) {
            return;
        }
        for _ in 0..STEPS {
            let outcome = match self.connections.step(key) {
                Step::Receive => self.receive(key, has_end),
                Step::Wait => return,
                Step::Send => self.send_backlog(key),
                Step::Leave => {
                    self.receive_the_rest(key);
                    self.connections.say_goodbye(key);
                    Outcome::GoOn
                }
                Step::ShutDown => {
                    // It can only fail because the peer is gone, which the receive will tell.
                    let _ = shutdown(self.connections.socket(key), Shutdown::Write);
                    self.connections.shut_down(key);
                    Outcome::GoOn
                }
                Step::Close => return self.connections.remove(key),
            };
            match outcome {
                Outcome::GoOn => {}
                Outcome::Wait => return,
                Outcome::TakeTurns => break,
            }
        }
        self.wait_for_turn(key);
    }

    /// What has arrived before a connection is told to leave, within bounds: the peer may be sending without a pause.
    fn receive_the_rest(&mut self, key: u32) {
        for _ in 0..LAST_RECEIVES {
            if self.receive(key, false) != Outcome::TakeTurns || self.connections.step(key) != Step::Leave {
                return;
            }
        }
    }

    /// One receive and the sending of its echo.
    #[inline]
    fn receive(&mut self, key: u32, has_end: bool) -> Outcome {
        let share = self.share();
        let was_within_frame = self.connections.is_within_frame(key);
        let room = &mut self.buffer[HEADROOM..share];
        let len = match recv(self.connections.socket(key), room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.connections.peer_finished(key);
                return Outcome::GoOn;
            }
            Ok((len, _)) => len,
            Err(Errno::AGAIN) => return Outcome::Wait,
            Err(Errno::INTR) => return Outcome::GoOn,
            Err(_) => {
                self.connections.broken(key);
                return Outcome::GoOn;
            }
        };
        let outgoing = self.connections.received(key, &mut self.buffer, len);
        self.send(key, &outgoing);
        if len >= (share - HEADROOM).min(SHARE as usize) {
            return Outcome::TakeTurns;
        }
        // A small piece of a large message is no small message.
        if !(was_within_frame || self.connections.is_within_frame(key)) {
            self.modest.see(self.now);
        }
        // A receive that fills the buffer may have left something behind; one that does not has emptied the socket.
        if !has_end && self.connections.step(key) == Step::Receive { Outcome::Wait } else { Outcome::GoOn }
    }

    /// Sends a receive's echo from where it is.
    #[inline]
    fn send(&mut self, key: u32, outgoing: &Outgoing) {
        let bytes = outgoing.bytes(&self.buffer);
        if bytes.is_empty() {
            return;
        }
        let sent = match send(self.connections.socket(key), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => sent,
            Err(e) if is_full(e) => 0,
            Err(_) => return self.connections.broken(key),
        };
        self.connections.unsent(key, &bytes[sent..]);
        self.connections.sent(key, sent);
    }

    /// Sends some of what waits. What the kernel does not take, an edge will tell when to offer again.
    fn send_backlog(&mut self, key: u32) -> Outcome {
        let bytes = self.connections.front(key);
        match send(self.connections.socket(key), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => {
                self.connections.advance(key, sent);
                self.connections.sent(key, sent);
            }
            Err(e) if is_full(e) => self.connections.advance(key, 0),
            Err(_) => self.connections.broken(key),
        }
        Outcome::GoOn
    }

    fn sweep(&mut self, now: u32) {
        let is_due = now != self.swept_at && self.connections.needs_sweep();
        self.is_swept = !is_due || self.connections.sweep(SLICE.max(self.connections.len() / 4));
        if self.is_swept {
            self.swept_at = now;
        }
    }
}

/// The socket takes no more for now: its buffer is full, or memory is short.
fn is_full(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM)
}
