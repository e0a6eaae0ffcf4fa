//! Resource usage as the system reports it: processor time and memory of a process, memory of the kernel's sockets.

pub mod group;
pub mod processes;
pub mod quota;

use std::io;
use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
use serde::{Deserialize, Serialize};

/// Processor time that a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In user space.
    pub user: Duration,
    /// In the kernel on its behalf.
    pub system: Duration,
}

impl CpuTime {
    /// Both together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.user + self.system
    }

    /// All threads of process `pid`, to the kernel's clock tick (10 ms), from `/proc/PID/stat`.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        parse_stat(&stat).ok_or_else(|| invalid("/proc/PID/stat"))
    }

    /// The same, and that of its children which have ended and which it has waited for.
    pub fn with_waited_for(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let own = parse_stat(&stat).ok_or_else(|| invalid("/proc/PID/stat"))?;
        Ok(parse_times(&stat, 13).map_or(own, |waited_for| own + waited_for))
    }

    /// All threads of this process, to the microsecond (`getrusage(2)`).
    #[must_use]
    pub fn of_self() -> Self {
        // SAFETY: all-zero bytes are a valid `rusage`, which is made of integers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is valid for writes; RUSAGE_SELF needs nothing else.
        unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
        let duration = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
        Self { user: duration(usage.ru_utime), system: duration(usage.ru_stime) }
    }
}

impl Add for CpuTime {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl Sub for CpuTime {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { user: self.user.saturating_sub(earlier.user), system: self.system.saturating_sub(earlier.system) }
    }
}

/// A process's memory in bytes (`/proc/PID/smaps_rollup`, and where that is not to be read `/proc/PID/status`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Resident.
    pub rss_bytes: u64,
    /// Resident, shared pages divided among the processes that share them; absent where this may not be asked, as of the
    /// processes of another user.
    pub pss_bytes: Option<u64>,
    /// Resident and backed by no file.
    pub anonymous_bytes: u64,
}

impl Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rss_bytes: self.rss_bytes + other.rss_bytes,
            pss_bytes: self.pss_bytes.zip(other.pss_bytes).map(|(mine, theirs)| mine + theirs),
            anonymous_bytes: self.anonymous_bytes + other.anonymous_bytes,
        }
    }
}

impl Memory {
    /// Of process `pid`.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        match std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            Ok(rollup) => Self::of_rollup(&rollup).ok_or_else(|| invalid("/proc/PID/smaps_rollup")),
            // ptrace(2) access is what it asks for; the resident size is told to everybody.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
                Self::of_status(&status).ok_or_else(|| invalid("/proc/PID/status"))
            }
            Err(error) => Err(error),
        }
    }

    fn of_rollup(rollup: &str) -> Option<Self> {
        Some(Self {
            rss_bytes: kilobytes(rollup, "Rss:")?,
            pss_bytes: Some(kilobytes(rollup, "Pss:")?),
            anonymous_bytes: kilobytes(rollup, "Anonymous:")?,
        })
    }

    fn of_status(status: &str) -> Option<Self> {
        let (rss_bytes, anonymous_bytes) = (kilobytes(status, "VmRSS:")?, kilobytes(status, "RssAnon:")?);
        Some(Self { rss_bytes, pss_bytes: None, anonymous_bytes })
    }
}

/// Resident memory of process `pid` in bytes, without the walk over its pages that [`Memory`] takes.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    kilobytes(&status, "VmRSS:").ok_or_else(|| invalid("/proc/PID/status"))
}

/// The most memory that process `pid` has had resident, in bytes.
pub fn peak_resident_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    kilobytes(&status, "VmHWM:").ok_or_else(|| invalid("/proc/PID/status"))
}

/// Memory of the whole machine that sockets take from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct KernelMemory {
    /// Kernel objects, sockets among them (`Slab` in `/proc/meminfo`).
    pub slab_bytes: u64,
    /// What could still be used (`MemAvailable`).
    pub available_bytes: u64,
    /// TCP sockets in use, both ends if both are here (`/proc/net/sockstat`, of the server's network namespace if its process
    /// is known).
    pub tcp_sockets: u64,
    /// Pages of their queues, in bytes.
    pub tcp_queue_bytes: u64,
}

