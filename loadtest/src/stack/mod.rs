//! A TCP of our own for the client ends of connections: a small one for very many, without a kernel's sockets.
//!
//! There is no device and no clock here. IP packets and times come in through [`Stack::input`] and [`Stack::advance`]; packets
//! go out through [`Stack::packets`]; what happens is told to [`Events`]. A transport reads and writes packets (a TUN device,
//! say), asks for [`Stack::connect`], [`Stack::send`], [`Stack::close`] as the driver wants it, and tells the driver what the
//! stack tells. One thread has one stack.
//!
//! # A turn
//!
//! A transport reads packets and gives each to `input`; meets times with `advance`; does what the driver wants; then calls
//! [`Stack::flush`], which adds the acknowledgements that no data took along, and writes all packets. So an echo costs two
//! packets, for the acknowledgement of the last answer goes out with the next message, and the answer brings that of the
//! message.
//!
//! # Between the stack and the driver
//!
//! | driver | stack |
//! |---|---|
//! | `Want::Connect` | [`Stack::connect`]; then [`Events::connected`] is `connected`, [`Events::failed`] is `connect_failed` |
//! | `Want::Send` | [`Stack::send`] takes what `fill` gave: all of it is `sent`, in the next turn; or [`Events::room`] follows, and behind the rest of it `room` |
//! | `received` | [`Events::received`] |
//! | `wants_input` | [`Stack::pause`] where it is false |
//! | `ended` | [`Events::finished`] without an error, [`Events::failed`] with one |
//! | `Want::Release` | [`Stack::close`]; `released` when it returns true, or with [`Events::closed`] or [`Events::failed`]; [`Stack::abort`] if that takes too long |
//!
//! # Where what is kept
//!
//! - `entry`: 28 bytes for each connection, by its key, which is all that an idle connection has.
//! - `flows`: addresses and ports follow from the key by arithmetic, and the key from them. There is no table for this.
//! - `flight`: what active ones need more: bytes on their way, congestion window, deadline. `wheel`: their timers.
//! - `path`: the round trip, one estimate for each server.
//! - `reassembly`: segments out of order, in a bounded pool. `waiting`: TIME-WAIT, bounded, too.
//! - `input` and `output` are the state machine; `segment`, `ip`, `icmp` and `offload` are the formats; `secret` makes numbers
//!   that cannot be guessed.
//!
//! # What is implemented
//!
//! | what | by | how |
//! |---|---|---|
//! | states, both sides' simultaneous open and close, half-close | RFC 9293 3.10 | active open only: a SYN to a closed port is reset |
//! | data | RFC 9293 3.8.6 | no Nagle; silly windows avoided; zero windows probed; urgent data is taken as data |
//! | retransmission | RFC 6298 | with Karn's algorithm; the estimate is shared (RFC 9040) |
//! | congestion | RFC 5681, 3465, 6928 | in bytes: ten segments at first, slow start, congestion avoidance; no pacing |
//! | losses | RFC 5681, 6582 | fast retransmit and recovery; no SACK |
//! | offloads | virtio-net's header | checksums and segments left to the device; packets of several segments taken |
//! | acknowledgements | RFC 9293 3.8.6.3 | once a turn, not delayed; at once for a segment out of order |
//! | options | RFC 7323, 9293 3.7.1 | MSS, window scale |
//! | path MTU | RFC 1191, 8201 | from ICMP errors that quote a segment in flight (RFC 5927 4.1) |
//! | other ICMP errors | RFC 5461 | end a connection whose SYN is not answered yet, and no other |
//! | blind attacks | RFC 5961, 6528 | challenge ACKs with a limit; unpredictable initial sequence numbers |
//! | TIME-WAIT | RFC 9293 3.6.1, 1337 | 60 s; resets do not end it; a new life of the slot has another flow, and so has each run |
//! | the server's TIME-WAIT | RFC 9293 3.10.7.3 | its acknowledgement is reset, and the SYN comes again once 10 ms later; on Linux at once |
//!
//! Timestamps (RFC 7323) are not sent: they would take 12 of the bytes of each segment and 4 of each entry. Round trips are
//! measured without them, and sequence numbers wrap around within a segment's lifetime only on a connection that carries more than
//! 4 GiB in half a minute.
//!
//! A connection that is paused offers no window, and drops what arrives, as a kernel does that is out of memory for it: the
//! peer keeps it and probes.

