//! The doorkeeper: a thread that answers clients with 503 and Retry-After while all connections are taken.
//!
//! It accepts from the same listeners as the workers, but only while none of them has room. So it is the same for all
//! engines, and costs workers nothing.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, accept_with, recv, send, shutdown};
use socket2::SockRef;

use super::accept_error::AcceptError;
use super::admission::Admission;
use crate::protocol::{self, Protocol};
use crate::transport::{Door, Doors};
use crate::worker::{Control, Counter};

/// Limit of clients being answered at a time. If more arrive, the oldest are closed without waiting for their end. Their
/// descriptors are among the reserved ones (`DESCRIPTORS_RESERVED` in config.rs).
const CLIENTS_MAX: usize = 24;
/// Accepts in a turn.
const BATCH: usize = 16;
/// Time for a client to send a request, and then to close its side: closing with unread input would make the kernel send a
/// reset, which can destroy the answer on its way.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause after an accept that failed for a shortage.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The thread's `nice(2)` value: connected clients come first.
const NICE: i32 = 10;

/// The state of the thread.
pub(super) struct Doorkeeper {
    pub(super) listeners: Vec<OwnedFd>,
    pub(super) control: Arc<Control>,
    pub(super) admission: Arc<Admission>,
    /// The listeners' settings, by their numbers.
    pub(super) doors: Doors,
    clients: VecDeque<Client>,
    /// The answer 503.
    answer: Vec<u8>,
    /// Accepts fail: none is tried until then.
    paused_until: Option<Instant>,
}

/// A client that is being refused.
struct Client {
    socket: OwnedFd,
    is_answered: bool,
    until: Instant,
}

impl Doorkeeper {
    pub(super) fn new(
        listeners: Vec<OwnedFd>,
        control: &Arc<Control>,
        admission: &Arc<Admission>,
        doors: Doors,
    ) -> Self {
        let (control, admission) = (Arc::clone(control), Arc::clone(admission));
        Self {
            listeners,
            control,
            admission,
            doors,
            clients: VecDeque::new(),
            answer: protocol::full(),
            paused_until: None,
        }
    }

    /// Runs until the server stops.
    pub(super) fn run(mut self) -> io::Result<()> {
        let _ = rustix::process::nice(NICE); // without it, it only is less modest
        while !self.control.is_stopping() {
            self.turn()?;
        }
        // A socket of the service manager stays for the next server, and so would its option.
        for listener in &self.listeners {
            let _ = SockRef::from(listener).set_read_timeout(None);
        }
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.paused_until = self.paused_until.filter(|&until| until > now);
        let is_full = self.admission.is_full();
        let accepts = is_full && self.paused_until.is_none();
        let deadlines = self.clients.iter().map(|client| client.until).chain(self.paused_until.filter(|_| is_full));
        let timeout = deadlines.min().map(|until| until.saturating_duration_since(now));
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;

        let bell = self.control.bell();
        let listeners = if accepts { &self.listeners[..] } else { &[] };
        let mut fds = vec![PollFd::new(&bell, PollFlags::IN)];
        fds.extend(listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        fds.extend(self.clients.iter().map(|client| PollFd::new(&client.socket, PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (of_listeners, of_clients) = ready[1..].split_at(listeners.len());
        let has_come: Vec<usize> = of_listeners.iter().enumerate().filter(|it| *it.1).map(|it| it.0).collect();
        let of_clients = of_clients.to_vec();
        if ready[0] {
            let _ = rustix::io::read(bell, &mut [0; 8]);
        }
        self.see_to_clients(&of_clients);
        for listener in has_come {
            self.accept(listener);
        }
        Ok(())
    }

    /// Refuses clients waiting at a listener, as long as there is no room.
    fn accept(&mut self, listener: usize) {
        for _ in 0..BATCH {
            if !self.admission.is_full() || self.control.is_stopping() {
                return;
            }
            match accept_with(&self.listeners[listener], SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => {
                    self.control.counters().add(Counter::TurnedAway, 1);
                    if has_answer(&self.doors[listener]) {
                        self.clients.push_back(Client { socket, is_answered: false, until: Instant::now() + PATIENCE });
                    }
                    if self.clients.len() > CLIENTS_MAX
                        && let Some(mut first) = self.clients.pop_front()
                    {
                        first.answer(&self.answer);
                    }
                }
                Err(e) => match AcceptError::of(e.raw_os_error()) {
                    AcceptError::Nothing => return,
                    AcceptError::Connection => {}
                    AcceptError::Lasting => {
                        self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
                        return;
                    }
                },
            }
        }
    }

    /// Continues with clients that are being refused; `ready`: those with input or an end.
    fn see_to_clients(&mut self, ready: &[bool]) {
        let now = Instant::now();
        let mut ready = ready.iter();
        let answer = &self.answer;
        self.clients.retain_mut(|client| {
            let is_ready = ready.next().copied().unwrap_or(false);
            if is_ready && !client.receive(answer) {
                return false;
            }
            if now >= client.until {
                client.answer(answer);
                return false;
            }
            true
        });
    }
}

/// Whether clients of this listener can get the answer. Bare TCP has none, only a close. With TLS the answer would take a
/// handshake, the most expensive request of a client: these are closed, too. A PROXY header in front of a request is
/// discarded with it.
fn has_answer(door: &Door) -> bool {
    door.protocol == Protocol::WebSocket && door.tls.is_none()
}

impl Client {
    /// Discards input. Returns whether more may follow.
    fn receive(&mut self, answer: &[u8]) -> bool {
        match recv(&self.socket, &mut [0; 4096], RecvFlags::DONTWAIT) {
            Ok((0, _)) => false,
            Ok(_) => {
                self.answer(answer);
                true
            }
            Err(e) => matches!(e, Errno::AGAIN | Errno::INTR),
        }
    }

    fn answer(&mut self, answer: &[u8]) {
        if !std::mem::replace(&mut self.is_answered, true) {
            // A new socket has room for it; if its peer is gone, a receive reports it.
            let _ = send(&self.socket, answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            let _ = shutdown(&self.socket, Shutdown::Write);
            self.until = Instant::now() + PATIENCE;
        }
    }
}
