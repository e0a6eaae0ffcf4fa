//! Tests of streams in pieces of all sizes, and of frames that are refused.

use super::*;

/// All that a reader makes of `stream` when it arrives in pieces of `piece` bytes: joined payloads, other events.
fn read(stream: &[u8], piece: usize) -> Result<Vec<(String, Vec<u8>)>, Violation> {
    read_by(FrameReader::default(), stream, piece)
}

fn read_by(mut reader: FrameReader, stream: &[u8], piece: usize) -> Result<Vec<(String, Vec<u8>)>, Violation> {
    let mut found = Vec::new();
    let mut message = Vec::new();
    for mut input in stream.chunks(piece) {
        while let Some(event) = reader.next(&mut input)? {
            match event {
                Event::Payload { text, compressed, bytes, end } => {
                    message.extend_from_slice(bytes);
                    if end {
                        let kind = match (text, compressed) {
                            (true, false) => "text",
                            (false, false) => "binary",
                            (true, true) => "compressed text",
                            (false, true) => "compressed binary",
                        };
                        found.push((kind.to_owned(), std::mem::take(&mut message)));
                    }
                }
                Event::Ping(payload) => found.push(("ping".to_owned(), payload.into())),
                Event::Pong(payload) => found.push(("pong".to_owned(), payload.into_vec())),
                Event::Close(close) => {
                    found.push((format!("close {:?}", close.code), close.reason.as_bytes().to_vec()));
                }
            }
        }
        assert!(input.is_empty());
    }
    Ok(found)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(len as u8),
        len @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn a_stream_reads_the_same_in_pieces_of_any_size() {
    let long = vec![b'x'; 70_000];
    let mut stream = Vec::new();
    stream.extend(frame(0x82, b"one"));
    stream.extend(frame(0x81, b""));
    stream.extend(frame(0x81, "κόσμε \u{10ffff}".as_bytes()));
    stream.extend(frame(0x01, b"frag"));
    stream.extend(frame(0x89, b"ping me"));
    stream.extend(frame(0x00, b""));
    stream.extend(frame(0x80, b"ments"));
    stream.extend(frame(0x8a, b""));
    stream.extend(frame(0x89, &[7; 125]));
    stream.extend(frame(0x82, &[9; 126]));
    stream.extend(frame(0x82, &long));
    stream.extend(frame(0x88, &[3, 232, b'o', b'k']));
    let expected = vec![
        ("binary".to_owned(), b"one".to_vec()),
        ("text".to_owned(), Vec::new()),
        ("text".to_owned(), "κόσμε \u{10ffff}".into()),
        ("ping".to_owned(), b"ping me".to_vec()),
        ("text".to_owned(), b"fragments".to_vec()),
        ("pong".to_owned(), Vec::new()),
        ("ping".to_owned(), vec![7; 125]),
        ("binary".to_owned(), vec![9; 126]),
        ("binary".to_owned(), long),
        ("close Some(1000)".to_owned(), b"ok".to_vec()),
    ];
    for piece in [1, 2, 3, 5, 7, 64, 127, 1000, 65_536, stream.len()] {
        assert_eq!(read(&stream, piece).as_ref(), Ok(&expected), "pieces of {piece}");
    }
}

#[test]
fn what_a_server_must_not_send_is_refused() {
    let cases: &[(&[u8], Violation)] = &[
        (&[0x82, 0x81], Violation::Masked),
        (&[0x89, 0x80], Violation::Masked),
        (&[0xc2, 0x00], Violation::ReservedBit),
        (&[0xa2, 0x00], Violation::ReservedBit),
        (&[0x99, 0x00], Violation::ReservedBit),
        (&[0x83, 0x00], Violation::ReservedOpcode),
        (&[0x87, 0x00], Violation::ReservedOpcode),
        (&[0x8b, 0x00], Violation::ReservedOpcode),
        (&[0x8f, 0x00], Violation::ReservedOpcode),
        (&[0x08, 0x00], Violation::Control),
        (&[0x09, 0x00], Violation::Control),
        (&[0x0a, 0x00], Violation::Control),
        (&[0x88, 127], Violation::Control),
        (&[0x89, 126], Violation::Control),
        (&[0x80, 0x00], Violation::Order),
        (&[0x02, 0x00, 0x82, 0x00], Violation::Order),
        (&[0x82, 126, 0, 125], Violation::Length),
        (&[0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255], Violation::Length),
        (&[0x82, 127, 128, 0, 0, 0, 0, 0, 0, 0], Violation::Length),
        (&[0x88, 1, 3], Violation::Close),
        (&[0x88, 2, 3, 237], Violation::Close),
        (&[0x88, 2, 0x13, 0x88], Violation::Close),
        (&[0x88, 4, 3, 232, b'o', 0xff], Violation::Utf8),
        (&[0x81, 1, 0xff], Violation::Utf8),
        (&[0x81, 2, 0xe2, 0x82], Violation::Utf8),
        (&[0x01, 2, 0xf4, 0x8f, 0x00, 1, 0xc0], Violation::Utf8),
    ];
    for &(stream, violation) in cases {
        for piece in 1..=stream.len() {
            assert_eq!(read(stream, piece), Err(violation), "{stream:x?} in pieces of {piece}");
        }
    }
}

#[test]
fn compressed_messages_are_told_where_they_were_negotiated() {
    let mut stream = Vec::new();
    stream.extend(frame(0xc2, b"one"));
    stream.extend(frame(0x81, b"plain"));
    stream.extend(frame(0x41, b"\xff\xfe"));
    stream.extend(frame(0x89, b"between"));
    stream.extend(frame(0x80, b"\xc0"));
    stream.extend(frame(0xc1, b""));
    let expected = [
        ("compressed binary", &b"one"[..]),
        ("text", b"plain"),
        ("ping", b"between"),
        ("compressed text", b"\xff\xfe\xc0"),
        ("compressed text", b""),
    ];
    let expected: Vec<_> = expected.iter().map(|(kind, bytes)| ((*kind).to_owned(), bytes.to_vec())).collect();
    let reader = || {
        let mut reader = FrameReader::default();
        reader.allow_compression();
        reader
    };
    for piece in 1..=stream.len() {
        assert_eq!(read_by(reader(), &stream, piece).as_ref(), Ok(&expected), "pieces of {piece}");
    }
    for (stream, violation) in [
        (&[0xc9, 0x00][..], Violation::Compressed),
        (&[0xc8, 0x00], Violation::Compressed),
        (&[0x42, 0x00, 0xc0, 0x00], Violation::Compressed),
        (&[0xc0, 0x00], Violation::Compressed),
        (&[0xe2, 0x00], Violation::ReservedBit),
        (&[0xa2, 0x00], Violation::ReservedBit),
        (&[0x81, 0x00, 0x91, 0x00], Violation::ReservedBit),
    ] {
        for piece in 1..=stream.len() {
            assert_eq!(read_by(reader(), stream, piece), Err(violation), "{stream:x?} in pieces of {piece}");
        }
    }
}

#[test]
fn a_byte_that_cannot_be_text_is_noticed_before_its_frame_ends() {
    let cut: &[&[u8]] = &[&[0x81, 126, 0x10, 0, b'a', 0xf4, 0x90], &[0x01, 1, 0xe2, 0x80, 5, 0x28]];
    for stream in cut {
        for piece in 1..=stream.len() {
            assert_eq!(read(stream, piece), Err(Violation::Utf8), "{stream:x?} in pieces of {piece}");
        }
    }
    assert!(read(&[0x82, 2, 0xff, 0xc0], 1).is_ok(), "binary messages have any bytes");
}

#[test]
fn which_codes_a_close_may_have() {
    let may_be_sent = |code: u16| {
        let [high, low] = code.to_be_bytes();
        read(&[0x88, 2, high, low], 4).is_ok()
    };
    for (codes, may_be) in [
        (0..=999, false),
        (1000..=1003, true),
        (1004..=1006, false),
        (1007..=1014, true),
        (1015..=2999, false),
        (3000..=4999, true),
        (5000..=u16::MAX, false),
    ] {
        for code in codes {
            assert_eq!(may_be_sent(code), may_be, "{code}");
        }
    }
}

#[test]
fn client_headers_have_the_announced_length() {
    for len in [0, 125, 126, 0xffff, 0x1_0000] {
        let mut out = [0; MAX_CLIENT_HEADER];
        let written = write_client_header(Opcode::Binary, len, [1, 2, 3, 4], &mut out);
        assert_eq!(written, client_header_len(len));
        assert_eq!(out[written - 4..written], [1, 2, 3, 4]);
    }
}

#[test]
fn a_reader_is_small() {
    assert!(size_of::<FrameReader>() <= 24);
}
