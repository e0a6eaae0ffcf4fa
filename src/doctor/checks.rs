//! Limits in numbers of connections, and the command that lifts each.

use serde_json::{Value, json};

use super::facts::Facts;
use super::grouped;
use crate::engine::Engine;
use crate::machine::Bytes;

/// Bytes that the kernel takes for a connection's socket: 9.7 KB for both ends of one (docs/PERFORMANCE.md), and the entry in
/// the server's slab.
const BYTES_PER_CONNECTION: u64 = 5_000;
/// For everything but connections: the program, receive buffers, whatever else runs here.
const MEMORY_RESERVED: u64 = 64 << 20;
/// Connections per bucket of the hash of established sockets, from where on a lookup's walk along the chain may show. In one
/// pair of runs with a million connections in 262,144 buckets, p99 was 5.5 ms, and 1.1 ms with a hash of the right size.
const CHAIN_MAX: u64 = 2;
/// The most that a network namespace can have (`tcp_child_ehash_entries`).
const BUCKETS_MAX: u64 = 1 << 24;
/// A queue of newly connected clients below this drops some of a burst: their kernels try again a second later.
const QUEUE_MIN: u64 = 4096;
/// Threads of a server beside its workers, at most: those for signals, the drain, the log, the admin listener, the service
/// manager and full servers, and some that the kernel starts for rings.
const THREADS_BESIDE_WORKERS: u64 = 16;
/// Bytes of a page, as `tcp_mem` counts.
const PAGE: u64 = 4096;

/// The comparison of a limit with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Fine,
    /// It works, and could be better.
    Note,
    /// The request does not fit.
    Short,
}

/// One limit.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) state: State,
    /// Connections that it allows for; `None`: it bounds something else.
    pub(super) holds: Option<u64>,
    /// The current value.
    pub(super) found: String,
    /// The commands that lift it.
    pub(super) remedies: Vec<String>,
}

impl Check {
    /// A limit on connections: short if more are wanted.
    fn limit(name: &'static str, holds: u64, wanted: Option<u64>, found: String) -> Self {
        let state = if wanted.is_some_and(|wanted| wanted > holds) { State::Short } else { State::Fine };
        Self { name, state, holds: Some(holds), found, remedies: Vec::new() }
    }

    /// Something that could be better, unless it `is_fine`.
    fn note(name: &'static str, is_fine: bool, found: String) -> Self {
        let state = if is_fine { State::Fine } else { State::Note };
        Self { name, state, holds: None, found, remedies: Vec::new() }
    }

