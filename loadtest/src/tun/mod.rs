//! The network of `--stack user`: a TUN device for each thread, and behind it the clients' addresses.
//!
//! Each thread has a device of its own rather than one of several queues. The kernel would choose the queue of a packet by a
//! table of at most 4,096 flows, or by a BPF program, for which a user namespace has no rights; the route to a part of the
//! addresses leads to the right thread without either. Devices are not persistent: the kernel removes them, with their
//! addresses and routes, when the process ends, however it ends.

mod block;
mod device;
mod namespace;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use thiserror::Error;

pub use self::block::Clients;
use self::block::{Block, FIRST_CLIENT};
pub use self::device::Device;
use self::namespace::Namespace;

/// The MTU of devices to servers elsewhere: Ethernet's, which all paths have.
const MTU: u16 = 1500;

/// The MTU in a namespace of our own: what an IP packet can have, as on the loopback device. A message of 64 KiB is one packet.
const MTU_OWN: u16 = u16::MAX;

/// What is said where rights are missing.
const RIGHTS: &str = "--stack user needs CAP_NET_ADMIN, and CAP_SYS_ADMIN to start a server in a network namespace: run it as \
                      root, or as `unshare --user --map-root-user ringload run ...`";

/// How `--stack user` was asked for.
#[derive(Clone, Debug)]
pub struct UserStack {
    /// What the devices' names begin with.
    pub name: String,
    /// The clients' addresses.
    pub clients: Clients,
    /// Checksums and segments are left to the devices, if they can make them.
    pub has_offloads: bool,
}

/// Why there is no such network.
#[derive(Debug, Error)]
pub enum TunError {
    /// No TUN here.
    #[error(
        "cannot open /dev/net/tun: {0} (is the kernel's module there, `modprobe tun`? a container needs \
         `--device /dev/net/tun`)"
    )]
    Missing(io::Error),
    /// A device that cannot be had.
    #[error("cannot set up the TUN device {0}: {1}{hint}", hint = hint(.1))]
    Device(String, io::Error),
    /// No namespace.
    #[error("cannot make a network namespace: {0}{hint}", hint = hint(.0))]
    Namespace(io::Error),
    /// Too few addresses.
    #[error("--clients {clients} cannot be divided among {threads} threads: take a larger block, or fewer --threads")]
    Divide {
        /// The addresses.
        clients: Clients,
        /// All that share them.
        threads: u32,
    },
}

/// What can be done about it.
fn hint(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!("; {RIGHTS}"),
        Some(libc::EBUSY) => "; another process uses it: choose another name with --tun".to_owned(),
        _ => String::new(),
    }
}

/// One thread's part.
#[derive(Debug)]
pub struct Lane {
    /// Its device.
    pub device: Device,
    /// The first of its clients' IPv4 addresses.
    pub first_v4: Option<Ipv4Addr>,
    /// The first of its clients' IPv6 addresses.
    pub first_v6: Option<Ipv6Addr>,
    /// How many addresses it has of each family.
    pub hosts: u32,
}

/// All threads' devices.
#[derive(Debug)]
pub struct Network {
    /// By the threads' numbers.
    pub lanes: Vec<Lane>,
    /// Where they are, if that is a namespace of our own.
    namespace: Option<Namespace>,
    /// The first device's own address.
    address: IpAddr,
}

impl Network {
    /// Makes the devices: in this namespace, or, for a server that is to have up to `for_own_server` connections, in one of
    /// their own.
    pub fn set_up(user: &UserStack, threads: u32, for_own_server: Option<u32>) -> Result<Self, TunError> {
        let too_few = || TunError::Divide { clients: user.clients.clone(), threads };
        let parts = user.clients.divide(threads).ok_or_else(too_few)?;
        let address = parts[0][0].own();
        let lanes = |mtu| {
            let lanes = parts.iter().enumerate();
            lanes.map(|(index, blocks)| lane(user, index, blocks, mtu)).collect::<Result<_, _>>()
        };
        let (namespace, lanes) = match for_own_server {
            None => (None, lanes(MTU)?),
            Some(connections) => {
                let (namespace, lanes) = Namespace::make(connections, || lanes(MTU_OWN))?;
                (Some(namespace), lanes)
            }
        };
        Ok(Self { lanes, namespace, address })
    }

    /// What is to be said of it once, if anything: settings of the namespace that could not be made.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let refused = &self.namespace.as_ref()?.refused;
        let note = || format!("cannot set {}: many connections may take longer to open", refused.join(" and "));
        (!refused.is_empty()).then(note)
    }

    /// Where a server has to listen, and in which namespace, if that is one of our own.
    #[must_use]
    pub fn place(&self) -> Option<(IpAddr, BorrowedFd<'_>)> {
        self.namespace.as_ref().map(|namespace| (self.address, namespace.as_fd()))
    }
}

/// The device of that number, with these blocks of addresses behind it, one of each family at most.
fn lane(user: &UserStack, index: usize, blocks: &[Block], mtu: u16) -> Result<Lane, TunError> {
    let device = Device::open(&format!("{}{index}", user.name), blocks, mtu, user.has_offloads)?;
    let mut lane = Lane { device, first_v4: None, first_v6: None, hosts: u32::MAX };
    for block in blocks {
        match block.address(FIRST_CLIENT) {
            IpAddr::V4(first) => lane.first_v4 = Some(first),
            IpAddr::V6(first) => lane.first_v6 = Some(first),
        }
        lane.hosts = lane.hosts.min(block.hosts());
    }
    Ok(lane)
}
