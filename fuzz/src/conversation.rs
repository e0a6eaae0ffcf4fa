//! The TCP of ringload against a server that the fuzzer plays: its bytes are what the transport asks for, what the server
//! sends and how time passes. Segments are for connections that there are, with numbers near those that are expected, so that
//! all states are reached.
//!
//! What must hold: events come in their order, and each byte once and unchanged; what is sent is in order, within the windows, and
//! acknowledges what has been told; memory is bounded. In the end packets come no more, and every connection must end in bounded
//! time; or the server becomes a good one, and every connection must close in order.
//!
//! With offloads the stack leaves checksums and segments to the device, which is played here, too; and the server's segments are
//! as long as a packet can be, with checksums that are left out, to be checked, or wrong.

use std::net::{Ipv4Addr, SocketAddr};

use ringload::stack::{Config, Ends, Events, Failure, OFFLOAD_LEN, Stack};

use crate::packet::{self, ACK, Checksum, FIN, Packet, Quote, RST, SYN, Segment};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// Connections at a time.
const KEYS: u32 = 3;

/// Memory for segments out of order: some of them.
const POOL: usize = 2_000;
const POOL_OF_LONG: usize = 100_000;

/// What a server's MSS is if it does not say, over either family, and what the least is taken for.
const DEFAULT_MSS: [u16; 2] = [536, 1220];
const LEAST_MSS: u16 = 48;

/// Payload bytes of a segment to and from a server of either family.
const MTU: u16 = 1500;

/// The client's window, to a server that scales windows, and to one that does not.
const WINDOW_SCALED: u32 = 65_535 << 2;
const WINDOW: u32 = 65_535;

/// How long a connection can go on without a packet: 16 timeouts of a minute at most, then a minute for the peer's FIN.
const PATIENCE: u64 = 1_100 * SECOND;

/// How long a TIME-WAIT takes, and a timer that has lost its flight.
const WAIT: u64 = 70 * SECOND;

/// Turns of 100 ms within which a good server has all that was left to be sent.
const TURNS: usize = 2_000;

/// The fuzzer's bytes.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    fn below(&mut self, bound: u8) -> Option<u8> {
        self.byte().map(|byte| byte % bound)
    }

    /// A difference to a sequence number: mostly none.
    fn delta(&mut self) -> Option<i32> {
        let byte = self.byte()?;
        Some(match byte {
            0..128 => 0,
            128..192 => i32::from(byte) - 160,
            _ => (i32::from(self.byte()?) - 128) << (byte % 32),
        })
    }
}

/// What the server sends: it depends on the sequence number alone, so that whatever comes in place of it is seen.
fn of_server(seq: u32) -> u8 {
    (seq ^ (seq >> 7)) as u8
}

/// What the client sends.
fn of_client(at: usize) -> u8 {
    (at * 7 + (at >> 8)) as u8
}

/// What is known of one connection from outside.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)]
struct Life {
    server: u16,
    client: SocketAddr,
    /// The client's first sequence number behind its SYN, and what follows the last one that it has sent.
    first: u32,
    sent_end: u32,
    /// Bytes that the stack has taken.
    taken: usize,
    /// The server's first sequence number behind its SYN, once that was taken, and the bytes that the stack has told of.
    base: Option<u32>,
    told: usize,
    /// The farthest sequence number of the server that the stack may have believed: what follows must not lie before.
    ahead: u32,
    /// The client's window.
    own_window: u32,
    /// Where the farthest window that was ever offered ends, and by how much the server scales it.
    edge: u32,
    scale: u8,
    /// Payload bytes of a segment to the server at most.
    mss: u16,
    is_open: bool,
    is_paused: bool,
    waits_for_room: bool,
    server_has_finished: bool,
    has_finished: bool,
    is_let_go: bool,
}

impl Life {
    /// What the server has to send next.
    fn next(&self) -> u32 {
        let base = self.base.unwrap_or(0);
        base.wrapping_add(self.told as u32 + u32::from(self.server_has_finished))
    }

