//! Properties of the machine that affect its speed, shown in reports so that readers can compare runs.

use std::collections::BTreeMap;
use std::path::Path;

/// The known properties of this machine.
#[must_use]
pub fn of_this_machine() -> BTreeMap<String, String> {
    let mut conditions = BTreeMap::new();
    let mut add = |name: &str, path: &str| {
        let value = std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        if !value.is_empty() {
            conditions.insert(name.to_owned(), value);
        }
    };
    add("load average at the start", "/proc/loadavg");
    add("frequency governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    add("turbo switched off (Intel)", "/sys/devices/system/cpu/intel_pstate/no_turbo");
    add("boost (AMD)", "/sys/devices/system/cpu/cpufreq/boost");
    add("hyper-threading", "/sys/devices/system/cpu/smt/control");
    add("idle governor", "/sys/devices/system/cpu/cpuidle/current_governor");
    add("clock source", "/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let mitigations = mitigations(Path::new("/sys/devices/system/cpu/vulnerabilities"));
    if !mitigations.is_empty() {
        conditions.insert("mitigations".to_owned(), mitigations);
    }
    conditions
}

/// The kernel's mitigations of processor vulnerabilities that cost time.
fn mitigations(directory: &Path) -> String {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .filter_map(|entry| {
            let value = std::fs::read_to_string(entry.path()).ok()?;
            let what = value.trim().strip_prefix("Mitigation: ")?.to_owned();
            Some(format!("{}: {what}", entry.file_name().to_string_lossy()))
        })
        .collect();
    found.sort();
    found.join("; ")
}
