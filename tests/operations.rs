//! The program around the server: signals, the log, the service manager, the configuration file, `ringecho doctor`.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::frames::{TEXT, close_frame};
use common::peer::Peer;
use common::server::{Server, command, run_to_end};
use rustix::process::{Pid, Signal, kill_process};

/// A file with this text, which goes with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringecho-{name}-{}.toml", std::process::id()));
        fs::write(&path, text).expect("a writable directory");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

// ----- signals -----

#[test]
fn signals_that_end_the_server_drain_it() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let server = Server::start(&[]);
        let mut peer = server.open();
        server.signal(signal);
        peer.expect_close(1001);
        peer.send(close_frame(1001, b""));
        peer.expect_end();
        assert_eq!(server.wait().code, Some(0), "{signal:?}");
    }
}

#[test]
fn signals_that_do_not_end_it() {
    let server = Server::start(&[]);
    let mut peer = server.open();
    for signal in [Signal::USR1, Signal::USR2, Signal::HUP, Signal::USR1] {
        server.signal(signal);
        peer.expect_echo(TEXT, "still here");
    }
    server.await_stderr("reloaded the log's level: info");
    server.open().expect_echo(TEXT, "a newcomer");
    server.stop();
}

/// Load balancers are told first, and clients are still served while they go elsewhere.
#[test]
fn the_drain_can_be_delayed() {
    let server = Server::start(&["--admin", "127.0.0.1:0", "--drain-delay", "1"]);
    let line = server.start_up_line();
    let admin = line.split_once("admin ").expect("an admin listener").1.to_owned();
    let is_ready = || run_to_end(command(&["health", "--ready", &admin])).code == Some(0);
    assert!(is_ready());
    let mut peer = server.open();
    let told = Instant::now();
    server.signal(Signal::TERM);
    common::eventually("it says that it drains", || !is_ready());
    server.open().expect_echo(TEXT, "a newcomer");
    peer.expect_echo(TEXT, "still served");
    peer.expect_close(1001);
    assert!(told.elapsed() >= Duration::from_secs(1), "closed after {:?}", told.elapsed());
    peer.send(close_frame(1001, b""));
    assert_eq!(server.wait().code, Some(0));
}

/// `docker stop` and Kubernetes kill after 10 s and 30 s.
#[test]
fn the_default_drain_is_shorter_than_what_docker_waits() {
    let server = Server::start(&[]);
    let mut silent = server.open();
    let told = Instant::now();
    server.signal(Signal::TERM);
    silent.expect_close(1001);
    assert_eq!(server.wait().code, Some(0));
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

// ----- the log -----

#[test]
fn lines_have_time_and_level() {
    let server = Server::start(&[]);
    let exit = server.stop();
    let line = exit.stderr.lines().find(|line| line.contains("stopping")).expect("a line");
    assert!(line.starts_with("20") && line.contains("Z  INFO stopping, 0 connections"), "{line}");
}

#[test]
fn lines_can_be_json() {
    let server = Server::start(&["--log-format", "json", "--log-connections"]);
    let mut peer = server.open();
    let address = peer.socket().local_addr().expect("bound").to_string();
    peer.send(close_frame(1000, b""));
    peer.expect_close(1000);
    peer.expect_end();
    server.await_stderr("connection closed");
    let exit = server.stop();
    let lines: Vec<serde_json::Value> =
        exit.stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
    let closed = lines.iter().find(|line| line["message"] == "connection closed").expect("a line");
    assert_eq!((&closed["peer"], &closed["cause"]), (&address.into(), &"peer-close".into()), "{closed}");
    assert!(closed["timestamp"].is_string() && closed["level"] == "INFO" && closed["seconds"].is_number(), "{closed}");
}

#[test]
fn the_level_decides_what_is_said() {
    let server = Server::start(&["--log-level", "error", "--log-connections"]);
    server.open().expect_echo(TEXT, "x");
    let exit = server.stop();
    assert_eq!(exit.stderr, "", "{exit}");
}

/// Thousands of connections that end within moments are no thousands of lines.
#[test]
fn the_connection_log_is_bounded() {
    const CONNECTIONS: usize = 6000;
    let server = Server::start(&["--workers", "1", "--log-connections"]);
    let began = Instant::now();
    for _ in 0..CONNECTIONS {
        drop(server.connect());
    }
    let exit = server.stop();
    let seconds = began.elapsed().as_secs() as usize + 1;
    let lines = exit.stderr.matches("connection closed").count();
    assert!(lines > 0 && lines <= CONNECTIONS.min(1000 * (seconds + 1)), "{lines} lines in {seconds} s");
}

/// A log that is not read: the server serves and ends all the same.
#[test]
fn standard_error_that_takes_nothing() {
    let (unread, full) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&full, true).expect("a pipe can be made non-blocking");
    while rustix::io::write(&full, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&full, false).expect("and blocking again");
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--log-connections"]);
    serve.stdout(Stdio::piped()).stderr(full);
    let mut server = serve.spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("a start-up line");
    let address = line.split(' ').nth(3).and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
    // More than a pipe and the log hold.
    for _ in 0..3000 {
        drop(Peer::connect(address));
    }
    Peer::open(address).expect_echo(TEXT, "served all the same");
    kill_process(Pid::from_child(&server), Signal::TERM).expect("it runs");
    assert_eq!(server.wait().expect("it ends").code(), Some(0));
    drop(unread);
}

