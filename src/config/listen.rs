//! Listeners: the entries of `--listen`, checked and resolved.
//!
//! ```text
//! HOST:PORT | unix:PATH | unix:@NAME | systemd      with tls: in front, and behind it  ?option=value&option=value
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::ConfigError;
use crate::options::Options;
use crate::protocol::Protocol;
use crate::transport::proxy::Versions;

/// The forms of an entry, for error messages.
pub(super) const FORMS: &str = "it takes HOST:PORT, like 0.0.0.0:9001 or [::1]:9001, unix:PATH, unix:@NAME or systemd, with tls: in front \
     of it and options behind ?";

/// An entry of `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) at: At,
    pub(crate) protocol: Protocol,
    /// A PROXY protocol header comes first.
    pub(crate) proxy: Option<Versions>,
    pub(crate) is_tls: bool,
}

/// The address of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// At one port of one address, or of all those of a name.
    Inet(Vec<Inet>),
    /// At a socket file.
    Unix {
        path: PathBuf,
        /// Its permissions, if not those that the process's umask leaves.
        mode: Option<u32>,
    },
    /// At a name without a file.
    Abstract(String),
    /// At the sockets that the service manager has passed (`sd_listen_fds(3)`).
    Systemd,
}

/// An address to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inet {
    pub(crate) address: SocketAddr,
    /// `[::]` takes IPv4 connections, too, unless this is set (`IPV6_V6ONLY`).
    pub(crate) is_v6_only: bool,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Inet(addresses) => {
                let addresses: Vec<_> = addresses.iter().map(|inet| inet.address.to_string()).collect();
                f.write_str(&addresses.join(","))
            }
            At::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            At::Abstract(name) => write!(f, "unix:@{name}"),
            At::Systemd => f.write_str("systemd"),
        }
    }
}

/// Resolves all entries. No two of them may want the same.
pub(super) fn resolve(options: &Options) -> Result<Vec<Listen>, ConfigError> {
    let entry =
        |text: &String| parse(text, options).map_err(|cause| ConfigError::Listen { address: text.clone(), cause });
    let mut found: Vec<Listen> = options.listen.iter().map(entry).collect::<Result<_, _>>()?;
    if found.is_empty() {
        return Err(ConfigError::NoListener);
    }
    check_overlaps(&found)?;
    choose_families(&mut found, options.ipv6_only);
    Ok(found)
}

/// The number of listeners of the entries. For the service manager's it is the number that it passes.
pub(super) fn count(entries: &[Listen]) -> usize {
    let passed = || std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let listeners = |entry: &Listen| match &entry.at {
        At::Inet(addresses) => addresses.len(),
        At::Unix { .. } | At::Abstract(_) => 1,
        At::Systemd => passed(),
    };
    entries.iter().map(listeners).sum()
}

fn parse(text: &str, options: &Options) -> Result<Listen, String> {
    let (place, query) = text.split_once('?').unwrap_or((text, ""));
    let (place, is_tls) = place.strip_prefix("tls:").map_or((place, false), |place| (place, true));
    if is_tls && cfg!(not(feature = "tls")) {
        return Err("this build is without the cargo feature tls".into());
    }
    let mut listen = Listen { at: parse_place(place)?, protocol: options.protocol, proxy: None, is_tls };
    for option in query.split('&').filter(|option| !option.is_empty()) {
        set_option(&mut listen, option)?;
    }
    Ok(listen)
}

fn parse_place(place: &str) -> Result<At, String> {
    if place == "systemd" {
        return Ok(At::Systemd);
    }
    if let Some(path) = place.strip_prefix("unix:") {
        return match path.strip_prefix('@') {
            Some("") => Err("an abstract socket has a name behind @".into()),
            Some(name) => Ok(At::Abstract(name.into())),
            None if path.is_empty() => Err("a path is missing".into()),
            None => Ok(At::Unix { path: path.into(), mode: None }),
        };
    }
    let mut addresses: Vec<Inet> = Vec::new();
    for address in place.to_socket_addrs().map_err(|e| e.to_string())? {
        // Name services say some twice.
        if addresses.iter().all(|inet| inet.address != address) {
            addresses.push(Inet { address, is_v6_only: false });
        }
    }
    if addresses.is_empty() { Err("no such address".into()) } else { Ok(At::Inet(addresses)) }
}

fn set_option(listen: &mut Listen, option: &str) -> Result<(), String> {
    const OPTIONS: &str = "protocol=tcp|websocket, proxy=v1|v2|any, mode=OCTAL";
    let unknown = || Err(format!("{option:?} is no option of a listener, which are {OPTIONS}"));
    let Some((name, value)) = option.split_once('=') else { return unknown() };
    match (name, value) {
        ("protocol", "tcp") => listen.protocol = Protocol::Tcp,
        ("protocol", "websocket") => listen.protocol = Protocol::WebSocket,
        ("proxy", "v1") => listen.proxy = Some(Versions::V1),
        ("proxy", "v2") => listen.proxy = Some(Versions::V2),
        ("proxy", "any") => listen.proxy = Some(Versions::Any),
        ("mode", digits) => {
            let At::Unix { mode, .. } = &mut listen.at else { return Err("only a socket file has a mode".into()) };
            let bits = u32::from_str_radix(digits, 8).ok().filter(|&bits| bits <= 0o777);
            *mode = Some(bits.ok_or_else(|| format!("{option:?}: a mode is like 660"))?);
        }
        _ => return unknown(),
    }
    Ok(())
}

