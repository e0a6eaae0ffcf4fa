use super::*;
use crate::engine::deadline::Timeouts;
use crate::engine::uring::buffers::{BufferPool, kernel::Consumer};
use crate::engine::uring::token::Token;
use crate::protocol::{Protocol, Settings};
use crate::worker::Backlog;

const MESSAGE: usize = 100;
const ARRIVAL: i32 = libc::POLLIN as i32;
const CQE_MORE: u32 = 1 << 1;
const CQE_SOCK_NONEMPTY: u32 = 1 << 2;
const SHAPE: PoolShape = PoolShape { count: 2, size: 512 << 10, incremental: true };
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const MESSAGE_OF_ONE_BYTE: &[u8] = &[0x82, 0x81, 0, 0, 0, 0, 1];
const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];

/// What a socket holds: bytes, and whether there are more behind them; `None`: its peer has ended.
type Held<'a> = Option<(&'a [u8], bool)>;

/// A worker without a kernel.
struct Worker {
    connections: Connections,
    consumer: Consumer,
    polls: Vec<Token>,
    now: u32,
}

impl Worker {
    /// With sockets in the first `count` slots.
    fn new(protocol: Protocol, count: u32, shape: PoolShape) -> Self {
        let settings = Settings { protocol, ..Settings::default() };
        let backlog = Backlog { per_connection: 8 << 20, total: 1 << 30 };
        let pool = BufferPool::detached(shape);
        let mut connections = Connections::new(400, pool, backlog, settings, Timeouts::default());
        (0..count).for_each(|slot| connections.accepted(slot));
        let polls: Vec<Token> = connections.take_ops().map(|(token, _)| token).collect();
        Self { connections, consumer: Consumer::default(), polls, now: 0 }
    }

    fn event(&mut self, slot: u32, events: i32) {
        self.connections.ready(self.polls[slot as usize], events, CQE_MORE);
    }

    fn events(&mut self, slots: std::ops::Range<u32>, events: i32) {
        slots.for_each(|slot| self.event(slot, events));
    }

    /// Ends a turn, and has an enter do what it asks for. `held` says what a socket holds, of which a receive takes what it
    /// may, and `reads` whose peer reads. Returns who was received from, in order, and how much.
    fn turn<'a>(&mut self, mut held: impl FnMut(u32) -> Held<'a>, reads: impl Fn(u32) -> bool) -> Vec<(u32, usize)> {
        self.connections.end_turn();
        self.connections.check_invariants();
        let mut received = Vec::new();
        let ops: Vec<_> = self.connections.take_ops().collect();
        self.connections.set_now(self.now);
        for (token, op) in ops {
            match op {
                Op::Receive { slot, at_most } => {
                    let most = at_most.map_or(usize::MAX, |most| most.get() as usize);
                    received.push((slot, self.receive(token, held(slot), most)));
                }
                Op::Send { slot, .. } if !reads(slot) => self.connections.send_fell_short(token, -libc::EAGAIN),
                _ => {}
            }
        }
        self.connections.finish_sends();
        received
    }

    fn receive(&mut self, token: Token, held: Held<'_>, most: usize) -> usize {
        let Some((data, more)) = held else {
            self.connections.received(token, 0, 0);
            return 0;
        };
        let Some((len, flags)) = self.consumer.receive(self.connections.pool_mut(), &data[..data.len().min(most)])
        else {
            self.connections.received(token, -libc::ENOBUFS, 0);
            return 0;
        };
        let more = more || len < data.len();
        self.connections.received(token, len as i32, if more { flags | CQE_SOCK_NONEMPTY } else { flags });
        len
    }
}

fn all_read(_: u32) -> bool {
    true
}

fn brought(received: &[(u32, usize)]) -> usize {
    received.iter().map(|&(_, len)| len).sum()
}

const FLOODERS: u32 = 10;
/// The slot of the one that sends a little.
const MODEST: u32 = FLOODERS;

