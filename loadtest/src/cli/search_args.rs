//! The options of a search.

use clap::Args;

use crate::search::{Goal, Quantity, Search};

/// What is to be found.
#[derive(Clone, Debug, Args)]
pub(super) struct SearchArgs {
    /// Find the highest rate that holds, in an open loop, up to N messages a second, in short runs of their own
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "10000000",
          value_parser = clap::value_parser!(u64).range(1..), conflicts_with_all = ["find_max_connections", "rate", "messages"])]
    find_max_rate: Option<u64>,

    /// Find the most connections that hold, up to N or what this machine's memory has room for
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1000000",
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    find_max_connections: Option<u64>,

    /// What holds: latencies within these limits, like p99=10ms or p50=1ms,max=1s
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
