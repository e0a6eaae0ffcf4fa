//! IPv4 (RFC 791) and IPv6 (RFC 8200): headers, and the checksum that all of their protocols share (RFC 1071).
//!
//! Fragments and IPv6 extension headers are dropped: a server's TCP sets Don't Fragment, and puts nothing in front of its
//! segments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// Numbers of the protocols.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const ICMP_V6: u8 = 58;

/// Bytes of a header that is written here.
pub(super) const V4_LEN: usize = 20;
pub(super) const V6_LEN: usize = 40;

/// The usual first hop limit.
const HOPS: u8 = 64;

/// What of an IP header matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source: IpAddr,
    pub(super) target: IpAddr,
    pub(super) protocol: u8,
    /// Bytes of the header.
    pub(super) len: usize,
}

/// `N` bytes from position `at` on.
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The 16-bit number at position `at`.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_be_bytes)
}

/// Reads a packet's header and where its body is. `None`: the packet is damaged, or of a kind that is not taken.
pub(super) fn parse(packet: &[u8]) -> Option<(Header, Range<usize>)> {
    let header = read(packet)?;
    let end = if header.source.is_ipv4() {
        let is_fragment = number(packet, 6)? & 0x3fff != 0; // More Fragments, or an offset
        if is_fragment || fold(sum(&packet[..header.len])) != 0 {
            return None;
        }
        usize::from(number(packet, 2)?)
    } else {
        V6_LEN + usize::from(number(packet, 4)?)
    };
    (header.len..=packet.len()).contains(&end).then_some((header, header.len..end))
}

/// Reads a header without checking the packet: an ICMP error quotes only the beginning of one.
pub(super) fn read(packet: &[u8]) -> Option<Header> {
    match packet.first()? >> 4 {
        4 => {
            let len = usize::from(packet[0] & 15) * 4;
            let v4 = |at| field::<4>(packet, at).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
            let header = Header { source: v4(12)?, target: v4(16)?, protocol: *packet.get(9)?, len };
            (V4_LEN..=packet.len()).contains(&len).then_some(header)
        }
        6 => {
            let v6 = |at| field::<16>(packet, at).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
            Some(Header { source: v6(8)?, target: v6(24)?, protocol: *packet.get(6)?, len: V6_LEN })
        }
        _ => None,
    }
}

/// Adds a header to `out`, for a body of `body_len` bytes that follows. Both addresses are of one family.
pub(super) fn write(out: &mut Vec<u8>, source: IpAddr, target: IpAddr, protocol: u8, body_len: usize) {
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let start = out.len();
            let total = (V4_LEN + body_len) as u16;
            // No options, no identification: RFC 6864 section 4.1 wants none where nothing is fragmented.
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&total.to_be_bytes());
            out.extend_from_slice(&[0, 0, 0x40, 0, HOPS, protocol, 0, 0]); // 0x40: Don't Fragment (RFC 1191)
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&target.octets());
            let checksum = fold(sum(&out[start..]));
            out[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            out.extend_from_slice(&[0x60, 0, 0, 0]);
            out.extend_from_slice(&(body_len as u16).to_be_bytes());
            out.extend_from_slice(&[protocol, HOPS]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&target.octets());
        }
        _ => unreachable!("a flow's ends are of one family"),
    }
}

/// The sum over a pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1), which is the same for both families.
pub(super) fn pseudo_sum(source: IpAddr, target: IpAddr, protocol: u8, body_len: usize) -> u64 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    address(source) + address(target) + u64::from(protocol) + body_len as u64
}

/// The sum of all 16-bit words, two at a time. Sums over pieces may be added up if all but the last are of even length.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).map(|&word| u64::from(u32::from_be_bytes(word))).sum()
}

/// The checksum that follows from a sum: zero if the sum was over correct bytes and their checksum.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(198, 19, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))];
    const V6: [IpAddr; 2] = [
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2)),
    ];

    #[test]
    fn the_checksum_is_that_of_the_standards_example() {
        // RFC 1071 section 3.
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), !0xddf2);
        assert_eq!(fold(sum(&[0xab])), !0xab00, "an odd byte is a word's first");
        let whole: Vec<u8> = (0..=100).collect();
        assert_eq!(fold(sum(&whole[..34]) + sum(&whole[34..])), fold(sum(&whole)));
    }

    #[test]
    fn a_header_survives_the_round_trip() {
        for [source, target] in [V4, V6] {
            let mut packet = Vec::new();
            write(&mut packet, source, target, TCP, 3);
            let len = packet.len();
            packet.extend_from_slice(&[1, 2, 3, 9, 9]); // two bytes more than it says: padding of the link
            let header = Header { source, target, protocol: TCP, len };
            assert_eq!(parse(&packet), Some((header, len..len + 3)));
            assert_eq!(parse(&packet[..len + 2]), None, "cut short");
            for cut in 0..len {
                assert_eq!(read(&packet[..cut]), None, "a header of {cut} bytes");
            }
        }
    }

    #[test]
    fn damaged_headers_and_fragments_are_dropped() {
        let mut good = Vec::new();
        write(&mut good, V4[0], V4[1], TCP, 0);
        for bit in 0..8 * V4_LEN {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&bad), None, "bit {bit}");
        }
        let mut fragment = good;
        (fragment[6], fragment[10], fragment[11]) = (0x20, 0, 0);
        let checksum = fold(sum(&fragment)).to_be_bytes();
        fragment[10..12].copy_from_slice(&checksum);
        assert_eq!(parse(&fragment), None);
    }
}
