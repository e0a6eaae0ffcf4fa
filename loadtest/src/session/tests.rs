//! Tests against a server simulated in memory.

use super::*;
use crate::message::STRAY_MAX;
use crate::stats::Measuring;
use crate::websocket::deflate::{Agreed, Deflater};

const SIZE: usize = 40;

/// A session of depth 4 with its context, and a server simulated in memory.
struct Bench {
    session: Session,
    messages: Messages,
    times: SendTimes,
    tally: Tally,
    is_closing: bool,
    codecs: Option<Codecs>,
}

impl Bench {
    fn new() -> Self {
        let (messages, times) = (Messages::new(SIZE, false, true), SendTimes::closed(4));
        let tally = Tally { measuring: Measuring::ByArrival, ..Tally::default() };
        Self { session: Session::new(7, &messages), messages, times, tally, is_closing: false, codecs: None }
    }

    /// The same with compression, without context takeover.
    fn compressing() -> Self {
        let mut bench = Self::new();
        let mut codecs = Codecs::new(1, false);
        let bits = crate::websocket::deflate::MAX_BITS;
        let (client_takes_over, server_takes_over) = (false, false);
        codecs.agree(0, Agreed { client_takes_over, server_takes_over, client_bits: bits, server_bits: bits });
        bench.session.allow_compression();
        bench.codecs = Some(codecs);
        bench
    }

    /// Sends a message at `now_ns` and returns its perfect echo.
    fn send(&mut self, now_ns: u64) -> Vec<u8> {
        let id = self.session.send(now_ns, &self.messages, &mut self.times, &mut self.tally);
        self.echo(id)
    }

    fn echo(&self, id: MessageId) -> Vec<u8> {
        let mut frame = vec![if self.messages.is_text() { 0x81 } else { 0x82 }, SIZE as u8];
        frame.resize(2 + SIZE, 0);
        self.messages.write_masked(id, 0, [0; 4], &mut frame[2..]);
        frame
    }

    fn receive(&mut self, bytes: &[u8], now_ns: u64) -> Signals {
        self.try_receive(bytes, now_ns).unwrap()
    }

    fn try_receive(&mut self, bytes: &[u8], now_ns: u64) -> Result<Signals, Violation> {
        let mut judging = Judging {
            now_ns,
            messages: &self.messages,
            times: &mut self.times,
            tally: &mut self.tally,
            is_closing: self.is_closing,
            is_closed: false,
            codecs: self.codecs.as_mut(),
            key: 0,
        };
        self.session.receive(bytes, &mut judging)
    }

    fn abandon(&mut self) {
        self.session.abandon(&mut self.times, &mut self.tally, 0);
    }

    /// Echoed, corrupted, lost, unexpected.
    fn outcome(&self) -> [u64; 4] {
        [Counter::Echoed, Counter::Corrupted, Counter::Lost, Counter::Unexpected].map(|c| self.tally.counts[c])
    }

    /// Reordered, duplicated, late.
    fn order(&self) -> [u64; 3] {
        [Counter::Reordered, Counter::Duplicated, Counter::Late].map(|c| self.tally.counts[c])
    }
}

#[test]
fn good_echoes_count_wherever_they_are_cut() {
    for cut in 1..2 * (SIZE + 2) {
        let mut bench = Bench::new();
        let mut stream = bench.send(1000);
        stream.extend(bench.send(2000));
        bench.receive(&stream[..cut], 5000);
        bench.receive(&stream[cut..], 5000);
        assert_eq!(bench.outcome(), [2, 0, 0, 0], "cut at {cut}");
        assert_eq!(bench.tally.latencies.max().unwrap().as_micros(), 4);
    }
}

#[test]
fn a_changed_byte_is_a_corrupted_echo_and_the_next_one_is_good() {
    for at in 2..SIZE + 2 {
        for cut in [1, 2, 5, 18, 19, SIZE + 2] {
            let mut bench = Bench::new();
            let mut stream = bench.send(0);
            stream[at] ^= 0x10;
            stream.extend(bench.send(0));
            bench.receive(&stream[..cut], 0);
            bench.receive(&stream[cut..], 0);
            assert_eq!(bench.outcome(), [1, 1, 0, 0], "byte {at}, cut at {cut}");
        }
    }
}

