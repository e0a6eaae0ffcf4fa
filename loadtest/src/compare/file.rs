//! The definition of a comparison: TOML files parsed into checked, plain data. docs/COMPARISON.md describes the format.

mod cells;
mod mistake;
mod raw;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::cells::{Cell, MAX_CONNECTIONS};
pub use self::mistake::Mistake;
pub use self::raw::{Class, Fresh, Idle, Port, Rate, StopSignal};
use super::needs::Need;
use super::words::{nearest, unknown};

/// Defaults of `[compare]`, as documented in docs/COMPARISON.md. With 9 rounds the second smallest and second largest
/// ratios form an interval of 96 %.
const ROUNDS: u32 = 9;
const DISCARD: u32 = 1;
const DURATION: Duration = Duration::from_secs(2);
const WARMUP: Duration = Duration::from_secs(1);
const SAME_WITHIN: f64 = 0.02;
const CONFIDENCE: f64 = 0.95;
const RETRIES: u32 = 2;

/// Defaults of `[defaults]`.
const URL: &str = "ws://127.0.0.1:{port}/";
const READY_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A limit against typing errors.
const MAX_ROUNDS: u32 = 1000;

/// The definition of a comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The settings that apply to all servers and cells.
    pub settings: Settings,
    /// The servers, in the order of the files.
    pub servers: Vec<Server>,
    /// The cells, in the order of the files.
    pub cells: Vec<Cell>,
}

/// `[compare]`
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "docs/COMPARISON.md describes the keys of the same names")]
pub struct Settings {
    pub title: String,
    pub rounds: u32,
    pub discard: u32,
    pub duration: Duration,
    pub warmup: Duration,
    pub baseline: String,
    pub same_within: f64,
    pub confidence: f64,
    pub server_cpus: Vec<usize>,
    pub load_cpus: Vec<usize>,
    pub fresh: Fresh,
    pub idle: Idle,
    pub retries: u32,
}

/// `[[server]]`, merged with `[defaults]`.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "docs/COMPARISON.md describes the keys of the same names")]
pub struct Server {
    pub name: String,
    pub class: Class,
    pub language: Option<String>,
    pub version: Option<String>,
    pub version_cmd: Option<String>,
    /// The server's directory, absolute.
    pub dir: PathBuf,
    pub build: Option<String>,
    /// The command, split into words, with placeholders.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub port: Port,
    pub url: String,
    pub ready: ReadyWhen,
    pub ready_timeout: Duration,
    pub stop_signal: StopSignal,
    pub stop_timeout: Duration,
    pub needs: Vec<Need>,
    pub limits: Limits,
    pub tuned: Option<String>,
    pub about: Option<String>,
    pub skip: Option<String>,
}

/// How a server's readiness is detected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadyWhen {
    /// Something listens at its URL.
    Tcp,
    /// It answers a GET of this path with a status below 500.
    Http(String),
    /// It prints this.
    Log(String),
}

/// The limits of a server; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The largest message in bytes.
    pub max_message: Option<u64>,
    /// Connections; `None` is limited only by the descriptors.
    pub max_connections: Option<u64>,
    /// Messages in flight per connection.
    pub max_depth: Option<u64>,
}

impl Comparison {
    /// Reads `files` and the files they include.
    pub fn read(files: &[PathBuf]) -> Result<Self, Mistake> {
        let mut reading = Reading::default();
        for file in files {
            reading.read(file, None)?;
        }
        reading.finish(files)
    }

    /// The baseline's index among the servers.
    #[must_use]
    pub fn baseline(&self) -> Option<usize> {
        self.servers.iter().position(|server| server.name == self.settings.baseline)
    }

    /// Keeps only the servers and cells that `words` name; `*` in a word matches anything. If only servers are named,
    /// all cells stay, and the other way round. The baseline always stays.
    pub fn keep_only(&mut self, words: &[String]) -> Result<(), String> {
        let only = Only::of(words, self.servers.iter().map(|it| &*it.name), self.cells.iter().map(|it| &*it.name))?;
        let baseline = self.settings.baseline.clone();
        self.servers.retain(|server| server.name == baseline || only.has_server(&server.name));
        self.cells.retain(|cell| only.has_cell(&cell.name));
        Ok(())
    }
}

