//! The scenario of a run: settings resolved and checked, and their division among threads.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::driver::plan::Plan;
use crate::message::expect::Expect;
use crate::message::own::OwnMessages;
use crate::message::sizes::Sizes;
use crate::websocket::deflate::Offer;

/// The load of a run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Connections to open.
    pub connections: u32,
    /// How they are opened.
    pub connect: Connect,
    /// The number of active ones.
    pub active: u32,
    /// Their messages.
    pub traffic: Traffic,
    /// Churn, pings and slow readers.
    pub upkeep: Upkeep,
    /// The change of connections and rate under load.
    pub plan: Plan,
    /// Time before measuring begins.
    pub warmup: Duration,
    /// Measured time.
    pub duration: Duration,
    /// Time to wait for echoes still in flight after that.
    pub drain_timeout: Duration,
    /// Time for the orderly closing of all connections.
    pub close_timeout: Duration,
    /// Which part of all that this process does; everything, by default.
    pub portion: Portion,
}

/// A member's part of a scenario. Its connections are numbered as they would be if one process had them all, and all else
/// follows from a connection's number, or is shared by connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// The member's number, from 0 on.
    pub member: u32,
    /// The number of members.
    pub members: u32,
}

impl Default for Portion {
    fn default() -> Self {
        Self { member: 0, members: 1 }
    }
}

impl Portion {
    /// The numbers of this member's connections, of so many in all. By largest remainder: the first members have one more, if
    /// they cannot all have the same.
    #[must_use]
    pub fn of(self, connections: u32) -> Range<u32> {
        let (each, more) = (connections / self.members, connections % self.members);
        let before = |member: u32| member * each + member.min(more);
        before(self.member)..before(self.member + 1)
    }
}

/// The part of a scenario's totals of one process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Own {
    /// Connections.
    pub connections: u32,
    /// Those wanted when load begins.
    pub connections_at_first: u32,
    /// Those that send.
    pub active: u32,
    /// Those that send and do not read.
    pub slow_readers: u32,
    /// Messages that are sent at most.
    pub limit: Option<u64>,
    /// The part of all connections.
    pub share: f64,
    /// The part of all active ones, and so of the rate.
    pub active_share: f64,
}

/// How connections are opened.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    /// Attempts a second, by all threads together; 0 is as fast as it goes.
    pub rate: f64,
    /// Attempts in flight at most, by all threads together.
    pub window: u32,
    /// Time for one connection to become ready.
    pub timeout: Duration,
    /// Whether a connection is ready only when it has echoed one message.
    pub greet: bool,
}

/// The messages of active connections.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Payload bytes of the messages.
    pub sizes: Sizes,
    /// Messages in flight on each active connection at most.
    pub depth: u32,
    /// Messages by the clock; without it a message is sent whenever one has come back.
    pub open: Option<OpenLoop>,
    /// Text messages instead of binary ones.
    pub text: bool,
    /// The user's messages, if they are not to be made up. The sizes are theirs then.
    pub own: Option<OwnMessages>,
    /// The expected answer.
    pub expect: Expect,
    /// Messages with which the server begins on each connection: they are not judged.
    pub welcomes: u32,
    /// Percentage of generated messages that is filling; the rest cannot be compressed.
    pub compressibility: u8,
    /// Compression, if it is offered.
    pub deflate: Option<Deflate>,
    /// End after so many messages, beside the greetings.
    pub limit: Option<u64>,
}

/// Compression of messages (RFC 7692).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deflate {
    /// The offer to servers.
    pub offer: Offer,
    /// Messages are compressed before they are sent: a few variants of each size.
    pub is_precompressed: bool,
}

impl Traffic {
    /// The mean size of the messages.
    #[must_use]
    pub fn mean_size(&self) -> f64 {
        self.own.as_ref().map_or_else(|| self.sizes.mean(), OwnMessages::mean_size)
    }
}

