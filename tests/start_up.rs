//! The command line: what it accepts, what it prints, and how a start that cannot succeed ends.

mod common;

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity};

use common::frames::{BINARY, FIN, TEXT, frame};
use common::peer::{Peer, UPGRADE};
use common::sandbox::forbid;
use common::server::{Exit, Server, command, engine, limit_descriptors, run_to_end, tungstenite_client};

const BAD_ARGUMENTS: i32 = 2;
const FAILURE: i32 = 1;

fn run(arguments: &[&str]) -> Exit {
    run_to_end(command(arguments))
}

#[test]
fn the_start_up_line() {
    let server = Server::start(&["--workers", "1", "--max-connections", "123"]);
    let line = server.start_up_line();
    let address = server.address();
    assert!(line.starts_with(&format!("ringecho listening on {address}")), "{line}");
    assert!(address.port() != 0, "{line}");
    assert!(line.contains("123"), "the capacity is missing: {line}");
    assert!(line.contains("1 worker"), "the number of workers is missing: {line}");
    assert!(["uring", "epoll"].iter().any(|engine| line.contains(engine)), "the engine is missing: {line}");
}

#[test]
fn serve_is_what_the_plain_command_does() {
    let server = Server::launch(command(&["--listen", "127.0.0.1:0"]));
    server.open().expect_echo(TEXT, "plain");
}

#[test]
fn two_listeners() {
    let server = Server::start(&["--listen", "127.0.0.1:0"]);
    let addresses = server.addresses();
    assert_eq!(addresses.len(), 2, "{}", server.start_up_line());
    assert_ne!(addresses[0], addresses[1]);
    for address in addresses {
        // More than there are workers, so that each has its share of each listener.
        let mut peers: Vec<Peer> = (0..20).map(|_| Peer::open(*address)).collect();
        for peer in &mut peers {
            peer.expect_echo(TEXT, "on both");
        }
    }
    server.stop();
}

#[test]
fn more_listeners_than_workers() {
    let listeners = ["--listen", "127.0.0.1:0"].repeat(5);
    let server = Server::launch(command(&[&["serve", "--workers", "1"], &listeners[..]].concat()));
    // Some of one's are on their way while the other's wait.
    let mut peers: Vec<Peer> =
        server.addresses().iter().cycle().take(100).map(|&address| Peer::open(address)).collect();
    for peer in &mut peers {
        peer.expect_echo(TEXT, "on each");
    }
    server.stop();
}

#[test]
fn ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6 loopback: nothing to test");
        return;
    }
    let server = Server::launch(command(&["serve", "--listen", "[::1]:0", "--listen", "127.0.0.1:0"]));
    let addresses = server.addresses();
    assert!(matches!(addresses, [SocketAddr::V6(_), SocketAddr::V4(_)]), "{addresses:?}");
    for address in addresses {
        Peer::open(*address).expect_echo(TEXT, "either way");
        let mut client = tungstenite_client(*address);
        client.send("either way".into()).expect("sent");
        assert_eq!(client.read().expect("an echo"), "either way".into());
    }
}

#[test]
fn environment_variables() {
    let mut from_environment = command(&[]);
    from_environment.env("RINGECHO_LISTEN", "127.0.0.1:0");
    from_environment.env("RINGECHO_MAX_MESSAGE_SIZE", "10");
    from_environment.env("RINGECHO_MAX_CONNECTIONS", "77");
    let server = Server::launch(from_environment);
    assert!(server.start_up_line().contains("77"), "{}", server.start_up_line());
    let mut peer = server.open();
    peer.expect_echo(BINARY, [0; 10]);
    peer.send(frame(FIN | BINARY, &[0; 11]));
    peer.expect_close(1009);
}

/// As config maps and shell scripts write them.
#[test]
fn untidy_environment_variables_mean_what_they_seem_to() {
    let mut untidy = command(&["serve"]);
    untidy.env("RINGECHO_LISTEN", "127.0.0.1:0, 127.0.0.1:0,\n");
    untidy.env("RINGECHO_MAX_CONNECTIONS", "77\n");
    untidy.env("RINGECHO_WORKERS", "");
    untidy.env("RINGECHO_MAX_MESSAGE_SIZE", "");
    untidy.env("RINGECHO_IPV6_ONLY", " ");
    untidy.env("RINGECHO_SUBPROTOCOL", "");
    let server = Server::launch(untidy);
    assert!(server.start_up_line().contains("77"), "{}", server.start_up_line());
    assert_eq!(server.addresses().len(), 2);
    server.open().expect_echo(BINARY, [0; 20]);

    let mut both = command(&["serve", "--listen", "127.0.0.1:0", "--max-message-size", "20"]);
    both.env("RINGECHO_MAX_MESSAGE_SIZE", "10 ");
    Server::launch(both).open().expect_echo(BINARY, [0; 20]);
}

