//! The beginning of a connection's life: connect, upgrade, greet; each within a time.

use std::borrow::Cow;
use std::collections::HashMap;

use ringio::next_generation;

use super::connection::{Connection, Flag, Stage};
use super::operations::{Kind, Token};
use super::worker::{Deadlines, TURN, Worker};
use crate::pacing::ConnectPacing;
use crate::stats::{Cause, Counter};
use crate::websocket::handshake::Answer;

/// Attempts that have begun and are not settled.
pub(super) struct Opening {
    /// Connections of this thread's part that have been begun for the first time.
    begun: u32,
    pacing: ConnectPacing,
    deadlines: Deadlines,
    /// Beginnings of answers that came in several pieces.
    answers: HashMap<u32, Vec<u8>>,
    generation: u32,
}

impl Opening {
    pub(super) fn new(pacing: ConnectPacing) -> Self {
        Self { begun: 0, pacing, deadlines: Deadlines::new(), answers: HashMap::new(), generation: 0 }
    }
}

impl Worker<'_> {
    /// Begins as many attempts as pacing allows, and gives up on those that take too long.
    pub(super) fn open_more(&mut self) {
        self.expire();
        let begun = self.opening.begun;
        let allowance = self.opening.pacing.allowance(self.now_ns, begun, self.attempts_in_flight());
        let left = self.part.connections - begun;
        for _ in 0..allowance.min(left).min(TURN as u32) {
            let number = self.part.first + self.opening.begun;
            self.opening.begun += 1;
            self.begin(number);
        }
    }

    fn attempts_in_flight(&self) -> u32 {
        (self.tally.counts[Counter::Attempted] - self.tally.counts[Counter::Settled]) as u32
    }

    /// When `open_more` has something to do again without a completion.
    pub(super) fn opening_due_ns(&self) -> Option<u64> {
        let begun = self.opening.begun;
        let in_flight = self.attempts_in_flight();
        let allowed = begun < self.part.connections && self.opening.pacing.allowance(u64::MAX, begun, in_flight) > 0;
        let next = if allowed { Some(self.opening.pacing.due_ns(begun).unwrap_or(0)) } else { None };
        next.into_iter().chain(self.opening_deadline_ns()).min()
    }

    /// When the next attempt's time is over.
    pub(super) fn opening_deadline_ns(&self) -> Option<u64> {
        self.opening.deadlines.front().map(|&(deadline_ns, _)| deadline_ns)
    }

    /// Begins to open connection number `number`.
    pub(super) fn begin(&mut self, number: u32) {
        self.tally.count(Counter::Attempted);
        self.opening.generation = next_generation(self.opening.generation);
        let mut connection = Connection::new(number, self.opening.generation, self.now_ns);
        let is_slow_reader = self.shared.scenario.is_slow_reader(number);
        connection.set(Flag::Active, !is_slow_reader && self.shared.scenario.is_active(number));
        connection.set(Flag::SlowReader, is_slow_reader);
        connection.set(Flag::ConnectPending, true);
        let key = self.connections.insert(connection);
        let token = self.connections[key].token(Kind::Connect, key as u32);
        let per_address = self.shared.sources.per_address();
        let source = number / per_address - self.part.first / per_address;
        let chain = self.addresses.connect(token, self.shared.endpoint_of(number), source as usize);
        // SAFETY: the addresses in the chain are `self.addresses`, never changed, and the kernel copies them in the enter.
        unsafe { self.ring.push_borrowed_chain(chain) };
        let deadline = self.now_ns + self.shared.scenario.connect.timeout.as_nanos() as u64;
        self.opening.deadlines.push_back((deadline, token));
    }

    /// The chain has ended: connected, or not.
    pub(super) fn on_connect(&mut self, token: Token, result: i32) {
        let shared = self.shared;
        let Some(connection) = self.connection(token) else { return };
        connection.set(Flag::ConnectPending, false);
        if connection.stage == Stage::Ending {
            return self.release_if_ended(token);
        }
        if result < 0 {
            return self.fail(token.key, Cause::of_error(-result));
        }
        if !shared.messages.are_framed() {
            self.poll(token.key);
            self.on_usable(token.key);
            return self.send_due(token.key);
        }
        connection.stage = Stage::Upgrading;
        self.write_send(token.key, |bytes, connection| {
            let number = connection.session.number();
            let request = shared.request_of(number);
            request.write(number, bytes);
            request.len()
        });
        self.poll(token.key);
    }

    /// Bytes of the answer to the upgrade request, or bytes for a connection that has been given up.
    #[cold]
    pub(super) fn on_answer(&mut self, key: u32, bytes: &mut [u8]) {
        let connection = &mut self.connections[key as usize];
        if connection.stage != Stage::Upgrading {
            return;
        }
        let received = match self.opening.answers.remove(&key) {
            Some(earlier) => Cow::Owned([&earlier, &*bytes].concat()),
            None => Cow::Borrowed(&*bytes),
        };
        let number = connection.session.number();
        match self.shared.request_of(number).judge(number, &received) {
            Answer::Incomplete => {
                self.opening.answers.insert(key, received.into_owned());
            }
            Answer::Upgraded(head) => {
                let frames_behind = received.len() - head;
                self.on_upgraded(key, bytes, frames_behind);
            }
            Answer::Status(status) => self.fail(key, Cause::Status(status)),
            Answer::Invalid(why) => self.fail(key, Cause::Invalid(why)),
        }
    }

    /// The connection is a WebSocket; the last `frames_behind` of `bytes` are frames already.
    fn on_upgraded(&mut self, key: u32, bytes: &mut [u8], frames_behind: usize) {
        self.on_usable(key);
        if frames_behind > 0 {
            let skipped = bytes.len() - frames_behind;
            self.on_bytes(key, &mut bytes[skipped..]);
        } else {
            self.send_due(key);
        }
    }

    /// The connection can carry messages.
    fn on_usable(&mut self, key: u32) {
        self.tally.count(Counter::Opened);
        if self.shared.scenario.connect.greet {
            self.connections[key as usize].stage = Stage::Greeting;
        } else {
            self.on_open(key);
        }
    }

    /// An attempt has become a connection that can be used.
    pub(super) fn on_open(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        connection.stage = Stage::Open;
        self.tally.connects.record(connection.age_ns(self.now_ns));
        self.tally.count(Counter::Settled);
    }

    /// An attempt has failed.
    pub(super) fn fail(&mut self, key: u32, cause: Cause) {
        self.opening.answers.remove(&key);
        self.tally.fail(cause);
        self.finish(key);
    }

    /// Gives up attempts whose time is over.
    pub(super) fn expire(&mut self) {
        while let Some(&(deadline, token)) = self.opening.deadlines.front() {
            let stage = self.connection(token).map(|connection| connection.stage);
            let cause = match stage {
                Some(Stage::Connecting) => Cause::ConnectTimeout,
                Some(Stage::Upgrading) => Cause::UpgradeTimeout,
                Some(Stage::Greeting) => Cause::GreetingTimeout,
                Some(Stage::Open | Stage::Closing | Stage::Ending) | None => {
                    self.opening.deadlines.pop_front();
                    continue;
                }
            };
            if deadline > self.now_ns {
                return;
            }
            self.opening.deadlines.pop_front();
            self.fail(token.key, cause);
        }
    }
}
