//! Descriptors, slots and memory run out: a clear refusal or a clear line, existing connections unharmed, and recovery
//! when it is over. (`tests/limits.rs` has the full table, `tests/start_up.rs` what cannot be followed at all.)

mod common;

use std::os::unix::process::CommandExt;
use std::process::Command;

use common::MIB;
use common::frames::TEXT;
use common::peer::{Peer, UPGRADE};
use common::server::{Exit, Server, command, engine, limit_descriptors, run_to_end};
use rustix::process::{Pid, Resource, Rlimit, prlimit, setrlimit};

/// The user nobody: what it may lock in memory is limited.
const NOBODY: u32 = 65_534;

fn serve(arguments: &[&str]) -> Command {
    command(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat())
}

fn limit(command: &mut Command, resource: Resource, limit: u64) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed, and setrlimit is a bare system call.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?));
    }
}

/// It has said what is wrong, and it has ended by itself.
fn assert_refused(what: &str, exit: &Exit) {
    assert!(matches!(exit.code, Some(1 | 2)), "{what}: ended by a signal, or not with a refusal\n{exit}");
    assert!(exit.stderr.contains("ringecho: "), "{what}: no word of its own\n{exit}");
    assert!(!exit.stderr.contains("panicked"), "{what}\n{exit}");
    assert_eq!(exit.stdout, "", "{what}: the start-up line of a server that did not start");
}

/// From so few that not even a library can be loaded, to enough.
#[test]
fn a_start_with_few_descriptors() {
    for descriptors in [8, 12, 16, 20, 30, 60] {
        let mut command = serve(&["--workers", "2"]);
        limit_descriptors(&mut command, descriptors);
        let exit = run_to_end(command);
        assert_refused(&format!("{descriptors} descriptors"), &exit);
        assert!(
            exit.stderr.contains("RLIMIT_NOFILE") || exit.stderr.contains("ulimit"),
            "the remedy is missing\n{exit}"
        );
    }
    let mut command = serve(&["--workers", "2"]);
    limit_descriptors(&mut command, 80);
    Server::launch(command).open().expect_echo(TEXT, "enough");
}

/// Whatever the limit on its address space is, it starts or says why it does not. (With too little even for that, the
/// allocator says it, and ends the process.)
#[test]
fn a_start_with_little_memory() {
    let mut refused = 0;
    for mib in [8, 12, 16, 20, 24, 28, 32, 64] {
        let mut command = serve(&["--workers", "2"]);
        limit(&mut command, Resource::As, mib * MIB as u64);
        let Err(exit) = Server::try_launch(command) else { continue };
        assert_eq!(exit.stdout, "", "{mib} MiB");
        let says_why = ["memory allocation of", "Cannot allocate memory", "cannot start a thread", "shared libraries"];
        assert!(says_why.iter().any(|why| exit.stderr.contains(why)), "{mib} MiB\n{exit}");
        refused += 1;
    }
    assert!((1..8).contains(&refused), "{refused} of 8 limits were too low");
}

/// The memory of rings is locked memory, which is limited for everybody but root.
#[test]
fn a_start_without_lockable_memory() {
    if engine() == "epoll" || !rustix::process::getuid().is_root() {
        eprintln!("not root, whose limits can be lowered for another user, or no rings: nothing to test");
        return;
    }
    let mut command = serve(&["--workers", "2", "--engine", "uring"]);
    command.uid(NOBODY).gid(NOBODY);
    limit(&mut command, Resource::Memlock, 0);
    let exit = run_to_end(command);
    assert_refused("no memory to lock", &exit);
    assert!(exit.stderr.contains("RLIMIT_MEMLOCK"), "the remedy is missing\n{exit}");
}

/// A limit that is lowered while it runs: nobody who is there is harmed, and whoever comes is served in the end.
#[test]
fn descriptors_run_out_and_come_back() {
    let server = Server::start(&["--workers", "2"]);
    let mut inside: Vec<Peer> = (0..20).map(|_| server.open()).collect();
    let pid = Pid::from_raw(server.pid() as i32).expect("a process");
    let none = Rlimit { current: Some(3), maximum: Some(20_000) };
    let before = prlimit(Some(pid), Resource::Nofile, none).expect("a process of our own");

    let mut coming: Vec<Peer> = (0..5).map(|_| server.connect()).collect();
    for peer in &mut coming {
        peer.send(UPGRADE);
    }
    if engine() == "auto" {
        // Direct descriptors are not among those that are limited.
        coming.iter_mut().for_each(Peer::expect_upgrade);
    } else {
        server.await_stderr("cannot accept connections");
    }
    for peer in &mut inside {
        peer.expect_echo(TEXT, "unharmed");
    }
    prlimit(Some(pid), Resource::Nofile, before).expect("a process of our own");
    if engine() != "auto" {
        coming.iter_mut().for_each(Peer::expect_upgrade);
        server.await_stderr("accepting connections again");
    }
    for peer in inside.iter_mut().chain(&mut coming) {
        peer.expect_echo(TEXT, "as before");
    }
    server.stop();
}

/// The full table says so, once, and that there is room again.
#[test]
fn a_full_table_is_reported() {
    let server = Server::start(&["--max-connections", "5"]);
    let mut inside: Vec<Peer> = (0..5).map(|_| server.open()).collect();
    server.await_stderr("all connections are taken");
    inside.pop().expect("one of five").reset();
    server.await_stderr("there is room");
    // Coming and going at the limit is not worth a line each time.
    for _ in 0..20 {
        let mut next = server.open();
        next.expect_echo(TEXT, "the fifth");
        next.reset();
    }
    let exit = server.stop();
    assert_eq!(exit.stderr.matches("all connections are taken").count(), 1, "{exit}");
}

/// Peers that do not read may take what `--backlog-total` says, and a limit on memory that leaves room for it is never
/// reached.
#[test]
fn memory_that_is_limited_and_the_backlog_that_fits() {
    const TOTAL: u64 = 32 * MIB as u64;
    const PEERS: u64 = 60;
    // Address space is more than memory: the allocator reserves in advance.
    let mut command = serve(&["--workers", "2", "--max-connections", "200", "--backlog-total", "32MiB"]);
    limit(&mut command, Resource::As, 4096 * MIB as u64);
    let server = Server::launch(command);
    let before = server.resident_bytes();
    let mut deaf: Vec<Peer> = (0..PEERS).map(|_| server.open()).collect();
    let flood = common::frames::frame(common::frames::FIN | common::frames::BINARY, &vec![7; MIB]);
    for peer in &mut deaf {
        peer.socket().set_nonblocking(true).expect("a TCP socket");
    }
    // Until nobody takes anything any more: the server has stopped reading all of them.
    common::eventually("nothing more is taken", || {
        let mut has_sent = false;
        for peer in &mut deaf {
            has_sent |= std::io::Write::write(&mut peer.socket(), &flood).is_ok();
        }
        !has_sent
    });
    server.open().expect_echo(TEXT, "a newcomer");
    let grown = server.resident_bytes().saturating_sub(before);
    // What the first message of each has brought before it was known not to read may come on top.
    let at_most = TOTAL + PEERS * MIB as u64;
    assert!(grown < at_most, "{grown} bytes for a backlog of {TOTAL} at most");
    drop(deaf);
    server.open().expect_echo(TEXT, "when they are gone");
    server.stop();
}
