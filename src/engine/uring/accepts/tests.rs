//! Tests with workers and a kernel that hands out connections as Linux does: a new accept takes a waiting connection;
//! otherwise accepts wait in order, and a connection wakes the first of them, which runs when its worker does.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::engine::admission::Admission;
use crate::protocol::Protocol;
use crate::transport::Door;
use crate::worker::WhenFull;

const ENFILE: i32 = -libc::ENFILE;

/// A random number generator (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 29) >> 16) as usize % end
    }
}

#[derive(Default)]
struct Queue {
    /// Connections that no worker has accepted.
    connections: usize,
    /// The workers whose accepts wait, and those whose polls do.
    accepts: VecDeque<usize>,
    polls: Vec<usize>,
}

struct Worker {
    accepts: Accepts,
    capacity: usize,
    open: usize,
    /// Completions that it has not seen: key and result.
    completions: Vec<(u32, i32)>,
    /// Listeners whose connection has woken one of its accepts, which has not run yet.
    woken: Vec<usize>,
    /// The result of its accepts, if they fail.
    fails_with: Option<i32>,
}

struct Server {
    workers: Vec<Worker>,
    queues: Vec<Queue>,
    called: Arc<Mutex<Vec<bool>>>,
    accepted: usize,
}

impl Server {
    fn new(capacities: &[usize], listeners: usize) -> Self {
        let called = Arc::new(Mutex::new(vec![true; capacities.len()]));
        let call = {
            let called = Arc::clone(&called);
            move |worker: usize| called.lock().unwrap()[worker] = true
        };
        let admission = Admission::new(capacities.iter().map(|&capacity| capacity as u32), WhenFull::Wait, call);
        let bind = |_| OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let doors = (0..listeners).map(|_| Door::new(Protocol::WebSocket)).collect();
        let sockets = Arc::new(Listeners { sockets: (0..listeners).map(bind).collect(), doors });
        let worker = |(index, &capacity)| Worker {
            accepts: Accepts::new(Arc::clone(&sockets), admission.share(index)),
            capacity,
            open: 0,
            completions: Vec::new(),
            woken: Vec::new(),
            fails_with: None,
        };
        Self {
            workers: capacities.iter().enumerate().map(worker).collect(),
            queues: (0..listeners).map(|_| Queue::default()).collect(),
            called,
            accepted: 0,
        }
    }

    fn connect(&mut self, listener: usize) {
        let queue = &mut self.queues[listener];
        queue.connections += 1;
        if let Some(worker) = queue.accepts.pop_front() {
            self.workers[worker].woken.push(listener);
        }
        for worker in queue.polls.drain(..) {
            self.workers[worker].completions.push((about::POLL | listener as u32, 1));
        }
    }

    /// An accept runs: it takes a connection, fails, or waits.
    fn run_accept(&mut self, worker: usize, listener: usize) {
        let (queue, it) = (&mut self.queues[listener], &mut self.workers[worker]);
        let key = about::ACCEPT | listener as u32;
        if let Some(error) = it.fails_with {
            it.completions.push((key, error));
        } else if queue.connections > 0 {
            queue.connections -= 1;
            it.completions.push((key, 7));
        } else {
            queue.accepts.push_back(worker);
        }
    }

    fn has_work(&self, worker: usize) -> bool {
        let it = &self.workers[worker];
        let is_due = it.accepts.patience().is_some_and(|patience| patience.is_zero());
        let has_closed = it.open != it.accepts.open as usize;
        is_due
            || has_closed
            || !(it.completions.is_empty() && it.woken.is_empty())
            || self.called.lock().unwrap()[worker]
    }

    fn turn(&mut self, worker: usize) {
        for listener in std::mem::take(&mut self.workers[worker].woken) {
            self.run_accept(worker, listener);
        }
        let it = &mut self.workers[worker];
        if std::mem::take(&mut self.called.lock().unwrap()[worker]) {
            it.accepts.call();
        }
        for (key, result) in std::mem::take(&mut it.completions) {
            let came = it.accepts.completed(key, result).is_some();
            it.open += usize::from(came);
            self.accepted += usize::from(came);
        }
        assert!(it.open <= it.capacity, "more connections than slots");
        it.accepts.decide(it.open);
        assert!(it.open + it.accepts.waiting as usize <= it.capacity, "an accept without a slot");
        for wish in std::mem::take(&mut it.accepts.wishes) {
            self.submit(worker, wish);
        }
    }

    fn submit(&mut self, worker: usize, wish: Wish) {
        match wish {
            Wish::Accept { listener } => self.run_accept(worker, listener),
            Wish::Poll { listener } if self.queues[listener].connections > 0 => {
                self.workers[worker].completions.push((about::POLL | listener as u32, 1));
            }
            Wish::Poll { listener } => self.queues[listener].polls.push(worker),
            Wish::Cancel { about, listener } => {
                let queue = &mut self.queues[listener];
                let mut cancelled = 0;
                let mut keep = |waiting: &usize| {
                    cancelled += usize::from(*waiting == worker);
                    *waiting != worker
                };
                if about == about::ACCEPT {
                    queue.accepts.retain(&mut keep);
                } else {
                    queue.polls.retain(&mut keep);
                }
                let completions = &mut self.workers[worker].completions;
                completions.extend((0..cancelled).map(|_| (about | listener as u32, -libc::ECANCELED)));
                completions.push((about::CANCEL | listener as u32, cancelled as i32));
            }
        }
    }

