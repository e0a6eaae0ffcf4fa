//! One connection's echoes: what was sent, what has come back, and whether it is the same.
//!
//! No I/O and no clock: bytes and time come in as arguments.

use std::collections::VecDeque;

use crate::message::{ID_LEN, MessageId, Messages};
use crate::stats::{Counter, Tally};
use crate::times::{NO_TIMES, SendTimes};
use crate::websocket::frames::{Event, FrameReader, Violation};

/// Overtaken messages that a connection remembers; what has been overtaken by so many is lost.
const MAX_OVERTAKEN: usize = 4096;

/// So many of the identification's letters must be right for a message to be taken for a damaged echo, rather than for
/// something else altogether.
const FAMILIAR: usize = ID_LEN / 2;

/// What a connection remembers of its messages. Small: there may be a million of them.
#[derive(Debug)]
pub struct Session {
    reader: FrameReader,
    /// Only there while something is not as it should be.
    trouble: Option<Box<Trouble>>,
    /// When the message in flight was sent, or where in [`SendTimes`] this session's times are.
    times: u64,
    number: u32,
    /// Messages sent; the next one's sequence number.
    sent: u32,
    /// Messages that are settled or overtaken: the next echo's sequence number.
    echoed: u32,
    /// Payload bytes of the arriving message so far.
    received: u32,
}

/// What a session needs to judge what has arrived.
#[derive(Debug)]
pub struct Judging<'a> {
    /// When it arrived.
    pub now_ns: u64,
    /// What was sent.
    pub messages: &'a Messages,
    /// Since when it counts.
    pub times: &'a mut SendTimes,
    /// Where it is counted.
    pub tally: &'a mut Tally,
    /// This side has sent its Close: echoes are late.
    pub is_closing: bool,
    /// The server has sent its Close: there must be no more data.
    pub is_closed: bool,
}

/// What the server wants besides echoing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// The payload of a ping that is to be answered (the latest: RFC 6455 section 5.5.3).
    pub ping: Option<Box<[u8]>>,
    /// The server sent its Close.
    pub closed: bool,
}

/// What is out of order on a connection.
#[derive(Debug, Default)]
struct Trouble {
    /// The arriving message is not the expected one, or not as expected.
    doubt: Option<Doubt>,
    /// Messages that a later one has overtaken, in their order, and since when they count.
    overtaken: VecDeque<(u32, Option<u64>)>,
}

/// A message that is not the expected one: as much of its identification as has arrived, until it is known what it is.
#[derive(Debug)]
struct Doubt {
    id: [u8; ID_LEN],
    have: usize,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The identification has not arrived in full.
    Open,
    /// The expected message with wrong bytes.
    Corrupted,
    /// An earlier message that had been overtaken; whether its bytes are right so far.
    Overtaken { sequence: u32, intact: bool },
    /// A message that has come before.
    Duplicated,
    /// Nothing that was sent, or an echo damaged beyond recognition: if its length is right, the latter.
    Strange,
    /// A message that was never sent.
    Unexpected,
}

