//! Transports: carry out the wants of the [driver](crate::driver), and report events to it.
//!
//! There are three transports: `ring` on `io_uring` and `epoll` for machines that forbid it, each with one ring or epoll set
//! per thread, and `user`, a TCP of our own over one TUN device per thread. `layer` is what lies between them and the driver:
//! nothing, or TLS. `sends` holds the send buffers.

mod epoll;
mod layer;
mod ring;
mod sends;
mod tls;
mod user;

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockAddr;
use thiserror::Error;

use crate::control::Control;
use crate::message::Messages;
use crate::scenario::{Part, Scenario, Transport};
use crate::source::Sources;
use crate::stack::ConfigError;
use crate::stats::Tally;
use crate::tun::Network;
use crate::websocket::handshake::UpgradeRequest;

/// State shared by all threads of a run, read only (except for the control's atomics).
#[derive(Debug)]
pub struct Shared {
    /// The load.
    pub scenario: Scenario,
    /// The targets: connections are spread over them in turn.
    pub endpoints: Vec<Endpoint>,
    /// The addresses of all endpoints, in the kernel's form.
    pub addresses: Vec<SockAddr>,
    /// The source addresses.
    pub sources: Sources,
    /// The TLS configuration, if TLS is used.
    pub tls: Option<Arc<ClientConfig>>,
    /// The messages.
    pub messages: Messages,
    /// The phases.
    pub control: Control,
    /// The zero of all times.
    pub epoch: Instant,
    /// The number of threads.
    pub threads: u32,
    /// The number of processors that they may use.
    pub cpus: u32,
    /// When the server last answered a Close, or ended TCP behind it, in nanoseconds since the epoch.
    pub closing_progress_ns: AtomicU64,
    /// The transport: not [`Transport::Auto`] any more.
    pub transport: Transport,
    /// The devices of [`Transport::Tun`].
    pub network: Option<Network>,
}

/// One target.
#[derive(Debug)]
pub struct Endpoint {
    /// Which of all addresses are its own: one at least.
    pub addresses: Range<usize>,
    /// The upgrade request.
    pub request: UpgradeRequest,
    /// The name in its certificate, for TLS.
    pub name: Option<ServerName<'static>>,
}

impl Shared {
    /// The endpoint of connection number `number`.
    #[inline]
    #[must_use]
    pub fn endpoint_of(&self, number: u32) -> &Endpoint {
        &self.endpoints[number as usize % self.endpoints.len()]
    }

    /// Bytes of the longest upgrade request.
    #[must_use]
    pub fn longest_request(&self) -> usize {
        self.endpoints.iter().map(|endpoint| endpoint.request.max_len()).max().unwrap_or(0)
    }
}

/// Why a thread cannot work.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No ring.
    #[error(
        "cannot set up io_uring: {0} (is it disabled by kernel.io_uring_disabled, or by a container's seccomp profile, or is \
         the kernel older than 6.13?)"
    )]
    Ring(io::Error),
    /// A kernel without what is needed here.
    #[error(
        "this kernel's io_uring lacks closes that take effect while other connections stay: Linux 6.13 or newer is needed"
    )]
    OldKernel,
    /// The thread cannot be kept on its processor.
    #[error("cannot pin a thread to its processor: {0}")]
    Pin(io::Error),
    /// No epoll, or it broke down.
    #[error("epoll: {0}")]
    Epoll(io::Error),
    /// The ring broke down.
    #[error("io_uring_enter: {0}")]
    Enter(io::Error),
    /// The TUN device broke down.
    #[error("TUN device: {0}")]
    Tun(io::Error),
    /// There can be no stack for these connections.
    #[error("--stack user: {0}{hint}", hint = hint(.0))]
    Stack(ConfigError),
}

/// What can be done about it.
fn hint(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::Addresses => " (--clients names them)",
        ConfigError::Mtu(_) => " (a device that was prepared has its own: `ip link set NAME mtu 1500`)",
    }
}

/// Runs one thread's part until the control says [`Stop`](crate::control::Phase::Stop).
pub fn run(shared: &Shared, part: Part) -> Result<Tally, EngineError> {
    if let Some(network) = &shared.network {
        return user::run(shared, network, part);
    }
    match shared.transport {
        Transport::Epoll => epoll::run(shared, part).map_err(EngineError::Epoll),
        _ => ring::run(shared, part),
    }
}

/// The transport for a run: the ring, or epoll if it is `wanted` or if this machine forbids rings, which is said in one line.
pub fn choose(wanted: Transport) -> Result<Transport, EngineError> {
    if matches!(wanted, Transport::Epoll | Transport::Tun) {
        return Ok(wanted);
    }
    match ring::check() {
        Ok(()) => Ok(Transport::Ring),
        Err(error) if wanted == Transport::Ring => Err(error),
        Err(error) => {
            // A terminal that has hung up takes nothing, and is no reason to panic.
            let _ = writeln!(io::stderr(), "ringload: using epoll, which costs more per message: {error}");
            Ok(Transport::Epoll)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stack_that_cannot_be_has_its_own_remedy() {
        let said = [ConfigError::Addresses, ConfigError::Mtu(500)].map(|error| EngineError::Stack(error).to_string());
        assert!(said[0].contains("--clients") && !said[1].contains("--clients"), "{said:?}");
    }
}
