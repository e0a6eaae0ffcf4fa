//! The limits of the control groups that this process is in, version 1 and version 2 (`cgroups(7)`).
//!
//! A limit applies to a group and all groups below it, so the lowest of those up to the root counts. `mountinfo` says which
//! part of that path is visible: a container sees its own group as the root.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Bound;

/// What the control groups grant; `None` where none of them sets a bound.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Processors' worth of time.
    pub(super) cpus: Option<Bound<f64>>,
    /// Bytes.
    pub(super) memory: Option<Bound<u64>>,
    /// Threads and processes that there may be beside those there are (`pids.max`).
    pub(super) threads: Option<Bound<u64>>,
}

impl Limits {
    /// Reads them below `root`, which is `/` but for tests. What cannot be read sets no bound.
    pub(super) fn read(root: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let groups = groups(&read("proc/self/cgroup"), &read("proc/self/mountinfo"));
        let mut limits = Self::default();
        for group in &groups {
            for directory in group.up_to_mount(root) {
                limits.take(group.version, &directory);
            }
        }
        limits
    }

    fn take(&mut self, version: Version, directory: &Path) {
        let (memory, cpus) = match version {
            Version::One => (vec!["memory.limit_in_bytes"], quota_v1(directory)),
            Version::Two => (vec!["memory.max", "memory.high"], quota_v2(directory)),
        };
        for name in memory {
            // "max", as everything that is no number, is no bound; version 1 has a number larger than any memory instead.
            let value = number(&directory.join(name));
            lower(&mut self.memory, value.map(|value| Bound { value, set_by: format!("cgroup {name}") }));
        }
        lower(&mut self.cpus, cpus);
        // The same names in both versions. The root has none.
        let count = |name: &str| number::<u64>(&directory.join(name));
        if let (Some(max), Some(current)) = (count("pids.max"), count("pids.current")) {
            let set_by = format!("cgroup pids.max {max}");
            lower(&mut self.threads, Some(Bound { value: max.saturating_sub(current), set_by }));
        }
    }
}

fn lower<T: PartialOrd>(least: &mut Option<Bound<T>>, other: Option<Bound<T>>) {
    if let Some(other) = other
        && least.as_ref().is_none_or(|least| other.value < least.value)
    {
        *least = Some(other);
    }
}

/// `cpu.max`: quota and period in microseconds.
fn quota_v2(directory: &Path) -> Option<Bound<f64>> {
    let text = fs::read_to_string(directory.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    quota_of(quota.parse().ok()?, period.parse().ok()?, "cpu.max")
}

/// The same in two files; the quota is -1 where there is none.
fn quota_v1(directory: &Path) -> Option<Bound<f64>> {
    let of = |name: &str| number(&directory.join(name));
    quota_of(of("cpu.cfs_quota_us")?, of("cpu.cfs_period_us")?, "cpu.cfs_quota_us")
}

fn quota_of(quota_us: f64, period_us: f64, name: &str) -> Option<Bound<f64>> {
    let is_bound = quota_us > 0.0 && period_us > 0.0;
    is_bound.then(|| Bound { value: quota_us / period_us, set_by: format!("cgroup {name}") })
}

fn number<T: FromStr>(path: &Path) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group of this process, as far as it can be seen.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    /// Where its hierarchy is mounted.
    mount: PathBuf,
    /// From there to the group.
    path: PathBuf,
}

impl Group {
    /// The group's directory and those above it, as far as they are mounted.
    fn up_to_mount(&self, root: &Path) -> Vec<PathBuf> {
        let mount = root.join(self.mount.strip_prefix("/").unwrap_or(&self.mount));
        self.path.ancestors().map(|path| mount.join(path)).collect()
    }
}

/// The groups that can bound memory, processor time or threads. `cgroup` has lines `number:controllers:path`, where version 2
/// names no controllers; `mountinfo` is as in `proc_pid_mountinfo(5)`.
fn groups(cgroup: &str, mountinfo: &str) -> Vec<Group> {
    let mounts: Vec<_> = mountinfo.lines().filter_map(mount).collect();
    let group = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let version = if controllers.is_empty() { Version::Two } else { Version::One };
        let has = |names: &str| names.split(',').any(|name| ["memory", "cpu", "pids"].contains(&name));
        if version == Version::One && !has(controllers) {
            return None;
        }
        let of_group = |mount: &&Mount| {
            mount.version == version && (version == Version::Two || same_controllers(controllers, &mount.options))
        };
        let mount = mounts.iter().find(of_group)?;
        // Of a group outside of what is mounted here, the mounted part is all that can be seen.
        let path = Path::new(path).strip_prefix(&mount.root).unwrap_or(Path::new(""));
        Some(Group { version, mount: mount.point.clone(), path: path.to_owned() })
    };
    cgroup.lines().filter_map(group).collect()
}

fn same_controllers(controllers: &str, options: &str) -> bool {
    controllers.split(',').all(|name| options.split(',').any(|option| option == name))
}