impl KernelMemory {
    /// As it is now, with the sockets of this process's network namespace.
    pub fn now() -> io::Result<Self> {
        Self::beside(std::process::id())
    }

    /// As it is now, with the sockets of that process's network namespace; if it has ended, of this one's.
    pub fn beside(pid: u32) -> io::Result<Self> {
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let sockets = |file: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/net/{file}"))
                .or_else(|_| std::fs::read_to_string(format!("/proc/net/{file}")))
        };
        let sockstat = sockets("sockstat")?;
        // A kernel without IPv6 has no such file.
        let sockstat_v6 = sockets("sockstat6").unwrap_or_default();
        let memory = |name| kilobytes(&meminfo, name).ok_or_else(|| invalid("/proc/meminfo"));
        let tcp = |name| field(&sockstat, "TCP:", name).ok_or_else(|| invalid("/proc/net/sockstat"));
        Ok(Self {
            slab_bytes: memory("Slab:")?,
            available_bytes: memory("MemAvailable:")?,
            tcp_sockets: tcp("inuse")? + field(&sockstat_v6, "TCP6:", "inuse").unwrap_or(0),
            tcp_queue_bytes: tcp("mem")? * rustix::param::page_size() as u64,
        })
    }
}

/// All memory of this machine (`MemTotal`); 0 if it is not told.
#[must_use]
pub fn memory_total_bytes() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kilobytes(&meminfo, "MemTotal:").unwrap_or(0)
}

/// A `Name:   123 kB` line's value in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// A field of a line that begins so in `/proc/net/sockstat` or `sockstat6`.
fn field(sockstat: &str, start: &str, name: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix(start))?;
    let mut words = line.split_whitespace().skip_while(|&word| word != name);
    words.nth(1)?.parse().ok()
}

/// Fields 14 and 15 of `/proc/PID/stat`, counted behind the name, which may hold spaces and parentheses itself.
fn parse_stat(stat: &str) -> Option<CpuTime> {
    parse_times(stat, 11)
}

/// User and system time behind the first `skipped` fields behind the name.
fn parse_times(stat: &str, skipped: usize) -> Option<CpuTime> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(skipped);
    let ticks = clock_ticks_per_second();
    let mut time = || Some(Duration::from_nanos(fields.next()?.parse::<u64>().ok()? * (1_000_000_000 / ticks)));
    Some(CpuTime { user: time()?, system: time()? })
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is not in the expected form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_sampled() {
        let pid = std::process::id();
        let memory = Memory::of_process(pid).unwrap();
        assert!(memory.rss_bytes >= memory.anonymous_bytes && memory.anonymous_bytes > 0);
        assert!(resident_bytes(pid).unwrap() > 0);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let told_to_all = Memory::of_status(&status).unwrap();
        assert!(
            told_to_all.rss_bytes > memory.rss_bytes / 2
                && told_to_all.pss_bytes.is_none()
                && memory.pss_bytes > Some(0)
        );
        assert!(KernelMemory::now().unwrap().available_bytes > 0);
        CpuTime::of_process(pid).unwrap();
    }

    #[test]
    fn a_strange_process_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0";
        let time = parse_stat(stat).unwrap();
        assert_eq!(time.user, Duration::from_nanos(250 * (1_000_000_000 / clock_ticks_per_second())));
        assert_eq!(time.total(), time.user * 6 / 5);
        assert_eq!(parse_stat("7 (x) S 1"), None);
    }

    #[test]
    fn lines_are_found_by_their_whole_name() {
        assert_eq!(kilobytes("SReclaimable: 1 kB\nSlab:     12 kB\n", "Slab:"), Some(12 * 1024));
        let sockstat = "UDP: inuse 1\nTCP: inuse 5 orphan 0 tw 2 alloc 9 mem 3\n";
        assert_eq!((field(sockstat, "TCP:", "mem"), field(sockstat, "TCP6:", "inuse")), (Some(3), None));
    }
}
