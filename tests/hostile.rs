//! Hostile and broken clients at small scale; `scripts/hostile` runs them at full size and measures.
//!
//! During each attack, other clients have every echo checked. Afterwards slots, entries and memory must be free again: the
//! table can be filled to its last slot, memory is what it was, and the drain has no connection to wait for.

mod attacks;
mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{env, thread};

use attacks::{Crowd, NONSENSE, Tally, attack};
use common::frames::{BINARY, CLOSE, FIN, PING, PONG, TEXT, frame};
use common::peer::{Frame, Peer};
use common::server::Server;
use common::{MIB, pattern};
use rustix::process::Signal;

const CAPACITY: usize = 400;
/// The clients that are to be served whatever happens.
const OTHERS: usize = 8;
/// Their messages during an attack, at least.
const ROUNDS: u64 = 300;
/// The allocator keeps a region for each size that a worker has seen: room for what is no leak, and does not grow with
/// what an attack has taken.
const REMAINS_MAX: u64 = 16 * MIB as u64;

/// A server that has served before, so that what it holds is what it always holds.
fn start(arguments: &[&str]) -> Server {
    let capacity = CAPACITY.to_string();
    let server = Server::start(&[&["--max-connections", &capacity, "--when-full", "wait"], arguments].concat());
    fill(&server);
    server
}

/// Uses every slot of the table at once. The kernel tells a client that it is connected long before it is served.
fn fill(server: &Server) {
    let mut peers: Vec<Peer> = (0..CAPACITY).map(|_| server.open()).collect();
    for peer in &mut peers {
        peer.expect_echo(TEXT, "in a slot of its own");
    }
}

/// Attacks while others are served, and checks what is left behind.
fn withstands(server: Server, name: &str, clients: usize, lives: Option<usize>) -> Tally {
    withstands_within(u64::MAX, server, name, clients, lives)
}

/// The same; meanwhile the server's memory must not grow by more than `most` bytes.
fn withstands_within(most: u64, server: Server, name: &str, clients: usize, lives: Option<usize>) -> Tally {
    let before = server.resident_bytes();
    let crowd = Crowd::new(server.address(), attack(name).expect("a name in the list"), clients, lives, 1);
    let tally = thread::scope(|scope| {
        let attackers = scope.spawn(|| crowd.run());
        let outcome = scope.spawn(|| serve_others(&server, &crowd, lives.is_some())).join();
        // Whatever has become of the others, the attack has to end.
        crowd.stop();
        let tally = attackers.join().expect("an attack that goes on to its end");
        outcome.expect("the others are served");
        tally
    });
    assert_eq!(tally.failed, 0, "no client could have been refused: {tally:?}");
    let grown = server.peak_resident_bytes().saturating_sub(before);
    assert!(grown <= most, "{grown} bytes more than before: {tally:?}");
    leaves_nothing_behind(server, before);
    tally
}

fn serve_others(server: &Server, crowd: &Crowd, is_finite: bool) {
    let mut others: Vec<Peer> = (0..OTHERS).map(|_| server.open()).collect();
    if !is_finite {
        common::eventually("all attackers are there", || crowd.present.load(Ordering::Relaxed) >= crowd.at_once);
    }
    for round in 0..ROUNDS {
        for peer in &mut others {
            peer.expect_echo(BINARY, pattern(round, 1 + 40 * round as usize));
        }
        server.open().expect_echo(TEXT, "a newcomer");
    }
    if is_finite {
        common::eventually("all of them have lived", || {
            for peer in &mut others {
                peer.expect_echo(TEXT, "still served");
            }
            crowd.is_over.load(Ordering::Relaxed)
        });
    }
}

fn leaves_nothing_behind(server: Server, before: u64) {
    fill(&server);
    common::eventually("the memory is back", || server.resident_bytes() <= before + REMAINS_MAX);
    let exit = server.stop();
    assert!(!exit.stdout.contains("cut off"), "entries without a connection\n{exit}");
}

#[test]
fn half_handshakes() {
    let tally = withstands(start(&["--handshake-timeout", "0.3"]), "half-handshakes", 200, Some(800));
    assert_eq!(tally.ended + tally.cut_off, 800, "each of them is thrown out: {tally:?}");
}

#[test]
fn one_byte_a_second() {
    withstands(start(&[]), "one-byte-a-second", 300, None);
}

