//! `ringload compare` with real servers, good ones and bad ones.

mod runner;
mod server;

use std::net::TcpListener;
use std::time::Duration;

use ringload::compare::gate::{Check, check};
use ringload::interrupt::Interrupt;
use ringload::target::routes::Routes;
use ringload::target::{Address, Target};
use runner::{Files, Running, ringload};
use rustix::process::Signal;
use serde_json::Value;
use server::{Behaviour, start, start_tls_in_short_segments};

/// Two engines of the ringecho that is in ringload.
const ENGINES: &str = "\
[[server]]
name = \"epoll\"
class = \"engine\"
command = \"{ringecho} --listen 127.0.0.1:{port} --engine epoll --max-connections 200\"
[[server]]
name = \"again\"
command = \"{ringecho} --listen 127.0.0.1:{port} --engine epoll --max-connections 200\"
";

/// Settings for runs of a moment on a machine that does other things meanwhile.
fn settings(more: &str) -> String {
    let cpus = ringecho::sys::usable_cpus().unwrap();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    format!(
        "[compare]\nduration = \"200ms\"\nwarmup = 0\nretries = 0\nserver-cpus = \"{first}\"\nload-cpus = \"{last}\"\n{more}\n"
    )
}

fn write(files: &Files, name: &str, text: &str) -> String {
    let path = files.path(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn check_schema(results: &Value) {
    let schema = include_str!("../../docs/ringload-compare.schema.json");
    let validator = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).expect("a valid schema");
    let errors: Vec<_> = validator.iter_errors(results).map(|it| format!("{}: {it}", it.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// The same results without what the machine of this test did meanwhile: such measurements are left out of a report.
fn on_a_quiet_machine(mut results: Value) -> Value {
    for run in results["runs"].as_array_mut().unwrap() {
        run["faults"] = Value::Array(Vec::new());
    }
    results
}

/// What each server was skipped for.
fn skipped<'a>(results: &'a Value, name: &str) -> Option<&'a str> {
    let servers = results["servers"].as_array().unwrap();
    let server = servers.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("no {name} in {results}"));
    server["skipped"].as_str()
}

#[test]
fn two_servers_are_compared_from_file_to_report() {
    let files = Files::new("compare");
    let cells = "[[cell]]\nconnections = 20\n[[cell]]\nname = 'open'\nconnections = 10\nrate = '50%-of-slowest'\n\
                 [[cell]]\nname = 'idle'\nactive = 0\nmetric = 'memory-after'\n";
    let file = write(&files, "c.toml", &format!("{}{ENGINES}{cells}", settings("rounds = 1\nbaseline = 'epoll'")));
    let paths = ["r.json", "r.html", "r.md", "r.svg"].map(|name| files.path(name));
    let [json, html, markdown, svg] = paths.each_ref().map(String::as_str);
    let output = ringload(&[
        "compare",
        &file,
        "--seed",
        "5",
        "--json",
        json,
        "--html",
        html,
        "--markdown",
        markdown,
        "--svg",
        svg,
    ]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let results = files.json("r.json");
    check_schema(&results);
    assert_eq!(results["is_complete"], true);
    assert_eq!(results["seed"], 5);
    // A discarded round and one that counts, of three cells and two servers.
    let runs = results["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2 * 3 * 2, "{said}");
    for run in runs {
        let failed = run["faults"].as_array().unwrap().iter().any(|it| it["kind"] == "failed");
        assert!(!failed, "{run}");
        assert!(run["values"]["peak-memory"].as_f64().unwrap() > 0.0, "{run}");
        let is_idle = run["cell"] == "idle";
        assert_eq!(run["values"]["cpu-per-echo"].as_f64().is_none(), is_idle, "{run}");
    }
    let rate = results["cells"][1]["rate_per_s"].as_f64().expect("it was found in the discarded round");
    assert!(rate > 0.0, "{rate}");
    let gate = results["servers"][0]["gate"].as_array().unwrap();
    assert_eq!(gate.len(), 8, "{gate:?}");
    assert!(said.contains("epoll passes the gate") && said.contains("[12/12, 0 s left] round 1 of 1"), "{said}");
    let few = "too few rounds to tell anything with 95 % confidence, which takes 6: 128 B x 20 (1), open (1), idle (1)";
    assert!(said.contains(few), "{said}");
    assert!(files.text("r.md").contains("| epoll |") && files.text("r.svg").contains("aria-label"));
    assert!(files.text("r.html").contains("Every round"));

    let quiet = write(&files, "quiet.json", &on_a_quiet_machine(results).to_string());
    let again = ringload(&["compare", "report", &quiet, &quiet, "--fail-if", "epoll/again cpu-per-echo > 1000"]);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    let failed =
        ringload(&["compare", "report", &quiet, "--fail-if", "epoll/again cpu-per-echo in 128 B x 20 > 0.0001"]);
    let text = String::from_utf8_lossy(&failed.stdout).into_owned();
    let is_told = text.contains("FAILED: epoll/again cpu-per-echo in 128 B x 20 > 0.0001: ");
    assert!(failed.status.code() == Some(1) && is_told, "{text}");
}

#[test]
fn churn_and_slow_readers_are_compared() {
    let files = Files::new("compare-churn");
    let cells = "[[cell]]\nname = 'churn'\nconnections = 5\nmessages-per-connection = 3\n\
                 [[cell]]\nname = 'slow reader'\nconnections = 5\nslow-readers = 1\n";
    let file = write(&files, "c.toml", &format!("{}{ENGINES}{cells}", settings("rounds = 1\ndiscard = 0")));
    let output = ringload(&["compare", &file, "--json", &files.path("r.json")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let results = files.json("r.json");
    let runs = results["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2 * 2, "{results}");
    for run in runs {
        let failed = run["faults"].as_array().unwrap().iter().any(|it| it["kind"] == "failed");
        assert!(!failed && run["values"]["cpu-per-echo"].is_number(), "{run}");
    }
}

#[test]
fn without_a_file_two_commands_are_compared() {
    let files = Files::new("compare-quick");
    let json = files.path("r.json");
    let server =
        |name: &str| format!("{name}={{ringecho}} --listen 127.0.0.1:{{port}} --max-connections 50 --engine epoll");
    let (a, b) = (server("a"), server("b"));
    let short = ["-t", "200ms", "--warmup", "0", "--rounds", "1", "-c", "5", "-q", "--json", &json];
    let output = ringload(&[&["compare", "--server", &a, "--server", &b][..], &short].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let results = files.json("r.json");
    assert_eq!(results["runs"].as_array().unwrap().len(), 4);
    assert_eq!(results["settings"]["baseline"], "a");
}

#[test]
fn what_was_measured_survives_a_kill() {
    let files = Files::new("compare-resume");
    let json = files.path("r.json");
    let cells = "[[cell]]\nconnections = [1, 5]\n";
    let file = write(&files, "c.toml", &format!("{}{ENGINES}{cells}", settings("rounds = 2")));
    let args = ["compare", "run", &file, "--seed", "5", "--no-tui", "--json", &json];
    let mut run = Running::start(&args);
    run.wait_for("[3/12");
    run.signal(Signal::KILL);
    assert_eq!(run.end().0, None, "it was killed");
    let before = files.json("r.json");
    let measured = before["runs"].as_array().unwrap().clone();
    assert!((3..12).contains(&measured.len()), "{}", measured.len());
    assert_eq!(before["is_complete"], false);
    assert!(before["comparisons"].as_array().unwrap().is_empty(), "conclusions are drawn at the end");

    let other = ringload(&[&args[..], &["--resume", "--only", "epoll", "--rounds", "2"]].concat());
    assert_eq!(other.status.code(), Some(0), "a part of it can be gone on with: {other:?}");
    let part = files.json("r.json");
    assert_eq!(part["runs"].as_array().unwrap()[..measured.len()], measured[..], "the others stay");
    assert_eq!((part["servers"].as_array().unwrap().len(), &part["is_complete"]), (2, &Value::Bool(false)));
    let file_of_others =
        write(&files, "o.toml", &format!("{}{ENGINES}{cells}", settings("rounds = 2\nsame-within = 0.5")));
    let refused = ringload(&["compare", "run", &file_of_others, "--resume", "--json", &json]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");

    let resumed = ringload(&[&args[..], &["--resume"]].concat());
    assert_eq!(resumed.status.code(), Some(0), "{resumed:?}");
    let after = files.json("r.json");
    check_schema(&after);
    let runs = after["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 12);
    assert_eq!(runs[..measured.len()], measured[..], "what was there stays");
    let mut all: Vec<String> =
        runs.iter().map(|it| format!("{} {} {}", it["server"], it["cell"], it["round"])).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 12, "each once");

    let anew = ringload(&args);
    assert_eq!(anew.status.code(), Some(2), "{anew:?}");
    assert!(String::from_utf8_lossy(&anew.stderr).contains("is not overwritten"), "{anew:?}");
    assert_eq!(files.json("r.json"), after);
}

#[test]
fn a_signal_ends_it_with_what_was_measured() {
    let files = Files::new("compare-signal");
    let json = files.path("r.json");
    let file = write(&files, "c.toml", &format!("{}{ENGINES}[[cell]]\nconnections = 2\n", settings("rounds = 50")));
    let mut run = Running::start(&["compare", &file, "--no-tui", "--json", &json]);
    run.wait_for("[2/");
    run.signal(Signal::TERM);
    let (code, said) = run.end();
    assert_eq!(code, Some(128 + 15), "{said}");
    assert!(said.contains("not complete"), "{said}");
    assert!(files.json("r.json")["runs"].as_array().unwrap().len() >= 2);
}

#[test]
fn a_signal_ends_the_gate_too() {
    let files = Files::new("compare-gate-signal");
    let slow = "[[server]]\nname = 'slow'\ncommand = 'sleep 3600'\nready = { timeout = '1h' }\n";
    let file = write(&files, "c.toml", &format!("{}{ENGINES}{slow}[[cell]]\n", settings("")));
    let mut run = Running::start(&["compare", &file, "--no-tui", "--json", &files.path("r.json")]);
    run.wait_for("again passes the gate");
    run.signal(Signal::TERM);
    let (code, said) = run.end();
    assert_eq!(code, Some(128 + 15), "{said}");
    assert_eq!(skipped(&files.json("r.json"), "slow"), None);
}

#[test]
fn a_server_that_is_left_out_is_no_failure_but_leaves_nothing_to_compare() {
    let files = Files::new("compare-left-out");
    let (one, _) = ENGINES.split_once("[[server]]\nname = \"again\"").unwrap();
    let left_out = "[[server]]\nname = 'old'\ncommand = 'x {port}'\nbuild = 'exit 1'\nskip = 'it crashed'\n";
    let cell = "[[cell]]\nconnections = 2\n";
    let file = write(&files, "c.toml", &format!("{}{one}{left_out}{cell}", settings("rounds = 1\ndiscard = 0")));
    for (command, line) in [("build", "old: not built: it crashed"), ("check", "old: it crashed")] {
        let output = ringload(&["compare", command, &file]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(0) && said.contains(line), "{command}: {said}");
    }
    let output = ringload(&["compare", &file, "--json", &files.path("r.json"), "--no-tui"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("FAILED: nothing was compared: 1 of 2 servers could be measured"), "{said}");
}

#[test]
fn bad_servers_are_skipped_with_the_reason() {
    let files = Files::new("compare-bad");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let servers = format!(
        "{ENGINES}\
         [[server]]\nname = 'dies'\ncommand = \"sh -c 'echo no licence >&2; exit 3'\"\n\
         [[server]]\nname = 'hangs'\ncommand = 'sleep 60'\nready = {{ timeout = '300ms' }}\n\
         [[server]]\nname = 'taken'\ncommand = 'sleep 60'\nport = {port}\n\
         [[server]]\nname = 'missing'\ncommand = './no-such-server {{port}}'\nbuild = 'true'\n\
         [[server]]\nname = 'needs'\ncommand = 'x {{port}}'\nneeds = ['program:no-such-program']\n\
         version-cmd = 'touch asked; echo 1'\n\
         [[server]]\nname = 'skipped'\ncommand = 'x {{port}}'\nskip = 'it crashed'\n\
         [[server]]\nname = 'stubborn'\nstop = {{ timeout = '200ms' }}\n\
         command = \"sh -c 'trap \\\"\\\" TERM; \\\"$0\\\" \\\"$1\\\" --listen 127.0.0.1:{{port}} --engine epoll --max-connections 50 & sleep 60' {{ringecho}}\"\n\
         [[server]]\nname = 'logs'\nready = {{ log = 'ringecho listening on' }}\n\
         command = '{{ringecho}} --listen 127.0.0.1:{{port}} --engine epoll --max-connections 50'\n\
         limits = {{ max-connections = 1 }}\n"
    );
    let file = write(
        &files,
        "c.toml",
        &format!("{}{servers}[[cell]]\nconnections = 2\n", settings("rounds = 1\ndiscard = 0")),
    );
    let json = files.path("r.json");
    let output = ringload(&["compare", &file, "--json", &json, "--no-tui"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let results = files.json("r.json");
    check_schema(&results);
    for (name, reason) in [
        ("dies", "it ended (exit status: 3) before it was ready; it said:\n  no licence"),
        ("hangs", "it was not ready (nothing listened on 127.0.0.1:"),
        ("taken", "already: the port is taken"),
        ("missing", "it is to be built (`ringload compare build`)"),
        ("needs", "needs `no-such-program`, which is not in PATH"),
        ("skipped", "it crashed"),
    ] {
        let why = skipped(&results, name).unwrap_or_else(|| panic!("{name} was not skipped: {said}"));
        assert!(why.contains(reason), "{name}: {why}");
        assert!(said.contains(&format!("skipped: {name}: ")), "{said}");
    }
    assert!(!std::path::Path::new(&files.path("asked")).exists(), "a version comes behind the needs");
    for name in ["epoll", "again", "stubborn", "logs"] {
        assert_eq!(skipped(&results, name), None, "{said}");
    }
    let servers = results["servers"].as_array().unwrap();
    let stubborn = servers.iter().find(|it| it["name"] == "stubborn").unwrap();
    assert_eq!(stubborn["remarks"][0], "it had not ended 0.2 s after SIGTERM, and was killed");
    let runs = results["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 4);
    let limited = runs.iter().find(|it| it["server"] == "logs").unwrap();
    assert_eq!(limited["faults"][0]["kind"], "not-supported");
    assert!(said.contains("not supported"), "{said}");
    drop(taken);
}

#[test]
fn a_server_that_dies_while_it_is_measured_is_told() {
    let files = Files::new("compare-dies");
    // It lives through the gate of the first start, and not through a measurement of two seconds.
    let servers = "[[server]]\nname = 'mortal'\ncommand = \"sh -c '\\\"$0\\\" \\\"$1\\\" --listen 127.0.0.1:{port} --engine epoll \
                   --max-connections 50 & sleep 4; kill -9 $!; exit 7' {ringecho}\"\n";
    let text = settings("rounds = 1\ndiscard = 0").replace("200ms", "6s");
    let file = write(&files, "c.toml", &format!("{text}{servers}[[cell]]\nconnections = 2\n"));
    let json = files.path("r.json");
    let output = ringload(&["compare", &file, "--json", &json, "--no-tui"]);
    let results = files.json("r.json");
    let fault = &results["runs"][0]["faults"][0];
    assert_eq!(fault["kind"], "failed", "{results} {output:?}");
    assert!(fault["why"].as_str().unwrap().contains("the server died: it ended (exit status: 7)"), "{fault}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("failed"), "{output:?}");
}

#[test]
fn a_failure_that_a_repetition_mends_is_a_remark() {
    let files = Files::new("compare-repeated");
    // The first start is for the gate.
    let servers = "[[server]]\nname = 'faint'\ncommand = '''sh -c 'echo x >> starts; test $(wc -l < starts) -ne 2 || exit 9; \
                   exec \"$0\" \"$1\" --listen 127.0.0.1:{port} --engine epoll --max-connections 50' {ringecho}'''\n";
    let text = settings("rounds = 1\ndiscard = 0").replace("retries = 0", "retries = 1");
    let file = write(&files, "c.toml", &format!("{text}{servers}[[cell]]\nconnections = 2\n"));
    let output = ringload(&["compare", &file, "--json", &files.path("r.json"), "--no-tui"]);
    let results = files.json("r.json");
    assert_eq!(results["runs"][0]["attempts"], 2, "{results} {output:?}");
    let remark = "round 1, 128 B x 2: it ended (exit status: 9) before it was ready; repeated";
    assert_eq!(results["servers"][0]["remarks"], serde_json::json!([remark]));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("remark: faint: {remark}")), "{said}");
}

#[test]
fn a_server_is_started_anew_for_each_round() {
    let files = Files::new("compare-rounds");
    let servers = "[[server]]\nname = 'counted'\ncommand = '''sh -c 'echo x >> starts; exec \"$0\" \"$1\" --listen \
                   127.0.0.1:{port} --engine epoll --max-connections 50' {ringecho}'''\n";
    let text = settings("rounds = 2\ndiscard = 0\nfresh = 'round'");
    let file = write(&files, "c.toml", &format!("{text}{servers}[[cell]]\nconnections = [1, 2]\n"));
    let output = ringload(&["compare", &file, "--json", &files.path("r.json"), "--no-tui"]);
    assert_eq!(files.json("r.json")["runs"].as_array().unwrap().len(), 4, "{output:?}");
    assert_eq!(files.text("starts").lines().count(), 1 + 2, "at the gate, and in each round");
}

#[test]
fn a_comparison_goes_on_with_its_own_build_when_ringload_is_rebuilt() {
    let files = Files::new("compare-rebuilt");
    let program = files.path("ringload");
    std::fs::copy(env!("CARGO_BIN_EXE_ringload"), &program).unwrap();
    let file = write(&files, "c.toml", &format!("{}{ENGINES}[[cell]]\nconnections = 2\n", settings("rounds = 3")));
    let json = files.path("r.json");
    let mut run = Running::start_program(&program, &["compare", &file, "--no-tui", "--json", &json]);
    run.wait_for("[1/");
    std::fs::remove_file(&program).unwrap();
    let (code, said) = run.end();
    assert_eq!(code, Some(0), "{said}");
    for run in files.json("r.json")["runs"].as_array().unwrap() {
        assert!(run["faults"].as_array().unwrap().iter().all(|it| it["kind"] != "failed"), "{run}");
    }
}

#[test]
fn a_report_overwrites_no_results() {
    let files = Files::new("compare-report");
    let file = write(&files, "c.toml", &format!("{}{ENGINES}[[cell]]\nconnections = 2\n", settings("rounds = 1")));
    let (json, svg) = (files.path("r.json"), files.path("r.svg"));
    assert_eq!(ringload(&["compare", &file, "-q", "--json", &json]).status.code(), Some(0));
    let before = files.json("r.json");
    for (args, why) in [
        (&[&json, "--only", "again", "--json", &json][..], "r.json is not empty, and is not overwritten"),
        (&[&json, &json, "--json", &files.path("other.json")], "--json takes one file of results"),
        (&[&json, &json, "--svg", &svg], "--svg takes one file of results"),
        (&[&json, "--fail-if", "epoll/agian rate < 1"], "did you mean `again`?"),
    ] {
        let output = ringload(&[&["compare", "report"][..], args].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    assert_eq!(files.json("r.json"), before);
    assert!(!std::path::Path::new(&svg).exists());
}

#[test]
fn mistakes_are_told_with_their_line() {
    let files = Files::new("compare-mistakes");
    let file = write(&files, "c.toml", "[compare]\nroundz = 1\n");
    let output = ringload(&["compare", "list", &file]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("c.toml:2: `roundz` is no key here; did you mean `rounds`?"), "{said}");
    let good = write(&files, "g.toml", &format!("{ENGINES}[[cell]]\n"));
    let output = ringload(&["compare", &good, "--fail-if", "epol/again rate < 1", "--json", &files.path("x.json")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean `epoll`?"), "{output:?}");
    let listed = ringload(&["compare", "list", &good]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("epoll  engine  (baseline)"), "{listed:?}");
}

#[test]
fn builds_are_run_and_their_output_is_kept() {
    let files = Files::new("compare-build");
    let servers = "[[server]]\nname = 'good'\ncommand = 'x {port}'\nbuild = 'echo made > made.txt; echo done'\n\
                   [[server]]\nname = 'bad'\ncommand = 'x {port}'\nbuild = 'echo no compiler; exit 4'\n";
    let file = write(&files, "c.toml", servers);
    let output = ringload(&["compare", "build", &file]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("good: built") && said.contains("bad: the build failed (exit status: 4)"), "{said}");
    assert_eq!((files.text("made.txt"), files.text("good.build.log")), ("made\n".to_owned(), "done\n".to_owned()));
    assert!(said.contains("no compiler"), "{said}");
}

#[test]
fn check_says_what_each_server_does_right() {
    let files = Files::new("compare-check");
    let file = write(&files, "c.toml", &format!("{}{ENGINES}", settings("")));
    let output = ringload(&["compare", "check", &file]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let all = "handshake ok, text ok, binary ok, fragments ok, ping ok, 1 MiB ok, 16 at once ok, close ok";
    assert!(said.contains(&format!("epoll: {all}")) && said.contains(&format!("again: {all}")), "{said}");
}

#[test]
fn a_server_that_does_not_pass_the_gate_is_not_measured() {
    let files = Files::new("compare-at-the-gate");
    let wrong = "[[server]]\nname = 'small'\ncommand = \"{ringecho} --listen 127.0.0.1:{port} --max-message-size 64KiB \
                 --max-connections 50\"\n\
                 [[server]]\nname = 'bytes'\ncommand = \"{ringecho} --listen 127.0.0.1:{port} --protocol tcp \
                 --max-connections 50\"\n";
    let text = format!("{}{ENGINES}{wrong}[[cell]]\nconnections = 2\n", settings("rounds = 1\ndiscard = 0"));
    let file = write(&files, "c.toml", &text);
    let output = ringload(&["compare", "check", &file]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("ping ok, 1 MiB FAILED (instead of echo 1 it sent a Close with code 1009), 16 at once ok"),
        "{said}"
    );
    let line = "bytes: handshake FAILED (its answer to the upgrade is invalid: not an HTTP response)\n";
    assert!(said.contains(line), "nothing else was tried: {said}");

    let output = ringload(&["compare", &file, "--json", &files.path("r.json"), "--no-tui"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let results = files.json("r.json");
    for (name, reason) in [
        ("small", "it did not pass the gate: 1 MiB: instead of echo 1 it sent a Close with code 1009"),
        ("bytes", "it did not pass the gate: handshake: its answer to the upgrade is invalid"),
    ] {
        let why = skipped(&results, name).unwrap();
        assert!(why.starts_with(reason), "{why}");
        assert!(results["runs"].as_array().unwrap().iter().all(|run| run["server"] != name), "{results}");
    }
}

fn gate(behaviour: Behaviour, protocol: &str) -> Vec<Check> {
    gate_at(&format!("{protocol}://{}/", start(behaviour)))
}

fn gate_at(url: &str) -> Vec<Check> {
    check(&Target::parse(url, &Routes::default()).unwrap(), None, &Interrupt::default())
}

/// The faults, with the names of their checks.
fn faults(checks: Vec<Check>) -> Vec<(String, String)> {
    checks.into_iter().filter_map(|check| Some((check.name, check.fault?))).collect()
}

#[test]
fn the_gate_sends_each_byte_once_however_slowly_it_is_taken() {
    let address = start_tls_in_short_segments(|stream| {
        let mut socket = tungstenite::accept(stream).map_err(|it| it.to_string())?;
        loop {
            // Longer than the client waits for an answer and then for room in its socket.
            std::thread::sleep(Duration::from_millis(300));
            let message = socket.read()?;
            if message.is_binary() || message.is_text() {
                socket.send(message)?;
            }
        }
    });
    assert_eq!(faults(gate_at(&format!("wss://localhost:{}/", address.port()))), []);
}

#[test]
fn the_gate_tries_all_addresses_of_a_name() {
    let mut target = Target::parse(&format!("ws://{}/", start(Behaviour::Echo)), &Routes::default()).unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    target.addresses.insert(0, Address::Inet(nobody));
    assert_eq!(faults(check(&target, None, &Interrupt::default())), []);
}

#[test]
fn the_gate_of_tcp_servers_stops_those_that_do_wrong() {
    let names = |behaviour| faults(gate(behaviour, "tcp")).into_iter().map(|it| it.0).collect::<Vec<_>>();
    assert_eq!(names(Behaviour::HangUpAtOnce), ["bytes", "1 MiB", "end"]);
    assert_eq!(names(Behaviour::OpenTcp), ["end"]);
}

#[test]
fn the_gate_lets_good_servers_pass() {
    for behaviour in [Behaviour::Echo, Behaviour::BareClose, Behaviour::ResetBehindClose] {
        let checks = gate(behaviour, "ws");
        assert!(checks.iter().all(|check| check.fault.is_none()), "{behaviour:?}: {checks:#?}");
    }
    let checks = gate(Behaviour::Tcp, "tcp");
    assert!(checks.len() == 3 && checks.iter().all(|check| check.fault.is_none()), "{checks:#?}");
}

#[test]
fn the_gate_stops_servers_that_do_wrong() {
    let wrong = [
        (Behaviour::Status(503), "handshake", "it refused the upgrade with status 503"),
        (Behaviour::WrongAccept, "handshake", "its answer to the upgrade is invalid"),
        (Behaviour::HangUpAtOnce, "handshake", ""),
        (Behaviour::Masked, "text", ""),
        (Behaviour::Greeter, "text", "a text message came back as binary"),
        (Behaviour::Fragments, "text", "a text message came back as binary"),
        (Behaviour::EachFrame, "fragments", "echo 1 has 1 bytes, 1000 were sent"),
        (Behaviour::EachFrame, "ping", "instead of a pong it sent a binary message"),
        (Behaviour::OtherPong, "ping", "its pong has another payload than the ping"),
        (Behaviour::SmallMessages, "1 MiB", "the connection"),
        (Behaviour::CorruptTenth, "16 at once", "differs from what was sent"),
        (Behaviour::RepeatTenth, "16 at once", "echo"),
        (Behaviour::DropTenth, "16 at once", "nothing more came within 5 s"),
        (Behaviour::SwapTenth, "16 at once", "echo 10 has 20 bytes, 19 were sent"),
        (Behaviour::EachFrame, "close", "instead of a Close it sent a binary message"),
        (Behaviour::OtherClose, "close", "it answers Close 1000 with 1011"),
        (Behaviour::IgnoresClose, "close", "nothing more came within 5 s"),
        (Behaviour::TalksBehindClose, "close", "behind its Close it sent a binary message of 1 bytes"),
        (Behaviour::OpenBehindClose, "close", "it has not ended the connection 5 s after both Closes"),
    ];
    // Side by side: some wait for the time limit.
    std::thread::scope(|scope| {
        for (behaviour, name, fault) in wrong {
            scope.spawn(move || {
                let checks = gate(behaviour, "ws");
                let check = checks.iter().find(|check| check.name == name).unwrap();
                let found = check.fault.as_deref();
                let found = found.unwrap_or_else(|| panic!("{behaviour:?} passes {name}: {checks:#?}"));
                assert!(found.contains(fault), "{behaviour:?}: {found}");
            });
        }
    });
}

#[test]
fn one_fault_fails_one_check_of_the_gate() {
    let single = [
        (Behaviour::TextAsBinary, "text"),
        (Behaviour::ShortAt(300), "binary"),
        (Behaviour::ShortAt(1000), "fragments"),
        (Behaviour::EachFragment, "fragments"),
        (Behaviour::OtherPong, "ping"),
        (Behaviour::SmallMessages, "1 MiB"),
        (Behaviour::SwapTenth, "16 at once"),
        (Behaviour::OtherClose, "close"),
        (Behaviour::TalksBehindClose, "close"),
    ];
    std::thread::scope(|scope| {
        for (behaviour, name) in single {
            scope.spawn(move || {
                let failed = faults(gate(behaviour, "ws"));
                assert!(failed.len() == 1 && failed[0].0 == name, "{behaviour:?}: {failed:#?}");
            });
        }
    });
}
