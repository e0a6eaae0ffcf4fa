use ringio::PoolShape;

use super::*;
use crate::protocol::Protocol;
use crate::transport::Door;

/// A connection that has received `data` when its poll has told of `events`, with the echo of it among the operations to
/// submit.
fn with_input(events: i16, data: &[u8]) -> Connections {
    let pool = Pool::detached(PoolShape { count: 2, size: 64, incremental: true });
    let backlog = Backlog { per_connection: 1000, total: 1000 };
    let settings = Settings { protocol: Protocol::Tcp, ..Settings::default() };
    let doors = Doors::from([Door::new(Protocol::Tcp)]);
    let mut connections = Connections::new(1, pool, backlog, settings, doors, Timeouts::default());
    connections.core.begin_turn(1);
    connections.accepted(0, 0);
    let readiness = connections.take_ops()[0].token;
    connections.ready(readiness, events.into(), true);
    serve(&mut connections);
    let receive = connections.take_ops()[0].token;
    let posted = connections.pool.post_received(receive.encode(), data).expect("a buffer");
    let completion = posted.reap(&connections.pool);
    connections.received(receive, completion.result, completion.piece, false);
    connections
}

fn serve(connections: &mut Connections) {
    connections.provide_buffers();
    connections.receive_from_foreground();
    connections.receive_from_background();
}

fn kinds(connections: &mut Connections) -> Vec<Kind> {
    connections.take_ops().iter().map(|op| op.token.kind).collect()
}

#[test]
fn a_reset_that_comes_together_with_the_last_bytes_is_noticed() {
    let mut connections = with_input(libc::POLLIN | libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR, b"last");
    // Behind the last bytes is nothing that could be received, and no event will come again.
    assert_eq!(kinds(&mut connections), [Kind::Send]);
    connections.finish_sends();
    serve(&mut connections);
    assert_eq!(kinds(&mut connections), [Kind::Receive], "nothing looks for the reset");
}

#[test]
fn an_echo_is_not_waited_for_but_an_end_behind_it_is() {
    let mut connections = with_input(libc::POLLIN, b"echo");
    assert!(!connections.is_urgent(), "nothing is to be done behind the echo");
    let send = connections.take_ops()[0].token;
    connections.send_fell_short(send, 1);
    connections.finish_sends();
    assert!(kinds(&mut connections).is_empty(), "a send to a peer that does not read");
    // It reads again, and has shut down its side.
    let poll = Token { kind: Kind::Ready, ..send };
    connections.ready(poll, (libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP).into(), true);
    serve(&mut connections);
    let ops = connections.take_ops();
    assert_eq!(ops.iter().map(|op| op.token.kind).collect::<Vec<_>>(), [Kind::Send, Kind::Receive]);
    let (bytes, has_more) = connections.sent_by(ops[0]);
    assert_eq!((bytes, has_more), (&b"cho"[..], false));
    connections.received(ops[1].token, 0, None, false);
    assert!(connections.is_urgent(), "the end waits for the send, which completes silently");
    connections.finish_sends();
    assert_eq!(kinds(&mut connections), [Kind::Cancel]);
}

#[test]
fn a_holder_of_receive_buffers_that_has_read_all_is_no_holder_any_more() {
    let mut connections = with_input(libc::POLLIN, &[7; 64]);
    let send = connections.take_ops()[0].token;
    connections.core.begin_turn(10); // no interactive connection is active any more
    connections.send_fell_short(send, 1);
    connections.finish_sends();
    assert_eq!(connections.holders.len(), 1);
    connections.ready(Token { kind: Kind::Ready, ..send }, libc::POLLOUT.into(), true);
    assert_eq!(kinds(&mut connections), [Kind::Send]);
    connections.finish_sends();
    // Another connection's output, and a buffer that is needed.
    let mut other = crate::connection::output::Queue::EMPTY;
    connections.core.outputs.copy(&mut other, b"other");
    connections.move_holders_out();
    assert_eq!(connections.core.outputs.pending(other), 5);
}

/// An enter with what is to be submitted and a receive of `data`, whose poll has told of input before; all sends succeed.
fn enter_with_input(connections: &mut Connections, poll: Token, data: &[u8]) {
    connections.ready(poll, libc::POLLIN.into(), true);
    serve(connections);
    let ops = connections.take_ops();
    let receive = ops.iter().find(|op| op.token.kind == Kind::Receive).expect("a receive").token;
    let posted = connections.pool.post_received(receive.encode(), data).expect("a buffer");
    let completion = posted.reap(&connections.pool);
    connections.received(receive, completion.result, completion.piece, false);
    connections.finish_sends();
}

/// Else the receive buffers would fill with what is to be sent one chunk an enter, and no connection could be received from.
#[test]
fn a_frame_that_is_cut_in_each_receive_does_not_pile_output_up() {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];
    let pool = Pool::detached(PoolShape { count: 2, size: 4096, incremental: true });
    let backlog = Backlog { per_connection: 1 << 20, total: 1 << 20 };
    let doors = Doors::from([Door::new(Protocol::WebSocket)]);
    let mut connections = Connections::new(1, pool, backlog, Settings::default(), doors, Timeouts::default());
    connections.core.begin_turn(1);
    connections.accepted(0, 0);
    let readiness = connections.take_ops()[0].token;
    enter_with_input(&mut connections, readiness, REQUEST);
    enter_with_input(&mut connections, readiness, &[PING, &PING[..1]].concat());
    for _ in 0..100 {
        enter_with_input(&mut connections, readiness, &[&PING[1..], PING, &PING[..1]].concat());
        assert!(connections.core.outputs.len() <= 2, "{} chunks wait", connections.core.outputs.len());
    }
}

/// The list of them is gone through when one of them leaves.
#[test]
fn who_has_read_all_does_not_stay_a_holder_of_receive_buffers_for_ever() {
    let clients = 2 * HOLDERS_MAX as u32;
    let pool = Pool::detached(PoolShape { count: 2, size: 64, incremental: true });
    let backlog = Backlog { per_connection: 1000, total: 1000 };
    let settings = Settings { protocol: Protocol::Tcp, ..Settings::default() };
    let doors = Doors::from([Door::new(settings.protocol)]);
    let mut connections = Connections::new(clients as usize, pool, backlog, settings, doors, Timeouts::default());
    connections.core.begin_turn(1);
    for slot in 0..clients {
        connections.accepted(slot, 0);
        let readiness = connections.take_ops()[0].token;
        enter_with_input(&mut connections, readiness, &[7; 32]);
        let send = connections.take_ops()[0].token;
        connections.send_fell_short(send, 1);
        connections.finish_sends();
        connections.ready(readiness, libc::POLLOUT.into(), true);
        assert_eq!(kinds(&mut connections), [Kind::Send]);
        connections.finish_sends();
    }
    assert!(connections.holders.len() <= HOLDERS_MAX + 1, "{} holders of nothing", connections.holders.len());
}
