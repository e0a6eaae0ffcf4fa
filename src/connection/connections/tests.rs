use std::num::NonZeroU32;

use flate2::{Compress, Compression, FlushCompress};

use super::*;
use crate::connection::lifecycle::{PROBE_TICKS, STALL_TICKS, State};
use crate::connection::output::NoLender;
use crate::connection::schedule::Planned;
use crate::protocol::{Deflate, Protocol};
use crate::transport::Door;

const IDLE: u32 = 8;
const STALL: u32 = 20;

/// One connection of bare TCP, which has brought `input` in tick 0.
fn connection_with(input: &[u8]) -> (Connections<u32, NoLender>, u32) {
    let settings = Settings { protocol: Protocol::Tcp, ..Settings::default() };
    let timeouts = Timeouts { idle: Some(IDLE), stall: Some(STALL), close: Some(4), handshake: None, tick_us: 10_000 };
    let backlog = Backlog { per_connection: 1 << 20, total: 1 << 20 };
    let doors = Doors::from([Door::new(Protocol::Tcp)]);
    let mut connections = Connections::new(4, backlog, settings, doors, timeouts);
    connections.begin_turn(0);
    let key = connections.accepted(0, 0);
    let (output, _) = connections.received(key, &mut input.to_vec());
    let (connection, outputs) = connections.get_with_outputs(key);
    outputs.copy(&mut connection.output, &input[output.range]);
    (connections, key)
}

/// The kernel takes `len` bytes of the output, which is in one block.
fn take(connections: &mut Connections<u32, NoLender>, key: u32, len: usize) {
    let (connection, outputs) = connections.get_with_outputs(key);
    let is_all = len == outputs.pending(connection.output);
    if is_all {
        outputs.pop(&mut connection.output, &mut NoLender);
    } else {
        outputs.advance(connection.output, len);
    }
    connections.sent(key, len, is_all);
}

/// The state after `ticks` further ticks.
fn after(connections: &mut Connections<u32, NoLender>, key: u32, ticks: u32) -> State {
    for _ in 0..ticks {
        connections.begin_turn(connections.now + 1);
        assert!(connections.meet_deadlines());
    }
    connections.get(key).life.state()
}

#[test]
fn a_peer_that_reads_the_last_of_its_output_is_not_idle() {
    let (mut connections, key) = connection_with(b"read late");
    take(&mut connections, key, 2);
    assert_eq!(after(&mut connections, key, IDLE - 1), State::Open);
    connections.writable(key);
    take(&mut connections, key, 7);
    assert_eq!(after(&mut connections, key, IDLE - 1), State::Open);
    assert_eq!(after(&mut connections, key, 1), State::Lingering);
}

#[test]
fn what_has_arrived_is_received_before_its_sender_is_idle() {
    let (mut connections, key) = connection_with(b"");
    connections.get_mut(key).life.facts.set(Facts::READABLE);
    assert_eq!(after(&mut connections, key, IDLE), State::Open);
    connections.get_mut(key).life.found_nothing(false);
    assert_eq!(after(&mut connections, key, 1), State::Lingering);
}

#[test]
fn a_peer_that_has_finished_and_does_not_read_does_not_stay() {
    let (mut connections, key) = connection_with(b"never read");
    connections.timeouts.idle = None;
    connections.peer_finished(key);
    connections.sent(key, 0, false);
    assert_eq!(after(&mut connections, key, STALL - 1 + PROBE_TICKS), State::Open);
    assert_eq!((after(&mut connections, key, 1), connections.take_stalled()), (State::Aborted, 1));
}

#[test]
fn a_request_that_has_arrived_is_received_before_its_time_is_up() {
    let timeouts = Timeouts { handshake: Some(IDLE), ..Timeouts::default() };
    let backlog = Backlog { per_connection: 1 << 20, total: 1 << 20 };
    let doors = Doors::from([Door::new(Protocol::WebSocket)]);
    let mut connections = Connections::new(4, backlog, Settings::default(), doors, timeouts);
    connections.begin_turn(0);
    let key = connections.accepted(0, 0);
    connections.get_mut(key).life.facts.set(Facts::READABLE);
    assert_eq!(after(&mut connections, key, IDLE), State::Opening);
    connections.get_mut(key).life.found_nothing(false);
    assert_eq!(after(&mut connections, key, 1), State::Aborted);
}

