//! Admission: which worker accepts the next connection. All share the listeners; a worker accepts only with room and not
//! many more connections than the others.
//!
//! Each worker publishes its number of connections and of accepts in flight, and reads what the others have published; there
//! are no locks. Two rules keep the whole capacity in use:
//! - an accept begins only with a slot reserved for it, so that no worker gets more connections than it can hold;
//! - a worker without an accept in flight (full, ahead of the others, or short of resources) wakes one with room, unless
//!   another one accepts already ([`Share::relay`]).
//!
//! A worker publishes before it reads, sequentially consistent: of two that change at the same time, at least one sees the
//! other's change.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::notice::Notices;
use crate::worker::{Counter, Counters, WhenFull};

/// Maximal lead in connections, including accepts in flight, over the worker with the fewest, at which a worker still begins
/// an accept.
const LEAD_MAX: u32 = 16;

/// Pause of a worker whose accept has failed for a shortage.
pub(super) const RETRY: Duration = Duration::from_millis(10);

/// State shared by all workers.
pub(super) struct Admission {
    seats: Box<[Seat]>,
    /// The notice that all connections are taken has been, or is being, logged.
    is_full: AtomicBool,
    /// The notice that accepts fail has been logged.
    is_failing: AtomicBool,
    /// There is a doorkeeper, numbered after the workers, to be woken when all connections are taken.
    has_doorkeeper: bool,
    notices: Mutex<Notices>,
    /// Wakes the worker with this number; with the number after the last one, the doorkeeper.
    call: Box<dyn Fn(usize) + Send + Sync>,
}

/// The published state of a worker. Aligned so that two workers never write to the same cache line.
#[repr(align(128))]
struct Seat {
    capacity: u32,
    /// A [`State`].
    state: AtomicU64,
}

/// The published state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// Connections that have a slot.
    open: u32,
    /// Accepts in flight, each with a reserved slot.
    accepts: u32,
    /// Its accepts fail: it pauses before the next one.
    is_short: bool,
}

impl State {
    const SHORT: u64 = 1 << 31;

    fn encode(self) -> u64 {
        u64::from(self.open) << 32 | u64::from(self.accepts) | if self.is_short { Self::SHORT } else { 0 }
    }

    fn decode(bits: u64) -> Self {
        let accepts = (bits & (Self::SHORT - 1)) as u32;
        Self { open: (bits >> 32) as u32, accepts, is_short: bits & Self::SHORT != 0 }
    }

    /// Slots that are taken or reserved.
    fn claim(self) -> u32 {
        self.open + self.accepts
    }
}

impl Seat {
    fn state(&self) -> State {
        State::decode(self.state.load(Ordering::SeqCst))
    }

    /// Its state, if it can take further connections.
    fn with_room(&self) -> Option<State> {
        let state = self.state();
        (state.open < self.capacity && !state.is_short).then_some(state)
    }
}

impl Admission {
    /// For workers with these capacities. `call` wakes the worker with a number, to check whether it must accept.
    pub(super) fn new(
        capacities: impl IntoIterator<Item = u32>,
        when_full: WhenFull,
        call: impl Fn(usize) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let seat = |capacity| Seat { capacity, state: AtomicU64::default() };
        Arc::new(Self {
            seats: capacities.into_iter().map(seat).collect(),
            call: Box::new(call),
            is_full: AtomicBool::new(false),
            is_failing: AtomicBool::new(false),
            has_doorkeeper: when_full == WhenFull::Refuse,
            notices: Mutex::new(Notices::new(when_full)),
        })
    }

    /// The share of one worker.
    pub(super) fn share(self: &Arc<Self>, worker: usize) -> Share {
        Share { admission: Arc::clone(self), worker, state: State::default(), counters: Arc::default() }
    }

    /// Whether all connections are taken, as far as workers have noticed.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::SeqCst)
    }

    fn has_room(&self) -> bool {
        self.seats.iter().any(|seat| seat.state().open < seat.capacity)
    }

    /// Logs that all connections are taken, or that there is room again.
    #[cold]
    fn tell_room(&self) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_full.store(true, Ordering::SeqCst);
        let has_room = self.has_room();
        self.is_full.store(!has_room, Ordering::SeqCst);
        notices.room(has_room);
        if !has_room && self.has_doorkeeper {
            (self.call)(self.seats.len());
        }
    }
}

/// A worker's share of the admission: its own state, which it alone changes.
pub(super) struct Share {
    admission: Arc<Admission>,
    worker: usize,
    state: State,
    counters: Arc<Counters>,
}

impl Share {
    /// Counts failures in the worker's counters.
    pub(super) fn counting_in(self, counters: &Arc<Counters>) -> Self {
        Self { counters: Arc::clone(counters), ..self }
    }

    fn seat(&self) -> &Seat {
        &self.admission.seats[self.worker]
    }

    /// How many connections the worker can hold.
    pub(super) fn capacity(&self) -> u32 {
        self.seat().capacity
    }

    /// The other workers that can take further connections.
    fn others_with_room(&self) -> impl Iterator<Item = (usize, State)> {
        let others = self.admission.seats.iter().enumerate().filter(|&(worker, _)| worker != self.worker);
        others.filter_map(|(worker, seat)| Some((worker, seat.with_room()?)))
    }

