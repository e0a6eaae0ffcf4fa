//! What is between the stack and the device.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum To {
    Kernel,
    Stack,
}

/// When it arrives, its number, where it goes, and its bytes.
type Passing = (Instant, u64, To, Vec<u8>);

/// What the link does at random: one in so many packets is lost, comes twice, has a bit changed; all are delayed by up to so
/// much, and so change their order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roughness {
    pub(crate) seed: u64,
    pub(crate) loss: u64,
    pub(crate) repetition: u64,
    pub(crate) damage: u64,
    pub(crate) delay: Duration,
}

/// A link, which hands on all packets at once unless it is told otherwise.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Bytes of the device's header in front of each packet, which has offloads if it has one.
    header_len: usize,
    /// Packets of several segments that have come by, to the kernel and to the stack.
    pub(crate) large: [usize; 2],
    /// Those to the stack whose checksum nobody has checked.
    pub(crate) unverified_to_stack: usize,
    /// Packets to the kernel stay here for now.
    pub(crate) holds_back: bool,
    /// The next ones with a segment, so many, are lost. There are others: the kernel looks for IPv6 routers.
    pub(crate) lose_to_kernel: usize,
    pub(crate) lose_to_stack: usize,
    /// Those without data are not.
    pub(crate) spares_bare: bool,
    /// How many to the stack have had a bit changed. Not all that it cannot read are of those: the kernel looks for IPv6 routers.
    pub(crate) damaged_to_stack: usize,
    held: VecDeque<Vec<u8>>,
    roughness: Option<Roughness>,
    /// By when they arrive, then in the order in which they came.
    passing: BinaryHeap<Reverse<Passing>>,
    count: u64,
}

impl Link {
    /// A link whose packets have a header of so many bytes in front.
    pub(crate) fn behind(header_len: usize) -> Self {
        Self { header_len, ..Self::default() }
    }

    pub(crate) fn roughen(&mut self, roughness: Roughness) {
        self.roughness = Some(roughness);
    }

    /// Lets the first packets that were held back, so many, go to the kernel.
    pub(crate) fn release(&mut self, count: usize) {
        for packet in self.held.drain(..count).collect::<Vec<_>>() {
            self.insert(Instant::now(), To::Kernel, packet);
        }
    }

    pub(crate) fn push(&mut self, to: To, mut packet: Vec<u8>) {
        self.count_offloads(to, &packet);
        let lose = if to == To::Kernel { &mut self.lose_to_kernel } else { &mut self.lose_to_stack };
        if *lose > 0 && is_tcp(&packet[self.header_len..]) && !(self.spares_bare && packet.len() < 100) {
            *lose -= 1;
            return;
        }
        if to == To::Kernel && self.holds_back {
            return self.held.push_back(packet);
        }
        let now = Instant::now();
        let Some(Roughness { loss, repetition, damage, delay, .. }) = self.roughness else {
            return self.insert(now, to, packet);
        };
        if self.random(loss) == 0 {
            return;
        }
        if self.random(repetition) == 0 {
            let late = self.some_of(delay * 4);
            self.insert(now + late, to, packet.clone());
        }
        if self.random(damage) == 0 {
            let bit = self.random(8 * packet.len() as u64) as usize;
            packet[bit / 8] ^= 1 << (bit % 8);
            self.damaged_to_stack += usize::from(to == To::Stack);
        }
        let late = self.some_of(delay);
        self.insert(now + late, to, packet);
    }

    /// By virtio-net's header (`linux/virtio_net.h`): its first byte are flags, the second is the kind of division.
    fn count_offloads(&mut self, to: To, packet: &[u8]) {
        let (header, packet) = packet.split_at(self.header_len);
        if let [flags, kind, ..] = *header
            && is_tcp(packet)
        {
            self.large[to as usize] += usize::from(kind != 0);
            self.unverified_to_stack += usize::from(to == To::Stack && flags == 0);
        }
    }

    fn insert(&mut self, at: Instant, to: To, packet: Vec<u8>) {
        self.count += 1;
        self.passing.push(Reverse((at, self.count, to, packet)));
    }

    /// A packet that has arrived.
    pub(crate) fn pop(&mut self) -> Option<(To, Vec<u8>)> {
        if !self.holds_back {
            self.release(self.held.len());
        }
        if self.next()? > Instant::now() {
            return None;
        }
        self.passing.pop().map(|Reverse((_, _, to, packet))| (to, packet))
    }

    /// When the next one arrives.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.passing.peek().map(|Reverse((at, ..))| *at)
    }

    fn some_of(&mut self, delay: Duration) -> Duration {
        Duration::from_micros(self.random(delay.as_micros() as u64 + 1))
    }

    /// A number below `bound`, by `SplitMix64`.
    fn random(&mut self, bound: u64) -> u64 {
        let seed = &mut self.roughness.as_mut().expect("a rough link").seed;
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn is_tcp(packet: &[u8]) -> bool {
    let protocol = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
    protocol == 6
}
