//! The admin listener of a running server: health, metrics, status, counters, and a full server's answers.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use common::frames::{BINARY, FIN, PING, PONG, TEXT, close_frame, frame};
use common::peer::{Peer, UPGRADE, connect};
use common::server::{Server, command, run_to_end};
use rustix::process::Signal;
use socket2::SockRef;

/// A server with an admin listener, and where that is.
fn start(arguments: &[&str]) -> (Server, SocketAddr) {
    let server = Server::start(&[&["--admin", "127.0.0.1:0"], arguments].concat());
    let line = server.start_up_line();
    let (_, address) = line.split_once("admin ").unwrap_or_else(|| panic!("no admin listener in {line:?}"));
    let address = address.parse().unwrap_or_else(|e| panic!("{address:?}: {e}"));
    (server, address)
}

/// Status and body of an answer.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    exchange(connect(address), path)
}

fn exchange(mut stream: impl Read + Write, path: &str) -> (u16, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    (head[9..12].parse().expect("a status"), body.to_owned())
}

/// The samples of `/metrics`, those of all workers added up: by name and labels without the worker's.
fn metrics(address: SocketAddr) -> BTreeMap<String, f64> {
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200);
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
        let value: f64 = value.parse().unwrap_or_else(|e| panic!("{line:?}: {e}"));
        *samples.entry(without_worker(name)).or_default() += value;
    }
    samples
}

