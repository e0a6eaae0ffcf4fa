//! A server's process: started on its processors in its own control group, awaited, sampled, and stopped.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;

use super::file::{Port, ReadyWhen, Server, StopSignal};
use super::needs::find_program;
use crate::interrupt::Interrupt;
use crate::output::units::counted;
use crate::own_server::SERVE;
use crate::said::Said;
use crate::sampling::group::ControlGroup;
use crate::sampling::processes::Processes;
use crate::server_command::{guard_group, listens};
use crate::target::routes::Routes;
use crate::target::{Address, Target, TargetError};

/// Interval at which a server is checked while it starts or ends.
const TICK: Duration = Duration::from_millis(10);

/// Timeout of one request while a server starts.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Timeout of a command that prints a version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Free ports are searched from here up to the kernel's range of local ports, which connections use.
const FIRST_PORT: u16 = 20_000;

/// The remedy for a missing program.
const TO_BUILD: &str = ": it is to be built (`ringload compare build`)";

/// Variables with this prefix are flags of ringecho in the user's environment; they are not passed to the server under
/// test.
const VARIABLES: &[u8] = b"RINGECHO_";

/// An error in starting a server.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its program does not exist.
    #[error("{0} is not there{1}")]
    Missing(String, &'static str),
    /// Its URL is not valid.
    #[error(transparent)]
    Url(#[from] TargetError),
    /// Another process answers at its address already.
    #[error("something listens on {0} already: the port is taken")]
    Taken(Address),
    /// No free port was found.
    #[error("there is no free port from {FIRST_PORT} up to the kernel's range of local ports")]
    NoPort,
    /// The process could not be started.
    #[error("it cannot be started: {0}")]
    Spawn(io::Error),
    /// It ended before it was ready.
    #[error("it ended ({0}) before it was ready; it said:\n{1}")]
    Ended(ExitStatus, String),
    /// It was not ready in time.
    #[error("it was not ready ({what}) after {after:.1} s; it said:\n{said}")]
    Silent {
        /// The awaited condition.
        what: String,
        /// The timeout.
        after: f64,
        /// Its output.
        said: String,
    },
    /// The comparison is to end.
    #[error("the comparison was interrupted")]
    Interrupted,
    /// Its state could not be queried.
    #[error("it cannot be watched: {0}")]
    Watch(io::Error),
}

/// How a server ended after it was told to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// It did not end in time and was killed.
    pub was_killed: bool,
}

/// A running server. It never outlives this process.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    said: Said,
    group: Option<ControlGroup>,
    url: String,
    target: Target,
    signal: Signal,
    stop_timeout: Duration,
}

/// The values of placeholders.
struct Place {
    port: u16,
    cpus: String,
    threads: String,
    ringecho: String,
}

impl Place {
    fn new(server: &Server, cpus: &[usize]) -> Result<Self, StartError> {
        let port = match server.port {
            Port::Fixed(port) => port,
            Port::Auto => free_port().ok_or(StartError::NoPort)?,
        };
        let numbers: Vec<String> = cpus.iter().map(ToString::to_string).collect();
        Ok(Self { port, cpus: numbers.join(","), threads: cpus.len().to_string(), ringecho: own_program() })
    }

    fn fill(&self, text: &str) -> String {
        let text = text.replace("{port}", &self.port.to_string()).replace("{cpus}", &self.cpus);
        text.replace("{threads}", &self.threads)
    }

    fn ready(&self, when: &ReadyWhen) -> ReadyWhen {
        match when {
            ReadyWhen::Tcp => ReadyWhen::Tcp,
            ReadyWhen::Http(path) => ReadyWhen::Http(self.fill(path)),
            ReadyWhen::Log(text) => ReadyWhen::Log(self.fill(text)),
        }
    }

    fn words(&self, command: &[String]) -> Vec<String> {
        let word = |word: &String| match word.as_str() {
            "{ringecho}" => vec![self.ringecho.clone(), SERVE.to_owned()],
            word => vec![self.fill(word)],
        };
        command.iter().flat_map(word).collect()
    }
}