// ----- the service manager -----

/// A socket that hears what the service manager is told.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringecho-{name}-{}.sock", std::process::id()));
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a writable directory");
        socket.set_read_timeout(Some(common::PATIENCE)).expect("a socket");
        Self { socket, path }
    }

    /// Reads messages until one has this line.
    fn expect(&self, line: &str) -> String {
        loop {
            let mut buffer = [0; 4096];
            let len = self.socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{line} is not told: {e}"));
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if text.lines().any(|it| it == line) {
                return text;
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn a_service_manager_is_told() {
    let manager = Manager::new("manager");
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0"]);
    serve.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "400000");
    let server = Server::launch(serve);
    let ready = manager.expect("READY=1");
    assert!(ready.contains(&format!("STATUS=listening on {}", server.address())), "{ready}");
    // Idle workers make a turn when they are called.
    manager.expect("WATCHDOG=1");
    manager.expect("WATCHDOG=1");
    manager.expect("WATCHDOG=1");
    server.signal(Signal::HUP);
    assert!(manager.expect("RELOADING=1").contains("MONOTONIC_USEC="));
    manager.expect("READY=1");
    server.signal(Signal::TERM);
    manager.expect("STOPPING=1");
    assert_eq!(server.wait().code, Some(0));
}

// ----- configuration -----

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let file = File::new(
        "order",
        "listen = '127.0.0.1:0'\nmax-connections = 11\nworkers = 3\nmax_message_size = '1KiB'\npath = '/echo'\n",
    );
    let mut serve = command(&["serve", "--config", file.path(), "--max-connections", "33"]);
    serve.env("RINGECHO_MAX_CONNECTIONS", "22").env("RINGECHO_WORKERS", "2");
    let server = Server::launch(serve);
    let line = server.start_up_line();
    assert!(line.contains("capacity 33 connections") && line.contains("2 workers"), "{line}");
    assert!(line.contains("messages up to 1 KiB"), "{line}");
    server.open().expect_echo(TEXT, "at the file's path");

    // The file's place is a variable, too, and no command is needed.
    let mut plain = command(&[]);
    plain.env("RINGECHO_CONFIG", file.path());
    let server = Server::launch(plain);
    assert!(server.start_up_line().contains("capacity 11 connections"), "{}", server.start_up_line());
}

#[test]
fn mistakes_in_the_file_have_their_line() {
    for (text, parts) in [
        ("workers = 1\nmax-conections = 5\n", &[":2: ", "max-connections"][..]),
        ("\n\nidle-timeout = 'soon'\n", &[":3: ", "idle-timeout", "soon"]),
        ("workers = 0\n", &["--workers 0"]),
    ] {
        let file = File::new("mistake", text);
        let exit = run_to_end(command(&["serve", "--listen", "127.0.0.1:0", "--config", file.path()]));
        assert_eq!(exit.code, Some(2), "{exit}");
        for part in parts {
            assert!(exit.stderr.contains(part), "{part:?}\n{exit}");
        }
    }
    let exit = run_to_end(command(&["--config", "/nowhere.toml"]));
    assert_eq!(exit.code, Some(2), "{exit}");
    assert!(exit.stderr.contains("/nowhere.toml"), "{exit}");
}

#[test]
fn what_is_printed_is_a_file_with_the_same_settings() {
    let file = File::new("from", "subprotocol = ['a', 'b']\ndrain-timeout = '3s'\nlog-connections = true\n");
    let arguments = ["serve", "--print-config", "--config", file.path(), "--listen", "127.0.0.1:0", "--workers", "2"];
    let mut print = command(&arguments);
    print.env("RINGECHO_MAX_CONNECTIONS", "77");
    let printed = run_to_end(print);
    assert_eq!(printed.code, Some(0), "{printed}");
    for line in [
        "listen = [\"127.0.0.1:0\"] # --listen",
        "workers = 2 # --workers",
        "max-connections = 77 # RINGECHO_MAX_CONNECTIONS",
        "subprotocol = [\"a\", \"b\"] # file",
        "drain-timeout = \"3s\" # file",
        "log-connections = true # file",
        "handshake-timeout = 10 # default",
        "# path = # not set",
    ] {
        assert!(printed.stdout.contains(line), "{line}\n{printed}");
    }
    let again = File::new("again", &printed.stdout);
    let reprinted = run_to_end(command(&["serve", "--print-config", "--config", again.path()]));
    assert_eq!(reprinted.code, Some(0), "{reprinted}");
    let settings = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split(" # ").next().unwrap().to_owned())
            .collect()
    };
    let engine = |line: &String| !line.starts_with("engine"); // the tests' own variable
    let (one, other) = (settings(&printed.stdout), settings(&reprinted.stdout));
    assert!(one.iter().filter(|it| engine(it)).eq(other.iter().filter(|it| engine(it))), "{one:?}\n{other:?}");
}

