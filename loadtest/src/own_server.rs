//! A ringecho as a child process: the same executable again, which never outlives this process.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};
use thiserror::Error;

use crate::said::Said;
use crate::target::Protocol;

/// The hidden first argument that makes this executable the server.
pub const SERVE: &str = "serve";

/// The beginning of the server's start-up line, before its address.
const LISTENING: &str = "ringecho listening on ";

/// The prefix of the server's environment variables: each of its flags has one.
const VARIABLES: &[u8] = b"RINGECHO_";

/// Time for the server to start, and to end.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no server.
#[derive(Debug, Error)]
pub enum OwnServerError {
    /// The process could not be started.
    #[error("cannot start the server: {0}")]
    Spawn(io::Error),
    /// It ended, or closed its output, before it listened.
    #[error("the server ended before it listened; check --server-args; it said:\n{0}")]
    Ended(String),
    /// It said nothing in time.
    #[error("the server did not say within {} s that it listens; check --server-args", START_TIMEOUT.as_secs())]
    Silent,
}

/// A running server.
#[derive(Debug)]
pub struct OwnServer {
    child: Child,
    address: SocketAddr,
    banner: String,
    /// Its error messages.
    said: Said,
    is_quiet: bool,
}

impl OwnServer {
    /// Starts a server with room for `connections` on a free port: of the loopback device, or of an address in a network
    /// namespace. Returns when it listens. What it complains of is repeated when it has ended, unless `is_quiet`: it must not
    /// mix with what is shown here.
    ///
    /// Call it on a thread that lives as long as the server is to: the kernel ends the child with that thread.
    pub fn start(
        protocol: Protocol,
        connections: u32,
        more_args: &[String],
        cpus: Option<&[usize]>,
        place: Option<(IpAddr, BorrowedFd<'_>)>,
        is_quiet: bool,
    ) -> Result<Self, OwnServerError> {
        let mut command = Command::new("/proc/self/exe");
        let address = SocketAddr::new(place.map_or(Ipv4Addr::LOCALHOST.into(), |(address, _)| address), 0);
        command.arg0("ringecho").args([SERVE, "--listen", &address.to_string(), "--max-connections"]);
        command.arg(capacity(connections, ringecho::sys::descriptor_limit()).to_string());
        if protocol == Protocol::Tcp {
            command.args(["--protocol", "tcp"]);
        }
        command.args(more_args);
        // The environment is meant for another server: --server-args are for this one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(VARIABLES)) {
            command.env_remove(name);
        }
        // Connections that come again may come before their predecessors have left: they wait, unless --server-args say otherwise.
        command.env("RINGECHO_WHEN_FULL", "wait");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: Ctrl-C ends the load in order, and the load then ends the server.
        command.process_group(0);
        let affinity = cpus.map(cpu_set);
        let parent = rustix::process::getpid();
        let namespace = place.map(|(_, namespace)| namespace.as_raw_fd());
        // SAFETY: between fork and exec the closure only makes system calls on values it owns: it neither allocates
        // nor takes a lock. The caller keeps the descriptor open until `spawn` returns.
        unsafe {
            command.pre_exec(move || {
                if let Some(namespace) = namespace {
                    let namespace = BorrowedFd::borrow_raw(namespace);
                    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
                }
                set_parent_process_death_signal(Some(Signal::TERM))?;
                if getppid() != Some(parent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                affinity.as_ref().map_or(Ok(()), |set| Ok(sched_setaffinity(None, set)?))
            });
        }
        let mut child = command.spawn().map_err(OwnServerError::Spawn)?;
        let output = child.stdout.take().expect("stdout is piped");
        let said = Said::by(child.stderr.take().expect("stderr is piped"));
        // From here on `Drop` ends the child, whatever happens.
        let mut server = Self { child, address: SocketAddr::from(([0; 4], 0)), banner: String::new(), said, is_quiet };
        match wait_until_it_listens(output) {
            Ok((address, banner)) => (server.address, server.banner) = (address, banner),
            Err(reason) => {
                server.is_quiet = true;
                return Err(match reason {
                    RecvTimeoutError::Disconnected => OwnServerError::Ended(server.said.quoted()),
                    RecvTimeoutError::Timeout => OwnServerError::Silent,
                });
            }
        }
        Ok(server)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its start-up line.
    #[must_use]
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn stop(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            kill_process(pid, Signal::TERM)?;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                self.child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // An error leaves nothing to do: the kernel ends the child with this process.
        let _ = self.stop();
        if !self.is_quiet {
            for line in self.said.lines() {
                let _ = writeln!(io::stderr(), "{line}");
            }
        }
    }
}

/// How many connections the server is to have room for: some more than it needs, so that it does not say that it is full,
/// and so that a connection can be opened again before the server has looked at the end of the one before. But only so
/// many more as fit into the tables of the workers that it needs anyway.
fn capacity(connections: u32, descriptor_limit: u64) -> u64 {
    let wanted = u64::from(connections);
    let per_worker = ringecho::Engine::table_of_any(descriptor_limit).max(1);
    let room = wanted.next_multiple_of(per_worker) - wanted;
    wanted + (wanted / 32 + 16).min(room)
}

/// Runs this process as the server: `args` are the program's name, `serve` and the server's options.
pub fn serve(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ringecho::cli::main_with(args)
}

fn cpu_set(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    set
}

/// Reads the server's output until it says where it listens. A thread goes on reading what it says later, so that it
/// never waits for a full pipe.
fn wait_until_it_listens(output: ChildStdout) -> Result<(SocketAddr, String), RecvTimeoutError> {
    let (found, waiting) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(address) = listening_address(&line) {
                let _ = found.send((address, line));
            }
        }
    });
    waiting.recv_timeout(START_TIMEOUT)
}

/// The address in a start-up line.
fn listening_address(line: &str) -> Option<SocketAddr> {
    let address = line.strip_prefix(LISTENING)?.split_whitespace().next()?;
    address.trim_end_matches([',', ';', ':']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some_room_but_no_worker_more_for_it() {
        assert_eq!(capacity(1, 20_000), 17);
        assert_eq!(capacity(10_000, 20_000), 10_000 + 312 + 16);
        assert_eq!(capacity(19_980, 20_000), 19_984);
        assert_eq!(capacity(2 * 19_984, 20_000), 2 * 19_984);
        assert_eq!(capacity(1_000_000, u64::MAX), 1_000_000 + 31_250 + 16);
        assert_eq!(capacity(100, 0), 100);
    }

    #[test]
    fn the_address_is_read_from_the_start_up_line() {
        let expected = Some("127.0.0.1:43210".parse().unwrap());
        assert_eq!(listening_address("ringecho listening on 127.0.0.1:43210, io_uring, 2 workers"), expected);
        assert_eq!(listening_address("ringecho listening on 127.0.0.1:43210"), expected);
        assert_eq!(listening_address("ringecho ended"), None);
    }
}