#[test]
fn a_skipped_echo_is_lost_unless_it_comes_later() {
    for cut in 1..SIZE + 2 {
        let mut bench = Bench::new();
        let echoes = [bench.send(0), bench.send(1000), bench.send(2000)];
        bench.receive(&echoes[2][..cut], 9000);
        bench.receive(&echoes[2][cut..], 9000);
        assert_eq!((bench.outcome(), bench.order()), ([1, 0, 0, 0], [0, 0, 0]), "cut at {cut}");
        assert_eq!((bench.session.in_flight(), bench.tally.counts.in_flight()), (0, 2));
        bench.receive(&echoes[0][..cut], 9000);
        bench.receive(&echoes[0][cut..], 9000);
        assert_eq!((bench.outcome(), bench.order()), ([1, 0, 0, 0], [1, 0, 0]), "cut at {cut}");
        assert_eq!(bench.tally.latencies.max().unwrap().as_micros(), 9);
        bench.receive(&echoes[0], 9000);
        assert_eq!(bench.order(), [1, 1, 0], "the second time it is a duplicate");
        bench.abandon();
        assert_eq!(bench.outcome(), [1, 0, 1, 0]);
        assert_eq!(bench.tally.counts.in_flight(), 0);
    }
}

#[test]
fn two_that_swap_are_one_reordered() {
    let mut bench = Bench::new();
    let echoes: Vec<_> = (0..4).map(|_| bench.send(0)).collect();
    for index in [1, 0, 3, 2] {
        bench.receive(&echoes[index], 0);
    }
    assert_eq!((bench.outcome(), bench.order()), ([2, 0, 0, 0], [2, 0, 0]));
    assert!(bench.session.trouble.is_none(), "nothing is kept once all is well");
}

#[test]
fn an_overtaken_echo_that_is_changed_is_corrupted() {
    for cut in [3, 10, 30] {
        let mut bench = Bench::new();
        let mut echoes = [bench.send(0), bench.send(0)];
        bench.receive(&echoes[1], 0);
        echoes[0][SIZE] ^= 4;
        bench.receive(&echoes[0][..cut], 0);
        bench.receive(&echoes[0][cut..], 0);
        assert_eq!((bench.outcome(), bench.order()), ([1, 1, 0, 0], [0, 0, 0]));
    }
}

#[test]
fn duplicates_and_strangers_are_told_apart() {
    let mut bench = Bench::new();
    let echo = bench.send(0);
    bench.receive(&echo, 0);
    bench.receive(&echo, 0);
    bench.receive(&[0x82, 3, 1, 2, 3], 0);
    let next = bench.send(0);
    bench.receive(&next, 0);
    assert_eq!((bench.outcome(), bench.order()), ([2, 0, 0, 1], [0, 1, 0]));
}

#[test]
fn a_welcome_before_the_first_echo_is_no_echo() {
    let welcomes = [&b"\x81\x05hello"[..], b"\x81\x1eRequest served by 0123456789ab", b"\x82\x03abc", b"\x81\x00"];
    for welcome in welcomes {
        for size in [SIZE, 8] {
            let mut bench = Bench::new();
            bench.messages = Messages::new(size, false, true);
            let id = bench.session.send(0, &bench.messages, &mut bench.times, &mut bench.tally);
            let mut echo = vec![0x82, size as u8];
            echo.resize(2 + size, 0);
            bench.messages.write_masked(id, 0, [0; 4], &mut echo[2..]);
            bench.receive(welcome, 0);
            bench.receive(&echo, 0);
            assert_eq!((bench.outcome(), bench.order()), ([1, 0, 0, 1], [0, 0, 0]), "{welcome:?} before {size}");
        }
    }
}

#[test]
fn an_echo_damaged_beyond_recognition_is_still_corrupted() {
    let mut bench = Bench::new();
    let mut echo = bench.send(0);
    echo[2..].iter_mut().for_each(|byte| *byte ^= 0xff);
    bench.receive(&echo, 0);
    assert_eq!(bench.outcome(), [0, 1, 0, 0]);
}

