//! The files and exit codes of `ringload run` and `ringload report`.

mod runner;
mod server;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use runner::{ringload, run_to_end};
use serde_json::Value;
use server::{Behaviour, start};

/// A directory of its own for each test; it is gone when this is dropped.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Self {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).expect("valid JSON")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SHORT: [&str; 9] = ["run", "-c", "4", "--duration", "1.3", "--warmup", "0.2", "--close-timeout", "2"];

fn run(url: &str, more: &[&str]) -> Output {
    ringload(&[&SHORT[..], &[url], more].concat())
}

fn check_schema(results: &Value) {
    let schema = include_str!("../../docs/ringload.schema.json");
    let validator = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).expect("a valid schema");
    let errors: Vec<_> = validator.iter_errors(results).map(|it| format!("{}: {it}", it.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
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
    assert_eq!(results["version"], 2);
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
fn reports_are_merged_by_addition() {
    let files = Files::new("merge");
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let [a, b, both, html] = ["a.json", "b.json", "both.json", "both.html"].map(|name| files.path(name));
    for json in [&a, &b] {
        assert_eq!(run(&url, &["--json", json]).status.code(), Some(0));
    }
    let output = ringload(&["report", &a, &b, "--json", &both, "--html", &html]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 merged"));
    let merged = files.json("both.json");
    check_schema(&merged);
    let echoed = |results: &Value| results["messages"]["echoed"].as_u64().unwrap();
    assert_eq!(echoed(&merged), echoed(&files.json("a.json")) + echoed(&files.json("b.json")));
    assert_eq!(merged["runs"].as_array().unwrap().len(), 2);
    // What was merged can be merged again, and judged.
    assert_eq!(ringload(&["report", &both, "--fail-if", "echoes<1"]).status.code(), Some(2));
    assert_eq!(ringload(&["report", &both, "--fail-if", "connections==8"]).status.code(), Some(1));
    std::fs::write(files.0.join("b.json"), "{\"version\": 1}").unwrap();
    let output = ringload(&["report", &a, &b]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("version 1"), "{output:?}");
    assert_eq!(ringload(&["report"]).status.code(), Some(2));
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
    assert_eq!(text.matches("FAILED").count(), 2);
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

/// The page in a real browser, where there is one: it must not complain about anything.
#[test]
fn a_browser_shows_the_page_without_complaint() {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()))
    else {
        eprintln!("SKIPPED: there is no Chromium here, the page was not opened");
        return;
    };
    let files = Files::new("browser");
    let html = files.path("r.html");
    let output = run(&format!("ws://{}/", start(Behaviour::Echo)), &["--html", &html]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let profile = format!("--user-data-dir={}", files.path("profile"));
    let url = format!("file://{html}");
    let output = run_to_end(
        Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--enable-logging=stderr", "--dump-dom", &profile, &url]),
    );
    let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(dom.contains("Open connections"), "{dom}\n{log}");
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
