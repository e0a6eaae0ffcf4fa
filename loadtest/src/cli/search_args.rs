//! Options of a search.

use clap::Args;

use super::values::messages;
use crate::search::{Goal, Quantity, Search};

/// What is to be found.
#[derive(Clone, Debug, Args)]
pub(super) struct SearchArgs {
    /// Find the highest rate that the server sustains
    ///
    /// Up to N messages per second, in an open loop, by a series of short runs.
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "10M",
          value_parser = messages,
          conflicts_with_all = ["find_max_connections", "rate", "messages", "stages", "connection_stages"])]
    find_max_rate: Option<u64>,

    /// Find the highest number of connections that the server sustains
    ///
    /// Up to N, and at most what fits into this machine's memory, by a series of short runs.
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1M",
          value_parser = connections, conflicts_with_all = ["stages", "connection_stages"])]
    find_max_connections: Option<u64>,

    /// Latency limits of a search, like p99=10ms
    ///
    /// Several limits are separated by commas: p50=1ms,max=1s.
    #[arg(long, value_name = "GOALS", value_delimiter = ',')]
    slo: Vec<Goal>,
}

impl SearchArgs {
    /// The search, if there is to be one.
    pub(super) fn resolve(&self) -> Result<Option<Search>, String> {
        let search = |quantity, limit| Search { quantity, limit, goals: self.slo.clone() };
        match (self.find_max_rate, self.find_max_connections) {
            (Some(limit), _) => Ok(Some(search(Quantity::Rate, limit))),
            (None, Some(limit)) => Ok(Some(search(Quantity::Connections, limit))),
            (None, None) if !self.slo.is_empty() => {
                Err("--slo is for --find-max-rate and --find-max-connections".to_owned())
            }
            (None, None) => Ok(None),
        }
    }
}

/// More connections than any machine holds are a slip.
const MAX_CONNECTIONS: u64 = 100_000_000;

fn connections(text: &str) -> Result<u64, String> {
    match messages(text)? {
        count if count <= MAX_CONNECTIONS => Ok(count),
        _ => Err(format!("more than {MAX_CONNECTIONS}")),
    }
}
