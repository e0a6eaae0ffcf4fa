//! Routes: `--connect-to` redirects connections to another host, `--resolve` replaces the resolver.

use std::net::IpAddr;
use std::str::FromStr;

/// All that was said about it. The first entry that fits a host and port counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Other hosts to go to.
    pub connect_to: Vec<ConnectTo>,
    /// Addresses of names.
    pub resolve: Vec<Resolve>,
}

/// Connections to one host and port go to another; URL, `Host` and certificate stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTo {
    /// `None`: any.
    host: Option<String>,
    port: Option<u16>,
    /// `None`: the same.
    to_host: Option<String>,
    to_port: Option<u16>,
}

/// A name's addresses, instead of the resolver's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    host: String,
    port: u16,
    addresses: Vec<IpAddr>,
}

impl Routes {
    /// The host and port to go to instead of these.
    #[must_use]
    pub fn destination(&self, host: &str, port: u16) -> (String, u16) {
        let fits = |it: &&ConnectTo| {
            it.host.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(host)) && it.port.is_none_or(|own| own == port)
        };
        let found = self.connect_to.iter().find(fits);
        let to_host = found.and_then(|it| it.to_host.as_deref()).unwrap_or(host);
        (to_host.to_owned(), found.and_then(|it| it.to_port).unwrap_or(port))
    }

    /// The addresses that were given for this host and port.
    #[must_use]
    pub fn addresses(&self, host: &str, port: u16) -> Option<&[IpAddr]> {
        let fits = |it: &&Resolve| (it.host == "*" || it.host.eq_ignore_ascii_case(host)) && it.port == port;
        self.resolve.iter().find(fits).map(|it| it.addresses.as_slice())
    }
}

const CONNECT_TO: &str = "not HOST:PORT, nor HOST:PORT:OTHER_HOST:OTHER_PORT; IPv6 addresses stand in brackets";
const RESOLVE: &str = "not HOST:PORT:ADDRESS[,ADDRESS...]";

impl FromStr for ConnectTo {
    type Err = String;

    /// `HOST:PORT` for all connections, or curl's `HOST:PORT:OTHER_HOST:OTHER_PORT`, where what is empty means any or the
    /// same.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || CONNECT_TO.to_owned();
        match split(text).ok_or_else(wrong)?[..] {
            [host, port] if !host.is_empty() => {
                let (to_host, to_port) = (host_of(host), Some(number(port).ok_or_else(wrong)?));
                Ok(Self { host: None, port: None, to_host, to_port })
            }
            [host, port, to_host, to_port] => Ok(Self {
                host: host_of(host),
                port: maybe_number(port)?,
                to_host: host_of(to_host),
                to_port: maybe_number(to_port)?,
            }),
            _ => Err(wrong()),
        }
    }
}

impl FromStr for Resolve {
    type Err = String;

    /// curl's `HOST:PORT:ADDRESS[,ADDRESS...]`; `*` is any host.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || RESOLVE.to_owned();
        let (host, rest) = take_host(text).ok_or_else(wrong)?;
        let (port, addresses) = rest.strip_prefix(':').and_then(|rest| rest.split_once(':')).ok_or_else(wrong)?;
        let address = |text: &str| {
            let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
            bare.parse().map_err(|_| format!("`{text}` is no IP address; {RESOLVE}"))
        };
        Ok(Self {
            host: host_of(host).ok_or_else(wrong)?,
            port: number(port).ok_or_else(wrong)?,
            addresses: addresses.split(',').map(address).collect::<Result<_, _>>()?,
        })
    }
}

/// The parts between colons; those in brackets stay whole.
fn split(text: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, behind) = take_host(rest)?;
        parts.push(part);
        if behind.is_empty() {
            return Some(parts);
        }
        rest = behind.strip_prefix(':')?;
    }
}

/// The text up to the next colon that is not within brackets, and what follows.
fn take_host(text: &str) -> Option<(&str, &str)> {
    let from = if text.starts_with('[') { text.find(']')? } else { 0 };
    let end = text[from..].find(':').map_or(text.len(), |at| from + at);
    Some(text.split_at(end))
}

/// A host without brackets, as a URL has it; `None` if there is none.
fn host_of(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    // International names are compared in the form in which they are looked up.
    let ascii = url::Host::parse(bare).ok().and_then(|host| match host {
        url::Host::Domain(name) => Some(name),
        url::Host::Ipv4(_) | url::Host::Ipv6(_) => None,
    });
    (!bare.is_empty()).then(|| ascii.unwrap_or_else(|| bare.to_owned()))
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|&port| port > 0)
}

/// A port, or none.
fn maybe_number(text: &str) -> Result<Option<u16>, String> {
    if text.is_empty() { Ok(None) } else { number(text).map(Some).ok_or_else(|| CONNECT_TO.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(connect_to: &[&str], resolve: &[&str]) -> Routes {
        Routes {
            connect_to: connect_to.iter().map(|it| it.parse().unwrap()).collect(),
            resolve: resolve.iter().map(|it| it.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn connections_go_elsewhere() {
        let all = routes(&["[::1]:99"], &[]);
        assert_eq!(all.destination("a.example", 443), ("::1".to_owned(), 99));
        let some = routes(&["a.example:443:10.0.0.1:8443", ":81::82", "b.example::c.example:"], &[]);
        let to = |host, port| some.destination(host, port);
        assert_eq!(to("A.example", 443), ("10.0.0.1".to_owned(), 8443));
        assert_eq!(to("a.example", 80), ("a.example".to_owned(), 80));
        assert_eq!(to("x", 81), ("x".to_owned(), 82));
        assert_eq!(to("b.example", 5), ("c.example".to_owned(), 5));
        for wrong in ["", "a", "a:b", "a:0", "a:1:2", "a:1:b:2:c", ":1", "[::1:1"] {
            assert!(wrong.parse::<ConnectTo>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_have_the_addresses_that_were_given() {
        let given = routes(&[], &["a.example:80:127.0.0.2,[::1],::2", "*:81:127.0.0.9"]);
        let addresses = |host, port| given.addresses(host, port).map(<[IpAddr]>::len);
        assert_eq!(addresses("a.EXAMPLE", 80), Some(3));
        assert_eq!((addresses("a.example", 82), addresses("b", 81)), (None, Some(1)));
        let international = routes(&[], &["bücher.example:80:127.0.0.2"]);
        assert!(international.addresses("xn--bcher-kva.example", 80).is_some());
        for wrong in ["", "a:1", "a:1:", "a:1:b", "a:x:127.0.0.1", ":1:127.0.0.1"] {
            assert!(wrong.parse::<Resolve>().is_err(), "{wrong}");
        }
    }
}
