//! What concerns the program around the server: admin listener, logs, signals, configuration file.

#![allow(clippy::doc_markdown)] // help texts for a terminal, where backticks are noise

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use tracing::level_filters::LevelFilter;

use crate::admin::AdminAddress;

/// What `ringecho serve` takes beside what the server itself does.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ProgramArgs {
    /// Where to answer /healthz, /readyz, /metrics and /status.json: ADDR:PORT, unix:PATH or unix:@NAME [default: nowhere].
    #[arg(long, env = "RINGECHO_ADMIN", value_name = "ADDR")]
    pub(super) admin: Option<AdminAddress>,

    /// How long to go on serving when told to stop, while /readyz says 503 already, so that load balancers go elsewhere first.
    #[arg(long, env = "RINGECHO_DRAIN_DELAY", value_name = "SECONDS", default_value = "0", value_parser = super::parse_seconds)]
    pub(super) drain_delay: Duration,

    /// How much to log, on standard error. SIGHUP has the configuration file's value read again.
    #[arg(long, env = "RINGECHO_LOG_LEVEL", value_enum, value_name = "LEVEL", default_value = "info")]
    pub(super) log_level: LogLevel,

    /// How lines of the log look.
    #[arg(long, env = "RINGECHO_LOG_FORMAT", value_enum, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,

    /// Log the end of each connection: its client's address, how long it lasted and what has ended it; at most 1,000 lines a
    /// second for each worker.
    #[arg(long, env = "RINGECHO_LOG_CONNECTIONS", value_parser = BoolishValueParser::new())]
    pub(super) log_connections: bool,

    /// A TOML file with settings: its keys are the names of the flags. Flags and environment variables win over it.
    #[arg(long, env = "RINGECHO_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Print all settings, as a file for --config, and where each comes from; then end.
    #[arg(long, env = "RINGECHO_PRINT_CONFIG", value_parser = BoolishValueParser::new())]
    pub(super) print_config: bool,
}

/// See [`ProgramArgs::log_level`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogLevel {
    /// Nothing.
    Off,
    /// What ends the server.
    Error,
    /// What operators should know: shortages, slow readers that were ended.
    Warn,
    /// What the server does: it stops, it reloads; connections, if asked for.
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
    /// An object a line.
    Json,
}
