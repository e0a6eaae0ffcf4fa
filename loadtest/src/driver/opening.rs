//! The opening of connections: connect, upgrade and greet, within the timeout and up to the number that the plan wants.

use std::borrow::Cow;
use std::collections::HashMap;

use super::connection::{Connection, Flag, Stage};
use super::deadlines::Deadlines;
use super::{Driver, TURN, Want};
use crate::control::Phase;
use crate::pacing::ConnectPacing;
use crate::scenario::Scenario;
use crate::stats::{Cause, Counter};
use crate::websocket::handshake::{Answer, Refusal};

/// Interval at which a changing plan is evaluated: short enough for a smooth ramp.
const PLAN_TICK_NS: u64 = 10_000_000;

/// The least number of failed attempts, with no success, after which the remaining ones are skipped. It is a whole
/// window of attempts, but at least this many, because a window may be as small as one.
const HOPELESS_MIN: u32 = 16;

/// The attempts to open connections: their numbers, pacing and deadlines.
pub(super) struct Opening {
    /// Attempts that have begun, without reconnections.
    begun: u32,
    /// Connection numbers used so far, from the part's first one on.
    numbered: u32,
    /// Connection numbers held: all used ones except those that the plan has retired.
    held: u32,
    /// Connection numbers that the plan has retired, for reuse.
    retired: Vec<u32>,
    pacing: ConnectPacing,
    /// Failures without a success after which opening is given up.
    hopeless_from: u32,
    is_hopeless: bool,
    deadlines: Deadlines,
    /// For targets with several addresses: deadlines of the current address's share of the connect time.
    turns: Deadlines,
    /// Partial answers to upgrade requests that arrived in several pieces.
    answers: HashMap<u32, Vec<u8>>,
    /// The position from which the plan searches for a connection to close.
    retire_cursor: usize,
    /// When the plan was last evaluated.
    planned_ns: u64,
}

impl Opening {
    /// For a thread that has `share` of all connections, to targets with at most `addresses_at_most` addresses.
    pub(super) fn new(scenario: &Scenario, share: f64, addresses_at_most: usize, now_ns: u64) -> Self {
        let connect = &scenario.connect;
        let window = (f64::from(connect.window) * share).ceil() as u32;
        Self {
            begun: 0,
            numbered: 0,
            held: 0,
            retired: Vec::new(),
            pacing: ConnectPacing::new(connect.rate * share, window, now_ns),
            hopeless_from: window.max(HOPELESS_MIN),
            is_hopeless: false,
            deadlines: Deadlines::new(connect.timeout.as_nanos() as u64),
            turns: Deadlines::new(connect.timeout.as_nanos() as u64 / addresses_at_most as u64),
            answers: HashMap::new(),
            retire_cursor: 0,
            planned_ns: 0,
        }
    }

    /// When the next attempt's deadline is due, in all or at its address.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        [self.deadlines.next_ns(), self.turns.next_ns()].into_iter().flatten().min()
    }
}