/// It has something to be received whenever its deadline is looked at.
#[test]
fn a_request_that_comes_byte_by_byte_is_ended_in_time() {
    let timeouts = Timeouts { handshake: Some(IDLE), ..Timeouts::default() };
    let backlog = Backlog { per_connection: 1 << 20, total: 1 << 20 };
    let mut connections =
        Connections::new(4, backlog, Settings::default(), Doors::from([Door::new(Protocol::WebSocket)]), timeouts);
    connections.begin_turn(0);
    let key = connections.accepted(0, 0);
    connections.get_mut(key).life.facts.set(Facts::READABLE);
    assert_eq!(after(&mut connections, key, IDLE + STALL_TICKS - 1), State::Opening);
    assert_eq!(after(&mut connections, key, 1), State::Aborted);
}

/// Its send falls short, or its socket has room again, while the receive is in flight.
#[test]
fn what_was_planned_for_a_receive_is_corrected_whatever_its_connection_has_become() {
    let (mut connections, key) = connection_with(b"");
    connections.begin_turn(1);
    let mut expected = connections.budget;
    let planned = connections.spend_on(key);
    connections.get_mut(key).life.facts.set(Facts::BLOCKED);
    connections.charge(key, 0, schedule::RECEIVE, false, planned);
    expected.spend(schedule::RECEIVE);
    assert_eq!(connections.budget, expected);
    let planned = connections.spend_on(key);
    connections.get_mut(key).life.facts.clear(Facts::BLOCKED);
    connections.spent_on_nothing(planned, false);
    expected.spend(schedule::RECEIVE);
    assert_eq!(connections.budget, expected);
}

/// The price of a bulk sender's receive has changed when it completes.
#[test]
fn what_was_granted_is_corrected_by_what_was_spent() {
    let (mut connections, key) = connection_with(b"");
    connections.begin_turn(1);
    connections.get_mut(key).life.facts.set(Facts::BULK);
    let mut expected = connections.budget;
    let grant = connections.grant(key);
    connections.usual_cost = schedule::QUANTUM / 2;
    assert!(connections.meet_deadlines());
    let planned = connections.reprice(grant);
    connections.charge(key, 0, schedule::RECEIVE, false, planned);
    expected.spend(schedule::RECEIVE);
    assert_eq!(connections.budget, expected);
}

#[test]
fn deadlines_are_met_however_much_the_background_has_overspent() {
    let (mut connections, key) = connection_with(b"");
    connections.budget.spend(1000 * schedule::BUDGET);
    for tick in 1..=IDLE {
        connections.shares.see_interactive(tick);
        connections.begin_turn(tick);
        connections.meet_deadlines();
    }
    assert!(!connections.budget.is_left());
    assert_eq!(connections.get(key).life.state(), State::Lingering);
}

/// The first receive that finds what has come with the end may cost as much as one from a bulk sender.
#[test]
fn an_end_ahead_is_planned_for_like_a_bulk_sender() {
    let (mut connections, key) = connection_with(b"");
    connections.begin_turn(1);
    connections.shares.see_interactive(1);
    assert_eq!(connections.plan(key), Planned::Receive);
    connections.get_mut(key).life.facts.set(Facts::END_AHEAD);
    assert_eq!(connections.plan(key), Planned::Masses);
    for _ in 0..20 {
        connections.shares.see_bulk(6 << 10, schedule::cost_of_receive(6 << 10, 1 << 10)); // empty frames
    }
    assert!(connections.at_most(key).is_some_and(|most| most.get() < 6 << 10));
}

#[test]
fn cheap_receives_do_not_make_an_end_ahead_cheap() {
    let (mut connections, key) = connection_with(b"");
    connections.begin_turn(1);
    connections.shares.see_interactive(1);
    for _ in 0..50 {
        let planned = connections.spend_on(key);
        connections.charge(key, 500, schedule::RECEIVE + schedule::HANDSHAKE, false, planned);
    }
    connections.meet_deadlines();
    connections.shares.see_interactive(1);
    connections.get_mut(key).life.facts.set(Facts::END_AHEAD);
    connections.budget = schedule::Budget::of_turn(schedule::Budget::NONE, true);
    let mut receives = 0;
    while connections.budget.is_left() {
        connections.spend_on(key);
        receives += 1;
    }
    assert!(receives <= 2, "{receives}");
}

/// A receive, which leaves more in the socket or not.
fn receive(connections: &mut Connections<u32, NoLender>, key: u32, mut bytes: Vec<u8>, leaves_more: bool) -> Planned {
    let planned = connections.spend_on(key);
    let facts = &mut connections.get_mut(key).life.facts;
    if leaves_more {
        facts.set(Facts::READABLE);
    } else {
        facts.clear(Facts::READABLE);
    }
    let (_, cost) = connections.received(key, &mut bytes);
    connections.charge(key, bytes.len() as u32, cost, false, planned);
    planned
}

