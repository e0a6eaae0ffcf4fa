//! One thread's loop, and the way of an echo through it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use io_uring::cqueue;
use ringecho::engine::uring::buffers::{BufferPool, Piece, PoolShape};
use ringecho::engine::uring::ring::{Ring, RingOptions, Wait};
use slab::Slab;

use super::connection::{Connection, Flag, Stage};
use super::operations::{self, Addresses, Kind, Token};
use super::sends::Sends;
use super::{EngineError, Shared, check_kernel};
use crate::control::Phase;
use crate::pacing::ConnectPacing;
use crate::scenario::{Part, Traffic};
use crate::session::Judging;
use crate::stats::{Counter, Tally};
use crate::times::SendTimes;

/// Connections that one loop turn starts, sweeps or closes at most, so that completions never wait for long.
pub(super) const TURN: usize = 256;

/// With this many echoes at a time under load, more do not make a batch cheaper.
const MAX_WANT: usize = 128;

/// How long a batch may be waited for.
const MIN_WAIT_US: u32 = 20;

/// The one group of provided buffers.
const GROUP: u16 = 0;

/// Memory that all threads' receive buffers may take together, as far as [`MIN_POOL`] allows.
const POOLS: usize = 4 << 20;

/// Receive buffer memory of a thread: at least, and at most.
const MIN_POOL: usize = 64 << 10;
const MAX_POOL: usize = 1 << 20;

/// Buffers in a pool: few and large, so that large messages arrive in large pieces.
const POOL_BUFFERS: u16 = 4;

/// One thread's ring, connections and counts.
pub(super) struct Worker<'a> {
    // The kernel holds addresses in what follows the ring: the ring goes first.
    pub(super) ring: Ring,
    pub(super) pool: BufferPool,
    pub(super) sends: Sends,
    pub(super) addresses: Addresses,

    pub(super) shared: &'a Shared,
    pub(super) part: Part,
    pub(super) connections: Slab<Connection>,
    pub(super) times: SendTimes,
    pub(super) tally: Tally,
    pub(super) opening: super::opening::Opening,
    pub(super) closing: super::closing::Closing,
    pub(super) upkeep: super::upkeep::Rotations,
    /// Payloads of pings that are to be answered.
    pub(super) pongs: HashMap<u32, Box<[u8]>>,
    /// Codes of Close frames that are to be sent, other than that of an orderly end.
    pub(super) close_codes: HashMap<u32, u16>,
    /// Connections whose receive has ended and is to go on.
    rearm: Vec<Token>,
    batch: Vec<Completion>,
    /// Completions of sends, which are looked at before all others.
    pub(super) send_batch: Vec<Completion>,
    /// Tries to send that have been queued since the last enter.
    pub(super) tries: Vec<Token>,
    /// An empty list, to take turns with that one.
    pub(super) spare_tries: Vec<Token>,
    /// Something is due on a connection whose send is a try: it can go on as soon as that has been submitted.
    pub(super) is_held_up: bool,

    pub(super) phase: Phase,
    /// The time of this loop turn, in nanoseconds since the run's epoch. Reading the clock once per turn makes a
    /// latency at most as much too long as the turn takes: microseconds.
    pub(super) now_ns: u64,
    /// How far a new phase has reached along the connections, by key.
    pub(super) sweep: Option<usize>,
    /// Messages that may still be sent.
    pub(super) quota: u64,
    receives: usize,
}

