//! The driver against a simulated transport and server, under seeded random schedules.
//!
//! Connections succeed, fail or hang. The transport accepts output in pieces and in any order among connections, and
//! input arrives in pieces. Servers refuse, corrupt, drop and repeat messages, close, reset, stall, linger, and answer
//! pings in different ways; some agree on compression and compress some of their echoes. The load is a closed or an
//! open loop, with quotas, churn, pings, plans and slow readers. At the end of a schedule the counts must add up and
//! agree with what the server saw. A failing seed is printed and replays with `RINGLOAD_SIMULATION_SEED`;
//! `RINGLOAD_SIMULATION_SCHEDULES` sets the number of schedules.

mod random;
mod server;

use std::cell::RefCell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::random::Random;
use self::server::{Mark, Server};
use super::plan::{Plan, Ramp};
use super::{Driver, Load, Output, Route, Want};
use crate::control::Phase;
use crate::message::expect::Expect;
use crate::message::{MessageId, Messages};
use crate::scenario::{Arrivals, Connect, Deflate, OpenLoop, Part, Scenario, Traffic, Upkeep};
use crate::stats::{Cause, Counter, Counts, EarlyEnd, Tally};
use crate::target::Target;
use crate::target::routes::Routes;
use crate::websocket::deflate::Offer;
use crate::websocket::frames::{Opcode, client_header_len, write_client_header};
use crate::websocket::handshake::{Extras, UpgradeRequest};

/// Random steps of each phase.
const STEPS: usize = 60;

/// Limit of rounds for a phase to complete.
const PATIENCE: usize = 5_000;

const MS: u64 = 1_000_000;
const SIZE: usize = 40;

/// Built once: messages need a table, requests a template.
static MESSAGES: LazyLock<[Messages; 2]> =
    LazyLock::new(|| [Messages::new(SIZE, false, true), Messages::new(SIZE, false, true).unframed()]);
static REQUESTS: LazyLock<[UpgradeRequest; 3]> = LazyLock::new(|| {
    let target = Target::parse("ws://127.0.0.1:1/", &Routes::default()).expect("a URL");
    let offering = |offer| Extras::default().with_deflate(offer);
    [None, Some(OFFERS[0]), Some(OFFERS[1])]
        .map(|offer| UpgradeRequest::new(&target, &offering(offer), 1).expect("a request"))
});

/// The offers of compression.
const OFFERS: [Offer; 2] =
    [Offer { no_context: false, window_bits: None }, Offer { no_context: true, window_bits: Some(9) }];

/// Compressed messages, over all schedules.
static COMPRESSED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Shared by all schedules: histograms take longer to allocate than a schedule takes to run, and no check reads
    /// them.
    static TALLY: RefCell<Tally> = RefCell::default();
}

/// The output buffer of the simulated transport.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    capacity: usize,
}

impl Output for Buffer {
    fn has_room(&self, id: MessageId, messages: &Messages) -> bool {
        let size = messages.size_of(id);
        self.bytes.is_empty() || self.bytes.len() + client_header_len(size) + size <= self.capacity
    }

    fn add_message(&mut self, id: MessageId, messages: &Messages) -> usize {
        let (size, key) = (messages.size_of(id), messages.masking_key(id));
        let start = self.bytes.len();
        self.bytes.resize(start + 14 + size, 0);
        let is_framed = messages.are_framed();
        let header =
            if is_framed { write_client_header(Opcode::Binary, size, key, &mut self.bytes[start..]) } else { 0 };
        self.bytes.truncate(start + header + size);
        messages.write_masked(id, 0, key, &mut self.bytes[start + header..]);
        header + size
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.is_empty() || self.bytes.len() + bytes <= self.capacity
    }

    fn add_frame(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) {
        let start = self.bytes.len();
        self.bytes.resize(start + bytes, 0);
        write(&mut self.bytes[start..]);
    }

    fn add(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        let start = self.bytes.len();
        self.bytes.resize(start + 512, 0);
        let written = write(&mut self.bytes[start..]);
        self.bytes.truncate(start + written);
    }
}

/// One connection of the simulated transport.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says another thing about it")]
struct Line {
    is_connected: bool,
    never_connects: bool,
    server: Server,
    /// Output that the driver has filled in and the peer has not accepted yet.
    unsent: Vec<u8>,
    has_waited: bool,
    /// All output was accepted; the driver is to be notified.
    is_sent: bool,
    /// The output was accepted at once, without a completion: the driver is notified when the transport wakes up for
    /// another event.
    is_silent: bool,
    /// Bytes of the server's output that have been delivered.
    delivered: usize,
}

