//! The simulated kernel: takes submissions, lets things happen to sockets, and completes operations in any legal order.

use ringio::testing::Posted;

use crate::engine::uring::connections::Connections;
use crate::engine::uring::operation::Op;
use crate::engine::uring::token::{Kind, Token};

use super::peer::{self, Peer};
use super::random::Random;

/// A completion queue entry.
pub(super) struct Completion {
    pub(super) token: Token,
    pub(super) posted: Posted,
    /// Of a receive: the socket, and where in the peer's script the bytes are.
    pub(super) received: Option<(u32, std::ops::Range<usize>)>,
}

impl Completion {
    /// Whether the worker must see `self` before `other`, which has happened later.
    fn precedes(&self, other: &Completion) -> bool {
        // What happens on one socket has an order, and so has what uses up the shared buffers: the kernel gives no offset
        // within a buffer.
        let (mine, others) = (self.token, other.token);
        (mine.key, mine.generation) == (others.key, others.generation)
            || (self.posted.names_buffer() && other.posted.names_buffer())
    }
}

pub(super) struct Kernel {
    pub(super) random: Random,
    /// What has happened and the worker has not seen.
    completions: Vec<Completion>,
    /// By slot.
    pub(super) peers: Vec<Option<Peer>>,
    free_slots: Vec<u32>,
    /// The last generation of each slab key.
    generations: Vec<Option<u32>>,
    /// Sockets with a send that the worker cannot know to be complete.
    senders: Vec<u32>,
    pub(super) kind: peer::Kind,
    /// No peer resets or finishes, and no poll ends by itself: none of that may hide a connection that is stuck.
    pub(super) is_calm: bool,
    /// No operation is interrupted, cut short or out of memory.
    pub(super) is_smooth: bool,
    /// Before Linux 6.18 a one-shot receive that fails with `EAGAIN` names the buffer that it had chosen. Since 6.12, which
    /// brought incremental buffers, it has not used it; before, it has.
    names_buffer_in_vain: bool,
    /// Sockets closed so far.
    pub(super) finished: usize,
}

impl Kernel {
    pub(super) fn new(mut random: Random, slots: u32, kind: peer::Kind) -> Self {
        let names_buffer_in_vain = random.one_in(2);
        Self {
            random,
            is_calm: false,
            is_smooth: false,
            names_buffer_in_vain,
            completions: Vec::new(),
            peers: (0..slots).map(|_| None).collect(),
            free_slots: (0..slots).collect(),
            generations: Vec::new(),
            senders: Vec::new(),
            kind,
            finished: 0,
        }
    }

    /// A peer connects, if there is a slot.
    pub(super) fn connect(&mut self) {
        if !self.free_slots.is_empty() {
            let peer = Peer::new(&mut self.random, self.kind);
            self.accept(peer);
        }
    }

    /// A peer has connected; there is a slot. Returns which one.
    pub(super) fn accept(&mut self, peer: Peer) -> u32 {
        let slot = self.free_slots.pop().expect("a free slot");
        self.peers[slot as usize] = Some(peer);
        self.complete(Token::of_worker(Kind::Accepted), slot as i32, false);
        slot
    }

    pub(super) fn free_slots(&self) -> usize {
        self.free_slots.len()
    }

