//! The choice of an engine, and the behaviour that all engines must have in common.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::frames::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, close_frame, frame};
use common::peer::{Peer, UPGRADE};
use common::sandbox::{CONTAINER, Injection, forbid};
use common::server::{Exit, Server, command, run_to_end};
use common::{KIB, Random, pattern};
use ringecho::protocol::{Session, Shared};
use rustix::process::Signal;

const FAILURE: i32 = 1;

/// Those that run on this kernel: some are too old for the native engine.
fn engines() -> Vec<&'static str> {
    let native = ringio::ends_closed_sockets().unwrap_or(true).then_some("uring");
    native.into_iter().chain(["tokio-uring", "epoll"]).collect()
}

fn start(engine: &str) -> Server {
    Server::start(&["--engine", engine, "--workers", "1"])
}

#[test]
fn the_start_up_line_names_the_engine() {
    for engine in engines() {
        let server = start(engine);
        let line = server.start_up_line();
        assert!(line.contains(&format!("| engine {engine} |")), "{line}");
        server.open().expect_echo(TEXT, engine);
        server.stop();
    }
}

/// In a container whose profile forbids `io_uring`: one line says what is done and why, and everything works.
#[test]
fn auto_falls_back_to_epoll_where_io_uring_is_forbidden() {
    for error in [libc::EPERM, libc::ENOSYS] {
        let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--engine", "auto"]);
        forbid(&mut command, &CONTAINER, error);
        let server = Server::launch(command);
        let line = server.start_up_line();
        assert!(line.contains("| engine epoll |"), "{line}");
        let mut peers: Vec<Peer> = (0..20).map(|_| server.open()).collect();
        for peer in &mut peers {
            peer.expect_echo(BINARY, pattern(1, 100 * KIB));
        }
        drop(peers);
        let exit = server.stop();
        let lines: Vec<&str> = exit.stderr.lines().filter(|line| line.contains("io_uring")).collect();
        assert!(matches!(lines[..], [line] if line.contains("falling back to epoll")), "{exit}");
        // It was asked for already.
        assert!(!exit.stderr.contains("--engine"), "{exit}");
    }
}

#[test]
fn auto_is_the_native_engine_where_it_can_run() {
    // Where it cannot run, this only proves that both ways of asking agree.
    let native = run_or_start(&["--engine", "uring"]);
    let auto = Server::start(&["--engine", "auto"]);
    assert_eq!(native, auto.start_up_line().contains("| engine uring |"), "{}", auto.start_up_line());
}

fn run_or_start(arguments: &[&str]) -> bool {
    let probe = command(&[&["serve", "--listen", "192.0.2.1:1"], arguments].concat());
    // No machine has this address, so the start fails in any case; the test is whether it gets that far.
    run_to_end(probe).stderr.contains("192.0.2.1")
}

#[test]
fn an_engine_that_is_asked_for_and_cannot_run() {
    for engine in ["uring", "tokio-uring"] {
        for error in [libc::EPERM, libc::ENOSYS] {
            let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--engine", engine]);
            forbid(&mut command, &CONTAINER, error);
            let exit = run_to_end(command);
            assert_eq!(exit.code, Some(FAILURE), "{exit}");
            assert_refusal(&exit, engine);
        }
    }
}

/// A profile may forbid any one of the three calls. An engine that needs it refuses to start; tokio-uring does without
/// `io_uring_register`.
#[test]
fn an_engine_without_a_single_call_refuses_or_serves() {
    for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        for engine in ["uring", "tokio-uring"] {
            eprintln!("{engine} without system call {call}");
            let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--engine", engine]);
            forbid(&mut command, &[call], libc::EPERM);
            match Server::try_launch(command) {
                Ok(server) => {
                    assert_eq!((engine, call), ("tokio-uring", libc::SYS_io_uring_register));
                    server.open().expect_echo(TEXT, "served");
                }
                Err(exit) => {
                    assert_eq!(exit.code, Some(FAILURE), "{exit}");
                    assert_refusal(&exit, engine);
                }
            }
        }
        let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--engine", "auto"]);
        forbid(&mut command, &[call], libc::EPERM);
        let server = Server::launch(command);
        assert!(server.start_up_line().contains("| engine epoll |"), "{}", server.start_up_line());
        server.open().expect_echo(TEXT, "all the same");
    }
}

