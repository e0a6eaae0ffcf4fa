//! Well-behaved clients with traffic on all connections, which record the echoes they are owed when the server is told to
//! stop.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::Socket;

use super::{ANSWER, UPGRADE, sockets};
use crate::common::frames::{BINARY, CLOSE, FIN, close_frame, frame};

/// Messages in flight on a connection at most.
const IN_FLIGHT_MAX: u64 = 4;
/// Messages sent between two looks at what has arrived.
const BATCH: usize = 128;
const CONNECTING_MAX: usize = 256;
const EVENTS: usize = 512;
/// Without anything happening for so long, nothing will any more.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of the clients. Everything else than `clients`, `sent` and `echoed` has to be as promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) clients: usize,
    /// Messages that the server's kernel had before the signal was sent.
    pub(crate) sent_before: u64,
    /// Of those, the ones whose echo did not come.
    pub(crate) lost: u64,
    pub(crate) sent: u64,
    pub(crate) echoed: u64,
    /// Echoes with other bytes or in another order.
    pub(crate) wrong: u64,
    /// Clients that got a Close frame with 1001.
    pub(crate) told: usize,
    /// Clients whose connection ended in order (FIN) behind that.
    pub(crate) ended: usize,
}

impl Outcome {
    /// Whether all promises were kept.
    pub(crate) fn is_as_promised(&self) -> bool {
        (self.lost, self.wrong, self.told, self.ended) == (0, 0, self.clients, self.clients)
    }

    fn add(&mut self, other: &Outcome) {
        self.clients += other.clients;
        self.sent_before += other.sent_before;
        self.lost += other.lost;
        self.sent += other.sent;
        self.echoed += other.echoed;
        self.wrong += other.wrong;
        self.told += other.told;
        self.ended += other.ended;
    }
}

/// What the threads tell each other.
#[derive(Default)]
struct Shared {
    open: AtomicUsize,
    echoes: AtomicUsize,
    /// The signal is being sent: what is sent from now on may come too late.
    is_signalled: AtomicBool,
}

/// Opens `count` clients, lets all of them send, and calls `signal`, which tells the server to stop, when as many
/// messages as there are clients have come back on top of the first ones. Then waits for everybody's end.
pub(crate) fn run(target: SocketAddr, count: usize, signal: impl FnOnce()) -> Outcome {
    let threads = count.div_ceil(sockets::share_max()).max(1);
    let shared = Shared::default();
    let mut total = Outcome::default();
    thread::scope(|scope| {
        let part = |index| (index + 1) * count / threads - index * count / threads;
        let start = |index| {
            let shared = &shared;
            scope.spawn(move || {
                if threads > 1 {
                    sockets::own_table();
                }
                Group::new(target, shared, index, part(index), count).run()
            })
        };
        let running: Vec<_> = (0..threads).map(start).collect();
        let is_over = || running.iter().any(thread::ScopedJoinHandle::is_finished);
        while shared.echoes.load(Ordering::Relaxed) < 2 * count && !is_over() {
            thread::sleep(Duration::from_millis(5));
        }
        shared.is_signalled.store(true, Ordering::SeqCst);
        signal();
        for thread in running {
            total.add(&thread.join().expect("clients that go on"));
        }
    });
    total
}

#[derive(Default)]
struct State {
    /// Bytes of the answer to the request that are still to come.
    answer_left: usize,
    sent: u64,
    sent_before: u64,
    echoed: u64,
    wrong: u64,
    is_told: bool,
    has_ended: bool,
    /// A frame that is cut.
    cut: Vec<u8>,
}

struct Client {
    /// `None`: it is over.
    socket: Option<Socket>,
    is_open: bool,
    state: State,
}

/// The clients of one descriptor table.
struct Group<'a> {
    target: SocketAddr,
    shared: &'a Shared,
    index: usize,
    count: usize,
    /// Clients of all groups.
    everybody: usize,
    epoll: rustix::fd::OwnedFd,
    clients: Vec<Client>,
    connecting: usize,
    over: usize,
    /// Whose turn it is to send.
    next: usize,
    buffer: Vec<u8>,
}

impl<'a> Group<'a> {
    fn new(target: SocketAddr, shared: &'a Shared, index: usize, count: usize, everybody: usize) -> Self {
        Self {
            target,
            shared,
            index,
            count,
            everybody,
            epoll: epoll::create(CreateFlags::CLOEXEC).expect("a descriptor"),
            clients: Vec::with_capacity(count),
            connecting: 0,
            over: 0,
            next: 0,
            buffer: vec![0; 16 << 10],
        }
    }

