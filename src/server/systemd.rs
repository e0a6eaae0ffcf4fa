//! Listeners that the service manager has opened (`sd_listen_fds(3)`): it keeps them open between starts of the server, and
//! may open ports that the server may not.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use rustix::net::sockopt::{set_tcp_nodelay, socket_acceptconn};

use super::Address;

/// Takes all of them.
pub(super) fn take() -> Result<Vec<(OwnedFd, Address)>, String> {
    let mut passed = ListenFd::from_env();
    if passed.len() == 0 {
        return Err(
            "no sockets are passed to this process (LISTEN_FDS, LISTEN_PID); a unit's .socket file does that".into()
        );
    }
    let mut taken = Vec::new();
    for number in 0..passed.len() {
        let cannot = |e: &dyn std::fmt::Display| format!("descriptor {}: {e}", 3 + number);
        let (socket, address) = if let Ok(Some(listener)) = passed.take_tcp_listener(number) {
            of_tcp(listener).map_err(|e| cannot(&e))?
        } else if let Ok(Some(listener)) = passed.take_unix_listener(number) {
            of_unix(listener).map_err(|e| cannot(&e))?
        } else {
            return Err(cannot(&"no stream socket of TCP or Unix (Accept=no, ListenStream= in the .socket file)"));
        };
        if !socket_acceptconn(&socket).map_err(|e| cannot(&e))? {
            return Err(cannot(&"it does not listen (Accept=no in the .socket file)"));
        }
        taken.push((socket, address));
    }
    Ok(taken)
}

fn of_tcp(listener: TcpListener) -> std::io::Result<(OwnedFd, Address)> {
    set_tcp_nodelay(&listener, true)?;
    let address = Address::Inet(listener.local_addr()?);
    Ok((listener.into(), address))
}

fn of_unix(listener: UnixListener) -> std::io::Result<(OwnedFd, Address)> {
    use std::os::linux::net::SocketAddrExt;
    let address = listener.local_addr()?;
    let name = address.as_abstract_name().map(|name| Address::Abstract(String::from_utf8_lossy(name).into()));
    let path = || Address::Unix(address.as_pathname().unwrap_or(std::path::Path::new("")).into());
    let address = name.unwrap_or_else(path);
    Ok((listener.into(), address))
}
