//! Who moves the bytes: which engines there are, which of them this machine can run, and the start of one.
//!
//! An engine is a function that runs a worker until it is told to stop. What does not depend on how bytes are moved is
//! written once, here: threads, the choice of a worker for each connection, deadlines, the drain. What the two engines
//! with ordinary descriptors have in common beyond that is in `sockets`.

use std::io;
use std::net::TcpListener;

use thiserror::Error;

use crate::config::Config;

pub mod balance;
pub mod deadline;
pub mod epoll;
mod fairness;
mod notice;
pub mod sockets;
pub mod stopping;
mod threads;
pub mod tokio_uring;
pub mod uring;

pub use threads::{Controls, Workers};

/// The engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Native `io_uring`.
    Uring,
    /// The tokio-uring runtime.
    TokioUring,
    /// epoll.
    Epoll,
}

impl Engine {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::TokioUring => "tokio-uring",
            Self::Epoll => "epoll",
        }
    }

    /// Whether this machine can run it: asks the kernel for what the engine needs.
    pub fn probe(self) -> Result<(), EngineError> {
        let outcome = match self {
            Self::Uring => uring::probe(),
            Self::TokioUring => tokio_uring::probe(),
            Self::Epoll => Ok(()),
        };
        outcome.map_err(|source| EngineError::Start { engine: self, source })
    }

    /// The best that this machine can run, and why it is not the native one.
    pub fn best() -> (Self, Option<EngineError>) {
        match Self::Uring.probe() {
            Ok(()) => (Self::Uring, None),
            Err(reason) => (Self::Epoll, Some(reason)),
        }
    }

    /// How many connections one worker can hold, and what they are called, if `descriptors` is the limit on
    /// descriptors (`RLIMIT_NOFILE`).
    pub fn table(self, descriptors: u64) -> (u64, &'static str) {
        match self {
            Self::Uring => (descriptors.min(uring::DIRECT_DESCRIPTORS_MAX), "direct descriptors"),
            Self::TokioUring | Self::Epoll => (descriptors.saturating_sub(sockets::table::RESERVED), "descriptors"),
        }
    }

    /// Starts the workers and whoever accepts for them.
    pub fn start(self, config: &Config, listeners: Vec<TcpListener>) -> Result<Workers, EngineError> {
        match self {
            Self::Uring => uring::start(config, listeners),
            Self::TokioUring => sockets::start(config, listeners, tokio_uring::run),
            Self::Epoll => sockets::start(config, listeners, epoll::run),
        }
    }
}

/// Why an engine cannot run.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The kernel does not give what the engine needs.
    #[error("cannot set up the engine {}: {source}{}", .engine.name(), remedy(*.engine, .source))]
    Start { engine: Engine, source: io::Error },
    /// Something that any engine needs.
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: io::Error },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> EngineError {
    move |source| EngineError::System { what, source }
}

fn remedy(engine: Engine, error: &io::Error) -> &'static str {
    match (engine, error.raw_os_error()) {
        (_, Some(libc::EMFILE)) => "; too many descriptors: raise the limit (ulimit -Hn) or use fewer workers",
        (Engine::Epoll, _) => "",
        (_, Some(libc::EPERM | libc::EACCES)) => {
            "; io_uring is forbidden here (see sysctl kernel.io_uring_disabled, or the container's seccomp profile): \
             use --engine epoll or auto"
        }
        (_, Some(libc::ENOSYS)) => {
            "; this kernel has no io_uring, or a seccomp profile hides it: use --engine epoll or auto"
        }
        (_, Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            "; this kernel is too old for it (Linux 6.1 or newer is needed): use --engine epoll or auto"
        }
        (_, Some(libc::ENOMEM)) => "; not enough memory, or RLIMIT_MEMLOCK is too low (ulimit -l)",
        _ => "",
    }
}
