//! The acceptor: one ring that accepts for all workers and moves each socket into the least loaded worker's ring.
//!
//! One listening socket instead of one per worker (`SO_REUSEPORT`): the kernel spreads those by hash, so that some
//! workers would be full while others have room, and what waits at a full worker's socket would wait in vain.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::DestinationSlot;
use io_uring::{cqueue, opcode, squeue, types};

use crate::engine::balance::Balance;
use crate::engine::notice::Notices;
use crate::sys;
use crate::worker::Control;

use super::ring::{Ring, RingOptions, Wait};
use super::token::{Kind, Token};

/// Sockets for each worker that may be on their way. Where thousands come at once, the acceptor and the workers of its
/// processor take turns by this: more are accepted when a worker has taken some.
const TRANSIT_PER_WORKER: usize = 16;
/// Accepts that wait at a listener, at most.
const ACCEPTS_MAX: usize = 16;
/// How often a full server looks whether it has room again.
const RETRY: Duration = Duration::from_millis(10);

/// Accepts on `listeners` and moves the sockets to the workers' `rings` until `control` says stop. `started` learns
/// whether there is a ring for it.
pub(super) fn run(
    listeners: Vec<TcpListener>,
    rings: Vec<RawFd>,
    balance: Balance,
    control: &Control,
    started: &dyn Fn(io::Result<()>),
) -> io::Result<()> {
    let mut acceptor = match Acceptor::new(listeners, rings, balance, control) {
        Ok(acceptor) => {
            started(Ok(()));
            acceptor
        }
        Err(e) => {
            started(Err(e));
            return Ok(());
        }
    };
    while acceptor.turn()? {}
    Ok(())
}

/// What an operation of this ring is about, in the upper half of its user data; the lower half is the number of the
/// listener or of the slot.
mod about {
    pub(super) const ACCEPT: u64 = 1 << 32;
    pub(super) const MOVE: u64 = 2 << 32;
    pub(super) const CLOSE: u64 = 3 << 32;
    pub(super) const BELL: u64 = 4 << 32;
    pub(super) const NUMBER: u64 = u32::MAX as u64;
}

struct Listener {
    socket: TcpListener,
    /// Those that are under way.
    accepts: usize,
}

struct Acceptor<'a> {
    ring: Ring,
    listeners: Vec<Listener>,
    /// The workers' rings.
    rings: Vec<RawFd>,
    balance: Balance,
    /// The worker of the socket that is on its way from each slot.
    target_of: Vec<u32>,
    /// Sockets in this ring's slots.
    in_transit: usize,
    /// Those that are not on their way: no worker had room.
    waiting: VecDeque<u32>,
    control: &'a Control,
    bell_count: Box<u64>,
    /// The accept has failed for want of descriptors or memory: wait a moment.
    is_short: bool,
    notices: Notices,
}

impl<'a> Acceptor<'a> {
    fn new(listeners: Vec<TcpListener>, rings: Vec<RawFd>, balance: Balance, control: &'a Control) -> io::Result<Self> {
        // Each listener has a share of the slots.
        let slots = (TRANSIT_PER_WORKER * rings.len()).max(2 * listeners.len());
        let slots = sys::descriptor_limit().min(slots as u64) as u32;
        let ring = Ring::new(&RingOptions { entries: 512, cq_entries: 2048, direct_descriptors: slots })?;
        let mut acceptor = Self {
            ring,
            listeners: listeners.into_iter().map(|socket| Listener { socket, accepts: 0 }).collect(),
            rings,
            balance,
            target_of: vec![0; slots as usize],
            in_transit: 0,
            waiting: VecDeque::new(),
            control,
            bell_count: Box::new(0),
            is_short: false,
            notices: Notices::default(),
        };
        acceptor.listen_to_bell();
        Ok(acceptor)
    }

