//! Out of descriptors, slots or memory: a clear refusal or message, unharmed existing connections, and recovery when it is
//! over. (`tests/limits.rs` has the full table, `tests/start_up.rs` settings that cannot be satisfied.)

mod common;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::frames::{BINARY, FIN, TEXT, frame};
use common::peer::{Peer, UPGRADE};
use common::sandbox::Injection;
use common::server::{Exit, Server, command, engine, limit_descriptors, run_to_end};
use common::{MIB, pattern};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The user nobody: what it may lock in memory is limited.
const NOBODY: u32 = 65_534;

fn serve(arguments: &[&str]) -> Command {
    command(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat())
}

fn limit(command: &mut Command, resource: Resource, limit: u64) {
    set_limits(command, resource, Rlimit { current: Some(limit), maximum: Some(limit) });
}

fn set_limits(command: &mut Command, resource: Resource, limits: Rlimit) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed, and setrlimit is a bare system call.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(resource, limits)?));
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
        let says_why = [
            "memory allocation of",
            "Cannot allocate memory",
            "out of memory",
            "cannot start a thread",
            "shared libraries",
        ];
        assert!(says_why.iter().any(|why| exit.stderr.contains(why)), "{mib} MiB\n{exit}");
        refused += 1;
    }
    assert!((1..8).contains(&refused), "{refused} of 8 limits were too low");
}

/// A soft limit (`ulimit -S -v`) is the one that allocations fail at.
#[test]
fn a_soft_limit_on_the_address_space_counts() {
    let mut command = serve(&["--workers", "2"]);
    let maximum = getrlimit(Resource::As).maximum;
    set_limits(&mut command, Resource::As, Rlimit { current: Some(ADDRESS_SPACE), maximum });
    let server = Server::launch(command);
    let line = server.start_up_line();
    assert!(line.contains("a quarter of 256 MiB: RLIMIT_AS"), "{line}");
    server.stop();
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

/// A limit that is lowered while the server runs: connected clients are not affected, and further ones are served in the end.
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
    let server = Server::start(&["--max-connections", "5", "--when-full", "wait"]);
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

/// The address space of a server whose peers do not read: what it needs for the backlog below, with room for what the
/// allocator adds.
const ADDRESS_SPACE: u64 = 256 * MIB as u64;
const DEAF: u64 = 60;

/// Peers that send without a pause and read nothing, until `is_enough`, which is told whether any of them could still send.
fn flood(server: &Server, is_enough: impl Fn(bool) -> bool) -> Vec<Peer> {
    let message = frame(FIN | BINARY, &vec![7; MIB]);
    let deaf: Vec<Peer> = (0..DEAF).map(|_| server.open()).collect();
    for peer in &deaf {
        peer.socket().set_nonblocking(true).expect("a TCP socket");
    }
    // How much of the current message each has sent: what follows a part of one must be the rest of it.
    let mut sent = vec![0; deaf.len()];
    common::eventually("so much has been sent", || {
        // All of them: each has its own room to fill.
        let mut goes_on = false;
        for (peer, sent) in deaf.iter().zip(&mut sent) {
            if let Ok(len) = peer.socket().write(&message[*sent..]) {
                *sent = (*sent + len) % message.len();
                goes_on = true;
            }
        }
        is_enough(goes_on)
    });
    deaf
}

/// With as much memory as `--backlog-total` needs: peers that do not read fill it, others come until the table is full and
/// beyond, and connected clients are not affected. When they are gone the server serves again, and it can happen again.
#[test]
fn memory_is_short_and_comes_back() {
    const TOTAL: u64 = 32 * MIB as u64;
    let capacity = (20 + DEAF + 20).to_string();
    let mut command =
        serve(&["--workers", "2", "--max-connections", &capacity, "--backlog-total", "32MiB", "--when-full", "wait"]);
    limit(&mut command, Resource::As, ADDRESS_SPACE);
    let server = Server::launch(command);
    let before = server.resident_bytes();
    let mut inside: Vec<Peer> = (0..20).map(|_| server.open()).collect();
    for _ in 0..2 {
        let grown = || server.resident_bytes().saturating_sub(before);
        let deaf = flood(&server, |goes_on| !goes_on && grown() > TOTAL / 2);
        let mut coming: Vec<Peer> = (0..20).map(|_| server.open()).collect();
        server.await_stderr("all connections are taken");
        let mut waiting: Vec<Peer> = (0..20).map(|_| server.connect()).collect();
        for peer in &mut waiting {
            peer.send(UPGRADE);
        }
        for peer in inside.iter_mut().chain(&mut coming) {
            peer.expect_echo(TEXT, "unharmed");
        }
        assert!(waiting.iter().all(Peer::is_silent), "served without room");
        // What the first message of each has brought before it was known not to read may come on top.
        let at_most = TOTAL + DEAF * MIB as u64;
        assert!(grown() < at_most, "{} bytes for a backlog of {TOTAL} at most", grown());

        drop(deaf);
        for peer in &mut waiting {
            peer.expect_upgrade();
            peer.expect_echo(TEXT, "when they are gone");
        }
    }
    drop(inside);
    server.stop();
}

/// With less memory than `--backlog-total` may take: no half-working state, but an end with a word.
#[test]
fn memory_that_does_not_suffice() {
    let mut command = serve(&["--workers", "2", "--backlog-total", "1GiB"]);
    limit(&mut command, Resource::As, ADDRESS_SPACE);
    let server = Server::launch(command);
    flood(&server, |_| server.has_ended());
    let exit = server.wait();
    assert_eq!(exit.code, None, "it ends with SIGABRT\n{exit}");
    assert!(exit.stderr.contains("memory allocation of"), "{exit}");
}

/// A kernel that is short of memory refuses a send (ENOBUFS, ENOMEM) although the socket has room: no event need come when
/// it has memory again, so the send has to be tried again. Only the epoll engine sends with system calls of its own.
#[test]
fn a_send_without_memory_is_tried_again() {
    if engine() != "epoll" {
        eprintln!("NOT TESTED: strace(1) cannot have the sends of a ring fail");
        return;
    }
    for error in ["ENOBUFS", "ENOMEM"] {
        let command = serve(&["--workers", "1"]);
        let rule = format!("error={error}:when=4+7");
        let Some((injection, command)) = Injection::into(&command, "sendto,sendmsg,writev", &rule) else { return };
        let server = Server::launch(command);
        let mut peer = server.open();
        for round in 0..30 {
            // Nothing else happens on this connection, nor on another one.
            peer.expect_echo(BINARY, pattern(round, 1000));
        }
        assert!(injection.count() >= 3, "{error}: {} sends have failed", injection.count());
        drop(peer);
        server.stop();
    }
}

/// A socket that the epoll set does not take (ENOSPC: `fs.epoll.max_user_watches`; ENOMEM) gets no events, and is closed.
#[test]
fn a_client_that_the_epoll_set_does_not_take_is_reported() {
    if engine() != "epoll" {
        eprintln!("NOT TESTED: only the epoll engine has such a set");
        return;
    }
    // The first two calls of a worker are for its eventfd and its listener.
    let rule = "error=ENOSPC:when=3";
    let Some((injection, command)) = Injection::into(&serve(&["--workers", "1"]), "epoll_ctl", rule) else { return };
    let server = Server::launch(command);
    server.connect().expect_disconnect();
    server.await_stderr("cannot accept connections");
    server.open().expect_echo(TEXT, "the next one");
    server.await_stderr("accepting connections again");
    assert_eq!(injection.count(), 1);
    server.stop();
}
