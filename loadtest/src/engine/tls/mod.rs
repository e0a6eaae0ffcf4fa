//! `wss://` targets: rustls over sockets that never wait, and epoll, a thread for each part as elsewhere.
//!
//! Simpler than the ring's way, and dearer: a read and a write per message, 11 KB of memory for each connection
//! (rustls keeps its keys and buffers there), and all descriptors in the process's one table.

mod connection;
mod stream;

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use slab::Slab;

use self::connection::TlsConnection;
use super::upkeep::Rotations;
use super::{EngineError, Shared};
use crate::control::Phase;
use crate::pacing::ConnectPacing;
use crate::scenario::Part;
use crate::stats::{Counter, Tally};
use crate::times::SendTimes;

/// The epoll key of the control's bell; connections have their own.
const BELL: u64 = u64::MAX;

/// Connections that one turn starts, sweeps or closes at most.
const TURN: usize = 256;

/// Events that one turn takes.
const EVENTS: usize = 256;

/// Closing handshakes in flight at most, all threads together, and the least for one thread.
const CLOSE_WINDOW: u32 = 1024;
const MIN_CLOSE_WINDOW: u32 = 16;

/// One thread's connections and counts.
struct Worker<'a> {
    shared: &'a Shared,
    part: Part,
    epoll: OwnedFd,
    connections: Slab<TlsConnection>,
    pacing: ConnectPacing,
    /// Connections of this part that have been begun.
    begun: u32,
    /// Deadlines of attempts, earliest first, with the connection's key and number.
    deadlines: VecDeque<(u64, usize, u32)>,
    times: SendTimes,
    tally: Tally,
    phase: Phase,
    now_ns: u64,
    /// How far a sweep over all connections has got.
    sweep: Option<usize>,
    closing: u32,
    upkeep: Rotations,
    /// Slow readers whose sockets may take more.
    unread: Vec<usize>,
    quota: u64,
    /// Something is to be gone on with at once.
    is_held_up: bool,
    /// Bytes received, and bytes to be sent, of the connection at hand.
    plain: Vec<u8>,
    frames: Vec<u8>,
}

