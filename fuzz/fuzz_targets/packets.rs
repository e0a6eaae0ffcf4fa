//! Any bytes for a packet, to the TCP of ringload: what a reader of its own makes of it (`src/packet.rs`) is what the stack makes
//! of it, and a connection that opens is told and answered what RFC 9293 section 3.10.7.3 says.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use ringecho_fuzz::packet::{self, ACK, DATA_VALID, FIN, NEEDS_CSUM, Packet, Quote, RST, SYN, Segment};
use ringload::stack::{Config, Ends, Events, Failure, OFFLOAD_LEN, Stack};

/// What a segment's payload can be at most: the MTU without the headers.
const OWN_MSS: [u16; 2] = [1460, 1440];

/// MSS of a server that does not say (RFC 9293 section 3.7.1), and the least that is believed.
const DEFAULT_MSS: [u16; 2] = [536, 1220];
const LEAST_MSS: u16 = 48;

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Connected,
    Failed(Failure),
    Other,
}

#[derive(Default)]
struct Log(Vec<Event>);

impl Events for Log {
    fn connected(&mut self, _: u32) {
        self.0.push(Event::Connected);
    }
    fn received(&mut self, _: u32, _: &mut [u8]) {
        self.0.push(Event::Other);
    }
    fn room(&mut self, _: u32) {
        self.0.push(Event::Other);
    }
    fn finished(&mut self, _: u32) {
        self.0.push(Event::Other);
    }
    fn closed(&mut self, _: u32) {
        self.0.push(Event::Other);
    }
    fn failed(&mut self, _: u32, failure: Failure) {
        self.0.push(Event::Failed(failure));
    }
}

/// A stack with one connection that opens, over the family of that number, and its SYN.
fn opening(family: u16, has_offloads: bool) -> (Stack, Segment) {
    let ends = Ends {
        first_v4: Some(Ipv4Addr::new(198, 19, 0, 0)),
        first_v6: Some("fd00::".parse().expect("an address")),
        hosts: 2,
        servers: vec!["10.0.0.1:80".parse().expect("an address"), "[fd01::1]:80".parse().expect("an address")],
    };
    let config = Config { ends, connections: 10, mtu: 1500, has_offloads, reassembly_bytes: 1000, secret: [1, 2] };
    let mut stack = Stack::new(config).expect("a stack");
    stack.connect(0, family, 0);
    let syn = sent(&mut stack, has_offloads).pop().expect("a SYN");
    (stack, syn)
}

/// What the stack sends. With offloads a device makes the checksums and segments.
fn sent(stack: &mut Stack, has_offloads: bool) -> Vec<Segment> {
    stack.flush();
    let packets = stack.packets();
    let sent = if has_offloads {
        packets.flat_map(packet::divide).collect()
    } else {
        packets.map(packet::read_strictly).collect()
    };
    stack.clear_packets();
    sent
}

/// The fuzzer's bytes as a packet. The first says of what kind: any bytes; the same with right checksums; a segment from the
/// server without its ports, or an ICMP message, in a packet that is in order. With a further bit what cannot be guessed is right:
/// the acknowledgement of the SYN, or what an ICMP message quotes.
fn made(bytes: &[u8], syn: &Segment) -> Option<Vec<u8>> {
    let (&mode, rest) = bytes.split_first()?;
    let (server, client) = (syn.target, syn.source);
    let mut packet = match mode & 3 {
        0 | 1 => rest.to_vec(),
        2 => {
            let mut segment = [&server.port().to_be_bytes()[..], &client.port().to_be_bytes(), rest].concat();
            if mode & 8 != 0 && segment.len() >= 12 {
                segment[8..12].copy_from_slice(&syn.seq.wrapping_add(1).to_be_bytes());
            }
            packet::packet(server.ip(), client.ip(), packet::TCP, &segment)
        }
        3 if mode & 8 == 0 => packet::packet(server.ip(), client.ip(), if server.is_ipv4() { 1 } else { 58 }, rest),
        _ => {
            let &[kind, code, ref word @ ..] = rest else { return None };
            let word = word.first_chunk().copied().map_or(0, u32::from_be_bytes);
            Quote { kind, code, source: client, target: server, seq: syn.seq }.packet(word)
        }
    };
    if mode & 3 == 1 {
        packet::seal(&mut packet);
    }
    Some(packet)
}

/// The header that a device with offloads has in front of the packet, if it is one. Such a device says of packets that their
/// checksums are right or were left out, or nothing; and of how many segments they are, which changes nothing.
fn header(mode: u8) -> Option<[u8; OFFLOAD_LEN]> {
    if mode & 4 == 0 {
        return None;
    }
    let flags = [DATA_VALID, NEEDS_CSUM, 0, 0xfc][usize::from(mode >> 4 & 3)];
    let division = if mode & 0x40 == 0 { [0; 9] } else { [1, 54, 0, 180, 5, 20, 0, 16, 0] };
    let mut header = [flags; OFFLOAD_LEN];
    header[1..].copy_from_slice(&division);
    Some(header)
}

