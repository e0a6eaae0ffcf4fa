//! Connections with a behaviour that sends later or without input: sources, and delayed echoes. Only these have state here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use super::output::{CHUNK_OVERHEAD, Lender, Outputs, Queue};
use super::wheel::is_before;
use crate::protocol::{Behaviour, Source, write_binary_header};

/// Bytes that a source queues at once, a quantum of the scheduler; larger messages are queued whole.
const BLOCK: usize = 64 << 10;
/// The credit of one message: fine enough that a rate of one a second adds something in each tick.
const MESSAGE: u64 = 1_000_000;

/// The actors of a worker.
#[derive(Default)]
pub(super) struct Actors {
    by_key: HashMap<u32, Actor>,
    /// The output shared by sources of the same size.
    templates: HashMap<u32, Weak<[u8]>>,
}

enum Actor {
    Source(Sending),
    Delay(Holding),
}

/// The state of a source.
struct Sending {
    source: Source,
    template: Arc<[u8]>,
    /// Messages still to be sent; `None`: no limit.
    left: Option<u32>,
    /// Its credit, in parts of a [`MESSAGE`].
    credit: u64,
    /// The tick at which the credit was computed.
    since: u32,
}

/// Delayed echoes, the oldest first, with the ticks in which they are due.
struct Holding {
    ticks: u32,
    held: VecDeque<(u32, Vec<u8>)>,
    /// Their memory.
    memory: usize,
}

/// The output that a source has queued.
pub(super) struct Fed {
    pub(super) bytes: usize,
    /// That was its last message.
    pub(super) is_last: bool,
}

impl Actors {
    /// Begins the behaviour of a connection. Returns whether there is memory for it, of which `room` is left.
    pub(super) fn insert<L: Lender>(
        &mut self,
        key: u32,
        behaviour: Behaviour,
        (now, tick_us): (u32, u32),
        room: usize,
        outputs: &mut Outputs<L>,
    ) -> bool {
        let actor = match behaviour {
            Behaviour::Source(source) => {
                let Some(template) = self.template(source.size, room, outputs) else { return false };
                let left = (source.count > 0).then_some(source.count);
                Actor::Source(Sending { source, template, left, credit: MESSAGE, since: now })
            }
            Behaviour::Delay { ms } => {
                // One tick more: the current one has begun already, and output must not be early.
                let ticks = (u64::from(ms) * 1000).div_ceil(tick_us.into()) as u32 + 1;
                Actor::Delay(Holding { ticks, held: VecDeque::new(), memory: 0 })
            }
            _ => return true,
        };
        self.by_key.insert(key, actor);
        true
    }

    /// The output of sources with messages of this size: as many whole messages as fit into a block, or a part of one.
    fn template<L: Lender>(&mut self, size: u32, room: usize, outputs: &mut Outputs<L>) -> Option<Arc<[u8]>> {
        if let Some(template) = self.templates.get(&size).and_then(Weak::upgrade) {
            return Some(template);
        }
        let template = make_template(size as usize);
        if template.len() > room {
            return None;
        }
        outputs.take_memory(template.len());
        self.templates.insert(size, Arc::downgrade(&template));
        Some(template)
    }

    /// Drops the state and delayed output of a connection that is gone.
    pub(super) fn remove<L: Lender>(&mut self, key: u32, outputs: &mut Outputs<L>) {
        match self.by_key.remove(&key) {
            Some(Actor::Delay(mut holding)) => holding.release(None, outputs, &mut |_, _| {}),
            Some(Actor::Source(Sending { source, template, .. })) if Arc::strong_count(&template) == 1 => {
                outputs.give_memory(template.len());
                self.templates.remove(&source.size);
            }
            _ => {}
        }
        if self.by_key.is_empty() {
            *self = Self::default(); // a peak's memory goes back when the peak is over
        }
    }

    pub(super) fn contains(&self, key: u32) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Whether a connection has delayed echoes.
    pub(super) fn holds(&self, key: u32) -> bool {
        matches!(self.by_key.get(&key), Some(Actor::Delay(holding)) if !holding.held.is_empty())
    }

    /// The memory of a connection's delayed echoes.
    pub(super) fn held(&self, key: u32) -> usize {
        match self.by_key.get(&key) {
            Some(Actor::Delay(holding)) => holding.memory,
            _ => 0,
        }
    }

    /// Delays output of a connection; that of a source only behind its pending output.
    pub(super) fn defer<L: Lender>(
        &mut self,
        key: u32,
        bytes: Vec<u8>,
        now: u32,
        outputs: &mut Outputs<L>,
        queue: &mut Queue,
    ) {
        match self.by_key.get_mut(&key) {
            Some(Actor::Delay(holding)) if !bytes.is_empty() => holding.hold(bytes, now, outputs),
            _ => outputs.push_owned(queue, bytes, false),
        }
    }

    /// Queues the output whose time has come; with `None` for `until`, all of it. Returns whether there was any.
    pub(super) fn release<L: Lender>(
        &mut self,
        key: u32,
        until: Option<u32>,
        outputs: &mut Outputs<L>,
        queue: &mut Queue,
    ) -> bool {
        let Some(Actor::Delay(holding)) = self.by_key.get_mut(&key) else { return false };
        let before = holding.held.len();
        holding.release(until, outputs, &mut |outputs, bytes| outputs.push_owned(queue, bytes, false));
        holding.held.len() < before
    }

