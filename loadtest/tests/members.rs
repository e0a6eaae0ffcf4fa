//! Several processes do one run together, against a real ringecho whose own counters must be what they report.

mod relay;
mod runner;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use relay::Relay;
use ringload::interval::IntervalHistogram;
use ringload::members::message::{
    Decoder, Fingerprint, FromConductor, FromMember, Hello, MEMBER_LIMIT, PROTOCOL, encode,
};
use ringload::members::token::{Side, Token, nonce};
use ringload::output::report::Report;
use ringload::series::Encoded;
use runner::{Files, Running, check_schema, ringload};
use rustix::process::Signal;
use serde_json::Value;

/// A ringecho with an admin listener.
struct Server {
    process: Running,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let mut process = Running::start(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let line = process.wait_for("ringecho listening on");
        let mut addresses = line.split_whitespace().filter_map(|word| word.parse().ok());
        let (address, admin) = (addresses.next().expect("its address"), addresses.next_back().expect("its admin's"));
        Self { process, address, admin }
    }

    /// What the server has counted.
    fn status(&self, pointer: &str) -> u64 {
        let mut stream = TcpStream::connect(self.admin).expect("the admin listener");
        stream.write_all(b"GET /status.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let json = &answer[answer.find("\r\n\r\n").expect("a body")..];
        let json: Value = serde_json::from_str(json.trim()).expect("valid JSON");
        json["total"].pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {json}"))
    }
}

/// A run by several members, of which each test starts those that it wants.
struct Meeting {
    server: Server,
    files: Files,
    meet: String,
    members: u32,
    args: Vec<String>,
}

impl Meeting {
    fn new(test: &str, members: u32, args: &[&str]) -> Self {
        let server = Server::start();
        let meet = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").to_string();
        let url = format!("ws://{}/", server.address);
        let fixed = ["run", &url, "--warmup", "200ms", "--drain-timeout", "20s", "--threads", "1"];
        let args = fixed.iter().chain(args).map(|&it| it.to_owned()).collect();
        Self { server, files: Files::new(test), meet, members, args }
    }

    fn member(&self, member: u32, more: &[&str]) -> Running {
        self.member_at(&self.meet, member, more)
    }

    /// One that finds member 0 there.
    fn member_at(&self, meet: &str, member: u32, more: &[&str]) -> Running {
        let (members, number) = (self.members.to_string(), member.to_string());
        let how = ["--members", &members, "--member", &number, "--meet", meet, "--meet-token", "secret"];
        // The same for all: only member 0 writes it.
        let json = self.files.path("report.json");
        let args = self.args.iter().map(String::as_str).chain(how).chain(["--json", &json]).chain(more.iter().copied());
        Running::start_heard(&args.collect::<Vec<_>>())
    }

    fn all(&self) -> Vec<Running> {
        (0..self.members).map(|member| self.member(member, &[])).collect()
    }

