//! The stack against a small TCP of another kind, under seeded random schedules, with a device between them that makes checksums
//! and segments, or without one.
//!
//! A relay between them loses, repeats, delays (and so reorders) and damages packets; both sides send what they have in
//! pieces, read when they like, and close in any order; slots are used again. Then the relay calms down. In the end all
//! connections must have closed in order, and each side must have received what the other one sent. A failing seed is printed
//! and replays with `RINGLOAD_STACK_SEED`; `RINGLOAD_STACK_SCHEDULES` says how many there are to be.

mod device;
mod relay;
mod server;

use std::net::Ipv4Addr;

use self::relay::Relay;
use self::server::Server;
use super::segment::{self, SYN};
use super::{Config, Counters, Ends, Events, Failure, Stack, State, ip};
use crate::message::SplitMix;

const MS: u64 = 1_000_000;

/// Schedules of a usual run.
const SCHEDULES: u64 = 150;

/// How long the relay is at its worst. A SYN is repeated for longer than that.
const ROUGH_NS: u64 = 15_000 * MS;

/// Within this time behind that everything must have come to its end: some timeouts of a minute at most.
const PATIENCE_NS: u64 = 400_000 * MS;

/// Applications look what they can do this often.
const LOOK_NS: u64 = 25 * MS;

/// Where a schedule's decisions come from.
pub(super) struct Random(SplitMix);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.0.next() >> 33) as usize % bound
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.0.next() as u8).collect()
    }
}

/// What uses one slot of the stack.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each says another thing about it")]
struct Client {
    /// All that it sends.
    output: Vec<u8>,
    /// How much of that the stack has taken.
    taken: usize,
    input: Vec<u8>,
    is_open: bool,
    waits_for_room: bool,
    server_has_finished: bool,
    has_finished: bool,
    is_over: bool,
}

struct Clients(Vec<Client>);

impl Clients {
    fn get(&mut self, key: u32) -> &mut Client {
        let client = &mut self.0[key as usize];
        assert!(!client.is_over, "an event behind the last one");
        client
    }
}

impl Events for Clients {
    fn connected(&mut self, key: u32) {
        let client = self.get(key);
        assert!(!client.is_open, "connected twice");
        client.is_open = true;
    }

    fn received(&mut self, key: u32, bytes: &mut [u8]) {
        let client = self.get(key);
        assert!(client.is_open && !client.server_has_finished && !bytes.is_empty());
        client.input.extend_from_slice(bytes);
        bytes.fill(0); // they may be changed
    }

    fn room(&mut self, key: u32) {
        let client = self.get(key);
        assert!(client.waits_for_room, "nothing waits for it");
        client.waits_for_room = false;
    }

    fn finished(&mut self, key: u32) {
        let client = self.get(key);
        assert!(!client.server_has_finished, "finished twice");
        client.server_has_finished = true;
    }

    fn closed(&mut self, key: u32) {
        let client = self.get(key);
        assert!(client.server_has_finished && client.has_finished, "closed before both sides were");
        client.is_over = true;
    }

    fn failed(&mut self, key: u32, failure: Failure) {
        panic!("connection {key} failed: {failure:?}, {:?}", self.0[key as usize]);
    }
}

