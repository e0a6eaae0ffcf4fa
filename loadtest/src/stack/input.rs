//! Segments in: RFC 9293 section 3.10.7, in its order, with the checks of RFC 5961.

use super::entry::{Flag, State};
use super::flight::BYTES_MAX;
use super::icmp::{self, Error, Report};
use super::path::SYN_AGAIN_NS;
use super::segment::{self, ACK, FIN, Head, RST, SYN};
use super::waiting::Waiting;
use super::{Events, Failure, Stack, ip, is_after, is_before};

/// A peer's MSS, if it does not say (RFC 9293 section 3.7.1).
const DEFAULT_MSS_V4: u16 = 536;
const DEFAULT_MSS_V6: u16 = 1220;

/// The least that a peer's MSS is taken for, as on Linux (`TCP_MIN_SND_MSS`): with less, headers would be most of it.
const MSS_MIN: u16 = 48;

/// The least that an ICMP error can lower it to over IPv4, as on Linux (`route.min_pmtu`, 552): a forged one makes nothing slow.
const PATH_MSS_MIN: u16 = 512;

/// What all links take over IPv6. An error that says less is discarded (RFC 8201 section 4).
const PATH_MTU_MIN_V6: u32 = 1280;

impl Stack {
    /// Takes a packet, with [`Config::has_offloads`] behind the device's header. What is told of it names bytes of the packet
    /// itself.
    pub fn input(&mut self, bytes: &mut [u8], now_ns: u64, events: &mut impl Events) {
        self.now_ns = now_ns;
        let read = self.out.strip(bytes).and_then(|(is_verified, packet)| {
            let (header, body) = ip::parse(packet)?;
            Some((is_verified, packet, header, body))
        });
        let Some((is_verified, packet, header, body)) = read else {
            self.counters.unread += 1;
            return;
        };
        let icmp = if header.source.is_ipv4() { ip::ICMP } else { ip::ICMP_V6 };
        if header.protocol == ip::TCP {
            if let Some((head, payload)) = segment::parse(packet, &header, body, is_verified) {
                return self.on_segment(&head, &mut packet[payload], events);
            }
        } else if header.protocol == icmp
            && let Some(report) = icmp::parse(packet, &header, body)
        {
            return self.on_icmp(&report, events);
        }
        self.counters.unread += 1;
    }

    fn on_segment(&mut self, head: &Head, payload: &mut [u8], events: &mut impl Events) {
        // A packet for addresses that are not ours has lost its way.
        let Some(flow) = self.flows.find(head.target) else { return };
        let (key, life) = self.flows.owner(flow);
        let entry = self.entry(key);
        if entry.state != State::Closed && entry.life == life && self.flows.server(entry.server) == head.source {
            if entry.state == State::SynSent {
                return self.on_answer(key, head, payload.len(), events);
            }
            return self.on_synchronized(key, head, payload, events);
        }
        match self.waiting.get(flow) {
            Some(waiting) if self.flows.server(waiting.server) == head.source => {
                self.on_waiting(flow, waiting, head, payload.len());
            }
            _ => self.reset_stray(head, payload.len()),
        }
    }

    /// In SYN-SENT (section 3.10.7.3). Data that comes with the answer is not taken yet: it will come again.
    fn on_answer(&mut self, key: u32, head: &Head, payload_len: usize, events: &mut impl Events) {
        let is_acked = head.has(ACK);
        if is_acked && head.ack != self.entry(key).una.wrapping_add(1) {
            self.reset_stray(head, payload_len);
            return self.repeat_syn_soon(key, head);
        }
        if head.has(RST) {
            if is_acked {
                self.fail(key, Failure::Refused, events);
            }
            return;
        }
        if !head.has(SYN) {
            return;
        }
        let default = if head.source.is_ipv4() { DEFAULT_MSS_V4 } else { DEFAULT_MSS_V6 };
        let entry = &mut self.entries[key as usize];
        entry.rcv_nxt = head.seq.wrapping_add(1);
        entry.wl1 = head.seq;
        entry.mss = entry.mss.min(head.mss.unwrap_or(default).max(MSS_MIN));
        entry.scale = head.scale.unwrap_or(0);
        entry.set(Flag::Scaled, head.scale.is_some());
        entry.window = head.window >> entry.scale; // that of a SYN is not scaled
        if is_acked {
            self.opened(key, head.ack, events);
        } else {
            entry.state = State::SynReceived;
            self.emit_syn(key);
        }
    }