    /// A segment that is given to the stack may widen the window, and say what the server has sent by now.
    fn offered(&mut self, segment: &Segment) {
        if segment.seq.wrapping_sub(self.next()) < self.own_window && segment.seq.wrapping_sub(self.ahead) as i32 > 0 {
            self.ahead = segment.seq;
        }
        let is_valid = segment.ack.wrapping_sub(self.first) <= self.sent_end.wrapping_sub(self.first);
        if segment.flags & ACK != 0 && segment.flags & SYN == 0 && is_valid {
            let edge = segment.ack.wrapping_add(u32::from(segment.window) << self.scale);
            if edge.wrapping_sub(self.edge) as i32 > 0 {
                self.edge = edge;
            }
        }
    }

    /// The server's SYN was taken.
    fn opened_by(&mut self, syn: &Segment) {
        self.base = Some(syn.seq.wrapping_add(1));
        self.ahead = syn.seq.wrapping_add(1);
        self.scale = syn.scale.unwrap_or(0).min(14);
        self.own_window = if syn.scale.is_some() { WINDOW_SCALED } else { WINDOW };
        self.edge = self.first.wrapping_add(syn.window.into());
        self.mss = self.mss.min(syn.mss.unwrap_or(DEFAULT_MSS[usize::from(self.server)]).max(LEAST_MSS));
    }
}

/// All connections, as the transport of the stack knows them.
struct Lives {
    list: Vec<Option<Life>>,
    /// What is being given to the stack.
    current: Option<Segment>,
    /// The server is a good one: nothing may fail.
    is_calm: bool,
}

impl Lives {
    fn get(&mut self, key: u32) -> &mut Life {
        self.list[key as usize].as_mut().expect("events are of connections that there are")
    }

    fn count(&self) -> usize {
        self.list.iter().flatten().count()
    }

    fn keys(&self) -> Vec<u32> {
        (0..KEYS).filter(|&key| self.list[key as usize].is_some()).collect()
    }
}

impl Events for Lives {
    fn connected(&mut self, key: u32) {
        let syn = self.current.clone();
        let life = self.get(key);
        assert!(!life.is_open, "connected twice");
        life.is_open = true;
        if life.base.is_none() {
            life.opened_by(&syn.filter(|syn| syn.flags & SYN != 0).expect("the server's SYN"));
        }
    }

    fn received(&mut self, key: u32, bytes: &mut [u8]) {
        let life = self.get(key);
        assert!(life.is_open && !life.server_has_finished && !life.is_paused && !life.is_let_go && !bytes.is_empty());
        let start = life.next();
        for (at, byte) in bytes.iter_mut().enumerate() {
            assert_eq!(*byte, of_server(start.wrapping_add(at as u32)), "byte {}", life.told + at);
            *byte = 0; // they may be changed
        }
        life.told += bytes.len();
    }

    fn room(&mut self, key: u32) {
        assert!(std::mem::take(&mut self.get(key).waits_for_room), "nothing waits for it");
    }

    fn finished(&mut self, key: u32) {
        let life = self.get(key);
        assert!(life.is_open && !std::mem::replace(&mut life.server_has_finished, true), "finished twice");
    }

    fn closed(&mut self, key: u32) {
        let is_reset = self.current.as_ref().is_some_and(|segment| segment.flags & RST != 0);
        let life = self.list[key as usize].take().expect("a connection");
        assert!(life.is_let_go || (life.server_has_finished && life.has_finished), "{life:?}");
        if life.server_has_finished && !is_reset {
            let all = life.first.wrapping_add(life.taken as u32 + 1);
            assert_eq!(life.sent_end, all, "closed in order before all was sent: {life:?}");
        }
    }

    fn failed(&mut self, key: u32, failure: Failure) {
        let life = self.list[key as usize].take().expect("a connection");
        assert!(!self.is_calm, "{failure:?} {life:?}");
        let is_of_opening = matches!(failure, Failure::Refused | Failure::Unreachable);
        assert!(!is_of_opening || !life.is_open, "{failure:?} {life:?}");
    }
}

