//! Load that changes in stages: the server sees ramps.

mod runner;
mod server;

use runner::{Files, ringload, run_whole};
use server::{Behaviour, start};

/// The values of a field of all samples of a phase with load, with their times.
fn series(outcome: &runner::Outcome, field: &str) -> Vec<f64> {
    let samples = outcome.json["series"].as_array().expect("a series");
    let with_load = samples.iter().filter(|sample| sample["phase"] == "measure");
    with_load.map(|sample| sample[field].as_f64().expect("a number")).collect()
}

#[test]
fn the_rate_follows_its_stages() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    // 500 on the way up, 1000 at the top, 500 on the way down.
    let outcome = run_whole(&[&url, "--stages", "1s:1000, 1s:1000, 1s:0", "--size", "64"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let sent = outcome.number("/messages/sent") + outcome.number("/messages/unsent") - 4;
    assert!((1980..=2020).contains(&sent), "{sent}: {}", outcome.output);
    let stages = &outcome.json["runs"][0]["scenario"]["rate_stages"];
    let expected = [(0.0, 0.0), (1.0, 1000.0), (2.0, 1000.0), (3.0, 0.0)];
    let expected = expected.map(|(at_s, value)| serde_json::json!({ "at_s": at_s, "value": value }));
    assert_eq!(*stages, serde_json::json!(expected));
    let rates = series(&outcome, "echoes_per_s");
    assert!(rates.len() >= 3 && rates[1] > rates[0] * 1.3 && rates[1] > rates[2] * 1.3, "{rates:?}");
}

#[test]
fn connections_follow_their_stages() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    // The first sample is of the end of the first second, half-way up, or later on a busy machine.
    let stages = [url.as_str(), "-c", "2", "--connection-stages", "2s:40, 1200ms:40, 1s:10"];
    let outcome = run_whole(&[&stages[..], &["--active", "50%", "--rate", "100"]].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(outcome.number("/connections/opened"), 40, "{}", outcome.output);
    assert_eq!(outcome.number("/messages/lost"), 0);
    let open = series(&outcome, "connections_open");
    let most = open.iter().copied().fold(0.0, f64::max);
    assert!((39.0..=40.0).contains(&most), "{open:?}");
    assert!(open[0] < most && *open.last().unwrap() <= 12.0, "up, and down again: {open:?}");
}

#[test]
fn a_plan_that_begins_with_none_has_no_rate_of_connecting() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let files = Files::new("stages-from-none");
    let json = files.path("report.json");
    let output = ringload(&["run", &url, "--connection-stages", "100ms:100, 1s:100", "--json", &json]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let connections = &files.json("report.json")["connections"];
    let seen = ["opened", "ready", "opened_per_s"].map(|name| connections[name].as_f64());
    assert_eq!(seen, [Some(100.0), Some(0.0), Some(0.0)], "{output:?}");
}
