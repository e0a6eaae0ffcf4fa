use super::*;
use crate::connection::lifecycle::PROBE_TICKS;
use crate::connection::output::NoLender;
use crate::protocol::Protocol;

const IDLE: u32 = 8;
const STALL: u32 = 20;

/// One connection of bare TCP, which has brought `input` in tick 0.
fn connection_with(input: &[u8]) -> (Connections<u32, NoLender>, u32) {
    let settings = Settings { protocol: Protocol::Tcp, ..Settings::default() };
    let timeouts = Timeouts { idle: Some(IDLE), stall: Some(STALL), close: Some(4), handshake: None };
    let backlog = Backlog { per_connection: 1 << 20, total: 1 << 20 };
    let mut connections = Connections::new(4, backlog, settings, timeouts);
    connections.begin_turn(0);
    let key = connections.accepted(0);
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
    connections.get_mut(key).life.found_nothing();
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
    let mut connections = Connections::new(4, backlog, Settings::default(), timeouts);
    connections.begin_turn(0);
    let key = connections.accepted(0);
    connections.get_mut(key).life.facts.set(Facts::READABLE);
    assert_eq!(after(&mut connections, key, IDLE), State::Opening);
    connections.get_mut(key).life.found_nothing();
    assert_eq!(after(&mut connections, key, 1), State::Aborted);
}

/// It has something to be received whenever its deadline is looked at.
#[test]
fn a_request_that_comes_byte_by_byte_is_ended_in_time() {
    let timeouts = Timeouts { handshake: Some(IDLE), ..Timeouts::default() };
    let backlog = Backlog { per_connection: 1 << 20, total: 1 << 20 };
    let mut connections = Connections::new(4, backlog, Settings::default(), timeouts);
    connections.begin_turn(0);
    let key = connections.accepted(0);
    connections.get_mut(key).life.facts.set(Facts::READABLE);
    assert_eq!(after(&mut connections, key, IDLE + STALL_TICKS - 1), State::Opening);
    assert_eq!(after(&mut connections, key, 1), State::Aborted);
}

/// Each connection that turns out to be a slow reader when no more is to be kept for such brings one receive more.
#[test]
fn beyond_the_total_backlog_receives_are_as_small_as_can_be() {
    let (mut connections, slow) = connection_with(&vec![7; 2 << 20]);
    let other = connections.accepted(1);
    assert_eq!(connections.at_most(other).map(NonZeroU32::get), Some(schedule::LEAST_RECEIVE));
    let (connection, outputs) = connections.get_with_outputs(slow);
    outputs.clear(&mut connection.output, &mut NoLender);
    assert_eq!(connections.at_most(other), None);
}
