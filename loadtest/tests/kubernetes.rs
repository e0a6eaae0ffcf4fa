//! The manifests of `deploy/kubernetes`: both programs take every argument in them, and numbers that belong together agree.

mod runner;

use std::path::{Path, PathBuf};
use std::process::Command;

use runner::{ringload, run_to_end};
use serde_json::Value;

const JOB: &str = "base/job.yaml";
const SERVER: &str = "server/deployment.yaml";
const SCENARIOS: [&str; 2] = ["base/scenario.toml", "overlays/target-elsewhere/scenario.toml"];

/// What `scripts/kubernetes-check --installed` ends with where its tools are missing.
const NOT_INSTALLED: i32 = 77;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn path(name: &str) -> PathBuf {
    root().join("deploy/kubernetes").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The container's arguments, which are written as JSON.
fn arguments(manifest: &str) -> Vec<String> {
    let (_, list) = manifest.split_once(" args: ").expect("arguments");
    let end = list.find(']').expect("the list's end");
    serde_json::from_str(&list[..=end]).unwrap_or_else(|error| panic!("arguments are no list in JSON: {error}: {list}"))
}

fn argument<'a>(arguments: &'a [String], option: &str) -> &'a str {
    let at = arguments.iter().position(|it| it == option).unwrap_or_else(|| panic!("no {option} in {arguments:?}"));
    &arguments[at + 1]
}

/// The first value of this key behind `start`.
fn value<'a>(manifest: &'a str, start: &str, key: &str) -> &'a str {
    let (_, behind) = manifest.split_once(start).unwrap_or_else(|| panic!("no {start:?} in {manifest}"));
    let of_key = |line: &'a str| line.trim().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": ");
    behind.lines().find_map(of_key).unwrap_or_else(|| panic!("no {key:?} in {manifest}")).trim_matches('"')
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// With these arguments, the program ends at once and says what they mean.
fn is_taken(arguments: &[String], and: &str) -> String {
    let all: Vec<&str> = arguments.iter().map(String::as_str).chain([and]).collect();
    let output = ringload(&all);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn ringload_takes_the_jobs_arguments_and_the_scenarios() {
    let manifest = text(JOB);
    for scenario in SCENARIOS {
        let mut arguments = arguments(&manifest);
        for argument in &mut arguments {
            *argument = match argument.as_str() {
                "$(MEMBERS)" => value(&manifest, "name: MEMBERS", "value").to_owned(),
                "$(THREADS)" => value(&manifest, "limits:", "cpu").to_owned(),
                "/scenario/scenario.toml" => path(scenario).to_str().expect("a path").to_owned(),
                other => other.to_owned(),
            };
        }
        let resolved = is_taken(&arguments, "--print-scenario");
        let connections = resolved.lines().find_map(|line| line.strip_prefix("connections = ")).expect("connections");
        assert!(number(connections) >= 100, "{scenario}: {resolved}");
    }
}

#[test]
fn ringecho_takes_the_deployments_arguments() {
    let settings = is_taken(&arguments(&text(SERVER)), "--print-config");
    assert!(settings.contains("drain-delay = "), "{settings}");
}

#[test]
fn all_places_say_the_same_number_of_members() {
    for name in [JOB, "overlays/target-elsewhere/kustomization.yaml"] {
        let manifest = text(name);
        let members = number(value(&manifest, "spec:", "completions"));
        assert_eq!(number(value(&manifest, "spec:", "parallelism")), members, "{name}");
        assert_eq!(number(value(&manifest, "name: MEMBERS", "value")), members, "{name}");
    }
}

#[test]
fn members_meet_at_the_first_pods_name() {
    let (job, service) = (text(JOB), text("base/service.yaml"));
    let name = format!("{}-0.{}", value(&job, "metadata:", "name"), value(&job, "spec:", "subdomain"));
    assert_eq!(value(&job, "spec:", "subdomain"), value(&service, "metadata:", "name"));
    let port = value(&service, "ports:", "port");
    assert_eq!(argument(&arguments(&job), "--meet"), format!("{name}:{port}"));
}

#[test]
fn servers_may_drain_to_the_end_and_are_scaled_before_they_are_full() {
    let (manifest, scaler) = (text(SERVER), text("server/autoscaler.yaml"));
    let arguments = arguments(&manifest);
    let of = |option: &str| number(argument(&arguments, option));
    let grace = number(value(&manifest, "template:", "terminationGracePeriodSeconds"));
    assert!(grace > of("--drain-delay") + of("--drain-timeout"), "the kubelet's SIGKILL would cut the drain short");
    let probe = number(value(&manifest, "readinessProbe:", "periodSeconds"));
    assert!(of("--drain-delay") > 2 * probe, "not even the kubelet would have seen that it is not ready");
    assert!(number(value(&scaler, "metrics:", "averageValue")) < of("--max-connections"));
    let metric = value(&scaler, "metrics:", "name");
    let table = std::fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap();
    assert!(table.contains(&format!("| `{metric}` | worker |")), "docs/OPERATIONS.md has no {metric}");
}

/// Only then a static CPU manager gives a container processors of its own.
#[test]
fn limits_are_the_requests_and_processors_whole() {
    for name in [JOB, SERVER] {
        let manifest = text(name);
        for resource in ["cpu", "memory"] {
            let [request, limit] = ["requests:", "limits:"].map(|of| value(&manifest, of, resource));
            assert_eq!(request, limit, "{name}: {resource}");
        }
        number(value(&manifest, "limits:", "cpu"));
    }
}

/// Runtimes differ in what they make of keys beyond the runtime specification's: containerd leaves conditions out of account.
#[test]
fn the_seccomp_profile_is_plain_and_allows_io_uring() {
    let profile: Value = serde_json::from_str(&text("seccomp/ringecho.json")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().expect("rules");
    for rule in rules {
        let mut keys = rule.as_object().expect("a rule").keys();
        assert!(keys.all(|key| ["names", "action", "args", "errnoRet"].contains(&key.as_str())), "{rule}");
    }
    let all = &rules[0];
    assert!(all["action"] == "SCMP_ACT_ALLOW" && all["args"].is_null(), "{all}");
    let allows = |call: &str| all["names"].as_array().expect("names").iter().any(|name| name == call);
    assert!(["io_uring_setup", "io_uring_enter", "io_uring_register"].into_iter().all(allows));
    let harmful = ["bpf", "keyctl", "mount", "ptrace", "setns", "unshare", "userfaultfd"];
    assert!(!harmful.into_iter().any(allows));
    assert_eq!(value(&text(JOB), "seccompProfile:", "localhostProfile"), "ringecho.json");
    assert_eq!(value(&text(SERVER), "seccompProfile:", "localhostProfile"), "ringecho.json");
}

/// `scripts/test` has them installed.
#[test]
fn what_is_rendered_is_valid() {
    let output = run_to_end(Command::new(root().join("scripts/kubernetes-check")).arg("--installed"));
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(NOT_INSTALLED) => println!("NOT tested: {said}"),
        code => assert_eq!(code, Some(0), "{output:?}"),
    }
}
