//! The conductor and its members over a simulated network: messages are delayed, connections break, members fall silent.
//! Seeded schedules; a failing seed is printed.

use std::collections::BTreeMap;

use super::conductor::{Action, CANNOT_RUN, Conductor, PeerId, SILENCE_NS, Setup};
use super::member::{Member, Milestone};
use super::message::{Fingerprint, FromConductor, FromMember, Hello, PROTOCOL};
use super::token::{self, Side, Token};
use crate::control::Phase;
use crate::message::SplitMix;
use crate::output::report::Report;
use crate::output::report::tests::report;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// Interval at which each main thread checks its member.
const LOOK_NS: u64 = 5 * MS;

/// The phases that end at a barrier, in order.
const BARRIERS: [Option<Phase>; 3] = [None, Some(Phase::Connect), Some(Phase::Drain)];

enum Message {
    ToConductor(FromMember),
    ToMember(FromConductor),
    Broken,
}

/// A simulated member and its main thread.
struct Process {
    member: Member,
    /// Its clock minus the world's.
    ahead_ns: u64,
    /// Parts per million by which its clock is fast.
    fast_ppm: u64,
    is_alive: bool,
    /// Stopped: it neither acts nor reads, and its connection stays open.
    is_stopped: bool,
    /// The barrier that it is at, since when, and when it is through.
    barrier: usize,
    busy_until_ns: u64,
    is_told: bool,
    /// When it passed the barriers by the world's clock, and the error bound of its own clock then.
    passed: Vec<(u64, u64)>,
    signal: Option<i32>,
}

impl Process {
    fn clock_ns(&self, now_ns: u64) -> u64 {
        now_ns + self.ahead_ns + now_ns / 1_000_000 * self.fast_ppm
    }
}

struct World {
    random: SplitMix,
    now_ns: u64,
    conductor: Conductor,
    processes: Vec<Process>,
    /// Ordered by time of arrival, then by order of sending. Each direction of a connection keeps its order.
    network: BTreeMap<(u64, u64), (PeerId, Message)>,
    last_arrival_ns: BTreeMap<(PeerId, bool), u64>,
    sent: u64,
    most_delay_ns: u64,
}

fn hello(member: u32, members: u32) -> Hello {
    Hello {
        protocol: PROTOCOL,
        ringload: "1.0".to_owned(),
        member,
        members,
        host: format!("host-{member}"),
        nonce: token::nonce(),
        scenario: Fingerprint::from([("connections".to_owned(), "5".to_owned())]),
    }
}

impl World {
    fn new(seed: u64, members: u32, most_delay_ns: u64) -> Self {
        let setup = Setup {
            members,
            token: Token::new("t"),
            ringload: "1.0".to_owned(),
            scenario: hello(0, members).scenario,
            meet_timeout_ns: 60 * SECOND,
        };
        let mut world = Self {
            random: SplitMix(seed),
            now_ns: SECOND,
            conductor: Conductor::new(setup, SECOND),
            processes: Vec::new(),
            network: BTreeMap::new(),
            last_arrival_ns: BTreeMap::new(),
            sent: 0,
            most_delay_ns,
        };
        for number in 0..members {
            world.add(hello(number, members), "t");
        }
        world
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.next() % limit.max(1)
    }

    /// A process connects; returns the number of its connection.
    fn add(&mut self, hello: Hello, token: &str) -> PeerId {
        let (ahead_ns, fast_ppm) = (self.below(3_600_000) * MS, self.below(50));
        let clock_ns = self.now_ns + ahead_ns + self.now_ns / 1_000_000 * fast_ppm;
        let process = Process {
            member: Member::new(hello, Token::new(token), clock_ns),
            ahead_ns,
            fast_ppm,
            is_alive: true,
            is_stopped: false,
            barrier: 0,
            busy_until_ns: 0,
            is_told: false,
            passed: Vec::new(),
            signal: None,
        };
        let peer = self.processes.len() as PeerId;
        self.processes.push(process);
        let now_ns = self.now_ns;
        self.conductor.connected(peer, format!("address-{peer}"), now_ns);
        peer
    }

    fn send(&mut self, peer: PeerId, to_conductor: bool, message: Message) {
        let delay_ns = self.below(self.most_delay_ns);
        let last_ns = self.last_arrival_ns.entry((peer, to_conductor)).or_default();
        *last_ns = (self.now_ns + delay_ns).max(*last_ns);
        self.sent += 1;
        self.network.insert((*last_ns, self.sent), (peer, message));
    }

