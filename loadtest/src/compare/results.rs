//! The results of a comparison: settings, all measurements, and conclusions. This is the form of the JSON, from which
//! reports are made and an interrupted comparison is resumed.

mod resume;

pub(super) use self::resume::RESUMED;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::file::{self, Class, Comparison, Fresh, Idle, Only, Rate};
use super::gate::Check;
use super::metric::Metric;
use super::process;
use super::statistics::{Interval, Verdict};
use crate::machine::Machine;
use crate::verdict::Bound;

/// The version of the form of [`Results`].
pub const VERSION: u32 = 1;

/// This program, and the condition that tells its builds apart.
const OWN_PROGRAM: &str = "/proc/self/exe";
const OWN_BUILD: &str = "build of ringload";

/// The results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// The version of this form. The field also marks the file as a comparison.
    pub comparison_version: u32,
    /// The version of ringload.
    pub ringload: String,
    /// Of the comparison.
    pub title: String,
    /// The seed of all orders and resamples, which makes them reproducible.
    pub seed: u64,
    /// When it began, in seconds since the Unix epoch.
    pub started_unix_s: f64,
    /// Whether all planned measurements were made.
    pub is_complete: bool,
    /// The settings of the comparison.
    pub settings: Settings,
    /// The machine.
    pub machine: Machine,
    /// Further properties of the machine and its state.
    pub conditions: BTreeMap<String, String>,
    /// The servers, including skipped ones.
    pub servers: Vec<ServerReport>,
    /// The cells.
    pub cells: Vec<CellReport>,
    /// All measurements, in the order in which they were made.
    pub runs: Vec<Run>,
    /// The conclusions: each server in each cell, for each metric. Empty until the comparison has ended.
    pub comparisons: Vec<Compared>,
}

/// The settings: `[compare]` of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "docs/COMPARISON.md describes the keys of the same names")]
pub struct Settings {
    pub rounds: u32,
    pub discard: u32,
    pub duration_s: f64,
    pub warmup_s: f64,
    pub baseline: String,
    pub same_within: f64,
    pub confidence: f64,
    pub server_cpus: Vec<usize>,
    pub load_cpus: Vec<usize>,
    pub fresh: Fresh,
    /// As asked for; [`Results::conditions`] tell what was possible. Earlier results do not have it.
    #[serde(default)]
    pub idle: Option<Idle>,
    pub retries: u32,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ServerReport {
    /// Its name.
    pub name: String,
    /// The kind of server.
    pub class: Class,
    /// Its programming language.
    pub language: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// A description in one sentence.
    pub about: Option<String>,
    /// Why its configuration differs from its documentation.
    pub tuned: Option<String>,
    /// The command that builds it.
    pub build: Option<String>,
    /// The command that starts it.
    pub command: String,
    /// Its URL, with placeholders. Earlier results do not have it.
    #[serde(default)]
    pub url: Option<String>,
    /// The size and the modification time of its program, and of the files that its command names, by which builds are told
    /// apart.
    pub program: Option<String>,
    /// Its environment variables.
    pub env: BTreeMap<String, String>,
    /// The correctness checks made right before the measurements.
    pub gate: Vec<Check>,
    /// Why it was not measured; absent if it was.
    pub skipped: Option<String>,
    /// Other remarks, for example that it ignores the signal to end.
    pub remarks: Vec<String>,
}

/// A cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "docs/COMPARISON.md describes the keys of the same names")]
pub struct CellReport {
    pub name: String,
    pub about: Option<String>,
    pub connections: u32,
    pub size: String,
    pub depth: Option<u32>,
    pub active: Option<String>,
    /// The rate as given; absent in a closed loop.
    pub rate: Option<String>,
    /// The resulting rate.
    pub rate_per_s: Option<f64>,
    pub messages_per_connection: Option<u32>,
    pub slow_readers: u32,
    pub metric: Metric,
    pub duration_s: f64,
    pub warmup_s: f64,
    pub rounds: u32,
    pub args: Vec<String>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The server's name.
    pub server: String,
    /// The cell's.
    pub cell: String,
    /// The round; those below `discard` do not count.
    pub round: u32,
    /// Number of attempts in this round; the last one counts.
    pub attempts: u32,
    /// When it began, in seconds since the Unix epoch.
    pub started_unix_s: f64,
    /// How long it took in all.
    pub elapsed_s: f64,
    /// The measured values.
    pub values: BTreeMap<Metric, f64>,
    /// What limited it.
    pub bound: Option<Bound>,
    /// Whether a control group accounts for the server, so that ended processes are included.
    pub by_control_group: bool,
    /// The peak memory of that group, including kernel memory and cached files.
    pub group_peak_bytes: Option<u64>,
    /// Why some or all of its values are not valid.
    pub faults: Vec<Fault>,
}

/// Why a measurement does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The kind of fault.
    pub kind: FaultKind,
    /// The description.
    pub why: String,
}

