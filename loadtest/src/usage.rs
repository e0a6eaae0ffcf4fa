//! What both sides have used of the processors between two moments.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::output::report::{Measured, Usage};
use crate::sampling::CpuTime;
use crate::sampling::processes::{MachineCpu, Processes, Threads};
use crate::stats::Counts;

/// A thread with less than this share of a side's work is a helper: it keeps no processor busy.
const HELPER_SHARE: f64 = 0.02;

/// What both sides have used and done at one moment.
#[derive(Debug)]
pub struct Mark {
    at: Instant,
    counts: Counts,
    server: Option<(CpuTime, Threads)>,
    load: (CpuTime, Threads),
    machine: MachineCpu,
}

/// The processors that the load's threads are pinned to, and how many threads there are.
#[derive(Clone, Debug)]
pub struct LoadCpus {
    /// Their numbers.
    pub cpus: BTreeSet<usize>,
    /// Threads.
    pub threads: usize,
}

impl Mark {
    /// Now. Without the server if its process has ended.
    #[must_use]
    pub fn now(counts: Counts, server_pid: Option<u32>) -> Self {
        let server = |pid| {
            let processes = Processes::of(pid).ok()?;
            Some((processes.cpu_time().ok()?, processes.threads()))
        };
        Self {
            at: Instant::now(),
            counts,
            server: server_pid.and_then(server),
            load: (CpuTime::of_self(), Processes::of_self().threads()),
            machine: MachineCpu::now(),
        }
    }

    /// What happened since `first`.
    #[must_use]
    pub fn since(&self, first: &Self, load_cpus: &LoadCpus) -> Measured {
        let mut load = Usage {
            cpu: self.load.0 - first.load.0,
            busiest_thread: self.load.1.busiest_since(&first.load.1),
            cpus: load_cpus.cpus.iter().copied().collect(),
            cores_max: load_cpus.cpus.len().min(load_cpus.threads),
            ..Usage::default()
        };
        let mut server = self.server.as_ref().zip(first.server.as_ref()).map(|(last, first)| {
            let workers = last.1.workers_since(&first.1, HELPER_SHARE);
            Usage {
                cpu: last.0 - first.0,
                busiest_thread: last.1.busiest_since(&first.1),
                cores_max: workers.count.min(workers.cpus.len()),
                cpus: workers.cpus.into_iter().collect(),
                ..Usage::default()
            }
        });
        if let Some(server) = &mut server {
            server.others = self.others(first, server, &load);
        }
        load.others = self.others(first, &load, server.as_ref().unwrap_or(&Usage::default()));
        Measured { time: self.at - first.at, echoes: self.counts.load() - first.counts.load(), server, load }
    }

    /// What processes of neither side used of the processors of `side`. Where the sides share some of them, all that the
    /// other one used is taken for used there: rather too little than too much is said of others.
    fn others(&self, first: &Self, side: &Usage, other_side: &Usage) -> std::time::Duration {
        let cpus = side.cpus.iter().copied().collect();
        let busy = self.machine.busy_since(&first.machine, &cpus);
        let shared = other_side.cpus.iter().any(|cpu| cpus.contains(cpu));
        let others = busy.saturating_sub(side.cpu.total());
        if shared { others.saturating_sub(other_side.cpu.total()) } else { others }
    }
}
