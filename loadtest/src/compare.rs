//! `ringload compare`: servers against each other, each in the same cells, round by round.
//!
//! - [`file`] reads what is to be compared; [`metric`] and [`needs`] are words in it; [`quick`] does without one.
//! - [`build`] builds the servers; [`process`] starts a server, [`gate`] looks whether it does what is right, [`measure`] puts load on it.
//! - [`rounds`] conducts it all, [`idle`] keeps idle processors awake, while [`progress`] shows how far it is.
//! - [`results`] is what is kept; [`analysis`] says, by [`statistics`], what follows; [`table`], [`plot`] and [`page`] show it.

pub mod analysis;
pub mod build;
pub mod chart;
pub mod conditions;
pub mod file;
pub mod gate;
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
