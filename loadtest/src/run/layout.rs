//! The threads of a run: how many, on which processors.

use super::{RunError, Settings};
use crate::scenario::threads_needed;
use crate::server::ServerChoice;

/// Descriptors that a process needs besides its connections', generously.
const OTHER_DESCRIPTORS: u64 = 100;

/// The number of threads, and their processors.
pub(super) struct Layout {
    pub(super) threads: u32,
    pub(super) cpus: Vec<usize>,
    /// As many as a process, or a ring, may have.
    descriptors: u64,
}

impl Layout {
    pub(super) fn new(settings: &Settings) -> Result<Self, RunError> {
        let limit = ringecho::sys::raise_descriptor_limit()
            .map_err(|error| RunError::System("cannot raise the limit on descriptors", error))?;
        let usable = ringecho::sys::usable_cpus().map_err(|error| RunError::System("sched_getaffinity", error))?;
        let server_cpus = match &settings.server {
            ServerChoice::Own { cpus, .. } => cpus.as_deref(),
            ServerChoice::Running { .. } | ServerChoice::Command { .. } => None,
        };
        let named = settings.cpus.iter().flatten().chain(server_cpus.into_iter().flatten());
        if let Some(&missing) = named.into_iter().find(|cpu| !usable.contains(cpu)) {
            return Err(RunError::Cpu(missing, usable));
        }
        let cpus = settings.cpus.clone().unwrap_or(usable);
        let connections = settings.scenario.own().connections;
        let needed_for = |cpus: u32| match settings.user_stack {
            Some(_) => cpus.min(connections).max(1), // its connections have no descriptors
            None => threads_needed(connections, cpus, limit),
        };
        let needed = needed_for(1);
        let threads = match settings.threads {
            Some(threads) if threads < needed => {
                return Err(RunError::TooFewThreads { threads, connections, needed, limit });
            }
            Some(threads) => threads.min(connections),
            None => needed_for(cpus.len() as u32),
        };
        Ok(Self { threads, cpus, descriptors: limit })
    }

    /// With epoll all connections share one table of descriptors.
    pub(super) fn check_descriptors(&self, connections: u32) -> Result<(), RunError> {
        if u64::from(connections) + OTHER_DESCRIPTORS > self.descriptors {
            return Err(RunError::Descriptors(connections, self.descriptors));
        }
        Ok(())
    }
}
