//! One line a second while the run goes on.

use std::time::{Duration, Instant};

use super::table::{bytes, count};
use crate::control::Phase;
use crate::sampling::{CpuTime, resident_bytes};
use crate::scenario::Scenario;
use crate::stats::{Counter, Counts};
use crate::target::Target;

const INTERVAL: Duration = Duration::from_secs(1);

/// Prints the progress, unless it is to be quiet.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    server_pid: Option<u32>,
    begun: Instant,
    last: Instant,
    counts: Counts,
    server_cpu: Option<CpuTime>,
    load_cpu: CpuTime,
}

impl Progress {
    /// Says what the run is going to do.
    #[must_use]
    pub fn new(scenario: &Scenario, target: &Target, threads: u32, server_pid: Option<u32>, quiet: bool) -> Self {
        let now = Instant::now();
        let progress = Self {
            quiet,
            server_pid,
            begun: now,
            last: now,
            counts: Counts::default(),
            server_cpu: server_pid.and_then(|pid| CpuTime::of_process(pid).ok()),
            load_cpu: CpuTime::of_self(),
        };
        progress.note(&format!(
            "ringload: {} connections to {} on {threads} threads; {} active, {} bytes, {}",
            count(u64::from(scenario.connections)),
            target.url(),
            count(u64::from(scenario.active)),
            scenario.traffic.sizes,
            scenario.traffic.open.map_or_else(
                || format!("depth {}", scenario.traffic.depth),
                |open| format!("{}/s in all", count(open.rate as u64)),
            ),
        ));
        progress
    }

    /// Prints a line.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            println!("{line}");
        }
    }

    /// Prints a line if it is time.
    pub fn show(&mut self, phase: Phase, counts: &Counts) {
        let now = Instant::now();
        let passed = now - self.last;
        if self.quiet || passed < INTERVAL {
            return;
        }
        let per_second = |counter| (counts[counter] - self.counts[counter]) as f64 / passed.as_secs_f64();
        let mut line = format!(
            "{:>6.1} s  {:<8} {:>9} open {:>9}/s echoes",
            (now - self.begun).as_secs_f64(),
            phase.name(),
            count(counts.open()),
            count(per_second(Counter::Echoed) as u64),
        );
        if phase == Phase::Connect {
            line = format!("{line} {:>7}/s connects", count(per_second(Counter::Opened) as u64));
        }
        line += &self.usage(passed);
        if !counts.are_clean() {
            line = format!(
                "{line}  failed {} closed early {} lost {} wrong {}",
                counts[Counter::Failed],
                counts[Counter::ClosedEarly] + counts[Counter::Violations],
                counts[Counter::Lost],
                counts[Counter::Corrupted] + counts[Counter::Unexpected],
            );
        }
        println!("{line}");
        (self.last, self.counts) = (now, *counts);
    }

    /// Processor time and memory. A server that has just ended is no reason to fail.
    fn usage(&mut self, passed: Duration) -> String {
        let percent =
            |now: CpuTime, before: CpuTime| (now - before).total().as_secs_f64() / passed.as_secs_f64() * 100.0;
        let load_cpu = CpuTime::of_self();
        let mut text = format!("  load cpu {:>3.0} %", percent(load_cpu, self.load_cpu));
        self.load_cpu = load_cpu;
        if let Some(pid) = self.server_pid
            && let (Ok(cpu), Ok(resident)) = (CpuTime::of_process(pid), resident_bytes(pid))
        {
            let used = self.server_cpu.map_or(0.0, |before| percent(cpu, before));
            text = format!("{text}, server cpu {used:>3.0} %, {}", bytes(resident as f64));
            self.server_cpu = Some(cpu);
        }
        text
    }
}
