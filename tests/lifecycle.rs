//! The lifecycle of a server: workers, signals, the drain, the summary.

mod attacks;
mod common;

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use attacks::farewell;
use common::frames::{BINARY, FIN, TEXT, apply_mask, close_frame, frame, masked_header};
use common::peer::{Frame, Peer};
use common::server::{Exit, Server};
use common::{KIB, pattern};
use rustix::process::Signal;
use tungstenite::Message;

/// The figures of the summary line: connections, messages, bytes.
fn summary(exit: &Exit) -> [u64; 3] {
    let line = exit.stdout.lines().find(|line| line.starts_with("served "));
    let line = line.unwrap_or_else(|| panic!("no summary line\n{exit}"));
    let figures: Vec<u64> = line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    figures.get(..3).and_then(|figures| figures.try_into().ok()).unwrap_or_else(|| panic!("three figures: {line}"))
}

/// What everybody gets when the server goes, and what it expects in return.
fn expect_farewell(peer: &mut Peer) {
    peer.expect_close(1001);
    peer.send(close_frame(1001, b""));
    peer.expect_end();
}

/// Has each peer send its messages, and waits until the server's kernel has them all.
fn send_all(peers: &mut [Peer], messages: u64, payload: impl Fn(u64, u64) -> Vec<u8>) {
    for (index, peer) in (0..).zip(&mut *peers) {
        for number in 0..messages {
            peer.send(frame(FIN | BINARY, &payload(index, number)));
        }
    }
    for peer in peers {
        peer.await_acknowledgement();
    }
}

/// Insists on the echo of all that [`send_all`] has sent, a farewell to everybody, and an orderly end.
fn expect_all(server: Server, peers: &mut [Peer], messages: u64, payload: impl Fn(u64, u64) -> Vec<u8>) {
    for (index, peer) in (0..).zip(&mut *peers) {
        for number in 0..messages {
            peer.expect_frame(FIN | BINARY, payload(index, number));
        }
        expect_farewell(peer);
    }
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit}");
    let peers = peers.len() as u64;
    assert_eq!(summary(&exit)[..2], [peers, peers * messages], "{exit}");
}

#[test]
fn the_summary_counts_what_was_served() {
    let server = Server::start(&[]);
    for _ in 0..3 {
        let mut client = server.client();
        for _ in 0..5 {
            client.send(Message::binary(pattern(1, 1000))).expect("sent");
            client.read().expect("an echo");
        }
        client.close(None).expect("sent");
        while client.read().is_ok() {}
    }
    let exit = server.stop();
    let [connections, messages, bytes] = summary(&exit);
    assert_eq!((connections, messages), (3, 15), "{exit}");
    assert!((15_000..20_000).contains(&bytes), "{exit}");
}

#[test]
fn nothing_served_is_an_orderly_end_too() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(&[]);
        server.signal(signal);
        let exit = server.wait();
        assert_eq!(exit.code, Some(0), "{exit}");
        assert_eq!(summary(&exit), [0, 0, 0], "{exit}");
    }
}

#[test]
fn everybody_is_told_to_go() {
    let server = Server::start(&["--drain-timeout", "300"]);
    let address = server.address();
    let mut idle: Vec<Peer> = (0..50).map(|_| server.open()).collect();
    let mut connected: Vec<Peer> = (0..5).map(|_| server.connect()).collect();
    server.signal(Signal::INT);
    for peer in &mut idle {
        expect_farewell(peer);
    }
    for peer in &mut connected {
        // No WebSocket yet, so there is nothing to close but the connection, perhaps behind an HTTP answer.
        let answer = peer.read_to_end().expect("an orderly end");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 503 "), "{answer:?}");
    }
    common::eventually("the port is closed", || TcpStream::connect(address).is_err());
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit}");
}

