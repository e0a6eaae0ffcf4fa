//! Limits: connections, handshake time, idle time.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::frames::{BINARY, CLOSE, FIN, PING, PONG, TEXT, apply_mask, close_frame, frame, masked_header};
use common::peer::{Frame, Peer, UPGRADE};
use common::server::Server;
use common::{Random, pattern};

/// The server's sweeps are coarse, but never early by more than this.
const EARLY_AT_MOST: Duration = Duration::from_millis(20);

#[test]
fn a_full_table_frees_up_again() {
    const CAPACITY: usize = 10;
    let server = Server::start(&["--workers", "1", "--max-connections", "10", "--when-full", "wait"]);
    let mut inside: Vec<Peer> = (0..CAPACITY).map(|_| server.open()).collect();

    // They are connected by the kernel, and their request waits there.
    let mut waiting: Vec<Peer> = (0..3).map(|_| server.connect()).collect();
    for peer in &mut waiting {
        peer.send(UPGRADE);
    }
    for peer in &mut inside {
        peer.expect_echo(TEXT, "still served");
    }
    for peer in &waiting {
        assert!(peer.is_silent(), "a connection beyond the capacity was served");
    }

    // Three ways to leave.
    inside.pop().expect("connected").reset();
    expect_next_served(&mut waiting, &mut inside);
    drop(inside.remove(0));
    expect_next_served(&mut waiting, &mut inside);
    let mut leaving = inside.remove(0);
    leaving.send(close_frame(1000, b""));
    leaving.expect_close(1000);
    leaving.expect_end();
    drop(leaving);
    expect_next_served(&mut waiting, &mut inside);

    for peer in &mut inside {
        peer.expect_echo(TEXT, "to the end");
    }
}

/// Which of the waiting connections comes first is the kernel's choice.
fn expect_next_served(waiting: &mut Vec<Peer>, inside: &mut Vec<Peer>) {
    let mut next = None;
    common::eventually("a waiting connection is served", || {
        next = waiting.iter().position(|peer| !peer.is_silent());
        next.is_some()
    });
    let mut peer = waiting.remove(next.expect("found"));
    peer.expect_upgrade();
    peer.expect_echo(TEXT, "at last");
    assert!(waiting.iter().all(Peer::is_silent), "one slot, two connections");
    inside.push(peer);
}

/// Nothing else happens on the server: that a reset has made room must be noticed all the same.
#[test]
fn a_reset_makes_room_on_a_quiet_server() {
    let server =
        Server::start(&["--workers", "1", "--max-connections", "2", "--handshake-timeout", "0", "--when-full", "wait"]);
    let mut inside = [server.open(), server.open()];
    let mut waiting = server.connect();
    waiting.send(UPGRADE);
    inside[0].expect_echo(TEXT, "served");
    assert!(waiting.is_silent(), "one too many");
    let [_stays, leaves] = inside;
    leaves.reset();
    waiting.expect_upgrade();
}

/// However connections are spread over the workers, none waits while there is room.
#[test]
fn the_whole_capacity_is_usable_with_several_workers() {
    let server = Server::start(&["--workers", "3", "--max-connections", "12", "--when-full", "wait"]);
    for _ in 0..10 {
        let mut peers: Vec<Peer> = (0..12).map(|_| server.open()).collect();
        for peer in &mut peers {
            peer.expect_echo(TEXT, "served");
        }
    }
}

/// The limit is one for all workers, also when it cannot be divided by their number.
#[test]
fn the_capacity_holds_with_several_workers() {
    let server = Server::start(&["--workers", "3", "--max-connections", "10", "--when-full", "wait"]);
    let mut inside: Vec<Peer> = (0..10).map(|_| server.open()).collect();
    let mut waiting = server.connect();
    waiting.send(UPGRADE);
    for peer in &mut inside {
        peer.expect_echo(TEXT, "served");
    }
    assert!(waiting.is_silent(), "an eleventh connection was served");
    inside.remove(3).reset();
    waiting.expect_upgrade();
}

/// A table that never has a free slot for long: waiting clients are served in the end.
#[test]
fn a_crowd_at_a_small_table() {
    let server = Server::start(&["--workers", "2", "--max-connections", "4", "--when-full", "wait"]);
    thread::scope(|scope| {
        for index in 0..20 {
            let server = &server;
            scope.spawn(move || {
                let mut random = Random::new(index);
                for round in 0..10 {
                    let mut peer = server.open();
                    peer.expect_echo(BINARY, pattern(round, random.below(5000)));
                }
            });
        }
    });
}

