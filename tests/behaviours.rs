//! Connections that request a behaviour other than an echo (`--behaviours`, docs/BEHAVIOURS.md).

mod common;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use common::frames::{BINARY, CLOSE, FIN, PING, PONG, TEXT, close_frame, close_payload, frame};
use common::peer::{Frame, Peer, UPGRADE};
use common::server::Server;
use common::{MIB, eventually, pattern};

fn start(arguments: &[&str]) -> Server {
    Server::start(&[&["--behaviours"], arguments].concat())
}

/// A connection at this path.
fn open(server: &Server, path: &str) -> Peer {
    let mut peer = server.connect();
    peer.send(UPGRADE.replace("/echo", path));
    peer.expect_upgrade();
    peer
}

fn text(payload: &str) -> Vec<u8> {
    frame(FIN | TEXT, payload.as_bytes())
}

#[test]
fn behaviours_are_off_unless_they_are_asked_for() {
    let server = Server::start(&[]);
    for path in ["/sink", "/source", "/close", "/status/503", "/abort", "/hang", "/delay?ms=60000"] {
        open(&server, path).expect_echo(TEXT, path);
    }
    let server = start(&["--path", "/ws"]);
    for path in ["/ws", "/echo"] {
        open(&server, path).expect_echo(TEXT, path);
    }
    let mut peer = server.connect();
    peer.send(UPGRADE.replace("/echo", "/source?size=2000000"));
    let answer = peer.read_answer();
    assert!(answer.status == 400 && answer.body.contains("size takes a number from 0 to 1048576"), "{answer:?}");
}

#[test]
fn a_sink_takes_everything_and_answers_pings_and_closes() {
    let server = start(&[]);
    let mut peer = open(&server, "/sink");
    let large = frame(FIN | BINARY, &pattern(1, 8 * MIB));
    for _ in 0..3 {
        peer.send(&large);
        peer.send(text("nothing of this comes back"));
    }
    peer.synchronize();
    peer.send(close_frame(1000, b"enough"));
    peer.expect_frame(FIN | CLOSE, close_payload(1000, b"enough"));
    peer.expect_end();
    let stats = server.stop().stdout;
    assert!(stats.contains(" 6 messages"), "{stats}");
}

#[test]
fn a_source_sends_so_many_messages_and_closes() {
    let server = start(&[]);
    for (size, count) in [(0, 1000), (1, 3), (1000, 1000), (65_530, 20), (65_536, 20), (MIB, 10)] {
        let mut peer = open(&server, &format!("/source?size={size}&count={count}&rate=0"));
        for number in 0..count {
            let Frame { first_byte, payload } = peer.read_frame();
            assert_eq!((first_byte, payload.len()), (FIN | BINARY, size), "message {number}");
        }
        peer.expect_close(1000);
        peer.send(close_frame(1000, b""));
        peer.expect_end();
    }
}

#[test]
fn a_source_keeps_its_rate() {
    let server = start(&[]);
    let mut peer = open(&server, "/source?size=10&rate=50");
    peer.read_frame();
    let started = Instant::now();
    for _ in 0..25 {
        assert_eq!(peer.read_frame().payload.len(), 10);
    }
    // Nothing comes early but by a tick of 10 ms.
    assert!(started.elapsed() >= Duration::from_millis(490), "{:?}", started.elapsed());
}

/// Pongs and the Close frame stand between whole messages, whatever the socket takes at once.
#[test]
fn a_source_answers_between_its_messages() {
    let server = start(&[]);
    let mut peer = open(&server, "/source?size=200000&rate=0");
    for number in 0..20_u8 {
        peer.send(text("ignored"));
        peer.send(frame(FIN | PING, &[number]));
        loop {
            let frame = peer.read_frame();
            if frame.first_byte == FIN | PONG {
                assert_eq!(frame.payload, [number]);
                break;
            }
            assert_eq!((frame.first_byte, frame.payload.len()), (FIN | BINARY, 200_000));
        }
    }
    peer.send(close_frame(4000, b""));
    let last = loop {
        let frame = peer.read_frame();
        if frame.first_byte == FIN | CLOSE {
            break frame;
        }
        assert_eq!(frame.payload.len(), 200_000);
    };
    assert_eq!(last.payload, close_payload(4000, b""));
    peer.expect_end();
}

