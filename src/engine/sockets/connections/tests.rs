use std::os::unix::net::UnixStream;

use super::*;
use crate::protocol::Protocol;
use crate::worker::{Backlog, Limits};

const RECEIVE: usize = 1000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn connections(protocol: Protocol) -> Connections {
    let plan = Plan {
        index: 0,
        cpu: 0,
        has_own_table: true,
        capacity: 10,
        receive_memory: RECEIVE,
        receive_buffers: None,
        ring_entries: None,
        backlog: Backlog { per_connection: 3 * RECEIVE, total: 4 * RECEIVE },
        settings: Settings { protocol, ..Settings::default() },
        limits: Limits {
            handshake_timeout: None,
            idle_timeout: None,
            stall_timeout: None,
            close_timeout: std::time::Duration::ZERO,
            drain_timeout: std::time::Duration::ZERO,
        },
    };
    Connections::new(&plan, Timeouts { handshake: Some(10), idle: Some(20), close: Some(5) }, RECEIVE)
}

fn connect(connections: &mut Connections) -> u32 {
    let (socket, _) = UnixStream::pair().expect("descriptors");
    connections.accepted(socket.into())
}

fn receive(connections: &mut Connections, key: u32, data: &[u8]) -> Vec<u8> {
    let mut buffer = [&[0; HEADROOM], data].concat();
    let outgoing = connections.received(key, &mut buffer, data.len());
    outgoing.bytes(&buffer).to_vec()
}

/// A WebSocket whose handshake is answered.
fn open(connections: &mut Connections) -> u32 {
    let key = connect(connections);
    assert!(receive(connections, key, REQUEST).starts_with(b"HTTP/1.1 101 "));
    key
}

/// A masked binary frame of at least 126 bytes (with a key of zeros).
fn frame(len: usize) -> Vec<u8> {
    let head = [0x82, 0xfe, (len >> 8) as u8, len as u8, 0, 0, 0, 0];
    [&head[..], &vec![7; len]].concat()
}

#[test]
fn an_echo_is_in_place_behind_its_headroom() {
    let mut connections = connections(Protocol::WebSocket);
    let key = open(&mut connections);
    assert_eq!(connections.step(key), Step::Receive);
    let mut buffer = [&[0; HEADROOM], &frame(300)[..]].concat();
    let outgoing = connections.received(key, &mut buffer, 308);
    assert_eq!(outgoing, Outgoing::InPlace(HEADROOM + 4..HEADROOM + 308));
    connections.unsent(key, &[]);
    connections.sent(key, 304);
    assert_eq!((connections.step(key), connections.tally().messages), (Step::Receive, 1));
}

#[test]
fn an_answer_of_our_own_goes_in_front_or_elsewhere() {
    let mut buffer = vec![9; HEADROOM + 5];
    let output = Output { head: vec![1; 3], range: 0..2 };
    let outgoing = Outgoing::new(&output, &mut buffer);
    assert_eq!((outgoing.bytes(&buffer), &outgoing), (&[1, 1, 1, 9, 9][..], &Outgoing::InPlace(253..258)));
    let long = Output { head: vec![2; HEADROOM + 1], range: 0..1 };
    assert_eq!(Outgoing::new(&long, &mut buffer), Outgoing::Owned([&[2; HEADROOM + 1][..], &[9]].concat()));
}

#[test]
fn a_peer_that_does_not_read_is_read_until_its_backlog_is_full() {
    let mut connections = connections(Protocol::WebSocket);
    let key = open(&mut connections);
    let echo = receive(&mut connections, key, &frame(900));
    connections.unsent(key, &echo[400..]);
    assert_eq!((connections.step(key), connections.is_blocked(key)), (Step::Receive, true));
    assert!(receive(&mut connections, key, &frame(900)).is_empty(), "nothing may overtake");
    assert_eq!(connections.step(key), Step::Receive);
    receive(&mut connections, key, &frame(900));
    assert_eq!(connections.step(key), Step::Wait, "two thousand bytes and room for one receive are the cap");

    connections.writable(key);
    assert_eq!(connections.step(key), Step::Send);
    connections.advance(key, 100);
    assert_eq!(connections.step(key), Step::Wait, "a short send blocks again");
    connections.writable(key);
    while connections.step(key) == Step::Send {
        let len = connections.front(key).len();
        connections.advance(key, len);
    }
    assert_eq!((connections.step(key), connections.is_blocked(key)), (Step::Receive, false));
    assert_eq!(connections.waiting, 0);
}

