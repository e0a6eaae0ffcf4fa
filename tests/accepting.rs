//! Accepting: at full tables, at several listeners, by workers that may not accept, and at the end.

mod common;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use common::frames::TEXT;
use common::peer::{Peer, UPGRADE};
use common::sandbox::forbid;
use common::server::{Server, command};
use rustix::process::Signal;

/// Connections whose clients have left while they waited are in front of one whose client has not: it waits for the
/// server to see to them, and not for its clock.
#[test]
fn a_client_behind_dead_connections_at_a_full_table() {
    const DEAD: usize = 2000;
    // A look at the full table every 10 ms would see to 4 of them each time, which takes 5 s.
    const PATIENCE: Duration = Duration::from_millis(2500);
    let server = Server::start(&["--workers", "2", "--max-connections", "4", "--when-full", "wait"]);
    let inside: Vec<Peer> = (0..4).map(|_| server.open()).collect();
    for _ in 0..DEAD {
        drop(server.connect());
    }
    let mut waiting = server.connect();
    waiting.send(UPGRADE);
    assert!(waiting.is_silent(), "served beyond the capacity");
    let freed = Instant::now();
    drop(inside);
    waiting.expect_upgrade();
    assert!(freed.elapsed() < PATIENCE, "served after {:?}", freed.elapsed());
}

/// A security module or a sandbox that forbids to accept leaves the connection in the queue: trying without a pause would
/// take a whole processor.
#[test]
fn accepts_that_are_forbidden() {
    const WATCHED: Duration = Duration::from_secs(1);
    for engine in ["epoll", "tokio-uring"] {
        for error in [libc::EPERM, libc::ENOSYS] {
            let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--workers", "2", "--engine", engine]);
            forbid(&mut command, &[libc::SYS_accept, libc::SYS_accept4], error);
            let server = Server::launch(command);
            let waiting = server.connect();
            server.await_stderr("cannot accept connections");
            let before = server.cpu_time();
            thread::sleep(WATCHED); // what it takes meanwhile is what is tested
            let taken = server.cpu_time().saturating_sub(before);
            assert!(taken < WATCHED / 5, "{engine}: {taken:?} of processor time in {WATCHED:?}");
            drop(waiting);
            let exit = server.stop();
            assert_eq!(exit.code, Some(0), "{exit}");
            assert_eq!(exit.stderr.matches("cannot accept connections").count(), 1, "{exit}");
        }
    }
}

/// One slot and three listeners: a waiting client gets the free slot, whatever listener it waits at.
#[test]
fn one_slot_for_several_listeners() {
    let listeners = ["--listen", "127.0.0.1:0"].repeat(3);
    let options = ["serve", "--workers", "1", "--max-connections", "1", "--when-full", "wait"];
    let server = Server::launch(command(&[&options[..], &listeners].concat()));
    let mut inside = Peer::open(server.addresses()[0]);
    for round in 1..30 {
        let mut next = Peer::connect(server.addresses()[round % 3]);
        next.send(UPGRADE);
        inside.expect_echo(TEXT, "served");
        assert!(next.is_silent(), "one slot, two connections");
        inside.reset();
        next.expect_upgrade();
        inside = next;
    }
}

/// While the last connections are drained, no further client is accepted, whichever worker is waiting.
#[test]
fn a_server_that_stops_accepts_no_more() {
    let server = Server::start(&["--workers", "2", "--max-connections", "41"]);
    let mut stubborn: Vec<Peer> = (0..40).map(|_| server.open()).collect();
    server.signal(Signal::TERM);
    for peer in &mut stubborn {
        peer.expect_close(1001);
    }
    common::eventually("connections are refused", || {
        let outcome = TcpStream::connect(server.address());
        matches!(outcome, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(!server.has_ended(), "it waits for the peers' answers");
    drop(stubborn);
    assert_eq!(server.wait().code, Some(0));
}
