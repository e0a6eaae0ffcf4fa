//! The simulated kernel: takes submissions, lets things happen to sockets, and completes operations in any legal order.

use std::collections::{BTreeMap, VecDeque};

use crate::engine::uring::buffers::BufferPool;
use crate::engine::uring::buffers::kernel::{CQE_BUFFER, Consumer};
use crate::engine::uring::connections::{Connections, Op};
use crate::engine::uring::token::{Kind, Token};
use crate::protocol::Protocol;

use super::peer::Peer;
use super::random::Random;

const CQE_MORE: u32 = 1 << 1;
const CQE_SOCK_NONEMPTY: u32 = 1 << 2;

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
        // What happens on one socket has an order, and so has what uses up the shared buffers: the kernel gives no offset
        // within a buffer.
        let (mine, others) = (self.token, other.token);
        (mine.key, mine.generation) == (others.key, others.generation) || (self.flags & other.flags & CQE_BUFFER != 0)
    }
}

#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub(super) struct Kernel {
    pub(super) random: Random,
    consumer: Consumer,
    /// Submissions that no enter has taken yet.
    queue: VecDeque<(Token, Op)>,
    /// What has happened and the worker has not seen.
    completions: Vec<Completion>,
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
    /// Nobody resets or finishes, and no poll ends by itself: none of that may hide a connection that is stuck.
    pub(super) is_calm: bool,
    /// Before Linux 6.18 a one-shot receive that fails with `EAGAIN` names the buffer that it had chosen. Since 6.12, which
    /// brought incremental buffers, it has not used it; before, it has.
    names_buffer_in_vain: bool,
    pub(super) finished: usize,
}

impl Kernel {
    pub(super) fn new(mut random: Random, slots: u32, protocol: Protocol, server_acts: bool) -> Self {
        let floods = random.one_in(10);
        let names_buffer_in_vain = random.one_in(2);
        Self {
            random,
            floods,
            is_calm: false,
            names_buffer_in_vain,
            consumer: Consumer::default(),
            queue: VecDeque::new(),
            completions: Vec::new(),
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
    pub(super) fn enter(&mut self, ops: Vec<(Token, Op)>, connections: &mut Connections) -> bool {
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

    fn start(&mut self, token: Token, op: Op, connections: &mut Connections) {
        match op {
            Op::Poll { slot } => self.arm_poll(token, slot),
            Op::Receive { slot, at_most } => {
                let at_most = at_most.map_or(usize::MAX, |at_most| at_most.get() as usize);
                self.receive(token, slot, at_most, connections.pool_mut());
            }
            Op::Send { slot, address, len, has_more } => {
                assert!(!self.senders.contains(&slot), "two sends of one connection in flight");
                self.senders.push(slot);
                connections.check_queued(token, address, len);
                // SAFETY: checked in the line before: they are the front of the connection's queue.
                let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), len as usize) };
                self.send(token, slot, bytes, has_more);
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
            assert!(!self.completions.iter().any(is_left), "an entry is reused while an operation is in flight");
            peer.owner = Some(identity);
            let before = self.generations.insert(token.key, token.generation);
            assert_ne!(before, Some(token.generation), "two connections with the same tokens");
        }
        assert_eq!(peer.owner, Some(identity), "an operation on somebody else's socket");
        peer
    }

    /// An edge-triggered poll begins with what there is.
    fn arm_poll(&mut self, token: Token, slot: u32) {
        let peer = self.peer_of(token, slot);
        assert!(peer.poll.replace(token).is_none(), "two polls on one socket");
        let readiness = peer.readiness();
        peer.is_known_empty = false;
        peer.has_arrival = readiness & i32::from(libc::POLLIN) != 0;
        peer.has_room = readiness & i32::from(libc::POLLOUT) != 0;
    }

    /// Takes what there is, or, now and then, a part of it, and tells whether there is more.
    fn receive(&mut self, token: Token, slot: u32, at_most: usize, pool: &mut BufferPool) {
        let at_most = if self.random.one_in(4) { at_most.min(1 + self.random.below(100)) } else { at_most };
        let is_interrupted = self.random.one_in(50);
        self.peer_of(token, slot);
        let peer = self.peers.get_mut(&slot).expect("checked before");
        peer.is_received_from();
        let (result, flags) = if is_interrupted {
            (-libc::EINTR, 0)
        } else if peer.has_reset && (peer.inbox.is_empty() || self.random.one_in(2)) {
            (-libc::ECONNRESET, 0)
        } else if !peer.inbox.is_empty() {
            let data: Vec<u8> = peer.inbox.iter().take(at_most).copied().collect();
            match self.consumer.receive(pool, &data) {
                Some((len, flags)) => {
                    peer.inbox.drain(..len);
                    // Of a reset behind them the last bytes do not tell, unlike of a FIN.
                    let has_more = !peer.inbox.is_empty() || peer.has_finished;
                    peer.is_known_empty = !has_more;
                    (len as i32, if has_more { flags | CQE_SOCK_NONEMPTY } else { flags })
                }
                None => (-libc::ENOBUFS, 0),
            }
        } else if peer.has_finished {
            peer.fin_delivered = true;
            (0, 0)
        } else {
            // Who is asked to leave is received from without an event.
            assert!(!peer.is_known_empty || peer.server_acts, "a receive from a socket that is known to be empty");
            peer.is_known_empty = true;
            (-libc::EAGAIN, if self.names_buffer_in_vain { self.consumer.fail(pool) } else { 0 })
        };
        self.complete(token, result, flags);
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
            peer.lacks_room |= len < bytes.len() && (!is_short_of_memory || error == -libc::EAGAIN);
        }
        if result != 0 {
            self.completions.push(Completion { token, result, flags: 0 });
        }
    }