#[test]
fn flags_win_over_environment_variables() {
    let mut both = command(&["serve", "--listen", "127.0.0.1:0", "--max-message-size", "20"]);
    both.env("RINGECHO_MAX_MESSAGE_SIZE", "10");
    let server = Server::launch(both);
    server.open().expect_echo(BINARY, [0; 20]);
}

#[test]
fn sizes_may_have_suffixes() {
    for (given, bytes) in [("2048", 2048), ("2KiB", 2048), ("2kb", 2000)] {
        let server = Server::start(&["--max-message-size", given]);
        let mut peer = server.open();
        peer.expect_echo(BINARY, vec![0; bytes]);
        peer.send(frame(FIN | BINARY, &vec![0; bytes + 1]));
        peer.expect_close(1009);
    }
}

#[test]
fn help_and_version() {
    let version = run(&["--version"]);
    assert_eq!(version.code, Some(0), "{version}");
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let help = run(&["serve", "--help"]);
    assert_eq!(help.code, Some(0), "{help}");
    for flag in [
        "--listen",
        "--workers",
        "--max-connections",
        "--cpus",
        "--max-message-size",
        "--handshake-timeout",
        "--idle-timeout",
        "--stall-timeout",
        "--backlog-per-connection",
        "--backlog-total",
        "--drain-timeout",
        "--protocol",
        "--engine",
        "--subprotocol",
    ] {
        assert!(help.stdout.contains(flag), "{flag} is not explained\n{help}");
        let variable = format!("RINGECHO_{}", flag[2..].replace('-', "_").to_uppercase());
        assert!(help.stdout.contains(&variable), "{variable} is not named\n{help}");
    }
}

#[test]
fn bad_arguments() {
    let cases: &[(&[&str], &str)] = &[
        (&["--no-such-flag"], "--no-such-flag"),
        (&["no-such-command"], "no-such-command"),
        (&["serve", "--listen", "nonsense"], "--listen"),
        (&["serve", "--listen", "127.0.0.1:65536"], "--listen"),
        (&["serve", "--workers", "0"], "--workers"),
        (&["serve", "--workers", "many"], "--workers"),
        (&["serve", "--cpus", "no"], "--cpus"),
        (&["serve", "--cpus", "9999"], "--cpus"),
        (&["serve", "--max-connections", "0"], "--max-connections"),
        (&["serve", "--max-connections=-1"], "--max-connections"),
        (&["serve", "--max-message-size", "12 parsecs"], "--max-message-size"),
        (&["serve", "--max-message-size", "99999999999999999999"], "--max-message-size"),
        (&["serve", "--handshake-timeout", "soon"], "--handshake-timeout"),
        (&["serve", "--handshake-timeout=-1"], "--handshake-timeout"),
        (&["serve", "--idle-timeout", "NaN"], "--idle-timeout"),
        (&["serve", "--idle-timeout", "inf"], "--idle-timeout"),
        (&["serve", "--drain-timeout", ""], "--drain-timeout"),
        (&["serve", "--protocol", "carrier-pigeon"], "--protocol"),
        (&["serve", "--engine", "steam"], "--engine"),
        (&["serve", "--subprotocol", "not a token"], "--subprotocol"),
        (&["serve", "--subprotocol", ""], "--subprotocol"),
    ];
    for (arguments, named) in cases {
        let exit = run(arguments);
        assert_eq!(exit.code, Some(BAD_ARGUMENTS), "{arguments:?}\n{exit}");
        assert!(exit.stderr.contains(named), "{arguments:?}: {named} is not named\n{exit}");
        assert_eq!(exit.stdout, "", "{arguments:?}");
    }
}

#[test]
fn bad_environment_variable() {
    let mut bad = command(&["serve", "--listen", "127.0.0.1:0"]);
    bad.env("RINGECHO_MAX_CONNECTIONS", "lots");
    let exit = run_to_end(bad);
    assert_eq!(exit.code, Some(BAD_ARGUMENTS), "{exit}");
    assert!(exit.stderr.contains("lots") && exit.stderr.contains("RINGECHO_MAX_CONNECTIONS"), "{exit}");
}

fn assert_refused(address: SocketAddr) {
    let exit = run(&["serve", "--listen", &address.to_string()]);
    assert_eq!(exit.code, Some(FAILURE), "{exit}");
    assert!(exit.stderr.contains(&address.to_string()), "the address is not named\n{exit}");
    assert!(exit.stderr.contains("in use"), "the cause is not named\n{exit}");
    assert!(exit.stderr.contains("--listen"), "the remedy is not named\n{exit}");
    assert_eq!(exit.stdout, "", "a start-up line of a server that did not start");
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    assert_refused(taken.local_addr().expect("bound"));
}

