//! A `Sec-WebSocket-Extensions` of the fuzzer's: what is answered is permessage-deflate with parameters of RFC 7692, under which
//! a client's own compressed bytes are a valid message in the other direction, or the server compresses anew.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringecho::protocol::{Deflate, Phase, Session, Settings, Shared};

const MODES: [Deflate; 4] = [Deflate::Off, Deflate::Pass, Deflate::Verify, Deflate::Recompress];

fuzz_target!(|input: (u8, bool, &str)| {
    let (mode, has_deflate_context, header) = input;
    if header.contains(|letter: char| letter.is_ascii_control()) {
        return;
    }
    let deflate = MODES[usize::from(mode) % MODES.len()];
    let mut shared = Shared::new(Settings { deflate, has_deflate_context, ..Settings::default() });
    let mut session = Session::new(&shared.settings);
    let mut request = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: {header}\r\n\r\n"
    )
    .into_bytes();
    let reply = session.receive(&mut shared, &mut request);
    let answer = String::from_utf8(reply.output.to_vec(&request)).expect("an answer is text");
    let agreed = answer.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
    if let Some(agreed) = agreed {
        check(deflate, header, agreed);
        assert_eq!(session.phase(), Phase::Open);
    }
});

fn check(deflate: Deflate, header: &str, agreed: &str) {
    assert!(deflate != Deflate::Off && header.contains("permessage-deflate"), "{agreed} was not asked for");
    let mut parts = agreed.split("; ");
    assert_eq!(parts.next(), Some("permessage-deflate"));
    let parts: Vec<&str> = parts.collect();
    let bits = |name: &str| {
        let value = parts.iter().find_map(|part| part.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.parse::<u8>().expect("a number")).inspect(|bits| assert!((8..=15).contains(bits)))
    };
    for (index, part) in parts.iter().enumerate() {
        let name = part.split('=').next().expect("a name");
        assert!(!parts[..index].iter().any(|before| before.split('=').next() == Some(name)), "{name} twice");
        assert!(header.contains(name) || name.ends_with("_no_context_takeover"), "{name} was not offered");
    }
    let server_window = bits("server_max_window_bits").unwrap_or(15);
    assert!(server_window >= 9, "no zlib has such a window");
    if deflate == Deflate::Recompress {
        return;
    }
    let (server, client) = ("server_no_context_takeover", "client_no_context_takeover");
    assert!(bits("client_max_window_bits").unwrap_or(15) <= server_window, "{agreed}: references too far back");
    assert!(parts.contains(&client) || !parts.contains(&server), "{agreed}: references to what is forgotten");
}
