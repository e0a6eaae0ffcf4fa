//! The transport without sockets: a TCP of our own ([`crate::stack`]) for all connections of a thread, over a TUN device.
//!
//! A turn does what is due, writes all packets, waits, and reads up to a batch of packets. The kernel takes one packet with each
//! system call; that which writes one carries it up to the server's socket, in this thread's time.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::layer::Layer;
use super::sends::{SendKey, Sends};
use super::{EngineError, Shared};
use crate::control::Phase;
use crate::driver::Want;
use crate::scenario::Part;
use crate::stack::{self, Ends, Events, Failure, Stack};
use crate::stats::{Cause, Tally};
use crate::tun::{Device, Network};

/// Packets that one turn reads at most, so that their answers do not wait for long.
const PACKETS_MAX: usize = 128;

/// The largest packet, with the header that a device with offloads has in front.
const PACKET: usize = stack::OFFLOAD_LEN + (1 << 16);

/// Memory of a thread for segments that come out of order: a TUN device keeps the order, so only losses make some.
const REASSEMBLY_BYTES: usize = 4 << 20;

/// How long a connection that was let go may take to close in order, before it is reset: some retransmissions. Its slot is in
/// use as long.
const CLOSING_NS: u64 = 3_000_000_000;

/// How long all that are still to be closed may take at the end of the run.
const STOP_NS: u64 = 1_000_000_000;

/// What this transport keeps beside a connection.
#[derive(Debug, Default)]
struct Slot {
    /// What is being sent: the stack has had no room for the rest.
    send: Option<SendKey>,
    life: Life,
}

const _: () = assert!(size_of::<Slot>() == 8, "the driver's connections have room for this");

/// What the driver knows of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    #[default]
    Opening,
    Open,
    /// It was let go, as the so many-th.
    LetGo(u16),
}

/// What is to be done when the stack has returned.
#[derive(Clone, Copy, Debug)]
enum Follow {
    /// There is room for the rest of what is being sent.
    Room(u32),
    /// The driver wants nothing more from there.
    Unwanted(u32),
}

/// One thread's stack and connections.
struct Worker<'a> {
    shared: &'a Shared,
    part: Part,
    device: &'a Device,
    stack: Stack,
    driving: Driving<'a>,
    sends: Sends,
    buffer: Box<[u8]>,
    /// Connections that have sent all they had, and may have more now.
    sent: Vec<u32>,
    /// Connections that were let go: by when they have to be closed, which, and as the how many-th.
    let_go: VecDeque<(u64, u32, u16)>,
    let_go_count: u16,
    now_ns: u64,
}

/// What the stack tells the driver.
struct Driving<'a> {
    layer: Layer<'a, Slot>,
    follow: Vec<Follow>,
    /// Connections that were let go and are not closed yet.
    closing: usize,
    now_ns: u64,
}

/// Runs one thread's part until the control says [`Phase::Stop`].
pub(super) fn run(shared: &Shared, network: &Network, part: Part) -> Result<Tally, EngineError> {
    let mut worker = Worker::new(shared, network, part)?;
    worker.run().map_err(EngineError::Tun)?;
    worker.stop().map_err(EngineError::Tun)
}

impl Driving<'_> {
    fn life(&mut self, key: u32) -> Life {
        self.layer.slot(key).map(|slot| slot.life).unwrap_or_default()
    }

    /// Has the stack receive no more of what the driver does not want.
    fn look_at(&mut self, key: u32) {
        if !self.layer.wants_input(key) {
            self.follow.push(Follow::Unwanted(key));
        }
    }

    /// A connection that was let go is closed. At the end of the run it may be one that the driver has not given up: that is
    /// left to the driver's own end.
    fn released(&mut self, key: u32) {
        self.closing -= 1;
        if self.layer.is_ending(key) {
            self.layer.released(key);
        }
    }
}

impl Events for Driving<'_> {
    fn connected(&mut self, key: u32) {
        if let Some(slot) = self.layer.slot(key) {
            slot.life = Life::Open;
        }
        self.layer.connected(key);
        self.look_at(key);
    }

    #[inline]
    fn received(&mut self, key: u32, bytes: &mut [u8]) {
        if self.layer.wants_input(key) {
            self.layer.received(key, bytes, self.now_ns);
        }
        self.look_at(key);
    }

    fn room(&mut self, key: u32) {
        self.follow.push(Follow::Room(key));
    }

    fn finished(&mut self, key: u32) {
        self.layer.ended(key, None);
    }

    fn closed(&mut self, key: u32) {
        debug_assert!(matches!(self.life(key), Life::LetGo(_)), "no other connection is closed from this side");
        self.released(key);
    }

    fn failed(&mut self, key: u32, failure: Failure) {
        let errno = errno_of(failure);
        match self.life(key) {
            Life::Opening => self.layer.connect_failed(key, Cause::of_error(errno)),
            Life::Open => self.layer.ended(key, Some(errno)),
            Life::LetGo(_) => self.released(key),
        }
    }
}

