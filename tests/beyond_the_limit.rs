//! More connections than one descriptor table can hold, on both ends.

mod common;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use common::frames::{BINARY, FIN, TEXT, frame};
use common::pattern;
use common::peer::{Frame, Peer, UPGRADE, prepare};
use common::server::{Server, command, engine, limit_descriptors};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use socket2::{Domain, Socket, Type};

/// The server's limit on descriptors, and with it on one ring's connections.
const DESCRIPTORS: u64 = 20_000;
const CONNECTIONS: usize = 25_000;

/// What an idle connection may add to the server's resident memory, in an unoptimised build, too.
fn bytes_per_connection_max() -> u64 {
    // A task of the runtime, and its wait for readability.
    if engine() == "tokio-uring" { 800 } else { 400 }
}

#[test]
fn connections_beyond_the_descriptor_limit() {
    let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--max-connections", &CONNECTIONS.to_string()]);
    limit_descriptors(&mut command, DESCRIPTORS);
    let server = Server::launch(command);
    server.open().expect_echo(TEXT, "warm");
    let before = server.resident_bytes();

    thread::scope(|scope| {
        let (report, reports) = mpsc::channel();
        let threads = client_threads();
        let clients: Vec<Sender<()>> = (0..threads)
            .map(|index| {
                let share = (index * CONNECTIONS / threads)..((index + 1) * CONNECTIONS / threads);
                let (address, report) = (server.address(), report.clone());
                let (proceed, go_on) = mpsc::channel();
                scope.spawn(move || hold_connections(address, index, share, &report, &go_on));
                proceed
            })
            .collect();
        // Without this copy, a client that fails ends the wait for its report.
        drop(report);
        for _ in &clients {
            reports.recv().expect("every client holds its connections");
        }
        let per_connection = server.resident_bytes().saturating_sub(before) / CONNECTIONS as u64;
        assert!(per_connection <= bytes_per_connection_max(), "{per_connection} bytes per idle connection");
        for proceed in clients {
            proceed.send(()).expect("every client is still there");
        }
    });

    server.open().expect_echo(TEXT, "a newcomer");
    let exit = server.stop();
    let summary = format!("served {} connections", CONNECTIONS + 2);
    assert!(exit.stdout.contains(&summary), "{summary:?} expected\n{exit}");
}

/// As many as it takes for each thread's descriptor table to hold its share.
fn client_threads() -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
    let table = maximum.unwrap_or(u64::MAX).min(DESCRIPTORS) as usize - 1000;
    CONNECTIONS.div_ceil(table)
}

/// One client thread: opens its share of the connections, holds them until it may go on, and uses each once more.
fn hold_connections(server: SocketAddr, thread: usize, share: Range<usize>, report: &Sender<()>, go_on: &Receiver<()>) {
    // SAFETY: this thread uses no descriptor that another one opens or closes from here on: it gets a table of its
    // own, with a limit of its own, and takes its sockets with it when it ends.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }.expect("a descriptor table of its own");
    let mut peers: Vec<Peer> = share.map(|number| connect_and_echo(server, thread, number)).collect();
    // Both fail only when the test has failed already.
    if report.send(()).is_err() || go_on.recv().is_err() {
        return;
    }
    for peer in &mut peers {
        peer.expect_echo(TEXT, "still here");
    }
    peers.into_iter().for_each(Peer::reset);
}

/// A connection from the thread's own source address, which has its own range of ports. Its first frame travels with
/// the request.
fn connect_and_echo(server: SocketAddr, thread: usize, number: usize) -> Peer {
    let source = SocketAddr::from((Ipv4Addr::new(127, 0, 1, 1 + thread as u8), 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    socket.bind(&source.into()).expect("an address of the loopback network");
    socket.connect(&server.into()).unwrap_or_else(|error| panic!("connection {number}: {error}"));
    let stream = TcpStream::from(socket);
    prepare(&stream);
    let mut peer = Peer::over(stream);
    let payload = pattern(number as u64, 16);
    peer.send([UPGRADE.as_bytes(), &frame(FIN | BINARY, &payload)].concat());
    peer.expect_upgrade();
    assert_eq!(peer.read_frame(), Frame::new(FIN | BINARY, payload), "connection {number}");
    peer
}
