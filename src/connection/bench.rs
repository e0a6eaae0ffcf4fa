//! Turns of a worker without its kernel: what `instructions/benches/server.rs` counts.

use super::connections::Connections;
use super::lifecycle::{Facts, Timeouts};
use super::output::NoLender;
use super::schedule::Planned;
use crate::protocol::{Protocol, Settings};
use crate::transport::{Door, Doors};
use crate::worker::Backlog;

/// Connections that are open, each of which brings the same bytes in each turn.
pub struct Turns {
    connections: Connections<(), NoLender>,
    keys: Vec<u32>,
    brought: Vec<u8>,
    buffer: Vec<u8>,
}

impl Turns {
    /// `request` is an upgrade request, `brought` whole frames.
    pub fn new(count: u32, request: &[u8], brought: Vec<u8>) -> Self {
        let backlog = Backlog { per_connection: 16 << 20, total: 1 << 30 };
        let doors = Doors::from([Door::new(Protocol::WebSocket)]);
        let mut connections =
            Connections::new(count as usize, backlog, Settings::default(), doors, Timeouts::default());
        connections.begin_turn(0);
        let open = |_| {
            let key = connections.accepted((), 0);
            let _ = connections.received(key, &mut request.to_vec());
            key
        };
        let keys = (0..count).map(open).collect();
        Self { connections, keys, buffer: brought.clone(), brought }
    }

    /// A turn in which each connection's input is noticed, waits for its turn, is received and echoed at once, as far as the
    /// turn's budget goes. Returns the bytes sent.
    pub fn run(&mut self, now: u32) -> usize {
        self.connections.begin_turn(now);
        for &key in &self.keys {
            self.connections.get_mut(key).life.facts.set(Facts::READABLE);
            self.connections.queue(key);
        }
        let mut sent = 0;
        while let Some(key) = self.connections.next_foreground() {
            sent += self.serve(key, Planned::Nothing);
        }
        while let Some(key) = self.connections.next_background() {
            let planned = self.connections.spend_on(key);
            sent += self.serve(key, planned);
        }
        self.connections.end_turn();
        sent
    }

    fn serve(&mut self, key: u32, planned: Planned) -> usize {
        self.buffer.copy_from_slice(&self.brought);
        let (output, cost) = self.connections.received(key, &mut self.buffer);
        self.connections.charge(key, self.brought.len() as u32, cost, false, planned);
        let sent = output.head.len() + output.range.len();
        self.connections.sent(key, sent, true);
        self.connections.get_mut(key).life.facts.clear(Facts::READABLE);
        sent
    }
}
