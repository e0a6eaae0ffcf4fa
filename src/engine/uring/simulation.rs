//! The connections against a simulated kernel, under seeded random schedules.
//!
//! The kernel here completes operations in any legal order: receives of any size, ended multishots, empty pools, short
//! sends, cancellations that race with completions, peers that stop reading, half-close, reset or misbehave. After each
//! step the invariants are checked; a failing seed is printed and replays with `RINGECHO_SIMULATION_SEED`.

use std::collections::{HashMap, VecDeque};

use crate::engine::deadline::Timeouts;
use crate::protocol::{Protocol, Settings};
use crate::worker::Backlog;

use super::buffers::{BufferPool, PoolShape, kernel::Consumer};
use super::connections::{Connections, Op};
use super::token::{Kind, Token};

const CQE_MORE: u32 = 1 << 1;
const SLOTS: u32 = 5;
const STEPS: usize = 400;

/// xorshift64*: small, seeded, good enough to pick from.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A connection's other end and its socket in the kernel.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own about a socket
struct Peer {
    /// What it will send, and how much of that it has.
    script: Vec<u8>,
    sent: usize,
    /// Arrived at the server's socket and not received.
    inbox: VecDeque<u8>,
    has_finished: bool,
    has_reset: bool,
    /// Sent by the server and not read by the peer.
    in_socket: usize,
    socket_size: usize,
    echoed: Vec<u8>,
    reads: bool,
    receive: Option<Token>,
    /// The receive is not a multishot one, and takes so many bytes.
    receive_once: Option<usize>,
    poll: Option<Token>,
    was_shut: bool,
    fin_delivered: bool,
}

struct Kernel {
    random: Random,
    consumer: Consumer,
    completions: VecDeque<(Token, i32, u32)>,
    peers: HashMap<u32, Peer>,
    free_slots: Vec<u32>,
    protocol: Protocol,
    /// The server closes, pings and loses patience by itself: then what it sends is not only echo.
    has_deadlines: bool,
    finished: usize,
}

/// What the peer sends: for WebSocket an upgrade and frames whose echo does not depend on how they are cut.
fn script(random: &mut Random, protocol: Protocol) -> Vec<u8> {
    let mut bytes = Vec::new();
    if protocol == Protocol::WebSocket {
        bytes.extend_from_slice(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
    }
    let frames = if random.one_in(8) { 60 } else { random.below(6) };
    for _ in 0..frames {
        let len = random.below(120);
        let opcode = if random.one_in(4) { 0x89 } else { 0x82 };
        bytes.extend_from_slice(&[opcode, 0x80 | len as u8]);
        bytes.extend((0..len + 4).map(|_| random.next() as u8));
    }
    match random.below(4) {
        0 => bytes.extend_from_slice(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]),
        1 => bytes.extend_from_slice(b"\xff\xff garbage that is no frame"),
        _ => {}
    }
    bytes
}

/// The whole answer to `script`, made in one piece.
fn expected(script: &[u8], protocol: Protocol) -> Vec<u8> {
    let settings = Settings { protocol, ..Settings::default() };
    let mut session = crate::protocol::Session::new(&settings);
    let mut data = script.to_vec();
    session.receive(&settings, &mut data).output.to_vec(&data)
}

impl Kernel {
    fn connect(&mut self, connections: &mut Connections) {
        let Some(slot) = self.free_slots.pop() else { return };
        let script = script(&mut self.random, self.protocol);
        let peer = Peer {
            script,
            sent: 0,
            inbox: VecDeque::new(),
            has_finished: false,
            has_reset: false,
            in_socket: 0,
            socket_size: 1 + self.random.below(300),
            echoed: Vec::new(),
            reads: !self.random.one_in(5),
            receive: None,
            receive_once: None,
            poll: None,
            was_shut: false,
            fin_delivered: false,
        };
        self.peers.insert(slot, peer);
        connections.accepted(slot);
    }

