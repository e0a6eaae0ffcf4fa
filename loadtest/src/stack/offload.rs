//! What a packet leaves to the device, or the device to its reader: the checksum, and the division into segments. In front of a
//! packet a header says so, virtio-net's (`struct virtio_net_hdr` of `linux/virtio_net.h`, in the machine's byte order).

use super::segment::{self, Head};

/// Bytes of the header.
pub const LEN: usize = 10;

/// Flags: the checksum is still to be made; it was verified.
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

/// Kinds of division (`gso_type`).
const NONE: u8 = 0;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;

/// Payload that a packet of several segments has at most: both families' lengths have 16 bits, and count headers.
const PAYLOAD_MAX: usize = u16::MAX as usize - 60;

/// What the header says of a packet that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    flags: u8,
    kind: u8,
    /// Bytes of the headers in front of the payload, which each segment gets.
    headers_len: u16,
    /// Payload bytes of a segment.
    segment_len: u16,
    /// From where on the checksum counts, and how far behind that its place is.
    sum_start: u16,
    sum_offset: u16,
}

impl Header {
    fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        (bytes[0], bytes[1]) = (self.flags, self.kind);
        let numbers = [self.headers_len, self.segment_len, self.sum_start, self.sum_offset];
        for (to, number) in bytes[2..].chunks_exact_mut(2).zip(numbers) {
            to.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }
}

/// Takes the header off a packet that was read. Returns whether its TCP checksum need not be looked at, and the packet; this may
/// be of several segments, which are like a long one. `None`: it is cut short.
pub(super) fn strip(bytes: &mut [u8]) -> Option<(bool, &mut [u8])> {
    let (header, packet) = bytes.split_first_chunk_mut::<LEN>()?;
    // One whose checksum is still to be made has never left the machine.
    Some((header[0] & (NEEDS_CSUM | DATA_VALID) != 0, packet))
}

/// Adds header and packet to `out`: the checksum is left out, and a payload of more than `mss` bytes is left in one piece.
pub(super) fn write(out: &mut Vec<u8>, head: &Head, payload: [&[u8]; 2], mss: u16) {
    let header_at = out.len();
    let packet_at = header_at + LEN;
    out.extend_from_slice(&[0; LEN]);
    let segment_at = segment::write_unsummed(out, head, payload);
    let payload_len = payload[0].len() + payload[1].len();
    let is_divided = payload_len > usize::from(mss);
    let header = Header {
        flags: NEEDS_CSUM,
        kind: match (is_divided, head.target.is_ipv4()) {
            (false, _) => NONE,
            (true, true) => TCP_V4,
            (true, false) => TCP_V6,
        },
        headers_len: (out.len() - packet_at - payload_len) as u16,
        segment_len: if is_divided { mss } else { 0 },
        sum_start: (segment_at - packet_at) as u16,
        sum_offset: segment::CHECKSUM_AT as u16,
    };
    out[header_at..packet_at].copy_from_slice(&header.to_bytes());
}

/// Payload bytes of a packet at most: of full segments, if more than one fits.
pub(super) fn payload_max(mss: u16) -> usize {
    let mss = usize::from(mss).max(1);
    (PAYLOAD_MAX - PAYLOAD_MAX % mss).max(mss)
}

#[cfg(test)]
mod tests {
    use super::super::segment::{ACK, PSH};
    use super::*;

    const ENDS: [[&str; 2]; 2] = [["198.19.0.1:1024", "10.0.0.1:80"], ["[fd00::1]:65535", "[fd00::2]:9001"]];

    fn head(ends: [&str; 2]) -> Head {
        let [source, target] = ends.map(|end| end.parse().expect("an address"));
        Head { source, target, seq: 7, ack: 8, control: ACK | PSH, window: 9, mss: None, scale: None }
    }

    fn numbers(header: &[u8]) -> Vec<u16> {
        header[2..LEN].chunks_exact(2).map(|it| u16::from_ne_bytes([it[0], it[1]])).collect()
    }

    #[test]
    fn the_header_says_where_headers_end_and_where_the_checksum_goes() {
        for (ends, kind, ip_len) in [(ENDS[0], 1, 20), (ENDS[1], 4, 40)] {
            let mut out = b"before".to_vec();
            write(&mut out, &head(ends), [&[1; 60], &[2; 40]], 100);
            let header = &out[6..16];
            assert_eq!((&header[..2], numbers(header)), (&[1, 0][..], vec![ip_len + 20, 0, ip_len, 16]), "one segment");
            let mut out = Vec::new();
            write(&mut out, &head(ends), [&[1; 60], &[2; 41]], 100);
            assert_eq!((&out[..2], numbers(&out)), (&[1, kind][..], vec![ip_len + 20, 100, ip_len, 16]), "two");
            let mut out = Vec::new();
            write(&mut out, &Head { mss: Some(100), scale: Some(2), ..head(ends) }, [b"", b""], 100);
            assert_eq!((&out[..2], numbers(&out)), (&[1, 0][..], vec![ip_len + 28, 0, ip_len, 16]), "with options");
        }
    }

    #[test]
    fn a_device_that_sums_up_from_there_makes_the_checksum() {
        for ends in ENDS {
            for payload in [[&b""[..], b""], [b"odd", b""], [b"odd", b"even"], [&[255; 999], &[254; 77]]] {
                let (mut whole, mut left_out) = (Vec::new(), Vec::new());
                segment::write(&mut whole, &head(ends), payload);
                write(&mut left_out, &head(ends), payload, 100);
                let (start, offset) = (usize::from(numbers(&left_out)[2]), usize::from(numbers(&left_out)[3]));
                let packet = &mut left_out[LEN..];
                // One word after the other, as the standard has it (RFC 1071 section 4.1).
                let mut sum = 0_u32;
                for word in packet[start..].chunks(2) {
                    sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |&it| u32::from(it));
                    sum = (sum & 0xffff) + (sum >> 16);
                }
                packet[start + offset..start + offset + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
                assert!(packet == &whole[..], "{ends:?}: {packet:?}, {whole:?}");
            }
        }
    }

    #[test]
    fn what_was_read_says_whether_it_was_verified() {
        let read = |flags: u8| strip(&mut [flags, 1, 0, 0, 0, 0, 0, 0, 0, 0, 5, 6]).map(|(is, it)| (is, it.to_vec()));
        assert_eq!(read(0), Some((false, vec![5, 6])), "its checksum was not checked");
        assert_eq!((read(NEEDS_CSUM), read(DATA_VALID)), (Some((true, vec![5, 6])), Some((true, vec![5, 6]))));
        assert_eq!(read(4), Some((false, vec![5, 6])), "another flag");
        assert_eq!(strip(&mut [0; LEN - 1]), None);
        assert!(strip(&mut [0; LEN]).is_some_and(|(_, packet)| packet.is_empty()));
    }

    #[test]
    fn a_packet_has_as_many_full_segments_as_its_length_can_say() {
        for (mss, most) in [(1460, 44 * 1460), (1440, 45 * 1440), (48, 1364 * 48), (40_000, 40_000), (65_495, 65_495)] {
            assert_eq!(payload_max(mss), most);
        }
    }
}
