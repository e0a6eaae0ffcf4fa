//! The epoll transport, for machines that forbid `io_uring`, as the default profiles of containers do: non-blocking sockets,
//! and a system call for each receive and send. All descriptors are in the process's one table.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use socket2::{Domain, SockAddr, Socket, Type};

use super::Shared;
use super::layer::Layer;
use super::sends::{Offer, SendKey, Sends};
use crate::control::Phase;
use crate::driver::Want;
use crate::scenario::Part;
use crate::stats::{Cause, Tally};

/// The epoll key of the control's bell; connections have their own.
const BELL: u64 = u64::MAX;

/// Events that one turn takes.
const EVENTS: usize = 256;

/// Receive buffer of a thread.
const BUFFER: usize = 64 << 10;

/// Receives from one connection in a turn at most, so that it does not hold up the others.
const RECEIVES_MAX: u32 = 4;

/// The state of a connection that belongs to this transport.
#[derive(Debug, Default)]
struct Slot {
    /// The send in progress: the socket has had no room for the rest.
    send: Option<SendKey>,
    /// The socket, or 0 as long as there is none: descriptor 0 is never a connection's.
    socket: RawFd,
}

const _: () = assert!(size_of::<Slot>() == 8, "the driver's connections have room for this");

/// One thread's epoll set and connections.
struct Worker<'a> {
    shared: &'a Shared,
    part: Part,
    epoll: OwnedFd,
    layer: Layer<'a, Slot>,
    sends: Sends,
    /// By the connections' keys: whether `connect` goes on.
    is_connecting: Vec<bool>,
    sources: Vec<SocketAddr>,
    buffer: Box<[u8]>,
    /// Connections from which there may be more to receive.
    unread: Vec<u32>,
    /// Connections that have sent all they had, and may have more now.
    sent: Vec<u32>,
    now_ns: u64,
}

