//! A member's end of the connection: the clock offset, when each phase begins, whether the run is over. No socket and no
//! clock, as with the [conductor](super::conductor).

use std::collections::VecDeque;

use super::clock::{Offset, OffsetMeter};
use super::conductor::{CANNOT_RUN, End, SILENCE_NS, STOPPED_NS};
use super::message::{FromConductor, FromMember, Hello};
use super::token::{Side, Token};
use crate::control::Phase;

/// Round trips before each phase. The shortest of 16 is hardly ever one that had to wait for a processor.
const TRIPS_BEFORE_PHASE: u32 = 16;

/// Round trips each second beside that: the sign of life, and the measure of how the clocks drift.
const TRIPS_EACH_SECOND: u32 = 4;

const SECOND_NS: u64 = 1_000_000_000;

/// A message that waits for round trips goes out after this time in any case.
const MEASURE_NS: u64 = SECOND_NS;

/// One member's end of the connection.
#[derive(Debug)]
pub struct Member {
    hello: Hello,
    token: Token,
    meter: OffsetMeter,
    /// Round trips that are still wanted, one after the other.
    trips: u32,
    is_ping_out: bool,
    next_trips_ns: u64,
    heard_ns: u64,
    ticked_ns: u64,
    meeting: Option<String>,
    outbox: VecDeque<FromMember>,
    /// What is said when the clock has been measured, and since when it waits.
    waiting: Option<(Milestone, u64)>,
    step: Option<Step>,
    start: Option<Start>,
    stop: Option<(i32, u32)>,
    end: Option<End>,
    /// The conductor has said so itself.
    is_told_to_end: bool,
}

/// A run to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub run: u32,
    /// The value that it tries in a search.
    pub value: Option<u64>,
}

/// The beginning of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    run: u32,
    after: Option<Phase>,
    /// By the conductor's clock.
    at_ns: u64,
    /// Whether any member has connections for a load.
    pub has_load: bool,
}

/// The milestones that a member reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// The run can begin.
    Ready,
    /// This phase is over, as far as the member is concerned.
    Through(Phase, bool),
}

impl Member {
    /// A new connection, which begins with `hello`.
    #[must_use]
    pub fn new(hello: Hello, token: Token, now_ns: u64) -> Self {
        Self {
            hello,
            token,
            meter: OffsetMeter::default(),
            trips: 0,
            is_ping_out: false,
            next_trips_ns: u64::MAX,
            heard_ns: now_ns,
            ticked_ns: now_ns,
            meeting: None,
            outbox: VecDeque::new(),
            waiting: None,
            step: None,
            start: None,
            stop: None,
            end: None,
            is_told_to_end: false,
        }
    }

    /// The next message to send.
    pub fn next_message(&mut self, now_ns: u64) -> Option<FromMember> {
        let message = self.outbox.pop_front()?;
        Some(match message {
            FromMember::Ping { .. } => FromMember::Ping { sent_ns: now_ns },
            other => other,
        })
    }

    /// The identity of this meeting, as soon as the conductor has proved to have the token.
    #[must_use]
    pub fn meeting(&self) -> Option<&str> {
        self.meeting.as_deref()
    }

