//! A device that makes checksums and segments: packets of several of them, out and in.

use super::*;

/// A connection over such a device, to a server that takes 100 bytes with each segment, and a window of these.
fn open(server: u16, window: u16) -> Bench {
    let mut bench = Bench::open_with(Config { has_offloads: true, ..config(10_000) }, server);
    bench.window = window;
    bench.peer(ACK, 0, 0, b"");
    bench
}

/// How long the segments of each packet since the last time are, or zero for one that is not to be divided.
fn divisions(bench: &mut Bench) -> Vec<u16> {
    bench.stack.flush();
    let divisions = bench.stack.packets().map(|packet| u16::from_ne_bytes([packet[4], packet[5]])).collect();
    bench.stack.clear_packets();
    divisions
}

impl Bench {
    /// A segment of the server with a checksum that is wrong, behind these flags of the device.
    fn peer_unsummed(&mut self, flags: u8, at: i32, payload: &[u8]) {
        let head = self.head(ACK, SERVER_ISS.wrapping_add(1).wrapping_add_signed(at), self.base);
        let mut bytes = vec![0; OFFLOAD_LEN];
        bytes[0] = flags;
        segment::write(&mut bytes, &head, [payload, b""]);
        let checksum_at = bytes.len() - payload.len() - 4;
        bytes[checksum_at] ^= 1;
        self.stack.input(&mut bytes, self.now_ns, &mut self.log);
    }
}

#[test]
fn what_the_window_holds_goes_out_as_one_packet() {
    for server in [0, 1] {
        let mut bench = open(server, 2000);
        bench.send(&[7; 950]);
        assert_eq!(bench.data(), [(0, 950)]);
        bench.send(&[7; 20]);
        assert_eq!(divisions(&mut bench), [0], "what is less than a segment is not to be divided");
        bench.peer(ACK, 0, 970, b"");
        bench.send(&[7; 1850]);
        assert_eq!(divisions(&mut bench), [100], "it begins anew with ten segments");
        bench.peer(ACK, 0, 1970, b"");
        assert_eq!(bench.data(), [(1970, 850)], "and goes on with what is left");
        bench.finish();
        bench.peer(ACK, 0, 2820, b"");
        assert_eq!(bench.controls(), [(ACK | FIN, 2820, 0)]);
        assert_eq!(bench.stack.counters().repeated, 0);
    }
}

#[test]
fn what_was_lost_of_it_is_sent_again_segment_by_segment() {
    let mut bench = open(0, 2000);
    bench.send(&[7; 1000]);
    assert_eq!(bench.data(), [(0, 1000)]);
    for _ in 0..3 {
        bench.peer(ACK, 0, 300, b"");
    }
    assert!(bench.data().is_empty(), "one that is new, and two duplicates");
    bench.peer(ACK, 0, 300, b"");
    assert_eq!(bench.data(), [(300, 100)]);
    bench.peer(ACK, 0, 500, b"");
    assert_eq!(bench.data(), [(500, 100)], "the next hole");
    bench.wait();
    assert_eq!(bench.data(), [(500, 100)], "behind a timeout, too");
    bench.peer(ACK, 0, 600, b"");
    assert_eq!(bench.data(), [(600, 200)], "the window opens again");
    bench.peer(ACK, 0, 1000, b"");
    assert_eq!((bench.stack.active(), bench.stack.counters().repeated), (0, 5));
}

#[test]
fn a_path_of_smaller_packets_has_what_is_in_flight_divided_again() {
    let mut bench = Bench::opening_with(Config { has_offloads: true, ..config(10_000) }, 0);
    bench.window = u16::MAX;
    let head = Head { mss: Some(1460), scale: Some(0), ..bench.head(SYN | ACK, SERVER_ISS, bench.base) };
    bench.give(&head, b"");
    bench.sent();
    bench.send(&[7; 5000]);
    assert_eq!(divisions(&mut bench), [1460]);
    let report =
        Report { error: Error::TooBig { mtu: 1000 }, source: bench.client, target: bench.server, seq: bench.base };
    let mut bytes = [vec![0; OFFLOAD_LEN], icmp::write(&report)].concat();
    bench.stack.input(&mut bytes, 0, &mut bench.log);
    assert_eq!(divisions(&mut bench), [960]);
}

#[test]
fn packets_of_several_segments_are_taken_like_long_ones() {
    let mut bench = open(0, 1000);
    let long = vec![5; 60_000];
    bench.peer(ACK, 0, 0, &long);
    assert_eq!((bench.events(), bench.controls()), (vec![received(&long)], vec![(ACK, 0, 60_000)]));
    bench.peer(ACK, 61_000, 0, &[7; 2000]);
    assert_eq!(bench.controls(), [(ACK, 0, 60_000)], "one that is missing");
    bench.peer(ACK, 59_000, 0, &[6; 3000]);
    assert_eq!(bench.events(), [received(&[6; 2000]), received(&[7; 1000])]);
}

#[test]
fn a_checksum_is_looked_at_unless_the_device_vouches_for_it() {
    let mut bench = open(0, 1000);
    bench.peer_unsummed(0, 0, b"damaged");
    assert_eq!((bench.events(), bench.stack.counters().unread), (vec![], 1));
    bench.peer_unsummed(1, 0, b"still to be made");
    bench.peer_unsummed(2, 16, b"verified");
    assert_eq!(bench.events(), [received(b"still to be made"), received(b"verified")]);
    bench.stack.input(&mut [0; OFFLOAD_LEN - 1], 0, &mut bench.log);
    bench.stack.input(&mut [0; OFFLOAD_LEN], 0, &mut bench.log);
    assert_eq!(bench.stack.counters().unread, 3, "cut short");
}