impl<T: Default> Driver<'_, T> {
    /// Begins as many attempts as plan and pacing allow.
    pub(super) fn open_more(&mut self) {
        let allowed = self.opening_allowance(self.now_ns);
        for _ in 0..allowed.min(TURN as u32) {
            let number = self.opening.retired.pop().unwrap_or_else(|| {
                self.opening.numbered += 1;
                self.load.part.first + self.opening.numbered - 1
            });
            self.opening.begun += 1;
            self.opening.held += 1;
            self.begin(number);
        }
        self.is_held_up |= allowed > TURN as u32;
    }

    /// The number of attempts that may begin at `now_ns`.
    fn opening_allowance(&self, now_ns: u64) -> u32 {
        let opening = &self.opening;
        if opening.is_hopeless {
            return 0;
        }
        let in_flight = (self.tally.counts[Counter::Attempted] - self.tally.counts[Counter::Settled]) as u32;
        // Connections that are closing still occupy their slots.
        let free = self.load.part.connections.saturating_sub(self.connections.len() as u32);
        let wanted = self.wanted().saturating_sub(opening.held);
        opening.pacing.allowance(now_ns, opening.begun, in_flight).min(wanted).min(free)
    }

    /// The number of connections that the plan wants this thread to hold now.
    fn wanted(&self) -> u32 {
        let (scenario, part) = (self.load.scenario, self.load.part);
        match &scenario.plan.connections {
            None => part.connections,
            Some(plan) => {
                let since_ns = self.load_began_ns.map_or(0, |began_ns| self.now_ns.saturating_sub(began_ns));
                part.share_of(plan.at(since_ns).round() as u32, scenario.connections)
            }
        }
    }

    /// When `open_more` next has work to do without an event.
    pub(super) fn opening_due_ns(&self) -> Option<u64> {
        (self.opening_allowance(u64::MAX) > 0).then(|| self.opening.pacing.due_ns(self.opening.begun).unwrap_or(0))
    }

    /// When the plan is to be evaluated next.
    pub(super) fn plan_due_ns(&self) -> Option<u64> {
        let plan = self.load.scenario.plan.connections.as_ref()?;
        let ends_ns = self.load_began_ns?.saturating_add(plan.duration().as_nanos() as u64);
        // After the last stage the evaluation goes on until the wanted number is held.
        let is_done = self.opening.planned_ns > ends_ns && self.opening.held == self.wanted();
        (!is_done && !self.opening.is_hopeless).then(|| self.opening.planned_ns + PLAN_TICK_NS)
    }

    /// Opens and closes connections during the load, as the plan says.
    pub(super) fn follow_plan(&mut self) {
        if self.plan_due_ns().is_none_or(|due_ns| due_ns > self.now_ns) {
            return;
        }
        self.opening.planned_ns = self.now_ns;
        self.open_more();
        let surplus = self.opening.held.saturating_sub(self.wanted());
        let capacity = self.connections.capacity();
        let mut left = (surplus.min(TURN as u32), TURN.min(capacity));
        while left.0 > 0 && left.1 > 0 {
            // The newest connections are mostly in the highest slots.
            self.opening.retire_cursor = self.opening.retire_cursor.checked_sub(1).unwrap_or(capacity - 1);
            left.1 -= 1;
            let key = self.opening.retire_cursor;
            if self.connections.get(key).is_some_and(Connection::is_to_stay) {
                left.0 -= 1;
                self.opening.held -= 1;
                self.tally.count(Counter::Retired);
                self.leave(key as u32);
            }
        }
    }

    /// Starts to open connection number `number`.
    pub(super) fn begin(&mut self, number: u32) {
        self.tally.count(Counter::Attempted);
        let scenario = self.load.scenario;
        let mut connection = Connection::new(number, self.load.messages, self.now_ns, T::default());
        let is_slow_reader = scenario.is_slow_reader(number);
        connection.set(Flag::Active, !is_slow_reader && scenario.is_active(number));
        connection.set(Flag::SlowReader, is_slow_reader);
        let began_us = connection.began_us;
        let key = self.connections.insert(connection) as u32;
        self.opening.deadlines.set(self.now_ns, key, began_us);
        self.connect(key);
        if self.load.has_next_address(number, 1) {
            self.opening.turns.set(self.now_ns, key, began_us);
        }
    }

    /// Has the transport connect to the attempt's current address.
    fn connect(&mut self, key: u32) {
        let connection = &self.connections[key as usize];
        let number = connection.session.number();
        let address = self.load.address_of(number, connection.failures);
        self.wants.push_back(Want::Connect { key, number, address });
    }

    /// Bytes of the answer to the upgrade request.
    #[cold]
    pub(super) fn on_answer(&mut self, key: u32, bytes: &[u8], arrived_ns: u64) {
        let received = match self.opening.answers.remove(&key) {
            Some(earlier) => Cow::Owned([&earlier, bytes].concat()),
            None => Cow::Borrowed(bytes),
        };
        let number = self.connections[key as usize].session.number();
        let request = self.load.request_of(number);
        match request.judge(number, &received, false) {
            Answer::Incomplete => {
                self.opening.answers.insert(key, received.into_owned());
            }
            Answer::Upgraded { head, deflate } => {
                if let Some((agreed, codecs)) = deflate.zip(self.codecs.as_mut()) {
                    codecs.agree(key, agreed);
                    self.connections[key as usize].session.allow_compression();
                    self.tally.count(Counter::Deflating);
                }
                self.on_usable(key);
                if head < received.len() {
                    self.on_frames(key, &received[head..], arrived_ns);
                } else {
                    self.ask_to_send(key);
                }
            }
            Answer::Refused(refusal) => self.refused(key, *refusal),
            Answer::Invalid(why) => self.fail(key, Cause::Invalid(why)),
        }
    }

    /// Fails an attempt whose answer will not be completed: a partial answer may name a better cause than `cause`.
    #[cold]
    pub(super) fn fail_unanswered(&mut self, key: u32, cause: Cause) {
        let number = self.connections[key as usize].session.number();
        let received = self.opening.answers.remove(&key).unwrap_or_default();
        match self.load.request_of(number).judge(number, &received, true) {
            Answer::Refused(refusal) => self.refused(key, *refusal),
            Answer::Invalid(why) if cause == Cause::Reset => self.fail(key, Cause::Invalid(why)),
            _ => self.fail(key, cause),
        }
    }

    /// The server has answered the upgrade request with a status other than 101.
    fn refused(&mut self, key: u32, refusal: Refusal) {
        let connection = &self.connections[key as usize];
        self.tally.refuse(refusal, self.load.address_of(connection.session.number(), connection.failures));
        self.give_up_if_hopeless();
        self.finish(key);
    }

    /// The connection can carry messages.
    pub(super) fn on_usable(&mut self, key: u32) {
        self.tally.count(Counter::Opened);
        self.connections[key as usize].set(Flag::RequestDue, false);
        if self.load.scenario.connect.greet {
            self.connections[key as usize].stage = Stage::Greeting;
        } else {
            self.on_open(key);
        }
    }

    /// An attempt has succeeded: the connection is ready.
    pub(super) fn on_open(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        connection.stage = Stage::Open;
        self.tally.connects.record(connection.age_ns(self.now_ns));
        self.tally.count(Counter::Settled);
        self.tally.count(Counter::Ready);
    }

    /// The transport could not connect and has closed the socket: the attempt goes on at the next address, if there is
    /// one.
    #[cold]
    pub fn connect_failed(&mut self, key: u32, cause: Cause) {
        let Some(connection) = self.connections.get_mut(key as usize) else { return };
        if connection.stage != Stage::Connecting {
            return;
        }
        let (number, failures) = (connection.session.number(), connection.failures);
        if !cause.is_of_the_address() || !self.load.has_next_address(number, failures + 1) {
            return self.fail(key, cause);
        }
        connection.failures += 1;
        self.tally.detour(cause, self.load.address_of(number, failures));
        self.connect(key);
    }

    /// An attempt has failed.
    pub(super) fn fail(&mut self, key: u32, cause: Cause) {
        let connection = &self.connections[key as usize];
        self.tally.fail(cause, self.load.address_of(connection.session.number(), connection.failures));
        self.give_up_if_hopeless();
        self.finish(key);
    }

    /// Skips the remaining attempts after a whole window of failures without a success: with long timeouts they would
    /// take minutes or hours.
    fn give_up_if_hopeless(&mut self) {
        let counts = &self.tally.counts;
        let is_over = self.opening.is_hopeless || counts[Counter::Ready] > 0 || self.phase != Phase::Connect;
        if is_over || counts[Counter::Failed] < u64::from(self.opening.hopeless_from) {
            return;
        }
        self.opening.is_hopeless = true;
        let untried = self.wanted().saturating_sub(self.opening.held);
        self.tally.counts[Counter::Untried] += u64::from(untried);
    }

    /// Gives up attempts that have timed out.
    pub(super) fn expire_attempts(&mut self) {
        loop {
            let connections = &self.connections;
            let expired = self.opening.deadlines.pop(self.now_ns, |deadline| {
                let connection = connections.get(deadline.key as usize);
                connection.is_some_and(|it| it.is_attempt() && it.began_us == deadline.began_us)
            });
            let Some(expired) = expired else { return };
            let cause = match self.connections[expired.key as usize].stage {
                Stage::Connecting => Cause::ConnectTimeout,
                Stage::Upgrading => Cause::UpgradeTimeout,
                _ => Cause::GreetingTimeout,
            };
            self.fail_unanswered(expired.key, cause);
        }
    }

    /// Moves attempts that are still connecting on to the next address. The time is divided by the number of addresses:
    /// an address that fails early leaves its time to the next one, and each address gets its share before the attempt
    /// times out.
    pub(super) fn expire_addresses(&mut self) {
        loop {
            let connections = &self.connections;
            let late = self.opening.turns.pop(self.now_ns, |turn| {
                let connection = connections.get(turn.key as usize).filter(|it| it.began_us == turn.began_us);
                connection.is_some_and(|it| it.stage == Stage::Connecting)
            });
            let Some(late) = late else { return };
            let connection = &mut self.connections[late.key as usize];
            let (number, failures) = (connection.session.number(), connection.failures);
            if !self.load.has_next_address(number, failures + 1) {
                continue;
            }
            // `began_us` is truncated to whole microseconds.
            let parts_begun = connection.age_ns(self.now_ns + 1000) / self.opening.turns.after_ns().max(1);
            if parts_begun <= u64::from(failures) {
                self.opening.turns.set(self.now_ns, late.key, late.began_us);
                continue;
            }
            connection.set(Flag::Rerouted, true);
            self.tally.detour(Cause::ConnectTimeout, self.load.address_of(number, failures));
            self.finish(late.key);
        }
    }

    /// The transport has released an attempt at one address: the same attempt goes on at the next address, in the same
    /// slot.
    fn reroute(&mut self, gone: &Connection<T>) {
        let mut connection = Connection::new(gone.session.number(), self.load.messages, self.now_ns, T::default());
        (connection.began_us, connection.failures) = (gone.began_us, gone.failures + 1);
        for flag in [Flag::Active, Flag::SlowReader] {
            connection.set(flag, gone.has(flag));
        }
        // The slab reuses the slot that was freed last, so the attempt keeps its deadline.
        let key = self.connections.insert(connection) as u32;
        self.opening.turns.set(self.now_ns, key, gone.began_us);
        self.connect(key);
    }

    /// A connection has been released: its number is free, or it reconnects.
    pub(super) fn on_left(&mut self, gone: &Connection<T>, key: u32) {
        self.opening.answers.remove(&key);
        if gone.has(Flag::Rerouted) && self.phase < Phase::Close {
            return self.reroute(gone);
        }
        if !gone.has(Flag::Leaving) {
            return;
        }
        let number = gone.session.number();
        if !gone.has(Flag::Returning) {
            self.opening.retired.push(number);
        } else if self.phase.is_sending() && self.sending_ended_ns.is_none() {
            self.begin(number);
        }
    }
}