/// What a damaged packet must lead to.
struct Nothing;

impl Events for Nothing {
    fn connected(&mut self, _: u32) {
        unreachable!();
    }
    fn received(&mut self, _: u32, _: &mut [u8]) {
        unreachable!();
    }
    fn room(&mut self, _: u32) {
        unreachable!();
    }
    fn finished(&mut self, _: u32) {
        unreachable!();
    }
    fn closed(&mut self, _: u32) {
        unreachable!();
    }
    fn failed(&mut self, _: u32, _: Failure) {
        unreachable!();
    }
}

/// A stack, and all that is known of it.
struct Conversation {
    stack: Stack,
    lives: Lives,
    servers: [SocketAddr; 2],
    has_offloads: bool,
    /// Memory for segments out of order.
    pool: usize,
    /// Initial sequence number of the servers.
    iss: u32,
    now_ns: u64,
}

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let Some(setting) = choices.byte() else { return };
    let mut conversation = Conversation::new(setting);
    while conversation.step(&mut choices).is_some() {}
    if setting & 2 == 0 {
        conversation.fall_silent();
    } else {
        conversation.be_good();
    }
    conversation.rest();
}

impl Conversation {
    fn new(setting: u8) -> Self {
        let servers = ["10.0.0.1:80", "[fd01::1]:80"].map(|server| server.parse().expect("an address"));
        let ends = Ends {
            first_v4: Some(Ipv4Addr::new(198, 19, 0, 0)),
            first_v6: Some("fd00::".parse().expect("an address")),
            hosts: 1,
            servers: servers.to_vec(),
        };
        // In the second case there are flows for one life only: each one meets the segments of the one before.
        let connections = if setting & 1 == 0 { KEYS } else { 40_000 };
        let has_offloads = setting & 0x80 != 0;
        let pool = if has_offloads { POOL_OF_LONG } else { POOL };
        let config = Config { ends, connections, mtu: MTU, has_offloads, reassembly_bytes: pool, secret: [3, 4] };
        Self {
            stack: Stack::new(config).expect("a stack"),
            lives: Lives { list: (0..KEYS).map(|_| None).collect(), current: None, is_calm: false },
            servers,
            has_offloads,
            pool,
            iss: if setting & 4 == 0 { 1_000 } else { u32::MAX - 700 },
            now_ns: u64::from(setting >> 3 & 15) * 77 * SECOND,
        }
    }

    /// Does one thing. `None`: there are no more bytes.
    fn step(&mut self, choices: &mut Choices<'_>) -> Option<()> {
        let act = choices.byte()?;
        let key = u32::from(choices.below(KEYS as u8)?);
        let has_life = self.lives.list[key as usize].is_some();
        match act % 16 {
            0 if !has_life => self.connect(key, u16::from(act >> 7)),
            1 => self.send(key, usize::from(choices.byte()?) << (act >> 4).min(9)),
            2 => self.finish(key),
            3 if act & 0x30 == 0 => self.close(key),
            4 if act & 0x30 == 0 => self.abort(key),
            5 => self.pause(key, act & 0x80 != 0),
            6 => self.pass(u64::from(choices.byte()?) << (act >> 4).min(8)),
            7 => self.pass_to_next(),
            8 => {
                self.stack.flush();
                self.check(&[]);
            }
            9 if has_life => self.icmp(key, choices)?,
            10 => {
                let count = usize::from(choices.byte()?).min(choices.0.len());
                let mut packet = choices.0[..count].to_vec();
                choices.0 = &choices.0[count..];
                self.give_bytes(&mut packet);
            }
            11 if has_life => self.give_syn(key, choices)?,
            _ if has_life => self.give_segment(key, act >> 4, choices)?,
            _ => {}
        }
        Some(())
    }