/// What it sends behind its request may be masses, until a receive has shown that.
#[test]
fn a_newcomer_with_more_behind_its_request_is_in_the_background_for_a_receive() {
    let backlog = Backlog { per_connection: 1 << 20, total: 1 << 20 };
    let doors = Doors::from([Door::new(Protocol::WebSocket)]);
    let mut connections: Connections<u32, NoLender> =
        Connections::new(4, backlog, Settings::default(), doors, Timeouts::default());
    let message = [0x82, 0x80, 0, 0, 0, 0];
    for leaves_more in [false, true] {
        connections.begin_turn(1);
        connections.shares.see_interactive(1);
        let key = connections.accepted(0, 0);
        assert_eq!(receive(&mut connections, key, request("/"), leaves_more), Planned::Receive);
        assert_eq!(connections.get(key).life.is_background(), leaves_more);
        if leaves_more {
            connections.queue(key);
            connections.begin_turn(1);
            assert_eq!(connections.next_background(), Some(key));
            assert_eq!(receive(&mut connections, key, message.to_vec(), false), Planned::Masses);
            assert!(!connections.get(key).life.is_background(), "it sends no masses");
        }
    }
    let key = connections.accepted(0, 0);
    receive(&mut connections, key, request("/"), true);
    receive(&mut connections, key, message.repeat(10_000), true);
    assert_eq!(connections.plan(key), Planned::Usual);
}

/// Each connection that turns out to be a slow reader when no more is to be kept for such brings one receive more.
#[test]
fn beyond_the_total_backlog_receives_are_as_small_as_can_be() {
    let (mut connections, slow) = connection_with(&vec![7; 2 << 20]);
    let other = connections.accepted(1, 0);
    assert_eq!(connections.at_most(other).map(NonZeroU32::get), Some(schedule::LEAST_RECEIVE));
    let (connection, outputs) = connections.get_with_outputs(slow);
    outputs.clear(&mut connection.output, &mut NoLender);
    assert_eq!(connections.at_most(other), None);
}

fn request(path: &str) -> Vec<u8> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    request.into_bytes()
}

/// The connections of a server with behaviours, each of which has asked for this path and has got its 101.
fn behaving(path: &str, count: usize) -> Connections<u32, NoLender> {
    let settings = Settings { has_behaviours: true, ..Settings::default() };
    let timeouts = Timeouts { tick_us: 10_000, ..Timeouts::default() };
    let backlog = Backlog { per_connection: 1 << 20, total: 1 << 20 };
    let doors = Doors::from([Door::new(Protocol::WebSocket)]);
    let mut connections = Connections::new(count, backlog, settings, doors, timeouts);
    connections.begin_turn(0);
    for _ in 0..count {
        let key = connections.accepted(0, 0);
        let (output, _) = connections.received(key, &mut request(path));
        assert!(output.is_empty(), "such a connection's output is queued here");
        take_all(&mut connections, key);
    }
    connections
}

/// The kernel takes all of a connection's output.
fn take_all(connections: &mut Connections<u32, NoLender>, key: u32) -> usize {
    let mut taken = 0;
    while connections.wants(key).send {
        let (connection, outputs) = connections.get_with_outputs(key);
        let len = outputs.pop(&mut connection.output, &mut NoLender);
        connections.sent(key, len, true);
        taken += len;
    }
    taken
}

/// A client that has agreed on compression, has sent the header of a compressed message, and leaves it at that.
#[test]
fn messages_that_have_hardly_begun_take_no_more_than_the_backlog() {
    // An inflater and a compressor are 432 KiB, of which 18 are less than 8 MiB.
    compressed_messages_take_no_more_than_the_backlog(&[0xc1, 0x88, 1, 2, 3, 4], 18);
}

/// Bombs: messages of a MiB that take many turns, and a Close behind them.
#[test]
fn input_that_waits_takes_no_more_than_the_backlog() {
    let mut compress = Compress::new(Compression::fast(), false);
    let mut bomb = Vec::with_capacity(64 << 10);
    compress.compress_vec(&vec![0; 1 << 20], &mut bomb, FlushCompress::Sync).expect("compressed");
    bomb.truncate(bomb.len() - 4);
    let frame = [&[0xc1, 0xfe], &(bomb.len() as u16).to_be_bytes()[..], &[0; 4], &bomb].concat();
    let input = [frame.repeat((64 << 10) / frame.len()), vec![0x88, 0x80, 0, 0, 0, 0]].concat();
    compressed_messages_take_no_more_than_the_backlog(&input, 16);
}

