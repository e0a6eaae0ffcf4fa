//! The same bytes to a session and to tungstenite's server: the same messages, the same verdict.
//!
//! Where the two may differ, the model says whether they do so for a known reason; docs/FUZZING.md has the same list.
#![no_main]

use std::io::{self, ErrorKind, Read, Write};

use libfuzzer_sys::fuzz_target;
use ringecho::protocol::{Cause, Event};
use ringecho_fuzz::driven::Driven;
use ringecho_fuzz::input::{Cuts, Frames};
use ringecho_fuzz::model::{self, End, Failure, INVALID_DATA, PROTOCOL_ERROR, TOO_BIG};
use ringecho_fuzz::outgoing;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

const BAD_GATEWAY: u16 = 1014;
/// What tungstenite makes of a Close frame whose code it does not accept.
const REFUSAL: &[u8] = b"\x03\xeaProtocol violation";

/// What came of a stream: opcode and payload of what the client gets back, and the end.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    messages: Vec<(u8, Vec<u8>)>,
    verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Continues,
    /// The client has closed, with this payload.
    Closed(Vec<u8>),
    /// With this close code.
    Failed(u16),
}

/// Why tungstenite comes to another verdict.
#[derive(Debug)]
enum Known {
    /// It accepts a length that is not in its shortest form (section 5.2: MUST be the minimal number of bytes).
    LongForm,
    /// It looks at a frame when all of it is there. The RFC leaves open when a violation has to be noticed (7.1.7).
    Later,
    /// The frame breaks several rules, and it names another one. The RFC has no order.
    OtherFault,
    /// It compares the length of each frame, even a control frame, with its limit before anything else.
    FrameLimit,
    /// It gives out a Close frame with a code that must not be sent as one with 1002, and answers with that.
    Refusal,
    /// It does not know 1014, which came to the registry of section 11.7 after the RFC, and answers 1002.
    BadGateway,
}

fuzz_target!(|frames: Frames| {
    let theirs = tungstenite(&frames);
    let expected = model::expect(&frames.stream, frames.settings.max_message_size);
    for cuts in [&Cuts::none(), &frames.cuts] {
        let ours = ringecho(&frames, cuts);
        if ours == theirs {
            continue;
        }
        let known = known_difference(&ours.verdict, &theirs.verdict, &expected.end, frame_limit(&frames) as u64);
        assert!(known.is_some(), "{ours:?}, and tungstenite: {theirs:?}");
        // Beyond a frame that only one of them accepts there is nothing to compare.
        let is_same = match known {
            Some(Known::LongForm) => theirs.messages.starts_with(&ours.messages),
            _ => theirs.messages == ours.messages,
        };
        assert!(is_same, "tungstenite reads other messages: {ours:?}, {theirs:?}");
    }
});

/// Payload bytes of a frame that tungstenite accepts: a message, and any control frame.
fn frame_limit(frames: &Frames) -> usize {
    (frames.settings.max_message_size as usize).max(125)
}

fn known_difference(ours: &Verdict, theirs: &Verdict, expected: &End, frame_limit: u64) -> Option<Known> {
    match (ours, theirs, expected) {
        (Verdict::Failed(code), _, End::Failed(Failure { codes, .. })) if !codes.contains(code) => None,
        (Verdict::Failed(_), _, End::Failed(Failure { is_merely_long_form: true, .. })) => Some(Known::LongForm),
        (Verdict::Failed(_), Verdict::Continues, End::Failed(Failure { is_whole: false, .. })) => Some(Known::Later),
        (Verdict::Failed(_), Verdict::Failed(code), End::Failed(Failure { codes, .. })) if codes.contains(code) => {
            Some(Known::OtherFault)
        }
        (Verdict::Failed(_), Verdict::Failed(TOO_BIG), End::Failed(Failure { payload_len, .. })) => {
            payload_len.is_some_and(|len| len > frame_limit).then_some(Known::FrameLimit)
        }
        (Verdict::Failed(PROTOCOL_ERROR), Verdict::Closed(close), End::Failed(_)) if close == REFUSAL => {
            Some(Known::Refusal)
        }
        (Verdict::Closed(close), Verdict::Closed(theirs), End::Closed) if theirs == REFUSAL => {
            close.starts_with(&BAD_GATEWAY.to_be_bytes()).then_some(Known::BadGateway)
        }
        _ => None,
    }
}

fn ringecho(frames: &Frames, cuts: &Cuts) -> Outcome {
    let driven = Driven::run(frames, cuts, false);
    let mut messages = outgoing::check(&driven.sent).messages;
    let mut close = || messages.pop().expect("a Close frame").1;
    let verdict = match driven.event {
        Some(Event::Closed(Cause::Violation(code))) => {
            assert_eq!(close().first_chunk().map(|code| u16::from_be_bytes(*code)), Some(code.into()));
            Verdict::Failed(code.into())
        }
        Some(Event::Closed(_)) => Verdict::Closed(close()),
        _ => Verdict::Continues,
    };
    Outcome { messages, verdict }
}

fn tungstenite(frames: &Frames) -> Outcome {
    let limits = (frames.settings.max_message_size as usize, frame_limit(frames));
    let config = WebSocketConfig::default().max_message_size(Some(limits.0)).max_frame_size(Some(limits.1));
    let config = config.read_buffer_size(4096);
    let reads = frames.cuts.of(&frames.stream).map(<[u8]>::to_vec).collect();
    let mut server = WebSocket::from_raw_socket(Wire { reads, next: 0 }, Role::Server, Some(config));
    let mut messages = Vec::new();
    let verdict = loop {
        match server.read() {
            Ok(Message::Text(text)) => messages.push((1, text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => messages.push((2, bytes.to_vec())),
            Ok(Message::Ping(payload)) => messages.push((10, payload.to_vec())),
            Ok(Message::Pong(_)) => {}
            Ok(Message::Close(close)) => break Verdict::Closed(close.map_or(Vec::new(), close_payload)),
            Ok(Message::Frame(_)) => unreachable!("reading gives whole messages"),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break Verdict::Continues,
            Err(Error::Protocol(_)) => break Verdict::Failed(PROTOCOL_ERROR),
            Err(Error::Utf8(_)) => break Verdict::Failed(INVALID_DATA),
            Err(Error::Capacity(_)) => break Verdict::Failed(TOO_BIG),
            Err(error) => panic!("{error}"),
        }
    };
    Outcome { messages, verdict }
}

fn close_payload(close: CloseFrame) -> Vec<u8> {
    [&u16::from(close.code).to_be_bytes(), close.reason.as_bytes()].concat()
}

/// A socket that gives what has been cut, then has no more for now; what is written is of no interest.
struct Wire {
    reads: Vec<Vec<u8>>,
    next: usize,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(read) = self.reads.get_mut(self.next) else { return Err(ErrorKind::WouldBlock.into()) };
        let len = read.len().min(buf.len());
        buf[..len].copy_from_slice(&read[..len]);
        read.drain(..len);
        self.next += usize::from(read.is_empty());
        Ok(len)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