impl Session {
    /// A connection with this number in the whole run.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self { reader: FrameReader::default(), trouble: None, times: NO_TIMES, number, sent: 0, echoed: 0, received: 0 }
    }

    /// The connection's number.
    #[inline]
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Messages whose echo is still to come, but for those that have been overtaken.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.sent.wrapping_sub(self.echoed)
    }

    /// Whether nothing has been sent yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.sent == 0
    }

    /// Whether any message has been settled yet.
    #[must_use]
    pub fn has_echoed(&self) -> bool {
        self.echoed > 0
    }

    /// This session's clock in an open loop, if it has one.
    #[inline]
    #[must_use]
    pub fn clock(&self) -> Option<u32> {
        (self.times != NO_TIMES).then_some(self.times as u32)
    }

    /// Gives this session a clock in an open loop. Nothing may be in flight.
    pub fn set_clock(&mut self, clock: u32) {
        debug_assert!(self.times == NO_TIMES && self.in_flight() == 0, "clocks start with an empty connection");
        self.times = u64::from(clock);
    }

    /// The next message to send.
    #[inline]
    #[must_use]
    pub fn next_id(&self) -> MessageId {
        MessageId { connection: self.number, sequence: self.sent }
    }

    /// Takes the next message to send; it counts as sent at `now_ns`.
    #[inline]
    pub fn send(&mut self, now_ns: u64, times: &mut SendTimes, tally: &mut Tally) -> MessageId {
        times.sent(&mut self.times, self.number, self.sent, now_ns);
        self.send_untimed(tally)
    }

    /// Takes the next message to send, whose latency will not be asked for: a connection that is to be idle gets no
    /// place for times.
    #[inline]
    pub fn send_untimed(&mut self, tally: &mut Tally) -> MessageId {
        tally.count(Counter::Sent);
        self.send_unread()
    }

    /// Takes the next message to send, whose echo nobody is going to read.
    #[inline]
    pub fn send_unread(&mut self) -> MessageId {
        let id = self.next_id();
        self.sent = self.sent.wrapping_add(1);
        id
    }

    /// Takes what has arrived.
    #[inline]
    pub fn receive(&mut self, mut input: &[u8], judging: &mut Judging) -> Result<Signals, Violation> {
        let mut signals = Signals::default();
        while let Some(event) = self.next_event(&mut input, judging.messages)? {
            match event {
                Event::Payload { .. } if judging.is_closed => return Err(Violation::AfterClose),
                Event::Payload { text, bytes, end } => {
                    let expected = self.expected();
                    let at = self.received as usize;
                    let is_expected = !self.is_in_doubt()
                        && self.in_flight() > 0
                        && text == judging.messages.is_text()
                        && at + bytes.len() <= judging.messages.size_of(expected)
                        && judging.messages.matches(expected, at, bytes);
                    if !is_expected {
                        self.doubt(text, bytes, end, judging);
                    }
                    self.received = self.received.saturating_add(bytes.len() as u32);
                    if end {
                        self.settle(judging);
                    }
                }
                Event::Ping(payload) => signals.ping = Some(payload),
                Event::Pong => judging.tally.count(Counter::Pongs),
                Event::Close(_) => {
                    signals.closed = true;
                    judging.is_closed = true;
                }
            }
        }
        Ok(signals)
    }

    #[inline]
    fn next_event<'a>(&mut self, input: &mut &'a [u8], messages: &Messages) -> Result<Option<Event<'a>>, Violation> {
        if messages.are_framed() {
            return self.reader.next(input);
        }
        if input.is_empty() {
            return Ok(None);
        }
        let missing = messages.size_of(self.expected()).saturating_sub(self.received as usize).max(1);
        let (bytes, rest) = input.split_at(missing.min(input.len()));
        *input = rest;
        Ok(Some(Event::Payload { text: messages.is_text(), bytes, end: bytes.len() == missing }))
    }

    /// The next message whose echo is to come.
    #[inline]
    fn expected(&self) -> MessageId {
        MessageId { connection: self.number, sequence: self.echoed }
    }

    #[inline]
    fn is_in_doubt(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.doubt.is_some())
    }

    /// The arriving message is complete: counts it as what it is.
    #[inline]
    fn settle(&mut self, judging: &mut Judging) {
        let received = std::mem::take(&mut self.received) as usize;
        if self.trouble.is_some() {
            return self.settle_in_trouble(received, judging);
        }
        let end =
            if received == judging.messages.size_of(self.expected()) { good_end(judging) } else { Counter::Corrupted };
        self.settle_expected(end, judging);
    }

    /// The expected message has come, and ends as `end`.
    #[inline]
    fn settle_expected(&mut self, end: Counter, judging: &mut Judging) {
        let since_ns = judging.times.settled(self.times, self.number, self.echoed);
        self.echoed = self.echoed.wrapping_add(1);
        match end {
            Counter::Echoed | Counter::Late => judging.tally.echo(end, since_ns, judging.now_ns),
            _ => judging.tally.count(end),
        }
    }

    #[cold]
    fn settle_in_trouble(&mut self, received: usize, judging: &mut Judging) {
        let expected_size = judging.messages.size_of(self.expected());
        let doubt = self.trouble.as_mut().and_then(|trouble| trouble.doubt.take());
        match doubt.map(|doubt| doubt.verdict) {
            None if received == expected_size => self.settle_expected(good_end(judging), judging),
            // An open verdict here means that the message ended early, with an empty frame.
            None | Some(Verdict::Corrupted | Verdict::Open) => self.settle_expected(Counter::Corrupted, judging),
            Some(Verdict::Strange) if received == expected_size && self.in_flight() > 0 => {
                self.settle_expected(Counter::Corrupted, judging);
            }
            Some(Verdict::Overtaken { sequence, intact }) => {
                let id = MessageId { connection: self.number, sequence };
                let is_intact = intact && received == judging.messages.size_of(id);
                self.settle_overtaken(sequence, is_intact, judging);
            }
            Some(Verdict::Duplicated) => judging.tally.count(Counter::Duplicated),
            Some(Verdict::Strange | Verdict::Unexpected) => judging.tally.count(Counter::Unexpected),
        }
        if self.trouble.as_ref().is_some_and(|trouble| trouble.overtaken.is_empty()) {
            self.trouble = None;
        }
    }

    /// A message that had been overtaken has come after all.
    fn settle_overtaken(&mut self, sequence: u32, is_intact: bool, judging: &mut Judging) {
        let Some(trouble) = &mut self.trouble else { return };
        let Ok(at) = trouble.overtaken.binary_search_by_key(&sequence, |&(sequence, _)| sequence) else { return };
        let (_, since_ns) = trouble.overtaken.remove(at).expect("just found");
        if is_intact {
            judging.tally.echo(Counter::Reordered, since_ns, judging.now_ns);
        } else {
            judging.tally.count(Counter::Corrupted);
        }
    }

    /// Finds out what a message is that is not the expected one, or not as expected.
    #[cold]
    fn doubt(&mut self, text: bool, bytes: &[u8], end: bool, judging: &mut Judging) {
        let (at, messages, expected) = (self.received as usize, judging.messages, self.expected());
        let has_id = messages.are_identified() && (at == 0 || messages.size_of(expected) >= ID_LEN);
        let in_flight = self.in_flight();
        let is_first = self.echoed == 0;
        let doubt = self.trouble.get_or_insert_default().doubt.get_or_insert_with(|| {
            // What came before this piece was as expected.
            Doubt { id: expected.encode(), have: at.min(ID_LEN), verdict: Verdict::Open }
        });
        if let Verdict::Overtaken { sequence, intact } = &mut doubt.verdict {
            let id = MessageId { connection: expected.connection, sequence: *sequence };
            *intact &= messages.matches(id, at, bytes);
            return;
        }
        if doubt.verdict != Verdict::Open {
            return;
        }
        // Corrupted unless it is found out to be another message: that needs all of the identification.
        if !has_id || at >= ID_LEN {
            doubt.verdict = match in_flight {
                0 => Verdict::Unexpected,
                // The first message may well be a welcome.
                _ if !has_id && is_first => Verdict::Strange,
                _ => Verdict::Corrupted,
            };
            return;
        }
        let taken = bytes.len().min(ID_LEN - doubt.have);
        doubt.id[doubt.have..doubt.have + taken].copy_from_slice(&bytes[..taken]);
        doubt.have += taken;
        if doubt.have < ID_LEN {
            // Too short to say what it is, if this is all: an echo only if that is to be so short.
            if end {
                doubt.verdict = Verdict::Strange;
            }
            return;
        }
        let id = doubt.id;
        let verdict = self.identify(&id, text, &bytes[taken..], judging);
        if let Some(trouble) = &mut self.trouble {
            trouble.doubt = verdict.map(|verdict| Doubt { id, have: ID_LEN, verdict });
        }
    }

    /// What a message with this identification is, whose first bytes behind it are `rest`. `None` if it is one that is in
    /// flight, and right so far: then it is the expected one now.
    fn identify(&mut self, id: &[u8; ID_LEN], text: bool, rest: &[u8], judging: &mut Judging) -> Option<Verdict> {
        let in_flight = self.in_flight();
        let expected = self.expected().encode();
        let found = MessageId::decode(id).filter(|found| found.connection == self.number);
        let is_right = |id: MessageId| {
            text == judging.messages.is_text()
                && ID_LEN + rest.len() <= judging.messages.size_of(id)
                && judging.messages.matches(id, ID_LEN, rest)
        };
        match found {
            Some(found) if found.sequence.wrapping_sub(self.echoed) < in_flight => {
                let is_right = is_right(found);
                self.overtake(found.sequence, judging);
                (!is_right).then_some(Verdict::Corrupted)
            }
            Some(found) if found.sequence < self.echoed => {
                let overtaken = self.trouble.as_ref().map(|trouble| &trouble.overtaken);
                let is_overtaken = overtaken
                    .is_some_and(|list| list.binary_search_by_key(&found.sequence, |&(sequence, _)| sequence).is_ok());
                let intact = is_right(found);
                let overtaken = Verdict::Overtaken { sequence: found.sequence, intact };
                Some(if is_overtaken { overtaken } else { Verdict::Duplicated })
            }
            _ if in_flight == 0 => Some(Verdict::Unexpected),
            _ => {
                let familiar = id.iter().zip(&expected).filter(|(found, expected)| found == expected).count();
                Some(if familiar >= FAMILIAR { Verdict::Corrupted } else { Verdict::Strange })
            }
        }
    }

    /// Message `sequence` has come before those from the expected one on.
    fn overtake(&mut self, sequence: u32, judging: &mut Judging) {
        let overtaken = &mut self.trouble.get_or_insert_default().overtaken;
        while self.echoed != sequence {
            let since_ns = judging.times.settled(self.times, self.number, self.echoed);
            overtaken.push_back((self.echoed, since_ns));
            self.echoed = self.echoed.wrapping_add(1);
        }
        while overtaken.len() > MAX_OVERTAKEN {
            overtaken.pop_front();
            judging.tally.count(Counter::Lost);
        }
    }

    /// The connection is gone: what has not come back is lost.
    pub fn abandon(&mut self, times: &mut SendTimes, tally: &mut Tally) {
        let overtaken = self.trouble.take().map_or(0, |trouble| trouble.overtaken.len());
        tally.counts[Counter::Lost] += u64::from(self.in_flight()) + overtaken as u64;
        self.echoed = self.sent;
        times.release(std::mem::replace(&mut self.times, NO_TIMES));
    }

    /// The connection is gone, and nobody wanted to read its echoes.
    pub fn forget(&mut self) {
        self.echoed = self.sent;
    }
}

