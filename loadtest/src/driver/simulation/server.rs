//! The simulated server's end of one connection: how it handles input, and a record of what it did.

use std::collections::VecDeque;

use tungstenite::handshake::derive_accept_key;

use super::random::Random;
use crate::websocket::deflate::{Deflater, Inflater, RSV1};

/// What a server is like towards one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    Accepts,
    Refuses,
    Ignores,
}

/// How a server treats pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pongs {
    Right,
    None,
    Wrong,
    Triple,
}

/// What the end of a message proves once it is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Good,
    Corrupted,
    Duplicate,
    Pong,
    Close,
    Violation,
}

/// The server's compression state, and whether either direction resets its context after each message.
#[derive(Debug)]
struct Compression {
    deflater: Deflater,
    forgets: bool,
    inflater: Inflater,
    client_forgets: bool,
}

/// The server's end of one connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a way of its own to be different")]
pub(super) struct Server {
    pub(super) upgrade: Upgrade,
    pub(super) pongs: Pongs,
    pub(super) has_faults: bool,
    pub(super) echoes: bool,
    pub(super) answers_close: bool,
    pub(super) ends_tcp: bool,
    is_framed: bool,
    message_size: usize,
    input: Vec<u8>,
    is_upgraded: bool,
    compression: Option<Compression>,
    has_closed: bool,
    /// The client's Close has arrived: no frame may follow.
    pub(super) got_close: bool,
    /// Pending output to the client.
    pub(super) output: Vec<u8>,
    /// Positions in the stream of all output, and what ends there.
    pub(super) marks: VecDeque<(usize, Mark)>,
    written: usize,
    /// The TCP connection ends after the pending output.
    pub(super) is_over: bool,
    pub(super) messages_received: u64,
    pub(super) pings_received: u64,
}

impl Server {
    pub(super) fn new(random: &mut Random, is_framed: bool, message_size: usize, is_hopeless: bool) -> Self {
        let is_good = random.one_in(2);
        let mut quirk = |n| !is_good && random.one_in(n);
        let (refuses, ignores) = (quirk(10), quirk(10));
        let (has_faults, is_deaf, is_rude, lingers) = (quirk(3), quirk(10), quirk(6), quirk(4));
        let pongs = [Pongs::Right, Pongs::None, Pongs::Wrong, Pongs::Triple];
        Self {
            upgrade: match (is_hopeless || refuses, ignores) {
                (true, _) => Upgrade::Refuses,
                (false, true) => Upgrade::Ignores,
                (false, false) => Upgrade::Accepts,
            },
            pongs: if is_good { Pongs::Right } else { pongs[random.below(4)] },
            has_faults: has_faults && is_framed,
            echoes: !is_deaf,
            answers_close: !is_rude,
            ends_tcp: !lingers,
            is_framed,
            message_size,
            input: Vec::new(),
            is_upgraded: !is_framed,
            compression: None,
            has_closed: false,
            got_close: false,
            output: Vec::new(),
            marks: VecDeque::new(),
            written: 0,
            is_over: false,
            messages_received: 0,
            pings_received: 0,
        }
    }

    /// Processes bytes from the client.
    pub(super) fn take(&mut self, bytes: &[u8], random: &mut Random) {
        if self.is_over {
            return; // the kernel answers with a reset, which is on its way
        }
        self.input.extend_from_slice(bytes);
        if !self.is_upgraded && !self.answer_upgrade(random) {
            return;
        }
        if !self.is_framed {
            self.echo_bytes();
            return;
        }
        while let Some((first, payload, len)) = frame(&self.input) {
            self.input.drain(..len);
            let payload = if first & RSV1 == 0 { payload } else { self.inflate(&payload) };
            self.on_frame(first & 0x0f, payload, random);
        }
    }

    fn echo_bytes(&mut self) {
        let bytes = std::mem::take(&mut self.input);
        if self.echoes {
            let before = self.written / self.message_size;
            self.write(&bytes);
            for count in before + 1..=self.written / self.message_size {
                self.marks.push_back((count * self.message_size, Mark::Good));
            }
        }
    }

    fn answer_upgrade(&mut self, random: &mut Random) -> bool {
        let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
        let head = String::from_utf8(self.input.drain(..end + 4).collect()).expect("a request is text");
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        match self.upgrade {
            Upgrade::Ignores => return false,
            Upgrade::Refuses => {
                self.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
                self.is_over = true;
                return false;
            }
            Upgrade::Accepts => {}
        }
        let accept = derive_accept_key(key.as_bytes());
        let answer = "HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
        let extensions = self.choose_compression(&head, random);
        self.write(format!("{answer}{accept}\r\n{extensions}\r\n").as_bytes());
        self.is_upgraded = true;
        true
    }