#[test]
fn tungstenite_is_told_to_go() {
    let server = Server::start(&[]);
    let mut client = server.client();
    server.signal(Signal::TERM);
    match client.read() {
        Ok(Message::Close(Some(close))) => assert_eq!(u16::from(close.code), 1001),
        other => panic!("a Close expected, {other:?} received"),
    }
    assert!(matches!(client.read(), Err(tungstenite::Error::ConnectionClosed)));
    assert_eq!(server.wait().code, Some(0));
}

/// Also what the server's kernel has received and the server itself has not read yet.
#[test]
fn what_was_sent_before_the_signal_is_echoed() {
    const PEERS: u64 = 100;
    const MESSAGES: u64 = 20;
    let payload = |peer, number| pattern(peer * MESSAGES + number, 500);
    let server = Server::start(&["--drain-timeout", "300"]);
    let mut peers: Vec<Peer> = (0..PEERS).map(|_| server.open()).collect();
    send_all(&mut peers, MESSAGES, payload);
    server.signal(Signal::TERM);
    expect_all(server, &mut peers, MESSAGES, payload);
}

/// The signal finds a server whose sockets hold more than a worker receives in a turn: it was not running for a moment.
#[test]
fn what_waits_in_sockets_at_the_signal_is_echoed() {
    const PEERS: u64 = 60;
    const MESSAGES: u64 = 4;
    // A window of 64 KiB is what a new socket offers: this fits in without being received.
    let payload = |peer, number| pattern(peer * MESSAGES + number, 12 * KIB);
    let server = Server::start(&["--drain-timeout", "300", "--workers", "1"]);
    let mut peers: Vec<Peer> = (0..PEERS).map(|_| server.open()).collect();
    server.signal(Signal::STOP);
    send_all(&mut peers, MESSAGES, payload);
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    expect_all(server, &mut peers, MESSAGES, payload);
}

/// A handler would run on any thread, also on a worker with a descriptor table of its own.
#[test]
fn no_thread_runs_a_signal_handler() {
    let server = Server::start(&[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a running server");
    let mask = |name: &str| {
        let field = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
        u64::from_str_radix(field.trim(), 16).expect("a mask")
    };
    for signal in [Signal::TERM, Signal::INT] {
        let bit = 1 << (signal.as_raw() - 1);
        assert_eq!(mask("SigCgt:") & bit, 0, "{signal:?} has a handler");
        assert_ne!(mask("SigBlk:") & bit, 0, "{signal:?} is not blocked");
    }
    server.stop();
}

/// A Close frame cannot interrupt a frame: the rest of it is awaited, and echoed.
#[test]
fn a_frame_that_is_under_way_is_finished() {
    const KEY: [u8; 4] = [9, 8, 7, 6];
    let server = Server::start(&["--drain-timeout", "300"]);
    let mut witness = server.open();
    let mut peer = server.open();
    let payload = pattern(1, 1000);
    let mut masked = payload.clone();
    apply_mask(KEY, &mut masked);
    peer.send(masked_header(FIN | BINARY, 1000, KEY));
    peer.send(&masked[..500]);
    assert_eq!(peer.read_header(), (FIN | BINARY, 1000));
    let mut echo = vec![0; 1000];
    peer.read_exact(&mut echo[..500]);

    server.signal(Signal::TERM);
    expect_farewell(&mut witness);
    peer.send(&masked[500..]);
    peer.read_exact(&mut echo[500..]);
    assert!(echo == payload, "the echo differs");
    expect_farewell(&mut peer);
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit}");
}

/// Echoes that wait for a slow reader are delivered before the farewell.
#[test]
fn a_backlog_is_delivered_first() {
    let server = Server::start(&["--drain-timeout", "300"]);
    let mut peer = server.open();
    let payload = pattern(2, 64 * KIB);
    let count = 30;
    for _ in 0..count {
        peer.send(frame(FIN | BINARY, &payload));
    }
    peer.await_acknowledgement();
    server.signal(Signal::TERM);
    for index in 0..count {
        assert!(peer.read_message() == Frame::new(FIN | BINARY, &payload[..]), "message {index} differs");
    }
    expect_farewell(&mut peer);
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit}");
}