    fn connect(&mut self, key: u32, server: u16) {
        self.stack.connect(key, server, self.now_ns);
        let syn = self.sent().pop().expect("a SYN");
        let mss = if server == 0 { MTU - 40 } else { MTU - 60 };
        assert_eq!(
            (syn.flags, syn.target, syn.mss, syn.payload.len()),
            (SYN, self.servers[usize::from(server)], Some(mss), 0)
        );
        let first = syn.seq.wrapping_add(1);
        self.lives.list[key as usize] = Some(Life {
            server,
            client: syn.source,
            first,
            sent_end: first,
            taken: 0,
            base: None,
            told: 0,
            ahead: 0,
            own_window: WINDOW,
            edge: first,
            scale: 0,
            mss,
            is_open: false,
            is_paused: false,
            waits_for_room: false,
            server_has_finished: false,
            has_finished: false,
            is_let_go: false,
        });
    }

    fn send(&mut self, key: u32, len: usize) {
        let start = self.lives.list[key as usize].as_ref().map_or(0, |life| life.taken);
        let bytes: Vec<u8> = (start..start + len).map(of_client).collect();
        let (first, second) = bytes.split_at(len / 3);
        let taken = self.stack.send(key, &[first, second], self.now_ns);
        let Some(life) = &mut self.lives.list[key as usize] else { return assert_eq!(taken, 0) };
        assert!(taken <= len && (taken == 0 || (life.is_open && !life.has_finished)));
        life.taken += taken;
        life.waits_for_room |= life.is_open && !life.has_finished && taken < len;
        self.check(&[]);
    }

    fn finish(&mut self, key: u32) {
        self.stack.finish(key, self.now_ns);
        if let Some(life) = &mut self.lives.list[key as usize]
            && life.is_open
        {
            (life.has_finished, life.waits_for_room) = (true, false);
        }
        self.check(&[]);
    }

    fn close(&mut self, key: u32) {
        let is_gone = self.stack.close(key, self.now_ns);
        match &mut self.lives.list[key as usize] {
            Some(life) if life.is_open => {
                assert!(!is_gone);
                (life.has_finished, life.is_let_go, life.is_paused, life.waits_for_room) = (true, true, false, false);
            }
            life => {
                assert!(is_gone);
                *life = None;
            }
        }
        self.check(&[]);
    }

    fn abort(&mut self, key: u32) {
        self.stack.abort(key, self.now_ns);
        self.lives.list[key as usize] = None;
        self.check(&[]);
    }

    fn pause(&mut self, key: u32, is_paused: bool) {
        self.stack.pause(key, is_paused, self.now_ns);
        if let Some(life) = &mut self.lives.list[key as usize]
            && life.is_open
            && !life.server_has_finished
        {
            life.is_paused = is_paused;
        }
        self.check(&[]);
    }

    fn pass(&mut self, ms: u64) {
        self.now_ns += ms * MS;
        let before = self.nexts();
        self.stack.advance(self.now_ns, &mut self.lives);
        self.check(&before);
    }

    fn pass_to_next(&mut self) {
        let next_ns = self.stack.next_ns().unwrap_or(self.now_ns);
        self.pass(next_ns.saturating_sub(self.now_ns).div_ceil(MS).min(PATIENCE / MS));
    }

    /// An ICMP error about something that may be on its way.
    fn icmp(&mut self, key: u32, choices: &mut Choices<'_>) -> Option<()> {
        let (kind, code, delta) = (choices.below(4)?, choices.below(16)?, choices.delta()?);
        let word = u32::from(choices.byte()?) * 8;
        let life = self.lives.get(key);
        let (source, target) = (life.client, self.servers[usize::from(life.server)]);
        let seq = life.sent_end.wrapping_sub(1).wrapping_add_signed(delta);
        let mut packet = Quote { kind, code, source, target, seq }.packet(word);
        if self.has_offloads {
            packet.splice(0..0, [0; OFFLOAD_LEN]);
        }
        self.input(&mut packet, None);
        Some(())
    }