    fn lifted_by(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    pub(super) fn json(&self) -> Value {
        let state = match self.state {
            State::Fine => "fine",
            State::Note => "note",
            State::Short => "short",
        };
        json!({
            "name": self.name,
            "state": state,
            "holds": self.holds,
            "found": self.found,
            "remedies": self.remedies,
        })
    }
}

/// All of them. `wanted`: how many connections there are to be.
pub(super) fn all(facts: &Facts, wanted: Option<u64>) -> Vec<Check> {
    let mut checks = vec![descriptors(facts, wanted)];
    checks.extend(files(facts, wanted));
    checks.push(memory(facts, wanted));
    checks.extend(conntrack(facts, wanted));
    checks.extend(buckets(facts, wanted));
    checks.extend(accept_queue(facts));
    checks.extend(tcp_memory(facts, wanted));
    checks.extend(ports(facts, wanted));
    checks.push(processors(facts));
    checks.extend(threads(facts));
    checks.push(uring(facts));
    checks.push(sandbox(facts));
    checks
}

/// A server's ring has a table of its own for each worker, so the limit counts for each of them.
fn descriptors(facts: &Facts, wanted: Option<u64>) -> Check {
    let limit = facts.descriptors;
    let of_worker = Engine::table_of_any(limit);
    let workers_max = limit.saturating_sub(64) / 2;
    let is_shared = facts.uring_refused.is_some() && facts.tables_refused.is_some();
    let holds = if is_shared { of_worker.saturating_sub(64) } else { of_worker.saturating_mul(workers_max) };
    let needed = wanted.unwrap_or(1).div_ceil(of_worker.max(1));
    let found = if is_shared {
        format!("RLIMIT_NOFILE {limit}, for all workers together")
    } else {
        format!("RLIMIT_NOFILE {limit}, for each worker; {} needed", counted(needed, "worker"))
    };
    let target = wanted.unwrap_or(1 << 20).max(1024);
    Check::limit("descriptors", holds, wanted, found)
        .lifted_by(format!("ulimit -Hn {target} (as root), or LimitNOFILE={target} in the unit"))
}

/// The whole machine's, which root is exempt from.
fn files(facts: &Facts, wanted: Option<u64>) -> Option<Check> {
    let (used, max) = facts.files?;
    // systemd sets it to the largest number there is.
    let max_text = if max >= i64::MAX as u64 { "unlimited".to_owned() } else { max.to_string() };
    let found = format!("fs.file-max {max_text}, {used} in use");
    let target = used.saturating_add(wanted.unwrap_or(1 << 20)).saturating_mul(2);
    Some(
        Check::limit("open files", max.saturating_sub(used), wanted, found)
            .lifted_by(format!("sysctl -w fs.file-max={target}")),
    )
}

/// User memory and the kernel's: a cgroup counts both.
fn memory(facts: &Facts, wanted: Option<u64>) -> Check {
    let available = facts.memory_available.unwrap_or(u64::MAX).min(facts.memory.value);
    let holds = available.saturating_sub(MEMORY_RESERVED) / BYTES_PER_CONNECTION;
    let found = format!(
        "{} available of {} ({}); some {} bytes a connection, the kernel's with it",
        Bytes(available & !0xfffff),
        Bytes(facts.memory.value & !0xfffff),
        facts.memory.set_by,
        BYTES_PER_CONNECTION
    );
    let needed = wanted.unwrap_or(0).saturating_mul(BYTES_PER_CONNECTION) + MEMORY_RESERVED;
    Check::limit("memory", holds, wanted, found).lifted_by(format!(
        "more memory: {} in all (a cgroup: memory.max, MemoryMax= in the unit)",
        Bytes(needed.next_multiple_of(1 << 20))
    ))
}

fn conntrack(facts: &Facts, wanted: Option<u64>) -> Option<Check> {
    let (count, max) = facts.conntrack?;
    let found = format!("nf_conntrack_max {max}, {count} in use: further connections are dropped above it");
    let target = count.saturating_add(wanted.unwrap_or(1 << 20)).next_power_of_two();
    Some(
        Check::limit("conntrack", max.saturating_sub(count), wanted, found)
            .lifted_by(format!("sysctl -w net.netfilter.nf_conntrack_max={target}"))
            .lifted_by("or do not track them: nft add rule ip raw prerouting tcp dport PORT notrack"),
    )
}

fn buckets(facts: &Facts, wanted: Option<u64>) -> Option<Check> {
    let buckets = facts.buckets?;
    let is_fine = wanted.is_none_or(|wanted| wanted <= buckets.saturating_mul(CHAIN_MAX));
    let found = format!("{} buckets for established sockets; each packet walks one's chain", grouped(buckets));
    let target = wanted.unwrap_or(buckets).next_power_of_two().min(BUCKETS_MAX);
    Some(
        Check::note("socket hash", is_fine, found)
            .lifted_by(format!(
                "sysctl -w net.ipv4.tcp_child_ehash_entries={target}, then run the server in a network namespace that is \
                 made after it"
            ))
            .lifted_by(format!("or the kernel parameter thash_entries={target}")),
    )
}

fn accept_queue(facts: &Facts) -> Option<Check> {
    let (somaxconn, syn_backlog) = (facts.somaxconn?, facts.syn_backlog.unwrap_or(u64::MAX));
    let is_fine = somaxconn.min(syn_backlog) >= QUEUE_MIN;
    let found = match facts.syn_backlog {
        Some(syn_backlog) => {
            format!("somaxconn {somaxconn}, tcp_max_syn_backlog {syn_backlog}: clients at once in a burst")
        }
        None => format!("somaxconn {somaxconn}: clients at once in a burst"),
    };
    Some(
        Check::note("connect bursts", is_fine, found)
            .lifted_by("sysctl -w net.core.somaxconn=65535 net.ipv4.tcp_max_syn_backlog=65535"),
    )
}

/// An idle connection takes none of it: a page at least for each that has something queued.
fn tcp_memory(facts: &Facts, wanted: Option<u64>) -> Option<Check> {
    let (pressure, max) = facts.tcp_mem?;
    let is_fine = wanted.is_none_or(|wanted| wanted <= pressure);
    let found = format!(
        "tcp_mem {} pages ({}), short from {} on: connections with data queued at a time",
        grouped(max),
        Bytes((max * PAGE) & !0xfffff),
        grouped(pressure)
    );
    let target = wanted.unwrap_or(max).saturating_mul(2).max(max);
    Some(Check::note("TCP memory", is_fine, found).lifted_by(format!(
        "sysctl -w net.ipv4.tcp_mem=\"{} {} {}\", if so many are to be busy at once",
        target / 2,
        target / 4 * 3,
        target
    )))
}

/// A limit of clients that connect from one address, not of the server.
fn ports(facts: &Facts, wanted: Option<u64>) -> Option<Check> {
    let (first, last) = facts.ports?;
    let ports = last.saturating_sub(first) + 1;
    let is_fine = wanted.is_none_or(|wanted| wanted <= ports);
    let found =
        format!("{first}-{last}: {} connections from one address of this machine to one listener", grouped(ports));
    Some(
        Check::note("ports of clients here", is_fine, found)
            .lifted_by("ringload --source with several addresses; several listeners")
            .lifted_by("sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""),
    )
}

fn processors(facts: &Facts) -> Check {
    match &facts.cpu_quota {
        Some(quota) => {
            let found = format!(
                "{}, of which {:.2} may be used ({})",
                counted(facts.cpus as u64, "CPU"),
                quota.value,
                quota.set_by
            );
            Check::note("processors", false, found).lifted_by("a larger cpu.max (CPUQuota= in the unit)")
        }
        None => Check::note("processors", true, counted(facts.cpus as u64, "CPU")),
    }
}

/// A worker is a thread. Without those that it needs, a server does not start.
fn threads(facts: &Facts) -> Option<Check> {
    let threads = facts.threads.as_ref()?;
    let needed = facts.cpus as u64 + THREADS_BESIDE_WORKERS;
    let found = format!("{} can be started ({}); {needed} needed", counted(threads.value, "thread"), threads.set_by);
    let check = Check::note("threads", threads.value >= needed, found);
    Some(check.lifted_by("a larger pids.max (TasksMax= in the unit, --pids-limit of a container), or fewer --workers"))
}

fn uring(facts: &Facts) -> Check {
    let found = match &facts.uring_refused {
        None => format!("Linux {}: the native engine runs here", facts.kernel),
        Some(why) => format!("Linux {}: epoll instead of io_uring ({why})", facts.kernel),
    };
    let check = Check::note("kernel", facts.uring_refused.is_none(), found);
    match facts.uring_disabled {
        Some(1..) => check.lifted_by("sysctl -w kernel.io_uring_disabled=0"),
        _ if facts.has_seccomp => check.lifted_by("a seccomp profile that allows io_uring_setup, _enter and _register"),
        _ => check.lifted_by("Linux 6.13 or newer"),
    }
}

fn sandbox(facts: &Facts) -> Check {
    let found = match (&facts.tables_refused, facts.has_seccomp) {
        (None, false) => "no seccomp filter".to_owned(),
        (None, true) => "a seccomp filter, which allows what is needed".to_owned(),
        (Some(why), _) => {
            format!(
                "close_range is refused ({why}): with epoll and tokio-uring RLIMIT_NOFILE bounds all workers together"
            )
        }
    };
    Check::note("sandbox", facts.tables_refused.is_none(), found).lifted_by("a seccomp profile that allows close_range")
}

fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::super::facts::generous;
    use super::*;
    use crate::machine::Bound;

    fn state(facts: &Facts, wanted: u64, name: &str) -> State {
        let checks = all(facts, Some(wanted));
        checks.into_iter().find(|check| check.name == name).expect("a check of that name").state
    }

    #[test]
    fn a_generous_machine_has_nothing_to_lift() {
        for check in all(&generous(), Some(1_000)) {
            assert_eq!(check.state, State::Fine, "{check:?}");
        }
    }

    #[test]
    fn each_limit_is_found() {
        let million = 1_000_000;
        let few_threads = Some(Bound { value: 20, set_by: "cgroup pids.max 30".into() });
        let cgroup = Bound { value: 1 << 30, set_by: "cgroup memory.max".into() };
        for (name, expected, facts) in [
            ("descriptors", State::Short, Facts { descriptors: 1024, ..generous() }),
            ("open files", State::Short, Facts { files: Some((0, 999_999)), ..generous() }),
            ("memory", State::Short, Facts { memory: cgroup, ..generous() }),
            ("memory", State::Short, Facts { memory_available: Some(1 << 30), ..generous() }),
            ("conntrack", State::Short, Facts { conntrack: Some((1, million)), ..generous() }),
            ("socket hash", State::Note, Facts { buckets: Some(262_144), ..generous() }),
            ("connect bursts", State::Note, Facts { somaxconn: Some(128), ..generous() }),
            ("TCP memory", State::Note, Facts { tcp_mem: Some((1000, 2000)), ..generous() }),
            ("ports of clients here", State::Note, generous()),
            ("threads", State::Note, Facts { threads: few_threads, ..generous() }),
            ("kernel", State::Note, Facts { uring_refused: Some("no".into()), ..generous() }),
            ("sandbox", State::Note, Facts { tables_refused: Some("no".into()), ..generous() }),
        ] {
            assert_eq!(state(&facts, million, name), expected, "{name}");
            let check = all(&facts, Some(million)).into_iter().find(|check| check.name == name).unwrap();
            assert!(!check.remedies.is_empty(), "{name}");
        }
    }
}
