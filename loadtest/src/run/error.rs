//! Errors of a run.

use std::io;

use thiserror::Error;

use super::STOP_TIMEOUT;
use crate::engine::EngineError;
use crate::output::files::WriteError;
use crate::own_server::OwnServerError;
use crate::server_command::ServerCommandError;
use crate::source::TooFewPorts;
use crate::target::TargetError;
use crate::tls::TlsError;
use crate::tun::TunError;
use crate::websocket::handshake::template::TemplateError;

/// Why there was no run, or no end to it.
#[derive(Debug, Error)]
pub enum RunError {
    /// The URL.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The server started for the run.
    #[error(transparent)]
    OwnServer(#[from] OwnServerError),
    /// The server of `--server-cmd`.
    #[error(transparent)]
    ServerCommand(#[from] ServerCommandError),
    /// Values for placeholders.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Too many for one table of descriptors.
    #[error(
        "{0} connections through epoll do not fit into the {1} descriptors that this process may have (RLIMIT_NOFILE; \
         raise it with `ulimit -n`; io_uring has no such limit)"
    )]
    Descriptors(u32, u64),
    /// Local ports.
    #[error(transparent)]
    Ports(#[from] TooFewPorts),
    /// The devices of `--stack user`.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// A target that no TUN device leads to.
    #[error("--stack user does not reach {0}: {1}")]
    Unreachable(String, &'static str),
    /// A thread's engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Messages that cannot be seen.
    #[error("--size 0 makes no messages without frames: choose at least 1 with tcp")]
    EmptyTcp,
    /// Frames where there are none.
    #[error("--ping-every sends frames, and tcp has none")]
    PingTcp,
    /// Compressed messages where there is nothing that says so.
    #[error("--deflate is an extension of WebSocket, and tcp has none")]
    DeflateTcp,
    /// Answers where there are none to be counted.
    #[error("tcp has no messages to be told apart: --expect takes echo and any there, and --welcome nothing")]
    ExpectTcp,
    /// A processor that is not there.
    #[error("processor {0} of --cpus or --server-cpus cannot be used here (usable: {1:?})")]
    Cpu(usize, Vec<usize>),
    /// Too few threads for the descriptor limit.
    #[error(
        "--threads {threads} is too few: {connections} connections need {needed}, because each ring holds at most \
         {limit} descriptors (RLIMIT_NOFILE; raise it with `ulimit -n`)"
    )]
    TooFewThreads {
        /// As asked for.
        threads: u32,
        /// To open.
        connections: u32,
        /// At least.
        needed: u32,
        /// The limit on descriptors.
        limit: u64,
    },
    /// A value that a search cannot try.
    #[error("{0}")]
    Step(String),
    /// The process to sample.
    #[error("cannot read the processor time and memory of process {0}: {1}")]
    Sample(u32, io::Error),
    /// A file to write.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Where member 0 is to listen.
    #[error("cannot listen at {0} (--meet) for the other members: {1}")]
    Meet(String, io::Error),
    /// It is over for all members.
    #[error("{said}")]
    Ended {
        /// The exit code.
        code: u8,
        /// Why.
        said: String,
    },
    /// Something else that the system refused.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// A thread that does not return.
    #[error("threads did not end within {} s", STOP_TIMEOUT.as_secs())]
    Stuck,
}

impl RunError {
    /// Whether the arguments are to blame.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        if let Self::Target(error) = self {
            return error.is_usage();
        }
        matches!(
            self,
            Self::ServerCommand(ServerCommandError::Syntax(_))
                | Self::Cpu(..)
                | Self::TooFewThreads { .. }
                | Self::EmptyTcp
                | Self::PingTcp
                | Self::DeflateTcp
                | Self::ExpectTcp
                | Self::Unreachable(..)
                | Self::Tun(TunError::Divide { .. })
                | Self::Step(_)
        )
    }
}