    /// A SYN of the server, right or not.
    fn give_syn(&mut self, key: u32, choices: &mut Choices<'_>) -> Option<()> {
        let (bits, delta) = (choices.byte()?, choices.delta()?);
        let mss = [None, Some(1460), Some(100), Some(u16::from(bits))][usize::from(bits & 3)];
        let scale = [None, Some(0), Some(7), Some(bits >> 3)][usize::from(bits >> 2 & 3)];
        let flags = if bits & 16 == 0 { SYN | ACK } else { SYN };
        let life = self.lives.get(key);
        let ack = if flags == SYN { 0 } else { life.first.wrapping_add_signed(delta) };
        let window = [1000, 0, 65_535, 1][usize::from(bits >> 5 & 3)];
        let segment = Segment { mss, scale, ..segment(life, self.servers, flags, self.iss, ack, window) };
        let checksum = self.checksum(choices)?;
        self.give(&segment, checksum);
        Some(())
    }

    /// A segment for the connection.
    fn give_segment(&mut self, key: u32, kind: u8, choices: &mut Choices<'_>) -> Option<()> {
        let flags = match kind {
            0..10 => ACK,
            10..13 => ACK | FIN,
            13 => RST,
            14 => RST | ACK,
            _ => choices.byte()? & 0x3f,
        };
        let (seq_delta, ack_delta) = (choices.delta()?, choices.delta()?);
        let (shape, len) = (choices.byte()?, usize::from(choices.byte()?));
        let window = [65_535, 0, 1, 500, 5_000, 20_000, 100, 65_535][usize::from(shape & 7)];
        let shift =
            if self.has_offloads { [0, 1, 2, 3, 5, 6, 7, 8][usize::from(shape >> 4 & 7)] } else { shape >> 4 & 3 };
        let len = if shape & 8 == 0 { 0 } else { len << shift };
        let checksum = self.checksum(choices)?;
        let life = self.lives.get(key);
        let seq = if life.base.is_some() { life.next() } else { self.iss }.wrapping_add_signed(seq_delta);
        let ack = life.sent_end.wrapping_add_signed(ack_delta);
        let payload = (0..len as u32).map(|at| of_server(seq.wrapping_add(at))).collect();
        let segment = Segment { payload, ..segment(life, self.servers, flags, seq, ack, window) };
        self.give(&segment, checksum);
        Some(())
    }

    /// What the device says of the next segment's checksum: without offloads it says nothing.
    fn checksum(&self, choices: &mut Choices<'_>) -> Option<Checksum> {
        use Checksum::{LeftOut, Unknown, Verified, Wrong};
        Some(if self.has_offloads {
            [Verified, LeftOut, Unknown, Wrong][usize::from(choices.below(4)?)]
        } else {
            Unknown
        })
    }

    /// Any bytes, but for segments of connections: those come from elsewhere, and the device may say of these that they are right.
    fn give_bytes(&mut self, bytes: &mut [u8]) {
        let is_segment = |packet| matches!(packet::read(packet, true), Some(Packet::Tcp(_)));
        if !(self.has_offloads && bytes.get(OFFLOAD_LEN..).is_some_and(is_segment)) {
            self.input(bytes, None);
        }
    }

    fn give(&mut self, segment: &Segment, checksum: Checksum) {
        let mut packet = segment.packet();
        if self.has_offloads {
            packet::offload(&mut packet, checksum);
        }
        if checksum == Checksum::Wrong {
            let unread = self.stack.counters().unread;
            self.stack.input(&mut packet, self.now_ns, &mut Nothing);
            assert_eq!((self.stack.counters().unread, self.stack.packets().count()), (unread + 1, 0), "{segment:?}");
            return;
        }
        if let Some(life) = self.lives.list.iter_mut().flatten().find(|life| life.client == segment.target)
            && life.base.is_some()
        {
            life.offered(segment);
        }
        self.input(&mut packet, Some(segment.clone()));
    }

