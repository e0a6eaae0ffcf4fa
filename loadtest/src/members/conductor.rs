//! The conductor: admits members, starts phases, notices lost members and ends the run. It has no socket and no clock:
//! events come with their time, and [`Conductor::next_action`] returns actions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::{Fingerprint, FromConductor, FromMember, Hello, PROTOCOL};
use super::token::{self, Side, Token};
use crate::control::Phase;
use crate::output::merge;
use crate::output::report::{Missing, Report};
use crate::sampling::KernelMemory;
use crate::series::Sample;
use crate::stats::Counts;

/// Minimum time from the barrier to the start of the next phase: each member's main thread must notice the start before
/// it. The thread looks every 20 ms if it gets a processor.
const LEAD_NS: u64 = 250_000_000;

/// The same minimum in multiples of the longest round trip between a member and the conductor.
const LEAD_ROUND_TRIPS: u64 = 4;

/// A member silent for this time is lost. Members ping four times a second; the migration of a virtual machine may stop it
/// for some seconds.
pub const SILENCE_NS: u64 = 15_000_000_000;

/// A longer gap between two ticks shows that this process was stopped.
pub const STOPPED_NS: u64 = 1_000_000_000;

/// A connection without a hello for this time is closed.
const HELLO_NS: u64 = 10_000_000_000;

/// Limit of concurrent connections without a hello, in addition to one per member.
const STRANGERS: usize = 64;

/// Samples older than this are not shown.
const SAMPLE_NS: u64 = 2_500_000_000;

/// The exit code of all members if no run was possible.
pub const CANNOT_RUN: u8 = 3;

/// The number of a connection.
pub type PeerId = u64;

/// The settings of the conductor.
#[derive(Debug)]
pub struct Setup {
    /// The number of members.
    pub members: u32,
    /// The token of all members.
    pub token: Token,
    /// The version of ringload, which must be the same for all members.
    pub ringload: String,
    /// The scenario, which must be the same for all members.
    pub scenario: Fingerprint,
    /// Time to wait for all members.
    pub meet_timeout_ns: u64,
}

/// An action for the conductor's thread.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this message.
    Send(PeerId, FromConductor),
    /// The peer is authenticated as a member: the larger limit of messages applies.
    Trust(PeerId),
    /// Close the connection once all its output is sent.
    Close(PeerId),
}

/// The end of the meeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The exit code.
    pub code: u8,
    /// The reason, or where the report is.
    pub said: String,
}

/// The conductor's state.
#[derive(Debug)]
pub struct Conductor {
    setup: Setup,
    meeting: String,
    peers: BTreeMap<PeerId, Peer>,
    seats: Vec<Seat>,
    stage: Stage,
    /// The last milestone that all members have passed in this run.
    passed: Milestone,
    run: u32,
    actions: VecDeque<Action>,
    notes: Vec<String>,
    ticked_ns: u64,
    is_stopping: bool,
    end: Option<End>,
}

/// The state of a connection.
#[derive(Debug)]
struct Peer {
    address: String,
    nonce: String,
    since_ns: u64,
    member: Option<u32>,
}

/// A member's seat, taken or free.
#[derive(Debug, Default)]
struct Seat {
    peer: Option<PeerId>,
    /// Its number, host and address.
    name: String,
    host: String,
    heard_ns: u64,
    reached: Milestone,
    has_load: bool,
    round_trip_ns: u64,
    sample: Option<(u64, Sample)>,
    counts: Counts,
    report: Option<Box<Report>>,
    lost: Option<Lost>,
}

#[derive(Clone, Debug)]
struct Lost {
    at_ns: u64,
    why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waiting for members to arrive.
    Meeting { since_ns: u64 },
    /// No run is under way.
    Between,
    /// Members are preparing a run.
    Preparing { since_ns: u64 },
    /// A run is under way.
    Running { began_ns: u64 },
}

/// The progress of a member in a run, in order. Phases that end by the clock need no barrier and have no milestone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Milestone {
    #[default]
    Nothing,
    Ready,
    Through(Phase),
    Reported,
}

impl Conductor {
    /// A conductor that admits members from `now_ns` on.
    #[must_use]
    pub fn new(setup: Setup, now_ns: u64) -> Self {
        let seats = (0..setup.members).map(|_| Seat::default()).collect();
        Self {
            setup,
            meeting: token::nonce(),
            peers: BTreeMap::new(),
            seats,
            stage: Stage::Meeting { since_ns: now_ns },
            passed: Milestone::Nothing,
            run: 0,
            actions: VecDeque::new(),
            notes: Vec::new(),
            ticked_ns: now_ns,
            is_stopping: false,
            end: None,
        }
    }

