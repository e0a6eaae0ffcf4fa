//! Runs the real `ringload` and reads its results.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::Value;

/// What a run came to.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) json: Value,
    pub(crate) output: String,
}

impl Outcome {
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        let value = self.json.pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no number {pointer} in {}\n{}", self.json, self.output))
    }

    /// The causes of failed attempts with their counts.
    pub(crate) fn failures(&self) -> Vec<(String, u64)> {
        let failures = self.json["connections"]["failures"].as_array().expect("a list");
        let failure = |it: &Value| (it["cause"].as_str().unwrap().to_owned(), it["count"].as_u64().unwrap());
        failures.iter().map(failure).collect()
    }
}

/// A run under way, whose lines are read as they come.
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
    said: String,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringload"));
        // SAFETY: between fork and exec there is one bare system call.
        unsafe {
            // Whatever happens to the test, what it has started does not outlive it.
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().expect("ringload starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines, said: String::new() }
    }

    /// Waits for a line with this in it, and returns it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        loop {
            let start = self.said.len();
            let read = self.lines.read_line(&mut self.said).expect("text");
            assert!(read > 0, "it ended without {text:?}: {}", self.said);
            if self.said[start..].contains(text) {
                return self.said[start..].to_owned();
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Nobody reads what it says from here on.
    pub(crate) fn stop_listening(self) -> Child {
        self.child
    }

    /// Waits for its end: the exit code, and all that it said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        std::io::Read::read_to_string(&mut self.lines, &mut self.said).expect("text");
        (self.child.wait().expect("it ends").code(), self.said)
    }
}

pub(crate) fn ringload(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringload")).args(args).output().expect("ringload starts")
}

pub(crate) fn run(address: SocketAddr, args: &[&str]) -> Outcome {
    let url = format!("ws://{address}/");
    run_any(&[&[url.as_str()], args].concat())
}

pub(crate) fn run_any(args: &[&str]) -> Outcome {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let name = format!("run-{}-{}.json", std::process::id(), FILES.fetch_add(1, Ordering::Relaxed));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let fixed = ["run", "-c", "4", "--duration", "0.3", "--warmup", "0", "--json", path.to_str().unwrap()];
    let quick = ["--drain-timeout", "0.5", "--close-timeout", "2"];
    let output = ringload(&[&fixed[..], &quick, args].concat());
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let json = std::fs::read(&path).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).expect("valid JSON"));
    let _ = std::fs::remove_file(&path);
    Outcome { code: output.status.code(), json, output: text }
}