    pub(super) fn all_peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten()
    }

    pub(super) fn all_peers_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.peers.iter_mut().flatten()
    }

    // ----- submissions -----

    /// What an enter does with the submissions.
    pub(super) fn enter(&mut self, ops: &[Op], connections: &Connections) {
        for &op in ops {
            self.start(op, connections);
        }
    }

    /// The worker knows that the sends without a completion are complete.
    pub(super) fn sends_finished(&mut self) {
        self.senders.clear();
    }

    fn start(&mut self, op: Op, connections: &Connections) {
        let Op { token, slot, .. } = op;
        match token.kind {
            Kind::Ready => self.arm_poll(token, slot),
            Kind::Receive => self.receive(op, connections),
            Kind::Send => {
                assert!(!self.senders.contains(&slot), "two sends of one connection in flight");
                self.senders.push(slot);
                let (bytes, has_more) = connections.sent_by(op);
                self.send(token, slot, bytes, has_more);
            }
            Kind::Cancel => self.cancel(token, slot),
            Kind::Shutdown => {
                let peer = self.peer_of(token, slot);
                peer.was_shut = true;
                peer.is_corked = false;
                peer.shutdown = Some(token);
            }
            Kind::Close => {
                self.peer_of(token, slot).check_end();
                self.peers[slot as usize] = None;
                self.free_slots.push(slot);
                self.finished += 1;
                self.complete(token, 0, false);
            }
            Kind::Reset => unreachable!("only behaviours reset"),
            Kind::Accepted | Kind::Wake | Kind::Install => unreachable!("not a connection's"),
        }
    }

    /// The socket in `slot`, which must be the one that `token`'s entry was made for.
    fn peer_of(&mut self, token: Token, slot: u32) -> &mut Peer {
        let identity = (token.key, token.generation);
        let peer = self.peers[slot as usize].as_mut().expect("an operation on an open socket");
        if peer.owner.is_none() {
            // The entry's first operation. Of the connection before nothing may be left but a cancellation that has missed.
            let is_left =
                |it: &Completion| it.token.key == token.key && !matches!(it.token.kind, Kind::Cancel | Kind::Accepted);
            assert!(!self.completions.iter().any(is_left), "an entry is reused while an operation is in flight");
            peer.owner = Some(identity);
            let key = token.key as usize;
            self.generations.resize(self.generations.len().max(key + 1), None);
            let before = self.generations[key].replace(token.generation);
            assert_ne!(before, Some(token.generation), "two connections with the same tokens");
        }
        assert_eq!(peer.owner, Some(identity), "an operation on another connection's socket");
        peer
    }

    /// An edge-triggered poll begins with what there is.
    fn arm_poll(&mut self, token: Token, slot: u32) {
        let peer = self.peer_of(token, slot);
        assert!(peer.poll.replace(token).is_none(), "two polls on one socket");
        let readiness = peer.readiness();
        peer.tell(0);
        peer.has_arrival = readiness & i32::from(libc::POLLIN) != 0;
        peer.has_room = readiness & i32::from(libc::POLLOUT) != 0;
    }

    /// Takes what there is, or, now and then, a part of it, and tells whether there is more.
    fn receive(&mut self, Op { token, slot, at_most }: Op, connections: &Connections) {
        let at_most = at_most.map_or(usize::MAX, |at_most| at_most.get() as usize);
        let (scale, hides_more) = (self.kind.scale, self.kind.hides_more);
        let is_cut = !self.is_smooth && self.random.one_in(4);
        let at_most = if is_cut { at_most.min(1 + self.random.below(100 * scale)) } else { at_most };
        let is_interrupted = !self.is_smooth && self.random.one_in(50);
        let is_signalled = !self.is_smooth && self.random.one_in(3);
        let hears_of_reset = self.random.one_in(2);
        let names_buffer = self.names_buffer_in_vain;
        let pool = connections.pool();
        let is_last = connections.is_finishing(token.key);
        let peer = self.peer_of(token, slot);
        peer.is_received_from();
        peer.is_drained = false;
        let failed = |errno: i32| Posted::plain(token.encode(), -errno, false);
        let mut received = None;
        let posted = if is_interrupted {
            failed(libc::EINTR)
        } else if peer.has_reset && (peer.inbox().is_empty() || hears_of_reset) {
            failed(libc::ECONNRESET)
        } else if is_signalled && peer.is_at_mark() && !peer.was_vain && !is_last {
            peer.find_nothing(false);
            failed(libc::EAGAIN)
        } else if !peer.inbox().is_empty() {
            let len = peer.available().min(at_most);
            match pool.post_received(token.encode(), &peer.inbox()[..len]) {
                Some(posted) => {
                    let from = peer.received;
                    peer.bring(posted.result() as usize);
                    received = Some((slot, from..peer.received));
                    // Of a reset behind them the last bytes do not tell, unlike of a FIN.
                    let has_more = !peer.inbox().is_empty() || peer.has_finished;
                    if has_more && !hides_more { posted.with_nonempty_socket() } else { posted }
                }
                None => failed(libc::ENOBUFS),
            }
        } else if peer.has_finished {
            peer.fin_delivered = true;
            peer.is_drained = true;
            failed(0)
        } else {
            let is_asked = peer.server_acts || is_last || connections.is_leaving(token.key);
            assert!(!peer.is_known_empty || is_asked, "a receive from a socket that is known to be empty");
            peer.find_nothing(is_last);
            peer.is_drained = true;
            if names_buffer { pool.post_failed(token.encode(), -libc::EAGAIN) } else { failed(libc::EAGAIN) }
        };
        self.completions.push(Completion { token, posted, received });
    }

    fn send(&mut self, token: Token, slot: u32, bytes: &[u8], has_more: bool) {
        let is_short_of_memory = !self.is_smooth && self.random.one_in(20);
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
            self.complete(token, result, false);
        }
    }

    fn cancel(&mut self, token: Token, slot: u32) {
        let target = Token { kind: Kind::Ready, ..token };
        // An operation that is just being run is not found, and goes on.
        let is_missed = self.random.one_in(5);
        let poll = &mut self.peer_of(token, slot).poll;
        let found = poll.take_if(|poll| *poll == target && !is_missed);
        if found.is_some() {
            self.complete(target, -libc::ECANCELED, false);
        } else {
            let error = if self.random.one_in(2) { libc::ENOENT } else { libc::EALREADY };
            self.complete(token, -error, false);
        }
    }

    fn complete(&mut self, token: Token, result: i32, goes_on: bool) {
        let posted = Posted::plain(token.encode(), result, goes_on);
        self.completions.push(Completion { token, posted, received: None });
    }

    // ----- events -----

    /// Something happens to some of the sockets.
    pub(super) fn happen(&mut self) {
        for slot in 0..self.peers.len() {
            for _ in 0..self.random.below(4) {
                self.happen_to(slot);
            }
        }
    }

    /// Operations complete that can, and nothing else happens.
    pub(super) fn go_on(&mut self) {
        for slot in 0..self.peers.len() {
            self.run(slot);
        }
    }

    fn happen_to(&mut self, slot: usize) {
        let Self { random, kind, .. } = self;
        let Some(peer) = self.peers[slot].as_mut() else { return };
        let amount = 1 + random.below(200 * kind.scale);
        let is_disturbed = !self.is_calm;
        match random.below(12) {
            0 if is_disturbed && random.one_in(20) => {
                peer.mark();
                peer.send(amount);
            }
            0..=3 if peer.dribbles => peer.send(1 + amount % 7),
            0..=3 => peer.send(amount),
            4 if is_disturbed && (peer.has_sent_all() || random.one_in(20)) => peer.finish(),
            5 if is_disturbed && random.one_in(10) => peer.reset(),
            6 if is_disturbed && (!kind.floods || random.one_in(20)) => peer.reads = !peer.reads,
            7 | 8 if self.is_calm => peer.read(usize::MAX),
            7 | 8 => peer.read(amount),
            9 if peer.was_shut => peer.finish(),
            10 if is_disturbed && random.one_in(10) => self.end_multishot(slot),
            _ => self.run(slot),
        }
    }

    /// The kernel ends a multishot poll for reasons of its own, like an overflow of completions.
    fn end_multishot(&mut self, slot: usize) {
        let Some(peer) = &mut self.peers[slot] else { return };
        let readiness = peer.readiness();
        peer.tell(readiness);
        if let Some(token) = peer.poll.take() {
            self.complete(token, readiness, false);
        }
    }

    /// Operations of this socket that can complete do.
    pub(super) fn run(&mut self, slot: usize) {
        let (is_alone, is_stale) = (self.random.one_in(3), self.random.one_in(3));
        let Some(peer) = &mut self.peers[slot] else { return };
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
            peer.tell(events);
            peer.has_room &= events & i32::from(libc::POLLOUT) == 0;
            self.complete(token, events, true);
        }
        if let Some(token) = shut {
            self.complete(token, 0, false);
        }
    }

    // ----- completions -----

    /// Whether a worker that waits for a completion gets one.
    pub(super) fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }

    /// What must hold while the worker waits: nothing is kept back for a send that does not come.
    pub(super) fn check_waiting(&self) {
        let is_stuck = |peer: &Peer| peer.is_corked && !peer.lacks_room && !peer.has_reset;
        assert!(!self.all_peers().any(is_stuck), "the rest of an announced output is not sent");
    }

    /// Nothing has happened that the worker does not know, and nothing will by itself.
    pub(super) fn is_quiet(&self) -> bool {
        !self.has_completions() && self.all_peers().all(Peer::is_quiet)
    }

    /// What the worker sees at its next look, in one of the orders that are legal: all sends and receives, for they
    /// complete within the enter that submits them, and `at_least` that many in all if there are any.
    pub(super) fn batch(&mut self, at_least: usize) -> Vec<Completion> {
        let all = self.completions.len();
        let size = if self.random.one_in(2) { all } else { self.random.below(all + 1).max(at_least.min(all)) };
        let mut batch = Vec::with_capacity(all);
        while batch.len() < size {
            let any = self.random.below(self.completions.len());
            batch.push(self.take(any));
        }
        let is_within_enter = |it: &Completion| matches!(it.token.kind, Kind::Send | Kind::Receive);
        while let Some(within) = self.completions.iter().position(is_within_enter) {
            batch.push(self.take(within));
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
