//! Processor time of both sides between two moments.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::output::report::{Measured, Usage};
use crate::sampling::processes::{MachineCpu, Processes, Threads};
use crate::sampling::quota::CpuQuotas;
use crate::sampling::{CpuTime, group};
use crate::stats::{Counter, Counts};

/// A thread that is less busy than this share of the busiest one is a helper (a clock, a logger): were the busiest one
/// full, this one would still leave 95 % of its processor to others.
const HELPER_SHARE: f64 = 0.05;

/// The usage of both sides at one moment.
#[derive(Debug)]
pub struct Mark {
    at: Instant,
    counts: Counts,
    server: Option<Side>,
    load: Side,
    machine: MachineCpu,
}

/// One side at one moment.
#[derive(Debug)]
struct Side {
    cpu: CpuTime,
    threads: Threads,
    quotas: CpuQuotas,
}

/// The processors that the load's threads are pinned to, and how many threads there are.
#[derive(Clone, Debug)]
pub struct LoadCpus {
    /// Their numbers.
    pub cpus: BTreeSet<usize>,
    /// Threads.
    pub threads: usize,
}

impl Side {
    fn of(processes: &Processes, cpu: CpuTime) -> Self {
        Self { cpu, threads: processes.threads(), quotas: CpuQuotas::of(processes.pids()) }
    }

    fn since(&self, first: &Self) -> Usage {
        let cpu = self.cpu - first.cpu;
        let busiest_thread = self.threads.busiest_since(&first.threads);
        Usage { cpu, busiest_thread, throttling: self.quotas.since(&first.quotas), ..Usage::default() }
    }
}

impl Mark {
    /// Now. Without the server if its process has ended.
    #[must_use]
    pub fn now(counts: Counts, server_pid: Option<u32>) -> Self {
        let server = |pid| Some(Side::of(&Processes::of(pid).ok()?, server_cpu(pid)?));
        Self {
            at: Instant::now(),
            counts,
            server: server_pid.and_then(server),
            load: Side::of(&Processes::of_self(), CpuTime::of_self()),
            machine: MachineCpu::now(),
        }
    }

    /// The usage since `first`.
    #[must_use]
    pub fn since(&self, first: &Self, load_cpus: &LoadCpus) -> Measured {
        let time = self.at - first.at;
        let mut load = Usage {
            cpus: load_cpus.cpus.iter().copied().collect(),
            cores_max: load_cpus.cpus.len().min(load_cpus.threads),
            ..self.load.since(&first.load)
        };
        let mut server = self.server.as_ref().zip(first.server.as_ref()).map(|(last, first)| {
            let workers = last.threads.workers_since(&first.threads, HELPER_SHARE);
            let used = last.since(first);
            Usage {
                cores_max: cores_max(workers.count, workers.cpus.len(), used.cpu.total(), time),
                cpus: workers.cpus.into_iter().collect(),
                ..used
            }
        });
        let load_alone = load.clone();
        let nothing = Usage::default();
        self.add_kernel(first, &mut load, server.as_ref().unwrap_or(&nothing));
        if let Some(server) = &mut server {
            self.add_kernel(first, server, &load_alone);
        }
        let grown = |counter| self.counts[counter] - first.counts[counter];
        Measured {
            time,
            echoes: self.counts.load() - first.counts.load(),
            wire_sent_bytes: grown(Counter::WireSent),
            wire_received_bytes: grown(Counter::WireReceived),
            server,
            load,
        }
    }

    /// Adds to the usage of `side` what only the whole machine's counters tell: the softirqs of its processors that the kernel
    /// handled in threads of its own, and what processes of neither side used there.
    ///
    /// Softirqs are charged to the process that they interrupt, until there are too many and `ksoftirqd` takes them. Where a side
    /// has processors for itself they are that side's in both cases; otherwise nothing tells whose they are, and they are neither's.
    /// Where the sides share processors, all that the other one used is taken for used there: rather too little than too
    /// much is said of others.
    fn add_kernel(&self, first: &Self, side: &mut Usage, other_side: &Usage) {
        let cpus = side.cpus.iter().copied().collect();
        let softirqs = self.machine.softirq_threads_since(&first.machine, &cpus);
        let busy = self.machine.busy_since(&first.machine, &cpus);
        let others = busy.saturating_sub(side.cpu.total() + softirqs);
        if other_side.cpus.iter().any(|cpu| cpus.contains(cpu)) {
            side.others = others.saturating_sub(other_side.cpu.total());
            side.shared_softirqs = softirqs;
        } else {
            side.others = others;
            side.cpu.system += softirqs;
        }
    }
}

/// What a server has used with all its descendants: as its control group says if it has one of its own, so that nothing is
/// lost with processes that have ended, otherwise as those say that are there.
#[must_use]
pub fn server_cpu(pid: u32) -> Option<CpuTime> {
    group::cpu_time_of(pid).or_else(|| Processes::of(pid).ok()?.cpu_time().ok())
}

/// How many processors a server can keep busy: one for each worker and not more than they may use, but as many as it has
/// kept busy. Threads that come and go are not there to be counted, and have done their work nevertheless.
fn cores_max(workers: usize, cpus: usize, used: Duration, time: Duration) -> usize {
    let busy = (used.as_secs_f64() / time.as_secs_f64().max(1e-9)).ceil() as usize;
    workers.min(cpus).max(busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_can_use_at_least_what_it_has_used() {
        let second = Duration::from_secs(1);
        assert_eq!(cores_max(103, 2, second.mul_f64(0.64), second), 2);
        assert_eq!(cores_max(1, 8, second.mul_f64(0.64), second), 1);
        assert_eq!(cores_max(0, 0, second.mul_f64(0.64), second), 1, "its threads were gone at the end");
        assert_eq!(cores_max(1, 8, second.mul_f64(2.5), second), 3);
    }

    fn mark(machine: MachineCpu) -> Mark {
        let load = Side { cpu: CpuTime::default(), threads: Threads::default(), quotas: CpuQuotas::default() };
        Mark { at: Instant::now(), counts: Counts::default(), server: None, load, machine }
    }

    /// One side has processor 0, the other one processor 1; or both have both.
    #[test]
    fn softirqs_in_the_kernels_threads_are_of_the_side_that_has_the_processor() {
        let ms = Duration::from_millis;
        let ticks = |cpu0, cpu1| format!("cpu0 0 0 {cpu0} 0 0 0 0 0 0 0\ncpu1 0 0 {cpu1} 0 0 0 0 0 0 0\n");
        let first = mark(MachineCpu::of(&ticks(0, 0), &[(0, ms(500)), (1, ms(0))]));
        let last = mark(MachineCpu::of(&ticks(100, 100), &[(0, ms(600)), (1, ms(50))]));
        let usage = |cpus: &[usize]| Usage {
            cpu: CpuTime { system: ms(900), ..CpuTime::default() },
            cpus: cpus.to_vec(),
            ..Usage::default()
        };
        let (mut alone, other) = (usage(&[0]), usage(&[1]));
        last.add_kernel(&first, &mut alone, &other);
        assert_eq!((alone.cpu.system, alone.others), (ms(1000), ms(0)));

        let (mut shared, other) = (usage(&[0, 1]), usage(&[0, 1]));
        last.add_kernel(&first, &mut shared, &other);
        assert_eq!(
            (shared.cpu.system, shared.others, shared.shared_softirqs),
            (ms(900), ms(50), ms(150)),
            "2,000 ms busy, 1,800 of both, 150 of softirqs"
        );
    }
}
