//! The server under test: the real executable, as a child process on a free port.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use std::{env, fs, io, thread};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process};
use tungstenite::WebSocket;
use tungstenite::protocol::WebSocketConfig;

use super::PATIENCE;
use super::peer::Peer;

/// Names the engine that the suite runs against (`--engine`); `auto` when unset.
const ENGINE_VARIABLE: &str = "RINGECHO_TEST_ENGINE";

/// A running server. Dropping it kills the process, and prints its output if the test has failed.
pub(crate) struct Server {
    process: Process,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Starts `ringecho serve` on a free port of 127.0.0.1 and waits for its start-up line.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::launch(command(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat()))
    }

    /// Starts any command line that ends up listening.
    pub(crate) fn launch(command: Command) -> Self {
        Self::try_launch(command).unwrap_or_else(|exit| panic!("the server did not start\n{exit}"))
    }

    /// Starts any command line, or says how that ended.
    pub(crate) fn try_launch(command: Command) -> Result<Self, Exit> {
        Self::once_listening(Process::spawn(command))
    }

    /// Starts any command line that says on standard error what it waits for; `then` lets it have it.
    pub(crate) fn launch_waiting(command: Command, text: &str, then: impl FnOnce()) -> Self {
        let process = Process::spawn(command);
        process.await_stderr(text);
        then();
        Self::once_listening(process).unwrap_or_else(|exit| panic!("the server did not start\n{exit}"))
    }

    fn once_listening(mut process: Process) -> Result<Self, Exit> {
        let Some(line) = process.stdout.first_line() else { return Err(process.wait()) };
        let Some(rest) = line.strip_prefix("ringecho listening on ") else {
            panic!("not a start-up line: {line:?}\n{}", process.output());
        };
        let places = rest.split(" | ").next().unwrap_or_default().split(", ");
        let addresses = places.filter_map(|place| place.trim_start_matches("tls:").parse().ok()).collect();
        Ok(Self { process, addresses })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        assert!(!self.addresses.is_empty(), "no address in the start-up line\n{}", self.output());
        self.addresses[0]
    }

    /// Those of its TCP listeners.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The first line of standard output.
    pub(crate) fn start_up_line(&self) -> String {
        self.process.stdout.text().lines().next().unwrap_or_default().to_owned()
    }

    /// What standard error has said so far.
    pub(crate) fn stderr(&self) -> String {
        self.process.stderr.text()
    }

    /// Waits until standard error says something.
    pub(crate) fn await_stderr(&self, text: &str) {
        self.process.await_stderr(text);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// A connection on which nothing has been sent.
    pub(crate) fn connect(&self) -> Peer {
        Peer::connect(self.address())
    }

    /// A client that sees every byte, upgraded to WebSocket.
    pub(crate) fn open(&self) -> Peer {
        Peer::open(self.address())
    }

    /// Does something that the server sees all at once (`SIGSTOP`).
    pub(crate) fn while_stopped(&self, action: impl FnOnce()) {
        self.signal(Signal::STOP);
        super::eventually("all threads are stopped", || self.thread_states().iter().all(|&state| state == 'T'));
        action();
        self.signal(Signal::CONT);
    }

    /// The states of its threads (`proc_pid_stat(5)`): behind the name, which is in parentheses.
    fn thread_states(&self) -> Vec<char> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let state = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.expect("a thread").path().join("stat")).ok()?;
            stat.rsplit_once(") ").and_then(|(_, behind)| behind.chars().next())
        };
        tasks.filter_map(state).collect()
    }

    /// An independent client, tungstenite, without limits on sizes.
    pub(crate) fn client(&self) -> WebSocket<TcpStream> {
        tungstenite_client(self.address())
    }

    /// Resident memory in bytes, now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory_figure("VmRSS:").unwrap_or_else(|| panic!("the server has ended\n{}", self.output()))
    }

    /// Resident memory in bytes, at its highest.
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        self.memory_figure("VmHWM:").unwrap_or_else(|| panic!("the server has ended\n{}", self.output()))
    }

    /// Waits until the process ends of its own accord, and says what its resident memory was at its highest.
    pub(crate) fn peak_until_its_end(&self) -> u64 {
        let mut peak = 0;
        super::eventually("the server ends", || {
            peak = self.memory_figure("VmHWM:").unwrap_or(peak);
            self.has_ended()
        });
        peak
    }

    /// `None`: the process has ended.
    fn memory_figure(&self, name: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?;
        Some(kib.parse::<u64>().expect("a number of KiB") * 1024)
    }

    /// Time that each thread, by its id, has spent on a processor.
    pub(crate) fn cpu_time_by_thread(&self) -> BTreeMap<u32, Duration> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the server runs");
        let cpu_time = tasks.filter_map(|task| {
            let task = task.ok()?;
            let schedule = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let nanoseconds = schedule.split(' ').next()?.parse().ok()?;
            Some((task.file_name().to_str()?.parse().ok()?, Duration::from_nanos(nanoseconds)))
        });
        cpu_time.collect()
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        self.cpu_time_by_thread().values().sum()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Whether the process has ended, or has closed its output.
    pub(crate) fn has_ended(&self) -> bool {
        self.process.stdout.await_end(Duration::ZERO)
    }

    /// Waits until the process ends of its own accord.
    pub(crate) fn wait(mut self) -> Exit {
        self.process.wait()
    }

    /// Ends the server with SIGTERM, and insists on a clean exit.
    pub(crate) fn stop(self) -> Exit {
        self.signal(Signal::TERM);
        let exit = self.wait();
        assert_eq!(exit.code, Some(0), "SIGTERM must end in exit code 0\n{exit}");
        exit
    }

    /// Everything it has written so far, for a failure's message.
    pub(crate) fn output(&self) -> String {
        self.process.output()
    }
}