    /// Kills the process; its kernel closes the connection to the conductor.
    fn kill(&mut self, peer: PeerId) {
        self.processes[peer as usize].is_alive = false;
        self.send(peer, true, Message::Broken);
    }

    /// Runs one check of all main threads, and delivers messages until the next one.
    fn turn(&mut self) {
        let until_ns = self.now_ns + LOOK_NS;
        for peer in 0..self.processes.len() {
            self.look(peer);
        }
        let now_ns = self.now_ns;
        self.conductor.tick(now_ns);
        self.deliver_actions();
        while let Some(entry) = self.network.first_entry()
            && entry.key().0 <= until_ns
        {
            let ((at_ns, _), (peer, message)) = entry.remove_entry();
            self.now_ns = self.now_ns.max(at_ns);
            self.arrive(peer, message);
            self.deliver_actions();
        }
        self.now_ns = until_ns;
    }

    fn arrive(&mut self, peer: PeerId, message: Message) {
        let process = &mut self.processes[peer as usize];
        match message {
            Message::ToConductor(message) => self.conductor.received(peer, message, self.now_ns),
            Message::Broken => self.conductor.gone(peer, "its connection ended", self.now_ns),
            Message::ToMember(_) if !process.is_alive || process.is_stopped => {}
            Message::ToMember(message) => {
                let clock_ns = process.clock_ns(self.now_ns);
                process.member.received(message, clock_ns);
                self.send_all_of(peer as usize);
            }
        }
    }

    fn send_all_of(&mut self, peer: usize) {
        let clock_ns = self.processes[peer].clock_ns(self.now_ns);
        while let Some(message) = self.processes[peer].member.next_message(clock_ns) {
            self.send(peer as PeerId, true, Message::ToConductor(message));
        }
    }

    fn deliver_actions(&mut self) {
        while let Some(action) = self.conductor.next_action() {
            match action {
                Action::Send(peer, message) => self.send(peer, false, Message::ToMember(message)),
                Action::Trust(_) | Action::Close(_) => {}
            }
        }
    }

    fn look(&mut self, peer: usize) {
        let busy_ns = self.below(400) * MS;
        let process = &mut self.processes[peer];
        if !process.is_alive || process.is_stopped || process.member.end().is_some() {
            return;
        }
        let clock_ns = process.clock_ns(self.now_ns);
        process.member.tick(clock_ns);
        if let Some((signal, _)) = process.member.take_stop() {
            process.signal = Some(signal);
        }
        let Some(step) = process.member.step() else { return self.send_all_of(peer) };
        let Some(&after) = BARRIERS.get(process.barrier) else { return self.send_all_of(peer) };
        if !process.is_told && self.now_ns >= process.busy_until_ns {
            process.is_told = true;
            let milestone = after.map_or(Milestone::Ready, |phase| Milestone::Through(phase, true));
            process.member.reached(milestone, clock_ns);
        }
        let start = process.member.start(after, clock_ns).filter(|(at_ns, _)| *at_ns <= clock_ns + LOOK_NS);
        let is_stopping = process.signal.is_some() && process.barrier > 0 && process.is_told;
        if start.is_some() || is_stopping {
            if let Some((at_ns, _)) = start {
                // It sleeps until exactly then.
                let at_ns = self.now_ns + at_ns.saturating_sub(clock_ns);
                let bound_ns = process.member.offset(clock_ns).unwrap().bound_ns;
                process.passed.push((at_ns, bound_ns));
            }
            process.barrier += 1;
            process.is_told = false;
            process.busy_until_ns = self.now_ns + busy_ns;
            if process.barrier == BARRIERS.len() {
                process.member.say(FromMember::Report { run: step.run, report: Box::new(report()) });
            }
        }
        self.send_all_of(peer);
    }

    fn turns_until(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..200_000 {
            if is_done(self) {
                return;
            }
            self.turn();
        }
        panic!("it does not come to an end");
    }

    fn meet(&mut self) {
        self.turns_until(|world| world.conductor.is_complete() || world.conductor.end().is_some());
    }

    /// Of three members, one has not arrived yet.
    fn meet_without_the_last(&mut self) {
        self.conductor.gone(2, "it went away", SECOND);
        self.processes[2].is_alive = false;
        (0..20).for_each(|_| self.turn());
    }

    fn step(&mut self) {
        let now_ns = self.now_ns;
        self.conductor.step(None, now_ns);
    }

