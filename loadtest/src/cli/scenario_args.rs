//! Options of a scenario, on the command line and in a scenario file.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Serialize, Serializer};

use super::values::{
    Active, Depth, Given, Percent, Stage, connect_rate, count, count_or_none, messages, positive_seconds, rate, seconds,
};
use crate::driver::plan::{Plan, Ramp};
use crate::message::expect::Expect;
use crate::message::own::OwnMessages;
use crate::message::sizes::Sizes;
use crate::parsing::show_duration;
use crate::scenario::{Arrivals, Connect, Deflate, OpenLoop, Scenario, Traffic, Upkeep};
use crate::search::Quantity;
use crate::source::SourceList;
use crate::target::routes::{ConnectTo, Resolve, Routes};
use crate::tls::TlsOptions;
use crate::websocket::deflate::{MAX_BITS, MIN_BITS, Offer};
use crate::websocket::handshake::{Extras, check_header, is_token};

/// Default payload of a message, in bytes.
const DEFAULT_SIZE: usize = 128;

/// Default compressibility with `--deflate`: messages compress about as well as JSON does.
const COMPRESSIBILITY: u8 = 75;

/// Default connections to a given server: a light load, and enough to see something.
const CONNECTIONS: u32 = 100;

/// Default connections to a ringecho that exists for the run only: the demonstration of README.md.
const OWN_CONNECTIONS: u32 = 10_000;

