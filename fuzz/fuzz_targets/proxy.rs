//! A PROXY protocol header in any bytes: what is read does not depend on what follows, a longer piece never changes the
//! verdict on a shorter one, and a header that is read is written again as it was.
#![no_main]

use core::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use ringecho::transport::proxy::{Header, Versions, parse};

const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const HEADER_MAX: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    for versions in [Versions::V1, Versions::V2, Versions::Any] {
        let verdict = parse(versions, bytes);
        if let Ok(Some(header)) = verdict {
            check(header, bytes);
            assert_eq!(parse(versions, &bytes[..header.len]), Ok(Some(header)), "what follows has changed it");
            assert_eq!(parse(versions, &bytes[..header.len - 1]), Ok(None), "it was complete before its end");
        }
        assert!(verdict != Ok(None) || bytes.len() < HEADER_MAX, "it has no end");
        // A part of it is the same, or not complete.
        let part = parse(versions, &bytes[..bytes.len() / 2]);
        assert!(part == Ok(None) || part == verdict, "{part:?} became {verdict:?}");
    }
    let either = parse(Versions::V1, bytes).or(parse(Versions::V2, bytes));
    assert!(bytes.is_empty() || parse(Versions::Any, bytes).ok() == either.ok());
});

/// Against the letter of the specification.
fn check(header: Header, bytes: &[u8]) {
    assert!((8..=HEADER_MAX).contains(&header.len) && header.len <= bytes.len());
    let head = &bytes[..header.len];
    if let Some(rest) = head.strip_prefix(V2_START) {
        assert_eq!(usize::from(u16::from_be_bytes([rest[2], rest[3]])), header.len - 16);
        let expected = match (rest[0], rest[1], &rest[4..]) {
            (0x21, 0x11, block) => address(<[u8; 4]>::try_from(&block[..4]).unwrap(), &block[8..10]),
            (0x21, 0x21, block) => address(<[u8; 16]>::try_from(&block[..16]).unwrap(), &block[32..34]),
            _ => None,
        };
        assert_eq!(header.source, expected);
        return;
    }
    let line = std::str::from_utf8(head).expect("ASCII").strip_suffix("\r\n").expect("a line");
    assert!(line.len() <= 105);
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[0], "PROXY");
    match (words[1], header.source) {
        ("UNKNOWN", None) => {}
        ("TCP4" | "TCP6", Some(source)) => {
            assert_eq!(words.len(), 6);
            assert_eq!(source.is_ipv4(), words[1] == "TCP4");
            assert_eq!((Ok(source.ip()), words[4]), (words[2].parse(), &*source.port().to_string()));
        }
        other => panic!("{other:?}"),
    }
}

fn address(ip: impl Into<IpAddr>, port: &[u8]) -> Option<SocketAddr> {
    Some(SocketAddr::new(ip.into(), u16::from_be_bytes([port[0], port[1]])))
}