/// How a good echo ends.
#[inline]
fn good_end(judging: &Judging) -> Counter {
    if judging.is_closing { Counter::Late } else { Counter::Echoed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Measuring;

    const SIZE: usize = 40;

    /// A session of depth 4 with what it needs, and a server made of bytes.
    struct Bench {
        session: Session,
        messages: Messages,
        times: SendTimes,
        tally: Tally,
        is_closing: bool,
    }

    impl Bench {
        fn new() -> Self {
            let (messages, times) = (Messages::new(SIZE, false, true), SendTimes::closed(4));
            let tally = Tally { measuring: Measuring::ByArrival, ..Tally::default() };
            Self { session: Session::new(7), messages, times, tally, is_closing: false }
        }

        /// Sends a message at `now_ns` and returns its perfect echo.
        fn send(&mut self, now_ns: u64) -> Vec<u8> {
            let id = self.session.send(now_ns, &mut self.times, &mut self.tally);
            self.echo(id)
        }

        fn echo(&self, id: MessageId) -> Vec<u8> {
            let mut frame = vec![0x82, SIZE as u8];
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
            };
            self.session.receive(bytes, &mut judging)
        }

        fn abandon(&mut self) {
            self.session.abandon(&mut self.times, &mut self.tally);
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
                let id = bench.session.send(0, &mut bench.times, &mut bench.tally);
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
        assert!(bench.receive(&[0x88, 0], 0).closed, "a Close without a reason is one");
        let behind = [&[0x88, 0][..], &echoes[0]].concat();
        assert_eq!(bench.try_receive(&behind, 0), Err(Violation::AfterClose));
    }

    #[test]
    fn messages_of_mixed_sizes_are_told_apart() {
        let mut bench = Bench::new();
        bench.messages = Messages::new("0-60".parse::<crate::message::sizes::Sizes>().unwrap(), false, true);
        let mut stream = Vec::new();
        for _ in 0..500 {
            let id = bench.session.send(0, &mut bench.times, &mut bench.tally);
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
        let mut short = bench.send(0);
        short.pop();
        short[1] -= 1;
        let mut long = bench.send(0);
        long.push(0);
        long[1] += 1;
        let mut text = bench.send(0);
        text[0] = 0x81;
        let good = bench.send(0);
        for echo in [short, long, text, good] {
            bench.receive(&echo, 0);
        }
        assert_eq!(bench.outcome(), [1, 3, 0, 0]);
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
        assert_eq!(signals, Signals { ping: Some(Box::new(*b"p")), closed: false });
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
}