/// What the servers have received on all connections, and which of their answers were delivered.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    received: u64,
    pings: u64,
    good: u64,
    corrupted: u64,
    duplicates: u64,
    pongs: u64,
    closes: u64,
    violations: u64,
}

struct Simulation<'a> {
    random: Random,
    driver: Driver<'a, ()>,
    scenario: &'a Scenario,
    is_framed: bool,
    is_hopeless: bool,
    lines: Vec<Option<Line>>,
    phase: Phase,
    now_ns: u64,
    seen: Seen,
    /// All events happen as soon as they can, and servers do nothing on their own.
    is_calm: bool,
}

impl<'a> Simulation<'a> {
    fn new(mut random: Random, scenario: &'a Scenario, closing_progress_ns: &'a AtomicU64) -> Self {
        let offer = scenario.traffic.deflate.map(|deflate| deflate.offer);
        let is_framed = !random.one_in(6) || scenario.upkeep.ping_every.is_some() || offer.is_some();
        let messages = &MESSAGES[usize::from(!is_framed)];
        let part = Part { thread: 0, first: 0, connections: scenario.connections, limit: scenario.traffic.limit };
        let request = &REQUESTS[offer.map_or(0, |offer| if offer.no_context { 2 } else { 1 })];
        let route = Route { request, addresses: 0..1 + random.below(2) };
        let load = Load { scenario, messages, routes: vec![route], part, threads: 1, closing_progress_ns };
        let mut tally = TALLY.take();
        tally.counts = Counts::default();
        (tally.measuring, tally.failures) = (crate::stats::Measuring::Off, crate::stats::Failures::default());
        Self {
            driver: Driver::new(load, tally, 0),
            is_framed,
            is_hopeless: scenario.connections > 16,
            lines: (0..scenario.connections).map(|_| None).collect(),
            scenario,
            random,
            phase: Phase::Connect,
            now_ns: 0,
            seen: Seen::default(),
            is_calm: false,
        }
    }

    fn counts(&self) -> &Counts {
        &self.driver.tally().counts
    }

    /// Carries out the driver's wants.
    fn act(&mut self) {
        while let Some(want) = self.driver.next_want() {
            match want {
                Want::Connect { key, .. } => self.connect(key),
                Want::Send { key } => self.send(key),
                Want::Release { key } => self.release(key),
            }
        }
    }

    fn connect(&mut self, key: u32) {
        let random = &mut self.random;
        let line = &mut self.lines[key as usize];
        assert!(line.is_none(), "a connection begins where there is one");
        *line = Some(Line {
            is_connected: false,
            never_connects: random.one_in(30),
            server: Server::new(random, self.is_framed, SIZE, self.is_hopeless),
            unsent: Vec::new(),
            has_waited: false,
            is_sent: false,
            is_silent: false,
            delivered: 0,
        });
    }

    fn send(&mut self, key: u32) {
        let line = self.lines[key as usize].as_mut().expect("a connection that is there sends");
        assert!(line.is_connected, "nothing is sent before there is a connection");
        if !line.unsent.is_empty() || line.is_sent {
            line.is_silent = false; // the transport does not sleep before it has filled the next output
            return;
        }
        let mut buffer = Buffer { bytes: Vec::new(), capacity: 64 + self.random.below(200) };
        let has_more = self.driver.fill(key, &mut buffer);
        line.unsent = buffer.bytes;
        line.has_waited = false;
        line.is_silent = false;
        if !line.unsent.is_empty() && !self.random.one_in(4) {
            line.is_silent = !has_more;
            self.flush(key, usize::MAX);
        }
    }

    /// The peer accepts at most `most` bytes of the pending output.
    fn flush(&mut self, key: u32, most: usize) {
        let Some(line) = &mut self.lines[key as usize] else { return };
        let count = most.min(line.unsent.len());
        let bytes: Vec<u8> = line.unsent.drain(..count).collect();
        line.server.take(&bytes, &mut self.random);
        if line.unsent.is_empty() {
            line.is_sent = true;
        } else {
            line.has_waited = true;
        }
    }

    fn release(&mut self, key: u32) {
        if self.driver.has_last_words(key) {
            self.send(key);
        }
        let line = self.lines[key as usize].take().expect("only a connection can be let go of");
        self.seen.received += line.server.messages_received;
        self.seen.pings += line.server.pings_received;
        self.driver.released(key);
    }