    fn input(&mut self, packet: &mut [u8], segment: Option<Segment>) {
        self.lives.current = segment;
        let before = self.nexts();
        self.stack.input(packet, self.now_ns, &mut self.lives);
        self.check(&before);
        self.lives.current = None;
    }

    /// What each connection's server had to send next.
    fn nexts(&self) -> Vec<Option<u32>> {
        let next = |life: &Life| life.base.map(|_| life.next());
        self.lives.list.iter().map(|life| life.as_ref().and_then(next)).collect()
    }

    /// Looks at all packets that the stack has for the device, and at what it holds. `before`: what servers had to send next when
    /// the first of these packets may have been made, if that was not now.
    fn check(&mut self, before: &[Option<u32>]) {
        let packets = self.sent();
        let is_reset = self.lives.current.as_ref().is_some_and(|segment| segment.flags & RST != 0);
        for packet in &packets {
            assert!(!is_reset || packet.flags & RST == 0, "a reset answers a reset: {packet:?}");
            let is_of = |key: &u32| {
                let life = self.lives.list[*key as usize].as_ref();
                life.is_some_and(|life| {
                    (life.client, self.servers[usize::from(life.server)]) == (packet.source, packet.target)
                })
            };
            if let Some(key) = self.lives.keys().into_iter().find(is_of) {
                self.check_packet(key as usize, packet, before.get(key as usize).copied().flatten());
            }
        }
        let (active, early) = (self.stack.active(), self.stack.early_bytes());
        assert!(active <= self.lives.count(), "{active} flights of {} connections", self.lives.count());
        assert!(early <= self.pool && (early == 0 || self.lives.count() > 0), "{early} bytes in the pool");
    }

    /// The segments that the stack has for the device, and those that the device makes.
    fn sent(&mut self) -> Vec<Segment> {
        let packets = self.stack.packets();
        let sent = if self.has_offloads {
            packets.flat_map(packet::divide).collect()
        } else {
            packets.map(packet::read_strictly).collect()
        };
        self.stack.clear_packets();
        sent
    }

    /// A packet of a connection that goes on.
    fn check_packet(&mut self, key: usize, packet: &Segment, before: Option<u32>) {
        let current = self.lives.current.clone();
        let life = self.lives.list[key].as_mut().expect("it was found");
        if packet.flags == RST {
            return; // an answer to a segment of no connection: it has that segment's numbers
        }
        if packet.flags & SYN != 0 {
            assert_eq!(packet.seq.wrapping_add(1), life.first, "{packet:?}");
            assert!(!life.is_open, "{packet:?}");
            if packet.flags & ACK != 0 && life.base.is_none() {
                life.opened_by(&current.expect("the server's SYN"));
            }
        } else {
            let at = packet.seq.wrapping_sub(life.first) as usize;
            let end = at + packet.payload.len();
            let is_of_syn = packet.seq.wrapping_add(1) == life.first && end == at; // before anything is acknowledged
            assert!(is_of_syn || end <= life.taken + 1, "{packet:?} {life:?}");
            let is_right = |(index, &byte): (usize, &u8)| byte == of_client(at + index);
            assert!(packet.payload.iter().enumerate().all(is_right), "{packet:?}");
            assert!(packet.payload.len() <= usize::from(life.mss), "{packet:?} {life:?}");
            let is_last = packet.flags & FIN != 0;
            assert!(!is_last || (life.has_finished && end == life.taken), "{packet:?} {life:?}");
            let seq_end = packet.seq.wrapping_add(packet.payload.len() as u32);
            let beyond = seq_end.wrapping_sub(life.edge) as i32;
            assert!(packet.payload.is_empty() || beyond <= i32::from(packet.payload.len() == 1), "{packet:?} {life:?}");
            let seq_end = seq_end.wrapping_add(u32::from(is_last));
            if seq_end.wrapping_sub(life.sent_end) as i32 > 0 {
                assert!(
                    !packet.payload.is_empty() || is_last,
                    "an acknowledgement has a number of its own: {packet:?}"
                );
                life.sent_end = seq_end;
            }
        }
        if packet.flags & ACK != 0 {
            let now = life.next();
            let before = before.unwrap_or(now);
            let (acked, span) = (packet.ack.wrapping_sub(before), now.wrapping_sub(before));
            assert!(acked <= span, "{packet:?} acknowledges other than {before} to {now}");
        }
        assert_eq!(packet.window, if life.is_paused { 0 } else { u16::MAX }, "{packet:?} {life:?}");
    }

