//! The machine of a run: what readers need to judge the numbers, and to repeat them.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::sampling::quota::CpuQuotas;

/// Kernel settings that decide how many connections a machine holds, and how fast it opens them.
const SYSCTLS: [&str; 20] = [
    "fs.file-max",
    "fs.nr_open",
    "kernel.io_uring_disabled",
    "net.core.netdev_max_backlog",
    "net.core.rmem_max",
    "net.core.somaxconn",
    "net.core.wmem_max",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_ehash_entries",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_max_orphans",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_wmem",
    "net.netfilter.nf_conntrack_max",
    "vm.overcommit_memory",
];

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Its name.
    pub hostname: String,
    /// Tells machines, and their reboots, apart.
    pub boot_id: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processors' model.
    pub cpu_model: String,
    /// Processors that this process may use.
    pub cpus_usable: usize,
    /// How many of them its control group's CPU quota allows; absent without one.
    pub cpu_quota_cores: Option<f64>,
    /// How the first of them chooses its frequency; absent where the machine does not say, as most virtual ones.
    pub cpu_governor: Option<String>,
    /// All memory.
    pub memory_bytes: u64,
    /// `RLIMIT_NOFILE`, hard; absent if unlimited.
    pub descriptors_max: Option<u64>,
    /// Settings by name; those that the kernel does not have are not there.
    pub sysctls: BTreeMap<String, String>,
}

impl Machine {
    /// This one. What cannot be read is empty: it must not keep anybody from measuring.
    #[must_use]
    pub fn this() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let model = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            hostname: read("/proc/sys/kernel/hostname"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu_model: model("model name").or_else(|| model("CPU implementer")).unwrap_or_default(),
            cpus_usable: ringecho::sys::usable_cpus().map_or(0, |cpus| cpus.len()),
            cpu_quota_cores: CpuQuotas::of(&[std::process::id()]).cores(),
            cpu_governor: (!governor.is_empty()).then_some(governor),
            memory_bytes: crate::sampling::memory_total_bytes(),
            descriptors_max: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
            sysctls: SYSCTLS.into_iter().filter_map(sysctl).collect(),
        }
    }

    /// This one, with the network settings of the namespace that the server is in. Those are left out if it cannot be entered.
    #[must_use]
    pub fn seen_from(namespace: BorrowedFd<'_>) -> Self {
        let mut machine = Self::this();
        machine.sysctls.retain(|name, _| !is_of_network(name));
        let settings = thread::scope(|scope| {
            // Only a thread that lives no longer than this call is moved there.
            let read = scope.spawn(|| {
                move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).ok()?;
                Some(SYSCTLS.into_iter().filter(|name| is_of_network(name)).filter_map(sysctl).collect::<Vec<_>>())
            });
            read.join().expect("a panic ends the process")
        });
        machine.sysctls.extend(settings.into_iter().flatten());
        machine
    }
}

/// Whether each network namespace has a value of its own.
fn is_of_network(name: &str) -> bool {
    name.starts_with("net.")
}

/// A setting with its value, if the kernel has it.
fn sysctl(name: &str) -> Option<(String, String)> {
    let value = read(&format!("/proc/sys/{}", name.replace('.', "/")));
    (!value.is_empty()).then(|| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known() {
        let machine = Machine::this();
        assert!(!machine.kernel.is_empty() && !machine.boot_id.is_empty());
        assert!(machine.cpus_usable > 0 && machine.memory_bytes > 0);
        assert_eq!(machine.sysctls["net.ipv4.ip_local_port_range"].split(' ').count(), 2);
    }
}
