//! The other side of a connection: a TCP that shares nothing with the stack but the format of segments. It keeps all that it
//! ever sends and receives, takes only what comes in order, and goes back to what is not acknowledged.

use std::net::SocketAddr;

use super::{MS, Random};
use crate::stack::segment::{self, ACK, FIN, Head, RST, SYN};

const TIMEOUT_NS: u64 = 300 * MS;
const TIMEOUT_MAX_NS: u64 = 5_000 * MS;

/// One connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says another thing about it")]
pub(super) struct Server {
    own: SocketAddr,
    peer: SocketAddr,
    /// Both sides' initial sequence numbers.
    iss: u32,
    irs: u32,
    /// All that it sends, and how much of that is sent, and acknowledged; a FIN counts as one more.
    pub(super) output: Vec<u8>,
    sent: usize,
    acked: usize,
    /// All that has arrived, and how much of that waits to be read.
    pub(super) input: Vec<u8>,
    unread: usize,
    capacity: usize,
    is_open: bool,
    is_last: bool,
    peer_has_finished: bool,
    pub(super) is_reset: bool,
    mss: usize,
    /// Segments that go out as one packet, which the device would divide if it had to.
    together: usize,
    /// The peer's window.
    window: usize,
    peer_scale: u8,
    own_scale: Option<u8>,
    pub(super) deadline_ns: u64,
    timeout_ns: u64,
    pub(super) packets: Vec<Vec<u8>>,
}

impl Server {
    /// Answers a SYN.
    pub(super) fn new(syn: &Head, together: usize, random: &mut Random, now_ns: u64) -> Self {
        let own_scale = (!random.one_in(3)).then(|| random.below(5) as u8);
        let near_the_end = 0_u32.wrapping_sub(random.below(5_000) as u32);
        let len = [0, 1, 3_000, 50_000][random.below(4)];
        let len = random.below(len + 1);
        let mut server = Self {
            own: syn.target,
            peer: syn.source,
            iss: if random.one_in(2) { near_the_end } else { random.below(1 << 30) as u32 },
            irs: syn.seq,
            output: random.bytes(len),
            sent: 0,
            acked: 0,
            input: Vec::new(),
            unread: 0,
            capacity: 100 + random.below(20_000),
            is_open: false,
            is_last: false,
            peer_has_finished: false,
            is_reset: false,
            mss: usize::from(syn.mss.expect("a SYN has it")).min(100 + random.below(1500)),
            together,
            window: syn.window.into(),
            peer_scale: own_scale.and(syn.scale).unwrap_or(0),
            own_scale,
            deadline_ns: now_ns + TIMEOUT_NS,
            timeout_ns: TIMEOUT_NS,
            packets: Vec::new(),
        };
        server.emit(SYN | ACK, 0..0);
        server
    }

    /// Whether a segment belongs to this connection.
    pub(super) fn is_for(&self, head: &Head) -> bool {
        (head.source, head.target) == (self.peer, self.own)
    }

    fn is_done(&self) -> bool {
        self.acked > self.output.len() && self.peer_has_finished
    }

    pub(super) fn on_segment(&mut self, head: &Head, payload: &[u8], now_ns: u64) {
        if head.has(RST) {
            // An old segment of ours can have met nothing any more.
            self.is_reset |= !self.is_done();
            return;
        }
        if head.has(SYN) {
            let control = if self.is_open { ACK } else { SYN | ACK };
            return self.emit(control, 0..0);
        }
        let acked = head.ack.wrapping_sub(self.iss).wrapping_sub(1) as usize;
        if acked > self.output.len() + usize::from(self.is_last) {
            return; // an old one: its acknowledgement is before the first byte
        }
        self.is_open = true;
        if acked >= self.acked {
            self.window = usize::from(head.window) << self.peer_scale;
        }
        if acked > self.acked {
            (self.acked, self.sent) = (acked, self.sent.max(acked));
            (self.timeout_ns, self.deadline_ns) = (TIMEOUT_NS, now_ns + TIMEOUT_NS);
        }
        if !payload.is_empty() || head.has(FIN) {
            self.take(head, payload);
            self.emit(ACK, 0..0);
        }
        self.transmit(now_ns);
    }

