//! A process with all its descendants, and the processors that it may use.
//!
//! Servers fork: the whole process tree counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::sched_getaffinity;

use super::{CpuTime, Memory, parse_stat, resident_bytes};

/// Linux numbers processors below this in `sched_getaffinity(2)`.
const MAX_CPUS: usize = rustix::thread::CpuSet::MAX_CPU;

/// The processes of a tree. Those that have ended meanwhile count for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes(Vec<u32>);

impl Processes {
    /// Process `root` and all its descendants, as they are now. The error is that of `root` not being there.
    ///
    /// A kernel without `CONFIG_PROC_CHILDREN` does not tell the descendants; then it is `root` alone.
    pub fn of(root: u32) -> io::Result<Self> {
        std::fs::metadata(format!("/proc/{root}"))?;
        let mut found = vec![root];
        let mut next = 0;
        while let Some(&pid) = found.get(next) {
            for task in entries(Path::new(&format!("/proc/{pid}/task"))) {
                let children = std::fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
                found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
            next += 1;
        }
        Ok(Self(found))
    }

    /// Their numbers.
    #[must_use]
    pub fn pids(&self) -> &[u32] {
        &self.0
    }

    /// This process alone.
    #[must_use]
    pub fn of_self() -> Self {
        Self(vec![std::process::id()])
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Memory of all of them; the error is that of the first. It walks all their pages.
    pub fn memory(&self) -> io::Result<Memory> {
        let mut sum = Memory::of_process(self.0[0])?;
        for memory in self.0[1..].iter().filter_map(|&pid| Memory::of_process(pid).ok()) {
            sum = sum + memory;
        }
        Ok(sum)
    }

    /// Resident memory of all of them, without that walk.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.0.iter().filter_map(|&pid| resident_bytes(pid).ok()).sum()
    }

    /// Processor time of all of them; the error is that of the first. A process takes its children's time along when
    /// it has waited for them, so what the tree has used does not shrink when one of them ends.
    pub fn cpu_time(&self) -> io::Result<CpuTime> {
        let mut sum = CpuTime::with_waited_for(self.0[0])?;
        for time in self.0[1..].iter().filter_map(|&pid| CpuTime::with_waited_for(pid).ok()) {
            sum = sum + time;
        }
        Ok(sum)
    }

    /// The usage of each thread, and its processors.
    #[must_use]
    pub fn threads(&self) -> Threads {
        let mut threads = Threads::default();
        for &pid in &self.0 {
            for task in entries(Path::new(&format!("/proc/{pid}/task"))) {
                threads.look_at(pid, task);
            }
        }
        threads
    }
}

/// The processor time of a tree, by thread.
#[derive(Clone, Debug, Default)]
pub struct Threads(BTreeMap<u32, Thread>);

#[derive(Clone, Debug, Default)]
struct Thread {
    time: CpuTime,
    cpus: BTreeSet<usize>,
}

/// The threads of a tree that do its work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers {
    /// How many.
    pub count: usize,
    /// The processors that any of them may use.
    pub cpus: BTreeSet<usize>,
}

impl Threads {
    fn look_at(&mut self, pid: u32, task: u32) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{task}/stat"));
        let Some(time) = stat.ok().as_deref().and_then(parse_stat) else { return };
        let affinity = Pid::from_raw(task as i32).map(|task| sched_getaffinity(Some(task)));
        let cpus = match affinity {
            Some(Ok(set)) => (0..MAX_CPUS).filter(|&cpu| set.is_set(cpu)).collect(),
            _ => BTreeSet::new(),
        };
        self.0.insert(task, Thread { time, cpus });
    }

    /// The time that the busiest thread has used since `earlier`.
    #[must_use]
    pub fn busiest_since(&self, earlier: &Self) -> Duration {
        self.used_since(earlier).map(|(_, used)| used).max().unwrap_or_default()
    }

    /// The threads that used at least `share` of what the busiest one did since `earlier`; all, if none did anything.
    #[must_use]
    pub fn workers_since(&self, earlier: &Self, share: f64) -> Workers {
        let least = self.busiest_since(earlier).mul_f64(share);
        let mut workers = Workers::default();
        for (thread, _) in self.used_since(earlier).filter(|(_, used)| *used >= least) {
            workers.count += 1;
            workers.cpus.extend(&thread.cpus);
        }
        workers
    }

    fn used_since<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = (&'a Thread, Duration)> {
        self.0.iter().map(|(task, thread)| {
            let before = earlier.0.get(task).map(|thread| thread.time).unwrap_or_default();
            (thread, (thread.time - before).total())
        })
    }
}

/// Whether a process has ended, and at most waits for its parent to notice.
#[must_use]
pub fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['Z', 'X']))
}