impl ServerProcess {
    /// Starts `server` on `cpus`, and returns when it is ready.
    ///
    /// Call it on a thread that lives as long as the server should: the kernel kills the child when that thread ends.
    pub fn start(server: &Server, cpus: &[usize], interrupt: &Interrupt) -> Result<Self, StartError> {
        let place = Place::new(server, cpus)?;
        let words = place.words(&server.command);
        let program = find_program(&words[0], &server.dir)
            .ok_or_else(|| StartError::Missing(words[0].clone(), if server.build.is_some() { TO_BUILD } else { "" }))?;
        let url = place.fill(&server.url);
        let target = Target::parse(&url, &Routes::default())?;
        if let Some(taken) = target.addresses.iter().find(|address| listens(address)) {
            return Err(StartError::Taken(taken.clone()));
        }
        if let Some(Address::Unix(path)) = target.addresses.first() {
            remove_socket(path);
        }
        let mut command = Command::new(program);
        command.args(&words[1..]).current_dir(&server.dir);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(VARIABLES)) {
            command.env_remove(name);
        }
        command.envs(server.env.iter().map(|(name, value)| (name, place.fill(value))));
        let group = ControlGroup::create();
        let ready = place.ready(&server.ready);
        let awaited = if let ReadyWhen::Log(text) = &ready { Some(text.clone()) } else { None };
        let (child, said) = spawn(command, cpus, group.as_ref(), awaited).map_err(StartError::Spawn)?;
        guard_group(Some(child.id()));
        // From here on `Drop` ends the child.
        let mut process = Self {
            child,
            said,
            group,
            url,
            target,
            signal: signal(server.stop_signal),
            stop_timeout: server.stop_timeout,
        };
        process.wait_until_ready(&ready, server.ready_timeout, interrupt)?;
        Ok(process)
    }

    fn wait_until_ready(
        &mut self,
        ready: &ReadyWhen,
        timeout: Duration,
        interrupt: &Interrupt,
    ) -> Result<(), StartError> {
        let begun = Instant::now();
        while !self.is_ready(ready) {
            if interrupt.is_raised() {
                return Err(StartError::Interrupted);
            }
            if let Some(status) = self.child.try_wait().map_err(StartError::Watch)? {
                return Err(StartError::Ended(status, self.said.quoted()));
            }
            if begun.elapsed() >= timeout {
                let address = &self.target.addresses[0];
                let what = match ready {
                    ReadyWhen::Tcp => format!("nothing listened on {address}"),
                    ReadyWhen::Http(path) => format!("no good answer to a GET of {path}"),
                    ReadyWhen::Log(text) => format!("{text:?} was not printed, or nothing listened on {address}"),
                };
                // A hung server prints no more: its output is quoted as it is.
                self.stop();
                return Err(StartError::Silent { what, after: timeout.as_secs_f64(), said: self.said.quoted() });
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    fn is_ready(&self, when: &ReadyWhen) -> bool {
        let listens = || self.target.addresses.iter().any(listens);
        match when {
            ReadyWhen::Tcp => listens(),
            ReadyWhen::Log(_) => self.said.has_come() && listens(),
            ReadyWhen::Http(path) => self.answers(path).unwrap_or(false),
        }
    }

    /// Whether a GET gets an answer other than a server error.
    fn answers(&self, path: &str) -> io::Result<bool> {
        let Some(Address::Inet(address)) = self.target.addresses.first() else { return Ok(false) };
        let mut stream = TcpStream::connect_timeout(address, ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.target.host)?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.starts_with(b"HTTP/1.") && (b'1'..b'5').contains(&head[9]))
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its resolved address.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Its first process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has, with its last output.
    pub fn end(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("it ended ({status}); it said:\n{}", self.said.quoted()))
    }

    /// Whether a control group accounts for it, so that ended processes are included.
    #[must_use]
    pub fn has_group(&self) -> bool {
        self.group.is_some()
    }

    /// The peak memory of its control group.
    #[must_use]
    pub fn group_peak_bytes(&self) -> Option<u64> {
        self.group.as_ref()?.memory_peak_bytes()
    }

    /// The sum of its processes' peak resident memory (`VmHWM`); the peaks may be at different times.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<u64> {
        let processes = Processes::of(self.pid()).ok()?;
        let peak = |pid: &u32| crate::sampling::peak_resident_bytes(*pid).ok();
        let peaks: Vec<u64> = processes.pids().iter().filter_map(peak).collect();
        (!peaks.is_empty()).then(|| peaks.iter().sum())
    }

    /// Their current resident memory; shared pages count once where that is known.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        let memory = Processes::of(self.pid()).ok()?.memory().ok()?;
        Some(memory.pss_bytes.unwrap_or(memory.rss_bytes))
    }

    /// Asks the whole process group to end, and kills it after the timeout.
    pub fn stop(&mut self) -> Stopped {
        let Some(group) = Pid::from_raw(self.child.id() as i32) else { return Stopped::default() };
        let mut was_killed = false;
        if self.has_not_ended() {
            // An error only means that it has just ended.
            let _ = kill_process_group(group, self.signal);
            let deadline = Instant::now() + self.stop_timeout;
            while self.has_not_ended() && Instant::now() < deadline {
                std::thread::sleep(TICK);
            }
            was_killed = self.has_not_ended() && self.signal != Signal::KILL;
        }
        let _ = kill_process_group(group, Signal::KILL);
        if let Some(group) = &self.group {
            group.kill();
        }
        guard_group(None);
        // It has been killed, so it will end.
        let _ = self.child.wait();
        Stopped { was_killed }
    }

    fn has_not_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Removes what an earlier server left at the path of its socket; other files stay.
