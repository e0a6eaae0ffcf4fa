//! A control group for one server, which accounts for all its processes, including those that have ended (cgroups(7)).
//!
//! Version 2 counts processor time in every group, whatever controllers are on; version 1 does it with `cpuacct`. Memory
//! takes the controller of that name in both.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::CpuTime;
use super::quota::{Mount, Version};

/// The prefix of the names of these groups; the process that made it and a number follow.
const PREFIX: &str = "ringload-";

/// Time for the kernel to take the last process out of a killed group.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(5);

/// Controllers in whose hierarchies of version 1 the group is made as well.
const CONTROLLERS: [&str; 2] = ["cpuacct", "memory"];

/// A group of this process. It ends, with all that is in it, when this is dropped.
#[derive(Debug)]
pub struct ControlGroup {
    /// One in each hierarchy.
    directories: Vec<PathBuf>,
}

impl ControlGroup {
    /// Makes one below the groups that this process is in. `None` where that is not allowed.
    #[must_use]
    pub fn create() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut group = Self { directories: Vec::new() };
        for parent in parents() {
            let directory = parent.join(&name);
            if std::fs::create_dir(&directory).is_ok() {
                group.directories.push(directory);
            }
        }
        (group.cpu_time().is_some()).then_some(group)
    }

    /// Files that a process joins the group with, by writing `0` to each of them.
    #[must_use]
    pub fn doors(&self) -> Vec<File> {
        let open = |directory: &PathBuf| OpenOptions::new().write(true).open(directory.join("cgroup.procs")).ok();
        self.directories.iter().filter_map(open).collect()
    }

    /// The usage of all processes in it.
    #[must_use]
    pub fn cpu_time(&self) -> Option<CpuTime> {
        cpu_time_in(&self.directories)
    }

    /// The most memory that it had: the kernel's on its behalf and cached files among it.
    #[must_use]
    pub fn memory_peak_bytes(&self) -> Option<u64> {
        let files = ["memory.peak", "memory.max_usage_in_bytes"];
        let mut found = self.directories.iter().flat_map(|directory| files.map(|file| directory.join(file)));
        found.find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
    }

    /// Kills all that is in it.
    pub fn kill(&self) {
        self.directories.iter().for_each(|directory| kill_in(directory));
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        self.directories.iter().for_each(|directory| remove(directory));
    }
}

/// The groups that this process is in, one in each hierarchy that counts.
fn parents() -> Vec<PathBuf> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut found = Vec::new();
    for controller in CONTROLLERS {
        for directory in Mount::all(&mountinfo, controller).iter().filter_map(|mount| mount.directory(&groups)) {
            if !found.contains(&directory) {
                found.push(directory);
            }
        }
    }
    found
}

/// Removes what dead processes of this program have left behind, with the servers in it.
pub fn remove_leftovers() {
    for parent in parents() {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let maker =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')?.0.parse::<u32>().ok());
            if maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                remove(&entry.path());
            }
        }
    }
}

fn remove(directory: &Path) {
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    while std::fs::remove_dir(directory).is_err() && directory.exists() && Instant::now() < deadline {
        kill_in(directory);
        std::thread::sleep(TICK);
    }
}

fn kill_in(directory: &Path) {
    let processes = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse::<i32>().ok()) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            // An error only says that it has just ended.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Processor time of the group that a process is in, if it was made here: such a group holds one server and nothing else.
#[must_use]
pub fn cpu_time_of(pid: u32) -> Option<CpuTime> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    if !groups.contains(PREFIX) {
        return None;
    }
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = Mount::all(&mountinfo, CONTROLLERS[0]);
    let own = mounts.iter().filter_map(|mount| mount.directory(&groups)).filter(|directory| is_own(directory));
    cpu_time_in(&own.collect::<Vec<_>>())
}

/// Whether a group has a name that this program gives.
fn is_own(directory: &Path) -> bool {
    let name = directory.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(PREFIX));
    name.and_then(|numbers| numbers.split_once('-'))
        .is_some_and(|(maker, number)| maker.parse::<u32>().is_ok() && number.parse::<u32>().is_ok())
}

