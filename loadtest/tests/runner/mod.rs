//! Runs the real `ringload` and reads its results.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};
use serde_json::Value;

/// How long anything may take that a test waits for: far more than any machine needs. It only turns a wait for ever into
/// a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Kills a process that is still there when [`PATIENCE`] is over, so that waiting for it or for its output ends.
struct Limit {
    disarm: Sender<()>,
    has_hung: JoinHandle<bool>,
}

impl Limit {
    /// For a child that was not waited for yet.
    fn on(child: &Child) -> Self {
        let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("a child");
        let (disarm, disarmed) = mpsc::channel();
        let has_hung = thread::spawn(move || {
            let has_hung = disarmed.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if has_hung {
                // An error only says that it has just ended.
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
            has_hung
        });
        Self { disarm, has_hung }
    }

    /// The process is gone. Fails if that is because it was killed here.
    fn lift(self, what: &Command, said: &str) {
        drop(self.disarm);
        let has_hung = self.has_hung.join().expect("it only waits");
        assert!(!has_hung, "{what:?} had not ended after {PATIENCE:?}, and was killed; it said: {said}");
    }
}

/// Runs a command to its end, which must come in time.
pub(crate) fn run_to_end(command: &mut Command) -> Output {
    end_with_this_thread(command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let limit = Limit::on(&child);
    let output = child.wait_with_output().expect("its output");
    limit.lift(command, &text(&output));
    output
}

/// Whatever happens to the test, what it has started does not outlive it.
fn end_with_this_thread(command: &mut Command) {
    // SAFETY: between fork and exec there is one bare system call.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

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
        let failures = self.json["connections"]["failures"].as_array();
        let failures = failures.unwrap_or_else(|| panic!("no list of failures: {}", self.output));
        let failure = |it: &Value| (it["cause"].as_str().unwrap().to_owned(), it["count"].as_u64().unwrap());
        failures.iter().map(failure).collect()
    }
}

/// A run under way, whose lines are read as they come.
pub(crate) struct Running {
    command: Command,
    child: Child,
    limit: Limit,
    lines: BufReader<Box<dyn Read>>,
    said: String,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_program(env!("CARGO_BIN_EXE_ringload"), args)
    }

    /// The same with a copy of the program.
    pub(crate) fn start_program(program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        end_with_this_thread(&mut command);
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().expect("ringload starts");
        let limit = Limit::on(&child);
        let lines: Box<dyn Read> = Box::new(child.stdout.take().expect("piped"));
        Self { command, child, limit, lines: BufReader::new(lines), said: String::new() }
    }

    /// The same, with what it complains of among its lines.
    pub(crate) fn start_heard(args: &[&str]) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let program = env!("CARGO_BIN_EXE_ringload");
        let mut command = Command::new(program);
        end_with_this_thread(&mut command);
        command.args(args).stdin(Stdio::null()).stdout(writer.try_clone().expect("a descriptor")).stderr(writer);
        let child = command.spawn().expect("ringload starts");
        let limit = Limit::on(&child);
        // The first one holds the pipe open.
        let mut command = Command::new(program);
        command.args(args);
        let lines: Box<dyn Read> = Box::new(reader);
        Self { command, child, limit, lines: BufReader::new(lines), said: String::new() }
    }

    /// Waits for a line with this in it, and returns it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        loop {
            let start = self.said.len();
            let read = self.lines.read_line(&mut self.said).expect("text");
            assert!(read > 0, "it ended, or was killed after {PATIENCE:?}, without {text:?}: {}", self.said);
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

    /// The same for one that may have ended.
    pub(crate) fn try_signal(&self, signal: Signal) -> rustix::io::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
    }

    /// Waits for its end without reading its output any more: the exit code.
    pub(crate) fn end_unheard(mut self) -> Option<i32> {
        drop(self.lines);
        let status = self.child.wait().expect("it ends");
        self.limit.lift(&self.command, &self.said);
        status.code()
    }

    /// Waits for its end: the exit code, and all that it said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        std::io::Read::read_to_string(&mut self.lines, &mut self.said).expect("text");
        let status = self.child.wait().expect("it ends");
        self.limit.lift(&self.command, &self.said);
        (status.code(), self.said)
    }
}

pub(crate) fn ringload(args: &[&str]) -> Output {
    run_to_end(Command::new(env!("CARGO_BIN_EXE_ringload")).args(args))
}

pub(crate) fn run(address: SocketAddr, args: &[&str]) -> Outcome {
    let url = format!("ws://{address}/");
    run_any(&[&[url.as_str()], args].concat())
}

pub(crate) fn run_any(args: &[&str]) -> Outcome {
    run_whole(&[&["--duration", "0.3", "--warmup", "0"], args].concat())
}

/// A run whose time the arguments say.
pub(crate) fn run_whole(args: &[&str]) -> Outcome {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let name = format!("run-{}-{}.json", std::process::id(), FILES.fetch_add(1, Ordering::Relaxed));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let fixed = ["run", "-c", "4", "--json", path.to_str().unwrap()];
    let quick = ["--drain-timeout", "0.5", "--close-timeout", "2"];
    let output = ringload(&[&fixed[..], &quick, args].concat());
    let json = std::fs::read(&path).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).expect("valid JSON"));
    let _ = std::fs::remove_file(&path);
    Outcome { code: output.status.code(), json, output: text(&output) }
}

/// A directory of its own for each test; it is gone when this is dropped.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new(test: &str) -> Self {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).expect("valid JSON")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Results must be what the schema says.
pub(crate) fn check_schema(results: &Value) {
    let schema = include_str!("../../../docs/ringload.schema.json");
    let validator = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).expect("a valid schema");
    let errors: Vec<_> = validator.iter_errors(results).map(|it| format!("{}: {it}", it.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}
