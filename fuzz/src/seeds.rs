//! The seed corpus: one small input for each thing that a stream can be about. `cargo run --example seeds` in `fuzz/`
//! writes it to `corpus/`; the layouts are those of `input.rs` and of the targets.

use crate::driven::REQUEST;

/// A seed: its target, its file's name and its bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// Number of cuts, then their sizes: see [`crate::input::Cuts`].
const CUTS: [&[u8]; 4] = [&[0], &[1, 0], &[3, 0, 6, 2], &[2, 40, 1]];

/// All seeds.
#[must_use]
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    seeds.extend(frames());
    seeds.extend(close());
    seeds.extend(handshake());
    seeds.extend(client());
    seeds.extend(packets());
    seeds.extend(stack());
    seeds.extend(proxy());
    seeds.extend(records());
    seeds.extend(extensions());
    seeds.extend(deflate());
    seeds
}

/// Offers, behind the mode and whether contexts are taken over.
fn extensions() -> Vec<Seed> {
    let offers = [
        ("browser", "permessage-deflate; client_max_window_bits"),
        ("windows", "permessage-deflate; server_max_window_bits=10; client_max_window_bits=\"1\\2\""),
        ("several", "permessage-bzip2, permessage-deflate; server_max_window_bits=9, permessage-deflate"),
        ("contexts", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
    ];
    let seed = |mode: u8, (name, offer): &(&str, &str)| {
        ("extensions", format!("{name}-{mode}"), [&[mode, mode & 1], offer.as_bytes()].concat())
    };
    (1..4).flat_map(|mode| offers.iter().map(move |offer| seed(mode, offer))).collect()
}

/// Payloads of compressed messages, or messages to be compressed, behind the mode and the cuts.
fn deflate() -> Vec<Seed> {
    let payloads: [(&str, u8, &[u8]); 6] = [
        ("hello", 0, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
        ("last-block", 0, &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]),
        ("stored", 0, &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]),
        ("reserved-block", 0, &[0x07, 0x00]),
        ("text", 1, "grüße, grüße, grüße €".as_bytes()),
        ("not-text", 1, b"grue\xff"),
    ];
    let mut seeds = Vec::new();
    for (name, is_message, payload) in payloads {
        for (mode, cuts) in (0..3).zip(CUTS) {
            let bytes = [&[mode, 1, is_message], cuts, payload].concat();
            seeds.push(("deflate", format!("{name}-{mode}"), bytes));
        }
    }
    seeds
}

/// Acts of a TLS client (`records.rs`), one for each suite and kind.
fn records() -> Vec<Seed> {
    // Data of 100 bytes, then all of it in pieces of 30.
    let (data, arrives): (&[u8], &[u8]) = (&[0, 100, 2], &[9, 30]);
    let acts: [(&str, Vec<u8>); 8] = [
        ("data", [data, arrives, data, data, arrives].concat()),
        ("long", [&[0, 240, 0][..], &[9, 200], &[0, 255, 0], &[9, 255]].concat()),
        ("renewals", [data, &[5, 1], data, arrives, &[5, 0], data, arrives].concat()),
        ("goodbye", [data, &[4, 21, 2, 1, 0], data, arrives].concat()),
        ("user-canceled", [&[4, 21, 2, 1, 90][..], data, arrives].concat()),
        ("tampered", [data, &[7, 50, 0, 3], arrives].concat()),
        ("replayed", [data, &[8], arrives].concat()),
        ("raw", [data, &[6, 6, 23, 3, 3, 0, 1, 0], arrives].concat()),
    ];
    let seed = |(suite, (name, acts)): (usize, (&str, Vec<u8>))| {
        ("records", name.to_owned(), [&[suite as u8 % 3], &acts[..]].concat())
    };
    acts.into_iter().enumerate().map(seed).collect()
}

