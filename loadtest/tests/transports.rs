//! The transport for machines that forbid `io_uring` does what the ring does.

mod runner;
mod server;

use std::os::unix::process::CommandExt;
use std::process::Command;

use runner::{run, run_any, run_to_end};
use server::{Behaviour, FAULTS, start, start_at_path, start_tls};

const EPOLL: [&str; 2] = ["--transport", "epoll"];

#[test]
fn good_echoes_of_all_sizes_and_depths_are_good_through_epoll() {
    let address = start(Behaviour::Echo);
    for args in [
        &["--size", "0"][..],
        &["--size", "1-300", "--depth", "5"],
        &["--size", "65536", "--text"],
        &["--size", "1000000", "--depth", "3"],
        &["--no-greet", "--active", "50%"],
        &["--rate", "1000", "--arrivals", "poisson"],
        &["--source", "127.5.6.0/24", "--no-verify"],
        &["--messages", "1000", "--duration", "20", "--threads", "2"],
    ] {
        let outcome = run(address, &[&EPOLL[..], args].concat());
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.output);
        assert_eq!(outcome.number("/connections/opened"), 4);
        assert_eq!(outcome.number("/connections/closes_answered"), 4, "{}", outcome.output);
        assert!(outcome.number("/measured/echoes") > 0, "{args:?}: {}", outcome.output);
        assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
    }
}

/// A server that answers whole messages only, and one connection: between the parts of a message nothing else happens.
#[test]
fn a_message_in_several_sends_is_sent_without_a_pause() {
    let address = start(Behaviour::Echo);
    for transport in ["auto", "epoll"] {
        let args = ["-c", "1", "--size", "3000000", "--messages", "20", "--duration", "30", "--transport", transport];
        let outcome = run(address, &args);
        assert_eq!(outcome.code, Some(0), "{transport}: {}", outcome.output);
        assert_eq!(outcome.number("/measured/echoes"), 20, "{transport}: {}", outcome.output);
    }
}

/// The server echoes nothing before the whole depth has come, of which one send has room for three.
#[test]
fn the_whole_depth_is_in_flight_whatever_the_size() {
    let address = start(Behaviour::Together(16));
    for transport in ["auto", "epoll"] {
        let load = ["-c", "1", "-s", "16KiB", "--depth", "16", "--messages", "160", "-t", "30s", "--warmup", "0s"];
        let args = [&load[..], &["--transport", transport]].concat();
        let outcome = run(address, &args);
        assert_eq!(outcome.code, Some(0), "{transport}: {}", outcome.output);
        assert_eq!(outcome.number("/measured/echoes"), 160, "{transport}: {}", outcome.output);
    }
}

#[test]
fn faults_are_seen_through_epoll() {
    for (behaviour, fault) in FAULTS {
        let outcome = run(start(behaviour), &[&EPOLL[..], &["--depth", "2"]].concat());
        assert_eq!(outcome.code, Some(1), "{behaviour:?}: {}", outcome.output);
        assert!(outcome.number(fault) > 0, "{behaviour:?}: {}", outcome.output);
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(run(nobody, &EPOLL).failures(), [("connection refused".to_owned(), 4)]);
}

#[test]
fn all_targets_are_reached_through_epoll() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("epoll-{}.sock", std::process::id()));
    start_at_path(&path);
    let urls = [
        format!("tcp://{}", start(Behaviour::Tcp)),
        format!("ws+unix:{}:/", path.display()),
        format!("wss://{}/", start_tls().0),
    ];
    for url in urls {
        for more in [&["--size", "100"][..], &["--size", "300000", "--depth", "2"]] {
            let outcome = run_any(&[&[url.as_str(), "--insecure"], &EPOLL[..], more].concat());
            assert_eq!(outcome.code, Some(0), "{url}: {}", outcome.output);
            assert!(outcome.number("/measured/echoes") > 0, "{url}: {}", outcome.output);
            assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
        }
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn churn_pings_and_slow_readers_go_through_epoll() {
    let args =
        ["-c", "8", "--slow-readers", "2", "--reconnect-every", "0.02", "--ping-every", "0.05", "--duration", "1"];
    let outcome = run(start(Behaviour::Echo), &[&EPOLL[..], &args].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(outcome.number("/connections/recycled") >= 5, "{}", outcome.output);
    assert!(outcome.number("/messages/slow_sent") > 100, "{}", outcome.output);
    assert_eq!(outcome.number("/messages/pings_sent"), outcome.number("/messages/pongs"), "{}", outcome.output);
    assert_eq!(outcome.number("/messages/lost"), 0, "{}", outcome.output);
}

/// As the default profiles of containers do.
fn forbid_rings(command: &mut Command) {
    let statement = |code: u32, yes: u8, no: u8, k: u32| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: between fork and exec there are two bare system calls, and the program lives in the closure.
    unsafe {
        command.pre_exec(move || {
            let mut program = program;
            let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
            let is_done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0;
            if is_done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}

#[test]
fn where_rings_are_forbidden_epoll_is_used_and_that_is_said() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let run = |transport: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringload"));
        command.args(["run", &url, "-c", "4", "--duration", "0.3", "--warmup", "0", "--transport", transport]);
        forbid_rings(&mut command);
        let output = run_to_end(&mut command);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run("auto");
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<_> = said.lines().filter(|line| line.contains("using epoll")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("io_uring"), "{said}");
    let (code, said) = run("ring");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("cannot set up io_uring"), "{said}");
}

/// In a network namespace of its own, which has forty local ports, sixty connections go from one address to two targets.
/// Ports that were chosen before the target is known would be used up by forty.
#[test]
fn a_source_address_has_its_ports_for_each_target() {
    let ringload = env!("CARGO_BIN_EXE_ringload");
    let script = format!(
        "ip link set lo up && echo '20000 20039' > /proc/sys/net/ipv4/ip_local_port_range || exit 77
        exec {ringload} run ws://127.0.0.1:9001/ ws://127.0.0.2:9001/ --server-cmd '{ringload} serve --listen 0.0.0.0:9001' \
            -c 60 --source 127.0.0.3 -t 200ms --warmup 0 -q --transport \"$1\""
    );
    for transport in ["ring", "epoll"] {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", &script, "sh", transport]);
        let output = run_to_end(&mut command);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.code() == Some(77) || said.contains("unshare:") {
            eprintln!("SKIPPED: no network namespace can be had here: {said}");
            return;
        }
        assert_eq!(output.status.code(), Some(0), "{transport}: {said}");
        assert!(said.contains("ok: 60 connections held"), "{transport}: {said}");
    }
}
