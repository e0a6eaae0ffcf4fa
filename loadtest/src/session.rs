//! The checks of one connection's echoes: which messages were sent, which have come back, and whether the bytes are
//! equal.
//!
//! No I/O and no clock: bytes and time come in as arguments.

use std::collections::VecDeque;

use crate::codecs::Codecs;
use crate::message::expect::Expect;
use crate::message::{ID_LEN, MessageId, Messages};
use crate::stats::{Counter, Tally};
use crate::times::{NO_TIMES, SendTimes};
use crate::websocket::frames::{Event, FrameReader, ServerClose, Violation};

/// Limit of overtaken messages that a connection remembers; older ones count as lost.
const MAX_OVERTAKEN: usize = 4096;

/// The least number of identification bytes that must match for a message to count as a damaged echo rather than as
/// something else.
const FAMILIAR: usize = ID_LEN / 2;

/// The state of a connection's messages. Small: there may be a million of them.
#[derive(Debug)]
pub struct Session {
    reader: FrameReader,
    /// Allocated only while echoes are out of order or in doubt.
    trouble: Option<Box<Trouble>>,
    /// When the message in flight was sent, or the position of this session's times in [`SendTimes`].
    times: u64,
    number: u32,
    /// Messages sent; the next one's sequence number.
    sent: u32,
    /// Messages settled or overtaken: the sequence number of the next expected echo.
    echoed: u32,
    /// Payload bytes of the arriving message so far.
    received: u32,
}

/// The context for judging arrived messages.
#[derive(Debug)]
pub struct Judging<'a> {
    /// When it arrived.
    pub now_ns: u64,
    /// The sent messages.
    pub messages: &'a Messages,
    /// When the measured time began.
    pub times: &'a mut SendTimes,
    /// The counters.
    pub tally: &'a mut Tally,
    /// This side has sent its Close: echoes count as late.
    pub is_closing: bool,
    /// The server has sent its Close: no more data may follow.
    pub is_closed: bool,
    /// The inflaters, if compression is offered.
    pub codecs: Option<&'a mut Codecs>,
    /// The connection's key in the inflaters.
    pub key: u32,
}

/// Control frames from the server.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// The payload of the latest ping to be answered (RFC 6455 section 5.5.3), if it came before the server's Close
    /// (section 5.5.2).
    pub ping: Option<Box<[u8]>>,
    /// The payloads of pongs.
    pub pongs: Vec<Box<[u8]>>,
    /// The server sent its Close.
    pub close: Option<ServerClose>,
}

/// The out-of-order state of a connection.
#[derive(Debug, Default)]
struct Trouble {
    /// The arriving message is unexpected, or differs from the expected one.
    doubt: Option<Doubt>,
    /// Overtaken messages in order, each with the time since which it counts.
    overtaken: VecDeque<(u32, Option<u64>)>,
    /// Number of welcome messages that the server is still to send; they are not checked.
    welcomes: u32,
}

/// An arriving message that differs from the expected one: the part of its identification received so far, and the
/// verdict.
#[derive(Debug)]
struct Doubt {
    id: [u8; ID_LEN],
    have: usize,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The identification is incomplete.
    Open,
    /// The expected message with wrong bytes.
    Corrupted,
    /// An earlier, overtaken message; `intact` says whether its bytes have matched so far.
    Overtaken { sequence: u32, intact: bool },
    /// A message that has already come back.
    Duplicated,
    /// Not a sent message, or an echo damaged beyond recognition. It counts as damaged if its length is right.
    Strange,
    /// A message that was never sent.
    Unexpected,
}

impl Session {
    /// The session of connection number `number` in the whole run.
    #[must_use]
    pub fn new(number: u32, messages: &Messages) -> Self {
        let welcomes = messages.welcomes();
        let trouble = (welcomes > 0).then(|| Box::new(Trouble { welcomes, ..Trouble::default() }));
        Self { reader: FrameReader::default(), trouble, times: NO_TIMES, number, sent: 0, echoed: 0, received: 0 }
    }