/// The numbers that name the entries of a directory in `/proc`.
fn entries(directory: &Path) -> Vec<u32> {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What each processor has done, with whatever process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineCpu {
    /// The time that it was busy (`/proc/stat`): samples, one at each tick of the kernel's clock. What is left of the time beside
    /// its idle time, which is measured, would be more: softirqs that interrupt the idle task are no process's.
    busy: BTreeMap<usize, Duration>,
    /// The time that its `ksoftirqd` ran.
    softirq_threads: BTreeMap<usize, Duration>,
}

impl MachineCpu {
    /// As it is now; nothing if it cannot be read.
    #[must_use]
    pub fn now() -> Self {
        let softirq_threads: Vec<_> =
            softirq_threads().iter().filter_map(|&(cpu, pid)| Some((cpu, run_time(pid)?))).collect();
        Self::of(&std::fs::read_to_string("/proc/stat").unwrap_or_default(), &softirq_threads)
    }

    /// Of the text of `/proc/stat`, and how long the `ksoftirqd` of each processor has run.
    pub(crate) fn of(stat: &str, softirq_threads: &[(usize, Duration)]) -> Self {
        let tick = Duration::from_nanos(1_000_000_000 / rustix::param::clock_ticks_per_second());
        let line = |line: &str| {
            let (name, fields) = line.split_once(' ')?;
            let cpu = name.strip_prefix("cpu")?.parse().ok()?;
            // user nice system idle iowait irq softirq steal; guest time is in user time already.
            let fields: Vec<u32> = fields.split_whitespace().filter_map(|field| field.parse().ok()).collect();
            let busy: u32 = [0, 1, 2, 5, 6, 7].iter().filter_map(|&field| fields.get(field)).sum();
            Some((cpu, tick * busy))
        };
        Self {
            busy: stat.lines().filter_map(line).collect(),
            softirq_threads: softirq_threads.iter().copied().collect(),
        }
    }

    /// The time that `cpus` were busy together since `earlier`.
    #[must_use]
    pub fn busy_since(&self, earlier: &Self, cpus: &BTreeSet<usize>) -> Duration {
        grown(&self.busy, &earlier.busy, cpus)
    }

    /// The time in which the kernel handled softirqs of `cpus` in threads of its own since `earlier`: packets that came
    /// faster than they could be handled within the processes that caused them.
    #[must_use]
    pub fn softirq_threads_since(&self, earlier: &Self, cpus: &BTreeSet<usize>) -> Duration {
        grown(&self.softirq_threads, &earlier.softirq_threads, cpus)
    }
}

fn grown(now: &BTreeMap<usize, Duration>, earlier: &BTreeMap<usize, Duration>, cpus: &BTreeSet<usize>) -> Duration {
    let at = |of: &BTreeMap<usize, Duration>, cpu| of.get(cpu).copied().unwrap_or_default();
    cpus.iter().map(|cpu| at(now, cpu).saturating_sub(at(earlier, cpu))).sum()
}

/// The processor and the number of each `ksoftirqd`; none where a namespace hides the kernel's threads.
fn softirq_threads() -> &'static [(usize, u32)] {
    static THREADS: LazyLock<Vec<(usize, u32)>> = LazyLock::new(|| {
        let cpu = |pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            name.trim_end().strip_prefix("ksoftirqd/")?.parse().ok()
        };
        // A process may have such a name, too; the kernel's threads have no executable.
        let is_kernels = |pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty());
        let all = entries(Path::new("/proc"));
        all.into_iter().filter_map(|pid| Some((cpu(pid)?, pid))).filter(|&(_, pid)| is_kernels(pid)).collect()
    });
    &THREADS
}

/// How long a thread has run.
fn run_time(pid: u32) -> Option<Duration> {
    let schedstat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    schedstat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_belong_to_the_tree() {
        let script = "sleep 30 & echo started; wait";
        let mut shell = std::process::Command::new("sh")
            .args(["-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("sh starts");
        let mut line = [0; 8];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        let tree = Processes::of(shell.id()).unwrap();
        assert_eq!(tree.count(), 2, "{tree:?}");
        assert!(tree.memory().unwrap().rss_bytes >= tree.resident_bytes() / 2);
        assert_eq!(tree.threads().0.len(), 2);
        for &pid in &tree.0 {
            let _ = rustix::process::kill_process(Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL);
        }
        shell.wait().unwrap();
        assert!(Processes::of(shell.id()).is_err());
        assert!(has_ended(shell.id()) && !has_ended(std::process::id()));
    }

    #[test]
    fn a_busy_thread_is_the_busiest() {
        let own = Processes::of_self();
        let before = own.threads();
        let begun = CpuTime::of_self();
        while (CpuTime::of_self() - begun).total() < Duration::from_millis(60) {
            std::hint::black_box(begun);
        }
        let after = own.threads();
        assert!(after.busiest_since(&before) >= Duration::from_millis(20));
        let (workers, all) = (after.workers_since(&before, 0.02), after.workers_since(&after, 0.02));
        assert!(workers.count >= 1 && workers.count <= all.count && !workers.cpus.is_empty());
    }

    /// A hundred threads that share the work evenly each do little of it, and are workers nevertheless.
    #[test]
    fn workers_are_told_from_helpers_by_the_busiest() {
        let threads = |used: &[u64]| {
            let thread = |&ms| Thread {
                time: CpuTime { user: Duration::from_millis(ms), ..CpuTime::default() },
                cpus: BTreeSet::from([0, 1]),
            };
            Threads(used.iter().map(thread).zip(1..).map(|(thread, task)| (task, thread)).collect())
        };
        let count = |used: &[u64]| threads(used).workers_since(&Threads::default(), 0.05).count;
        assert_eq!(count(&[70; 103]), 103);
        assert_eq!(count(&[900, 800, 3, 0]), 2);
        assert_eq!(count(&[0, 0]), 2);
    }

    #[test]
    fn busy_time_is_all_but_idle_and_waiting() {
        let tick = Duration::from_nanos(1_000_000_000 / rustix::param::clock_ticks_per_second());
        let earlier = MachineCpu::of("cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 1 1 50 50 1 1 1 0 0\nintr 5\n", &[]);
        let now = MachineCpu::of("cpu0 2 2 2 90 90 2 2 2 7 7\ncpu1 5 0 0 0 0 0 0 0 0 0\n", &[]);
        assert_eq!(now.busy_since(&earlier, &BTreeSet::from([0])), tick * 6);
        assert_eq!(now.busy_since(&earlier, &BTreeSet::from([0, 1, 7])), tick * 11);
    }
}
