//! Results for tests of the code that uses them.

use std::path::PathBuf;

use super::super::statistics::Random;
use super::*;

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ringload-compare.schema.json");

/// Nine rounds and a discarded one of these servers in one cell, with this processor time per echo and 0.02 % of noise.
pub(crate) fn results(servers: &[(&str, f64)]) -> Results {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let mut text = format!("[compare]\nbaseline = '{}'\n[[cell]]\n", servers[0].0);
    for (name, _) in servers {
        text = format!("{text}[[server]]\nname = '{name}'\ncommand = 'x {{port}}'\n");
    }
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("ringload-results-{}-{number}.toml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let comparison = Comparison::read(std::slice::from_ref(&path)).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut results = Results::of(&comparison, 1);
    let mut random = Random(1);
    for round in 0..=9 {
        for (name, value) in servers {
            let noise = 1.0 + 0.0002 * (random.below(1000) as f64 / 500.0 - 1.0);
            results.runs.push(run(name, "128 B x 100", round, value * noise));
        }
    }
    results.is_complete = true;
    super::super::analysis::analyse(&mut results);
    results
}

fn run(server: &str, cell: &str, round: u32, cpu_per_echo: f64) -> Run {
    Run {
        server: server.to_owned(),
        cell: cell.to_owned(),
        round,
        attempts: 1,
        started_unix_s: 1.0,
        elapsed_s: 3.0,
        values: [(Metric::CpuPerEcho, cpu_per_echo), (Metric::PeakMemory, 1e6)].into(),
        bound: Some(Bound::ServerBound),
        by_control_group: true,
        group_peak_bytes: None,
        faults: Vec::new(),
    }
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ringload-{name}-{}.json", std::process::id()))
}

#[test]
fn results_survive_being_written_and_read() {
    let (written, path) = (results(&[("a", 1.0), ("b", 2.0)]), path("written"));
    written.write(&path).unwrap();
    let read = Results::read(&path).unwrap();
    assert_eq!((read.runs.len(), &read.servers, &read.cells), (20, &written.servers, &written.cells));
    std::fs::write(&path, r#"{"comparison_version": 999}"#).unwrap();
    assert!(matches!(Results::read(&path), Err(ResultsError::Version(_, 999))));
    std::fs::write(&path, r#"{"version": 3}"#).unwrap();
    assert!(Results::read(&path).unwrap_err().to_string().contains("does not hold results of `ringload compare`"));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Results::read(&path), Err(ResultsError::Read(..))));
    assert!(matches!(written.write(std::path::Path::new("/no/such/directory/x")), Err(ResultsError::Write(..))));
}

#[test]
fn only_the_same_comparison_is_resumed() {
    let earlier = results(&[("a", 1.0), ("b", 2.0)]);
    let anew = |change: fn(&mut Results)| {
        let mut now = Results { runs: Vec::new(), seed: 9, ..results(&[("a", 1.0), ("b", 2.0)]) };
        change(&mut now);
        now.resume(earlier.clone(), std::path::Path::new("r.json"))
    };
    let resumed = anew(|_| {}).unwrap();
    assert_eq!((resumed.runs.len(), resumed.seed), (20, 1), "its orders are those of the earlier seed");
    assert!(resumed.has("b", "128 B x 100", 9) && !resumed.has("b", "128 B x 100", 10));
    let more_rounds = anew(|it| it.settings.rounds = 20);
    assert_eq!(more_rounds.unwrap().runs.len(), 20);
    let fewer_rounds = anew(|it| it.cells[0].rounds = 3).unwrap();
    assert_eq!((fewer_rounds.cells[0].rounds, fewer_rounds.has_all()), (9, true), "nine have been made");
    let fewer_servers = anew(|it| it.servers.truncate(1)).unwrap();
    assert_eq!((fewer_servers.runs.len(), fewer_servers.servers.len()), (20, 2), "what is not in this one stays");
    let other_cell = anew(|it| it.cells[0].name = "other".to_owned()).unwrap();
    let names: Vec<&str> = other_cell.cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!((other_cell.runs.len(), names), (20, vec!["other", "128 B x 100"]));
    assert!(resumed.has_all() && !other_cell.has_all());
    for (change, why) in [
        ((|it| it.settings.duration_s = 9.0) as fn(&mut Results), "settings"),
        (|it| it.settings.idle = Some(Idle::Poll), "settings"),
        (|it| it.servers[1].command = "other".to_owned(), "server b"),
        (|it| it.servers[1].url = Some("ws://other/".to_owned()), "server b"),
        (|it| it.cells[0].connections = 7, "cell 128 B x 100"),
    ] {
        let error = anew(change).unwrap_err().to_string();
        assert!(error.contains(why) && error.starts_with("r.json cannot be resumed"), "{error}");
    }
}

#[test]
fn results_without_what_was_added_later_are_resumed() {
    let mut earlier = results(&[("a", 1.0), ("b", 2.0)]);
    (earlier.settings.idle, earlier.servers[0].url) = (None, None);
    let now = Results { runs: Vec::new(), ..results(&[("a", 1.0), ("b", 2.0)]) };
    assert_eq!(now.resume(earlier, std::path::Path::new("r.json")).unwrap().runs.len(), 20);
}

#[test]
fn a_part_is_judged_like_the_whole() {
    let mut it = results(&[("a", 1.0), ("b", 2.0), ("c", 3.0)]);
    let whole = it.compared("b", "128 B x 100", Metric::CpuPerEcho).cloned();
    it.keep_only(&["b".to_owned()]).unwrap();
    assert_eq!(it.compared("b", "128 B x 100", Metric::CpuPerEcho).cloned(), whole);
    assert!(it.compared("c", "128 B x 100", Metric::CpuPerEcho).is_none());
}

#[test]
fn other_versions_and_builds_of_earlier_rounds_are_conditions() {
    let with = |version: &str, build: &str, machine: &str| {
        let mut it = results(&[("a", 1.0), ("b", 2.0)]);
        (it.servers[1].version, it.servers[1].program) = (Some(version.to_owned()), Some(build.to_owned()));
        it.ringload = version.to_owned();
        it.machine.boot_id = machine.to_owned();
        it
    };
    let resume = |now: Results, before| now.resume(before, std::path::Path::new("r.json")).unwrap();
    let notes = |it: &Results| -> Vec<String> {
        let resumed = it.conditions.iter().filter(|it| it.0.starts_with(RESUMED));
        resumed.map(|(name, text)| format!("{name}: {text}")).collect()
    };
    let same = resume(with("1", "5 bytes", "x"), with("1", "5 bytes", "x"));
    assert_eq!(notes(&same), Vec::<String>::new());
    let other = resume(with("3", "7 bytes", "x"), resume(with("2", "5 bytes", "y"), with("1", "5 bytes", "y")));
    let expected = [
        "resumed: the machine was started anew, or is another one, since earlier rounds",
        "resumed, build of b: 5 bytes, then 7 bytes",
        "resumed, version of b: 1, then 2, then 3",
        "resumed, version of ringload: 1, then 2, then 3",
    ];
    assert_eq!(notes(&other), expected);
    assert!(crate::compare::analysis::warnings(&other).contains(&expected[1].to_owned()));
}

/// The schema is made from the types. After a change to them: `UPDATE_SCHEMA=1 cargo test -p ringload schema`.
#[test]
fn the_schema_is_that_of_the_types() {
    let mut schema = schemars::schema_for!(Results);
    schema.insert("title".to_owned(), format!("Results of ringload compare, version {VERSION}").into());
    let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(SCHEMA, &schema).unwrap();
    }
    let on_disk = std::fs::read_to_string(SCHEMA).unwrap_or_default();
    assert!(on_disk == schema, "docs/ringload-compare.schema.json is out of date");
}