/// The servers and cells that `--only` names.
pub(super) struct Only<'a> {
    servers: Vec<&'a String>,
    cells: Vec<&'a String>,
}

impl<'a> Only<'a> {
    /// The items that these words name; each word must match something.
    pub(super) fn of<'n>(
        words: &'a [String],
        servers: impl Iterator<Item = &'n str>,
        cells: impl Iterator<Item = &'n str>,
    ) -> Result<Self, String> {
        let (servers, cells): (Vec<&str>, Vec<&str>) = (servers.collect(), cells.collect());
        let naming = |names: &[&str]| -> Vec<&String> {
            words.iter().filter(|word| names.iter().any(|name| matches(word, name))).collect()
        };
        let only = Self { servers: naming(&servers), cells: naming(&cells) };
        match words.iter().find(|word| !only.servers.contains(word) && !only.cells.contains(word)) {
            Some(word) => {
                Err(format!("--only: {}", unknown("server and no cell", word, servers.into_iter().chain(cells))))
            }
            None => Ok(only),
        }
    }

    pub(super) fn has_server(&self, name: &str) -> bool {
        self.servers.is_empty() || self.servers.iter().any(|word| matches(word, name))
    }

    pub(super) fn has_cell(&self, name: &str) -> bool {
        self.cells.is_empty() || self.cells.iter().any(|word| matches(word, name))
    }
}

/// Whether `name` matches `pattern`, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

/// Files read so far.
#[derive(Debug, Default)]
struct Reading {
    sources: Vec<Source>,
    compare: Option<(usize, Range<usize>, raw::Compare)>,
    defaults: Option<(usize, Range<usize>, raw::Defaults)>,
    servers: Vec<(usize, Range<usize>, raw::Server)>,
    cells: Vec<(usize, Range<usize>, raw::Cell)>,
}

/// A file's text, for the position of an error.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    identity: PathBuf,
    text: String,
}

impl Source {
    /// A mistake at `span`; if that is a table and the message begins with one of its keys, at that key's line.
    fn mistake(&self, span: Range<usize>, message: impl Into<String>) -> Mistake {
        let message = message.into();
        let key = message.strip_prefix('`').and_then(|rest| rest.split(['`', ' ']).next());
        let at = key.and_then(|key| mistake::line_of_key(&self.text, span.start, key)).unwrap_or(span.start);
        Mistake::at(&self.path, &self.text, at, message)
    }

    fn directory(&self) -> PathBuf {
        self.identity.parent().unwrap_or(Path::new("/")).to_owned()
    }
}

impl Reading {
    /// Reads a file, either directly or for the `include` at `by` of an earlier one. A file that has been read already
    /// is skipped.
    fn read(&mut self, path: &Path, by: Option<(usize, Range<usize>)>) -> Result<(), Mistake> {
        let found = path.canonicalize().and_then(|identity| Ok((std::fs::read_to_string(path)?, identity)));
        let (text, identity) = found.map_err(|error| match by {
            Some((source, span)) => {
                self.sources[source].mistake(span, format!("include: cannot read {}: {error}", path.display()))
            }
            None => Mistake::of_file(path, format!("cannot read it: {error}")),
        })?;
        if self.sources.iter().any(|source| source.identity == identity) {
            return Ok(());
        }
        let parsed = toml::from_str::<raw::File>(&text);
        let file = parsed.map_err(|error| Mistake::parsed(path, &text, &error))?;
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        let index = self.sources.len();
        self.sources.push(Source { path: path.to_owned(), identity, text });
        for include in file.include {
            let span = include.span();
            self.read(&directory.join(include.into_inner()), Some((index, span)))?;
        }
        self.take_settings(index, file.compare, file.defaults)?;
        self.servers.extend(file.server.into_iter().map(|it| (index, it.span(), it.into_inner())));
        self.cells.extend(file.cell.into_iter().map(|it| (index, it.span(), it.into_inner())));
        Ok(())
    }