    /// An acknowledgement of what was never sent, which was reset: it may be that of the server's TIME-WAIT of an earlier
    /// connection. The reset has ended that, and the SYN need not wait for its timeout. Once, as on Linux: a forged
    /// acknowledgement makes no stream of SYNs.
    fn repeat_syn_soon(&mut self, key: u32, head: &Head) {
        if let Some(name) = self.entry(key).flight
            && self.flights[name].backoff == 0
            && !head.has(RST)
        {
            self.flights.hasten(name, self.now_ns + SYN_AGAIN_NS, self.now_ns);
        }
    }

    /// Our SYN is acknowledged: the connection is open.
    fn opened(&mut self, key: u32, ack: u32, events: &mut impl Events) {
        let entry = &mut self.entries[key as usize];
        entry.state = State::Established;
        if let Some(name) = entry.flight.take() {
            let rtt_ns = self.flights[name].acked(entry.una, ack, self.now_ns);
            self.flights.give_back(name);
            if let Some(rtt_ns) = rtt_ns {
                self.paths[usize::from(entry.server)].sample(rtt_ns);
            }
        }
        entry.una = ack;
        self.owe_ack(key);
        events.connected(key);
    }

    /// In all states from SYN-RECEIVED on (section 3.10.7.4).
    fn on_synchronized(&mut self, key: u32, head: &Head, payload: &mut [u8], events: &mut impl Events) {
        let entry = self.entry(key);
        if !entry.is_acceptable(head.seq, head.span(payload.len())) {
            return self.on_unacceptable(key, head, payload.len());
        }
        if head.has(RST) {
            // RFC 5961 section 3.2: only the next sequence number proves that it is the peer's.
            return if head.seq == entry.rcv_nxt { self.on_reset(key, events) } else { self.challenge(key) };
        }
        if head.has(SYN) {
            return self.challenge(key); // RFC 5961 section 4.2
        }
        if !head.has(ACK) {
            return;
        }
        if entry.state == State::SynReceived {
            if head.ack != entry.una.wrapping_add(1) {
                return self.reset_stray(head, payload.len());
            }
            self.opened(key, head.ack, events);
        }
        if self.on_ack(key, head, payload.is_empty(), events) {
            self.on_payload(key, head, payload, events);
        }
    }

    /// A segment outside of the window: an old one, whose acknowledgement may have been lost, a probe, or a forged one.
    fn on_unacceptable(&mut self, key: u32, head: &Head, payload_len: usize) {
        if head.has(RST) {
            return;
        }
        // Probes of windows, keep-alives and a SYN that comes again have the number before the next.
        let is_before_next = head.seq == self.entry(key).rcv_nxt.wrapping_sub(1);
        let is_old_data = !head.has(SYN) && (payload_len > 0 || head.has(FIN));
        if is_before_next || is_old_data {
            self.owe_ack(key);
        } else {
            self.challenge(key); // with a limit: two sides that disagree would answer each other for ever
        }
    }

    fn on_reset(&mut self, key: u32, events: &mut impl Events) {
        match self.entry(key).state {
            State::SynReceived => self.fail(key, Failure::Refused, events),
            // Both sides have closed: there is nothing to be lost.
            State::Closing | State::LastAck => {
                self.free(key);
                events.closed(key);
            }
            _ => self.fail(key, Failure::Reset, events),
        }
    }

