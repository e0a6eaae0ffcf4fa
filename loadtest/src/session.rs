//! One connection's echoes: what was sent, what has come back, and whether it is the same.
//!
//! No I/O and no clock: bytes and time come in as arguments.

use crate::message::{ID_LEN, MessageId, Messages};
use crate::stats::{Counter, Tally};
use crate::websocket::frames::{Event, FrameReader, Violation};

/// Where the times of messages in flight are kept: in the session itself while there is at most one message in flight,
/// in a table of this thread otherwise.
#[derive(Debug)]
pub struct SendTimes {
    depth: usize,
    table: Vec<u64>,
}

/// A session has no part of the table yet.
const NO_TIMES: u64 = u64::MAX;

impl SendTimes {
    /// Times for sessions with up to `depth` messages in flight.
    #[must_use]
    pub fn new(depth: u32) -> Self {
        Self { depth: depth as usize, table: Vec::new() }
    }

    /// Notes when message `sequence` was sent.
    #[inline]
    fn set(&mut self, inline: &mut u64, sequence: u32, now_ns: u64) {
        if self.depth == 1 {
            *inline = now_ns;
            return;
        }
        if *inline == NO_TIMES {
            *inline = self.table.len() as u64;
            self.table.resize(self.table.len() + self.depth, 0);
        }
        self.table[*inline as usize + sequence as usize % self.depth] = now_ns;
    }

    /// When message `sequence` was sent; `None` if that was not noted.
    #[inline]
    fn get(&self, inline: u64, sequence: u32) -> Option<u64> {
        if inline == NO_TIMES {
            return None;
        }
        let in_table = || self.table[inline as usize + sequence as usize % self.depth];
        Some(if self.depth == 1 { inline } else { in_table() })
    }
}

/// What a connection remembers of its messages. Small: there may be a million of them.
#[derive(Debug)]
pub struct Session {
    reader: FrameReader,
    /// Set while the message that is arriving is not the one that was expected.
    doubt: Option<Box<Doubt>>,
    /// When the message in flight was sent, or where in [`SendTimes`] this session's times are.
    times: u64,
    number: u32,
    /// Messages sent; the next one's sequence number.
    sent: u32,
    /// Messages that are settled: the next echo's sequence number.
    echoed: u32,
    /// Payload bytes of the arriving message so far.
    received: u32,
}

/// What the server wants besides echoing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// The payload of a ping that is to be answered (the latest: RFC 6455 section 5.5.3).
    pub ping: Option<Box<[u8]>>,
    /// The server sent its Close.
    pub closed: bool,
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
    /// A message that nobody waits for: a duplicate, a late one, or one that was never sent.
    Unexpected,
}

