//! Which addresses and ports connections use, by arithmetic: no table leads from a packet to its connection.
//!
//! Clients have `hosts` addresses from a first one on, and the same ports on each: together they are the *flows*, numbered
//! from 0. A connection's key and the count of its lives give its flow, and a packet's address and port give it back: the flows
//! of all keys' first lives lie together, then those of their second ones, and so on. A new life has another address or port than
//! the one before, unless there are too few of them, so that it does not meet segments of the old one, or the server's TIME-WAIT.
//! For the same reason the first lives lie somewhere else in each run: the server remembers those of the run before for a minute.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first port of clients. Those below are of services, and firewalls may know them.
const FIRST_PORT: u16 = 1024;
const PORTS: u32 = u16::MAX as u32 - FIRST_PORT as u32 + 1;

/// Lives are counted in 16 bits.
const LIVES_MAX: u32 = 1 << 16;

/// Where connections come from and go to.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The first of the clients' IPv4 addresses, if there are any.
    pub first_v4: Option<Ipv4Addr>,
    /// The first of the clients' IPv6 addresses, if there are any.
    pub first_v6: Option<Ipv6Addr>,
    /// How many addresses there are of each family.
    pub hosts: u32,
    /// The servers, of families that clients have.
    pub servers: Vec<SocketAddr>,
}

/// The mapping between connections and addresses.
#[derive(Debug)]
pub(super) struct Flows {
    ends: Ends,
    capacity: u32,
    lives: u32,
    /// Which of them is life 0.
    first: u32,
}

impl Flows {
    /// Flows that begin where `draw` has it. `None`: a server's family is not among the clients' addresses, or there are fewer
    /// flows than connections.
    pub(super) fn new(mut ends: Ends, capacity: u32, draw: u64) -> Option<Self> {
        for server in &mut ends.servers {
            let is_reachable = if server.is_ipv4() { ends.first_v4.is_some() } else { ends.first_v6.is_some() };
            if !is_reachable {
                return None;
            }
            *server = SocketAddr::new(server.ip(), server.port()); // packets have no scope
        }
        let flows = (u64::from(ends.hosts) * u64::from(PORTS)).min(u32::MAX.into());
        let lives = (flows / u64::from(capacity.max(1))).min(LIVES_MAX.into()) as u32;
        let first = (draw % u64::from(lives.max(1))) as u32;
        let is_possible = lives > 0 && u16::try_from(ends.servers.len()).is_ok();
        is_possible.then_some(Self { ends, capacity: capacity.max(1), lives, first })
    }

    /// The life after this one.
    pub(super) fn next_life(&self, life: u16) -> u16 {
        ((u32::from(life) + 1) % self.lives) as u16
    }

    /// The flow of a connection.
    pub(super) fn flow(&self, key: u32, life: u16) -> u32 {
        (self.first + u32::from(life)) % self.lives * self.capacity + key
    }

    /// Whose flow it is: the connection's key, and in which of its lives.
    pub(super) fn owner(&self, flow: u32) -> (u32, u16) {
        let life = (flow / self.capacity + self.lives - self.first) % self.lives;
        (flow % self.capacity, life as u16)
    }

    /// The client's end of a flow to that server.
    pub(super) fn local(&self, flow: u32, server: u16) -> SocketAddr {
        let (host, port) = (flow / PORTS, FIRST_PORT + (flow % PORTS) as u16);
        let ip = match (self.server(server), self.ends.first_v4, self.ends.first_v6) {
            (SocketAddr::V4(_), Some(first), _) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().wrapping_add(host))),
            (SocketAddr::V6(_), _, Some(first)) => {
                IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().wrapping_add(host.into())))
            }
            _ => unreachable!("each server's family was looked at"),
        };
        SocketAddr::new(ip, port)
    }

    /// The server of that number.
    pub(super) fn server(&self, server: u16) -> SocketAddr {
        self.ends.servers[usize::from(server)]
    }

    /// How many servers there are.
    pub(super) fn servers(&self) -> usize {
        self.ends.servers.len()
    }

    /// The flow with this client's end, if it is one of ours.
    pub(super) fn find(&self, local: SocketAddr) -> Option<u32> {
        let host = match local.ip() {
            IpAddr::V4(ip) => ip.to_bits().wrapping_sub(self.ends.first_v4?.to_bits()),
            IpAddr::V6(ip) => u32::try_from(ip.to_bits().wrapping_sub(self.ends.first_v6?.to_bits())).ok()?,
        };
        if host >= self.ends.hosts {
            return None;
        }
        let flow = u64::from(host) * u64::from(PORTS) + u64::from(local.port().checked_sub(FIRST_PORT)?);
        (flow < u64::from(self.capacity) * u64::from(self.lives)).then_some(flow as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(hosts: u32) -> Ends {
        Ends {
            first_v4: Some(Ipv4Addr::new(198, 19, 0, 0)),
            first_v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xffff)),
            hosts,
            servers: vec!["10.0.0.1:80".parse().unwrap(), "[fd01::1]:80".parse().unwrap()],
        }
    }

    #[test]
    fn a_packets_addresses_lead_back_to_its_connection() {
        for draw in [0, 1, 844, 845 + 7, u64::MAX] {
            let flows = Flows::new(ends(1 << 16), 5_000_000, draw).expect("flows");
            assert_eq!(flows.lives, 845, "65,536 addresses with 64,512 ports each");
            for key in [0, 1, PORTS - 1, PORTS, 4_999_999] {
                for life in [0, 1, 844] {
                    for server in 0..2 {
                        let local = flows.local(flows.flow(key, life), server);
                        assert_eq!(flows.find(local).map(|flow| flows.owner(flow)), Some((key, life)), "{local}");
                    }
                }
            }
            assert_eq!((flows.next_life(0), flows.next_life(844)), (1, 0));
        }
    }

    #[test]
    fn addresses_that_are_not_ours_lead_nowhere() {
        let flows = Flows::new(ends(2), 10, 5).expect("flows");
        let others =
            ["198.18.255.255:2000", "198.19.0.2:2000", "198.19.0.0:1023", "[fd00::fffe]:2000", "[fe00::]:2000"];
        for other in others {
            assert_eq!(flows.find(other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn too_few_addresses_are_refused() {
        assert!(Flows::new(ends(1), PORTS, 9).is_some() && Flows::new(ends(1), PORTS + 1, 9).is_none());
        assert!(Flows::new(Ends { first_v6: None, ..ends(1) }, 1, 9).is_none(), "a server that no client reaches");
    }
}
