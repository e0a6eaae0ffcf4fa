//! Engines move the bytes: the list of engines, which of them this machine can run, and their start.
//!
//! An engine is a function that runs a worker until it is told to stop. Everything that does not depend on how bytes are
//! moved is written once: the lifecycle of connections in `connection`; threads, admission, the clock and the drain here.
//! Code shared by the two engines with ordinary descriptors is in `sockets`.

use std::io;
use std::os::fd::OwnedFd;

use thiserror::Error;

use crate::worker::{Plan, WhenFull};

mod accept_error;
mod admission;
mod clock;
mod connection_log;
mod doorkeeper;
pub mod epoll;
mod notice;
pub mod sockets;
pub mod stopping;
mod threads;
#[cfg(all(feature = "tokio-uring", not(target_env = "musl")))]
pub mod tokio_uring;
pub mod uring;

pub(crate) use threads::{Controls, Workers};

/// Maximum of connections of a worker, also with a higher `RLIMIT_NOFILE`: the kernel's limit of a ring's table of direct
/// descriptors (`IORING_MAX_FIXED_FILES`). Containers have limits of 2^30, and each worker reserves its table's memory.
const TABLE_MAX: u64 = 1 << 20;

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

    /// Whether this machine can run it: asks the kernel for all that the engine needs.
    pub fn probe(self) -> Result<(), EngineError> {
        let outcome = match self {
            Self::Uring => uring::probe(),
            #[cfg(all(feature = "tokio-uring", not(target_env = "musl")))]
            Self::TokioUring => tokio_uring::probe(),
            #[cfg(any(not(feature = "tokio-uring"), target_env = "musl"))]
            Self::TokioUring => {
                let why = "this build is without tokio-uring: the cargo feature is off, or the target is musl";
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            }
            Self::Epoll => Ok(()),
        };
        outcome.map_err(|source| EngineError::Start { engine: self, source })
    }

    /// The best engine that this machine can run, and why it is not the native one.
    pub(crate) fn best() -> (Self, Option<String>) {
        match Self::Uring.probe() {
            Ok(()) => (Self::Uring, None),
            Err(EngineError::Start { engine, source }) => {
                (Self::Epoll, Some(format!("{source}{}", cause(engine, &source))))
            }
            Err(e) => (Self::Epoll, Some(e.to_string())),
        }
    }

    /// The name of a worker's descriptors, and how many connections `descriptors` (`RLIMIT_NOFILE`) allow.
    pub(crate) fn table(self, descriptors: u64) -> (u64, &'static str) {
        match self {
            Self::Uring => (descriptors.min(TABLE_MAX), "direct descriptors"),
            Self::TokioUring | Self::Epoll => {
                (descriptors.saturating_sub(sockets::table::RESERVED).min(TABLE_MAX), "descriptors")
            }
        }
    }

    /// The connections of a worker if `descriptors` is the limit, with any engine.
    #[doc(hidden)]
    pub fn table_of_any(descriptors: u64) -> u64 {
        [Self::Uring, Self::TokioUring, Self::Epoll]
            .map(|engine| engine.table(descriptors).0)
            .into_iter()
            .fold(u64::MAX, u64::min)
    }

    /// Whether its workers can have descriptor tables of their own on this machine, or why not. The native engine's tables
    /// are those of its rings.
    pub(crate) fn probe_tables(self) -> io::Result<()> {
        match self {
            Self::Uring => Ok(()),
            Self::TokioUring | Self::Epoll => sockets::table::probe(),
        }
    }

    /// Starts a worker for each plan.
    pub(crate) fn start(
        self,
        plans: Vec<Plan>,
        listeners: Vec<OwnedFd>,
        when_full: WhenFull,
    ) -> Result<Workers, EngineError> {
        match self {
            Self::Uring => uring::start(plans, listeners, when_full),
            #[cfg(all(feature = "tokio-uring", not(target_env = "musl")))]
            Self::TokioUring => sockets::start(self, plans, &listeners, when_full, tokio_uring::run),
            #[cfg(any(not(feature = "tokio-uring"), target_env = "musl"))]
            Self::TokioUring => self.probe().map(|()| unreachable!("the probe fails")),
            Self::Epoll => sockets::start(self, plans, &listeners, when_full, epoll::run),
        }
    }
}

/// Why an engine cannot run.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The kernel does not offer what the engine needs.
    #[error("cannot set up the engine {}: {source}{}", .engine.name(), remedy(*.engine, .source))]
    Start {
        /// Which engine.
        engine: Engine,
        /// What the kernel says.
        source: io::Error,
    },
    /// Something that any engine needs.
    #[error("cannot {what}: {source}")]
    System {
        /// What it is for.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> EngineError {
    move |source| EngineError::System { what, source }
}

/// The meaning of such an error, and its remedy.
fn remedy(engine: Engine, error: &io::Error) -> String {
    let advice = match (engine, error.raw_os_error()) {
        (Engine::Epoll, _) => "",
        (_, Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP)) => {
            ": use --engine epoll or auto"
        }
        (_, None) if error.kind() == io::ErrorKind::Unsupported => ": use --engine epoll or auto",
        _ => "",
    };
    format!("{}{advice}", cause(engine, error))
}

fn cause(engine: Engine, error: &io::Error) -> &'static str {
    match (engine, error.raw_os_error()) {
        (_, Some(libc::EMFILE)) => "; too many descriptors: raise the limit (ulimit -Hn) or use fewer workers",
        (Engine::Epoll, _) => "",
        (_, Some(libc::EPERM | libc::EACCES)) => {
            "; io_uring is forbidden here (see sysctl kernel.io_uring_disabled, or the container's seccomp profile)"
        }
        (_, Some(libc::ENOSYS)) => "; this kernel has no io_uring, or a seccomp profile hides it",
        (Engine::Uring, Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            "; this kernel is too old for it (Linux 6.13 or newer is needed)"
        }
        (_, Some(libc::EINVAL | libc::EOPNOTSUPP)) => "; this kernel is too old for it",
        (_, Some(libc::ENOMEM)) => "; not enough memory, or RLIMIT_MEMLOCK is too low (ulimit -l)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the probe has found missing itself has no error number.
    #[test]
    fn what_runs_instead_is_named_whatever_is_missing() {
        let old = || io::Error::new(io::ErrorKind::Unsupported, "io_uring keeps closed connections");
        for source in [old(), io::Error::from_raw_os_error(libc::EINVAL), io::Error::from_raw_os_error(libc::EPERM)] {
            let error = EngineError::Start { engine: Engine::Uring, source };
            assert!(error.to_string().ends_with("use --engine epoll or auto"), "{error}");
        }
    }
}