#[test]
fn the_drain_ends_with_its_timeout() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let server = Server::start(&["--drain-timeout", "1"]);
    let mut silent = server.open();
    let mut half_sent = server.open();
    half_sent.send(&frame(FIN | BINARY, &[0; 1000])[..500]);
    let mut polite = server.open();
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    expect_farewell(&mut polite);
    silent.expect_close(1001);
    // No answer from this one.
    let exit = server.wait();
    assert!(signalled.elapsed() >= TIMEOUT, "the drain took only {:?}", signalled.elapsed());
    assert_eq!(exit.code, Some(0), "{exit}");
    silent.expect_disconnect();
    summary(&exit);
}

#[test]
fn the_drain_ends_with_the_last_client() {
    let server = Server::start(&["--drain-timeout", "300"]);
    let mut peers: Vec<Peer> = (0..20).map(|_| server.open()).collect();
    server.signal(Signal::TERM);
    for (index, mut peer) in peers.drain(..).enumerate() {
        peer.expect_close(1001);
        match index % 3 {
            0 => peer.send(close_frame(1001, b"")),
            1 => peer.reset(),
            _ => drop(peer),
        }
    }
    // Far less than the timeout: `wait` gives up long before.
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit}");
}

#[test]
fn a_second_signal_ends_the_drain() {
    for second in [Signal::TERM, Signal::INT] {
        let server = Server::start(&["--drain-timeout", "300"]);
        let mut silent = server.open();
        server.signal(Signal::TERM);
        silent.expect_close(1001);
        // It counts a second after the first.
        while !server.has_ended() {
            server.signal(second);
            thread::sleep(Duration::from_millis(50));
        }
        let exit = server.wait();
        assert_eq!(exit.code, Some(130), "{exit}");
        silent.expect_disconnect();
    }
}

/// `timeout`, `npm run` and `tini -g` send a signal to the process and to its group.
#[test]
fn a_signal_that_comes_twice_is_one() {
    let moment = Duration::from_secs(1);
    for _ in 0..10 {
        let server = Server::start(&[]);
        let mut peer = server.open();
        let first_at = Instant::now();
        server.signal(Signal::TERM);
        server.await_stderr("stopping");
        server.signal(Signal::TERM);
        if first_at.elapsed() >= moment {
            continue; // The machine is too busy for that: once more.
        }
        server.await_stderr("taken for the same");
        peer.expect_close(1001);
        peer.send(close_frame(1001, b""));
        peer.expect_end();
        let exit = server.wait();
        assert_eq!(exit.code, Some(0), "{exit}");
        return;
    }
    panic!("two signals could not be sent within {moment:?}, ten times");
}

/// With traffic on all connections at the time of the signal. What is sent later may come too late, but never gets
/// another answer than its echo, and a Close behind it.
#[test]
fn the_drain_under_load() {
    const CLIENTS: usize = 1000;
    let server = Server::start(&["--drain-timeout", "300"]);
    let outcome = farewell::run(server.address(), CLIENTS, || server.signal(Signal::TERM));
    assert!(outcome.is_as_promised(), "{outcome:?}");
    assert!(outcome.sent_before >= 2 * CLIENTS as u64, "no traffic: {outcome:?}");
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit}");
    assert_eq!(summary(&exit)[..2], [CLIENTS as u64, outcome.echoed], "{exit}");
}