#[test]
fn the_backlogs_of_all_together_have_a_limit() {
    let mut connections = connections(Protocol::WebSocket);
    let keys: Vec<u32> = (0..4).map(|_| open(&mut connections)).collect();
    for &key in &keys {
        let echo = receive(&mut connections, key, &frame(900));
        connections.unsent(key, &echo);
    }
    receive(&mut connections, keys[0], &frame(500));
    assert_eq!(connections.step(keys[0]), Step::Wait);
    let reader = open(&mut connections);
    assert!(!receive(&mut connections, reader, &frame(900)).is_empty());
    assert_eq!(connections.step(reader), Step::Receive, "who reads is read");
    connections.remove(keys[0]);
    assert_eq!(connections.waiting, 3 * 904);
}

#[test]
fn a_violation_ends_in_a_lingering_close() {
    let mut connections = connections(Protocol::WebSocket);
    let key = open(&mut connections);
    let close = receive(&mut connections, key, b"\xff\xff");
    assert_eq!(close[0], 0x88);
    connections.unsent(key, &close);
    assert_eq!(connections.step(key), Step::Receive, "input is discarded meanwhile");
    connections.writable(key);
    assert_eq!(connections.step(key), Step::Send);
    let (block, sent) = connections.take_front(key);
    assert_eq!((&block[..], sent), (&close[..], 0));
    connections.put_front(key, block, close.len());
    assert_eq!(connections.step(key), Step::ShutDown);
    connections.shut_down(key);
    assert_eq!(connections.step(key), Step::Receive);
    assert!(receive(&mut connections, key, &frame(200)).is_empty());
    connections.peer_finished(key);
    assert_eq!(connections.step(key), Step::Close);
    connections.remove(key);
    assert_eq!((connections.tally().released, connections.needs_sweep()), (1, false));
}

#[test]
fn who_leaves_is_heard_once_more() {
    let mut connections = connections(Protocol::WebSocket);
    let key = open(&mut connections);
    assert_eq!(connections.ask_some_to_leave(0, 10), None);
    assert_eq!((connections.take_called(), connections.step(key)), (vec![key], Step::Leave));
    let echo = receive(&mut connections, key, &frame(200));
    connections.say_goodbye(key);
    connections.unsent(key, &echo);
    connections.writable(key);
    assert_eq!(connections.step(key), Step::Send);
    let (block, _) = connections.take_front(key);
    assert_eq!(block, echo, "the Close frame comes behind the echo");
    connections.put_front(key, block, echo.len());
    assert_eq!(connections.front(key)[..4], [0x88, 20, 0x03, 0xe9]);

    let mut tcp = self::connections(Protocol::Tcp);
    let key = connect(&mut tcp);
    tcp.say_goodbye(key);
    assert_eq!(tcp.step(key), Step::ShutDown);
}

#[test]
fn deadlines_call_those_who_have_something_to_do() {
    let mut connections = connections(Protocol::WebSocket);
    let (idle, half_open) = (open(&mut connections), connect(&mut connections));
    connections.set_now(10);
    connections.sweep(10);
    assert_eq!(connections.take_called(), [idle, half_open]);
    assert_eq!((connections.step(idle), connections.front(idle)), (Step::Send, &[0x89, 0][..]));
    assert_eq!(connections.step(half_open), Step::Close);
    connections.advance(idle, 2);
    connections.set_now(20);
    connections.sweep(10);
    assert_eq!(connections.front(idle)[0], 0x88);
    let len = connections.front(idle).len();
    connections.advance(idle, len);
    connections.set_now(25);
    connections.sweep(10);
    assert_eq!(connections.step(idle), Step::Close, "the Close was not answered");
}