/// Ten sockets that are always full, and one that may hold a small message.
struct Flood {
    worker: Worker,
    data: Vec<u8>,
    received: [usize; FLOODERS as usize + 1],
}

impl Flood {
    fn new() -> Self {
        let mut worker = Worker::new(Protocol::Tcp, FLOODERS + 1, SHAPE);
        worker.events(0..FLOODERS, ARRIVAL);
        let mut flood = Self { worker, data: vec![0; 2 << 20], received: [0; FLOODERS as usize + 1] };
        // Until everybody has been judged by what it sends.
        (0..10 * FLOODERS).for_each(|_| drop(flood.turn()));
        flood
    }

    fn turn(&mut self) -> Vec<(u32, usize)> {
        let Self { worker, data, received } = self;
        let held = |slot| Some(if slot == MODEST { (&data[..MESSAGE], false) } else { (&data[..], true) });
        let turn = worker.turn(held, all_read);
        for &(slot, len) in &turn {
            received[slot as usize] += len;
        }
        turn
    }

    /// The turn that hears of a small message.
    fn serve_modest(&mut self) -> Vec<(u32, usize)> {
        self.worker.event(MODEST, ARRIVAL);
        self.turn()
    }
}

#[test]
fn a_small_message_does_not_wait_for_those_who_send_without_a_pause() {
    let mut flood = Flood::new();
    flood.serve_modest();
    for turn in 0..200 {
        let received = flood.serve_modest();
        assert_eq!(received[0], (MODEST, MESSAGE), "in turn {turn}");
        assert!(brought(&received) <= SHARES as usize + MESSAGE, "{received:?} in turn {turn}");
        assert!(flood.worker.connections.is_urgent(), "some wait for their turn, and nothing would wake the loop");
    }
}

#[test]
fn those_who_send_without_a_pause_get_equal_shares() {
    let mut flood = Flood::new();
    flood.received.fill(0);
    (0..1000).for_each(|_| drop(flood.serve_modest()));
    let flooders = &flood.received[..FLOODERS as usize];
    let (least, most) = (flooders.iter().min().unwrap(), flooders.iter().max().unwrap());
    assert!(most - least <= 2 * SHARE as usize, "{flooders:?}");
    assert!(*least > 0);
}

/// Large pieces are what makes large messages cheap.
#[test]
fn with_nobody_else_there_the_pool_is_used_as_a_whole() {
    let mut flood = Flood::new();
    flood.serve_modest();
    flood.worker.now = 2;
    let turns = 100;
    let received: usize = (0..turns).map(|_| brought(&flood.turn())).sum();
    // While one buffer is being sent, the other is being filled.
    assert!(received >= turns * SHAPE.size as usize * 9 / 10, "{received} bytes in {turns} turns");
}

/// Older kernels use a whole buffer for each receive: there may be fewer of them than peers that send little.
#[test]
fn in_whole_buffers_those_who_send_little_leave_some_for_the_others() {
    const MODEST: u32 = 200;
    const GREEDY: u32 = MODEST;
    const ENDED: u32 = MODEST + 1;
    let shape = PoolShape { count: 64, size: 16 << 10, incremental: false };
    let mut worker = Worker::new(Protocol::Tcp, ENDED + 1, shape);
    worker.events(0..ENDED, ARRIVAL);
    let data = vec![0; 1 << 20];
    let mut receives = [0; ENDED as usize + 1];
    for turn in 0..1000 {
        if turn == 100 {
            worker.event(ENDED, ARRIVAL | i32::from(libc::POLLRDHUP));
        }
        let held = |slot| match slot {
            ENDED => None,
            GREEDY => Some((&data[..], true)),
            _ => Some((&data[..MESSAGE], true)),
        };
        for (slot, _) in worker.turn(held, all_read) {
            receives[slot as usize] += 1;
        }
    }
    assert_eq!(receives[ENDED as usize], 1, "an end that nobody sees");
    assert!(receives[GREEDY as usize] > 100, "{} receives from the greedy one", receives[GREEDY as usize]);
}

