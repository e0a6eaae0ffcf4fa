//! Servers that misbehave in ways of their own: each fault is counted as what it is, and as nothing else.

mod runner;
mod server;

use runner::{Outcome, run};
use server::{Behaviour, STALL, start};

/// Everything that can be wrong with messages.
const FAULTS: [&str; 6] = ["lost", "reordered", "corrupted", "late", "duplicated", "unexpected"];

/// The number of each of [`FAULTS`]; of all others there must be none.
fn only(outcome: &Outcome, fault: &str) -> u64 {
    for other in FAULTS.iter().filter(|&&other| other != fault) {
        assert_eq!(outcome.number(&format!("/messages/{other}")), 0, "{other}: {}", outcome.output);
    }
    outcome.number(&format!("/messages/{fault}"))
}

#[test]
fn swapped_echoes_are_reordered() {
    let args = ["-c", "1", "--depth", "4", "--messages", "104", "--duration", "20"];
    let outcome = run(start(Behaviour::SwapTenth), &args);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    // The tenth, the twentieth, ... are overtaken.
    assert_eq!(only(&outcome, "reordered"), 10, "{}", outcome.output);
    assert_eq!(outcome.number("/messages/echoed"), 105 - 10, "with the greeting");
}

#[test]
fn an_echo_behind_our_close_is_late() {
    let outcome = run(start(Behaviour::LateThird), &["--depth", "1", "--no-verify"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(only(&outcome, "late"), 4, "{}", outcome.output);
    assert_eq!(outcome.number("/connections/closes_answered"), 4);
}

#[test]
fn a_connection_that_is_closed_at_once_was_never_one() {
    let outcome = run(start(Behaviour::HangUpAtOnce), &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(outcome.failures(), [("reset or closed before the upgrade".to_owned(), 4)]);
}

#[test]
fn data_behind_the_servers_close_breaks_the_protocol() {
    let outcome = run(start(Behaviour::TalksAfterClose), &[]);
    let violations = &outcome.json["connections"]["violations"];
    assert_eq!(violations[0]["what"], "data after the server's own close frame", "{}", outcome.output);
    assert_eq!(violations[0]["count"], 4);
}

#[test]
fn a_welcome_is_unexpected_and_does_no_harm() {
    let outcome = run(start(Behaviour::Welcomes), &["--messages", "100", "--duration", "20"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(only(&outcome, "unexpected"), 4, "{}", outcome.output);
    assert_eq!(outcome.number("/messages/echoed"), 104);
}

#[test]
fn a_stall_shows_in_an_open_loop_with_its_whole_length() {
    // 400 messages a second for three seconds; after one second nothing is echoed for one.
    let open = ["--rate", "400", "--duration", "3", "--drain-timeout", "10"];
    for more in [&[][..], &["--arrivals", "poisson"], &["--depth", "1"]] {
        let outcome = run(start(Behaviour::Stall(400)), &[&open[..], more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        let latency = |name: &str| outcome.json["measured"]["latency_us"][name].as_f64().unwrap();
        let stall_us = STALL.as_secs_f64() * 1e6;
        assert!(latency("p99_9") > 0.97 * stall_us, "{}", outcome.output);
        // A third of all messages were due while the server stalled: their latencies go evenly from the stall to nothing.
        assert!(latency("p90") > 0.5 * stall_us, "{}", outcome.output);
        let sent = outcome.number("/messages/sent") - 4;
        assert!((1100..1300).contains(&sent), "the rate is kept: {sent}");
        // What is due in the last moment may have to wait for what was due before it, once on each connection.
        assert!(outcome.number("/messages/unsent") <= 4, "{}", outcome.output);
        assert!(outcome.json["measured"]["lag_us"]["p99"].is_number(), "{}", outcome.json);
    }
}

#[test]
fn the_same_stall_hardly_shows_in_a_closed_loop() {
    let outcome = run(start(Behaviour::Stall(400)), &["--duration", "3"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let latency = &outcome.json["measured"]["latency_us"];
    assert!(
        latency["max"].as_f64().unwrap() > 0.97e6 && latency["p99"].as_f64().unwrap() < 0.5e6,
        "{}",
        outcome.output
    );
    assert!(outcome.json["measured"]["lag_us"].is_null());
}

#[test]
fn a_server_that_stalls_at_the_end_is_measured_with_its_slowest_echoes() {
    // The stall begins where the measured time ends, all but a tenth of a second.
    let args = ["--rate", "400", "--duration", "1.1", "--drain-timeout", "10"];
    let outcome = run(start(Behaviour::Stall(400)), &args);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let max = outcome.json["measured"]["latency_us"]["max"].as_f64().unwrap();
    assert!(max > 0.97e6, "{}", outcome.output);
}

#[test]
fn what_was_due_and_could_not_be_sent_is_counted() {
    let args = ["--no-greet", "--rate", "400", "--depth", "1", "--duration", "1"];
    let outcome = run(start(Behaviour::Deaf), &args);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(only(&outcome, "lost"), 4, "{}", outcome.output);
    assert!((350..=420).contains(&outcome.number("/messages/unsent")), "{}", outcome.output);
}