#[test]
fn slow_readers_of_a_source_cost_no_memory() {
    const READERS: usize = 150;
    let server = start(&["--workers", "1"]);
    let mut innocent = open(&server, "/echo");
    innocent.expect_echo(BINARY, pattern(1, MIB)); // what it always holds is there
    let mut first = open(&server, "/source?size=1048576&rate=0");
    first.read_frame();
    let before = server.resident_bytes();
    let mut readers: Vec<_> = (0..READERS).map(|_| open(&server, "/source?size=1048576&rate=0")).collect();
    // All of them are stuck: the server has nothing to do any more.
    eventually("the sources have filled their sockets", || {
        let before = server.cpu_time();
        std::thread::sleep(Duration::from_millis(50));
        server.cpu_time().saturating_sub(before) < Duration::from_millis(1)
    });
    innocent.expect_echo(TEXT, "beside slow readers");
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 4 * MIB as u64, "{grown} bytes for {READERS} slow readers of messages of a MiB");
    for reader in [0, READERS - 1] {
        for _ in 0..20 {
            assert_eq!(readers[reader].read_frame().payload.len(), MIB);
        }
    }
}

#[test]
fn sources_of_many_sizes_are_no_way_to_the_servers_memory() {
    let server = start(&["--workers", "1", "--backlog-total", "1MiB"]);
    let mut peers: Vec<_> = (0..40).map(|size| open(&server, &format!("/source?size={size}&rate=0"))).collect();
    // Each size takes a block of 64 KiB: 15 or so are a MiB with what is pending.
    let has_room = |peer: &mut Peer| peer.read_frame().first_byte == FIN | BINARY;
    assert!(has_room(&mut peers[0]));
    peers[39].expect_close(1013);
    peers.truncate(1);
    // The memory goes back with those that took it.
    eventually("there is room again", || has_room(&mut open(&server, "/source?size=77&rate=0")));
}

/// The sources' turns are the background's: an interactive connection is served between them.
#[test]
fn sources_hold_up_nobody() {
    let server = start(&["--workers", "1"]);
    let sources: Vec<_> = (0..8).map(|_| open(&server, "/source?size=100&rate=0")).collect();
    std::thread::scope(|scope| {
        let readers: Vec<_> = sources
            .into_iter()
            .map(|mut source| {
                scope.spawn(move || {
                    (0..20_000).for_each(|_| assert_eq!(source.read_frame().payload.len(), 100));
                })
            })
            .collect();
        let mut echo = open(&server, "/echo");
        while !readers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            echo.expect_echo(TEXT, "in between");
        }
    });
}

#[test]
fn a_delayed_echo_comes_later_and_in_order() {
    let server = start(&[]);
    let mut peer = open(&server, "/delay?ms=200");
    let started = Instant::now();
    peer.send(text("first"));
    peer.send(frame(FIN | PING, b"ping"));
    peer.send(frame(FIN | BINARY, &pattern(1, 300_000)));
    open(&server, "/echo").expect_echo(TEXT, "others do not wait");
    peer.expect_frame(FIN | TEXT, b"first");
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    peer.expect_frame(FIN | PONG, b"ping");
    assert!(peer.read_message() == Frame::new(FIN | BINARY, pattern(1, 300_000)));
    // What is held back goes out in front of an end.
    peer.send(text("last"));
    peer.send(close_frame(1000, b""));
    peer.expect_frame(FIN | TEXT, b"last");
    peer.expect_close(1000);
    peer.expect_end();

    let mut peer = open(&server, "/delay?ms=60000");
    peer.send(text("half-closed"));
    peer.shut_down_sending();
    peer.expect_frame(FIN | TEXT, b"half-closed");
    peer.expect_end();
}

