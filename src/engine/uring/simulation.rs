//! The connections against a simulated kernel, under seeded random schedules.
//!
//! The kernel here completes operations in any legal order, in batches of any size: receives of any size, ended
//! multishots, empty pools, short sends, cancellations that race with completions, peers that stop reading, half-close,
//! reset or misbehave, compressed messages that take several turns, TCP urgent marks, a clock that stands still and jumps.
//! The worker's side makes the calls of `worker.rs` in their order. After each turn the invariants are checked; a failing
//! seed is printed and replays with `RINGECHO_SIMULATION_SEED`.

mod heard;
mod kernel;
mod peer;
mod promise;
mod random;
mod script;

use std::time::{Duration, Instant};

use ringio::{Pool, PoolShape};

use crate::connection::Timeouts;
use crate::connection::lifecycle::Facts;
use crate::engine::clock::Clock;
use crate::engine::stopping::Stopping;
use crate::protocol::{Deflate, Protocol};
use crate::transport::{Door, Doors};
use crate::worker::{Backlog, Counter, Limits};

use super::connections::Connections;
use super::token::Kind;
use kernel::{Completion, Kernel};
use peer::Peer;
use random::Random;

const SLOTS: u32 = 5;
/// Turns of a schedule before it is let come to an end, at most.
const STEPS: usize = 120;
/// The finest that a worker's clock has.
const TICK: Duration = Duration::from_millis(10);
/// Ticks that a server that acts gives its peers for each thing, at most.
const DEADLINE: usize = 24;
/// Longer than any schedule takes: the drain ends when all is quiet.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3600);
/// Turns within which everything that can come to an end does.
const PATIENCE: usize = 200_000;
/// Room for all compressed messages that can be open, and for their input.
const AMPLE: usize = 64 << 20;

