use super::*;
use crate::engine::deadline::Timeouts;
use crate::engine::uring::buffers::{BufferPool, kernel::Consumer};
use crate::engine::uring::token::Token;
use crate::protocol::{Protocol, Settings};
use crate::worker::Backlog;

const FLOODERS: u32 = 10;
/// The slot of the one that sends a little.
const MODEST: u32 = FLOODERS;
const MESSAGE: usize = 100;
const CQE_MORE: u32 = 1 << 1;
const CQE_SOCK_NONEMPTY: u32 = 1 << 2;
const SHAPE: PoolShape = PoolShape { count: 2, size: 512 << 10, incremental: true };

/// A kernel in which ten sockets are always full, one may hold a small message, and whatever is sent fits.
struct Sockets {
    connections: Connections,
    consumer: Consumer,
    polls: Vec<Token>,
    /// Bytes received from each socket.
    received: Vec<usize>,
    modest_has_sent: bool,
}

impl Sockets {
    fn new() -> Self {
        let settings = Settings { protocol: Protocol::Tcp, ..Settings::default() };
        let backlog = Backlog { per_connection: 8 << 20, total: 1 << 30 };
        let pool = BufferPool::detached(SHAPE);
        let mut connections = Connections::new(20, pool, backlog, settings, Timeouts::default());
        (0..=FLOODERS).for_each(|slot| connections.accepted(slot));
        let polls: Vec<Token> = connections.take_ops().map(|(token, _)| token).collect();
        for &poll in &polls[..FLOODERS as usize] {
            connections.ready(poll, libc::POLLIN.into(), CQE_MORE);
        }
        connections.end_turn();
        let received = vec![0; FLOODERS as usize + 1];
        Self { connections, consumer: Consumer::default(), polls, received, modest_has_sent: false }
    }

    /// One enter and what the worker does then. Returns what was received.
    fn turn(&mut self, now: u32) -> usize {
        let before: usize = self.received.iter().sum();
        let ops: Vec<_> = self.connections.take_ops().collect();
        self.connections.set_now(now);
        for (token, op) in ops {
            match op {
                Op::Receive { slot, at_most } => self.receive(token, slot, at_most),
                Op::Send { .. } => {}
                other => panic!("nobody leaves: {other:?}"),
            }
        }
        self.connections.finish_sends();
        if self.modest_has_sent {
            self.connections.ready(self.polls[MODEST as usize], libc::POLLIN.into(), CQE_MORE);
        }
        self.connections.end_turn();
        self.connections.check_invariants();
        self.received.iter().sum::<usize>() - before
    }

    fn receive(&mut self, token: Token, slot: u32, at_most: Option<NonZeroU32>) {
        let is_modest = slot == MODEST;
        let available = if is_modest { MESSAGE * usize::from(self.modest_has_sent) } else { 2 << 20 };
        let data = vec![0; at_most.map_or(available, |at_most| available.min(at_most.get() as usize))];
        let Some((len, flags)) = self.consumer.receive(self.connections.pool_mut(), &data) else {
            return self.connections.received(token, -libc::ENOBUFS, 0);
        };
        self.received[slot as usize] += len;
        self.modest_has_sent &= !is_modest;
        let flags = if is_modest { flags } else { flags | CQE_SOCK_NONEMPTY };
        self.connections.received(token, len as i32, flags);
    }

    /// Until everybody has been judged by what it sends.
    fn warm_up(&mut self) {
        for _ in 0..10 * FLOODERS {
            self.turn(0);
        }
    }

    /// A small message comes, and the turn after the one that hears of it. Returns what that one has received.
    fn serve_modest(&mut self) -> usize {
        self.modest_has_sent = true;
        self.turn(0);
        self.turn(0)
    }
}

