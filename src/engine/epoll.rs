//! The epoll engine: readiness, one receive buffer per worker, sends at once. It runs wherever Linux does.
//!
//! - **Edge-triggered.** A socket is registered once, for everything, and costs no `epoll_ctl` after that. A receive
//!   that does not fill the buffer has emptied the socket, so an echo is one `recv` and one `send`. Level-triggered it
//!   would cost the same (docs/ENGINES.md has the figures), and an `epoll_ctl` for each slow reader.
//! - **One buffer per worker.** What a receive brought is transformed in place and sent from there before anything else
//!   is received. Only what the socket buffer does not take is copied, to memory of the connection's own.
//! - **A bounded turn.** Interactive connections are served when their event comes; bulk senders, slow readers, handshakes
//!   and ends wait in the background, which gets one budget in each turn (`connection/schedule.rs`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::clock::{Clock, TurnTimer};
use super::connection_log::{ConnectionLog, peer_of};
use super::notice::Stalls;
use super::sockets::accepts::Accepts;
use super::sockets::connections::{Connections, HEADROOM, Outgoing};
use super::stopping::{SLICE, Stopping};
use crate::connection::lifecycle::Facts;
use crate::connection::schedule::Planned;
use crate::worker::{Control, Limits, Plan};

/// Events taken per turn.
const EVENTS: usize = 256;
/// The receive buffer, if the worker may have that much memory. It should stay in the second-level cache.
const BUFFER_MAX: usize = 256 << 10;
/// Sends of pending output of a connection per turn: a socket's buffer takes a few blocks at once.
const SENDS: usize = 8;
/// Pause before a send that found no memory is retried: no event reports that.
const RETRY: Duration = Duration::from_millis(1);

/// Event data that are not keys of connections.
const BELL: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

/// After the remaining input there is an end, or more bytes: a receive ends at a TCP urgent mark.
const END: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR).union(EventFlags::PRI);

