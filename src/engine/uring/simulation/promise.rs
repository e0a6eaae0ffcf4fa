//! The scheduler's promise (`connection/schedule.rs`), measured in its own cost units under hostile peers.

use ringio::PoolShape;

use super::Simulation;
use super::kernel::Completion;
use super::peer::{self, Peer};
use super::random::Random;
use super::script::Script;
use crate::connection::Timeouts;
use crate::connection::schedule::{BUDGET, Cost, END, HANDSHAKE, RECEIVE, cost_of_receive};
use crate::engine::uring::token::Kind;
use crate::protocol::{Deflate, Protocol};
use crate::worker::Backlog;

const SLOTS: u32 = 64;
const TURNS: usize = 150;
/// As in a worker of two that share 2 MiB.
const POOL: PoolShape = PoolShape { count: 2, size: 512 << 10, incremental: true };
/// The most that the background may cost an echo here: what the scenes below come to, and a quarter.
const WORST: u64 = 15 * BUDGET as u64;
/// What a socket holds at most.
const SOCKET: usize = 256 << 10;

/// What a worker has spent on the background, and how much of that before an interactive connection's echoes.
#[derive(Default)]
pub(super) struct Meter {
    background: u64,
    /// Spent on other interactive connections.
    foreground: u64,
    /// The interactive connection's socket.
    slot: Option<u32>,
    /// Spent on the background when its message was noticed.
    noticed: Option<u64>,
}

impl Meter {
    /// The worker is about to see a completion.
    pub(super) fn sees(&mut self, completion: &Completion, peers: &[Option<Peer>], is_budgeted: bool) {
        let (token, posted) = (completion.token, &completion.posted);
        let probe = self.slot.and_then(|slot| peers[slot as usize].as_ref());
        let is_of_probe = probe.is_some_and(|peer| peer.is_owned_by(token));
        if token.kind == Kind::Receive && !is_of_probe {
            let spent = if is_budgeted { &mut self.background } else { &mut self.foreground };
            *spent += u64::from(cost(completion, peers));
        }
        let is_input = token.kind == Kind::Ready && posted.result() & i32::from(libc::POLLIN) != 0;
        if is_input && self.noticed.is_none() && is_of_probe {
            self.noticed = Some(self.background);
        }
    }
}

/// What a receive came to.
fn cost(completion: &Completion, peers: &[Option<Peer>]) -> Cost {
    let Some((slot, range)) = completion.received.clone() else {
        let is_over = !matches!(-completion.posted.result(), libc::EAGAIN | libc::EINTR | libc::ENOBUFS);
        return RECEIVE + if is_over { END } else { 0 };
    };
    let script = &peers[slot as usize].as_ref().expect("a peer").script;
    let len = range.len() as u32;
    let is_upgrade = script.ends.first().is_some_and(|end| range.contains(&(end - 1)));
    let is_close = script.has_close_before(range.end) && !script.has_close_before(range.start);
    let frames = script.count_ends(range) as u32 - u32::from(is_upgrade);
    let extra = if is_upgrade { HANDSHAKE } else { 0 } + if is_close { END } else { 0 };
    cost_of_receive(len, frames) + extra
}

/// What a peer does that means ill.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ill {
    /// Sends large frames without a pause.
    Bulk,
    /// Sends small frames without a pause.
    Masses,
    /// Sends as well, and does not read.
    Slow,
    /// Connects, sends what fits and goes.
    Crowd,
    /// Connects, sends masses of empty frames and its FIN at once.
    Parting,
    /// The same without the FIN, and resets when all is received.
    Staying,
}

