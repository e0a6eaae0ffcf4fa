//! Slow readers: clients that send and read late, or never. Their pending output is bounded in all cases, no other client
//! waits for them, and a client that sends a whole message before it reads is served like any other.

mod attacks;
mod common;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use attacks::{Crowd, attack};
use common::frames::{BINARY, CONTINUATION, FIN, TEXT, frame, masked_header};
use common::peer::{Frame, Peer, prepare};
use common::server::Server;
use common::{KIB, MIB, pattern, pattern_text};
use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};

/// What `--backlog-total` is in these tests.
const TOTAL: u64 = 2 * MIB as u64;
/// What may come on top of it: a MiB for each of two workers, which they may receive in the turn that goes beyond it, and
/// what an allocator needs to keep so many small pieces (rounding, and a region for each size of block).
const SLACK: u64 = 6 * MIB as u64;

fn start(arguments: &[&str]) -> Server {
    let server = Server::start(
        &[&["--workers", "2", "--backlog-total", "2MiB", "--max-message-size", "16MiB"], arguments].concat(),
    );
    server.open().expect_echo(BINARY, pattern(1, MIB)); // what it always holds is there
    server
}

/// Runs `then` while the attack of this name goes on, once `is_time` says that the attackers have come far enough.
fn beside_an_attack(
    server: &Server,
    (name, clients): (&str, usize),
    is_time: impl FnMut(&Crowd) -> bool + Send,
    then: impl FnOnce() + Send,
) {
    let crowd = Crowd::new(server.address(), attack(name).expect("a name in the list"), clients, None, 1);
    thread::scope(|scope| {
        let attackers = scope.spawn(|| crowd.run());
        let outcome = scope.spawn(|| {
            let mut is_time = is_time;
            common::eventually("they have come far enough", || is_time(&crowd));
            then();
        });
        let outcome = outcome.join();
        crowd.stop();
        let tally = attackers.join().expect("an attack that goes on to its end");
        outcome.expect("the server does as it should");
        assert_eq!(tally.failed, 0, "no client could have been refused: {tally:?}");
    });
}

/// A message that is read while it is sent, as by most clients.
fn time_of_a_large_message(peer: &mut Peer) -> Duration {
    let payload = pattern(2, 8 * MIB);
    let message = frame(FIN | BINARY, &payload);
    let started = Instant::now();
    peer.while_sending(&message, |peer| {
        assert!(peer.read_message() == Frame::new(FIN | BINARY, payload), "the echo differs");
    });
    started.elapsed()
}

/// What is kept of frames that a receive has cut is kept in memory of its own, message by message, and counts like all else.
#[test]
fn frames_cut_between_receives_count_like_others() {
    const CLIENTS: usize = 200;
    // The two kernels hold some 55 KiB for each of them. What comes then is for the server to keep: twice what it may.
    const SENT: u64 = CLIENTS as u64 * 55 * KIB as u64 + 2 * (TOTAL + SLACK);
    // On a machine that is too busy for that, less has to do.
    const LONG: Duration = Duration::from_secs(45);
    let server = start(&[]);
    let mut innocent = server.open();
    let alone = (0..3).map(|_| time_of_a_large_message(&mut innocent)).max().expect("three");
    let before = server.resident_bytes();
    let grown = || server.resident_bytes().saturating_sub(before);
    let is_within_limits = || grown() <= TOTAL + SLACK;
    let started = Instant::now();
    let is_time = |crowd: &Crowd| {
        crowd.bytes_sent.load(Ordering::Relaxed) > SENT || !is_within_limits() || started.elapsed() > LONG
    };
    beside_an_attack(&server, ("cut-frames", CLIENTS), is_time, || {
        assert!(
            is_within_limits(),
            "--backlog-total {TOTAL}: {} bytes for {CLIENTS} slow readers, and rising",
            grown()
        );
        // Room for it is made in small steps, if at all.
        let during = (0..3).map(|_| time_of_a_large_message(&mut innocent)).min().expect("three");
        assert!(during < 5 * alone + Duration::from_millis(200), "8 MiB took {during:?}, and {alone:?} without them");
        server.open().expect_echo(TEXT, "a newcomer");
        assert!(is_within_limits(), "{} bytes after another's message", grown());
    });
    common::eventually("the memory is back", || grown() < SLACK);
    innocent.expect_echo(TEXT, "unmoved");
}

/// Clients that send without a pause and read nothing, on connections that hold little of what they do not read.
struct Flood {
    peers: Vec<Peer>,
    /// How much of the current message each has sent.
    sent: Vec<usize>,
    message: Vec<u8>,
}

