//! ICMP errors about our segments (RFC 792, RFC 4443), as far as they mean something to TCP (RFC 5461).

use std::net::SocketAddr;
use std::ops::Range;

use super::ip::{self, field, number};

/// What has become of a packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Error {
    /// There is no way to the server, or a firewall forbids it.
    Unreachable,
    /// Its machine has no such protocol or port.
    Refused,
    /// It was longer than this, the most that a link on its way takes.
    TooBig { mtu: u32 },
}

/// An error, and the segment that it is about: the message quotes its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) error: Error,
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) seq: u32,
}

/// Reads the error in a packet's `body`. `None`: it is damaged, no error, or not about TCP.
pub(super) fn parse(packet: &[u8], header: &ip::Header, body: Range<usize>) -> Option<Report> {
    let message = &packet[body];
    let is_v4 = header.source.is_ipv4();
    let pseudo_sum = if is_v4 { 0 } else { ip::pseudo_sum(header.source, header.target, ip::ICMP_V6, message.len()) };
    if ip::fold(pseudo_sum + ip::sum(message)) != 0 {
        return None;
    }
    let (kind, code) = (*message.first()?, *message.get(1)?);
    let error = if is_v4 { v4_error(kind, code, message)? } else { v6_error(kind, code, message)? };
    let quoted = message.get(8..)?;
    let inner = ip::read(quoted)?;
    let tcp = quoted.get(inner.len..)?;
    if inner.protocol != ip::TCP {
        return None;
    }
    Some(Report {
        error,
        source: SocketAddr::new(inner.source, number(tcp, 0)?),
        target: SocketAddr::new(inner.target, number(tcp, 2)?),
        seq: u32::from_be_bytes(field(tcp, 4)?),
    })
}

/// Type 3, Destination Unreachable, by its codes, as Linux has them (`icmp_err_convert`): a firewall's answer (9, 10 and 13) is
/// no refusal. A quench (type 4) is ignored (RFC 6633), like all others.
fn v4_error(kind: u8, code: u8, message: &[u8]) -> Option<Error> {
    match (kind, code) {
        (3, 4) => Some(Error::TooBig { mtu: number(message, 6)?.into() }),
        (3, 2 | 3) => Some(Error::Refused),
        (3, _) => Some(Error::Unreachable),
        _ => None,
    }
}

/// Types 1, Destination Unreachable, and 2, Packet Too Big.
fn v6_error(kind: u8, code: u8, message: &[u8]) -> Option<Error> {
    match (kind, code) {
        (2, _) => Some(Error::TooBig { mtu: u32::from_be_bytes(field(message, 4)?) }),
        (1, 4) => Some(Error::Refused),
        (1, _) => Some(Error::Unreachable),
        _ => None,
    }
}

/// A packet from `target`, to which that of `report` was sent, as a router or the server's machine makes it.
#[cfg(test)]
pub(super) fn write(report: &Report) -> Vec<u8> {
    let (source, target) = (report.source, report.target);
    let is_v4 = source.is_ipv4();
    let (kind, code, word) = match (report.error, is_v4) {
        (Error::Unreachable, true) => (3, 1, 0),
        (Error::Refused, true) => (3, 3, 0),
        (Error::TooBig { mtu }, true) => (3, 4, mtu),
        (Error::Unreachable, false) => (1, 3, 0),
        (Error::Refused, false) => (1, 4, 0),
        (Error::TooBig { mtu }, false) => (2, 0, mtu),
    };
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(&word.to_be_bytes());
    ip::write(&mut message, source.ip(), target.ip(), ip::TCP, 8);
    message.extend_from_slice(&source.port().to_be_bytes());
    message.extend_from_slice(&target.port().to_be_bytes());
    message.extend_from_slice(&report.seq.to_be_bytes());
    let protocol = if is_v4 { ip::ICMP } else { ip::ICMP_V6 };
    let pseudo_sum = if is_v4 { 0 } else { ip::pseudo_sum(target.ip(), source.ip(), protocol, message.len()) };
    let checksum = ip::fold(pseudo_sum + ip::sum(&message)).to_be_bytes();
    message[2..4].copy_from_slice(&checksum);
    let mut packet = Vec::new();
    ip::write(&mut packet, target.ip(), source.ip(), protocol, message.len());
    packet.extend_from_slice(&message);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_port_or_protocol_is_a_refusal() {
        let message = [0; 8];
        for code in 0..=15 {
            let expected = match code {
                2 | 3 => Error::Refused,
                4 => Error::TooBig { mtu: 0 },
                _ => Error::Unreachable,
            };
            assert_eq!(v4_error(3, code, &message), Some(expected), "code {code}");
        }
        for code in 0..=7 {
            let expected = if code == 4 { Error::Refused } else { Error::Unreachable };
            assert_eq!(v6_error(1, code, &message), Some(expected), "code {code}");
        }
        assert_eq!((v4_error(4, 0, &message), v6_error(3, 0, &message)), (None, None), "a quench; time exceeded");
    }

    #[test]
    fn errors_name_the_segment_that_they_are_about() {
        for [source, target] in [["198.19.0.1:1024", "10.0.0.1:80"], ["[fd00::1]:65535", "[fd00::2]:9001"]] {
            let (source, target) = (source.parse().unwrap(), target.parse().unwrap());
            for error in [Error::Unreachable, Error::Refused, Error::TooBig { mtu: 1400 }] {
                let report = Report { error, source, target, seq: 0xdead_beef };
                let mut packet = write(&report);
                let read = |packet: &[u8]| {
                    let (header, body) = ip::parse(packet)?;
                    parse(packet, &header, body)
                };
                assert_eq!(read(&packet), Some(report));
                let last = packet.len() - 1;
                packet[last] ^= 1;
                assert_eq!(read(&packet), None, "damaged");
            }
        }
    }
}