/// Why a measurement does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The server did not start or died, or an echo was lost or wrong.
    Failed,
    /// The cell exceeds a limit that the server states itself.
    NotSupported,
    /// Other processes used the processors.
    Others,
    /// The numbers contradict each other (Little's law).
    Inconsistent,
    /// The generator was the limit, or lagged itself.
    Generator,
    /// The server did not keep up with the rate that is the same for all servers.
    TooSlow,
}

impl FaultKind {
    /// Whether this fault makes `metric` invalid. The server's usage per echo or connection stays valid when the
    /// generator was the limit.
    #[must_use]
    pub fn spoils(self, metric: Metric) -> bool {
        match self {
            Self::Failed | Self::NotSupported | Self::Others | Self::Inconsistent => true,
            Self::Generator => !metric.is_of_the_server_alone(),
            Self::TooSlow => matches!(metric, Metric::P50 | Metric::P99 | Metric::P999 | Metric::Rate),
        }
    }

    /// One or two words, for a table.
    #[must_use]
    pub fn short(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::NotSupported => "not supported",
            Self::Others => "others took the processors",
            Self::Inconsistent => "Little's law does not hold",
            Self::Generator => "generator-bound",
            Self::TooSlow => "too slow for this rate",
        }
    }
}

/// The conclusion for one server in one cell and one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// The server's name.
    pub server: String,
    /// The cell's.
    pub cell: String,
    /// The metric.
    pub metric: Metric,
    /// The median over the valid rounds.
    pub value: Option<f64>,
    /// The number of valid rounds.
    pub rounds: u32,
    /// The number of rounds that are valid for the baseline as well, with a ratio; absent for the baseline itself.
    pub common_rounds: Option<u32>,
    /// The ratio to the baseline in the same rounds; absent if there is none, with the reason.
    pub ratio: Option<Interval>,
    /// The probability of such a difference by chance, before the correction for the number of pairs.
    pub p: Option<f64>,
    /// The verdict.
    pub verdict: Option<Verdict>,
    /// Why there is no ratio.
    pub reason: Option<String>,
    /// The correlation of its values with the rounds, if it is more than chance.
    pub drift: Option<f64>,
    /// Whether the generator was the limit in some valid rounds.
    pub is_generator_bound: bool,
}

/// An error in reading or writing results.
#[derive(Debug, Error)]
pub enum ResultsError {
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// The content is not valid.
    #[error("{0} does not hold results of `ringload compare`: {1}")]
    Content(PathBuf, serde_json::Error),
    /// The version is not supported.
    #[error("{0} has version {1} of the results' form, this ringload reads version {VERSION}")]
    Version(PathBuf, u32),
    /// The file cannot be written.
    #[error("cannot write {0}: {1}")]
    Write(PathBuf, io::Error),
    /// The results are from another comparison.
    #[error("{0} cannot be resumed: {1} (give another --json, or remove the file)")]
    Other(PathBuf, String),
}