    /// What `io_uring_enter` does with the submissions.
    fn submit(&mut self, ops: Vec<(Token, Op)>, connections: &Connections) {
        let mut senders = Vec::new();
        for (token, op) in ops {
            match op {
                Op::Receive { slot } => self.arm_receive(slot, token, None),
                Op::ReceiveOnce { slot, at_most } => self.arm_receive(slot, token, Some(at_most as usize)),
                Op::Send { slot, address, len, .. } => {
                    assert!(!senders.contains(&slot), "two sends of one connection in one enter");
                    senders.push(slot);
                    connections.check_queued(token, address, len);
                    // SAFETY: checked in the line before: they are the front of the connection's queue.
                    let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), len as usize) };
                    self.send(token, slot, bytes);
                }
                Op::PollWritable { slot } => {
                    assert!(self.peer(slot).poll.replace(token).is_none(), "two polls on one socket");
                }
                Op::Cancel { target } => self.cancel(token, target),
                Op::Shutdown { slot } => {
                    self.peer(slot).was_shut = true;
                    self.completions.push_back((token, 0, 0));
                }
                Op::Close { slot } => {
                    let peer = self.peers.remove(&slot).expect("a socket to close");
                    assert!(peer.receive.is_none() && peer.poll.is_none(), "closed with operations in flight");
                    self.check_echo(&peer);
                    self.free_slots.push(slot);
                    self.finished += 1;
                    self.completions.push_back((token, 0, 0));
                }
            }
        }
    }

    fn arm_receive(&mut self, slot: u32, token: Token, once: Option<usize>) {
        let peer = self.peer(slot);
        assert!(peer.receive.replace(token).is_none(), "two receives on one socket");
        peer.receive_once = once;
    }

    fn send(&mut self, token: Token, slot: u32, bytes: &[u8]) {
        let is_short_of_memory = self.random.one_in(20);
        let peer = self.peer(slot);
        assert!(!peer.was_shut, "a send after the shutdown");
        if peer.has_reset {
            self.completions.push_back((token, -libc::ECONNRESET, 0));
            return;
        }
        let room = if is_short_of_memory { 0 } else { peer.socket_size - peer.in_socket };
        let len = bytes.len().min(room);
        peer.in_socket += len;
        peer.echoed.extend_from_slice(&bytes[..len]);
        if len < bytes.len() {
            let result = if len > 0 { len as i32 } else { -libc::EAGAIN };
            self.completions.push_back((token, result, 0));
        }
    }

    fn cancel(&mut self, token: Token, target: Token) {
        // A multishot receive that is just being run is not found.
        let is_missed = self.random.one_in(5);
        let operations = self.peers.values_mut().flat_map(|peer| [&mut peer.receive, &mut peer.poll]);
        if let Some(found) = operations.into_iter().find(|operation| **operation == Some(target) && !is_missed) {
            *found = None;
            self.completions.push_back((target, -libc::ECANCELED, 0));
        } else {
            self.completions.push_back((token, -libc::ENOENT, 0));
        }
    }

    /// Something happens to one peer or its socket.
    fn happen(&mut self, slot: u32, connections: &mut Connections) {
        let what = self.random.below(12);
        let amount = 1 + self.random.below(200);
        let peer = self.peers.get_mut(&slot).expect("a peer");
        match what {
            0..=3 => {
                let end = peer.script.len().min(peer.sent + amount);
                peer.inbox.extend(&peer.script[peer.sent..end]);
                peer.sent = end;
            }
            4 if peer.sent == peer.script.len() => peer.has_finished = true,
            5 if self.random.one_in(10) => peer.has_reset = true,
            6 => peer.reads = !peer.reads,
            7 | 8 if peer.reads => peer.in_socket = peer.in_socket.saturating_sub(amount),
            9 if peer.was_shut => peer.has_finished = true,
            10 if self.random.one_in(10) => self.end_multishot(slot),
            _ => self.complete(slot, amount, connections),
        }
    }

    /// The kernel ends a multishot receive for reasons of its own, like an overflow of completions.
    fn end_multishot(&mut self, slot: u32) {
        if let Some(token) = self.peer(slot).receive.take() {
            self.completions.push_back((token, -libc::EINTR, 0));
        }
    }

    /// Operations of this socket that can complete do.
    fn complete(&mut self, slot: u32, amount: usize, connections: &mut Connections) {
        let peer = self.peers.get_mut(&slot).expect("a peer");
        if let Some(token) = peer.poll.take_if(|_| peer.has_reset || peer.in_socket < peer.socket_size) {
            self.completions.push_back((token, libc::POLLOUT.into(), 0));
        }
        let Some(token) = peer.receive else { return };
        if peer.has_reset {
            peer.receive = None;
            self.completions.push_back((token, -libc::ECONNRESET, 0));
        } else if !peer.inbox.is_empty() {
            let amount = peer.receive_once.map_or(amount, |at_most| at_most.min(amount));
            let data: Vec<u8> = peer.inbox.iter().take(amount).copied().collect();
            if let Some((len, flags)) = self.consumer.receive(connections.pool_mut(), &data) {
                peer.inbox.drain(..len);
                let more = if peer.receive_once.is_some() { 0 } else { CQE_MORE };
                peer.receive = peer.receive.filter(|_| more != 0);
                self.completions.push_back((token, len as i32, flags | more));
            } else {
                peer.receive = None;
                self.completions.push_back((token, -libc::ENOBUFS, 0));
            }
        } else if peer.has_finished && !peer.fin_delivered {
            peer.receive = None;
            peer.fin_delivered = true;
            self.completions.push_back((token, 0, 0));
        } else if peer.fin_delivered {
            peer.receive = None;
            self.completions.push_back((token, 0, 0));
        }
    }

    fn peer(&mut self, slot: u32) -> &mut Peer {
        self.peers.get_mut(&slot).expect("an operation on an open socket")
    }

    /// Every byte echoed once and in order; all of them, unless the connection was cut short.
    fn check_echo(&self, peer: &Peer) {
        if self.has_deadlines {
            return;
        }
        let expected = expected(&peer.script, self.protocol);
        assert!(expected.starts_with(&peer.echoed), "the echo is not what was sent");
        if peer.fin_delivered && !peer.has_reset {
            assert_eq!(peer.echoed.len(), expected.len(), "an orderly end lost bytes");
        }
    }
}