#[test]
fn what_comes_after_a_close_is_late_or_forbidden() {
    let mut bench = Bench::new();
    let echoes = [bench.send(0), bench.send(0)];
    bench.receive(&echoes[0], 0);
    bench.is_closing = true;
    bench.receive(&echoes[1], 0);
    assert_eq!((bench.outcome(), bench.order()), ([1, 0, 0, 0], [0, 0, 1]));
    assert_eq!(bench.receive(&[0x88, 0], 0).close.map(|it| it.answer()), Some(1000), "a Close without a code is one");
    assert_eq!(bench.receive(&[0x88, 2, 3, 233], 0).close.map(|it| it.answer()), Some(1001));
    let signals = bench.receive(&[0x89, 1, b'a', 0x88, 0, 0x89, 1, b'b'], 0);
    assert_eq!(
        signals,
        Signals { ping: Some(Box::new(*b"a")), close: Some(ServerClose::default()), ..Signals::default() },
        "pings behind it are not answered"
    );
    let behind = [&[0x88, 0][..], &echoes[0]].concat();
    assert_eq!(bench.try_receive(&behind, 0), Err(Violation::AfterClose));
}

#[test]
fn messages_of_mixed_sizes_are_told_apart() {
    let mut bench = Bench::new();
    bench.messages = Messages::new("0-60".parse::<crate::message::sizes::Sizes>().unwrap(), false, true);
    let mut stream = Vec::new();
    for _ in 0..500 {
        let id = bench.session.send(0, &bench.messages, &mut bench.times, &mut bench.tally);
        let size = bench.messages.size_of(id);
        let at = stream.len() + 2;
        stream.extend([0x82, size as u8]);
        stream.resize(at + size, 0);
        bench.messages.write_masked(id, 0, [0; 4], &mut stream[at..]);
    }
    for piece in stream.chunks(13) {
        bench.receive(piece, 0);
    }
    assert_eq!((bench.outcome(), bench.order()), ([500, 0, 0, 0], [0, 0, 0]));
}

#[test]
fn wrong_length_and_wrong_type_are_corrupted() {
    let mut bench = Bench::new();
    bench.messages = Messages::new(SIZE, true, true);
    let mut short = bench.send(0);
    short.pop();
    short[1] -= 1;
    let mut long = bench.send(0);
    long.push(0);
    long[1] += 1;
    let mut binary = bench.send(0);
    binary[0] = 0x82;
    let good = bench.send(0);
    for echo in [short, long, binary, good] {
        bench.receive(&echo, 0);
    }
    assert_eq!(bench.outcome(), [1, 3, 0, 0]);
}

#[test]
fn text_that_is_not_utf8_breaks_the_protocol() {
    for verify in [true, false] {
        let mut bench = Bench::new();
        bench.messages = Messages::new(SIZE, true, verify);
        let mut echo = bench.send(0);
        echo[9] |= 0x80;
        for cut in [1, 9, 10, SIZE] {
            let mut bench = Bench::new();
            bench.messages = Messages::new(SIZE, true, verify);
            bench.send(0);
            let found = bench.try_receive(&echo[..cut], 0).and_then(|_| bench.try_receive(&echo[cut..], 0));
            assert_eq!(found, Err(Violation::Utf8), "cut at {cut}");
        }
    }
    // Random bytes are not valid text either.
    let mut bench = Bench::new();
    let mut text = bench.send(0);
    text[0] = 0x81;
    assert_eq!(bench.try_receive(&text, 0), Err(Violation::Utf8));
}

#[test]
fn echoes_in_fragments_with_a_ping_between_are_good() {
    let mut bench = Bench::new();
    let echo = bench.send(0);
    let (left, right) = echo[2..].split_at(10);
    let mut stream = vec![0x02, 10];
    stream.extend_from_slice(left);
    stream.extend_from_slice(&[0x89, 1, b'p', 0x80, right.len() as u8]);
    stream.extend_from_slice(right);
    let signals = bench.receive(&stream, 0);
    assert_eq!(signals, Signals { ping: Some(Box::new(*b"p")), ..Signals::default() });
    assert_eq!(bench.outcome(), [1, 0, 0, 0]);
}

#[test]
fn without_frames_messages_follow_each_other() {
    let mut bench = Bench::new();
    bench.messages = Messages::new(SIZE, false, true).unframed();
    let mut stream = Vec::new();
    for _ in 0..3 {
        stream.extend_from_slice(&bench.send(0)[2..]);
    }
    stream[2 * SIZE + 20] ^= 1;
    for piece in stream.chunks(7) {
        bench.receive(piece, 0);
    }
    assert_eq!(bench.outcome(), [2, 1, 0, 0]);
}

