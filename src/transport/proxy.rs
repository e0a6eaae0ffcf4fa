//! The PROXY protocol, versions 1 and 2, by which a load balancer names the client of a connection (`HAProxy`'s
//! `proxy-protocol.txt`, 2.1 and 2.2).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a header of version 1 at most, with its CR LF (2.1).
const V1_MAX: usize = 107;
/// Bytes of a header of version 2 at most. The protocol allows for 64 KiB; balancers send addresses and a few hundred bytes
/// of TLVs, and nginx takes as many as this.
const V2_MAX: usize = 4096;
/// Bytes in front of the address block.
const V2_FIXED: usize = 16;
/// The beginning of a header of version 1.
const V1_START: &[u8] = b"PROXY ";
/// The beginning of a header of version 2, with which no protocol in use begins.
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The versions that a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// Text.
    V1,
    /// Binary.
    V2,
    /// Both.
    Any,
}

impl Versions {
    /// As in `?proxy=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Any => "any",
        }
    }
}

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client, if the balancer says so: it does not for its own health checks (`LOCAL`, `UNKNOWN`), nor for clients at
    /// Unix sockets.
    pub source: Option<SocketAddr>,
    /// Bytes of the header, TLVs included. What follows is the client's.
    pub len: usize,
}

/// The bytes are not a header, with the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid(pub &'static str);

/// Reads a header at the start of `bytes`; `None`: so far it is one, but not all of it.
///
/// The answer does not depend on how many bytes there are, once they are enough for one.
pub fn parse(versions: Versions, bytes: &[u8]) -> Result<Option<Header>, Invalid> {
    let takes_v1 = versions != Versions::V2 && starts(bytes, V1_START);
    let takes_v2 = versions != Versions::V1 && starts(bytes, V2_START);
    match (takes_v1, takes_v2) {
        // No byte has arrived yet.
        (true, true) => Ok(None),
        (true, false) => parse_v1(bytes),
        (false, true) => parse_v2(bytes),
        (false, false) => Err(Invalid("it does not begin with a PROXY protocol header")),
    }
}

/// Whether one of the two is the beginning of the other.
fn starts(bytes: &[u8], with: &[u8]) -> bool {
    let len = bytes.len().min(with.len());
    bytes[..len] == with[..len]
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Invalid> {
    let seen = &bytes[..bytes.len().min(V1_MAX)];
    let is_odd = |&byte: &u8| !(b' '..0x7f).contains(&byte);
    let Some(end) = seen.iter().position(is_odd) else {
        return if seen.len() == V1_MAX { Err(Invalid("its line is too long")) } else { Ok(None) };
    };
    match seen[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if seen.len() < V1_MAX => return Ok(None),
        _ => return Err(Invalid("its line does not end with CR LF")),
    }
    let line = core::str::from_utf8(&seen[V1_START.len()..end]).map_err(|_| Invalid("it is not ASCII"))?;
    Ok(Some(Header { source: parse_addresses(line)?, len: end + 2 }))
}

/// `TCP4 SOURCE DESTINATION PORT PORT`, the same with `TCP6`, or `UNKNOWN` with anything behind it.
fn parse_addresses(line: &str) -> Result<Option<SocketAddr>, Invalid> {
    let mut words = line.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let mut next = || words.next().ok_or(Invalid("its line is not complete"));
    let (source, destination, port, other_port) = (next()?, next()?, next()?, next()?);
    if words.next().is_some() {
        return Err(Invalid("its line has too many words"));
    }
    let address = |text: &str| {
        let address = match family {
            "TCP4" => text.parse().map(IpAddr::V4).ok(),
            "TCP6" => text.parse().map(IpAddr::V6).ok(),
            _ => return Err(Invalid("its protocol is neither TCP4, TCP6 nor UNKNOWN")),
        };
        address.ok_or(Invalid("an address in it is none"))
    };
    let ip = address(source)?;
    address(destination)?;
    parse_port(other_port)?;
    Ok(Some(SocketAddr::new(ip, parse_port(port)?)))
}

fn parse_port(text: &str) -> Result<u16, Invalid> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or(Invalid("a port in it is none"))
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Invalid> {
    // Known errors are reported at once.
    let is_local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(Invalid("its version or command is unknown")),
    };
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    // Bytes of the two addresses and, in two of them, of the two ports (2.2).
    let needed = match family {
        _ if is_local => 0, // it is to be ignored
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(Invalid("its address family or protocol is unknown")),
    };
    let Some(&[high, low]) = bytes.get(14..V2_FIXED) else { return Ok(None) };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    if rest < needed {
        return Err(Invalid("it is too short for its addresses"));
    }
    let len = V2_FIXED + rest;
    if len > V2_MAX {
        return Err(Invalid("it is too long"));
    }
    let Some(block) = bytes.get(V2_FIXED..len) else { return Ok(None) };
    let source = if is_local { None } else { source_of(family, block) };
    Ok(Some(Header { source, len }))
}

