//! The scheduler: one cost unit, one budget, two lists.
//!
//! *Foreground*: interactive connections, in the order in which their input was noticed. *Background*: bulk senders, slow
//! readers, handshakes and teardowns, by deficit round robin. In each turn of an engine's loop the background gets one
//! [`BUDGET`], independent of the foreground; a connection whose receives amount to a [`QUANTUM`] without emptying its
//! socket is in the background until its deficit is paid off, and one with more input behind its request until a receive has
//! shown what that is. Hence the promise:
//!
//! **While an interactive connection is active, a worker spends at most one budget a turn on the background, on average.
//! Between the turn in which a message of an interactive connection is noticed and the enter that sends its echo, if no more
//! of these wait than a turn receives from, it spends what it has planned to be one budget and one receive; and one receive
//! of at most 64 KiB on each interactive connection whose input was noticed before: some 1 quantum in large frames, 14 in
//! empty ones, 210 in renewals of TLS keys; and another one if it inflates.**
//!
//! The cost of a receive is known only when it has completed. Peers that switch from large frames to masses of small ones,
//! or bring masses at once when they have just connected, cost more than planned, and the following turns have that much
//! less, however many these are: in the simulation (`engine/uring/simulation/promise.rs`) two budgets on average before an echo, and 15 at worst.
//! Pending output is sent as soon as a slow reader makes room for it, outside the budget (except for bulk senders in the
//! epoll engine). The memory that it takes in a turn counts up to 50 kB, three quarters of a budget; the rest is outside, too.

use std::num::NonZeroU32;

/// Nominal nanoseconds of a slow core (2.8 GHz, both ends on one machine) that a connection's work takes in worker and
/// kernel: fitted to the CPU time per echo of `loadtest/compare/engines.toml`.
pub(crate) type Cost = u32;

/// A receive and the send of its echo, without their bytes and frames: an echo of 128 B, one at a time.
pub(crate) const RECEIVE: Cost = 4_000;
/// A frame: the echoes of 16 messages of 128 B that come in one receive, less one receive, by 15.
const FRAME: Cost = 60;
/// The bytes of a receive, a quarter of this for each: the echo of 1 MiB in pieces of 64 KiB, less the receives.
const FOUR_BYTES: Cost = 3;
/// Four bytes of additional memory for pending output: the kernel clears pages at the first write, which took a worker 1.6
/// ns a byte while 1,000 clients read nothing (`scripts/hostile never-reading`, `perf record`).
const FOUR_BYTES_OF_MEMORY: Cost = 6;
/// An upgrade request and its answer, beyond the receive: the connections of `ringload --reconnect-every`, halved.
pub(crate) const HANDSHAKE: Cost = 6_000;
/// The client's first TLS message and its answer: two operations on X25519 and a signature by P-256 (`openssl speed`, and
/// `scripts/tls-cost` for the whole handshake). `cargo bench --bench tls` measures all costs of TLS without I/O: on
/// a virtual AMD EPYC 137 and 51 µs for the two messages, 0.40 µs for a record of 134 B opened and sealed, 9 µs for a renewal. The
/// costs of the second message and of a renewal are below that, as they were estimated.
pub(crate) const TLS_HANDSHAKE: Cost = 100_000;
/// The same while no interactive connection is active: four in a turn, so that one which becomes active waits for half a
/// millisecond. With one a turn, on busy processors that the worker yields between turns, a worker made 17 handshakes a
/// second.
pub(crate) const TLS_HANDSHAKE_AT_REST: Cost = TLS_HANDSHAKE / 4;
/// The client's second message: key derivation, and the tickets.
pub(crate) const TLS_FINISH: Cost = 15_000;
/// A TLS record opened, and the one with its echo sealed, without their bytes; and a renewal of keys, which are derived and
/// expanded in both directions (`scripts/tls-cost` has the difference to plain connections).
pub(crate) const TLS_RECORD: Cost = 400;
pub(crate) const TLS_RENEWAL: Cost = 4_000;
/// The end of a connection: cancel, close, and the kernel's release of the socket; the other half.
pub(crate) const END: Cost = 8_000;
/// A deadline that is met: a Ping, a Close frame, or a close.
pub(crate) const DEADLINE: Cost = 4_000;
/// A check of a timer, or of a connection that is not served: some cache misses.
pub(crate) const LOOK: Cost = 100;

/// The budget of the background in a turn.
pub(crate) const BUDGET: Cost = 100_000;
/// The quantum of a connection before others have their turn: a receive of 64 KiB and its echo.
pub(crate) const QUANTUM: Cost = 50_000;
/// Bytes of such a receive.
const QUANTUM_BYTES: u32 = 64 << 10;
/// Limit of a receive from a connection that may turn out to be a slow reader, when much of the total is taken.
const SMALL_RECEIVE: u32 = 16 << 10;
/// Smallest limit of a receive: for a bulk sender of small frames, and for a connection that may turn out to be a slow
/// reader when all of the total is taken. A page; with less, a receive costs more than its bytes.
pub(crate) const LEAST_RECEIVE: u32 = 4 << 10;

