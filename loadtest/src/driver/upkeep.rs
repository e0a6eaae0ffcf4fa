//! Churn and pings: connections are reopened and pinged in rotation.

use std::collections::VecDeque;
use std::time::Duration;

use super::connection::{Connection, Flag};
use super::{Driver, TURN};
use crate::message::MessageId;
use crate::scenario::Scenario;
use crate::stats::{Counter, Tally};

/// Visits this thread's connections round robin, one per interval.
#[derive(Debug)]
struct Rotation {
    interval_ns: u64,
    next_ns: u64,
    /// The next key to visit.
    cursor: usize,
}

/// The rotations of a thread.
#[derive(Debug)]
pub(super) struct Rotations {
    reconnects: Option<Rotation>,
    pings: Option<Rotation>,
}

impl Rotation {
    fn new(interval: Duration) -> Self {
        Self { interval_ns: (interval.as_nanos() as u64).max(1), next_ns: u64::MAX, cursor: 0 }
    }

    /// The next open connection below `capacity`, if one is due. Missed visits are made up for, unless no connection
    /// was open.
    fn next(&mut self, now_ns: u64, capacity: usize, is_open: impl Fn(usize) -> bool) -> Option<usize> {
        if self.next_ns > now_ns {
            return None;
        }
        let Some(key) = (self.cursor..capacity).chain(0..self.cursor.min(capacity)).find(|&key| is_open(key)) else {
            self.next_ns = now_ns + self.interval_ns;
            return None;
        };
        self.next_ns += self.interval_ns;
        self.cursor = key + 1;
        Some(key)
    }
}

impl Rotations {
    /// For a thread that has `share` of all connections.
    pub(super) fn new(scenario: &Scenario, share: f64) -> Self {
        let upkeep = &scenario.upkeep;
        let own = f64::from(scenario.connections) * share;
        Self {
            reconnects: upkeep.reconnect_every.map(|every| Rotation::new(every.div_f64(share))),
            pings: upkeep.ping_every.map(|every| Rotation::new(every.div_f64(own))),
        }
    }

    /// Starts all rotations.
    pub(super) fn begin(&mut self, now_ns: u64) {
        for rotation in [&mut self.reconnects, &mut self.pings].into_iter().flatten() {
            rotation.next_ns = now_ns + rotation.interval_ns;
        }
    }

    /// When the next visit is due.
    pub(super) fn next_ns(&self) -> Option<u64> {
        [&self.reconnects, &self.pings].into_iter().flatten().map(|rotation| rotation.next_ns).min()
    }
}

/// One connection's pings without a pong, oldest first.
#[derive(Debug, Default)]
pub(super) struct Pings(VecDeque<Ping>);

#[derive(Clone, Copy, Debug)]
struct Ping {
    payload: [u8; PING_LEN],
    sent_ns: u64,
}

/// Payload bytes of a ping: the numbers of its connection and of the ping, as text.
pub(super) const PING_LEN: usize = crate::message::ID_LEN;

/// Limit of pings remembered per connection; an older ping counts as unanswered.
const PINGS_MAX: usize = 64;

impl Pings {
    pub(super) fn sent(&mut self, payload: [u8; PING_LEN], sent_ns: u64, tally: &mut Tally) {
        tally.count(Counter::PingsSent);
        tally.count(Counter::PingsAwaited);
        self.0.push_back(Ping { payload, sent_ns });
        if self.0.len() > PINGS_MAX {
            self.0.pop_front();
            tally.counts[Counter::PingsAwaited] -= 1;
            tally.count(Counter::PingsUnanswered);
        }
    }