    fn take_settings(
        &mut self,
        index: usize,
        compare: Option<toml::Spanned<raw::Compare>>,
        defaults: Option<toml::Spanned<raw::Defaults>>,
    ) -> Result<(), Mistake> {
        let twice = |what: &str, span, first: usize| {
            let first = self.sources[first].path.display();
            self.sources[index].mistake(span, format!("[{what}] is in {first} as well: it is given once in all"))
        };
        if let Some(compare) = compare {
            let span = compare.span();
            if let Some((first, ..)) = self.compare {
                return Err(twice("compare", span, first));
            }
            self.compare = Some((index, span, compare.into_inner()));
        }
        if let Some(defaults) = defaults {
            let span = defaults.span();
            if let Some((first, ..)) = self.defaults {
                return Err(twice("defaults", span, first));
            }
            self.defaults = Some((index, span, defaults.into_inner()));
        }
        Ok(())
    }

    fn finish(self, files: &[PathBuf]) -> Result<Comparison, Mistake> {
        let first = files.first().map_or(Path::new(""), PathBuf::as_path);
        let mut servers: Vec<Server> = Vec::new();
        let defaults = self.defaults.as_ref().map(|it| it.2.clone()).unwrap_or_default();
        for (index, span, server) in &self.servers {
            let source = &self.sources[*index];
            let server = check_server(source, span.clone(), server, &defaults)?;
            if servers.iter().any(|other| other.name == server.name) {
                return Err(source.mistake(span.clone(), format!("there are two servers named `{}`", server.name)));
            }
            servers.push(server);
        }
        let settings = self.check_settings(&servers)?;
        let mut all_cells: Vec<Cell> = Vec::new();
        for (index, span, cell) in &self.cells {
            let source = &self.sources[*index];
            let cells = cells::expand(cell, &settings).map_err(|message| source.mistake(span.clone(), message))?;
            for cell in cells {
                if all_cells.iter().any(|other| other.name == cell.name) {
                    let help = "names may hold {connections}, {size} and {depth}";
                    let message = format!("there are two cells named `{}` ({help})", cell.name);
                    return Err(source.mistake(span.clone(), message));
                }
                all_cells.push(cell);
            }
        }
        if servers.is_empty() {
            return Err(Mistake::of_file(first, "there is no [[server]] in it"));
        }
        Ok(Comparison { settings, servers, cells: all_cells })
    }

    fn check_settings(&self, servers: &[Server]) -> Result<Settings, Mistake> {
        let (source, span, raw) = match &self.compare {
            Some((index, span, raw)) => (Some(&self.sources[*index]), span.clone(), raw.clone()),
            None => (None, 0..0, raw::Compare::default()),
        };
        let mistake = |span: Range<usize>, message: String| match source {
            Some(source) => source.mistake(span, message),
            None => Mistake::of_file(Path::new(""), message),
        };
        let names = || servers.iter().map(|server| server.name.as_str());
        let baseline = match &raw.baseline {
            Some(name) if servers.is_empty() || names().any(|it| it == name.get_ref().as_str()) => {
                name.get_ref().clone()
            }
            Some(name) => {
                return Err(mistake(name.span(), format!("baseline: {}", unknown("server", name.get_ref(), names()))));
            }
            None => names().next().unwrap_or_default().to_owned(),
        };
        let rounds = raw.rounds.unwrap_or(ROUNDS);
        if !(1..=MAX_ROUNDS).contains(&rounds) {
            return Err(mistake(span, format!("`rounds`: {rounds} is not between 1 and {MAX_ROUNDS}")));
        }
        let server_cpus = raw.server_cpus.unwrap_or_else(|| cpu_beside(raw.load_cpus.as_deref().unwrap_or_default()));
        let confidence = raw.confidence.unwrap_or(CONFIDENCE);
        if confidence < 0.5 {
            return Err(mistake(span, "`confidence`: less than 50% is no confidence".to_owned()));
        }
        Ok(Settings {
            title: raw.title.unwrap_or_else(|| "Comparison".to_owned()),
            rounds,
            discard: raw.discard.unwrap_or(DISCARD),
            duration: raw.duration.unwrap_or(DURATION),
            warmup: raw.warmup.unwrap_or(WARMUP),
            baseline,
            same_within: raw.same_within.unwrap_or(SAME_WITHIN),
            confidence,
            load_cpus: raw.load_cpus.unwrap_or_else(|| cpu_beside(&server_cpus)),
            server_cpus,
            fresh: raw.fresh.unwrap_or_default(),
            idle: raw.idle.unwrap_or_default(),
            retries: raw.retries.unwrap_or(RETRIES),
        })
    }
}

