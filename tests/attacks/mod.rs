//! Hostile and broken clients, written once: `tests/hostile.rs` runs them at small scale, `scripts/hostile` at full size
//! with the command in `command.rs`.
//!
//! An attack is a [`Crowd`] of [`Life`]s: what each client sends first, and what it does then.

#![allow(dead_code, unused_imports, reason = "the tests and the command each use their own part of this module")]

pub(crate) mod crowd;
pub(crate) mod farewell;
mod nonsense;
pub(crate) mod sink;
mod sockets;

use std::sync::{Arc, LazyLock};

use flate2::{Compress, Compression, FlushCompress};

use crate::common::Random;
use crate::common::frames::{BINARY, CONTINUATION, FIN, PING, TEXT, close_frame, frame, masked_header};

pub(crate) use crowd::{Crowd, Tally};
pub(crate) use nonsense::NONSENSE;

/// A complete upgrade request, with the example key of RFC 6455, section 1.3.
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// Bytes of the answer to it.
const ANSWER: usize = 129;
/// What a client at full speed offers the kernel at once.
const FLOOD: usize = 64 << 10;
/// What a bomb is inflated to: a thousand times as many bytes as it has, which is as far as DEFLATE goes.
const BOMB: usize = 1 << 20;
/// The bit of a frame whose message is compressed.
const RSV1: u8 = 0x40;

/// One client's life.
pub(crate) struct Life {
    /// What it sends as soon as it is connected.
    pub(crate) opening: Vec<u8>,
    pub(crate) then: Then,
    /// Whether it reads what it is sent.
    pub(crate) reads: bool,
    /// Whether its connection holds as little as it can on the way, so that the server has to keep the rest.
    pub(crate) is_narrow: bool,
}

impl Life {
    /// A client that reads what it is sent, on an ordinary connection.
    fn new(opening: impl Into<Vec<u8>>, then: Then) -> Self {
        Self { opening: opening.into(), then, reads: true, is_narrow: false }
    }

    fn without_reading(self) -> Self {
        Self { reads: false, ..self }
    }

    fn narrow(self) -> Self {
        Self { is_narrow: true, ..self }
    }
}

/// What follows the opening.
#[derive(Clone)]
pub(crate) enum Then {
    /// Nothing: it stays for as long as the server lets it.
    Stay,
    /// This, over and over, as fast as the server takes it.
    Flood(Arc<[u8]>),
    /// This, over and over, each time in a segment of its own, and with time for the server to receive it.
    Pieces(Arc<[u8]>),
    /// One byte of this a second, over and over.
    Drip(Arc<[u8]>),
    /// Every Ping is answered, and nothing else is sent.
    Pong,
    /// It leaves when it has read so many bytes, in order or with a reset (RST).
    Leave { after: usize, reset: bool },
}

/// The attacks, by their names on the command line.
pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("half-handshakes", half_handshake),
    ("one-byte-a-second", one_byte_a_second),
    ("never-reading", never_reading),
    ("cut-frames", cut_frames),
    ("resets", reset_anywhere),
    ("dropped", dropped_anywhere),
    ("open", open),
    ("idle", idle),
    ("pings", pings),
    ("pings-unread", pings_unread),
    ("fragments", fragments),
    ("promises", promise),
    ("bombs", bombs),
    ("binary-bombs", binary_bombs),
    ("nonsense", nonsense),
];

/// What the client with this number does.
pub(crate) type Attack = fn(usize, &mut Random) -> Life;

/// The attack of this name.
pub(crate) fn attack(name: &str) -> Option<Attack> {
    ATTACKS.iter().find(|(known, _)| *known == name).map(|(_, attack)| *attack)
}

/// Half of an upgrade request.
fn half_handshake(_: usize, random: &mut Random) -> Life {
    let half = UPGRADE[..=random.below(UPGRADE.len() - 3)].to_vec();
    Life::new(half, Then::Stay)
}

/// One byte a second: every other client of its request, the others of a frame.
fn one_byte_a_second(number: usize, _: &mut Random) -> Life {
    if number.is_multiple_of(2) {
        return Life::new(b"", Then::Drip(UPGRADE[..UPGRADE.len() - 2].into()));
    }
    let opening = [UPGRADE, &masked_header(FIN | BINARY, 1 << 20, [1, 2, 3, 4])].concat();
    Life::new(opening, Then::Drip([0x55; 64].into()))
}

fn flood(first_byte: u8, payload: &[u8]) -> Then {
    Then::Flood(flood_of(&frame(first_byte, payload)))
}

fn flood_of(one: &[u8]) -> Arc<[u8]> {
    one.repeat(FLOOD.div_ceil(one.len())).into()
}

/// Large messages at full speed, and no echo is read.
fn never_reading(_: usize, _: &mut Random) -> Life {
    Life::new(UPGRADE, flood(FIN | BINARY, &[7; 4096])).without_reading()
}

