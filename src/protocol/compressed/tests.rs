use flate2::{Compress, Compression as Level, Decompress, FlushCompress, FlushDecompress};
use proptest::prelude::*;

use super::super::{
    Cause, CloseCode, Deflate, Event, Phase, Settings, Then, Work,
    testing::{Driven, REQUEST, close_payload, masked, unmasked},
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CONTINUATION: u8 = 0x80;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

fn settings(deflate: Deflate) -> Settings {
    Settings { deflate, ..Settings::default() }
}

/// A session whose handshake, with this offer, is done; and the answer to it.
fn open_with(settings: Settings, offer: &str) -> (Driven, String) {
    let mut driven = Driven::new(settings);
    let request = REQUEST.replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n"));
    driven.receive(request.as_bytes());
    assert_eq!(driven.session.phase(), Phase::Open);
    let answer = String::from_utf8(std::mem::take(&mut driven.sent)).unwrap();
    let extensions = answer.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
    let extensions = extensions.unwrap_or_default().to_owned();
    (driven, extensions)
}

fn open(deflate: Deflate) -> Driven {
    open_with(settings(deflate), "permessage-deflate; client_max_window_bits").0
}

/// A message as a client's compressor makes it.
fn compressed_by(compressor: &mut Compress, message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(message.len() + message.len() / 8 + 100);
    compressor.compress_vec(message, &mut payload, FlushCompress::Sync).unwrap();
    if payload.is_empty() {
        return vec![0]; // a flush right behind another one gives nothing: an empty message (RFC 7692 section 7.2.3.6)
    }
    assert!(payload.len() < payload.capacity() && payload.ends_with(&TAIL));
    payload.truncate(payload.len() - TAIL.len());
    payload
}

fn compressor(window: u8) -> Compress {
    Compress::new_with_window_bits(Level::new(6), false, window)
}

fn compressed(message: &[u8]) -> Vec<u8> {
    compressed_by(&mut compressor(15), message)
}

/// What a client's inflater makes of a message.
fn inflated_by(inflater: &mut Decompress, payload: &[u8]) -> Vec<u8> {
    let payload = [payload, &TAIL].concat();
    let (mut message, mut at) = (Vec::new(), 0);
    loop {
        let before = inflater.total_in();
        message.reserve(64 << 10);
        inflater.decompress_vec(&payload[at..], &mut message, FlushDecompress::None).expect("a valid stream");
        at += (inflater.total_in() - before) as usize;
        if at == payload.len() && message.len() < message.capacity() {
            return message;
        }
    }
}

/// The frames that a server has sent.
fn frames(mut sent: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while !sent.is_empty() {
        let (header, len) = super::frame::read_header(sent);
        let end = header + len as usize;
        frames.push((sent[0], sent[header..end].to_vec()));
        sent = &sent[end..];
    }
    frames
}

/// The messages and Pongs in what a server has sent: the first byte without FIN, and the bytes as they were sent.
fn messages(sent: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (mut messages, mut open) = (Vec::new(), None);
    for (first, payload) in frames(sent) {
        match first & 0x4f {
            0 => {
                let (_, message): &mut (u8, Vec<u8>) = open.as_mut().expect("a message");
                message.extend(payload);
            }
            0x01 | 0x02 | 0x41 | 0x42 => {
                assert!(open.is_none(), "a message within another");
                open = Some((first & 0x4f, payload));
            }
            _ => {
                assert_eq!(first & 0xf0, 0x80, "a control frame is whole, and not compressed");
                messages.push((first & 0x0f, payload));
                continue;
            }
        }
        if first & 0x80 != 0 {
            messages.extend(open.take());
        }
    }
    assert!(open.is_none(), "a message that has not ended");
    messages
}

fn assert_failed(driven: &Driven, code: CloseCode) {
    assert_eq!(driven.event, Some(Event::Closed(Cause::Violation(code))));
    assert_eq!(driven.then, Then::Linger);
    let frames = frames(&driven.sent);
    let (first, payload) = frames.last().expect("a Close frame");
    assert_eq!((*first, &payload[..2]), (CLOSE, &u16::from(code).to_be_bytes()[..]));
    assert_eq!(driven.shared.held(), 0, "all is given back");
}

#[test]
fn a_compressed_message_comes_back_as_it_is() {
    for deflate in [Deflate::Pass, Deflate::Verify] {
        let mut driven = open(deflate);
        for (first, message) in [(TEXT, "some text, some more text"), (BINARY, "bytes, bytes, bytes"), (TEXT, "")] {
            let payload = compressed(message.as_bytes());
            driven.receive(&masked(first | RSV1, &payload));
            assert_eq!(driven.sent, unmasked(first | RSV1, &payload));
            driven.sent.clear();
        }
        assert_eq!((driven.messages, driven.frames), (3, 3));
        assert_eq!(driven.shared.held(), 0);
    }
}

/// The example of RFC 7692, section 7.2.3.1, and the empty message of 7.2.3.6.
#[test]
fn the_examples_of_the_rfc_are_echoed() {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    for deflate in [Deflate::Pass, Deflate::Verify, Deflate::Recompress] {
        let mut driven = open(deflate);
        driven.receive(&[masked(TEXT | RSV1, &hello), masked(TEXT | RSV1, &[0])].concat());
        let messages = messages(&driven.sent);
        let texts: Vec<_> =
            messages.iter().map(|(_, payload)| inflated_by(&mut Decompress::new(false), payload)).collect();
        assert_eq!(texts, [&b"Hello"[..], b""], "{deflate:?}");
        assert!(messages.iter().all(|(first, _)| *first == 0x41));
    }
}

/// Section 7.2.3.4: the block says that it is the last, and an empty one follows. Section 7.2.3.3: a stored block.
#[test]
fn last_and_stored_blocks_are_echoed() {
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    for payload in [&last[..], &stored] {
        let mut driven = open(Deflate::Pass);
        driven.receive(&masked(TEXT | RSV1, payload));
        driven.dribble(&masked(TEXT | RSV1, payload));
        let echoed = messages(&driven.sent);
        assert_eq!(echoed, [(0x41, payload.to_vec()), (0x41, payload.to_vec())]);

        let mut driven = open(Deflate::Recompress);
        driven.receive(&masked(TEXT | RSV1, payload));
        let echoed = messages(&driven.sent);
        assert_eq!(inflated_by(&mut Decompress::new(false), &echoed[0].1), b"Hello");
    }
}

#[test]
fn binary_needs_no_inflater_but_where_it_is_checked() {
    let nonsense = [0xff; 40];
    let mut driven = open(Deflate::Pass);
    driven.receive(&masked(BINARY | RSV1, &nonsense));
    assert_eq!(driven.sent, unmasked(BINARY | RSV1, &nonsense));
    assert_eq!(driven.shared.take_work(), Work { agreed: 1, ..Work::default() });
    for deflate in [Deflate::Verify, Deflate::Recompress] {
        let mut driven = open(deflate);
        driven.receive(&masked(BINARY | RSV1, &nonsense));
        assert_failed(&driven, CloseCode::INVALID_PAYLOAD);
    }
}

/// However they are cut and fragmented.
#[test]
fn compressed_messages_and_what_they_come_to_are_counted() {
    let (text, binary) = (b"text, and more text", b"binary, and more of it");
    let payload = compressed(text);
    let stream = [
        masked(0x01 | RSV1, &payload[..5]),
        masked(PING, b"between"),
        masked(CONTINUATION, &payload[5..]),
        masked(BINARY | RSV1, &compressed(binary)),
        masked(TEXT, b"plain"),
    ]
    .concat();
    for (deflate, inflated) in [
        (Deflate::Pass, text.len()),
        (Deflate::Verify, text.len() + binary.len()),
        (Deflate::Recompress, text.len() + binary.len()),
    ] {
        let mut driven = open(deflate);
        driven.receive(&stream);
        driven.dribble(&stream);
        assert_eq!((driven.kinds.compressed, driven.kinds.texts, driven.messages), (4, 4, 6), "{deflate:?}");
        let work = driven.shared.take_work();
        assert_eq!((work.inflated, work.agreed), (2 * inflated as u64, 1), "{deflate:?}");
        assert!(!driven.shared.has_news());
    }
}

/// A frame of which there is nothing but its header holds an inflater, too: that is told.
#[test]
fn what_is_held_is_told_where_nothing_is_inflated() {
    for deflate in [Deflate::Pass, Deflate::Recompress] {
        let mut driven = open(deflate);
        driven.shared.take_work();
        driven.receive(&masked(TEXT | RSV1, b"to come")[..6]);
        assert_eq!(driven.event, Some(Event::Inflated));
        assert!(driven.session.is_inflating() && driven.shared.has_news() && driven.shared.held() > 0);
    }
}

#[test]
fn reserved_bits_that_mean_nothing_are_1002() {
    let payload = compressed(b"text");
    let fails = |mut driven: Driven, bytes: &[u8]| {
        driven.receive(bytes);
        assert_failed(&driven, CloseCode::PROTOCOL_ERROR);
    };
    fails(Driven::open(Settings::default()), &masked(TEXT | RSV1, &payload));
    // Not asked for by the client.
    fails(Driven::open(settings(Deflate::Pass)), &masked(TEXT | RSV1, &payload));
    for deflate in [Deflate::Pass, Deflate::Recompress] {
        for first in [PING | RSV1, CLOSE | RSV1, CONTINUATION | RSV1, TEXT | 0x20, TEXT | 0x60, BINARY | 0x10] {
            fails(open(deflate), &masked(first, &payload));
        }
        for first in [0x01 | RSV1, 0x02 | RSV1, 0x01] {
            fails(open(deflate), &[masked(first, b""), masked(CONTINUATION | RSV1, &payload)].concat());
            fails(open(deflate), &[masked(first, b""), masked(TEXT | RSV1, &payload)].concat());
        }
    }
}

#[test]
fn text_is_checked_as_far_as_it_has_come() {
    for deflate in [Deflate::Pass, Deflate::Verify, Deflate::Recompress] {
        let fails = |bytes: &[u8]| {
            let mut driven = open(deflate);
            driven.receive(&masked(TEXT | RSV1, &compressed(bytes)));
            assert_failed(&driven, CloseCode::INVALID_PAYLOAD);
        };
        fails(b"good, then \xff");
        fails("a code point that is cut: €".as_bytes().split_last().unwrap().1);
        let mut driven = open(deflate);
        driven.receive(&masked(BINARY | RSV1, &compressed(b"\xff\xfe")));
        assert_eq!(driven.event, (deflate != Deflate::Pass).then_some(Event::Inflated).or(Some(Event::Opened)));
        let euro = compressed("€€€".as_bytes());
        driven.dribble(&[masked(0x01 | RSV1, &euro[..3]), masked(CONTINUATION, &euro[3..])].concat());
        assert_eq!(driven.messages, 2);
    }
}

#[test]
fn corrupt_streams_are_1007() {
    // A block of the reserved type; a stored block whose length is not what its complement says.
    for payload in [&[0x07, 0x00][..], &[0x00, 0x05, 0x00, 0x00, 0x00, 0x48]] {
        for deflate in [Deflate::Pass, Deflate::Verify, Deflate::Recompress] {
            let mut driven = open(deflate);
            driven.receive(&masked(TEXT | RSV1, payload));
            assert_failed(&driven, CloseCode::INVALID_PAYLOAD);
        }
    }
}

#[test]
fn a_message_is_as_large_as_it_is_inflated() {
    let limited = |deflate| Settings { max_message_size: 1000, ..settings(deflate) };
    for deflate in [Deflate::Pass, Deflate::Verify, Deflate::Recompress] {
        let (mut driven, _) = open_with(limited(deflate), "permessage-deflate");
        driven.receive(&masked(TEXT | RSV1, &compressed(&[b'x'; 1000])));
        assert_eq!(driven.messages, 1);
        driven.receive(&masked(TEXT | RSV1, &compressed(&[b'x'; 1001])));
        assert_failed(&driven, CloseCode::MESSAGE_TOO_BIG);
    }
    // What is not inflated is as large as it is on the wire.
    let (mut driven, _) = open_with(limited(Deflate::Pass), "permessage-deflate");
    driven.receive(&masked(BINARY | RSV1, &compressed(&vec![0; 100_000])));
    assert_eq!(driven.messages, 1);
    driven.receive(&masked(BINARY | RSV1, &[0; 1001]));
    assert_failed(&driven, CloseCode::MESSAGE_TOO_BIG);
}

/// 4 MiB of zeros in 4 KiB: a turn inflates a part of them, the rest waits; nothing of them is kept but the input.
#[test]
fn a_bomb_takes_its_turns_and_no_memory() {
    let bomb = compressed(&vec![0; 4 << 20]);
    for deflate in [Deflate::Pass, Deflate::Verify, Deflate::Recompress] {
        let mut driven = open(deflate);
        driven.receive_once([masked(TEXT | RSV1, &bomb), masked(PING, b"behind it"), masked(TEXT, b"last")].concat());
        let mut turns = 0;
        loop {
            turns += 1;
            let work = driven.shared.take_work().cost;
            assert!((1..=200_000).contains(&work), "{work} ns at once");
            assert!(driven.shared.held() < 600 << 10, "{} bytes are held", driven.shared.held());
            if !driven.resume() {
                break;
            }
        }
        assert!((10..500).contains(&turns), "{turns} turns");
        assert_eq!(driven.shared.held(), 0);
        let messages = messages(&driven.sent);
        assert_eq!(inflated_by(&mut Decompress::new(false), &messages[0].1).len(), 4 << 20);
        assert_eq!(messages[1..], [(0x0a, b"behind it".to_vec()), (0x01, b"last".to_vec())]);
    }
}

/// Two blocks that come to nothing: tables, and the end.
const BARREN: [u8; 23] = [
    0x04, 0xc0, 0x81, 0x08, 0x00, 0x00, 0x00, 0x00, 0x20, 0x7f, 0xeb, 0x43, 0x00, 0x1c, 0x88, 0x00, 0x00, 0x00, 0x00,
    0x00, 0xf2, 0xb7, 0x3e,
];

#[test]
fn input_that_comes_to_nothing_has_its_turns_too() {
    let mut driven = open(Deflate::Pass);
    let payload = [&BARREN.repeat(2400)[..], &[0]].concat();
    driven.shared.take_work();
    driven.receive_once(masked(TEXT | RSV1, &payload));
    let (mut turns, mut cost) = (1, driven.shared.take_work().cost);
    while driven.resume() {
        let turn = driven.shared.take_work().cost;
        assert!(turn < 200_000, "{turn} at once");
        (turns, cost) = (turns + 1, cost + turn);
    }
    assert!(turns > payload.len() / 2000, "{turns} turns");
    assert!(cost as usize > 100 * payload.len(), "{cost} for {} bytes", payload.len());
    assert_eq!(frames(&driven.sent).iter().map(|(_, payload)| payload.len()).sum::<usize>(), payload.len());
}

#[test]
fn messages_of_nothing_have_their_turns_too() {
    for deflate in [Deflate::Pass, Deflate::Verify, Deflate::Recompress] {
        let mut driven = open(deflate);
        driven.shared.take_work();
        driven.receive_once(masked(TEXT | RSV1, b"").repeat(10_000));
        assert!(driven.session.is_waiting() && driven.messages < 1000, "{} at once", driven.messages);
        let cost = driven.shared.take_work().cost;
        assert!((50_000..100_000).contains(&cost), "{cost}");
    }
}

/// A compressor that was in the midst of a block is none for the next message: zlib-rs' reset does not end the block.
#[test]
fn a_message_that_is_given_up_leaves_nothing_to_the_next() {
    let text = b"all is well, and goes on for a while";
    let mut shared = None;
    for round in 0..3 {
        let mut driven = open(Deflate::Recompress);
        driven.shared = shared.take().unwrap_or(driven.shared);
        driven.receive(&masked(TEXT | RSV1, &compressed(text)));
        let echoed = messages(&driven.sent);
        assert_eq!(inflated_by(&mut Decompress::new(false), &echoed[0].1), text);
        let not_utf8 = [&text[..], b"\xf0\x9f"].concat();
        let (code, refused) = match round {
            0 => {
                (CloseCode::PROTOCOL_ERROR, [masked(0x01 | RSV1, &compressed(text)), masked(PING | RSV1, b"")].concat())
            }
            _ => (CloseCode::INVALID_PAYLOAD, masked(TEXT | RSV1, &compressed(&not_utf8))),
        };
        driven.receive(&refused);
        assert_failed(&driven, code);
        shared = Some(driven.shared);
    }
}

#[test]
fn input_that_waits_is_known_and_taken() {
    let mut driven = open(Deflate::Pass);
    driven.receive_once(masked(TEXT | RSV1, &compressed(&vec![0; 1 << 20])));
    assert!(driven.session.is_waiting() && driven.session.is_inflating());
    assert!(driven.session.at_frame_boundary() && driven.session.can_ping());
    driven.session.release(&mut driven.shared);
    assert!(!driven.session.is_waiting() && driven.shared.held() == 0);
}

/// The server closes in the midst of a message: what still comes of it is not inflated, and the peer's Close is found.
#[test]
fn a_close_of_our_own_ends_the_inflating() {
    let bomb = compressed(&vec![0; 1 << 20]);
    for (deflate, cut) in [(Deflate::Pass, 60), (Deflate::Recompress, 60), (Deflate::Pass, bomb.len() + 8)] {
        let mut driven = open(deflate);
        let stream = [masked(TEXT | RSV1, &bomb), masked(TEXT | RSV1, &bomb), masked(CLOSE, &close_payload(1001, ""))];
        let stream = stream.concat();
        driven.receive_once(stream[..cut].to_vec());
        assert!(driven.session.close(CloseCode::GOING_AWAY, "").is_some());
        driven.sent.clear();
        driven.shared.take_work();
        driven.resume();
        driven.receive(&stream[cut..]);
        assert_eq!(driven.event, Some(Event::Closed(Cause::PeerClosed(Some(CloseCode::GOING_AWAY)))));
        assert_eq!((driven.sent.len(), driven.shared.take_work().cost, driven.shared.held()), (0, 0, 0));
    }
}

/// Nothing is sent any more: the first that comes of the message's rest gives back what it was inflated with. That may be a
/// part of a header, too.
#[test]
fn what_is_given_back_is_told_also_where_a_header_is_cut() {
    let rest = masked(CONTINUATION, b"");
    for cut in 0..rest.len() {
        let mut driven = open(Deflate::Pass);
        driven.receive(&masked(TEXT & !FIN | RSV1, &compressed(b"to come")));
        driven.receive(&rest[..cut]);
        assert!(driven.session.close(CloseCode::GOING_AWAY, "").is_some());
        for &byte in &rest[cut..] {
            driven.shared.take_work();
            let held = driven.shared.held();
            driven.event = None;
            driven.receive(&[byte]);
            assert_eq!(driven.event.is_some(), driven.shared.held() < held, "cut at {cut}");
        }
        assert!(!driven.session.is_inflating(), "cut at {cut}");
    }
}

#[test]
fn context_is_taken_over_for_good() {
    let context = |deflate| Settings { has_deflate_context: true, ..settings(deflate) };
    let (mut driven, answer) = open_with(context(Deflate::Pass), "permessage-deflate; client_max_window_bits");
    assert_eq!(answer, "permessage-deflate");
    let (mut compressor, mut inflater) = (compressor(15), Decompress::new(false));
    for number in 0..20 {
        let message = format!("message {number} is much like the one before it").into_bytes();
        let first = if number % 3 == 0 { BINARY } else { TEXT };
        let payload = compressed_by(&mut compressor, &message);
        driven.receive(&[masked(TEXT, b"plain"), masked(first | RSV1, &payload)].concat());
        let echoed = messages(&std::mem::take(&mut driven.sent));
        assert_eq!(echoed[0], (0x01, b"plain".to_vec()));
        assert_eq!(inflated_by(&mut inflater, &echoed[1].1), message);
    }
    assert!(driven.shared.held() > 0, "an inflater of its own");
    // A cut plain message and a cut header go together with it.
    driven.dribble(&[masked(BINARY, &[7; 300]), masked(TEXT, b"end")].concat());
    assert_eq!(messages(&driven.sent).len(), 2);
}

/// A message as a client sends it.
#[derive(Clone, Debug)]
struct Message {
    is_text: bool,
    is_compressed: bool,
    bytes: Vec<u8>,
    /// Where its payload is fragmented.
    cuts: Vec<usize>,
    has_ping: bool,
}

fn message() -> impl Strategy<Value = Message> {
    let words = proptest::collection::vec(
        proptest::sample::select(&["a", "compressed ", "€uro", "\n", "0123456789"][..]),
        0..60,
    );
    let bytes = words.prop_map(|words| words.concat().into_bytes());
    let bytes = prop_oneof![6 => bytes, 1 => (0..200_000usize).prop_map(|len| vec![b' '; len])];
    let cuts = proptest::collection::vec(0..1000usize, 0..4);
    (any::<bool>(), any::<bool>(), bytes, cuts, any::<bool>()).prop_map(
        |(is_text, is_compressed, bytes, cuts, has_ping)| Message { is_text, is_compressed, bytes, cuts, has_ping },
    )
}

/// The frames of a message, whose payload is `payload`.
fn fragments(message: &Message, payload: &[u8]) -> Vec<u8> {
    let mut cuts: Vec<usize> = message.cuts.iter().map(|cut| cut % (payload.len() + 1)).collect();
    cuts.sort_unstable();
    let mut first = if message.is_text { 1 } else { 2 } | if message.is_compressed { RSV1 } else { 0 };
    let (mut stream, mut at) = (Vec::new(), 0);
    for cut in cuts {
        stream.extend(masked(first, &payload[at..cut]));
        if message.has_ping {
            stream.extend(masked(PING, b"between"));
        }
        (first, at) = (0, cut);
    }
    stream.extend(masked(first | 0x80, &payload[at..]));
    stream
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever is sent, compressed or not, in whatever fragments and pieces, with every window and either context, comes
    /// back as valid messages in the other direction.
    #[test]
    fn every_message_comes_back(
        messages_sent in proptest::collection::vec(message(), 1..6),
        deflate in proptest::sample::select(&[Deflate::Pass, Deflate::Verify, Deflate::Recompress][..]),
        window in 9..=15u8,
        has_deflate_context: bool,
        pieces in proptest::collection::vec(1..400usize, 1..6),
        is_whole: bool,
    ) {
        let has_deflate_context = has_deflate_context && deflate != Deflate::Recompress;
        let offer = format!("permessage-deflate; server_max_window_bits={window}; client_max_window_bits");
        let (mut driven, answer) = open_with(Settings { has_deflate_context, ..settings(deflate) }, &offer);
        let has_context = !answer.contains("client_no_context_takeover");
        prop_assert_eq!(has_context, has_deflate_context);
        let mut compressor = compressor(if answer.contains("client_max_window_bits") { window } else { 15 });
        let (mut stream, mut payloads) = (Vec::new(), Vec::new());
        for message in &messages_sent {
            let payload = if message.is_compressed {
                if !has_context {
                    compressor.reset();
                }
                compressed_by(&mut compressor, &message.bytes)
            } else {
                message.bytes.clone()
            };
            stream.extend(fragments(message, &payload));
            payloads.push(payload);
        }
        let pings = messages_sent.iter().map(|message| if message.has_ping { message.cuts.len() } else { 0 }).sum::<usize>();
        let sizes = if is_whole { vec![stream.len()] } else { pieces };
        let mut rest = &stream[..];
        for size in sizes.iter().cycle() {
            let (piece, behind) = rest.split_at((*size).min(rest.len()));
            driven.receive(piece);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(driven.then, Then::Continue);
        let (mut echoed, mut pongs) = (Vec::new(), 0);
        for (first, payload) in messages(&driven.sent) {
            if first == PONG & 0x0f {
                pongs += 1;
            } else {
                echoed.push((first, payload));
            }
        }
        prop_assert_eq!((echoed.len(), pongs), (messages_sent.len(), pings));
        let mut inflater = Decompress::new_with_window_bits(false, window);
        for ((message, payload), (first, echo)) in messages_sent.iter().zip(&payloads).zip(&echoed) {
            let kind = if message.is_text { 1 } else { 2 } | if message.is_compressed { RSV1 } else { 0 };
            prop_assert_eq!(*first, kind);
            if deflate != Deflate::Recompress {
                prop_assert_eq!(echo, payload, "as it was sent");
            }
            let bytes = if message.is_compressed {
                if !has_context {
                    inflater = Decompress::new_with_window_bits(false, window);
                }
                inflated_by(&mut inflater, echo)
            } else {
                echo.clone()
            };
            prop_assert_eq!(&bytes, &message.bytes);
        }
        prop_assert_eq!(driven.messages as usize, messages_sent.len());
        prop_assert_eq!(driven.shared.held() > 0, has_context && messages_sent.iter().any(|message| message.is_compressed));
    }
}