/// The default processor of a side: the first usable one that is not the other side's, or the first if there is no other.
fn cpu_beside(others: &[usize]) -> Vec<usize> {
    let usable = ringecho::sys::usable_cpus().unwrap_or_default();
    let free = usable.iter().find(|cpu| !others.contains(cpu)).or(usable.first());
    vec![free.copied().unwrap_or(0)]
}

/// Checks a name: names occur in file names, on the command line and in tables.
fn check_name(name: &str) -> Result<(), String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    if !name.is_empty() && name.chars().all(is_good) {
        return Ok(());
    }
    Err(format!("`name`: {name:?} is not made of letters, digits and -_.+"))
}

/// The placeholders allowed in a server's texts.
pub(super) const PLACEHOLDERS: [&str; 4] = ["port", "cpus", "threads", "ringecho"];

/// Rejects unknown placeholders. Braces around anything other than lower-case letters are kept, such as JSON.
fn check_placeholders(key: &str, text: &str) -> Result<(), String> {
    for part in text.split('{').skip(1) {
        let Some((word, _)) = part.split_once('}') else { continue };
        let is_word = !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
        if is_word && !PLACEHOLDERS.contains(&word) {
            let meant = nearest(word, &PLACEHOLDERS).map_or_else(
                || format!("there are: {{{}}}", PLACEHOLDERS.join("}, {")),
                |nearest| format!("did you mean `{{{nearest}}}`?"),
            );
            return Err(format!("`{key}`: `{{{word}}}` is no placeholder; {meant}"));
        }
    }
    Ok(())
}

fn check_server(
    source: &Source,
    span: Range<usize>,
    raw: &raw::Server,
    defaults: &raw::Defaults,
) -> Result<Server, Mistake> {
    let at_all = |message: String| source.mistake(span.clone(), message);
    let Some(name) = &raw.name else { return Err(at_all("a [[server]] needs a `name`".to_owned())) };
    check_name(name.get_ref()).map_err(|message| source.mistake(name.span(), message))?;
    let Some(command) = &raw.command else {
        return Err(at_all(format!("server `{}` needs a `command`", name.get_ref())));
    };
    let in_command = |message: String| source.mistake(command.span(), message);
    let words = shlex::split(command.get_ref()).filter(|words| !words.is_empty());
    let words = words.ok_or_else(|| in_command("`command`: its quotes do not match, or it is empty".to_owned()))?;
    check_placeholders("command", command.get_ref()).map_err(in_command)?;
    let url = raw.url.as_ref().or(defaults.url.as_ref()).map_or(URL, String::as_str);
    check_placeholders("url", url).map_err(at_all)?;
    for (key, value) in &raw.env {
        check_placeholders(key, value).map_err(at_all)?;
    }
    let mut needs = Vec::new();
    for need in &raw.needs {
        needs.push(need.get_ref().parse().map_err(|message: String| source.mistake(need.span(), message))?);
    }
    if raw.version.is_some() && raw.version_cmd.is_some() {
        return Err(at_all("`version` and `version-cmd` cannot both be given".to_owned()));
    }
    let (ready, ready_timeout) = check_ready(raw.ready.as_ref(), defaults.ready.as_ref()).map_err(at_all)?;
    if let ReadyWhen::Http(text) | ReadyWhen::Log(text) = &ready {
        check_placeholders("ready", text).map_err(at_all)?;
    }
    let stop = |pick: fn(&raw::Stop) -> Option<Duration>| {
        raw.stop.as_ref().and_then(pick).or_else(|| defaults.stop.as_ref().and_then(pick))
    };
    let signal = raw.stop.as_ref().and_then(|it| it.signal).or_else(|| defaults.stop.as_ref()?.signal);
    Ok(Server {
        name: name.get_ref().clone(),
        class: raw.class.unwrap_or_default(),
        language: raw.language.clone(),
        version: raw.version.clone(),
        version_cmd: raw.version_cmd.clone(),
        dir: source.directory().join(raw.dir.as_deref().unwrap_or("")),
        build: raw.build.clone(),
        command: words,
        env: raw.env.clone(),
        port: raw.port.or(defaults.port).unwrap_or_default(),
        url: url.to_owned(),
        ready,
        ready_timeout,
        stop_signal: signal.unwrap_or_default(),
        stop_timeout: stop(|it| it.timeout).unwrap_or(STOP_TIMEOUT),
        needs,
        limits: Limits {
            max_message: raw.limits.max_message,
            max_connections: raw.limits.max_connections,
            max_depth: raw.limits.max_depth,
        },
        tuned: raw.tuned.clone(),
        about: raw.about.clone(),
        skip: raw.skip.clone(),
    })
}

