//! A worker's receive buffers: a connection has one from a receive to the end of its send, and none while it is idle.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// A limited number of buffers of one size. A task that finds none waits for one, first come, first served.
pub(super) struct Pool {
    size: usize,
    state: RefCell<State>,
}

struct State {
    free: Vec<Vec<u8>>,
    /// The number that may still be allocated.
    unmade: usize,
    waiting: VecDeque<Waker>,
    /// The ticket of the next task to wait. Tickets are given in the order of `waiting`.
    next_ticket: u64,
    /// Free buffers that belong to tasks that have been woken and have not run yet.
    reserved: usize,
}

impl Pool {
    pub(super) fn new(count: usize, size: usize) -> Self {
        let state = State { free: Vec::new(), unmade: count, waiting: VecDeque::new(), next_ticket: 0, reserved: 0 };
        Self { size, state: RefCell::new(state) }
    }

    /// Bytes in each buffer.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The most recently used buffer, which is still in cache. A task that must wait gets a ticket, and returns with it when
    /// woken.
    pub(super) fn poll_take(&self, ticket: &mut Option<u64>, cx: &Context) -> Poll<Vec<u8>> {
        let state = &mut *self.state.borrow_mut();
        match *ticket {
            None if state.waiting.is_empty() && state.free.len() > state.reserved => {}
            None if state.waiting.is_empty() && state.unmade > 0 => {
                state.unmade -= 1;
                return Poll::Ready(vec![0; self.size]);
            }
            None => {
                *ticket = Some(state.next_ticket);
                state.next_ticket += 1;
                state.waiting.push_back(cx.waker().clone());
                return Poll::Pending;
            }
            // Woken by another event.
            Some(ticket) if ticket >= state.next_ticket - state.waiting.len() as u64 => return Poll::Pending,
            Some(_) => state.reserved -= 1,
        }
        Poll::Ready(state.free.pop().expect("reserved, or seen to be there"))
    }

    /// Gives a buffer back.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        debug_assert_eq!(buffer.len(), self.size, "not from this pool");
        let state = &mut *self.state.borrow_mut();
        state.free.push(buffer);
        if let Some(waker) = state.waiting.pop_front() {
            state.reserved += 1;
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready<T>(poll: Poll<T>) -> Option<T> {
        match poll {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn first_come_first_served_and_nobody_barges_in() {
        let pool = Pool::new(1, 8);
        let cx = Context::from_waker(Waker::noop());
        let take = |ticket: &mut Option<u64>| ready(pool.poll_take(ticket, &cx));

        let only = take(&mut None).expect("the first buffer");
        let (mut first, mut second) = (None, None);
        assert!(take(&mut first).is_none() && take(&mut second).is_none());
        pool.give_back(only);
        assert!(take(&mut None).is_none(), "a newcomer takes what is another's");
        assert!(take(&mut second).is_none(), "the second takes what is the first's");
        let only = take(&mut first).expect("the first is served");
        assert!(take(&mut second).is_none());
        pool.give_back(only);
        assert_eq!(take(&mut second).expect("the second is served").len(), 8);
    }
}