    /// The connection's number.
    #[inline]
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Messages in flight, without overtaken ones.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.sent.wrapping_sub(self.echoed)
    }

    /// Messages sent, including the greeting.
    #[inline]
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sent
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

    /// Gives this session a clock in an open loop. No message may be in flight.
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
    pub fn send(&mut self, now_ns: u64, messages: &Messages, times: &mut SendTimes, tally: &mut Tally) -> MessageId {
        times.sent(&mut self.times, self.number, self.sent, now_ns);
        let id = self.send_untimed(tally);
        if messages.expect() == Expect::Nothing {
            tally.unawaited(times.settled(self.times, self.number, self.echoed));
            self.echoed = self.sent;
        }
        id
    }

    /// Takes the next message to send without recording a time: an idle connection needs no place for times.
    #[inline]
    pub fn send_untimed(&mut self, tally: &mut Tally) -> MessageId {
        tally.count(Counter::Sent);
        self.send_unread()
    }

    /// Takes the next message to send, whose echo will not be read.
    #[inline]
    pub fn send_unread(&mut self) -> MessageId {
        let id = self.next_id();
        self.sent = self.sent.wrapping_add(1);
        id
    }

    /// The connection has agreed on compression.
    pub fn allow_compression(&mut self) {
        self.reader.allow_compression();
    }

    /// Processes received bytes.
    #[inline]
    pub fn receive(&mut self, mut input: &[u8], judging: &mut Judging) -> Result<Signals, Violation> {
        let mut signals = Signals::default();
        while let Some(event) = self.next_event(&mut input, judging.messages)? {
            match event {
                Event::Payload { .. } if judging.is_closed => return Err(Violation::AfterClose),
                Event::Payload { compressed: true, text, bytes, end } => self.inflate(text, bytes, end, judging)?,
                Event::Payload { text, bytes, end, .. } => self.take(text, bytes, end, judging),
                Event::Ping(_) if judging.is_closed => {}
                Event::Ping(payload) => signals.ping = Some(payload),
                Event::Pong(payload) => {
                    judging.tally.count(Counter::Pongs);
                    signals.pongs.push(payload);
                }
                Event::Close(close) => {
                    signals.close = Some(close);
                    judging.is_closed = true;
                }
            }
        }
        Ok(signals)
    }

    /// Inflates part of a compressed message's payload and checks the result.
    #[inline(never)]
    fn inflate(&mut self, text: bool, bytes: &[u8], end: bool, judging: &mut Judging) -> Result<(), Violation> {
        let Some(codecs) = judging.codecs.take() else { return Err(Violation::ReservedBit) };
        judging.tally.counts[Counter::CompressedReceived] += u64::from(end);
        let most = judging.messages.inflated_at_most();
        let outcome = codecs.inflate(judging.key, text, bytes, end, most, |piece, is_last| {
            self.take(text, piece, is_last, judging);
        });
        judging.codecs = Some(codecs);
        outcome
    }

    /// Checks part of a message's payload.
    #[inline]
    fn take(&mut self, text: bool, bytes: &[u8], end: bool, judging: &mut Judging) {
        if self.trouble.is_some() && self.is_welcome(end, judging) {
            return;
        }
        if judging.messages.are_counted() {
            if end {
                self.answered(judging);
            }
            return;
        }
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

    /// Whether a message is one of the server's welcome messages; `end` says that it is complete.
    #[cold]
    fn is_welcome(&mut self, end: bool, judging: &mut Judging) -> bool {
        let Some(trouble) = self.trouble.as_mut().filter(|trouble| trouble.welcomes > 0) else { return false };
        if end {
            judging.tally.count(Counter::Welcomes);
            trouble.welcomes -= 1;
            if trouble.welcomes == 0 {
                self.trouble = None;
            }
        }
        true
    }

    /// An answer of unknown content has arrived: it is credited to the oldest message in flight, if there is one.
    fn answered(&mut self, judging: &mut Judging) {
        if self.in_flight() == 0 {
            return judging.tally.count(Counter::Pushed);
        }
        // `received` counts answers here: their bytes are not checked.
        self.received += 1;
        if let Expect::Answers(count) = judging.messages.expect()
            && self.received >= count
        {
            self.received = 0;
            self.settle_expected(good_end(judging), judging);
        }
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
        let end = bytes.len() == missing;
        Ok(Some(Event::Payload { text: messages.is_text(), compressed: false, bytes, end }))
    }

    /// The message whose echo is expected next.
    #[inline]
    fn expected(&self) -> MessageId {
        MessageId { connection: self.number, sequence: self.echoed }
    }

    #[inline]
    fn is_in_doubt(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.doubt.is_some())
    }

    /// The arriving message is complete: counts it by its verdict.
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

    /// The expected message is complete and counts as `end`.
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
            // A verdict still open here means that the message ended early, with an empty frame.
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

    /// An overtaken message has come back after all.
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

    /// Identifies a message that differs from the expected one.
    #[cold]
    fn doubt(&mut self, text: bool, bytes: &[u8], end: bool, judging: &mut Judging) {
        let (at, messages, expected) = (self.received as usize, judging.messages, self.expected());
        let has_id = messages.are_identified() && (at == 0 || messages.size_of(expected) >= ID_LEN);
        let in_flight = self.in_flight();
        let is_first = self.echoed == 0;
        let doubt = self.trouble.get_or_insert_default().doubt.get_or_insert_with(|| {
            // The bytes before this piece matched.
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
        // Corrupted, unless the identification names another message: that needs all of its bytes.
        if !has_id || at >= ID_LEN {
            doubt.verdict = match in_flight {
                0 => Verdict::Unexpected,
                // The first message may be a welcome.
                _ if !has_id && is_first => Verdict::Strange,
                _ => Verdict::Corrupted,
            };
            return;
        }
        let taken = bytes.len().min(ID_LEN - doubt.have);
        doubt.id[doubt.have..doubt.have + taken].copy_from_slice(&bytes[..taken]);
        doubt.have += taken;
        if doubt.have < ID_LEN {
            // Too short to be identified: it is an echo only if that is as short.
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

    /// The verdict on a message with this identification, whose next bytes are `rest`. `None` if it is a message in
    /// flight that has matched so far: it is then the expected one.
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

    /// Message `sequence` has overtaken all messages from the expected one on.
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

    /// The connection has ended: messages without an echo count as lost, and those due until `until_ns` as unsent.
    pub fn abandon(&mut self, times: &mut SendTimes, tally: &mut Tally, until_ns: u64) {
        let overtaken = self.trouble.take().map_or(0, |trouble| trouble.overtaken.len());
        tally.counts[Counter::Lost] += u64::from(self.in_flight()) + overtaken as u64;
        self.echoed = self.sent;
        tally.counts[Counter::Unsent] += times.release(std::mem::replace(&mut self.times, NO_TIMES), until_ns);
    }

    /// The connection of a slow reader has ended.
    pub fn forget(&mut self) {
        self.echoed = self.sent;
    }
}

/// The counter for a good echo.
#[inline]
fn good_end(judging: &Judging) -> Counter {
    if judging.is_closing { Counter::Late } else { Counter::Echoed }
}

#[cfg(test)]
mod tests;