/// Messages that are sent when they are due, whether or not earlier ones have come back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenLoop {
    /// Messages a second, by all active connections together.
    pub rate: f64,
    /// Their spacing over time.
    pub arrivals: Arrivals,
}

/// The spacing of a connection's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// At equal intervals, the connections in turn.
    Constant,
    /// At random, like those of many independent users.
    Poisson,
}

/// Churn, pings and slow readers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Upkeep {
    /// The time from one reconnect to the next, of all connections together, which take turns.
    pub reconnect_every: Option<Duration>,
    /// Messages after whose echo a connection is closed and opened again.
    pub messages_per_connection: Option<u32>,
    /// The time from one ping to the next on each connection.
    pub ping_every: Option<Duration>,
    /// Connections that send and do not read.
    pub slow_readers: u32,
}

impl Upkeep {
    /// Whether connections are opened again while there is load.
    #[must_use]
    pub fn reopens(&self) -> bool {
        self.reconnect_every.is_some() || self.messages_per_connection.is_some()
    }
}

/// The transport of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// `io_uring`, or epoll where the machine forbids it
    #[default]
    Auto,
    /// `io_uring`
    Ring,
    /// epoll, and a system call for each receive and send
    Epoll,
    /// A TUN device, with ringload's own TCP: it comes with `--stack user`, and is no value of the option.
    #[value(skip)]
    Tun,
}

/// Whose TCP the connections have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TcpStack {
    /// The kernel's
    #[default]
    Kernel,
    /// ringload's own, over a TUN device: it needs rights, and no socket for a connection
    User,
}

impl Transport {
    /// Whose TCP it has.
    #[must_use]
    pub fn stack(self) -> &'static str {
        if self == Self::Tun { "user" } else { "kernel" }
    }

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ring => "ring",
            Self::Epoll => "epoll",
            Self::Tun => "tun",
        }
    }
}

/// One thread's part of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The thread's number.
    pub thread: usize,
    /// Its first connection's number in the whole run.
    pub first: u32,
    /// The number of connections that it opens.
    pub connections: u32,
    /// Messages that it sends at most.
    pub limit: Option<u64>,
}

impl Scenario {
    /// Divides this process's portion evenly among `threads` threads.
    #[must_use]
    pub fn divide(&self, threads: u32) -> Vec<Part> {
        let own = self.portion.of(self.connections);
        let boundary = |thread: u32| own.start + share(own.len() as u64, thread, threads) as u32;
        let part = |thread| self.part(thread as usize, boundary(thread)..boundary(thread + 1));
        (0..threads).map(part).collect()
    }

    fn part(&self, thread: usize, numbers: Range<u32>) -> Part {
        let limit = self.traffic.limit.map(|limit| {
            let sent_by = |connection| share_u64(limit, self.active_below(connection), u64::from(self.active));
            sent_by(numbers.end) - sent_by(numbers.start)
        });
        Part { thread, first: numbers.start, connections: numbers.len() as u32, limit }
    }

    /// This process's part of the totals.
    #[must_use]
    pub fn own(&self) -> Own {
        let numbers = self.portion.of(self.connections);
        let part = self.part(0, numbers.clone());
        let active = (self.active_below(numbers.end) - self.active_below(numbers.start)) as u32;
        Own {
            connections: part.connections,
            connections_at_first: part.share_of(self.connections_at_first(), self.connections),
            active,
            slow_readers: numbers.end.saturating_sub(numbers.start.max(self.regular())),
            limit: part.limit,
            share: f64::from(part.connections) / f64::from(self.connections.max(1)),
            active_share: f64::from(active) / f64::from(self.active.max(1)),
        }
    }

    /// Connections that are to be open when load begins.
    #[must_use]
    pub fn connections_at_first(&self) -> u32 {
        self.plan.connections.as_ref().map_or(self.connections, |plan| plan.at(0).round() as u32)
    }

    /// Whether connection number `number` is one of the active ones, which are spread evenly among all.
    #[must_use]
    pub fn is_active(&self, number: u32) -> bool {
        self.active_below(number + 1) > self.active_below(number)
    }