fn check_ready(own: Option<&raw::Ready>, common: Option<&raw::Ready>) -> Result<(ReadyWhen, Duration), String> {
    let when = |raw: &raw::Ready| match (raw.tcp, &raw.http, &raw.log) {
        (Some(true), None, None) => Ok(Some(ReadyWhen::Tcp)),
        (None | Some(false), Some(path), None) => Ok(Some(ReadyWhen::Http(path.clone()))),
        (None | Some(false), None, Some(text)) => Ok(Some(ReadyWhen::Log(text.clone()))),
        (None, None, None) => Ok(None),
        _ => Err("`ready` takes one of `tcp = true`, `http` and `log`".to_owned()),
    };
    let (own_when, common_when) = (own.map_or(Ok(None), when)?, common.map_or(Ok(None), when)?);
    let timeout = own.and_then(|it| it.timeout).or_else(|| common?.timeout).unwrap_or(READY_TIMEOUT);
    Ok((own_when.or(common_when).unwrap_or(ReadyWhen::Tcp), timeout))
}

// ----- without a file -----

/// Whether a server on the command line may have this name.
pub(super) fn check_quick_name(name: &str) -> Result<(), String> {
    check_name(name)
}

/// A server from the command line, with defaults for everything else.
pub(super) fn quick_server(name: &str, command: &str, url: Option<&str>) -> Result<Server, String> {
    let directory = std::env::current_dir().map_err(|error| format!("the current directory: {error}"))?;
    let spanned = |text: &str| toml::Spanned::new(0..0, text.to_owned());
    let raw = raw::Server {
        name: Some(spanned(name)),
        command: Some(spanned(command)),
        url: url.map(str::to_owned),
        ..raw::Server::default()
    };
    let source = Source { path: PathBuf::new(), identity: directory.join("-"), text: String::new() };
    check_server(&source, 0..0, &raw, &raw::Defaults::default())
        .map_err(|mistake| format!("--server {name}: {}", mistake.message()))
}

/// `[compare]` for servers from the command line.
pub(super) fn quick_settings(baseline: &str, rounds: u32, duration: Duration, warmup: Duration) -> Settings {
    let server_cpus = cpu_beside(&[]);
    Settings {
        title: "Comparison".to_owned(),
        rounds,
        discard: DISCARD,
        duration,
        warmup,
        baseline: baseline.to_owned(),
        same_within: SAME_WITHIN,
        confidence: CONFIDENCE,
        load_cpus: cpu_beside(&server_cpus),
        server_cpus,
        fresh: Fresh::default(),
        idle: Idle::default(),
        retries: RETRIES,
    }
}

/// Cells from the command line.
pub(super) fn quick_cells(
    settings: &Settings,
    connections: &[u32],
    sizes: &[crate::message::sizes::Sizes],
    depths: &[u32],
) -> Result<Vec<Cell>, String> {
    let raw = raw::Cell {
        connections: connections.to_vec(),
        size: sizes.to_vec(),
        depth: depths.to_vec(),
        ..raw::Cell::default()
    };
    cells::expand(&raw, settings)
}

#[cfg(test)]
mod tests;
