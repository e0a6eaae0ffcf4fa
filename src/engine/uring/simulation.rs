//! The connections against a simulated kernel, under seeded random schedules.
//!
//! The kernel here completes operations in any legal order, in batches of any size: receives of any size, ended
//! multishots, empty pools, short sends, cancellations that race with completions, enters that take a part of the
//! submissions, peers that stop reading, half-close, reset or misbehave. After each step the invariants are checked; a
//! failing seed is printed and replays with `RINGECHO_SIMULATION_SEED`.

mod kernel;
mod peer;
mod random;

use std::time::Duration;

use crate::engine::deadline::Timeouts;
use crate::engine::stopping::Stopping;
use crate::protocol::{Protocol, Settings};
use crate::worker::Backlog;

use super::buffers::{BufferPool, PoolShape};
use super::connections::Connections;
use super::token::Kind;
use kernel::{Completion, Kernel};
use peer::Peer;
use random::Random;

const SLOTS: u32 = 5;
const STEPS: usize = 400;
/// Ticks that a server that acts gives its peers for each thing.
const DEADLINE: u32 = 20;
/// Longer than any schedule takes: the drain ends when all is quiet.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3600);
/// Turns within which everything that can come to an end does.
const PATIENCE: usize = 200_000;

/// A worker and its kernel.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct Simulation {
    kernel: Kernel,
    connections: Connections,
    /// The server closes, pings and loses patience by itself.
    server_acts: bool,
    /// The worker is in an enter that waits for a completion.
    is_waiting: bool,
    /// The last enter has taken all submissions.
    all_submitted: bool,
    /// The peers do nothing any more.
    is_abandoned: bool,
    stopping: Stopping,
    tick: u32,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let protocol = if random.one_in(2) { Protocol::Tcp } else { Protocol::WebSocket };
        let size = 8 + random.below(200) as u32;
        let shape = PoolShape { count: 1 << random.below(4), size, incremental: !random.one_in(3) };
        let server_acts = random.one_in(3);
        let deadline = server_acts.then_some(DEADLINE);
        let timeouts = Timeouts { handshake: deadline, idle: deadline, close: deadline };
        let settings = Settings { protocol, ..Settings::default() };
        let pool = BufferPool::detached(shape);
        let (per_connection, total) = (pool.memory() * random.below(6), pool.memory() * random.below(12));
        let backlog = Backlog { per_connection, total };
        Self {
            connections: Connections::new(SLOTS as usize, pool, backlog, settings, timeouts),
            kernel: Kernel::new(random, SLOTS, protocol, server_acts),
            server_acts,
            is_waiting: false,
            all_submitted: true,
            is_abandoned: false,
            stopping: Stopping::No,
            tick: 0,
        }
    }

    /// One turn of the worker's loop, or, while it waits, some time that passes.
    fn turn(&mut self) {
        let Self { kernel, connections, .. } = self;
        if !self.is_waiting {
            let is_urgent = connections.is_urgent();
            let ops = connections.take_ops().collect();
            self.all_submitted = kernel.enter(ops, connections);
            let is_telling = matches!(self.stopping, Stopping::Telling { .. });
            self.is_waiting = !is_urgent && self.all_submitted && !is_telling;
        }
        if self.is_abandoned {
            kernel.go_on();
        } else {
            kernel.happen();
        }
        self.tick += 1;
        let is_called = connections.needs_sweep() && kernel.random.one_in(3);
        if self.is_waiting && !is_called && !kernel.has_completions() {
            kernel.check_waiting();
            connections.check_waiting();
            return; // Whatever the worker has not seen, nobody will show it.
        }
        let at_least = usize::from(self.is_waiting && !is_called);
        self.is_waiting = false;
        self.after_enter(at_least);
    }

    /// The part of a turn that follows the enter.
    fn after_enter(&mut self, at_least: usize) {
        let Self { kernel, connections, .. } = self;
        connections.set_now(self.tick);
        for completion in kernel.batch(at_least) {
            if completion.token.kind == Kind::Accepted {
                self.stopping.has_arrivals();
            }
            dispatch(connections, completion);
        }
        if self.all_submitted {
            connections.finish_sends();
            kernel.sends_finished();
        }
        if self.server_acts {
            connections.sweep(SLOTS as usize);
            if kernel.random.one_in(30) {
                connections.ask_some_to_leave(0, SLOTS as usize);
            }
        }
        // A worker sees all receives of an enter before it tells anybody.
        if !kernel.has_unseen(Kind::Receive) {
            let some = |from| connections.ask_some_to_leave(from, 1 + kernel.random.below(SLOTS as usize));
            self.stopping.goes_on(false, some);
        }
        connections.end_turn();
        let throttled = connections.throttled_slots();
        kernel.peers.iter_mut().filter(|(slot, _)| throttled.contains(slot)).for_each(|(_, peer)| peer.is_throttled());
        connections.check_invariants();
    }

    /// All peers send what they have, and those that read go on reading. Then, when nothing can happen any more, every
    /// byte that is due has been echoed to these: nobody waits for an event that does not come, or for somebody else.
    fn settle_down(&mut self) {
        self.kernel.is_calm = true;
        for _ in 0..PATIENCE {
            self.kernel.peers.values_mut().for_each(|peer| peer.send(usize::MAX));
            self.turn();
            if self.is_waiting && self.kernel.is_quiet() {
                let readers = self.kernel.peers.values().filter(|peer| peer.reads && !peer.has_reset);
                readers.for_each(Peer::check_complete);
                return;
            }
        }
        panic!("the worker does not come to rest");
    }

    /// The server stops under load: everybody gets what is due, and a goodbye.
    fn stop(&mut self) {
        self.kernel.is_calm = true;
        self.stopping.begin(DRAIN_TIMEOUT);
        self.is_waiting = false; // the bell rings
        self.kernel.peers.values_mut().for_each(Peer::server_stops);
        for _ in 0..PATIENCE {
            for peer in self.kernel.peers.values_mut() {
                peer.reads = true;
                // What it has begun it goes on with, at some time.
                peer.send(if self.kernel.random.one_in(20) { usize::MAX } else { 0 });
            }
            self.turn();
            let has_sent_all = self.kernel.peers.values().all(|peer| peer.has_reset || peer.sent == peer.script.len());
            if self.is_waiting && self.kernel.is_quiet() && has_sent_all {
                self.kernel.peers.values().for_each(Peer::check_farewell);
                return;
            }
        }
        panic!("the worker does not come to rest");
    }

    /// The peers do nothing any more, not even leave: every connection ends at its deadline.
    fn be_abandoned(&mut self) {
        self.is_abandoned = true;
        // Until idle, until the Close frame is given up, and for completions that take their time.
        for _ in 0..20 * DEADLINE {
            self.turn();
        }
        assert!(self.connections.is_empty(), "a deadline has passed and the connection is still there");
        self.is_abandoned = false;
    }

    /// All peers leave.
    fn end(&mut self) {
        self.kernel.is_calm = true;
        for _ in 0..PATIENCE {
            for peer in self.kernel.peers.values_mut() {
                peer.reads = true;
                peer.send(usize::MAX);
                peer.finish();
            }
            self.turn();
            if self.connections.is_empty() && self.kernel.is_quiet() {
                return;
            }
        }
        panic!("connections remain that nothing will end");
    }
}

