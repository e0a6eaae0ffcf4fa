//! A run's network, where it is not the kernel's alone: `--stack user`.

use super::{RunError, Settings};
use crate::server::ServerChoice;
use crate::target::{Address, Target};
use crate::tun::Network;

/// The devices of `--stack user`, if that was asked for.
pub(super) fn set_up(settings: &Settings, threads: u32) -> Result<Option<Network>, RunError> {
    let own = matches!(settings.server, ServerChoice::Own { .. }).then_some(settings.scenario.connections);
    let set_up = |user| Network::set_up(user, threads, own);
    Ok(settings.user_stack.as_ref().map(set_up).transpose()?)
}

/// Refuses targets that packets from a TUN device do not get to.
pub(super) fn check_reach(targets: &[Target]) -> Result<(), RunError> {
    for (target, address) in targets.iter().flat_map(|target| target.addresses.iter().map(move |it| (target, it))) {
        let why = match address {
            Address::Unix(_) => "it is a socket in the file system",
            Address::Inet(address) if address.ip().is_loopback() => {
                "the kernel takes no packets for its loopback addresses from a device; name another address of this \
                 machine, or leave the URL out for a server in a network namespace"
            }
            Address::Inet(_) => continue,
        };
        return Err(RunError::Unreachable(target.url(), why));
    }
    Ok(())
}
