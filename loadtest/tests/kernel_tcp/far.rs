//! A second namespace behind that of the bench, which is the router between the two. Their link has no offloads: what is on it has
//! checksums and segments, and these are looked at where they arrive.

use std::net::TcpListener;

use ringload::tun::{Device, Network};

use super::bench::{enter, ip, listeners, network, read_packet};

pub(crate) struct Far {
    /// The bench's end of the link, and that of this namespace.
    ends: [Network; 2],
    /// Packets to the far end, and the length of the longest.
    pub(crate) packets: usize,
    pub(crate) longest: usize,
}

impl Far {
    /// Makes the namespace, with listening sockets of both families.
    pub(crate) fn new() -> (Self, [TcpListener; 2]) {
        let near = network("near", "10.9.0.0/24,fd09::/64", false);
        let made = std::thread::spawn(|| {
            enter().expect("it was tried");
            ip("link set lo up");
            let far = network("far", "10.9.0.4/30,fd09::4/126", false);
            ip("route add 198.19.0.0/24 dev far0");
            ip("-6 route add fd19::/64 dev far0");
            (far, listeners(["10.9.0.5:0", "[fd09::5]:0"]))
        });
        let (far, listeners) = made.join().expect("a namespace");
        (Self { ends: [near, far], packets: 0, longest: 0 }, listeners)
    }

    pub(crate) fn devices(&self) -> [&Device; 2] {
        self.ends.each_ref().map(|network| &network.lanes[0].device)
    }

    /// Hands on all packets that wait.
    pub(crate) fn hand_on(&mut self) {
        let [near, far] = self.devices();
        let (mut packets, mut longest) = (self.packets, self.longest);
        while let Some(packet) = read_packet(near) {
            (packets, longest) = (packets + 1, longest.max(packet.len()));
            write(far, &packet);
        }
        while let Some(packet) = read_packet(far) {
            write(near, &packet);
        }
        (self.packets, self.longest) = (packets, longest);
    }
}

/// The kernel takes all packets that another one has made.
fn write(device: &Device, packet: &[u8]) {
    assert_eq!(rustix::io::write(device, packet), Ok(packet.len()));
}
