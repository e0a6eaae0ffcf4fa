//! A neutral victim: what an attack costs if hardly more than the kernel handles it.
//!
//! It accepts connections and sends back what it receives, as far as the kernel takes it at once; the rest is dropped, and
//! nothing more is received until the kernel takes something again. No connection waits for another, and no byte is
//! examined.

use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use super::sockets;

/// Connections that a listener's queue holds.
const QUEUE: i32 = 4096;
const EVENTS: usize = 256;
const READ: usize = 64 << 10;
/// Accepts in a turn.
const ACCEPTS: usize = 64;
/// How often it looks for connections that have had their time.
const TICK: Duration = Duration::from_millis(10);
const LISTENER: u64 = u64::MAX;

/// How long it puts up with a connection.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// From the accept on; `None`: for ever.
    pub(crate) close_after: Option<Duration>,
    /// Shuts down what it has answered once, and discards what comes behind that, as a server does that refuses what it has
    /// received (RFC 9112, section 9.6): the client's kernel goes on sending what it has taken.
    pub(crate) is_refusing: bool,
}

/// Serves up to `clients` at a time until the process ends; `listening` is told the address.
pub(crate) fn run(clients: usize, patience: Patience, listening: impl FnOnce(SocketAddr)) {
    // The kernel spreads connections over the listeners of a port by chance.
    let threads = (clients + clients / 4).div_ceil(sockets::share_max()).max(1);
    let any = listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    let address = any.local_addr().ok().and_then(|address| address.as_socket()).expect("an address of a port");
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(move || {
                sockets::own_table();
                Loop::new(listen(address), patience).run();
            });
        }
        scope.spawn(move || Loop::new(any, patience).run());
        listening(address);
    });
}

fn listen(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP)).expect("a descriptor");
    socket.set_reuse_port(true).expect("a TCP socket");
    socket.bind(&address.into()).expect("a port of this process");
    socket.listen(QUEUE).expect("a port of this process");
    socket
}

struct Client {
    socket: Socket,
    /// Tells it from others that have had its key.
    number: u64,
    is_refused: bool,
}

struct Loop {
    listener: Socket,
    patience: Patience,
    epoll: rustix::fd::OwnedFd,
    clients: Slab<Client>,
    accepted: u64,
    /// Whose time ends when, in order.
    ends: VecDeque<(Instant, usize, u64)>,
    buffer: Vec<u8>,
}

impl Loop {
    fn new(listener: Socket, patience: Patience) -> Self {
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("a descriptor");
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN).expect("a socket");
        let (clients, ends) = (Slab::new(), VecDeque::new());
        Self { listener, patience, epoll, clients, accepted: 0, ends, buffer: vec![0; READ] }
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        let tick = Timespec::try_from(TICK).expect("a short time");
        loop {
            let timeout = self.patience.close_after.map(|_| &tick);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("epoll_wait: {error}"),
            }
            for Event { flags, data } in events.drain(..) {
                match data.u64() {
                    LISTENER => self.accept(),
                    key => self.serve(key as usize, flags),
                }
            }
            self.close_those_whose_time_is_over();
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            // An error is as good as an empty queue: it is tried again in the next turn.
            let Ok((socket, _)) = self.listener.accept() else { return };
            self.accepted += 1;
            let number = self.accepted;
            let key = self.clients.insert(Client { socket, number, is_refused: false });
            let wanted = EventFlags::IN;
            epoll::add(&self.epoll, &self.clients[key].socket, EventData::new_u64(key as u64), wanted)
                .expect("a socket");
            if let Some(close_after) = self.patience.close_after {
                self.ends.push_back((Instant::now() + close_after, key, number));
            }
        }
    }

    fn serve(&mut self, key: usize, flags: EventFlags) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let is_refused = std::mem::replace(&mut client.is_refused, self.patience.is_refusing);
        let client = &*client;
        let wants = |wanted| {
            epoll::modify(&self.epoll, &client.socket, EventData::new_u64(key as u64), wanted).expect("a socket");
        };
        if flags.contains(EventFlags::OUT) {
            return wants(EventFlags::IN);
        }
        let len = match recv(&client.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => 0,
            Ok((len, _)) => len,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => 0,
        };
        if is_refused && len > 0 {
            return;
        }
        let sent = send(&client.socket, &self.buffer[..len], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        match sent {
            _ if len == 0 => drop(self.clients.remove(key)),
            _ if self.patience.is_refusing => drop(client.socket.shutdown(Shutdown::Write)),
            Ok(sent) if sent == len => {}
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => wants(EventFlags::OUT),
            Err(_) => drop(self.clients.remove(key)),
        }
    }

    fn close_those_whose_time_is_over(&mut self) {
        while let Some(&(end, key, number)) = self.ends.front() {
            if end > Instant::now() {
                return;
            }
            self.ends.pop_front();
            if self.clients.get(key).is_some_and(|client| client.number == number) {
                self.clients.remove(key);
            }
        }
    }
}