mod entry;
mod flight;
mod flows;
mod icmp;
mod input;
mod ip;
mod offload;
mod output;
mod path;
mod reassembly;
mod secret;
mod segment;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod waiting;
mod wheel;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::entry::{Entry, Flag, State};
use self::flight::{BYTES_MAX, FlightKey, Flights};
pub use self::flows::Ends;
use self::flows::Flows;
pub use self::offload::LEN as OFFLOAD_LEN;
use self::output::Packets;
use self::path::Path;
use self::reassembly::Reassembly;
use self::secret::Secret;
use self::waiting::WaitingRoom;

/// Timeouts that [`Stack::advance`] meets at most.
const TURN: usize = 256;

/// How long a connection that was let go waits for the peer's FIN: as long as on Linux (`tcp_fin_timeout`).
const FIN_WAIT_NS: u64 = 60_000_000_000;

/// The least MTU: IPv4's of old (RFC 791).
const MTU_MIN: u16 = 576;

/// What a stack is for.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where connections come from and go to.
    pub ends: Ends,
    /// Keys of connections are below this.
    pub connections: u32,
    /// Bytes of a packet at most.
    pub mtu: u16,
    /// The device makes checksums and segments, and may leave both to this side: in front of each packet, out and in, is
    /// virtio-net's header, of [`OFFLOAD_LEN`] bytes.
    pub has_offloads: bool,
    /// Memory for segments that come out of order.
    pub reassembly_bytes: usize,
    /// Random, and kept within the process.
    pub secret: [u64; 2],
}

/// Why there can be no such stack.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The clients' addresses do not do.
    #[error("clients have too few addresses for so many connections, or none of a server's family")]
    Addresses,
    /// Packets are too small.
    #[error("an MTU of {0} is too small: 576 bytes are the least")]
    Mtu(u16),
}

/// Why a connection has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server has refused to open it (`ECONNREFUSED`).
    Refused,
    /// There is no way to the server, or a firewall forbids it (`EHOSTUNREACH`). Only while it was opening.
    Unreachable,
    /// The server has reset it (`ECONNRESET`).
    Reset,
    /// The server does not answer any more, or never has (`ETIMEDOUT`).
    TimedOut,
}

/// What a stack tells its transport. None of these may call the stack: a transport does what follows when the call that told
/// it has returned.
pub trait Events {
    /// The connection is open.
    fn connected(&mut self, key: u32);
    /// Bytes from the server, in their order. They may be changed.
    fn received(&mut self, key: u32, bytes: &mut [u8]);
    /// There is room again, behind a [`Stack::send`] that could not take everything.
    fn room(&mut self, key: u32);
    /// The server has closed its side, and sends no more.
    fn finished(&mut self, key: u32);
    /// Both sides have closed, or the connection was let go and that is over, too. The key is free.
    fn closed(&mut self, key: u32);
    /// The connection is gone. The key is free.
    fn failed(&mut self, key: u32, failure: Failure);
}

/// What stacks have met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Packets that were damaged or of no known kind.
    pub unread: u64,
    /// Segments of no connection, which were answered with a reset.
    pub strays: u64,
    /// Segments that were sent again.
    pub repeated: u64,
    /// Segments that came out of order.
    pub early: u64,
    /// Those of them that the pool had no room for.
    pub early_dropped: u64,
    /// Challenge ACKs that were sent.
    pub challenges: u64,
    /// Probes of windows that were shut.
    pub probes: u64,
}

impl Counters {
    /// Adds what another stack has met.
    pub fn add(&mut self, other: &Self) {
        self.unread += other.unread;
        self.strays += other.strays;
        self.repeated += other.repeated;
        self.early += other.early;
        self.early_dropped += other.early_dropped;
        self.challenges += other.challenges;
        self.probes += other.probes;
    }
}

/// One thread's connections.
#[derive(Debug)]
pub struct Stack {
    flows: Flows,
    /// By key, as far as keys have been used: memory is taken as connections come.
    entries: Vec<Entry>,
    flights: Flights,
    /// By the servers' numbers.
    paths: Vec<Path>,
    reassembly: Reassembly,
    waiting: WaitingRoom,
    secret: Secret,
    out: Packets,
    /// Connections with an acknowledgement due, and some that had one.
    acks: Vec<u32>,
    counters: Counters,
    mtu: u16,
    now_ns: u64,
}