#[test]
fn a_small_message_does_not_wait_for_those_who_send_without_a_pause() {
    let mut sockets = Sockets::new();
    sockets.warm_up();
    sockets.serve_modest();
    for turn in 0..200 {
        let received = sockets.serve_modest();
        assert!(!sockets.modest_has_sent, "not served in turn {turn}");
        assert!(received <= SHARES as usize + MESSAGE, "a turn of {received} bytes, in turn {turn}");
        assert!(sockets.connections.is_urgent(), "some want to be received from, and nothing would wake the loop");
    }
}

#[test]
fn those_who_send_without_a_pause_get_equal_shares() {
    let mut sockets = Sockets::new();
    sockets.warm_up();
    sockets.received.fill(0);
    for _ in 0..1000 {
        sockets.serve_modest();
    }
    let flooders = &sockets.received[..FLOODERS as usize];
    let (least, most) = (flooders.iter().min().unwrap(), flooders.iter().max().unwrap());
    assert!(most - least <= 2 * SHARE as usize, "{flooders:?}");
    assert!(*least > 0);
}

/// Large pieces are what makes large messages cheap.
#[test]
fn with_nobody_else_there_the_pool_is_used_as_a_whole() {
    let mut sockets = Sockets::new();
    sockets.warm_up();
    sockets.serve_modest();
    let turns = 100;
    let received: usize = (0..turns).map(|_| sockets.turn(2)).sum();
    // While one buffer is being sent, the other is being filled.
    assert!(received >= turns * SHAPE.size as usize * 9 / 10, "{received} bytes in {turns} turns");
}

/// Older kernels use a whole buffer for each receive: there may be fewer of them than peers that send little.
#[test]
fn in_whole_buffers_those_who_send_little_leave_some_for_the_others() {
    const MODEST: u32 = 200;
    const GREEDY: u32 = MODEST;
    const ENDED: u32 = MODEST + 1;
    let settings = Settings { protocol: Protocol::Tcp, ..Settings::default() };
    let backlog = Backlog { per_connection: 8 << 20, total: 1 << 30 };
    let pool = BufferPool::detached(PoolShape { count: 64, size: 16 << 10, incremental: false });
    let mut connections = Connections::new(300, pool, backlog, settings, Timeouts::default());
    (0..=ENDED).for_each(|slot| connections.accepted(slot));
    let polls: Vec<Token> = connections.take_ops().map(|(token, _)| token).collect();
    polls[..=GREEDY as usize].iter().for_each(|&poll| connections.ready(poll, libc::POLLIN.into(), CQE_MORE));
    connections.end_turn();
    let mut consumer = Consumer::default();
    let mut receives = [0; ENDED as usize + 1];
    for turn in 0..1000 {
        if turn == 100 {
            connections.ready(polls[ENDED as usize], i32::from(libc::POLLIN | libc::POLLRDHUP), CQE_MORE);
        }
        let ops: Vec<_> = connections.take_ops().collect();
        for (token, op) in ops {
            let Op::Receive { slot, at_most } = op else { continue };
            receives[slot as usize] += 1;
            if slot == ENDED {
                connections.received(token, 0, 0);
                continue;
            }
            let available = if slot == GREEDY { 1 << 20 } else { MESSAGE };
            let data = vec![0; at_most.map_or(available, |at_most| available.min(at_most.get() as usize))];
            match consumer.receive(connections.pool_mut(), &data) {
                Some((len, flags)) => connections.received(token, len as i32, flags | CQE_SOCK_NONEMPTY),
                None => connections.received(token, -libc::ENOBUFS, 0),
            }
        }
        connections.finish_sends();
        connections.end_turn();
    }
    assert_eq!(receives[ENDED as usize], 1, "an end that nobody sees");
    assert!(receives[GREEDY as usize] > 100, "{} receives from the greedy one", receives[GREEDY as usize]);
}

