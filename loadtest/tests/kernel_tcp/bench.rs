//! A stack, its device, and the kernel's sockets.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use ringload::stack::{Config, Ends, Events, Failure, OFFLOAD_LEN, Stack};
use ringload::tun::{Device, Network, UserStack};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use socket2::SockRef;

use super::far::Far;
use super::link::{Link, To};

/// How long anything may take: far more than any machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How long a turn waits for a packet, while the kernel's sockets may have something to say.
const TURN: Duration = Duration::from_millis(2);

/// The stack's servers: a listening socket of each family, a port that is closed, an address that is silent.
pub(crate) const V4: u16 = 0;
pub(crate) const V6: u16 = 1;
pub(crate) const CLOSED: [u16; 2] = [2, 3];
pub(crate) const SILENT: u16 = 4;
/// Addresses to which there is no route, or to which it is forbidden.
pub(crate) const UNREACHABLE: [u16; 2] = [5, 6];
pub(crate) const FORBIDDEN: u16 = 7;

/// States of the kernel's sockets (`net/tcp_states.h`).
pub(crate) const ESTABLISHED: u8 = 1;
pub(crate) const SYN_SENT: u8 = 2;
pub(crate) const SYN_RECV: u8 = 3;
pub(crate) const FIN_WAIT2: u8 = 5;
pub(crate) const TIME_WAIT: u8 = 6;
pub(crate) const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;
pub(crate) const CLOSING: u8 = 11;

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Failed(Failure),
}

/// What the stack has told of a connection.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) is_open: bool,
    pub(crate) input: Vec<u8>,
    pub(crate) waits_for_room: bool,
    pub(crate) has_finished: bool,
    pub(crate) end: Option<End>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_open, waits_for_room, has_finished, end, .. } = self;
        write!(f, "{} bytes, {:?}", self.input.len(), (is_open, waits_for_room, has_finished, end))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Log(HashMap<u32, Told>);

impl Log {
    fn get(&mut self, key: u32) -> &mut Told {
        let told = self.0.get_mut(&key).expect("a connection");
        assert!(told.end.is_none(), "an event behind the last one");
        told
    }
}

impl Events for Log {
    fn connected(&mut self, key: u32) {
        self.get(key).is_open = true;
    }
    fn received(&mut self, key: u32, bytes: &mut [u8]) {
        self.get(key).input.extend_from_slice(bytes);
    }
    fn room(&mut self, key: u32) {
        self.get(key).waits_for_room = false;
    }
    fn finished(&mut self, key: u32) {
        self.get(key).has_finished = true;
    }
    fn closed(&mut self, key: u32) {
        self.get(key).end = Some(End::Closed);
    }
    fn failed(&mut self, key: u32, failure: Failure) {
        self.get(key).end = Some(End::Failed(failure));
    }
}

pub(crate) struct Bench {
    pub(crate) stack: Stack,
    pub(crate) link: Link,
    pub(crate) log: Log,
    pub(crate) listeners: [TcpListener; 2],
    network: Network,
    /// The namespace of the listening sockets, if that is another one.
    pub(crate) far: Option<Far>,
    /// Packets of the kernel stay in the device.
    pub(crate) is_deaf: bool,
    began: Instant,
    /// The stack's time passes so many times as fast.
    pub(crate) haste: u32,
}

