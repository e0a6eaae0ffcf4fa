//! The raw outcome of a run, from which the report is made.

use std::time::Duration;

use super::MemoryAt;
use crate::sampling::CpuTime;
use crate::sampling::quota::Throttling;
use crate::scenario::{Scenario, Transport};
use crate::series::Sample;
use crate::stats::{Counts, Tally};

/// What was measured between two moments.
#[derive(Clone, Debug)]
pub struct Measured {
    /// From one to the other.
    pub time: Duration,
    /// Echoes in between.
    pub echoes: u64,
    /// Bytes of frames sent in between, with their headers.
    pub wire_sent_bytes: u64,
    /// Bytes of frames received in between.
    pub wire_received_bytes: u64,
    /// What the server used, if its process is known.
    pub server: Option<Usage>,
    /// What the load generator used.
    pub load: Usage,
}

/// What one side used between two moments.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Processor time.
    pub cpu: CpuTime,
    /// That of its busiest thread.
    pub busiest_thread: Duration,
    /// Processors that it may use.
    pub cpus: Vec<usize>,
    /// How many of them it can keep busy: not more than it has threads for.
    pub cores_max: usize,
    /// What processes of neither side used of these processors.
    pub others: Duration,
    /// What its CPU quota did, if it has one.
    pub throttling: Option<Throttling>,
}

/// Memory over the run.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMarks {
    /// Before the first connection.
    pub before: MemoryAt,
    /// With all connections open and nothing going on.
    pub idle: MemoryAt,
    /// After the load.
    pub at_end: MemoryAt,
    /// Connections that were open for `idle`.
    pub open_when_idle: u64,
}

/// All that a run yields.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// What was asked for.
    pub scenario: &'a Scenario,
    /// The server's URL.
    pub target: String,
    /// The addresses by the numbers of failures.
    pub addresses: Vec<String>,
    /// Its process.
    pub server_pid: Option<u32>,
    /// Threads of the load generator.
    pub threads: u32,
    /// Its transport.
    pub transport: Transport,
    /// When the run began, since the Unix epoch.
    pub started: Duration,
    /// What was counted.
    pub tally: Tally,
    /// Connections that were open when all had been tried that were wanted at first.
    pub ready: u64,
    /// What was counted until then; in stages, until the end.
    pub at_first: Counts,
    /// How long that took.
    pub connect_time: Duration,
    /// What the server used meanwhile, if its process is known.
    pub connect_cpu: Option<CpuTime>,
    /// The measured time, if it came.
    pub measured: Option<Measured>,
    /// Memory.
    pub memory: MemoryMarks,
    /// The samples.
    pub series: Vec<Sample>,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// How the server's process ended, if it did before the run.
    pub server_end: Option<String>,
    /// The longest time in which the process got no processor although it wanted one.
    pub stall: Duration,
}