    /// Makes an event happen on one connection, if one is possible. Returns whether it did.
    fn happen(&mut self, key: u32) -> bool {
        let Some(line) = &mut self.lines[key as usize] else { return false };
        if !line.is_connected {
            return self.settle_connect(key);
        }
        if line.is_sent && !(self.is_calm && line.is_silent) {
            self.tell_sent(key);
            return true;
        }
        if !self.is_calm && self.random.one_in(40) {
            line.server.act(&mut self.random);
        }
        let can_deliver = self.driver.wants_input(key) && !line.server.output.is_empty();
        if can_deliver && (line.unsent.is_empty() || self.random.one_in(2)) {
            self.deliver(key);
            return true;
        }
        if !line.unsent.is_empty() && !line.server.is_over {
            // A server stops reading while its own answers are not read.
            if !self.driver.wants_input(key) && line.server.output.len() > 2_000 {
                return false;
            }
            let most = if self.is_calm { usize::MAX } else { 1 + self.random.below(300) };
            self.flush(key, most);
            return true;
        }
        if line.server.is_over && (line.server.output.is_empty() || self.random.one_in(10)) {
            let errno = self.random.one_in(2).then_some(libc_reset());
            self.driver.ended(key, errno.map_or(Cause::Reset, Cause::of_error), EarlyEnd::of_tcp(errno));
            self.act();
            return true;
        }
        false
    }

    fn tell_sent(&mut self, key: u32) {
        let Some(line) = self.lines[key as usize].as_mut().filter(|line| line.is_sent) else { return };
        line.is_sent = false;
        if line.has_waited {
            self.driver.room(key);
        } else {
            self.driver.sent(key);
        }
        self.act();
    }

    fn settle_connect(&mut self, key: u32) -> bool {
        let Some(line) = &mut self.lines[key as usize] else { return false };
        if line.never_connects || (!self.is_calm && self.random.one_in(2)) {
            return false;
        }
        if self.random.one_in(20) {
            self.lines[key as usize] = None;
            let causes = [Cause::Refused, Cause::LocalLimit(24)];
            self.driver.connect_failed(key, causes[self.random.below(2)]);
            // The attempt ends before it was connected, or goes on at another address.
            while let Some(want) = self.driver.next_want() {
                match want {
                    Want::Release { key: released } if released == key => self.driver.released(key),
                    Want::Connect { key, .. } => self.connect(key),
                    other => panic!("{other:?} behind a failure"),
                }
            }
        } else {
            line.is_connected = true;
            self.driver.connected(key);
            self.act();
        }
        true
    }

    /// Part of the server's output arrives.
    fn deliver(&mut self, key: u32) {
        let Some(line) = &mut self.lines[key as usize] else { return };
        let available = line.server.output.len();
        let count = if self.is_calm || self.random.one_in(3) { available } else { 1 + self.random.below(available) };
        let bytes: Vec<u8> = line.server.output.drain(..count).collect();
        line.delivered += count;
        while let Some(&(at, mark)) = line.server.marks.front()
            && at <= line.delivered
        {
            line.server.marks.pop_front();
            match mark {
                Mark::Good => self.seen.good += 1,
                Mark::Corrupted => self.seen.corrupted += 1,
                Mark::Duplicate => self.seen.duplicates += 1,
                Mark::Pong => self.seen.pongs += 1,
                Mark::Close => self.seen.closes += 1,
                Mark::Violation => self.seen.violations += 1,
            }
        }
        self.driver.received(key, &bytes, self.now_ns);
        self.act();
    }

    /// Advances the clock.
    fn tick(&mut self, ns: u64) {
        self.now_ns += ns;
        self.driver.advance(self.now_ns, self.phase);
        self.act();
    }

    /// Takes random steps in this phase.
    fn play(&mut self, steps: usize, is_done: impl Fn(&Counts) -> bool) {
        for _ in 0..steps {
            if is_done(self.counts()) && self.driver.phase() == self.phase {
                return;
            }
            let key = self.random.below(self.lines.len()) as u32;
            self.happen(key);
            if self.random.one_in(3) {
                let ns = self.random.next() % (2 * MS);
                self.tick(ns);
            }
        }
    }

    /// Runs until `is_done`: all possible events first, then the clock moves on. Each round must have an event or a
    /// deadline ahead.
    fn go_on(&mut self, rounds: usize, is_done: impl Fn(&Self) -> bool) -> bool {
        self.is_calm = true;
        for _ in 0..rounds {
            self.tick(1000);
            if is_done(self) && self.driver.phase() == self.phase {
                break;
            }
            let silent = self.silent();
            let mut has_happened = self.driver.is_held_up();
            for key in 0..self.lines.len() as u32 {
                has_happened |= self.happen(key);
            }
            if !has_happened {
                self.check_sleep();
                let (next_ns, _) = self.driver.upcoming();
                let Some(next_ns) = next_ns else { break };
                self.tick(next_ns.saturating_sub(self.now_ns));
            }
            // The transport has woken up.
            for key in silent {
                self.tell_sent(key);
            }
        }
        self.is_calm = false;
        is_done(self) && self.driver.phase() == self.phase
    }

