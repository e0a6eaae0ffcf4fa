//! The files and exit codes of `ringload run` and `ringload report`.

mod runner;
mod server;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use runner::{Files, check_schema, ringload};
use server::{Behaviour, start};

const SHORT: [&str; 9] = ["run", "-c", "4", "--duration", "1.3", "--warmup", "0.2", "--close-timeout", "2"];

fn run(url: &str, more: &[&str]) -> Output {
    ringload(&[&SHORT[..], &[url], more].concat())
}

#[test]
fn every_file_is_written_and_the_json_follows_its_schema() {
    let files = Files::new("files");
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let [json, csv, html, hdr] = ["r.json", "r.csv", "r.html", "r.hlog"].map(|name| files.path(name));
    let own_pid = std::process::id().to_string();
    let args = ["--json", &json, "--csv", &csv, "--html", &html, "--hdr", &hdr, "--server-pid", &own_pid];
    let output = run(&url, &args);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let results = files.json("r.json");
    check_schema(&results);
    assert_eq!(results["version"], 5);
    let series = results["series"].as_array().unwrap();
    assert!(series.iter().any(|sample| sample["phase"] == "measure" && sample["echoes_per_s"].as_f64() > Some(0.0)));
    assert!(series.iter().all(|sample| sample["server"]["rss_bytes"].as_u64() > Some(0)));
    assert!(results["measured"]["latency_histogram"].as_str().unwrap().starts_with("HISTFAAA"));
    assert!(results["verdict"]["bound"].is_string());
    assert_eq!(files.text("r.csv").lines().count(), series.len() + 1);
    assert!(files.text("r.html").contains("</html>"));
    assert!(files.text("r.hlog").contains("HISTFAAA"));
}

