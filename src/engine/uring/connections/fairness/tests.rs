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
const SHAPE: PoolShape = PoolShape { count: 2, size: 512 << 10, incremental: true };

/// A kernel in which ten sockets are always full, one may hold a small message, and whatever is sent fits.
struct Sockets {
    connections: Connections,
    consumer: Consumer,
    armed: Vec<(u32, Token, Option<u32>)>,
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
        let received = vec![0; FLOODERS as usize + 1];
        Self { connections, consumer: Consumer::default(), armed: Vec::new(), received, modest_has_sent: false }
    }

    /// One enter and what the worker does then. Returns what was received.
    fn turn(&mut self, now: u32) -> usize {
        let before: usize = self.received.iter().sum();
        let ops: Vec<_> = self.connections.take_ops().collect();
        for (token, op) in ops {
            match op {
                Op::Receive { slot } => self.armed.push((slot, token, None)),
                Op::ReceiveOnce { slot, at_most } => self.armed.push((slot, token, Some(at_most))),
                Op::Send { .. } => {}
                other => panic!("nobody leaves: {other:?}"),
            }
        }
        let mut completions = Vec::new();
        self.armed.retain(|&(slot, token, once)| {
            let pool = self.connections.pool_mut();
            loop {
                let available = if slot == MODEST { MESSAGE * usize::from(self.modest_has_sent) } else { 2 << 20 };
                if available == 0 {
                    return true;
                }
                let data = vec![0; once.map_or(available, |at_most| available.min(at_most as usize))];
                let Some((len, flags)) = self.consumer.receive(pool, &data) else {
                    completions.push((token, -libc::ENOBUFS, 0));
                    return false;
                };
                self.received[slot as usize] += len;
                self.modest_has_sent &= slot != MODEST;
                completions.push((token, len as i32, flags | if once.is_none() { CQE_MORE } else { 0 }));
                if once.is_some() {
                    return false;
                }
            }
        });
        self.connections.set_now(now);
        for (token, result, flags) in completions {
            self.connections.received(token, result, flags);
        }
        self.connections.finish_sends();
        self.connections.end_turn();
        self.connections.check_invariants();
        self.received.iter().sum::<usize>() - before
    }

    /// Until everybody has been judged by what it sends.
    fn warm_up(&mut self) {
        for _ in 0..10 * FLOODERS {
            self.turn(0);
        }
    }
}

#[test]
fn a_small_message_does_not_wait_for_those_who_send_without_a_pause() {
    let mut sockets = Sockets::new();
    sockets.warm_up();
    // Twice: a message that arrives while the pool is being emptied has to wait for the next turn.
    for _ in 0..2 {
        sockets.modest_has_sent = true;
        sockets.turn(0);
    }
    for turn in 0..200 {
        sockets.modest_has_sent = true;
        let received = sockets.turn(0);
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
        sockets.modest_has_sent = true;
        sockets.turn(0);
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
    sockets.modest_has_sent = true;
    sockets.turn(0);
    sockets.turn(0);
    let turns = 100;
    let received: usize = (0..turns).map(|_| sockets.turn(2)).sum();
    // While one buffer is being sent, the other is being filled.
    assert!(received >= turns * SHAPE.size as usize * 9 / 10, "{received} bytes in {turns} turns");
}