#[test]
fn handshake_timeout() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let server = Server::start(&["--handshake-timeout", "0.5"]);
    let mut upgraded = server.open();

    for sent in ["", "G", &UPGRADE[..UPGRADE.len() - 2]] {
        let connected = Instant::now();
        let mut peer = server.connect();
        peer.send(sent);
        let answer = peer.read_to_end().expect("an orderly end");
        assert!(connected.elapsed() + EARLY_AT_MOST >= TIMEOUT, "ended after {:?}", connected.elapsed());
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    }

    // The timeout was over three times for this one, too; it has shaken hands.
    upgraded.expect_echo(TEXT, "still here");
}

/// One byte now and then is no reason for more time.
#[test]
fn handshake_timeout_of_a_slow_sender() {
    let server = Server::start(&["--handshake-timeout", "0.5"]);
    let mut peer = server.connect();
    let mut endless = UPGRADE[..UPGRADE.len() - 2].bytes().chain("X-Slow: ".bytes()).chain(std::iter::repeat(b'x'));
    let started = Instant::now();
    while peer.is_silent() {
        assert!(started.elapsed() < common::PATIENCE, "a handshake without end was never ended");
        // The pace of this client, not a wait for the server.
        thread::sleep(Duration::from_millis(20));
        if peer.try_send([endless.next().expect("endless")]).is_err() {
            break;
        }
    }
    server.open().expect_echo(TEXT, "a newcomer");
}

#[test]
fn idle_timeout() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let server = Server::start(&["--idle-timeout", "1"]);
    let opened = Instant::now();
    let mut peer = server.open();

    let ping = peer.read_frame();
    assert_eq!(ping.first_byte, FIN | PING, "{ping:?}");
    assert!(opened.elapsed() + EARLY_AT_MOST >= TIMEOUT / 2, "pinged after {:?}", opened.elapsed());

    peer.expect_close(1001);
    assert!(opened.elapsed() + EARLY_AT_MOST >= TIMEOUT, "closed after {:?}", opened.elapsed());
    peer.send(close_frame(1001, b""));
    peer.expect_end();
}

/// A client that is gone without a word does not answer the Close frame either.
#[test]
fn idle_timeout_of_a_client_that_is_gone() {
    let server = Server::start(&["--idle-timeout", "1", "--max-connections", "1", "--when-full", "wait"]);
    let mut silent = server.open();
    // It only gets the one slot when the silent one has lost it.
    let mut next = server.open();
    next.expect_echo(TEXT, "served");
    assert_eq!(silent.read_frame().first_byte, FIN | PING);
    silent.expect_close(1001);
    silent.expect_disconnect();
}

#[test]
fn whoever_answers_pings_stays() {
    // Long enough that a busy machine answers within half of it.
    let server = Server::start(&["--idle-timeout", "4"]);
    let mut peer = server.open();
    for _ in 0..4 {
        let ping = peer.read_frame();
        assert_eq!(ping.first_byte, FIN | PING, "{ping:?}");
        peer.send(frame(FIN | PONG, &ping.payload));
    }
    peer.expect_echo(TEXT, "still here");
}

#[test]
fn whoever_sends_is_not_idle() {
    let server = Server::start(&["--idle-timeout", "4"]);
    let mut peer = server.open();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(6) {
        peer.send(frame(FIN | TEXT, b"not idle"));
        // On a busy machine the pause may have been long enough for a Ping, which needs no answer: a message is one.
        let echo = loop {
            let frame = peer.read_frame();
            if frame.first_byte != FIN | PING {
                break frame;
            }
        };
        assert_eq!(echo, Frame::new(FIN | TEXT, b"not idle"));
        // The pace of this client, not a wait for the server.
        thread::sleep(Duration::from_millis(100));
    }
}

/// A frame that is half echoed leaves no room for a ping or a Close: the connection ends without either.
#[test]
fn idle_within_a_frame() {
    const KEY: [u8; 4] = [1, 2, 3, 4];
    let server = Server::start(&["--idle-timeout", "1"]);
    let mut peer = server.open();
    let mut half = *b"the first half";
    apply_mask(KEY, &mut half);
    peer.send(masked_header(FIN | BINARY, 1000, KEY));
    peer.send(half);
    assert_eq!(peer.read_header(), (FIN | BINARY, 1000));
    let mut echo = [0; 14];
    peer.read_exact(&mut echo);
    assert_eq!(&echo, b"the first half");
    peer.expect_disconnect();
}

#[test]
fn no_idle_timeout_by_default() {
    let server = Server::start(&["--handshake-timeout", "0.2"]);
    let mut silent = server.open();
    // Two other timeouts of the same server pass meanwhile.
    for _ in 0..2 {
        server.connect().expect_disconnect();
    }
    assert!(silent.is_silent(), "a ping or worse");
    silent.expect_echo(TEXT, "still here");
}

