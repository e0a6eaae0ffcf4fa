//! Connections in TIME-WAIT (RFC 9293 section 3.6.1): those that this side closed first. Their slots are free; what is left
//! answers a FIN that comes again, because its acknowledgement was lost.

use std::collections::{HashMap, VecDeque};

/// How long they wait: as long as on Linux (`TCP_TIMEWAIT_LEN`), twice a maximum segment lifetime of 30 s.
const WAIT_NS: u64 = 60_000_000_000;

/// How many there are at most: the usual value of Linux's `tcp_max_tw_buckets`. The oldest go first. In place of one that is
/// gone a reset answers, which ends the server's LAST-ACK as well.
const MOST: usize = 1 << 18;

/// A connection in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// SND.NXT.
    pub(super) nxt: u32,
    /// RCV.NXT.
    pub(super) rcv_nxt: u32,
    /// The server's number.
    pub(super) server: u16,
}

/// All of a stack, by their flows.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    flows: HashMap<u32, (Waiting, u64)>,
    /// Flows in the order of their ends. A flow whose time began again is in it more than once.
    ends: VecDeque<(u32, u64)>,
}

impl WaitingRoom {
    pub(super) fn insert(&mut self, flow: u32, waiting: Waiting, now_ns: u64) {
        let end_ns = now_ns + WAIT_NS;
        self.flows.insert(flow, (waiting, end_ns));
        self.ends.push_back((flow, end_ns));
        while self.ends.len() > MOST {
            self.drop_oldest();
        }
    }

    pub(super) fn get(&self, flow: u32) -> Option<Waiting> {
        self.flows.get(&flow).map(|&(waiting, _)| waiting)
    }

    /// The flow is used again.
    pub(super) fn remove(&mut self, flow: u32) {
        self.flows.remove(&flow);
    }

    /// Lets go of those whose time is over.
    pub(super) fn advance(&mut self, now_ns: u64) {
        while self.ends.front().is_some_and(|&(_, end_ns)| end_ns <= now_ns) {
            self.drop_oldest();
        }
    }

    /// When [`WaitingRoom::advance`] has something to do.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.ends.front().map(|&(_, end_ns)| end_ns)
    }

    fn drop_oldest(&mut self) {
        let Some((flow, end_ns)) = self.ends.pop_front() else { return };
        if self.flows.get(&flow).is_some_and(|&(_, latest_ns)| latest_ns == end_ns) {
            self.flows.remove(&flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Waiting = Waiting { nxt: 1, rcv_nxt: 2, server: 3 };

    #[test]
    fn they_wait_for_their_time_and_longer_if_it_begins_again() {
        let mut room = WaitingRoom::default();
        room.insert(1, ANY, 0);
        room.insert(2, ANY, 0);
        room.insert(2, ANY, 5);
        room.advance(WAIT_NS - 1);
        assert_eq!((room.get(1), room.get(2)), (Some(ANY), Some(ANY)));
        room.advance(WAIT_NS);
        assert_eq!((room.get(1), room.get(2), room.next_ns()), (None, Some(ANY), Some(WAIT_NS + 5)));
        room.advance(WAIT_NS + 5);
        assert_eq!((room.get(2), room.next_ns()), (None, None));
    }

    #[test]
    fn there_is_a_bound_and_the_oldest_go_first() {
        let mut room = WaitingRoom::default();
        for flow in 0..=MOST as u32 {
            room.insert(flow, ANY, u64::from(flow));
        }
        assert_eq!((room.get(0), room.get(1), room.flows.len()), (None, Some(ANY), MOST));
    }
}