/// A worker and its kernel.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct Simulation {
    kernel: Kernel,
    connections: Connections,
    /// The server closes, pings and loses patience by itself.
    server_acts: bool,
    /// The worker is in an enter that waits for a completion.
    is_waiting: bool,
    /// All deadlines that were due have been met.
    is_punctual: bool,
    /// The peers do nothing any more.
    is_abandoned: bool,
    /// No tick begins.
    is_timeless: bool,
    stopping: Stopping,
    clock: Clock,
    time: Instant,
    had_deadlines: bool,
    meter: promise::Meter,
    /// Turns that have ended with input that waits to be inflated.
    laden_turns: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let protocol = if random.one_in(2) { Protocol::Tcp } else { Protocol::WebSocket };
        let is_large = random.one_in(12);
        let size = if is_large { 4096 << random.below(5) } else { 8 + random.below(200) as u32 };
        let scale = if is_large { size as usize / 200 } else { 1 };
        let shape = PoolShape { count: 1 << random.below(4), size, incremental: !random.one_in(3) };
        let server_acts = random.one_in(3);
        let (floods, hides_more) = (random.one_in(10), random.one_in(4));
        let (deflate, has_context) = compression(&mut random, protocol);
        let kind = peer::Kind { protocol, deflate, has_context, server_acts, floods, hides_more, scale };
        let limits = limits(&mut random);
        let clock = Clock::new(&limits, SLOTS);
        let timeouts = if server_acts { clock.timeouts(&limits) } else { Timeouts::default() };
        let memory = usize::from(shape.count) * shape.size as usize;
        let (per_connection, total) = (memory * random.below(6), memory * random.below(12));
        let for_compressed = match deflate {
            Deflate::Off => 0,
            // A server that acts may refuse a message for want of memory (1013).
            _ if server_acts => random.below(6) * (100 << 10),
            _ => AMPLE,
        };
        let backlog = Backlog { per_connection, total: total + for_compressed };
        Self { clock, ..Self::with(random, SLOTS, kind, shape, timeouts, backlog) }
    }

    fn with(
        random: Random,
        slots: u32,
        kind: peer::Kind,
        shape: PoolShape,
        timeouts: Timeouts,
        backlog: Backlog,
    ) -> Self {
        let settings = kind.settings();
        let doors = Doors::from([Door { hides_more: kind.hides_more, ..Door::new(kind.protocol) }]);
        Self {
            connections: Connections::new(slots as usize, Pool::detached(shape), backlog, settings, doors, timeouts),
            kernel: Kernel::new(random, slots, kind),
            server_acts: kind.server_acts,
            is_waiting: false,
            is_punctual: true,
            is_abandoned: false,
            is_timeless: false,
            stopping: Stopping::No,
            clock: Clock::new(&limits(&mut Random::new(0)), SLOTS),
            time: Instant::now(),
            had_deadlines: false,
            meter: promise::Meter::default(),
            laden_turns: 0,
        }
    }

    /// One turn of the worker's loop, or, while it waits, some time that passes.
    fn turn(&mut self) {
        if !self.is_waiting {
            self.had_deadlines = self.connections.core.has_deadlines();
            let is_telling = matches!(self.stopping, Stopping::Telling { .. });
            let is_hurried = self.connections.is_urgent() || !self.is_punctual || is_telling;
            self.is_waiting = self.connections.queued_receives() == 0 && !is_hurried;
            self.enter();
        }
        if !self.is_abandoned {
            self.kernel.happen();
        }
        if self.is_abandoned || (self.kernel.is_calm && self.kernel.random.one_in(2)) {
            self.kernel.go_on();
        }
        let stall = if self.kernel.random.one_in(50) { 1000 } else { 1 };
        if !self.is_timeless {
            self.time += TICK * stall * self.kernel.random.below(3) as u32 / 2;
        }
        let is_called = self.had_deadlines && self.kernel.random.one_in(3);
        if self.is_waiting && !is_called && !self.kernel.has_completions() {
            self.kernel.check_waiting();
            self.connections.check_waiting();
            return; // Whatever the worker has not seen, nothing will show it.
        }
        let at_least = usize::from(self.is_waiting && !is_called);
        self.is_waiting = false;
        self.after_enter(at_least);
    }

    fn enter(&mut self) {
        let ops = self.connections.take_ops();
        self.kernel.enter(&ops, &self.connections);
        self.connections.give_back(ops);
    }

    /// The part of a turn that follows the enter.
    fn after_enter(&mut self, at_least: usize) {
        let now = self.clock.advance(self.time, self.had_deadlines, self.connections.core.len());
        self.connections.core.begin_turn(now);
        self.see_all(at_least);
        if self.connections.core.has_foreground() && self.connections.core.has_background() {
            self.connections.provide_buffers();
            self.connections.receive_from_foreground();
            self.enter();
            self.see_all(0);
        }
        self.is_punctual = !self.clock.is_behind() && self.connections.core.meet_deadlines();
        self.connections.settle_called();
        self.connections.core.take_stalled();
        let Self { kernel, connections, stopping, .. } = self;
        if self.server_acts && !self.is_abandoned && kernel.random.one_in(60) {
            connections.ask_some_to_leave(0, SLOTS as usize);
        }
        let some = |from| connections.ask_some_to_leave(from, 1 + kernel.random.below(SLOTS as usize));
        stopping.goes_on(false, some);
        connections.provide_buffers();
        connections.receive_from_foreground();
        connections.receive_from_background();
        for slot in connections.take_throttled_slots() {
            kernel.peers[slot as usize].iter_mut().for_each(Peer::is_throttled);
        }
        connections.check_invariants(self.is_punctual);
        let is_laden = connections.core.iter().any(|(_, connection)| connection.life.facts.has(Facts::LADEN));
        self.laden_turns += u64::from(is_laden);
    }

    fn see_all(&mut self, at_least: usize) {
        self.reap(at_least);
        while self.kernel.random.one_in(4) {
            // The kernel had more of what it defers than one enter runs.
            self.kernel.go_on();
            self.reap(0);
        }
        self.connections.finish_sends();
        self.kernel.sends_finished();
    }

    fn reap(&mut self, at_least: usize) {
        for completion in self.kernel.batch(at_least) {
            if completion.token.kind == Kind::Accepted {
                self.stopping.has_arrivals();
            }
            if completion.token.kind == Kind::Receive {
                let is_budgeted = self.connections.is_budgeted(completion.token.key);
                self.meter.sees(&completion, &self.kernel.peers, is_budgeted);
            } else {
                self.meter.sees(&completion, &self.kernel.peers, false);
            }
            dispatch(&mut self.connections, completion);
        }
    }

    /// All peers send what they have, and those that read go on reading. Then, when nothing can happen any more, every
    /// byte that is due has been echoed to these: no connection waits for an event that does not come, or for another.
    fn settle_down(&mut self) {
        self.kernel.is_calm = true;
        for _ in 0..PATIENCE {
            self.kernel.all_peers_mut().for_each(|peer| peer.send(usize::MAX));
            self.turn();
            if self.is_waiting && self.kernel.is_quiet() {
                let readers = self.kernel.all_peers().filter(|peer| peer.reads && !peer.has_reset);
                readers.for_each(Peer::check_complete);
                return;
            }
        }
        panic!("the worker does not come to rest");
    }

    /// The server stops under load: all peers get what is due, and a goodbye.
    fn stop(&mut self) {
        self.kernel.is_calm = true;
        self.connections.core.close_at_leisure();
        self.stopping.begin(DRAIN_TIMEOUT);
        self.is_waiting = false; // the bell rings
        self.kernel.all_peers_mut().for_each(Peer::server_stops);
        for _ in 0..PATIENCE {
            let Kernel { peers, random, .. } = &mut self.kernel;
            for peer in peers.iter_mut().flatten() {
                peer.reads = true;
                // What it has begun it goes on with, at some time.
                peer.send(if random.one_in(20) { usize::MAX } else { 0 });
            }
            self.turn();
            let has_sent_all = |peer: &Peer| peer.has_reset || peer.has_finished || peer.has_sent_all();
            if self.is_waiting && self.kernel.is_quiet() && self.kernel.all_peers().all(has_sent_all) {
                self.kernel.all_peers().for_each(Peer::check_farewell);
                return;
            }
        }
        panic!("the worker does not come to rest");
    }

    /// The peers do nothing any more, not even leave: every connection ends at its deadline, but for those whose peers
    /// answer Pings and read. These stay, whatever the clock does.
    fn be_abandoned(&mut self) {
        self.is_abandoned = true;
        self.kernel.is_calm = true;
        for slot in self.connections.open_slots() {
            self.kernel.peers[slot as usize].iter_mut().for_each(Peer::begin_vigil);
        }
        // Until idle, until the Close frame is given up, and for completions that take their time; and before that, until what
        // they have sent is received, and what fits in their sockets' buffers is sent, block by block.
        let mut turns_left = 20 * DEADLINE;
        while turns_left > 0 {
            let held = self.connections.core.outputs.held();
            self.kernel.all_peers_mut().filter(|peer| peer.is_faithful).for_each(Peer::answer_ping);
            self.turn();
            let goes_on = self.connections.core.outputs.held() != held;
            turns_left = if goes_on { 20 * DEADLINE } else { turns_left - 1 };
            if self.connections.core.is_empty() {
                break;
            }
        }
        let faithful = self.kernel.all_peers().filter(|peer| peer.is_faithful);
        assert_eq!(
            self.connections.core.len(),
            faithful.count(),
            "a deadline has passed and the connection is still there"
        );
        self.kernel.all_peers_mut().for_each(|peer| peer.is_faithful = false);
        for _ in 0..20 * DEADLINE {
            if self.connections.core.is_empty() {
                break;
            }
            self.turn();
        }
        assert!(self.connections.core.is_empty(), "a Ping goes unanswered and the connection is still there");
        self.is_abandoned = false;
    }

    /// All peers leave.
    fn end(&mut self) {
        self.kernel.is_calm = true;
        for _ in 0..PATIENCE {
            for peer in self.kernel.all_peers_mut() {
                peer.reads = true;
                peer.send(usize::MAX);
                peer.finish();
            }
            self.turn();
            if self.connections.core.is_empty() && self.kernel.is_quiet() {
                return;
            }
        }
        panic!("connections remain that nothing will end");
    }
}