/// Runs one thread's part until the control says [`Phase::Stop`].
pub(super) fn run(shared: &Shared, part: Part) -> Result<Tally, EngineError> {
    let mut worker = Worker::new(shared, part).map_err(EngineError::Epoll)?;
    worker.run().map_err(EngineError::Epoll)?;
    Ok(worker.tally)
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, part: Part) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // SAFETY: the control keeps the descriptor open as long as it lives, which is longer than this call.
        let bell = unsafe { BorrowedFd::borrow_raw(shared.control.bell(part.thread)) };
        epoll::add(&epoll, bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        let now_ns = shared.epoch.elapsed().as_nanos() as u64;
        let share = f64::from(part.connections) / f64::from(shared.scenario.connections);
        let connect = &shared.scenario.connect;
        let window = (f64::from(connect.window) * share).ceil() as u32;
        Ok(Self {
            shared,
            part,
            epoll,
            connections: Slab::with_capacity(part.connections as usize),
            pacing: ConnectPacing::new(connect.rate * share, window, now_ns),
            begun: 0,
            deadlines: VecDeque::new(),
            times: SendTimes::new(&shared.scenario, now_ns),
            tally: Tally { live: Arc::clone(shared.control.live_latencies(part.thread)), ..Tally::default() },
            phase: Phase::Connect,
            now_ns,
            sweep: None,
            closing: 0,
            upkeep: Rotations::new(&shared.scenario, share),
            unread: Vec::new(),
            quota: part.limit.unwrap_or(u64::MAX),
            is_held_up: false,
            plain: Vec::new(),
            frames: Vec::new(),
        })
    }

    /// The loop: do what the phase asks for, wait, act on everything that is ready.
    fn run(&mut self) -> io::Result<()> {
        let empty = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(BELL) };
        let mut events = [empty; EVENTS];
        loop {
            self.follow_phase();
            if self.phase == Phase::Stop {
                break;
            }
            self.publish();
            let timeout = self.timeout().map(|timeout| Timespec {
                tv_sec: timeout.as_secs() as i64,
                tv_nsec: i64::from(timeout.subsec_nanos()),
            });
            let count = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => 0,
                result => result?,
            };
            self.now_ns = self.clock_ns();
            self.is_held_up = false;
            for event in &events[..count] {
                let key = event.data.u64();
                if key != BELL {
                    self.on_ready(key as usize);
                }
            }
        }
        for key in 0..self.connections.capacity() {
            self.finish(key);
        }
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.shared.control.publish(self.part.thread, self.phase, &self.tally.counts);
    }

    fn clock_ns(&self) -> u64 {
        self.shared.epoch.elapsed().as_nanos() as u64
    }

    fn follow_phase(&mut self) {
        let phase = self.shared.control.phase();
        if phase != self.phase {
            self.enter_phase(phase);
        }
        match self.phase {
            Phase::Connect => self.open_more(),
            Phase::WarmUp | Phase::Measure => {
                self.sweep_turn();
                self.is_held_up |= self.send_what_is_due();
                self.send_more_unread();
                self.keep_up();
                self.expire();
            }
            Phase::Close => self.close_more(),
            Phase::Drain | Phase::Stop => {}
        }
        if self.quota == 0 && self.phase.is_sending() && self.tally.counts.in_flight() == 0 {
            self.tally.counts[Counter::QuotaMet] = 1;
        }
    }

    fn enter_phase(&mut self, phase: Phase) {
        let was_sending = self.phase.is_sending();
        if was_sending && !phase.is_sending() {
            while self.send_what_is_due() {}
            if self.quota > 0
                && let Some(schedule) = self.times.schedule()
            {
                self.tally.counts[Counter::Unsent] += schedule.overdue(self.now_ns);
            }
        }
        self.phase = phase;
        let is_open_loop = self.times.schedule().is_some();
        match phase {
            Phase::Measure => self.tally.measuring.begin(self.now_ns, is_open_loop),
            _ => self.tally.measuring.end(self.now_ns),
        }
        if phase.is_sending() && !was_sending {
            self.upkeep.begin(self.now_ns);
            self.sweep = Some(0);
        } else if phase == Phase::Close {
            self.sweep = Some(0);
        }
    }

    fn timeout(&mut self) -> Option<Duration> {
        let goes_on = self.sweep.is_some() || !self.unread.is_empty();
        if self.is_held_up || (goes_on && self.phase.is_sending()) {
            return Some(Duration::ZERO);
        }
        let deadline_ns = self.deadlines.front().map(|&(deadline_ns, ..)| deadline_ns);
        let due = match self.phase {
            Phase::Connect => {
                let in_flight = self.attempts_in_flight();
                let allowed =
                    self.begun < self.part.connections && self.pacing.allowance(u64::MAX, self.begun, in_flight) > 0;
                let next = allowed.then(|| self.pacing.due_ns(self.begun).unwrap_or(0));
                next.into_iter().chain(deadline_ns).min()
            }
            Phase::WarmUp | Phase::Measure => {
                let schedule = self.times.schedule().and_then(|schedule| schedule.upcoming().0);
                [schedule, self.upkeep.next_ns(), deadline_ns].into_iter().flatten().min()
            }
            Phase::Drain | Phase::Close | Phase::Stop => None,
        };
        due.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(self.clock_ns())))
    }

    fn attempts_in_flight(&self) -> u32 {
        (self.tally.counts[Counter::Attempted] - self.tally.counts[Counter::Settled]) as u32
    }

    fn sweep_turn(&mut self) {
        let Some(start) = self.sweep else { return };
        let end = start.saturating_add(TURN).min(self.connections.capacity());
        for key in start..end {
            if self.connections.contains(key) {
                self.send_due(key);
            }
        }
        self.sweep = (end < self.connections.capacity()).then_some(end);
    }

    /// Open loop: sends on connections whose time has come, a turn's worth. Returns whether there may be more.
    fn send_what_is_due(&mut self) -> bool {
        if self.times.schedule().is_none() {
            return false;
        }
        self.now_ns = self.clock_ns();
        for _ in 0..TURN {
            let next = self.times.schedule().and_then(|schedule| schedule.pop(self.now_ns));
            let Some(due) = next else { return false };
            self.tally.lag(self.now_ns - due.due_ns);
            self.send_due(due.key as usize);
        }
        true
    }

    /// Gives their turn to those whose turn it is.
    fn keep_up(&mut self) {
        let capacity = self.connections.capacity();
        for _ in 0..TURN {
            let is_open = |key| self.connections.get(key).is_some_and(TlsConnection::is_to_stay);
            let Some(key) = self.upkeep.reconnect(self.now_ns, capacity, is_open) else { break };
            self.recycle(key);
        }
        for _ in 0..TURN {
            let is_open = |key| self.connections.get(key).is_some_and(TlsConnection::is_to_stay);
            let Some(key) = self.upkeep.ping(self.now_ns, capacity, is_open) else { break };
            self.ping(key);
        }
    }

    /// Begins closing handshakes on the next connections, as many as may be in flight.
    fn close_more(&mut self) {
        let window = (CLOSE_WINDOW / self.shared.threads).max(MIN_CLOSE_WINDOW);
        while let Some(key) = self.sweep.filter(|_| self.closing < window) {
            self.sweep = (key + 1 < self.connections.capacity()).then_some(key + 1);
            if self.connections.contains(key) {
                self.close(key);
            }
        }
    }
}