fn compressed_messages_take_no_more_than_the_backlog(first: &[u8], kept: usize) {
    const CLIENTS: u32 = 40;
    let settings = Settings { deflate: Deflate::Recompress, ..Settings::default() };
    let backlog = Backlog { per_connection: 1 << 20, total: 8 << 20 };
    let doors = Doors::from([Door::new(Protocol::WebSocket)]);
    let mut connections: Connections<u32, NoLender> =
        Connections::new(CLIENTS as usize, backlog, settings, doors, Timeouts::default());
    connections.begin_turn(0);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    for io in 0..CLIENTS {
        let key = connections.accepted(io, 0);
        connections.received(key, &mut request.as_bytes().to_vec());
        connections.received(key, &mut first.to_vec());
        // That of one connection comes on top of the total, until it is known what it takes.
        assert!(connections.shared.held() <= (8 << 20), "{} bytes are held", connections.shared.held());
    }
    let count = |connections: &Connections<u32, NoLender>, counter| connections.counters().get(counter);
    assert_eq!(connections.iter().filter(|(_, it)| it.life.state() == State::Open).count(), kept);
    assert_eq!(count(&connections, Counter::Agreed), u64::from(CLIENTS));
    assert_eq!(count(&connections, Counter::InflationMemory), connections.shared.held() as u64);
    assert!(connections.shared.held() > 7 << 20);
    for key in 0..CLIENTS {
        take_all(&mut connections, key);
        connections.remove(key);
    }
    assert_eq!((connections.shared.held(), count(&connections, Counter::InflationMemory)), (0, 0));
}

#[test]
fn sources_take_turns_within_the_background_s_budget() {
    const SOURCES: usize = 40;
    let mut connections = behaving("/source?size=1000&rate=0", SOURCES);
    let (mut sent, mut most) = (vec![0; SOURCES], 0);
    for turn in 1..=200 {
        connections.begin_turn(turn);
        assert_eq!(connections.next_background(), None, "there is nothing to be received");
        let called = connections.take_called();
        let fed: usize = called.iter().map(|&key| connections.outputs.pending(connections.get(key).output)).sum();
        most = most.max(fed);
        for key in called {
            sent[key as usize] += take_all(&mut connections, key);
        }
    }
    // A quantum each, and half of a receive's cost, which has the echo of it.
    assert!(most <= 5 * (64 << 10), "{most} bytes in a turn");
    let (least, greatest) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
    assert!(*least > 0 && greatest - least <= 2 * (64 << 10), "{least} to {greatest} bytes each");
}

#[test]
fn a_source_waits_for_its_reader_and_for_its_time() {
    let mut connections = behaving("/source?size=100000&rate=10", 1);
    connections.begin_turn(1);
    assert_eq!(connections.next_background(), None);
    assert_eq!(connections.take_called(), [0]);
    let pending = connections.outputs.pending(connections.get(0).output);
    assert_eq!(pending, 100_010, "one message");
    connections.sent(0, 0, false); // the socket is full
    for tick in 2..100 {
        connections.begin_turn(tick);
        assert!(connections.meet_deadlines() && !connections.has_background());
    }
    connections.writable(0);
    assert_eq!(take_all(&mut connections, 0), 100_010);
    let mut messages = 0;
    for tick in 100..=200 {
        connections.begin_turn(tick);
        connections.meet_deadlines();
        while connections.has_background() {
            assert_eq!(connections.next_background(), None);
            messages += take_all(&mut connections, 0) / 100_010;
            connections.begin_turn(tick);
        }
    }
    assert!((18..=20).contains(&messages), "{messages} in a second, and those of the second before");
}

#[test]
fn delayed_echoes_are_released_within_the_budget() {
    let mut connections = behaving("/delay?ms=10", 40);
    for key in 0..40 {
        assert!(connections.received(key, &mut [0x82, 0x80, 0, 0, 0, 0]).0.is_empty());
    }
    connections.take_called();
    connections.budget.spend(1000 * schedule::BUDGET);
    connections.shares.see_interactive(3);
    connections.begin_turn(3);
    assert!(!connections.meet_deadlines());
    assert_eq!(connections.take_called().len(), 2, "as much as a deadline costs");
}

#[test]
fn what_is_held_back_throttles_its_sender_and_keeps_idle_clocks_still() {
    let mut connections = behaving("/delay?ms=1000", 1);
    connections.timeouts.idle = Some(4);
    let mut frame = vec![0x82, 0xff, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
    frame.resize(14 + (128 << 10), 7);
    let mut received = 0;
    while connections.wants(0).receive {
        assert!(connections.received(0, &mut frame.clone()).0.is_empty());
        received += 1;
    }
    assert!((6..=8).contains(&received), "{received} messages of 128 KiB in a MiB");
    assert_eq!(after(&mut connections, 0, 99), State::Open);
    assert!(!connections.wants(0).send);
    assert_eq!(after(&mut connections, 0, 3), State::Open);
    assert_eq!(take_all(&mut connections, 0), received * (10 + (128 << 10)));
    assert!(connections.wants(0).receive);
    connections.remove(0);
    assert_eq!(connections.outputs.held(), 0);
}