    fn cancel(&mut self, token: Token, target: Token) {
        assert_eq!((token.key, token.generation), (target.key, target.generation), "cancels somebody else's operation");
        // An operation that is just being run is not found, and goes on.
        let is_missed = self.random.one_in(5);
        let mut polls = self.peers.values_mut().map(|peer| &mut peer.poll);
        let found = polls.find(|poll| **poll == Some(target)).filter(|_| !is_missed).and_then(Option::take);
        if found.is_some() {
            self.complete(target, -libc::ECANCELED, 0);
        } else {
            let error = if self.random.one_in(2) { libc::ENOENT } else { libc::EALREADY };
            self.complete(token, -error, 0);
        }
    }

    fn complete(&mut self, token: Token, result: i32, flags: u32) {
        self.completions.push(Completion { token, result, flags });
    }

    // ----- events -----

    /// Something happens to some of the sockets.
    pub(super) fn happen(&mut self) {
        let slots: Vec<u32> = self.peers.keys().copied().collect();
        for slot in slots {
            for _ in 0..self.random.below(4) {
                self.happen_to(slot);
            }
        }
    }

    /// Operations complete that can, and nothing else happens.
    pub(super) fn go_on(&mut self) {
        let slots: Vec<u32> = self.peers.keys().copied().collect();
        for slot in slots {
            self.run(slot);
        }
    }

    fn happen_to(&mut self, slot: u32) {
        let what = self.random.below(12);
        let amount = 1 + self.random.below(200);
        let peer = self.peers.get_mut(&slot).expect("a peer");
        match what {
            0..=3 => peer.send(amount),
            4 if !self.is_calm && peer.sent == peer.script.len() => peer.finish(),
            5 if !self.is_calm && self.random.one_in(10) => peer.reset(),
            6 if !self.is_calm && (!self.floods || self.random.one_in(20)) => peer.reads = !peer.reads,
            7 | 8 => peer.read(amount),
            9 if peer.was_shut => peer.finish(),
            10 if !self.is_calm && self.random.one_in(10) => self.end_multishot(slot),
            _ => self.run(slot),
        }
    }

    /// The kernel ends a multishot poll for reasons of its own, like an overflow of completions.
    fn end_multishot(&mut self, slot: u32) {
        let Some(peer) = self.peers.get_mut(&slot) else { return };
        let readiness = peer.readiness();
        peer.is_known_empty = false;
        if let Some(token) = peer.poll.take() {
            self.complete(token, readiness, 0);
        }
    }

    /// Operations of this socket that can complete do.
    fn run(&mut self, slot: u32) {
        let (is_alone, is_stale) = (self.random.one_in(3), self.random.one_in(3));
        let peer = self.peers.get_mut(&slot).expect("a peer");
        let shut = peer.shutdown.take();
        if let Some(token) = peer.poll
            && (peer.has_arrival || peer.has_room)
        {
            // What woke the poll, be it still so or not; or what is found when it looks again.
            let arrival = if peer.has_arrival { i32::from(libc::POLLIN) | peer.end() } else { 0 };
            let room = if peer.has_room { i32::from(libc::POLLOUT) } else { 0 };
            let found = if is_stale { 0 } else { peer.readiness() };
            let events = if is_alone && arrival != 0 { arrival } else { arrival | room | found };
            peer.has_arrival = false;
            peer.is_known_empty = false;
            peer.has_room &= events & i32::from(libc::POLLOUT) == 0;
            self.completions.push(Completion { token, result: events, flags: CQE_MORE });
        }
        self.completions.extend(shut.map(|token| Completion { token, result: 0, flags: 0 }));
    }

    // ----- completions -----

    /// Whether a worker that waits for a completion gets one.
    pub(super) fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }

    /// Whether an operation of this kind has completed and the worker has not seen it.
    pub(super) fn has_unseen(&self, kind: Kind) -> bool {
        self.completions.iter().any(|completion| completion.token.kind == kind)
    }

    /// What must hold while the worker waits: nothing is kept back for a send that does not come.
    pub(super) fn check_waiting(&self) {
        let is_stuck = |peer: &Peer| peer.is_corked && !peer.lacks_room && !peer.has_reset;
        assert!(!self.peers.values().any(is_stuck), "the rest of an announced output is not sent");
    }

    /// Nothing has happened that the worker does not know, and nothing will by itself.
    pub(super) fn is_quiet(&self) -> bool {
        !self.has_completions() && self.queue.is_empty() && self.peers.values().all(Peer::is_quiet)
    }

    /// What the worker sees at its next look, in one of the orders that are legal: all the sends, for they complete within
    /// the enter that submits them, and `at_least` that many in all if there are any.
    pub(super) fn batch(&mut self, at_least: usize) -> Vec<Completion> {
        let all = self.completions.len();
        let size = if self.random.one_in(2) { all } else { self.random.below(all + 1).max(at_least.min(all)) };
        let mut batch = Vec::new();
        while batch.len() < size {
            let any = self.random.below(self.completions.len());
            batch.push(self.take(any));
        }
        while let Some(send) = self.completions.iter().position(|it| it.token.kind == Kind::Send) {
            batch.push(self.take(send));
        }
        batch
    }

    /// The completion at this place, or one that has to be seen before it.
    fn take(&mut self, mut at: usize) -> Completion {
        while let Some(before) = (0..at).find(|&before| self.completions[before].precedes(&self.completions[at])) {
            at = before;
        }
        self.completions.remove(at)
    }
}