#[test]
fn who_does_not_read_waits_behind_those_who_do() {
    const UNREAD: u32 = 300;
    const READER: u32 = UNREAD;
    let settings = Settings { protocol: Protocol::Tcp, ..Settings::default() };
    let backlog = Backlog { per_connection: 8 << 20, total: 1 << 30 };
    let mut connections = Connections::new(400, BufferPool::detached(SHAPE), backlog, settings, Timeouts::default());
    (0..=READER).for_each(|slot| connections.accepted(slot));
    let polls: Vec<Token> = connections.take_ops().map(|(token, _)| token).collect();
    let mut consumer = Consumer::default();
    let mut receives = [0; READER as usize + 1];
    for turn in 0..100 {
        let has_sent = |slot: usize| slot != READER as usize || turn % 2 == 0;
        let senders = polls.iter().enumerate().filter(|&(slot, _)| has_sent(slot));
        senders.for_each(|(_, &poll)| connections.ready(poll, libc::POLLIN.into(), CQE_MORE));
        connections.end_turn();
        let ops: Vec<_> = connections.take_ops().collect();
        let first = ops.iter().find_map(|(_, op)| if let Op::Receive { slot, .. } = op { Some(*slot) } else { None });
        // In the first turns nobody knows who will read.
        assert!(turn < 10 || turn % 2 == 1 || first == Some(READER), "slot {first:?} is first in turn {turn}");
        for (token, op) in ops {
            match op {
                Op::Receive { slot, .. } => {
                    receives[slot as usize] += 1;
                    let (len, flags) = consumer.receive(connections.pool_mut(), &[0; MESSAGE]).expect("room");
                    connections.received(token, len as i32, flags);
                }
                Op::Send { slot, .. } if slot != READER => connections.send_fell_short(token, -libc::EAGAIN),
                _ => {}
            }
        }
        connections.finish_sends();
    }
    assert!(receives.iter().all(|&count| count > 0), "somebody is not received from at all: {receives:?}");
}

#[test]
fn who_sends_much_and_reads_does_not_wait_behind_those_who_do_not_read() {
    const UNREAD: u32 = 300;
    const LARGE: u32 = UNREAD;
    const READER: u32 = UNREAD + 1;
    const TURNS: usize = 1000;
    let settings = Settings { protocol: Protocol::Tcp, ..Settings::default() };
    let backlog = Backlog { per_connection: 8 << 20, total: 1 << 30 };
    let mut connections = Connections::new(400, BufferPool::detached(SHAPE), backlog, settings, Timeouts::default());
    (0..=READER).for_each(|slot| connections.accepted(slot));
    let polls: Vec<Token> = connections.take_ops().map(|(token, _)| token).collect();
    let mut consumer = Consumer::default();
    let mut received = 0;
    for _ in 0..TURNS {
        for &poll in &polls {
            connections.ready(poll, libc::POLLIN.into(), CQE_MORE);
        }
        connections.end_turn();
        let ops: Vec<_> = connections.take_ops().collect();
        for (token, op) in ops {
            match op {
                Op::Receive { slot, at_most } => {
                    let available = if slot == LARGE { 2 << 20 } else { MESSAGE };
                    let data = vec![0; at_most.map_or(available, |at_most| available.min(at_most.get() as usize))];
                    match consumer.receive(connections.pool_mut(), &data) {
                        Some((len, flags)) => {
                            received += if slot == LARGE { len } else { 0 };
                            let more = if slot == LARGE { CQE_SOCK_NONEMPTY } else { 0 };
                            connections.received(token, len as i32, flags | more);
                        }
                        None => connections.received(token, -libc::ENOBUFS, 0),
                    }
                }
                Op::Send { slot, .. } if slot < UNREAD => connections.send_fell_short(token, -libc::EAGAIN),
                _ => {}
            }
        }
        connections.finish_sends();
    }
    assert!(received >= TURNS / 2 * SHARE as usize, "{received} bytes in {TURNS} turns");
}

