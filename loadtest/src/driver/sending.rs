//! Sending: the next output of a connection.

use super::connection::{Flag, Stage};
use super::{Driver, Output, TURN, Want};
use crate::message::{MessageId, copy_masked};
use crate::stats::Counter;
use crate::websocket::frames::{
    MAX_CLIENT_HEADER, Opcode, client_header_len, close_code, write_compressed_header, write_control,
};

/// Number of messages that a slow reader sends at a time.
const UNREAD_AT_A_TIME: u64 = 16;

impl<T: Default> Driver<'_, T> {
    /// Asks the transport to send if the connection has output due.
    #[inline]
    pub(super) fn ask_to_send(&mut self, key: u32) {
        if self.is_something_due(key) {
            self.wants.push_back(Want::Send { key });
        }
    }

    pub(super) fn is_something_due(&mut self, key: u32) -> bool {
        let Some(connection) = self.connections.get(key as usize) else { return false };
        match connection.stage {
            Stage::Connecting => false,
            Stage::Upgrading => connection.has(Flag::RequestDue),
            Stage::Ending => connection.has(Flag::CloseDue),
            Stage::Closing => connection.has_control_due(),
            Stage::Greeting => connection.has_control_due() || connection.session.is_new(),
            Stage::Open => connection.has_control_due() || self.messages_due(key) > 0,
        }
    }

    /// Whether a connection to be released has a Close to send first, if that does not block.
    #[must_use]
    pub fn has_last_words(&self, key: u32) -> bool {
        let connection = self.connections.get(key as usize);
        connection.is_some_and(|connection| connection.stage == Stage::Ending && connection.has(Flag::CloseDue))
    }

    /// Fills `output` with the connection's next output, if there is any. Returns whether more is due now that did not
    /// fit or is of another kind. The transport must then call [`Driver::sent`] as soon as this output is sent, without
    /// waiting for another event.
    pub fn fill(&mut self, key: u32, output: &mut impl Output) -> bool {
        let Some(connection) = self.connections.get_mut(key as usize) else { return false };
        match connection.stage {
            Stage::Upgrading if connection.has(Flag::RequestDue) => {
                connection.set(Flag::RequestDue, false);
                let number = connection.session.number();
                let request = self.load.request_of(number);
                output.add(|bytes| request.write(number, bytes));
            }
            Stage::Connecting | Stage::Upgrading => {}
            Stage::Ending if !connection.has(Flag::CloseDue) => {}
            _ if connection.has_control_due() => {
                self.fill_control(key, output);
                return self.is_something_due(key);
            }
            Stage::Greeting if connection.session.is_new() => {
                let id = connection.session.send_untimed(&mut self.tally);
                self.add_message(key, id, output);
            }
            Stage::Open => return self.fill_messages(key, output),
            Stage::Greeting | Stage::Closing | Stage::Ending => {}
        }
        false
    }

    /// The number of messages that the connection may send now. In a closed loop it is the free depth, in an open loop
    /// 1 if a message is due.
    #[inline]
    fn messages_due(&mut self, key: u32) -> u64 {
        let connection = &self.connections[key as usize];
        if !self.phase.is_sending() || connection.stage != Stage::Open || connection.has(Flag::Leaving) {
            return 0;
        }
        if !connection.has(Flag::Active) {
            return if connection.has(Flag::SlowReader) { UNREAD_AT_A_TIME } else { 0 };
        }
        let mut room = self.load.scenario.traffic.depth.saturating_sub(connection.session.in_flight());
        if self.messages_most < u32::MAX {
            room = room.min(self.messages_most.saturating_sub(connection.session.sent()));
        }
        if self.load.scenario.traffic.open.is_some() {
            return self.due_by_the_clock(key, room);
        }
        u64::from(room).min(self.quota)
    }

    /// Open loop: whether a message is due and may be sent. If not, the connection is scheduled for its next one.
    fn due_by_the_clock(&mut self, key: u32, room: u32) -> u64 {
        let now_ns = self.due_until_ns();
        let connection = &mut self.connections[key as usize];
        let Some(schedule) = self.times.schedule() else { return 0 };
        let clock = connection.session.clock().unwrap_or_else(|| {
            let number = connection.session.number();
            let clock = schedule.start(key, number, self.load.scenario.phase_of(number), now_ns);
            connection.session.set_clock(clock);
            clock
        });
        if !schedule.is_due(clock, now_ns) {
            schedule.queue(clock);
            return 0;
        }
        let due = u64::from(room.min(1)).min(self.quota);
        if due == 0 {
            schedule.hold(clock);
        }
        due
    }

    /// Open loop: the time up to which due messages may be sent.
    fn due_until_ns(&self) -> u64 {
        self.sending_ended_ns.unwrap_or(self.now_ns)
    }

    /// Open loop: asks to send on connections that have a message due, a turn's worth. Returns whether there may be
    /// more.
    pub(super) fn find_what_is_due(&mut self, now_ns: u64) -> bool {
        let Some(schedule) = self.times.schedule() else { return false };
        for _ in 0..TURN {
            let Some(due) = schedule.pop(now_ns) else { return false };
            self.wants.push_back(Want::Send { key: due.key });
        }
        true
    }

    /// Open loop: counts messages that were due until `ended_ns` and have not been sent as unsent.
    pub(super) fn count_unsent(&mut self, ended_ns: u64) {
        let from_ns = self.tally.measured_from_ns();
        if self.quota > 0
            && let Some(schedule) = self.times.schedule()
        {
            self.tally.counts[Counter::Unsent] += schedule.overdue(0, ended_ns);
            let measured = from_ns.map_or(0, |from_ns| schedule.overdue(from_ns, ended_ns));
            self.tally.counts[Counter::MeasuredDue] += measured;
        }
    }

    /// Fills `output` with as many due messages as fit. Returns whether there are more.
    fn fill_messages(&mut self, key: u32, output: &mut impl Output) -> bool {
        let messages = self.load.messages;
        let is_open_loop = self.load.scenario.traffic.open.is_some();
        let mut due = self.messages_due(key);
        let has_waited_for_time = self.has_waited_for_time(key);
        while due > 0 {
            let connection = &self.connections[key as usize];
            let next = connection.session.next_id();
            if !self.has_room(key, next, output) {
                return true;
            }
            let connection = &mut self.connections[key as usize];
            let id = if connection.has(Flag::SlowReader) {
                self.tally.count(Counter::SlowSent);
                connection.session.send_unread()
            } else {
                self.quota -= 1;
                if is_open_loop {
                    self.count_lag(key, has_waited_for_time);
                }
                let connection = &mut self.connections[key as usize];
                connection.session.send(self.now_ns, messages, &mut self.times, &mut self.tally)
            };
            self.add_message(key, id, output);
            due -= 1;
            if due == 0 && is_open_loop {
                // Slow readers send one buffer's worth at a time.
                due = if self.connections[key as usize].has(Flag::SlowReader) { 0 } else { self.messages_due(key) };
            }
        }
        false
    }

    /// Whether the next message of a connection can be added.
    #[inline]
    fn has_room(&self, key: u32, next: MessageId, output: &impl Output) -> bool {
        match &self.codecs {
            Some(codecs) if codecs.has_agreed(key) => {
                output.has_room_for(compressed_at_most(self.load.messages.size_of(next)))
            }
            _ => output.has_room(next, self.load.messages),
        }
    }

    /// Adds a message to the output, compressed if the connection has agreed on it.
    #[inline]
    fn add_message(&mut self, key: u32, id: MessageId, output: &mut impl Output) {
        let bytes = match &self.codecs {
            None => output.add_message(id, self.load.messages),
            Some(_) => self.add_compressed(key, id, output),
        };
        self.tally.counts[Counter::WireSent] += bytes as u64;
    }

    fn add_compressed(&mut self, key: u32, id: MessageId, output: &mut impl Output) -> usize {
        let (connection, messages) = (&self.connections[key as usize], self.load.messages);
        let sends_often = connection.has(Flag::Active) || connection.has(Flag::SlowReader);
        let codecs = self.codecs.as_mut();
        let Some(payload) = codecs.and_then(|it| it.compress(key, id, messages, sends_often)) else {
            return output.add_message(id, messages);
        };
        self.tally.count(Counter::CompressedSent);
        let opcode = if messages.is_text() { Opcode::Text } else { Opcode::Binary };
        let bytes = client_header_len(payload.len()) + payload.len();
        let mask = messages.masking_key(id);
        output.add_frame(bytes, |out| {
            let header = write_compressed_header(opcode, payload.len(), mask, out);
            copy_masked(payload, mask, &mut out[header..]);
        });
        bytes
    }

    /// Open loop: whether only the schedule has delayed the next message of a connection. Then a late send is the
    /// generator's own lag.
    fn has_waited_for_time(&mut self, key: u32) -> bool {
        let clock = self.connections[key as usize].session.clock();
        match (clock, self.times.schedule()) {
            (Some(clock), Some(schedule)) => schedule.has_waited_for_time(clock),
            _ => false,
        }
    }

    /// Open loop: records the generator's lag of a message being sent. A message held up by the server, by backpressure
    /// or by the limit in flight, has no lag.
    fn count_lag(&mut self, key: u32, has_waited_for_time: bool) {
        let clock = self.connections[key as usize].session.clock();
        let (Some(clock), Some(schedule)) = (clock, self.times.schedule()) else { return };
        let due_ns = schedule.due_ns(clock);
        let lag_ns = if has_waited_for_time { self.now_ns.saturating_sub(due_ns) } else { 0 };
        self.tally.sent_due(due_ns, lag_ns);
    }

    /// Fills in a Close, a ping or a pong; the Close is the last frame on a connection.
    fn fill_control(&mut self, key: u32, output: &mut impl Output) {
        let number = self.connections[key as usize].session.number();
        // The masking keys of control frames are independent of those of messages.
        let mask = self.load.messages.masking_key(MessageId { connection: !number, sequence: 0 });
        let answered = self.pongs.remove(&key);
        let close_code = self.close_codes.remove(&key).unwrap_or(close_code::NORMAL);
        self.tally.counts[Counter::Pings] += u64::from(answered.is_some());
        let ping = self.connections[key as usize].has(Flag::PingDue).then(|| self.next_ping(number));
        if let Some(payload) = ping {
            self.pings.entry(key).or_default().sent(payload, self.now_ns, &mut self.tally);
        }
        let connection = &mut self.connections[key as usize];
        let closes = connection.has(Flag::CloseDue);
        for flag in [Flag::PongDue, Flag::PingDue, Flag::CloseDue] {
            connection.set(flag, false);
        }
        let mut len = 0;
        output.add(|bytes| {
            if let Some(payload) = answered {
                len += write_control(Opcode::Pong, &payload, mask, bytes);
            }
            if let Some(payload) = ping {
                len += write_control(Opcode::Ping, &payload, mask, &mut bytes[len..]);
            }
            if closes {
                len += write_control(Opcode::Close, &close_code.to_be_bytes(), mask, &mut bytes[len..]);
            }
            len
        });
        self.tally.counts[Counter::WireSent] += len as u64;
        if closes {
            self.linger_if_closed(key);
        }
    }
}

/// The largest frame of a message of `size` bytes. Compression makes incompressible data longer by up to an eighth,
/// where each byte takes nine bits.
fn compressed_at_most(size: usize) -> usize {
    MAX_CLIENT_HEADER + size + size / 8 + 64
}