    fn reports(&mut self) -> (Vec<Report>, Vec<crate::output::report::Missing>) {
        let mut reports = None;
        self.turns_until(|world| {
            reports = world.conductor.take_reports();
            reports.is_some() || world.conductor.end().is_some()
        });
        reports.unwrap_or_else(|| panic!("{:?}", self.conductor.end()))
    }

    /// All live members have received the end, with this code.
    fn ends(&mut self, code: u8, said: &str) {
        self.turns_until(|world| {
            world.processes.iter().all(|it| !it.is_alive || it.is_stopped || it.member.end().is_some())
        });
        for process in self.processes.iter().filter(|it| it.is_alive && !it.is_stopped) {
            let end = process.member.end().unwrap();
            assert!(end.code == code && end.said.contains(said), "{end:?} instead of {code}, {said}");
        }
    }
}

fn for_seeds(run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in 0..30 {
        assert!(std::panic::catch_unwind(|| run(seed)).is_ok(), "seed {seed}");
    }
}

#[test]
fn phases_begin_together_within_the_bounds() {
    for_seeds(|seed| {
        let mut world = World::new(seed, 2 + (seed % 7) as u32, 1 + seed * MS);
        world.meet();
        world.step();
        let (reports, missing) = world.reports();
        assert_eq!((reports.len(), missing.len()), (world.processes.len(), 0));
        for barrier in 0..BARRIERS.len() {
            let passed: Vec<_> = world.processes.iter().map(|it| it.passed[barrier]).collect();
            for (a, b) in passed.iter().flat_map(|a| passed.iter().map(move |b| (a, b))) {
                // The clocks drift apart a moment longer after the last measurement.
                assert!(a.0.abs_diff(b.0) <= a.1 + b.1 + MS / 10, "barrier {barrier}: {passed:?}");
            }
        }
        world.conductor.finish(0, "the report is there");
        world.ends(0, "the report is there");
    });
}

#[test]
fn a_member_lost_before_the_start_stops_all() {
    for_seeds(|seed| {
        let mut world = World::new(seed, 4, 20 * MS);
        if seed % 3 > 0 {
            world.meet();
        }
        if seed % 3 > 1 {
            world.step();
        }
        world.turn();
        world.kill(2);
        if seed % 3 == 0 {
            // If it is lost before its hello, it does not count as arrived.
            world.turns_until(|world| world.conductor.end().is_some());
            return world.ends(CANNOT_RUN, "member");
        }
        world.ends(CANNOT_RUN, "member 2 (host-2, address-2) was lost before the start: its connection ended");
    });
}

#[test]
fn a_member_lost_later_is_missing_and_the_others_go_on() {
    for_seeds(|seed| {
        let mut world = World::new(seed, 4, 20 * MS);
        world.meet();
        world.step();
        let at_least = 1 + (seed % 2) as usize;
        world.turns_until(|world| world.processes[2].barrier >= at_least);
        let is_killed = seed % 3 > 0;
        if is_killed {
            world.kill(2);
        } else {
            world.processes[2].is_stopped = true;
        }
        let began_ns = world.processes[2].passed[0].0;
        let lost_s = (world.now_ns - began_ns) as f64 / 1e9;
        let (reports, missing) = world.reports();
        assert_eq!((reports.len(), missing.len(), missing[0].member), (3, 1, 2));
        let silence_s = if is_killed { 0.0 } else { SILENCE_NS as f64 / 1e9 };
        assert!((missing[0].from_s - lost_s - silence_s).abs() < 1.2, "{missing:?} {lost_s}");
        // A search cannot go on without this member.
        world.step();
        world.ends(CANNOT_RUN, "member 2 (host-2, address-2) was lost in the run before");
    });
}

#[test]
fn a_signal_at_any_member_ends_all() {
    for_seeds(|seed| {
        let mut world = World::new(seed, 3, 20 * MS);
        world.meet();
        let stop = FromMember::Stop { signal: 2 };
        if seed % 2 == 0 {
            world.send(1, true, Message::ToConductor(stop));
            return world.ends(130, "ended before the start by signal 2 at member 1");
        }
        world.step();
        world.turns_until(|world| world.processes.iter().all(|it| it.barrier > 0));
        world.send(1, true, Message::ToConductor(stop));
        let (reports, _) = world.reports();
        assert_eq!(reports.len(), 3, "in order, with results");
        assert!(world.processes.iter().all(|it| it.signal == Some(2)));
    });
}

