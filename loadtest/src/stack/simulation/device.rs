//! A device between the stack and the relay, which makes checksums and segments: on bytes alone, without the stack's formats.

use super::Random;

/// Bytes of the header in front of each packet.
const HEADER: usize = 10;

/// Where things are in a TCP header.
const SEQ: usize = 4;
const CONTROL: usize = 13;
const CHECKSUM: usize = 16;

const FIN_AND_PSH: u8 = 1 | 8;

/// The segments of a packet that the stack has written, complete.
pub(super) fn divide(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (header, packet) = bytes.split_at(HEADER);
    let numbers: Vec<_> = header[2..].chunks(2).map(|it| usize::from(u16::from_ne_bytes([it[0], it[1]]))).collect();
    let &[headers_len, segment_len, sum_start, sum_offset] = &numbers[..] else { panic!("four numbers") };
    let is_v4 = packet[0] >> 4 == 4;
    let ip_len = if is_v4 { 20 } else { 40 };
    assert_eq!((header[0], sum_start, sum_offset), (1, ip_len, CHECKSUM), "TCP, whose checksum is to be made");
    assert_eq!(packet.len(), said_len(packet), "the IP header tells the length of all");
    let (headers, payload) = packet.split_at(headers_len);
    assert_eq!(
        usize::from(headers[ip_len + 12] >> 4) * 4,
        headers_len - ip_len,
        "headers end where the payload begins"
    );
    if header[1] == 0 {
        return vec![complete(packet.to_vec(), packet.len(), ip_len)];
    }
    assert_eq!(header[1], if is_v4 { 1 } else { 4 });
    assert!(payload.len() > segment_len, "several segments");
    let count = payload.len().div_ceil(segment_len);
    let segment = |(index, part): (usize, &[u8])| {
        let mut segment = [headers, part].concat();
        let len = segment.len();
        let tcp = &mut segment[ip_len..];
        let seq =
            u32::from_be_bytes(tcp[SEQ..SEQ + 4].try_into().expect("four")).wrapping_add((index * segment_len) as u32);
        tcp[SEQ..SEQ + 4].copy_from_slice(&seq.to_be_bytes());
        if index + 1 < count {
            tcp[CONTROL] &= !FIN_AND_PSH;
        }
        if is_v4 {
            segment[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            segment[10..12].fill(0);
            let checksum = !sum(&segment[..ip_len]);
            segment[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            segment[4..6].copy_from_slice(&((len - ip_len) as u16).to_be_bytes());
        }
        complete(segment, packet.len(), ip_len)
    };
    payload.chunks(segment_len).enumerate().map(segment).collect()
}

/// A packet with its header as it is read: with its checksum verified, left out, or yet to be looked at.
pub(super) fn receive(mut packet: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let mut header = vec![0; HEADER];
    let ip_len = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let is_tcp = packet.get(if ip_len == 20 { 9 } else { 6 }) == Some(&6);
    if is_tcp && packet.len() > ip_len + CHECKSUM + 2 && said_len(&packet) == packet.len() && is_intact(&packet, ip_len)
    {
        header[0] = random.below(3) as u8; // not verified; still to be made; verified
        if header[0] > 0 {
            packet[ip_len + CHECKSUM] ^= 0x55;
        }
    }
    header.extend(packet);
    header
}

/// Makes the checksum of a segment, which has the sum over the pseudo header of a packet of another length.
fn complete(mut segment: Vec<u8>, packet_len: usize, ip_len: usize) -> Vec<u8> {
    let shorter = (packet_len - segment.len()) as u16;
    let tcp = &mut segment[ip_len..];
    // One's complement: to subtract is to add the complement.
    let checksum = !sum(&[&sum(tcp).to_be_bytes()[..], &(!shorter).to_be_bytes()].concat());
    tcp[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    segment
}

fn is_intact(packet: &[u8], ip_len: usize) -> bool {
    let addresses = if ip_len == 20 { &packet[12..20] } else { &packet[8..40] };
    let rest = [0, 6].into_iter().chain(((packet.len() - ip_len) as u16).to_be_bytes());
    let whole: Vec<u8> = addresses.iter().copied().chain(rest).chain(packet[ip_len..].iter().copied()).collect();
    sum(&whole) == 0xffff && (ip_len == 40 || sum(&packet[..ip_len]) == 0xffff)
}

/// How long a packet says that it is.
fn said_len(packet: &[u8]) -> usize {
    let number = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 { number(2) } else { 40 + number(4) }
}

/// The one's complement sum of all 16-bit words.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