const UNREAD: u32 = 300;

#[test]
fn who_does_not_read_waits_behind_those_who_do() {
    const READER: u32 = UNREAD;
    let mut worker = Worker::new(Protocol::Tcp, READER + 1, SHAPE);
    let mut times = [0; READER as usize + 1];
    for turn in 0..100 {
        worker.events(0..UNREAD, ARRIVAL);
        if turn % 2 == 0 {
            worker.event(READER, ARRIVAL);
        }
        let received = worker.turn(|_| Some((&[0; MESSAGE], false)), |slot| slot == READER);
        // In the first turns nobody knows who will read.
        assert!(turn < 10 || turn % 2 == 1 || received[0].0 == READER, "{received:?} in turn {turn}");
        for (slot, _) in received {
            times[slot as usize] += 1;
        }
    }
    assert!(times.iter().all(|&count| count > 0), "somebody is not received from at all: {times:?}");
}

#[test]
fn who_sends_much_and_reads_does_not_wait_behind_those_who_do_not_read() {
    const LARGE: u32 = UNREAD;
    const READER: u32 = UNREAD + 1;
    const TURNS: usize = 1000;
    let mut worker = Worker::new(Protocol::Tcp, READER + 1, SHAPE);
    let data = vec![0; 2 << 20];
    let mut received = 0;
    for _ in 0..TURNS {
        worker.events(0..READER + 1, ARRIVAL);
        let held = |slot| Some(if slot == LARGE { (&data[..], true) } else { (&data[..MESSAGE], false) });
        let turn = worker.turn(held, |slot| slot >= UNREAD);
        received += turn.iter().filter(|(slot, _)| *slot == LARGE).map(|(_, len)| len).sum::<usize>();
    }
    assert!(received >= TURNS / 2 * SHARE as usize, "{received} bytes in {TURNS} turns");
}

#[test]
fn who_reads_again_waits_behind_those_who_do_not_no_longer() {
    let mut worker = Worker::new(Protocol::Tcp, UNREAD, SHAPE);
    let mut turn = |event: Option<i32>, reader| {
        worker.events(0..UNREAD, ARRIVAL);
        if let Some(event) = event {
            worker.event(reader, event);
        }
        worker.turn(|_| Some((&[0; MESSAGE], false)), |slot| Some(slot) == event.map(|_| reader))
    };
    (0..10).for_each(|_| drop(turn(None, 0)));
    for reader in 0..UNREAD {
        let received = turn(Some(libc::POLLOUT.into()), reader);
        assert_eq!(received[0].0, reader, "{received:?}");
        turn(None, reader); // it does not read on
    }
}

/// A key takes a place in a queue until its turn comes, though it has moved up meanwhile.
#[test]
fn those_who_read_now_and_then_take_no_more_places_than_there_are() {
    const COUNT: u32 = 200;
    let mut worker = Worker::new(Protocol::Tcp, COUNT, SHAPE);
    let mut receives = 0;
    for turn in 0..2_000 {
        worker.events(0..COUNT, ARRIVAL | i32::from(libc::POLLOUT));
        receives += worker.turn(|_| Some((&[0; MESSAGE], true)), |slot| (slot + turn) % 3 == 0).len();
        let places = worker.connections.readable.len();
        assert!(places <= 3 * COUNT as usize, "{places} places for {COUNT} connections");
    }
    assert!(receives > 2_000 * COUNT as usize / 10, "those who read are kept waiting: {receives} receives");
}

