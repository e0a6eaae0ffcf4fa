//! IP packets with TCP segments or ICMP errors in them, by the letter of RFC 791, 8200, 9293, 792 and 4443: written for this,
//! shares nothing with the stack of ringload. So is the header that a device with offloads has in front of them (virtio 1.2 section
//! 5.1.6, `linux/virtio_net.h`), and what such a device does with a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

pub const TCP: u8 = 6;

/// Bytes of virtio-net's header.
pub const OFFLOAD_LEN: usize = 10;

/// Its flags: the checksum is still to be made, from a place on; the checksum is right.
pub const NEEDS_CSUM: u8 = 1;
pub const DATA_VALID: u8 = 2;

/// Its kinds of division: none, into segments over IPv4, over IPv6.
const KINDS: [u8; 3] = [0, 1, 4];

/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;

/// A TCP segment and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// Options, of a SYN only.
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub payload: Vec<u8>,
}

/// What an ICMP message says of a segment that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    pub kind: u8,
    pub code: u8,
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub seq: u32,
}

/// A packet that a TCP has to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Tcp(Segment),
    Icmp(Quote),
}

/// An IP header, and where the body is.
struct Ip {
    source: IpAddr,
    target: IpAddr,
    protocol: u8,
    body: Range<usize>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// One's complement addition with an end-around carry (RFC 1071 section 1).
fn add(sum: u16, word: u16) -> u16 {
    let (sum, has_carry) = sum.overflowing_add(word);
    sum + u16::from(has_carry)
}

fn sum(start: u16, bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
    bytes.chunks(2).map(word).fold(start, add)
}

/// The sum over a pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn pseudo(source: IpAddr, target: IpAddr, protocol: u8, len: usize) -> u16 {
    let address = |start, ip| match ip {
        IpAddr::V4(ip) => sum(start, &ip.octets()),
        IpAddr::V6(ip) => sum(start, &ip.octets()),
    };
    let addresses = address(address(0, source), target);
    add(add(addresses, u16::from(protocol)), u16::try_from(len).expect("a packet's length"))
}

/// Addresses and protocol of a header, and its length, whatever follows.
fn header(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8, usize)> {
    let v4 = |at: usize| IpAddr::V4(Ipv4Addr::from(u32_at(bytes, at)));
    let v6 = |at: usize| IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).expect("16 bytes")));
    match (bytes.first()? >> 4, bytes.len()) {
        (4, 20..) => {
            let len = usize::from(bytes[0] & 15) * 4;
            (len >= 20 && len <= bytes.len()).then(|| (v4(12), v4(16), bytes[9], len))
        }
        (6, 40..) => Some((v6(8), v6(24), bytes[6], 40)),
        _ => None,
    }
}

fn ip(packet: &[u8]) -> Option<Ip> {
    let (source, target, protocol, len) = header(packet)?;
    let end = if source.is_ipv4() {
        let (has_more_fragments, offset) = (packet[6] & 0x20 != 0, u16_at(packet, 6) & 0x1fff);
        if has_more_fragments || offset != 0 || sum(0, &packet[..len]) != 0xffff {
            return None;
        }
        usize::from(u16_at(packet, 2))
    } else {
        len + usize::from(u16_at(packet, 4))
    };
    (len <= end && end <= packet.len()).then_some(Ip { source, target, protocol, body: len..end })
}

/// Reads a packet. `None`: it is damaged, a fragment, or means nothing to TCP.
pub fn read(packet: &[u8], is_verified: bool) -> Option<Packet> {
    let ip = ip(packet)?;
    let body = &packet[ip.body.clone()];
    match ip.protocol {
        TCP => segment(&ip, body, is_verified).map(Packet::Tcp),
        1 if ip.source.is_ipv4() => quote(body, 0, is_error_of_v4).map(Packet::Icmp),
        58 if ip.source.is_ipv6() => {
            let start = pseudo(ip.source, ip.target, ip.protocol, body.len());
            quote(body, start, |kind, _| kind == 1 || kind == 2).map(Packet::Icmp)
        }
        _ => None,
    }
}