    /// The latest run that was begun.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        self.step
    }

    /// The signal that ends the run early, and the member that got it. It is told once.
    pub fn take_stop(&mut self) -> Option<(i32, u32)> {
        self.stop.take()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Whether the conductor has said that this is the end.
    #[must_use]
    pub fn is_told_to_end(&self) -> bool {
        self.is_told_to_end
    }

    /// Whether all that was to be said has been.
    #[must_use]
    pub fn has_said_all(&self) -> bool {
        self.outbox.is_empty()
    }

    /// The measured offset.
    #[must_use]
    pub fn offset(&self, now_ns: u64) -> Option<Offset> {
        self.meter.best(now_ns)
    }

    /// When what comes behind `after` begins in this run, by this side's clock, if that is known.
    #[must_use]
    pub fn start(&self, after: Option<Phase>, now_ns: u64) -> Option<(u64, Start)> {
        let run = self.step?.run;
        let start = self.start.filter(|start| start.run == run && start.after == after)?;
        Some((self.meter.best(now_ns)?.own_ns(start.at_ns), start))
    }

    /// The connection has ended.
    pub fn gone(&mut self, why: &str) {
        let said = match &self.meeting {
            Some(_) => format!("member 0, which conducts, is lost: {why}"),
            None => format!("member 0 does not answer: {why}"),
        };
        self.end.get_or_insert(End { code: CANNOT_RUN, said });
    }

    /// A message has come.
    pub fn received(&mut self, message: FromConductor, now_ns: u64) {
        self.heard_ns = now_ns;
        match message {
            FromConductor::Challenge { nonce } => {
                let said = serde_json::to_string(&self.hello).expect("plain values");
                let proof = self.token.sign(Side::Member, &nonce, &said);
                self.outbox.push_back(FromMember::Hello { said, proof });
            }
            FromConductor::Welcome { proof, meeting } => {
                if !self.token.is_signed(Side::Conductor, &self.hello.nonce, &meeting, &proof) {
                    return self.gone("it does not have this member's token (--meet-token)");
                }
                self.meeting = Some(meeting);
                self.next_trips_ns = now_ns + SECOND_NS;
                self.measure(TRIPS_BEFORE_PHASE);
            }
            FromConductor::End { code, said } => {
                self.is_told_to_end = true;
                self.end.get_or_insert(End { code, said });
            }
            // A peer that has not proved to be the conductor conducts nothing.
            _ if self.meeting.is_none() => {}
            FromConductor::Pong { sent_ns, at_ns } => {
                self.meter.note(sent_ns.min(now_ns), at_ns, now_ns);
                self.is_ping_out = false;
                self.trips = self.trips.saturating_sub(1);
                self.ping();
                self.speak_when_measured(now_ns);
            }
            FromConductor::Step { run, value } => self.step = Some(Step { run, value }),
            FromConductor::Start { run, after, at_ns, has_load } => {
                self.start = Some(Start { run, after, at_ns, has_load });
            }
            FromConductor::Stop { signal, by } => self.stop = Some((signal, by)),
        }
    }

    fn measure(&mut self, trips: u32) {
        self.trips = self.trips.max(trips);
        self.ping();
    }

    fn ping(&mut self) {
        if self.trips > 0 && !self.is_ping_out {
            self.is_ping_out = true;
            self.outbox.push_back(FromMember::Ping { sent_ns: 0 });
        }
    }

    /// Sends this message at once.
    pub fn say(&mut self, message: FromMember) {
        self.outbox.push_back(message);
    }

    /// Reports this member's progress, after measuring the clock's offset again.
    pub fn reached(&mut self, milestone: Milestone, now_ns: u64) {
        self.waiting = Some((milestone, now_ns));
        self.measure(TRIPS_BEFORE_PHASE);
    }

    fn speak_when_measured(&mut self, now_ns: u64) {
        let Some((milestone, since_ns)) = self.waiting else { return };
        let Some(run) = self.step.map(|step| step.run) else { return };
        if self.trips > 0 && now_ns.saturating_sub(since_ns) < MEASURE_NS {
            return;
        }
        self.waiting = None;
        let round_trip_ns = self.meter.best(now_ns).map_or(0, |offset| offset.round_trip_ns);
        self.say(match milestone {
            Milestone::Ready => FromMember::Ready { run, round_trip_ns },
            Milestone::Through(phase, has_load) => FromMember::Through { run, phase, has_load, round_trip_ns },
        });
    }

    /// Time passes. As with the conductor, silence while this process was stopped says nothing.
    pub fn tick(&mut self, now_ns: u64) {
        self.heard_ns += now_ns.saturating_sub(self.ticked_ns + STOPPED_NS);
        self.ticked_ns = now_ns;
        if now_ns >= self.next_trips_ns {
            self.next_trips_ns = now_ns + SECOND_NS;
            self.measure(TRIPS_EACH_SECOND);
        }
        self.speak_when_measured(now_ns);
        if now_ns.saturating_sub(self.heard_ns) > SILENCE_NS {
            self.gone(&format!("nothing was heard of it for {} s", SILENCE_NS / SECOND_NS));
        }
    }
}
