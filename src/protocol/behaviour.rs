//! The behaviours that a client can request by path and query, instead of an echo (docs/BEHAVIOURS.md).

use std::ops::RangeInclusive;

/// Bytes of a source's message: what is queued of a slow reader's source is one message at most.
const SIZES: RangeInclusive<u64> = 0..=1 << 20;
/// Messages a second, of which a tick of 10 ms brings a thousand.
const RATES: RangeInclusive<u64> = 0..=100_000;
/// An echo that is late by a minute: longer than the timeouts of clients and proxies.
const DELAYS_MS: RangeInclusive<u64> = 0..=60_000;
const COUNTS: RangeInclusive<u64> = 0..=u32::MAX as u64;
const CLOSE_CODES: RangeInclusive<u64> = 0..=u16::MAX as u64;
/// Statuses that end an upgrade request: informational ones do not.
const STATUSES: RangeInclusive<u16> = 200..=599;

/// A behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Messages are echoed.
    Echo,
    /// Messages are discarded, and none is sent.
    Sink,
    /// A sink that sends messages.
    Source(Source),
    /// Messages are echoed this many milliseconds later.
    Delay { ms: u32 },
    /// After this many echoes the server closes with this code.
    Close { code: u16, after: u32 },
    /// The request is answered with this status.
    Status(u16),
    /// After this many echoes the TCP connection is reset.
    Abort { after: u32 },
    /// After this many echoes nothing is sent any more, no Pong and no Close; `None`: not even an answer to the request.
    Hang { after: Option<u32> },
}

/// The output of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Bytes of a message.
    pub size: u32,
    /// Messages a second at most; 0: as many as the peer takes.
    pub rate: u32,
    /// Messages in all, then Close 1000; 0: until the peer closes.
    pub count: u32,
}

impl Behaviour {
    /// The behaviour at this path, which is in normal form; `None`: there is none. The error says what is wrong with the
    /// query.
    pub(super) fn at(path: &str, query: &str) -> Option<Result<Self, String>> {
        let mut query = Query::new(query);
        let behaviour = match path {
            "/echo" => Ok(Self::Echo),
            "/sink" => Ok(Self::Sink),
            "/source" => Self::source(&mut query),
            "/delay" => query.number("ms", DELAYS_MS).map(|ms| Self::Delay { ms: ms.unwrap_or(100) }),
            "/close" => Self::close(&mut query),
            "/abort" => query.number("after", COUNTS).map(|after| Self::Abort { after: after.unwrap_or(0) }),
            "/hang" => query.number("after", COUNTS).map(|after| Self::Hang { after }),
            path => match path.strip_prefix("/status/")?.parse() {
                Ok(status) if STATUSES.contains(&status) => Ok(Self::Status(status)),
                _ => Err(format!("/status/ takes a number from {} to {}.", STATUSES.start(), STATUSES.end())),
            },
        };
        Some(behaviour.and_then(|behaviour| query.end().map(|()| behaviour)))
    }

    fn source(query: &mut Query) -> Result<Self, String> {
        Ok(Self::Source(Source {
            size: query.number("size", SIZES)?.unwrap_or(1024),
            rate: query.number("rate", RATES)?.unwrap_or(1),
            count: query.number("count", COUNTS)?.unwrap_or(0),
        }))
    }

    fn close(query: &mut Query) -> Result<Self, String> {
        let code = query.number("code", CLOSE_CODES)?.unwrap_or(1000) as u16;
        Ok(Self::Close { code, after: query.number("after", COUNTS)?.unwrap_or(0) })
    }
}

/// The parameters of a query that were not asked for yet.
struct Query<'q> {
    parameters: Vec<(&'q str, &'q str)>,
}

impl<'q> Query<'q> {
    fn new(query: &'q str) -> Self {
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        Self { parameters: parameters.map(|it| it.split_once('=').unwrap_or((it, ""))).collect() }
    }

    fn number(&mut self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u32>, String> {
        let Some(place) = self.parameters.iter().position(|(it, _)| *it == name) else { return Ok(None) };
        let (_, value) = self.parameters.remove(place);
        match value.parse() {
            Ok(number) if range.contains(&number) && value.bytes().all(|digit| digit.is_ascii_digit()) => {
                Ok(Some(number as u32))
            }
            _ => Err(format!("{name} takes a number from {} to {}.", range.start(), range.end())),
        }
    }

    fn end(&self) -> Result<(), String> {
        match self.parameters.first() {
            Some((name, _)) => Err(format!("Parameter {} is unknown here, or given twice.", shown(name))),
            None => Ok(()),
        }
    }
}

/// A name that the client has sent, as far as an answer repeats it.
fn shown(name: &str) -> String {
    name.chars().take(50).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_name_behaviours() {
        let source = |size, rate, count| Behaviour::Source(Source { size, rate, count });
        for (path, query, behaviour) in [
            ("/echo", "", Behaviour::Echo),
            ("/sink", "&", Behaviour::Sink),
            ("/source", "", source(1024, 1, 0)),
            ("/source", "count=3&size=0&rate=0", source(0, 0, 3)),
            ("/delay", "ms=60000", Behaviour::Delay { ms: 60_000 }),
            ("/close", "", Behaviour::Close { code: 1000, after: 0 }),
            ("/close", "code=1006&after=2", Behaviour::Close { code: 1006, after: 2 }),
            ("/status/503", "", Behaviour::Status(503)),
            ("/abort", "after=1", Behaviour::Abort { after: 1 }),
            ("/hang", "", Behaviour::Hang { after: None }),
            ("/hang", "after=0", Behaviour::Hang { after: Some(0) }),
        ] {
            assert_eq!(Behaviour::at(path, query), Some(Ok(behaviour)), "{path}?{query}");
        }
        for path in ["/", "/Echo", "/echo/", "/status", "/sources"] {
            assert_eq!(Behaviour::at(path, ""), None, "{path}");
        }
    }

    #[test]
    fn what_is_beyond_its_bounds_is_refused_by_name() {
        for (path, query, name) in [
            ("/source", "size=1048577", "size"),
            ("/source", "rate=100001", "rate"),
            ("/source", "rate=-1", "rate"),
            ("/source", "rate=+1", "rate"),
            ("/source", "count=", "count"),
            ("/delay", "ms=60001", "ms"),
            ("/delay", "ms=99999999999999999999", "ms"),
            ("/close", "code=65536", "code"),
            ("/echo", "ms=1", "ms"),
            ("/delay", "ms=1&ms=2", "ms"),
            ("/status/199", "", "/status/"),
            ("/status/6000", "", "/status/"),
            ("/status/", "", "/status/"),
        ] {
            let error = Behaviour::at(path, query).expect(path).expect_err(query);
            assert!(error.contains(name), "{path}?{query}: {error}");
        }
    }
}