/// How a process ended.
pub(crate) struct Exit {
    /// The exit code, or `None` if a signal ended the process.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {:?}\n--- stdout\n{}--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

/// The engine under test.
pub(crate) fn engine() -> String {
    env::var(ENGINE_VARIABLE).unwrap_or_else(|_| "auto".into())
}

/// A command line of the executable, free of `RINGECHO_...` variables except for the engine under test.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringecho"));
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("RINGECHO_") {
            command.env_remove(name);
        }
    }
    command.env("RINGECHO_ENGINE", engine());
    command.args(arguments);
    command
}

/// Limits the number of descriptors for the process, on machines that allow more.
pub(crate) fn limit_descriptors(command: &mut Command, limit: u64) {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let limit = Some(limit.min(maximum));
    // SAFETY: between fork and exec only async-signal-safe calls are allowed, and setrlimit is a bare system call.
    unsafe {
        command.pre_exec(move || {
            Ok(rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?)
        });
    }
}

/// Runs a command line that ends by itself: `--help`, or a start that must fail.
pub(crate) fn run_to_end(command: Command) -> Exit {
    Process::spawn(command).wait()
}

/// Starts a command line, and ends it by a signal as soon as it says on standard error what it waits for.
pub(crate) fn end_while_waiting(command: Command, text: &str, signal: Signal) -> Exit {
    let mut process = Process::spawn(command);
    process.await_stderr(text);
    process.signal(signal);
    process.wait()
}

/// An independent client, tungstenite, without limits on sizes.
pub(crate) fn tungstenite_client(address: SocketAddr) -> WebSocket<TcpStream> {
    let stream = super::peer::connect(address);
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let (client, _) = tungstenite::client::client_with_config(format!("ws://{address}/"), stream, Some(config))
        .unwrap_or_else(|error| panic!("the upgrade failed: {error}"));
    client
}

/// A child process whose output is collected while it runs.
struct Process {
    child: Child,
    stdout: Capture,
    stderr: Capture,
}

impl Process {
    fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only async-signal-safe calls are allowed, and prctl is a bare system call.
        unsafe {
            // Whatever happens to the thread that started it, the server does not outlive it.
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Capture::start(child.stdout.take().expect("piped"));
        let stderr = Capture::start(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    fn signal(&self, signal: Signal) {
        // No signal is sent after `wait`, so the pid is still the child's.
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{signal:?} to {pid:?}: {error}\n{}", self.output()));
    }

    fn await_stderr(&self, text: &str) {
        let said = self.stderr.await_until(PATIENCE, |written| written.text.contains(text));
        assert!(said, "{text:?} is not on standard error\n{}", self.output());
    }

    fn wait(&mut self) -> Exit {
        // The end of its output is the event that a wait with a deadline can be built on.
        let ended = self.stdout.await_end(PATIENCE) && self.stderr.await_end(PATIENCE);
        assert!(ended, "the process did not end within {PATIENCE:?}\n{}", self.output());
        let status: ExitStatus = self.child.wait().expect("a child that can be waited for");
        Exit { code: status.code(), stdout: self.stdout.text(), stderr: self.stderr.text() }
    }

    fn output(&self) -> String {
        format!("--- stdout of the server\n{}--- stderr of the server\n{}---", self.stdout.text(), self.stderr.text())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            // A process that is just crashing gets the chance to say why.
            self.stderr.await_end(Duration::from_millis(500));
            eprintln!("{}", self.output());
        }
        // An error only says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process writes to one of its outputs.
struct Capture {
    shared: Arc<(Mutex<Written>, Condvar)>,
}

#[derive(Default)]
struct Written {
    text: String,
    ended: bool,
}

impl Capture {
    fn start(mut output: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Written::default()), Condvar::new()));
        let collected = Arc::clone(&shared);
        thread::spawn(move || {
            let (written, changed) = &*collected;
            let mut buffer = [0; 4096];
            loop {
                let length = match output.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    result => result.expect("a pipe can be read until its end"),
                };
                let mut written = written.lock().expect("not poisoned");
                written.text.push_str(&String::from_utf8_lossy(&buffer[..length]));
                written.ended = length == 0;
                changed.notify_all();
                if written.ended {
                    return;
                }
            }
        });
        Self { shared }
    }

    fn text(&self) -> String {
        self.shared.0.lock().expect("not poisoned").text.clone()
    }

    /// The first complete line, or `None` if the output ended (or `patience` did) without one.
    fn first_line(&self) -> Option<String> {
        self.await_until(PATIENCE, |written| written.text.contains('\n'));
        Some(self.text().split_once('\n')?.0.to_owned())
    }

    /// Whether the output ended in time.
    fn await_end(&self, patience: Duration) -> bool {
        self.await_until(patience, |written| written.ended)
    }

    /// Whether the condition was met before the output ended and before `patience` did.
    fn await_until(&self, patience: Duration, condition: impl Fn(&Written) -> bool) -> bool {
        let (written, changed) = &*self.shared;
        let written = written.lock().expect("not poisoned");
        let (written, _) = changed
            .wait_timeout_while(written, patience, |written| !condition(written) && !written.ended)
            .expect("not poisoned");
        condition(&written)
    }
}
