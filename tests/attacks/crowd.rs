//! A crowd of clients: an epoll loop per descriptor table.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use slab::Slab;
use socket2::Socket;

use super::{Attack, Life, Then, sockets};
use crate::common::Random;
use crate::common::frames::{self, FIN, PONG, frame};

/// Connections that are being made at once, in each loop: fewer than a listener's queue holds.
const CONNECTING_MAX: usize = 256;
/// How often the loop looks at the time.
const TICK: Duration = Duration::from_millis(5);
/// Ticks in a second: the clients that send a byte a second take turns.
const TURNS: usize = 200;
const EVENTS: usize = 256;
const READ: usize = 128 << 10;
/// A server's Ping without a payload.
const PING: [u8; 2] = [FIN | frames::PING, 0];

/// An attack under way.
pub(crate) struct Crowd {
    pub(crate) target: SocketAddr,
    pub(crate) attack: Attack,
    /// Number of clients at a time. A client that is closed comes again.
    pub(crate) at_once: usize,
    /// How many there are in all; `None`: until it is stopped.
    pub(crate) lives: Option<usize>,
    pub(crate) seed: u64,
    /// Clients that have sent their opening, now.
    pub(crate) present: AtomicUsize,
    /// Bytes that they have sent up to now.
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) is_stopped: AtomicBool,
    /// All have lived.
    pub(crate) is_over: AtomicBool,
}

/// What has become of the clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) connected: usize,
    /// Left of their own accord.
    pub(crate) left: usize,
    /// The server has ended the connection in order.
    pub(crate) ended: usize,
    /// The server has cut it off.
    pub(crate) cut_off: usize,
    /// Could not connect.
    pub(crate) failed: usize,
    /// How many bytes they have sent and read.
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_read: u64,
    /// The statuses of the answers to their requests.
    pub(crate) answers: BTreeMap<u16, usize>,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.connected += other.connected;
        self.left += other.left;
        self.ended += other.ended;
        self.cut_off += other.cut_off;
        self.failed += other.failed;
        self.bytes_sent += other.bytes_sent;
        self.bytes_read += other.bytes_read;
        for (status, count) in &other.answers {
            *self.answers.entry(*status).or_default() += count;
        }
    }
}

impl Crowd {
    pub(crate) fn new(target: SocketAddr, attack: Attack, at_once: usize, lives: Option<usize>, seed: u64) -> Self {
        let (present, bytes_sent) = (AtomicUsize::new(0), AtomicU64::new(0));
        let (is_stopped, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { target, attack, at_once, lives, seed, present, bytes_sent, is_stopped, is_over }
    }

    /// Attacks until all clients have finished or the attack is stopped; then all are gone.
    pub(crate) fn run(&self) -> Tally {
        let threads = self.at_once.div_ceil(sockets::share_max()).max(1);
        let part = |whole: usize, index: usize| (index + 1) * whole / threads - index * whole / threads;
        let mut total = Tally::default();
        thread::scope(|scope| {
            let attack = |index| {
                let (at_once, lives) = (part(self.at_once, index), self.lives.map(|lives| part(lives, index)));
                scope.spawn(move || {
                    if threads > 1 {
                        sockets::own_table();
                    }
                    Loop::new(self, index, at_once, lives).run()
                })
            };
            let running: Vec<_> = (0..threads).map(attack).collect();
            for thread in running {
                total.add(&thread.join().expect("an attack that goes on"));
            }
        });
        self.is_over.store(true, Ordering::Relaxed);
        total
    }

    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}

struct Client {
    socket: Socket,
    life: Life,
    /// Bytes sent of the opening, then of what is repeated.
    sent: usize,
    read: usize,
    /// It has sent its opening.
    is_present: bool,
}

/// How a client's connection has ended.
enum Gone {
    Left,
    Ended,
    CutOff,
}

struct Loop<'a> {
    crowd: &'a Crowd,
    index: usize,
    at_once: usize,
    lives_left: usize,
    epoll: rustix::fd::OwnedFd,
    clients: Slab<Client>,
    connecting: usize,
    number: usize,
    random: Random,
    buffer: Vec<u8>,
    tally: Tally,
}

