//! permessage-deflate (RFC 7692) on real connections, with flate2 as the client: what is negotiated, what comes back, what is
//! refused, and what a bomb may cost.

mod common;
#[cfg(feature = "tls")]
#[path = "deflate/through_tls.rs"]
mod through_tls;

use common::frames::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, close_frame, frame};
use common::inflate::Inflater;
use common::peer::{Answer, Peer, UPGRADE};
use common::server::{Server, command};
use common::{MIB, Random, pattern, pattern_text};
use flate2::{Compress, Compression, FlushCompress};

const RSV1: u8 = 0x40;
/// What a compressed message ends with, and does not carry.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
const BROWSER: &str = "permessage-deflate; client_max_window_bits";
const STATELESS: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// How compressed messages are dealt with where they are.
const MODES: [&str; 3] = ["pass", "verify", "recompress"];

/// A client that compresses.
struct Client {
    peer: Peer,
    compressor: Compress,
    inflater: Inflater,
    /// Whether each message begins anew.
    is_stateless: bool,
}

impl Client {
    /// Makes this offer, which has to be accepted.
    fn open(server: &Server, offer: &str) -> Self {
        let (mut peer, answer) = offer_to(server, offer);
        let answer = answer.header("sec-websocket-extensions").unwrap_or_else(|| panic!("{offer} is declined"));
        let bits = |name: &str| {
            let value = answer.split("; ").find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            value.map_or(15, |bits| bits.parse().expect("a number"))
        };
        let (window, server_window) = (bits("client_max_window_bits"), bits("server_max_window_bits"));
        peer.takes_compressed = true;
        Self {
            peer,
            compressor: Compress::new_with_window_bits(Compression::new(6), false, window),
            // As small as the answer allows: references beyond it are found.
            inflater: Inflater::new(server_window),
            is_stateless: answer.contains("client_no_context_takeover"),
        }
    }

    fn compress(&mut self, message: &[u8]) -> Vec<u8> {
        if self.is_stateless {
            self.compressor.reset();
        }
        compress_with(&mut self.compressor, message)
    }

    fn inflate(&mut self, payload: &[u8]) -> Vec<u8> {
        if self.is_stateless {
            self.inflater.reset();
        }
        self.inflater.inflate(payload).expect("a valid stream")
    }

    /// Insists on the echo of a message that was sent compressed.
    fn expect(&mut self, opcode: u8, message: &[u8]) {
        let echo = self.peer.read_message();
        assert_eq!(echo.first_byte, FIN | RSV1 | opcode);
        assert!(self.inflate(&echo.payload) == message, "{} bytes came back different", message.len());
    }

    fn expect_echo(&mut self, opcode: u8, message: &[u8]) {
        let payload = self.compress(message);
        self.peer.send(frame(FIN | RSV1 | opcode, &payload));
        self.expect(opcode, message);
    }
}

fn compress_with(compressor: &mut Compress, message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(message.len() + message.len() / 8 + 100);
    compressor.compress_vec(message, &mut payload, FlushCompress::Sync).expect("a compressor takes all");
    if payload.is_empty() {
        return vec![0]; // a flush right behind another one gives nothing: an empty message (RFC 7692 section 7.2.3.6)
    }
    assert!(payload.ends_with(&TAIL), "a flush ends with an empty block");
    payload.truncate(payload.len() - TAIL.len());
    payload
}

fn compress(message: &[u8]) -> Vec<u8> {
    compress_with(&mut Compress::new_with_window_bits(Compression::new(6), false, 15), message)
}

