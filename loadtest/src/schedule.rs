//! The schedule of an open loop: when messages are due, and on which connection.
//!
//! A connection's messages follow each other at intervals that are a function of the connection's number and of when the
//! message before was due. So no state is kept for messages that are due but not sent, or sent but not echoed: two clocks
//! per connection walk over the same intervals, one when messages are sent, one when they are settled. However long a server
//! stalls, its backlog takes no memory, and each echo still counts from when its message was due.
//!
//! No I/O and no clock of its own: time is an argument, in nanoseconds since a moment that is the same for all threads.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::driver::plan::Ramp;
use crate::message::SplitMix;
use crate::scenario::{Arrivals, OpenLoop};

/// All open-loop connections of one thread.
#[derive(Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    /// Mean time between two messages of one connection.
    mean_ns: f64,
    clocks: Vec<Clock>,
    free: Vec<ClockIndex>,
    wheel: Wheel,
    /// If the rate changes, all times in clocks and wheel are load time.
    warp: Option<Warp>,
}

/// Load time, which passes as fast as messages are wanted: at the open loop's rate as fast as real time does, at half
/// that rate half as fast. In load time the rate is always the same.
#[derive(Debug)]
struct Warp {
    plan: Ramp,
    /// The rate at which load time is as fast as real time.
    rate: f64,
    /// When load began, in real time.
    origin_ns: u64,
}

impl Warp {
    /// The load time at `now_ns`.
    fn load_ns(&self, now_ns: u64) -> u64 {
        (self.plan.area_until(now_ns.saturating_sub(self.origin_ns) as f64) / self.rate) as u64
    }

    /// When it is that load time; `None` if it never is.
    fn real_ns(&self, load_ns: u64) -> Option<u64> {
        // The middle of the nanosecond, and the first real one that is not before it: the way back must not lead to an
        // earlier time, at which nothing would be due yet.
        let area = (load_ns as f64 + 0.5) * self.rate;
        self.plan.time_of_area(area).map(|time_ns| self.origin_ns.saturating_add(time_ns.ceil() as u64))
    }
}

/// Names one connection's clocks.
pub type ClockIndex = u32;

/// One connection's place in its sequence of due times.
#[derive(Debug)]
struct Clock {
    /// When the next message to send is due.
    next_ns: u64,
    /// When the oldest message that is not settled was due.
    oldest_ns: u64,
    /// The connection, as its owner knows it; [`NO_OWNER`] if it is gone.
    key: u32,
    /// The next clock in the same slot of the wheel, [`NONE`], [`UNQUEUED`] or [`POPPED`].
    link: u32,
}

impl Clock {
    /// The number of messages due from `from_ns` to `now_ns` and not sent, if they come every `mean_ns`.
    fn overdue(&self, from_ns: u64, now_ns: u64, mean_ns: f64) -> u64 {
        let count = |until_ns: u64| until_ns.checked_sub(self.next_ns).map_or(0, |ns| 1 + (ns as f64 / mean_ns) as u64);
        count(now_ns) - from_ns.checked_sub(1).map_or(0, count).min(count(now_ns))
    }

    fn is_queued(&self) -> bool {
        self.link != UNQUEUED && self.link != POPPED
    }
}

const NO_OWNER: u32 = u32::MAX;
const NONE: u32 = u32::MAX;
const UNQUEUED: u32 = u32::MAX - 1;
/// Not queued either: it has just been named by [`Schedule::pop`].
const POPPED: u32 = u32::MAX - 2;

/// A message that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The connection that is to send it.
    pub key: u32,
    /// Since when.
    pub due_ns: u64,
}

impl Schedule {
    /// For connections of which `active` share the rate of `open`; `now_ns` is not later than any time to come.
    #[must_use]
    pub fn new(open: &OpenLoop, active: u32, now_ns: u64) -> Self {
        let mean_ns = (f64::from(active.max(1)) * 1e9 / open.rate).max(1.0);
        Self {
            arrivals: open.arrivals,
            mean_ns,
            clocks: Vec::new(),
            free: Vec::new(),
            wheel: Wheel::new(mean_ns, now_ns),
            warp: None,
        }
    }