    /// No packets come any more: whatever is active must end, and all others once they are closed.
    fn fall_silent(&mut self) {
        self.wait_until("idle", |this| this.stack.active() == 0);
        for key in self.lives.keys() {
            if !self.lives.get(key).is_let_go {
                self.close(key);
            }
        }
        self.wait_until("over", |this| this.lives.count() == 0);
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end_ns = self.now_ns + PATIENCE;
        while !is_so(self) {
            let next_ns = self.stack.next_ns();
            assert!(next_ns.is_some_and(|next_ns| next_ns < end_ns), "never {what}: {next_ns:?} {:?}", self.lives.list);
            self.pass_to_next();
            self.stack.flush();
            self.check(&[]);
        }
    }

    /// The servers send what they have said that they had, take and acknowledge everything and close, and so does the transport.
    fn be_good(&mut self) {
        self.lives.is_calm = true;
        (0..KEYS).for_each(|key| self.pause(key, false));
        for _ in 0..TURNS {
            for key in self.lives.keys() {
                self.answer(key);
                if self.lives.list[key as usize]
                    .as_ref()
                    .is_some_and(|life| life.server_has_finished && !life.is_let_go)
                {
                    self.close(key);
                }
            }
            self.pass(100);
            self.stack.flush();
            self.check(&[]);
            if self.lives.count() == 0 {
                return;
            }
        }
        panic!("connections are stuck: {:?}", self.lives.list);
    }

    fn answer(&mut self, key: u32) {
        let life = self.lives.get(key);
        let next = life.next();
        let gap = (life.ahead.wrapping_sub(next) as i32).max(0);
        // Behind its FIN it has nothing, whatever it said before; but it stays with its numbers.
        let missing = if life.server_has_finished { 0 } else { gap.min(1400) };
        let next = if life.server_has_finished { next.wrapping_add_signed(gap) } else { next };
        let mut answer = match life.base {
            None => segment(life, self.servers, SYN | ACK, self.iss, life.first, u16::MAX),
            Some(_) if !life.is_open => segment(life, self.servers, ACK, next, life.first, u16::MAX),
            Some(_) if life.server_has_finished || missing > 0 => {
                segment(life, self.servers, ACK, next, life.sent_end, u16::MAX)
            }
            Some(_) => segment(life, self.servers, ACK | FIN, next, life.sent_end, u16::MAX),
        };
        if life.is_open {
            answer.payload = (0..missing as u32).map(|at| of_server(next.wrapping_add(at))).collect();
        }
        self.give(&answer, Checksum::Unknown);
    }

    /// All connections are over: nothing may be left of them, but for what waits in TIME-WAIT.
    fn rest(&mut self) {
        assert_eq!((self.stack.active(), self.stack.early_bytes()), (0, 0));
        let end_ns = self.now_ns + WAIT;
        while let Some(next_ns) = self.stack.next_ns() {
            assert!(next_ns < end_ns, "something is still waited for");
            self.pass_to_next();
        }
    }
}

/// A segment of the server to that connection.
fn segment(life: &Life, servers: [SocketAddr; 2], flags: u8, seq: u32, ack: u32, window: u16) -> Segment {
    let (source, target) = (servers[usize::from(life.server)], life.client);
    Segment { source, target, seq, ack, flags, window, mss: None, scale: None, payload: Vec::new() }
}
