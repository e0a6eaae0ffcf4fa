//! Ring queues and receive buffers so small that they overflow all the time: nothing may be lost, or counted as done before
//! its completion.

mod common;

use std::thread;

use common::frames::{BINARY, FIN, frame};
use common::peer::{Peer, UPGRADE};
use common::server::Server;
use common::{Random, pattern};
use rustix::process::Signal;

const TINY: [&str; 6] = ["--workers", "1", "--ring-entries", "1", "--receive-buffers", "2x512"];

#[test]
fn a_crowd_in_tiny_queues() {
    let server = Server::start(&TINY);
    thread::scope(|scope| {
        for index in 0..30 {
            let server = &server;
            scope.spawn(move || {
                let mut random = Random::new(index);
                for round in 0..15 {
                    let mut peer = server.open();
                    peer.expect_echo(BINARY, pattern(round, random.below(20_000)));
                    if random.below(2) == 0 {
                        peer.reset();
                    }
                }
            });
        }
    });
    assert_eq!(server.stop().code, Some(0));
}

/// All of a standstill's work at once: arrivals, requests, frames, and peers that are gone before they are answered.
#[test]
fn completions_beyond_the_queue_are_not_lost() {
    let server = Server::start(&TINY);
    for _ in 0..5 {
        server.signal(Signal::STOP);
        let mut peers: Vec<Peer> = (0..200).map(|_| server.connect()).collect();
        for peer in &mut peers {
            peer.send([UPGRADE.as_bytes(), &frame(FIN | BINARY, b"early")].concat());
        }
        let staying = peers.split_off(100);
        peers.into_iter().for_each(Peer::reset);
        server.signal(Signal::CONT);
        for mut peer in staying {
            peer.expect_upgrade();
            peer.expect_frame(FIN | BINARY, b"early");
        }
    }
    assert_eq!(server.stop().code, Some(0));
}
