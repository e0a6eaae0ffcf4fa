//! The transport on `io_uring`: one ring per thread, batched, with no buffer for an idle connection.
//!
//! This file has the loop; `receiving` and `sending` move bytes, `operations` has the submissions and their tokens, `alarms`
//! wake the thread, `stamps` are the kernel's receive times.

mod alarms;
mod connection;
mod operations;
mod receiving;
mod sending;
mod stamps;

use std::io;
use std::time::Duration;

use ringio::{Completion, Pool, Ring, RingOptions, Wait};
use rustix::time::ClockId;
use socket2::SockAddr;

use self::alarms::Alarms;
use self::connection::{Flag, Slot};
use self::operations::{Addresses, Kind, Token};
use self::receiving::{Readable, pool_shape};
use self::stamps::{Stamps, time_of};
use super::layer::Layer;
use super::sends::Sends;
use super::{EngineError, Shared};
use crate::control::Phase;
use crate::driver::Want;
use crate::scenario::Part;
use crate::stats::{Cause, Tally};

/// With this many echoes at a time under load, more do not make a batch cheaper.
const MAX_WANT: usize = 128;

/// Maximum wait for a batch.
const MIN_WAIT_US: u32 = 20;

/// An open loop whose echoes are stamped needs not look at each as it comes. It looks at them when it wakes up to send,
/// if that is so soon, or when there are so many.
const LAZY_NS: u64 = 1_000_000;
const LAZY_WANT: usize = 64;

/// Turns in which an ended connection is let go of: the cancellation completes, the goodbye is sent, the socket closed.
const LAST_TURNS: usize = 3;

/// An alarm that goes off this soon is not slept for.
const ALARM_MARGIN_NS: u64 = 2_000;

/// One thread's ring and connections.
struct Worker<'a> {
    // A send that waits holds addresses in what follows the ring: the ring goes first.
    ring: Ring,
    pool: Pool,
    sends: Sends,
    addresses: Addresses,
    alarms: Alarms,
    /// The memory for receive time stamps.
    stamps: Option<Stamps>,

    shared: &'a Shared,
    part: Part,
    layer: Layer<'a, Slot>,
    readable: Readable,
    batch: Vec<(Token, Completion)>,
    /// Results of sends, which are looked at before all others.
    send_batch: Vec<(Token, i32)>,
    /// Tries to send that have been queued since the last enter.
    tries: Vec<Token>,
    /// An empty list, to take turns with that one.
    spare_tries: Vec<Token>,
    /// Something is due on a connection whose send is a try: it can go on as soon as that has been submitted.
    is_held_up: bool,
    generation: u16,

    /// The time of this loop turn, in nanoseconds since the run's epoch. Reading the clock once per turn makes a
    /// latency at most as much too long as the turn takes: microseconds.
    now_ns: u64,
    /// When the last turn looked at its completions.
    last_turn_ns: u64,
    receives: usize,
}

/// Runs one thread's part until the control says [`Phase::Stop`].
pub(super) fn run(shared: &Shared, part: Part) -> Result<Tally, EngineError> {
    let mut worker = Worker::new(shared, part)?;
    worker.run().map_err(EngineError::Enter)?;
    Ok(worker.stop())
}