fn segment(ip: &Ip, tcp: &[u8], is_verified: bool) -> Option<Segment> {
    if tcp.len() < TCP_LEN {
        return None;
    }
    let data_at = usize::from(tcp[12] >> 4) * 4;
    let is_intact = is_verified || sum(pseudo(ip.source, ip.target, TCP, tcp.len()), tcp) == 0xffff;
    if data_at < TCP_LEN || data_at > tcp.len() || !is_intact {
        return None;
    }
    let (mss, scale) = if tcp[13] & SYN == 0 { (None, None) } else { options(&tcp[TCP_LEN..data_at]) };
    Some(Segment {
        source: SocketAddr::new(ip.source, u16_at(tcp, 0)),
        target: SocketAddr::new(ip.target, u16_at(tcp, 2)),
        seq: u32_at(tcp, 4),
        ack: u32_at(tcp, 8),
        flags: tcp[13],
        window: u16_at(tcp, 14),
        mss,
        scale,
        payload: tcp[data_at..].to_vec(),
    })
}

/// MSS and window scale (RFC 9293 section 3.2, RFC 7323 section 2.2), up to the first option that is malformed.
fn options(mut rest: &[u8]) -> (Option<u16>, Option<u8>) {
    let (mut mss, mut scale) = (None, None);
    loop {
        match *rest {
            [1, ..] => rest = &rest[1..],
            [2, 4, high, low, ..] => (mss, rest) = (Some(u16::from_be_bytes([high, low])), &rest[4..]),
            [3, 3, shift, ..] => (scale, rest) = (Some(shift.min(14)), &rest[3..]),
            [kind, len, ..] if kind > 1 && len >= 2 && usize::from(len) <= rest.len() => {
                rest = &rest[usize::from(len)..]
            }
            _ => return (mss, scale),
        }
    }
}

fn is_error_of_v4(kind: u8, _: u8) -> bool {
    kind == 3
}

fn quote(icmp: &[u8], start: u16, is_error: impl Fn(u8, u8) -> bool) -> Option<Quote> {
    if icmp.len() < 8 || sum(start, icmp) != 0xffff || !is_error(icmp[0], icmp[1]) {
        return None;
    }
    let inner = &icmp[8..];
    let (source, target, protocol, len) = header(inner)?;
    let tcp = &inner[len..];
    (protocol == TCP && tcp.len() >= 8).then(|| Quote {
        kind: icmp[0],
        code: icmp[1],
        source: SocketAddr::new(source, u16_at(tcp, 0)),
        target: SocketAddr::new(target, u16_at(tcp, 2)),
        seq: u32_at(tcp, 4),
    })
}

/// Reads a packet of the stack's, which must be as a careful TCP writes it.
#[must_use]
pub fn read_strictly(packet: &[u8]) -> Segment {
    let ip = ip(packet).expect("a header that is in order");
    assert_eq!(ip.body.end, packet.len(), "as long as it says");
    if ip.source.is_ipv4() {
        assert_eq!((packet[0], packet[1], packet[6], packet[7], packet[8]), (0x45, 0, 0x40, 0, 64), "Don't Fragment");
    } else {
        assert_eq!((u32_at(packet, 0), packet[7]), (0x6000_0000, 64));
    }
    assert_eq!(ip.protocol, TCP);
    let tcp = &packet[ip.body.clone()];
    let segment = segment(&ip, tcp, false).expect("a segment that is in order");
    let options_len = usize::from(tcp[12] >> 4) * 4 - TCP_LEN;
    let expected = 4 * (usize::from(segment.mss.is_some()) + usize::from(segment.scale.is_some()));
    assert_eq!((tcp[12] & 15, tcp[18], tcp[19], options_len), (0, 0, 0, expected), "{segment:?}");
    let flags = segment.flags & !PSH;
    assert!([SYN, SYN | ACK, ACK, ACK | FIN, RST, RST | ACK].contains(&flags), "{segment:?}");
    assert!(flags & ACK != 0 || segment.ack == 0, "{segment:?}");
    segment
}

/// Does what a device with offloads does with a packet of the stack's: makes the checksum, and the segments, in their order.
#[must_use]
pub fn divide(bytes: &[u8]) -> Vec<Segment> {
    let (header, packet) = bytes.split_at(OFFLOAD_LEN);
    let number = |at| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let (headers_len, segment_len, sum_start, sum_offset) = (number(2), number(4), number(6), number(8));
    assert_eq!(header[0], NEEDS_CSUM);
    let mut packet = packet.to_vec();
    // In the checksum's place is the sum over the pseudo header.
    let checksum = !sum(0, &packet[sum_start..]);
    packet[sum_start + sum_offset..][..2].copy_from_slice(&checksum.to_be_bytes());
    let whole = read_strictly(&packet);
    assert_eq!(headers_len, packet.len() - whole.payload.len(), "{whole:?}");
    let [none, v4, v6] = KINDS;
    if header[1] == none {
        assert_eq!(segment_len, 0, "{whole:?}");
        return vec![whole];
    }
    assert_eq!(header[1], if whole.source.is_ipv4() { v4 } else { v6 }, "{whole:?}");
    assert!(whole.flags & (SYN | RST) == 0 && (1..whole.payload.len()).contains(&segment_len), "{whole:?}");
    let count = whole.payload.len().div_ceil(segment_len);
    let parts = whole.payload.chunks(segment_len).enumerate();
    let segment = |(index, part): (usize, &[u8])| Segment {
        seq: whole.seq.wrapping_add((index * segment_len) as u32),
        flags: if index + 1 == count { whole.flags } else { whole.flags & !(FIN | PSH) },
        payload: part.to_vec(),
        ..whole.clone()
    };
    parts.map(segment).collect()
}

