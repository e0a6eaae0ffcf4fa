//! `/status.json`: the same figures as the metrics, for people and scripts.

use serde_json::{Map, Value, json};

use super::metrics::{Process, tls_handshakes};
use crate::server::{Condition, Handle};
use crate::worker::{Counter, Tally};

pub(super) fn name(condition: Condition) -> &'static str {
    match condition {
        Condition::Starting => "starting",
        Condition::Ready => "ready",
        Condition::Full => "full",
        Condition::Draining => "draining",
    }
}

pub(super) fn json(handle: &Handle) -> String {
    let about = handle.about();
    let tallies = handle.tallies();
    let mut all = Tally::default();
    for tally in &tallies {
        all += tally;
    }
    let process = Process::read();
    let workers: Vec<_> = tallies.iter().zip(&about.capacities).map(|(tally, max)| of(tally, (*max).into())).collect();
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "engine": about.engine.name(),
        "deflate": about.deflate,
        "condition": name(handle.condition()),
        "uptime_s": about.started_at.elapsed().as_secs_f64(),
        "turned_away": handle.turned_away(),
        "pid": std::process::id(),
        "resident_memory_bytes": process.resident_bytes,
        "cpu_s": process.cpu_s,
        "backlog_max_bytes": about.backlog_max,
        "total": of(&all, handle.max_connections()),
        "workers": workers,
    });
    format!("{status:#}\n")
}

/// The figures of one worker or of all; `max`: connections that it can hold.
fn of(tally: &Tally, max: u64) -> Value {
    let get = |counter| tally.get(counter);
    json!({
        "connections": {
            "max": max,
            "open": tally.open(),
            "accepted": get(Counter::Accepted),
            "opened": get(Counter::Opened),
            "silent": get(Counter::Silent),
            "closed": map(tally.endings()),
            "refused": map(tally.refusals().filter(|(_, count)| *count > 0)),
            "answered": map(tally.answers().filter(|(_, count)| *count > 0)),
            "close_codes_received": map(tally.closes_received().filter(|(_, count)| *count > 0)),
            "close_codes_sent": map(tally.closes_sent().filter(|(_, count)| *count > 0)),
        },
        "messages": {
            "text": get(Counter::Texts),
            "binary": get(Counter::Messages).saturating_sub(get(Counter::Texts)),
            "pings_received": get(Counter::Pings),
            "pongs_received": get(Counter::Pongs),
        },
        "compression": {
            "connections": get(Counter::Agreed),
            "messages": get(Counter::Compressed),
            "inflated_bytes": get(Counter::BytesInflated),
            "memory_bytes": get(Counter::InflationMemory),
        },
        "tls_handshakes": map(tls_handshakes(tally).into_iter()),
        "bytes": { "received": get(Counter::BytesReceived), "sent": get(Counter::BytesSent) },
        "slow_readers": get(Counter::SlowReaders),
        "throttled": get(Counter::Throttled),
        "backlog_bytes": get(Counter::Backlog),
        "receive_buffer_shortages": get(Counter::BufferShortages),
        "accept_failures": get(Counter::AcceptFailures),
        "turns": get(Counter::Turns),
    })
}

fn map(counts: impl Iterator<Item = (impl Into<String>, u64)>) -> Map<String, Value> {
    counts.map(|(name, count)| (name.into(), count.into())).collect()
}