    /// Publishes the numbers of taken slots and of accepts in flight.
    pub(super) fn publish(&mut self, open: u32, accepts: u32) {
        let was_full = self.state.open >= self.capacity();
        let state = State { open, accepts, ..self.state };
        if state != self.state {
            self.set(state);
        }
        let is_full = open >= self.capacity();
        let may_be_news = if is_full {
            !was_full && !self.admission.has_room()
        } else {
            self.admission.is_full.load(Ordering::SeqCst)
        };
        if may_be_news {
            self.admission.tell_room();
        }
    }

    fn set(&mut self, state: State) {
        debug_assert!(state.claim() <= self.capacity(), "{state:?} of {}", self.capacity());
        self.state = state;
        self.seat().state.store(state.encode(), Ordering::SeqCst);
    }

    /// The number of accepts that may begin now.
    pub(super) fn allowance(&self) -> u32 {
        let claim = self.state.claim();
        let room = self.capacity() - claim;
        if room == 0 {
            return 0;
        }
        let fewest = self.others_with_room().map(|(_, state)| state.claim()).min();
        let most = fewest.map_or(u32::MAX, |fewest| fewest.saturating_add(LEAD_MAX));
        room.min(most.saturating_sub(claim))
    }

    /// Called by a worker without an accept in flight: makes another one begin some, unless one accepts already.
    pub(super) fn relay(&self) {
        if !self.others_with_room().any(|(_, state)| state.accepts > 0) {
            self.pass_on();
        }
    }

    /// Passes on a wake-up: a connection may have woken this worker, which does not accept it.
    pub(super) fn pass_on(&self) {
        if let Some((worker, _)) = self.others_with_room().min_by_key(|(_, state)| state.claim()) {
            (self.admission.call)(worker);
        }
    }

    /// Makes this worker accept again in its next turn.
    pub(super) fn go_on(&self) {
        (self.admission.call)(self.worker);
    }

    /// An accept has failed for a shortage, perhaps of this worker only: another worker tries.
    pub(super) fn failed(&mut self, error: impl Display) {
        self.set(State { is_short: true, ..self.state });
        self.counters.add(Counter::AcceptFailures, 1);
        self.admission.is_failing.store(true, Ordering::Relaxed);
        self.admission.notices.lock().unwrap_or_else(PoisonError::into_inner).failed(error);
        self.pass_on();
    }

    /// The worker tries again.
    pub(super) fn try_again(&mut self) {
        self.set(State { is_short: false, ..self.state });
    }

    /// An accept has succeeded.
    #[inline]
    pub(super) fn accepted(&self) {
        if self.admission.is_failing.load(Ordering::Relaxed) {
            self.admission.is_failing.store(false, Ordering::Relaxed);
            self.admission.notices.lock().unwrap_or_else(PoisonError::into_inner).accepted();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(capacities: &[u32]) -> (Vec<Share>, Arc<Mutex<Vec<usize>>>) {
        let called = Arc::new(Mutex::new(Vec::new()));
        let calls = Arc::clone(&called);
        let admission = Admission::new(capacities.iter().copied(), WhenFull::Wait, move |worker| {
            calls.lock().expect("no panic").push(worker);
        });
        ((0..capacities.len()).map(|worker| admission.share(worker)).collect(), called)
    }

    #[test]
    fn states_come_back_as_they_were_published() {
        for state in [
            State::default(),
            State { open: u32::MAX, accepts: 0, is_short: true },
            State { open: 7, accepts: (1 << 31) - 1, is_short: false },
        ] {
            assert_eq!(State::decode(state.encode()), state);
        }
    }

    #[test]
    fn who_is_full_or_ahead_accepts_no_more() {
        let (mut shares, _) = admission(&[100, 100, 0]);
        assert_eq!(shares[0].allowance(), LEAD_MAX);
        assert_eq!(shares[2].allowance(), 0);
        shares[0].publish(10, LEAD_MAX - 10);
        assert_eq!(shares[0].allowance(), 0, "ahead of the second");
        shares[1].publish(5, 0);
        assert_eq!(shares[0].allowance(), 5);
        shares[1].publish(100, 0);
        assert_eq!((shares[0].allowance(), shares[1].allowance()), (100 - LEAD_MAX, 0), "the second is full");
    }

    #[test]
    fn a_worker_that_does_not_accept_calls_the_one_with_the_fewest() {
        let (mut shares, called) = admission(&[10; 4]);
        shares[1].publish(10, 0);
        shares[2].publish(5, 0);
        shares[3].publish(4, 0);
        shares[0].relay();
        assert_eq!(*called.lock().unwrap(), [3]);
        shares[2].publish(5, 1);
        shares[0].relay();
        assert_eq!(*called.lock().unwrap(), [3], "another one accepts");
        shares[3].failed("out of files");
        assert_eq!(*called.lock().unwrap(), [3, 0], "it fails, and the one with the fewest is to try");
        shares[0].pass_on();
        assert_eq!(*called.lock().unwrap(), [3, 0, 2], "the one that fails is not called");
        assert_eq!(shares[2].allowance(), 4, "nor waited for");
        shares[3].try_again();
        shares[0].pass_on();
        assert_eq!(*called.lock().unwrap(), [3, 0, 2, 3]);
    }
}