    /// Takes what is next, as far as there is room.
    fn take(&mut self, head: &Head, payload: &[u8]) {
        let old = self.next_in().wrapping_sub(head.seq) as usize;
        let Some(fresh) = payload.get(old..).filter(|_| !self.peer_has_finished) else { return };
        let count = fresh.len().min(self.capacity - self.unread);
        self.input.extend_from_slice(&fresh[..count]);
        self.unread += count;
        self.peer_has_finished = head.has(FIN) && count == fresh.len();
    }

    fn next_in(&self) -> u32 {
        self.irs.wrapping_add(1 + self.input.len() as u32 + u32::from(self.peer_has_finished))
    }

    /// Sends what the peer's window allows.
    fn transmit(&mut self, now_ns: u64) {
        if !self.is_open {
            return;
        }
        let edge = (self.acked + self.window.min(10 * self.mss)).min(self.output.len());
        while self.sent < edge {
            let end = edge.min(self.sent + self.together * self.mss);
            self.emit(ACK, self.sent..end);
            self.sent = end;
        }
        if self.is_last && self.sent == self.output.len() {
            self.emit(ACK | FIN, self.sent..self.sent);
            self.sent += 1;
        }
        let is_awaited = self.acked < self.output.len() + usize::from(self.is_last);
        if !is_awaited {
            self.deadline_ns = u64::MAX;
        } else if self.deadline_ns == u64::MAX {
            self.deadline_ns = now_ns + self.timeout_ns;
        }
    }

    /// Sends again what has not been acknowledged: a byte at least, whatever the window is.
    pub(super) fn advance(&mut self, now_ns: u64) {
        if self.deadline_ns > now_ns {
            return;
        }
        self.timeout_ns = (2 * self.timeout_ns).min(TIMEOUT_MAX_NS);
        self.deadline_ns = now_ns + self.timeout_ns;
        if !self.is_open {
            return self.emit(SYN | ACK, 0..0);
        }
        self.sent = self.acked;
        if self.window == 0 && self.sent < self.output.len() {
            let end = self.sent + 1;
            self.emit(ACK, self.sent..end);
        }
        self.transmit(now_ns);
    }

    /// The application reads, or closes its side.
    pub(super) fn look(&mut self, random: &mut Random, is_calm: bool, now_ns: u64) {
        if self.unread > 0 && (is_calm || random.one_in(6)) {
            let was_shut = self.capacity - self.unread < self.capacity / 2;
            self.unread = 0;
            if was_shut {
                self.emit(ACK, 0..0);
            }
        }
        if !self.is_last && (is_calm || random.one_in(20)) {
            self.is_last = true;
            self.transmit(now_ns);
        }
    }

    fn emit(&mut self, control: u8, range: std::ops::Range<usize>) {
        let is_syn = control & SYN != 0;
        let room = self.capacity - self.unread;
        let seq = match (is_syn, control & FIN != 0 || !range.is_empty()) {
            (true, _) => self.iss,
            (false, true) => self.iss.wrapping_add(1 + range.start as u32),
            (false, false) => self.iss.wrapping_add(1 + self.sent as u32),
        };
        let head = Head {
            source: self.own,
            target: self.peer,
            seq,
            ack: self.next_in(),
            control,
            window: if is_syn { room } else { room >> self.own_scale.unwrap_or(0) } as u16,
            mss: is_syn.then_some(self.mss as u16),
            scale: self.own_scale.filter(|_| is_syn),
        };
        let mut packet = Vec::new();
        segment::write(&mut packet, &head, [&self.output[range], b""]);
        self.packets.push(packet);
    }
}
