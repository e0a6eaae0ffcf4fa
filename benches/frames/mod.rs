//! What clients send, for the benches.

#![allow(dead_code, reason = "each bench uses its own part")]

/// The upgrade request of a browser.
pub(crate) const REQUEST: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nConnection: Upgrade\r\nPragma: no-cache\r\n\
    Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n\
    Upgrade: websocket\r\nOrigin: http://127.0.0.1:9001\r\nSec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// A key without structure, so that no part of the work can be skipped.
pub(crate) const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Appends a frame as a client sends it.
pub(crate) fn masked(stream: &mut Vec<u8>, first: u8, payload: &[u8]) {
    let len = payload.len();
    match len {
        0..126 => stream.extend([first, 0x80 | len as u8]),
        126..65536 => {
            stream.extend([first, 0xfe]);
            stream.extend((len as u16).to_be_bytes());
        }
        _ => {
            stream.extend([first, 0xff]);
            stream.extend((len as u64).to_be_bytes());
        }
    }
    stream.extend(KEY);
    stream.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
}