/// Limit of a receive from a connection in its handshake, while an interactive one is active: browsers' requests fit, but
/// few frames behind a request, for which the turn has planned no cost.
pub(crate) const UPGRADE_RECEIVE: u32 = 1 << 10;

/// The unit of a connection's debt: a debt of 254 is 32 quanta, more than 64 KiB of empty frames cost.
const DEBT_UNIT: Cost = QUANTUM / 8;

/// In place of a debt: its request is answered, and it has more input, which may be masses.
pub(super) const UNTRIED: u8 = u8::MAX;

/// The cost of a receive, including its echo.
#[inline]
pub(crate) fn cost_of_receive(bytes: u32, frames: u32) -> Cost {
    RECEIVE.saturating_add(bytes / 4 * FOUR_BYTES).saturating_add(frames.saturating_mul(FRAME))
}

/// The cost of this many bytes of additional memory for pending output, cut at three quarters of a budget, so that something
/// is left in each turn, however much it moves.
#[inline]
pub(crate) fn cost_of_memory(bytes: usize) -> Cost {
    u32::try_from(bytes / 4).unwrap_or(u32::MAX).saturating_mul(FOUR_BYTES_OF_MEMORY).min(BUDGET / 4 * 3)
}

/// The rest of a turn's budget for the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget(i64);

impl Budget {
    /// The budget of a turn, less the overrun of the turns before. While no interactive connection is active it is at least
    /// a receive: no message waits for that, and turns without work would cost bulk senders time.
    pub(crate) fn of_turn(before: Self, has_interactive: bool) -> Self {
        let budget = before.0.min(0) + i64::from(BUDGET);
        Self(if has_interactive { budget } else { budget.max(i64::from(RECEIVE)) })
    }

    /// Before the first turn.
    pub(crate) const NONE: Self = Self(0);

    #[inline]
    pub(crate) fn is_left(self) -> bool {
        self.0 > 0
    }

    #[inline]
    pub(crate) fn spend(&mut self, cost: Cost) {
        self.0 -= i64::from(cost);
    }

    /// What was planned at the cost `spent` costs `price` by now.
    pub(crate) fn reprice(&mut self, spent: Cost, price: Cost) {
        self.0 += i64::from(spent) - i64::from(price);
    }

    /// Work with the planned cost `planned` has cost `cost`. What turns have planned too much for does not add up to more than
    /// a budget, which the next one could spend at once.
    #[inline]
    pub(crate) fn correct(&mut self, planned: Cost, cost: Cost) {
        self.0 = (self.0 + i64::from(planned) - i64::from(cost)).min(i64::from(BUDGET));
    }
}

/// What is planned for a receive. Its engine keeps that until the receive has completed and its cost is known: in the
/// meantime the connection may have become another one to the scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Planned {
    /// Nothing: it is not one of the background's.
    #[default]
    Nothing,
    /// A receive and hardly more.
    Receive,
    /// What receives from bulk senders and slow readers have lately cost.
    Usual,
    /// The first one behind a request, or the last one before an end, which may bring masses: the same, but a quantum at
    /// least.
    Masses,
    /// The answer to the first message of a TLS client; and the same while no interactive connection is active.
    Handshake,
    HandshakeAtRest,
}

impl Planned {
    /// All of them, each at the place of its number.
    pub(crate) const ALL: [Self; 6] =
        [Self::Nothing, Self::Receive, Self::Usual, Self::Masses, Self::Handshake, Self::HandshakeAtRest];
}

/// What was planned for a receive that may outlast its turn, and what was spent on it: the price of a plan changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(super) planned: Planned,
    pub(super) spent: Cost,
}

/// A connection's debt after a receive, and whether it sends in bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) debt: u8,
    pub(super) is_bulk: bool,
}

impl Standing {
    /// `has_more`: the socket holds more, as far as is known.
    #[inline]
    pub(super) fn after(debt: u8, cost: Cost, has_more: bool) -> Self {
        let debt = if debt == UNTRIED { 0 } else { debt };
        if cost < DEBT_UNIT && (debt == 0 || !has_more) {
            return Self { debt: 0, is_bulk: false };
        }
        let owed = u32::from(debt).saturating_add(cost / DEBT_UNIT);
        let is_bulk = owed >= QUANTUM / DEBT_UNIT;
        // Without more input a deficit is dropped, unless one receive alone exceeded the quantum.
        let debt = if has_more || is_bulk { owed.min((UNTRIED - 1).into()) as u8 } else { 0 };
        Self { debt, is_bulk }
    }

    /// The debt at the next turn of the connection: less by a quantum.
    #[inline]
    pub(super) fn pay(debt: u8) -> u8 {
        if debt == UNTRIED { debt } else { debt.saturating_sub((QUANTUM / DEBT_UNIT) as u8) }
    }

