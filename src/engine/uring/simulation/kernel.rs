//! The simulated kernel: takes submissions, lets things happen to sockets, and completes operations in any legal order.

use std::collections::{BTreeMap, VecDeque};

use crate::engine::uring::buffers::kernel::{CQE_BUFFER, Consumer};
use crate::engine::uring::connections::{Connections, Op};
use crate::engine::uring::token::{Kind, Token};
use crate::protocol::Protocol;

use super::peer::Peer;
use super::random::Random;

const CQE_MORE: u32 = 1 << 1;

/// A completion queue entry.
#[derive(Clone, Copy)]
pub(super) struct Completion {
    pub(super) token: Token,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Completion {
    /// Whether the worker must see `self` before `other`, which has happened later.
    fn precedes(&self, other: &Completion) -> bool {
        // An operation's own completions have an order, and so have those that use up the shared buffers: the kernel
        // gives no offset within a buffer.
        self.token == other.token || (self.flags & other.flags & CQE_BUFFER != 0)
    }
}

pub(super) struct Kernel {
    pub(super) random: Random,
    consumer: Consumer,
    /// Submissions that no enter has taken yet.
    queue: VecDeque<(Token, Op)>,
    /// What has happened and the worker has not seen. Sends complete within the enter that submits them.
    sends: Vec<Completion>,
    others: Vec<Completion>,
    pub(super) peers: BTreeMap<u32, Peer>,
    free_slots: Vec<u32>,
    /// The last generation of each slab key.
    generations: BTreeMap<u32, u32>,
    /// Sockets with a send that the worker cannot know to be complete.
    senders: Vec<u32>,
    protocol: Protocol,
    /// The server closes, pings and loses patience by itself.
    server_acts: bool,
    /// The peers send much and hardly read.
    floods: bool,
    pub(super) finished: usize,
}

impl Kernel {
    pub(super) fn new(mut random: Random, slots: u32, protocol: Protocol, server_acts: bool) -> Self {
        let floods = random.one_in(10);
        Self {
            random,
            floods,
            consumer: Consumer::default(),
            queue: VecDeque::new(),
            sends: Vec::new(),
            others: Vec::new(),
            peers: BTreeMap::new(),
            free_slots: (0..slots).collect(),
            generations: BTreeMap::new(),
            senders: Vec::new(),
            protocol,
            server_acts,
            finished: 0,
        }
    }

    /// The acceptor moves a new socket into the ring, if there is a slot.
    pub(super) fn connect(&mut self) {
        let Some(slot) = self.free_slots.pop() else { return };
        self.peers.insert(slot, Peer::new(&mut self.random, self.protocol, self.server_acts, self.floods));
        self.complete(Token::of_worker(Kind::Accepted), slot as i32, 0);
    }

    pub(super) fn free_slots(&self) -> usize {
        self.free_slots.len()
    }

    // ----- submissions -----

    /// What `io_uring_enter` does with the submissions. Returns whether it has taken all: short of memory it does not.
    pub(super) fn enter(&mut self, ops: Vec<(Token, Op)>, connections: &Connections) -> bool {
        self.queue.extend(ops);
        let count = if self.random.one_in(25) { self.random.below(self.queue.len() + 1) } else { self.queue.len() };
        for _ in 0..count {
            let (token, op) = self.queue.pop_front().expect("counted before");
            self.start(token, op, connections);
        }
        self.queue.is_empty()
    }

    /// The worker knows that the sends without a completion are complete.
    pub(super) fn sends_finished(&mut self) {
        self.senders.clear();
    }

