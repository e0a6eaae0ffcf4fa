//! The state machine, segment by segment, with the test in the server's place.

mod attacks;
mod data;
mod life;
mod offloads;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::icmp::{self, Error, Report};
use super::segment::{self, ACK, FIN, Head, PSH, RST, SYN};
use super::*;
use crate::message::SplitMix;

const MS: u64 = 1_000_000;

/// The server's initial sequence number, near the end of the range so that it wraps around.
const SERVER_ISS: u32 = u32::MAX - 1;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Connected,
    Received(Vec<u8>),
    Room,
    Finished,
    Closed,
    Failed(Failure),
}

#[derive(Default)]
struct Log(Vec<Event>);

impl Events for Log {
    fn connected(&mut self, _: u32) {
        self.0.push(Event::Connected);
    }
    fn received(&mut self, _: u32, bytes: &mut [u8]) {
        self.0.push(Event::Received(bytes.to_vec()));
    }
    fn room(&mut self, _: u32) {
        self.0.push(Event::Room);
    }
    fn finished(&mut self, _: u32) {
        self.0.push(Event::Finished);
    }
    fn closed(&mut self, _: u32) {
        self.0.push(Event::Closed);
    }
    fn failed(&mut self, _: u32, failure: Failure) {
        self.0.push(Event::Failed(failure));
    }
}

fn received(bytes: &[u8]) -> Event {
    Event::Received(bytes.to_vec())
}

fn config(reassembly_bytes: usize) -> Config {
    let ends = Ends {
        first_v4: Some(Ipv4Addr::new(198, 19, 0, 0)),
        first_v6: Some("fd00::1:0".parse().unwrap()),
        hosts: 4,
        servers: vec!["10.0.0.1:80".parse().unwrap(), "[fd01::1]:80".parse().unwrap()],
    };
    Config { ends, connections: 20_000, mtu: 1500, has_offloads: false, reassembly_bytes, secret: [1, 2] }
}

/// A stack with one connection, to a server that is played by the test.
struct Bench {
    stack: Stack,
    log: Log,
    now_ns: u64,
    client: SocketAddr,
    server: SocketAddr,
    /// The client's first sequence number behind its SYN.
    base: u32,
    /// The window that the server offers.
    window: u16,
}

impl Bench {
    /// A connection whose SYN is out.
    fn opening(server: u16) -> Self {
        Self::opening_with(config(1000), server)
    }

    fn opening_with(config: Config, server: u16) -> Self {
        let mut stack = Stack::new(config).expect("a stack");
        stack.connect(0, server, 0);
        let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let (client, server) = (unknown, unknown);
        let mut bench = Self { stack, log: Log::default(), now_ns: 0, client, server, base: 0, window: 1000 };
        let sent = bench.sent();
        let [(syn, payload)] = &sent[..] else { panic!("one SYN") };
        assert_eq!((syn.control, payload.len(), syn.scale), (SYN, 0, Some(2)));
        assert_eq!(syn.mss, Some(if syn.target.is_ipv4() { 1460 } else { 1440 }));
        (bench.client, bench.server, bench.base) = (syn.source, syn.target, syn.seq.wrapping_add(1));
        bench
    }

    /// A connection that is open, of which nothing is on its way.
    fn open() -> Self {
        Self::open_with(config(1000), 0)
    }

    fn open_with(config: Config, server: u16) -> Self {
        let mut bench = Self::opening_with(config, server);
        bench.answer(SYN | ACK);
        assert_eq!(bench.events(), [Event::Connected]);
        assert_eq!(bench.controls(), [(ACK, 0, 0)]);
        assert_eq!(bench.stack.active(), 0);
        bench
    }

    /// The server's SYN. Its segments have 100 bytes at most, its windows are not scaled up.
    fn answer(&mut self, control: u8) {
        let ack = if control & ACK == 0 { 0 } else { self.base };
        let head = Head { mss: Some(100), scale: Some(0), ..self.head(control, SERVER_ISS, ack) };
        self.give(&head, b"");
    }

    fn head(&self, control: u8, seq: u32, ack: u32) -> Head {
        let (source, target, window) = (self.server, self.client, self.window);
        Head { source, target, seq, ack, control, window, mss: None, scale: None }
    }

    /// A segment of the server, `at` bytes behind its first one, that acknowledges `acked` of the client's.
    fn peer(&mut self, control: u8, at: i32, acked: i32, payload: &[u8]) {
        let seq = SERVER_ISS.wrapping_add(1).wrapping_add_signed(at);
        let head = self.head(control, seq, self.base.wrapping_add_signed(acked));
        self.give(&head, payload);
    }

    fn give(&mut self, head: &Head, payload: &[u8]) {
        let mut bytes = vec![0; if self.stack.out.has_offloads { OFFLOAD_LEN } else { 0 }];
        segment::write(&mut bytes, head, [payload, b""]);
        self.stack.input(&mut bytes, self.now_ns, &mut self.log);
    }

    /// All packets since the last time.
    fn sent(&mut self) -> Vec<(Head, Vec<u8>)> {
        self.stack.flush();
        let read = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let (is_left_out, packet) = self.stack.out.strip(&mut bytes).expect("a header, if there is to be one");
            let (header, body) = ip::parse(packet).expect("a packet");
            let (head, payload) = segment::parse(packet, &header, body, is_left_out).expect("a segment");
            (head, packet[payload].to_vec())
        };
        let sent = self.stack.packets().map(read).collect();
        self.stack.clear_packets();
        sent
    }

    /// The same: control bits, and how far sequence number and acknowledgement are behind the SYNs.
    fn controls(&mut self) -> Vec<(u8, u32, u32)> {
        let base = self.base;
        let offsets = |(head, _): (Head, Vec<u8>)| {
            (head.control, head.seq.wrapping_sub(base), head.ack.wrapping_sub(SERVER_ISS.wrapping_add(1)))
        };
        self.sent().into_iter().map(offsets).collect()
    }

    /// The same: where data begins, and how much it is.
    fn data(&mut self) -> Vec<(u32, usize)> {
        let base = self.base;
        let sent = self.sent().into_iter().filter(|(_, payload)| !payload.is_empty());
        sent.map(|(head, payload)| (head.seq.wrapping_sub(base), payload.len())).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.log.0)
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.stack.send(0, &[bytes], self.now_ns)
    }

    fn finish(&mut self) {
        self.stack.finish(0, self.now_ns);
    }

    /// Lets time pass until there is a packet or an event. Returns how many milliseconds that was.
    fn wait(&mut self) -> u64 {
        let start_ns = self.now_ns;
        while self.stack.packets().next().is_none() && self.log.0.is_empty() {
            let next_ns = self.stack.next_ns().expect("something to wait for");
            self.now_ns = self.now_ns.max(next_ns);
            self.stack.advance(self.now_ns, &mut self.log);
        }
        (self.now_ns - start_ns) / MS
    }

    fn state(&self) -> State {
        self.stack.entry(0).state
    }
}