/// The source in an address block that is long enough for its family.
fn source_of(family: u8, block: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    match family {
        0x11 => {
            let ip = Ipv4Addr::from(<[u8; 4]>::try_from(&block[..4]).ok()?);
            Some(SocketAddr::new(ip.into(), port(8)))
        }
        0x21 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(&block[..16]).ok()?);
            Some(SocketAddr::new(ip.into(), port(32)))
        }
        _ => None,
    }
}

/// A header that is half read, at most as many bytes as one has.
#[derive(Debug, Default)]
pub(crate) struct HalfRead(Vec<u8>);

/// The progress by a receive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Not all of it.
    Partial,
    /// It ends before `used` of what was received.
    Complete {
        used: usize,
        source: Option<SocketAddr>,
    },
    Invalid(Invalid),
}

impl HalfRead {
    pub(crate) fn receive(&mut self, versions: Versions, bytes: &[u8]) -> Progress {
        let known = self.0.len();
        let outcome = if known == 0 {
            parse(versions, bytes)
        } else {
            // No header has more bytes than that, and the rest may be a flood.
            let piece = &bytes[..bytes.len().min(V2_MAX - known)];
            self.0.extend_from_slice(piece);
            parse(versions, &self.0)
        };
        match outcome {
            Ok(None) if known == 0 => self.0 = bytes.to_vec(),
            Ok(None) => {}
            Ok(Some(header)) => return Progress::Complete { used: header.len - known, source: header.source },
            Err(invalid) => return Progress::Invalid(invalid),
        }
        Progress::Partial
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        self.0.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        [V2_START, &[0x20 | command, family], &(block.len() as u16).to_be_bytes(), block].concat()
    }

    fn source(versions: Versions, bytes: &[u8]) -> Option<SocketAddr> {
        parse(versions, bytes).expect("valid").expect("complete").source
    }