    fn report(&self) -> Value {
        let report = self.files.json("report.json");
        check_schema(&report);
        report
    }
}

fn number(report: &Value, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {report}"))
}

/// All end with this code, and all that say something say this.
fn end_with(all: Vec<Running>, code: i32, text: &str) -> Vec<String> {
    let ends: Vec<_> = all.into_iter().map(Running::end).collect();
    for (ended, said) in &ends {
        assert_eq!(*ended, Some(code), "{ends:#?}");
        assert!(said.contains(text), "no {text:?} in {said}; {ends:#?}");
    }
    ends.into_iter().map(|(_, said)| said).collect()
}

/// What the members report together is what the server has counted.
fn check_sums(meeting: &Meeting, report: &Value) {
    let (status, server) = (|pointer| number(report, pointer), &meeting.server);
    assert_eq!(status("/connections/opened"), server.status("/connections/opened"));
    assert_eq!(status("/messages/sent"), server.status("/messages/binary"));
    assert_eq!(status("/messages/echoed"), status("/messages/sent"));
}

#[test]
fn three_members_are_one_run_with_one_report() {
    let meeting = Meeting::new("members-run", 3, &["-c", "31", "-t", "1s"]);
    let all = meeting.all();
    let said = end_with(all, 0, "");
    assert!(
        said[0].contains("3 of 3 members have met") && said[0].contains("members        3 of 3; began apart"),
        "{said:?}"
    );
    assert!(said[1].contains("member 0 has the report (") && said[2].contains("report.json)"), "{said:?}");
    let report = meeting.report();
    check_sums(&meeting, &report);
    let runs = report["runs"].as_array().unwrap();
    let connections: Vec<_> = runs.iter().map(|run| run["scenario"]["connections"].as_u64().unwrap()).collect();
    assert_eq!((connections, number(&report, "/connections/opened")), (vec![11, 10, 10], 31));
    assert_eq!(number(&report, "/meeting/members"), 3);
    let skews = report["meeting"]["skews"].as_array().unwrap();
    let phases: Vec<_> = skews.iter().map(|skew| skew["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["connect", "warm-up", "measure", "drain", "close"]);
    for skew in skews {
        let (us, bound_us) = (skew["us"].as_f64().unwrap(), skew["bound_us"].as_f64().unwrap());
        assert!(us >= 0.0 && bound_us >= us, "{skew}");
    }
    // On one machine there is one wall clock: it and the conductor's must be the same distance apart for all.
    let distance = |run: &Value| run["started_unix_s"].as_f64().unwrap() - run["place"]["began_s"].as_f64().unwrap();
    let distances: Vec<_> = runs.iter().map(distance).collect();
    assert!(distances.iter().all(|it| (it - distances[0]).abs() < 0.1), "{distances:?}");
}

/// The results that a member has handed in, from what it has said on its way to member 0.
fn part(relay: &Relay) -> Report {
    let mut decoder = Decoder::default();
    decoder.limit = MEMBER_LIMIT;
    decoder.push(&relay.up());
    loop {
        let message = decoder.next_message().expect("messages").expect("a report before the end");
        if let FromMember::Report { report, .. } = message {
            return *report;
        }
    }
}

fn latencies(report: &Report) -> IntervalHistogram {
    let measured = report.measured.as_ref().expect("it has measured");
    measured.latency_histogram.as_ref().and_then(Encoded::decode).expect("a histogram")
}

#[test]
fn members_far_away_begin_together_and_their_samples_are_one_distribution() {
    let (delay, none) = (Duration::from_millis(150), Duration::ZERO);
    // Half of the connections go to a server that is far away as well: the distribution has two humps.
    let meeting = Meeting::new("members-far", 3, &["-c", "31", "-r", "600", "-t", "2s"]);
    let far_server = Relay::start(meeting.server.address, Duration::from_millis(40), Duration::from_millis(40));
    let far_url = format!("ws://{}/", far_server.address);
    let far_url = [far_url.as_str()];
    // The clock of the first can be told, whatever the delay is. That of the second looks off by half of the way there.
    let meet = meeting.meet.parse().expect("an address");
    let relays = [Relay::start(meet, delay, delay), Relay::start(meet, delay * 2, none)];
    let mut all = vec![meeting.member(0, &far_url)];
    all.extend(relays.iter().zip(1..).map(|(relay, i)| meeting.member_at(&relay.address.to_string(), i, &far_url)));
    end_with(all, 0, "");
    let report = meeting.report();
    check_sums(&meeting, &report);

    // On one machine there is one wall clock: it says when each has really begun. What a busy machine may add is 100 ms.
    let runs = report["runs"].as_array().unwrap();
    let began_s: Vec<_> = runs.iter().map(|run| run["started_unix_s"].as_f64().unwrap()).collect();
    let apart_s: Vec<_> = began_s.iter().map(|it| (it - began_s[0]).abs()).collect();
    let bound_s = |run: &Value, start: usize| run["place"]["starts"][start]["clock_bound_us"].as_f64().unwrap() / 1e6;
    assert!(apart_s[1] < 0.1, "{apart_s:?}");
    assert!(apart_s[2] > 0.05 && apart_s[2] < bound_s(&runs[2], 0) + 0.1, "{apart_s:?}");
    for (far, start) in [&runs[1], &runs[2]].into_iter().flat_map(|run| (0..5).map(move |start| (run, start))) {
        assert!(bound_s(far, start) >= delay.as_secs_f64() && bound_s(far, start) < 1.0, "{}", far["place"]);
    }
    for skew in report["meeting"]["skews"].as_array().unwrap() {
        // The clocks of two members may be off in opposite directions.
        assert!(skew["bound_us"].as_f64().unwrap() >= 300e3, "{skew}");
    }

    // p99 is that of all samples: with the others' taken out, member 0's are left, and none is missing or there twice.
    let whole: Report = serde_json::from_value(report.clone()).expect("a report");
    let (parts, mut rest) = (relays.each_ref().map(part), latencies(&whole));
    for part in &parts {
        rest.subtract(latencies(part)).expect("each sample of a member is in the whole");
    }
    let counts = [&rest, &latencies(&parts[0]), &latencies(&parts[1])].map(IntervalHistogram::len);
    assert!(counts.iter().all(|&it| it > 100) && counts.iter().sum::<u64>() == latencies(&whole).len(), "{counts:?}");
    let mut samples = Vec::new();
    for value in latencies(&whole).iter_recorded() {
        samples.extend((0..value.count_at_value()).map(|_| value.value_iterated_to()));
    }
    let p99_ns = samples[(samples.len() as f64 * 0.99).ceil() as usize - 1];
    let latency = whole.measured.unwrap().latency_us.unwrap();
    assert!((latency.p99 - p99_ns as f64 / 1e3).abs() < 0.001 && latency.p99 >= 80e3, "{} {p99_ns}", latency.p99);
}

#[test]
fn messages_and_rate_are_totals() {
    let args = ["-c", "7", "-r", "3000", "-n", "1001", "--warmup", "0", "-t", "60s", "--arrivals", "poisson"];
    let meeting = Meeting::new("members-totals", 2, &args);
    end_with(meeting.all(), 0, "");
    let report = meeting.report();
    check_sums(&meeting, &report);
    assert_eq!(number(&report, "/messages/sent"), 1001 + 7, "with the greetings");
}

#[test]
fn conditions_are_of_the_sum_and_all_end_with_one_code() {
    let args = ["-c", "30", "-t", "300ms", "--fail-if", "connections<30", "--fail-if", "connections>29"];
    let meeting = Meeting::new("members-fail-if", 3, &args);
    let said = end_with(meeting.all(), 1, "");
    assert!(said[0].contains("FAILED: --fail-if connections>29: it is 30"), "{}", said[0]);
}

#[test]
fn a_search_is_one_of_all_together() {
    let args = ["-c", "4", "--find-max-rate=2000", "-t", "400ms", "--slo", "max=10s"];
    let meeting = Meeting::new("members-search", 2, &args);
    let said = end_with(meeting.all(), 0, "");
    let knee = said[0].lines().find(|line| line.contains("messages/s hold")).unwrap_or_else(|| panic!("{}", said[0]));
    let held = knee.split_whitespace().find_map(|word| word.replace(',', "").parse::<f64>().ok()).expect("a number");
    let report = meeting.report();
    let rates: Vec<_> =
        report["runs"].as_array().unwrap().iter().map(|run| run["scenario"]["rate_per_s"].as_f64().unwrap()).collect();
    assert!(rates.len() == 2 && (rates.iter().sum::<f64>() - held).abs() < 0.1, "{rates:?}: {}", said[0]);
}

#[test]
fn a_member_killed_before_the_start_stops_all() {
    let meeting = Meeting::new("members-early-loss", 3, &["-c", "30"]);
    let (mut first, second) = (meeting.member(0, &[]), meeting.member(1, &[]));
    first.wait_for("2 of 3 members have met");
    second.signal(Signal::KILL);
    end_with(vec![first], 3, "was lost before the start: its connection ended");
    assert_eq!(meeting.server.status("/connections/accepted"), 0);
}

#[test]
fn a_member_killed_in_the_middle_is_missing_and_the_others_go_on() {
    let meeting = Meeting::new("members-late-loss", 3, &["-c", "30", "-t", "4s"]);
    let mut all = meeting.all();
    all[0].wait_for(" measure ");
    all.remove(2).signal(Signal::KILL);
    let said = end_with(all, 1, "");
    assert!(said[0].contains("FAILED: 1 of 3 members lost (member 2 ("), "{}", said[0]);
    assert!(said[0].contains("is lost: its connection ended; the others go on"), "{}", said[0]);
    let report = meeting.report();
    let missing = &report["meeting"]["missing"][0];
    assert_eq!((number(missing, "/member"), number(&report, "/connections/opened")), (2, 20));
    assert!((0.5..60.0).contains(&missing["from_s"].as_f64().unwrap()), "{missing}");
    assert!(
        number(&report, "/messages/sent") < meeting.server.status("/messages/binary"),
        "what it did is not in there"
    );
}

#[test]
fn a_member_that_is_stopped_for_five_seconds_is_waited_for() {
    let meeting = Meeting::new("members-stopped", 2, &["-c", "4", "-r", "100", "-t", "2s"]);
    let mut all = meeting.all();
    all[0].wait_for(" measure ");
    all[1].signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(5));
    all[1].signal(Signal::CONT);
    end_with(all, 0, "");
    let report = meeting.report();
    check_sums(&meeting, &report);
    // What was due meanwhile was late by as much.
    let most_us = report["measured"]["latency_us"]["max"].as_f64().unwrap();
    assert!(most_us > 1e6, "{most_us}");
}

#[test]
fn a_signal_at_any_member_ends_all_in_order() {
    let meeting = Meeting::new("members-signal", 3, &["-c", "30", "-t", "60s"]);
    let mut all = meeting.all();
    all[0].wait_for(" measure ");
    all[1].signal(Signal::INT);
    let said = end_with(all, 130, "");
    assert!(said[0].contains("PARTIAL, ended early: 30 connections held"), "{}", said[0]);
    check_sums(&meeting, &meeting.report());
    // And before the start.
    let mut first = meeting.member(0, &[]);
    let second = meeting.member(1, &[]);
    first.wait_for("2 of 3 members have met");
    second.signal(Signal::TERM);
    end_with(vec![first, second], 143, "ended before the start by signal 15 at member 1");
}

/// A run whose members are in this phase, each of which takes its time: connecting by its rate, warm-up by its length, and the end because
/// the server does not answer.
fn run_in(phase: &str, test: &str) -> (Meeting, Vec<Running>) {
    let load = ["-c", "30", "-r", "60", "--connect-rate", "10", "--warmup", "4s", "-t", "2s"];
    let ends = ["--drain-timeout", "4s", "--close-timeout", "60s"];
    let meeting = Meeting::new(&format!("members-{test}-{phase}"), 3, &[&load[..], &ends].concat());
    let mut all = meeting.all();
    if ["drain", "close"].contains(&phase) {
        all[0].wait_for(" measure ");
        meeting.server.process.signal(Signal::STOP);
    }
    all[0].wait_for(&format!(" {phase} "));
    (meeting, all)
}

/// Checks each phase, all at once: most of the time is waited.
fn in_each(phases: &[&str], test: &str, check: impl Fn(Meeting, Vec<Running>) + Sync) {
    let check = &check;
    std::thread::scope(|scope| {
        for phase in phases {
            scope.spawn(move || {
                let (meeting, all) = run_in(phase, test);
                check(meeting, all);
            });
        }
    });
}

/// That of measuring has tests of its own.
const PHASES: [&str; 4] = ["connect", "warm-up", "drain", "close"];

#[test]
fn a_member_killed_in_any_phase_is_missing_and_the_others_go_on() {
    in_each(&PHASES, "kill", |meeting, mut all| {
        all.remove(2).signal(Signal::KILL);
        meeting.server.process.signal(Signal::CONT);
        let said = end_with(all, 1, "");
        assert!(said[0].contains("1 of 3 members lost (member 2 ("), "{}", said[0]);
        assert_eq!(number(&meeting.report(), "/connections/opened"), 20);
    });
}

#[test]
fn all_end_whatever_phase_member_0_is_killed_in() {
    in_each(&PHASES, "headless", |_meeting, mut all| {
        all.remove(0).signal(Signal::KILL);
        end_with(all, 3, "member 0, which conducts, is lost: its connection ended");
    });
}

#[test]
fn a_signal_in_any_phase_ends_all_in_order() {
    in_each(&PHASES, "interrupt", |meeting, all| {
        all[1].signal(Signal::TERM);
        // As what ends a whole job does: not at the same moment.
        std::thread::sleep(Duration::from_millis(1200));
        for member in [0, 2] {
            let _ = all[member].try_signal(Signal::TERM);
        }
        meeting.server.process.signal(Signal::CONT);
        let said = end_with(all, 143, "");
        assert!(said[0].contains("PARTIAL, ended early"), "{}", said[0]);
        assert!(meeting.report()["meeting"]["missing"].as_array().unwrap().is_empty(), "{}", said[0]);
    });
}

#[test]
fn a_member_that_is_stopped_before_measuring_is_waited_for() {
    in_each(&["connect", "warm-up"], "stop", |meeting, all| {
        all[2].signal(Signal::STOP);
        std::thread::sleep(Duration::from_secs(5));
        all[2].signal(Signal::CONT);
        end_with(all, 0, "");
        check_sums(&meeting, &meeting.report());
    });
}

#[test]
fn a_connection_that_falls_silent_is_lost_on_both_sides() {
    let meeting = Meeting::new("members-silent", 3, &["-c", "30", "-r", "60", "-t", "3s"]);
    let relay = Relay::start(meeting.meet.parse().expect("an address"), Duration::ZERO, Duration::ZERO);
    let (mut first, cut_off) = (meeting.member(0, &[]), meeting.member_at(&relay.address.to_string(), 1, &[]));
    let third = meeting.member(2, &[]);
    first.wait_for(" measure ");
    relay.fall_silent();
    end_with(vec![cut_off], 3, "member 0, which conducts, is lost: nothing was heard of it for 15 s");
    let said = end_with(vec![first, third], 1, "");
    assert!(said[0].contains("is lost: nothing was heard of it for 15 s; the others go on"), "{}", said[0]);
    let missing = meeting.report()["meeting"]["missing"][0].clone();
    assert!(number(&missing, "/member") == 1 && missing["from_s"].as_f64().unwrap() > 15.0, "{missing}");
}

#[test]
fn member_0_raises_its_limit_on_descriptors_before_members_come() {
    let meeting = Meeting::new("members-descriptors", 2, &["-c", "4"]);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 64 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ringload")]).args(&meeting.args);
    command.args(["--members", "2", "--member", "0", "--meet", &meeting.meet, "--meet-timeout", "60s"]);
    let mut first = command.stdout(Stdio::piped()).spawn().expect("a shell");
    let mut line = String::new();
    BufReader::new(first.stdout.take().expect("piped")).read_line(&mut line).expect("text");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", first.id())).expect("it runs");
    first.kill().and_then(|()| first.wait()).expect("it ends");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    let limits: Vec<_> = files.split_whitespace().take(2).collect();
    assert!(line.contains("1 of 2 members have met") && limits[0] == limits[1], "{line} {limits:?}");
}

#[test]
fn strangers_are_refused_and_do_no_harm() {
    let meeting = Meeting::new("members-strangers", 2, &["-c", "4", "-t", "2s"]);
    let mut first = meeting.member(0, &[]);
    first.wait_for("1 of 2 members have met");
    let _silent = TcpStream::connect(&meeting.meet).expect("member 0 listens");
    let mut nonsense = TcpStream::connect(&meeting.meet).expect("member 0 listens");
    nonsense.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    end_with(vec![meeting.member(1, &["--meet-token", "guess"])], 3, "another token than member 0");
    end_with(vec![meeting.member(0, &["--meet-token", "secret"])], 3, "cannot listen at");
    let second = meeting.member(1, &[]);
    first.wait_for(" measure ");
    end_with(vec![meeting.member(1, &[])], 3, "came late");
    end_with(vec![first, second], 0, "");
    check_sums(&meeting, &meeting.report());
}

#[test]
fn another_version_or_scenario_stops_all() {
    let meeting = Meeting::new("members-version", 2, &["-c", "4", "-t", "300ms"]);
    let mut first = meeting.member(0, &[]);
    first.wait_for("1 of 2 members have met");
    let end = say_hello(&meeting.meet, "99.0");
    assert!(matches!(&end, FromConductor::End { code: 3, said } if said.contains("is ringload 99.0")), "{end:?}");
    end_with(vec![first], 3, "member 1 (elsewhere, 127.0.0.1:");
    let (first, second) = (meeting.member(0, &[]), meeting.member(1, &["-c", "5"]));
    end_with(vec![first, second], 3, "has another scenario than member 0: connections differ");
}

/// What the conductor says to a member of another version that has the token.
fn say_hello(meet: &str, version: &str) -> FromConductor {
    let mut stream = TcpStream::connect(meet).expect("member 0 listens");
    let mut decoder = Decoder::default();
    let FromConductor::Challenge { nonce: challenge } = next(&mut stream, &mut decoder) else { panic!("no challenge") };
    let hello = Hello {
        protocol: PROTOCOL,
        ringload: version.to_owned(),
        member: 1,
        members: 2,
        host: "elsewhere".to_owned(),
        nonce: nonce(),
        scenario: Fingerprint::new(),
    };
    let said = serde_json::to_string(&hello).unwrap();
    let proof = Token::new("secret").sign(Side::Member, &challenge, &said);
    let mut bytes = Vec::new();
    encode(&FromMember::Hello { said, proof }, &mut bytes);
    stream.write_all(&bytes).unwrap();
    next(&mut stream, &mut decoder)
}

fn next(stream: &mut TcpStream, decoder: &mut Decoder) -> FromConductor {
    let mut bytes = [0; 1024];
    loop {
        if let Some(message) = decoder.next_message().expect("a message") {
            return message;
        }
        let count = stream.read(&mut bytes).expect("more");
        assert!(count > 0, "it ended");
        decoder.push(&bytes[..count]);
    }
}

#[test]
fn members_that_do_not_come_are_not_waited_for_for_ever() {
    let meeting = Meeting::new("members-absent", 2, &["-c", "4", "--meet-timeout", "1s"]);
    end_with(vec![meeting.member(0, &[])], 3, "member 1 did not come within 1s (--meet-timeout)");
    end_with(vec![meeting.member(1, &[])], 3, "member 0 was not to be met at 127.0.0.1:");
}

#[test]
fn members_leave_standard_output_to_results_that_they_do_not_have() {
    let how = ["--members", "2", "--member", "1", "--meet", "127.0.0.1:1", "--meet-timeout", "100ms"];
    let output = ringload(&[&["run", "ws://127.0.0.1:1/", "-c", "4", "--json", "-"][..], &how].concat());
    let [results, said] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).expect("text"));
    assert_eq!((output.status.code(), results.as_str()), (Some(3), ""));
    assert!(said.contains("member 1 of 2: member 0 at 127.0.0.1:1 conducts"), "{said}");
}

#[test]
fn what_makes_no_sense_is_bad_usage() {
    let meeting = Meeting::new("members-usage", 2, &["-c", "4"]);
    let refused = |more: &[&str], text: &str| end_with(vec![meeting.member(0, more)], 2, text);
    refused(&["--member", "2"], "the last one is 1");
    refused(&["--meet", "nowhere"], "is not HOST:PORT");
    refused(&["-c", "1"], "--members 2 are more than --connections 1");
    refused(&["--server-cmd", "true"], "--members needs the URL of a server that is there already");
}
