//! A server started for the run by `--server-cmd`, and stopped after it.

use std::io::{self, PipeReader};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};
use thiserror::Error;

use crate::said::Said;
use crate::target::Address;

/// Time for the server to listen, and to end before it is killed.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval of checks meanwhile.
const TICK: Duration = Duration::from_millis(20);

/// The process group of the server that runs, if one does.
static GROUP: AtomicI32 = AtomicI32::new(0);

/// From here on [`kill_all`] kills this process group; with `None` nothing.
pub fn guard_group(group: Option<u32>) {
    GROUP.store(group.map_or(0, |group| group as i32), Ordering::Relaxed);
}

/// Kills the server of this process with all its children, if one runs: for an end of the process that drops nothing.
pub fn kill_all() {
    if let Some(group) = Pid::from_raw(GROUP.load(Ordering::Relaxed)) {
        // An error only says that it has just ended.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Why there is no server.
#[derive(Debug, Error)]
pub enum ServerCommandError {
    /// Not a command.
    #[error("--server-cmd {0:?} is no command: its quotes do not match, or it is empty")]
    Syntax(String),
    /// Another server, which already listens there, would be measured.
    #[error(
        "something listens on {0} already: stop it, or leave --server-cmd out and name its process with --server-pid"
    )]
    Taken(Address),
    /// The process could not be started.
    #[error("cannot start the server {0:?}: {1}")]
    Spawn(String, io::Error),
    /// It ended before it listened.
    #[error("the server ended ({0}) before it listened on {1}; it said:\n{2}")]
    Ended(std::process::ExitStatus, Address, String),
    /// It does not listen.
    #[error("the server does not listen on {0} after {after} s; it said:\n{1}", after = START_TIMEOUT.as_secs())]
    Silent(Address, String),
    /// It could not be asked whether it still runs.
    #[error("cannot watch the server: {0}")]
    Watch(io::Error),
}

/// A running server. It never outlives this process.
#[derive(Debug)]
pub struct ServerCommand {
    child: Child,
    said: Said,
}

impl ServerCommand {
    /// Starts `command`, split into words as a shell does, and returns when something listens on one of `addresses`.
    ///
    /// Call it on a thread that lives as long as the server is to: the kernel ends the child with that thread.
    pub fn start(command: &str, addresses: &[Address]) -> Result<Self, ServerCommandError> {
        let words = shlex::split(command).filter(|words| !words.is_empty());
        let words = words.ok_or_else(|| ServerCommandError::Syntax(command.to_owned()))?;
        if let Some(taken) = addresses.iter().find(|address| listens(address)) {
            return Err(ServerCommandError::Taken(taken.clone()));
        }
        let (child, output) = spawn(&words).map_err(|error| ServerCommandError::Spawn(words[0].clone(), error))?;
        guard_group(Some(child.id()));
        // From here on `Drop` ends the child, whatever happens.
        let mut server = Self { child, said: Said::by(output) };
        server.wait_until_it_listens(addresses)?;
        Ok(server)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_listens(&mut self, addresses: &[Address]) -> Result<(), ServerCommandError> {
        let address = &addresses[0];
        let deadline = Instant::now() + START_TIMEOUT;
        while !addresses.iter().any(listens) {
            if let Some(status) = self.child.try_wait().map_err(ServerCommandError::Watch)? {
                return Err(ServerCommandError::Ended(status, address.clone(), self.said.quoted()));
            }
            if Instant::now() >= deadline {
                return Err(ServerCommandError::Silent(address.clone(), self.said.quoted()));
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Asks the whole group to end, and ends it if it does not.
    fn stop(&mut self) -> io::Result<()> {
        let Some(group) = Pid::from_raw(self.child.id() as i32) else { return Ok(()) };
        if self.child.try_wait()?.is_none() {
            kill_process_group(group, Signal::TERM)?;
            let deadline = Instant::now() + STOP_TIMEOUT;
            while self.child.try_wait()?.is_none() && Instant::now() < deadline {
                std::thread::sleep(TICK);
            }
        }
        // Processes of the group that are left.
        let _ = kill_process_group(group, Signal::KILL);
        guard_group(None);
        self.child.wait().map(drop)
    }
}

impl Drop for ServerCommand {
    fn drop(&mut self) {
        // An error leaves nothing to do: the kernel ends the child with this process.
        let _ = self.stop();
    }
}

/// Starts the server in a group of its own: Ctrl-C ends the load in order, and the load then ends the server. Its output
/// goes to a pipe, so that it does not mix with what is shown here.
fn spawn(words: &[String]) -> io::Result<(Child, PipeReader)> {
    let (output, input) = io::pipe()?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).process_group(0);
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec the closure only makes system calls on values it owns: it neither allocates nor
    // takes a lock.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::TERM))?;
            if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
        });
    }
    Ok((command.spawn()?, output))
}

/// Whether something takes connections there.
#[must_use]
pub fn listens(address: &Address) -> bool {
    match address {
        Address::Inet(address) => TcpStream::connect_timeout(address, Duration::from_millis(200)).is_ok(),
        Address::Unix(path) => UnixStream::connect(path).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free_address() -> Address {
        Address::Inet(std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for nonsense in ["", "  ", "server 'unfinished"] {
            let result = ServerCommand::start(nonsense, &[free_address()]);
            assert!(matches!(result, Err(ServerCommandError::Syntax(_))), "{nonsense}");
        }
        assert!(matches!(
            ServerCommand::start("/no/such/server", &[free_address()]),
            Err(ServerCommandError::Spawn(..))
        ));
    }

    #[test]
    fn a_server_that_fails_is_quoted() {
        let error = ServerCommand::start("sh -c 'echo no licence; exit 3'", &[free_address()]).unwrap_err();
        assert!(error.to_string().contains("no licence") && error.to_string().contains('3'), "{error}");
    }

    #[test]
    fn a_port_in_use_is_not_measured_by_mistake() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let result = ServerCommand::start("sleep 9", &[Address::Inet(listener.local_addr().unwrap())]);
        assert!(matches!(result, Err(ServerCommandError::Taken(_))));
    }
}
