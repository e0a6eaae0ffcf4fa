//! Verdicts about codes and text: a Close frame's payload, and the same bytes as a text message, against the tables of
//! the RFCs. Between the fragments of a message, too, and in any cuts.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringecho::protocol::{Settings, Then};
use ringecho_fuzz::driven::{Driven, REQUEST};
use ringecho_fuzz::input::Cuts;
use ringecho_fuzz::model::{self, INVALID_DATA};
use ringecho_fuzz::outgoing;

#[derive(Debug)]
struct Input {
    key: [u8; 4],
    cuts: Cuts,
    /// Where the text is cut into two fragments.
    fragment: usize,
    payload: Vec<u8>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        let (key, cuts) = (u.arbitrary()?, u.arbitrary()?);
        let fragment = usize::from(u.arbitrary::<u8>()?);
        // Longer than a control frame can be: then only the text is of interest.
        let len = u.len().min(700);
        Ok(Self { key, cuts, fragment, payload: u.bytes(len)?.to_vec() })
    }
}

fuzz_target!(|input: Input| {
    let control = &input.payload[..input.payload.len().min(125)];
    check_close(&input, control, &[]);
    check_close(&input, control, &frame(0x01, input.key, "begun, €".as_bytes()));
    check_close(&input, control, &frame(0x02, input.key, b"\xff"));
    check_text(&input);
});

fn check_close(input: &Input, payload: &[u8], before: &[u8]) {
    let driven = receive(&input.cuts, &[before, &frame(0x88, input.key, payload)].concat());
    let seen = outgoing::check(&driven.sent);
    let [(8, answer)] = &seen.messages[..] else { panic!("no Close frame: {seen:?}") };
    let faults = model::close_verdict(payload);
    if faults.is_empty() {
        assert!(driven.is_closed_by_peer() && answer == payload, "{payload:x?} is answered with {answer:x?}");
    } else {
        let code = u16::from_be_bytes([answer[0], answer[1]]);
        assert!(driven.is_failed() && faults.contains(&code), "{payload:x?} is answered with {answer:x?}");
    }
}

fn check_text(input: &Input) {
    let (first, second) = input.payload.split_at(input.fragment.min(input.payload.len()));
    let stream = [frame(0x01, input.key, first), frame(0x80, input.key, second)].concat();
    let driven = receive(&input.cuts, &stream);
    let seen = outgoing::check(&driven.sent);
    if model::is_utf8(&input.payload) {
        assert_eq!(driven.then, Then::Continue, "UTF-8 is refused");
        assert!(seen.messages == [(1, input.payload.clone())], "not what was sent");
    } else {
        let [(8, answer)] = &seen.messages[..] else { panic!("invalid text is echoed: {seen:?}") };
        assert!(driven.is_failed() && answer.starts_with(&INVALID_DATA.to_be_bytes()), "{answer:x?}");
    }
}

/// What a session makes of `stream` in these cuts, behind the handshake.
fn receive(cuts: &Cuts, stream: &[u8]) -> Driven {
    let mut driven = Driven::new(Settings::default());
    driven.receive(REQUEST);
    driven.sent.clear();
    for read in cuts.of(stream) {
        if driven.then == Then::Continue {
            driven.receive(read);
        }
    }
    driven
}

fn frame(first: u8, key: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut clear = vec![first];
    match payload.len() {
        len @ 0..126 => clear.push(0x80 | len as u8),
        len => {
            clear.push(0xfe);
            clear.extend((len as u16).to_be_bytes());
        }
    }
    clear.extend(key);
    clear.extend(payload);
    model::mask(&clear)
}
