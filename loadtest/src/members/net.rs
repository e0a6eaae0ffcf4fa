//! The sockets between members and conductor. One thread on either side waits for all its sockets and passes messages
//! to [`Conductor`] or [`Member`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::conductor::{Action, Conductor, PeerId};
use super::member::Member;
use super::message::{Decoder, FromConductor, FromMember, MEMBER_LIMIT, encode};
use crate::interrupt::Interrupt;

/// Interval at which both threads check deadlines and signals.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Limit of bytes read from one connection per turn: other connections, and their clock measurements, wait meanwhile.
const READ_AT_ONCE: usize = 256 << 10;

/// Limit of pending output for a slow reader.
const MAX_PENDING: usize = MEMBER_LIMIT;

/// Time that an ended conductor waits for its members to read the end and close their connections.
const PARTING: Duration = Duration::from_secs(5);

/// After the end, time to wait for hellos that are on their way.
const HELLO: Duration = Duration::from_secs(1);

/// Time from the last message to a peer until its connection is dropped.
const LINGER: Duration = Duration::from_secs(2);

/// The time by this process's clock, in nanoseconds.
#[must_use]
pub fn now_ns() -> u64 {
    base().elapsed().as_nanos() as u64
}

/// The instant of a time of this clock.
#[must_use]
pub fn instant_of(ns: u64) -> Instant {
    base() + Duration::from_nanos(ns)
}

/// The time of this clock at an instant.
#[must_use]
pub fn ns_of(instant: Instant) -> u64 {
    instant.saturating_duration_since(base()).as_nanos() as u64
}

/// The clock's epoch: it differs between processes, so a missing offset correction shows at once.
fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(Instant::now)
}

/// A value that the main thread shares with a thread that waits for sockets. Each can wake the other.
#[derive(Debug)]
pub struct Shared<T> {
    value: Mutex<T>,
    changed: Condvar,
    bell: OwnedFd,
}

impl<T> Shared<T> {
    /// Shares `value`.
    pub fn new(value: T) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { value: Mutex::new(value), changed: Condvar::new(), bell })
    }

    /// Locks the value.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value and wakes the thread with the sockets.
    pub fn tell<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        // This fails only if the eventfd's counter would overflow: then the thread is woken anyway.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        result
    }

    /// Waits until `look` returns a value, at most for `time`.
    pub fn wait<R>(&self, time: Duration, mut look: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let until = Instant::now() + time;
        let mut value = self.lock();
        loop {
            if let Some(found) = look(&mut value) {
                return Some(found);
            }
            let left = until.checked_duration_since(Instant::now())?;
            value = self.changed.wait_timeout(value, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn quiet(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }
}

/// A connection with its buffers.
struct Channel {
    stream: File,
    decoder: Decoder,
    pending: Vec<u8>,
    /// Since when the connection is closing: no more messages are queued.
    closing: Option<Instant>,
}

impl Channel {
    fn new(stream: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&stream, true)?;
        Ok(Self { stream: stream.into(), decoder: Decoder::default(), pending: Vec::new(), closing: None })
    }

    /// Passes received messages to `take`. An error is the reason why the connection has ended.
    fn receive<M: DeserializeOwned>(&mut self, mut take: impl FnMut(M)) -> Result<(), String> {
        let mut bytes = [0; 16 << 10];
        let mut all = 0;
        while all < READ_AT_ONCE {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ENDED.to_owned()),
                Ok(count) => {
                    all += count;
                    self.decoder.push(&bytes[..count]);
                    while let Some(message) = self.decoder.next_message().map_err(|error| error.to_string())? {
                        take(message);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ended(&error)),
            }
        }
        Ok(())
    }

    fn queue(&mut self, message: &impl Serialize) {
        encode(message, &mut self.pending);
    }

    fn flush(&mut self) -> Result<(), String> {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ended(&error)),
            }
        }
        if self.pending.len() > MAX_PENDING { Err("it does not read".to_owned()) } else { Ok(()) }
    }

    /// Stops sending. The peer is to close first: closing with unread input would send a reset, which may destroy the
    /// last messages on their way.
    fn close(&mut self) {
        self.closing.get_or_insert_with(Instant::now);
    }

    /// Whether the connection may be dropped.
    fn is_over(&mut self) -> bool {
        let Some(since) = self.closing else { return false };
        if self.pending.is_empty() {
            let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
        }
        since.elapsed() > LINGER
    }

    fn poll(&self) -> PollFd<'_> {
        let room = if self.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        PollFd::new(&self.stream, PollFlags::IN | room)
    }
}

const ENDED: &str = "its connection ended";

/// The reason for the end of a connection. A killed process may cause a reset or an EOF, depending on whether it had
/// unread input.
fn ended(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => ENDED.to_owned(),
        _ => error.to_string(),
    }
}

/// Waits for an event on any of these, or for a tick.
fn wait(fds: &mut [PollFd]) {
    // An interrupted wait is just a shorter one.
    let _ = poll(fds, Some(&TICK));
}

fn descriptor<'a>(fd: &'a impl AsFd) -> PollFd<'a> {
    let fd: BorrowedFd<'a> = fd.as_fd();
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}