    /// Turns until no worker has anything to do.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some(worker) = (0..self.workers.len()).find(|&worker| self.has_work(worker)) else { return };
            self.turn(worker);
        }
        panic!("the workers do not come to rest");
    }

    fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.connections).sum()
    }

    fn room(&self) -> usize {
        self.workers.iter().filter(|it| it.fails_with.is_none()).map(|it| it.capacity - it.open).sum()
    }
}

fn capacities(random: &mut Random) -> Vec<usize> {
    let (workers, all) = (1 + random.below(5), [3, 10, 100, 1000][random.below(4)]);
    (0..workers).map(|index| all / workers + usize::from(index < all % workers)).collect()
}

/// Whatever the order of events: no connection waits while a worker has room, and no worker has more than it can hold.
#[test]
fn the_whole_capacity_is_used_and_no_more() {
    for seed in 0..3000 {
        let mut random = Random(seed);
        let capacities = capacities(&mut random);
        let mut server = Server::new(&capacities, 1 + random.below(3));
        for _ in 0..200 {
            let worker = random.below(server.workers.len());
            match random.below(8) {
                0..3 => server.connect(random.below(server.queues.len())),
                3 => (0..random.below(40)).for_each(|_| server.connect(random.below(server.queues.len()))),
                4 => server.workers[worker].open -= random.below(server.workers[worker].open + 1),
                _ if server.has_work(worker) => server.turn(worker),
                _ => {}
            }
            if random.below(30) == 0 {
                server.settle();
                assert!(
                    server.waiting() == 0 || server.room() == 0,
                    "seed {seed}: a connection waits while there is room"
                );
            }
        }
        server.settle();
        assert!(server.waiting() == 0 || server.room() == 0, "seed {seed}: a connection waits while there is room");
        for it in &mut server.workers {
            it.accepts.stop();
        }
        (0..capacities.len()).for_each(|worker| server.turn(worker));
        server.settle();
        assert!(server.workers.iter().all(|it| it.accepts.is_over()), "seed {seed}: an accept is left");
    }
}

/// As long as no connection ends, the workers have about as many each.
#[test]
fn connections_are_spread_evenly() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut server = Server::new(&[1000; 4], 1 + random.below(2));
        server.settle();
        // One worker is slow: its turn comes rarely.
        let slow = random.below(4);
        for _ in 0..2000 {
            server.connect(random.below(server.queues.len()));
            let worker = random.below(4);
            if worker != slow || random.below(20) == 0 {
                server.turn(worker);
            }
        }
        server.settle();
        let open = |it: &Worker| it.open;
        let (least, most) = (server.workers.iter().map(open).min(), server.workers.iter().map(open).max());
        assert!(most.unwrap() - least.unwrap() <= 40, "seed {seed}: {least:?} and {most:?}");
    }
}

/// One at a time, to workers that have nothing else to do: in turn.
#[test]
fn idle_workers_take_turns() {
    let mut server = Server::new(&[100; 4], 1);
    server.settle();
    for _ in 0..40 {
        server.connect(0);
        server.settle();
    }
    assert!(server.workers.iter().all(|it| (8..=12).contains(&it.open)));
}

/// A worker whose accepts fail, however long, does not keep a connection from the others.
#[test]
fn where_one_worker_fails_another_accepts() {
    for seed in 0..500 {
        let mut random = Random(seed);
        let mut server = Server::new(&[50; 3], 1);
        server.settle();
        let failing = random.below(3);
        server.workers[failing].fails_with = Some(ENFILE);
        for _ in 0..random.below(90) {
            server.connect(0);
            for worker in 0..3 {
                if random.below(2) == 0 {
                    server.turn(worker);
                }
            }
        }
        // Each failed accept has called another worker; those that fail together have called it once, and do it again when
        // they are tried again.
        for _ in 0..100 {
            server.settle();
            server.workers[failing].accepts.retry_at = server.workers[failing].accepts.retry_at.map(|_| Instant::now());
        }
        assert_eq!(server.waiting(), 0, "seed {seed}");
        server.workers[failing].fails_with = None;
        (0..60).for_each(|_| server.connect(0));
        server.settle();
        assert_eq!(server.waiting() > 0, server.room() == 0, "seed {seed}");
    }
}

/// A worker that looked for a retry would not wait for anything while it drains.
#[test]
fn a_worker_that_stops_after_a_failed_accept_waits_for_no_retry() {
    let mut server = Server::new(&[10], 1);
    server.workers[0].fails_with = Some(ENFILE);
    (0..2).for_each(|_| server.turn(0)); // the accept, and its failure
    let accepts = &mut server.workers[0].accepts;
    assert!(accepts.patience().is_some());
    accepts.stop();
    accepts.decide(0);
    assert_eq!(accepts.patience(), None);
}