    /// Whether connection number `number` is one of the slow readers: the last ones.
    #[must_use]
    pub fn is_slow_reader(&self, number: u32) -> bool {
        number >= self.regular()
    }

    /// Where connection number `number` stands in the row in which constant arrivals let the active ones send: 0 is the
    /// first, nearly 1 the last.
    ///
    /// A thread's connections have consecutive numbers. At a low rate they stand one behind the other, so that one
    /// thread at a time is awake; at a high rate the threads have to share it at every moment.
    #[must_use]
    pub fn phase_of(&self, number: u32) -> f64 {
        let (place, active) = (self.active_below(number), u64::from(self.active.max(1)));
        let is_high = self.traffic.open.as_ref().is_some_and(|open| open.rate >= SHARED_RATE);
        let stride = if is_high { stride(active) } else { 1 };
        (place * stride % active) as f64 / active as f64
    }

    /// The number of active connections with a smaller number.
    fn active_below(&self, number: u32) -> u64 {
        let regular = self.regular();
        share_u64(u64::from(self.active), u64::from(number.min(regular)), u64::from(regular))
    }

    /// The number of connections that are not slow readers.
    fn regular(&self) -> u32 {
        self.connections.saturating_sub(self.upkeep.slow_readers)
    }
}

impl Part {
    /// How many of `count` connections are this thread's, if all threads share them as they share all `connections` of the
    /// run. The threads' shares add up to `count`.
    #[must_use]
    pub fn share_of(&self, count: u32, connections: u32) -> u32 {
        let below = |number: u32| share_u64(u64::from(count), u64::from(number), u64::from(connections));
        (below(self.first + self.connections) - below(self.first)) as u32
    }
}

/// `part` of `parts` equal parts of `whole`, rounded down so that consecutive parts never lose a unit.
fn share(whole: u64, part: u32, parts: u32) -> u64 {
    share_u64(whole, u64::from(part), u64::from(parts))
}

fn share_u64(whole: u64, part: u64, parts: u64) -> u64 {
    (u128::from(whole) * u128::from(part)).checked_div(u128::from(parts)).unwrap_or(0) as u64
}

/// How many threads a run needs: one for each processor, and as many as it takes for each ring's table of direct
/// descriptors to stay within the limit.
#[must_use]
pub fn threads_needed(connections: u32, cpus: u32, descriptor_limit: u64) -> u32 {
    let limit = u32::try_from(descriptor_limit).unwrap_or(u32::MAX).clamp(1, MAX_DIRECT_DESCRIPTORS);
    connections.div_ceil(limit).max(cpus.min(connections)).max(1)
}

/// The kernel's own limit on a ring's table (`IORING_MAX_FIXED_FILES`).
const MAX_DIRECT_DESCRIPTORS: u32 = 1 << 20;

/// From so many messages a second on, no thread is to send all of them for a time by itself.
const SHARED_RATE: f64 = 50_000.0;