    fn run(mut self) -> Outcome {
        let mut events = Vec::with_capacity(EVENTS);
        let mut last_event = Instant::now();
        let timeout = Timespec::try_from(Duration::from_millis(5)).expect("a short time");
        while self.over < self.count && last_event.elapsed() < PATIENCE {
            self.connect_more();
            let has_traffic = self.shared.open.load(Ordering::Relaxed) == self.everybody && self.send_some();
            let timeout = if has_traffic { Timespec::default() } else { timeout };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("epoll_wait: {error}"),
            }
            if !events.is_empty() {
                last_event = Instant::now();
            }
            for Event { flags, data } in events.drain(..) {
                self.serve(data.u64() as usize, flags);
            }
        }
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome { clients: self.count, ..Outcome::default() };
        for Client { state, .. } in &self.clients {
            outcome.sent_before += state.sent_before;
            outcome.lost += state.sent_before.saturating_sub(state.echoed);
            outcome.sent += state.sent;
            outcome.echoed += state.echoed;
            outcome.wrong += state.wrong;
            outcome.told += usize::from(state.is_told);
            outcome.ended += usize::from(state.is_told && state.has_ended);
        }
        outcome
    }

    fn connect_more(&mut self) {
        while self.clients.len() < self.count && self.connecting < CONNECTING_MAX {
            let key = self.clients.len();
            let socket = sockets::connect(self.target, self.index, key, false).expect("a server that listens");
            epoll::add(&self.epoll, &socket, EventData::new_u64(key as u64), EventFlags::OUT).expect("a socket");
            let state = State { answer_left: ANSWER, ..State::default() };
            self.clients.push(Client { socket: Some(socket), is_open: false, state });
            self.connecting += 1;
        }
    }

    /// One message each from the clients whose turn it is. Whether any was sent.
    fn send_some(&mut self) -> bool {
        let mut has_sent = false;
        for _ in 0..BATCH.min(self.count) {
            let key = self.next;
            self.next = (self.next + 1) % self.count;
            let state = &self.clients[key].state;
            if state.sent - state.echoed < IN_FLIGHT_MAX && !state.is_told {
                has_sent |= self.send_message(key, b"");
            }
        }
        has_sent
    }

    /// Sends `before` and the next message behind it.
    fn send_message(&mut self, key: usize, before: &[u8]) -> bool {
        let Client { socket: Some(socket), state, .. } = &mut self.clients[key] else { return false };
        let bytes = [before, &frame(FIN | BINARY, &payload(key, state.sent))].concat();
        match send(&*socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => assert_eq!(sent, bytes.len(), "there is always room for a few small messages"),
            // The receive will tell.
            Err(_) => return false,
        }
        state.sent += 1;
        // On loopback, what has been sent is in the receiver's queue.
        if !self.shared.is_signalled.load(Ordering::SeqCst) {
            state.sent_before = state.sent;
        }
        true
    }

    fn serve(&mut self, key: usize, flags: EventFlags) {
        if !self.clients[key].is_open {
            if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                return self.end(key);
            }
            let Some(socket) = &self.clients[key].socket else { return };
            epoll::modify(&self.epoll, socket, EventData::new_u64(key as u64), EventFlags::IN).expect("a socket");
            self.send_message(key, UPGRADE);
            self.clients[key].is_open = true;
            self.connecting -= 1;
            return;
        }
        let Client { socket: Some(socket), state, .. } = &mut self.clients[key] else { return };
        match recv(&*socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                state.has_ended = true;
                self.end(key);
            }
            Ok((len, _)) => self.read(key, len),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.end(key),
        }
    }

    fn end(&mut self, key: usize) {
        self.clients[key].socket = None;
        self.over += 1;
    }

    fn read(&mut self, key: usize, len: usize) {
        let Client { socket, state, .. } = &mut self.clients[key];
        let answer = state.answer_left.min(len);
        state.answer_left -= answer;
        if answer > 0 && state.answer_left == 0 {
            self.shared.open.fetch_add(1, Ordering::Relaxed);
        }
        let bytes = [&state.cut, &self.buffer[answer..len]].concat();
        let was_told = state.is_told;
        let (used, echoes) = read_frames(key, state, &bytes);
        state.cut = bytes[used..].to_vec();
        self.shared.echoes.fetch_add(echoes, Ordering::Relaxed);
        if let (true, false, Some(socket)) = (state.is_told, was_told, socket) {
            // If it fails, the receive will tell.
            let _ = send(&*socket, &close_frame(1001, b""), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

/// A client's message, unique among all clients and times.
fn payload(key: usize, number: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&(key as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Takes whole frames from `bytes`. Returns how many bytes that were, and how many echoes.
fn read_frames(key: usize, state: &mut State, bytes: &[u8]) -> (usize, usize) {
    let (mut used, mut echoes) = (0, 0);
    while let [first, length @ 0..126, rest @ ..] = &bytes[used..] {
        let Some(body) = rest.get(..usize::from(*length)) else { break };
        used += 2 + body.len();
        match *first {
            _ if state.is_told => state.wrong += 1,
            first if first == FIN | BINARY && body == payload(key, state.echoed) => {
                state.echoed += 1;
                echoes += 1;
            }
            first if first == FIN | CLOSE && body.starts_with(&1001u16.to_be_bytes()) => state.is_told = true,
            _ => state.wrong += 1,
        }
    }
    (used, echoes)
}
