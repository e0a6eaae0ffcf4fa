//! One thread's loop.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ringio::{Completion, Pool, Ring, RingOptions, Wait};
use rustix::time::ClockId;
use slab::Slab;
use socket2::SockAddr;

use super::alarms::Alarms;
use super::connection::Connection;
use super::operations::{self, Addresses, Kind, Token};
use super::receiving::{Readable, pool_shape};
use super::sends::Sends;
use super::stamps::{Stamps, time_of};
use super::{EngineError, Shared, check_kernel};
use crate::control::Phase;
use crate::pacing::ConnectPacing;
use crate::scenario::{Part, Traffic};
use crate::schedule::Schedule;
use crate::stats::{Counter, Tally};
use crate::times::SendTimes;

/// Connections that one loop turn starts, sweeps or closes at most, so that completions never wait for long.
pub(super) const TURN: usize = 256;

/// With this many echoes at a time under load, more do not make a batch cheaper.
const MAX_WANT: usize = 128;

/// How long a batch may be waited for.
const MIN_WAIT_US: u32 = 20;

/// An open loop whose echoes are stamped needs not look at each as it comes. It looks at them when it wakes up to send,
/// if that is so soon, or when there are so many.
const LAZY_NS: u64 = 1_000_000;
const LAZY_WANT: usize = 64;

/// An alarm that goes off this soon is not slept for.
const ALARM_MARGIN_NS: u64 = 2_000;