fn reap(kernel: &mut Kernel, connections: &mut Connections) {
    while let Some((token, result, flags)) = kernel.completions.pop_front() {
        match token.kind {
            Kind::Receive => connections.received(token, result, flags),
            Kind::Send => connections.send_fell_short(token, result),
            Kind::Writable => connections.writable(token, result),
            Kind::Shutdown => connections.shut_down(token),
            Kind::Close => connections.closed(token),
            Kind::Cancel => connections.cancel_missed(token),
            Kind::Accepted | Kind::Wake => unreachable!(),
        }
    }
}

fn turn(kernel: &mut Kernel, connections: &mut Connections) {
    let waits = !connections.is_urgent();
    let ops = connections.take_ops().collect();
    kernel.submit(ops, connections);
    let slots: Vec<u32> = kernel.peers.keys().copied().collect();
    for slot in slots {
        for _ in 0..kernel.random.below(4) {
            kernel.happen(slot, connections);
        }
    }
    if waits && kernel.completions.is_empty() {
        return; // The worker is still in its enter: whatever it has not seen, nobody will show it.
    }
    reap(kernel, connections);
    connections.finish_sends();
    if kernel.has_deadlines {
        let _ = connections.sweep(SLOTS as usize);
        if kernel.random.one_in(30) {
            connections.close_some(0, SLOTS as usize);
        }
    }
    connections.end_turn();
    connections.check_invariants();
}

/// One schedule: random peers come and go; in the end all are let go, and everything must be back where it was.
fn run(seed: u64) -> usize {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let protocol = if random.one_in(2) { Protocol::Tcp } else { Protocol::WebSocket };
    let shape =
        PoolShape { count: 1 << random.below(4), size: 8 + random.below(200) as u32, incremental: !random.one_in(3) };
    let has_deadlines = random.one_in(3);
    let patience = has_deadlines.then_some(20);
    let timeouts = Timeouts { handshake: patience, idle: patience, close: patience };
    let settings = Settings { protocol, ..Settings::default() };
    let pool = BufferPool::detached(shape);
    let per_connection = pool.memory() * random.below(6);
    let backlog = Backlog { per_connection, total: per_connection * (1 + random.below(5)) };
    let mut connections = Connections::new(SLOTS as usize, pool, backlog, settings, timeouts);
    let mut kernel = Kernel {
        random,
        consumer: Consumer::default(),
        completions: VecDeque::new(),
        peers: HashMap::new(),
        free_slots: (0..SLOTS).collect(),
        protocol,
        has_deadlines,
        finished: 0,
    };
    for tick in 0..STEPS {
        connections.set_now(tick as u32);
        if kernel.random.one_in(4) {
            kernel.connect(&mut connections);
        }
        turn(&mut kernel, &mut connections);
    }
    for peer in kernel.peers.values_mut() {
        peer.reads = true;
        peer.inbox.extend(&peer.script[peer.sent..]);
        peer.sent = peer.script.len();
        peer.has_finished = true;
    }
    for _ in 0..100_000 {
        turn(&mut kernel, &mut connections);
        if connections.is_empty() {
            break;
        }
        kernel.peers.values_mut().for_each(|peer| peer.reads = true);
    }
    assert!(connections.is_empty(), "connections remain that nothing will end");
    connections.check_idle();
    assert_eq!(kernel.free_slots.len(), SLOTS as usize);
    kernel.finished
}

#[test]
fn any_legal_schedule_echoes_every_byte_once_and_returns_all_resources() {
    if let Ok(seed) = std::env::var("RINGECHO_SIMULATION_SEED") {
        run(seed.parse().expect("a seed is a number"));
        return;
    }
    let schedules = std::env::var("RINGECHO_SIMULATION_SCHEDULES").map_or(2_000, |n| n.parse().expect("a number"));
    let mut finished = 0;
    for seed in 0..schedules {
        let outcome = std::panic::catch_unwind(|| run(seed));
        finished += outcome.unwrap_or_else(|_| panic!("replay with RINGECHO_SIMULATION_SEED={seed}"));
    }
    assert!(finished as u64 > schedules, "too few connections came to their end to prove anything: {finished}");
}