fn without_worker(name: &str) -> String {
    let Some((name, labels)) = name.split_once('{') else { return name.to_owned() };
    let labels: Vec<_> = labels.trim_end_matches('}').split(',').filter(|it| !it.starts_with("worker=")).collect();
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

/// Waits until a sample has a value.
fn await_metric(address: SocketAddr, name: &str, expected: f64) {
    let mut last = BTreeMap::new();
    for _ in 0..common::PATIENCE.as_millis() / 20 {
        last = metrics(address);
        if last.get(name) == Some(&expected) {
            return;
        }
        thread::sleep(Duration::from_millis(20)); // there is no event to wait for
    }
    panic!("{name} is not {expected}: {last:#?}");
}

#[test]
fn health_and_readiness() {
    let (server, admin) = start(&["--max-connections", "1", "--drain-timeout", "60"]);
    assert_eq!(get(admin, "/healthz"), (200, "ok\n".into()));
    assert_eq!(get(admin, "/readyz"), (200, "ready\n".into()));
    assert_eq!(get(admin, "/nonsense").0, 404);
    let mut only = server.open();
    assert_eq!(get(admin, "/readyz"), (503, "full\n".into()));
    server.signal(Signal::TERM);
    only.expect_close(1001);
    assert_eq!((get(admin, "/readyz"), get(admin, "/healthz").0), ((503, "draining\n".into()), 200));
    only.send(close_frame(1001, b""));
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn what_connections_do_is_counted() {
    let (server, admin) = start(&["--workers", "2", "--max-message-size", "100000"]);
    let mut peer = server.open();
    peer.expect_echo(TEXT, "eins");
    peer.expect_echo(TEXT, "zwei");
    peer.expect_echo(BINARY, vec![7; 70_000]);
    peer.send([frame(TEXT, b"in "), frame(FIN, b"pieces")].concat());
    peer.read_message();
    peer.send(frame(FIN | PING, b"!"));
    peer.expect_frame(FIN | PONG, b"!");
    peer.send(frame(FIN | PONG, b""));
    peer.synchronize();
    peer.send(close_frame(3001, b""));
    peer.expect_close(3001);
    peer.expect_end();
    let mut big = server.open();
    big.send(frame(FIN | BINARY, &vec![0; 100_001]));
    big.expect_close(1009);
    drop(big);
    let mut probe = server.connect();
    probe.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(probe.read_answer().status, 200);
    drop(probe);
    let mut refused = server.connect();
    refused.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(refused.read_answer().status, 426);
    drop(refused);
    drop(server.connect());
    server.open().reset();
    drop(server.open());

    await_metric(admin, "ringecho_connections_open", 0.0);
    await_metric(admin, "ringecho_connections_accepted_total", 7.0);
    let samples = metrics(admin);
    for (name, expected) in [
        ("ringecho_connections_opened_total", 4.0),
        ("ringecho_connections_silent_total", 1.0),
        ("ringecho_connections_closed_total{cause=\"peer-close\"}", 1.0),
        ("ringecho_connections_closed_total{cause=\"violation\"}", 1.0),
        ("ringecho_connections_closed_total{cause=\"refused\"}", 1.0),
        ("ringecho_connections_closed_total{cause=\"answered\"}", 1.0),
        ("ringecho_connections_closed_total{cause=\"reset\"}", 1.0),
        ("ringecho_connections_closed_total{cause=\"end-of-input\"}", 2.0),
        ("ringecho_close_frames_received_total{code=\"3xxx\"}", 1.0),
        ("ringecho_close_frames_sent_total{code=\"1009\"}", 1.0),
        ("ringecho_handshakes_refused_total{status=\"426\"}", 1.0),
        ("ringecho_requests_answered_total{status=\"200\"}", 1.0),
        ("ringecho_messages_total{kind=\"text\"}", 3.0),
        ("ringecho_messages_total{kind=\"binary\"}", 1.0),
        ("ringecho_messages_total{kind=\"ping\"}", 2.0),
        ("ringecho_pongs_received_total", 1.0),
        ("ringecho_slow_readers", 0.0),
        ("ringecho_backlog_bytes", 0.0),
        ("ringecho_ready", 1.0),
    ] {
        assert_eq!(samples.get(name), Some(&expected), "{name}: {samples:#?}");
    }
    assert!(samples["ringecho_received_bytes_total"] > 70_000.0 && samples["ringecho_sent_bytes_total"] > 70_000.0);
    assert!(samples["process_resident_memory_bytes"] > 1e6 && samples["process_cpu_seconds_total"] > 0.0);

    let (_, status) = get(admin, "/status.json");
    assert!(status.contains("\"opened\": 4") && status.contains("\"condition\": \"ready\""), "{status}");
    let exit = server.stop();
    for part in [
        "served 4 connections",
        "1 requests refused",
        "1 health checks and other plain requests answered",
        "1 connections that never sent a byte",
    ] {
        assert!(exit.stdout.contains(part), "{part}\n{exit}");
    }
}

/// A receive that brings a message says that it has brought all: no other one is made to find nothing.
#[test]
fn an_echo_takes_one_receive() {
    const MESSAGES: usize = 500;
    let (server, admin) = start(&["--workers", "1"]);
    let mut peer = server.open();
    for index in 0..MESSAGES {
        peer.expect_echo(BINARY, format!("message {index}"));
    }
    let metrics = metrics(admin);
    assert!((metrics["ringecho_messages_total{kind=\"binary\"}"] - MESSAGES as f64).abs() < 0.5);
    let empty = metrics["ringecho_empty_receives_total"];
    assert!(empty < MESSAGES as f64 / 10.0, "{empty} receives have found nothing");
}

/// Nor behind a TCP urgent mark, as soon as there was no input behind it.
#[test]
fn an_echo_long_after_an_urgent_byte_takes_one_receive() {
    const MESSAGES: usize = 500;
    let (server, admin) = start(&["--workers", "1"]);
    let mut peer = server.open();
    SockRef::from(peer.socket()).send_out_of_band(b"!").expect("room for a byte");
    for index in 0..MESSAGES {
        peer.expect_echo(BINARY, format!("message {index}"));
    }
    let empty = metrics(admin)["ringecho_empty_receives_total"];
    assert!(empty < MESSAGES as f64 / 10.0, "{empty} receives have found nothing");
}

/// An open message holds an inflater, and with it memory, until it ends or its connection does.
#[test]
fn what_is_compressed_is_counted() {
    let (server, admin) = start(&["--workers", "1", "--deflate", "verify"]);
    // "Hello" (RFC 7692, section 7.2.3.1).
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let offer = UPGRADE.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
    let (mut open, mut gone) = (server.connect(), server.connect());
    for peer in [&mut open, &mut gone] {
        peer.send(&offer);
        assert_eq!(peer.read_answer().status, 101);
        peer.takes_compressed = true;
        for opcode in [TEXT, BINARY] {
            peer.send(frame(FIN | 0x40 | opcode, &hello));
            peer.expect_frame(FIN | 0x40 | opcode, hello);
        }
        peer.expect_echo(TEXT, "plain");
    }
    server.open().expect_echo(TEXT, "declines by not asking");
    for peer in [&mut open, &mut gone] {
        peer.send(frame(0x40 | TEXT, &hello));
        peer.expect_frame(0x40 | TEXT, hello);
    }
    common::eventually("memory is held", || metrics(admin)["ringecho_inflation_memory_bytes"] >= 2.0 * 48.0 * 1024.0);
    gone.reset();
    await_metric(admin, "ringecho_connections_open", 1.0);
    assert!((48.0 * 1024.0..96.0 * 1024.0).contains(&metrics(admin)["ringecho_inflation_memory_bytes"]));
    open.send(frame(FIN, b""));
    open.expect_frame(FIN, b"");
    await_metric(admin, "ringecho_inflation_memory_bytes", 0.0);
    let samples = metrics(admin);
    for (name, expected) in [
        ("ringecho_connections_compressed_total", 2.0),
        ("ringecho_compressed_messages_total", 6.0),
        ("ringecho_inflated_bytes_total", 6.0 * 5.0),
        ("ringecho_messages_total{kind=\"text\"}", 6.0),
        ("ringecho_messages_total{kind=\"binary\"}", 2.0),
    ] {
        assert_eq!(samples.get(name), Some(&expected), "{name}: {samples:#?}");
    }
    let (_, status) = get(admin, "/status.json");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let expected = serde_json::json!({ "connections": 2, "messages": 6, "inflated_bytes": 30, "memory_bytes": 0 });
    assert_eq!(status["total"]["compression"], expected);
}

/// With bare TCP, too, a probe that connects and leaves is no connection that was served.
#[test]
fn probes_of_bare_tcp_are_told_apart() {
    let (server, admin) = start(&["--protocol", "tcp"]);
    for _ in 0..3 {
        drop(server.connect());
    }
    let mut peer = server.connect();
    peer.send("x");
    peer.read_exact(&mut [0]);
    drop(peer);
    await_metric(admin, "ringecho_connections_accepted_total", 4.0);
    await_metric(admin, "ringecho_connections_open", 0.0);
    await_metric(admin, "ringecho_connections_silent_total", 3.0);
    let exit = server.stop();
    assert!(exit.stdout.contains("served 1 connections"), "{exit}");
}

#[test]
fn slow_readers_and_their_backlog_are_seen_while_they_are_there() {
    let (server, admin) = start(&["--workers", "1"]);
    let mut slow = server.open();
    let message = frame(FIN | BINARY, &vec![0; 8 << 20]);
    slow.send(&message);
    await_metric(admin, "ringecho_slow_readers", 1.0);
    common::eventually("its backlog is seen", || metrics(admin)["ringecho_backlog_bytes"] > 1e6);
    slow.read_message();
    await_metric(admin, "ringecho_slow_readers", 0.0);
    // The memory of the last send goes with the next turn.
    common::eventually("its backlog is gone", || metrics(admin)["ringecho_backlog_bytes"] < 1000.0);
    slow.expect_echo(TEXT, "in step again");
}

/// An idle client, a half-sent request, and the server's end: each has its cause.
#[test]
fn what_time_ends_is_counted_by_cause() {
    let (server, admin) = start(&["--idle-timeout", "1", "--handshake-timeout", "1"]);
    let mut idle = server.open();
    let mut half = server.connect();
    half.send(&UPGRADE[..20]);
    half.expect_disconnect();
    assert_eq!(idle.read_frame().first_byte, FIN | PING);
    idle.expect_close(1001);
    idle.send(close_frame(1001, b""));
    idle.expect_end();
    await_metric(admin, "ringecho_connections_closed_total{cause=\"idle\"}", 1.0);
    await_metric(admin, "ringecho_connections_closed_total{cause=\"handshake-timeout\"}", 1.0);
    await_metric(admin, "ringecho_close_frames_sent_total{code=\"1001\"}", 1.0);
}

#[test]
fn an_admin_listener_on_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("ringecho-admin-{}.sock", std::process::id()));
    let address = format!("unix:{}", path.display());
    for round in 0..2 {
        let server = Server::start(&["--admin", &address]);
        let stream = UnixStream::connect(&path).unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(exchange(stream, "/healthz").0, 200);
        let health = run_to_end(command(&["health", &address]));
        assert_eq!((health.code, health.stdout.as_str()), (Some(0), "ok\n"), "{health}");
        if round == 0 {
            // What a killed server leaves behind is replaced, and a living one's is not.
            let second = run_to_end(command(&["serve", "--listen", "127.0.0.1:0", "--admin", &address]));
            assert_eq!(second.code, Some(1), "{second}");
            assert!(second.stderr.contains(&address), "{second}");
            server.signal(Signal::KILL);
            server.wait();
            assert!(path.exists(), "nothing to replace");
        } else {
            server.stop();
            assert!(!path.exists(), "left behind after an orderly end");
        }
    }
}

