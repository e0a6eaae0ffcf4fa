//! A member's end of the connection: the clock offset, the start of each phase and the end of the run. Without socket
//! and clock, like the [conductor](super::conductor).

use std::collections::VecDeque;

use super::clock::{Offset, OffsetMeter};
use super::conductor::{CANNOT_RUN, End, SILENCE_NS, STOPPED_NS};
use super::message::{FromConductor, FromMember, Hello};
use super::token::{Side, Token};
use crate::control::Phase;

/// Round trips measured before each phase. The shortest of 16 is rarely one that waited for a processor.
const TRIPS_BEFORE_PHASE: u32 = 16;

/// Additional round trips each second: a keep-alive, and a measurement of the clocks' drift.
const TRIPS_EACH_SECOND: u32 = 4;

const SECOND_NS: u64 = 1_000_000_000;

/// Limit of time that a message waits for round trips.
const MEASURE_NS: u64 = SECOND_NS;

/// The state of a member's end of the connection.
#[derive(Debug)]
pub struct Member {
    hello: Hello,
    token: Token,
    meter: OffsetMeter,
    /// Round trips still to be measured, one at a time.
    trips: u32,
    is_ping_out: bool,
    next_trips_ns: u64,
    heard_ns: u64,
    ticked_ns: u64,
    meeting: Option<String>,
    outbox: VecDeque<FromMember>,
    /// The milestone to report once the clock has been measured, and since when it waits.
    waiting: Option<(Milestone, u64)>,
    step: Option<Step>,
    start: Option<Start>,
    stop: Option<(i32, u32)>,
    end: Option<End>,
    /// The end was received from the conductor.
    is_told_to_end: bool,
}

/// A run to be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub run: u32,
    /// The value of a search for this run.
    pub value: Option<u64>,
}

/// The start of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    run: u32,
    after: Option<Phase>,
    /// When it begins, by the conductor's clock.
    at_ns: u64,
    /// Whether any member has connections for a load.
    pub has_load: bool,
}

/// The milestones that a member reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// The member is ready for the run.
    Ready,
    /// The member has finished this phase, and whether it has connections for a load.
    Through(Phase, bool),
}

impl Member {
    /// A new connection, which starts with `hello`.
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

    /// The identity of this meeting, once the conductor has proved that it has the token.
    #[must_use]
    pub fn meeting(&self) -> Option<&str> {
        self.meeting.as_deref()
    }

    /// The latest run that was announced.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        self.step
    }

    /// Takes the signal that ends the run early, and the number of the member that received it.
    pub fn take_stop(&mut self) -> Option<(i32, u32)> {
        self.stop.take()
    }

    /// The end of the meeting, if it has ended.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Whether the end was received from the conductor.
    #[must_use]
    pub fn is_told_to_end(&self) -> bool {
        self.is_told_to_end
    }

    /// Whether all messages have been passed on to be sent.
    #[must_use]
    pub fn has_said_all(&self) -> bool {
        self.outbox.is_empty()
    }

    /// The measured offset.
    #[must_use]
    pub fn offset(&self, now_ns: u64) -> Option<Offset> {
        self.meter.best(now_ns)
    }

    /// When the phase after `after` begins in this run, by this side's clock, if that is known.
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

    /// Processes a message.
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
            // Messages are ignored until the peer has proved to be the conductor.
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

    /// Advances the time. As in the conductor, silence while this process was stopped does not count.
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