    /// The same with a changing rate, from [`Schedule::begin`] on. `open` has the highest one.
    #[must_use]
    pub fn planned(open: &OpenLoop, active: u32, plan: &Ramp) -> Self {
        let warp = Some(Warp { plan: plan.clone(), rate: open.rate, origin_ns: 0 });
        Self { warp, ..Self::new(open, active, 0) }
    }

    /// Load begins. To be called before any connection is started.
    pub fn begin(&mut self, now_ns: u64) {
        if let Some(warp) = &mut self.warp {
            warp.origin_ns = now_ns;
        }
    }

    #[inline]
    fn load_ns(&self, now_ns: u64) -> u64 {
        self.warp.as_ref().map_or(now_ns, |warp| warp.load_ns(now_ns))
    }

    /// The opposite; `None` for a time that never comes.
    #[inline]
    fn real_ns(&self, load_ns: u64) -> Option<u64> {
        self.warp.as_ref().map_or(Some(load_ns), |warp| warp.real_ns(load_ns))
    }

    /// Starts the clocks of connection `key`, numbered `number` in the whole run: its first message is due within one
    /// mean interval. `phase` (0 to 1) spreads constant arrivals, so that connections do not send all at once.
    pub fn start(&mut self, key: u32, number: u32, phase: f64, now_ns: u64) -> ClockIndex {
        let now_ns = self.load_ns(now_ns);
        let first_ns = match self.arrivals {
            Arrivals::Constant => {
                // A connection that is opened again keeps its place: to begin anew would be to send more than is due.
                let periods = (now_ns as f64 / self.mean_ns - phase).ceil();
                ((periods + phase) * self.mean_ns).round() as u64
            }
            Arrivals::Poisson => now_ns + self.interval_ns(number, now_ns),
        };
        let clock = Clock { next_ns: first_ns, oldest_ns: first_ns, key, link: UNQUEUED };
        let index = self.free.pop().unwrap_or(self.clocks.len() as ClockIndex);
        match self.clocks.get_mut(index as usize) {
            Some(free) => *free = clock,
            None => self.clocks.push(clock),
        }
        index
    }

    /// The connection is gone; its clocks may be given to another. Returns how many of its messages were due at `now_ns` and
    /// not sent.
    pub fn stop(&mut self, index: ClockIndex, now_ns: u64) -> u64 {
        let missed = self.clocks[index as usize].overdue(0, self.load_ns(now_ns), self.mean_ns);
        let clock = &mut self.clocks[index as usize];
        clock.key = NO_OWNER;
        // A queued clock is freed when the wheel gives it back.
        if !clock.is_queued() {
            self.free.push(index);
        }
        missed
    }

    /// Whether the connection's next message is due.
    #[inline]
    #[must_use]
    pub fn is_due(&self, index: ClockIndex, now_ns: u64) -> bool {
        self.clocks[index as usize].next_ns <= self.load_ns(now_ns)
    }

    /// When the connection's next message, which is due, became so.
    #[inline]
    #[must_use]
    pub fn due_ns(&self, index: ClockIndex) -> u64 {
        self.real_ns(self.clocks[index as usize].next_ns).unwrap_or(u64::MAX)
    }

    /// Whether the connection's next message has been waiting for nothing but its time: it was queued, or has just been
    /// named by [`Schedule::pop`].
    #[inline]
    #[must_use]
    pub fn has_waited_for_time(&self, index: ClockIndex) -> bool {
        self.clocks[index as usize].link != UNQUEUED
    }

    /// The connection's next message is due, and waits for something else.
    #[inline]
    pub fn hold(&mut self, index: ClockIndex) {
        let clock = &mut self.clocks[index as usize];
        if clock.link == POPPED {
            clock.link = UNQUEUED;
        }
    }

    /// The next message of connection `number` is sent.
    #[inline]
    pub fn sent(&mut self, index: ClockIndex, number: u32) {
        let interval_ns = self.interval_ns(number, self.clocks[index as usize].next_ns);
        self.clocks[index as usize].next_ns += interval_ns;
    }

