//! Messages larger than any buffer, and clients that do not read: memory stays bounded, nothing is lost.

mod common;

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::thread;

use common::frames::{BINARY, FIN, TEXT, apply_mask, frame, masked_header};
use common::peer::{Frame, Peer, full_duplex};
use common::server::Server;
use common::{KIB, MIB, fill_pattern, pattern, pattern_text};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Bytes, Message};

/// What the server may occupy while it streams, in all: far below any of the messages here.
const RESIDENT_BYTES_MAX: u64 = 64 * MIB as u64;

const GIB: u64 = 1024 * MIB as u64;

/// An echo by tungstenite, sending and reading at the same time.
fn echo_while_sending(server: &Server, message: &Message) -> Message {
    let mut reader = server.client();
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let stream = reader.get_ref().try_clone().expect("a descriptor");
    let send = |sender| {
        let mut writer = WebSocket::from_raw_socket(sender, Role::Client, Some(config));
        writer.send(message.clone()).expect("sent");
    };
    full_duplex(&stream, send, || reader.read().expect("an echo"))
}

#[test]
fn messages_up_to_64_mib() {
    let server = Server::start(&["--max-message-size", "64MiB"]);
    for length in [MIB - 1, MIB, MIB + 1, 5 * MIB, 16 * MIB, 64 * MIB] {
        let binary = Message::binary(pattern(1, length));
        assert!(echo_while_sending(&server, &binary) == binary, "{length} bytes came back different");
        let text = Message::text(pattern_text(2, length));
        assert!(echo_while_sending(&server, &text) == text, "{length} bytes of text came back different");
    }
    let peak = server.peak_resident_bytes();
    assert!(peak < RESIDENT_BYTES_MAX, "{peak} bytes resident: the messages were kept in memory");
}

/// One frame of 1 GiB streams through a server whose memory is a fraction of that.
#[test]
fn one_frame_of_1_gib() {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let server = Server::start(&["--max-message-size", "0"]);
    let mut peer = server.open();
    let stream = peer.socket().try_clone().expect("a descriptor");
    let send = |mut sender: TcpStream| {
        sender.write_all(&masked_header(FIN | BINARY, GIB, KEY)).expect("the server reads");
        let mut piece = vec![0; MIB];
        for offset in (0..GIB).step_by(MIB) {
            fill_pattern(3, offset, &mut piece);
            apply_mask(KEY, &mut piece);
            sender.write_all(&piece).expect("the server reads");
        }
    };
    full_duplex(&stream, send, || {
        assert_eq!(peer.read_header(), (FIN | BINARY, GIB));
        let (mut piece, mut expected) = (vec![0; MIB], vec![0; MIB]);
        for offset in (0..GIB).step_by(MIB) {
            peer.read_exact(&mut piece);
            fill_pattern(3, offset, &mut expected);
            assert!(piece == expected, "the echo differs between {offset} and {}", offset + MIB as u64);
        }
    });
    peer.expect_echo(TEXT, "and it goes on");
    let peak = server.peak_resident_bytes();
    assert!(peak < RESIDENT_BYTES_MAX, "{peak} bytes resident for a message of {GIB}");
}

/// A client that sends and does not read, until it is told to. Each message's number gives its payload, so that all
/// can be checked and none has to be kept.
struct DeafClient {
    peer: Peer,
    /// What it sends: `TEXT` or `BINARY`. Text that a read cuts is echoed differently, and so are its costs.
    opcode: u8,
    /// Number of the next message to send.
    begun: u64,
    /// Number of the next echo to read.
    read: u64,
    /// What is left of the message begun last.
    rest: Bytes,
}

impl DeafClient {
    const MESSAGE_BYTES: usize = 64 * KIB;

    fn open(server: &Server, opcode: u8) -> Self {
        let peer = server.open();
        // Small buffers of its own: what is tested is what the server keeps, not what two kernels can.
        let socket = SockRef::from(peer.socket());
        socket.set_recv_buffer_size(64 * KIB).expect("a TCP socket");
        socket.set_send_buffer_size(64 * KIB).expect("a TCP socket");
        Self { peer, opcode, begun: 0, read: 0, rest: Bytes::new() }
    }

