//! The clients' addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The device's own address within its block: the first that is a host's.
const OWN: u32 = 1;

/// The first address of a client within a block.
pub(super) const FIRST_CLIENT: u32 = 2;

/// Addresses of a block that are no client's: the network's, the device's and the broadcast address.
const OTHERS: u32 = 3;

/// Bits of hosts that are counted: more addresses than any number of connections needs.
const HOST_BITS_MAX: u32 = 24;

/// The bits of a host that a block has at least, so that there is a client in it.
const HOST_BITS_MIN: u32 = 2;

/// Addresses with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    first: IpAddr,
    pub(super) prefix: u32,
}

/// The clients' addresses as asked for: a block of one family, or one of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients(Vec<Block>);

impl Block {
    /// Bits of an address of its family.
    fn bits(&self) -> u32 {
        if self.first.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS }
    }

    /// Part `index` of those that `bits` more bits of prefix make, if these have clients.
    fn part(self, index: u32, bits: u32) -> Option<Self> {
        let prefix = self.prefix + bits;
        let host_bits = self.bits().checked_sub(prefix).filter(|&host_bits| host_bits >= HOST_BITS_MIN)?;
        let offset = u128::from(index) << host_bits;
        let first = match self.first {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() | offset as u32).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() | offset).into(),
        };
        Some(Self { first, prefix })
    }

    /// An address of the block.
    pub(super) fn address(&self, index: u32) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() | index).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() | u128::from(index)).into(),
        }
    }

    /// The device's own address.
    pub(super) fn own(&self) -> IpAddr {
        self.address(OWN)
    }

    /// How many clients' addresses there are.
    pub(super) fn hosts(&self) -> u32 {
        (1 << (self.bits() - self.prefix).min(HOST_BITS_MAX)) - OTHERS
    }
}

impl Clients {
    /// Whether there are any of that address's family.
    #[must_use]
    pub fn has_family_of(&self, address: IpAddr) -> bool {
        self.0.iter().any(|block| block.first.is_ipv4() == address.is_ipv4())
    }

    /// Blocks for each of `threads` threads; `None` if there are too few addresses.
    pub(super) fn divide(&self, threads: u32) -> Option<Vec<Vec<Block>>> {
        let bits = threads.next_power_of_two().trailing_zeros();
        (0..threads).map(|thread| self.0.iter().map(|block| block.part(thread, bits)).collect()).collect()
    }
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no block of addresses like 198.19.0.0/16 or fd19::/64");
        let (address, prefix) = text.trim().split_once('/').ok_or_else(wrong)?;
        let (address, prefix) =
            (address.parse::<IpAddr>().map_err(|_| wrong())?, prefix.parse::<u32>().map_err(|_| wrong())?);
        let bits = if address.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS };
        if !(1..=bits - HOST_BITS_MIN).contains(&prefix) {
            return Err(format!("`{text}`: the prefix is not from 1 to {}", bits - HOST_BITS_MIN));
        }
        let first = match address {
            IpAddr::V4(it) => Ipv4Addr::from_bits(it.to_bits() & (u32::MAX << (bits - prefix))).into(),
            IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() & (u128::MAX << (bits - prefix))).into(),
        };
        Ok(Self { first, prefix })
    }
}

impl FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let blocks = text.split(',').map(str::parse).collect::<Result<Vec<Block>, _>>()?;
        let is_of_one_family = blocks.len() == 2 && blocks[0].first.is_ipv4() == blocks[1].first.is_ipv4();
        if blocks.len() > 2 || is_of_one_family {
            return Err("one block of IPv4 addresses and one of IPv6 addresses at most".to_owned());
        }
        Ok(Self(blocks))
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, block) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}/{}", block.first, block.prefix)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(clients: &str, threads: u32) -> Option<Vec<Vec<(String, String, u32)>>> {
        let parts = clients.parse::<Clients>().unwrap().divide(threads)?;
        let shown = |block: &Block| (block.own().to_string(), block.address(FIRST_CLIENT).to_string(), block.hosts());
        Some(parts.iter().map(|blocks| blocks.iter().map(shown).collect()).collect())
    }

    #[test]
    fn each_thread_has_a_part_of_each_block() {
        let part = |own: &str, first: &str, hosts| (own.to_owned(), first.to_owned(), hosts);
        assert_eq!(parts("198.19.7.7/16", 1), Some(vec![vec![part("198.19.0.1", "198.19.0.2", 65_533)]]));
        let three = parts("198.19.0.0/16,fd19::/112", 3).unwrap();
        let last = vec![part("198.19.128.1", "198.19.128.2", 16_381), part("fd19::8001", "fd19::8002", 16_381)];
        assert_eq!((three.len(), &three[2]), (3, &last));
        assert_eq!(parts("10.0.0.0/30", 1).unwrap()[0], [part("10.0.0.1", "10.0.0.2", 1)]);
        assert_eq!(parts("fd19::/16", 2).unwrap()[1], [part("fd19:8000::1", "fd19:8000::2", (1 << 24) - 3)]);
        assert_eq!(parts("10.0.0.0/30", 2), None);
    }

    #[test]
    fn what_is_no_block_of_clients_is_refused() {
        for wrong in ["", "x", "10.0.0.1", "10.0.0.0/31", "10.0.0.0/0", "fd00::/127", "10.0.0.0/8,11.0.0.0/8"] {
            assert!(wrong.parse::<Clients>().is_err(), "{wrong}");
        }
        assert_eq!("10.1.2.3/8,fd00::1/64".parse::<Clients>().unwrap().to_string(), "10.0.0.0/8,fd00::/64");
    }
}