struct Scene {
    simulation: Simulation,
    ills: Vec<Ill>,
    by_slot: Vec<Option<Ill>>,
    scripts: [Script; 3],
    /// The most that was spent on the background before an echo, and all that was.
    worst: u64,
    waited: u64,
    echoes: usize,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let kind = peer::Kind {
            protocol: Protocol::WebSocket,
            deflate: Deflate::Off,
            has_context: false,
            server_acts: true,
            floods: false,
            hides_more: false,
            scale: 1000,
        };
        let all = [Ill::Bulk, Ill::Masses, Ill::Slow, Ill::Crowd];
        let ills = (0..=random.below(3)).map(|_| all[random.below(4)]).collect();
        let mut bulk = Script::upgrade();
        while bulk.len() < SOCKET {
            bulk.push_frame_of(&mut random, 0x82, 60_000);
        }
        let mut masses = Script::upgrade();
        let len = random.below(30);
        while masses.len() < SOCKET {
            masses.push_frame_of(&mut random, 0x82, len);
        }
        let (mut empty, mut keys) = (Script::upgrade(), Random::new(seed));
        while empty.len() < SOCKET / 4 {
            empty.push_frame_of(&mut keys, 0x82, 0);
        }
        let backlog = Backlog { per_connection: 2 << 20, total: 8 << 20 };
        let mut simulation = Simulation::with(random, SLOTS, kind, POOL, Timeouts::default(), backlog);
        simulation.is_abandoned = true; // what happens is up to the scene
        simulation.kernel.is_smooth = true;
        simulation.is_timeless = true; // a turn is short beside a tick
        let by_slot = vec![None; SLOTS as usize];
        Self { simulation, ills, by_slot, scripts: [bulk, masses, empty], worst: 0, waited: 0, echoes: 0 }
    }

    fn connect(&mut self, script: Script) -> u32 {
        let kernel = &mut self.simulation.kernel;
        let peer = Peer::with_script(script, 2 * SOCKET, kernel.kind);
        kernel.accept(peer)
    }

    /// The interactive connection is there first, and open.
    fn begin(&mut self) {
        let mut script = Script::upgrade();
        for _ in 0..TURNS {
            script.push_frame_of(&mut self.simulation.kernel.random, 0x82, 128);
        }
        let slot = self.connect(script);
        for _ in 0..10 {
            self.probe(slot, 0);
            self.turn();
        }
        self.simulation.meter = Meter { slot: Some(slot), ..Meter::default() };
    }

    /// Sends up to the end of so many frames.
    fn probe(&mut self, slot: u32, frames: usize) {
        let peer = self.simulation.kernel.peers[slot as usize].as_mut().expect("the probe");
        peer.send(peer.script.ends[frames] - peer.sent);
        self.simulation.kernel.run(slot as usize);
    }

    /// A turn after which all that can happen has.
    fn turn(&mut self) {
        self.simulation.turn();
        self.simulation.kernel.all_peers_mut().for_each(Peer::read_all);
        self.simulation.kernel.go_on();
    }

    fn act(&mut self) {
        while self.simulation.kernel.free_slots() > 0 {
            let random = &mut self.simulation.kernel.random;
            let ill = self.ills[random.below(self.ills.len())];
            let which = match ill {
                Ill::Bulk => 0,
                Ill::Masses => 1,
                Ill::Slow | Ill::Crowd => random.below(2),
                Ill::Parting | Ill::Staying => 2,
            };
            let mut script = self.scripts[which].clone();
            if ill == Ill::Crowd && random.one_in(2) {
                script.truncate(script.ends[0]);
            }
            let slot = self.connect(script);
            self.by_slot[slot as usize] = Some(ill);
            self.simulation.kernel.peers[slot as usize].as_mut().expect("new").reads = ill != Ill::Slow;
        }
        let kernel = &mut self.simulation.kernel;
        for (peer, ill) in kernel.peers.iter_mut().zip(&self.by_slot) {
            let (Some(peer), Some(ill)) = (peer, ill) else { continue };
            if peer.received == peer.script.len() {
                match ill {
                    Ill::Crowd if kernel.random.one_in(2) => peer.reset(),
                    Ill::Staying => peer.reset(),
                    Ill::Crowd => peer.finish(),
                    Ill::Parting => {}
                    _ => peer.begin_again(),
                }
            }
            peer.send(usize::MAX);
            if *ill == Ill::Parting {
                peer.finish();
            }
        }
    }

    fn run(&mut self) {
        self.begin();
        let slot = self.simulation.meter.slot.expect("the probe");
        let (mut frames, mut pause) = (0, 0);
        for turn in 0..TURNS {
            self.act();
            if turn > 20
                && self.simulation.kernel.peers[slot as usize].as_ref().expect("the probe").echoed_len()
                    >= self.due(slot, frames)
            {
                if let Some(noticed) = self.simulation.meter.noticed.take() {
                    let spent = self.simulation.meter.background - noticed;
                    // Before the first one there was no interactive connection to be protected.
                    if self.echoes > 0 {
                        self.worst = self.worst.max(spent);
                        self.waited += spent;
                    }
                    self.echoes += 1;
                    pause = self.simulation.kernel.random.below(4);
                }
                if pause == 0 && frames + 1 < TURNS {
                    frames += 1;
                    self.probe(slot, frames);
                }
                pause = pause.saturating_sub(1);
            }
            self.turn();
        }
    }

    fn due(&self, slot: u32, frames: usize) -> usize {
        let peer = self.simulation.kernel.peers[slot as usize].as_ref().expect("the probe");
        peer.script.answer(peer.script.ends[frames], self.simulation.kernel.kind).len()
    }
}