/// What completed, its result and its flags.
pub(super) type Completion = (Token, i32, u32);

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Shared, part: Part) -> Result<Self, EngineError> {
        let (entries, cq_entries) = if shared.threads > shared.cpus { (256, 2048) } else { (1024, 8192) };
        let options = RingOptions { entries, cq_entries, direct_descriptors: part.connections };
        let ring = Ring::new(&options).map_err(EngineError::Ring)?;
        let sources = shared.sources.of_connections(part.first, part.connections);
        check_kernel(&ring, !sources.is_empty())?;
        let pool = BufferPool::new(&ring, GROUP, pool_shape(shared.threads as usize)).map_err(EngineError::Ring)?;
        let traffic = &shared.scenario.traffic;
        let now_ns = shared.epoch.elapsed().as_nanos() as u64;
        let share = f64::from(part.connections) / f64::from(shared.scenario.connections);
        let connect = &shared.scenario.connect;
        let window = (f64::from(connect.window) * share).ceil() as u32;
        Ok(Self {
            ring,
            pool,
            sends: Sends::new(
                &shared.messages,
                messages_per_send(traffic),
                shared.longest_request().max(MIN_SEND_BUFFER),
            ),
            addresses: Addresses::new(shared.endpoints.iter().map(|it| it.address.clone()).collect(), sources),
            shared,
            part,
            // Reserved, not touched: memory is taken as connections come.
            connections: Slab::with_capacity(part.connections as usize),
            times: SendTimes::new(&shared.scenario, now_ns),
            tally: Tally { live: Arc::clone(shared.control.live_latencies(part.thread)), ..Tally::default() },
            opening: super::opening::Opening::new(ConnectPacing::new(connect.rate * share, window, now_ns)),
            closing: super::closing::Closing::default(),
            upkeep: super::upkeep::Rotations::new(&shared.scenario, share),
            pongs: HashMap::new(),
            close_codes: HashMap::new(),
            rearm: Vec::new(),
            batch: Vec::new(),
            send_batch: Vec::new(),
            tries: Vec::new(),
            spare_tries: Vec::new(),
            is_held_up: false,
            phase: Phase::Connect,
            now_ns,
            sweep: None,
            quota: part.limit.unwrap_or(u64::MAX),
            receives: 0,
        })
    }

    /// The loop: do what the phase asks for, enter the kernel once, act on everything that has completed.
    pub(super) fn run(&mut self) -> io::Result<()> {
        self.listen();
        loop {
            self.follow_phase();
            if self.phase == Phase::Stop {
                break;
            }
            self.shared.control.publish(self.part.thread, self.phase, &self.tally.counts);
            let wait = self.wait();
            let all_submitted = self.ring.submit_and_wait(wait)?;
            self.now_ns = self.clock_ns();
            self.reap(all_submitted);
        }
        for (_, connection) in &mut self.connections {
            connection.abandon(&mut self.times, &mut self.tally);
        }
        self.shared.control.publish(self.part.thread, self.phase, &self.tally.counts);
        Ok(())
    }

    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    fn listen(&mut self) {
        let bell = operations::listen(self.shared.control.bell(self.part.thread));
        // SAFETY: the submission holds no address; the control keeps the descriptor open as long as it lives.
        unsafe { self.ring.push(&bell) };
    }

    /// Notices a new phase, and does a turn's worth of what the current one asks for.
    fn follow_phase(&mut self) {
        let phase = self.shared.control.phase();
        if phase != self.phase {
            self.enter_phase(phase);
        }
        match self.phase {
            Phase::Connect => self.open_more(),
            Phase::WarmUp | Phase::Measure => {
                self.sweep_turn(Self::send_due);
                self.is_held_up |= self.send_what_is_due();
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
            self.end_sending();
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

    /// Open loop: sends what is due up to now, and counts what cannot be sent.
    fn end_sending(&mut self) {
        while self.send_what_is_due() {}
        if self.quota > 0
            && let Some(schedule) = self.times.schedule()
        {
            self.tally.counts[Counter::Unsent] += schedule.overdue(self.now_ns);
        }
    }

    /// Visits the next connections of a sweep over all of them.
    pub(super) fn sweep_turn(&mut self, mut visit: impl FnMut(&mut Self, u32)) {
        let Some(start) = self.sweep else { return };
        let end = start.saturating_add(TURN).min(self.connections.capacity());
        for key in start..end {
            if self.connections.contains(key) {
                visit(self, key as u32);
            }
        }
        self.sweep = (end < self.connections.capacity()).then_some(end);
    }

    /// How long to wait, and for how much: under load for several echoes, because they cost less together.
    fn wait(&mut self) -> Wait {
        if self.sweep.is_some() || self.is_held_up {
            return Wait { want: 1, min_wait_us: 0, timeout: Some(Duration::ZERO) };
        }
        let want = (self.receives / 2).clamp(1, MAX_WANT);
        let due = match self.phase {
            Phase::Connect => self.opening_due_ns(),
            Phase::WarmUp | Phase::Measure => {
                let schedule = self.times.schedule().and_then(|schedule| schedule.next_ns());
                [schedule, self.upkeep.next_ns(), self.opening_deadline_ns()].into_iter().flatten().min()
            }
            Phase::Drain | Phase::Close | Phase::Stop => None,
        };
        let timeout = due.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(self.clock_ns())));
        Wait { want, min_wait_us: MIN_WAIT_US, timeout }
    }

    /// The time, afresh.
    pub(super) fn clock_ns(&self) -> u64 {
        self.shared.epoch.elapsed().as_nanos() as u64
    }

    /// Takes all completions, then acts on them: acting queues new submissions, which may complete meanwhile.
    fn reap(&mut self, all_submitted: bool) {
        let mut batch = std::mem::take(&mut self.batch);
        for entry in self.ring.completions() {
            let token = Token::decode(entry.user_data());
            let batch = if token.kind == Kind::Send { &mut self.send_batch } else { &mut batch };
            batch.push((token, entry.result(), entry.flags()));
        }
        self.is_held_up = false;
        self.settle_sends(all_submitted);
        self.receives = 0;
        for (token, result, flags) in batch.drain(..) {
            match token.kind {
                Kind::Receive => self.on_receive(token, result, flags),
                Kind::Connect => self.on_connect(token, result),
                Kind::Bell if !cqueue::more(flags) => self.listen(),
                Kind::Bell | Kind::Ignored | Kind::Send => {}
            }
        }
        self.batch = batch;
        self.pool.publish();
        self.rearm();
    }

    /// Lets receives go on that ended because the pool was empty; it has been refilled by now.
    fn rearm(&mut self) {
        while let Some(token) = self.rearm.pop() {
            let connection = self.connections.get(token.key as usize);
            if connection.is_some_and(|it| it.generation == token.generation && it.stage != Stage::Ending) {
                self.start_receiving(token.key);
            }
        }
    }

    pub(super) fn start_receiving(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        debug_assert!(!connection.has(Flag::Receiving), "a second receive");
        connection.set(Flag::Receiving, true);
        let receive = operations::receive(connection.token(Kind::Receive, key), self.pool.group());
        // SAFETY: the submission holds no address; the pool outlives the ring.
        unsafe { self.ring.push(&receive) };
    }

    /// The connection that a completion is for, if it still exists.
    pub(super) fn connection(&mut self, token: Token) -> Option<&mut Connection> {
        self.connections.get_mut(token.key as usize).filter(|it| it.generation == token.generation)
    }

    fn on_receive(&mut self, token: Token, result: i32, flags: u32) {
        self.receives += 1;
        let piece = self.pool.take(result, flags);
        let Some(connection) = self.connection(token) else {
            // Never: a connection is kept until its receive has ended. But memory must not leak if it does.
            debug_assert!(false, "completion of a connection that is gone");
            return piece.into_iter().for_each(|piece| self.pool.release(piece.buffer));
        };
        let goes_on = cqueue::more(flags);
        connection.set(Flag::Receiving, goes_on);
        if let Some(piece) = piece {
            if result > 0 {
                self.on_bytes(token.key, piece);
            }
            self.pool.release(piece.buffer);
        }
        if goes_on && result > 0 {
            return;
        }
        match result {
            0 => self.on_gone(token, None),
            error if -error == libc::ECANCELED && self.is_slow_reader(token) => self.release_if_ended(token),
            error if error < 0 && -error != libc::ENOBUFS => self.on_gone(token, Some(-error)),
            // The pool was empty, or the kernel had another reason to end the multishot.
            _ => {
                self.rearm.push(token);
                self.release_if_ended(token);
            }
        }
    }

    /// Bytes from the server.
    pub(super) fn on_bytes(&mut self, key: u32, piece: Piece) {
        let connection = &mut self.connections[key as usize];
        if !connection.is_upgraded() {
            return self.on_answer(key, piece);
        }
        if connection.has(Flag::SlowReader) && connection.stage == Stage::Open {
            return;
        }
        let mut judging = Judging {
            now_ns: self.now_ns,
            messages: &self.shared.messages,
            times: &mut self.times,
            tally: &mut self.tally,
            is_closing: connection.stage == Stage::Closing,
            is_closed: connection.has(Flag::ServerClosed),
        };
        let signals = match connection.session.receive(self.pool.bytes_mut(piece), &mut judging) {
            Ok(signals) => signals,
            Err(violation) => return self.on_violation(key, violation),
        };
        if let Some(payload) = signals.ping {
            self.pongs.insert(key, payload);
            connection.set(Flag::PongDue, true);
        }
        if let Some(code) = signals.close {
            return self.on_close(key, code);
        }
        if connection.stage == Stage::Greeting && connection.session.has_echoed() {
            self.on_open(key);
        } else if connection.has(Flag::Recycling) {
            self.close_if_settled(key);
        }
        self.send_due(key);
    }
}

/// The least that a send buffer holds: an upgrade request or two control frames.
const MIN_SEND_BUFFER: usize = 512;

/// Messages that a send buffer has room for. A stalled server makes every connection of an open loop hold a buffer, so
/// those are small.
fn messages_per_send(traffic: &Traffic) -> u32 {
    if traffic.open.is_some() { traffic.depth.min(16) } else { traffic.depth }
}

/// Receive buffers for one of `threads` threads. Pieces are read at once and given back, so even little memory is
/// hardly ever short; when it is, receives go on a turn later.
fn pool_shape(threads: usize) -> PoolShape {
    let bytes = (POOLS / threads).clamp(MIN_POOL, MAX_POOL);
    PoolShape { count: POOL_BUFFERS, size: (bytes / usize::from(POOL_BUFFERS)) as u32, incremental: true }
}

/// Deadlines of attempts, earliest first: they are all given the same time.
pub(super) type Deadlines = VecDeque<(u64, Token)>;
