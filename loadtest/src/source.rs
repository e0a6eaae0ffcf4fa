//! Source addresses of connections, chosen so that ports do not run out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

use crate::target::{Address, Target};

/// One in so many local ports of a loopback address is used. Addresses are plenty there, and `connect` searches for a
/// free port one by one, in one half of the range before the other: beyond a third of the range that search takes most
/// of the time.
const PORT_SHARE: u32 = 8;

/// Up to so many connections to loopback come from the one address that the kernel chooses, 127.0.0.1: the packet filter of a
/// container engine (podman, run by root) forwards published ports for that address only. Runs of this size may follow each other
/// two dozen times within the minute that ports of closed connections are kept (`TIME_WAIT`).
const FROM_ONE_ADDRESS: u32 = 1_000;

/// Source addresses as asked for: `127.1.0.0/16`, or a list of addresses and blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceList(Vec<Block>);

/// Addresses that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    first: IpAddr,
    count: u32,
}

/// Source addresses for a whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Empty to let the kernel choose.
    blocks: Vec<Block>,
    /// Connections per address.
    per_address: u32,
}

/// Why there are not enough.
#[derive(Debug, Error)]
#[error(
    "{wanted} connections to {target} do not fit into the {available} local ports of {addresses} source address(es); name \
     more with --source, use an IPv4 loopback target (127.0.0.1), or widen net.ipv4.ip_local_port_range"
)]
pub struct TooFewPorts {
    wanted: u32,
    available: u64,
    addresses: u64,
    target: String,
}

impl Sources {
    /// Addresses for `connections` connections to `targets`, which take turns.
    ///
    /// An IPv4 loopback target is reached from all of 127.0.0.0/8, so every larger run takes a block of its own (`salt`
    /// chooses among 128) unless it is told otherwise. For a small run, to any other target, and over IPv6, whose loopback is a
    /// single address, the kernel chooses one address, and that one's ports (`ports`) are the limit.
    pub fn new(
        targets: &[Target],
        connections: u32,
        ports: u32,
        salt: u32,
        wanted: Option<&SourceList>,
    ) -> Result<Self, TooFewPorts> {
        let inet = |address: &Address| match address {
            Address::Inet(address) => Some(*address),
            Address::Unix(_) => None,
        };
        let addresses: Vec<SocketAddr> = targets.iter().flat_map(|target| &target.addresses).filter_map(inet).collect();
        let is_loopback = addresses.iter().all(|it| it.is_ipv4() && it.ip().is_loopback());
        if addresses.is_empty() {
            return Ok(Self::none());
        }
        let on_loopback = (ports / PORT_SHARE).max(1);
        let blocks = match wanted {
            Some(list) => list.0.clone(),
            None if is_loopback && connections > FROM_ONE_ADDRESS.min(on_loopback) => {
                let first = IpAddr::V4(Ipv4Addr::new(127, 64 + (salt % 128) as u8, 0, 1));
                return Ok(Self { blocks: vec![Block { first, count: (1 << 16) - 1 }], per_address: on_loopback });
            }
            None => Vec::new(),
        };
        // Ports are taken per pair of addresses.
        let count = blocks.iter().map(|block| u64::from(block.count)).sum::<u64>().max(1);
        let available = count * u64::from(ports) * addresses.len() as u64;
        if u64::from(connections) > available {
            return Err(TooFewPorts { wanted: connections, available, addresses: count, target: targets[0].url() });
        }
        let even = u64::from(connections).div_ceil(count) as u32;
        let per_address = if blocks.is_empty() { u32::MAX } else { even.max(on_loopback.min(connections)).max(1) };
        Ok(Self { blocks, per_address })
    }

    /// None: the kernel, or another stack, chooses.
    #[must_use]
    pub fn none() -> Self {
        Self { blocks: Vec::new(), per_address: u32::MAX }
    }

    /// Connections that share one address.
    #[must_use]
    pub fn per_address(&self) -> u32 {
        self.per_address
    }

    /// The addresses of the connections numbered `first` to `first + count - 1`, in order: the connection with number
    /// `n` uses entry `n / per_address - first / per_address`. Empty if the kernel chooses.
    #[must_use]
    pub fn of_connections(&self, first: u32, count: u32) -> Vec<SocketAddr> {
        if self.blocks.is_empty() {
            return Vec::new();
        }
        let last = first + count.max(1) - 1;
        (first / self.per_address..=last / self.per_address)
            .map(|index| SocketAddr::from((self.address(index), 0)))
            .collect()
    }

    /// The address of that index; they begin anew when all have been used.
    fn address(&self, index: u32) -> IpAddr {
        let count: u64 = self.blocks.iter().map(|block| u64::from(block.count)).sum();
        let mut left = (u64::from(index) % count) as u32;
        for block in &self.blocks {
            if left < block.count {
                return block.address(left);
            }
            left -= block.count;
        }
        unreachable!("the index is below the count of all blocks")
    }
}

impl Block {
    fn address(&self, index: u32) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + index).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + u128::from(index)).into(),
        }
    }
}

impl FromStr for Block {
    type Err = String;