impl Session {
    /// A connection with this number in the whole run.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self { reader: FrameReader::default(), doubt: None, times: NO_TIMES, number, sent: 0, echoed: 0, received: 0 }
    }

    /// The connection's number.
    #[inline]
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Messages whose echo is still to come.
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

    /// Takes the next message to send; it counts as sent at `now_ns`.
    #[inline]
    pub fn send(&mut self, now_ns: u64, times: &mut SendTimes, tally: &mut Tally) -> MessageId {
        times.set(&mut self.times, self.sent, now_ns);
        self.send_untimed(tally)
    }

    /// Takes the next message to send, whose latency will not be asked for: a connection that is to be idle gets no
    /// place for times.
    #[inline]
    pub fn send_untimed(&mut self, tally: &mut Tally) -> MessageId {
        let id = MessageId { connection: self.number, sequence: self.sent };
        self.sent = self.sent.wrapping_add(1);
        tally.count(Counter::Sent);
        id
    }

    /// Takes what has arrived at `now_ns`.
    #[inline]
    pub fn receive(
        &mut self,
        mut input: &[u8],
        now_ns: u64,
        messages: &Messages,
        times: &SendTimes,
        tally: &mut Tally,
    ) -> Result<Signals, Violation> {
        let mut signals = Signals::default();
        while let Some(event) = self.next_event(&mut input, messages)? {
            match event {
                Event::Payload { text, bytes, end } => {
                    let expected = MessageId { connection: self.number, sequence: self.echoed };
                    let at = self.received as usize;
                    let is_expected = self.doubt.is_none()
                        && self.in_flight() > 0
                        && text == messages.is_text()
                        && at + bytes.len() <= messages.size()
                        && messages.matches(expected, at, bytes);
                    if !is_expected {
                        self.doubt(text, bytes, end, messages, tally);
                    }
                    self.received = self.received.saturating_add(bytes.len() as u32);
                    if end {
                        self.settle(now_ns, messages, times, tally);
                    }
                }
                Event::Ping(payload) => signals.ping = Some(payload),
                Event::Pong => {}
                Event::Close(_) => signals.closed = true,
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
        let missing = messages.size() - self.received as usize;
        let (bytes, rest) = input.split_at(missing.min(input.len()));
        *input = rest;
        Ok(Some(Event::Payload { text: messages.is_text(), bytes, end: bytes.len() == missing }))
    }

    /// The arriving message is complete: counts it as what it is.
    #[inline]
    fn settle(&mut self, now_ns: u64, messages: &Messages, times: &SendTimes, tally: &mut Tally) {
        let complete = self.received as usize == messages.size();
        self.received = 0;
        match self.doubt.take().map(|doubt| doubt.verdict) {
            None if complete => {
                let sent_ns = times.get(self.times, self.echoed);
                tally.echo(sent_ns.map(|sent_ns| now_ns.saturating_sub(sent_ns)));
                self.echoed = self.echoed.wrapping_add(1);
            }
            Some(Verdict::Unexpected) => tally.count(Counter::Unexpected),
            // An open verdict here means that the message ended early, with an empty frame.
            None | Some(Verdict::Corrupted | Verdict::Open) => {
                tally.count(Counter::Corrupted);
                self.echoed = self.echoed.wrapping_add(1);
            }
        }
    }

    /// Finds out what a message is that is not the expected one, or not as expected.
    #[cold]
    fn doubt(&mut self, text: bool, bytes: &[u8], end: bool, messages: &Messages, tally: &mut Tally) {
        let at = self.received as usize;
        let expected = MessageId { connection: self.number, sequence: self.echoed };
        let in_flight = self.in_flight();
        let doubt = self.doubt.get_or_insert_with(|| {
            // What came before this piece was as expected.
            Box::new(Doubt { id: expected.encode(), have: at.min(ID_LEN), verdict: Verdict::Open })
        });
        if doubt.verdict != Verdict::Open {
            return;
        }
        // Corrupted unless it is found out to be another message: that needs all of the identification.
        let may_be_another = messages.are_identified() && at < ID_LEN && text == messages.is_text();
        if !may_be_another {
            doubt.verdict = if in_flight > 0 { Verdict::Corrupted } else { Verdict::Unexpected };
            return;
        }
        let taken = bytes.len().min(ID_LEN - doubt.have);
        doubt.id[doubt.have..doubt.have + taken].copy_from_slice(&bytes[..taken]);
        doubt.have += taken;
        if doubt.have < ID_LEN {
            // Too short for any echo of ours, if this is all: then it was not one.
            if end {
                doubt.verdict = Verdict::Unexpected;
            }
            return;
        }
        let found = MessageId::decode(&doubt.id).filter(|id| id.connection == self.number);
        doubt.verdict = match found.map(|id| id.sequence) {
            Some(sequence) if sequence.wrapping_sub(self.echoed) < in_flight => {
                // A later message than the expected one, which therefore was skipped.
                let skipped = sequence.wrapping_sub(self.echoed);
                tally.counts[Counter::Lost] += u64::from(skipped);
                self.echoed = sequence;
                let rest = &bytes[taken..];
                let id = MessageId { connection: self.number, sequence };
                if ID_LEN + rest.len() <= messages.size() && messages.matches(id, ID_LEN, rest) {
                    self.doubt = None;
                    return;
                }
                Verdict::Corrupted
            }
            Some(sequence) if sequence < self.echoed => Verdict::Unexpected,
            _ if in_flight == 0 => Verdict::Unexpected,
            _ => Verdict::Corrupted,
        };
    }

    /// The connection is gone: what has not come back is lost.
    pub fn abandon(&mut self, tally: &mut Tally) {
        tally.counts[Counter::Lost] += u64::from(self.in_flight());
        self.echoed = self.sent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 40;

    /// A session of depth 4 with what it needs, and a server made of bytes.
    struct Bench {
        session: Session,
        messages: Messages,
        times: SendTimes,
        tally: Tally,
    }

    impl Bench {
        fn new() -> Self {
            let (messages, times) = (Messages::new(SIZE, false, true), SendTimes::new(4));
            let tally = Tally { measuring: true, ..Tally::default() };
            Self { session: Session::new(7), messages, times, tally }
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
            self.session.receive(bytes, now_ns, &self.messages, &self.times, &mut self.tally).unwrap()
        }

        /// Echoed, corrupted, lost, unexpected.
        fn outcome(&self) -> [u64; 4] {
            [Counter::Echoed, Counter::Corrupted, Counter::Lost, Counter::Unexpected].map(|c| self.tally.counts[c])
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
    fn a_skipped_echo_is_lost_and_the_rest_is_good() {
        for cut in 1..SIZE + 2 {
            let mut bench = Bench::new();
            let echoes = [bench.send(0), bench.send(0), bench.send(0)];
            bench.receive(&echoes[2][..cut], 0);
            bench.receive(&echoes[2][cut..], 0);
            assert_eq!(bench.outcome(), [1, 0, 2, 0], "cut at {cut}");
            bench.receive(&echoes[0], 0);
            assert_eq!(bench.outcome(), [1, 0, 2, 1], "a late echo is unexpected");
        }
    }

    #[test]
    fn duplicates_and_strangers_are_unexpected() {
        let mut bench = Bench::new();
        let echo = bench.send(0);
        bench.receive(&echo, 0);
        bench.receive(&echo, 0);
        bench.receive(&[0x82, 3, 1, 2, 3], 0);
        let next = bench.send(0);
        bench.receive(&next, 0);
        assert_eq!(bench.outcome(), [2, 0, 0, 2]);
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
        bench.session.abandon(&mut bench.tally);
        bench.session.abandon(&mut bench.tally);
        assert_eq!(bench.outcome(), [0, 0, 2, 0]);
        assert_eq!(bench.tally.counts.in_flight(), 0);
    }
}
