//! The decisions of one load thread about its connections over their whole life, without I/O: no ring, no socket, no
//! clock.
//!
//! A transport reports events (connected, bytes received, sent, room again, ended, the time) and carries out the wants
//! ([`Want`]) that the driver returns. The transport asks for a connection's output with [`Driver::fill`] when it has
//! room, so the driver stores no output. `opening`, `sending` and `closing` are the phases of a connection's life;
//! `upkeep` has the churn and pings in between. Each module calls only later ones, except for `opening::begin`, which
//! reopens a connection.

mod closing;
mod connection;
mod deadlines;
mod opening;
pub mod plan;
mod sending;
#[cfg(test)]
mod simulation;
mod upkeep;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::AtomicU64;

use slab::Slab;

use self::closing::Closing;
use self::connection::{Connection, Flag, Stage};
use self::deadlines::Grace;
use self::opening::Opening;
use self::upkeep::{Pings, Rotations};
use crate::codecs::Codecs;
use crate::control::Phase;
use crate::message::{MessageId, Messages};
use crate::scenario::{Part, Scenario};
use crate::schedule::Schedule;
use crate::session::Judging;
use crate::stats::{Counter, Tally};
use crate::times::SendTimes;
use crate::websocket::handshake::UpgradeRequest;

/// Limit of connections that one turn starts, sweeps or closes, so that completions are handled soon.
const TURN: usize = 256;

/// The load of a driver.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// The load of all threads together.
    pub scenario: &'a Scenario,
    /// The messages.
    pub messages: &'a Messages,
    /// The targets; connections are assigned to them round robin.
    pub routes: Vec<Route<'a>>,
    /// This thread's part of the load.
    pub part: Part,
    /// The number of threads.
    pub threads: u32,
    /// When the server last answered a Close on any thread, or ended a TCP connection after it: as long as there is
    /// progress, closing goes on.
    pub closing_progress_ns: &'a AtomicU64,
}

/// One target.
#[derive(Clone, Debug)]
pub struct Route<'a> {
    /// The upgrade requests for this target.
    pub request: &'a UpgradeRequest,
    /// The numbers of its addresses, at least one; connections are assigned to them round robin.
    pub addresses: Range<usize>,
}

impl<'a> Load<'a> {
    fn route_of(&self, number: u32) -> &Route<'a> {
        &self.routes[number as usize % self.routes.len()]
    }

    /// The upgrade request of connection number `number`.
    fn request_of(&self, number: u32) -> &'a UpgradeRequest {
        self.route_of(number).request
    }

    /// The number of the address for connection number `number` after `failures` failed addresses.
    fn address_of(&self, number: u32, failures: u8) -> usize {
        let own = &self.route_of(number).addresses;
        own.start + (number as usize / self.routes.len() + usize::from(failures)) % own.len()
    }

    /// The largest number of addresses that a target has.
    fn addresses_at_most(&self) -> usize {
        self.routes.iter().map(|route| route.addresses.len()).max().unwrap_or(1)
    }

    /// Whether connection number `number` has another address to try after `failures` failed ones.
    fn has_next_address(&self, number: u32, failures: u8) -> bool {
        usize::from(failures) < self.route_of(number).addresses.len()
    }
}

/// A request of the driver to its transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Connect; the transport then calls [`Driver::connected`] or [`Driver::connect_failed`].
    Connect {
        /// The connection's slot, less than the part's number of connections.
        key: u32,
        /// The connection's number in the whole run.
        number: u32,
        /// The number of the address.
        address: usize,
    },
    /// Send the output of [`Driver::fill`] once all earlier output is sent. The transport then calls [`Driver::sent`],
    /// or [`Driver::room`] if the output had to wait for the peer.
    Send {
        /// The connection.
        key: u32,
    },
    /// Release the connection and cancel its pending operations. If [`Driver::has_last_words`], its last output is sent
    /// first, unless that would block. The transport then calls [`Driver::released`].
    Release {
        /// The connection.
        key: u32,
    },
}