    /// Looks at acknowledgement and window. Returns whether there is more to be looked at.
    fn on_ack(&mut self, key: u32, head: &Head, is_bare: bool, events: &mut impl Events) -> bool {
        let entry = self.entry(key);
        let max = entry.flight.map_or(entry.una, |name| self.flights[name].max);
        // RFC 5961 section 5.2.
        if is_after(head.ack, max) || is_before(head.ack, entry.una.wrapping_sub(entry.send_window_max())) {
            self.challenge(key);
            return false;
        }
        if is_before(head.ack, entry.una) {
            return true; // an old one, which says nothing new
        }
        let is_progress = head.ack != entry.una;
        if is_progress || !is_before(head.seq, entry.wl1) {
            let entry = &mut self.entries[key as usize];
            (entry.window, entry.wl1) = (head.window, head.seq);
        }
        let Some(name) = entry.flight else { return true };
        self.flights[name].unanswered = 0;
        if entry.window == 0 && head.window > 0 && self.flights[name].is_needed(entry.una) {
            // What was sent as a probe was dropped. (A flight that only waits for the peer's FIN has another deadline.)
            let flight = &mut self.flights[name];
            flight.go_back(entry.una);
            flight.backoff = 0;
            self.flights.disarm(name);
        }
        if is_progress {
            if !self.on_progress(key, head.ack, events) {
                return false;
            }
        } else if is_bare && !head.has(FIN) && max != entry.una && head.window == entry.window && entry.window > 0 {
            let repeat = self.flights[name].congestion.duplicate(entry.una, max, entry.mss);
            self.repeat(key, repeat);
        }
        self.transmit(key);
        self.settle(key);
        true
    }

    /// More is acknowledged. Returns whether the connection is still there.
    fn on_progress(&mut self, key: u32, ack: u32, events: &mut impl Events) -> bool {
        let entry = self.entry(key);
        let Some(name) = entry.flight else { return true };
        let flight = &mut self.flights[name];
        let had_fin = flight.is_last;
        let rtt_ns = flight.acked(entry.una, ack, self.now_ns);
        let is_fin_acked = had_fin && !flight.is_last;
        let repeat = flight.congestion.acked(ack.wrapping_sub(entry.una), ack, entry.mss);
        let has_room = flight.is_awaited && flight.bytes.len() <= BYTES_MAX / 2;
        flight.is_awaited &= !has_room;
        self.flights.disarm(name); // RFC 6298 (5.2), (5.3): what is sent, or still on its way, sets it again
        self.entries[key as usize].una = ack;
        if let Some(rtt_ns) = rtt_ns {
            self.paths[usize::from(entry.server)].sample(rtt_ns);
        }
        if is_fin_acked {
            return self.on_fin_acked(key, events);
        }
        self.repeat(key, repeat);
        if has_room {
            events.room(key);
        }
        true
    }

    /// Our FIN is acknowledged. Returns whether the connection is still there.
    fn on_fin_acked(&mut self, key: u32, events: &mut impl Events) -> bool {
        match self.entry(key).state {
            State::FinWait1 => {
                self.entries[key as usize].state = State::FinWait2;
                if self.entry(key).has(Flag::LetGo) {
                    self.limit_fin_wait(key);
                }
                true
            }
            State::Closing => {
                self.wait(key, events);
                false
            }
            _ => {
                debug_assert!(self.entry(key).state == State::LastAck, "no other state has sent a FIN");
                self.free(key);
                events.closed(key);
                false
            }
        }
    }

    fn on_payload(&mut self, key: u32, head: &Head, payload: &mut [u8], events: &mut impl Events) {
        let is_last = head.has(FIN);
        if payload.is_empty() && !is_last {
            return;
        }
        self.owe_ack(key);
        let entry = self.entry(key);
        if !entry.can_receive() {
            return;
        }
        // A FIN may come with data that was taken before, where the acknowledgement of that was lost.
        let end = head.seq.wrapping_add(payload.len() as u32);
        let has_new_data = !payload.is_empty() && is_after(end, entry.rcv_nxt);
        if has_new_data && entry.has(Flag::LetGo) {
            self.emit_reset(key);
            self.free(key);
            return events.closed(key);
        }
        if entry.has(Flag::Paused) && (has_new_data || is_after(head.seq, entry.rcv_nxt)) {
            return;
        }
        if is_after(head.seq, entry.rcv_nxt) {
            return self.on_early(key, head, payload);
        }
        if self.deliver(key, head.seq, payload, is_last, events) && self.entry(key).has(Flag::Reassembling) {
            self.deliver_early(key, events);
        }
    }

    /// A segment before its time. It is acknowledged at once: the peer counts these (RFC 5681 section 4.2).
    fn on_early(&mut self, key: u32, head: &Head, payload: &[u8]) {
        self.counters.early += 1;
        if self.reassembly.insert(key, head.seq, payload, head.has(FIN)) {
            self.entries[key as usize].set(Flag::Reassembling, true);
        } else {
            self.counters.early_dropped += 1;
        }
        self.emit_ack(key);
    }

