//! A TUN device: what the kernel routes there is read from it, and what is written to it arrives in the kernel.
//!
//! Its settings are those of interfaces and take one `ioctl` each (netdevice(7)). If the kernel's TUN has offloads, packets have
//! virtio-net's header in front, out and in: checksums are left out on both sides, and segments are not divided.

use std::ffi::{CString, c_char, c_int, c_short};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use socket2::{Domain, Socket, Type};

use super::TunError;
use super::block::Block;
use crate::stack::OFFLOAD_LEN;

/// Packets that wait to be read: as many as arrive while the thread does something else, at more than a million a second for
/// a twentieth of one. The kernel drops what comes beyond, and its TCP sends that again 200 ms later at the earliest.
const QUEUE: u32 = 1 << 16;

/// What the kernel may leave to this side: all that the stack takes, or as much of it as the kernel knows.
const OFFLOADS: [libc::c_uint; 3] = [libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6, libc::TUN_F_CSUM, 0];

/// Of an IPv6 address (`linux/if_addr.h`): no duplicate address detection; its attribute.
const NO_DAD: u8 = 2;
const IFA_ADDRESS: u16 = 1;

/// A device that is up.
#[derive(Debug)]
pub struct Device {
    file: OwnedFd,
    name: String,
    mtu: u16,
    has_offloads: bool,
}

impl Drop for Device {
    /// One that was prepared goes on to exist, for programs that may not expect what this one took.
    fn drop(&mut self) {
        let _ = take_offloads(self.file.as_raw_fd(), 0);
    }
}

