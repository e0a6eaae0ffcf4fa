//! Deadlines: met on time in all circumstances, and never before the client has had its chance.

mod common;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::frames::{CLOSE, FIN, PING, PONG, TEXT, close_frame, frame};
use common::peer::{Peer, UPGRADE, prepare};
use common::server::Server;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// The idle timeout of these servers.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Clocks of two processes are read one after the other.
const EARLY_AT_MOST: Duration = Duration::from_millis(20);
/// A tick, which is at most a quarter of a second, and what a busy machine adds.
const LATE_AT_MOST: Duration = Duration::from_secs(1);

fn start(handshake_timeout: Duration, arguments: &[&str]) -> Server {
    let handshake_timeout = handshake_timeout.as_secs().to_string();
    let timeouts = ["--idle-timeout", "2", "--handshake-timeout", &handshake_timeout];
    Server::start(&[&["--workers", "1"], &timeouts[..], arguments].concat())
}

fn assert_on_time(what: &str, since: Instant, expected: Duration) {
    let elapsed = since.elapsed();
    assert!(elapsed + EARLY_AT_MOST >= expected, "{what}: due after {expected:?}, came after {elapsed:?}");
    assert!(elapsed <= expected + LATE_AT_MOST, "{what}: due after {expected:?}, came after {elapsed:?}");
}

fn expect_ping(peer: &mut Peer) {
    let ping = peer.read_frame();
    assert_eq!(ping.first_byte, FIN | PING, "without a Ping: {ping:?}");
}

/// Answers Pings, so it is never closed.
fn live_idle(server: &Server) {
    let mut peer = server.open();
    for _ in 0..3 {
        let since = Instant::now();
        expect_ping(&mut peer);
        assert_on_time("a Ping", since, TIMEOUT / 2);
        peer.send(frame(FIN | PONG, b""));
    }
    peer.expect_echo(TEXT, "still here");
}

/// Is pinged, and closed when it does not answer.
fn dead_idle(server: &Server) {
    let mut peer = server.open();
    let since = Instant::now();
    expect_ping(&mut peer);
    assert_on_time("a Ping", since, TIMEOUT / 2);
    peer.expect_close(1001);
    assert_on_time("Close 1001", since, TIMEOUT);
}

/// Never sends its whole request.
fn half_a_request(server: &Server, timeout: Duration) {
    let since = Instant::now();
    let mut peer = server.connect();
    peer.send(&UPGRADE[..20]);
    let _ = peer.read_to_end();
    assert_on_time("the end of half a request", since, timeout);
}

/// Some of each kind, at different times within a tick.
fn assert_deadlines_are_met(server: &Server, handshake_timeout: Duration) {
    thread::scope(|scope| {
        for index in 0..24 {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(60) * index); // their phase is what differs
                match index % 3 {
                    0 => live_idle(server),
                    1 => dead_idle(server),
                    _ => half_a_request(server, handshake_timeout),
                }
            });
        }
    });
}

#[test]
fn deadlines_are_met() {
    assert_deadlines_are_met(&start(TIMEOUT, &[]), TIMEOUT);
}

/// Connections that there once were.
const PEAK: usize = 16_000;
/// Longer than it takes to make them.
const OF_A_CROWD: Duration = Duration::from_secs(6);

/// A table that has been large is not looked through for a few connections.
#[test]
fn deadlines_are_met_after_a_peak_of_connections() {
    let server = start(OF_A_CROWD, &["--max-connections", &(PEAK + 100).to_string()]);
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
    let crowd: Vec<TcpStream> = (0..PEAK).map(|number| connect_from(number, server.address())).collect();
    // All of them are there, since the last one is served, and all of them go.
    Peer::over(crowd[PEAK - 1].try_clone().expect("a descriptor")).upgrade();
    for stream in &crowd {
        stream.shutdown(std::net::Shutdown::Write).expect("connected");
    }
    for stream in crowd {
        let _ = Peer::over(stream).read_to_end();
    }
    assert_deadlines_are_met(&server, OF_A_CROWD);
}