    /// Connections whose completed sends the driver learns of only at the transport's next wake-up.
    fn silent(&self) -> Vec<u32> {
        let is_silent = |line: &Option<Line>| line.as_ref().is_some_and(|line| line.is_sent && line.is_silent);
        (0..self.lines.len() as u32).filter(|&key| is_silent(&self.lines[key as usize])).collect()
    }

    /// The transport goes to sleep: no output may be due now. (Open loops are left out, since asking changes their
    /// clocks.)
    fn check_sleep(&mut self) {
        if self.scenario.traffic.open.is_none() {
            for key in self.silent() {
                assert!(!self.driver.is_something_due(key), "{key} is forgotten: {:?}", self.counts());
            }
        }
    }

    fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        self.tick(0);
    }

    /// Runs all phases.
    fn run(mut self) {
        let wanted = u64::from(self.scenario.connections_at_first());
        self.tick(0);
        let is_settled = |counts: &Counts| counts[Counter::Settled] + counts[Counter::Untried] == wanted;
        self.play(STEPS, is_settled);
        let is_connected = self.go_on(PATIENCE, |simulation| is_settled(simulation.counts()));
        assert!(is_connected, "an attempt is neither ready nor failed: {:?}", self.counts());
        if !self.random.one_in(3) {
            self.begin(Phase::WarmUp);
            self.play(STEPS / 2, |_| false);
        }
        self.begin(Phase::Measure);
        self.play(2 * STEPS, |_| false);
        self.go_on(30, |_| false);
        self.begin(Phase::Drain);
        self.play(STEPS, |_| false);
        self.go_on(30, |simulation| simulation.counts().in_flight() == 0);
        self.begin(Phase::Close);
        self.play(STEPS, |counts| counts.open() == 0);
        let is_closed = self.go_on(PATIENCE, |simulation| simulation.lines.iter().all(Option::is_none));
        assert!(is_closed, "a connection is there for ever: {:?} {:?}", self.lines, self.counts());
        self.check();
    }

    /// Checks that the counts add up and agree with what the servers saw.
    fn check(self) {
        use Counter::{
            Attempted, ClosedEarly, ClosesAnswered, ClosesSent, CompressedReceived, CompressedSent, Corrupted,
            Deflating, Duplicated, Echoed, Ended, Failed, Greetings, Late, Lost, Opened, PingsAwaited, PingsSent,
            PingsUnanswered, Pongs, Ready, Recycled, Reordered, Sent, Settled, SlowEnded, SlowSent, Unexpected,
            Untried, Violations,
        };
        let Self { driver, seen, scenario, .. } = self;
        let tally = driver.stop();
        let counts = tally.counts;
        let sum = |counters: &[Counter]| counters.iter().map(|&counter| counts[counter]).sum::<u64>();
        assert_eq!(
            counts[Sent],
            sum(&[Echoed, Reordered, Corrupted, Late, Lost]),
            "each message ends once: {counts:?}"
        );
        assert_eq!(sum(&[Echoed, Reordered, Late]), seen.good, "good echoes: {counts:?} {seen:?}");
        assert_eq!((counts[Corrupted], counts[Duplicated]), (seen.corrupted, seen.duplicates), "{counts:?} {seen:?}");
        assert_eq!(counts[Unexpected], 0, "{counts:?}");
        assert!(seen.received <= counts[Sent] + counts[SlowSent], "{counts:?} {seen:?}");
        assert_eq!(counts[Violations], seen.violations, "{counts:?} {seen:?}");
        // Attempts still under way when the close phase begins are never settled.
        assert!(counts[Settled] <= counts[Attempted] && counts[Opened] == counts[Ended], "{counts:?}");
        let is_settled = counts[Ready] + counts[Failed] <= counts[Settled];
        assert!(is_settled && counts[Settled] <= counts[Opened] + counts[Failed] + counts[Ended], "{counts:?}");
        if scenario.plan.connections.is_none() {
            let begun = u64::from(scenario.connections) - counts[Untried];
            assert!((begun..=begun + counts[Recycled]).contains(&counts[Attempted]), "{counts:?}");
        }
        assert!(counts[ClosesAnswered] <= counts[ClosesSent], "{counts:?}");
        assert!(seen.closes <= sum(&[ClosesAnswered, ClosedEarly, SlowEnded]), "{counts:?} {seen:?}");
        assert_eq!((counts[Pongs], counts[PingsAwaited]), (seen.pongs, 0), "{counts:?} {seen:?}");
        assert!(seen.pings <= counts[PingsSent] && counts[PingsUnanswered] <= counts[PingsSent], "{counts:?} {seen:?}");
        if let Some(limit) = scenario.traffic.limit {
            assert!(counts[Sent] <= limit + counts[Attempted], "the quota is kept, but for greetings: {counts:?}");
        }
        assert!(counts[Greetings] <= counts[Opened], "{counts:?}");
        assert!(
            counts[Deflating] <= counts[Opened]
                && counts[CompressedReceived] <= seen.good + seen.corrupted + seen.duplicates,
            "{counts:?} {seen:?}"
        );
        assert!(counts[Deflating] > 0 || counts[CompressedSent] + counts[CompressedReceived] == 0, "{counts:?}");
        COMPRESSED.fetch_add(counts[CompressedReceived], Ordering::Relaxed);
        TALLY.set(tally);
    }
}