fn remove_socket(path: &Path) {
    if path.symlink_metadata().is_ok_and(|it| it.file_type().is_socket()) {
        let _ = std::fs::remove_file(path);
    }
}

/// Starts the server in its own process group: Ctrl-C then reaches only the comparison, which stops the server in
/// order. A thread reads the pipe with the server's output.
fn spawn(
    mut command: Command,
    cpus: &[usize],
    group: Option<&ControlGroup>,
    awaited: Option<String>,
) -> io::Result<(Child, Said)> {
    let (output, input) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).process_group(0);
    let parent = rustix::process::getpid();
    let affinity = cpu_set(cpus);
    let doors: Vec<File> = group.map(ControlGroup::doors).unwrap_or_default();
    // SAFETY: between fork and exec the closure only makes system calls on values it owns: it neither allocates nor
    // takes a lock.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            for door in &doors {
                (&mut &*door).write_all(b"0")?;
            }
            Ok(sched_setaffinity(None, &affinity)?)
        });
    }
    let child = command.spawn()?;
    Ok((child, Said::awaiting(output, awaited)))
}

fn cpu_set(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    set
}

fn signal(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Kill => Signal::KILL,
    }
}

/// A port without a listener or a connection. Each server gets a new port, so that remaining connections of the last
/// server do not interfere.
fn free_port() -> Option<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let low = range.split_whitespace().next().and_then(|low| low.parse::<u16>().ok()).unwrap_or(u16::MAX);
    // If the local ports begin that low, no range is left below them: 40,000 ports from `FIRST_PORT` on are tried.
    let (first, count) = if low > FIRST_PORT + 100 { (FIRST_PORT, low - FIRST_PORT) } else { (FIRST_PORT, 40_000) };
    let own = (std::process::id() % u32::from(count)) as u16;
    for _ in 0..count {
        let at = (u32::from(own) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(count);
        let port = first + at as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return Some(port);
        }
    }
    None
}

/// Keeps this process off the servers' processors, if there are others. The load inherits the remaining ones.
pub fn keep_off(server_cpus: &[usize], load_cpus: &[usize]) {
    let usable = ringecho::sys::usable_cpus().unwrap_or_default();
    let is_left = |cpu: &usize| !server_cpus.contains(cpu) || load_cpus.contains(cpu);
    let left: Vec<usize> = usable.into_iter().filter(is_left).collect();
    if !left.is_empty() {
        // Without it the measurements are only a little less precise.
        let _ = sched_setaffinity(None, &cpu_set(&left));
    }
}