/// The outcome for a newcomer, and for the meeting.
fn newcomer(hello: Hello, token: &str, is_met: bool) -> (World, PeerId) {
    let mut world = World::new(1, 3, MS);
    if is_met {
        world.meet();
    } else {
        world.meet_without_the_last();
    }
    let peer = world.add(hello, token);
    world.turns_until(|world| world.processes[peer as usize].member.end().is_some());
    (world, peer)
}

#[test]
fn strangers_and_latecomers_are_refused_and_the_others_go_on() {
    let late = hello(1, 3);
    for (hello, token, is_met, reason) in [
        (hello(2, 3), "x", false, "another token"),
        (late.clone(), "t", false, "there is a member 1 already"),
        (late.clone(), "t", true, "came late"),
        (Hello { ringload: "2.0".to_owned(), ..late }, "t", true, "came late"),
    ] {
        let (world, peer) = newcomer(hello, token, is_met);
        let end = world.processes[peer as usize].member.end().unwrap();
        assert!(end.code == CANNOT_RUN && end.said.contains(reason), "{end:?} instead of {reason}");
        assert_eq!(world.conductor.end(), None);
    }
}

#[test]
fn who_comes_behind_the_end_ends_like_all() {
    let (mut world, stranger) = newcomer(hello(2, 3), "x", false);
    world.processes[stranger as usize].is_alive = false;
    world.conductor.received(1, FromMember::Stop { signal: 2 }, SECOND);
    let peer = world.add(hello(2, 3), "t");
    world.turns_until(|world| world.processes[peer as usize].member.end().is_some());
    world.ends(130, "ended before the start by signal 2 at member 1");
}

#[test]
fn a_member_that_does_not_fit_stops_all_before_the_start() {
    let scenario = Fingerprint::from([("connections".to_owned(), "6".to_owned()), ("rate".to_owned(), "7".to_owned())]);
    let fits = hello(2, 3);
    for (hello, reason) in [
        (Hello { ringload: "2.0".to_owned(), ..fits.clone() }, "is ringload 2.0 (protocol 1), member 0 is 1.0"),
        (Hello { members: 4, ..fits.clone() }, "expects 4 members, member 0 expects 3"),
        (Hello { member: 3, ..fits.clone() }, "is none of the members 0 to 2"),
        (Hello { scenario, ..fits }, "has another scenario than member 0: connections, rate differ"),
    ] {
        let (mut world, _) = newcomer(hello, "t", false);
        world.ends(CANNOT_RUN, reason);
    }
}

#[test]
fn a_hello_of_another_form_is_another_version_and_not_another_token() {
    let mut world = World::new(1, 3, MS);
    world.meet_without_the_last();
    let peer = 7;
    world.conductor.connected(peer, "address-7".to_owned(), world.now_ns);
    let nonce = std::iter::from_fn(|| world.conductor.next_action()).find_map(|action| match action {
        Action::Send(7, FromConductor::Challenge { nonce }) => Some(nonce),
        _ => None,
    });
    let said = r#"{"protocol":2,"ringload":"2.0","seat":2}"#.to_owned();
    let proof = Token::new("t").sign(Side::Member, &nonce.unwrap(), &said);
    world.conductor.received(peer, FromMember::Hello { said, proof }, world.now_ns);
    let end = world.conductor.end().unwrap();
    assert_eq!(end.said, "the peer at address-7 has another form of hello than ringload 1.0: it is another version");
}

#[test]
fn members_that_do_not_come_are_named() {
    let mut world = World::new(3, 4, MS);
    for peer in [1, 3] {
        world.processes[peer].is_stopped = true;
    }
    world.turns_until(|world| world.conductor.end().is_some());
    world.ends(CANNOT_RUN, "members 1, 3 did not come within 1m (--meet-timeout)");
}

#[test]
fn a_conductor_that_falls_silent_is_given_up() {
    let mut world = World::new(3, 2, MS);
    world.meet();
    world.step();
    world.turns_until(|world| world.processes[1].barrier > 0);
    world.conductor = Conductor::new(
        Setup {
            members: 2,
            token: Token::new("t"),
            ringload: String::new(),
            scenario: Fingerprint::new(),
            meet_timeout_ns: u64::MAX,
        },
        world.now_ns,
    );
    world.ends(CANNOT_RUN, "member 0, which conducts, is lost: nothing was heard of it for 15 s");
}