/// Of the directories of one group in the hierarchies of both versions: the total of version 1 is exact, but what it says of
/// user space and kernel are samples, one at each tick of the kernel's clock; version 2 scales these to the exact total.
fn cpu_time_in(directories: &[PathBuf]) -> Option<CpuTime> {
    let read = |directory: &Path, file: &str| std::fs::read_to_string(directory.join(file)).ok();
    let two = |directory: &PathBuf| parse(Version::Two, &read(directory, "cpu.stat")?);
    let one = |directory: &PathBuf| {
        let files = ["cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys"];
        let values: Option<Vec<_>> = files.iter().map(|file| read(directory, file)).collect();
        parse(Version::One, &values?.join(" "))
    };
    directories.iter().find_map(two).or_else(|| directories.iter().find_map(one))
}

/// Version 2: `cpu.stat`; version 1: nanoseconds in total, and sampled ones in user space and in the kernel.
fn parse(version: Version, text: &str) -> Option<CpuTime> {
    let (user, system) = match version {
        Version::Two => {
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                line?.trim().parse().ok().map(Duration::from_micros)
            };
            (field("user_usec")?, field("system_usec")?)
        }
        Version::One => {
            let values: Option<Vec<u64>> = text.split_whitespace().map(|value| value.parse().ok()).collect();
            let [total, user, system] = values?.try_into().ok()?;
            let share = user as f64 / (user + system).max(1) as f64;
            let in_user_space = Duration::from_nanos(total).mul_f64(share);
            (in_user_space, Duration::from_nanos(total).saturating_sub(in_user_space))
        }
    };
    Some(CpuTime { user, system })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_count_user_and_system_time() {
        let expected = Some(CpuTime { user: Duration::from_micros(1500), system: Duration::from_micros(250) });
        assert_eq!(parse(Version::Two, "usage_usec 1750\nuser_usec 1500\nsystem_usec 250\nnice_usec 0\n"), expected);
        let sampled = parse(Version::One, "1750000\n 1500000\n 500000\n").unwrap();
        assert_eq!(sampled.total(), Duration::from_micros(1750), "as much as was used, not as was sampled");
        assert!(sampled.user.abs_diff(Duration::from_nanos(1_312_500)) < Duration::from_nanos(10), "{sampled:?}");
        assert_eq!(parse(Version::Two, "nr_periods 0\n"), None);
    }

    #[test]
    fn only_names_that_are_given_here_are_of_a_server_alone() {
        let is = |name: &str| is_own(&Path::new("/sys/fs/cgroup").join(name));
        assert!(is(&format!("{PREFIX}7-0")));
        assert!(!is("ringload-bench.service") && !is(&format!("{PREFIX}7-x")) && !is("7-0"));
    }

    #[test]
    fn a_group_counts_what_has_ended_and_goes_away() {
        use std::os::unix::process::CommandExt;
        let Some(group) = ControlGroup::create() else {
            eprintln!("SKIPPED: no control group can be made here");
            return;
        };
        let doors = group.doors();
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "(i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done); echo; read x"]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        // SAFETY: between fork and exec there are only writes to descriptors that the closure owns.
        unsafe {
            command.pre_exec(move || doors.iter().try_for_each(|door| std::io::Write::write_all(&mut &*door, b"0")));
        }
        let mut child = command.spawn().unwrap();
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let used = cpu_time_of(child.id()).expect("it is in its group");
        assert!(used.total() > Duration::from_millis(1), "the loop ran in a process that has ended: {used:?}");
        assert_eq!(cpu_time_of(std::process::id()), None, "this process is in none of its own");
        let directories = group.directories.clone();
        drop(group);
        assert!(directories.iter().all(|directory| !directory.exists()), "{directories:?}");
        assert!(!child.wait().unwrap().success(), "it was killed with its group");
    }
}