/// A mounted hierarchy.
struct Mount {
    version: Version,
    /// The group that is seen at the mount point.
    root: PathBuf,
    point: PathBuf,
    options: String,
}

fn mount(line: &str) -> Option<Mount> {
    let (of_mount, of_filesystem) = line.split_once(" - ")?;
    let mut fields = of_mount.split(' ').skip(3);
    let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
    let mut fields = of_filesystem.split(' ');
    let version = match fields.next()? {
        "cgroup" => Version::One,
        "cgroup2" => Version::Two,
        _ => return None,
    };
    Some(Mount { version, root, point, options: fields.nth(1)?.to_owned() })
}

/// A path in which the kernel has written blanks and backslashes as octal numbers.
fn unescaped(path: &str) -> PathBuf {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files, which goes with the test.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("ringecho-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("a file is in a directory")).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    type Found<T> = Option<(T, String)>;

    fn limits(name: &str, files: &[(&str, &str)]) -> (Found<u64>, Found<f64>) {
        let limits = read(name, files);
        let memory = limits.memory.map(|bound| (bound.value, bound.set_by));
        (memory, limits.cpus.map(|bound| (bound.value, bound.set_by)))
    }

    fn read(name: &str, files: &[(&str, &str)]) -> Limits {
        Limits::read(&Tree::new(name, files).0)
    }

    const UNIFIED: &str = "25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_least_on_the_way_up_counts() {
        let found = limits(
            "up",
            &[
                ("proc/self/cgroup", "0::/system.slice/echo.service\n"),
                ("proc/self/mountinfo", UNIFIED),
                ("sys/fs/cgroup/system.slice/echo.service/memory.max", "max\n"),
                ("sys/fs/cgroup/system.slice/echo.service/memory.high", "104857600\n"),
                ("sys/fs/cgroup/system.slice/echo.service/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/system.slice/memory.max", "67108864\n"),
                ("sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n"),
            ],
        );
        let cpus = Some((1.5, "cgroup cpu.max".into()));
        assert_eq!(found, (Some((64 << 20, "cgroup memory.max".into())), cpus));
    }

    #[test]
    fn version_one_has_a_hierarchy_for_each_controller() {
        let mounts = "31 20 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 20 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      33 20 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";
        let found = limits(
            "v1",
            &[
                ("proc/self/cgroup", "5:memory:/a/b\n4:cpuset:/\n2:cpu,cpuacct:/c\n1:name=systemd:/\n"),
                ("proc/self/mountinfo", mounts),
                ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "134217728\n"),
                ("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "50000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
        );
        let cpus = Some((0.5, "cgroup cpu.cfs_quota_us".into()));
        assert_eq!(found, (Some((128 << 20, "cgroup memory.limit_in_bytes".into())), cpus));
    }

    #[test]
    fn threads_are_bounded_by_what_others_leave() {
        let of = |group: &str, max: &str, current: &str| {
            let path = |name| format!("sys/fs/cgroup/{group}{name}");
            [(path("pids.max"), max.to_owned()), (path("pids.current"), current.to_owned())]
        };
        let two = [
            &[
                ("proc/self/cgroup".to_owned(), "0::/pod/container\n".to_owned()),
                ("proc/self/mountinfo".to_owned(), UNIFIED.to_owned()),
            ],
            &of("pod/container/", "max\n", "3\n"),
            &of("pod/", "100\n", "90\n"),
        ];
        let mounts = "33 20 0:29 / /sys/fs/cgroup rw - cgroup cgroup rw,pids\n";
        let one = [
            &[
                ("proc/self/cgroup".to_owned(), "8:pids:/a\n".to_owned()),
                ("proc/self/mountinfo".to_owned(), mounts.to_owned()),
            ],
            &of("a/", "100\n", "90\n"),
            &of("", "max\n", "500\n"),
        ];
        for (name, files) in [("pids2", two), ("pids1", one)] {
            let files: Vec<_> = files.iter().flat_map(|it| it.iter()).map(|(path, text)| (&**path, &**text)).collect();
            let threads = read(name, &files).threads.expect("a bound");
            assert_eq!((threads.value, &*threads.set_by), (10, "cgroup pids.max 100"), "{name}");
        }
    }

    /// As in a container: its group is the root of what is mounted, and `/proc/self/cgroup` may name the host's path.
    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let mounts = "40 20 0:28 /docker/1f\\0402e /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        for path in ["/docker/1f 2e", "/somewhere/else"] {
            let cgroup = format!("5:memory:{path}\n");
            let found = limits(
                "container",
                &[
                    ("proc/self/cgroup", &cgroup),
                    ("proc/self/mountinfo", mounts),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
                ],
            );
            assert_eq!(found.0.map(|(value, _)| value), Some(4096), "{path}");
        }
    }

    #[test]
    fn no_groups_are_no_bound() {
        assert_eq!(limits("none", &[("proc/self/cgroup", "0::/\n"), ("proc/self/mountinfo", UNIFIED)]), (None, None));
        assert_eq!(limits("nothing", &[("etc/hostname", "x")]), (None, None));
    }
}
