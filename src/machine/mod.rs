//! The resources that the operating system grants this process: descriptors, processors and memory.

mod cgroup;

use std::fmt;
use std::io;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::sys;

/// What the operating system grants this process.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The hard `RLIMIT_NOFILE`.
    pub descriptors: u64,
    /// Processors that it may run on: its affinity mask, which a cpuset bounds.
    pub cpus: Vec<usize>,
    /// Processors' worth of time that its cgroups grant, if they bound it.
    pub cpu_quota: Option<Bound<f64>>,
    /// Bytes of memory that it may use.
    pub memory: Bound<u64>,
    /// Threads that it may start, if its cgroups bound them.
    pub threads: Option<Bound<u64>>,
}

/// A bound, and what sets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound<T> {
    /// How much.
    pub value: T,
    /// What sets it, in the kernel's terms: a file of a cgroup, a resource limit.
    pub set_by: String,
}

impl Machine {
    /// Asks the operating system, and raises the process's soft `RLIMIT_NOFILE` to the hard one.
    pub fn probe() -> io::Result<Self> {
        let cgroups = cgroup::Limits::read(Path::new("/"));
        let physical = Bound { value: sys::physical_memory(), set_by: "physical memory".into() };
        // The kernel enforces the soft limit.
        let address_space = getrlimit(Resource::As).current.map(|value| Bound { value, set_by: "RLIMIT_AS".into() });
        Ok(Self {
            descriptors: sys::raise_descriptor_limit()?,
            cpus: sys::usable_cpus()?,
            cpu_quota: cgroups.cpus,
            threads: cgroups.threads,
            memory: least([Some(physical), address_space, cgroups.memory]),
        })
    }
}

fn least(bounds: [Option<Bound<u64>>; 3]) -> Bound<u64> {
    bounds.into_iter().flatten().min_by_key(|bound| bound.value).expect("a machine has memory")
}

/// Bytes as people write them, in the largest binary unit that leaves no more than four digits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut units) = (self.0, ["B", "KiB", "MiB", "GiB"].iter());
        let mut unit = units.next().expect("there are some");
        while value >= 10_000 || (value >= 1024 && value % 1024 == 0) {
            let Some(larger) = units.next() else { break };
            (value, unit) = (value / 1024, larger);
        }
        write!(f, "{value} {unit}")
    }
}