/// The load. Serialized, this is a scenario file.
#[derive(Clone, Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct ScenarioArgs {
    /// Servers, as ws://host:port/path, wss://, ws+unix: or tcp://; without one, a ringecho for the run
    ///
    /// ws://host:port/path, wss://host/path (TLS), ws+unix:/socket:/path, or tcp://host:port (messages without frames,
    /// for comparison). Connections are spread over several URLs in turn. Without a URL a ringecho is started on a free
    /// port for the run.
    #[expect(clippy::doc_markdown, reason = "URLs in a help text")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) url: Vec<String>,

    /// Connections [default: 100; without a URL 10k]
    ///
    /// With --connection-stages, those opened before the first stage [default: 0].
    #[arg(short = 'c', long, value_name = "N", value_parser = count)]
    connections: Option<u32>,

    /// Change the number of connections in stages, like "1m:10k, 5m:10k, 1m:0"
    ///
    /// In each stage it moves in a straight line from its current value to that number. The first stage begins at
    /// --connections; the run takes the time of all stages.
    #[arg(long, value_name = "STAGES", value_delimiter = ',', conflicts_with = "duration")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    connection_stages: Vec<Stage>,

    /// Connection attempts per second; 0 is unlimited
    #[arg(long, value_name = "N/S", default_value = "0", value_parser = connect_rate)]
    connect_rate: f64,

    /// Connection attempts in progress at the same time
    #[arg(long, value_name = "N", default_value = "512", value_parser = count)]
    connect_window: u32,

    /// Time for a connection to become ready
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = positive_seconds)]
    #[serde(serialize_with = "as_time")]
    connect_timeout: Duration,

    /// Connections that send: a number, or a share like 1%
    #[arg(short = 'a', long, value_name = "N|P%", default_value = "100%")]
    active: Active,

    /// Payload of a message, like 16KiB [default: 128]
    ///
    /// One size, a range like 16-4KiB (all sizes equally often), or sizes with weights like 128:90,64KiB:10. From 16 bytes on, messages carry their
    /// connection and sequence number.
    #[arg(short = 's', long, value_name = "BYTES")]
    #[serde(serialize_with = "as_maybe_text")]
    size: Option<Sizes>,

    /// Send this message instead of generated ones
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["size", "message_file"])]
    message: Option<String>,

    /// Send the content of this file as one message, or with --lines each line as a message, in turn
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    message_file: Option<PathBuf>,

    /// Each line of --message-file is a message; empty lines are skipped
    #[arg(long, requires = "message_file")]
    lines: bool,

    /// Expected answer: echo, any, N or none
    ///
    /// echo (the default): the message itself, every byte compared. any: one message with any content; unrequested ones
    /// are allowed. N: that many messages. none: no answer.
    #[arg(long, value_name = "WHAT", conflicts_with = "no_verify")]
    #[serde(serialize_with = "as_maybe_text")]
    expect: Option<Expect>,

    /// Messages that the server sends first on each connection; they are not checked
    #[arg(long, value_name = "N", default_value = "0", value_parser = count_or_none)]
    welcome: u32,

    /// Open loop: total messages per second
    ///
    /// Sent by all active connections together, whether or not echoes have come back; latency counts from when a
    /// message was due. Without --rate, each connection sends when its echo is back (--depth).
    #[arg(short = 'r', long, value_name = "N/S", value_parser = rate)]
    rate: Option<f64>,

    /// Rate in stages, like "30s:1000, 2m:20k, 30s:0"
    ///
    /// In each stage the rate moves in a straight line from its current value to that one. The first stage begins at
    /// --rate, or at 0; the run takes the time of all stages, --warmup included.
    #[arg(long, value_name = "STAGES", value_delimiter = ',', conflicts_with = "duration")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stages: Vec<Stage>,

    /// Spacing of messages in an open loop
    #[arg(long, value_enum, default_value_t = Arrivals::Constant)]
    arrivals: Arrivals,

    /// Messages in flight per connection [default: 1]
    ///
    /// This is the maximum; with a rate the default is unlimited.
    #[arg(short = 'd', long, value_name = "N")]
    depth: Option<Depth>,

    /// Measured time [default: 10s; in a search 3s]
    #[arg(short = 't', long, value_name = "TIME", value_parser = seconds)]
    #[serde(serialize_with = "as_maybe_time", skip_serializing_if = "Option::is_none")]
    duration: Option<Duration>,

    /// Load before the measured time [default: 2s; with --messages or stages 0; in a search 1s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    #[serde(serialize_with = "as_maybe_time")]
    warmup: Option<Duration>,

    /// End after that many messages, or after --duration if that is earlier
    #[arg(short = 'n', long, value_name = "N", value_parser = messages)]
    messages: Option<u64>,

    /// Send text messages (printable ASCII). Own messages are text if they are UTF-8, unless --binary is given
    #[arg(long, overrides_with = "binary")]
    text: bool,

    /// Send binary messages (the default)
    #[arg(long, overrides_with = "text")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    binary: bool,

    /// Share of filling in generated messages: 0% is random, 100% all the same [default: 0%; with --deflate 75%]
    ///
    /// The filling is spread evenly; the rest does not compress. With --text the rest is printable, and compresses by a
    /// sixth.
    #[arg(long, value_name = "P%", conflicts_with_all = ["message", "message_file"])]
    compressibility: Option<Percent>,

    /// Offer compression (permessage-deflate) as browsers do
    ///
    /// RFC 7692. Messages are compressed if the server agrees. If it declines, messages are sent uncompressed, and the
    /// results say on how many connections.
    #[arg(long, conflicts_with = "tcp")]
    deflate: bool,

    /// --deflate without context takeover, on both sides
    ///
    /// Each message is compressed independently, which takes no memory per connection on either side.
    #[arg(long, requires = "deflate")]
    deflate_no_context: bool,

    /// --deflate with windows of at most 2^N bytes on both sides: 9 to 15
    #[arg(long, value_name = "N", requires = "deflate",
          value_parser = clap::value_parser!(u8).range(i64::from(MIN_BITS)..=i64::from(MAX_BITS)))]
    deflate_window_bits: Option<u8>,

    /// --deflate with messages compressed in advance, so that ringload costs less than the server
    ///
    /// A few variants of each size; each message has its own identification. Not with a range of sizes.
    #[arg(long, requires = "deflate")]
    deflate_precompressed: bool,

    /// Connections are ready without having echoed a first message
    #[arg(long)]
    no_greet: bool,

    /// Do not compare echoes with what was sent; the same as --expect any
    #[arg(long)]
    #[serde(skip)]
    no_verify: bool,

    /// Under load, close and reopen one connection every TIME
    ///
    /// Connections take turns: TIME is from one to the next, in total.
    #[arg(long, value_name = "TIME", value_parser = positive_seconds)]
    #[serde(serialize_with = "as_maybe_time")]
    reconnect_every: Option<Duration>,

    /// The same, given as the lifetime of each connection
    #[arg(long, value_name = "TIME", value_parser = positive_seconds, conflicts_with = "reconnect_every")]
    #[serde(serialize_with = "as_maybe_time")]
    lifetime: Option<Duration>,

    /// Under load, close and reopen a connection after that many echoes
    #[arg(long, value_name = "N", value_parser = count,
          conflicts_with_all = ["rate", "stages", "find_max_rate"])]
    messages_per_connection: Option<u32>,

    /// Under load, ping each connection every TIME
    #[arg(long, value_name = "TIME", value_parser = positive_seconds)]
    #[serde(serialize_with = "as_maybe_time")]
    ping_every: Option<Duration>,

    /// Connections that send as much as the server takes, and read nothing; not among the active ones
    #[arg(long, value_name = "N", default_value = "0", value_parser = count_or_none)]
    slow_readers: u32,

    /// Source addresses: a block like 127.1.0.0/16, or a list of addresses and blocks
    ///
    /// Default: above 1,000 connections to IPv4 loopback a block in 127.64.0.0/9, otherwise chosen by the kernel.
    #[arg(long, value_name = "CIDR|LIST")]
    source: Option<String>,

    /// Subprotocol to offer; may be given several times, in order of preference
    #[arg(long, value_name = "NAME", value_parser = token)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subprotocol: Vec<String>,

    /// Header of the upgrade request, like "Cookie: a=b"
    ///
    /// May be given several times. It replaces a default header of the same name. In its value and in the URL's path,
    /// an n in braces is the connection's number, and {line:FILE} a line of a file, taken in turn.
    #[arg(short = 'H', long, value_name = "HEADER", value_parser = header)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    header: Vec<String>,

    /// Connect to this host and port instead of the URL's
    ///
    /// To replace only one host and port, put it in front: HOST:PORT:HOST:PORT. May be given several times.
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_texts")]
    connect_to: Vec<Given<ConnectTo>>,

    /// Addresses of a host and port, instead of asking the resolver
    ///
    /// May be given several times.
    #[arg(long, value_name = "HOST:PORT:ADDRESS[,...]")]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_texts")]
    resolve: Vec<Given<Resolve>>,

    /// wss: accept any certificate
    #[arg(long)]
    insecure: bool,

    /// wss: trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// wss: name to send as SNI and to require in the certificate [default: the URL's host]
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,

    /// wss: client certificate (PEM)
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,

    /// wss: private key of --cert [default: in the same file]
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Time to wait for outstanding echoes at the end
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = seconds)]
    #[serde(serialize_with = "as_time")]
    drain_timeout: Duration,

    /// Time to wait for the answer to a Close
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    #[serde(serialize_with = "as_time")]
    close_timeout: Duration,

    /// Speak bare TCP with the ringecho started for the run
    #[arg(long, conflicts_with = "url")]
    pub(super) tcp: bool,

    /// Conditions on the results that fail the run: on the command line they are among the options of the results.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fail_if: Vec<String>,
}