impl Flood {
    fn new(server: &Server, clients: usize) -> Self {
        let peers: Vec<Peer> = (0..clients).map(|_| open_narrow(server)).collect();
        for peer in &peers {
            peer.socket().set_nonblocking(true).expect("a TCP socket");
        }
        Self { peers, sent: vec![0; clients], message: frame(FIN | BINARY, &pattern(1, 4 * KIB)) }
    }

    /// Sends what the connections take now. Returns whether that was anything.
    fn go_on(&mut self) -> bool {
        let mut is_anything = false;
        for (peer, sent) in self.peers.iter().zip(&mut self.sent) {
            while let Ok(len) = peer.socket().write(&self.message[*sent..]) {
                *sent = (*sent + len) % self.message.len();
                is_anything = true;
            }
        }
        is_anything
    }
}

/// A drain receives what has arrived, but not without end from clients that take nothing.
#[test]
fn a_drain_receives_no_more_from_those_at_the_limit() {
    let server = start(&["--drain-timeout", "2"]);
    let mut flood = Flood::new(&server, 100);
    let before = server.peak_resident_bytes();
    // When the drain begins, none of them is at its limit yet, and far more than all limits allow for is on its way.
    server.signal(Signal::STOP);
    common::eventually("all that the kernel takes is sent", || !flood.go_on());
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    let is_over = AtomicBool::new(false);
    let peak = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                flood.go_on();
                thread::sleep(Duration::from_millis(1)); // the pace of these clients
            }
        });
        let peak = server.peak_until_its_end();
        is_over.store(true, Ordering::Relaxed);
        peak
    });
    let grown = peak.saturating_sub(before);
    assert!(grown < TOTAL + SLACK, "--backlog-total {TOTAL}: the drain received {grown} bytes from slow readers");
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit}");
}

/// The farewell of a server that stops comes behind the echo of what has arrived, also when the socket takes that in parts.
#[test]
fn the_last_echo_is_whole_before_the_farewell() {
    const CLIENTS: usize = 48;
    let server = Server::start(&["--workers", "1"]);
    let mut peers: Vec<_> = (0..CLIENTS).map(|_| open_narrow_with(&server, 2 * KIB)).collect();
    // From what any socket takes at once to what it cannot: both kernels' buffers are of no fixed size.
    let payloads: Vec<_> = (0..CLIENTS).map(|number| pattern(number as u64, 24 * KIB + number * 768)).collect();
    server.while_stopped(|| {
        peers.iter_mut().zip(&payloads).for_each(|(peer, payload)| peer.send(frame(FIN | BINARY, payload)));
        server.signal(Signal::TERM);
    });
    for (peer, payload) in peers.iter_mut().zip(payloads) {
        peer.expect_frame(FIN | BINARY, payload);
        peer.expect_close(1001);
    }
}

/// Slow readers come and go: one that has read all holds nothing any more when the receive buffers run short for another.
#[test]
fn a_reader_that_has_caught_up_is_none_any_more() {
    const ROUNDS: usize = 8;
    let server = Server::start(&["--workers", "1"]);
    for round in 0..ROUNDS {
        // Its last pieces stay in the receive buffers until it has read them.
        let mut late = open_narrow(&server);
        let message = Frame::new(FIN | BINARY, pattern(1, (300 + 20 * round) * KIB));
        late.send(frame(message.first_byte, &message.payload));
        assert!(late.read_message() == message, "the echo differs");
        // These have the buffers run short.
        let mut flood = Flood::new(&server, 4);
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(300) {
            flood.go_on();
        }
        late.expect_echo(TEXT, "still here");
    }
}

/// What the defaults let a client send as one message.
const MESSAGE_MAX: usize = 16 * MIB;
/// A client that cannot send for this long hangs.
const HANGS: Duration = Duration::from_secs(20);

/// A client whose own kernel holds next to nothing for it, so that all that it does not read is the server's to keep.
fn open_narrow(server: &Server) -> Peer {
    open_narrow_with(server, 64 * KIB)
}

fn open_narrow_with(server: &Server, receive_buffer: usize) -> Peer {
    let socket = Socket::new(Domain::for_address(server.address()), Type::STREAM, None).expect("a descriptor");
    socket.set_recv_buffer_size(receive_buffer).expect("a TCP socket");
    socket.set_tcp_mss(1400).expect("a TCP socket");
    socket.connect(&server.address().into()).expect("a server");
    let stream = TcpStream::from(socket);
    prepare(&stream);
    let mut peer = Peer::over(stream);
    peer.upgrade();
    peer
}

