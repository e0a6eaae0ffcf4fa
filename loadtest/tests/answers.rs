//! What a run answers: its result and verdict, and what leaves it while it goes on.

mod runner;
mod server;

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use runner::{Files, Running, ringload, run, run_to_end};
use rustix::process::Signal;
use server::{Behaviour, start};

#[test]
fn a_connection_whose_greeting_failed_was_not_opened() {
    let outcome = run(start(Behaviour::Deaf), &["-c", "2", "--connect-timeout", "0.5"]);
    assert!(
        outcome.output.contains("connections    0 of 2 opened") && outcome.output.contains(", 2 failed"),
        "{}",
        outcome.output
    );
    assert_eq!((outcome.number("/connections/ready"), outcome.number("/connections/failed_at_first")), (0, 2));
    assert!(outcome.output.contains("result         FAILED: 2 connections failed"), "{}", outcome.output);
}

#[test]
fn where_connections_failed_less_is_offered_and_it_is_said() {
    let args = ["-c", "20", "--rate", "400", "--duration", "2"];
    let outcome = run(start(Behaviour::Full(10)), &args);
    assert_eq!(outcome.number("/connections/ready"), 10, "{}", outcome.output);
    let offered = "/s of the 400/s asked for were offered: 10 of 20 connections had not been opened";
    assert!(outcome.output.contains(offered), "{}", outcome.output);
    let all = run(start(Behaviour::Echo), &args);
    assert!(!all.output.contains("were offered"), "{}", all.output);
}

#[test]
fn a_server_that_was_killed_is_the_verdict() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_ringload"))
        .args(["serve", "--listen", &address.to_string()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while std::net::TcpStream::connect(address).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let (url, pid) = (format!("ws://{address}/"), server.id().to_string());
    let mut running = Running::start(&["run", &url, "-c", "4", "-t", "60", "--warmup", "0", "--server-pid", &pid]);
    running.wait_for("measure");
    server.kill().unwrap();
    server.wait().unwrap();
    let (code, said) = running.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("verdict        the server ended: the server's process ended before the run did"), "{said}");
}

/// `smaps_rollup` of another user's process cannot be read; everything else can.
#[test]
fn a_server_of_another_user_is_sampled_without_its_shared_memory() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let is_root = rustix::process::geteuid().is_root();
    let pid = if is_root { std::process::id() } else { 1 };
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringload"));
    command.args(["run", &url, "-c", "2", "-t", "0.5", "--warmup", "0", "--server-pid", &pid.to_string()]);
    if is_root {
        command.current_dir("/").uid(65_534).gid(65_534);
    }
    let output = run_to_end(&mut command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text.contains("server memory") && text.contains("server cpu"), "{text}");
}

/// The directory of a new control group with this share of a processor; `None` where that cannot be had.
fn group_with_quota(name: &str, share: f64) -> Option<std::path::PathBuf> {
    let (v1, v2) = (std::path::Path::new("/sys/fs/cgroup/cpu"), std::path::Path::new("/sys/fs/cgroup"));
    let is_v1 = v1.join("cpu.cfs_quota_us").exists() || v1.join("cgroup.procs").exists();
    let group = if is_v1 { v1 } else { v2 }.join(name);
    let quota = (share * 100_000.0) as u32;
    std::fs::create_dir(&group).ok()?;
    let written = if is_v1 {
        std::fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())
    } else {
        std::fs::write(group.join("cpu.max"), format!("{quota} 100000"))
    };
    if written.is_err() {
        let _ = std::fs::remove_dir(&group);
    }
    written.ok().map(|()| group)
}

#[test]
fn a_throttled_generator_is_told() {
    // So little that a busy machine leaves the generator more than its quota.
    let Some(group) = group_with_quota(&format!("ringload-test-{}", std::process::id()), 0.02) else {
        eprintln!("SKIPPED: no control group with a CPU quota can be made here");
        return;
    };
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringload"));
    command.args(["run", &url, "-c", "20", "-t", "2", "--warmup", "0"]);
    let members = std::ffi::CString::new(group.join("cgroup.procs").to_str().unwrap()).unwrap();
    // SAFETY: between fork and exec there are bare system calls on a path that was made before,
    // and the closure owns it.
    unsafe {
        command.pre_exec(move || {
            let file = libc::open(members.as_ptr(), libc::O_WRONLY);
            if file < 0 || libc::write(file, c"0".as_ptr().cast(), 1) != 1 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let output = run_to_end(&mut command);
    // The kernel may take a moment to let go of the processes that were in it.
    while std::fs::remove_dir(&group).is_err_and(|error| error.raw_os_error() == Some(16)) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("verdict        generator-bound: the generator was throttled by its CPU quota"), "{text}");
}

/// Whatever ends a run, what it has measured by then is in the file.
#[test]
fn the_csv_file_grows_while_the_run_goes_on() {
    let files = Files::new("growing");
    let csv = files.path("r.csv");
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let mut running = Running::start(&["run", &url, "-c", "4", "-t", "60", "--warmup", "0", "--csv", &csv]);
    running.wait_for("measure");
    running.wait_for("measure");
    running.signal(Signal::KILL);
    running.end();
    let text = files.text("r.csv");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() > 2 && lines[0].starts_with("time_s,") && text.ends_with('\n'), "{text}");
    assert!(lines.iter().all(|line| line.matches(',').count() == lines[0].matches(',').count()), "{text}");
    assert!(lines.last().unwrap().contains(",measure,"), "{text}");
}

#[test]
fn metrics_can_be_scraped_while_the_run_goes_on() {
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let args = ["run", &url, "-c", "4", "-t", "60", "--warmup", "0", "--metrics", "127.0.0.1:0"];
    let mut running = Running::start(&args);
    let line = running.wait_for("metrics at http://");
    let address = line.trim().trim_start_matches("metrics at http://").trim_end_matches("/metrics").to_owned();
    running.wait_for("measure");
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    for part in ["\nringload_connections_open 4\n", "ringload_phase{phase=\"measure\"} 1", &format!("target=\"{url}\"")]
    {
        assert!(text.replace('\r', "").contains(part), "{part} is not in {text}");
    }
    running.signal(Signal::TERM);
    running.end();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = ringload(&["run", &url, "-c", "1", "-t", "0.1", "--metrics", &address]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot serve --metrics"), "{output:?}");
}

#[test]
fn summaries_follow_each_other_in_one_file() {
    let files = Files::new("summary");
    let summary = files.path("summary.md");
    std::fs::write(&summary, "# Build\n\n").unwrap();
    run(start(Behaviour::Echo), &["--summary", &summary]);
    run(start(Behaviour::DropTenth), &["--summary", &summary, "--fail-if", "p50>1ns"]);
    let text = files.text("summary.md");
    assert!(text.starts_with("# Build\n\n### ✅ ringload: ok: 4 connections held"), "{text}");
    assert!(text.contains("\n\n### ❌ ringload: FAILED: ") && text.contains("--fail-if p50>1ns"), "{text}");
}