#[test]
fn a_probe_without_a_shell() {
    let (server, admin) = start(&["--max-connections", "1"]);
    let address = admin.to_string();
    let probe = |arguments: &[&str]| run_to_end(command(&[&["health", &address], arguments].concat()));
    assert_eq!(probe(&[]).code, Some(0));
    assert_eq!(probe(&["--ready"]).stdout, "ready\n");
    let _only = server.open();
    let full = probe(&["--ready"]);
    assert_eq!(full.code, Some(1), "{full}");
    assert!(full.stderr.contains("503") && full.stderr.contains("full"), "{full}");
    assert_eq!(probe(&[]).code, Some(0), "a full server is alive");
    server.signal(Signal::KILL);
    server.wait();
    let gone = probe(&[]);
    assert_eq!(gone.code, Some(1), "{gone}");
    assert!(gone.stderr.contains(&address), "{gone}");
}

#[test]
fn clients_that_take_their_time_do_not_keep_others_from_the_admin_listener() {
    let (_server, admin) = start(&[]);
    let slow: Vec<TcpStream> = (0..20).map(|_| connect(admin)).collect();
    for mut stream in &slow {
        stream.write_all(b"GET /metr").expect("it listens");
    }
    assert_eq!(get(admin, "/healthz").0, 200);
}

