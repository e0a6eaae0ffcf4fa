use crate::engine::deadline::Timeouts;
use crate::protocol::{Protocol, Settings};
use crate::worker::Backlog;

use super::super::buffers::{BufferPool, PoolShape, kernel::Consumer};
use super::super::token::Kind;
use super::Connections;

/// A connection that has received `data` when its poll has told of `events`, with the echo of it among the operations to
/// submit.
fn with_input(events: i16, data: &[u8]) -> Connections {
    let pool = BufferPool::detached(PoolShape { count: 2, size: 64, incremental: true });
    let backlog = Backlog { per_connection: 1000, total: 1000 };
    let settings = Settings { protocol: Protocol::Tcp, ..Settings::default() };
    let mut connections = Connections::new(1, pool, backlog, settings, Timeouts::default());
    connections.accepted(0);
    let (readiness, _) = connections.take_ops().next().expect("a poll");
    connections.ready(readiness, events.into(), 2);
    connections.end_turn();
    let (receive, _) = connections.take_ops().next().expect("a receive");
    let (len, flags) = Consumer::default().receive(connections.pool_mut(), data).expect("a buffer");
    connections.received(receive, len as i32, flags);
    connections
}

#[test]
fn after_an_enter_that_has_not_taken_every_submission_the_next_does_not_wait() {
    let mut connections = with_input(libc::POLLIN, b"echo");
    assert!(connections.take_ops().any(|(token, _)| token.kind == Kind::Send));
    // Not all submissions were taken: nobody says `finish_sends`, and the send, if it was taken, has completed silently.
    connections.end_turn();
    assert!(connections.is_urgent(), "no completion will come that tells of the send");
    let _ = connections.take_ops();
    connections.finish_sends();
    assert!(!connections.is_urgent());
}

#[test]
fn a_reset_that_comes_together_with_the_last_bytes_is_noticed() {
    let mut connections = with_input(libc::POLLIN | libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR, b"last");
    // Behind the last bytes is nothing that could be received, and no event will come again.
    let _ = connections.take_ops();
    connections.finish_sends();
    connections.end_turn();
    assert!(connections.take_ops().any(|(token, _)| token.kind == Kind::Receive), "nobody looks for the reset");
}
