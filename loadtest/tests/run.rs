//! `ringload run` against servers that behave, and against servers that do not: each fault is counted as what it is.

mod runner;
mod server;

use runner::{Running, ringload, run, run_any};
use rustix::process::Signal;
use server::{Behaviour, start};

#[test]
fn good_echoes_of_all_sizes_and_depths_are_good() {
    let address = start(Behaviour::Echo);
    for args in [
        &["--size", "0"][..],
        &["--size", "1"],
        &["--size", "125", "--depth", "5"],
        &["--size", "126", "--text"],
        &["--size", "65535", "--depth", "2"],
        &["--size", "65536"],
        &["--size", "1000000", "--depth", "3"],
        &["--no-greet", "--active", "50%"],
        &["--no-verify"],
    ] {
        let outcome = run(address, args);
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.output);
        assert_eq!(outcome.number("/connections/opened"), 4);
        assert_eq!(outcome.number("/connections/closes_answered"), 4);
        assert!(outcome.number("/measured/echoes") > 0, "{args:?}: {}", outcome.output);
        assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
    }
}

#[test]
fn a_number_of_messages_is_kept_exactly() {
    let address = start(Behaviour::Echo);
    let args = ["--messages", "1000", "--duration", "20", "--depth", "3", "--active", "3", "--threads", "2"];
    let outcome = run(address, &args);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(outcome.number("/messages/echoed"), 1000 + 4, "with the greetings");
}

#[test]
fn without_frames_the_same_is_checked() {
    let url = format!("tcp://{}", start(Behaviour::Tcp));
    for args in [&["--size", "1"][..], &["--depth", "7"], &["--size", "500000"]] {
        let outcome = run_any(&[&[url.as_str()], args].concat());
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.output);
        assert!(outcome.number("/measured/echoes") > 0);
    }
    assert_eq!(run_any(&[&url, "--size", "0"]).code, Some(2));
    assert_eq!(run_any(&[&url, "--ping-every", "1"]).code, Some(2));
    assert_eq!(run_any(&[&url, "--expect", "2"]).code, Some(2));
    assert_eq!(run_any(&[&url, "--expect", "any"]).code, Some(0));
}

#[test]
fn without_a_url_it_brings_its_own_server() {
    for protocol in [&[][..], &["--tcp"]] {
        let outcome = run_any(&[&["-c", "50", "--active", "10"], protocol].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert_eq!(outcome.number("/connections/opened"), 50);
        assert!(!outcome.output.contains("all connections are taken"), "it has more room: {}", outcome.output);
        assert!(outcome.json["measured"]["server_cpu"].is_object(), "{}", outcome.output);
        assert!(outcome.json["memory"]["idle"]["server"]["rss_bytes"].is_u64());
    }
    let outcome = run_any(&["--server-args", "--no-such-option"]);
    assert_eq!(outcome.code, Some(3), "{}", outcome.output);
}

#[test]
fn a_server_that_is_gone_in_the_midst_of_it_is_a_result() {
    let mut server = Running::start(&["serve", "--listen", "127.0.0.1:0"]);
    let line = server.wait_for("ringecho listening on ");
    let url = format!("ws://{}/", line.split_whitespace().nth(3).unwrap());
    let pid = server.pid().to_string();
    let mut run = Running::start(&["run", &url, "-c", "4", "--warmup", "0", "--duration", "60", "--server-pid", &pid]);
    run.wait_for("measure");
    server.signal(Signal::KILL);
    server.end();
    let (code, text) = run.end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the server's process ended before the run did"), "{text}");
    assert!(text.contains("4 closed early") && text.contains("latency"), "{text}");
}

#[test]
fn that_nobody_reads_its_lines_is_no_reason_to_end() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let mut run = Running::start(&["run", &url, "-c", "4", "--warmup", "0", "--duration", "2"]);
    run.wait_for("ringload: 4 connections");
    assert_eq!(run.end_unheard(), Some(0));
}