impl Results {
    /// Reads results.
    pub fn read(path: &Path) -> Result<Self, ResultsError> {
        #[derive(Deserialize)]
        struct Versioned {
            comparison_version: u32,
        }
        let text = std::fs::read_to_string(path).map_err(|error| ResultsError::Read(path.to_owned(), error))?;
        let content = |error| ResultsError::Content(path.to_owned(), error);
        let Versioned { comparison_version } = serde_json::from_str(&text).map_err(content)?;
        if comparison_version != VERSION {
            return Err(ResultsError::Version(path.to_owned(), comparison_version));
        }
        serde_json::from_str(&text).map_err(content)
    }

    /// Writes the results atomically: an existing file stays until the new one is complete.
    pub fn write(&self, path: &Path) -> Result<(), ResultsError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = path.with_file_name(name);
        let written = (|| {
            let mut file = io::BufWriter::new(std::fs::File::create(&part)?);
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.flush()?;
            std::fs::rename(&part, path)
        })();
        written.map_err(|error| ResultsError::Write(path.to_owned(), error))
    }

    /// The results before the first measurement.
    #[must_use]
    pub fn of(comparison: &Comparison, seed: u64) -> Self {
        let file::Settings { title, .. } = &comparison.settings;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut conditions = super::conditions::of_this_machine();
        conditions.extend(process::show_build(Path::new(OWN_PROGRAM)).map(|build| (OWN_BUILD.to_owned(), build)));
        Self {
            comparison_version: VERSION,
            ringload: env!("CARGO_PKG_VERSION").to_owned(),
            title: title.clone(),
            seed,
            started_unix_s: now.as_secs_f64(),
            is_complete: false,
            settings: Settings::of(&comparison.settings),
            machine: Machine::this(),
            conditions,
            servers: comparison.servers.iter().map(ServerReport::of).collect(),
            cells: comparison.cells.iter().map(CellReport::of).collect(),
            runs: Vec::new(),
            comparisons: Vec::new(),
        }
    }

    /// `round 3`, from 1 on, or `discarded round`.
    #[must_use]
    pub fn round_name(&self, round: u32) -> String {
        match round.checked_sub(self.settings.discard) {
            Some(round) => format!("round {}", round + 1),
            None => "discarded round".to_owned(),
        }
    }

    /// Whether this measurement has been made.
    #[must_use]
    pub fn has(&self, server: &str, cell: &str, round: u32) -> bool {
        self.runs.iter().any(|run| run.round == round && run.server == server && run.cell == cell)
    }

    /// Whether each server that is not skipped was measured in each round of each cell.
    #[must_use]
    pub fn has_all(&self) -> bool {
        let made: HashSet<(&str, &str, u32)> =
            self.runs.iter().map(|run| (run.server.as_str(), run.cell.as_str(), run.round)).collect();
        let has_rounds = |server: &str, cell: &CellReport| {
            (0..self.settings.discard + cell.rounds).all(|round| made.contains(&(server, cell.name.as_str(), round)))
        };
        self.measured_servers().all(|server| self.cells.iter().all(|cell| has_rounds(&server.name, cell)))
    }

    /// The conclusion for a server in a cell and a metric.
    #[must_use]
    pub fn compared(&self, server: &str, cell: &str, metric: Metric) -> Option<&Compared> {
        self.comparisons.iter().find(|it| it.metric == metric && it.server == server && it.cell == cell)
    }

    /// Keeps only the servers and cells that `words` name, like
    /// [`Comparison::keep_only`](super::file::Comparison::keep_only).
    pub fn keep_only(&mut self, words: &[String]) -> Result<(), String> {
        let only = Only::of(words, self.servers.iter().map(|it| &*it.name), self.cells.iter().map(|it| &*it.name))?;
        let baseline = self.settings.baseline.clone();
        let has_server = |name: &str| name == baseline || only.has_server(name);
        self.servers.retain(|server| has_server(&server.name));
        self.cells.retain(|cell| only.has_cell(&cell.name));
        self.runs.retain(|run| has_server(&run.server) && only.has_cell(&run.cell));
        self.comparisons.retain(|it| has_server(&it.server) && only.has_cell(&it.cell));
        Ok(())
    }

    /// The numbers of rounds of the cells: `9`, or `6 to 9`.
    #[must_use]
    pub fn rounds_of_cells(&self) -> String {
        let rounds = self.cells.iter().map(|cell| cell.rounds);
        match (rounds.clone().min(), rounds.max()) {
            (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
            (_, most) => most.unwrap_or(self.settings.rounds).to_string(),
        }
    }

    /// The servers that were measured.
    pub fn measured_servers(&self) -> impl Iterator<Item = &ServerReport> {
        self.servers.iter().filter(|server| server.skipped.is_none())
    }
}

