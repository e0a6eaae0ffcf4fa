//! Segments out: data as far as the windows allow it, acknowledgements, and all that again after a timeout.

use super::entry::{Entry, Flag, OWN_SCALE, State};
use super::flight::{FlightKey, Piece, Repeat};
use super::path::{INITIAL_RTO_NS, back_off};
use super::segment::{self, ACK, FIN, Head, PSH, RST, SYN};
use super::waiting::Waiting;
use super::{Events, Failure, Stack, ip, is_after, offload};

/// SYNs that are sent again at most, as on Linux (`tcp_syn_retries`): two minutes in all.
const SYN_REPEATS: u8 = 6;

/// Timeouts without a sign of life of the peer, as on Linux (`tcp_retries2`): nearly nine minutes with the least timeout. Linux's go
/// up to two minutes, which makes a quarter of an hour.
const REPEATS: u8 = 15;

/// Packets that are to be written, one behind the other.
#[derive(Debug)]
pub(super) struct Packets {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    /// Each has the device's header in front.
    pub(super) has_offloads: bool,
}

impl Packets {
    pub(super) fn new(has_offloads: bool) -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), has_offloads }
    }

    /// Adds a packet. One whose payload is longer than `mss` is of several segments.
    pub(super) fn push(&mut self, head: &Head, payload: [&[u8]; 2], mss: u16) {
        if self.has_offloads {
            offload::write(&mut self.bytes, head, payload, mss);
        } else {
            segment::write(&mut self.bytes, head, payload);
        }
        self.ends.push(self.bytes.len());
    }

    /// Adds a packet without a payload.
    pub(super) fn push_bare(&mut self, head: &Head) {
        self.push(head, [&[], &[]], u16::MAX);
    }

    /// Payload bytes that a packet can have.
    pub(super) fn payload_max(&self, mss: u16) -> usize {
        if self.has_offloads { offload::payload_max(mss) } else { mss.into() }
    }

    /// Takes off a packet that was read what these have in front when they are written. Returns whether its TCP checksum need not
    /// be looked at, and the packet.
    pub(super) fn strip<'a>(&self, bytes: &'a mut [u8]) -> Option<(bool, &'a mut [u8])> {
        if self.has_offloads { offload::strip(bytes) } else { Some((false, bytes)) }
    }

    pub(super) fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

impl Stack {
    /// Sends what the windows allow, and has a timeout where something waits for an acknowledgement or for a window.
    pub(super) fn transmit(&mut self, key: u32) {
        let Some(name) = self.entry(key).flight else { return };
        let len_max = self.out.payload_max(self.entry(key).mss);
        while let Some(piece) = self.flights[name].next_piece(&self.entries[key as usize], len_max) {
            self.emit_piece(key, name, piece);
        }
        let entry = self.entry(key);
        let flight = &self.flights[name];
        if !flight.has_deadline() && flight.is_needed(entry.una) {
            self.arm(name, entry.server);
        }
    }

    /// Sends again what is said to be.
    pub(super) fn repeat(&mut self, key: u32, repeat: Repeat) {
        let entry = self.entry(key);
        if let (Repeat::First, Some(name)) = (repeat, entry.flight) {
            let piece = self.flights[name].first_piece(&entry);
            if piece.span() > 0 {
                self.emit_piece(key, name, piece);
            }
        }
    }

    /// Sets the retransmission timeout.
    pub(super) fn arm(&mut self, name: FlightKey, server: u16) {
        let flight = &self.flights[name];
        let is_opening = matches!(self.entry(flight.key).state, State::SynSent | State::SynReceived);
        let rto_ns = if is_opening { INITIAL_RTO_NS } else { self.paths[usize::from(server)].rto_ns() };
        let deadline_ns = self.now_ns + back_off(rto_ns, flight.backoff);
        self.flights.arm(name, deadline_ns, self.now_ns);
    }

    /// A deadline has passed.
    pub(super) fn on_timeout(&mut self, key: u32, events: &mut impl Events) {
        let entry = self.entry(key);
        let Some(name) = entry.flight else { return };
        if entry.state == State::FinWait2 {
            self.free(key);
            return events.closed(key);
        }
        let is_opening = matches!(entry.state, State::SynSent | State::SynReceived);
        let flight = &mut self.flights[name];
        let repeats_max = if is_opening { SYN_REPEATS } else { REPEATS };
        if flight.unanswered == repeats_max {
            return self.fail(key, Failure::TimedOut, events);
        }
        let is_first = flight.backoff == 0;
        flight.unanswered += 1;
        flight.backoff = flight.backoff.saturating_add(1);
        if is_opening {
            self.paths[usize::from(entry.server)].syn_lost();
            self.counters.repeated += 1;
            self.emit_syn(key);
            self.arm(name, entry.server);
        } else if entry.window == 0 && !flight.bytes.is_empty() {
            // A probe (RFC 9293 section 3.8.6.1): a byte, which the peer must answer.
            self.counters.probes += 1;
            self.emit_piece(key, name, Piece { at: 0, len: 1, is_last: false });
            self.arm(name, entry.server);
        } else {
            flight.congestion.timed_out(entry.una, flight.max, entry.mss, is_first);
            flight.go_back(entry.una);
            self.transmit(key);
        }
    }