/// What the kernel knows of the checksum of a packet that it gives to the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// It is right.
    Verified,
    /// It was left out, as the packet has not left the machine.
    LeftOut,
    /// Nothing: it is there.
    Unknown,
    /// Nothing: it is there, and wrong.
    Wrong,
}

/// Puts a header in front of a packet with a TCP segment, as the kernel does, and makes of the checksum what is said.
pub fn offload(packet: &mut Vec<u8>, checksum: Checksum) {
    let ip_len = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let mut header = [0; OFFLOAD_LEN];
    match checksum {
        Checksum::Verified => header[0] = DATA_VALID,
        Checksum::LeftOut => {
            header[0] = NEEDS_CSUM;
            header[6..8].copy_from_slice(&(ip_len as u16).to_ne_bytes());
            header[8..10].copy_from_slice(&16_u16.to_ne_bytes());
        }
        Checksum::Unknown | Checksum::Wrong => {}
    }
    if matches!(checksum, Checksum::LeftOut | Checksum::Wrong) {
        packet[ip_len + 16] ^= 0x55;
    }
    packet.splice(0..0, header);
}

impl Segment {
    /// The packet that carries it.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.target.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        let mut options = Vec::new();
        if let Some(mss) = self.mss {
            options.extend([2, 4]);
            options.extend(mss.to_be_bytes());
        }
        if let Some(scale) = self.scale {
            options.extend([3, 3, scale, 0]);
        }
        tcp.extend([(((TCP_LEN + options.len()) / 4) << 4) as u8, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.extend(&self.payload);
        packet(self.source.ip(), self.target.ip(), TCP, &tcp)
    }
}

impl Quote {
    /// The packet that brings it from the quoted segment's target; `word` is the message's second one, a link's MTU in some.
    #[must_use]
    pub fn packet(&self, word: u32) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.target.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        let mut icmp = vec![self.kind, self.code, 0, 0];
        icmp.extend(word.to_be_bytes());
        icmp.extend(packet(self.source.ip(), self.target.ip(), TCP, &tcp));
        packet(self.target.ip(), self.source.ip(), if self.source.is_ipv4() { 1 } else { 58 }, &icmp)
    }
}

/// A packet around a body, with all checksums right.
#[must_use]
pub fn packet(source: IpAddr, target: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let len = u16::try_from(20 + body.len()).expect("it fits into a packet").to_be_bytes();
            let head = [0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
            [&head[..], &source.octets(), &target.octets()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let len = u16::try_from(body.len()).expect("it fits into a packet").to_be_bytes();
            [&[0x60, 0, 0, 0, len[0], len[1], protocol, 64][..], &source.octets(), &target.octets()].concat()
        }
        _ => panic!("addresses of two families"),
    };
    packet.extend(body);
    seal(&mut packet);
    packet
}

/// Writes right checksums into a packet, as far as there is something to write them to.
pub fn seal(packet: &mut [u8]) {
    let Some((source, target, protocol, len)) = header(packet) else { return };
    let end = if source.is_ipv4() { usize::from(u16_at(packet, 2)) } else { len + usize::from(u16_at(packet, 4)) };
    if source.is_ipv4() {
        write_sum(&mut packet[..len], 10, 0);
    }
    if end < len || end > packet.len() {
        return;
    }
    let body = &mut packet[len..end];
    match protocol {
        TCP => write_sum(body, 16, pseudo(source, target, protocol, end - len)),
        1 => write_sum(body, 2, 0),
        58 => write_sum(body, 2, pseudo(source, target, protocol, end - len)),
        _ => {}
    }
}

fn write_sum(bytes: &mut [u8], at: usize, start: u16) {
    if bytes.len() >= at + 2 {
        bytes[at..at + 2].fill(0);
        let checksum = (!sum(start, bytes)).to_be_bytes();
        bytes[at..at + 2].copy_from_slice(&checksum);
    }
}