fuzz_target!(|bytes: &[u8]| {
    let family = bytes.first().map_or(0, |mode| u16::from(mode >> 7));
    let header = bytes.first().and_then(|&mode| header(mode));
    let has_offloads = header.is_some();
    let is_verified = header.is_some_and(|header| header[0] & (NEEDS_CSUM | DATA_VALID) != 0);
    let (mut stack, syn) = opening(family, has_offloads);
    let Some(mut packet) = made(bytes, &syn) else { return };
    let mut log = Log::default();
    let read = packet::read(&packet, is_verified);
    packet.splice(0..0, header.into_iter().flatten());
    stack.input(&mut packet, 0, &mut log);
    let unread = stack.counters().unread;
    assert_eq!(unread, u64::from(read.is_none()), "{read:?}");
    let answers = sent(&mut stack, has_offloads);
    match read {
        Some(Packet::Tcp(segment)) if (segment.source, segment.target) == (syn.target, syn.source) => {
            answered(&syn, &segment, &log.0, &answers);
            if log.0 == [Event::Connected] {
                measure(&mut stack, &segment, has_offloads);
            }
        }
        Some(Packet::Tcp(segment)) => stray(&segment, &log.0, &answers),
        Some(Packet::Icmp(quote)) => {
            let is_ours = (quote.source, quote.target, quote.seq) == (syn.source, syn.target, syn.seq);
            let is_too_big = if family == 0 { (quote.kind, quote.code) == (3, 4) } else { quote.kind == 2 };
            let ends = log.0 == [Event::Failed(Failure::Refused)] || log.0 == [Event::Failed(Failure::Unreachable)];
            assert_eq!((ends, answers.len()), (is_ours && !is_too_big, 0), "{quote:?}");
        }
        None => assert!(log.0.is_empty() && answers.is_empty(), "{:?} {answers:?}", log.0),
    }
});

/// In SYN-SENT, by the order of RFC 9293 section 3.10.7.3.
fn answered(syn: &Segment, segment: &Segment, events: &[Event], answers: &[Segment]) {
    let next = syn.seq.wrapping_add(1);
    let has = |flag| segment.flags & flag != 0;
    let (said, flags) = if has(ACK) && segment.ack != next {
        (None, (!has(RST)).then_some(RST))
    } else if has(RST) {
        (has(ACK).then_some(Event::Failed(Failure::Refused)), None)
    } else if has(SYN) {
        (has(ACK).then_some(Event::Connected), Some(if has(ACK) { ACK } else { SYN | ACK }))
    } else {
        (None, None)
    };
    assert_eq!(events, said.as_slice(), "{segment:?}");
    assert_eq!(answers.iter().map(|answer| answer.flags).collect::<Vec<_>>(), Vec::from_iter(flags), "{segment:?}");
    for answer in answers {
        let numbers = if flags == Some(RST) {
            (segment.ack, 0)
        } else {
            (if has(ACK) { next } else { syn.seq }, segment.seq.wrapping_add(1))
        };
        assert_eq!((answer.seq, answer.ack), numbers, "{segment:?}");
    }
}

/// The first data says what was read of the SYN's options and window: a segment, or as many as a device is to make of it.
fn measure(stack: &mut Stack, segment: &Segment, has_offloads: bool) {
    let family = usize::from(segment.source.is_ipv6());
    let mss = segment.mss.unwrap_or(DEFAULT_MSS[family]).clamp(LEAST_MSS, OWN_MSS[family]);
    let scale = segment.scale.unwrap_or(0);
    let window = segment.window >> scale << scale;
    assert_eq!(stack.send(0, &[&[7; 3000]], 0), 3000);
    let first = sent(stack, has_offloads).first().map_or(0, |first| first.payload.len());
    assert_eq!(first, usize::from(mss.min(window)), "{segment:?}");
}

/// What belongs to no connection: reset if it is for an address of the clients (section 3.10.7.1).
fn stray(segment: &Segment, events: &[Event], answers: &[Segment]) {
    let has = |flag| segment.flags & flag != 0;
    assert!(events.is_empty(), "{segment:?}");
    let Some(answer) = answers.first() else {
        assert!(has(RST) || !is_client(segment.target), "{segment:?}");
        return;
    };
    let span = segment.payload.len() as u32 + u32::from(has(SYN)) + u32::from(has(FIN));
    let numbers = if has(ACK) { (segment.ack, 0, RST) } else { (0, segment.seq.wrapping_add(span), RST | ACK) };
    assert_eq!(((answer.seq, answer.ack, answer.flags), answers.len()), (numbers, 1), "{segment:?}");
    assert_eq!((answer.source, answer.target), (segment.target, segment.source));
    assert!(!has(RST) && is_client(segment.target), "{segment:?}");
}

/// Whether it is an address and a port of the two clients. Lives beyond 65,536 are not counted, and ten connections have less.
fn is_client(address: SocketAddr) -> bool {
    const PORTS: u32 = 64_512;
    let host = match address.ip().to_string().as_str() {
        "198.19.0.0" | "fd00::" => 0,
        "198.19.0.1" | "fd00::1" => 1,
        _ => return false,
    };
    // Flows beyond the last life of all ten are not used.
    let flow = u32::from(address.port()).checked_sub(1024).map(|port| host * PORTS + port);
    flow.is_some_and(|flow| flow < 2 * PORTS / 10 * 10)
}