#[test]
fn who_comes_waits_behind_those_who_are_there() {
    const NEWCOMERS: u32 = 100;
    const MODEST: u32 = NEWCOMERS;
    let mut worker = Worker::new(Protocol::WebSocket, NEWCOMERS + 1, SHAPE);
    for turn in 0..20 {
        let (data, newcomers) = if turn == 0 { (UPGRADE, 0) } else { (MESSAGE_OF_ONE_BYTE, NEWCOMERS) };
        if turn > 1 {
            worker.events(0..newcomers, ARRIVAL);
        }
        worker.event(MODEST, ARRIVAL);
        let held = |slot| Some((if slot == MODEST { data } else { &UPGRADE[..1] }, false));
        let received = worker.turn(held, all_read);
        assert_eq!(received[0].0, MODEST, "in turn {turn}");
        assert_eq!(received.len(), 1 + if turn > 1 { PASSING } else { 0 }, "in turn {turn}");
    }
}

#[test]
fn who_goes_waits_behind_those_who_are_there() {
    const ENDED: u32 = 100;
    const MODEST: u32 = ENDED;
    let mut worker = Worker::new(Protocol::Tcp, ENDED + 1, SHAPE);
    worker.event(MODEST, ARRIVAL);
    worker.turn(|_| Some((&[0; MESSAGE], false)), all_read);
    worker.events(0..ENDED, ARRIVAL | i32::from(libc::POLLRDHUP));
    let mut seen = 0;
    while seen < ENDED as usize {
        worker.event(MODEST, ARRIVAL);
        let received = worker.turn(|slot| (slot == MODEST).then_some((&[0; MESSAGE], false)), all_read);
        assert_eq!(received[0].0, MODEST, "after {seen} ends");
        seen += received.len() - 1;
        assert!((2..=1 + PASSING).contains(&received.len()), "{received:?}");
    }
}

/// Neither wants an echo soon.
#[test]
fn who_does_not_read_or_is_yet_to_come_shortens_nobodys_turns() {
    const GREEDY: u32 = 20;
    let data = vec![0; 2 << 20];
    for (protocol, small) in [(Protocol::Tcp, &data[..MESSAGE]), (Protocol::WebSocket, &UPGRADE[..1])] {
        let mut worker = Worker::new(protocol, GREEDY + 1, SHAPE);
        let mut large = UPGRADE;
        for turn in 0..100 {
            // Whoever does not read is known after a while, and what it has brought before is forgotten.
            worker.now = turn / 10;
            worker.events(0..GREEDY + 1, ARRIVAL);
            let held = |slot| Some(if slot == GREEDY { (large, true) } else { (small, false) });
            let received = worker.turn(held, |slot| slot == GREEDY);
            let most = received.iter().map(|&(_, len)| len).max().unwrap();
            assert!(turn < 50 || most > SHARE as usize, "{most} bytes at once in turn {turn} of {protocol:?}");
            large = &data;
        }
    }
}

#[test]
fn a_flood_of_tiny_frames_has_shorter_turns_while_it_lasts() {
    const LARGE: u32 = FLOODERS - 1;
    let pings = PING.repeat(SHARE as usize / PING.len() + 2);
    let large_frame = [&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0][..], &[0; 4], &vec![0; 1 << 20]].concat();
    let mut worker = Worker::new(Protocol::WebSocket, FLOODERS + 1, SHAPE);
    // Where in what it sends each goes on; `None` before the upgrade.
    let mut within = [None; FLOODERS as usize + 1];
    let mut most = 0;
    for turn in 0..400 {
        worker.now = if turn < 200 { 0 } else { 3 };
        worker.events(MODEST..MODEST + 1, ARRIVAL);
        if turn == 0 {
            worker.events(0..FLOODERS, ARRIVAL);
        }
        let held = |slot| match (slot, within[slot as usize]) {
            (_, None) => Some((UPGRADE, slot != MODEST)),
            (MODEST, _) => Some((MESSAGE_OF_ONE_BYTE, false)),
            (LARGE, Some(from)) => Some((&large_frame[from..], true)),
            (_, Some(from)) if turn < 200 => Some((&pings[from..from + SHARE as usize], true)),
            (_, Some(from)) => Some((&pings[from..PING.len()], false)),
        };
        let received = worker.turn(held, all_read);
        // In the first turns, and in the first behind the flood, nobody knows what they send.
        match turn {
            50..200 => assert!(brought(&received) <= SMALL_SHARE as usize + MESSAGE, "{received:?} in turn {turn}"),
            250.. => most = most.max(brought(&received)),
            _ => {}
        }
        for (slot, len) in received {
            let all = if slot == LARGE { large_frame.len() } else { PING.len() };
            let within = &mut within[slot as usize];
            *within = Some(within.map_or(0, |from| (from + len) % all));
        }
    }
    assert!(most >= SHARE as usize, "turns of {most} bytes behind the flood");
}