/// Sets up the TCP connection. Small messages must not wait for each other's ACKs (Nagle).
fn quick(stream: TcpStream) -> io::Result<OwnedFd> {
    stream.set_nodelay(true)?;
    Ok(stream.into())
}

/// The conductor's thread: returns once the meeting has ended and all members have been told.
pub fn conduct(conductor: &Shared<Conductor>, listener: &TcpListener, own: OwnedFd) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut channels: BTreeMap<PeerId, Channel> = BTreeMap::new();
    let mut next_peer = 0;
    let mut ended: Option<Instant> = None;
    let mut own = Some(own);
    let mut may_accept = true;
    while ended.is_none_or(|since| !channels.is_empty() && since.elapsed() < PARTING) {
        let mut fds = vec![descriptor(&conductor.bell)];
        fds.extend(may_accept.then(|| descriptor(listener)));
        fds.extend(channels.values().map(Channel::poll));
        wait(&mut fds);
        conductor.quiet();
        let mut all = conductor.lock();
        let mut add = |address: String, stream: io::Result<OwnedFd>, all: &mut Conductor| {
            // A connection that is already broken needs no answer.
            if let Ok(channel) = stream.and_then(Channel::new) {
                channels.insert(next_peer, channel);
                all.connected(next_peer, address, now_ns());
                next_peer += 1;
            }
        };
        if let Some(own) = own.take() {
            add("itself".to_owned(), Ok(own), &mut all);
        }
        may_accept = loop {
            match listener.accept() {
                Ok((stream, address)) => add(address.to_string(), quick(stream), &mut all),
                // Without a free descriptor the connection stays in the backlog, and accepting pauses for a tick.
                Err(error) => break error.kind() == ErrorKind::WouldBlock,
            }
        };
        channels.retain(|&peer, channel| {
            let received = channel.receive(|message: FromMember| all.received(peer, message, now_ns()));
            // A delayed pong would make the clock measurement worse.
            answer(&mut all, peer, channel);
            received.map_err(|why| all.gone(peer, &why, now_ns())).is_ok()
        });
        all.tick(now_ns());
        while let Some(action) = all.next_action() {
            match action {
                Action::Send(peer, message) => _ = channels.get_mut(&peer).map(|it| it.queue(&message)),
                Action::Trust(peer) => _ = channels.get_mut(&peer).map(|it| it.decoder.limit = MEMBER_LIMIT),
                Action::Close(peer) => _ = channels.get_mut(&peer).map(Channel::close),
            }
        }
        channels.retain(|&peer, channel| {
            let flushed = channel.flush().map_err(|why| all.gone(peer, &why, now_ns()));
            flushed.is_ok() && !channel.is_over()
        });
        if all.end().is_some() {
            let since = *ended.get_or_insert_with(Instant::now);
            // A hello that is on its way is answered with the reason; a connection without one is dropped.
            let is_late = since.elapsed() > HELLO;
            channels.retain(|&peer, channel| !is_late || all.is_member(peer) || channel.closing.is_some());
        }
        drop(all);
        conductor.changed.notify_all();
    }
    Ok(())
}

/// Sends the answer to this peer's ping at once.
fn answer(all: &mut Conductor, peer: PeerId, channel: &mut Channel) {
    while let Some(message) = all.next_answer(peer) {
        channel.queue(&message);
    }
    let _ = channel.flush();
}

/// A member's thread: returns when the connection or the meeting has ended.
pub fn take_part(member: &Shared<Member>, stream: OwnedFd, interrupt: &Interrupt) -> io::Result<()> {
    let mut channel = Channel::new(stream)?;
    channel.decoder.limit = MEMBER_LIMIT;
    let mut is_signal_told = false;
    loop {
        wait(&mut [descriptor(&member.bell), channel.poll()]);
        member.quiet();
        let mut it = member.lock();
        let received = channel.receive(|message: FromConductor| it.received(message, now_ns()));
        // The last messages may have arrived together with the EOF.
        if let Err(why) = received {
            it.gone(&why);
        }
        it.tick(now_ns());
        if let Some(signal) = interrupt.signal().filter(|_| it.meeting().is_some() && !is_signal_told) {
            is_signal_told = true;
            it.say(FromMember::Stop { signal });
        }
        if let Some((signal, _)) = it.take_stop() {
            is_signal_told = true;
            interrupt.follow(signal);
        }
        while let Some(message) = it.next_message(now_ns()) {
            channel.queue(&message);
        }
        if let Err(why) = channel.flush() {
            it.gone(&why);
        }
        let has_ended = it.end().is_some();
        if has_ended && it.meeting().is_some() {
            // A run that is under way ends in order.
            interrupt.follow(signal_hook::consts::SIGTERM);
        }
        drop(it);
        member.changed.notify_all();
        if has_ended {
            return Ok(());
        }
    }
}

/// Shares a value between threads.
pub fn shared<T>(value: T) -> io::Result<Arc<Shared<T>>> {
    Shared::new(value).map(Arc::new)
}

/// A TCP connection to the first of these addresses that accepts it.
pub fn connect(addresses: impl Iterator<Item = std::net::SocketAddr>, timeout: Duration) -> io::Result<OwnedFd> {
    let mut failure = io::Error::new(ErrorKind::NotFound, "it has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout).and_then(quick) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