/// As blocking clients do: the whole message is sent, and then its echo is read.
fn send_whole_then_read(server: &Server, frames: &[u8], message: &Frame) {
    let mut peer = open_narrow(server);
    peer.socket().set_write_timeout(Some(HANGS)).expect("a TCP socket");
    peer.try_send(frames)
        .unwrap_or_else(|error| panic!("{} bytes could not be sent whole: {error}", message.payload.len()));
    assert!(peer.read_message() == *message, "the echo differs");
    peer.expect_echo(TEXT, "and it goes on");
}

#[test]
fn whatever_the_limit_admits_can_be_sent_before_its_echo_is_read() {
    let server = Server::start(&[]);
    let binary = pattern(1, MESSAGE_MAX);
    let text = pattern_text(2, MESSAGE_MAX).into_bytes();
    for (opcode, payload) in [(BINARY, binary), (TEXT, text)] {
        let message = Frame::new(FIN | opcode, payload);
        send_whole_then_read(&server, &frame(FIN | opcode, &message.payload), &message);
        // In pieces, as libraries send what they are given in pieces.
        let mut frames = frame(opcode, b"");
        message.payload.chunks(64 * KIB).for_each(|piece| frames.extend(frame(CONTINUATION, piece)));
        frames.extend(frame(FIN | CONTINUATION, b""));
        send_whole_then_read(&server, &frames, &message);
    }
}

/// Several of them at once: what each may need is there for all.
#[test]
fn several_can_send_before_they_read() {
    let server = Server::start(&[]);
    let message = Frame::new(FIN | BINARY, pattern(3, MESSAGE_MAX));
    let frames = frame(message.first_byte, &message.payload);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| send_whole_then_read(&server, &frames, &message));
        }
    });
}

#[test]
fn beyond_the_limit_is_an_answer_not_silence() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    peer.send(masked_header(FIN | BINARY, MESSAGE_MAX as u64 + 1, [0; 4]));
    peer.expect_close(1009);
    peer.expect_end();
}

fn start_with_stall_timeout(seconds: &str) -> Server {
    let limits = ["--max-message-size", "64KiB", "--backlog-per-connection", "64KiB"];
    Server::start(&[&["--stall-timeout", seconds], &limits[..]].concat())
}

/// Sends messages until nothing more has been taken for some time.
fn send_until_blocked(peer: &Peer) {
    let message = frame(FIN | BINARY, &pattern(1, 32 * KIB));
    let socket = SockRef::from(peer.socket());
    socket.set_write_timeout(Some(Duration::from_millis(300))).expect("a TCP socket");
    while socket.send(&message).is_ok_and(|sent| sent == message.len()) {}
}

/// A client at its limit that takes nothing for so long will take nothing any more.
#[test]
fn without_progress_for_the_stall_timeout_it_is_over() {
    let server = start_with_stall_timeout("1");
    let mut idle = server.open();
    let mut stalled = open_narrow(&server);
    send_until_blocked(&stalled);
    server.await_stderr("stall");
    // What its kernel has got is there to be read; the rest is gone.
    let mut rest = vec![0; MIB];
    common::eventually("the end of the connection", || !matches!(stalled.read_some(&mut rest), Ok(1..)));
    // Idleness is another matter.
    idle.expect_echo(TEXT, "still here");
}

/// Likewise below its limit, if it has shut down its side. To be told of that must not pass for progress.
#[test]
fn after_its_end_without_progress_for_the_stall_timeout_it_is_over() {
    let server = Server::start(&["--stall-timeout", "1"]);
    let mut stalled = open_narrow(&server);
    for _ in 0..12 {
        stalled.send(frame(FIN | BINARY, &pattern(1, MIB)));
    }
    stalled.socket().shutdown(Shutdown::Write).expect("connected");
    server.await_stderr("stall");
}

/// Slow is not stalled.
#[test]
fn with_progress_a_slow_reader_stays() {
    let server = start_with_stall_timeout("3");
    let mut slow = open_narrow(&server);
    send_until_blocked(&slow);
    let started = Instant::now();
    let mut piece = [0; 8 * KIB];
    while started.elapsed() < Duration::from_secs(7) {
        thread::sleep(Duration::from_millis(50)); // the pace of this client
        slow.read_exact(&mut piece);
    }
    assert!(!server.stderr().contains("stall"), "{}", server.output());
}