    /// One turn. Returns whether there is a next one.
    fn turn(&mut self) -> io::Result<bool> {
        if self.waiting.is_empty() && !self.is_short {
            self.submit_accepts();
        }
        // Nothing but time brings room at the workers.
        let has_none = self.listeners.iter().any(|listener| listener.accepts == 0);
        let must_retry = self.is_short || !self.waiting.is_empty() || has_none;
        let timeout = must_retry.then_some(RETRY);
        self.ring.submit_and_wait(Wait { want: 1, min_wait_us: 0, timeout })?;
        self.is_short = false;
        let completions: Vec<cqueue::Entry> = self.ring.completions().collect();
        for completion in completions {
            let number = (completion.user_data() & about::NUMBER) as u32;
            match completion.user_data() & !about::NUMBER {
                about::ACCEPT => self.accepted(number, completion.result()),
                about::MOVE => self.move_failed(number, completion.result()),
                // A close fails only as a link behind a move that has failed.
                about::CLOSE if completion.result() >= 0 => self.in_transit -= 1,
                _ => {}
            }
        }
        self.place_waiting();
        self.notices.room(self.balance.room());
        Ok(!self.control.is_stopping())
    }

    /// Has accepts wait at each listener, as many as there is room for, on the way and at the workers; at least one while
    /// there is room at all. Whoever comes beyond that waits in the kernel's queue, and can be served when somebody leaves.
    fn submit_accepts(&mut self) {
        let under_way: usize = self.listeners.iter().map(|listener| listener.accepts).sum();
        let mut free_slots = self.target_of.len() - self.in_transit - under_way;
        let room = usize::try_from(self.balance.room()).unwrap_or(usize::MAX);
        let share_of = |all: usize| (all / self.listeners.len()).max(1);
        let most = share_of(self.target_of.len()).min(share_of(room)).min(ACCEPTS_MAX).min(room);
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            let count = most.saturating_sub(listener.accepts).min(free_slots);
            free_slots -= count;
            listener.accepts += count;
            let descriptor = types::Fd(listener.socket.as_raw_fd());
            let accept = opcode::Accept::new(descriptor, std::ptr::null_mut(), std::ptr::null_mut())
                .file_index(Some(DestinationSlot::auto_target()))
                .build()
                .user_data(about::ACCEPT | number as u64);
            for _ in 0..count {
                // SAFETY: names no memory.
                unsafe { self.ring.push(&accept) };
            }
        }
    }

    fn accepted(&mut self, listener: u32, result: i32) {
        self.listeners[listener as usize].accepts -= 1;
        match u32::try_from(result) {
            Ok(slot) => {
                self.in_transit += 1;
                self.waiting.push_back(slot);
                self.notices.accepted();
            }
            // The peer was gone before it was accepted: nothing to do.
            Err(_) if [libc::ECONNABORTED, libc::EINTR, libc::EAGAIN].contains(&-result) => {}
            // ENFILE, EMFILE: the system is out of files; ENOBUFS, ENOMEM: out of memory.
            Err(_) => {
                self.is_short = true;
                self.notices.failed(io::Error::from_raw_os_error(-result));
            }
        }
    }

    /// The worker could not take it (its table is full while a close is under way, or memory is short): try again.
    fn move_failed(&mut self, slot: u32, result: i32) {
        debug_assert!(result < 0, "a successful move is silent");
        self.balance.take_back(self.target_of[slot as usize] as usize);
        self.waiting.push_back(slot);
        self.is_short = true;
    }

    fn place_waiting(&mut self) {
        while let Some(&slot) = self.waiting.front() {
            let Some(worker) = self.balance.assign() else { return };
            self.waiting.pop_front();
            self.target_of[slot as usize] = worker as u32;
            self.hand_over(slot, worker);
        }
    }

    /// Sends the socket to the worker's ring; when it is there, gives up this ring's slot.
    fn hand_over(&mut self, slot: u32, worker: usize) {
        let arrival = Token::of_worker(Kind::Accepted).encode();
        let ring = types::Fd(self.rings[worker]);
        let send = opcode::MsgRingSendFd::new(ring, types::Fixed(slot), DestinationSlot::auto_target(), arrival)
            .build()
            .flags(squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS)
            .user_data(about::MOVE | u64::from(slot));
        let close = opcode::Close::new(types::Fixed(slot)).build().user_data(about::CLOSE | u64::from(slot));
        // SAFETY: neither names memory. Linked, so that the slot is not closed before the socket is in the other ring.
        unsafe { self.ring.push_linked(&[send, close]) };
    }

    fn listen_to_bell(&mut self) {
        let count: *mut u64 = &raw mut *self.bell_count;
        let read = opcode::Read::new(types::Fd(self.control.bell().as_raw_fd()), count.cast(), 8)
            .build()
            .user_data(about::BELL);
        // SAFETY: the box lives as long as the acceptor and goes after the ring.
        unsafe { self.ring.push(&read) };
    }
}
