//! `ringload compare`: measures several servers in the same cells, round by round.
//!
//! - [`file`] parses the definition; [`metric`] and [`needs`] are words in it; [`quick`] works without a file.
//! - [`build`] builds the servers; [`process`] starts a server, [`gate`] checks its correctness, [`measure`] puts load on it.
//! - [`rounds`] conducts the comparison, [`idle`] keeps idle processors awake, [`progress`] shows how far it is.
//! - [`results`] stores measurements; [`analysis`] and [`groups`] draw conclusions by [`statistics`]; [`table`], [`plot`] and
//!   [`page`] show them.

pub mod analysis;
pub mod build;
pub mod chart;
pub mod conditions;
pub mod file;
pub mod gate;
pub mod groups;
pub mod idle;
pub mod measure;
pub mod metric;
pub mod needs;
pub mod page;
pub mod plot;
pub mod process;
pub mod progress;
pub mod quick;
pub mod results;
pub mod rounds;
pub mod statistics;
pub mod table;
mod words;