    /// Whether a debt leaves part of the connection's turn.
    #[inline]
    pub(super) fn may_be_served(debt: u8) -> bool {
        debt < (QUANTUM / DEBT_UNIT) as u8 || debt == UNTRIED
    }
}

/// Limits of receives.
#[derive(Debug)]
pub(crate) struct Shares {
    /// The tick in which an interactive connection was last received from.
    interactive_at: u32,
    has_been_interactive: bool,
    /// Recent cost of a byte of bulk senders, in 1/64 of the cost unit: high when their frames are small.
    bulk_byte: u32,
}

impl Shares {
    pub(super) const NEW: Self =
        Self { interactive_at: 0, has_been_interactive: false, bulk_byte: FOUR_BYTES * 64 / 4 };

    #[inline]
    pub(super) fn see_interactive(&mut self, now: u32) {
        self.interactive_at = now;
        self.has_been_interactive = true;
    }

    pub(super) fn see_bulk(&mut self, bytes: u32, cost: Cost) {
        let byte = (u64::from(cost.saturating_sub(RECEIVE)) * 64 / u64::from(bytes.max(1))) as u32;
        self.bulk_byte = self.bulk_byte - self.bulk_byte / 4 + byte / 4;
    }

    /// Whether an interactive connection is active: one was received from in this tick or the one before.
    #[inline]
    pub(crate) fn has_interactive(&self, now: u32) -> bool {
        self.has_been_interactive && now.wrapping_sub(self.interactive_at) <= 1
    }

    /// Bytes that may be received at once; `None`: no limit, since no interactive connection is active.
    #[inline]
    pub(super) fn at_most(&self, is_bulk: bool, is_backlog_large: bool, now: u32) -> Option<NonZeroU32> {
        if !self.has_interactive(now) {
            return is_backlog_large.then_some(NonZeroU32::new(SMALL_RECEIVE)?);
        }
        let mut at_most = if is_backlog_large { SMALL_RECEIVE } else { QUANTUM_BYTES };
        if is_bulk {
            let affordable = QUANTUM * 64 / self.bulk_byte.max(1);
            at_most = at_most.min(affordable.max(LEAST_RECEIVE));
        }
        NonZeroU32::new(at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_and_short_bursts_are_interactive() {
        for (bytes, frames) in [(134, 1), (16 * 134, 16), (16 << 10, 1)] {
            let standing = Standing::after(0, cost_of_receive(bytes, frames), false);
            assert_eq!(standing, Standing { debt: 0, is_bulk: false }, "{bytes} in {frames}");
        }
    }

    #[test]
    fn a_quantum_without_a_pause_is_bulk() {
        let cost = cost_of_receive(16 << 10, 1);
        let mut standing = Standing { debt: 0, is_bulk: false };
        let mut spent = 0;
        while !standing.is_bulk {
            standing = Standing::after(standing.debt, cost, true);
            spent += cost;
        }
        assert!((QUANTUM / 2..=2 * QUANTUM).contains(&spent), "{spent}");
        assert!(Standing::after(0, cost_of_receive(6 << 10, 1024), false).is_bulk, "small frames in masses");
    }

    #[test]
    fn a_debt_is_paid_by_turns() {
        let standing = Standing::after(0, 3 * QUANTUM, true);
        assert!(standing.is_bulk);
        let (mut debt, mut turns) = (standing.debt, 0);
        while debt > 0 {
            debt = Standing::pay(debt);
            turns += 1;
        }
        assert_eq!(turns, 3);
    }

    #[test]
    fn what_a_turn_overspends_the_next_ones_lack() {
        let mut budget = Budget::of_turn(Budget::NONE, true);
        budget.spend(BUDGET + QUANTUM);
        assert!(!budget.is_left());
        let mut budget = Budget::of_turn(budget, true);
        budget.spend(BUDGET - QUANTUM);
        assert!(!budget.is_left());
    }

    #[test]
    fn an_overrun_of_many_budgets_is_deducted_from_as_many_turns_while_an_interactive_connection_is_active() {
        let mut budget = Budget::of_turn(Budget::NONE, true);
        budget.spend(7 * BUDGET);
        assert!(Budget::of_turn(budget, false).is_left());
        let mut is_out = || {
            budget = Budget::of_turn(budget, true);
            !budget.is_left()
        };
        assert_eq!((0..100).take_while(|_| is_out()).count(), 6);
    }

    #[test]
    fn what_was_planned_too_much_for_does_not_add_up() {
        let mut budget = Budget::of_turn(Budget::NONE, true);
        (0..10).for_each(|_| budget.correct(BUDGET, RECEIVE));
        assert_eq!(budget, Budget::of_turn(Budget::NONE, true));
    }

    #[test]
    fn memory_alone_does_not_take_all_of_a_budget() {
        let mut budget = Budget::NONE;
        for _ in 0..100 {
            budget.spend(cost_of_memory(usize::MAX));
            budget = Budget::of_turn(budget, true);
            assert!(budget.is_left());
        }
    }
}