impl ScenarioArgs {
    /// Fills in the defaults that depend on other options.
    pub(super) fn fill_in(&mut self, search: Option<Quantity>) {
        let has_stages = !(self.stages.is_empty() && self.connection_stages.is_empty());
        let (duration, warmup) = match (search, self.messages) {
            (Some(_), _) => (3, 1),
            (None, Some(_)) => (10, 0),
            (None, None) => (10, if has_stages { 0 } else { 2 }),
        };
        if !has_stages {
            self.duration.get_or_insert(Duration::from_secs(duration));
        }
        self.warmup.get_or_insert(Duration::from_secs(warmup));
        if self.connection_stages.is_empty() {
            self.connections.get_or_insert(if self.url.is_empty() { OWN_CONNECTIONS } else { CONNECTIONS });
        }
        let is_open_loop = self.rate.is_some() || !self.stages.is_empty() || search == Some(Quantity::Rate);
        self.depth.get_or_insert(if is_open_loop { Depth::Unlimited } else { Depth::Limited(1) });
        let is_compared = !std::mem::take(&mut self.no_verify);
        self.expect.get_or_insert(if is_compared { Expect::Echo } else { Expect::Answers(1) });
        if self.message.is_none() && self.message_file.is_none() {
            self.size.get_or_insert(Sizes::Fixed(DEFAULT_SIZE));
            self.compressibility.get_or_insert(Percent(if self.deflate { COMPRESSIBILITY } else { 0 }));
        }
    }