#[test]
fn clients_that_send_and_never_read() {
    let server = start(&["--backlog-per-connection", "1MiB", "--backlog-total", "16MiB"]);
    let tally = withstands(server, "never-reading", 100, None);
    assert_eq!(tally.ended + tally.cut_off, 0, "they are not read, and not cut off: {tally:?}");
}

#[test]
fn frames_cut_between_receives_and_no_echo_read() {
    let tally = withstands(start(&["--backlog-total", "16MiB"]), "cut-frames", 200, None);
    assert_eq!(tally.ended + tally.cut_off, 0, "they are not read, and not cut off: {tally:?}");
}

/// The server stands still for longer than its timeouts. Clients that answer its Pings are still connected.
#[test]
fn a_stall_of_the_server() {
    const STALL: Duration = Duration::from_secs(5);
    let server = Server::start(&["--idle-timeout", "4", "--handshake-timeout", "4"]);
    let crowd = Crowd::new(server.address(), attack("idle").expect("in the list"), CAPACITY, None, 1);
    let tally = thread::scope(|scope| {
        let idle = scope.spawn(|| crowd.run());
        let outcome = scope.spawn(|| {
            common::eventually("all are there", || crowd.present.load(Ordering::Relaxed) == crowd.at_once);
            let mut others: Vec<Peer> = (0..OTHERS).map(|_| server.open()).collect();
            server.signal(Signal::STOP);
            for peer in &mut others {
                peer.send(frame(FIN | TEXT, b"in time"));
            }
            thread::sleep(STALL);
            server.signal(Signal::CONT);
            for peer in &mut others {
                loop {
                    let frame = peer.read_frame();
                    if frame.first_byte != FIN | PING {
                        break assert_eq!(frame, Frame::new(FIN | TEXT, b"in time"));
                    }
                }
            }
            // The Pings that are due have been sent and answered, or all is over for the crowd.
            let sent = crowd.bytes_sent.load(Ordering::Relaxed);
            let pong = frame(FIN | PONG, b"").len();
            common::eventually("the Pings are answered", || {
                for peer in &mut others {
                    peer.send(frame(FIN | PONG, b""));
                }
                crowd.bytes_sent.load(Ordering::Relaxed) >= sent + (crowd.at_once * pong) as u64
            });
        });
        let outcome = outcome.join();
        crowd.stop();
        let tally = idle.join().expect("a crowd that stays to its end");
        outcome.expect("the others are served");
        tally
    });
    assert_eq!(tally.connected, crowd.at_once, "clients were closed and came again: {tally:?}");
    let exit = server.stop();
    assert!(!exit.stdout.contains("cut off"), "entries without a connection\n{exit}");
}

#[test]
fn resets_in_the_midst_of_everything() {
    withstands(start(&[]), "resets", 100, Some(5000));
}

#[test]
fn dropped_in_random_states() {
    withstands(start(&[]), "dropped", 100, Some(5000));
}

#[test]
fn floods_of_pings() {
    let tally = withstands(start(&[]), "pings", 20, None);
    assert!(tally.bytes_read > 0, "pongs are read: {tally:?}");
}

#[test]
fn floods_of_pings_whose_pongs_are_not_read() {
    withstands(start(&["--backlog-total", "16MiB"]), "pings-unread", 100, None);
}

#[test]
fn fragments_without_end() {
    let tally = withstands(start(&["--max-message-size", "0"]), "fragments", 20, None);
    assert_eq!(tally.ended + tally.cut_off, 0, "no message is too large: {tally:?}");
}

/// ... until the message is too large: fragments are counted together.
#[test]
fn fragments_to_the_end() {
    let tally = withstands(start(&["--max-message-size", "64KiB"]), "fragments", 20, Some(60));
    assert_eq!(tally.ended + tally.cut_off, 60, "{tally:?}");
}

#[test]
fn promises_of_two_to_the_63rd_bytes() {
    let tally = withstands(start(&["--max-message-size", "0"]), "promises", 300, None);
    assert_eq!(tally.ended + tally.cut_off, 0, "{tally:?}");
    let tally = withstands(start(&[]), "promises", 100, Some(1000));
    assert_eq!(tally.ended + tally.cut_off, 1000, "the default limit refuses all of them: {tally:?}");
}