/// The output buffer of a transport: empty at first, with room for a request or two control frames.
pub trait Output {
    /// Whether message `id` can be added.
    fn has_room(&self, id: MessageId, messages: &Messages) -> bool;
    /// Adds message `id`, as one masked frame if frames are used. Returns the number of bytes added.
    fn add_message(&mut self, id: MessageId, messages: &Messages) -> usize;
    /// Whether a frame of `bytes` bytes can be added.
    fn has_room_for(&self, bytes: usize) -> bool;
    /// Adds a frame of `bytes` bytes, all written by `write`.
    fn add_frame(&mut self, bytes: usize, write: impl FnOnce(&mut [u8]));
    /// Adds the number of bytes that `write` returns.
    fn add(&mut self, write: impl FnOnce(&mut [u8]) -> usize);
}

/// One thread's connections and counts. `T` is the transport's own state of each connection.
pub struct Driver<'a, T> {
    load: Load<'a>,
    connections: Slab<Connection<T>>,
    times: SendTimes,
    tally: Tally,
    /// The compressors, if compression is offered.
    codecs: Option<Codecs>,
    opening: Opening,
    closing: Closing,
    rotations: Rotations,
    grace: Grace,
    /// Payloads of pings to be answered.
    pongs: HashMap<u32, Box<[u8]>>,
    /// Codes of Close frames to be sent, where they differ from that of an orderly close.
    close_codes: HashMap<u32, u16>,
    /// This side's pings without a pong so far.
    pings: HashMap<u32, Pings>,
    pings_begun: u32,
    wants: VecDeque<Want>,
    phase: Phase,
    now_ns: u64,
    /// When load began.
    load_began_ns: Option<u64>,
    /// Open loop: when sending ended. Messages due by then are still being sent; the next phase begins afterwards.
    sending_ended_ns: Option<u64>,
    /// The next key of the sweep that starts the load on each connection.
    sweep: Option<usize>,
    /// The last turn reached its limit of work.
    is_held_up: bool,
    /// Messages left to send.
    quota: u64,
    /// Limit of messages per connection, its greeting included; `u32::MAX` is no limit.
    messages_most: u32,
}

impl<'a, T: Default> Driver<'a, T> {
    /// A driver in the connect phase, at `now_ns`; all times are nanoseconds since a common epoch.
    #[must_use]
    pub fn new(load: Load<'a>, tally: Tally, now_ns: u64) -> Self {
        let (scenario, part) = (load.scenario, load.part);
        let share = f64::from(part.connections) / f64::from(scenario.connections);
        Self {
            // Reserved, not touched: pages are allocated as connections are opened.
            connections: Slab::with_capacity(part.connections as usize),
            times: SendTimes::new(scenario, now_ns),
            tally,
            codecs: scenario.traffic.deflate.map(|it| Codecs::new(part.connections, it.is_precompressed)),
            opening: Opening::new(scenario, share, load.addresses_at_most(), now_ns),
            closing: Closing::new(scenario, load.threads),
            rotations: Rotations::new(scenario, share),
            grace: Grace::default(),
            pongs: HashMap::new(),
            close_codes: HashMap::new(),
            pings: HashMap::new(),
            pings_begun: 0,
            wants: VecDeque::new(),
            phase: Phase::Connect,
            now_ns,
            load_began_ns: None,
            sending_ended_ns: None,
            sweep: None,
            is_held_up: false,
            quota: part.limit.unwrap_or(u64::MAX),
            messages_most: scenario
                .upkeep
                .messages_per_connection
                .map_or(u32::MAX, |most| most.saturating_add(u32::from(scenario.connect.greet))),
            load,
        }
    }

    /// The next action for the transport.
    #[inline]
    pub fn next_want(&mut self) -> Option<Want> {
        self.wants.pop_front()
    }

    /// The counts so far.
    #[inline]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// For the transport's own counters.
    #[inline]
    pub fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// The phase that the driver follows: the current one, or, in an open loop, the previous one while messages due in
    /// it are still being sent.
    #[inline]
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The transport's own state of a connection, if the connection exists.
    #[inline]
    pub fn slot(&mut self, key: u32) -> Option<&mut T> {
        self.connections.get_mut(key as usize).map(|connection| &mut connection.slot)
    }

    /// The connection's number in the whole run.
    #[must_use]
    pub fn number(&self, key: u32) -> Option<u32> {
        self.connections.get(key as usize).map(|connection| connection.session.number())
    }

