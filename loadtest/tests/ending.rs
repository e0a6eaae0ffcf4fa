//! Runs and searches that are ended early: in order, with what they have, and with an exit code that says so.

mod runner;
mod server;

use std::time::{Duration, Instant};

use runner::{Running, run_to_end};
use rustix::process::Signal;
use server::{Behaviour, start};

/// A run of a minute against `behaviour`, with `more` arguments.
fn long_run(behaviour: Behaviour, more: &[&str]) -> Running {
    let url = format!("ws://{}/", start(behaviour));
    Running::start(&[&["run", &url, "-c", "4", "--warmup", "0", "--duration", "60"], more].concat())
}

#[test]
fn a_signal_ends_a_run_early_with_its_results_and_its_code() {
    for (signal, expected) in
        [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131), (Signal::USR1, 138)]
    {
        let mut run = long_run(Behaviour::Echo, &[]);
        run.wait_for("measure");
        run.signal(signal);
        let (code, text) = run.end();
        assert_eq!(code, Some(expected), "{signal:?}: {text}");
        assert!(text.contains("PARTIAL") && text.contains("p99"), "{signal:?}: {text}");
    }
}

#[test]
fn a_run_that_has_measured_nothing_is_no_success_either() {
    let mut run = long_run(Behaviour::Mute, &["--connect-timeout", "60s"]);
    run.wait_for("connect ");
    run.signal(Signal::TERM);
    let (code, text) = run.end();
    assert_eq!(code, Some(143), "{text}");
    assert!(text.contains("PARTIAL"), "{text}");
}

/// `timeout` and `npm run` send a signal twice within moments: that must not cost the results.
#[test]
fn a_signal_that_comes_twice_at_once_is_one() {
    let mut run = long_run(Behaviour::Echo, &[]);
    run.wait_for("measure");
    run.signal(Signal::TERM);
    run.signal(Signal::TERM);
    let (code, text) = run.end();
    assert_eq!(code, Some(143), "{text}");
    assert!(text.contains("PARTIAL") && text.contains("p99"), "{text}");
}

/// What is in flight never comes back, no Close is answered, and there would be a minute to wait for each.
#[test]
fn a_run_that_is_ended_early_does_not_wait_for_what_does_not_come() {
    let mut run = long_run(Behaviour::Deaf, &["--no-greet", "--drain-timeout", "60s"]);
    run.wait_for("measure");
    let begun = Instant::now();
    run.signal(Signal::INT);
    let (code, text) = run.end();
    assert_eq!(code, Some(130), "{text}");
    assert!(text.contains("4 lost") && begun.elapsed() < Duration::from_secs(30), "{:?}: {text}", begun.elapsed());
}

/// An orderly end would take two seconds here, and print what there is.
#[test]
fn a_second_interrupt_ends_it_at_once() {
    let is_at_once = || {
        let mut run = long_run(Behaviour::Deaf, &["--no-greet", "--drain-timeout", "60s"]);
        run.wait_for("measure");
        run.signal(Signal::INT);
        std::thread::sleep(Duration::from_millis(100));
        run.signal(Signal::INT);
        let (code, text) = run.end();
        assert_eq!(code, Some(130), "{text}");
        !text.contains("PARTIAL")
    };
    // On a machine that is very busy the second one may come too late.
    assert!((0..5).any(|_| is_at_once()));
}

#[test]
fn a_search_that_is_ended_early_finds_no_knee() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let args = ["run", &url, "-c", "4", "--warmup", "0", "--duration", "1s", "--find-max-rate=2k"];
    let mut search = Running::start(&args);
    search.wait_for("holds");
    search.signal(Signal::TERM);
    let (code, text) = search.end();
    assert_eq!(code, Some(143), "{text}");
    // On a machine that is very busy the first rate may not hold, but a lower one.
    let holding =
        text.lines().find_map(|line| line.trim().split_once(" messages/s  ").filter(|_| line.ends_with("holds")));
    let (rate, _) = holding.unwrap_or_else(|| panic!("no rate holds: {text}"));
    assert!(text.contains(&format!("search interrupted, knee not found: {rate} messages/s hold")), "{text}");
    assert_eq!(text.matches("interrupted: does not count").count(), 1, "the run that was interrupted: {text}");
}

/// What the environment says to a ringecho of one's own is not meant for the one that a run starts for itself.
#[test]
fn variables_of_the_server_are_not_those_of_a_run() {
    for (name, value) in
        [("RINGECHO_PATH", "/echo"), ("RINGECHO_PROTOCOL", "tcp"), ("RINGECHO_WORKERS", ""), ("RINGECHO_LISTEN", "x")]
    {
        let args = ["run", "-q", "-c", "2", "--duration", "200ms", "--warmup", "0"];
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringload"));
        let output = run_to_end(command.args(args).env(name, value));
        assert_eq!(output.status.code(), Some(0), "{name}={value:?}: {output:?}");
        assert!(output.stderr.is_empty(), "nothing but the results: {output:?}");
    }
}