#[test]
fn what_is_held_back_is_bounded_like_what_a_slow_reader_leaves() {
    let limits = ["--workers", "1", "--backlog-per-connection", "256KiB", "--max-message-size", "64KiB"];
    let server = start(&limits);
    let message = frame(FIN | BINARY, &pattern(1, 60_000));
    let mut echo = open(&server, "/echo");
    echo.expect_echo(BINARY, pattern(1, 60_000));
    let before = server.resident_bytes();
    let mut peers: Vec<_> = (0..20).map(|_| open(&server, "/delay?ms=50")).collect();
    std::thread::scope(|scope| {
        for peer in &mut peers {
            let message = &message;
            scope.spawn(move || {
                peer.while_sending(&message.repeat(40), |peer| {
                    for _ in 0..40 {
                        assert!(peer.read_message().payload.len() == 60_000);
                    }
                });
            });
        }
    });
    let grown = server.peak_resident_bytes().saturating_sub(before);
    assert!(grown < 20 * MIB as u64, "{grown} bytes for 20 connections of 256 KiB");
    echo.expect_echo(TEXT, "goes on");
}

#[test]
fn a_server_closes_as_it_is_asked_to() {
    let server = start(&[]);
    for code in [1000, 1011, 4999, 1006, 0] {
        let mut peer = open(&server, &format!("/close?code={code}"));
        peer.expect_frame(FIN | CLOSE, close_payload(code, b""));
        peer.send(close_frame(1000, b""));
        peer.expect_end();
    }
    let mut peer = open(&server, "/close?after=2&code=1012");
    peer.send([text("one"), text("two"), text("three")].concat());
    peer.expect_frame(FIN | TEXT, b"one");
    peer.expect_frame(FIN | TEXT, b"two");
    peer.expect_close(1012);
    peer.send(close_frame(1012, b""));
    peer.expect_end();
}

#[test]
fn a_request_gets_the_status_that_it_asks_for() {
    let server = start(&[]);
    for status in [200, 204, 301, 404, 429, 503, 599] {
        let mut peer = server.connect();
        peer.send(UPGRADE.replace("/echo", &format!("/status/{status}")));
        assert_eq!(peer.read_answer().status, status);
        peer.expect_end();
    }
}

#[test]
fn an_abort_is_a_reset_behind_all_that_was_sent() {
    let server = start(&[]);
    for after in 0..3 {
        let mut peer = open(&server, &format!("/abort?after={after}"));
        for number in 0..after {
            peer.expect_echo(TEXT, format!("message {number}"));
        }
        let error = peer.read_to_end().expect_err("no orderly end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "after {after}: {error}");
    }
    open(&server, "/echo").expect_echo(TEXT, "others go on");
    server.stop();
}

#[test]
fn what_hangs_says_nothing_and_ends_in_time() {
    let server = start(&["--handshake-timeout", "0.3", "--idle-timeout", "0.6"]);
    let mut unanswered = server.connect();
    unanswered.send(UPGRADE.replace("/echo", "/hang"));
    unanswered.expect_disconnect();
    let mut hung = open(&server, "/hang?after=1");
    hung.expect_echo(TEXT, "the only one");
    hung.send([text("no echo"), frame(FIN | PING, b"no pong"), close_frame(1000, b"")].concat());
    hung.expect_disconnect();

    let server = start(&["--handshake-timeout", "0"]);
    let mut unanswered = server.connect();
    unanswered.send(UPGRADE.replace("/echo", "/hang"));
    let mut hung = open(&server, "/hang?after=0");
    hung.send(text("no echo"));
    open(&server, "/echo").expect_echo(TEXT, "others are served");
    assert!(unanswered.is_silent() && hung.is_silent());
    server.stop();
    unanswered.expect_disconnect();
    hung.expect_disconnect();
}

#[test]
fn the_drain_ends_what_goes_on_by_itself() {
    let server = start(&[]);
    let mut source = open(&server, "/source?size=100000&rate=0");
    let mut slow = open(&server, "/source?rate=1&size=10");
    let mut delayed = open(&server, "/delay?ms=60000");
    delayed.send(text("held back"));
    delayed.await_acknowledgement();
    source.read_frame();
    slow.read_frame();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while source.read_frame().first_byte != FIN | CLOSE {}
            source.send(close_frame(1001, b""));
        });
        scope.spawn(|| {
            while slow.read_frame().first_byte != FIN | CLOSE {}
            slow.send(close_frame(1001, b""));
        });
        scope.spawn(|| {
            delayed.expect_frame(FIN | TEXT, b"held back");
            delayed.expect_close(1001);
            delayed.send(close_frame(1001, b""));
        });
        server.stop();
    });
}