/// Runs a worker on the calling thread until it is told to stop and its connections are gone or out of time.
///
/// `started` is called once with the result of the start.
pub(super) fn run(
    plan: &Plan,
    control: &Arc<Control>,
    accepts: Accepts,
    started: &dyn Fn(io::Result<()>),
) -> io::Result<()> {
    let mut worker = match Worker::new(plan, control, accepts) {
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
    /// Connections whose send found no memory.
    retries: Vec<u32>,
    accepts: Accepts,
    control: &'a Control,
    clock: Clock,
    limits: Limits,
    stopping: Stopping,
    stalls: Stalls,
    turns: TurnTimer,
    log: ConnectionLog,
    /// All deadlines that are due have been met.
    is_punctual: bool,
}

impl<'a> Worker<'a> {
    fn new(plan: &Plan, control: &'a Control, accepts: Accepts) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, control.bell(), EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        let clock = Clock::new(&plan.limits, EVENTS as u32);
        let log = ConnectionLog::new(plan.index, clock.tick());
        let timeouts = clock.timeouts(&plan.limits);
        let (settings, doors) = (plan.settings.clone(), plan.doors.clone());
        let mut connections = Connections::new(plan.capacity as usize, plan.backlog, settings, doors, timeouts);
        connections.count_in(control.counters());
        if plan.logs_connections {
            connections.keep_journal();
        }
        let receive = plan.receive_buffers.map_or(plan.receive_memory.min(BUFFER_MAX), |shape| shape.size as usize);
        Ok(Self {
            epoll,
            events: Vec::with_capacity(EVENTS),
            connections,
            buffer: vec![0; HEADROOM + receive],
            retries: Vec::new(),
            accepts,
            control,
            clock,
            limits: plan.limits,
            stopping: Stopping::No,
            stalls: Stalls::new(&plan.limits),
            turns: TurnTimer::new(control.counters()),
            log,
            is_punctual: true,
        })
    }

    /// One turn: wait, serve interactive connections, then the background. Returns whether there is a next turn.
    fn turn(&mut self) -> io::Result<bool> {
        let had_deadlines = self.connections.has_deadlines();
        self.watch_listeners();
        let mut events = std::mem::take(&mut self.events);
        self.wait(&mut events)?;
        let (now, events_seen) = (Instant::now(), events.len());
        self.connections.begin_turn(self.clock.advance(now, had_deadlines, self.connections.len()));
        for Event { flags, data } in events.drain(..) {
            match data.u64() {
                BELL if self.control.is_stopping() => {
                    self.accepts.stop();
                    self.connections.close_at_leisure();
                    self.stopping.begin(self.limits.drain_timeout);
                }
                number @ (BELL | LISTENER) => self.accept(number == BELL),
                key => self.has_event(key as u32, flags),
            }
        }
        self.events = events;
        self.retry();
        self.serve_foreground();
        self.is_punctual = !self.clock.is_behind() && self.connections.meet_deadlines();
        self.stalls.tell(self.connections.take_stalled());
        let is_empty = self.connections.is_empty() && self.accepts.is_over();
        let goes_on = self.stopping.goes_on(is_empty, |from| self.connections.ask_some_to_leave(from, SLICE, 0));
        self.serve_called();
        self.serve_background();
        self.log.write(self.connections.take_ended());
        self.connections.end_turn();
        self.turns.end(now, events_seen);
        Ok(goes_on)
    }

    fn wait(&self, events: &mut Vec<Event>) -> io::Result<()> {
        let is_urgent = self.connections.has_foreground() || self.connections.has_background() || !self.is_punctual;
        let patience = self.stopping.patience(self.clock.tick(), self.connections.has_deadlines());
        let patience = patience.into_iter().chain(self.accepts.patience()).min();
        let timeout = match patience {
            _ if is_urgent => Some(Duration::ZERO),
            patience if self.retries.is_empty() => patience,
            patience => Some(patience.map_or(RETRY, |patience| patience.min(RETRY))),
        };
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn accept(&mut self, is_called: bool) {
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET;
        let mut has_arrivals = false;
        self.accepts.take(is_called, |socket, listener| {
            has_arrivals = true;
            let key = self.connections.accepted(socket, listener);
            if self.connections.has_journal()
                && let Some(peer) = peer_of(self.connections.socket(key))
            {
                self.connections.set_peer(key, peer);
            }
            let added = epoll::add(&self.epoll, self.connections.socket(key), EventData::new_u64(key.into()), events);
            if added.is_err() {
                // ENOMEM, ENOSPC (fs.epoll.max_user_watches): without events it cannot be served.
                self.connections.remove(key);
            }
            added
        });
        if has_arrivals {
            self.stopping.has_arrivals();
        }
    }

    /// Adds or removes the listeners from the epoll set.
    fn watch_listeners(&mut self) {
        let epoll = &self.epoll;
        let watch = |listeners: &[OwnedFd], is_watched: bool| {
            listeners.iter().try_for_each(|listener| {
                if is_watched {
                    let events = EventFlags::IN | EventFlags::EXCLUSIVE;
                    return epoll::add(epoll, listener, EventData::new_u64(LISTENER), events);
                }
                // A listener that could not be added is not in the set.
                let _ = epoll::delete(epoll, listener);
                Ok(())
            })
        };
        self.accepts.arrange(self.connections.len(), watch);
    }

    /// Handles an event, which may be stale, its key another connection's by now: then there is merely nothing to receive.
    #[inline]
    fn has_event(&mut self, key: u32, flags: EventFlags) {
        if !self.connections.contains(key) {
            return;
        }
        if flags.contains(EventFlags::OUT) {
            self.connections.writable(key);
        }
        let life = &mut self.connections.get_mut(key).life;
        if flags.intersects(END.union(EventFlags::IN)) {
            life.has_input();
        }
        if flags.intersects(END) {
            life.facts.set(Facts::END_AHEAD);
        }
        if !self.connections.is_queued(key) {
            if self.connections.get(key).life.is_background() {
                self.queue_if_wanting(key);
            } else {
                self.serve(key, Planned::Nothing);
            }
        }
    }

    /// Queues a connection for its turn if it has work.
    fn queue_if_wanting(&mut self, key: u32) {
        let wants = self.connections.wants(key);
        let can_receive = wants.receive && self.connections.get(key).life.facts.has(Facts::READABLE);
        if can_receive || wants.resume || wants.send || wants.shutdown || wants.close {
            self.connections.queue(key);
        }
    }

    /// Serves interactive connections whose socket held more than one receive took, once each.
    fn serve_foreground(&mut self) {
        for _ in 0..EVENTS {
            let Some(key) = self.connections.next_foreground() else { return };
            self.serve(key, Planned::Nothing);
        }
    }

    fn serve_background(&mut self) {
        while let Some(key) = self.connections.next_background() {
            let planned = self.connections.spend_on(key);
            self.serve(key, planned);
        }
        self.serve_called();
    }

    /// Serves connections that have something to do without an event of their socket. Receives from the background's wait
    /// for their turn.
    fn serve_called(&mut self) {
        for key in self.connections.take_called() {
            if !self.connections.contains(key) {
                continue;
            }
            let life = &self.connections.get(key).life;
            let would_receive = life.facts.has(Facts::READABLE) && self.connections.wants(key).receive;
            if would_receive && life.is_background() {
                self.connections.queue(key);
            } else {
                self.serve(key, Planned::Nothing);
            }
        }
    }

    /// Retries sends that found no memory.
    fn retry(&mut self) {
        for key in std::mem::take(&mut self.retries) {
            // The key may be another connection's by now: then a needless send is tried.
            if self.connections.contains(key) {
                self.connections.try_again(key);
                self.queue_if_wanting(key);
            }
        }
    }

    /// Carries out a connection's wants: pending output, one receive and its echo, the steps of its end.
    #[inline]
    fn serve(&mut self, key: u32, planned: Planned) {
        if !self.connections.contains(key) {
            return;
        }
        self.connections.unqueue(key);
        let mut sends = SENDS;
        while sends > 0 && self.connections.wants(key).send {
            sends -= 1;
            self.send_pending(key, planned != Planned::Nothing);
        }
        if self.connections.wants(key).receive && self.connections.get(key).life.facts.has(Facts::READABLE) {
            self.receive(key, planned);
        } else {
            self.connections.spent_on_nothing(planned, false);
        }
        let wants = self.connections.wants(key);
        if wants.shutdown {
            // It can only fail if the peer is gone, which the receive reports.
            let _ = shutdown(self.connections.socket(key), Shutdown::Write);
            self.connections.get_mut(key).life.shut_down();
        }
        if wants.close {
            self.connections.end(key);
        } else {
            self.queue_if_wanting(key);
        }
    }

    /// One receive, and the send of its echo.
    #[inline]
    fn receive(&mut self, key: u32, planned: Planned) {
        let at_most = self.connections.at_most(key).map_or(usize::MAX, |at_most| at_most.get() as usize);
        let end = self.buffer.len().min(at_most.saturating_add(HEADROOM));
        let room = &mut self.buffer[HEADROOM..end];
        match recv(self.connections.socket(key), room, RecvFlags::DONTWAIT) {
            Ok((len, _)) if len > 0 => {
                self.connections.note_received(key, len, end - HEADROOM);
                let outgoing = self.connections.received_into(key, &mut self.buffer, len, planned);
                self.send(key, &outgoing);
            }
            outcome => {
                match outcome {
                    Ok(_) => self.connections.peer_finished(key),
                    Err(Errno::AGAIN) => self.connections.found_nothing(key, false),
                    Err(Errno::INTR) => {}
                    Err(_) => self.connections.broken(key),
                }
                let is_end = self.connections.get(key).life.facts.has(Facts::PEER_DONE);
                self.connections.spent_on_nothing(planned, is_end);
            }
        }
        self.connections.go_on_leaving(key);
    }

    /// Sends a receive's echo from the receive buffer.
    #[inline]
    fn send(&mut self, key: u32, outgoing: &Outgoing) {
        let bytes = outgoing.bytes(&self.buffer);
        if bytes.is_empty() {
            return;
        }
        let sent = match send(self.connections.socket(key), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => sent,
            Err(e) if is_full(e) => {
                note_failure(&mut self.retries, key, e);
                0
            }
            Err(_) => return self.connections.broken(key),
        };
        self.connections.sent_from_buffer(key, bytes, sent);
    }

    /// Sends some of the pending output. An edge reports when the kernel takes the rest.
    fn send_pending(&mut self, key: u32, is_budgeted: bool) {
        let bytes = self.connections.front(key);
        match send(self.connections.socket(key), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => {
                self.connections.sent_from_front(key, sent);
                self.connections.spend_on_send(sent, is_budgeted);
            }
            Err(e) if is_full(e) => {
                note_failure(&mut self.retries, key, e);
                self.connections.sent_from_front(key, 0);
            }
            Err(_) => self.connections.broken(key),
        }
    }
}

/// An edge reports when a full socket has room again; no event reports when the kernel has memory again.
fn note_failure(retries: &mut Vec<u32>, key: u32, error: Errno) {
    if error != Errno::AGAIN {
        retries.push(key);
    }
}

/// The socket takes no more for now: its buffer is full, or memory is short.
fn is_full(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM)
}