/// Connects with these offers.
fn offer_to(server: &Server, offers: &str) -> (Peer, Answer) {
    let mut peer = server.connect();
    peer.send(UPGRADE.replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Extensions: {offers}\r\n\r\n")));
    let answer = peer.read_answer();
    (peer, answer)
}

fn start(mode: &str, flags: &[&str]) -> Server {
    Server::start(&[&["--deflate", mode], flags].concat())
}

#[test]
fn offers_and_their_answers() {
    let both = |bits| format!("{STATELESS}; server_max_window_bits=10; client_max_window_bits={bits}");
    let answers = [
        ("pass", BROWSER, Some(STATELESS.to_owned())),
        ("pass", "permessage-deflate", Some(STATELESS.to_owned())),
        ("pass", "permessage-deflate; server_max_window_bits=10; client_max_window_bits", Some(both(10))),
        ("verify", "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9", Some(both(9))),
        ("pass", "permessage-deflate; server_max_window_bits=10", None),
        ("pass", "permessage-deflate; server_max_window_bits=10, permessage-deflate", Some(STATELESS.to_owned())),
        (
            "recompress",
            "permessage-deflate; server_max_window_bits=10",
            Some(format!("{STATELESS}; server_max_window_bits=10")),
        ),
        ("pass", "permessage-deflate; server_max_window_bits=8; client_max_window_bits", None),
        ("pass", "permessage-deflate; other", None),
        ("pass", "permessage-bzip2", None),
        ("off", BROWSER, None),
    ];
    for (mode, offer, expected) in answers {
        let server = start(mode, &[]);
        let (mut peer, answer) = offer_to(&server, offer);
        assert_eq!(answer.status, 101);
        assert_eq!(answer.header("sec-websocket-extensions"), expected.as_deref(), "{mode}: {offer}");
        peer.expect_echo(TEXT, "either way");
        if expected.is_none() {
            peer.send(frame(FIN | RSV1 | TEXT, &compress(b"uninvited")));
            peer.expect_close(1002);
        }
    }
    let server = start("pass", &[]);
    let (mut peer, answer) = offer_to(&server, "permessage-deflate; =");
    assert_eq!(answer.status, 400, "{answer:?}");
    peer.expect_end();
}

#[test]
fn every_window_and_either_context_with_plain_messages_between() {
    for flags in [&["--deflate", "pass"][..], &["--deflate", "pass", "--deflate-context"], &["--deflate", "recompress"]]
    {
        let server = Server::start(flags);
        for bits in 9..=15 {
            let offer = format!("permessage-deflate; server_max_window_bits={bits}; client_max_window_bits");
            let mut client = Client::open(&server, &offer);
            assert_eq!(client.is_stateless, !flags.contains(&"--deflate-context"));
            let mut random = Random::new(bits);
            for round in 0..12 {
                // The same words again and again, farther apart than small windows reach.
                let text = ["once more ", &pattern_text(round % 3, random.below(30_000))].concat();
                client.expect_echo(TEXT, text.as_bytes());
                client.peer.expect_echo(TEXT, &text[..10]);
                client.expect_echo(BINARY, &[text.as_bytes(), &pattern(round, 900)].concat());
                client.peer.expect_echo(BINARY, pattern(round, 300));
            }
        }
    }
}

#[test]
fn compressed_bytes_come_back_as_they_are() {
    let server = start("pass", &[]);
    let mut client = Client::open(&server, BROWSER);
    for opcode in [TEXT, BINARY] {
        let payload = client.compress(pattern_text(1, 5000).as_bytes());
        client.peer.send(frame(FIN | RSV1 | opcode, &payload));
        client.peer.expect_frame(FIN | RSV1 | opcode, &payload);
    }
    // It is not inflated.
    client.peer.send(frame(FIN | RSV1 | BINARY, &vec![0xff; 70_000]));
    client.peer.expect_frame(FIN | RSV1 | BINARY, vec![0xff; 70_000]);
}

/// Receives of a byte each, and fragments of a byte each, with a Ping between any two.
#[test]
fn cuts_and_fragments_at_each_byte() {
    let text = pattern_text(5, 300);
    for mode in MODES {
        let server = start(mode, &["--workers", "1", "--receive-buffers", "16x1"]);
        let mut client = Client::open(&server, BROWSER);
        for opcode in [TEXT, BINARY] {
            client.expect_echo(opcode, text.as_bytes());
            let payload = client.compress(text.as_bytes());
            for at in 0..payload.len() {
                let first = if at == 0 { RSV1 | opcode } else { CONTINUATION };
                client.peer.send([frame(first, &payload[at..=at]), frame(FIN | PING, &[at as u8])].concat());
            }
            client.peer.send(frame(FIN | CONTINUATION, b""));
            let (mut echo, mut pongs, mut is_over) = (Vec::new(), 0, false);
            while !is_over {
                let next = client.peer.read_frame();
                if next.first_byte == FIN | PONG {
                    assert_eq!(next.payload, [pongs as u8]);
                    pongs += 1;
                    continue;
                }
                assert_eq!(next.first_byte & !FIN, if echo.is_empty() { RSV1 | opcode } else { CONTINUATION });
                is_over = next.first_byte & FIN != 0;
                echo.extend(next.payload);
            }
            assert_eq!(pongs, payload.len());
            assert_eq!(client.inflate(&echo), text.as_bytes());
        }
    }
}

#[test]
fn blocks_of_every_kind_and_empty_messages() {
    let hello = [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
        // The block says that it is the last (RFC 7692, section 7.2.3.4).
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
    ];
    for mode in MODES {
        let server = start(mode, &[]);
        let mut client = Client::open(&server, BROWSER);
        for payload in hello {
            client.peer.send(frame(FIN | RSV1 | TEXT, payload));
            client.expect(TEXT, b"Hello");
        }
        for payload in [&[0][..], &[]] {
            client.peer.send(frame(FIN | RSV1 | TEXT, payload));
            client.expect(TEXT, b"");
        }
    }
}

#[test]
fn refusals_in_the_midst_of_a_message() {
    let good = compress(b"all is well, and goes on for a while");
    let refusals = [
        (1002, frame(CONTINUATION | RSV1, &good)),
        (1002, frame(FIN | PING | RSV1, b"")),
        (1002, frame(FIN | TEXT | RSV1, &good)),
        (1002, frame(CONTINUATION | 0x20, &good)),
        (1007, frame(CONTINUATION, &[0x07; 20])),
        (1009, frame(CONTINUATION, &compress(&vec![b'x'; 2 * MIB]))),
        (1007, frame(FIN | CONTINUATION, &compress(b"\xf0\x9f"))),
    ];
    for mode in MODES {
        let server = start(mode, &["--max-message-size", "1MiB"]);
        for (code, refused) in &refusals {
            let mut client = Client::open(&server, BROWSER);
            // A block that ends with a byte, so that another can follow.
            client.peer.send([frame(RSV1 | TEXT, &[&good[..], &TAIL].concat()), refused.clone()].concat());
            loop {
                let next = client.peer.read_frame();
                if next.first_byte & 0x8 != 0 {
                    let received = u16::from_be_bytes([next.payload[0], next.payload[1]]);
                    assert_eq!((next.first_byte, received), (FIN | CLOSE, *code), "{mode}: {refused:02x?}");
                    break;
                }
            }
            client.peer.expect_end();
        }
        Client::open(&server, BROWSER).expect_echo(TEXT, b"still there");
    }
}

/// Clients whose messages are a thousand times as large as they look, and one that is interactive beside them.
#[test]
fn bombs_take_their_turns_and_no_memory() {
    let bomb = frame(FIN | RSV1 | TEXT, &compress(&vec![0; 4 * MIB]));
    for mode in ["pass", "recompress"] {
        let server = start(mode, &["--workers", "1", "--max-message-size", "4MiB"]);
        let mut bystander = Client::open(&server, BROWSER);
        bystander.expect_echo(TEXT, b"before");
        let before = server.resident_bytes();
        let mut clients: Vec<_> = (0..20).map(|_| Client::open(&server, BROWSER)).collect();
        for client in &mut clients {
            client.peer.send([&bomb[..], &frame(FIN | PING, b"behind")].concat());
        }
        for _ in 0..20 {
            bystander.expect_echo(TEXT, b"in between");
        }
        for client in &mut clients {
            client.expect(TEXT, &vec![0; 4 * MIB]);
            client.peer.expect_frame(FIN | PONG, b"behind");
        }
        // One byte too many.
        clients[0].peer.send(frame(FIN | RSV1 | TEXT, &compress(&vec![0; 4 * MIB + 1])));
        while clients[0].peer.read_frame().first_byte != FIN | CLOSE {}
        let grown = server.peak_resident_bytes().saturating_sub(before);
        assert!(grown < 32 * MIB as u64, "{mode}: {grown} bytes for bombs of 80 MiB");
        drop((clients, bystander));
        server.stop();
    }
}

#[test]
fn what_waits_is_echoed_to_a_client_that_has_shut_down_its_side() {
    let bomb = vec![b' '; 3 * MIB];
    let server = start("pass", &["--workers", "1"]);
    let mut client = Client::open(&server, BROWSER);
    client.peer.send([frame(FIN | RSV1 | TEXT, &compress(&bomb)), frame(FIN | TEXT, b"last")].concat());
    client.peer.shut_down_sending();
    client.expect(TEXT, &bomb);
    client.peer.expect_frame(FIN | TEXT, b"last");
    client.peer.expect_end();
}

#[test]
fn what_waits_is_echoed_before_the_server_stops() {
    let server = start("pass", &["--workers", "1"]);
    let mut client = Client::open(&server, BROWSER);
    let bomb = vec![b' '; 8 * MIB];
    client.peer.send([frame(FIN | RSV1 | TEXT, &compress(&bomb)), frame(FIN | PING, b"seen")].concat());
    client.peer.await_acknowledgement();
    server.signal(rustix::process::Signal::TERM);
    client.expect(TEXT, &bomb);
    client.peer.expect_frame(FIN | PONG, b"seen");
    client.peer.expect_close(1001);
    client.peer.send(close_frame(1001, b""));
    client.peer.expect_end();
    assert_eq!(server.wait().code, Some(0));
}

/// An inflater takes 48 KiB while its message is open; all of them together count as pending output.
#[test]
fn messages_that_stay_open_take_no_more_than_the_backlog() {
    let flags = ["--workers", "1", "--backlog-total", "1MiB", "--backlog-per-connection", "64KiB"];
    let server = start("pass", &flags);
    let mut clients: Vec<_> = (0..30).map(|_| Client::open(&server, BROWSER)).collect();
    let refused = clients.iter_mut().map(|client| u32::from(!stays_open(client))).sum::<u32>();
    assert!((5..15).contains(&refused), "{refused} of 30 are refused");
    drop(clients);
    common::eventually("there is room again", || stays_open(&mut Client::open(&server, BROWSER)));
}

/// Begins a message, and says whether the server is content with that: else it closes, with 1013.
fn stays_open(client: &mut Client) -> bool {
    let payload = compress(b"a text that does not end");
    client.peer.send(frame(RSV1 | TEXT, &payload));
    client.peer.expect_frame(RSV1 | TEXT, &payload);
    client.peer.send(frame(FIN | PING, b""));
    let next = client.peer.read_frame();
    if next.first_byte == FIN | PONG {
        return true;
    }
    assert_eq!((next.first_byte, &next.payload[..2]), (FIN | CLOSE, &1013u16.to_be_bytes()[..]));
    false
}

/// Of two servers one counts what is compressed; both say at their end what they have done.
#[test]
fn the_mode_and_what_it_came_to_stand_in_the_summary() {
    let server = start("verify", &[]);
    let (mut client, mut plain) = (Client::open(&server, BROWSER), server.open());
    for round in 0..3 {
        client.expect_echo(if round == 0 { TEXT } else { BINARY }, b"compressed");
        client.peer.expect_echo(TEXT, "plain");
        plain.expect_echo(TEXT, "plain");
    }
    drop((client, plain));
    let exit = server.stop();
    assert!(exit.stdout.contains("; deflate verify: 1 connections, 3 compressed messages"), "{exit}");
    let exit = Server::start(&[]).stop();
    assert!(exit.stdout.contains("served 0 connections") && !exit.stdout.contains("deflate"), "{exit}");
}

#[test]
fn the_mode_stands_in_the_start_up_line() {
    assert!(!Server::start(&[]).start_up_line().contains("deflate"));
    assert!(start("pass", &[]).start_up_line().contains(" | deflate pass"));
    let with_context = start("verify", &["--deflate-context"]).start_up_line();
    assert!(with_context.contains(" | deflate verify with context"), "{with_context}");
    for flags in [&["--deflate-context"][..], &["--deflate", "recompress", "--deflate-context"]] {
        let exit = common::server::run_to_end(command(&[&["--listen", "127.0.0.1:0"], flags].concat()));
        assert_eq!(exit.code, Some(2), "{exit}");
        assert!(exit.stderr.contains("--deflate-context"), "{exit}");
    }
}