/// One thread's ring, connections and counts.
pub(super) struct Worker<'a> {
    // The kernel holds addresses in what follows the ring: the ring goes first.
    pub(super) ring: Ring,
    pub(super) pool: Pool,
    pub(super) sends: Sends,
    pub(super) addresses: Addresses,
    alarms: Alarms,
    /// Where receives are stamped.
    pub(super) stamps: Option<Stamps>,

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
    pub(super) readable: Readable,
    batch: Vec<(Token, Completion)>,
    /// Completions of sends and their results, which are looked at before all others.
    pub(super) send_batch: Vec<(Token, i32)>,
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
    /// When this turn looked at its completions, and when the last one did.
    turn_ns: u64,
    pub(super) last_turn_ns: u64,
    /// When what is being looked at arrived.
    pub(super) arrived_ns: u64,
    /// How far a new phase has reached along the connections, by key.
    pub(super) sweep: Option<usize>,
    /// Messages that may still be sent.
    pub(super) quota: u64,
    pub(super) receives: usize,
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Shared, part: Part) -> Result<Self, EngineError> {
        let (entries, cq_entries) = if shared.threads > shared.cpus { (256, 2048) } else { (1024, 8192) };
        let options = RingOptions { entries, cq_entries, direct_descriptors: part.connections };
        let mut ring = Ring::new(&options).map_err(EngineError::Ring)?;
        let sources = shared.sources.of_connections(part.first, part.connections);
        let traffic = &shared.scenario.traffic;
        let targets: Vec<_> = shared.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect();
        check_kernel(&ring, !targets.iter().all(SockAddr::is_unix), !sources.is_empty())?;
        // A closed loop sends as soon as an echo is there: it has nothing to gain.
        let are_stamped = traffic.open.is_some() && !targets.iter().any(SockAddr::is_unix);
        let pool = ring.add_pool(pool_shape(shared.threads as usize)).map_err(EngineError::Ring)?;
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
            alarms: Alarms::new(time_of(ClockId::Monotonic).saturating_sub(shared.epoch.elapsed())),
            addresses: Addresses::new(targets, sources, are_stamped),
            stamps: are_stamped.then(Stamps::new),
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
            readable: Readable::new(),
            batch: Vec::new(),
            send_batch: Vec::new(),
            tries: Vec::new(),
            spare_tries: Vec::new(),
            is_held_up: false,
            phase: Phase::Connect,
            now_ns,
            turn_ns: now_ns,
            last_turn_ns: now_ns,
            arrived_ns: now_ns,
            sweep: None,
            quota: part.limit.unwrap_or(u64::MAX),
            receives: 0,
        })
    }

    /// The loop: do what the phase asks for, enter the kernel, act on everything that has completed.
    pub(super) fn run(&mut self) -> io::Result<()> {
        self.listen();
        loop {
            self.follow_phase();
            if self.phase == Phase::Stop {
                break;
            }
            self.shared.control.publish(self.part.thread, self.phase, &self.tally.counts);
            let wait = self.wait()?;
            self.ring.enter(wait)?;
            self.look_at_the_clocks();
            self.reap()?;
        }
        for (_, connection) in &mut self.connections {
            connection.abandon(&mut self.times, &mut self.tally, 0);
        }
        self.shared.control.publish(self.part.thread, self.phase, &self.tally.counts);
        Ok(())
    }

    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    fn listen(&mut self) {
        self.ring.push(operations::listen(self.shared.control.bell(self.part.thread)));
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
        } else if !phase.is_sending() {
            self.sweep = None;
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
    fn wait(&mut self) -> io::Result<Wait> {
        let receives = self.readable.under_way();
        if receives > 0 {
            // They complete in the enter itself: this waits for nothing, but lets as many polls complete in the same pass.
            return Ok(Wait { want: receives, min_wait_us: MIN_WAIT_US, timeout: None });
        }
        if self.sweep.is_some() || self.is_held_up {
            return Ok(Wait::default());
        }
        let several = (self.receives / 2).clamp(1, MAX_WANT);
        let mut wait = Wait { want: several, min_wait_us: MIN_WAIT_US, timeout: None };
        if let (Some(next_ns), after_ns) = self.upcoming() {
            let now_ns = self.clock_ns();
            if next_ns <= now_ns {
                return Ok(Wait::default());
            }
            if self.set_alarms(next_ns, after_ns) {
                wait.timeout = Some(Duration::from_nanos(next_ns - now_ns));
            } else if self.is_lazy() && next_ns - now_ns < LAZY_NS {
                // An alarm ends such a wait, but only if it goes off during the wait itself, not while the kernel is still
                // sending.
                self.ring.hand_over()?;
                if self.alarms.first_ns() <= self.clock_ns() + ALARM_MARGIN_NS {
                    return Ok(Wait::default());
                }
                (wait.want, wait.min_wait_us) = (LAZY_WANT, 2 * (LAZY_NS / 1000) as u32);
            }
        }
        Ok(wait)
    }

    /// Whether nothing depends on how soon an echo is noticed: neither a message that it makes room for, nor the time that
    /// it took to open a connection.
    fn is_lazy(&self) -> bool {
        let has_no_depth = self.shared.scenario.traffic.depth == u32::MAX;
        self.stamps.is_some() && has_no_depth && self.phase.is_sending() && self.opening_deadline_ns().is_none()
    }

    /// When something is to be done next without a completion, and when after that as far as it is known.
    fn upcoming(&mut self) -> (Option<u64>, Option<u64>) {
        match self.phase {
            Phase::Connect => (self.opening_due_ns(), None),
            Phase::WarmUp | Phase::Measure => {
                let (next_ns, after_ns) = self.times.schedule().map_or((None, None), Schedule::upcoming);
                let others = [self.upkeep.next_ns(), self.opening_deadline_ns()].into_iter().flatten().min();
                (next_ns.into_iter().chain(others).min(), after_ns)
            }
            Phase::Drain | Phase::Close | Phase::Stop => (None, None),
        }
    }

    /// Sees to it that the thread wakes up at `next_ns`. True if that needs a timeout, because all alarms are set.
    fn set_alarms(&mut self, next_ns: u64, after_ns: Option<u64>) -> bool {
        while let Some(at_ns) = self.alarms.wanted(next_ns, after_ns) {
            let Some(alarm) = self.alarms.set(at_ns) else { return true };
            // SAFETY: the alarm's time is boxed, and is written again only when it has gone off.
            unsafe { self.ring.push_borrowed(alarm) };
        }
        false
    }

    fn look_at_the_clocks(&mut self) {
        if let Some(stamps) = &mut self.stamps {
            stamps.look_at_the_clock();
        }
        self.now_ns = self.clock_ns();
        self.last_turn_ns = std::mem::replace(&mut self.turn_ns, self.now_ns);
    }

    /// The time, afresh.
    pub(super) fn clock_ns(&self) -> u64 {
        self.shared.epoch.elapsed().as_nanos() as u64
    }

    /// Takes all completions, then acts on them: acting queues new submissions, which may complete meanwhile.
    fn reap(&mut self) -> io::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        loop {
            self.ring.reap(|completion| {
                let token = Token::decode(completion.user_data);
                match token.kind {
                    Kind::Send => self.send_batch.push((token, completion.result)),
                    _ => batch.push((token, completion)),
                }
            });
            // A try without a completion is over only if there is no completion left to be seen.
            if !self.ring.has_overflow() {
                break;
            }
            self.ring.enter(Wait::default())?;
        }
        self.is_held_up = false;
        self.settle_sends();
        self.receives = 0;
        for (token, completion) in batch.drain(..) {
            match token.kind {
                Kind::Ready => self.on_ready(token, completion.result, completion.goes_on()),
                Kind::Receive => self.on_receive(token.key, completion),
                Kind::Connect => self.on_connect(token, completion.result),
                Kind::Alarm => self.alarms.gone_off(token),
                Kind::Bell if !completion.goes_on() => self.listen(),
                Kind::Bell | Kind::Ignored | Kind::Send => {}
            }
        }
        self.batch = batch;
        self.pool.publish();
        self.receive_from_readable();
        Ok(())
    }

    /// The connection that a completion is for, if it still exists.
    pub(super) fn connection(&mut self, token: Token) -> Option<&mut Connection> {
        self.connections.get_mut(token.key as usize).filter(|it| it.generation == token.generation)
    }
}

/// The least that a send buffer holds: an upgrade request or two control frames.
const MIN_SEND_BUFFER: usize = 512;

/// Messages that a send buffer has room for. A stalled server makes every connection of an open loop hold a buffer, so
/// those are small.
fn messages_per_send(traffic: &Traffic) -> u32 {
    if traffic.open.is_some() { traffic.depth.min(16) } else { traffic.depth }
}

/// Deadlines of attempts, earliest first: they are all given the same time.
pub(super) type Deadlines = VecDeque<(u64, Token)>;
