//! The results for people.

use std::fmt::Write;

use super::report::{CpuReport, LatencyReport, MeasuredReport, MemoryReport, Report};
use crate::verdict::Verdict;

/// The final table.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut table = Table(String::new());
    table.connections(report);
    table.messages(report);
    if let Some(measured) = &report.measured {
        table.measured(measured);
    }
    table.memory(&report.memory);
    if let Some(verdict) = &report.verdict {
        table.verdict(verdict);
    }
    let result = match (report.ok, report.interrupted) {
        (true, false) => "all connections held, every echo right",
        (true, true) => "ended early; until then all connections held and every echo was right",
        (false, _) => "FAULTS: see above",
    };
    table.row("result", result);
    if !report.is_verified() {
        table.more("echoes were not compared (--no-verify)");
    }
    table.0
}

struct Table(String);

impl Table {
    fn row(&mut self, name: &str, text: impl std::fmt::Display) {
        writeln!(self.0, "{name:<14} {text}").expect("a string takes everything");
    }

    fn more(&mut self, text: impl std::fmt::Display) {
        self.row("", text);
    }

    fn connections(&mut self, report: &Report) {
        let it = &report.connections;
        self.0.push('\n');
        if report.runs.len() > 1 {
            self.row("runs", format_args!("{} merged: histograms and counters added", report.runs.len()));
        }
        self.row(
            "connections",
            format_args!(
                "{} of {} opened in {:.2} s ({}/s)",
                count(report.opened_first()),
                count(it.requested),
                it.connect_s,
                count(it.opened_per_s as u64)
            ),
        );
        for failure in &it.failures {
            self.more(format_args!("{} failed: {}", count(failure.count), failure.cause));
            if let Some(remedy) = &failure.remedy {
                self.more(format_args!("  ({remedy})"));
            }
        }
        let given_up = it.requested.saturating_sub(it.opened);
        if report.interrupted && given_up > it.failed {
            self.more(format_args!("{} not opened: ended early", count(given_up - it.failed)));
        }
        if it.recycled > 0 {
            self.more(format_args!("{} closed in order, to be opened again", count(it.recycled)));
        }
        if it.slow_ended > 0 {
            self.more(format_args!("{} slow readers cut off by the server", count(it.slow_ended)));
        }
        if it.closed_early > 0 {
            self.more(format_args!("{} closed early by the server", count(it.closed_early)));
        }
        for violation in &it.violations {
            self.more(format_args!("{} given up: {}", count(violation.count), violation.what));
        }
        if it.closes_answered < it.closes_sent {
            let unanswered = it.closes_sent - it.closes_answered;
            self.more(format_args!("{} did not answer the final Close in time", count(unanswered)));
        }
    }

    fn messages(&mut self, report: &Report) {
        // What hardly ever happens is only told when it has.
        let seldom = |name: &str| !["sent", "echoed", "lost", "corrupted"].contains(&name);
        let rows = report.messages.rows().into_iter().filter(|&(name, number)| number > 0 || !seldom(name));
        let text: Vec<_> = rows.map(|(name, number)| format!("{} {name}", count(number))).collect();
        self.row("messages", text.join(", "));
    }

    fn measured(&mut self, it: &MeasuredReport) {
        self.row(
            "measured",
            format_args!(
                "{} echoes in {:.2} s: {}/s, {}/s of payload each way",
                count(it.echoes),
                it.seconds,
                count(it.echoes_per_s as u64),
                bytes(it.payload_bytes_per_s)
            ),
        );
        if let Some(LatencyReport { p50, p90, p99, p99_9, max, .. }) = &it.latency_us {
            let text = format!("p50 {p50:.1}  p90 {p90:.1}  p99 {p99:.1}  p99.9 {p99_9:.1}  max {max:.1}");
            self.row("latency µs", text);
        }
        if let Some(LatencyReport { p50, p99, p99_9, max, .. }) = &it.lag_us {
            let text =
                format!("p50 {p50:.1}  p99 {p99:.1}  p99.9 {p99_9:.1}  max {max:.1} (how late ringload itself was)");
            self.row("lag µs", text);
        }
        if let Some(server) = &it.server_cpu {
            self.cpu("server cpu", server);
        }
        self.cpu("load cpu", &it.load_cpu);
    }

    fn cpu(&mut self, name: &str, it: &CpuReport) {
        let mut text =
            format!("{:.2} of {} cores (user {:.2} s, system {:.2} s)", it.cores, it.cores_max, it.user_s, it.system_s);
        if let Some(us_per_echo) = it.us_per_echo {
            text = format!("{us_per_echo:.2} µs per echo, {text}");
        }
        self.row(name, text);
    }

    fn verdict(&mut self, it: &Verdict) {
        self.row("verdict", format_args!("{}: {}", it.bound.name(), it.reason));
        for warning in &it.warnings {
            self.more(format_args!("WARNING: {warning}"));
        }
    }

    fn memory(&mut self, it: &MemoryReport) {
        let servers = it.before.server.zip(it.idle.server).zip(it.at_end.server);
        if let Some(((before, idle), at_end)) = servers {
            let all = [before, idle, at_end].map(|memory| memory.rss_bytes);
            self.resident("server memory", all, it.server_bytes_per_connection);
        }
        let all = [it.before, it.idle, it.at_end].map(|memory| memory.load.rss_bytes);
        self.resident("load memory", all, it.load_bytes_per_connection);
        let kernel = &it.idle.kernel;
        let each = it.slab_bytes_per_connection.map_or(String::new(), |each| format!(" ({each:.0} B per connection)"));
        self.row(
            "kernel memory",
            format_args!(
                "{} slab{each}, {} TCP sockets, {} in queues",
                bytes(kernel.slab_bytes as f64),
                count(kernel.tcp_sockets),
                bytes(kernel.tcp_queue_bytes as f64)
            ),
        );
    }

    fn resident(&mut self, name: &str, [before, idle, at_end]: [u64; 3], each: Option<f64>) {
        let each = each.map_or(String::new(), |each| format!(": {each:.0} B per idle connection"));
        let [before, idle, at_end] = [before, idle, at_end].map(|number| bytes(number as f64));
        self.row(name, format_args!("{before} at start, {idle} when connected, {at_end} at the end{each}"));
    }
}

/// A number with its thousands apart: `1,234,567`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes in the unit that suits it.
#[must_use]
pub fn bytes(number: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut unit) = (number, 0);
    while number >= 1024.0 && unit + 1 < units.len() {
        number /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number:.0} B") } else { format!("{number:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(12_345_678), "12,345,678");
        assert_eq!(bytes(17.0), "17 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(3.0 * 1024.0 * 1024.0 * 1024.0), "3.0 GiB");
    }
}