#[test]
fn what_is_in_flight_at_the_end_is_lost() {
    let mut bench = Bench::new();
    bench.send(0);
    bench.send(0);
    bench.abandon();
    bench.abandon();
    assert_eq!(bench.outcome(), [0, 0, 2, 0]);
    assert_eq!(bench.tally.counts.in_flight(), 0);
}

/// A bench with a server that is expected to do something other than echo.
fn expecting(expect: &str, welcomes: u32) -> Bench {
    let mut scenario = crate::scenario::tests::scenario(10, 10, None);
    (scenario.traffic.expect, scenario.traffic.welcomes) = (expect.parse().unwrap(), welcomes);
    scenario.traffic.sizes = SIZE.into();
    let messages = Messages::of(&scenario.traffic);
    Bench { session: Session::new(7, &messages), messages, ..Bench::new() }
}

/// A text message of the server's, in two fragments.
const ANSWER: &[u8] = b"\x01\x02ab\x80\x01c";

#[test]
fn any_answer_settles_the_oldest_message_and_others_are_pushed() {
    let mut bench = expecting("any", 0);
    bench.receive(ANSWER, 5);
    bench.send(10);
    bench.send(20);
    for cut in ANSWER.chunks(1) {
        bench.receive(cut, 1010);
    }
    assert_eq!((bench.outcome(), bench.session.in_flight()), ([1, 0, 0, 0], 1));
    bench.receive(&[ANSWER, ANSWER].concat(), 1020);
    assert_eq!((bench.outcome(), bench.session.in_flight()), ([2, 0, 0, 0], 0));
    assert_eq!(bench.tally.counts[Counter::Pushed], 2);
    let latencies = &bench.tally.latencies;
    assert_eq!((latencies.count(), latencies.max().map(|it| it.as_nanos())), (2, Some(1000)));
    bench.send(30);
    bench.abandon();
    assert_eq!(bench.outcome(), [2, 0, 1, 0]);
}

#[test]
fn as_many_answers_are_awaited_as_are_expected() {
    let mut bench = expecting("3", 0);
    bench.send(0);
    bench.send(0);
    bench.receive(&ANSWER.repeat(5), 0);
    assert_eq!((bench.outcome(), bench.session.in_flight()), ([1, 0, 0, 0], 1));
    bench.receive(ANSWER, 0);
    assert_eq!((bench.outcome(), bench.tally.counts[Counter::Pushed]), ([2, 0, 0, 0], 0));
}

#[test]
fn where_nothing_is_awaited_a_message_is_done_with_when_it_is_sent() {
    let mut bench = expecting("none", 0);
    (0..9).for_each(|now_ns| drop(bench.send(now_ns)));
    bench.receive(ANSWER, 0);
    let counts = &bench.tally.counts;
    assert_eq!((counts[Counter::Unawaited], counts[Counter::Pushed], counts.in_flight()), (9, 1, 0));
    assert_eq!((counts[Counter::MeasuredEchoes], counts.load()), (9, 9));
    bench.abandon();
    assert!(bench.tally.counts.are_clean());
}

#[test]
fn a_welcome_that_is_expected_is_not_judged_and_echoes_are() {
    for (expect, outcome) in [("echo", [1, 1, 0, 0]), ("any", [2, 0, 0, 0])] {
        let mut bench = expecting(expect, 2);
        let (first, mut second) = (bench.send(0), bench.send(0));
        second[9] ^= 1;
        bench.receive(&[ANSWER, ANSWER].concat(), 0);
        assert_eq!((bench.outcome(), bench.tally.counts[Counter::Welcomes]), ([0; 4], 2));
        bench.receive(&[first, second].concat(), 0);
        assert_eq!(bench.outcome(), outcome);
        assert!(bench.session.trouble.is_none());
    }
}

#[test]
fn what_is_not_compared_is_never_called_corrupted() {
    let mut bench = expecting("any", 0);
    let mut echo = bench.send(0);
    echo.truncate(2 + SIZE - 1);
    echo[1] -= 1;
    echo[7] ^= 1;
    bench.receive(&echo, 0);
    assert_eq!((bench.outcome(), bench.order()), ([1, 0, 0, 0], [0, 0, 0]));
}