/// Whether this machine lets a process have a ring that the run can use. A kernel whose closes take effect (Linux 6.13) has
/// all operations of a run, too: `IORING_OP_BIND` came with 6.11, `SOCKET_URING_OP_SETSOCKOPT` with 6.7.
pub(super) fn check() -> Result<(), EngineError> {
    let options = RingOptions { entries: 8, cq_entries: 16, direct_descriptors: 1 };
    Ring::new(&options).map_err(EngineError::Ring)?;
    if ringio::ends_closed_sockets().map_err(EngineError::Ring)? { Ok(()) } else { Err(EngineError::OldKernel) }
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, part: Part) -> Result<Self, EngineError> {
        let (entries, cq_entries) = if shared.threads > shared.cpus { (256, 2048) } else { (1024, 8192) };
        let options = RingOptions { entries, cq_entries, direct_descriptors: part.connections };
        let mut ring = Ring::new(&options).map_err(EngineError::Ring)?;
        let sources = shared.sources.of_connections(part.first, part.connections);
        let traffic = &shared.scenario.traffic;
        let targets = shared.addresses.clone();
        // A closed loop sends as soon as an echo is there: it has nothing to gain.
        let are_stamped = traffic.open.is_some() && !targets.iter().any(SockAddr::is_unix);
        let pool = ring.add_pool(pool_shape(shared.threads as usize)).map_err(EngineError::Ring)?;
        let now_ns = shared.epoch.elapsed().as_nanos() as u64;
        Ok(Self {
            ring,
            pool,
            sends: Sends::of(shared),
            alarms: Alarms::new(time_of(ClockId::Monotonic).saturating_sub(shared.epoch.elapsed())),
            addresses: Addresses::new(targets, sources, are_stamped),
            stamps: are_stamped.then(Stamps::new),
            shared,
            part,
            layer: Layer::new(shared, part, now_ns),
            readable: Readable::new(),
            batch: Vec::new(),
            send_batch: Vec::new(),
            tries: Vec::new(),
            spare_tries: Vec::new(),
            is_held_up: false,
            generation: 0,
            now_ns,
            last_turn_ns: now_ns,
            receives: 0,
        })
    }

    /// The loop: do what is due, enter the kernel, act on everything that has completed.
    fn run(&mut self) -> io::Result<()> {
        self.listen();
        loop {
            let phase = self.shared.control.phase();
            if phase == Phase::Stop {
                return self.say_last_words();
            }
            let now_ns = self.clock_ns();
            self.layer.advance(now_ns, phase);
            self.act();
            self.shared.control.publish(self.part.thread, self.layer.phase(), &self.layer.tally().counts);
            let wait = self.wait()?;
            self.ring.enter(wait)?;
            self.look_at_the_clocks();
            self.reap()?;
        }
    }

    /// What is to be said to connections that have ended may wait for the cancellation of a poll, and be queued only now: it is
    /// submitted before the ring goes.
    fn say_last_words(&mut self) -> io::Result<()> {
        for _ in 0..LAST_TURNS {
            self.ring.enter(Wait::default())?;
            self.look_at_the_clocks();
            self.reap()?;
        }
        Ok(())
    }

    fn stop(self) -> Tally {
        drop(self.ring);
        let tally = self.layer.stop();
        self.shared.control.publish(self.part.thread, Phase::Stop, &tally.counts);
        tally
    }

    fn listen(&mut self) {
        self.ring.push(operations::listen(self.shared.control.bell(self.part.thread)));
    }

    /// Does what the driver wants.
    #[inline]
    fn act(&mut self) {
        while let Some(want) = self.layer.next_want() {
            match want {
                Want::Send { key } => self.send(key),
                Want::Connect { key, number, address } => self.connect(key, number, address),
                Want::Release { key } => self.release(key),
            }
        }
    }

    fn connect(&mut self, key: u32, number: u32, address: usize) {
        self.generation = self.generation.wrapping_add(1);
        let token = Token { key, generation: self.generation.into(), kind: Kind::Connect };
        let Some(slot) = self.layer.slot(key) else { return };
        slot.generation = self.generation;
        slot.set(Flag::Connecting, true);
        let per_address = self.shared.sources.per_address();
        let source = number / per_address - self.part.first / per_address;
        let chain = self.addresses.connect(token, address, source as usize);
        // SAFETY: the addresses in the chain are `self.addresses`, never changed, and the kernel copies them in the enter.
        unsafe { self.ring.push_borrowed_chain(chain) };
    }

    /// The chain has ended: connected, or not.
    fn on_connect(&mut self, token: Token, result: i32) {
        let Some(slot) = self.slot(token) else { return };
        slot.set(Flag::Connecting, false);
        if slot.has(Flag::Releasing) {
            return self.release_if_idle(token.key);
        }
        if result < 0 {
            self.ring.push(operations::close(token.key));
            self.layer.connect_failed(token.key, Cause::of_error(-result));
        } else {
            self.poll(token.key);
            self.layer.connected(token.key);
        }
        self.act();
    }

    /// The wait of a turn: under load for several echoes, which cost less together.
    fn wait(&mut self) -> io::Result<Wait> {
        let receives = self.readable.under_way();
        if receives > 0 {
            // They complete in the enter itself: this waits for nothing, but lets as many polls complete in the same pass.
            return Ok(Wait { want: receives, min_wait_us: MIN_WAIT_US, timeout: None });
        }
        if self.is_held_up || self.layer.is_held_up() {
            return Ok(Wait::default());
        }
        let several = (self.receives / 2).clamp(1, MAX_WANT);
        let mut wait = Wait { want: several, min_wait_us: MIN_WAIT_US, timeout: None };
        if let (Some(next_ns), after_ns) = self.layer.upcoming() {
            let now_ns = self.clock_ns();
            if next_ns <= now_ns {
                return Ok(Wait::default());
            }
            if self.set_alarms(next_ns, after_ns) {
                wait.timeout = Some(Duration::from_nanos(next_ns - now_ns));
            } else if self.is_lazy() && next_ns - now_ns < LAZY_NS {
                // An alarm ends such a wait, but only if it goes off during the wait itself, not while the kernel is still
                // sending.
                self.ring.hand_over()?;
                if self.alarms.first_ns() <= self.clock_ns() + ALARM_MARGIN_NS {
                    return Ok(Wait::default());
                }
                (wait.want, wait.min_wait_us) = (LAZY_WANT, 2 * (LAZY_NS / 1000) as u32);
            }
        }
        Ok(wait)
    }

    /// Whether an echo may wait to be noticed: its time is stamped, and nothing depends on it.
    fn is_lazy(&self) -> bool {
        self.stamps.is_some() && self.layer.is_patient()
    }

    /// Sees to it that the thread wakes up at `next_ns`. True if that needs a timeout, because all alarms are set.
    fn set_alarms(&mut self, next_ns: u64, after_ns: Option<u64>) -> bool {
        while let Some(at_ns) = self.alarms.wanted(next_ns, after_ns) {
            let Some(alarm) = self.alarms.set(at_ns) else { return true };
            // SAFETY: the alarm's time is boxed, and is written again only when it has gone off.
            unsafe { self.ring.push_borrowed(alarm) };
        }
        false
    }

    fn look_at_the_clocks(&mut self) {
        if let Some(stamps) = &mut self.stamps {
            stamps.look_at_the_clock();
        }
        self.last_turn_ns = self.now_ns;
        self.now_ns = self.clock_ns();
        self.layer.set_now(self.now_ns);
    }

    /// The time, afresh.
    fn clock_ns(&self) -> u64 {
        self.shared.epoch.elapsed().as_nanos() as u64
    }

    /// Takes all completions, then acts on them: acting queues new submissions, which may complete meanwhile.
    fn reap(&mut self) -> io::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        loop {
            self.ring.reap(|completion| {
                let token = Token::decode(completion.user_data);
                match token.kind {
                    Kind::Send => self.send_batch.push((token, completion.result)),
                    _ => batch.push((token, completion)),
                }
            });
            // A try without a completion is over only if there is no completion left to be seen.
            if !self.ring.has_overflow() {
                break;
            }
            self.ring.enter(Wait::default())?;
        }
        self.is_held_up = false;
        self.settle_sends();
        self.receives = 0;
        for (token, completion) in batch.drain(..) {
            match token.kind {
                Kind::Ready => self.on_ready(token, completion.result, completion.goes_on()),
                Kind::Receive => self.on_receive(token.key, completion),
                Kind::Connect => self.on_connect(token, completion.result),
                Kind::Alarm => self.alarms.gone_off(token),
                Kind::Bell if !completion.goes_on() => self.listen(),
                Kind::Bell | Kind::Ignored | Kind::Send => {}
            }
        }
        self.batch = batch;
        self.pool.publish();
        self.receive_from_readable();
        Ok(())
    }

    /// The state of the connection of a completion, if it still exists.
    #[inline]
    fn slot(&mut self, token: Token) -> Option<&mut Slot> {
        self.layer.slot(token.key).filter(|slot| u32::from(slot.generation) == token.generation)
    }
}