/// From one of eight addresses, each of which has its own range of ports.
fn connect_from(number: usize, server: SocketAddr) -> TcpStream {
    let source = SocketAddr::from((Ipv4Addr::new(127, 0, 3, 1 + (number % 8) as u8), 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    socket.bind(&source.into()).expect("an address of the loopback network");
    socket.connect(&server.into()).unwrap_or_else(|error| panic!("connection {number}: {error}"));
    let stream = TcpStream::from(socket);
    prepare(&stream);
    stream
}

/// A process that did not run for longer than any timeout: stopped, or its machine was, or its cgroup had had its share of
/// the processors.
fn stall(server: &Server, meanwhile: impl FnOnce()) {
    server.signal(Signal::STOP);
    meanwhile();
    thread::sleep(3 * TIMEOUT); // the stall that is tested
    server.signal(Signal::CONT);
}

/// What a client has done in time is there to be received, however late.
#[test]
fn a_stall_closes_nobody_whose_bytes_have_arrived() {
    const EACH: usize = 5;
    let server = start(TIMEOUT, &[]);
    let open_some = || -> Vec<Peer> { (0..EACH).map(|_| server.open()).collect() };
    let mut answering = open_some();
    answering.iter_mut().for_each(expect_ping);
    let (mut sending, mut closing) = (open_some(), open_some());
    for peer in &mut closing {
        peer.send(frame(FIN | 0x3, b"no such opcode"));
        peer.expect_close(1002);
    }
    let mut upgrading: Vec<Peer> = (0..EACH).map(|_| server.connect()).collect();
    for peer in &mut upgrading {
        peer.send(&UPGRADE[..20]);
    }
    let mut coming = Vec::new();
    // The last of them has had its say before the server stops.
    server.open().expect_echo(TEXT, "in step");

    stall(&server, || {
        for peer in &mut answering {
            peer.send(frame(FIN | PONG, b""));
        }
        for peer in &mut sending {
            peer.send(frame(FIN | TEXT, b"in time"));
        }
        for peer in &mut closing {
            peer.send(close_frame(1002, b""));
        }
        for peer in &mut upgrading {
            peer.send(&UPGRADE[20..]);
        }
        coming.extend((0..EACH).map(|_| {
            let mut peer = server.connect();
            peer.send(UPGRADE);
            peer
        }));
    });

    for peer in &mut sending {
        peer.expect_frame(FIN | TEXT, b"in time");
    }
    for peer in upgrading.iter_mut().chain(&mut coming) {
        peer.expect_upgrade();
    }
    for peer in answering.iter_mut().chain(&mut sending).chain(&mut upgrading).chain(&mut coming) {
        peer.send(frame(FIN | TEXT, b"still here"));
        let mut answer = peer.read_frame();
        if answer.first_byte == FIN | PING {
            answer = peer.read_frame();
        }
        assert_eq!((answer.first_byte, &answer.payload[..]), (FIN | TEXT, &b"still here"[..]));
    }
    for peer in &mut closing {
        peer.expect_end();
    }
}

/// An idle client cannot answer a Ping that it did not get.
#[test]
fn after_a_stall_idle_clients_get_their_ping_first() {
    let server = start(TIMEOUT, &[]);
    let mut pinged: Vec<Peer> = (0..5).map(|_| server.open()).collect();
    pinged.iter_mut().for_each(expect_ping);
    let mut idle: Vec<Peer> = (0..5).map(|_| server.open()).collect();
    stall(&server, || ());

    let since = Instant::now();
    // The answer to the Ping before the stall is late, for it comes after it; there has been no time for it to come in.
    for peer in &mut pinged {
        peer.send(frame(FIN | PONG, b""));
    }
    for peer in &mut idle {
        expect_ping(peer);
        assert!(since.elapsed() <= TIMEOUT / 2 + LATE_AT_MOST, "a Ping {:?} after the stall", since.elapsed());
        peer.send(frame(FIN | PONG, b""));
    }
    for peer in pinged.iter_mut().chain(&mut idle) {
        peer.send(frame(FIN | PING, b"still here?"));
        let mut answer = peer.read_frame();
        while answer.first_byte == FIN | PING {
            peer.send(frame(FIN | PONG, &answer.payload));
            answer = peer.read_frame();
        }
        assert_eq!((answer.first_byte, &answer.payload[..]), (FIN | PONG, &b"still here?"[..]));
    }
    // And then it goes on as ever.
    for peer in &mut idle {
        expect_ping(peer);
    }
    for peer in &mut idle {
        assert_eq!(peer.read_frame().first_byte, FIN | CLOSE);
    }
}
