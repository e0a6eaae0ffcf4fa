//! Cells: one `[[cell]]` may define several.

use std::time::Duration;

use super::super::metric::Metric;
use super::raw::{self, Rate};
use super::{MAX_ROUNDS, Settings};
use crate::message::sizes::Sizes;

/// Default connections and payload bytes.
const CONNECTIONS: u32 = 100;
const SIZE: usize = 128;

/// The measured time of an idle cell, which has no load: the idle memory is sampled before it.
const IDLE_TIME: Duration = Duration::from_millis(200);

/// A limit against typing errors: no machine holds more connections.
pub const MAX_CONNECTIONS: u32 = 100_000_000;

/// A load that all servers are measured with.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "docs/COMPARISON.md describes the keys of the same names")]
pub struct Cell {
    pub name: String,
    pub about: Option<String>,
    pub connections: u32,
    pub size: Sizes,
    /// `None` is the default of the loop (closed or open).
    pub depth: Option<u32>,
    /// In ringload's syntax; `None` is all connections.
    pub active: Option<String>,
    pub rate: Option<Rate>,
    pub messages_per_connection: Option<u32>,
    pub slow_readers: u32,
    pub metric: Metric,
    pub duration: Duration,
    pub warmup: Duration,
    pub rounds: u32,
    pub args: Vec<String>,
}

impl Cell {
    /// Whether the cell has no load.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.active.as_deref().is_some_and(|active| matches!(active, "0" | "0%"))
    }

    /// All connections, slow readers included.
    #[must_use]
    pub fn connections_in_all(&self) -> u32 {
        self.connections + self.slow_readers
    }

    /// Messages in flight on a connection, at least.
    #[must_use]
    pub fn depth_at_least(&self) -> u64 {
        u64::from(self.depth.unwrap_or(1))
    }
}

/// Expands one `[[cell]]` into its cells.
pub(super) fn expand(raw: &raw::Cell, settings: &Settings) -> Result<Vec<Cell>, String> {
    let or_default = |list: &[u32], default| if list.is_empty() { vec![default] } else { list.to_vec() };
    let connections = or_default(&raw.connections, CONNECTIONS);
    let sizes = if raw.size.is_empty() { vec![Sizes::Fixed(SIZE)] } else { raw.size.clone() };
    let depths: Vec<Option<u32>> =
        if raw.depth.is_empty() { vec![None] } else { raw.depth.iter().copied().map(Some).collect() };
    let mut cells = Vec::new();
    for size in &sizes {
        for &depth in &depths {
            for &connections in &connections {
                cells.push(check(raw, settings, connections, size, depth)?);
            }
        }
    }
    Ok(cells)
}

fn check(
    raw: &raw::Cell,
    settings: &Settings,
    connections: u32,
    size: &Sizes,
    depth: Option<u32>,
) -> Result<Cell, String> {
    let name = name_of(raw, connections, size, depth);
    if name.is_empty() || name.contains([',', '\n', '|']) {
        return Err(format!("`name`: {name:?} is empty, or has a comma, a bar or a line break in it"));
    }
    let args = raw.args.as_ref().map_or(Some(Vec::new()), |args| shlex::split(args.get_ref()));
    let mut cell = Cell {
        name,
        about: raw.about.clone(),
        connections,
        size: size.clone(),
        depth,
        active: raw.active.clone(),
        rate: raw.rate,
        messages_per_connection: raw.messages_per_connection,
        slow_readers: raw.slow_readers.unwrap_or(0),
        metric: Metric::CpuPerEcho,
        duration: raw.duration.unwrap_or(settings.duration),
        warmup: raw.warmup.unwrap_or(settings.warmup),
        rounds: raw.rounds.unwrap_or(settings.rounds),
        args: args.ok_or_else(|| "`args`: its quotes do not match".to_owned())?,
    };
    let is_idle = cell.is_idle();
    if is_idle {
        cell.duration = raw.duration.unwrap_or(IDLE_TIME);
        cell.warmup = raw.warmup.unwrap_or_default();
    }
    cell.metric = raw.metric.unwrap_or(match raw.rate {
        _ if is_idle => Metric::BytesPerConnection,
        Some(_) => Metric::P99,
        None => Metric::CpuPerEcho,
    });
    check_sense(&cell)?;
    if matches!(cell.rate, Some(Rate::ShareOfSlowest(_))) && settings.discard == 0 {
        return Err("`rate`: the slowest is found in the discarded round: `discard` must be at least 1".to_owned());
    }
    Ok(cell)
}

fn check_sense(cell: &Cell) -> Result<(), String> {
    if cell.connections.saturating_add(cell.slow_readers) > MAX_CONNECTIONS {
        return Err(format!("`connections`: more than {MAX_CONNECTIONS}"));
    }
    if !(1..=MAX_ROUNDS).contains(&cell.rounds) {
        return Err(format!("`rounds`: {} is not between 1 and {MAX_ROUNDS}", cell.rounds));
    }
    if cell.is_idle() && (cell.rate.is_some() || cell.messages_per_connection.is_some()) {
        return Err("`active = 0` sends nothing: neither `rate` nor `messages-per-connection` go with it".to_owned());
    }
    if cell.rate.is_some() && cell.messages_per_connection.is_some() {
        return Err("`rate` and `messages-per-connection` cannot be used together".to_owned());
    }
    let needs_echoes = !matches!(
        cell.metric,
        Metric::ConnectCpu
            | Metric::ConnectRate
            | Metric::BytesPerConnection
            | Metric::KernelBytesPerConnection
            | Metric::PeakMemory
            | Metric::MemoryAfter
    );
    if cell.is_idle() && needs_echoes {
        return Err(format!("`metric`: {} cannot be measured with `active = 0`", cell.metric.name()));
    }
    if cell.duration.is_zero() {
        return Err("`duration` must be more than 0".to_owned());
    }
    Ok(())
}

/// The name of a cell, with the varied values filled in.
fn name_of(raw: &raw::Cell, connections: u32, size: &Sizes, depth: Option<u32>) -> String {
    let bytes = show_size(size);
    let depth_text = depth.unwrap_or(1).to_string();
    if let Some(name) = &raw.name {
        let name = name.replace("{connections}", &short(connections));
        return name.replace("{size}", &bytes).replace("{depth}", &depth_text);
    }
    let mut name = format!("{bytes} x {}", short(connections));
    if raw.depth.len() > 1 || depth.is_some_and(|depth| depth > 1) {
        name = format!("{name} depth {depth_text}");
    }
    name
}

/// `10000` as `10k`.
fn short(number: u32) -> String {
    match number {
        it if it >= 1_000_000 && it % 100_000 == 0 => format!("{}M", f64::from(it) / 1e6),
        it if it >= 1000 && it % 100 == 0 => format!("{}k", f64::from(it) / 1e3),
        it => it.to_string(),
    }
}

fn show_size(size: &Sizes) -> String {
    match size {
        Sizes::Fixed(bytes) if *bytes >= 1 << 20 && bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        Sizes::Fixed(bytes) if *bytes >= 1 << 10 && bytes % (1 << 10) == 0 => format!("{} KiB", bytes >> 10),
        Sizes::Fixed(bytes) => format!("{bytes} B"),
        other => other.to_string().replace(',', " "),
    }
}