/// A client that is told to close and does not answer costs its slot for a limited time only.
#[test]
fn an_unanswered_violation_does_not_hold_the_slot() {
    let server = Server::start(&["--workers", "1", "--max-connections", "2", "--when-full", "wait"]);
    let mut stubborn: Vec<Peer> = (0..2).map(|_| server.open()).collect();
    for peer in &mut stubborn {
        peer.send(frame(FIN | 0x3, b""));
        peer.expect_close(1002);
    }
    server.open().expect_echo(TEXT, "a newcomer");
    drop(stubborn);
}

/// Frames that would reserve memory by their promise, from many clients at once.
#[test]
fn promises_cost_nothing() {
    let server = Server::start(&["--max-message-size", "0", "--max-connections", "600"]);
    server.open().expect_echo(TEXT, "warm");
    let before = server.resident_bytes();
    let mut peers: Vec<Peer> = (0..500).map(|_| server.open()).collect();
    for peer in &mut peers {
        peer.send(masked_header(FIN | BINARY, (1 << 63) - 1, [0; 4]));
    }
    for peer in &mut peers {
        peer.send(b"x");
        peer.read_header();
        peer.read_exact(&mut [0]);
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 4 * common::MIB as u64, "500 promises of 2^63 - 1 bytes cost {grown} bytes");
}

/// Connections dropped at any point of their life leave no slot, no buffer and no memory behind.
#[test]
fn a_thousand_connections_dropped_in_random_states() {
    const ROUNDS: usize = 20;
    // A leak of slots would fill this table within a round. With receive buffers this small, all of their memory is
    // in use after the first round, and what is added later is a leak.
    let arguments = ["--max-connections", "100", "--when-full", "wait", "--backlog-per-connection", "64KiB"];
    let server = Server::start(&[&arguments[..], &["--max-message-size", "1MiB"]].concat());
    let mut random = Random::new(1);
    let mut after_first_round = 0;
    for round in 0..ROUNDS {
        for _ in 0..1000 {
            drop_in_random_state(&server, &mut random);
        }
        server.open().expect_echo(BINARY, pattern(1, 100_000));
        if round == 0 {
            after_first_round = server.resident_bytes();
        }
    }
    let grown = server.resident_bytes().saturating_sub(after_first_round);
    // Memory comes in pages of up to 2 MiB: room for two of them is what 220 bytes per connection would exceed.
    assert!(grown <= 4 * common::MIB as u64, "{} more connections cost {grown} bytes", (ROUNDS - 1) * 1000);
}

fn drop_in_random_state(server: &Server, random: &mut Random) {
    let mut peer = server.connect();
    let states = 10;
    let state = random.below(states);
    if state > 0 {
        let length = if state == 1 { random.below(UPGRADE.len()) } else { UPGRADE.len() };
        peer.send(&UPGRADE[..length]);
    }
    if state > 2 {
        peer.expect_upgrade();
    }
    let whole = frame(FIN | BINARY, &pattern(3, random.below(50_000)));
    let cut = random.below(whole.len() + 1);
    // Errors would only say that the server has closed first, as it should in some of these states.
    let _ = match state {
        4 => peer.try_send(&whole[..cut.min(14)]),
        5 => peer.try_send(&whole[..cut]),
        6 => peer.try_send(whole.repeat(4)),
        7 => peer.try_send(frame(FIN | CLOSE, b"")),
        8 => peer.try_send(frame(FIN | 0x3, &whole)),
        9 => peer.try_send([frame(TEXT, "begun €".as_bytes()), frame(FIN | PING, b"?")].concat()),
        _ => Ok(()),
    };
    if random.below(2) == 0 {
        peer.reset();
    }
}

/// A connection whose peer has just left must not get the Ping or the Close that was due.
#[test]
fn peers_that_leave_when_they_are_due_for_a_ping() {
    let server = Server::start(&["--workers", "1", "--idle-timeout", "0.1"]);
    thread::scope(|scope| {
        for index in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let mut random = Random::new(index);
                for _ in 0..20 {
                    let peer = server.open();
                    thread::sleep(Duration::from_millis(30 + random.below(90) as u64)); // the idleness that is tested
                    drop(peer);
                }
            });
        }
    });
    assert_eq!(server.stop().code, Some(0));
}

/// The time that a client took for its handshake is not idleness.
#[test]
fn the_idle_timeout_counts_from_the_upgrade() {
    let server = Server::start(&["--idle-timeout", "1", "--handshake-timeout", "10"]);
    let mut peer = server.connect();
    thread::sleep(Duration::from_millis(1200)); // longer than the idle timeout
    peer.upgrade();
    peer.expect_frame(FIN | PING, b"");
}
