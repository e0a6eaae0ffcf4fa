//! A run's network, where it is not the kernel's alone: `--stack user`.

use super::{RunError, Settings};
use crate::server::ServerChoice;
use crate::target::{Address, Target};
use crate::tun::{Clients, Network};

/// The devices of `--stack user`, if that was asked for.
pub(super) fn set_up(settings: &Settings, threads: u32) -> Result<Option<Network>, RunError> {
    let own = matches!(settings.server, ServerChoice::Own { .. }).then_some(settings.scenario.connections);
    let set_up = |user| Network::set_up(user, threads, own);
    Ok(settings.user_stack.as_ref().map(set_up).transpose()?)
}

/// Keeps of each target the addresses of families that clients have, as a machine without IPv6 does. Refuses one without any, and
/// one that packets from a TUN device do not get to.
pub(crate) fn keep_reachable(targets: &mut [Target], clients: &Clients) -> Result<(), RunError> {
    for target in targets {
        let url = target.url();
        let is_of_clients = |it: &Address| matches!(it, Address::Inet(it) if clients.has_family_of(it.ip()));
        // Without any of their families the obstacle of another one may be the better answer.
        let has_some = target.addresses.iter().any(is_of_clients);
        if let Some(why) = target.addresses.iter().filter(|it| !has_some || is_of_clients(it)).find_map(obstacle) {
            return Err(RunError::Unreachable(url, why));
        }
        target.addresses.retain(is_of_clients);
        if target.addresses.is_empty() {
            let why =
                "--clients has no addresses of its family (it takes a block of each, like 198.19.0.0/16,fd19::/64)";
            return Err(RunError::Unreachable(url, why));
        }
    }
    Ok(())
}

/// Why packets from a device never get to an address, if they do not.
fn obstacle(address: &Address) -> Option<&'static str> {
    match address {
        Address::Unix(_) => Some("it is a socket in the file system"),
        Address::Inet(address) if address.ip().is_loopback() => Some(
            "the kernel takes no packets for its loopback addresses from a device; name another address of this machine, or \
             leave the URL out for a server in a network namespace",
        ),
        Address::Inet(address) if address.ip().is_unspecified() => Some(
            "it stands for all addresses of a machine; name one of them (a server of this machine is also at that of the first \
             device, 198.19.0.1 unless --clients says otherwise)",
        ),
        Address::Inet(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::routes::Routes;

    fn kept(url: &str, clients: &str) -> Result<Vec<String>, RunError> {
        let routes = ["both.example:80:10.0.0.1,fd01::1", "mixed.example:80:127.0.1.1,fd01::1"];
        let resolve = routes.map(|it| it.parse().expect("a route")).to_vec();
        let mut targets = vec![Target::parse(url, &Routes { resolve, ..Routes::default() })?];
        let clients: Clients = clients.parse().expect("blocks");
        keep_reachable(&mut targets, &clients)?;
        Ok(targets[0].addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_of_families_that_clients_lack_are_dropped() {
        for (clients, expected) in [
            ("198.19.0.0/16", &["10.0.0.1:80"][..]),
            ("fd19::/64", &["[fd01::1]:80"]),
            ("198.19.0.0/16,fd19::/64", &["10.0.0.1:80", "[fd01::1]:80"]),
        ] {
            assert_eq!(kept("ws://both.example/", clients).expect("reachable"), expected, "{clients}");
        }
        // An address that is not used is no obstacle.
        assert_eq!(kept("ws://mixed.example/", "fd19::/64").expect("reachable"), ["[fd01::1]:80"]);
        let error =
            kept("ws://mixed.example/", "198.19.0.0/16").expect_err("loopback is the only address of this family");
        assert!(error.to_string().contains("loopback"), "{error}");
    }

    #[test]
    fn what_no_packet_gets_to_is_refused() {
        for (url, word) in [
            ("ws://[fd01::1]/", "--clients"),
            ("ws://0.0.0.0:9001/", "all addresses"),
            ("ws://[::]:9001/", "all addresses"),
            ("ws://127.1.2.3/", "loopback"),
            ("ws://[::1]/", "loopback"),
            ("ws+unix:/socket", "file system"),
        ] {
            let error = kept(url, "198.19.0.0/16").expect_err(url);
            assert!(error.is_usage() && error.to_string().contains(word), "{url}: {error}");
        }
    }
}