/// A step with which one gets to each of `count` places in a circle once, and early to all parts of it.
fn stride(count: u64) -> u64 {
    let golden = (count as f64 * 0.618) as u64;
    (golden.max(1)..=count).find(|&step| greatest_common_divisor(step, count) == 1).unwrap_or(1)
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn scenario(connections: u32, active: u32, limit: Option<u64>) -> Scenario {
        let timeout = Duration::from_secs(1);
        Scenario {
            connections,
            connect: Connect { rate: 0.0, window: 10, timeout, greet: true },
            active,
            traffic: Traffic {
                sizes: 16.into(),
                depth: 1,
                open: None,
                text: false,
                own: None,
                expect: Expect::Echo,
                welcomes: 0,
                compressibility: 0,
                deflate: None,
                limit,
            },
            upkeep: Upkeep::default(),
            plan: Plan::default(),
            warmup: timeout,
            duration: timeout,
            drain_timeout: timeout,
            close_timeout: timeout,
            portion: Portion::default(),
        }
    }

    #[test]
    fn members_have_different_connections_and_together_the_totals() {
        for (connections, members, active, slow) in
            [(10, 3, 10, 0), (1_000_003, 8, 333_333, 7), (7, 7, 2, 5), (100, 1, 100, 0), (11, 4, 5, 6)]
        {
            let mut whole = scenario(connections, active, Some(1001));
            whole.upkeep.slow_readers = slow;
            let mut next = 0;
            let (mut sums, mut shares) = ([0; 5], (0.0, 0.0));
            for member in 0..members {
                let it = Scenario { portion: Portion { member, members }, ..whole.clone() };
                let own = it.own();
                let numbers = it.portion.of(connections);
                assert_eq!((numbers.start, numbers.len() as u32), (next, own.connections));
                assert!(own.connections.abs_diff(connections / members) <= 1);
                next = numbers.end;
                let all = [
                    own.connections,
                    own.connections_at_first,
                    own.active,
                    own.slow_readers,
                    own.limit.unwrap() as u32,
                ];
                sums.iter_mut().zip(all).for_each(|(sum, value)| *sum += value);
                shares = (shares.0 + own.share, shares.1 + own.active_share);
                let parts = it.divide(3.min(own.connections));
                assert_eq!(parts[0].first, numbers.start);
                assert_eq!(parts.iter().map(|part| part.connections).sum::<u32>(), own.connections);
                assert_eq!(parts.iter().map(|part| part.limit.unwrap()).sum::<u64>(), own.limit.unwrap());
            }
            assert_eq!(sums, [connections, connections, active, slow, 1001], "{connections} by {members}");
            assert!((shares.0 - 1.0).abs() < 1e-9 && (shares.1 - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn parts_cover_everything_once() {
        for (connections, threads) in [(1, 1), (10, 3), (1_000_000, 50), (7, 7)] {
            let scenario = scenario(connections, connections.div_ceil(3), Some(1000));
            let parts = scenario.divide(threads);
            let mut next = 0;
            for part in &parts {
                assert_eq!(part.first, next);
                next += part.connections;
            }
            assert_eq!(next, connections);
            assert_eq!(parts.iter().map(|part| part.limit.unwrap()).sum::<u64>(), 1000);
        }
    }

    #[test]
    fn as_many_connections_are_active_as_asked_for() {
        for active in [0, 1, 33, 100] {
            let scenario = scenario(100, active, None);
            assert_eq!((0..100).filter(|&number| scenario.is_active(number)).count(), active as usize);
        }
    }

    #[test]
    fn at_a_high_rate_every_thread_sends_at_every_moment() {
        let (active, threads) = (1000, 10);
        let phases = |rate| {
            let mut scenario = scenario(active, active, None);
            scenario.traffic.open = Some(OpenLoop { rate, arrivals: Arrivals::Constant });
            (0..active).map(|number| (scenario.phase_of(number) * f64::from(active)).round() as u32).collect::<Vec<_>>()
        };
        assert_eq!(phases(1000.0), (0..active).collect::<Vec<_>>());
        let mut high = phases(1e6);
        for of_one_thread in high.chunks((active / threads) as usize) {
            for tenth in 0..10 {
                let moment = tenth * active / 10..(tenth + 1) * active / 10;
                let count = of_one_thread.iter().filter(|phase| moment.contains(phase)).count();
                assert!((5..=15).contains(&count), "{count} of 100 in one tenth of the time");
            }
        }
        high.sort_unstable();
        assert_eq!(high, (0..active).collect::<Vec<_>>(), "equal intervals");
    }

    #[test]
    fn threads_follow_processors_and_the_descriptor_limit() {
        assert_eq!(threads_needed(100, 2, 20_000), 2);
        assert_eq!(threads_needed(1, 8, 20_000), 1);
        assert_eq!(threads_needed(1_000_000, 2, 20_000), 50);
        assert_eq!(threads_needed(1_000_000, 2, u64::MAX), 2);
    }
}
