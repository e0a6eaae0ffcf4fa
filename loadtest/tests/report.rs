//! `ringload report`: runs that become one, runs that stay apart, and two side by side.

mod runner;
mod server;

use std::process::{Command, Output};

use runner::{Files, check_schema, ringload, run_to_end};
use serde_json::Value;
use server::{Behaviour, start};

fn run(url: &str, duration_s: &str, json: &str) {
    let output =
        ringload(&["run", url, "-c", "4", "-t", duration_s, "--warmup", "0.2", "--rate", "200", "--json", json]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn said(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn runs_at_one_time_are_merged_by_addition() {
    let files = Files::new("merge");
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let [a, b, both, html] = ["a.json", "b.json", "both.json", "both.html"].map(|name| files.path(name));
    std::thread::scope(|scope| {
        for json in [&a, &b] {
            scope.spawn(|| run(&url, "4", json));
        }
    });
    let output = ringload(&["report", &a, &b, "--json", &both, "--html", &html]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(said(&output).0.contains("2 merged"), "{output:?}");
    let merged = files.json("both.json");
    check_schema(&merged);
    let echoed = |results: &Value| results["messages"]["echoed"].as_u64().unwrap();
    assert_eq!(echoed(&merged), echoed(&files.json("a.json")) + echoed(&files.json("b.json")));
    assert_eq!(merged["runs"].as_array().unwrap().len(), 2);
    let reason = merged["verdict"]["reason"].as_str().unwrap();
    assert!(reason.contains("(run 1): ") && reason.contains("(run 2): "), "two runs of one host: {reason}");
    // What was merged can be judged, and is not added to what it holds.
    assert_eq!(ringload(&["report", &both, "--fail-if", "echoes<1"]).status.code(), Some(2));
    assert_eq!(ringload(&["report", &both, "--fail-if", "connections==8"]).status.code(), Some(1));
    let twice = ringload(&["report", &both, &a, "--fail-if", "connections==8"]);
    assert_eq!(twice.status.code(), Some(1));
    assert!(said(&twice).1.contains("was given twice"), "{twice:?}");
}

#[test]
fn runs_that_are_not_one_load_stay_apart() {
    let files = Files::new("apart");
    let [url, other] = [(); 2].map(|()| format!("ws://{}/", start(Behaviour::Echo)));
    let [a, b, c] = ["a.json", "b.json", "c.json"].map(|name| files.path(name));
    std::thread::scope(|scope| {
        scope.spawn(|| run(&url, "1", &a));
        scope.spawn(|| run(&other, "1", &c));
    });
    run(&url, "1", &b);
    for (files, why) in [([&a, &b], "not at the same time"), ([&a, &c], "another target")] {
        let output = ringload(&["report", files[0], files[1]]);
        let (table, notes) = said(&output);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(
            notes.contains(why) && table.matches("\nmeasured").count() == 2 && !table.contains("merged"),
            "{output:?}"
        );
        let output = ringload(&["report", files[0], files[1], "--json", "/dev/null"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(said(&output).1.contains("do not go into one file"), "{output:?}");
    }
    let twice = ringload(&["report", &a, &a]);
    assert_eq!(twice.status.code(), Some(0));
    assert!(said(&twice).1.contains("was given twice, and counts once"), "{twice:?}");
    assert_eq!(said(&twice).0.matches("\nmeasured").count(), 1, "{twice:?}");
}

#[test]
fn a_damaged_file_is_refused() {
    let files = Files::new("damaged");
    let a = files.path("a.json");
    run(&format!("ws://{}/", start(Behaviour::Echo)), "0.5", &a);
    let mut results = files.json("a.json");
    results["measured"]["latency_histogram"] = "HISTFAAAAAAA".into();
    std::fs::write(&a, results.to_string()).unwrap();
    let output = ringload(&["report", &a]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).1.contains("measured.latency_histogram cannot be decoded"), "{output:?}");
    std::fs::write(&a, "{\"version\": 1}").unwrap();
    let output = ringload(&["report", &a]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).1.contains("version 1"), "{output:?}");
    assert_eq!(ringload(&["report"]).status.code(), Some(2));
}

/// As `kubectl logs` has it: standard error before and behind the results.
#[test]
fn results_are_read_out_of_a_log() {
    let files = Files::new("log");
    let [a, again] = ["a.json", "again.json"].map(|name| files.path(name));
    run(&format!("ws://{}/", start(Behaviour::Echo)), "0.5", &a);
    let script = r#"(echo 'ringload: a note'; cat "$1"; echo 'ringload: the end') | "$0" report - --json "$2""#;
    let ringload = env!("CARGO_BIN_EXE_ringload");
    let output = run_to_end(Command::new("sh").args(["-c", script, ringload, &a, &again]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(said(&output).0.contains("measured"), "{output:?}");
    assert_eq!(files.json("a.json"), files.json("again.json"));
    let output = run_to_end(Command::new("sh").args(["-c", "echo nothing | \"$0\" report -", ringload]));
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).1.contains("- does not hold results"), "{output:?}");
}

#[test]
fn two_runs_are_laid_side_by_side() {
    let files = Files::new("diff");
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let [a, b, html, summary] = ["a.json", "b.json", "d.html", "d.md"].map(|name| files.path(name));
    run(&url, "1", &a);
    let output = ringload(&["run", &url, "-c", "2", "-t", "1", "--warmup", "0.2", "--rate", "400", "--json", &b]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = ringload(&["report", "--diff", &a, &b, "--html", &html, "--summary", &summary]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = said(&output).0;
    let line =
        |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {table}"));
    assert!(line("echoes/s").contains('+') && line("latency p95").contains('s'), "{table}");
    assert!(
        table.contains("not the same: connections: 4 in A, 2 in B") && table.contains("rate per s: 200 in A"),
        "{table}"
    );
    assert!(files.text("d.html").contains("</html>") && files.text("d.md").contains("| echoes/s |"));
    assert_eq!(ringload(&["report", "--diff", &a]).status.code(), Some(2));
    assert_eq!(ringload(&["report", "--diff", &a, &b, "--json", "x.json"]).status.code(), Some(2));
}