/// Whatever becomes of its rings while it runs, SIGTERM ends the process within the drain's time.
#[test]
fn the_drain_ends_with_its_timeout_also_when_no_ring_can_be_entered() {
    for engine in ["uring", "tokio-uring"] {
        let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--workers", "1", "--drain-timeout", "1"]);
        command.args(["--engine", engine]);
        let Some((injection, command)) = Injection::into(&command, "io_uring_enter", "error=EPERM:when=200+") else {
            return;
        };
        let server = Server::launch(command);
        let mut peer = server.open();
        peer.socket().set_read_timeout(Some(Duration::from_secs(1))).expect("a TCP socket");
        // Each echo takes an entry, until there is none any more; a process that ends by then has ended in time, too.
        common::eventually("the ring cannot be entered any more", || {
            let _ = peer.try_send(frame(FIN | BINARY, b"one more"));
            let _ = peer.read_some(&mut [0; 100]);
            injection.count() > 0 || server.has_ended()
        });
        if !server.has_ended() {
            server.signal(Signal::TERM);
        }
        server.wait();
    }
}

/// Names the engine, the cause and the remedy; no start-up line.
fn assert_refusal(exit: &Exit, engine: &str) {
    for text in [&format!("engine {engine}"), "seccomp", "--engine epoll"] {
        assert!(exit.stderr.contains(text), "{text:?} is not named\n{exit}");
    }
    assert_eq!(exit.stdout, "", "{exit}");
}

/// A session of every kind of frame, small enough to be cut at every place.
fn small_session() -> Vec<u8> {
    [
        UPGRADE.as_bytes(),
        &frame(FIN | TEXT, "κόσμε".as_bytes()),
        &frame(FIN | BINARY, &pattern(1, 130)),
        &frame(TEXT, b"in three "),
        &frame(FIN | PING, b"in between"),
        &frame(CONTINUATION, b"frag"),
        &frame(FIN | CONTINUATION, b"ments"),
        &frame(FIN | PONG, b"unasked"),
        &frame(FIN | BINARY, b""),
        &close_frame(1000, b"bye"),
    ]
    .concat()
}

/// What a session gets back for each of its pieces, by the protocol alone.
fn expected(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut shared = Shared::default();
    let mut session = Session::new(&shared.settings);
    let reply = |piece: &&[u8]| {
        let mut data = piece.to_vec();
        session.receive(&mut shared, &mut data).output.to_vec(&data)
    };
    pieces.iter().map(reply).collect()
}

/// Sends the pieces one by one and insists on what comes back for each before sending the next, so that each piece is
/// a receive of its own. (Where nothing comes back two may be received at once, which makes no difference.)
fn assert_echo(server: &Server, engine: &str, pieces: &[&[u8]]) {
    let mut peer = server.connect();
    for (piece, expected) in pieces.iter().zip(expected(pieces)) {
        peer.send(piece);
        let mut echo = vec![0; expected.len()];
        peer.read_exact(&mut echo);
        assert!(echo == expected, "{engine}: pieces of {:?} bytes", pieces.iter().map(|p| p.len()).collect::<Vec<_>>());
    }
    peer.expect_end();
}

#[test]
fn the_same_bytes_for_the_same_input_cut_anywhere() {
    let session = small_session();
    let servers: Vec<Server> = engines().into_iter().map(start).collect();
    for (server, engine) in servers.iter().zip(engines()) {
        assert_echo(server, engine, &[&session]);
        for cut in 1..session.len() {
            eprintln!("{engine}, cut at {cut}");
            let (first, second) = session.split_at(cut);
            assert_echo(server, engine, &[first, second]);
        }
        let bytes: Vec<&[u8]> = session.chunks(1).collect();
        assert_echo(server, engine, &bytes);
    }
}

/// Messages larger than any receive buffer. Binary, for text may come back in other fragments each time.
#[test]
fn the_same_bytes_for_large_messages() {
    let mut session = UPGRADE.as_bytes().to_vec();
    for (index, size) in [70_000, 1, 300_000, 16 * KIB, 1_000_000].into_iter().enumerate() {
        session.extend(frame(BINARY, &pattern(index as u64, size)));
        session.extend(frame(FIN | CONTINUATION, &pattern(index as u64, size / 2)));
    }
    session.extend(frame(FIN | CLOSE, b""));
    let mut random = Random::new(5);
    let servers: HashMap<_, _> = engines().into_iter().map(|engine| (engine, start(engine))).collect();
    for _ in 0..5 {
        let mut pieces: Vec<&[u8]> = Vec::new();
        let mut rest = &session[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(1 + random.below(200_000)));
            pieces.push(piece);
            rest = after;
        }
        for engine in engines() {
            assert_echo(&servers[engine], engine, &pieces);
        }
    }
}
