//! Streams, and windows that are small, shut or withdrawn.

use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use super::bench::{Bench, ESTABLISHED, V4, V6, kernel_states, pattern, with_bench, within};

#[test]
fn much_goes_both_ways_at_once() {
    within(|| {
        let mut bench = Bench::new(8);
        for (key, server) in [(0, V4), (1, V6)] {
            let mut talk = bench.open(key, server);
            (talk.of_client, talk.of_server) = (pattern(1, 2_000_000), pattern(2, 2_000_000));
            talk.exchange(&mut bench);
            bench.until("acknowledged", |bench| (bench.stack.active() == 0).then_some(()));
        }
    });
}

#[test]
fn a_server_that_does_not_read_is_probed_until_it_does() {
    with_bench(|bench| {
        let mut talk = bench.open(0, V4);
        talk.of_client = pattern(1, 6_000_000);
        bench.until("probed", |bench| {
            talk.send(bench);
            (bench.stack.counters().probes >= 3).then_some(())
        });
        talk.exchange(bench);
    });
}

/// Less room than a segment has: a few hundred bytes at a time.
#[test]
fn a_tiny_receive_buffer_takes_everything_bit_by_bit() {
    for server in [V4, V6] {
        with_bench(move |bench| {
            SockRef::from(&bench.listeners[usize::from(server)]).set_recv_buffer_size(1).expect("a socket");
            let mut talk = bench.open(0, server);
            (talk.of_client, talk.of_server) = (pattern(1, 20_000), pattern(2, 20_000));
            talk.exchange(bench);
        });
    }
}

/// The kernel probes the window of a client that is paused, and keeps what it has.
#[test]
fn a_client_that_is_paused_gets_everything_later() {
    with_bench(|bench| {
        let mut talk = bench.open(0, V4);
        talk.of_server = pattern(1, 3_000_000);
        bench.until("under way", |bench| {
            talk.write();
            (bench.told(0).input.len() > 100_000).then_some(())
        });
        bench.stack.pause(0, true, bench.now_ns());
        let told = bench.told(0).input.len();
        // Two of the kernel's probes, the first after 200 ms at least.
        let begun = Instant::now();
        bench.until("probed", |_| {
            talk.write();
            (begun.elapsed() > Duration::from_millis(700)).then_some(())
        });
        assert_eq!(bench.told(0).input.len(), told, "nothing is told of");
        assert!(talk.written < talk.of_server.len(), "the kernel keeps it");
        bench.stack.pause(0, false, bench.now_ns());
        talk.exchange(bench);
    });
}

#[test]
fn lost_segments_in_the_midst_of_a_stream_are_put_in_place() {
    with_bench(|bench| {
        let mut talk = bench.open(0, V4);
        (talk.of_client, talk.of_server) = (pattern(1, 300_000), pattern(2, 300_000));
        bench.link.spares_bare = true;
        for round in 1..6 {
            bench.until("under way", |bench| {
                talk.send(bench);
                talk.write();
                talk.read();
                (bench.told(0).input.len() > round * 30_000 && talk.heard.len() > round * 30_000).then_some(())
            });
            (bench.link.lose_to_kernel, bench.link.lose_to_stack) = (1, 2);
        }
        talk.exchange(bench);
        let counters = *bench.stack.counters();
        assert!(counters.early > 0 && counters.repeated > 0, "{counters:?}");
        assert_eq!(bench.stack.early_bytes(), 0);
    });
}

/// RFC 6093: urgent data is data.
#[test]
fn urgent_data_is_taken_in_its_place() {
    with_bench(|bench| {
        let mut talk = bench.open(0, V4);
        let socket = SockRef::from(&talk.socket);
        for part in [&b"one "[..], b"two ", b"three"] {
            socket.send_out_of_band(part).expect("a socket");
        }
        bench.until("told", |bench| (bench.told(0).input.len() == 13).then_some(()));
        assert_eq!(bench.told(0).input, b"one two three");
        (talk.of_client, talk.of_server) = (pattern(1, 10), b"one two three".to_vec());
        talk.written = 13;
        talk.exchange(bench);
    });
}

/// An idle connection has nothing but its entry, and answers all the same.
#[test]
fn keep_alives_of_the_server_are_answered() {
    with_bench(|bench| {
        let talks = [(0, V4), (1, V6)].map(|(key, server)| bench.open(key, server));
        for talk in &talks {
            let second = Duration::from_secs(1);
            let often = TcpKeepalive::new().with_time(second).with_interval(second).with_retries(1);
            SockRef::from(&talk.socket).set_tcp_keepalive(&often).expect("a socket");
        }
        let begun = Instant::now();
        bench.until("kept", |_| (begun.elapsed() > Duration::from_millis(3_500)).then_some(()));
        assert_eq!(kernel_states(), [ESTABLISHED, ESTABLISHED]);
        assert_eq!((bench.stack.active(), bench.stack.counters().challenges), (0, 0));
    });
}