    fn start(&mut self, token: Token, op: Op, connections: &Connections) {
        match op {
            Op::Receive { slot } => self.arm_receive(token, slot, None),
            Op::ReceiveOnce { slot, at_most } => self.arm_receive(token, slot, Some(at_most as usize)),
            Op::Send { slot, address, len, has_more } => {
                assert!(!self.senders.contains(&slot), "two sends of one connection in flight");
                self.senders.push(slot);
                connections.check_queued(token, address, len);
                // SAFETY: checked in the line before: they are the front of the connection's queue.
                let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), len as usize) };
                self.send(token, slot, bytes, has_more);
            }
            Op::PollWritable { slot } => {
                let peer = self.peer_of(token, slot);
                assert!(peer.poll.replace(token).is_none(), "two polls on one socket");
            }
            Op::Cancel { target } => self.cancel(token, target),
            Op::Shutdown { slot } => {
                let peer = self.peer_of(token, slot);
                peer.was_shut = true;
                peer.is_corked = false;
                peer.shutdown = Some(token);
            }
            Op::Close { slot } => {
                self.peer_of(token, slot).check_end();
                self.peers.remove(&slot);
                self.free_slots.push(slot);
                self.finished += 1;
                self.complete(token, 0, 0);
            }
        }
    }

    /// The socket in `slot`, which must be the one that `token`'s entry was made for.
    fn peer_of(&mut self, token: Token, slot: u32) -> &mut Peer {
        let identity = (token.key, token.generation);
        let peer = self.peers.get_mut(&slot).expect("an operation on an open socket");
        if peer.owner.is_none() {
            // The entry's first operation. Of who had it before nothing may be left but a cancellation that has missed.
            let is_left =
                |it: &Completion| it.token.key == token.key && !matches!(it.token.kind, Kind::Cancel | Kind::Accepted);
            assert!(!self.others.iter().any(is_left), "an entry is reused while an operation is in flight");
            peer.owner = Some(identity);
            let before = self.generations.insert(token.key, token.generation);
            assert_ne!(before, Some(token.generation), "two connections with the same tokens");
        }
        assert_eq!(peer.owner, Some(identity), "an operation on somebody else's socket");
        peer
    }

    fn arm_receive(&mut self, token: Token, slot: u32, once: Option<usize>) {
        let peer = self.peer_of(token, slot);
        assert!(peer.receive.replace(token).is_none(), "two receives on one socket");
        peer.receive_once = once;
    }

    fn send(&mut self, token: Token, slot: u32, bytes: &[u8], has_more: bool) {
        let is_short_of_memory = self.random.one_in(20);
        let error = -[libc::EAGAIN, libc::ENOBUFS, libc::ENOMEM][self.random.below(3)];
        let gone = -[libc::ECONNRESET, libc::EPIPE][self.random.below(2)];
        let peer = self.peer_of(token, slot);
        assert!(!peer.was_shut, "a send after the shutdown");
        let room = if is_short_of_memory { 0 } else { peer.socket_size - peer.in_socket };
        let len = bytes.len().min(room);
        let result = match len {
            _ if peer.has_reset => gone,
            0 if is_short_of_memory => error,
            0 => -libc::EAGAIN,
            _ if len < bytes.len() => len as i32,
            _ => 0,
        };
        if !peer.has_reset {
            peer.take(&bytes[..len]);
            peer.is_corked = has_more && len == bytes.len();
        }
        if result != 0 {
            self.sends.push(Completion { token, result, flags: 0 });
        }
    }

    fn cancel(&mut self, token: Token, target: Token) {
        assert_eq!((token.key, token.generation), (target.key, target.generation), "cancels somebody else's operation");
        // An operation that is just being run is not found, and goes on.
        let is_missed = self.random.one_in(5);
        let mut operations = self.peers.values_mut().flat_map(|peer| [&mut peer.receive, &mut peer.poll]);
        let found = operations.find(|operation| **operation == Some(target)).filter(|_| !is_missed);
        let found = found.and_then(Option::take);
        drop(operations);
        if found.is_some() {
            self.complete(target, -libc::ECANCELED, 0);
        } else {
            let error = if self.random.one_in(2) { libc::ENOENT } else { libc::EALREADY };
            self.complete(token, -error, 0);
        }
    }

    fn complete(&mut self, token: Token, result: i32, flags: u32) {
        self.others.push(Completion { token, result, flags });
    }

    // ----- events -----

    /// Something happens to some of the sockets.
    pub(super) fn happen(&mut self, connections: &mut Connections) {
        let slots: Vec<u32> = self.peers.keys().copied().collect();
        for slot in slots {
            for _ in 0..self.random.below(4) {
                self.happen_to(slot, connections);
            }
        }
    }

    /// Operations complete that can, and nothing else happens.
    pub(super) fn go_on(&mut self, connections: &mut Connections) {
        let slots: Vec<u32> = self.peers.keys().copied().collect();
        for slot in slots {
            self.run(slot, usize::MAX, connections);
        }
    }

    fn happen_to(&mut self, slot: u32, connections: &mut Connections) {
        let what = self.random.below(12);
        let amount = 1 + self.random.below(200);
        let peer = self.peers.get_mut(&slot).expect("a peer");
        match what {
            0..=3 => peer.send(amount),
            4 if peer.sent == peer.script.len() => peer.has_finished = true,
            5 if self.random.one_in(10) => peer.has_reset = true,
            6 if !self.floods || self.random.one_in(20) => peer.reads = !peer.reads,
            7 | 8 if peer.reads => peer.in_socket = peer.in_socket.saturating_sub(amount),
            9 if peer.was_shut => peer.has_finished = true,
            10 if self.random.one_in(10) => self.end_multishot(slot),
            _ => self.run(slot, amount, connections),
        }
    }

    /// The kernel ends a multishot receive for reasons of its own, like an overflow of completions.
    fn end_multishot(&mut self, slot: u32) {
        if let Some(token) = self.peers.get_mut(&slot).and_then(|peer| peer.receive.take()) {
            self.complete(token, -libc::EINTR, 0);
        }
    }

    /// Operations of this socket that can complete do.
    fn run(&mut self, slot: u32, amount: usize, connections: &mut Connections) {
        let peer = self.peers.get_mut(&slot).expect("a peer");
        let writable = peer.poll.take_if(|_| peer.has_reset || peer.in_socket < peer.socket_size);
        let shut = peer.shutdown.take();
        self.others.extend(writable.map(|token| Completion { token, result: libc::POLLOUT.into(), flags: 0 }));
        self.others.extend(shut.map(|token| Completion { token, result: 0, flags: 0 }));
        self.receive(slot, amount, connections);
    }

    fn receive(&mut self, slot: u32, amount: usize, connections: &mut Connections) {
        let is_last = self.random.one_in(12);
        let peer = self.peers.get_mut(&slot).expect("a peer");
        let Some(token) = peer.receive else { return };
        let (result, flags) = if peer.has_reset {
            (-libc::ECONNRESET, 0)
        } else if !peer.inbox.is_empty() {
            let amount = peer.receive_once.map_or(amount, |at_most| at_most.min(amount));
            let data: Vec<u8> = peer.inbox.iter().take(amount).copied().collect();
            match self.consumer.receive(connections.pool_mut(), &data) {
                Some((len, flags)) => {
                    peer.inbox.drain(..len);
                    (len as i32, if is_last || peer.receive_once.is_some() { flags } else { flags | CQE_MORE })
                }
                None => (-libc::ENOBUFS, 0),
            }
        } else if peer.has_finished {
            peer.fin_delivered = true;
            (0, 0)
        } else {
            return;
        };
        if flags & CQE_MORE == 0 {
            peer.receive = None;
        }
        self.complete(token, result, flags);
    }

    // ----- completions -----

    /// Whether a worker that waits for a completion gets one.
    pub(super) fn has_completions(&self) -> bool {
        !self.sends.is_empty() || !self.others.is_empty()
    }

    /// What must hold while the worker waits: nothing is kept back for a send that does not come.
    pub(super) fn check_waiting(&self) {
        let is_stuck = |peer: &Peer| peer.is_corked && peer.poll.is_none() && !peer.has_reset;
        assert!(!self.peers.values().any(is_stuck), "the rest of an announced output is not sent");
    }

    /// Nothing has happened that the worker does not know, and nothing will by itself.
    pub(super) fn is_quiet(&self) -> bool {
        !self.has_completions() && self.queue.is_empty() && self.peers.values().all(Peer::is_quiet)
    }

    /// What the worker sees at its next look, in one of the orders that are legal: all the sends, and `at_least` that
    /// many of the others if there are any.
    pub(super) fn batch(&mut self, at_least: usize) -> Vec<Completion> {
        let at_least = at_least.saturating_sub(self.sends.len()).min(self.others.len());
        let all = self.others.len() + 1;
        let size = if self.random.one_in(2) { self.others.len() } else { self.random.below(all).max(at_least) };
        let mut batch: Vec<Completion> = (0..size).map(|_| self.any_other()).collect();
        for send in std::mem::take(&mut self.sends) {
            batch.insert(self.random.below(batch.len() + 1), send);
        }
        batch
    }

    fn any_other(&mut self) -> Completion {
        let mut at = self.random.below(self.others.len());
        while let Some(before) = (0..at).find(|&before| self.others[before].precedes(&self.others[at])) {
            at = before;
        }
        self.others.remove(at)
    }
}