impl Stack {
    /// A stack without connections.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        if config.mtu < MTU_MIN {
            return Err(ConfigError::Mtu(config.mtu));
        }
        let secret = Secret::new(config.secret);
        let flows = Flows::new(config.ends, config.connections, secret.draw()).ok_or(ConfigError::Addresses)?;
        Ok(Self {
            entries: Vec::with_capacity(config.connections as usize),
            flights: Flights::new(),
            paths: vec![Path::default(); flows.servers()],
            reassembly: Reassembly::new(config.reassembly_bytes),
            waiting: WaitingRoom::default(),
            secret,
            out: Packets::new(config.has_offloads),
            acks: Vec::new(),
            counters: Counters::default(),
            mtu: config.mtu,
            now_ns: 0,
            flows,
        })
    }

    /// Opens the connection `key`, which must be free, to that server. [`Events::connected`] or [`Events::failed`] follows.
    pub fn connect(&mut self, key: u32, server: u16, now_ns: u64) {
        self.now_ns = now_ns;
        if self.entries.len() <= key as usize {
            self.entries.resize(key as usize + 1, Entry::default());
        }
        let life = self.flows.next_life(self.entries[key as usize].life);
        let flow = self.flows.flow(key, life);
        self.waiting.remove(flow);
        let una = self.secret.initial_seq(flow, server, now_ns);
        let mss = self.own_mss(server);
        let entry = &mut self.entries[key as usize];
        debug_assert!(entry.state == State::Closed, "a connection begins where there is one");
        *entry = Entry { una, mss, life, server, state: State::SynSent, ..Entry::default() };
        let name = self.flight(key);
        self.emit_syn(key);
        self.arm(name, server);
    }

    /// Takes bytes to be sent, which lie in several places, in their order. Returns how many: all of them, or as many as
    /// there was room for; then [`Events::room`] follows. A connection that is not open takes none.
    pub fn send(&mut self, key: u32, parts: &[&[u8]], now_ns: u64) -> usize {
        self.now_ns = now_ns;
        if !self.entry(key).can_send() {
            return 0;
        }
        let name = self.flight(key);
        let flight = &mut self.flights[name];
        let mut taken = 0;
        for part in parts {
            let room = BYTES_MAX - flight.bytes.len();
            let count = part.len().min(room);
            flight.bytes.extend(&part[..count]);
            taken += count;
            if count < part.len() {
                flight.is_awaited = true;
                break;
            }
        }
        self.transmit(key);
        self.settle(key);
        taken
    }

    /// Closes this side: a FIN follows what was taken to be sent. The server may go on sending (half-close).
    pub fn finish(&mut self, key: u32, now_ns: u64) {
        self.now_ns = now_ns;
        let next = match self.entry(key).state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            _ => return,
        };
        self.entries[key as usize].state = next;
        let name = self.flight(key);
        let flight = &mut self.flights[name];
        (flight.is_last, flight.is_awaited) = (true, false);
        self.transmit(key);
    }

    /// Closes this side, and lets go: what the server goes on to send resets the connection (RFC 1122 section 4.2.2.13).
    /// Returns whether the key is free already; otherwise [`Events::closed`] or [`Events::failed`] follows.
    pub fn close(&mut self, key: u32, now_ns: u64) -> bool {
        self.now_ns = now_ns;
        match self.entry(key).state {
            State::Closed => return true,
            State::SynSent | State::SynReceived => {
                self.abort(key, now_ns);
                return true;
            }
            _ => {}
        }
        self.drop_early(key);
        let entry = &mut self.entries[key as usize];
        entry.set(Flag::LetGo, true);
        entry.set(Flag::Paused, false);
        self.finish(key, now_ns);
        if self.entry(key).state == State::FinWait2 {
            self.limit_fin_wait(key);
        }
        false
    }

    /// Ends a connection at once, with a reset if the server knows of it. No event follows; the key is free.
    pub fn abort(&mut self, key: u32, now_ns: u64) {
        self.now_ns = now_ns;
        match self.entry(key).state {
            State::Closed => return,
            State::SynSent => {}
            _ => self.emit_reset(key),
        }
        self.free(key);
    }

    /// Receives no more from a connection, or goes on.
    pub fn pause(&mut self, key: u32, is_paused: bool, now_ns: u64) {
        self.now_ns = now_ns;
        let entry = self.entry(key);
        if entry.has(Flag::Paused) == is_paused || !entry.can_receive() {
            return;
        }
        self.entries[key as usize].set(Flag::Paused, is_paused);
        if is_paused {
            self.drop_early(key); // none of it was acknowledged, so the peer has it, too: the pool is for those that read
        }
        self.owe_ack(key); // which says what the window is now
    }

    /// Time passes: meets deadlines, of as many as a turn allows. If there are more, [`Stack::next_ns`] is in the past.
    pub fn advance(&mut self, now_ns: u64, events: &mut impl Events) {
        self.now_ns = now_ns;
        self.waiting.advance(now_ns);
        for _ in 0..TURN {
            let Some(key) = self.flights.pop_due(now_ns) else { return };
            self.on_timeout(key, events);
        }
    }

    /// When [`Stack::advance`] may have something to do.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        [self.flights.next_ns(), self.waiting.next_ns()].into_iter().flatten().min()
    }

    /// Adds the acknowledgements that are due to the packets.
    pub fn flush(&mut self) {
        let mut acks = std::mem::take(&mut self.acks);
        for key in acks.drain(..) {
            if self.entry(key).has(Flag::AckDue) {
                self.emit_ack(key);
            }
        }
        self.acks = acks;
    }

    /// Packets that are to be written, in their order.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.out.packets()
    }

    /// All packets have been written.
    pub fn clear_packets(&mut self) {
        self.out.clear();
    }

    /// What has been met so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many connections have something on their way.
    #[must_use]
    pub fn active(&self) -> usize {
        self.flights.len()
    }

    /// Bytes of the pool for segments out of order that are in use.
    #[must_use]
    pub fn early_bytes(&self) -> usize {
        self.reassembly.used()
    }

    /// The entry of a connection, or that of one which has never been.
    fn entry(&self, key: u32) -> Entry {
        self.entries.get(key as usize).copied().unwrap_or_default()
    }

    /// The connection's flight, which begins if there is none.
    fn flight(&mut self, key: u32) -> FlightKey {
        let entry = &mut self.entries[key as usize];
        let name = entry.flight.unwrap_or_else(|| self.flights.take(key, entry.una, entry.mss));
        entry.flight = Some(name);
        name
    }

    /// Ends a flight that is not needed any more.
    fn settle(&mut self, key: u32) {
        let entry = self.entry(key);
        let waits_for_fin = entry.state == State::FinWait2 && entry.has(Flag::LetGo);
        if let Some(name) = entry.flight
            && !waits_for_fin
            && !self.flights[name].is_needed(entry.una)
        {
            self.flights.give_back(name);
            self.entries[key as usize].flight = None;
        }
    }

    /// Lets the peer's FIN be waited for only so long.
    fn limit_fin_wait(&mut self, key: u32) {
        let name = self.flight(key);
        self.flights.arm(name, self.now_ns + FIN_WAIT_NS, self.now_ns);
    }

    /// An acknowledgement is to go out with this turn's packets.
    fn owe_ack(&mut self, key: u32) {
        let entry = &mut self.entries[key as usize];
        if !entry.has(Flag::AckDue) {
            entry.set(Flag::AckDue, true);
            self.acks.push(key);
        }
    }

    fn drop_early(&mut self, key: u32) {
        let entry = &mut self.entries[key as usize];
        if entry.has(Flag::Reassembling) {
            entry.set(Flag::Reassembling, false);
            self.reassembly.remove(key);
        }
    }

    /// The connection is over: its key may be used again.
    fn free(&mut self, key: u32) {
        self.drop_early(key);
        let entry = &mut self.entries[key as usize];
        if let Some(name) = entry.flight {
            self.flights.give_back(name);
        }
        entry.clear();
    }
}

/// Whether sequence number `a` comes before `b` (RFC 9293 section 3.4).
#[inline]
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether sequence number `a` comes after `b`.
#[inline]
fn is_after(a: u32, b: u32) -> bool {
    is_before(b, a)
}
