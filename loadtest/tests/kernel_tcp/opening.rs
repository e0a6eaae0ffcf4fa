//! How connections open, or do not.

use std::net::SocketAddr;

use ringload::stack::Failure;
use socket2::{Domain, SockRef, Socket, Type};

use super::bench::{
    Bench, CLOSED, ESTABLISHED, End, FORBIDDEN, SILENT, SYN_RECV, SYN_SENT, Talk, UNREACHABLE, V4, V6, kernel_states,
    pattern, reset, with_bench,
};

#[test]
fn a_listening_port_takes_connections_of_both_families() {
    with_bench(|bench| {
        for (key, server) in [(0, V4), (1, V6)] {
            let mut talk = bench.open(key, server);
            (talk.of_client, talk.of_server) = (pattern(1, 5000), pattern(2, 5000));
            talk.exchange(bench);
            drop(talk.socket);
            assert!(!bench.stack.close(key, bench.now_ns()));
            assert_eq!(bench.end(key), End::Closed);
        }
    });
}

#[test]
fn a_closed_port_refuses() {
    with_bench(|bench| {
        for (key, server) in CLOSED.into_iter().enumerate() {
            bench.connect(key as u32, server);
            assert_eq!(bench.end(key as u32), End::Failed(Failure::Refused));
        }
    });
}

#[test]
fn a_silent_address_is_given_up_after_two_minutes() {
    with_bench(|bench| {
        bench.haste = 50;
        bench.connect(0, SILENT);
        assert_eq!(bench.end(0), End::Failed(Failure::TimedOut));
        assert_eq!(bench.stack.counters().repeated, 6);
        assert!(bench.now_ns() > 120_000_000_000);
    });
}

#[test]
fn errors_of_routers_are_told() {
    with_bench(|bench| {
        for (key, server) in [UNREACHABLE[0], UNREACHABLE[1], FORBIDDEN].into_iter().enumerate() {
            bench.connect(key as u32, server);
            assert_eq!(bench.end(key as u32), End::Failed(Failure::Unreachable), "server {server}");
        }
    });
}

#[test]
fn lost_packets_of_the_handshake_come_again() {
    with_bench(|bench| {
        bench.link.lose_to_kernel = 1; // the SYN
        let talk = bench.open(0, V4);
        assert_eq!(bench.stack.counters().repeated, 1);
        bench.link.lose_to_stack = 1; // the SYN and its acknowledgement
        let other = bench.open(1, V6);
        // The acknowledgement of that: the kernel waits for it, and asks again.
        bench.is_deaf = true;
        bench.connect(2, V4);
        bench.until_kernel_has(&[ESTABLISHED, ESTABLISHED, SYN_RECV]);
        bench.link.lose_to_kernel = 1;
        bench.is_deaf = false;
        let last = Talk::new(2, bench.accept(V4));
        for mut talk in [talk, other, last] {
            (talk.of_client, talk.of_server) = (pattern(3, 100), pattern(4, 100));
            talk.exchange(bench);
        }
    });
}

/// While nothing is accepted the kernel has no room. It answers with SYN cookies, and drops the acknowledgements that would open
/// further connections. What these clients send comes again until there is room.
#[test]
fn a_backlog_that_is_full_makes_connections_wait() {
    with_bench(|bench| {
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "1").expect("a setting of the namespace");
        // To listen again only changes the backlog.
        SockRef::from(&bench.listeners[0]).listen(1).expect("a server");
        for key in 0..5 {
            bench.connect(key, V4);
        }
        bench.until("open", |bench| (0..5).all(|key| bench.told(key).is_open).then_some(()));
        bench.until_kernel_has(&[ESTABLISHED, ESTABLISHED]);
        for key in 0..5 {
            bench.stack.send(key, &[b"hello"], bench.now_ns());
        }
        bench.until("sent again", |bench| (bench.stack.counters().repeated >= 3).then_some(()));
        for _ in 0..5 {
            let mut talk = Talk::new(0, bench.accept(V4));
            bench.until("heard", |_| {
                talk.read();
                (talk.heard == b"hello").then_some(())
            });
        }
        bench.until("acknowledged", |bench| (bench.stack.active() == 0).then_some(()));
    });
}

/// A socket of the kernel that connects to the stack while that connects to it: the client's SYN has left, and has not arrived.
fn crossing(bench: &mut Bench) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("a socket");
    socket.set_reuse_address(true).expect("a socket");
    // The server's port without one that listens: its connections come from there.
    let server = bench.listeners[0].local_addr().expect("a socket");
    bench.listeners[0] = std::net::TcpListener::bind("127.0.0.1:0").expect("a server");
    socket.bind(&server.into()).expect("a port");
    bench.link.holds_back = true;
    bench.connect(0, V4);
    let port = {
        let syn = bench.stack.packets().next().expect("a SYN");
        u16::from_be_bytes([syn[20], syn[21]])
    };
    let client = SocketAddr::new("198.19.0.2".parse().expect("an address"), port);
    let error = socket.connect(&client.into()).expect_err("it takes a while");
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    bench.until_kernel_has(&[SYN_SENT]);
    socket
}

#[test]
fn both_sides_may_open_at_the_same_time() {
    with_bench(|bench| {
        let socket = crossing(bench);
        bench.turn(); // the kernel's SYN has arrived
        bench.link.holds_back = false;
        bench.until("open", |bench| bench.told(0).is_open.then_some(()));
        bench.until_kernel_has(&[ESTABLISHED]);
        let mut talk = Talk::new(0, socket.into());
        (talk.of_client, talk.of_server) = (pattern(5, 20_000), pattern(6, 20_000));
        talk.exchange(bench);
        drop(talk.socket);
        bench.until("closed", |bench| bench.told(0).has_finished.then_some(()));
        bench.stack.close(0, bench.now_ns());
        assert_eq!(bench.end(0), End::Closed);
    });
}

#[test]
fn a_reset_ends_a_connection_that_both_sides_open() {
    with_bench(|bench| {
        let socket = crossing(bench);
        bench.turn();
        bench.is_deaf = true;
        bench.link.release(1); // the SYN alone
        bench.until_kernel_has(&[SYN_RECV]);
        let socket = socket.into();
        reset(&socket);
        drop(socket);
        bench.link.lose_to_stack = 1; // the kernel's acknowledgement of the SYN, ahead of the reset
        bench.is_deaf = false;
        assert_eq!(bench.end(0), End::Failed(Failure::Refused));
        assert!(kernel_states().is_empty());
    });
}

#[test]
fn a_connection_that_opens_can_be_let_go() {
    with_bench(|bench| {
        bench.is_deaf = true;
        bench.connect(0, V4);
        bench.until_kernel_has(&[SYN_RECV]);
        assert!(bench.stack.close(0, bench.now_ns()));
        bench.is_deaf = false;
        // The answer is for no connection any more: a reset follows.
        bench.until_kernel_has(&[]);
        assert_eq!(bench.stack.counters().strays, 1);
    });
}
