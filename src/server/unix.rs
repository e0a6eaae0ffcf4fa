//! Listeners on Unix sockets: socket files and abstract names (`unix(7)`).

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;
use rustix::process::test_kill_process;
use socket2::{Domain, SockAddr, Socket, Type};

use super::ACCEPT_QUEUE;

/// A socket file that this server has made. Removed when it is dropped, unless another server has put its own there.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Binds a socket file. One that a server has left behind is replaced; one that is listened on, and any other file, is not.
pub(super) fn bind(path: &Path, mode: Option<u32>) -> io::Result<(OwnedFd, SocketFile)> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    match socket.bind(&address) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            check_is_left_behind(path, &address)?;
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        outcome => outcome?,
    }
    let file = SocketFile { path: path.into(), identity: identity(path)? };
    // Before it listens, so that no client comes in by other permissions.
    if let Some(mode) = mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(ACCEPT_QUEUE)?;
    Ok((socket.into(), file))
}

/// Binds an abstract name, which is free as soon as no socket has it.
pub(super) fn bind_abstract(name: &str) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
    socket.listen(ACCEPT_QUEUE)?;
    Ok(socket.into())
}

/// Whether a socket file belongs to no listener. `AddrInUse`: it belongs to one whose process is gone, and which the kernel
/// is about to close.
fn check_is_left_behind(path: &Path, address: &SockAddr) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    client.set_nonblocking(true)?; // its queue may be full
    match client.connect(address) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(()) if !is_listener_gone(&client) => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "another process listens there"))
        }
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Whether the process that has called `listen(2)` for the peer of this socket has ended (`SO_PEERCRED`).
fn is_listener_gone(client: &Socket) -> bool {
    socket_peercred(client).is_ok_and(|listener| test_kill_process(listener.pid) == Err(rustix::io::Errno::SRCH))
}