/// Does it on a thread in a network namespace, if that can be had here. Where it is known that it can, as in CI, it is a failure
/// if not.
pub(crate) fn within(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || match enter().and_then(|()| can_have_devices()) {
        Ok(()) => test(),
        Err(obstacle) => {
            assert!(std::env::var_os("RINGLOAD_NEEDS_NAMESPACES").is_none(), "{obstacle}");
            eprintln!("SKIPPED: {obstacle}");
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Moves this thread into a network namespace of its own.
pub(crate) fn enter() -> Result<(), String> {
    // SAFETY: descriptors stay shared: it is this thread's view of the network that changes.
    let entered = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    entered.map_err(|error| format!("no network namespace can be had here: {error}"))
}

/// Says what is missing here, if something is.
fn can_have_devices() -> Result<(), String> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    tun.map_err(|error| format!("/dev/net/tun cannot be opened here: {error}"))?;
    let tool = Command::new("ip").arg("-V").output();
    tool.map(drop).map_err(|error| format!("there is no `ip` of iproute2 here: {error}"))
}

/// The device `NAME0` of this namespace, with addresses of these blocks.
pub(crate) fn network(name: &str, blocks: &str, has_offloads: bool) -> Network {
    let clients = blocks.parse().expect("blocks");
    let network = Network::set_up(&UserStack { name: name.to_owned(), clients, has_offloads }, 1, None);
    network.expect("it was tried")
}

/// Listening sockets at any port of these addresses.
pub(crate) fn listeners(addresses: [&str; 2]) -> [TcpListener; 2] {
    addresses.map(|address| {
        let listener = TcpListener::bind(address).expect("a server");
        listener.set_nonblocking(true).expect("a socket");
        listener
    })
}

/// A test with a bench for eight connections.
pub(crate) fn with_bench(test: impl FnOnce(&mut Bench) + Send + 'static) {
    within(|| test(&mut Bench::new(8)));
}

pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2");
    assert!(status.success(), "ip {arguments}");
}

/// Bytes that differ from all others nearby, and from those of another seed.
pub(crate) fn pattern(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

impl Bench {
    /// A stack for so many connections. Its clients have one address and 64,512 ports: with more than half as many connections
    /// each life of one has the same port.
    pub(crate) fn new(connections: u32) -> Self {
        Self::with(connections, false, false)
    }

    /// The same with a device that makes checksums and segments, and leaves both to the stack.
    pub(crate) fn with_offloads(connections: u32) -> Self {
        Self::with(connections, true, false)
    }

    /// The same with the listening sockets in another namespace: this one is the router, which has to make checksums and segments.
    pub(crate) fn with_offloads_and_a_router(connections: u32) -> Self {
        Self::with(connections, true, true)
    }

    fn with(connections: u32, has_offloads: bool, is_router: bool) -> Self {
        ip("link set lo up");
        let network = network("bench", "198.19.0.0/24,fd19::/64", has_offloads);
        for (address, setting) in
            [("198.20.0.0/24", "unreachable"), ("198.21.0.0/24", "prohibit"), ("fd20::/64", "unreachable")]
        {
            ip(&format!("route add {setting} {address}"));
        }
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a router");
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("a router");
        let (far, listeners) = if is_router {
            let (far, listeners) = Far::new();
            (Some(far), listeners)
        } else {
            (None, listeners(["198.19.0.1:0", "[fd19::1]:0"]))
        };
        let mut servers: Vec<SocketAddr> = listeners.iter().map(|it| it.local_addr().expect("a socket")).collect();
        let others = ["198.19.0.1:1", "[fd19::1]:1", "198.19.0.0:1", "198.20.0.1:1", "[fd20::1]:1", "198.21.0.1:1"];
        servers.extend(others.map(|address| address.parse::<SocketAddr>().expect("an address")));
        let lane = &network.lanes[0];
        assert_eq!(lane.device.has_offloads(), has_offloads, "Linux has had it since 2.6.27");
        let ends = Ends { first_v4: lane.first_v4, first_v6: lane.first_v6, hosts: 1, servers };
        let mtu = lane.device.mtu();
        let config = Config { ends, connections, mtu, has_offloads, reassembly_bytes: 1 << 20, secret: [5, 6] };
        Self {
            stack: Stack::new(config).expect("a stack"),
            link: Link::behind(if has_offloads { OFFLOAD_LEN } else { 0 }),
            log: Log::default(),
            listeners,
            network,
            far,
            is_deaf: false,
            began: Instant::now(),
            haste: 1,
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64 * u64::from(self.haste)
    }

    /// What was told of a connection.
    pub(crate) fn told(&mut self, key: u32) -> &mut Told {
        self.log.0.get_mut(&key).expect("a connection")
    }

    pub(crate) fn connect(&mut self, key: u32, server: u16) {
        self.log.0.insert(key, Told::default());
        self.stack.connect(key, server, self.now_ns());
    }

    pub(crate) fn finish(&mut self, key: u32) {
        self.stack.finish(key, self.now_ns());
    }

    /// Opens a connection to a server that listens: the client's end and the kernel's socket.
    pub(crate) fn open(&mut self, key: u32, server: u16) -> Talk {
        self.connect(key, server);
        let socket = self.accept(server);
        self.until("open", |bench| bench.told(key).is_open.then_some(()));
        Talk::new(key, socket)
    }

    pub(crate) fn accept(&mut self, server: u16) -> TcpStream {
        let socket = self.until("accepted", |bench| match bench.listeners[usize::from(server)].accept() {
            Ok((socket, _)) => Some(socket),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        });
        socket.set_nonblocking(true).expect("a socket");
        socket
    }

    /// Takes turns until it is so.
    pub(crate) fn until<T>(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(result) = is_so(self) {
                return result;
            }
            let (log, counters) = (&self.log, self.stack.counters());
            assert!(begun.elapsed() < PATIENCE, "not {what} in time: {log:?}, {counters:?}, {:?}", kernel_states());
            self.turn();
        }
    }

    /// Waits for a connection's end.
    pub(crate) fn end(&mut self, key: u32) -> End {
        self.until("over", |bench| bench.told(key).end)
    }

    /// Waits until the kernel's sockets, but for those that listen, have these states.
    pub(crate) fn until_kernel_has(&mut self, states: &[u8]) {
        let begun = Instant::now();
        while kernel_states() != states {
            assert!(begun.elapsed() < PATIENCE, "the kernel has {:?} and not {states:?}", kernel_states());
            self.turn();
        }
    }

    /// Writes what is to be written, waits a moment for a packet, reads what there is.
    pub(crate) fn turn(&mut self) {
        self.write();
        let now_ns = self.now_ns();
        let due_ns = self.stack.next_ns().map_or(u64::MAX, |due_ns| due_ns.saturating_sub(now_ns));
        let arrives = self.link.next().map_or(TURN, |at| at.saturating_duration_since(Instant::now()));
        let timeout = TURN.min(Duration::from_nanos(due_ns / u64::from(self.haste))).min(arrives);
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let interest = if self.is_deaf { PollFlags::empty() } else { PollFlags::IN };
        let mut all = vec![PollFd::new(self.device(), interest)];
        all.extend(self.far.iter().flat_map(Far::devices).map(|device| PollFd::new(device, PollFlags::IN)));
        poll(&mut all, Some(&timeout)).expect("poll");
        if let Some(far) = &mut self.far {
            far.hand_on();
        }
        self.read();
        self.stack.advance(self.now_ns(), &mut self.log);
        self.write();
    }

    fn device(&self) -> &Device {
        &self.network.lanes[0].device
    }

    fn read(&mut self) {
        while !self.is_deaf
            && let Some(packet) = read_packet(self.device())
        {
            self.link.push(To::Stack, packet);
        }
        self.hand_on();
    }

    fn write(&mut self) {
        self.stack.flush();
        for packet in self.stack.packets() {
            self.link.push(To::Kernel, packet.to_vec());
        }
        self.stack.clear_packets();
        self.hand_on();
    }

    fn hand_on(&mut self) {
        while let Some((to, mut packet)) = self.link.pop() {
            match to {
                // The kernel refuses some that are damaged.
                To::Kernel => drop(rustix::io::write(self.device(), &packet)),
                To::Stack => self.stack.input(&mut packet, self.now_ns(), &mut self.log),
            }
        }
    }
}

/// The next packet that waits in a device.
pub(crate) fn read_packet(device: &Device) -> Option<Vec<u8>> {
    let mut buffer = vec![0; OFFLOAD_LEN + (1 << 16)];
    match rustix::io::read(device, &mut buffer) {
        Ok(count) => buffer.truncate(count),
        Err(Errno::AGAIN) => return None,
        Err(error) => panic!("{error}"),
    }
    Some(buffer)
}

/// The states of this namespace's connections, in order.
pub(crate) fn kernel_states() -> Vec<u8> {
    let lines = |family| fs::read_to_string(format!("/proc/thread-self/net/{family}")).unwrap_or_default();
    let state = |line: &str| u8::from_str_radix(line.split_whitespace().nth(3)?, 16).ok();
    let [v4, v6] = ["tcp", "tcp6"].map(lines);
    let mut states: Vec<u8> = v4.lines().chain(v6.lines()).filter_map(state).filter(|&state| state != LISTEN).collect();
    states.sort_unstable();
    states
}

/// A connection, and what its ends have to say to each other.
pub(crate) struct Talk {
    pub(crate) key: u32,
    pub(crate) socket: TcpStream,
    /// What the client sends, and how much of it the stack has taken.
    pub(crate) of_client: Vec<u8>,
    pub(crate) taken: usize,
    /// What the server sends, and how much of it the kernel has taken.
    pub(crate) of_server: Vec<u8>,
    pub(crate) written: usize,
    /// What the server has read, and whether that was all.
    pub(crate) heard: Vec<u8>,
    pub(crate) has_heard_all: bool,
}

impl Talk {
    pub(crate) fn new(key: u32, socket: TcpStream) -> Self {
        Self {
            key,
            socket,
            of_client: Vec::new(),
            taken: 0,
            of_server: Vec::new(),
            written: 0,
            heard: Vec::new(),
            has_heard_all: false,
        }
    }

    /// The client sends as much as the stack takes. Returns whether it has taken all.
    pub(crate) fn send(&mut self, bench: &mut Bench) -> bool {
        let rest = &self.of_client[self.taken..];
        if !rest.is_empty() && !bench.told(self.key).waits_for_room {
            let now_ns = bench.now_ns();
            let taken = bench.stack.send(self.key, &[rest], now_ns);
            bench.told(self.key).waits_for_room = taken < rest.len();
            self.taken += taken;
        }
        self.taken == self.of_client.len()
    }

    /// The server writes as much as the kernel takes. Returns whether it has taken all.
    pub(crate) fn write(&mut self) -> bool {
        while self.written < self.of_server.len() {
            match self.socket.write(&self.of_server[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}"),
            }
        }
        true
    }

    /// The server reads what there is.
    pub(crate) fn read(&mut self) {
        let mut buffer = [0; 1 << 14];
        while !self.has_heard_all {
            match self.socket.read(&mut buffer) {
                Ok(count) => {
                    self.heard.extend_from_slice(&buffer[..count]);
                    self.has_heard_all = count == 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Everything is sent and heard, in both directions.
    pub(crate) fn exchange(&mut self, bench: &mut Bench) {
        bench.until("exchanged", |bench| {
            self.send(bench);
            self.write();
            self.read();
            let is_heard = self.heard.len() >= self.of_client.len();
            (is_heard && bench.told(self.key).input.len() >= self.of_server.len()).then_some(())
        });
        self.check(bench);
    }

    /// What was heard is what was said.
    pub(crate) fn check(&self, bench: &mut Bench) {
        assert!(self.heard == self.of_client, "the client's stream was changed: {} bytes", self.heard.len());
        let input = &bench.told(self.key).input;
        assert!(*input == self.of_server, "the server's stream was changed: {} bytes", input.len());
    }

    /// The kernel's socket is closed with a reset, whatever its state is.
    pub(crate) fn reset(self) {
        reset(&self.socket);
    }
}

/// Has a socket be reset when it is closed.
pub(crate) fn reset(socket: &TcpStream) {
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).expect("a socket");
}
