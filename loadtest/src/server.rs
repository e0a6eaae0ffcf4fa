//! The server under test: a given process, or one started for the run.

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::output::display::Show;
use crate::own_server::OwnServer;
use crate::run::{RunError, Settings, network};
use crate::server_command::ServerCommand;
use crate::target::{Protocol, Target};
use crate::tun::Network;

/// Which server.
#[derive(Debug)]
pub enum ServerChoice {
    /// One that runs already, or several.
    Running {
        /// Their URLs.
        urls: Vec<String>,
        /// Its process, if it is on this machine and to be sampled.
        pid: Option<u32>,
    },
    /// One that is started for this run only.
    Command {
        /// Its URLs.
        urls: Vec<String>,
        /// The command that starts it.
        command: String,
    },
    /// A ringecho for this run only.
    Own {
        /// The protocol to speak.
        protocol: Protocol,
        /// More arguments for it.
        args: Vec<String>,
        /// Its processors, if not all.
        cpus: Option<Vec<usize>>,
    },
}

/// A server that listens. If it was started for the run, it ends when this is dropped.
pub struct Server {
    targets: Vec<Target>,
    pid: Option<u32>,
    started: Started,
}

/// The handle that keeps it running, if this process has started it.
enum Started {
    BySomebodyElse,
    Own(OwnServer),
    Command { _guard: ServerCommand },
}

impl Server {
    /// Finds the server, or starts it: where the load's devices are, if they have a namespace of their own.
    ///
    /// Call it on a thread that lives as long as the server is to: the kernel ends a child with that thread.
    pub fn reach(settings: &Settings, network: Option<&Network>) -> Result<Self, RunError> {
        Ok(match &settings.server {
            ServerChoice::Running { urls, pid } => {
                Self { targets: targets(urls, settings)?, pid: *pid, started: Started::BySomebodyElse }
            }
            ServerChoice::Command { urls, command } => {
                let targets = targets(urls, settings)?;
                let server = ServerCommand::start(command, &targets[0].addresses)?;
                Self { targets, pid: Some(server.pid()), started: Started::Command { _guard: server } }
            }
            ServerChoice::Own { protocol, args, cpus } => {
                let is_quiet = settings.show == Show::Nothing;
                let (connections, place) = (settings.scenario.connections, network.and_then(Network::place));
                let own = OwnServer::start(*protocol, connections, args, cpus.as_deref(), place, is_quiet)?;
                let targets = vec![Target::local(*protocol, own.address())];
                Self { targets, pid: Some(own.pid()), started: Started::Own(own) }
            }
        })
    }

    /// Its addresses: at least one.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Its URL, and how many others there are.
    #[must_use]
    pub fn url(&self) -> String {
        let first = self.targets[0].url();
        match self.targets.len() {
            1 => first,
            all => format!("{first} and {} more", all - 1),
        }
    }

    /// All addresses of all targets, in their order.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.targets.iter().flat_map(|target| &target.addresses).map(ToString::to_string).collect()
    }

    /// Its process, if it is known.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// How its process ended, if it has ended.
    #[must_use]
    pub fn end(&self) -> Option<String> {
        let pid = self.pid?;
        let ended = "the server's process ended before the run did";
        if matches!(self.started, Started::BySomebodyElse) {
            return crate::sampling::processes::has_ended(pid).then(|| ended.to_owned());
        }
        // Its status is left for those that wait for it.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_raw(pid as i32)?), options).ok()??;
        Some(match (status.terminating_signal(), status.exit_status()) {
            (Some(signal), _) => format!("the server's process was killed by {} before the run ended", name_of(signal)),
            (None, Some(code)) => format!("{ended}, with exit code {code}"),
            (None, None) => ended.to_owned(),
        })
    }

    /// Its output at the start, if this process has started it.
    #[must_use]
    pub fn banner(&self) -> Option<&str> {
        if let Started::Own(own) = &self.started { Some(own.banner()) } else { None }
    }
}

/// The targets of these URLs, with the addresses that connections are to go to.
fn targets(urls: &[String], settings: &Settings) -> Result<Vec<Target>, RunError> {
    let mut targets = Target::parse_all(urls, &settings.routes)?;
    if let Some(user) = &settings.user_stack {
        network::keep_reachable(&mut targets, &user.clients)?;
    }
    Ok(targets)
}

/// A signal for people.
fn name_of(signal: i32) -> String {
    match signal {
        libc::SIGKILL => "SIGKILL (by a process, or by the kernel because memory ran out: `dmesg` says so)".to_owned(),
        libc::SIGSEGV => "SIGSEGV".to_owned(),
        libc::SIGABRT => "SIGABRT".to_owned(),
        libc::SIGTERM => "SIGTERM".to_owned(),
        signal => format!("signal {signal}"),
    }
}