fn check_overlaps(entries: &[Listen]) -> Result<(), ConfigError> {
    for (index, entry) in entries.iter().enumerate() {
        for earlier in &entries[..index] {
            match (&earlier.at, &entry.at) {
                (At::Inet(earlier), At::Inet(later)) => check_addresses(earlier, later)?,
                (At::Unix { path: earlier, .. }, At::Unix { path: later, .. }) if earlier != later => {}
                (At::Abstract(earlier), At::Abstract(later)) if earlier != later => {}
                (At::Unix { .. }, At::Unix { .. })
                | (At::Abstract(_), At::Abstract(_))
                | (At::Systemd, At::Systemd) => return Err(ConfigError::ListenTwice(entry.at.to_string())),
                _ => {}
            }
        }
    }
    Ok(())
}

fn check_addresses(earlier: &[Inet], later: &[Inet]) -> Result<(), ConfigError> {
    for Inet { address: one, .. } in earlier {
        for Inet { address: other, .. } in later {
            if is_same_port(one, other) {
                return Err(if one == other {
                    ConfigError::ListenTwice(other.to_string())
                } else {
                    ConfigError::ListenOverlap(*one, *other)
                });
            }
        }
    }
    Ok(())
}

/// Whether only one of the two addresses can be listened on: a wildcard includes all addresses of its family.
fn is_same_port(one: &SocketAddr, other: &SocketAddr) -> bool {
    let overlaps = |one: IpAddr, other: IpAddr| {
        one == other || one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
    };
    one.port() != 0 && one.port() == other.port() && overlaps(one.ip(), other.ip())
}

/// `[::]` is for IPv4, too, unless IPv4 addresses with its port are listened on for themselves.
fn choose_families(entries: &mut [Listen], ipv6_only: bool) {
    let addresses = |entry: &Listen| match &entry.at {
        At::Inet(addresses) => addresses.clone(),
        _ => Vec::new(),
    };
    let ports: Vec<u16> = entries
        .iter()
        .flat_map(addresses)
        .filter(|inet| inet.address.is_ipv4() && inet.address.port() != 0)
        .map(|inet| inet.address.port())
        .collect();
    for entry in entries {
        if let At::Inet(addresses) = &mut entry.at {
            for inet in addresses {
                let is_any = inet.address.ip().is_unspecified();
                inet.is_v6_only = ipv6_only || !is_any || ports.contains(&inet.address.port());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(entries: &[&str]) -> Result<Vec<Listen>, String> {
        let listen = entries.iter().map(ToString::to_string).collect();
        resolve(&Options { listen, ..Options::default() }).map_err(|e| e.to_string())
    }

    fn v6_only(entries: &[&str]) -> Vec<bool> {
        let inet = |entry: Listen| match entry.at {
            At::Inet(addresses) => addresses,
            _ => Vec::new(),
        };
        resolved(entries).unwrap().into_iter().flat_map(inet).map(|inet| inet.is_v6_only).collect()
    }

    #[test]
    fn entries_of_all_kinds() {
        let unix = |path: &str, mode| At::Unix { path: path.into(), mode };
        for (text, at, protocol) in [
            ("unix:/run/echo.sock", unix("/run/echo.sock", None), Protocol::WebSocket),
            ("unix:here?mode=660&protocol=tcp", unix("here", Some(0o660)), Protocol::Tcp),
            ("unix:@echo", At::Abstract("echo".into()), Protocol::WebSocket),
            ("systemd?protocol=websocket", At::Systemd, Protocol::WebSocket),
        ] {
            assert_eq!(resolved(&[text]), Ok(vec![Listen { at, protocol, proxy: None, is_tls: false }]), "{text}");
        }
        let entry = &resolved(&["unix:@echo?proxy=any"]).unwrap()[0];
        assert_eq!((entry.proxy, entry.is_tls), (Some(Versions::Any), false));
        let entry = resolved(&["tls:127.0.0.1:9443?proxy=v2&protocol=tcp"]);
        if cfg!(feature = "tls") {
            let entry = &entry.unwrap()[0];
            assert_eq!((entry.proxy, entry.is_tls, entry.protocol), (Some(Versions::V2), true, Protocol::Tcp));
        } else {
            assert!(entry.is_err());
        }
    }

    #[test]
    fn nonsense_is_named() {
        for (text, named) in [
            ("unix:", "path"),
            ("unix:@", "name"),
            ("127.0.0.1:1?protocol=udp", "protocol=udp"),
            ("127.0.0.1:1?mode=600", "mode"),
            ("unix:a?mode=888", "mode"),
            ("unix:a?tcp", "tcp"),
            ("unix:a?proxy=v3", "proxy=v3"),
            ("nonsense", "HOST:PORT"),
        ] {
            let error = resolved(&[text]).unwrap_err();
            assert!(error.contains(named) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn what_is_there_twice_is_refused() {
        for entries in [
            ["127.0.0.1:9", "127.0.0.1:9"],
            ["0.0.0.0:9", "127.0.0.1:9?protocol=tcp"],
            ["unix:a", "unix:a?mode=600"],
            ["unix:@a", "unix:@a"],
            ["systemd", "systemd"],
        ] {
            assert!(resolved(&entries).is_err(), "{entries:?}");
        }
        for entries in [["127.0.0.1:0", "127.0.0.1:0"], ["unix:a", "unix:@a"], ["0.0.0.0:9", "[::]:9"]] {
            assert!(resolved(&entries).is_ok(), "{entries:?}");
        }
    }

    #[test]
    fn the_ipv6_wildcard_takes_ipv4_unless_that_is_listened_on_for_itself() {
        assert_eq!(v6_only(&["[::]:9"]), [false]);
        assert_eq!(v6_only(&["[::]:9", "127.0.0.1:8"]), [false, true]);
        assert_eq!(v6_only(&["[::]:9", "127.0.0.1:9"]), [true, true]);
    }
}