/// Headers of the PROXY protocol, with something behind them.
fn proxy() -> Vec<Seed> {
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let v2 = |head: &[u8], block: &[u8]| [V2, head, &(block.len() as u16).to_be_bytes(), block, b"GET /"].concat();
    let headers: [(&str, Vec<u8>); 8] = [
        ("v1-tcp4", b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nGET /".to_vec()),
        ("v1-tcp6", b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n".to_vec()),
        ("v1-unknown", b"PROXY UNKNOWN ffff:: whatever\r\n".to_vec()),
        ("v1-cut", b"PROXY TCP4 192.0.2.7 198.51.1".to_vec()),
        ("v2-tcp4", v2(&[0x21, 0x11], &[192, 0, 2, 7, 198, 51, 100, 1, 220, 4, 1, 187, 4, 0, 2, 0, 0])),
        ("v2-tcp6", v2(&[0x21, 0x21], &[7; 36])),
        ("v2-local", v2(&[0x20, 0], &[])),
        ("v2-unix", v2(&[0x21, 0x31], &[b'/'; 216])),
    ];
    headers.into_iter().map(|(name, bytes)| ("proxy", name.to_owned(), bytes)).collect()
}

/// A frame whose payload is not masked yet (`input.rs`), with `key`.
fn frame(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let length = match payload.len() {
        len @ 0..126 => vec![0x80 | len as u8],
        len => [&[0xfe], &(len as u16).to_be_bytes()[..]].concat(),
    };
    [&[first], &length[..], &key, payload].concat()
}

fn frames() -> Vec<Seed> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let frame = |first: u8, payload: &[u8]| frame(first, payload, KEY);
    let close = frame(0x88, b"\x03\xe8bye");
    let streams: [(&str, Vec<u8>); 23] = [
        ("text", [frame(0x81, "grüße €\u{10ffff}".as_bytes()), close.clone()].concat()),
        ("binary", [frame(0x82, &[7; 300]), frame(0x82, b""), close.clone()].concat()),
        ("fragments", [frame(0x01, b"a\xe2"), frame(0x89, b"p"), frame(0x00, b"\x82"), frame(0x80, b"\xac")].concat()),
        ("binary-fragments", [frame(0x02, b"ab"), frame(0x8a, b"pong"), frame(0x80, b"c")].concat()),
        ("pings", [frame(0x89, b""), frame(0x89, &[1; 125]), frame(0x81, b"x")].concat()),
        ("within-a-frame", frame(0x82, &[5; 200])[..100].to_vec()),
        ("within-text", frame(0x81, &[b'x'; 200])[..100].to_vec()),
        ("close-empty", frame(0x88, b"")),
        ("close-code", frame(0x88, b"\x03\xec")),
        ("invalid-text", [frame(0x01, b"ok"), frame(0x80, b"\xed\xa0\x80")].concat()),
        ("cut-text", frame(0x81, b"cut \xf0\x9f")),
        ("too-big", [frame(0x02, &[1; 80]), frame(0x80, &[2; 80])].concat()),
        ("reserved", [frame(0x81, b"ok"), frame(0xc1, b"no")].concat()),
        ("interrupted", [frame(0x01, b"a"), frame(0x82, b"b")].concat()),
        ("long-form", b"\x82\xfe\x00\x02\0\0\0\0ab".to_vec()),
        ("huge", b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        ("long-text", frame(0x81, "é€".repeat(60).as_bytes())),
        ("length-64", [&b"\x82\xff\0\0\0\0\0\x01\0\0"[..], &KEY, b"its beginning"].concat()),
        ("unmasked", b"\x81\x02hi".to_vec()),
        ("long-control", [&b"\x89\xfe\x00\x80"[..], &KEY].concat()),
        ("stray", frame(0x80, b"x")),
        ("opcode", frame(0x83, b"x")),
        ("fragmented-control", frame(0x09, b"x")),
    ];
    let mut seeds = Vec::new();
    for (number, (name, stream)) in streams.into_iter().enumerate() {
        let (limit, eager) = (if name == "too-big" { 2 } else { 0 }, number as u8 % 2);
        let plain = [&[limit, 0xff, 0xff, eager], CUTS[number % CUTS.len()], &stream].concat();
        seeds.push(("differential", name.to_owned(), plain));
        let acts =
            [&[limit, number as u8 % 3, number as u8 % 5, eager], CUTS[(number + 1) % CUTS.len()], &stream].concat();
        seeds.push(("echo", name.to_owned(), acts));
    }
    // The server closes in the midst of a binary frame, and a message follows it.
    let stream = [frame(0x82, &[5; 100]), frame(0x81, b"unheard")].concat();
    seeds.push(("echo", "closed-within-a-frame".to_owned(), [&[0, 0xff, 1, 0, 1, 39], &stream[..]].concat()));
    seeds
}

fn close() -> Vec<Seed> {
    let payloads: [(&str, &[u8]); 10] = [
        ("empty", b""),
        ("one-byte", b"\x03"),
        ("normal", b"\x03\xe8"),
        ("reason", b"\x03\xe9going away"),
        ("reason-utf8", "\u{3}\u{7f}€ \u{10ffff} \u{7ff} \u{d7ff}".as_bytes()),
        ("no-status", b"\x03\xed"),
        ("bad-gateway", b"\x03\xf6"),
        ("library", b"\x0b\xb8lib"),
        ("surrogate", b"\x03\xe8\xed\xa0\x80"),
        ("cut-reason", b"\x03\xe8\xf4\x8f\xbf"),
    ];
    let seed = |(number, (name, payload)): (usize, (&str, &[u8]))| {
        let input = [&[1, 2, 3, 4], CUTS[number % CUTS.len()], &[number as u8], payload].concat();
        ("close", name.to_owned(), input)
    };
    payloads.into_iter().enumerate().map(seed).collect()
}

fn handshake() -> Vec<Seed> {
    let request = String::from_utf8(REQUEST.to_vec()).expect("text");
    let with = |line: &str| request.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"));
    let requests: [(&str, String); 22] = [
        ("plain", request.clone()),
        ("frames-behind", request.clone() + "\u{1}\u{0}"),
        ("subprotocol", with("Sec-WebSocket-Protocol: x, echo\r\nSec-WebSocket-Protocol: chat")),
        ("path", request.replace("GET / ", "GET /chat?x=1 ")),
        ("absolute", request.replace("GET / ", "GET http://h/chat ")),
        ("lists", request.replace("Connection: Upgrade", "connection: keep-alive,\r\nConnection: UPGRADE , x")),
        ("body", with("Content-Length: 5")),
        ("chunked", with("Transfer-Encoding: chunked")),
        ("extensions", with("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")),
        ("version", request.replace("Version: 13", "Version: 8")),
        ("http-1.0", request.replace("HTTP/1.1", "HTTP/1.0")),
        ("post", request.replace("GET", "POST")),
        ("lone-lf", request.replace("Host: h\r\n", "Host: h\n")),
        ("tls", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}".to_owned()),
        ("too-large", with("Cookie: of a browser that has been here before, and of all its neighbours")),
        ("many-lines", with(&["a:b"; 64].join("\r\n"))),
        ("nul", with("Cookie: \0")),
        ("no-target", request.replace("GET / ", "GET A/ ")),
        ("http-2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("two-hosts", with("Host: g")),
        ("long-key", request.replace("==", "====")),
        ("just-fits", request.clone() + "\u{1}"),
    ];
    let seed = |(number, (name, request)): (usize, (&str, String))| {
        let size = match name {
            "too-large" => 1,
            "just-fits" => 3,
            _ => 0,
        };
        let settings = [size, number as u8 % 2, u8::from(matches!(name, "path" | "absolute"))];
        ("handshake", name.to_owned(), [&settings, CUTS[number % CUTS.len()], request.as_bytes()].concat())
    };
    requests.into_iter().enumerate().map(seed).collect()
}

fn client() -> Vec<Seed> {
    let streams: [(&str, &[u8]); 15] = [
        ("messages", b"\x82\x03one\x81\x00\x89\x04ping\x8a\x00\x88\x04\x03\xe8ok"),
        ("fragments", b"\x01\x02ab\x89\x01p\x00\x00\x80\x01c"),
        ("length-16", b"\x82\x7e\x00\x80within"),
        ("length-64", b"\x82\x7f\0\0\0\0\0\x01\0\0within"),
        ("masked", b"\x82\x81\0\0\0\0x"),
        ("close-code", b"\x88\x02\x03\xed"),
        ("status", b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n"),
        (
            "upgraded",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x00",
        ),
        ("text", "\u{1}\u{b}\u{7ff}€\u{d7ff}\u{ffff}\0\u{b}\u{10ffff}\u{10000}\u{800}".as_bytes()),
        ("invalid-text", b"\x01\x02ok\x80\x03\xed\xa0\x80"),
        ("cut-text", b"\x81\x03x\xf0\x9f"),
        ("interrupted", b"\x01\x01a\x82\x01b"),
        ("reserved", b"\x81\x02ok\xc1\x00"),
        ("long-control", b"\x89\x7e\x00\x80"),
        ("long-form", b"\x82\x7e\x00\x02ab"),
    ];
    let seed = |(number, (name, stream)): (usize, (&str, &[u8]))| {
        ("client", name.to_owned(), [CUTS[number % CUTS.len()], stream].concat())
    };
    streams.into_iter().enumerate().map(seed).collect()
}

/// Packets for a connection that opens, behind their kind (`fuzz_targets/packets.rs`).
fn packets() -> Vec<Seed> {
    /// A segment behind its ports: numbers, control bits and window, checksum and urgent pointer, options.
    fn tcp(words: u8, flags: u8, window: u8, rest: &[u8]) -> Vec<u8> {
        [&[1, 2, 3, 4, 0, 0, 0, 0, words << 4, flags, window, 0, 0, 0, 0, 0][..], rest].concat()
    }
    let quoted = [&[3, 4, 0, 0, 0, 0, 5, 0, 0x45][..], &[0; 8], &[6], &[0; 20]].concat();
    let syn_ack = tcp(7, 0x12, 200, &[2, 4, 1, 0, 1, 3, 3, 7]);
    let kinds: [(&str, u8, Vec<u8>); 17] = [
        ("syn-ack-verified", 0x4e, syn_ack.clone()),
        ("syn-ack-left-out-v6", 0xde, syn_ack.clone()),
        ("syn-ack-unverified", 0x2e, syn_ack.clone()),
        ("syn-ack-other-flags", 0x3e, syn_ack),
        ("syn-ack", 10, tcp(7, 0x12, 200, &[2, 4, 5, 180, 1, 3, 3, 7])),
        ("syn-ack-bare", 10, tcp(5, 0x12, 1, b"with data")),
        ("syn-ack-v6", 138, tcp(8, 0x12, 200, &[4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("syn-ack-malformed", 10, tcp(6, 0x12, 9, &[3, 3, 200, 9])),
        ("syn", 2, tcp(5, 2, 9, b"")),
        ("refusal", 10, tcp(5, 0x14, 0, b"")),
        ("old-ack", 2, tcp(5, 0x10, 1, b"old")),
        ("short", 2, tcp(4, 0x10, 1, b"")),
        ("unreachable", 11, vec![3, 1]),
        ("too-big-v6", 139, vec![2, 0, 0, 0, 5, 0]),
        ("icmp", 3, quoted),
        (
            "v6-wrong-checksum",
            0xa4,
            [
                &[0x60, 0, 0, 0, 0, 20, 6, 64, 0xfd, 1][..],
                &[0; 13],
                &[1, 0xfd, 0],
                &[0; 14],
                &[0, 80, 4, 1],
                &tcp(5, 2, 1, b""),
            ]
            .concat(),
        ),
        (
            "v4",
            1,
            [
                &[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 198, 19, 0, 0, 0, 80, 4, 1][..],
                &tcp(5, 2, 1, b""),
            ]
            .concat(),
        ),
    ];
    kinds.into_iter().map(|(name, kind, bytes)| ("packets", name.to_owned(), [&[kind][..], &bytes].concat())).collect()
}

/// Lives of connections (`conversation.rs`): each thing that is done has a byte for its kind, and one for the connection.
fn stack() -> Vec<Seed> {
    const OPEN: &[u8] = &[0, 0, 11, 0, 0x41, 0];
    const FLUSH: &[u8] = &[8, 0];
    const SEND: &[u8] = &[0x31, 0, 200];
    const FINISH: &[u8] = &[2, 0];
    const CLOSE: &[u8] = &[3, 0];
    const PASS: &[u8] = &[0x26, 0, 100];
    const ACKED: &[u8] = &[12, 0, 0, 0, 0, 0];
    const DATA: &[u8] = &[12, 0, 0, 0, 8, 50];
    const SHUT: &[u8] = &[12, 0, 0, 0, 1, 0];
    const EARLY: &[u8] = &[12, 0, 180, 0, 8, 50];
    const FIN: &[u8] = &[0xac, 0, 0, 0, 0, 0];
    let lives: [(&str, u8, &[&[u8]]); 12] = [
        ("echo", 2, &[OPEN, SEND, DATA, FLUSH, SEND, ACKED]),
        ("silence", 0, &[OPEN, SEND, PASS, PASS]),
        ("opening", 0, &[&OPEN[..2], &[0x80, 1], PASS]),
        ("simultaneous-open", 6, &[&OPEN[..2], &[11, 0, 0x51, 0], ACKED, DATA]),
        ("client-closes", 6, &[OPEN, SEND, FINISH, ACKED, DATA, FIN, FIN, OPEN]),
        ("server-closes", 4, &[OPEN, FIN, SEND, FINISH, ACKED]),
        ("both-close", 2, &[OPEN, FINISH, &[0xac, 0, 0, 159, 0, 0], ACKED]),
        ("let-go", 0, &[OPEN, CLOSE, ACKED, DATA]),
        ("windows", 2, &[OPEN, SHUT, SEND, PASS, SHUT, ACKED, &[0x85, 0], DATA, &[5, 0]]),
        ("out-of-order", 2, &[OPEN, EARLY, EARLY, DATA, DATA]),
        ("resets", 1, &[OPEN, &[0xdc, 0, 200, 129, 0, 0, 0], &[0xdc, 0, 0, 0, 0, 0], OPEN]),
        ("icmp", 0, &[&OPEN[..2], &[9, 0, 3, 4, 0, 70], &[9, 0, 3, 1, 0, 0]]),
    ];
    // With offloads each segment has one more byte, for its checksum.
    const WIDE: &[u8] = &[0, 0, 11, 0, 0x4d, 0, 0];
    const MUCH: &[u8] = &[0x81, 0, 255];
    const LARGE: &[u8] = &[12, 0, 0, 0, 0x78, 255, 1];
    const LARGE_EARLY: &[u8] = &[12, 0, 185, 0, 0x68, 255, 0];
    const ALL: &[u8] = &[12, 0, 0, 0, 0, 0, 2];
    const WRONG: &[u8] = &[12, 0, 0, 0, 0x48, 90, 3];
    let lives_with_offloads: [(&str, u8, &[&[u8]]); 4] = [
        ("large", 0x82, &[WIDE, MUCH, ALL, MUCH, LARGE, ALL, LARGE, MUCH, ALL]),
        ("large-v6", 0x86, &[&[0x80, 0], &WIDE[2..], MUCH, ALL, MUCH, LARGE, FINISH, ALL]),
        ("large-lost", 0x82, &[WIDE, LARGE_EARLY, LARGE_EARLY, MUCH, ALL, MUCH, PASS, LARGE, ALL, ALL]),
        ("wrong-checksums", 0x80, &[WIDE, WRONG, MUCH, WRONG, LARGE, ALL]),
    ];
    let seed = |(name, setting, acts): (&str, u8, &[&[u8]])| {
        ("stack", name.to_owned(), [&[setting], &acts.concat()[..]].concat())
    };
    lives.into_iter().chain(lives_with_offloads).map(seed).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_committed_corpus_is_what_the_seeds_are() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (target, name, bytes) in super::all() {
            let file = corpus.join(target).join(name);
            assert!(
                std::fs::read(&file).is_ok_and(|there| there == bytes),
                "{}: run the example `seeds`",
                file.display()
            );
        }
    }
}
