//! Checksums and segments that are left to the device, as ringload has it (virtio-net's header, `TUNSETOFFLOAD`).

use super::bench::{Bench, V4, V6, pattern, within};

/// Many packets of the largest length.
const MUCH: usize = 6_000_000;

/// Packets of several segments that so much has at least, some of them large.
const LARGE: usize = MUCH / 65_536;

#[test]
fn packets_of_several_segments_go_both_ways() {
    within(|| {
        let mut bench = Bench::with_offloads(8);
        for (key, server) in [(0, V4), (1, V6)] {
            let before = bench.link.large;
            let mut talk = bench.open(key, server);
            (talk.of_client, talk.of_server) = (pattern(1, MUCH), pattern(2, MUCH));
            talk.exchange(&mut bench);
            bench.until("acknowledged", |bench| (bench.stack.active() == 0).then_some(()));
            let large = [0, 1].map(|to| bench.link.large[to] - before[to]);
            assert!(large.iter().all(|&count| count >= LARGE), "server {server}: {large:?}");
        }
        // They come from this machine.
        assert_eq!(bench.link.unverified_to_stack, 0);
    });
}

/// On the link behind the router nothing is longer than its MTU, and the server's kernel takes what has the right checksum. What comes
/// from there nobody has checked before the stack does.
#[test]
fn the_kernel_makes_checksums_and_segments_where_packets_leave_it() {
    within(|| {
        let mut bench = Bench::with_offloads_and_a_router(8);
        for (key, server) in [(0, V4), (1, V6)] {
            let (before, unverified) = (bench.link.large[0], bench.link.unverified_to_stack);
            let mut talk = bench.open(key, server);
            (talk.of_client, talk.of_server) = (pattern(1, MUCH), pattern(2, MUCH));
            talk.exchange(&mut bench);
            assert!(bench.link.large[0] - before >= LARGE, "server {server}");
            assert!(bench.link.unverified_to_stack - unverified > MUCH / 1500, "server {server}");
        }
        let far = bench.far.as_ref().expect("a router");
        assert!(far.packets > 2 * MUCH / 1500 && far.longest == 1500, "{} packets, {} bytes", far.packets, far.longest);
    });
}

/// A packet that is lost takes all its segments along.
#[test]
fn lost_packets_of_several_segments_come_again() {
    for server in [V4, V6] {
        within(move || {
            let mut bench = Bench::with_offloads(8);
            let mut talk = bench.open(0, server);
            (talk.of_client, talk.of_server) = (pattern(1, MUCH), pattern(2, MUCH));
            bench.link.spares_bare = true;
            for round in 1..6 {
                bench.until("under way", |bench| {
                    talk.send(bench);
                    talk.write();
                    talk.read();
                    let enough = round * MUCH / 10;
                    (bench.told(0).input.len() > enough && talk.heard.len() > enough).then_some(())
                });
                (bench.link.lose_to_kernel, bench.link.lose_to_stack) = (1, 1);
            }
            talk.exchange(&mut bench);
            let counters = *bench.stack.counters();
            assert!(counters.early > 0 && counters.repeated > 0, "{counters:?}");
            assert_eq!(bench.stack.early_bytes(), 0);
        });
    }
}