/// Even by another ringecho: two servers that share a port would each get a part of the clients.
#[test]
fn a_port_that_another_server_has() {
    let server = Server::start(&[]);
    assert_refused(server.address());
    server.open().expect_echo(TEXT, "undisturbed");
}

/// One of them takes the port from the other: that is an error in the arguments, and no reason to wait for a server that
/// was killed.
#[test]
fn listeners_that_overlap() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let exit = run(&["serve", "--listen", &format!("0.0.0.0:{},{free}", free.port())]);
    assert_eq!(exit.code, Some(BAD_ARGUMENTS), "{exit}");
    assert!(exit.stderr.contains(&free.to_string()) && !exit.stderr.contains("killed server"), "{exit}");
}

#[test]
fn an_address_of_another_machine() {
    // TEST-NET-1 (RFC 5737): no machine has it.
    let exit = run(&["serve", "--listen", "192.0.2.1:9001"]);
    assert_eq!(exit.code, Some(FAILURE), "{exit}");
    assert!(exit.stderr.contains("192.0.2.1:9001"), "{exit}");
}

#[test]
fn one_listener_of_two_that_fails() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound").to_string();
    let exit = run(&["serve", "--listen", "127.0.0.1:0", "--listen", &taken]);
    assert_eq!(exit.code, Some(FAILURE), "{exit}");
    assert!(exit.stderr.contains(&taken), "{exit}");
}

#[test]
fn bare_tcp_echoes_any_bytes() {
    let server = Server::start(&["--protocol", "tcp"]);
    let mut peer = server.connect();
    let bytes = [UPGRADE.as_bytes(), &frame(FIN | TEXT, b"as it is"), &[0, 0xff, 0x88, 0x00]].concat();
    peer.send(&bytes);
    let mut echo = vec![0; bytes.len()];
    peer.read_exact(&mut echo);
    assert!(echo == bytes, "{echo:02x?}");
    peer.send(b"and its end");
    peer.shut_down_sending();
    assert_eq!(peer.read_to_end().expect("an orderly end"), b"and its end");
}

#[test]
fn bare_tcp_has_no_handshake_timeout() {
    let server = Server::start(&["--protocol", "tcp", "--handshake-timeout", "0.1"]);
    let mut silent = server.connect();
    // Something else takes longer than the timeout would.
    let websocket = Server::start(&["--handshake-timeout", "0.3"]);
    websocket.connect().expect_disconnect();
    silent.send(b"hello");
    silent.read_exact(&mut [0; 5]);
}

/// Sandboxes refuse the call with which a thread gets a descriptor table of its own.
#[test]
fn without_descriptor_tables_of_their_own_workers_share_one() {
    if engine() == "auto" || engine() == "uring" {
        eprintln!("the native engine has the tables of its rings: nothing to test");
        return;
    }
    for error in [libc::EPERM, libc::ENOSYS] {
        let mut sandboxed = command(&["serve", "--listen", "127.0.0.1:0", "--workers", "2"]);
        forbid(&mut sandboxed, &[libc::SYS_close_range], error);
        let server = Server::launch(sandboxed);
        assert!(server.start_up_line().contains("one table"), "{}", server.start_up_line());
        let mut peers: Vec<Peer> = (0..20).map(|_| server.open()).collect();
        for peer in &mut peers {
            peer.expect_echo(TEXT, "in one table");
        }
        drop(peers);
        let exit = server.stop();
        assert!(exit.stderr.contains("close_range is refused"), "{exit}");
    }
}

#[test]
fn workers_that_cannot_be_pinned_serve() {
    for error in [libc::EPERM, libc::EINVAL] {
        let mut sandboxed = command(&["serve", "--listen", "127.0.0.1:0"]);
        forbid(&mut sandboxed, &[libc::SYS_sched_setaffinity], error);
        let server = Server::launch(sandboxed);
        server.open().expect_echo(TEXT, "wherever it runs");
        let exit = server.stop();
        assert_eq!(exit.stderr.matches("cannot pin").count(), 1, "{exit}");
    }
}

/// Whether this process, and so the server that it starts, may run on so many.
fn has_cpus(count: u32) -> bool {
    sched_getaffinity(None).expect("an affinity mask").count() >= count
}

/// Several servers with a worker each would all sit on the first CPU.
#[test]
fn fewer_workers_than_cpus_are_not_pinned() {
    if !has_cpus(2) {
        eprintln!("NOT TESTED: this takes two CPUs");
        return;
    }
    let server = Server::start(&["--workers", "1"]);
    assert!(server.start_up_line().contains("1 worker on any of "), "{}", server.start_up_line());
    let every = allowed_cpus(&fs::read_to_string("/proc/self/status").expect("procfs"));
    assert_eq!(workers_cpus(&server), [every]);
}