/// This program's path; if its file was rebuilt meanwhile, the one by which the running file is still found.
fn own_program() -> String {
    match std::env::current_exe() {
        Ok(path) if path.exists() => path.display().to_string(),
        _ => format!("/proc/{}/exe", std::process::id()),
    }
}

/// The program of a server's command, if it exists.
fn program_of(server: &Server) -> Option<PathBuf> {
    match server.command.first()?.as_str() {
        "{ringecho}" => Some("/proc/self/exe".into()),
        name => find_program(name, &server.dir),
    }
}

/// What tells the builds of a server apart: its program's, and those of the files that its command names.
pub(super) fn show_builds(server: &Server) -> Option<String> {
    let mut builds = vec![show_build(&program_of(server)?)?];
    for word in server.command.iter().skip(1) {
        let name = word.rsplit_once('=').map_or(word.as_str(), |(_, value)| value);
        let path = server.dir.join(name);
        if let Some(build) = path.is_file().then(|| show_build(&path)).flatten() {
            builds.push(format!("{name}: {build}"));
        }
    }
    Some(builds.join(", "))
}

/// What tells the builds of a program apart: `1,234 bytes of 2026-01-02T03:04:05Z`.
pub(super) fn show_build(program: &Path) -> Option<String> {
    let it = program.metadata().ok()?;
    let modified = humantime::format_rfc3339_seconds(it.modified().ok()?);
    Some(format!("{} of {modified}", counted(it.len(), "byte")))
}

/// The version of a server: the first line that its version command prints.
pub fn version(server: &Server) -> Option<String> {
    if server.version.is_some() {
        return server.version.clone();
    }
    let said = output_of(shell(server.version_cmd.as_ref()?, &server.dir), VERSION_TIMEOUT)?;
    said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// What a command prints on standard output, or else on standard error, if it succeeds in time.
fn output_of(mut command: Command, timeout: Duration) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().ok()?;
    let deadline = Instant::now() + timeout;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(TICK);
    }
    // What it has started may hold its output open.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let output = child.wait_with_output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    output.status.success().then(|| String::from_utf8_lossy(&text).into_owned())
}

/// A command for display, quoted for a shell.
pub fn shell(command: &str, dir: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(dir);
    shell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in() {
        let place =
            Place { port: 9001, cpus: "0,2".to_owned(), threads: "2".to_owned(), ringecho: "/x/ringload".to_owned() };
        let words = ["{ringecho}", "--listen", "127.0.0.1:{port}", "--cpus={cpus}", "{threads}", "{other}"];
        let expected = ["/x/ringload", "serve", "--listen", "127.0.0.1:9001", "--cpus=0,2", "2", "{other}"];
        assert_eq!(place.words(&words.map(str::to_owned)), expected);
        let ready = ReadyWhen::Http("/{port}/health".to_owned());
        assert_eq!(place.ready(&ready), ReadyWhen::Http("/9001/health".to_owned()));
    }

    #[test]
    fn only_a_socket_is_removed() {
        let path = std::env::temp_dir().join(format!("ringload-socket-{}", std::process::id()));
        std::fs::write(&path, "kept").unwrap();
        remove_socket(&path);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
        std::fs::remove_file(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        remove_socket(&path);
        assert!(!path.exists());
    }

    #[test]
    fn a_version_is_awaited_for_a_while_only() {
        let said = |command: &str, timeout| output_of(shell(command, Path::new("/")), timeout);
        assert_eq!(said("echo 1.2; sleep 600 &", Duration::from_secs(600)).as_deref(), Some("1.2\n"));
        assert_eq!(said("echo 1.2 >&2", Duration::from_secs(600)).as_deref(), Some("1.2\n"));
        assert_eq!(said("echo 1.2; exit 1", Duration::from_secs(600)), None);
        assert_eq!(said("sleep 600", Duration::ZERO), None);
    }

    #[test]
    fn ports_are_free_and_differ() {
        let ports = [free_port().unwrap(), free_port().unwrap()];
        assert_ne!(ports[0], ports[1]);
        let listener = TcpListener::bind(("127.0.0.1", ports[0])).unwrap();
        assert!(TcpListener::bind(("0.0.0.0", ports[0])).is_err(), "the way in which a port is found taken");
        drop(listener);
    }
}