/// The error that a kernel's socket would have, but for some of those that routers tell of, which are one here: Linux has
/// `ENETUNREACH` for a network, and `EACCES` for what is forbidden over IPv6.
fn errno_of(failure: Failure) -> i32 {
    match failure {
        Failure::Refused => libc::ECONNREFUSED,
        Failure::Unreachable => libc::EHOSTUNREACH,
        Failure::Reset => libc::ECONNRESET,
        Failure::TimedOut => libc::ETIMEDOUT,
    }
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, network: &'a Network, part: Part) -> Result<Self, EngineError> {
        let lane = &network.lanes[part.thread];
        let mut secret = [0; 16];
        SystemRandom::new().fill(&mut secret).map_err(|_| EngineError::Tun(io::Error::other("no random numbers")))?;
        let (halves, _) = secret.as_chunks();
        let config = stack::Config {
            ends: Ends {
                first_v4: lane.first_v4,
                first_v6: lane.first_v6,
                hosts: lane.hosts,
                servers: shared.addresses.iter().filter_map(socket2::SockAddr::as_socket).collect(),
            },
            connections: part.connections,
            mtu: lane.device.mtu(),
            has_offloads: lane.device.has_offloads(),
            reassembly_bytes: REASSEMBLY_BYTES,
            secret: [u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1])],
        };
        let now_ns = shared.epoch.elapsed().as_nanos() as u64;
        let layer = Layer::new(shared, part, now_ns);
        Ok(Self {
            shared,
            part,
            device: &lane.device,
            stack: Stack::new(config).map_err(EngineError::Stack)?,
            driving: Driving { layer, follow: Vec::new(), closing: 0, now_ns },
            sends: Sends::of(shared),
            buffer: vec![0; PACKET].into(),
            sent: Vec::new(),
            let_go: VecDeque::new(),
            let_go_count: 0,
            now_ns,
        })
    }

    /// The loop: do what is due, write, wait, read.
    fn run(&mut self) -> io::Result<()> {
        // SAFETY: the control keeps the descriptor open as long as it lives, which is longer than this call.
        let bell = unsafe { BorrowedFd::borrow_raw(self.shared.control.bell(self.part.thread)) };
        let mut has_more = false;
        loop {
            let phase = self.shared.control.phase();
            if phase == Phase::Stop {
                return Ok(());
            }
            for key in std::mem::take(&mut self.sent) {
                self.driving.layer.sent(key);
            }
            self.read_clock();
            self.driving.layer.advance(self.now_ns, phase);
            self.act();
            self.advance();
            self.write()?;
            let layer = &self.driving.layer;
            self.shared.control.publish(self.part.thread, layer.phase(), &layer.tally().counts);
            let timeout = if has_more { Some(Duration::ZERO) } else { self.timeout() };
            if self.wait(timeout, Some(bell))? {
                // Only a thread that is not rung for would wait here.
                rustix::io::read(bell, &mut [0; 8])?;
            }
            has_more = self.read()?;
        }
    }

    /// Closes all connections that are left, in order if the server has it so.
    fn stop(mut self) -> io::Result<Tally> {
        for key in 0..self.part.connections {
            if self.driving.layer.slot(key).is_some() {
                self.close(key);
            }
        }
        let end_ns = self.clock_ns() + STOP_NS;
        while self.driving.closing > 0 && self.now_ns < end_ns {
            self.write()?;
            let next_ns = self.stack.next_ns().unwrap_or(end_ns).min(end_ns);
            self.wait(Some(Duration::from_nanos(next_ns.saturating_sub(self.clock_ns()))), None)?;
            self.read_clock();
            self.read()?;
            self.advance();
        }
        for key in 0..self.part.connections {
            self.stack.abort(key, self.now_ns);
        }
        self.write()?;
        let mut tally = self.driving.layer.stop();
        tally.segments = *self.stack.counters();
        self.shared.control.publish(self.part.thread, Phase::Stop, &tally.counts);
        Ok(tally)
    }

    fn clock_ns(&self) -> u64 {
        self.shared.epoch.elapsed().as_nanos() as u64
    }

    fn read_clock(&mut self) {
        self.now_ns = self.clock_ns();
        self.driving.now_ns = self.now_ns;
        self.driving.layer.set_now(self.now_ns);
    }

    fn timeout(&mut self) -> Option<Duration> {
        if self.driving.layer.is_held_up() || !self.sent.is_empty() {
            return Some(Duration::ZERO);
        }
        let (next_ns, _) = self.driving.layer.upcoming();
        let let_go_ns = self.let_go.front().map(|&(due_ns, ..)| due_ns);
        let due_ns = [next_ns, let_go_ns, self.stack.next_ns()].into_iter().flatten().min();
        due_ns.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(self.clock_ns())))
    }

    /// Waits for a packet, the bell or the time. Returns whether it was the bell.
    fn wait(&self, timeout: Option<Duration>, bell: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        let timeout = timeout
            .map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) });
        let device = PollFd::new(self.device, PollFlags::IN);
        let mut all = [device.clone(), bell.map_or(device, |bell| PollFd::from_borrowed_fd(bell, PollFlags::IN))];
        match poll(&mut all[..=usize::from(bell.is_some())], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(bell.is_some() && !all[1].revents().is_empty()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads packets, and does what follows from each. Returns whether there may be more.
    fn read(&mut self) -> io::Result<bool> {
        for _ in 0..PACKETS_MAX {
            let count = match rustix::io::read(self.device, &mut self.buffer[..]) {
                Ok(count) => count,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // Of each packet: one that comes while others are read would be dated before it came.
            self.read_clock();
            self.stack.input(&mut self.buffer[..count], self.now_ns, &mut self.driving);
            self.follow_up();
        }
        Ok(true)
    }

    /// Writes all packets. One that the kernel has no memory for is lost, as on any network.
    fn write(&mut self) -> io::Result<()> {
        self.stack.flush();
        for packet in self.stack.packets() {
            match rustix::io::write(self.device, packet) {
                Ok(_) | Err(Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.stack.clear_packets();
        Ok(())
    }

    /// Meets the stack's deadlines, and those of connections that are being closed.
    fn advance(&mut self) {
        self.stack.advance(self.now_ns, &mut self.driving);
        self.follow_up();
        while let Some(&(due_ns, key, count)) = self.let_go.front()
            && due_ns <= self.now_ns
        {
            self.let_go.pop_front();
            if self.driving.life(key) == Life::LetGo(count) {
                self.stack.abort(key, self.now_ns);
                self.driving.released(key);
            }
        }
        self.act();
    }

    /// Does what the stack's events ask for.
    fn follow_up(&mut self) {
        while let Some(follow) = self.driving.follow.pop() {
            match follow {
                Follow::Room(key) => self.go_on(key),
                Follow::Unwanted(key) => self.stack.pause(key, true, self.now_ns),
            }
        }
        self.act();
    }

    /// Does what the driver wants.
    fn act(&mut self) {
        while let Some(want) = self.driving.layer.next_want() {
            match want {
                Want::Send { key } => self.send(key),
                Want::Connect { key, address, .. } => self.stack.connect(key, address as u16, self.now_ns),
                Want::Release { key } => self.release(key),
            }
        }
    }

    /// Sends what the connection is to send, if the stack has taken all that came before.
    fn send(&mut self, key: u32) {
        let Some(slot) = self.driving.layer.slot(key) else { return };
        if slot.life != Life::Open || slot.send.is_some() {
            return;
        }
        let send = self.sends.take();
        self.driving.layer.fill(key, self.sends.get(send));
        if self.hand_over(key, send) {
            // In the next turn, so that a connection with much to send does not hold up the others.
            self.sent.push(key);
        }
    }

    /// Goes on with a send for whose rest there was no room.
    fn go_on(&mut self, key: u32) {
        if let Some(send) = self.driving.layer.slot(key).and_then(|slot| slot.send.take())
            && self.hand_over(key, send)
        {
            self.driving.layer.room(key);
            self.act();
        }
    }

    /// Gives the stack a send as far as it takes it. Returns whether it has taken something, and all.
    fn hand_over(&mut self, key: u32, send: SendKey) -> bool {
        let buffer = self.sends.get(send);
        let is_nothing = buffer.is_empty();
        while !buffer.is_empty() {
            let (parts, count) = buffer.parts(&self.shared.messages);
            let offered: usize = parts[..count].iter().map(|part| part.len()).sum();
            let taken = self.stack.send(key, &parts[..count], self.now_ns);
            buffer.advance(taken, &self.shared.messages);
            if taken < offered {
                if let Some(slot) = self.driving.layer.slot(key) {
                    slot.send = Some(send);
                }
                return false;
            }
        }
        self.sends.give_back(send);
        !is_nothing
    }

    /// Lets go of a connection, with its last words if there is room for them.
    fn release(&mut self, key: u32) {
        let Some(slot) = self.driving.layer.slot(key) else { return };
        let (is_cut, life) = (slot.send.is_some(), slot.life);
        if !is_cut && life == Life::Open && self.driving.layer.has_last_words(key) {
            self.send(key);
        }
        self.close(key);
    }

    /// Closes a connection from this side. It is released when the other one has closed it, too.
    fn close(&mut self, key: u32) {
        let Some(slot) = self.driving.layer.slot(key) else { return };
        if let Some(send) = slot.send.take() {
            self.sends.give_back(send);
        }
        if matches!(slot.life, Life::LetGo(_)) {
            return;
        }
        self.let_go_count = self.let_go_count.wrapping_add(1);
        slot.life = Life::LetGo(self.let_go_count);
        self.driving.closing += 1;
        if self.stack.close(key, self.now_ns) {
            self.driving.released(key);
        } else {
            self.let_go.push_back((self.now_ns + CLOSING_NS, key, self.let_go_count));
        }
    }
}
