//! Which local addresses the connections come from, so that ports never run out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use thiserror::Error;

/// One in so many local ports of a loopback address is used. Addresses are plenty there, and `connect` searches for a
/// free port one by one, in one half of the range before the other: beyond a third of the range that search takes most
/// of the time.
const PORT_SHARE: u32 = 8;

/// Source addresses for a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// The first address of the run's own block; `None` to let the kernel choose.
    first: Option<Ipv4Addr>,
    /// Connections per address.
    per_address: u32,
}

/// Why there are not enough.
#[derive(Debug, Error)]
#[error(
    "{wanted} connections to {target} do not fit into the {available} local ports of one source address; use an IPv4 \
     loopback target (127.0.0.1), or widen net.ipv4.ip_local_port_range"
)]
pub struct TooFewPorts {
    wanted: u32,
    available: u32,
    target: SocketAddr,
}

impl Sources {
    /// Addresses for `connections` connections to `target`.
    ///
    /// An IPv4 loopback target is reached from all of 127.0.0.0/8, so every run takes a block of its own (`salt`
    /// chooses among 128). To any other target, and over IPv6, whose loopback is a single address, the kernel chooses
    /// one address, and that one's ports (`ports`) are the limit.
    pub fn new(target: SocketAddr, connections: u32, ports: u32, salt: u32) -> Result<Self, TooFewPorts> {
        match target.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => {
                let first = Ipv4Addr::new(127, 64 + (salt % 128) as u8, 0, 1);
                Ok(Self { first: Some(first), per_address: (ports / PORT_SHARE).max(1) })
            }
            _ if connections > ports => Err(TooFewPorts { wanted: connections, available: ports, target }),
            _ => Ok(Self { first: None, per_address: u32::MAX }),
        }
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
        let Some(base) = self.first else { return Vec::new() };
        let last = first + count.max(1) - 1;
        (first / self.per_address..=last / self.per_address)
            .map(|block| SocketAddr::from((Ipv4Addr::from(u32::from(base) + block), 0)))
            .collect()
    }
}

/// How many local ports one address has (`net.ipv4.ip_local_port_range`, which IPv6 shares).
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

    const PORTS: u32 = 28_232;

    #[test]
    fn a_million_connections_spread_over_loopback() {
        let target = "127.0.0.1:9001".parse().unwrap();
        let sources = Sources::new(target, 1_000_000, PORTS, 129).unwrap();
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
    fn no_address_gets_more_connections_than_it_has_ports() {
        let sources = Sources::new("127.0.0.1:1".parse().unwrap(), 100_000, PORTS, 0).unwrap();
        for start in (0..100_000).step_by(20_000) {
            let first_block = start / sources.per_address();
            let last_block = (start + 19_999) / sources.per_address();
            assert_eq!(sources.of_connections(start, 20_000).len() as u32, last_block - first_block + 1);
        }
    }

    #[test]
    fn a_single_address_says_its_limit() {
        for target in ["[::1]:9001", "192.0.2.1:80"] {
            let target: SocketAddr = target.parse().unwrap();
            assert!(Sources::new(target, PORTS, PORTS, 0).unwrap().of_connections(0, 5).is_empty());
            let error = Sources::new(target, PORTS + 1, PORTS, 0).unwrap_err();
            assert!(error.to_string().contains("28232 local ports"));
        }
    }
}
