//! Causes of failed connection attempts, and of connections ended by the server.

use std::collections::BTreeMap;
use std::fmt;

use crate::scenario::Transport;
use crate::websocket::frames::ServerClose;
use crate::websocket::handshake::answer;

/// Failed attempts by cause and by the number of the address.
pub type Failures = BTreeMap<(Cause, usize), u64>;

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// There is no listener (`ECONNREFUSED`).
    Refused,
    /// The peer reset or closed the connection before the upgrade was complete.
    Reset,
    /// No TCP connection within `--connect-timeout`.
    ConnectTimeout,
    /// Connected, but no answer to the upgrade within `--connect-timeout`.
    UpgradeTimeout,
    /// Upgraded, but the greeting was not echoed within `--connect-timeout`.
    GreetingTimeout,
    /// An HTTP status other than 101.
    Status(u16),
    /// An answer that is no valid upgrade.
    Invalid(&'static str),
    /// This machine has run out of something; the error number says of what.
    LocalLimit(i32),
    /// Another system error.
    Os(i32),
}

impl Cause {
    /// The cause behind the error number of a socket operation.
    #[must_use]
    pub fn of_error(errno: i32) -> Self {
        match errno {
            libc::ECONNREFUSED => Self::Refused,
            libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED => Self::Reset,
            libc::ETIMEDOUT => Self::ConnectTimeout,
            libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                Self::LocalLimit(errno)
            }
            _ => Self::Os(errno),
        }
    }

    /// Whether another address of the same name may do better.
    #[must_use]
    pub fn is_of_the_address(self) -> bool {
        match self {
            Self::Refused | Self::Reset | Self::ConnectTimeout | Self::Os(_) => true,
            // An address of a family that this machine does not have.
            Self::LocalLimit(errno) => errno == libc::EADDRNOTAVAIL,
            _ => false,
        }
    }

    /// The number of the error behind it.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::Refused => libc::ECONNREFUSED,
            Self::Reset => libc::ECONNRESET,
            Self::ConnectTimeout => libc::ETIMEDOUT,
            Self::LocalLimit(errno) | Self::Os(errno) => errno,
            _ => libc::EPROTO,
        }
    }

    /// The remedy on this side, if any, for connections over that transport.
    #[must_use]
    pub fn remedy(self, transport: Transport) -> Option<&'static str> {
        match self {
            Self::ConnectTimeout if transport == Transport::Tun => Some(
                "does this machine forward packets (net.ipv4.ip_forward), and does the server have a route back to --clients? if \
                 some connections open, it accepts too slowly: lower --connect-rate or --connect-window",
            ),
            Self::Os(libc::EHOSTUNREACH) if transport == Transport::Tun => {
                Some("a router, or this machine, has no way to that address, or a firewall forbids it")
            }
            Self::Status(status) => answer::remedy(status),
            Self::Reset => Some("does the server speak TLS there (wss://)? is it a proxy without a server behind it?"),
            Self::Os(libc::ENETUNREACH | libc::EHOSTUNREACH) => Some(
                "this machine has no way to that address; a port that a container engine publishes may take --source 127.0.0.1",
            ),
            Self::LocalLimit(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => Some(
                "out of local ports, or --source names an address that is not this machine's: widen \
                 net.ipv4.ip_local_port_range, add source addresses, or wait for old connections to leave TIME_WAIT",
            ),
            Self::LocalLimit(libc::EMFILE) => Some("out of descriptors: raise `ulimit -n`"),
            Self::LocalLimit(libc::ENFILE) => Some("out of open files in all: raise fs.file-max"),
            Self::LocalLimit(_) => Some("out of memory for sockets: see net.ipv4.tcp_mem and free memory"),
            Self::Refused => Some("is the server running and listening on this address?"),
            Self::ConnectTimeout => Some(
                "the server accepts too slowly: lower --connect-rate or --connect-window, raise net.core.somaxconn; a port that \
                 a container engine publishes may take --source 127.0.0.1",
            ),
            _ => None,
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Reset => f.write_str("reset or closed before the upgrade"),
            Self::ConnectTimeout => f.write_str("connect timed out"),
            Self::UpgradeTimeout => f.write_str("upgrade timed out"),
            Self::GreetingTimeout => f.write_str("greeting not echoed in time"),
            Self::Status(status) => write!(f, "HTTP status {status}"),
            Self::Invalid(why) => f.write_str(why),
            Self::LocalLimit(errno) => write!(f, "local limit: {}", std::io::Error::from_raw_os_error(*errno)),
            Self::Os(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// How the server ended a connection early.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EarlyEnd {
    /// With a Close frame.
    Close(ServerClose),
    /// Its side of the TCP connection was shut down, without a Close frame.
    Eof,
    /// The TCP connection failed, mostly because the server reset it.
    Error(i32),
}

impl EarlyEnd {
    /// The end of a TCP connection, with the number of its error if there was one.
    #[must_use]
    pub fn of_tcp(errno: Option<i32>) -> Self {
        errno.map_or(Self::Eof, Self::Error)
    }

    /// The code of the server's Close frame.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        if let Self::Close(close) = self { close.code } else { None }
    }

    /// The reason that the server gave in its Close frame; empty if it gave none.
    #[must_use]
    pub fn reason(&self) -> &str {
        if let Self::Close(close) = self { &close.reason } else { "" }
    }

    /// The usual cause.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        let code = match self {
            Self::Close(close) => close.code?,
            Self::Eof => return Some("the server or a proxy before it ended, or a timeout of theirs was over"),
            Self::Error(_) => return Some("the server or a proxy before it ended or gave up: their logs will say why"),
        };
        Some(match code {
            1001 => "the server shuts down or restarts, or an idle timeout of its was over (--ping-every)",
            1003 => "the server does not take this type of message: --text or --binary",
            1002 => "the server finds a fault with the protocol",
            1007 => "the server finds a fault with the text of a message",
            1008 => "the server's policy: credentials (-H), rate limits, origin",
            1009 => "a message was larger than the server takes: a smaller --size, or a higher limit there",
            1011 => "an error within the server: its log will say why",
            1012 => "the server restarts",
            1013 => "the server is overloaded: a lower --rate or fewer --connections",
            1014 => "a proxy, whose server did not answer well",
            _ => return None,
        })
    }
}