    #[test]
    fn headers_of_version_1() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n", Some("192.0.2.7:56324")),
            ("PROXY TCP6 2001:db8::7 ::1 1 65535\r\n", Some("[2001:db8::7]:1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff:: whatever 1 2\r\n", None),
        ] {
            let bytes = [line.as_bytes(), b"GET /"].concat();
            let header = parse(Versions::V1, &bytes).unwrap().unwrap();
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!((header.source, header.len), (expected, line.len()), "{line}");
            assert_eq!(parse(Versions::Any, &bytes), Ok(Some(header)));
            assert!(parse(Versions::V2, &bytes).is_err(), "{line}");
        }
    }

    #[test]
    fn nonsense_in_version_1() {
        for line in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r \n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            "PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY\tUNKNOWN\r\n",
            "PROXY UNKNOWN \u{e9}\r\n",
            "proxy UNKNOWN\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            assert!(parse(Versions::Any, line.as_bytes()).is_err(), "{line:?}");
        }
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; V1_MAX]].concat();
        assert_eq!(parse(Versions::V1, &long[..V1_MAX - 1]), Ok(None));
        assert!(parse(Versions::V1, &long[..V1_MAX]).is_err());
        let longest = [&b"PROXY UNKNOWN "[..], &[b'x'; V1_MAX - 16], b"\r\n"].concat();
        assert_eq!(parse(Versions::V1, &longest).unwrap().unwrap().len, V1_MAX);
    }

    #[test]
    fn headers_of_version_2() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0xdc, 0x04, 1, 187];
        let address = Some("192.0.2.7:56324".parse().unwrap());
        assert_eq!(source(Versions::V2, &v2(1, 0x11, &v4)), address);
        assert_eq!(source(Versions::Any, &v2(1, 0x11, &[&v4[..], &[4, 0, 3, 1, 2, 3]].concat())), address, "a TLV");
        let mut v6 = [0; 36];
        (v6[15], v6[33]) = (1, 80);
        assert_eq!(source(Versions::V2, &v2(1, 0x21, &v6)), Some("[::1]:80".parse().unwrap()));
        for (command, family, block) in [
            (0, 0x00, &[][..]),
            (0, 0x11, &v4),
            (0, 0x99, &[1, 2, 3]),
            (1, 0x00, &[]),
            (1, 0x12, &v4),
            (1, 0x31, &[0; 216]),
        ] {
            assert_eq!(source(Versions::V2, &v2(command, family, block)), None, "{command} {family:x}");
        }
        assert!(parse(Versions::V1, &v2(0, 0, &[])).is_err());
    }

    #[test]
    fn nonsense_in_version_2() {
        for (command, family, block) in
            [(2, 0x11, &[0; 12][..]), (1, 0x11, &[0; 11]), (1, 0x13, &[0; 12]), (1, 0x41, &[0; 12]), (0x11, 0, &[])]
        {
            assert!(parse(Versions::Any, &v2(command, family, block)).is_err(), "{command} {family:x}");
        }
        assert!(parse(Versions::V2, &v2(0, 0, &vec![0; V2_MAX])).is_err());
        assert!(parse(Versions::V2, &v2(0, 0, &vec![0; V2_MAX - V2_FIXED])).is_ok());
    }

    /// Headers, and what is nearly one.
    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        let v1 = "PROXY (TCP4|TCP6|UNKNOWN)( [0-9:.]{1,15}){0,4}\r?\n?.{0,9}".prop_map(String::into_bytes);
        let block = proptest::collection::vec(any::<u8>(), 0..260);
        let v2 = (0_u8..3, prop::sample::select(vec![0, 0x11, 0x12, 0x21, 0x31, 0x77]), block, any::<bool>()).prop_map(
            |(command, family, block, is_cut)| {
                let mut bytes = v2(command, family, &block);
                bytes.truncate(if is_cut { bytes.len() * 2 / 3 } else { bytes.len() });
                bytes
            },
        );
        prop_oneof![v1, v2, proptest::collection::vec(any::<u8>(), 0..40)]
    }

    proptest! {
        /// However it is cut, it is the same header, or refused.
        #[test]
        fn cuts_do_not_matter(bytes in any_bytes(), cuts in proptest::collection::vec(1_usize..50, 0..20)) {
            for versions in [Versions::V1, Versions::V2, Versions::Any] {
                let whole = parse(versions, &bytes);
                let mut half_read = HalfRead::default();
                let (mut at, mut cuts) = (0, cuts.iter());
                let mut progress = Progress::Partial;
                while at < bytes.len() && progress == Progress::Partial {
                    let end = cuts.next().map_or(bytes.len(), |cut| (at + cut).min(bytes.len()));
                    progress = half_read.receive(versions, &bytes[at..end]);
                    prop_assert!(half_read.memory() <= 2 * V2_MAX);
                    if let Progress::Complete { used, .. } = progress {
                        prop_assert!(used <= end - at);
                        prop_assert_eq!(at + used, whole.unwrap().unwrap().len);
                    }
                    at = end;
                }
                match whole {
                    Ok(None) => prop_assert_eq!(progress, Progress::Partial),
                    Ok(Some(_)) => {
                        let is_complete = matches!(progress, Progress::Complete { .. });
                        prop_assert!(is_complete);
                    }
                    Err(_) => {
                        let is_invalid = matches!(progress, Progress::Invalid(_));
                        prop_assert!(is_invalid);
                    }
                }
            }
        }
    }
}