fn libc_reset() -> i32 {
    104
}

/// A random load.
fn scenario(random: &mut Random) -> Scenario {
    let connections = if random.one_in(60) { 24 } else { 1 + random.below(3) as u32 };
    let slow_readers = u32::from(connections > 1 && random.one_in(8));
    let rate = 200.0 + random.below(5_000) as f64;
    let arrivals = if random.one_in(2) { Arrivals::Constant } else { Arrivals::Poisson };
    let open = random.one_in(2).then_some(OpenLoop { rate, arrivals });
    let ms = |count: usize| Duration::from_millis(count as u64);
    let ramp = |random: &mut Random, most: f64| {
        let mut value = || most * random.below(4) as f64 / 3.0;
        let stages = [(ms(20), value()), (ms(0), most), (ms(30), value())];
        Ramp::new(value(), &stages)
    };
    let plan = Plan {
        connections: random.one_in(6).then(|| ramp(random, f64::from(connections))),
        rate: open.filter(|_| random.one_in(4)).map(|open| ramp(random, open.rate)),
    };
    let active = random.below((connections - slow_readers) as usize + 1) as u32;
    Scenario {
        portion: crate::scenario::Portion::default(),
        connections,
        connect: Connect {
            rate: if random.one_in(4) { 500.0 } else { 0.0 },
            window: 1 + random.below(4) as u32,
            timeout: ms(30),
            greet: random.one_in(2),
        },
        active: if open.is_some() { active.max(1) } else { active },
        traffic: Traffic {
            sizes: SIZE.into(),
            depth: if open.is_some() && random.one_in(2) { u32::MAX } else { 1 + random.below(3) as u32 },
            open,
            text: false,
            own: None,
            expect: Expect::Echo,
            welcomes: 0,
            compressibility: 0,
            deflate: random.one_in(3).then(|| Deflate { offer: OFFERS[random.below(2)], is_precompressed: false }),
            limit: random.one_in(4).then(|| random.below(12) as u64),
        },
        upkeep: Upkeep {
            messages_per_connection: (open.is_none() && random.one_in(4)).then(|| 1 + random.below(6) as u32),
            reconnect_every: random.one_in(4).then(|| ms(1 + random.below(20))),
            ping_every: random.one_in(4).then(|| ms(1 + random.below(20))),
            slow_readers,
        },
        plan,
        warmup: Duration::ZERO,
        duration: Duration::ZERO,
        drain_timeout: Duration::ZERO,
        close_timeout: ms(100 + random.below(2_000)),
    }
}

fn run(seed: u64) {
    let mut random = Random::new(seed);
    let scenario = scenario(&mut random);
    Simulation::new(random, &scenario, &AtomicU64::new(0)).run();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_echo_is_judged_once_and_no_connection_gets_stuck() {
    if let Some(seed) = number("RINGLOAD_SIMULATION_SEED") {
        return run(seed);
    }
    let first = number("RINGLOAD_SIMULATION_FIRST_SEED").unwrap_or(0);
    let schedules = number("RINGLOAD_SIMULATION_SCHEDULES").unwrap_or(5_000);
    for seed in first..first + schedules {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "replay with RINGLOAD_SIMULATION_SEED={seed}");
    }
    assert!(schedules < 100 || COMPRESSED.load(Ordering::Relaxed) > 0, "no echo came compressed");
}