/// SIGHUP has the file read again: what can change meanwhile changes, and a bad file changes nothing.
#[test]
fn the_log_level_can_be_changed_while_it_serves() {
    let file = File::new("reload", "listen = '127.0.0.1:0'\nlog-level = 'error'\nlog-connections = true\n");
    let server = Server::launch(command(&["--config", file.path()]));
    let come_and_go = || Peer::open(server.address()).expect_echo(TEXT, "x");
    come_and_go();
    fs::write(&file.0, "log-level = 'loud'\n").expect("writable");
    server.signal(Signal::HUP);
    server.await_stderr("cannot reload the log's level");
    assert!(!server.stderr().contains("connection closed"), "{}", server.output());
    fs::write(&file.0, "log-level = 'info'\n").expect("writable");
    server.signal(Signal::HUP);
    server.await_stderr("reloaded the log's level: info");
    come_and_go();
    server.await_stderr("connection closed");
    server.stop();
}

// ----- what the machine holds -----

#[test]
fn the_doctor_says_what_fits() {
    let some = run_to_end(command(&["doctor", "--connections", "10"]));
    assert_eq!(some.code, Some(0), "{some}");
    assert!(some.stdout.contains("10 connections fit"), "{some}");
    let too_many = run_to_end(command(&["doctor", "--connections", "1000000000000", "--json"]));
    assert_eq!(too_many.code, Some(1), "{too_many}");
    let report: serde_json::Value = serde_json::from_str(&too_many.stdout).expect("JSON");
    assert_eq!((&report["fits"], &report["wanted"]), (&false.into(), &1_000_000_000_000_u64.into()), "{report}");
    let checks = report["checks"].as_array().expect("a list");
    for name in ["descriptors", "memory", "kernel", "processors", "sandbox"] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"));
        assert!(check["found"].as_str().is_some_and(|found| !found.is_empty()), "{check}");
    }
    let short = checks.iter().filter(|check| check["state"] == "short").count();
    assert!(short > 0 && report["limited_by"].is_string(), "{report}");
}

/// It judges by the limits that it is started with.
#[test]
fn the_doctor_knows_the_limit_on_descriptors() {
    let mut doctor = command(&["doctor", "--connections", "100000", "--json"]);
    common::server::limit_descriptors(&mut doctor, 100);
    let exit = run_to_end(doctor);
    let report: serde_json::Value = serde_json::from_str(&exit.stdout).expect("JSON");
    assert_eq!((exit.code, &report["limited_by"]), (Some(1), &"descriptors".into()), "{exit}");
    assert!(exit.stdout.contains("ulimit -Hn"), "{exit}");
}