#[test]
fn who_comes_waits_behind_those_who_are_there() {
    const NEWCOMERS: u32 = 100;
    const MODEST: u32 = NEWCOMERS;
    let mut connections = websockets(NEWCOMERS + 1);
    let polls: Vec<Token> = connections.take_ops().map(|(token, _)| token).collect();
    let mut consumer = Consumer::default();
    let mut sent = [UPGRADE].into_iter().chain(std::iter::repeat(MESSAGE_OF_ONE_BYTE));
    for turn in 0..20 {
        let newcomers = if turn > 1 { &polls[..NEWCOMERS as usize] } else { &[] };
        for &poll in newcomers.iter().chain([&polls[MODEST as usize]]) {
            connections.ready(poll, libc::POLLIN.into(), CQE_MORE);
        }
        connections.end_turn();
        let ops: Vec<_> = connections.take_ops().collect();
        let slots: Vec<_> = ops.iter().filter_map(|(_, op)| receive_slot(op)).collect();
        assert_eq!(slots.first(), Some(&MODEST), "in turn {turn}");
        assert_eq!(slots.len(), 1 + if turn > 1 { PASSING } else { 0 }, "in turn {turn}");
        for (token, op) in ops {
            let Some(slot) = receive_slot(&op) else { continue };
            let data = if slot == MODEST { sent.next().expect("endless") } else { &UPGRADE[..1] };
            let (len, flags) = consumer.receive(connections.pool_mut(), data).expect("room");
            connections.received(token, len as i32, flags);
        }
        connections.finish_sends();
    }
}

fn receive_slot(op: &Op) -> Option<u32> {
    if let Op::Receive { slot, .. } = op { Some(*slot) } else { None }
}

#[test]
fn a_flood_of_tiny_frames_has_shorter_turns() {
    const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];
    let mut connections = websockets(FLOODERS + 1);
    let mut consumer = Consumer::default();
    let polls: Vec<Token> = connections.take_ops().map(|(token, _)| token).collect();
    let pings = PING.repeat(SHARE as usize / PING.len() + 2);
    // Where in a frame each goes on; `None` before the upgrade.
    let mut within = [None; FLOODERS as usize + 1];
    for turn in 0..300 {
        let events = if turn == 0 { &polls[..] } else { &polls[MODEST as usize..] };
        for &poll in events {
            connections.ready(poll, libc::POLLIN.into(), CQE_MORE);
        }
        connections.end_turn();
        let mut brought = 0;
        let ops: Vec<_> = connections.take_ops().collect();
        for (token, op) in ops {
            let Op::Receive { slot, at_most } = op else { continue };
            let from = within[slot as usize];
            let most = at_most.map_or(SHARE as usize, |most| most.get() as usize);
            let data = match (slot, from) {
                (_, None) => UPGRADE,
                (MODEST, Some(_)) => MESSAGE_OF_ONE_BYTE,
                (_, Some(from)) => &pings[from..from + most],
            };
            let (len, flags) = consumer.receive(connections.pool_mut(), data).expect("room");
            within[slot as usize] = Some(from.map_or(0, |from| (from + len) % PING.len()));
            brought += len;
            let more = if slot == MODEST { 0 } else { CQE_SOCK_NONEMPTY };
            connections.received(token, len as i32, flags | more);
        }
        connections.finish_sends();
        // In the first turns nobody knows what they send.
        assert!(turn < 50 || brought <= SMALL_SHARE as usize + MESSAGE, "{brought} bytes in turn {turn}");
    }
}

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const MESSAGE_OF_ONE_BYTE: &[u8] = &[0x82, 0x81, 0, 0, 0, 0, 1];

/// Sockets in the first `count` slots.
fn websockets(count: u32) -> Connections {
    let backlog = Backlog { per_connection: 8 << 20, total: 1 << 30 };
    let pool = BufferPool::detached(SHAPE);
    let mut connections = Connections::new(200, pool, backlog, Settings::default(), Timeouts::default());
    (0..count).for_each(|slot| connections.accepted(slot));
    connections
}