/// What is spent before an echo beyond a budget is what receives have come to beyond what was planned for them: at the
/// worst, when peers turn from large frames to masses of small ones between two turns. The next turns have that much less.
#[test]
fn the_background_has_a_budget_a_turn_and_an_interactive_message_waits_for_little_more() {
    let (mut echoes, mut waits, mut worst) = (0, 0, 0);
    for seed in 0..60 {
        let mut scene = Scene::new(seed);
        scene.run();
        let per_turn = scene.simulation.meter.background / TURNS as u64;
        println!("{seed}: {} echoes, at most {} before one, {per_turn} per turn", scene.echoes, scene.worst);
        assert!(per_turn <= u64::from(BUDGET) * 5 / 4, "seed {seed}: {per_turn} a turn for the background");
        assert!(per_turn >= u64::from(BUDGET) / 2, "seed {seed}: {per_turn} a turn, the background starves");
        echoes += scene.echoes;
        waits += scene.waited;
        worst = worst.max(scene.worst);
    }
    let mean = waits / echoes as u64;
    println!("{echoes} echoes, {mean} on average before one, {worst} at most");
    assert!(echoes > 1000, "{echoes} echoes prove nothing");
    assert!(mean <= 2 * u64::from(BUDGET), "{mean} on average before an echo");
    assert!(worst <= WORST, "{worst} before an echo");
}

/// A connection with an end ahead is in the background before any of its receives has shown what it sends.
#[test]
fn masses_that_come_together_with_the_end_cost_no_more_than_the_budget() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        scene.ills = vec![Ill::Parting];
        scene.run();
        let per_turn = scene.simulation.meter.background / TURNS as u64;
        println!("{seed}: {} echoes, at most {} before one, {per_turn} per turn", scene.echoes, scene.worst);
        assert!(per_turn <= u64::from(BUDGET) * 5 / 4, "seed {seed}: {per_turn} a turn for the background");
        assert!(per_turn >= u64::from(BUDGET) / 2, "seed {seed}: {per_turn} a turn, the background starves");
        assert!(scene.echoes > 10 && scene.worst <= WORST, "seed {seed}: {} before an echo", scene.worst);
    }
}

/// A connection with more input behind its request is in the background before any of its receives has shown what it sends.
#[test]
fn masses_that_come_behind_a_request_cost_no_more_than_the_budget() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed);
        scene.ills = vec![Ill::Staying];
        scene.run();
        let Meter { background, foreground, .. } = scene.simulation.meter;
        let per_turn = background / TURNS as u64;
        println!("{seed}: {} echoes, at most {} before one, {per_turn} per turn", scene.echoes, scene.worst);
        assert!(foreground < background / 10, "seed {seed}: {foreground} for the foreground");
        assert!(per_turn <= u64::from(BUDGET) * 5 / 4, "seed {seed}: {per_turn} a turn for the background");
        assert!(per_turn >= u64::from(BUDGET) / 2, "seed {seed}: {per_turn} a turn, the background starves");
        assert!(scene.echoes > 10 && scene.worst <= WORST, "seed {seed}: {} before an echo", scene.worst);
    }
}