/// What becomes of compression, of which every other server knows nothing.
fn compression(random: &mut Random, protocol: Protocol) -> (Deflate, bool) {
    if protocol == Protocol::Tcp || !random.one_in(3) {
        return (Deflate::Off, false);
    }
    let deflate = [Deflate::Pass, Deflate::Verify, Deflate::Recompress][random.below(3)];
    (deflate, deflate != Deflate::Recompress && random.one_in(3))
}

/// Limits of a server that acts, each an odd number of the clock's ticks.
fn limits(random: &mut Random) -> Limits {
    let mut some = || TICK * (8 + random.below(DEADLINE - 8)) as u32;
    Limits {
        handshake_timeout: Some(some()),
        // For a Pong, whose way takes some turns, there must be time.
        idle_timeout: Some(2 * some()),
        stall_timeout: Some(some()),
        close_timeout: some(),
        drain_timeout: DRAIN_TIMEOUT,
        has_fine_ticks: false,
    }
}

fn dispatch(connections: &mut Connections, Completion { token, posted, .. }: Completion) {
    let completion = posted.reap(connections.pool());
    let (result, goes_on) = (completion.result, completion.goes_on());
    let successor = connections.successor_of(token);
    match token.kind {
        Kind::Accepted => return connections.accepted(result as u32, 0),
        Kind::Ready => connections.ready(token, result, goes_on),
        Kind::Receive => {
            let has_more = completion.is_socket_nonempty();
            connections.received(token, result, completion.piece, has_more);
        }
        Kind::Send => connections.send_fell_short(token, result),
        Kind::Cancel => connections.cancel_missed(token),
        Kind::Shutdown | Kind::Reset => connections.shut_down(token),
        Kind::Close => connections.closed(token),
        Kind::Wake => unreachable!("no other thread wakes the worker"),
        Kind::Install => unreachable!("there is no connection log"),
    }
    if successor.is_some() {
        let now = connections.successor_of(token);
        assert_eq!(now, successor, "a completion of a former connection changes its successor");
    }
}