    /// `127.1.0.0/16` or `10.0.0.1`. Of an IPv4 block with more than two addresses the first and the last are left out,
    /// which are no hosts'.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let first: IpAddr =
            address.trim().parse().map_err(|_| format!("`{text}` is no address and no block like 127.1.0.0/16"))?;
        let bits: u32 = if first.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix.map(|prefix| prefix.trim().parse::<u32>()) {
            None => bits,
            Some(Ok(prefix)) if prefix <= bits => prefix,
            Some(_) => return Err(format!("`{text}`: the prefix is not from 0 to {bits}")),
        };
        // More than enough, and within what can be counted.
        let host_bits = (bits - prefix).min(24);
        let count = 1_u32 << host_bits;
        let is_block = first.is_ipv4() && host_bits > 1;
        let base = match first {
            IpAddr::V4(it) => IpAddr::V4(Ipv4Addr::from(u32::from(it) & !(count - 1))),
            IpAddr::V6(it) => IpAddr::V6(Ipv6Addr::from(u128::from(it) & !(u128::from(count) - 1))),
        };
        let skipped = Self { first: base, count };
        Ok(if is_block { Self { first: skipped.address(1), count: count - 2 } } else { skipped })
    }
}

impl FromStr for SourceList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// The number of local ports of one address (`net.ipv4.ip_local_port_range`, which IPv6 shares).
pub fn local_ports() -> io::Result<u32> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut bounds = range.split_whitespace().map(str::parse::<u32>);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low <= high => Ok(high - low + 1),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "net.ipv4.ip_local_port_range is not two numbers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::routes::Routes;

    const PORTS: u32 = 28_232;

    fn sources(url: &str, connections: u32, list: Option<&str>) -> Result<Sources, TooFewPorts> {
        let list = list.map(|list| list.parse::<SourceList>().unwrap());
        Sources::new(&[Target::parse(url, &Routes::default()).unwrap()], connections, PORTS, 129, list.as_ref())
    }

    #[test]
    fn a_million_connections_spread_over_loopback() {
        let sources = sources("ws://127.0.0.1:9001", 1_000_000, None).unwrap();
        assert!(sources.per_address() < PORTS / 4);
        let all = sources.of_connections(0, 1_000_000);
        assert_eq!(all.len(), 284);
        assert_eq!(all[0], "127.65.0.1:0".parse().unwrap());
        // A thread's own part agrees with the whole.
        let part = sources.of_connections(20_000, 20_000);
        assert_eq!(part[0], all[(20_000 / sources.per_address()) as usize]);
        assert_eq!(part.last(), Some(&all[(39_999 / sources.per_address()) as usize]));
    }

    #[test]
    fn a_small_run_on_loopback_comes_from_the_address_that_containers_answer() {
        let first = |connections| {
            sources("ws://127.0.0.1:9001", connections, None).unwrap().of_connections(0, 1).first().copied()
        };
        assert_eq!(first(1_000), None);
        assert_eq!(first(1_001), Some("127.65.0.1:0".parse().unwrap()));
    }

    #[test]
    fn no_address_gets_more_connections_than_it_has_ports() {
        let sources = sources("ws://127.0.0.1:1", 100_000, None).unwrap();
        for start in (0..100_000).step_by(20_000) {
            let first_block = start / sources.per_address();
            let last_block = (start + 19_999) / sources.per_address();
            assert_eq!(sources.of_connections(start, 20_000).len() as u32, last_block - first_block + 1);
        }
    }

    #[test]
    fn a_single_address_says_its_limit() {
        for target in ["ws://[::1]:9001", "tcp://192.0.2.1:80"] {
            assert!(sources(target, PORTS, None).unwrap().of_connections(0, 5).is_empty());
            let error = sources(target, PORTS + 1, None).unwrap_err();
            assert!(error.to_string().contains("28232 local ports"));
        }
        assert!(sources("ws+unix:/run/echo", 1_000_000, None).unwrap().of_connections(0, 5).is_empty());
    }

    #[test]
    fn named_addresses_are_used_evenly() {
        let sources = sources("ws://192.0.2.1:80", 50_000, Some("10.0.0.1,10.0.0.9,10.1.0.0/31")).unwrap();
        assert_eq!(sources.per_address(), 12_500);
        let all: Vec<String> = sources.of_connections(0, 50_000).iter().map(|it| it.ip().to_string()).collect();
        assert_eq!(all, ["10.0.0.1", "10.0.0.9", "10.1.0.0", "10.1.0.1"]);
        assert_eq!(sources.of_connections(30_000, 100)[0].ip().to_string(), "10.1.0.0");
    }

    #[test]
    fn blocks_are_cut_to_their_hosts() {
        let block = |text: &str| text.parse::<Block>().map(|block| (block.first.to_string(), block.count));
        assert_eq!(block("127.1.2.3/16"), Ok(("127.1.0.1".to_owned(), 65_534)));
        assert_eq!(block("10.0.0.5"), Ok(("10.0.0.5".to_owned(), 1)));
        assert_eq!(block("fd00::/120"), Ok(("fd00::".to_owned(), 256)));
        for wrong in ["", "x", "10.0.0.1/33", "10.0.0/8", "10.0.0.1/x"] {
            assert!(block(wrong).is_err(), "{wrong}");
        }
    }
}