    /// The oldest message of connection `number` is settled: when it was due.
    #[inline]
    pub fn settled(&mut self, index: ClockIndex, number: u32) -> u64 {
        let interval_ns = self.interval_ns(number, self.clocks[index as usize].oldest_ns);
        let clock = &mut self.clocks[index as usize];
        let due_ns = clock.oldest_ns;
        clock.oldest_ns += interval_ns;
        self.real_ns(due_ns).unwrap_or(u64::MAX)
    }

    /// Asks for the connection to be named by [`Schedule::pop`] when its next message is due.
    #[inline]
    pub fn queue(&mut self, index: ClockIndex) {
        if !self.clocks[index as usize].is_queued() {
            self.wheel.insert(&mut self.clocks, index);
        }
    }

    /// The next connection whose turn has come at `now_ns`.
    pub fn pop(&mut self, now_ns: u64) -> Option<Due> {
        let now_ns = self.load_ns(now_ns);
        self.wheel.advance(&mut self.clocks, now_ns);
        while let Some(&Reverse((due_ns, index))) = self.wheel.near.peek()
            && due_ns <= now_ns
        {
            self.wheel.near.pop();
            let clock = &mut self.clocks[index as usize];
            clock.link = POPPED;
            if clock.key != NO_OWNER {
                let key = clock.key;
                return Some(Due { key, due_ns: self.real_ns(due_ns).unwrap_or(u64::MAX) });
            }
            self.free.push(index);
        }
        None
    }

    /// When the next message is due, and the one behind it; `None` if nothing is queued.
    #[must_use]
    pub fn upcoming(&mut self) -> (Option<u64>, Option<u64>) {
        self.wheel.look_ahead(&mut self.clocks);
        let (next_ns, after_ns) = self.wheel.upcoming();
        let real_ns = |load_ns| self.real_ns(load_ns);
        (next_ns.and_then(real_ns), after_ns.and_then(real_ns))
    }

    /// The number of messages due from `from_ns` to `now_ns` and not sent.
    #[must_use]
    pub fn overdue(&self, from_ns: u64, now_ns: u64) -> u64 {
        let (from_ns, now_ns) = (self.load_ns(from_ns), self.load_ns(now_ns));
        let live = self.clocks.iter().filter(|clock| clock.key != NO_OWNER);
        live.map(|clock| clock.overdue(from_ns, now_ns, self.mean_ns)).sum()
    }

    /// The time between the message of connection `number` that is due at `due_ns` and the one behind it. Not a function of the
    /// message's number: that begins anew when a connection is opened again, and with it all intervals would.
    #[inline]
    fn interval_ns(&self, number: u32, due_ns: u64) -> u64 {
        match self.arrivals {
            Arrivals::Constant => self.mean_ns as u64,
            Arrivals::Poisson => ((exponential(number, due_ns) * self.mean_ns) as u64).max(1),
        }
    }
}