#[test]
fn a_message_of_a_small_share_does_not_wait_among_tiny_frames() {
    let mut flood = Flood::new();
    let message = vec![0; SMALL_SHARE as usize];
    for turn in 0..100 {
        flood.worker.connections.readable.small_frames_until = u32::MAX;
        flood.worker.event(MODEST, ARRIVAL);
        let Flood { worker, data, .. } = &mut flood;
        let held = |slot| Some(if slot == MODEST { (&message[..], false) } else { (&data[..], true) });
        assert_eq!(worker.turn(held, all_read)[0], (MODEST, message.len()), "in turn {turn}");
    }
}

/// Behind a share that is cut, more may be waiting.
#[test]
fn who_floods_while_shares_are_small_is_greedy_too() {
    let mut flood = Flood::new();
    flood.worker.connections.readable.small_frames_until = u32::MAX;
    flood.worker.connections.entries.iter_mut().for_each(|(_, connection)| connection.flags.clear(Flags::GREEDY));
    (0..4 * FLOODERS).for_each(|_| drop(flood.serve_modest()));
    let greedy = flood.worker.connections.entries.iter().filter(|(_, c)| c.flags.has(Flags::GREEDY)).count();
    assert_eq!(greedy, FLOODERS as usize);
}

/// The answer to a request is shorter than the request.
#[test]
fn a_long_request_is_no_flood() {
    let request = [&UPGRADE[..UPGRADE.len() - 2], b"Cookie: ", &[b'a'; 4000], b"\r\n\r\n"].concat();
    let mut worker = Worker::new(Protocol::WebSocket, 1, SHAPE);
    worker.event(0, ARRIVAL);
    worker.turn(|_| Some((&request, false)), all_read);
    assert!(!worker.connections.entries[0].flags.has(Flags::GREEDY));
    assert_eq!(worker.connections.readable.small_frames_until, 0);
}

/// However much work theirs has been of late.
#[test]
fn who_comes_leaves_turns_for_a_flood_of_tiny_frames() {
    const PINGERS: u32 = 4;
    const NEWCOMERS: std::ops::Range<u32> = PINGERS..60;
    let pings = PING.repeat(SHAPE.size as usize / PING.len() + 2);
    let mut worker = Worker::new(Protocol::WebSocket, NEWCOMERS.end, SHAPE);
    let mut within = [None; PINGERS as usize];
    let mut receives = [0, 0];
    for turn in 0..1000 {
        worker.now = 3; // so nobody has sent a little of late
        let events = if turn == 0 { 0..PINGERS } else { NEWCOMERS };
        worker.events(events, ARRIVAL);
        let held = |slot| match within.get(slot as usize) {
            None => Some((&UPGRADE[..1], false)),
            Some(None) => Some((UPGRADE, true)),
            Some(Some(from)) => Some((&pings[*from..], true)),
        };
        for (slot, len) in worker.turn(held, all_read) {
            receives[usize::from(slot < PINGERS)] += 1;
            if let Some(within) = within.get_mut(slot as usize) {
                *within = Some(within.map_or(0, |from| (from + len) % PING.len()));
            }
        }
    }
    assert!(receives.iter().all(|&count| count > 300), "newcomers and the others: {receives:?}");
}