    /// Matches a pong to the ping with the same payload. The server may skip earlier pings (RFC 6455 section 5.5.3).
    pub(super) fn answered(&mut self, payload: &[u8], now_ns: u64, tally: &mut Tally) {
        let Some(at) = self.0.iter().position(|ping| ping.payload == payload) else {
            return tally.count(Counter::PongsUnasked);
        };
        tally.pings.record(now_ns.saturating_sub(self.0[at].sent_ns));
        tally.counts[Counter::PingsAwaited] -= at as u64 + 1;
        self.0.drain(..=at);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The connection has ended. If the server ended it, its pending pings do not count as unanswered.
    pub(super) fn abandon(self, tally: &mut Tally, was_closed_early: bool) {
        let count = self.0.len() as u64;
        tally.counts[Counter::PingsAwaited] -= count;
        if !was_closed_early {
            tally.counts[Counter::PingsUnanswered] += count;
        }
    }
}

impl<T: Default> Driver<'_, T> {
    /// Reopens and pings the connections that are due.
    pub(super) fn keep_up(&mut self) {
        let (now_ns, capacity) = (self.now_ns, self.connections.capacity());
        for _ in 0..TURN {
            let is_open = |key| self.connections.get(key).is_some_and(Connection::is_to_stay);
            let Some(rotation) = &mut self.rotations.reconnects else { break };
            let Some(key) = rotation.next(now_ns, capacity, is_open) else { break };
            self.renew(key as u32);
        }
        for _ in 0..TURN {
            let is_open = |key| self.connections.get(key).is_some_and(Connection::is_to_stay);
            let Some(rotation) = &mut self.rotations.pings else { break };
            let Some(key) = rotation.next(now_ns, capacity, is_open) else { break };
            if self.load.messages.are_framed() {
                self.connections[key].set(Flag::PingDue, true);
                self.ask_to_send(key as u32);
            }
        }
    }

    /// Closes a connection in order and then reopens it.
    fn renew(&mut self, key: u32) {
        self.tally.count(Counter::Recycled);
        self.connections[key as usize].set(Flag::Returning, true);
        self.leave(key);
    }

    /// Does so with a connection that has sent all its messages, once all of them have come back.
    #[cold]
    pub(super) fn renew_if_settled(&mut self, key: u32) {
        let connection = &self.connections[key as usize];
        if self.phase.is_sending() && connection.is_to_stay() && connection.session.in_flight() == 0 {
            self.renew(key);
        }
    }

    /// The payload of the next ping on a connection.
    pub(super) fn next_ping(&mut self, number: u32) -> [u8; PING_LEN] {
        self.pings_begun = self.pings_begun.wrapping_add(1);
        MessageId { connection: number, sequence: self.pings_begun }.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_made_up_for_but_not_those_that_no_connection_could_take() {
        let mut rotation = Rotation { interval_ns: 10, next_ns: 10, cursor: 0 };
        let mut at = |now_ns, open: &[usize]| rotation.next(now_ns, 4, |key| open.contains(&key));
        assert_eq!(at(9, &[0, 1, 3]), None);
        assert_eq!([35, 35, 35, 35].map(|now_ns| at(now_ns, &[0, 1, 3])), [Some(0), Some(1), Some(3), None]);
        assert_eq!(at(40, &[0, 1, 3]), Some(0));
        assert_eq!(at(500, &[]), None);
        assert_eq!((at(509, &[2]), at(510, &[2]), at(511, &[2])), (None, Some(2), None));
    }

    #[test]
    fn a_pong_answers_its_ping_once_and_excuses_those_before() {
        let (mut pings, mut tally) = (Pings::default(), Tally::default());
        let payload = |sequence| MessageId { connection: 1, sequence }.encode();
        for sequence in 0..4 {
            pings.sent(payload(sequence), u64::from(sequence) * 1000, &mut tally);
        }
        pings.answered(&payload(2), 9000, &mut tally);
        pings.answered(&payload(2), 9500, &mut tally);
        pings.answered(b"other", 9500, &mut tally);
        let counts = |tally: &Tally| {
            [Counter::PingsSent, Counter::PingsAwaited, Counter::PongsUnasked, Counter::PingsUnanswered]
                .map(|it| tally.counts[it])
        };
        assert_eq!(counts(&tally), [4, 1, 2, 0]);
        assert_eq!(tally.pings.count(), 1);
        assert_eq!(tally.pings.max().unwrap().as_micros(), 7);
        pings.abandon(&mut tally, false);
        assert_eq!(counts(&tally), [4, 0, 2, 1]);
    }

    #[test]
    fn a_server_that_answers_no_ping_is_not_remembered_for_all_of_them() {
        let (mut pings, mut tally) = (Pings::default(), Tally::default());
        for sequence in 0..1000 {
            pings.sent(MessageId { connection: 1, sequence }.encode(), 0, &mut tally);
        }
        assert_eq!(pings.0.len(), PINGS_MAX);
        pings.abandon(&mut tally, false);
        assert_eq!(tally.counts[Counter::PingsUnanswered], 1000);
    }
}