/// Each client that comes to a full server hears so at once, and may come again.
#[test]
fn a_full_server_turns_clients_away() {
    let (server, admin) = start(&["--workers", "2", "--max-connections", "3"]);
    let mut inside: Vec<Peer> = (0..3).map(|_| server.open()).collect();
    server.await_stderr("all connections are taken: further clients get 503");
    for _ in 0..50 {
        let mut late = server.connect();
        late.send(UPGRADE);
        let answer = late.read_answer();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()), "{answer:?}");
        late.expect_end();
    }
    for peer in &mut inside {
        peer.expect_echo(TEXT, "undisturbed");
    }
    await_metric(admin, "ringecho_connections_turned_away_total", 50.0);
    inside.pop().expect("one of three").reset();
    server.await_stderr("there is room");
    server.open().expect_echo(TEXT, "one more");
    let exit = server.stop();
    assert!(exit.stdout.contains("served 4 connections"), "{exit}");
    assert!(exit.stdout.contains("50 clients turned away"), "{exit}");
}

/// More at once than the doorkeeper sees to at a time, none of which reads or closes.
#[test]
fn a_crowd_at_a_full_server() {
    let server = Server::start(&["--workers", "1", "--max-connections", "1"]);
    let mut only = server.open();
    server.await_stderr("all connections are taken");
    let mut crowd: Vec<Peer> = (0..200).map(|_| server.connect()).collect();
    for peer in &mut crowd {
        let _ = peer.try_send(UPGRADE); // some of them are let go already
    }
    only.expect_echo(TEXT, "undisturbed");
    let mut late = server.connect();
    late.send(UPGRADE);
    assert_eq!(late.read_answer().status, 503);
}

