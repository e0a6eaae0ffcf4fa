//! A network namespace without a name: it lasts as long as a process or a descriptor of it, so that nothing has to be taken
//! away.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::TunError;

/// The kernel's table of established connections, shared by all namespaces that have none of their own.
const TABLE: &str = "/proc/sys/net/ipv4/tcp_ehash_entries";

/// How large that of a namespace is that this one makes.
const CHILDS_TABLE: &str = "net.ipv4.tcp_child_ehash_entries";

/// The largest that there can be.
const TABLE_MAX: u32 = 1 << 24;

/// Connections that may wait to be accepted: as many as a `listen` may ask for.
const BACKLOG: &str = "net.core.somaxconn";
const BACKLOG_MAX: &str = "65535";

/// A namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    descriptor: OwnedFd,
    /// Settings that could not be made, and why.
    pub(super) refused: Vec<String>,
}

impl Namespace {
    /// Makes a namespace with room for so many connections of a server, and does `within` in it. Only a thread that lives no
    /// longer than this call is moved there.
    pub(super) fn make<T: Send>(
        connections: u32,
        within: impl FnOnce() -> Result<T, TunError> + Send,
    ) -> Result<(Self, T), TunError> {
        thread::scope(|scope| {
            let made = scope.spawn(move || {
                let namespace = enter(connections).map_err(TunError::Namespace)?;
                Ok((namespace, within()?))
            });
            made.join().expect("a panic ends the process")
        })
    }

    /// For those that are to enter it.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Moves this thread into a new namespace.
fn enter(connections: u32) -> io::Result<Namespace> {
    leave()?;
    let mut refused = Vec::new();
    // A namespace has its table from the one before it.
    if table_size().is_some_and(|size| size < connections) {
        let size = connections.checked_next_power_of_two().unwrap_or(TABLE_MAX).min(TABLE_MAX);
        if set(CHILDS_TABLE, &size.to_string(), &mut refused) {
            leave()?;
        }
    }
    set(BACKLOG, BACKLOG_MAX, &mut refused);
    let descriptor = File::open("/proc/thread-self/ns/net")?.into();
    Ok(Namespace { descriptor, refused })
}

/// Makes a setting of this thread's namespace, and returns whether that was possible: a container may have /proc/sys read-only, and
/// the namespaces of other users may not have the setting. They are for speed, and all goes without.
fn set(name: &str, value: &str, refused: &mut Vec<String>) -> bool {
    let made = fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value);
    if let Err(error) = &made {
        refused.push(format!("{name} to {value} ({error})"));
    }
    made.is_ok()
}

fn leave() -> io::Result<()> {
    // SAFETY: no descriptors are unshared, but for a thread's own view of the network.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Entries of the table that is in use. A shared one has a minus in front.
fn table_size() -> Option<u32> {
    fs::read_to_string(TABLE).ok()?.trim().trim_start_matches('-').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_cannot_be_made_is_kept_to_be_told() {
        let mut refused = Vec::new();
        assert!(!set("net.core.no_such_setting", "5", &mut refused));
        assert!(refused.len() == 1 && refused[0].starts_with("net.core.no_such_setting to 5 ("), "{refused:?}");
    }
}
