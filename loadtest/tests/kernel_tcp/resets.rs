//! Resets in all states, from both sides.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use ringload::stack::Failure;

use super::bench::{Bench, CLOSE_WAIT, ESTABLISHED, End, FIN_WAIT2, Talk, V4, V6, kernel_states, pattern, with_bench};

/// The state in which the client is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
}

/// Brings a connection there. SYN-SENT and SYN-RECEIVED are among the tests of opening.
fn bring(bench: &mut Bench, state: In) -> Talk {
    let talk = bench.open(0, V4);
    bench.until_kernel_has(&[ESTABLISHED]);
    if matches!(state, In::CloseWait | In::LastAck) {
        talk.socket.shutdown(Shutdown::Write).expect("a socket");
        bench.until("told", |bench| bench.told(0).has_finished.then_some(()));
        bench.until_kernel_has(&[FIN_WAIT2]);
    }
    if matches!(state, In::FinWait1 | In::Closing | In::LastAck) {
        bench.link.holds_back = true;
    }
    if !matches!(state, In::Established | In::CloseWait) {
        bench.finish(0);
        bench.turn();
    }
    if state == In::FinWait2 {
        bench.until_kernel_has(&[CLOSE_WAIT]);
        bench.until("acknowledged", |bench| (bench.stack.active() == 0).then_some(()));
    }
    if state == In::Closing {
        talk.socket.shutdown(Shutdown::Write).expect("a socket");
        bench.until("told", |bench| bench.told(0).has_finished.then_some(()));
    }
    talk
}

/// With `SO_LINGER` 0 a socket that is closed is reset.
#[test]
fn the_servers_reset_ends_a_connection_in_every_state() {
    for state in [In::Established, In::FinWait1, In::FinWait2, In::CloseWait, In::Closing, In::LastAck] {
        with_bench(move |bench| {
            bring(bench, state).reset();
            // Where both sides have closed there is nothing to be lost.
            let is_over = matches!(state, In::Closing | In::LastAck);
            let expected = if is_over { End::Closed } else { End::Failed(Failure::Reset) };
            assert_eq!(bench.end(0), expected, "{state:?}");
            bench.link.holds_back = false; // what comes late is for no connection
            bench.until_kernel_has(&[]);
            assert_eq!(bench.stack.active(), 0);
        });
    }
}

#[test]
fn the_clients_reset_ends_a_connection_in_every_state() {
    for state in [In::Established, In::FinWait1, In::FinWait2, In::CloseWait] {
        with_bench(move |bench| {
            let mut talk = bring(bench, state);
            bench.stack.abort(0, bench.now_ns());
            bench.link.holds_back = false;
            bench.until_kernel_has(&[]);
            let error = talk.socket.write(b"x").expect_err("there is no connection");
            let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(kinds.contains(&error.kind()), "{state:?}: {error}");
            assert_eq!(bench.stack.active(), 0, "{state:?}");
        });
    }
}

/// A kernel's socket that is closed before all that has come was read is reset.
#[test]
fn data_that_the_server_has_not_read_resets() {
    with_bench(|bench| {
        for (key, server) in [(0, V4), (1, V6)] {
            let mut talk = bench.open(key, server);
            talk.of_client = pattern(1, 100);
            talk.send(bench);
            bench.until("acknowledged", |bench| (bench.stack.active() == 0).then_some(()));
            drop(talk.socket);
            assert_eq!(bench.end(key), End::Failed(Failure::Reset));
        }
    });
}

/// RFC 5961 section 3: a reset behind data that is lost has not the next sequence number. The challenge is answered with one
/// that has.
#[test]
fn a_reset_behind_what_was_lost_is_challenged() {
    with_bench(|bench| {
        let mut talk = bench.open(0, V4);
        bench.until_kernel_has(&[ESTABLISHED]);
        bench.link.lose_to_stack = 1;
        talk.of_server = pattern(1, 100);
        assert!(talk.write());
        talk.reset();
        assert_eq!(bench.end(0), End::Failed(Failure::Reset));
        assert_eq!((bench.stack.counters().challenges, bench.told(0).input.len()), (1, 0));
    });
}

/// RFC 1122 section 4.2.2.13: nothing takes what comes for a connection that was let go.
#[test]
fn what_the_server_sends_when_it_was_let_go_resets_it() {
    with_bench(|bench| {
        let mut talk = bench.open(0, V4);
        bench.stack.close(0, bench.now_ns());
        bench.until_kernel_has(&[CLOSE_WAIT]);
        assert_eq!(talk.socket.write(b"too late").expect("a socket"), 8);
        assert_eq!(bench.end(0), End::Closed);
        bench.until_kernel_has(&[]);
        let is_error = |result: std::io::Result<usize>| match result {
            Ok(count) => count == 0, // the FIN was read before
            Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        };
        assert!(is_error(talk.socket.read(&mut [0; 10])));
    });
}

/// The kernel's socket is gone, and a packet of the client comes late: it is reset, whatever it says.
#[test]
fn a_server_that_has_forgotten_the_connection_resets_it() {
    with_bench(|bench| {
        let talk = bench.open(0, V4);
        bench.until_kernel_has(&[ESTABLISHED]);
        bench.link.lose_to_stack = 1; // the reset
        talk.reset();
        assert!(kernel_states().is_empty());
        bench.turn();
        assert_eq!(bench.told(0).end, None);
        bench.stack.send(0, &[b"still there?"], bench.now_ns());
        assert_eq!(bench.end(0), End::Failed(Failure::Reset));
    });
}
