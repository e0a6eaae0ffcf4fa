//! Searches find the knee that is there.

mod runner;
mod server;

use runner::ringload;
use server::{Behaviour, start};

/// Runs a search: its exit code, its output, and the highest good and the lowest bad value.
fn search(behaviour: Behaviour, args: &[&str]) -> (Option<i32>, String, [u64; 2]) {
    let url = format!("ws://{}/", start(behaviour));
    let quick = ["run", &url, "--duration", "0.4", "--warmup", "0"];
    let output = ringload(&[&quick[..], args].concat());
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let knee = text.lines().find(|line| line.starts_with("knee")).unwrap_or_else(|| panic!("no knee: {text}"));
    let numbers = knee.split_whitespace().filter_map(|word| word.replace(',', "").parse().ok());
    let knee = numbers.collect::<Vec<u64>>().try_into().expect("two numbers");
    (output.status.code(), text, knee)
}

#[test]
fn the_most_connections_are_found() {
    let (code, text, [good, bad]) = search(Behaviour::Full(50), &["--find-max-connections=400", "--active", "0"]);
    assert_eq!(code, Some(0), "{text}");
    assert!((46..=50).contains(&good) && (51..=54).contains(&bad), "{text}");
    assert!(text.contains("failed: HTTP status 503"), "{text}");
}

#[test]
fn the_highest_rate_is_found() {
    // Two connections that take 4 ms for each message bear 500 messages a second at most.
    let goal = ["--find-max-rate=8000", "--slo", "p99=200ms,max=10s", "-c", "2"];
    let (code, text, [good, bad]) = search(Behaviour::Slow, &goal);
    assert_eq!(code, Some(0), "{text}");
    assert!(good >= 60 && bad <= 700, "{text}");
}