    /// Gives the quantity that a search varies a value.
    pub(super) fn set(&mut self, quantity: Quantity, value: u64) {
        match quantity {
            Quantity::Rate => self.rate = Some(value as f64),
            Quantity::Connections => self.connections = Some(u32::try_from(value).unwrap_or(u32::MAX)),
        }
    }

    /// What the options mean, once they are all filled in; refuses those that contradict each other.
    pub(super) fn resolve(&self) -> Result<Scenario, String> {
        let plan = self.plan()?;
        let connections = match &plan.connections {
            Some(ramp) => ramp.max().ceil() as u32,
            None => self.connections.unwrap_or(CONNECTIONS),
        };
        let Some(regular) = connections.checked_sub(self.slow_readers) else {
            return Err(format!("--slow-readers {} is more than --connections {connections}", self.slow_readers));
        };
        let active = match self.active {
            Active::Count(count) if count > regular => {
                return Err(format!("--active {count} is more than the {regular} connections that read"));
            }
            Active::Count(count) => count,
            Active::Percent(percent) => (f64::from(regular) * percent / 100.0).round() as u32,
        };
        let rate = plan.rate.as_ref().map(Ramp::max).or(self.rate);
        let open = rate.map(|rate| OpenLoop { rate, arrivals: self.arrivals });
        if open.is_some() && active == 0 {
            return Err("--rate needs active connections".to_owned());
        }
        let warmup = self.warmup.unwrap_or_default();
        let duration = self.measured_time(&plan, warmup)?;
        let own = self.own_messages()?;
        let expect = self.expect.unwrap_or_default();
        if expect == Expect::Nothing && active > 0 && open.is_none() {
            return Err("--expect none needs --rate: nothing comes back that would tell when to send again".to_owned());
        }
        let deflate =
            self.deflate.then(|| Deflate { offer: self.offer(), is_precompressed: self.deflate_precompressed });
        if self.deflate_precompressed && matches!(self.size, Some(Sizes::Uniform { .. })) {
            return Err("--deflate-precompressed needs one size, or a list of sizes: a range has too many".to_owned());
        }
        Ok(Scenario {
            connections,
            connect: Connect {
                rate: self.connect_rate,
                window: self.connect_window,
                timeout: self.connect_timeout,
                greet: !self.no_greet && expect != Expect::Nothing,
            },
            active,
            traffic: Traffic {
                sizes: match &own {
                    Some(own) => own.sizes(),
                    None => self.size.clone().unwrap_or(Sizes::Fixed(DEFAULT_SIZE)),
                },
                depth: match self.depth {
                    Some(Depth::Limited(depth)) => depth,
                    Some(Depth::Unlimited) | None => u32::MAX,
                },
                open,
                text: self.text || (!self.binary && own.as_ref().is_some_and(OwnMessages::are_text)),
                own,
                expect,
                welcomes: self.welcome,
                compressibility: self.compressibility.map_or(0, |it| it.0),
                deflate,
                limit: self.messages,
            },
            upkeep: Upkeep {
                reconnect_every: self.reconnect_every.or_else(|| self.lifetime.map(|it| it / connections)),
                messages_per_connection: self.messages_per_connection,
                ping_every: self.ping_every,
                slow_readers: self.slow_readers,
            },
            plan,
            warmup,
            duration,
            drain_timeout: self.drain_timeout,
            close_timeout: self.close_timeout,
            portion: crate::scenario::Portion::default(),
        })
    }

