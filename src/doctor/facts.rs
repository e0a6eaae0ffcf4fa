//! Facts from the kernel about itself and this process.

use std::fs;
use std::path::Path;

use crate::engine::Engine;
use crate::machine::{Bound, Machine};

/// The facts to check. `None`: this kernel or container does not tell.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The hard `RLIMIT_NOFILE`.
    pub(super) descriptors: u64,
    pub(super) cpus: usize,
    pub(super) cpu_quota: Option<Bound<f64>>,
    /// Threads that the process may start.
    pub(super) threads: Option<Bound<u64>>,
    /// Bytes that the process may use.
    pub(super) memory: Bound<u64>,
    /// Bytes that could be used now (`MemAvailable`).
    pub(super) memory_available: Option<u64>,
    /// Open files of the whole machine: how many, and how many there may be.
    pub(super) files: Option<(u64, u64)>,
    pub(super) somaxconn: Option<u64>,
    pub(super) syn_backlog: Option<u64>,
    /// Pages of memory for TCP: from where on it is short, and the limit.
    pub(super) tcp_mem: Option<(u64, u64)>,
    pub(super) ports: Option<(u64, u64)>,
    /// Tracked connections: how many, and how many there may be; only if connections are tracked.
    pub(super) conntrack: Option<(u64, u64)>,
    /// Buckets of the hash of established sockets.
    pub(super) buckets: Option<u64>,
    pub(super) kernel: String,
    /// Why the native engine cannot run.
    pub(super) uring_refused: Option<String>,
    /// `kernel.io_uring_disabled`.
    pub(super) uring_disabled: Option<u64>,
    /// Why workers cannot have descriptor tables of their own (engines epoll and tokio-uring).
    pub(super) tables_refused: Option<String>,
    /// A seccomp filter decides which system calls are allowed.
    pub(super) has_seccomp: bool,
}

impl Facts {
    /// Reads them below `root`, which is `/` but for tests.
    pub(super) fn read(root: &Path, machine: &Machine) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).ok();
        let numbers = |path: &str| -> Option<Vec<u64>> {
            text(path)?.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()
        };
        let number = |path: &str| numbers(path)?.first().copied();
        let available = || {
            let meminfo = text("proc/meminfo")?;
            let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
        };
        // The whole machine tracks connections only where something asks for it: then some are tracked.
        let tracked = || {
            let of = |name| number(&format!("proc/sys/net/netfilter/nf_conntrack_{name}"));
            let (count, max) = (of("count")?, of("max")?);
            (count > 0).then_some((count, max))
        };
        let pair = |path: &str, one: usize, other: usize| {
            let numbers = numbers(path)?;
            Some((*numbers.get(one)?, *numbers.get(other)?))
        };
        let status = text("proc/self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        Self {
            descriptors: machine.descriptors,
            cpus: machine.cpus.len(),
            cpu_quota: machine.cpu_quota.clone(),
            threads: machine.threads.clone(),
            memory: machine.memory.clone(),
            memory_available: available(),
            files: pair("proc/sys/fs/file-nr", 0, 2),
            somaxconn: number("proc/sys/net/core/somaxconn"),
            syn_backlog: number("proc/sys/net/ipv4/tcp_max_syn_backlog"),
            tcp_mem: pair("proc/sys/net/ipv4/tcp_mem", 1, 2),
            ports: pair("proc/sys/net/ipv4/ip_local_port_range", 0, 1),
            conntrack: tracked(),
            // A network namespace that uses the first one's hash says so by a negative number.
            buckets: text("proc/sys/net/ipv4/tcp_ehash_entries")
                .and_then(|text| text.trim().parse::<i64>().ok())
                .map(i64::unsigned_abs),
            kernel: text("proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            uring_refused: Engine::Uring.probe().err().map(|e| e.to_string()),
            uring_disabled: number("proc/sys/kernel/io_uring_disabled"),
            tables_refused: Engine::Epoll.probe_tables().err().map(|e| e.to_string()),
            has_seccomp: seccomp.is_some_and(|mode| mode.trim() == "2"),
        }
    }
}

/// A machine on which nothing is short, for tests.
#[cfg(test)]
pub(super) fn generous() -> Facts {
    Facts {
        descriptors: 1 << 20,
        cpus: 8,
        cpu_quota: None,
        threads: Some(Bound { value: 1000, set_by: "cgroup pids.max 1001".into() }),
        memory: Bound { value: 64 << 30, set_by: "physical memory".into() },
        memory_available: Some(60 << 30),
        files: Some((1000, 1 << 40)),
        somaxconn: Some(65_535),
        syn_backlog: Some(65_535),
        tcp_mem: Some((1 << 30, 1 << 31)),
        ports: Some((1024, 65_535)),
        conntrack: None,
        buckets: Some(1 << 24),
        kernel: "6.18.0".into(),
        uring_refused: None,
        uring_disabled: Some(0),
        tables_refused: None,
        has_seccomp: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_says_what_it_is() {
        let facts = Facts::read(Path::new("/"), &Machine::probe().unwrap());
        assert!(facts.descriptors > 0 && facts.cpus > 0 && !facts.kernel.is_empty(), "{facts:?}");
        assert!(facts.files.is_some_and(|(used, max)| used > 0 && max > used), "{facts:?}");
        assert!(facts.memory_available.is_some_and(|bytes| bytes > 0), "{facts:?}");
    }

    #[test]
    fn what_the_kernel_does_not_say_is_unknown() {
        let facts = Facts::read(Path::new("/nowhere"), &Machine::probe().unwrap());
        assert_eq!((facts.files, facts.somaxconn, facts.buckets, facts.conntrack), (None, None, None, None));
    }
}