impl Device {
    /// Makes the device `name`, with an address of its own and a route to the others of each block. One that is up already
    /// was prepared by the administrator, and is taken as it is.
    pub(super) fn open(name: &str, blocks: &[Block], mtu: u16, wants_offloads: bool) -> Result<Self, TunError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open("/dev/net/tun").map_err(TunError::Missing)?;
        let has_offloads = wants_offloads && can_offload(file.as_raw_fd());
        let mut device = Self { file: file.into(), name: name.to_owned(), mtu, has_offloads };
        device.set_up(blocks).map_err(|error| TunError::Device(name.to_owned(), error))?;
        Ok(device)
    }

    /// The most that a packet may have.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Whether packets have virtio-net's header in front, out and in.
    #[must_use]
    pub fn has_offloads(&self) -> bool {
        self.has_offloads
    }

    fn set_up(&mut self, blocks: &[Block]) -> io::Result<()> {
        self.attach()?;
        let mut request = self.request()?;
        // Any socket will do to ask for the settings of an interface.
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)?;
        let socket = socket.as_raw_fd();
        call(socket, libc::SIOCGIFFLAGS as _, &mut request)?;
        // SAFETY: the kernel has just written the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if c_int::from(flags) & libc::IFF_UP == 0 {
            self.configure(socket, blocks, flags)?;
        }
        let mut request = self.request()?;
        call(socket, libc::SIOCGIFMTU as _, &mut request)?;
        // SAFETY: the kernel has just written the MTU.
        self.mtu = unsafe { request.ifr_ifru.ifru_mtu }.clamp(0, u16::MAX.into()) as u16;
        Ok(())
    }

    /// Makes the file that of the device.
    fn attach(&self) -> io::Result<()> {
        let file = self.file.as_raw_fd();
        let offloads = if self.has_offloads { libc::IFF_VNET_HDR } else { 0 };
        let mut request = self.request()?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | offloads) as c_short;
        call(file, libc::TUNSETIFF as _, &mut request)?;
        if self.has_offloads {
            // One that was prepared may have a longer one. A kernel that does not know this has the one that is meant.
            let _ = call(file, libc::TUNSETVNETHDRSZ as _, &mut (OFFLOAD_LEN as c_int));
        }
        let offloads = if self.has_offloads { &OFFLOADS[..] } else { &[0] };
        // One that takes none of them leaves nothing to this side, and each packet's header says so.
        let _ = offloads.iter().any(|&offloads| take_offloads(file, offloads).is_ok());
        Ok(())
    }

    fn configure(&self, socket: RawFd, blocks: &[Block], flags: c_short) -> io::Result<()> {
        let mut request = self.request()?;
        request.ifr_ifru.ifru_mtu = self.mtu.into();
        call(socket, libc::SIOCSIFMTU as _, &mut request)?;
        let index = self.index(socket)?;
        set_queue(index, QUEUE)?;
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as c_short;
        call(socket, libc::SIOCSIFFLAGS as _, &mut request)?;
        for block in blocks {
            match block.own() {
                IpAddr::V4(address) => self.add_v4(socket, address, block.prefix)?,
                IpAddr::V6(address) => add_v6(index, address, block.prefix)?,
            }
        }
        Ok(())
    }

    /// Gives the device an address; its prefix makes the route to all others with it.
    fn add_v4(&self, socket: RawFd, address: Ipv4Addr, prefix: u32) -> io::Result<()> {
        let mut request = self.request()?;
        request.ifr_ifru.ifru_addr = in_kernels_form(address);
        call(socket, libc::SIOCSIFADDR as _, &mut request)?;
        request.ifr_ifru.ifru_netmask = in_kernels_form(Ipv4Addr::from_bits(u32::MAX << (Ipv4Addr::BITS - prefix)));
        call(socket, libc::SIOCSIFNETMASK as _, &mut request)
    }

    /// The kernel's number of the device.
    fn index(&self, socket: RawFd) -> io::Result<c_int> {
        let mut request = self.request()?;
        call(socket, libc::SIOCGIFINDEX as _, &mut request)?;
        // SAFETY: the kernel has just written the number.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    /// A request about this device.
    fn request(&self) -> io::Result<libc::ifreq> {
        let name = CString::new(self.name.as_str())?;
        let name = name.as_bytes_with_nul();
        // SAFETY: all-zero bytes are valid: characters, and a union of numbers.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() > request.ifr_name.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "its name is too long"));
        }
        for (to, &from) in request.ifr_name.iter_mut().zip(name) {
            *to = from as c_char;
        }
        Ok(request)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether the kernel's TUN devices know virtio-net's header.
fn can_offload(file: RawFd) -> bool {
    let mut features: libc::c_uint = 0;
    call(file, libc::TUNGETFEATURES as _, &mut features).is_ok() && features & libc::IFF_VNET_HDR as libc::c_uint != 0
}

/// Has the kernel leave so much of its work to this side.
fn take_offloads(file: RawFd, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: this one takes a number, and no address.
    let result = unsafe { libc::ioctl(file, libc::TUNSETOFFLOAD as _, libc::c_ulong::from(offloads)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives a device an IPv6 address: by netlink (rtnetlink(7)), so that a server can listen there at once. That of the `ioctl` is tentative
/// until the kernel comes to find that the device knows no duplicates.
fn add_v6(index: c_int, address: Ipv6Addr, prefix: u32) -> io::Result<()> {
    // Family, prefix, flags and scope, which interface; then the one attribute.
    let mut body = vec![libc::AF_INET6 as u8, prefix as u8, NO_DAD, 0];
    body.extend(index.to_ne_bytes());
    body.extend(20_u16.to_ne_bytes());
    body.extend(IFA_ADDRESS.to_ne_bytes());
    body.extend(address.octets());
    ask_by_netlink(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
}

/// Sets the length of a device's queue: by netlink, as the `ioctl` is for the first user namespace only.
fn set_queue(index: c_int, packets: u32) -> io::Result<()> {
    // Which interface, and none of its flags; then the one attribute.
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend([0; 8]);
    body.extend(8_u16.to_ne_bytes());
    body.extend(libc::IFLA_TXQLEN.to_ne_bytes());
    body.extend(packets.to_ne_bytes());
    ask_by_netlink(libc::RTM_NEWLINK, 0, &body)
}

/// Asks the kernel for something by netlink.
fn ask_by_netlink(kind: u16, flags: c_int, body: &[u8]) -> io::Result<()> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags;
    // The header: length, kind, flags, sequence number and sender, which do not matter here.
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW.cloexec(), None)?;
    socket.send(&message)?;
    // The answer has the same header, then an error number, negative, or 0.
    let mut answer = [0; 1024];
    let count = (&socket).read(&mut answer)?;
    let errno =
        answer[..count].get(16..20).and_then(|it| it.first_chunk()).map_or(-libc::EIO, |&it| i32::from_ne_bytes(it));
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-errno)) }
}

fn in_kernels_form(address: Ipv4Addr) -> libc::sockaddr {
    let mut bytes = [0; 14]; // a port, then the address
    for (to, from) in bytes[2..].iter_mut().zip(address.octets()) {
        *to = from as c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: bytes }
}

/// Asks the kernel for something: `code` must be one whose argument is a `T`.
fn call<T>(fd: RawFd, code: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: the callers above pair each code with the structure that it reads and writes, which outlives the call.
    let result = unsafe { libc::ioctl(fd, code as _, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