/// The CPUs that each worker may run on, as the kernel lists them.
fn workers_cpus(server: &Server) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("it runs");
    let status = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default());
    let workers = status.filter(|status| status.starts_with("Name:\tworker"));
    workers.map(|status| allowed_cpus(&status)).collect()
}

fn allowed_cpus(status: &str) -> String {
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).expect("a list").to_owned()
}

#[test]
fn the_cpus_to_run_on() {
    let usable = sched_getaffinity(None).expect("an affinity mask");
    let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| usable.is_set(cpu)).expect("a CPU");
    let server = Server::start(&["--cpus", &last.to_string(), "--workers", "2"]);
    assert!(server.start_up_line().contains("2 workers on 1 CPU (--cpus)"), "{}", server.start_up_line());
    assert_eq!(workers_cpus(&server), [last.to_string(), last.to_string()]);
}

/// Its output is not read: it serves all the same.
#[test]
fn standard_output_that_takes_nothing() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("a device").into();
    let broken = || Stdio::from(std::io::pipe().expect("a pipe").1);
    for output in [full(), broken(), full_pipe()] {
        let mut silent = command(&["serve", "--listen", "127.0.0.1:0"]);
        silent.stdout(output).stderr(Stdio::piped());
        let mut server = Killed(silent.spawn().expect("it starts"));
        let mut line = String::new();
        let mut stderr = BufReader::new(server.0.stderr.take().expect("piped"));
        while !line.contains("start-up line cannot be printed") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).expect("text"), 0, "it has ended");
        }
        let address =
            line.split_once("listening on ").and_then(|(_, rest)| rest.split(';').next()).expect("an address");
        Peer::open(address.parse().expect("an address")).expect_echo(TEXT, "served all the same");
        kill_process(Pid::from_child(&server.0), Signal::TERM).expect("it runs");
        assert_eq!(server.0.wait().expect("it ends").code(), Some(0));
    }
}

/// A process that does not outlive the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pipe that nothing fits into any more, and whose other end stays open as long as the test runs.
fn full_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("a pipe can be made non-blocking");
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("and blocking again");
    std::mem::forget(reader);
    writer.into()
}

#[test]
fn fewer_descriptors_than_it_needs_at_all() {
    let mut few = command(&["serve", "--listen", "127.0.0.1:0"]);
    limit_descriptors(&mut few, 64);
    let exit = run_to_end(few);
    assert_eq!(exit.code, Some(BAD_ARGUMENTS), "{exit}");
    assert!(exit.stderr.contains("RLIMIT_NOFILE is 64") && !exit.stderr.contains("--max-connections"), "{exit}");
}

/// What a control group grants decides how much slow readers may cost, and how many workers there are.
#[test]
fn a_control_group_bounds_backlog_and_workers() {
    let limits = [
        ("memory", "memory.limit_in_bytes", "memory.max", "67108864"),
        ("cpu", "cpu.cfs_quota_us", "cpu.max", "100000"),
    ];
    let groups: Vec<_> =
        limits.into_iter().filter_map(|(name, v1, v2, value)| Group::new(name, v1, v2, value)).collect();
    if groups.len() < limits.len() {
        eprintln!("NOT TESTED: a control group with limits takes root, and its controllers");
        return;
    }
    let mut bounded = command(&["serve", "--listen", "127.0.0.1:0"]);
    let files: Vec<PathBuf> = groups.iter().map(|group| group.0.join("cgroup.procs")).collect();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: this opens, writes and closes files, whose
    // short paths the standard library turns into C strings on the stack.
    unsafe {
        bounded.pre_exec(move || files.iter().try_for_each(|file| fs::write(file, "0")));
    }
    let server = Server::launch(bounded);
    let line = server.start_up_line();
    assert!(line.contains("16 MiB in all (a quarter of 64 MiB: cgroup memory."), "{line}");
    assert!(line.contains("| 1 worker on ") && (line.contains("CPU quota 1.00") || !has_cpus(2)), "{line}");
    server.open().expect_echo(TEXT, "bounded");
    server.stop();
}

/// A control group that goes with the test.
struct Group(PathBuf);

impl Group {
    fn new(controller: &str, v1: &str, v2: &str, value: &str) -> Option<Self> {
        let name = format!("ringecho-test-{}", std::process::id());
        let of_v1 = PathBuf::from(format!("/sys/fs/cgroup/{controller}/{name}"));
        let (directory, file) =
            if of_v1.parent()?.is_dir() { (of_v1, v1) } else { (PathBuf::from("/sys/fs/cgroup").join(name), v2) };
        if !directory.is_dir() {
            fs::create_dir(&directory).ok()?;
        }
        let group = Self(directory);
        fs::write(group.0.join(file), value).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The server is gone; that its tasks are, the kernel may notice a moment later.
        let until = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err_and(|e| e.kind() != ErrorKind::NotFound) && Instant::now() < until {
            thread::yield_now();
        }
    }
}