/// What a schedule has come to.
#[derive(Default)]
struct Ran {
    /// Connections that have come to their end.
    finished: usize,
    /// Compressed messages that the server has received.
    compressed: u64,
    laden_turns: u64,
}

/// One schedule: random peers come and go; in the end all are let go, and everything must be back where it was.
fn run(seed: u64) -> Ran {
    let mut simulation = Simulation::new(seed);
    for _ in 0..20 + simulation.kernel.random.below(STEPS - 20) {
        if simulation.kernel.random.one_in(4) {
            simulation.kernel.connect();
        }
        simulation.turn();
    }
    if simulation.server_acts {
        simulation.be_abandoned();
    } else if simulation.kernel.random.one_in(3) {
        simulation.stop();
    } else {
        simulation.settle_down();
        simulation.kernel.all_peers_mut().for_each(|peer| peer.reads = true);
        simulation.settle_down();
    }
    simulation.end();
    simulation.connections.check_idle();
    assert_eq!(simulation.kernel.free_slots(), SLOTS as usize);
    let compressed = simulation.connections.core.counters().get(Counter::Compressed);
    Ran { finished: simulation.kernel.finished, compressed, laden_turns: simulation.laden_turns }
}

/// A peer that is throttled for a part of the turn in which the server stops; echoes that are longer recompressed.
#[test]
fn rare_schedules_of_millions() {
    for seed in [1_000_723_078, 1_003_898_894] {
        run(seed);
    }
}

#[test]
fn any_legal_schedule_echoes_every_byte_once_and_returns_all_resources() {
    let number = |name| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    if let Some(seed) = number("RINGECHO_SIMULATION_SEED") {
        run(seed);
        return;
    }
    let first = number("RINGECHO_SIMULATION_FIRST_SEED").unwrap_or(0);
    let schedules = number("RINGECHO_SIMULATION_SCHEDULES").unwrap_or(2_000);
    let mut all = Ran::default();
    for seed in first..first + schedules {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let Ran { finished, compressed, laden_turns } =
            outcome.unwrap_or_else(|_| panic!("replay with RINGECHO_SIMULATION_SEED={seed}"));
        all.finished += finished;
        all.compressed += compressed;
        all.laden_turns += laden_turns;
    }
    let Ran { finished, compressed, laden_turns } = all;
    assert!(finished as u64 > schedules, "too few connections came to their end to prove anything: {finished}");
    assert!(compressed > schedules / 4, "hardly anything was compressed: {compressed}");
    assert!(laden_turns > schedules / 20, "hardly anything has waited to be inflated: {laden_turns}");
}