/// A payload compressed, in frames of at most `piece` bytes.
fn compressed(payload: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let (mut deflater, mut bytes) = (Deflater::new(15), Vec::new());
    deflater.push(payload, &mut bytes);
    deflater.end(0, &mut bytes);
    let count = bytes.len().div_ceil(piece);
    let frame = |(index, part): (usize, &[u8])| {
        let first = if index == 0 { 0x42 } else { 0 } | if index + 1 == count { 0x80 } else { 0 };
        [&[first, part.len() as u8], part].concat()
    };
    bytes.chunks(piece).enumerate().map(frame).collect()
}

#[test]
fn compressed_echoes_are_judged_by_what_is_in_them_wherever_they_are_cut() {
    for piece in [1, 2, 7, 1000] {
        for cut in [1, 2, 3, 10, 1000] {
            let mut bench = Bench::compressing();
            let echoes: Vec<Vec<u8>> = (0..4).map(|now_ns| bench.send(now_ns)).collect();
            let mut wrong = echoes[2][2..].to_vec();
            wrong[SIZE - 1] ^= 1;
            let ping = [0x89, 1, b'?'];
            let stream = [
                compressed(&echoes[0][2..], piece).join(&ping[..]),
                // A message that was sent compressed may come back uncompressed.
                echoes[1].clone(),
                compressed(&wrong, piece).join(&ping[..]),
                compressed(&echoes[3][2..], piece).concat(),
            ];
            for bytes in stream.concat().chunks(cut) {
                bench.receive(bytes, 10);
            }
            assert_eq!(bench.outcome(), [3, 1, 0, 0], "frames of {piece} in pieces of {cut}");
            assert_eq!(bench.tally.counts[Counter::CompressedReceived], 3);
            assert_eq!(bench.session.in_flight(), 0);
        }
    }
}

#[test]
fn a_compressed_message_of_another_length_is_no_echo() {
    for (len, outcome) in [(SIZE - 1, [0, 1, 0, 0]), (SIZE + 1, [0, 1, 0, 0]), (3, [0, 1, 0, 0]), (0, [0, 1, 0, 0])] {
        for is_compressed in [true, false] {
            let mut bench = Bench::compressing();
            let mut payload = bench.send(0)[2..].to_vec();
            payload.resize(len, b'x');
            let frames = if is_compressed {
                compressed(&payload, 1000).concat()
            } else {
                [&[0x82, len as u8], &payload[..]].concat()
            };
            bench.receive(&frames, 10);
            assert_eq!(bench.outcome(), outcome, "{len} {is_compressed}");
        }
    }
}

/// A message slightly too long is another message or a damaged echo; one longer than anything expected ends the
/// connection.
#[test]
fn a_message_that_is_inflated_without_end_is_a_breach() {
    for (len, expected) in [(STRAY_MAX as usize, Ok(())), (STRAY_MAX as usize + 1, Err(Violation::Inflated))] {
        let mut bench = Bench::compressing();
        let mut payload = bench.send(0)[2..].to_vec();
        payload.resize(len, b'x');
        let outcome = bench.try_receive(&compressed(&payload, 100).concat(), 10);
        assert_eq!(outcome.map(|_| ()), expected, "{len}");
        assert_eq!(bench.tally.counts[Counter::Corrupted], u64::from(expected.is_ok()));
        assert_eq!(bench.tally.counts[Counter::Echoed], 0);
    }
}

#[test]
fn compression_that_was_not_agreed_on_or_cannot_be_undone_is_a_breach() {
    let mut bench = Bench::new();
    let frames = compressed(&bench.send(0)[2..], 1000).concat();
    assert_eq!(bench.try_receive(&frames, 10), Err(Violation::ReservedBit));
    let mut bench = Bench::compressing();
    bench.send(0);
    assert_eq!(bench.try_receive(&[0xc2, 3, 0x06, 0, 0], 10), Err(Violation::Deflate));
    let mut bench = Bench::compressing();
    bench.send(0);
    assert_eq!(bench.try_receive(&[0x42, 1, 0xf2, 0xc0, 1, 0], 10), Err(Violation::Compressed));
}