/// The results as written and read again: the last digit of a number may differ.
fn as_written<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("plain data");
    serde_json::from_str(&text).expect("it has just been written")
}

impl Settings {
    fn of(settings: &file::Settings) -> Self {
        Self {
            rounds: settings.rounds,
            discard: settings.discard,
            duration_s: settings.duration.as_secs_f64(),
            warmup_s: settings.warmup.as_secs_f64(),
            baseline: settings.baseline.clone(),
            same_within: settings.same_within,
            confidence: settings.confidence,
            server_cpus: settings.server_cpus.clone(),
            load_cpus: settings.load_cpus.clone(),
            fresh: settings.fresh,
            idle: Some(settings.idle),
            retries: settings.retries,
        }
    }
}

impl ServerReport {
    fn of(server: &file::Server) -> Self {
        Self {
            name: server.name.clone(),
            class: server.class,
            language: server.language.clone(),
            version: server.version.clone(),
            about: server.about.clone(),
            tuned: server.tuned.clone(),
            build: server.build.clone(),
            command: shlex::try_join(server.command.iter().map(String::as_str)).unwrap_or_default(),
            url: Some(server.url.clone()),
            program: process::show_builds(server),
            env: server.env.clone(),
            gate: Vec::new(),
            skipped: server.skip.clone(),
            remarks: Vec::new(),
        }
    }

    /// Adds a remark unless it is there already.
    pub fn remark(&mut self, text: &str) {
        if !self.remarks.iter().any(|it| it == text) {
            self.remarks.push(text.to_owned());
        }
    }
}

impl CellReport {
    fn of(cell: &file::Cell) -> Self {
        let (rate, rate_per_s) = match cell.rate {
            None => (None, None),
            Some(Rate::PerSecond(rate)) => (Some(format!("{rate}/s")), Some(rate)),
            Some(Rate::ShareOfSlowest(share)) => (Some(format!("{}% of the slowest", share * 100.0)), None),
        };
        Self {
            name: cell.name.clone(),
            about: cell.about.clone(),
            connections: cell.connections,
            size: cell.size.to_string(),
            depth: cell.depth,
            active: cell.active.clone(),
            rate,
            rate_per_s,
            messages_per_connection: cell.messages_per_connection,
            slow_readers: cell.slow_readers,
            metric: cell.metric,
            duration_s: cell.duration.as_secs_f64(),
            warmup_s: cell.warmup.as_secs_f64(),
            rounds: cell.rounds,
            args: cell.args.clone(),
        }
    }
}

impl Run {
    /// The valid value for `metric`; `None` if it was not measured or a fault makes it invalid.
    #[must_use]
    pub fn value(&self, metric: Metric) -> Option<f64> {
        if self.faults.iter().any(|fault| fault.kind.spoils(metric)) {
            return None;
        }
        self.values.get(&metric).copied().filter(|value| value.is_finite())
    }
}

#[cfg(test)]
pub(crate) mod tests;