    /// `count` of them, all sending until they are blocked.
    fn open_blocked(server: &Server, opcode: u8, count: usize) -> Vec<Self> {
        let mut clients: Vec<Self> = (0..count).map(|_| Self::open(server, opcode)).collect();
        thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| client.send_until_blocked());
            }
        });
        clients
    }

    fn message(&self, index: u64) -> Frame {
        let mut payload = pattern(index, Self::MESSAGE_BYTES);
        if self.opcode == TEXT {
            for byte in &mut payload {
                *byte &= 0x7f;
            }
        }
        Frame::new(FIN | self.opcode, payload)
    }

    /// Sends until the path is full (until it has had no room for a second) or has taken 1 GiB.
    fn send_until_blocked(&mut self) -> u64 {
        let mut stream = self.peer.socket();
        stream.set_nonblocking(true).expect("a TCP socket");
        let mut sent = 0;
        while sent < GIB {
            if self.rest.is_empty() {
                let message = self.message(self.begun);
                self.rest = frame(message.first_byte, &message.payload).into();
                self.begun += 1;
            }
            match stream.write(&self.rest) {
                Ok(length) => {
                    let _ = self.rest.split_to(length);
                    sent += length as u64;
                }
                // A machine that stalls for so long ends the loop early, which the tests do not mind.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !has_room_within_a_second(stream) {
                        break;
                    }
                }
                Err(error) => panic!("sending to a server that should only block: {error}"),
            }
        }
        stream.set_nonblocking(false).expect("a TCP socket");
        sent
    }

    /// Sends the rest of the last message and reads the echo of everything, comparing every byte.
    fn read_everything(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        let unread = self.read..self.begun;
        self.read = self.begun;
        let messages: Vec<Frame> = unread.map(|index| self.message(index)).collect();
        self.peer.while_sending(&rest, |peer| {
            for (index, message) in messages.iter().enumerate() {
                assert!(peer.read_message() == *message, "the echo of message {index} of these differs");
            }
        });
        self.peer.expect_echo(TEXT, "everything read");
    }
}

fn has_room_within_a_second(stream: &TcpStream) -> bool {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(stream, PollFlags::OUT)], Some(&second)).expect("a pollable descriptor");
    ready > 0
}

#[test]
fn a_client_that_never_reads_is_blocked_and_loses_nothing() {
    let server = Server::start(&["--workers", "1"]);
    let mut bystander = server.open();
    for opcode in [BINARY, TEXT] {
        let mut deaf = DeafClient::open(&server, opcode);
        let sent = deaf.send_until_blocked();
        assert!(sent < GIB, "the server took {sent} bytes from a client that reads nothing");
        let peak = server.peak_resident_bytes();
        assert!(peak < RESIDENT_BYTES_MAX, "{peak} bytes resident for a client that does not read");

        for round in 0..100 {
            bystander.expect_echo(BINARY, pattern(round, 10_000));
        }
        server.open().expect_echo(TEXT, "a newcomer");

        deaf.read_everything();
    }
}

/// As blocking clients do: a message that the limits admit never waits for its own echo to be read.
#[test]
fn a_whole_message_is_sent_before_its_echo_is_read() {
    for (arguments, length) in [(&[][..], 16 * MIB), (&["--max-message-size", "48MiB"], 48 * MIB)] {
        let server = Server::start(arguments);
        let mut peer = server.open();
        // What is tested is what the server keeps, not what two kernels can.
        let socket = SockRef::from(peer.socket());
        socket.set_recv_buffer_size(64 * KIB).expect("a TCP socket");
        socket.set_send_buffer_size(64 * KIB).expect("a TCP socket");
        peer.expect_echo(BINARY, pattern(1, length));
        peer.send(masked_header(FIN | BINARY, length as u64 + 1, [0; 4]));
        peer.expect_close(1009);
    }
}

/// The backlog is per connection, and so is what it may cost.
#[test]
fn many_clients_that_never_read() {
    const CLIENTS: usize = 100;
    const BACKLOG: usize = 64 * KIB;
    for opcode in [BINARY, TEXT] {
        let server =
            Server::start(&["--workers", "1", "--backlog-per-connection", "64KiB", "--max-message-size", "1MiB"]);
        server.open().expect_echo(TEXT, "warm");
        let before = server.resident_bytes();

        let mut deaf = DeafClient::open_blocked(&server, opcode, CLIENTS);
        let grown = server.resident_bytes().saturating_sub(before);
        // Twice the backlogs for the allocator's rounding, and the receive buffers once.
        let allowed = (2 * CLIENTS * BACKLOG + 8 * MIB) as u64;
        assert!(grown < allowed, "opcode {opcode}: {CLIENTS} clients cost {grown} bytes, more than {allowed}");

        server.open().expect_echo(TEXT, "a newcomer");
        for client in &mut deaf[..10] {
            client.read_everything();
        }
    }
}

/// Blocked and freed again, more than once in a connection's life.
#[test]
fn a_client_that_sends_and_reads_in_turns() {
    let server = Server::start(&["--workers", "1", "--backlog-per-connection", "64KiB", "--max-message-size", "1MiB"]);
    for opcode in [BINARY, TEXT] {
        let mut client = DeafClient::open(&server, opcode);
        for _ in 0..3 {
            client.send_until_blocked();
            client.read_everything();
        }
    }
}

/// A client that closes its connection while the server still holds echoes for it frees them.
#[test]
fn a_backlog_is_freed_with_its_connection() {
    const CLIENTS: usize = 8;
    // With this backlog, those of two rounds exceed what is allowed in all.
    let arguments =
        ["--workers", "1", "--max-connections", "8", "--when-full", "wait", "--backlog-per-connection", "4MiB"];
    let server = Server::start(&arguments);
    for _ in 0..4 {
        for client in DeafClient::open_blocked(&server, BINARY, CLIENTS) {
            client.peer.reset();
        }
    }
    server.open().expect_echo(TEXT, "a newcomer");
    let peak = server.peak_resident_bytes();
    assert!(peak < RESIDENT_BYTES_MAX, "{peak} bytes resident after clients that did not read");
}