impl<'a> Loop<'a> {
    fn new(crowd: &'a Crowd, index: usize, at_once: usize, lives: Option<usize>) -> Self {
        Self {
            crowd,
            index,
            at_once,
            lives_left: lives.unwrap_or(usize::MAX),
            epoll: epoll::create(CreateFlags::CLOEXEC).expect("a descriptor"),
            clients: Slab::new(),
            connecting: 0,
            number: 0,
            random: Random::new(crowd.seed + ((index as u64) << 32)),
            buffer: vec![0; READ],
            tally: Tally::default(),
        }
    }

    fn run(mut self) -> Tally {
        let mut events = Vec::with_capacity(EVENTS);
        let timeout = Timespec::try_from(TICK).expect("a short time");
        let mut next_tick = Instant::now() + TICK;
        let mut turn = 0;
        while !self.crowd.is_stopped.load(Ordering::Relaxed) && (self.lives_left > 0 || !self.clients.is_empty()) {
            self.send_more_clients();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("epoll_wait: {error}"),
            }
            for Event { flags, data } in events.drain(..) {
                self.serve(data.u64() as usize, flags);
            }
            if Instant::now() >= next_tick {
                // Ticks that were missed are not made up for: pieces would be received together.
                next_tick = Instant::now() + TICK;
                self.drip(turn);
                turn = (turn + 1) % TURNS;
            }
        }
        self.crowd
            .present
            .fetch_sub(self.clients.iter().filter(|(_, client)| client.is_present).count(), Ordering::Relaxed);
        self.tally
    }

    fn send_more_clients(&mut self) {
        while self.clients.len() < self.at_once && self.connecting < CONNECTING_MAX && self.lives_left > 0 {
            self.number += 1;
            let life = (self.crowd.attack)(self.number, &mut self.random);
            let Ok(socket) = sockets::connect(self.crowd.target, self.index, self.number, life.is_narrow) else {
                // A server that is gone is no reason to spin.
                self.tally.failed += 1;
                self.lives_left -= 1;
                return;
            };
            self.admit(socket, life);
        }
    }

    fn admit(&mut self, socket: Socket, life: Life) {
        let key = self.clients.insert(Client { socket, life, sent: 0, read: 0, is_present: false });
        let wanted = EventFlags::OUT;
        epoll::add(&self.epoll, &self.clients[key].socket, EventData::new_u64(key as u64), wanted).expect("a socket");
        self.connecting += 1;
        if self.lives_left != usize::MAX {
            self.lives_left -= 1;
        }
    }

    /// An event of the connection before with the same key does no harm: nothing here waits.
    fn serve(&mut self, key: usize, flags: EventFlags) {
        let Some(client) = self.clients.get(key) else { return };
        let reads = client.life.reads && client.is_present;
        if flags.contains(EventFlags::OUT) && !self.advance(key, Self::push) {
            return;
        }
        if reads && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.advance(key, Self::pull);
        } else if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            self.remove(key, &Gone::CutOff);
        }
    }

    /// Whether the client is still there afterwards.
    fn advance(&mut self, key: usize, step: impl FnOnce(&mut Self, usize) -> Result<(), Gone>) -> bool {
        match step(self, key) {
            Ok(()) => true,
            Err(gone) => {
                self.remove(key, &gone);
                false
            }
        }
    }

    /// Sends what is next, once.
    fn push(&mut self, key: usize) -> Result<(), Gone> {
        let client = &mut self.clients[key];
        let opening = client.life.opening.len();
        let bytes = match &client.life.then {
            _ if client.sent < opening => &client.life.opening[client.sent..],
            Then::Flood(bytes) if client.is_present => &bytes[(client.sent - opening) % bytes.len()..],
            _ => &[],
        };
        let sent = if bytes.is_empty() { 0 } else { try_send(&client.socket, bytes)? };
        client.sent += sent;
        self.has_sent(sent);
        let client = &self.clients[key];
        if client.sent < opening || client.is_present {
            return Ok(());
        }
        self.become_present(key)
    }

    fn has_sent(&mut self, len: usize) {
        self.tally.bytes_sent += len as u64;
        self.crowd.bytes_sent.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// The opening is sent: from now on the client does what it came for.
    fn become_present(&mut self, key: usize) -> Result<(), Gone> {
        let client = &mut self.clients[key];
        client.is_present = true;
        self.connecting -= 1;
        self.tally.connected += 1;
        self.crowd.present.fetch_add(1, Ordering::Relaxed);
        if let Then::Leave { after: 0, .. } = client.life.then {
            return Err(Gone::Left);
        }
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, client.life.reads);
        wanted.set(EventFlags::OUT, matches!(client.life.then, Then::Flood(_)));
        epoll::modify(&self.epoll, &client.socket, EventData::new_u64(key as u64), wanted).expect("a socket");
        Ok(())
    }

    /// Reads what is there, once.
    fn pull(&mut self, key: usize) -> Result<(), Gone> {
        let client = &mut self.clients[key];
        let len = match recv(&client.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Gone::Ended),
            Ok((len, _)) => len,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => return Err(Gone::CutOff),
        };
        if client.read == 0 && self.buffer.starts_with(b"HTTP/1.1 ") {
            let status = std::str::from_utf8(&self.buffer[9..12]).ok().and_then(|status| status.parse().ok());
            *self.tally.answers.entry(status.unwrap_or(0)).or_default() += 1;
        }
        client.read += len;
        self.tally.bytes_read += len as u64;
        match client.life.then {
            Then::Leave { after, .. } if client.read >= after => Err(Gone::Left),
            // The server sends nothing else behind the first echo.
            Then::Pong if self.buffer[..len].ends_with(&PING) => {
                let sent = try_send(&client.socket, &frame(FIN | PONG, b""))?;
                self.has_sent(sent);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Sends what is next of those whose turn it is.
    fn drip(&mut self, turn: usize) {
        let is_next = |(key, client): &(usize, &Client)| match client.life.then {
            Then::Drip(_) => client.is_present && key % TURNS == turn,
            Then::Pieces(_) => client.is_present,
            _ => false,
        };
        for key in self.clients.iter().filter(is_next).map(|(key, _)| key).collect::<Vec<_>>() {
            self.advance(key, |this, key| {
                let client = &mut this.clients[key];
                let passed = client.sent - client.life.opening.len();
                let bytes = match &client.life.then {
                    Then::Drip(bytes) => &bytes[passed % bytes.len()..][..1],
                    Then::Pieces(piece) => &piece[passed % piece.len()..],
                    _ => unreachable!("only those are listed"),
                };
                let sent = try_send(&client.socket, bytes)?;
                client.sent += sent;
                this.has_sent(sent);
                Ok(())
            });
        }
    }

    fn remove(&mut self, key: usize, gone: &Gone) {
        let client = self.clients.remove(key);
        if client.is_present {
            self.crowd.present.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.connecting -= 1;
        }
        match gone {
            Gone::Left => self.tally.left += 1,
            Gone::Ended => self.tally.ended += 1,
            Gone::CutOff => self.tally.cut_off += 1,
        }
        if let (Gone::Left, Then::Leave { reset: true, .. }) = (gone, client.life.then) {
            sockets::reset_on_close(&client.socket);
        }
    }
}

/// Sends what the kernel takes at once.
fn try_send(socket: &Socket, bytes: &[u8]) -> Result<usize, Gone> {
    match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN | Errno::INTR | Errno::NOTCONN) => Ok(0),
        Err(_) => Err(Gone::CutOff),
    }
}