    /// Sends a piece of what is in flight, in one packet, with the acknowledgement that may be due.
    fn emit_piece(&mut self, key: u32, name: FlightKey, piece: Piece) {
        self.entries[key as usize].set(Flag::AckDue, false);
        let entry = self.entry(key);
        let mut control = ACK;
        if piece.is_last {
            control |= FIN;
        }
        let flight = &self.flights[name];
        if piece.len > 0 && piece.at + piece.len == flight.bytes.len() {
            control |= PSH;
        }
        let seq = entry.una.wrapping_add(piece.at as u32);
        self.counters.repeated += flight.repeated(&entry, piece);
        let head = self.head(key, &entry, control, seq);
        self.out.push(&head, self.flights[name].slices(piece), entry.mss);
        self.flights[name].sent(entry.una, piece, self.now_ns);
    }

    /// Sends a SYN, with the acknowledgement of the peer's if that has come.
    pub(super) fn emit_syn(&mut self, key: u32) {
        let entry = self.entry(key);
        let (control, is_scaled) =
            if entry.state == State::SynReceived { (SYN | ACK, entry.has(Flag::Scaled)) } else { (SYN, true) };
        let head = Head {
            mss: Some(self.own_mss(entry.server)),
            scale: is_scaled.then_some(OWN_SCALE),
            ..self.head(key, &entry, control, entry.una)
        };
        self.out.push_bare(&head);
        if let Some(name) = entry.flight {
            // A SYN takes a sequence number, as a FIN does.
            self.flights[name].sent(entry.una, Piece { at: 0, len: 0, is_last: true }, self.now_ns);
        }
    }

    /// Sends an acknowledgement, now.
    pub(super) fn emit_ack(&mut self, key: u32) {
        self.entries[key as usize].set(Flag::AckDue, false);
        let entry = self.entry(key);
        let head = self.head(key, &entry, ACK, self.ack_seq(&entry));
        self.out.push_bare(&head);
    }

    /// Sends a challenge ACK (RFC 5961), if there have not been too many.
    pub(super) fn challenge(&mut self, key: u32) {
        if self.secret.may_challenge(self.now_ns) {
            self.counters.challenges += 1;
            self.emit_ack(key);
        }
    }

    /// Sends a reset.
    pub(super) fn emit_reset(&mut self, key: u32) {
        let entry = self.entry(key);
        let head = self.head(key, &entry, RST | ACK, self.ack_seq(&entry));
        self.out.push_bare(&head);
    }

    /// Answers a segment of no connection with a reset (RFC 9293 section 3.10.7.1).
    pub(super) fn reset_stray(&mut self, head: &Head, payload_len: usize) {
        if head.has(RST) {
            return;
        }
        self.counters.strays += 1;
        let (control, seq, ack) = if head.has(ACK) {
            (RST, head.ack, 0)
        } else {
            (RST | ACK, 0, head.seq.wrapping_add(head.span(payload_len)))
        };
        let (source, target) = (head.target, head.source);
        let answer = Head { source, target, seq, ack, control, window: 0, mss: None, scale: None };
        self.out.push_bare(&answer);
    }

    /// Acknowledges what comes for a connection in TIME-WAIT.
    pub(super) fn ack_waiting(&mut self, head: &Head, waiting: Waiting) {
        let (source, target, window) = (head.target, head.source, u16::MAX);
        let (seq, ack, control) = (waiting.nxt, waiting.rcv_nxt, ACK);
        self.out.push_bare(&Head { source, target, seq, ack, control, window, mss: None, scale: None });
    }

    /// The sequence number of a segment without data: SND.NXT, unless the peer's window ends before.
    fn ack_seq(&self, entry: &Entry) -> u32 {
        let edge = entry.una.wrapping_add(entry.send_window());
        let max = entry.flight.map_or(entry.una, |name| self.flights[name].max);
        if is_after(max, edge) { edge } else { max }
    }

    fn head(&self, key: u32, entry: &Entry, control: u8, seq: u32) -> Head {
        let flow = self.flows.flow(key, entry.life);
        Head {
            source: self.flows.local(flow, entry.server),
            target: self.flows.server(entry.server),
            seq,
            ack: if control & ACK == 0 { 0 } else { entry.rcv_nxt },
            control,
            window: if entry.has(Flag::Paused) { 0 } else { u16::MAX },
            mss: None,
            scale: None,
        }
    }

    /// Payload bytes that a segment to or from that server can have.
    pub(super) fn own_mss(&self, server: u16) -> u16 {
        let is_v4 = self.flows.server(server).is_ipv4();
        let headers = segment::LEN + if is_v4 { ip::V4_LEN } else { ip::V6_LEN };
        self.mtu - headers as u16
    }
}
