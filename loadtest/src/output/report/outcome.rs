//! The raw outcome of a run, from which the report is made.

use std::time::Duration;

use super::MemoryAt;
use crate::machine::Machine;
use crate::sampling::CpuTime;
use crate::sampling::quota::Throttling;
use crate::scenario::{Scenario, Transport};
use crate::series::Sample;
use crate::stats::{Counts, Tally};

/// The measurements between two moments.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The time between them.
    pub time: Duration,
    /// Echoes received.
    pub echoes: u64,
    /// Bytes of frames sent, including headers.
    pub wire_sent_bytes: u64,
    /// Bytes of frames received, including headers.
    pub wire_received_bytes: u64,
    /// The server's usage, if its process is known.
    pub server: Option<Usage>,
    /// The load generator's usage.
    pub load: Usage,
}

/// The usage of one side between two moments.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Processor time.
    pub cpu: CpuTime,
    /// Processor time of its busiest thread.
    pub busiest_thread: Duration,
    /// Processors that it may use.
    pub cpus: Vec<usize>,
    /// The number of them that it can keep busy: at most one per thread.
    pub cores_max: usize,
    /// Usage of these processors by processes of neither side.
    pub others: Duration,
    /// Softirqs of these processors in the kernel's own threads, where both sides share them: nothing tells whose they are.
    pub shared_softirqs: Duration,
    /// Throttling by its CPU quota, if it has one.
    pub throttling: Option<Throttling>,
}

/// Memory over the run.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMarks {
    /// Before the first connection.
    pub before: MemoryAt,
    /// With all connections open and idle.
    pub idle: MemoryAt,
    /// After the load.
    pub at_end: MemoryAt,
    /// Connections that were open for `idle`.
    pub open_when_idle: u64,
}

/// Processor time used while connections were opened.
#[derive(Clone, Copy, Debug)]
pub struct ConnectCpu {
    /// The server's, if its process is known.
    pub server: Option<CpuTime>,
    /// The load generator's.
    pub load: CpuTime,
}

/// The raw results of a run.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The server's URL.
    pub target: String,
    /// The addresses, in the order of the numbers in the failures.
    pub addresses: Vec<String>,
    /// The server's process.
    pub server_pid: Option<u32>,
    /// The number of load threads.
    pub threads: u32,
    /// The load generator's transport.
    pub transport: Transport,
    /// The load generator's machine.
    pub machine: Machine,
    /// When the run began, as time since the Unix epoch.
    pub started: Duration,
    /// The counts.
    pub tally: Tally,
    /// Connections open once all that were wanted at first had been tried.
    pub ready: u64,
    /// The counts until then; with stages, until the end.
    pub at_first: Counts,
    /// The time until then.
    pub connect_time: Duration,
    /// The processor time used until then.
    pub connect_cpu: ConnectCpu,
    /// The measured time, if it was reached.
    pub measured: Option<Measured>,
    /// Memory.
    pub memory: MemoryMarks,
    /// The samples.
    pub series: Vec<Sample>,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// How the server's process ended, if it ended before the run.
    pub server_end: Option<String>,
    /// The longest time that the process was runnable without getting a processor.
    pub stall: Duration,
}