/// What bombs of the modes of `--deflate` are: binary messages are inflated by the latter two alone.
const BOMBS: [(&str, &str, u8); 3] =
    [("pass", "bombs", TEXT), ("verify", "binary-bombs", BINARY), ("recompress", "bombs", TEXT)];

/// Compressed messages that are a thousand times as large as they look, within what a message may be: gigabytes in all.
#[test]
fn bombs() {
    const BACKLOG: u64 = 64 * MIB as u64;
    for (mode, name, _) in BOMBS {
        let server = start(&["--deflate", mode, "--backlog-total", "64MiB"]);
        let tally = withstands_within(BACKLOG + REMAINS_MAX, server, name, 20, None);
        assert!(tally.bytes_read > 0, "{mode}: they are answered: {tally:?}");
        assert!(tally.bytes_sent > BACKLOG / 100, "{mode}: that is not much: {tally:?}");
    }
}

/// ... and beyond it: each client is told why it is closed, when so much has been inflated.
#[test]
fn bombs_that_are_too_large() {
    for (mode, name, opcode) in BOMBS {
        let server = start(&["--deflate", mode, "--max-message-size", "256KiB"]);
        let mut peer = server.connect();
        peer.send(attacks::compressing_upgrade());
        assert_eq!(peer.read_answer().status, 101);
        peer.takes_compressed = true;
        peer.send(attacks::bomb(opcode));
        let close = loop {
            let frame = peer.read_frame();
            if frame.first_byte == FIN | CLOSE {
                break frame;
            }
        };
        assert_eq!(close.payload[..2], 1009u16.to_be_bytes(), "{mode}");
        peer.expect_end();
        drop(peer);
        let tally = withstands_within(2 * REMAINS_MAX, server, name, 20, Some(100));
        assert_eq!(tally.ended + tally.cut_off, 100, "{mode}: {tally:?}");
    }
}

#[test]
fn a_crowd_with_requests_that_are_none() {
    let tally = withstands(start(&[]), "nonsense", 50, Some(1000));
    assert!(tally.answers.keys().all(|status| [101, 400, 405, 431, 505].contains(status)), "{tally:?}");
}

#[test]
fn each_request_that_is_none_gets_its_answer() {
    let server = Server::start(&[]);
    for nonsense in NONSENSE {
        let mut peer = server.connect();
        // The server refuses as soon as it has seen enough; how much of the rest it takes is up to it.
        let _ = peer.try_send((nonsense.request)());
        let answer = peer.read_answer();
        assert_eq!(answer.status, nonsense.status, "{}: {answer:?}", nonsense.name);
        if answer.status == 101 {
            peer.expect_close(1002);
        }
        peer.expect_end();
    }
    server.open().expect_echo(TEXT, "unmoved");
}

/// Names the server whose clients the process that is to be killed holds.
const TARGET: &str = "RINGECHO_TEST_TARGET";

/// Clients whose process is gone from one moment to the next, while others come and are served.
#[test]
fn clients_killed_at_once() {
    let server = start(&[]);
    let before = server.resident_bytes();
    for _ in 0..3 {
        let mut process = Command::new(env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "--nocapture", "holds_connections_until_it_is_killed"])
            .env(TARGET, server.address().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test again");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.ends_with("present")), "the clients did not come");
        let mut others: Vec<Peer> = (0..OTHERS).map(|_| server.open()).collect();
        process.kill().expect("a process of our own");
        for round in 0..ROUNDS {
            for peer in &mut others {
                peer.expect_echo(BINARY, pattern(round, 1000));
            }
            server.open().expect_echo(TEXT, "a newcomer");
        }
        process.wait().expect("a process of our own");
        drop(others);
        // All slots are free again: no descriptor of the dead is left.
        fill(&server);
    }
    leaves_nothing_behind(server, before);
}

#[test]
#[ignore = "no test of its own: the process that another one kills"]
fn holds_connections_until_it_is_killed() {
    let Ok(target) = env::var(TARGET) else { return };
    let target = target.parse().expect("an address");
    let crowd = Crowd::new(target, attack("open").expect("in the list"), CAPACITY - 50, None, 1);
    thread::scope(|scope| {
        scope.spawn(|| crowd.run());
        common::eventually("all are there", || crowd.present.load(Ordering::Relaxed) == crowd.at_once);
        println!("\npresent");
        loop {
            thread::park();
        }
    });
}