    /// How the load changes.
    fn plan(&self) -> Result<Plan, String> {
        let rate = ramp("--stages", self.rate.unwrap_or(0.0), &self.stages)?;
        let connections =
            ramp("--connection-stages", f64::from(self.connections.unwrap_or(0)), &self.connection_stages)?;
        if connections.as_ref().is_some_and(|ramp| ramp.max() > f64::from(u32::MAX)) {
            return Err("--connection-stages: that many connections cannot be".to_owned());
        }
        if connections.is_some() && self.slow_readers > 0 {
            return Err("--slow-readers and --connection-stages cannot be used together".to_owned());
        }
        Ok(Plan { connections, rate })
    }

    /// The time behind the warm-up: as it was asked for, or what the stages leave.
    fn measured_time(&self, plan: &Plan, warmup: Duration) -> Result<Duration, String> {
        let stages = plan.connections.iter().chain(&plan.rate).map(Ramp::duration).max();
        let Some(stages) = stages else { return Ok(self.duration.unwrap_or_default()) };
        match stages.checked_sub(warmup) {
            Some(measured) if !measured.is_zero() => Ok(measured),
            _ => Err("--warmup takes all the time of the stages".to_owned()),
        }
    }

    /// The user's messages, if there are any.
    fn own_messages(&self) -> Result<Option<OwnMessages>, String> {
        let own = match (&self.message, &self.message_file) {
            (Some(text), _) => OwnMessages::text(text),
            (None, Some(path)) => {
                OwnMessages::read(path, self.lines).map_err(|why| format!("--message-file: {why}"))?
            }
            (None, None) => return Ok(None),
        };
        if self.text && !own.are_text() {
            return Err(format!("--text: not all of {} is UTF-8", own.from()));
        }
        Ok(Some(own))
    }

    /// What the upgrade requests ask for.
    pub(super) fn extras(&self) -> Result<Extras, String> {
        let extras = Extras::new(&self.subprotocol, &self.header).map_err(|error| format!("-H: {error}"))?;
        Ok(extras.with_deflate(self.deflate.then(|| self.offer())))
    }

    /// The compression that is offered, if any is.
    fn offer(&self) -> Offer {
        Offer { no_context: self.deflate_no_context, window_bits: self.deflate_window_bits }
    }

    /// Where connections really go.
    pub(super) fn routes(&self) -> Routes {
        Routes {
            connect_to: self.connect_to.iter().map(|it| it.value.clone()).collect(),
            resolve: self.resolve.iter().map(|it| it.value.clone()).collect(),
        }
    }

    /// Which certificates to trust.
    pub(super) fn tls(&self) -> TlsOptions {
        TlsOptions {
            insecure: self.insecure,
            ca: self.ca.clone(),
            sni: self.sni.clone(),
            certificate: self.cert.clone(),
            key: self.key.clone(),
        }
    }

    /// Where connections come from.
    pub(super) fn sources(&self) -> Result<Option<SourceList>, String> {
        self.source.as_deref().map(|list| list.parse().map_err(|error| format!("--source: {error}"))).transpose()
    }
}

/// The stages of `option` from `start` on, if there are any.
fn ramp(option: &str, start: f64, stages: &[Stage]) -> Result<Option<Ramp>, String> {
    if stages.is_empty() {
        return Ok(None);
    }
    let stages: Vec<_> = stages.iter().map(|stage| (stage.time, stage.value)).collect();
    let ramp = Ramp::new(start, &stages);
    if ramp.max() <= 0.0 || ramp.duration().is_zero() {
        return Err(format!("{option}: there is no load in these stages"));
    }
    Ok(Some(ramp))
}

fn token(text: &str) -> Result<String, String> {
    if is_token(text) {
        return Ok(text.to_owned());
    }
    Err("not a token: letters, digits and !#$%&'*+-.^_`|~".to_owned())
}

fn header(text: &str) -> Result<String, String> {
    check_header(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn as_texts<T, S: Serializer>(values: &[Given<T>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|it| &it.text))
}

fn as_time<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show_duration(*duration))
}

#[expect(clippy::ref_option, reason = "serde wants it so")]
fn as_maybe_time<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(show_duration).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde wants it so")]
fn as_maybe_text<S: Serializer>(value: &Option<impl ToString>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}
