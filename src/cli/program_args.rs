//! The flags of the program around the server: admin listener, log, signals, configuration file.

#![allow(clippy::doc_markdown)] // help texts for a terminal, where backticks are noise

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use tracing::level_filters::LevelFilter;

use super::values::parse_seconds;
use crate::admin::AdminAddress;

/// The flags of `ringecho serve` that do not concern the library.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ProgramArgs {
    /// Address for /healthz, /readyz, /metrics and /status.json: ADDR:PORT, unix:PATH or unix:@NAME [default: none].
    #[arg(long, env = "RINGECHO_ADMIN", value_name = "ADDR")]
    pub(super) admin: Option<AdminAddress>,

    /// How long to keep serving after a signal to stop, in seconds, while /readyz already says 503: time for load
    /// balancers to notice.
    #[arg(long, env = "RINGECHO_DRAIN_DELAY", value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    pub(super) drain_delay: Duration,

    /// Level of the log, on standard error. SIGHUP reads it again from the configuration file.
    #[arg(long, env = "RINGECHO_LOG_LEVEL", value_enum, value_name = "LEVEL", default_value = "info")]
    pub(super) log_level: LogLevel,

    /// Format of log lines.
    #[arg(long, env = "RINGECHO_LOG_FORMAT", value_enum, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,

    /// Log the end of each connection: the client's address, its duration and the cause; at most 1,000 lines a second
    /// per worker.
    #[arg(long, env = "RINGECHO_LOG_CONNECTIONS", value_parser = BoolishValueParser::new())]
    pub(super) log_connections: bool,

    /// TOML file with settings, whose keys are the names of the flags. Flags and environment variables win over it.
    #[arg(long, env = "RINGECHO_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Print all settings, as a file for --config, with the origin of each, and exit.
    #[arg(long, env = "RINGECHO_PRINT_CONFIG", value_parser = BoolishValueParser::new())]
    pub(super) print_config: bool,
}

/// See [`ProgramArgs::log_level`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogLevel {
    /// Nothing.
    Off,
    /// Failures.
    Error,
    /// Shortages, and slow readers that were closed.
    Warn,
    /// Stops and reloads of the server; connections with --log-connections.
    Info,
    /// Everything.
    Debug,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}

/// See [`ProgramArgs::log_format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Time, level, message.
    Text,
    /// One JSON object per line.
    Json,
}