/// Runs one thread's part until the control says [`Phase::Stop`].
pub(super) fn run(shared: &Shared, part: Part) -> io::Result<Tally> {
    let mut worker = Worker::new(shared, part)?;
    worker.run()?;
    Ok(worker.stop())
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, part: Part) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // SAFETY: the control keeps the descriptor open as long as it lives, which is longer than this call.
        let bell = unsafe { BorrowedFd::borrow_raw(shared.control.bell(part.thread)) };
        epoll::add(&epoll, bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        let now_ns = shared.epoch.elapsed().as_nanos() as u64;
        Ok(Self {
            shared,
            part,
            epoll,
            layer: Layer::new(shared, part, now_ns),
            sends: Sends::of(shared),
            is_connecting: vec![false; part.connections as usize],
            sources: shared.sources.of_connections(part.first, part.connections),
            buffer: vec![0; BUFFER].into(),
            unread: Vec::new(),
            sent: Vec::new(),
            now_ns,
        })
    }

    /// The loop: do what is due, wait, act on everything that is ready.
    fn run(&mut self) -> io::Result<()> {
        let empty = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(BELL) };
        let mut events = [empty; EVENTS];
        loop {
            let phase = self.shared.control.phase();
            if phase == Phase::Stop {
                return Ok(());
            }
            for key in std::mem::take(&mut self.sent) {
                self.layer.sent(key);
            }
            let now_ns = self.clock_ns();
            self.layer.advance(now_ns, phase);
            self.act();
            for key in std::mem::take(&mut self.unread) {
                self.receive(key);
            }
            self.shared.control.publish(self.part.thread, self.layer.phase(), &self.layer.tally().counts);
            let timeout = self.timeout().map(|timeout| Timespec {
                tv_sec: timeout.as_secs() as i64,
                tv_nsec: i64::from(timeout.subsec_nanos()),
            });
            let count = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => 0,
                result => result?,
            };
            self.now_ns = self.clock_ns();
            self.layer.set_now(self.now_ns);
            for event in &events[..count] {
                let key = event.data.u64();
                if key != BELL {
                    self.on_ready(key as u32, event.flags);
                }
            }
        }
    }

    fn stop(mut self) -> Tally {
        for key in 0..self.is_connecting.len() as u32 {
            self.close(key);
        }
        let tally = self.layer.stop();
        self.shared.control.publish(self.part.thread, Phase::Stop, &tally.counts);
        tally
    }

    fn clock_ns(&self) -> u64 {
        self.shared.epoch.elapsed().as_nanos() as u64
    }

    fn timeout(&mut self) -> Option<Duration> {
        if self.layer.is_held_up() || !self.unread.is_empty() || !self.sent.is_empty() {
            return Some(Duration::ZERO);
        }
        let (next_ns, _) = self.layer.upcoming();
        next_ns.map(|next_ns| Duration::from_nanos(next_ns.saturating_sub(self.clock_ns())))
    }

    /// Does what the driver wants.
    fn act(&mut self) {
        while let Some(want) = self.layer.next_want() {
            match want {
                Want::Send { key } => self.send(key),
                Want::Connect { key, number, address } => self.connect(key, number, address),
                Want::Release { key } => self.release(key),
            }
        }
    }

    fn connect(&mut self, key: u32, number: u32, address: usize) {
        if let Err(error) = self.try_to_connect(key, number, address) {
            self.layer.connect_failed(key, Cause::of_error(error.raw_os_error().unwrap_or(libc::EIO)));
        }
    }

    fn try_to_connect(&mut self, key: u32, number: u32, address: usize) -> io::Result<()> {
        let target = &self.shared.addresses[address];
        let per_address = self.shared.sources.per_address();
        let source = number / per_address - self.part.first / per_address;
        let source = self.sources.get(source as usize).map(|&source| SockAddr::from(source));
        let socket = connect(target, source.as_ref())?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(u64::from(key)), flags)?;
        self.is_connecting[key as usize] = true;
        if let Some(slot) = self.layer.slot(key) {
            slot.socket = OwnedFd::from(socket).into_raw_fd();
        }
        Ok(())
    }

    /// The socket has something to receive, or takes more, or has failed.
    fn on_ready(&mut self, key: u32, flags: epoll::EventFlags) {
        if self.is_connecting[key as usize] {
            let Some(socket) = self.socket(key) else { return };
            let socket = socket2::SockRef::from(&socket);
            match socket.take_error() {
                Ok(None) if socket.peer_addr().is_ok() => {
                    self.is_connecting[key as usize] = false;
                    self.layer.connected(key);
                    self.act();
                }
                Ok(None) => return,
                Ok(Some(error)) | Err(error) => {
                    self.close(key);
                    let cause = Cause::of_error(error.raw_os_error().unwrap_or(libc::EIO));
                    self.layer.connect_failed(key, cause);
                    return self.act();
                }
            }
        }
        if flags.contains(epoll::EventFlags::OUT)
            && let Some(send) = self.layer.slot(key).and_then(|slot| slot.send)
        {
            self.go_on(key, send);
        }
        if flags.intersects(!epoll::EventFlags::OUT) {
            self.receive(key);
        }
    }

    /// Receives until there is nothing more, or enough for a turn.
    fn receive(&mut self, key: u32) {
        for _ in 0..RECEIVES_MAX {
            if !self.layer.wants_input(key) {
                return;
            }
            let Some(socket) = self.socket(key) else { return };
            let count = match rustix::net::recv(socket, &mut self.buffer[..], rustix::net::RecvFlags::DONTWAIT) {
                Ok((count, _)) => count,
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    self.layer.ended(key, Some(error.raw_os_error()));
                    return self.act();
                }
            };
            if count == 0 {
                self.layer.ended(key, None);
                return self.act();
            }
            self.layer.received(key, &mut self.buffer[..count], self.now_ns);
            self.act();
        }
        self.unread.push(key);
    }

    /// Sends what the connection is to send, if the socket has taken all that came before.
    fn send(&mut self, key: u32) {
        if self.layer.slot(key).is_none_or(|slot| slot.send.is_some() || slot.socket == 0) {
            return;
        }
        let send = self.sends.take();
        self.layer.fill(key, self.sends.get(send));
        self.go_on(key, send);
    }

    /// Goes on with a send as far as the socket takes it.
    fn go_on(&mut self, key: u32, send: SendKey) {
        let Some(slot) = self.layer.slot(key) else { return };
        let (socket, has_waited) = (slot.socket, slot.send.is_some());
        slot.send = Some(send);
        let buffer = self.sends.get(send);
        if !has_waited && buffer.is_empty() {
            slot.send = None;
            return self.sends.give_back(send);
        }
        while !buffer.is_empty() {
            match hand_over(socket, &buffer.offer(&self.shared.messages)) {
                Ok(count) => buffer.advance(count, &self.shared.messages),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    slot.send = None;
                    self.sends.give_back(send);
                    self.layer.ended(key, Some(error.raw_os_error().unwrap_or(libc::EIO)));
                    return self.act();
                }
            }
        }
        slot.send = None;
        self.sends.give_back(send);
        if has_waited {
            self.layer.room(key);
            self.act();
        } else {
            // In the next turn, so that a connection with much to send does not hold up the others.
            self.sent.push(key);
        }
    }

    /// Lets go of a connection, with its last words if the socket takes them.
    fn release(&mut self, key: u32) {
        let is_cut = self.layer.slot(key).is_none_or(|slot| slot.send.is_some());
        if !is_cut && !self.is_connecting[key as usize] && self.layer.has_last_words(key) {
            self.send(key);
        }
        self.close(key);
        self.layer.released(key);
    }

    /// Closes the socket, which takes it out of the epoll set.
    fn close(&mut self, key: u32) {
        self.is_connecting[key as usize] = false;
        let Some(slot) = self.layer.slot(key) else { return };
        if let Some(send) = slot.send.take() {
            self.sends.give_back(send);
        }
        let socket = std::mem::take(&mut slot.socket);
        if socket != 0 {
            // SAFETY: the slot owned it since it was connected, and has just given it up.
            drop(unsafe { OwnedFd::from_raw_fd(socket) });
        }
    }

    fn socket(&mut self, key: u32) -> Option<BorrowedFd<'static>> {
        let socket = self.layer.slot(key).map(|slot| slot.socket).filter(|&socket| socket != 0)?;
        // SAFETY: the slot owns the socket until `close`; no caller keeps this for longer than one system call.
        Some(unsafe { BorrowedFd::borrow_raw(socket) })
    }
}

/// A socket that is being connected.
fn connect(target: &SockAddr, source: Option<&SockAddr>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(i32::from(target.family())), Type::STREAM.nonblocking().cloexec(), None)?;
    if !target.is_unix() {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(source) = source.filter(|source| source.family() == target.family()) {
        // The port is chosen at `connect`, when the four-tuple is known: otherwise a port in use towards any target would
        // count as taken.
        choose_port_late(&socket)?;
        socket.bind(source)?;
    }
    match socket.connect(target) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Sets `IP_BIND_ADDRESS_NO_PORT`.
fn choose_port_late(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (value, len) = ((&raw const on).cast(), size_of_val(&on) as u32);
    // SAFETY: the kernel reads one integer.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, value, len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Offers bytes to the kernel without waiting. Returns how many it took.
fn hand_over(socket: RawFd, offer: &Offer<'_>) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let sent = match offer {
        // SAFETY: the bytes are borrowed for the call.
        Offer::Bytes(bytes) => unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) },
        // SAFETY: the header names memory of the send buffer and of the messages' tables, which both outlive the call.
        Offer::Parts(header) => unsafe { libc::sendmsg(socket, *header, flags) },
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