#[test]
fn fragments_pings_and_cut_headers_are_no_fault() {
    let outcome = run(start(Behaviour::Fragments), &["--size", "300"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(outcome.number("/messages/pings_answered") > 0);
}

#[test]
fn a_changed_byte_is_corruption() {
    let outcome = run(start(Behaviour::CorruptTenth), &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert!(outcome.number("/messages/corrupted") > 0);
    for other in ["/messages/lost", "/messages/unexpected", "/connections/failed", "/connections/closed_early"] {
        assert_eq!(outcome.number(other), 0, "{other}: {}", outcome.output);
    }
    let accounted = outcome.number("/messages/echoed") + outcome.number("/messages/corrupted");
    assert_eq!(outcome.number("/messages/sent"), accounted);
}

#[test]
fn a_dropped_echo_is_lost() {
    for depth in ["1", "4"] {
        let outcome = run(start(Behaviour::DropTenth), &["--depth", depth]);
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        assert!(outcome.number("/messages/lost") > 0, "{}", outcome.output);
        assert_eq!(outcome.number("/messages/corrupted") + outcome.number("/messages/unexpected"), 0);
        let accounted = outcome.number("/messages/echoed") + outcome.number("/messages/lost");
        assert_eq!(outcome.number("/messages/sent"), accounted);
    }
}

#[test]
fn repeated_and_unasked_messages_are_told_apart() {
    let faults = ["/messages/duplicated", "/messages/unexpected"];
    for (behaviour, fault, other) in
        [(Behaviour::RepeatTenth, faults[0], faults[1]), (Behaviour::Greeter, faults[1], faults[0])]
    {
        let outcome = run(start(behaviour), &["--depth", "2"]);
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        assert!(outcome.number(fault) > 0, "{behaviour:?}: {}", outcome.output);
        assert_eq!(outcome.number(other), 0, "{behaviour:?}: {}", outcome.output);
        assert_eq!(outcome.number("/messages/corrupted") + outcome.number("/messages/lost"), 0, "{}", outcome.output);
    }
}

#[test]
fn a_refused_upgrade_is_counted_by_its_status() {
    let outcome = run(start(Behaviour::Status(503)), &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(outcome.failures(), [("HTTP status 503".to_owned(), 4)]);
    let outcome = run(start(Behaviour::WrongAccept), &[]);
    assert_eq!(outcome.failures(), [("wrong or missing Sec-WebSocket-Accept".to_owned(), 4)]);
}

#[test]
fn silence_times_out_and_says_where() {
    let failures = |behaviour: Behaviour, timeout| {
        let outcome = run(start(behaviour), &["--connect-timeout", timeout]);
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        outcome.failures()
    };
    for (behaviour, cause) in [(Behaviour::Mute, "upgrade timed out"), (Behaviour::Deaf, "greeting not echoed in time")]
    {
        // What comes before must not time out; on a busy machine that takes longer.
        let expected = [(cause.to_owned(), 4)];
        let patient = ["0.3", "3", "30"].iter().any(|timeout| failures(behaviour, timeout) == expected);
        assert!(patient, "no timeout was {cause:?}");
    }
}

#[test]
fn nobody_there_is_refused() {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outcome = run(address, &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(outcome.failures(), [("connection refused".to_owned(), 4)]);
}

#[test]
fn a_server_that_ends_connections_is_noticed() {
    for behaviour in [Behaviour::CloseAfterTen, Behaviour::HangUpAfterTen] {
        let outcome = run(start(behaviour), &[]);
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        assert_eq!(outcome.number("/connections/closed_early"), 4, "{behaviour:?}: {}", outcome.output);
    }
}

#[test]
fn a_server_that_breaks_the_protocol_is_given_up() {
    let outcome = run(start(Behaviour::Masked), &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let violations = &outcome.json["connections"]["violations"];
    assert_eq!(violations[0]["what"], "masked frame from the server");
    assert_eq!(violations[0]["count"], 4);
}

#[test]
fn bad_arguments_and_impossible_runs_have_their_own_exit_codes() {
    assert_eq!(ringload(&["run", "--depth", "0"]).status.code(), Some(2));
    assert_eq!(ringload(&["run", "http://127.0.0.1/"]).status.code(), Some(2));
    assert_eq!(ringload(&["run", "--cpus", "1023", "ws://127.0.0.1:1/"]).status.code(), Some(2));
    assert_eq!(ringload(&["run", "ws://no-such-host.invalid/"]).status.code(), Some(3));
    // More than an address has, however many of its ports the machine gives out.
    let output = ringload(&["run", "-c", "65536", "ws://[::1]:1/"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("local ports of 1 source address"));
}