    /// Negotiates compression in some way that the offer allows, or declines; returns the response header.
    fn choose_compression(&mut self, request: &str, random: &mut Random) -> String {
        let prefix = "Sec-WebSocket-Extensions: permessage-deflate";
        let Some(offer) = request.lines().find_map(|line| line.strip_prefix(prefix)) else { return String::new() };
        if random.one_in(4) {
            return String::new();
        }
        let is_strict = offer.contains("server_no_context_takeover");
        let (forgets, has_client_forget) = (is_strict || random.one_in(2), random.one_in(2));
        let bits = if is_strict { 9 } else { 15 };
        let mut line = prefix.to_owned();
        let parameters =
            [("; server_no_context_takeover", forgets), ("; client_no_context_takeover", has_client_forget)];
        line.extend(parameters.into_iter().filter_map(|(parameter, is_set)| is_set.then_some(parameter)));
        if is_strict {
            line += "; server_max_window_bits=9";
        }
        let client_forgets = is_strict || has_client_forget;
        let (deflater, inflater) = (Deflater::new(bits), Inflater::new(bits));
        self.compression = Some(Compression { deflater, forgets, inflater, client_forgets });
        line + "\r\n"
    }

    fn inflate(&mut self, payload: &[u8]) -> Vec<u8> {
        let it = self.compression.as_mut().expect("compressed messages come where that was agreed on");
        let (mut message, mut piece) = (Vec::new(), [0; 32]);
        let outcome = it.inflater.inflate(payload, true, u64::MAX, &mut piece, |bytes, _| {
            message.extend_from_slice(bytes);
            Ok(())
        });
        assert_eq!(outcome, Ok(()), "what the client sends can be inflated");
        if it.client_forgets {
            it.inflater.reset();
        }
        message
    }

    fn on_frame(&mut self, opcode: u8, mut payload: Vec<u8>, random: &mut Random) {
        assert!(!self.got_close, "the client sends frame {opcode} behind its own Close");
        match opcode {
            1 | 2 => {
                self.messages_received += 1;
                if self.has_closed || !self.echoes {
                    return;
                }
                match if self.has_faults { random.below(12) } else { 12 } {
                    0 => {}
                    1 => {
                        *payload.last_mut().expect("not empty") ^= 1;
                        self.send(opcode, &payload, Mark::Corrupted);
                    }
                    2 => {
                        self.send(opcode, &payload, Mark::Good);
                        self.send(opcode, &payload, Mark::Duplicate);
                    }
                    _ => self.send(opcode, &payload, Mark::Good),
                }
            }
            9 => {
                self.pings_received += 1;
                if self.has_closed {
                    return;
                }
                let count = if self.pongs == Pongs::Triple { 3 } else { usize::from(self.pongs != Pongs::None) };
                for _ in 0..count {
                    self.send(10, if self.pongs == Pongs::Wrong { b"other" } else { &payload }, Mark::Pong);
                }
            }
            10 => {}
            8 => {
                self.got_close = true;
                if !self.has_closed && self.answers_close {
                    self.has_closed = true;
                    self.send(8, &payload, Mark::Close);
                }
                self.is_over |= self.has_closed && self.ends_tcp;
            }
            _ => panic!("the client sends opcode {opcode}"),
        }
    }

    /// The server acts on its own.
    pub(super) fn act(&mut self, random: &mut Random) {
        if !self.is_upgraded || self.is_over || self.has_closed || !self.is_framed {
            return;
        }
        match random.below(12) {
            0 => {
                self.has_closed = true;
                self.send(8, &1001_u16.to_be_bytes(), Mark::Close);
            }
            1 => {
                self.has_closed = true;
                self.write(&[0x8b, 0]);
                self.marks.push_back((self.written, Mark::Violation));
            }
            2 => self.is_over = true,
            _ => self.write_frame(9, b"are you there?"),
        }
    }

    fn send(&mut self, opcode: u8, payload: &[u8], mark: Mark) {
        // One message in three is sent uncompressed, which the extension allows.
        match &mut self.compression {
            Some(it) if opcode < 8 && !self.messages_received.is_multiple_of(3) => {
                if it.forgets {
                    it.deflater.reset();
                }
                let mut compressed = Vec::new();
                it.deflater.push(payload, &mut compressed);
                it.deflater.end(0, &mut compressed);
                self.write_frame(RSV1 | opcode, &compressed);
            }
            _ => self.write_frame(opcode, payload),
        }
        self.marks.push_back((self.written, mark));
    }

    fn write_frame(&mut self, opcode: u8, payload: &[u8]) {
        self.write(&[0x80 | opcode]);
        if payload.len() < 126 {
            self.write(&[payload.len() as u8]);
        } else {
            self.write(&[126]);
            self.write(&(payload.len() as u16).to_be_bytes());
        }
        self.write(payload);
    }

    fn write(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        self.written += bytes.len();
    }
}

/// Parses the masked frame at the start of `input`: its first byte, its payload and its total length.
fn frame(input: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (&first, &second) = (input.first()?, input.get(1)?);
    assert!(first & 0xb0 == 0x80 && second & 0x80 != 0, "frames of a client are whole messages, and masked");
    let (start, len) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes([*input.get(2)?, *input.get(3)?]))),
        127 => panic!("no message is so long"),
        len => (2, usize::from(len)),
    };
    let key: [u8; 4] = input.get(start..start + 4)?.try_into().expect("four bytes");
    let mut payload = input.get(start + 4..start + 4 + len)?.to_vec();
    crate::message::mask(&mut payload, key);
    Some((first, payload, start + 4 + len))
}