    /// Hands over what is new in bytes that begin at RCV.NXT or before. Returns whether more can follow.
    fn deliver(&mut self, key: u32, seq: u32, bytes: &mut [u8], is_last: bool, events: &mut impl Events) -> bool {
        let entry = &mut self.entries[key as usize];
        let old = entry.rcv_nxt.wrapping_sub(seq) as usize;
        let Some(fresh) = bytes.get_mut(old..) else { return true };
        entry.rcv_nxt = entry.rcv_nxt.wrapping_add(fresh.len() as u32 + u32::from(is_last));
        if !fresh.is_empty() {
            events.received(key, fresh);
        }
        if is_last {
            self.on_fin(key, events);
        }
        !is_last
    }

    /// Hands over what has come before and follows now.
    fn deliver_early(&mut self, key: u32, events: &mut impl Events) {
        loop {
            let rcv_nxt = self.entry(key).rcv_nxt;
            let Some(mut early) = self.reassembly.take(key, rcv_nxt) else { break };
            if !self.deliver(key, early.seq, &mut early.bytes, early.is_last, events) {
                return;
            }
        }
        if !self.reassembly.holds(key) {
            self.entries[key as usize].set(Flag::Reassembling, false);
        }
    }

    /// The peer has closed its side, and all that came before has been handed over.
    fn on_fin(&mut self, key: u32, events: &mut impl Events) {
        self.drop_early(key);
        let (next, is_over) = match self.entry(key).state {
            State::Established => (State::CloseWait, false),
            State::FinWait1 => (State::Closing, false),
            state => (state, true),
        };
        self.entries[key as usize].state = next;
        events.finished(key);
        if is_over {
            self.wait(key, events);
        }
    }

    /// Both sides have closed, this one first: TIME-WAIT.
    fn wait(&mut self, key: u32, events: &mut impl Events) {
        let entry = self.entry(key);
        if entry.has(Flag::AckDue) {
            self.emit_ack(key);
        }
        let waiting = Waiting { nxt: entry.una, rcv_nxt: entry.rcv_nxt, server: entry.server };
        self.waiting.insert(self.flows.flow(key, entry.life), waiting, self.now_ns);
        self.free(key);
        events.closed(key);
    }

    /// A segment for a connection in TIME-WAIT. Resets are ignored (RFC 1337).
    fn on_waiting(&mut self, flow: u32, waiting: Waiting, head: &Head, payload_len: usize) {
        if head.has(RST) || head.span(payload_len) == 0 {
            return;
        }
        if head.has(FIN) {
            self.waiting.insert(flow, waiting, self.now_ns);
        }
        self.ack_waiting(head, waiting);
    }

    /// An error about a segment of ours, if that is really on its way (RFC 5927 section 4.1).
    fn on_icmp(&mut self, report: &Report, events: &mut impl Events) {
        let Some(flow) = self.flows.find(report.source) else { return };
        let (key, life) = self.flows.owner(flow);
        let entry = self.entry(key);
        let is_ours = entry.life == life && self.flows.server(entry.server) == report.target;
        let Some(name) = entry.flight.filter(|_| is_ours) else { return };
        let max = self.flights[name].max;
        if is_before(report.seq, entry.una) || !is_before(report.seq, max) {
            return;
        }
        match report.error {
            Error::TooBig { mtu } if report.source.is_ipv6() && mtu < PATH_MTU_MIN_V6 => {}
            Error::TooBig { mtu } => {
                let headers = self.mtu - self.own_mss(entry.server);
                let mss = mtu.saturating_sub(headers.into()).clamp(PATH_MSS_MIN.into(), u16::MAX.into()) as u16;
                if mss < entry.mss {
                    self.entries[key as usize].mss = mss;
                    self.flights[name].go_back(entry.una);
                    self.transmit(key);
                }
            }
            // RFC 5461: a connection that is open survives, for what has failed may be mended.
            Error::Unreachable if entry.state == State::SynSent => self.fail(key, Failure::Unreachable, events),
            Error::Refused if entry.state == State::SynSent => self.fail(key, Failure::Refused, events),
            _ => {}
        }
    }

    /// The connection is gone.
    pub(super) fn fail(&mut self, key: u32, failure: Failure, events: &mut impl Events) {
        self.free(key);
        events.failed(key, failure);
    }
}
