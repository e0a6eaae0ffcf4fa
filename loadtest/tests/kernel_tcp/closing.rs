//! How connections close in order, from either side and from both, and open again where they were.

use std::net::Shutdown;

use super::bench::{
    Bench, CLOSE_WAIT, CLOSING, ESTABLISHED, End, FIN_WAIT2, TIME_WAIT, V4, V6, kernel_states, pattern, with_bench,
    within,
};

/// More than a window and than what a socket keeps, so that it is sent in many pieces.
const MUCH: usize = 400_000;

#[test]
fn the_client_closes_first_and_the_server_goes_on() {
    for server in [V4, V6] {
        with_bench(move |bench| {
            let mut talk = bench.open(0, server);
            talk.of_client = pattern(1, MUCH);
            bench.until("sent", |bench| {
                talk.read();
                talk.send(bench).then_some(())
            });
            bench.finish(0); // behind what is on its way
            bench.until("heard", |_| {
                talk.read();
                talk.has_heard_all.then_some(())
            });
            bench.until_kernel_has(&[CLOSE_WAIT]);
            talk.of_server = pattern(2, MUCH);
            talk.exchange(bench);
            talk.socket.shutdown(Shutdown::Both).expect("a socket");
            assert_eq!(bench.end(0), End::Closed);
            bench.until_kernel_has(&[]);
            assert_eq!(bench.stack.active(), 0);
        });
    }
}

#[test]
fn the_server_closes_first_and_the_client_goes_on() {
    for server in [V4, V6] {
        with_bench(move |bench| {
            let mut talk = bench.open(0, server);
            talk.of_server = pattern(1, MUCH);
            bench.until("written", |_| talk.write().then_some(()));
            talk.socket.shutdown(Shutdown::Write).expect("a socket"); // behind what is on its way
            bench.until("told", |bench| bench.told(0).has_finished.then_some(()));
            bench.until_kernel_has(&[FIN_WAIT2]);
            talk.of_client = pattern(2, MUCH);
            talk.exchange(bench);
            assert!(!bench.stack.close(0, bench.now_ns()));
            assert_eq!(bench.end(0), End::Closed);
            bench.until_kernel_has(&[TIME_WAIT]);
            assert_eq!(bench.stack.active(), 0);
        });
    }
}

/// Data and FIN of both sides are on their way at the same time.
#[test]
fn both_sides_close_at_the_same_time() {
    for len in [0, 6000] {
        with_bench(move |bench| {
            let mut talk = bench.open(0, V4);
            bench.until_kernel_has(&[ESTABLISHED]);
            bench.is_deaf = true;
            (talk.of_client, talk.of_server) = (pattern(1, len), pattern(2, len));
            assert!(talk.write() && talk.send(bench));
            talk.socket.shutdown(Shutdown::Write).expect("a socket");
            bench.finish(0);
            bench.until_kernel_has(&[CLOSING]);
            bench.is_deaf = false;
            assert_eq!(bench.end(0), End::Closed);
            bench.until("heard", |_| {
                talk.read();
                talk.has_heard_all.then_some(())
            });
            talk.check(bench);
            bench.until_kernel_has(&[TIME_WAIT]);
        });
    }
}

#[test]
fn lost_fins_and_their_acknowledgements_come_again() {
    with_bench(|bench| {
        // The client's FIN.
        let talk = bench.open(0, V4);
        bench.until_kernel_has(&[ESTABLISHED]);
        bench.link.lose_to_kernel = 1;
        bench.finish(0);
        bench.until_kernel_has(&[CLOSE_WAIT]);
        assert_eq!(bench.stack.counters().repeated, 1);
        // The server's.
        bench.link.lose_to_stack = 1;
        drop(talk.socket);
        assert_eq!(bench.end(0), End::Closed);
        bench.until_kernel_has(&[]);
        // The acknowledgement of the server's, when the client's has been: TIME-WAIT answers in its place.
        let talk = bench.open(1, V4);
        bench.finish(1);
        bench.until_kernel_has(&[CLOSE_WAIT]);
        bench.until("acknowledged", |bench| (bench.stack.active() == 0).then_some(()));
        bench.link.lose_to_kernel = 1;
        drop(talk.socket);
        assert_eq!(bench.end(1), End::Closed);
        bench.until_kernel_has(&[]);
        assert_eq!(bench.stack.counters().strays, 0);
    });
}

#[test]
fn many_close_in_any_order() {
    within(|| {
        let mut bench = Bench::new(60);
        let talks: Vec<_> = (0..60).map(|key| bench.open(key, [V4, V6][key as usize % 2])).collect();
        let mut sockets = Vec::new();
        for mut talk in talks {
            (talk.of_client, talk.of_server) = (pattern(talk.key, 3000), pattern(talk.key + 1, 2000));
            assert!(talk.send(&mut bench) && talk.write());
            match talk.key % 3 {
                0 => bench.finish(talk.key),
                1 => talk.socket.shutdown(Shutdown::Write).expect("a socket"),
                _ => {
                    bench.finish(talk.key);
                    talk.socket.shutdown(Shutdown::Write).expect("a socket");
                }
            }
            sockets.push(talk);
        }
        bench.until("closed", |bench| {
            for talk in &mut sockets {
                talk.read();
                if talk.has_heard_all {
                    let _ = talk.socket.shutdown(Shutdown::Write); // some are
                }
                if bench.told(talk.key).has_finished {
                    bench.finish(talk.key);
                }
            }
            (0..60).all(|key| bench.told(key).end == Some(End::Closed)).then_some(())
        });
        for talk in &mut sockets {
            talk.read();
            talk.check(&mut bench);
        }
        bench.until("over", |_| kernel_states().iter().all(|&state| state == TIME_WAIT).then_some(()));
        assert_eq!((bench.stack.active(), bench.stack.early_bytes()), (0, 0));
    });
}

/// A connection that has the addresses and ports of the one before, whose end a TIME-WAIT remembers: on this side, then on the
/// kernel's. There it may be that the new one's sequence numbers come before the old one's: the kernel acknowledges the old
/// ones, a reset ends the TIME-WAIT, and the SYN comes again.
#[test]
fn a_flow_is_used_again_in_time_wait() {
    within(|| {
        let mut bench = Bench::new(40_000);
        for (round, len) in [100, 100, 2_000_000, 100].into_iter().enumerate() {
            let mut talk = bench.open(0, V4);
            (talk.of_client, talk.of_server) = (pattern(1, len), pattern(2, 3000));
            talk.exchange(&mut bench);
            let port = talk.socket.peer_addr().expect("a socket").port();
            assert_eq!(port, 1024, "there is one flow only");
            if round == 0 {
                bench.finish(0);
                bench.until_kernel_has(&[CLOSE_WAIT]);
                drop(talk.socket);
                assert_eq!(bench.end(0), End::Closed);
                bench.until_kernel_has(&[]);
            } else {
                drop(talk.socket);
                bench.until("told", |bench| bench.told(0).has_finished.then_some(()));
                bench.stack.close(0, bench.now_ns());
                assert_eq!(bench.end(0), End::Closed);
                bench.until_kernel_has(&[TIME_WAIT]);
            }
        }
    });
}