/// Killed with connections open, it comes back on the same port at once, and what its clients see is an end.
#[test]
fn a_restart_after_a_kill() {
    let server = Server::start(&[]);
    let address = server.address();
    let mut peers: Vec<Peer> = (0..100).map(|_| server.open()).collect();
    for peer in &mut peers {
        peer.send(frame(FIN | BINARY, b"under way"));
    }
    server.signal(Signal::KILL);
    assert_eq!(server.wait().code, None);
    let again = Server::launch(common::server::command(&["serve", "--listen", &address.to_string()]));
    again.open().expect_echo(TEXT, "back");
    for mut peer in peers {
        let echo = peer.read_to_end().unwrap_or_default();
        assert!(echo.is_empty() || echo == b"\x82\x09under way", "{echo:02x?}");
    }
}

/// What a killed server's port is like while the kernel has not closed its rings yet. On an address of this test's own, no
/// connection of another takes the port in between.
#[test]
fn a_port_that_is_given_back_late() {
    let holder = TcpListener::bind("127.0.0.2:0").expect("a free port");
    let address = holder.local_addr().expect("bound").to_string();
    let command = common::server::command(&["serve", "--listen", &address]);
    let server = Server::launch_waiting(command, &format!("{address} is in use"), || drop(holder));
    assert_eq!(server.address().to_string(), address);
    server.open().expect_echo(TEXT, "served");
    assert_eq!(server.stop().stderr.matches("is in use").count(), 1, "one line is enough");
}

/// It is not heard at the end of the ten seconds, but at once.
#[test]
fn a_signal_ends_the_wait_for_a_port() {
    let holder = TcpListener::bind("127.0.0.2:0").expect("a free port");
    let address = holder.local_addr().expect("bound").to_string();
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let exit = common::server::end_while_waiting(
            common::server::command(&["serve", "--listen", &address]),
            &format!("{address} is in use"),
            signal,
        );
        assert_eq!(exit.code, Some(0), "{exit}");
        assert!(exit.stderr.contains("told to end") && exit.stdout.is_empty(), "{exit}");
    }
}

#[test]
fn bare_tcp_drains_too() {
    let server = Server::start(&["--protocol", "tcp", "--drain-timeout", "300"]);
    let mut peer = server.connect();
    peer.send(b"served");
    peer.read_exact(&mut [0; 6]);
    peer.send(b"sent before");
    peer.await_acknowledgement();
    server.signal(Signal::TERM);
    assert_eq!(peer.read_to_end().expect("an orderly end"), b"sent before");
    drop(peer);
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn the_port_is_free_again_at_once() {
    let server = Server::start(&[]);
    let address = server.address();
    let mut peer = server.open();
    server.signal(Signal::TERM);
    expect_farewell(&mut peer);
    assert_eq!(server.wait().code, Some(0));
    // The closed connection lingers in TIME_WAIT on the server's side.
    let again = Server::launch(common::server::command(&["serve", "--listen", &address.to_string()]));
    again.open().expect_echo(TEXT, "back");
}

#[test]
fn workers_share_the_connections() {
    let server = Server::start(&["--workers", "2"]);
    let before = server.cpu_time_by_thread();
    let mut peers: Vec<Peer> = (0..64).map(|_| server.open()).collect();
    let busy_threads = || {
        let worked = |(thread, now): &(u32, Duration)| {
            now.saturating_sub(before.get(thread).copied().unwrap_or_default()) > Duration::from_millis(5)
        };
        server.cpu_time_by_thread().into_iter().filter(worked).count()
    };
    common::eventually("two threads have worked", || {
        for peer in &mut peers {
            peer.expect_echo(TEXT, "work");
        }
        busy_threads() >= 2
    });
}

#[test]
fn idle_connections_cost_no_processor_time() {
    let server = Server::start(&["--workers", "2"]);
    let mut peers: Vec<Peer> = (0..100).map(|_| server.open()).collect();
    for peer in &mut peers {
        peer.expect_echo(TEXT, "awake");
    }
    let before = server.cpu_time();
    let window = Duration::from_secs(1);
    thread::sleep(window); // what is measured is time without an event
    let spent = server.cpu_time().saturating_sub(before);
    assert!(spent < window / 10, "{spent:?} of processor time within {window:?} of silence");
}