fn dispatch(connections: &mut Connections, Completion { token, result, flags }: Completion) {
    let successor = connections.successor_of(token);
    match token.kind {
        Kind::Accepted => return connections.accepted(result as u32),
        Kind::Ready => connections.ready(token, result, flags),
        Kind::Receive => connections.received(token, result, flags),
        Kind::Send => connections.send_fell_short(token, result),
        Kind::Shutdown => connections.shut_down(token),
        Kind::Close => connections.closed(token),
        Kind::Cancel => connections.cancel_missed(token),
        Kind::Wake => unreachable!("nobody rings"),
    }
    if successor.is_some() {
        assert_eq!(
            connections.successor_of(token),
            successor,
            "a completion of a former connection changes its successor"
        );
    }
}

/// One schedule: random peers come and go; in the end all are let go, and everything must be back where it was.
fn run(seed: u64) -> usize {
    let mut simulation = Simulation::new(seed);
    for _ in 0..STEPS {
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
        simulation.kernel.peers.values_mut().for_each(|peer| peer.reads = true);
        simulation.settle_down();
    }
    simulation.end();
    simulation.connections.check_idle();
    assert_eq!(simulation.kernel.free_slots(), SLOTS as usize);
    simulation.kernel.finished
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
    let mut finished = 0;
    for seed in first..first + schedules {
        let outcome = std::panic::catch_unwind(|| run(seed));
        finished += outcome.unwrap_or_else(|_| panic!("replay with RINGECHO_SIMULATION_SEED={seed}"));
    }
    assert!(finished as u64 > schedules, "too few connections came to their end to prove anything: {finished}");
}