/// A full server of bare TCP has no words: it closes.
#[test]
fn a_full_server_of_bare_tcp() {
    let server = Server::start(&["--protocol", "tcp", "--max-connections", "1"]);
    let mut only = server.connect();
    only.send("in");
    only.read_exact(&mut [0; 2]);
    server.await_stderr("all connections are taken");
    server.connect().expect_disconnect();
}

/// Of listeners of all kinds: what understands an answer gets one, and TLS, which would take a handshake, is closed.
#[test]
fn a_full_server_with_many_doors() {
    let path = std::env::temp_dir().join(format!("ringecho-full-{}.sock", std::process::id()));
    let unix = format!("unix:{}", path.display());
    let doors =
        ["127.0.0.1:0", "127.0.0.1:0?proxy=any", "tls:127.0.0.1:0", &unix].map(|door| ["--listen", door]).concat();
    let server = Server::launch(command(&[&["serve", "--max-connections", "1"], &doors[..]].concat()));
    let mut only = server.open();
    server.await_stderr("all connections are taken");
    let &[_, proxy, tls] = server.addresses() else { panic!("{}", server.start_up_line()) };
    let mut late = Peer::connect(proxy);
    late.send("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n");
    late.send(UPGRADE);
    assert_eq!(late.read_answer().status, 503);
    Peer::connect(tls).expect_disconnect();
    let mut late = UnixStream::connect(&path).expect("it listens");
    late.write_all(UPGRADE.as_bytes()).expect("a new socket has room");
    let mut answer = String::new();
    late.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    only.expect_echo(TEXT, "undisturbed");
}

/// Dead peers give their slots back: the kernel asks those that are silent (`/proc/net/tcp`: timer 2 is keepalive).
#[test]
fn sockets_are_kept_alive_by_default() {
    for (arguments, has_keepalive) in [(&[][..], true), (&["--tcp-keepalive", "0"][..], false)] {
        let server = Server::start(arguments);
        let mut peer = server.open();
        peer.expect_echo(TEXT, "here");
        let remote = format!(":{:04X}", peer.socket().local_addr().expect("bound").port());
        let expected = if has_keepalive { "02:" } else { "00:" };
        // Until the echo is acknowledged, the timer is another one.
        common::eventually(&format!("timer {expected} with {arguments:?}"), || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of sockets");
            let of_server = |line: &&str| line.split_whitespace().nth(2).is_some_and(|it| it.ends_with(&remote));
            let line = table.lines().find(of_server).unwrap_or_else(|| panic!("no socket towards {remote}"));
            line.split_whitespace().nth(5).expect("a timer").starts_with(expected)
        });
    }
}

/// The dashboard asks for what there is.
#[test]
fn the_dashboard_shows_metrics_that_exist() {
    let (_server, admin) = start(&[]);
    let (_, text) = get(admin, "/metrics");
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let dashboard = std::fs::read_to_string(root.join("deploy/grafana.json")).expect("a dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    assert!(asked.len() > 10, "{asked:?}");
    for expression in &asked {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics: Vec<&str> =
            words.filter(|word| word.starts_with("ringecho_") || word.starts_with("process_")).collect();
        assert!(!metrics.is_empty(), "{expression}: no metric");
        for metric in metrics {
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| metric.strip_suffix(end)).unwrap_or(metric);
            assert!(names.contains(&family), "{expression}: there is no {metric}; there are {names:?}");
        }
    }
    let manual = std::fs::read_to_string(root.join("docs/OPERATIONS.md")).expect("a manual");
    for name in names {
        assert!(manual.contains(&format!("`{name}`")), "{name} is not in docs/OPERATIONS.md");
    }
}

fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    serde_json::Value::String(text) if key == "expr" => found.push(text.clone()),
                    value => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}