    /// The upper bound (exclusive) of connection keys.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.connections.capacity() as u32
    }

    /// Whether the transport is to read from the connection.
    #[inline]
    #[must_use]
    pub fn wants_input(&self, key: u32) -> bool {
        let connection = self.connections.get(key as usize);
        connection.is_some_and(|connection| connection.stage != Stage::Ending && !connection.is_unread())
    }

    /// Sets the time of the events that follow.
    #[inline]
    pub fn set_now(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Advances the time and the phase, and does a turn's worth of the work that is due.
    pub fn advance(&mut self, now_ns: u64, phase: Phase) {
        self.now_ns = now_ns;
        self.is_held_up = false;
        if phase != self.phase {
            self.leave_phase(phase);
        }
        match self.phase {
            Phase::Connect => self.open_more(),
            Phase::WarmUp | Phase::Measure => {
                if self.sending_ended_ns.is_none() {
                    self.sweep_turn();
                    self.is_held_up |= self.find_what_is_due(now_ns);
                    self.keep_up();
                    self.follow_plan();
                }
            }
            Phase::Close => self.close_more(),
            Phase::Drain | Phase::Stop => {}
        }
        if self.grace.is_over(self.deadline_ns(), now_ns) {
            self.expire_attempts();
            self.expire_addresses();
            self.expire_closes();
        }
        if self.quota == 0 && self.phase.is_sending() && self.tally.counts.in_flight() == 0 {
            self.tally.counts[Counter::QuotaMet] = 1;
        }
    }

    /// Whether [`Driver::advance`] has more to do at once.
    #[inline]
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        self.is_held_up || self.sweep.is_some() || self.sending_ended_ns.is_some()
    }

    /// When [`Driver::advance`] next has work to do without an event, and the time after that, as far as it is known.
    pub fn upcoming(&mut self) -> (Option<u64>, Option<u64>) {
        let (mut next_ns, mut after_ns) = (None, None);
        let plan_ns = match self.phase {
            Phase::Connect => self.opening_due_ns(),
            Phase::WarmUp | Phase::Measure => {
                (next_ns, after_ns) = self.times.schedule().map_or((None, None), Schedule::upcoming);
                self.plan_due_ns()
            }
            Phase::Drain | Phase::Close | Phase::Stop => None,
        };
        let upkeep_ns = if self.phase.is_sending() { self.rotations.next_ns() } else { None };
        let deadline_ns = self.deadline_ns().map(|due_ns| self.grace.postpone(due_ns));
        let deadlines = [deadline_ns, plan_ns, upkeep_ns];
        (deadlines.into_iter().flatten().chain(next_ns).min(), after_ns)
    }

    /// When the deadline of an attempt or of a closing handshake may be due.
    fn deadline_ns(&self) -> Option<u64> {
        [self.opening.deadline_ns(), self.closing_deadline_ns()].into_iter().flatten().min()
    }

    /// Whether the thread may handle echoes late: no message waits for an earlier one's echo, and no connect time is being
    /// measured.
    #[must_use]
    pub fn is_patient(&self) -> bool {
        let traffic = &self.load.scenario.traffic;
        let has_no_depth = traffic.open.is_some() && traffic.depth == u32::MAX;
        has_no_depth && self.phase.is_sending() && self.opening.deadline_ns().is_none()
    }

    fn leave_phase(&mut self, phase: Phase) {
        let ends_sending = self.phase.is_sending() && !phase.is_sending();
        if ends_sending && self.times.schedule().is_some() {
            // Messages due by now are sent before sending ends, a turn's worth at a time.
            let ended_ns = *self.sending_ended_ns.get_or_insert(self.now_ns);
            if self.find_what_is_due(ended_ns) || !self.wants.is_empty() {
                return;
            }
            self.count_unsent(ended_ns);
            self.sending_ended_ns = None;
            return self.enter_phase(phase, ended_ns);
        }
        self.enter_phase(phase, self.now_ns);
    }

    fn enter_phase(&mut self, phase: Phase, at_ns: u64) {
        let was_sending = self.phase.is_sending();
        self.phase = phase;
        let is_open_loop = self.times.schedule().is_some();
        match phase {
            Phase::Measure => self.tally.measuring.begin(at_ns, is_open_loop),
            _ => self.tally.measuring.end(at_ns),
        }
        if phase.is_sending() && !was_sending {
            self.load_began_ns = Some(at_ns);
            if let Some(schedule) = self.times.schedule() {
                schedule.begin(at_ns);
            }
            self.rotations.begin(at_ns);
            self.sweep = Some(0);
        } else if !phase.is_sending() {
            self.sweep = None;
        }
    }

    /// Starts the load on the next connections.
    fn sweep_turn(&mut self) {
        let Some(start) = self.sweep else { return };
        let end = start.saturating_add(TURN).min(self.connections.capacity());
        for key in start..end {
            if self.connections.contains(key) {
                self.ask_to_send(key as u32);
            }
        }
        self.sweep = (end < self.connections.capacity()).then_some(end);
    }

    /// The transport has connected a socket.
    pub fn connected(&mut self, key: u32) {
        let Some(connection) = self.connections.get_mut(key as usize) else { return };
        if connection.stage != Stage::Connecting {
            return;
        }
        if self.load.messages.are_framed() {
            connection.stage = Stage::Upgrading;
            connection.set(Flag::RequestDue, true);
        } else {
            self.on_usable(key);
        }
        self.ask_to_send(key);
    }

    /// All output of the last [`Driver::fill`] is sent.
    #[inline]
    pub fn sent(&mut self, key: u32) {
        self.ask_to_send(key);
    }

    /// All output is sent, after the peer's receive window was full.
    pub fn room(&mut self, key: u32) {
        let clock = self.connections.get(key as usize).and_then(|connection| connection.session.clock());
        if let (Some(clock), Some(schedule)) = (clock, self.times.schedule()) {
            schedule.hold(clock);
        }
        self.ask_to_send(key);
    }

    /// Processes bytes from the server that arrived at `arrived_ns`.
    #[inline]
    pub fn received(&mut self, key: u32, bytes: &[u8], arrived_ns: u64) {
        let Some(connection) = self.connections.get_mut(key as usize) else { return };
        match connection.stage {
            Stage::Upgrading => self.on_answer(key, bytes, arrived_ns),
            Stage::Greeting | Stage::Open | Stage::Closing if !connection.is_unread() => {
                self.on_frames(key, bytes, arrived_ns);
            }
            _ => {}
        }
    }

    #[inline]
    fn on_frames(&mut self, key: u32, bytes: &[u8], arrived_ns: u64) {
        self.tally.counts[Counter::WireReceived] += bytes.len() as u64;
        let connection = &mut self.connections[key as usize];
        let mut judging = Judging {
            now_ns: arrived_ns,
            messages: self.load.messages,
            times: &mut self.times,
            tally: &mut self.tally,
            is_closing: connection.stage == Stage::Closing,
            is_closed: connection.has(Flag::ServerClosed),
            codecs: self.codecs.as_mut(),
            key,
        };
        let signals = match connection.session.receive(bytes, &mut judging) {
            Ok(signals) => signals,
            Err(violation) => return self.on_violation(key, violation),
        };
        for payload in &signals.pongs {
            self.on_pong(key, payload, arrived_ns);
        }
        let connection = &mut self.connections[key as usize];
        // This side's Close is its last frame.
        let has_closed = connection.stage == Stage::Closing && !connection.has(Flag::CloseDue);
        if let Some(payload) = signals.ping.filter(|_| !has_closed) {
            self.pongs.insert(key, payload);
            connection.set(Flag::PongDue, true);
        }
        if let Some(close) = signals.close {
            return self.on_close(key, close);
        }
        if connection.stage == Stage::Greeting && connection.session.has_echoed() {
            self.on_open(key);
        } else if connection.has(Flag::Leaving) {
            self.close_if_settled(key);
        } else if connection.session.sent() >= self.messages_most {
            self.renew_if_settled(key);
        }
        self.ask_to_send(key);
    }

    #[cold]
    fn on_pong(&mut self, key: u32, payload: &[u8], arrived_ns: u64) {
        let pings = self.pings.entry(key).or_default();
        pings.answered(payload, arrived_ns, &mut self.tally);
        if pings.is_empty() {
            self.pings.remove(&key);
        }
    }

    /// Ends the run: messages without an echo count as lost.
    #[must_use]
    pub fn stop(mut self) -> Tally {
        for (_, connection) in &mut self.connections {
            connection.abandon(&mut self.times, &mut self.tally, 0);
        }
        for (_, pings) in self.pings.drain() {
            pings.abandon(&mut self.tally, false);
        }
        self.tally
    }
}

#[cfg(test)]
mod tests;
