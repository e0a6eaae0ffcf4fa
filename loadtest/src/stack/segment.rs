//! TCP segments (RFC 9293 section 3.1), read and written with their IP headers.

use std::net::SocketAddr;
use std::ops::Range;

use super::ip::{self, field, number};

/// Bits of the control field.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;

/// Bytes of a TCP header without options.
pub(super) const LEN: usize = 20;

/// Where in it the checksum is.
pub(super) const CHECKSUM_AT: usize = 16;

/// The largest window scale (RFC 7323 section 2.3).
const SCALE_MAX: u8 = 14;

/// A segment without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) control: u8,
    pub(super) window: u16,
    /// Options of a SYN. All others are skipped.
    pub(super) mss: Option<u16>,
    pub(super) scale: Option<u8>,
}

impl Head {
    pub(super) fn has(&self, bit: u8) -> bool {
        self.control & bit != 0
    }

    /// Sequence numbers that the segment takes.
    pub(super) fn span(&self, payload_len: usize) -> u32 {
        payload_len as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }
}

/// Reads the segment in a packet's `body`, and where in the packet its payload is. `is_verified` says that its checksum need
/// not be looked at.
pub(super) fn parse(
    packet: &[u8],
    header: &ip::Header,
    body: Range<usize>,
    is_verified: bool,
) -> Option<(Head, Range<usize>)> {
    let end = body.end;
    let tcp = &packet[body.clone()];
    let data_at = usize::from(tcp.get(12)? >> 4) * 4;
    if !(LEN..=tcp.len()).contains(&data_at) {
        return None;
    }
    let pseudo_sum = ip::pseudo_sum(header.source, header.target, ip::TCP, tcp.len());
    if !is_verified && ip::fold(pseudo_sum + ip::sum(tcp)) != 0 {
        return None;
    }
    let mut head = Head {
        source: SocketAddr::new(header.source, number(tcp, 0)?),
        target: SocketAddr::new(header.target, number(tcp, 2)?),
        seq: u32::from_be_bytes(field(tcp, 4)?),
        ack: u32::from_be_bytes(field(tcp, 8)?),
        control: tcp[13],
        window: number(tcp, 14)?,
        mss: None,
        scale: None,
    };
    if head.has(SYN) {
        read_options(&tcp[LEN..data_at], &mut head);
    }
    Some((head, body.start + data_at..end))
}

/// Reads a SYN's options up to the first that is malformed.
fn read_options(mut options: &[u8], head: &mut Head) {
    while let Some(&kind) = options.first() {
        let len = match kind {
            0 => return,
            1 => 1,
            _ => options.get(1).map_or(0, |&len| usize::from(len)),
        };
        if len > options.len() || (kind != 1 && len < 2) {
            return;
        }
        match (kind, len) {
            (2, 4) => head.mss = number(options, 2),
            (3, 3) => head.scale = Some(options[2].min(SCALE_MAX)),
            _ => {}
        }
        options = &options[len..];
    }
}

/// Adds a packet to `out`: IP header, segment and payload, which may be in two parts.
pub(super) fn write(out: &mut Vec<u8>, head: &Head, payload: [&[u8]; 2]) {
    let segment_at = write_unsummed(out, head, payload);
    let checksum = ip::fold(ip::sum(&out[segment_at..]));
    out[segment_at + CHECKSUM_AT..][..2].copy_from_slice(&checksum.to_be_bytes());
}

/// The same with the sum over the pseudo header in the checksum's place: all that is still to be added is in the segment itself.
/// Returns where that begins.
pub(super) fn write_unsummed(out: &mut Vec<u8>, head: &Head, payload: [&[u8]; 2]) -> usize {
    let mut options = [0; 8];
    let mut options_len = 0;
    if let Some(mss) = head.mss {
        options[..2].copy_from_slice(&[2, 4]);
        options[2..4].copy_from_slice(&mss.to_be_bytes());
        options_len = 4;
    }
    if let Some(scale) = head.scale {
        options[options_len..options_len + 4].copy_from_slice(&[1, 3, 3, scale]);
        options_len += 4;
    }
    let len = LEN + options_len + payload[0].len() + payload[1].len();
    let (source, target) = (head.source.ip(), head.target.ip());
    ip::write(out, source, target, ip::TCP, len);
    let start = out.len();
    out.extend_from_slice(&head.source.port().to_be_bytes());
    out.extend_from_slice(&head.target.port().to_be_bytes());
    out.extend_from_slice(&head.seq.to_be_bytes());
    out.extend_from_slice(&head.ack.to_be_bytes());
    out.extend_from_slice(&[((LEN + options_len) << 2) as u8, head.control]);
    out.extend_from_slice(&head.window.to_be_bytes());
    let pseudo_sum = !ip::fold(ip::pseudo_sum(source, target, ip::TCP, len));
    out.extend_from_slice(&pseudo_sum.to_be_bytes());
    out.extend_from_slice(&[0; 2]); // urgent pointer
    out.extend_from_slice(&options[..options_len]);
    out.extend_from_slice(payload[0]);
    out.extend_from_slice(payload[1]);
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(ends: [&str; 2]) -> Head {
        let [source, target] = ends.map(|end| end.parse().expect("an address"));
        let (seq, ack) = (0xfedc_ba98, 0x0123_4567);
        Head { source, target, seq, ack, control: SYN | ACK, window: 0xabcd, mss: None, scale: None }
    }

    fn read(packet: &[u8], is_verified: bool) -> Option<(Head, Vec<u8>)> {
        let (header, body) = ip::parse(packet)?;
        let (head, payload) = parse(packet, &header, body, is_verified)?;
        Some((head, packet[payload].to_vec()))
    }

    const ENDS: [[&str; 2]; 2] = [["198.19.0.1:1024", "10.0.0.1:80"], ["[fd00::1]:65535", "[fd00::2]:9001"]];

    #[test]
    fn a_segment_survives_the_round_trip() {
        for ends in ENDS {
            for (mss, scale) in [(None, None), (Some(1460), None), (None, Some(7)), (Some(1), Some(0))] {
                let head = Head { mss, scale, ..head(ends) };
                let mut packet = Vec::new();
                write(&mut packet, &head, [b"in two", b" parts"]);
                assert_eq!(read(&packet, false), Some((head, b"in two parts".to_vec())));
            }
        }
    }

    #[test]
    fn a_changed_bit_of_a_segment_is_noticed() {
        for ends in ENDS {
            let mut packet = Vec::new();
            write(&mut packet, &head(ends), [b"odd", b""]);
            let segment_at = packet.len() - LEN - 3;
            for bit in 8 * segment_at..8 * packet.len() {
                packet[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read(&packet, false), None, "bit {bit}");
                packet[bit / 8] ^= 1 << (bit % 8);
            }
            packet[segment_at + 16] ^= 1;
            assert!(read(&packet, true).is_some(), "a checksum that the device vouches for is not looked at");
        }
    }

    #[test]
    fn options_are_read_up_to_the_first_that_is_malformed() {
        let read = |options: &[u8]| {
            let mut head = head(ENDS[0]);
            read_options(options, &mut head);
            (head.mss, head.scale)
        };
        assert_eq!(read(&[1, 2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 9, 0, 2, 4, 0, 1]), (Some(1460), Some(9)));
        assert_eq!(read(&[3, 3, 200]), (None, Some(SCALE_MAX)));
        for malformed in [&[2, 0][..], &[2, 1], &[2, 4, 5], &[2], &[8, 10, 0, 0], &[2, 3, 5, 3, 3, 1]] {
            assert_eq!(read(malformed).0, None, "{malformed:?}");
        }
    }
}