/// Small messages whose frames are cut between receives, and no echo is read: [the rest of one][the first byte of the
/// next], over and over. What a server keeps of a cut frame is in other memory than what it has received whole.
fn cut_frames(_: usize, _: &mut Random) -> Life {
    let mut piece = frame(FIN | BINARY, &[7; 125]);
    let opening = [UPGRADE, &piece[..1]].concat();
    piece.rotate_left(1);
    Life::new(opening, Then::Pieces(piece.into())).without_reading().narrow()
}

/// Pings at full speed.
fn pings(_: usize, _: &mut Random) -> Life {
    Life::new(UPGRADE, flood(FIN | PING, b"flooding"))
}

/// Pings at full speed, and no Pong is read.
fn pings_unread(_: usize, _: &mut Random) -> Life {
    Life::new(UPGRADE, flood(FIN | PING, b"flooding")).without_reading()
}

/// A message of fragments of one byte each that never ends (until the server's limit on a message ends it).
fn fragments(_: usize, _: &mut Random) -> Life {
    let opening = [UPGRADE, &frame(BINARY, b"1")].concat();
    Life::new(opening, flood(CONTINUATION, b"2"))
}

/// A frame that announces 2^63 - 1 bytes, and a few of them.
fn promise(_: usize, _: &mut Random) -> Life {
    let opening = [UPGRADE, &masked_header(FIN | BINARY, (1 << 63) - 1, [0; 4]), b"and so on"].concat();
    Life::new(opening, Then::Stay)
}

/// An upgrade request that offers compression (RFC 7692).
pub(crate) fn compressing_upgrade() -> Vec<u8> {
    let offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    [&UPGRADE[..UPGRADE.len() - 2], offer].concat()
}

/// A compressed message of zeros, which are text as well.
pub(crate) fn bomb(opcode: u8) -> Vec<u8> {
    let mut compressor = Compress::new_with_window_bits(Compression::best(), false, 15);
    let mut payload = Vec::with_capacity(BOMB / 100);
    compressor.compress_vec(&vec![0; BOMB], &mut payload, FlushCompress::Sync).expect("a compressor takes all");
    // A flush ends with an empty block, of which a message does not carry the length.
    payload.truncate(payload.len() - 4);
    frame(FIN | RSV1 | opcode, &payload)
}

/// Text that is a thousand times as large as it looks, at full speed; what comes back is read.
fn bombs(_: usize, _: &mut Random) -> Life {
    static BOMBS: LazyLock<Arc<[u8]>> = LazyLock::new(|| flood_of(&bomb(TEXT)));
    Life::new(compressing_upgrade(), Then::Flood(Arc::clone(&BOMBS)))
}

/// The same in binary messages.
fn binary_bombs(_: usize, _: &mut Random) -> Life {
    static BOMBS: LazyLock<Arc<[u8]>> = LazyLock::new(|| flood_of(&bomb(BINARY)));
    Life::new(compressing_upgrade(), Then::Flood(Arc::clone(&BOMBS)))
}

/// An HTTP request that is none.
fn nonsense(number: usize, _: &mut Random) -> Life {
    let request = NONSENSE[number % NONSENSE.len()].request;
    Life::new(request(), Then::Stay)
}

/// A client like any other, that has echoed a message and stays.
fn open(_: usize, _: &mut Random) -> Life {
    Life::new([UPGRADE, &frame(FIN | BINARY, b"hello")].concat(), Then::Stay)
}

/// The same, and answers Pings: the server has no reason to close it.
fn idle(_: usize, _: &mut Random) -> Life {
    Life::new([UPGRADE, &frame(FIN | BINARY, b"hello")].concat(), Then::Pong)
}

/// A reset in the midst of everything.
fn reset_anywhere(number: usize, random: &mut Random) -> Life {
    let mut life = dropped_anywhere(number, random);
    if let Then::Leave { reset, .. } = &mut life.then {
        *reset = true;
    }
    life
}

/// Gone at any point: of the request, of a frame's header, of a payload, of a Close, with some of the answers read or
/// none, in order or with a reset.
fn dropped_anywhere(_: usize, random: &mut Random) -> Life {
    let payload = random.below(20_000);
    let data = frame(FIN | BINARY, &vec![9; payload]);
    let header = data.len() - payload;
    let end = match random.below(4) {
        0 => frame(FIN | 0x3, b"no such opcode"),
        1 => [frame(0x1, "begun €".as_bytes()), frame(FIN | PING, b"?")].concat(),
        _ => close_frame(1000, b"bye"),
    };
    let whole = [UPGRADE, &data, &end].concat();
    let cut = match random.below(7) {
        0 => random.below(UPGRADE.len()),
        1 => UPGRADE.len(),
        2 => UPGRADE.len() + random.below(header),
        3 => UPGRADE.len() + random.below(data.len()),
        4 => UPGRADE.len() + data.len(),
        5 => UPGRADE.len() + data.len() + random.below(end.len()),
        _ => whole.len(),
    };
    // Never more than what is sent brings back.
    let echoed = cut.saturating_sub(UPGRADE.len() + header).min(payload);
    let readable = if cut < UPGRADE.len() { 0 } else { ANSWER + echoed };
    let after = random.below(2) * random.below(readable + 1);
    let then = Then::Leave { after, reset: random.below(2) == 0 };
    Life::new(&whole[..cut], then)
}
