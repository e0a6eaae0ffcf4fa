//! CPU quotas of control groups (cgroups(7)), and how often they throttled a process.
//!
//! A quota applies to a group and the groups below it, so the group of a process and those above it are checked. Both
//! versions of control groups are read, since a machine may have both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The groups with a quota that some processes are in, as they are at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuQuotas(BTreeMap<PathBuf, Quota>);

/// A group's quota and what it has done since the group was made.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Quota {
    cores: f64,
    periods: u64,
    periods_throttled: u64,
    throttled: Duration,
}

/// What a quota did between two moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Throttling {
    /// The control group's directory.
    pub group: String,
    /// Processors that the quota allows.
    pub quota_cores: f64,
    /// Periods in which the group ran.
    pub periods: u64,
    /// Those at whose end it waited because its quota was used up.
    pub periods_throttled: u64,
    /// How long its processors waited, added up over them.
    pub throttled_s: f64,
}

impl Throttling {
    /// The share of the periods in which the group was throttled.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.periods_throttled as f64 / self.periods.max(1) as f64
    }
}

impl CpuQuotas {
    /// Of the groups that hold any of these processes. What cannot be read counts as no quota.
    #[must_use]
    pub fn of(pids: &[u32]) -> Self {
        let mounts = Mount::all(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), "cpu");
        let mut quotas = BTreeMap::new();
        for pid in pids {
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            for (mount, directory) in mounts.iter().filter_map(|mount| Some((mount, mount.directory(&groups)?))) {
                for group in directory.ancestors().take_while(|group| group.starts_with(&mount.point)) {
                    if !quotas.contains_key(group)
                        && let Some(quota) = mount.version.quota(group)
                    {
                        quotas.insert(group.to_owned(), quota);
                    }
                }
            }
        }
        Self(quotas)
    }

    /// The smallest quota, in processors.
    #[must_use]
    pub fn cores(&self) -> Option<f64> {
        self.0.values().map(|quota| quota.cores).reduce(f64::min)
    }

    /// What the quota that throttled most has done since `earlier`; the smallest one, if none did.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Throttling> {
        let grown = self.0.iter().filter_map(|(group, now)| {
            let before = earlier.0.get(group)?;
            Some(Throttling {
                group: group.display().to_string(),
                quota_cores: now.cores,
                periods: now.periods.saturating_sub(before.periods),
                periods_throttled: now.periods_throttled.saturating_sub(before.periods_throttled),
                throttled_s: now.throttled.saturating_sub(before.throttled).as_secs_f64(),
            })
        });
        grown.max_by(|a, b| a.share().total_cmp(&b.share()).then(b.quota_cores.total_cmp(&a.quota_cores)))
    }
}

/// The two forms of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Version {
    /// The quota of a group; `None` if it has none.
    fn quota(self, group: &Path) -> Option<Quota> {
        let read = |name| std::fs::read_to_string(group.join(name)).ok();
        let cores = match self {
            Self::One => cores_of(&format!("{} {}", read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?)),
            Self::Two => cores_of(&read("cpu.max")?),
        }?;
        Some(Quota { cores, ..self.parse_stat(&read("cpu.stat")?) })
    }

    fn parse_stat(self, stat: &str) -> Quota {
        let field = |name: &str| {
            let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let throttled = match self {
            Self::One => Duration::from_nanos(field("throttled_time")),
            Self::Two => Duration::from_micros(field("throttled_usec")),
        };
        Quota { cores: 0.0, periods: field("nr_periods"), periods_throttled: field("nr_throttled"), throttled }
    }
}

/// Processors from a quota and its period; there is no quota where the first is `max` or -1.
fn cores_of(quota_and_period: &str) -> Option<f64> {
    let mut words = quota_and_period.split_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// Where a hierarchy of control groups with a certain controller is mounted: any of version 2, or one of version 1 with it.
#[derive(Debug, PartialEq)]
pub(super) struct Mount {
    pub(super) version: Version,
    controller: &'static str,
    /// The group whose directory is the mount point.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// From `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
    pub(super) fn all(mountinfo: &str, controller: &'static str) -> Vec<Self> {
        let mount = |line: &str| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            let (kind, options) = (right.next()?, right.nth(1)?);
            let version = match kind {
                "cgroup2" => Version::Two,
                "cgroup" if options.split(',').any(|option| option == controller) => Version::One,
                _ => return None,
            };
            let mut left = left.split(' ').skip(3);
            Some(Self { version, controller, root: left.next()?.into(), point: left.next()?.into() })
        };
        mountinfo.lines().filter_map(mount).collect()
    }

    /// The directory of the group that `/proc/PID/cgroup` names for this hierarchy.
    pub(super) fn directory(&self, groups: &str) -> Option<PathBuf> {
        let path = groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_this = match self.version {
                Version::One => controllers.split(',').any(|controller| controller == self.controller),
                Version::Two => controllers.is_empty(),
            };
            is_this.then_some(path)
        })?;
        // A group outside of what is mounted here (`/..` in another namespace) cannot be read.
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        below.components().all(|part| matches!(part, std::path::Component::Normal(_))).then(|| self.point.join(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
41 31 0:38 /pod /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    #[test]
    fn groups_are_found_in_both_versions() {
        let mounts = Mount::all(MOUNTS, "cpu");
        assert_eq!(mounts.iter().map(|it| it.version).collect::<Vec<_>>(), [Version::One, Version::Two]);
        let groups = "3:cpuset:/a\n1:cpu,cpuacct:/b/c\n0::/pod/d\n";
        assert_eq!(mounts[0].directory(groups), Some("/sys/fs/cgroup/cpu/b/c".into()));
        assert_eq!(mounts[1].directory(groups), Some("/sys/fs/cgroup/unified/d".into()));
        assert_eq!(mounts[1].directory("0::/other"), None);
        assert_eq!(mounts[0].directory("1:cpu:/../x\n"), None);
    }

    #[test]
    fn quotas_and_throttled_periods_are_read() {
        assert_eq!(cores_of("max 100000\n"), None);
        assert_eq!(cores_of("-1 100000\n"), None);
        assert_eq!(cores_of("25000 100000\n"), Some(0.25));
        let one = Version::One.parse_stat("nr_periods 40\nnr_throttled 39\nthrottled_time 5000000000\n");
        let two = Version::Two.parse_stat("usage_usec 9\nnr_periods 40\nnr_throttled 39\nthrottled_usec 5000000\n");
        assert_eq!(one, two);
        assert_eq!((one.periods_throttled, one.throttled), (39, Duration::from_secs(5)));
    }

    #[test]
    fn the_quota_that_throttles_most_is_told() {
        let quota =
            |cores, periods_throttled| Quota { cores, periods: 100, periods_throttled, throttled: Duration::ZERO };
        let at =
            |outer, inner| CpuQuotas([("/g".into(), quota(2.0, outer)), ("/g/h".into(), quota(4.0, inner))].into());
        let mut before = at(0, 0);
        assert_eq!(at(0, 0).since(&before).unwrap().group, "/g", "the smallest, if none throttles");
        before.0.values_mut().for_each(|quota| quota.periods = 50);
        let told = at(10, 40).since(&before).unwrap();
        assert_eq!((told.group.as_str(), told.periods, told.periods_throttled), ("/g/h", 50, 40));
        assert!((told.share() - 0.8).abs() < 1e-9);
        assert_eq!(at(0, 0).cores(), Some(2.0));
        assert_eq!(CpuQuotas::default().since(&before), None);
    }
}
