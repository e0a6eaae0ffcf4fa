//! An independent check of what a server may send (RFC 6455, section 5), byte by byte and with no thought of speed.

#![allow(unreachable_pub)] // the fuzz targets have it in a library

/// What a client can see in a server's stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Opcode and payload of each whole message, and of each Pong and Close, in order.
    pub messages: Vec<(u8, Vec<u8>)>,
    /// The message that has not ended: its opcode and what has come of it.
    pub open: Option<(u8, Vec<u8>)>,
    /// The stream ends within a frame's payload.
    pub is_within_frame: bool,
}

/// Reads frames until the stream ends, maybe within one.
///
/// # Panics
/// If a server must not send this.
pub fn check(mut bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut open: Option<(u8, Vec<u8>)> = None;
    let mut text_end = 0;
    let mut is_closed = false;
    while let [first, second, rest @ ..] = bytes {
        assert!(!is_closed, "nothing may follow a Close frame");
        assert_eq!(first & 0x70, 0, "reserved bits");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (is_final, opcode) = (first & 0x80 != 0, first & 0x0f);
        assert!(!seen.is_within_frame, "only the last frame can be cut");
        let (len, payload) = split_length(*second, rest).expect("headers are sent whole");
        let is_whole = payload.len() as u64 >= len;
        let (payload, rest) = payload.split_at((payload.len() as u64).min(len) as usize);
        match opcode {
            0x0 => open.as_mut().expect("a continuation needs a message").1.extend_from_slice(payload),
            0x1 | 0x2 => {
                assert!(open.is_none(), "a message may not begin within another");
                open = Some((opcode, payload.to_vec()));
                text_end = 0;
            }
            0x8 | 0xa => {
                assert!(is_final && len <= 125 && is_whole, "control frames are short, and are sent whole");
                check_control(opcode, payload);
                seen.messages.push((opcode, payload.to_vec()));
                is_closed = opcode == 0x8;
            }
            _ => panic!("opcode {opcode:#x}"),
        }
        if let Some((1, text)) = &open {
            assert!(is_whole, "text is sent in whole frames");
            text_end += check_text(&text[text_end..], is_final && opcode < 8);
        }
        if is_whole && is_final && opcode < 8 {
            seen.messages.extend(open.take());
        }
        seen.is_within_frame = !is_whole;
        bytes = rest;
    }
    assert!(bytes.is_empty(), "headers are sent whole");
    seen.open = open;
    seen
}

fn split_length(second: u8, bytes: &[u8]) -> Option<(u64, &[u8])> {
    match second {
        126 => {
            let (len, rest) = bytes.split_first_chunk()?;
            let len = u16::from_be_bytes(*len);
            assert!(len > 125, "lengths have their shortest form");
            Some((len.into(), rest))
        }
        127 => {
            let (len, rest) = bytes.split_first_chunk()?;
            let len = u64::from_be_bytes(*len);
            assert!(len > 0xffff && len >> 63 == 0, "lengths have their shortest form");
            Some((len, rest))
        }
        _ => Some((second.into(), bytes)),
    }
}

fn check_control(opcode: u8, payload: &[u8]) {
    if opcode == 0x8 && !payload.is_empty() {
        let (code, reason) = payload.split_first_chunk().expect("a Close frame has a whole code or none");
        let code = u16::from_be_bytes(*code);
        assert!(matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999), "close code {code}");
        std::str::from_utf8(reason).expect("a reason is UTF-8");
    }
}

/// How much of `text` is whole code points.
fn check_text(text: &[u8], is_complete: bool) -> usize {
    match std::str::from_utf8(text) {
        Ok(_) => text.len(),
        Err(error) => {
            assert!(!is_complete && error.error_len().is_none(), "only UTF-8 is echoed as text");
            error.valid_up_to()
        }
    }
}
