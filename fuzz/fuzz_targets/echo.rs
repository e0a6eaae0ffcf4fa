//! A session gets the fuzzer's bytes, cut into the fuzzer's reads; pings and closes at moments of the fuzzer's choice.
//!
//! However the stream is cut: the same messages, the same verdict, what the model says; well-formed frames; nothing
//! after a Close frame; no message beyond the limit; memory for a cut header or control frame at most.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringecho::protocol::{Phase, Then};
use ringecho_fuzz::driven::Driven;
use ringecho_fuzz::input::{Cuts, Frames};
use ringecho_fuzz::model::{self, End, Expected};
use ringecho_fuzz::outgoing::{self, Seen};

fuzz_target!(|frames: Frames| {
    let expected = model::expect(&frames.stream, frames.settings.max_message_size);
    for cuts in [&Cuts::none(), &frames.cuts] {
        check(&frames, &Driven::run(&frames, cuts, false), &expected);
    }
    if frames.ping_at.is_some() || frames.close_at.is_some() {
        check_acts(&frames, &Driven::run(&frames, &frames.cuts, true), &expected);
    }
});

fn check(frames: &Frames, driven: &Driven, expected: &Expected) {
    let seen = outgoing::check(&driven.sent);
    check_limit(frames, &seen);
    assert_eq!(driven.messages as usize, data_messages(expected), "messages miscounted");
    match &expected.end {
        End::BetweenFrames | End::WithinFrame => {
            assert_eq!(driven.then, Then::Continue, "refused without a reason");
            assert!(is_all(&seen, expected), "not what was sent");
            assert!(driven.is_bare() || expected.end == End::WithinFrame, "an idle session holds memory");
        }
        End::Closed => {
            assert!(driven.is_closed_by_peer());
            assert!(seen.messages == expected.messages, "not what was sent");
        }
        End::Failed(failure) => {
            assert!(driven.is_failed(), "a violation goes unnoticed");
            let (last, before) = seen.messages.split_last().expect("a Close frame");
            let code = last.1.first_chunk().map(|code| u16::from_be_bytes(*code));
            assert!(last.0 == 8 && code.is_some_and(|code| failure.codes.contains(&code)), "{last:?}, not {failure:?}");
            assert!(before == expected.messages, "not what was sent");
            check_cut_short(seen.open.as_ref(), expected.open.as_ref(), &failure.payload);
        }
    }
}

fn data_messages(expected: &Expected) -> usize {
    expected.messages.iter().filter(|(opcode, _)| matches!(opcode, 1 | 2)).count()
}

/// All that has come so far has been echoed. (Of a frame without payload yet there may be a header or nothing.)
fn is_all(seen: &Seen, expected: &Expected) -> bool {
    let begun = |open: &Option<(u8, Vec<u8>)>| open.clone().filter(|(_, payload)| !payload.is_empty());
    seen.messages == expected.messages && begun(&seen.open) == begun(&expected.open)
}

/// Of a message that is cut short by a violation all is echoed that came before the offending frame, and maybe some of
/// that one.
fn check_cut_short(seen: Option<&(u8, Vec<u8>)>, before: Option<&(u8, Vec<u8>)>, offending: &[u8]) {
    let empty = Vec::new();
    let (seen, before) = (seen.map_or(&empty, |open| &open.1), before.map_or(&empty, |open| &open.1));
    assert!(seen.starts_with(before), "a part of the message is missing");
    assert!([before, offending].concat().starts_with(seen), "more than was sent");
}

fn check_limit(frames: &Frames, seen: &Seen) {
    let data = seen.messages.iter().chain(&seen.open).filter(|(opcode, _)| matches!(opcode, 1 | 2));
    let longest = data.map(|(_, payload)| payload.len() as u64).max().unwrap_or(0);
    assert!(longest <= frames.settings.max_message_size, "a message of {longest} bytes");
}

/// The server pings or closes by itself. Until its Close frame it sends what it would send anyway, and then nothing.
fn check_acts(frames: &Frames, driven: &Driven, expected: &Expected) {
    let Some(told) = driven.told_to_close else { return check(frames, driven, expected) };
    let close_at = if driven.closed_at_once { Some(told) } else { frame_end(expected, told) };
    let Some(close_at) = close_at else {
        // The frame that it owes has not ended: nothing is closed yet.
        return check(frames, driven, expected);
    };
    let mut seen = outgoing::check(&driven.sent);
    check_limit(frames, &seen);
    assert_eq!(seen.messages.pop(), Some((8, b"\x03\xe9bye".to_vec())), "no Close frame of its own");
    let before = model::expect(&frames.stream[..close_at], frames.settings.max_message_size);
    assert!(is_all(&seen, &before), "not what was sent before");
    assert_eq!(driven.messages as usize, data_messages(&before), "messages miscounted");
    match expected.end {
        End::BetweenFrames | End::WithinFrame => assert_eq!(driven.session.phase(), Phase::Closing),
        End::Closed => assert!(driven.is_closed_by_peer()),
        End::Failed(_) => assert!(driven.is_failed()),
    }
}

/// Where the frame ends that the byte at `from` belongs to.
fn frame_end(expected: &Expected, from: usize) -> Option<usize> {
    expected.frame_ends.iter().copied().find(|&end| end > from)
}
