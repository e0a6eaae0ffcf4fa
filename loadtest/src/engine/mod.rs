//! Moves the bytes: one ring per thread, batched, with no buffer for an idle connection.
//!
//! `worker` is the loop, `receiving` an echo's way in, `sending` a message's way out; `opening` and `closing` are the two
//! ends of a connection's life, `upkeep` what happens to it in between; `sends` holds what is being sent; `operations` are
//! the submissions and their names. `tls` is the other, simpler way for `wss://` targets.

mod alarms;
mod closing;
mod connection;
mod opening;
mod operations;
mod receiving;
mod sending;
mod sends;
mod stamps;
mod tls;
mod upkeep;
mod worker;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use ringio::{Ring, opcode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockAddr;
use thiserror::Error;

use crate::control::Control;
use crate::message::Messages;
use crate::scenario::{Part, Scenario};
use crate::source::Sources;
use crate::stats::Tally;
use crate::websocket::handshake::UpgradeRequest;

/// What all threads of a run share, read only (but for the control's atomics).
#[derive(Debug)]
pub struct Shared {
    /// The load.
    pub scenario: Scenario,
    /// Where it goes: connections take turns.
    pub endpoints: Vec<Endpoint>,
    /// Where it comes from.
    pub sources: Sources,
    /// How TLS is spoken, if it is.
    pub tls: Option<Arc<ClientConfig>>,
    /// The messages.
    pub messages: Messages,
    /// The phases.
    pub control: Control,
    /// The zero of all times.
    pub epoch: Instant,
    /// How many threads there are.
    pub threads: u32,
    /// How many processors they may use.
    pub cpus: u32,
}

/// One target.
#[derive(Debug)]
pub struct Endpoint {
    /// Its address, in the kernel's form.
    pub address: SockAddr,
    /// The upgrade request.
    pub request: UpgradeRequest,
    /// The name in its certificate, for TLS.
    pub name: Option<ServerName<'static>>,
}

impl Shared {
    /// The endpoint of connection number `number`.
    #[inline]
    #[must_use]
    pub fn endpoint_of(&self, number: u32) -> usize {
        number as usize % self.endpoints.len()
    }

    /// The upgrade request of connection number `number`.
    #[must_use]
    pub fn request_of(&self, number: u32) -> &UpgradeRequest {
        &self.endpoints[self.endpoint_of(number)].request
    }

    /// Bytes of the longest upgrade request.
    #[must_use]
    pub fn longest_request(&self) -> usize {
        self.endpoints.iter().map(|endpoint| endpoint.request.len()).max().unwrap_or(0)
    }
}

/// Why a thread cannot work.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No ring.
    #[error(
        "cannot set up io_uring: {0} (is it disabled by kernel.io_uring_disabled, or by a container's seccomp profile, or is \
         the kernel older than 6.1?)"
    )]
    Ring(io::Error),
    /// A kernel without what is needed here.
    #[error("this kernel's io_uring lacks {0}: Linux {1} or newer is needed")]
    OldKernel(&'static str, &'static str),
    /// The thread cannot be kept on its processor.
    #[error("cannot pin a thread to its processor: {0}")]
    Pin(io::Error),
    /// No epoll, or it broke down.
    #[error("epoll: {0}")]
    Epoll(io::Error),
    /// The ring broke down.
    #[error("io_uring_enter: {0}")]
    Enter(io::Error),
}

/// Runs one thread's part until the control says [`Stop`](crate::control::Phase::Stop).
pub fn run(shared: &Shared, part: Part) -> Result<Tally, EngineError> {
    if shared.tls.is_some() {
        return tls::run(shared, part);
    }
    let mut worker = worker::Worker::new(shared, part)?;
    worker.run().map_err(EngineError::Enter)?;
    Ok(worker.into_tally())
}

/// Whether this kernel has all operations that a run needs: to set options of sockets through the ring, and to bind them.
fn check_kernel(ring: &Ring, sets_options: bool, binds: bool) -> Result<(), EngineError> {
    let lacks = |code| ring.lacks(&[code]).map(|lacking| lacking.is_some()).map_err(EngineError::Ring);
    if binds && lacks(opcode::Bind::CODE)? {
        return Err(EngineError::OldKernel("IORING_OP_BIND", "6.11"));
    }
    // A command of IORING_OP_URING_CMD, for which the kernel cannot be asked: this operation came with the same version.
    if sets_options && lacks(opcode::FutexWait::CODE)? {
        return Err(EngineError::OldKernel("SOCKET_URING_OP_SETSOCKOPT", "6.7"));
    }
    Ok(())
}