    /// The next action.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The pong for a ping that this peer has just sent. It is sent at once, so that the round trip stays short.
    pub fn next_answer(&mut self, peer: PeerId) -> Option<FromConductor> {
        match self.actions.back() {
            Some(Action::Send(to, pong @ FromConductor::Pong { .. })) if *to == peer => {
                let pong = pong.clone();
                self.actions.pop_back();
                Some(pong)
            }
            _ => None,
        }
    }

    /// The number of the latest run, from 1 on.
    #[must_use]
    pub fn run(&self) -> u32 {
        self.run
    }

    /// Whether the peer is authenticated as a member.
    #[must_use]
    pub fn is_member(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|it| it.member.is_some())
    }

    /// The number of members that have arrived.
    #[must_use]
    pub fn present(&self) -> usize {
        self.seats.iter().filter(|seat| seat.peer.is_some()).count()
    }

    /// Takes the notes to be shown.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The end of the meeting, if it has ended.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Whether all members have arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !matches!(self.stage, Stage::Meeting { .. })
    }

    /// A peer has connected.
    pub fn connected(&mut self, peer: PeerId, address: String, now_ns: u64) {
        let nonce = token::nonce();
        self.actions.push_back(Action::Send(peer, FromConductor::Challenge { nonce: nonce.clone() }));
        self.peers.insert(peer, Peer { address, nonce, since_ns: now_ns, member: None });
        let strangers: Vec<_> = self.peers.iter().filter(|(_, it)| it.member.is_none()).map(|(&id, _)| id).collect();
        if strangers.len() > STRANGERS + self.seats.len() {
            self.close(strangers[0]);
        }
    }

    /// A peer's connection has ended.
    pub fn gone(&mut self, peer: PeerId, why: &str, now_ns: u64) {
        let Some(gone) = self.peers.remove(&peer) else { return };
        if let Some(member) = gone.member {
            self.lose(member, why, now_ns);
        }
    }

    /// Processes a message. An invalid one closes the connection.
    pub fn received(&mut self, peer: PeerId, message: FromMember, now_ns: u64) {
        let Some(it) = self.peers.get(&peer) else { return };
        match (it.member, message) {
            (None, FromMember::Hello { said, proof }) => self.greet(peer, &said, &proof, now_ns),
            (Some(member), message) if !matches!(message, FromMember::Hello { .. }) => {
                self.seats[member as usize].heard_ns = now_ns;
                self.heard(peer, member, message, now_ns);
            }
            _ => {
                self.gone(peer, "it said what makes no sense", now_ns);
                self.close(peer);
            }
        }
    }

    fn greet(&mut self, peer: PeerId, said: &str, proof: &str, now_ns: u64) {
        let it = &self.peers[&peer];
        let address = it.address.clone();
        if !self.setup.token.is_signed(Side::Member, &it.nonce, said, proof) {
            self.notes.push(format!("refused {address}: it has another token (--meet-token)"));
            return self.refuse(peer, "this member has another token than member 0 (--meet-token)");
        }
        let hello: Option<Hello> = serde_json::from_str(said).ok();
        let name = hello.as_ref().map_or_else(
            || format!("the peer at {address}"),
            |hello| format!("member {} ({}, {address})", hello.member, hello.host),
        );
        if let Some(end) = &self.end {
            let end = end.clone();
            return self.end_peer(peer, end);
        }
        if self.is_complete() {
            self.notes.push(format!("refused {name}: it came late"));
            return self.refuse(peer, "this member came late: all that were expected have met");
        }
        let hello = match self.fitting(hello) {
            Ok(hello) => hello,
            Err(why) => {
                let why = format!("{name} {why}");
                self.refuse(peer, &why);
                return self.finish(CANNOT_RUN, &why);
            }
        };
        let seat = &mut self.seats[hello.member as usize];
        if seat.peer.is_some() {
            let why = format!("there is a member {} already ({})", hello.member, seat.name);
            self.notes.push(format!("refused {name}: {why}"));
            return self.refuse(peer, &why);
        }
        *seat = Seat { peer: Some(peer), name, host: hello.host, heard_ns: now_ns, ..Seat::default() };
        self.peers.get_mut(&peer).expect("it has just said a hello").member = Some(hello.member);
        let proof = self.setup.token.sign(Side::Conductor, &hello.nonce, &self.meeting);
        self.actions.push_back(Action::Trust(peer));
        self.actions.push_back(Action::Send(peer, FromConductor::Welcome { proof, meeting: self.meeting.clone() }));
        if self.seats.iter().all(|seat| seat.peer.is_some()) {
            self.stage = Stage::Between;
        }
    }

    /// Accepts the hello of a member that can take part, or says why a member with the token cannot. Its seat then
    /// stays empty, so the meeting ends for all.
    fn fitting(&self, hello: Option<Hello>) -> Result<Hello, String> {
        let Setup { members, ringload, scenario, .. } = &self.setup;
        let Some(hello) = hello else {
            return Err(format!("has another form of hello than ringload {ringload}: it is another version"));
        };
        if hello.protocol != PROTOCOL || hello.ringload != *ringload {
            let version = format!("ringload {} (protocol {})", hello.ringload, hello.protocol);
            return Err(format!("is {version}, member 0 is {ringload} ({PROTOCOL})"));
        }
        if hello.members != *members {
            return Err(format!("expects {} members, member 0 expects {members}", hello.members));
        }
        if hello.member >= *members {
            return Err(format!("is none of the members 0 to {}", members - 1));
        }
        if hello.scenario == *scenario {
            return Ok(hello);
        }
        let options = hello.scenario.keys().chain(scenario.keys());
        let mut other: Vec<_> = options.filter(|&it| hello.scenario.get(it) != scenario.get(it)).cloned().collect();
        other.sort_unstable();
        other.dedup();
        Err(format!("has another scenario than member 0: {} differ", other.join(", ")))
    }

    fn heard(&mut self, peer: PeerId, member: u32, message: FromMember, now_ns: u64) {
        let current = self.run;
        let is_of = |run: u32| run == current;
        let seat = &mut self.seats[member as usize];
        match message {
            FromMember::Ping { sent_ns } => {
                self.actions.push_back(Action::Send(peer, FromConductor::Pong { sent_ns, at_ns: now_ns }));
            }
            FromMember::Ready { run, round_trip_ns } if is_of(run) => {
                seat.round_trip_ns = round_trip_ns;
                self.reach(member, Milestone::Ready, now_ns);
            }
            FromMember::Through { run, phase, has_load, round_trip_ns } if is_of(run) => {
                (seat.round_trip_ns, seat.has_load) = (round_trip_ns, has_load);
                self.reach(member, Milestone::Through(phase), now_ns);
            }
            FromMember::Sample { run, sample, counts } if is_of(run) => {
                (seat.sample, seat.counts) = (Some((now_ns, *sample)), *counts);
            }
            FromMember::Report { run, report } if is_of(run) => {
                seat.report = Some(report);
                self.reach(member, Milestone::Reported, now_ns);
            }
            FromMember::Stop { signal } => self.stop(member, signal),
            FromMember::Failed { why } => {
                self.peers.get_mut(&peer).expect("it has just been heard").member = None;
                self.lose(member, &why, now_ns);
            }
            // A message of an earlier run, or a repeated one.
            _ => {}
        }
    }

    fn reach(&mut self, member: u32, milestone: Milestone, now_ns: u64) {
        let seat = &mut self.seats[member as usize];
        seat.reached = seat.reached.max(milestone);
        self.go_on(now_ns);
    }

    /// Starts the next phase once all members have reached the next milestone.
    fn go_on(&mut self, now_ns: u64) {
        let live = self.seats.iter().filter(|seat| seat.lost.is_none());
        let Some(all) = live.clone().map(|seat| seat.reached).min().filter(|&all| all > self.passed) else { return };
        let has_load = live.clone().any(|seat| seat.has_load);
        let round_trip_ns = live.map(|seat| seat.round_trip_ns).max().unwrap_or(0);
        self.passed = all;
        let at_ns = now_ns + LEAD_NS.max(LEAD_ROUND_TRIPS * round_trip_ns);
        let after = match all {
            Milestone::Nothing | Milestone::Reported => return,
            Milestone::Ready => {
                self.stage = Stage::Running { began_ns: at_ns };
                None
            }
            Milestone::Through(phase) => Some(phase),
        };
        self.tell_all(&FromConductor::Start { run: self.run, after, at_ns, has_load });
    }

    /// A member asks for an early end: in order if a run has started, else at once.
    fn stop(&mut self, by: u32, signal: i32) {
        if self.has_begun() {
            if !std::mem::replace(&mut self.is_stopping, true) {
                self.notes.push(format!("{} ends the run: signal {signal}", self.seats[by as usize].name));
                self.tell_all(&FromConductor::Stop { signal, by });
            }
        } else {
            let code = (crate::interrupt::EXIT_BY_SIGNAL + signal) as u8;
            self.finish(code, &format!("ended before the start by signal {signal} at member {by}"));
        }
    }

    /// Whether a run has started, this one or an earlier one of a search.
    fn has_begun(&self) -> bool {
        self.run > 1 || matches!(self.stage, Stage::Running { .. }) || (self.run == 1 && self.stage == Stage::Between)
    }

    /// A member is lost. Before the start this ends the meeting for all; after it the other members go on.
    fn lose(&mut self, member: u32, why: &str, now_ns: u64) {
        let is_between_runs = self.run > 0 && self.stage == Stage::Between;
        let seat = &mut self.seats[member as usize];
        // If the member has already delivered its part of the results, only a next run would miss it.
        if self.end.is_some() || seat.lost.is_some() || seat.report.is_some() || is_between_runs {
            return;
        }
        let name = seat.name.clone();
        if let Stage::Running { .. } = self.stage {
            seat.lost = Some(Lost { at_ns: now_ns, why: why.to_owned() });
            self.notes.push(format!("{name} is lost: {why}; the others go on"));
            self.go_on(now_ns);
        } else {
            self.finish(CANNOT_RUN, &format!("{name} was lost before the start: {why}"));
        }
    }

    /// Advances the time; to be called several times a second. After a longer gap this process was stopped, perhaps
    /// together with its members, so the gap does not count as their silence.
    pub fn tick(&mut self, now_ns: u64) {
        let stopped_ns = now_ns.saturating_sub(self.ticked_ns + STOPPED_NS);
        self.ticked_ns = now_ns;
        for seat in &mut self.seats {
            seat.heard_ns += stopped_ns;
        }
        let late = |since_ns: u64, most_ns: u64| now_ns.saturating_sub(since_ns) > most_ns;
        let strangers: Vec<_> = self.peers.iter().filter(|(_, it)| it.member.is_none()).collect();
        let silent: Vec<_> =
            strangers.iter().filter(|(_, it)| late(it.since_ns, HELLO_NS)).map(|(id, _)| **id).collect();
        for peer in silent {
            self.close(peer);
        }
        if self.end.is_some() {
            return;
        }
        for member in 0..self.setup.members {
            let seat = &self.seats[member as usize];
            let Some(peer) = seat.peer.filter(|_| seat.lost.is_none() && late(seat.heard_ns, SILENCE_NS)) else {
                continue;
            };
            self.refuse(peer, "member 0 heard nothing from this member for too long, and went on without it");
            self.lose(member, &format!("nothing was heard of it for {} s", SILENCE_NS / 1_000_000_000), now_ns);
        }
        let time = crate::parsing::show_duration(std::time::Duration::from_nanos(self.setup.meet_timeout_ns));
        match self.stage {
            Stage::Meeting { since_ns } if late(since_ns, self.setup.meet_timeout_ns) => {
                let missing = self.numbers(|seat| seat.peer.is_none());
                self.finish(CANNOT_RUN, &format!("{missing} did not come within {time} (--meet-timeout)"));
            }
            Stage::Preparing { since_ns } if late(since_ns, self.setup.meet_timeout_ns) => {
                let missing = self.numbers(|seat| seat.reached == Milestone::Nothing);
                self.finish(CANNOT_RUN, &format!("{missing} did not get ready within {time} (--meet-timeout)"));
            }
            _ => {}
        }
    }

    fn numbers(&self, of: impl Fn(&Seat) -> bool) -> String {
        let seats = self.seats.iter().enumerate().filter(|(_, seat)| of(seat));
        let numbers: Vec<_> = seats.map(|(number, _)| number.to_string()).collect();
        format!("member{} {}", if numbers.len() == 1 { "" } else { "s" }, numbers.join(", "))
    }

    fn tell_all(&mut self, message: &FromConductor) {
        let peers = self.seats.iter().filter(|seat| seat.lost.is_none()).filter_map(|seat| seat.peer);
        let present = peers.filter(|peer| self.peers.contains_key(peer));
        self.actions.extend(present.map(|peer| Action::Send(peer, message.clone())));
    }

    fn refuse(&mut self, peer: PeerId, why: &str) {
        self.end_peer(peer, End { code: CANNOT_RUN, said: why.to_owned() });
    }

    /// Sends one peer the end and closes its connection.
    fn end_peer(&mut self, peer: PeerId, End { code, said }: End) {
        self.actions.push_back(Action::Send(peer, FromConductor::End { code, said }));
        self.close(peer);
    }

    fn close(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.actions.push_back(Action::Close(peer));
    }

    /// Starts the next run and returns its number. In a search it tries `value`.
    pub fn step(&mut self, value: Option<u64>, now_ns: u64) -> u32 {
        self.run += 1;
        self.passed = Milestone::Nothing;
        self.is_stopping = false;
        self.stage = Stage::Preparing { since_ns: now_ns };
        for seat in &mut self.seats {
            (seat.reached, seat.has_load, seat.report, seat.sample) = (Milestone::Nothing, false, None, None);
            seat.counts = Counts::default();
        }
        self.tell_all(&FromConductor::Step { run: self.run, value });
        let is_here = |seat: &Seat| seat.lost.is_none() && seat.peer.is_some_and(|peer| self.peers.contains_key(&peer));
        let lost = self.seats.iter().find(|seat| !is_here(seat));
        if let Some(name) = lost.map(|seat| seat.name.clone()) {
            self.finish(CANNOT_RUN, &format!("{name} was lost in the run before: the search cannot go on"));
        }
        self.run
    }

    /// Ends the meeting for all; only the first call counts.
    pub fn finish(&mut self, code: u8, said: &str) {
        if self.end.is_none() {
            self.end = Some(End { code, said: said.to_owned() });
            self.tell_all(&FromConductor::End { code, said: said.to_owned() });
        }
    }

    /// The sum of member `own`'s sample and counts and the latest ones of the other members. A host's kernel and the
    /// server's process count once, even if several members report them.
    #[must_use]
    pub fn sum(&self, own: u32, sample: &Sample, counts: &Counts, now_ns: u64) -> (Sample, Counts) {
        let (mut sum, mut all) = (sample.clone(), *counts);
        let mut hosts = BTreeSet::from([self.seats[own as usize].host.as_str()]);
        let mut servers = if sample.server.is_some() { hosts.clone() } else { BTreeSet::new() };
        for (number, seat) in (0..).zip(&self.seats) {
            if number == own || seat.lost.is_some() {
                continue;
            }
            all.add(&seat.counts);
            if let Some((at_ns, sample)) = &seat.sample
                && now_ns.saturating_sub(*at_ns) <= SAMPLE_NS
            {
                let mut sample = sample.clone();
                sample.server = sample.server.filter(|_| servers.insert(&seat.host));
                if !hosts.insert(&seat.host) {
                    sample.kernel = KernelMemory::default();
                }
                sum = merge::beside(&sum, &sample);
            }
        }
        (sum, all)
    }

    /// The results of all members in order, and the missing members; `None` while results are still to come.
    pub fn take_reports(&mut self) -> Option<(Vec<Report>, Vec<Missing>)> {
        let is_all = self.seats.iter().all(|seat| seat.lost.is_some() || seat.report.is_some());
        if self.run == 0 || !is_all {
            return None;
        }
        let began_ns = match self.stage {
            Stage::Running { began_ns } => began_ns,
            _ => 0,
        };
        let missing = (0..).zip(&self.seats).filter_map(|(member, seat)| {
            let lost = seat.lost.as_ref()?;
            let from_s = lost.at_ns.saturating_sub(began_ns) as f64 / 1e9;
            Some(Missing { member, name: seat.name.clone(), from_s, why: lost.why.clone() })
        });
        let missing = missing.collect();
        let reports = self.seats.iter_mut().filter_map(|seat| seat.report.take().map(|report| *report)).collect();
        self.stage = Stage::Between;
        Some((reports, missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_members_of_one_host_see_of_it_counts_once_while_they_run() {
        let (members, token) = (4, Token::new(""));
        let (ringload, scenario) = (String::new(), Fingerprint::new());
        let mut conductor = Conductor::new(Setup { members, token, ringload, scenario, meet_timeout_ns: u64::MAX }, 0);
        let mut sample = crate::series::tests::sample(1.0, 50.0, 100);
        sample.kernel.tcp_sockets = 10;
        for (seat, host) in conductor.seats.iter_mut().zip(["a", "a", "b", "b"]) {
            (seat.host, seat.sample) = (host.to_owned(), Some((0, sample.clone())));
        }
        // The first member does not know the server, which runs on its host.
        let own = Sample { server: None, ..sample.clone() };
        let (sum, _) = conductor.sum(0, &own, &Counts::default(), 0);
        let servers = sum.server.map(|server| server.cpu_user_cores);
        assert_eq!((servers, sum.kernel.tcp_sockets, sum.load.processes), (Some(1.0), 20, 4));
    }
}