/// A number from the exponential distribution with mean 1, always the same for the same message: the one that is due at `due_ns`.
fn exponential(number: u32, due_ns: u64) -> f64 {
    // Not the numbers that choose a message's bytes.
    let state = !due_ns.wrapping_add(u64::from(number) << 40);
    // 53 bits, shifted by half a step so that neither 0 nor 1 occurs.
    let uniform = ((SplitMix(state).next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln()
}

/// Clocks by the time that is next: a wheel of coarse slots, and a heap of what is due in the current one. Every clock
/// goes once into a slot, once into a heap that is short because it covers one slot only, and once out.
#[derive(Debug)]
struct Wheel {
    /// A slot's length is two to the power of this, in nanoseconds.
    shift: u32,
    /// The number of the current slot since time 0.
    current: u64,
    /// The first clock of each slot, or [`NONE`]. A clock that is due more than a revolution ahead shares the slot of
    /// those that come before it, and stays there.
    slots: Box<[u32; SLOTS]>,
    /// The number of clocks in slots.
    waiting: usize,
    /// Due in the current slot or before.
    near: BinaryHeap<Reverse<(u64, ClockIndex)>>,
}

const SLOTS: usize = 512;

/// Slots for one mean interval: most clocks are due within the revolution, and a slot holds few of them.
const SLOTS_PER_INTERVAL: f64 = 64.0;

/// Shortest and longest slot: 65 µs and 1.07 s.
const MIN_SHIFT: u32 = 16;
const MAX_SHIFT: u32 = 30;

impl Wheel {
    fn new(mean_ns: f64, now_ns: u64) -> Self {
        let shift = ((mean_ns / SLOTS_PER_INTERVAL) as u64).max(1).ilog2().clamp(MIN_SHIFT, MAX_SHIFT);
        Self { shift, current: now_ns >> shift, slots: Box::new([NONE; SLOTS]), waiting: 0, near: BinaryHeap::new() }
    }

    fn insert(&mut self, clocks: &mut [Clock], index: ClockIndex) {
        let clock = &mut clocks[index as usize];
        let slot = clock.next_ns >> self.shift;
        if slot <= self.current {
            clock.link = NONE;
            self.near.push(Reverse((clock.next_ns, index)));
        } else {
            let first = &mut self.slots[slot as usize % SLOTS];
            clock.link = std::mem::replace(first, index);
            self.waiting += 1;
        }
    }

    /// Makes the slot of `now_ns` the current one, unless a later one is already.
    #[inline]
    fn advance(&mut self, clocks: &mut [Clock], now_ns: u64) {
        let target = now_ns >> self.shift;
        // A revolution has passed every slot.
        let steps = target.saturating_sub(self.current).min(SLOTS as u64);
        self.current = self.current.max(target - steps);
        for _ in 0..steps {
            self.step(clocks);
        }
    }

    /// Makes the next slot the current one.
    fn step(&mut self, clocks: &mut [Clock]) {
        self.current += 1;
        let mut index = std::mem::replace(&mut self.slots[self.current as usize % SLOTS], NONE);
        while index != NONE {
            let next = clocks[index as usize].link;
            self.waiting -= 1;
            self.insert(clocks, index);
            index = next;
        }
    }

    /// Goes ahead of time until it is known what is due next, and what behind it.
    fn look_ahead(&mut self, clocks: &mut [Clock]) {
        for _ in 0..SLOTS {
            if self.near.len() >= 2 || self.waiting == 0 {
                return;
            }
            self.step(clocks);
        }
    }

    fn upcoming(&self) -> (Option<u64>, Option<u64>) {
        // The root of a binary heap, and the better one of its children.
        let near = self.near.as_slice();
        let due_ns = |&Reverse((due_ns, _)): &Reverse<(u64, ClockIndex)>| due_ns;
        let after_ns = near.iter().skip(1).take(2).map(due_ns).min();
        // Only what is due more than a revolution ahead has not been found: look again then.
        let later_ns = (self.waiting > 0).then(|| (self.current + 1) << self.shift);
        (near.first().map(due_ns).or(later_ns), after_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn schedule(rate: f64, arrivals: Arrivals, active: u32) -> Schedule {
        Schedule::new(&OpenLoop { rate, arrivals }, active, 0)
    }

    /// Runs `connections` on a perfect server for `seconds`, looking when the schedule says so; what was due when.
    fn play(schedule: &mut Schedule, connections: u32, seconds: u64) -> Vec<(u32, u64)> {
        let clocks: Vec<_> = (0..connections)
            .map(|number| schedule.start(number, number, f64::from(number) / f64::from(connections), 0))
            .collect();
        for &clock in &clocks {
            schedule.queue(clock);
        }
        let mut sequences = vec![0; connections as usize];
        let mut played = Vec::new();
        while let Some(now_ns) = schedule.upcoming().0.filter(|&next_ns| next_ns < seconds * SECOND) {
            while let Some(due) = schedule.pop(now_ns) {
                assert_eq!(due.due_ns, now_ns, "neither early nor late");
                let (clock, sequence) = (clocks[due.key as usize], &mut sequences[due.key as usize]);
                schedule.sent(clock, due.key);
                assert_eq!(schedule.settled(clock, due.key), now_ns);
                *sequence += 1;
                schedule.queue(clock);
                played.push((due.key, now_ns));
            }
        }
        played
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_over_all_connections() {
        let played = play(&mut schedule(1000.0, Arrivals::Constant, 7), 7, 3);
        assert_eq!(played.len(), 3000);
        for pair in played.windows(2) {
            assert!((pair[1].1 - pair[0].1).abs_diff(SECOND / 1000) < 1000, "{pair:?}");
        }
    }

    #[test]
    fn a_planned_rate_is_kept_while_it_changes() {
        let stages = [(2, 1000.0), (2, 1000.0), (2, 0.0), (2, 0.0), (1, 500.0)];
        let plan = Ramp::new(0.0, &stages.map(|(time_s, rate)| (std::time::Duration::from_secs(time_s), rate)));
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let open = OpenLoop { rate: plan.max(), arrivals };
            let mut schedule = Schedule::planned(&open, 20, &plan);
            let origin_ns = 7 * SECOND;
            schedule.begin(origin_ns);
            let clocks: Vec<_> =
                (0..20_u32).map(|number| schedule.start(number, number, f64::from(number) / 20.0, origin_ns)).collect();
            for &clock in &clocks {
                schedule.queue(clock);
            }
            let mut per_second = [0_i64; 9];
            let mut turns = 0;
            while let Some(now_ns) = schedule.upcoming().0.filter(|&next_ns| next_ns < origin_ns + 9 * SECOND) {
                turns += 1;
                assert!(turns < 20_000, "nothing is due at {now_ns}, though it was announced");
                while let Some(due) = schedule.pop(now_ns) {
                    assert!(due.due_ns <= now_ns && due.due_ns + 1000 > now_ns, "{due:?} at {now_ns}");
                    let clock = clocks[due.key as usize];
                    assert!(schedule.is_due(clock, now_ns) && schedule.has_waited_for_time(clock));
                    assert_eq!(schedule.due_ns(clock), due.due_ns);
                    schedule.sent(clock, due.key);
                    assert_eq!(schedule.settled(clock, due.key), due.due_ns);
                    schedule.queue(clock);
                    per_second[((due.due_ns - origin_ns) / SECOND) as usize] += 1;
                }
            }
            for (second, expected) in [250, 750, 1000, 1000, 750, 250, 0, 0, 250].into_iter().enumerate() {
                let tolerance = if arrivals == Arrivals::Constant { 25 } else { 130 };
                assert!((per_second[second] - expected).abs() <= tolerance, "{arrivals:?} {second}: {per_second:?}");
            }
            assert_eq!(per_second[6..8], [0, 0], "{arrivals:?}");
        }
    }

    #[test]
    fn what_is_overdue_counts_from_a_moment_on() {
        let mut schedule = schedule(10.0, Arrivals::Constant, 1);
        schedule.start(0, 0, 0.5, 0);
        // Due at 50, 150, 250, ... ms.
        assert_eq!(schedule.overdue(0, SECOND), 10);
        assert_eq!(schedule.overdue(SECOND / 2, SECOND), 5);
        assert_eq!(schedule.overdue(SECOND / 20, SECOND), 10);
        assert_eq!(schedule.overdue(2 * SECOND, SECOND), 0);
    }

    #[test]
    fn rare_messages_of_many_connections_are_all_found_in_order() {
        // One message per connection in 100 s.
        let played = play(&mut schedule(100.0, Arrivals::Constant, 10_000), 10_000, 150);
        assert_eq!(played.len(), 15_000);
        assert!(played.is_sorted_by_key(|&(_, due_ns)| due_ns));
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_vary_as_they_should() {
        let played = play(&mut schedule(2000.0, Arrivals::Poisson, 50), 50, 20);
        assert!(played.len().abs_diff(40_000) < 800, "{}", played.len());
        let gaps: Vec<f64> = played.windows(2).map(|pair| (pair[1].1 - pair[0].1) as f64 / 500_000.0).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.95..1.05).contains(&mean) && (0.9..1.1).contains(&variance), "mean {mean}, variance {variance}");
    }

    #[test]
    fn a_stalled_connection_remembers_when_each_message_was_due() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let mut schedule = schedule(10.0, arrivals, 1);
            let clock = schedule.start(0, 3, 0.0, 0);
            let due: Vec<u64> = (0..100)
                .map(|_| {
                    let due_ns = schedule.clocks[0].next_ns;
                    schedule.sent(clock, 3);
                    due_ns
                })
                .collect();
            let settled: Vec<u64> = (0..100).map(|_| schedule.settled(clock, 3)).collect();
            assert_eq!(due, settled);
        }
    }

    #[test]
    fn connections_that_are_opened_again_and_again_keep_the_rate() {
        for (arrivals, tolerance) in [(Arrivals::Constant, 1), (Arrivals::Poisson, 30)] {
            let mut schedule = schedule(100.0, arrivals, 10);
            let mut sent = 0_u64;
            // Lives of 70 ms, where each connection sends every 100 ms.
            for life in 0..100 {
                let (begin_ns, end_ns) = (life * SECOND * 7 / 100, (life + 1) * SECOND * 7 / 100);
                let clocks: Vec<_> =
                    (0..10).map(|number| schedule.start(number, number, f64::from(number) / 10.0, begin_ns)).collect();
                for (number, &clock) in (0..).zip(&clocks) {
                    while schedule.clocks[clock as usize].next_ns < end_ns {
                        schedule.sent(clock, number);
                        sent += 1;
                    }
                    assert_eq!(schedule.stop(clock, end_ns - 1), 0);
                }
            }
            assert!(sent.abs_diff(700) <= 3 * tolerance, "{sent} instead of 700, {arrivals:?}");
        }
    }

    #[test]
    fn a_backlog_is_counted() {
        let mut schedule = schedule(1000.0, Arrivals::Constant, 2);
        let first = schedule.start(0, 0, 0.0, 0);
        schedule.start(1, 1, 0.0, 0);
        assert_eq!(schedule.overdue(0, SECOND - 1), 1000);
        assert_eq!(schedule.stop(first, SECOND - 1), 500);
        assert_eq!(schedule.overdue(0, SECOND - 1), 500);
    }

    #[test]
    fn clocks_are_used_again_but_never_while_they_are_queued() {
        let mut schedule = schedule(1000.0, Arrivals::Constant, 1);
        let queued = schedule.start(5, 5, 0.0, 0);
        schedule.queue(queued);
        schedule.stop(queued, 0);
        let other = schedule.start(6, 6, 0.0, 0);
        assert_ne!(queued, other);
        assert_eq!(schedule.pop(SECOND), None, "its connection is gone");
        assert_eq!(schedule.start(7, 7, 0.0, 0), queued);
    }

    #[test]
    fn what_is_due_behind_the_next_one_is_known() {
        let mut schedule = schedule(100.0, Arrivals::Constant, 1000);
        assert_eq!(schedule.upcoming(), (None, None));
        let mut due: Vec<u64> = (0..1000)
            .map(|number| {
                // In no order.
                let phase = f64::from(number * 379 % 1000) / 1000.0;
                let clock = schedule.start(number, number, phase, 0);
                schedule.queue(clock);
                schedule.clocks[clock as usize].next_ns
            })
            .collect();
        due.sort_unstable();
        for pair in due.windows(2) {
            assert_eq!(schedule.upcoming(), (Some(pair[0]), Some(pair[1])));
            assert_eq!(schedule.pop(pair[0]).map(|due| due.due_ns), Some(pair[0]));
        }
        assert_eq!(schedule.upcoming(), (due.last().copied(), None));
    }

    #[test]
    fn looking_ahead_lets_nobody_be_late_or_early() {
        let mut schedule = schedule(1.0, Arrivals::Constant, 2);
        let far = schedule.start(0, 0, 0.9, 0);
        schedule.queue(far);
        assert_eq!(schedule.upcoming(), (Some(1_800_000_000), None));
        // Nearer than what has been looked at already.
        let near = schedule.start(1, 1, 0.1, 0);
        schedule.queue(near);
        assert_eq!(schedule.upcoming(), (Some(200_000_000), Some(1_800_000_000)));
        assert_eq!(schedule.pop(200_000_000 - 1), None);
        assert_eq!(schedule.pop(200_000_000).map(|due| due.key), Some(1));
        assert_eq!(schedule.pop(1_800_000_000).map(|due| due.key), Some(0));
    }

    #[test]
    fn a_long_pause_skips_no_one() {
        let mut schedule = schedule(100.0, Arrivals::Constant, 100);
        for number in 0..100 {
            let clock = schedule.start(number, number, f64::from(number) / 100.0, 0);
            schedule.queue(clock);
        }
        let late = std::iter::from_fn(|| schedule.pop(3600 * SECOND)).count();
        assert_eq!(late, 100);
    }
}