impl fmt::Display for EarlyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close(ServerClose { code: Some(code), .. }) => match name_of(*code) {
                Some(name) => write!(f, "Close {code} ({name})"),
                None => write!(f, "Close {code}"),
            },
            Self::Close(_) => f.write_str("Close without a code"),
            Self::Eof => f.write_str("end of the TCP connection, without a Close"),
            Self::Error(libc::ECONNRESET | libc::EPIPE) => f.write_str("TCP reset, without a Close"),
            Self::Error(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// The name of a code in IANA's registry of WebSocket close codes.
fn name_of(code: u16) -> Option<&'static str> {
    Some(match code {
        1000 => "normal closure",
        1001 => "going away",
        1002 => "protocol error",
        1003 => "unsupported data",
        1007 => "invalid payload",
        1008 => "policy violation",
        1009 => "message too big",
        1010 => "mandatory extension",
        1011 => "internal error",
        1012 => "service restart",
        1013 => "try again later",
        1014 => "bad gateway",
        3000 => "unauthorized",
        3003 => "forbidden",
        3008 => "timeout",
        _ => return None,
    })
}

/// Reasons that are told apart: a server may put a number of its own into each.
const MAX_REASONS: usize = 32;

/// Connections that the server ended, by how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EarlyEnds(BTreeMap<EarlyEnd, u64>);

impl EarlyEnds {
    /// Counts so many more. When there are too many reasons already, a new one counts without it.
    pub fn count(&mut self, end: EarlyEnd, number: u64) {
        let end = match end {
            EarlyEnd::Close(close)
                if self.0.len() >= MAX_REASONS && !self.0.contains_key(&EarlyEnd::Close(close.clone())) =>
            {
                EarlyEnd::Close(ServerClose { reason: Box::default(), ..close })
            }
            end => end,
        };
        *self.0.entry(end).or_default() += number;
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        for (end, &number) in &other.0 {
            self.count(end.clone(), number);
        }
    }

    /// All of them, the most frequent first.
    #[must_use]
    pub fn by_count(&self) -> Vec<(&EarlyEnd, u64)> {
        let mut ends: Vec<_> = self.0.iter().map(|(end, &count)| (end, count)).collect();
        ends.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(code: u16, reason: &str) -> EarlyEnd {
        EarlyEnd::Close(ServerClose { code: Some(code), reason: reason.into() })
    }

    #[test]
    fn advice_is_for_the_stack_that_connections_have() {
        for transport in [Transport::Ring, Transport::Epoll, Transport::Tun] {
            for cause in [Cause::ConnectTimeout, Cause::of_error(libc::EHOSTUNREACH)] {
                let advice = cause.remedy(transport).expect("there is one");
                assert_eq!(advice.contains("--source"), transport != Transport::Tun, "{cause}: {advice}");
            }
        }
    }

    #[test]
    fn ends_are_told_apart_and_added() {
        let mut ends = EarlyEnds::default();
        for end in [close(1009, "too big"), close(1009, "too big"), close(1001, ""), EarlyEnd::of_tcp(None)] {
            ends.count(end, 1);
        }
        ends.count(EarlyEnd::of_tcp(Some(libc::ECONNRESET)), 1);
        let mut sum = ends.clone();
        sum.add(&ends);
        let all: Vec<_> = sum.by_count().into_iter().map(|(end, count)| (end.to_string(), count)).collect();
        assert_eq!(all[0], ("Close 1009 (message too big)".to_owned(), 4));
        assert_eq!(all.len(), 4);
        assert!(all.contains(&("TCP reset, without a Close".to_owned(), 2)));
    }

    #[test]
    fn reasons_without_end_take_no_memory_without_end() {
        let mut ends = EarlyEnds::default();
        for number in 0..1000 {
            ends.count(close(4000, &format!("session {number}")), 1);
        }
        assert_eq!(ends.0.len(), MAX_REASONS + 1);
        assert_eq!(ends.0.values().sum::<u64>(), 1000);
        assert_eq!(ends.by_count()[0].0.reason(), "");
    }
}