struct Simulation {
    random: Random,
    stack: Stack,
    clients: Clients,
    /// The servers' ends of all connections that there were.
    servers: Vec<Server>,
    relay: Relay,
    has_offloads: bool,
    /// Connections that are still to begin.
    lives: usize,
    now_ns: u64,
    next_look_ns: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(SplitMix(seed));
        let connections = 1 + random.below(6);
        let has_offloads = random.one_in(2);
        let ends = Ends {
            first_v4: Some(Ipv4Addr::new(198, 19, 0, 0)),
            first_v6: Some("fd00::".parse().expect("an address")),
            hosts: 1 + random.below(3) as u32,
            servers: vec!["10.0.0.1:80".parse().expect("an address"), "[fd01::1]:80".parse().expect("an address")],
        };
        let config = Config {
            ends,
            connections: connections as u32,
            mtu: 576 + random.below(1000) as u16,
            has_offloads,
            reassembly_bytes: 500 + random.below(20_000),
            secret: [seed, 1],
        };
        Self {
            stack: Stack::new(config).expect("a stack"),
            clients: Clients((0..connections).map(|_| Client { is_over: true, ..Client::default() }).collect()),
            servers: Vec::new(),
            relay: Relay::new(&mut random),
            has_offloads,
            lives: connections + random.below(6),
            now_ns: random.0.next() >> 20, // any time of the clock
            next_look_ns: 0,
            random,
        }
    }

    /// Runs the schedule to its end.
    fn run(mut self) -> Counters {
        let rough_end_ns = self.now_ns + ROUGH_NS;
        while !self.is_over() {
            self.relay.is_calm = self.now_ns > rough_end_ns;
            assert!(self.now_ns < rough_end_ns + PATIENCE_NS, "stuck: {:?}, {:?}", self.clients.0, self.servers);
            self.turn();
        }
        self.check_all();
        *self.stack.counters()
    }

    fn is_over(&self) -> bool {
        self.lives == 0 && self.clients.0.iter().all(|client| client.is_over)
    }

    /// Time passes until something is due; that is done.
    fn turn(&mut self) {
        let due = [Some(self.next_look_ns), self.relay.next_ns(), self.stack.next_ns()];
        let servers = self.servers.iter().map(|server| server.deadline_ns);
        let next_ns = due.into_iter().flatten().chain(servers).min().expect("a look");
        self.now_ns = self.now_ns.max(next_ns);
        while let Some((mut packet, is_to_server)) = self.relay.pop(self.now_ns) {
            if is_to_server {
                self.on_server(&packet);
            } else {
                if self.has_offloads {
                    packet = device::receive(packet, &mut self.random);
                }
                self.stack.input(&mut packet, self.now_ns, &mut self.clients);
            }
        }
        self.stack.advance(self.now_ns, &mut self.clients);
        for server in &mut self.servers {
            server.advance(self.now_ns);
        }
        if self.now_ns >= self.next_look_ns {
            self.next_look_ns = self.now_ns + LOOK_NS;
            self.look_at_clients();
            for server in &mut self.servers {
                server.look(&mut self.random, self.relay.is_calm, self.now_ns);
            }
        }
        self.stack.flush();
        for packet in self.stack.packets() {
            let packets = if self.has_offloads { device::divide(packet) } else { vec![packet.to_vec()] };
            for packet in packets {
                self.relay.push(packet, true, self.now_ns, &mut self.random);
            }
        }
        self.stack.clear_packets();
        for server in &mut self.servers {
            for packet in server.packets.drain(..) {
                self.relay.push(packet, false, self.now_ns, &mut self.random);
            }
        }
    }

    /// A packet arrives at the servers' machine, as the relay has left it.
    fn on_server(&mut self, packet: &[u8]) {
        let Some((header, body)) = ip::parse(packet).filter(|(header, _)| header.protocol == ip::TCP) else { return };
        let Some((head, payload)) = segment::parse(packet, &header, body, false) else { return };
        let known = self.servers.iter_mut().find(|server| server.is_for(&head));
        if let Some(server) = known {
            server.on_segment(&head, &packet[payload], self.now_ns);
        } else if head.control == SYN {
            let together = if self.has_offloads { 1 + self.random.below(8) } else { 1 };
            self.servers.push(Server::new(&head, together, &mut self.random, self.now_ns));
        }
    }

    fn look_at_clients(&mut self) {
        for key in 0..self.clients.0.len() as u32 {
            if self.clients.0[key as usize].is_over {
                self.begin(key);
            } else if self.clients.0[key as usize].is_open {
                self.look_at(key);
            }
        }
    }

    /// Opens a connection, where the last one is over.
    fn begin(&mut self, key: u32) {
        let is_calm = self.relay.is_calm;
        if self.lives == 0 || !(is_calm || self.random.one_in(4)) {
            return;
        }
        self.check(key);
        self.lives -= 1;
        let len = [0, 1, 3_000, 100_000][self.random.below(4)];
        let len = self.random.below(len + 1);
        self.clients.0[key as usize] = Client { output: self.random.bytes(len), ..Client::default() };
        let server = self.random.below(2) as u16;
        self.stack.connect(key, server, self.now_ns);
    }

    /// A client does what it likes.
    fn look_at(&mut self, key: u32) {
        let (random, is_calm) = (&mut self.random, self.relay.is_calm);
        let client = &mut self.clients.0[key as usize];
        if random.one_in(4) || is_calm {
            let is_paused = !is_calm && random.one_in(2);
            self.stack.pause(key, is_paused, self.now_ns);
        }
        let rest = &client.output[client.taken..];
        if !client.waits_for_room && !rest.is_empty() {
            let count = if is_calm { rest.len() } else { random.below(rest.len() + 1) };
            let (first, second) = rest[..count].split_at(random.below(count + 1));
            let taken = self.stack.send(key, &[first, second], self.now_ns);
            client.waits_for_room = taken < count;
            client.taken += taken;
        }
        if client.taken < client.output.len() || client.has_finished || !(is_calm || random.one_in(4)) {
            return;
        }
        client.has_finished = true;
        if client.server_has_finished && random.one_in(2) {
            assert!(!self.stack.close(key, self.now_ns), "the server has yet to acknowledge the FIN");
        } else {
            self.stack.finish(key, self.now_ns);
        }
    }

    /// What has arrived on a connection that is over is what was sent.
    fn check(&mut self, key: u32) {
        assert!(self.stack.entry(key).state == State::Closed);
        let client = std::mem::take(&mut self.clients.0[key as usize]);
        if !client.is_open {
            return; // the slot's first connection is still to come
        }
        let of_client = |server: &Server| server.input == client.output && server.output == client.input;
        assert!(self.servers.iter().any(of_client), "a stream was changed on its way: {client:?}, {:?}", self.servers);
    }

    fn check_all(&mut self) {
        for key in 0..self.clients.0.len() as u32 {
            self.check(key);
        }
        for server in &self.servers {
            assert!(!server.is_reset, "a server was reset: {server:?}");
        }
        assert_eq!(self.stack.active(), 0, "flights");
        assert_eq!(self.stack.reassembly.used(), 0, "segments in the pool");
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn streams_survive_a_relay_that_loses_repeats_reorders_and_damages() {
    let mut all = Counters::default();
    let first = setting("RINGLOAD_STACK_SEED");
    let count = setting("RINGLOAD_STACK_SCHEDULES").unwrap_or(SCHEDULES);
    let seeds: Vec<u64> = first.map_or_else(|| (0..count).collect(), |seed| vec![seed]);
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| Simulation::new(seed).run());
        let counters = match std::panic::catch_unwind(run) {
            Ok(counters) => counters,
            Err(panic) => {
                eprintln!("RINGLOAD_STACK_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        };
        all.add(&counters);
    }
    let met = [all.unread, all.repeated, all.early, all.early_dropped, all.probes];
    assert!(first.is_some() || met.iter().all(|&count| count > 0), "schedules lack something: {all:?}");
}
