//! Servers that misbehave in ways of their own: each fault is counted as what it is, and as nothing else.

mod runner;
mod server;

use ringload::interval::IntervalHistogram;
use ringload::series::Encoded;
use runner::{Outcome, run};
use server::{ACCEPT, Behaviour, STALL, start};

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
fn servers_may_differ_without_a_fault() {
    for behaviour in [Behaviour::TwoSegments, Behaviour::BareClose, Behaviour::SlowAccept] {
        let outcome = run(start(behaviour), &["--depth", "2"]);
        assert_eq!(outcome.code, Some(0), "{behaviour:?}: {}", outcome.output);
        assert_eq!(outcome.number("/connections/closes_answered"), 4, "{behaviour:?}: {}", outcome.output);
        assert!(outcome.number("/measured/echoes") > 0, "{behaviour:?}: {}", outcome.output);
        if behaviour == Behaviour::SlowAccept {
            let ready_us = outcome.json["connections"]["latency_us"]["min"].as_f64().unwrap();
            assert!(ready_us >= 0.99 * ACCEPT.as_micros() as f64, "the wait is seen: {ready_us}");
        }
    }
}

/// The kernel tells of both at once, and once.
#[test]
fn a_reset_that_comes_together_with_the_last_bytes_is_noticed() {
    let outcome = run(start(Behaviour::ResetBehindClose), &["-c", "40", "--close-timeout", "1000"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(outcome.number("/connections/closes_answered"), 40, "{}", outcome.output);
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

/// Messages per second in the tests with a stall.
const RATE: f64 = 400.0;

/// The measured latencies in full.
fn histogram(outcome: &Outcome) -> IntervalHistogram {
    let encoded = outcome.json["measured"]["latency_histogram"].clone();
    serde_json::from_value::<Encoded>(encoded).expect("there were echoes").decode().expect("a histogram")
}

#[test]
fn a_stall_shows_in_an_open_loop_with_its_whole_length() {
    // For three seconds; after one second nothing is echoed for one.
    let open = ["--rate", "400", "--duration", "3", "--drain-timeout", "10"];
    for more in [&[][..], &["--arrivals", "poisson"], &["--depth", "1"]] {
        let outcome = run(start(Behaviour::Stall(400)), &[&open[..], more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        let latencies = histogram(&outcome);
        // What a machine with more to do than this has added, by ringload's own account.
        let noise_s = outcome.json["measured"]["lag_us"]["max"].as_f64().expect("an open loop has a lag") / 1e6;
        let stall_ns = STALL.as_nanos() as u64;
        assert!(latencies.value_at_percentile(99.9) > stall_ns / 100 * 97, "{}", outcome.output);
        // Those that were due while the server stalled waited for what was left of it: their latencies go evenly from
        // the stall's length to nothing, whatever the machine adds to them.
        for (part, expected) in [(0.9, 0.1 * RATE), (0.5, 0.5 * RATE)] {
            let waited = latencies.count_between((part * stall_ns as f64) as u64, u64::MAX) as f64;
            assert!(waited > 0.6 * expected, "{waited} waited for {part} of the stall: {}", outcome.output);
        }
        let median_s = latencies.value_at_percentile(50.0) as f64 / 1e9;
        assert!(median_s < 0.5 + noise_s, "most were not due then: {}", outcome.output);
        // The rate is kept. What the stall held up has been sent by the end; only what was due in the last moments may be
        // waiting.
        let (sent, unsent) = (outcome.number("/messages/sent") - 4, outcome.number("/messages/unsent"));
        let due = RATE * outcome.json["measured"]["seconds"].as_f64().unwrap();
        let accounted = 0.85 * due..1.15 * due + RATE * noise_s;
        assert!(accounted.contains(&((sent + unsent) as f64)), "{sent} sent, {unsent} unsent: {}", outcome.output);
        assert!((unsent as f64) < RATE * (0.25 + noise_s), "{unsent} unsent: {}", outcome.output);
        assert_eq!(latencies.len(), sent, "each echo has its latency");
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
    let share =
        outcome.number("/messages/unsent") as f64 / (RATE * outcome.json["measured"]["seconds"].as_f64().unwrap());
    assert!((0.85..1.15).contains(&share), "{share} of what was due: {}", outcome.output);
}
