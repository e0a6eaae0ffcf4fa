//! Tens of thousands of sockets: with their own source addresses and descriptor tables.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Bytes in a segment of a narrow connection: a quarter more than the least that Linux takes (88), and about a frame's
/// piece of `cut-frames`.
const NARROW_SEGMENT: u32 = 110;
/// Descriptors that a thread needs besides its clients'.
const RESERVED: usize = 200;
/// Clients per thread at most, however many descriptors it may have.
const SHARE_MAX: usize = 16_000;
/// Source addresses that the connections of a thread take turns with: each has 28,000 ports, and those of closed
/// connections stay taken for a minute.
const SOURCES: u32 = 200;

/// How many clients one thread holds, once the soft limit on descriptors is as high as it can be.
pub(super) fn share_max() -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
    (maximum.unwrap_or(u64::MAX) as usize).saturating_sub(RESERVED).min(SHARE_MAX)
}

/// Gives the calling thread a descriptor table of its own, with a limit of its own.
pub(super) fn own_table() {
    // SAFETY: the thread uses no descriptor from here on that another one opens or closes.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }.expect("a descriptor table of its own");
}

/// Begins to connect, from one of the addresses that belong to this thread.
pub(super) fn connect(target: SocketAddr, thread: usize, number: usize, is_narrow: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if is_narrow {
        // The server's kernel makes its send buffer as large as some segments, whose size is the client's to say.
        socket.set_tcp_mss(NARROW_SEGMENT)?;
        socket.set_recv_buffer_size(0)?; // the least that there is
    }
    if target.is_ipv4() {
        choose_port_late(&socket)?;
        let host =
            Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 32, 0, 1)) + thread as u32 * 256 + number as u32 % SOURCES);
        socket.bind(&SocketAddr::from((host, 0)).into())?;
    }
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Without it, `bind` takes a port that no other connection of that address may have, whatever its target.
fn choose_port_late(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option is an int, which outlives the call.
    let result = unsafe {
        let (level, option) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the connection end with a reset (RST) when it is dropped, as that of a client that crashed does.
pub(super) fn reset_on_close(socket: &Socket) {
    // It fails only when the connection is gone already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