#[test]
fn faults_follow_the_schema_too() {
    let files = Files::new("faults");
    let json = files.path("r.json");
    for behaviour in [Behaviour::Status(503), Behaviour::Masked, Behaviour::DropTenth] {
        let output = run(&format!("ws://{}/", start(behaviour)), &["--json", &json, "--drain-timeout", "0.3"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        check_schema(&files.json("r.json"));
    }
}

#[test]
fn thresholds_decide_the_exit_code() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let met = run(&url, &["--fail-if", "errors>0", "--fail-if", "p99>30s", "--fail-if", "rate<1"]);
    assert_eq!(met.status.code(), Some(0), "{met:?}");
    let broken = run(&url, &["--fail-if", "errors>0", "--fail-if", "p50>1ns", "--fail-if", "rate<1_000_000_000"]);
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");
    let text = String::from_utf8_lossy(&broken.stdout);
    assert!(text.contains("p50>1ns: it is") && text.contains("rate<1_000_000_000: it is"), "{text}");
    let result = text.lines().find(|line| line.starts_with("result")).unwrap();
    assert!(result.contains("FAILED: --fail-if") && result.matches("--fail-if").count() == 2, "{text}");
    let nonsense = run(&url, &["--fail-if", "speed>5"]);
    assert_eq!(nonsense.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nonsense.stderr).contains("what can be named"), "{nonsense:?}");
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_run() {
    let output = run("ws://127.0.0.1:1/", &["--html", "/no/such/directory/r.html"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write /no/such/directory/r.html"));
    let output = run("ws://127.0.0.1:1/", &["--html", "r.out", "--json", "r.out"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("r.out is to be written twice"));
}

#[test]
fn the_same_file_is_refused_however_it_is_spelled_and_a_link_is_left_alone() {
    let files = Files::new("spelled");
    let (new, spelled) = (files.path("r.out"), files.path("./r.out"));
    let output = run("ws://127.0.0.1:1/", &["--html", &new, "--json", &spelled]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is to be written twice"));

    let link = files.path("latest.json");
    std::os::unix::fs::symlink("results.json", &link).unwrap();
    let output = run(&format!("ws://{}/", start(Behaviour::Echo)), &["--json", &link]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(std::path::Path::new(&link).is_symlink());
    check_schema(&files.json("results.json"));
}

#[test]
fn standard_output_takes_one_file_and_nothing_else() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let output = run(&url, &["--json", "-"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    check_schema(&serde_json::from_slice(&output.stdout).expect("nothing but JSON"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("p99"), "people read the rest elsewhere: {output:?}");

    let output = run(&url, &["-q", "--json", "-", "--fail-if", "rate<0"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    check_schema(&serde_json::from_slice(&output.stdout).expect("nothing but JSON"));

    let output = run(&url, &["-q", "--csv", "-"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(lines.starts_with("time_s,") && lines.lines().count() > 1, "{lines}");
    assert_eq!(run(&url, &["--json", "-", "--csv", "-"]).status.code(), Some(2));
    assert!(!std::path::Path::new("-").exists(), "no file of this name");
}

#[test]
fn what_cannot_be_printed_is_not_a_success() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let short = [&SHORT[..], &["-q", &url]].concat();
    for args in [&short[..], &["run", "--print-scenario"], &["completions", "bash"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringload"));
        let status = command.args(args).stdout(full).stderr(std::process::Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(3), "{args:?}");
    }
}

#[test]
fn manual_pages_and_completions_name_every_option() {
    let files = Files::new("manual");
    let output = ringload(&["man", &files.path("man")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let page = files.text("man/ringload-run.1").replace("\\-", "-");
    let completions = String::from_utf8(ringload(&["completions", "bash"]).stdout).unwrap();
    for option in ["--connections", "--stages", "--slow-readers", "--fail-if", "--help-all"] {
        assert!(page.contains(option) && completions.contains(option), "{option}");
    }
    assert!(files.text("man/ringload.1").contains("ringload"));
    // A newcomer finds them, and all options.
    let help = String::from_utf8(ringload(&["--help"]).stdout).unwrap();
    assert!(["man", "completions", "--help-all"].iter().all(|part| help.contains(part)), "{help}");
    assert!(help.lines().count() <= 30, "{help}");
    for args in [&["--help-all"][..], &["run", "--help-all"]] {
        assert!(String::from_utf8(ringload(args).stdout).unwrap().contains("--slow-readers"), "{args:?}");
    }
}

/// `/dev/full` can be opened, and takes nothing.
#[test]
fn a_full_disk_costs_no_more_than_its_own_file() {
    let files = Files::new("full");
    let csv = files.path("r.csv");
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let output = run(&url, &["--json", "/dev/full", "--csv", &csv, "--html", "/dev/full", "--fail-if", "rate<0"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error.matches("/dev/full: No space left").count(), 2, "{error}");
    assert!(files.text("r.csv").lines().count() > 1);
}

#[test]
fn a_command_brings_its_server_and_takes_it_along() {
    let files = Files::new("command");
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let json = files.path("r.json");
    // A shell in between, as in real life: the server is a grandchild.
    let serve = format!("{} serve --listen {address}", env!("CARGO_BIN_EXE_ringload"));
    let command = format!("sh -c '{serve} & wait'");
    let output = run(&format!("ws://{address}/"), &["--server-cmd", &command, "--json", &json]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let results = files.json("r.json");
    check_schema(&results);
    let last = results["series"].as_array().unwrap().last().unwrap();
    assert_eq!(last["server"]["processes"], 2);
    assert!(results["measured"]["server_cpu"]["cores"].as_f64() > Some(0.0), "{}", results["measured"]["server_cpu"]);
    // The kernel may take a moment to free what the server's rings have held, the listener among it.
    let patience = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < patience, "the server is still there");
        std::thread::sleep(Duration::from_millis(10));
    }

    let output = run(&format!("ws://{address}/"), &["--server-cmd", "sh -c 'echo no licence; exit 3'"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no licence"), "{output:?}");
    assert_eq!(run(&format!("ws://{address}/"), &["--server-cmd", "'"]).status.code(), Some(2));
}