    /// The tick in which a connection is to be served next; `None`: not before another event.
    pub(super) fn next_at(&self, key: u32, now: u32, tick_us: u32, has_output: bool) -> Option<u32> {
        match self.by_key.get(&key)? {
            Actor::Delay(holding) => holding.held.front().map(|(at, _)| *at),
            // Pending output comes first.
            Actor::Source(sending) => (!has_output).then(|| now.wrapping_add(sending.ticks_to_wait(now, tick_us))),
        }
    }

    /// Queues what a source with no pending output may send now. `None`: nothing.
    pub(super) fn feed<L: Lender>(
        &mut self,
        key: u32,
        (now, tick_us): (u32, u32),
        outputs: &mut Outputs<L>,
        queue: &mut Queue,
    ) -> Option<Fed> {
        let Some(Actor::Source(sending)) = self.by_key.get_mut(&key) else { return None };
        sending.feed(now, tick_us, outputs, queue)
    }
}

impl Sending {
    fn feed<L: Lender>(&mut self, now: u32, tick_us: u32, outputs: &mut Outputs<L>, queue: &mut Queue) -> Option<Fed> {
        self.earn(now, tick_us);
        let payload = self.source.size as usize;
        let frame = header(payload).len() + payload;
        let at_once = (self.template.len() / frame).max(1) as u64;
        let allowed = if self.source.rate == 0 { at_once } else { (self.credit / MESSAGE).min(at_once) };
        let messages = self.left.map_or(allowed, |left| allowed.min(left.into()));
        if messages == 0 {
            return None;
        }
        if frame <= BLOCK {
            let from = self.template.len() - frame * messages as usize;
            outputs.push_shared(queue, Arc::clone(&self.template), from);
        } else {
            outputs.push_owned(queue, header(payload), false);
            let part = payload % self.template.len();
            if part > 0 {
                outputs.push_shared(queue, Arc::clone(&self.template), self.template.len() - part);
            }
            for _ in 0..payload / self.template.len() {
                outputs.push_shared(queue, Arc::clone(&self.template), 0);
            }
        }
        self.credit = self.credit.saturating_sub(messages * MESSAGE);
        self.left = self.left.map(|left| left - messages as u32);
        Some(Fed { bytes: frame * messages as usize, is_last: self.left == Some(0) })
    }

    /// Updates its credit, by at most a second's worth: what a slow reader has missed is not made up for.
    fn earn(&mut self, now: u32, tick_us: u32) {
        let ticks = u64::from(now.wrapping_sub(self.since));
        self.since = now;
        let most = u64::from(self.source.rate).max(1) * MESSAGE;
        let earned = ticks.saturating_mul(u64::from(tick_us) * u64::from(self.source.rate));
        self.credit = self.credit.saturating_add(earned).min(most);
    }

    fn ticks_to_wait(&self, now: u32, tick_us: u32) -> u32 {
        let a_tick = u64::from(tick_us) * u64::from(self.source.rate);
        let passed = u64::from(now.wrapping_sub(self.since)) * a_tick;
        match self.source.rate {
            0 => 0,
            _ => MESSAGE.saturating_sub(self.credit.saturating_add(passed)).div_ceil(a_tick) as u32,
        }
    }
}

impl Holding {
    fn hold<L: Lender>(&mut self, bytes: Vec<u8>, now: u32, outputs: &mut Outputs<L>) {
        let at = now.wrapping_add(self.ticks);
        match self.held.back_mut() {
            Some((last, joined)) if *last == at && joined.len() < BLOCK => {
                let before = cost(joined);
                joined.extend_from_slice(&bytes);
                let more = cost(joined) - before;
                outputs.take_memory(more);
                self.memory += more;
            }
            _ => {
                outputs.take_memory(cost(&bytes));
                self.memory += cost(&bytes);
                self.held.push_back((at, bytes));
            }
        }
    }

    fn release<L: Lender>(
        &mut self,
        until: Option<u32>,
        outputs: &mut Outputs<L>,
        send: &mut dyn FnMut(&mut Outputs<L>, Vec<u8>),
    ) {
        while let Some((at, _)) = self.held.front() {
            if until.is_some_and(|until| is_before(until, *at)) {
                return;
            }
            let Some((_, bytes)) = self.held.pop_front() else { return };
            outputs.give_memory(cost(&bytes));
            self.memory -= cost(&bytes);
            send(outputs, bytes);
        }
        self.held = VecDeque::new();
    }
}

/// The memory of delayed bytes.
fn cost(bytes: &Vec<u8>) -> usize {
    bytes.capacity() + CHUNK_OVERHEAD
}

fn header(payload: usize) -> Vec<u8> {
    write_binary_header(payload as u64)
}

/// Filling of messages that hardly compresses in a proxy.
fn make_template(size: usize) -> Arc<[u8]> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    let header = header(size);
    let frame = header.len() + size;
    if frame > BLOCK {
        return (0..BLOCK).map(|_| noise()).collect();
    }
    let mut bytes = Vec::with_capacity(BLOCK);
    for _ in 0..BLOCK / frame {
        bytes.extend_from_slice(&header);
        bytes.extend((0..size).map(|_| noise()));
    }
    bytes.into()
}

#[cfg(test)]
mod tests;
