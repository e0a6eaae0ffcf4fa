//! The results as text: the result with its reasons first, then the figures.

use std::fmt::Write;

use super::report::{Connections, CpuReport, LatencyReport, MeasuredReport, MemoryReport, Report};
use super::result::Summary;
use super::units::{bytes, count, time};
use crate::thresholds::Breach;
use crate::verdict::Verdict;

/// The final table.
#[must_use]
pub fn render(report: &Report, breaches: &[Breach]) -> String {
    let mut table = Table("\n".to_owned());
    table.row("result", Summary::of(report, breaches).text);
    if let Some(verdict) = &report.verdict {
        table.verdict(verdict);
    }
    if let Some(meeting) = &report.meeting {
        table.row("members", meeting.text());
        for missing in &meeting.missing {
            table.more(format_args!("WARNING: {}", missing.text()));
        }
    } else if report.runs.len() > 1 {
        table.row("runs", format_args!("{} merged: histograms and counters added", report.runs.len()));
    }
    table.connections(report);
    table.messages(report);
    if let Some(measured) = &report.measured {
        table.measured(measured, report.what_is_measured());
    }
    if let Some(stack) = report.user_stack() {
        table.row("TCP", stack);
    }
    if let Some(wire) = report.wire() {
        table.row("wire", wire);
    }
    table.memory(&report.memory);
    table.row("verified", report.verified());
    table.0
}

/// The column of values, after their names.
const INDENT: usize = 15;

/// Below this width the text is not folded: names and values do not fit side by side.
const MIN_COLUMNS: usize = 2 * INDENT;

/// The text folded to lines of at most `columns` columns, broken between values if possible, else between words.
#[must_use]
pub fn fold(text: &str, columns: usize) -> String {
    let mut folded = String::new();
    for line in text.lines() {
        let mut rest = line.to_owned();
        while columns >= MIN_COLUMNS
            && let Some((end, _)) = rest.char_indices().nth(columns)
            && let Some(cut) = break_of(&rest[..end], columns)
        {
            folded.push_str(rest[..cut].trim_end());
            folded.push('\n');
            rest = format!("{:INDENT$}  {}", "", rest[cut..].trim_start());
        }
        folded.push_str(&rest);
        folded.push('\n');
    }
    folded
}

/// The position at which to break a line that begins with `window`.
fn break_of(window: &str, columns: usize) -> Option<usize> {
    let between_values = window.rfind("  ").filter(|&cut| cut > columns / 2);
    between_values.or_else(|| window.rfind(' ')).filter(|&cut| cut > INDENT + 2)
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
        let rate = count(it.opened_per_s as u64);
        let opened =
            format!("{} of {} opened in {:.2} s ({rate}/s)", count(it.ready), count(it.requested), it.connect_s);
        let rest = [
            (it.failed_at_first, "failed"),
            (it.untried, "not tried any more, as all had failed"),
            (it.not_opened, "not opened: ended early"),
        ];
        let rest =
            rest.iter().filter(|(number, _)| *number > 0).map(|(number, end)| format!(", {} {end}", count(*number)));
        self.row("connections", opened + &rest.collect::<String>());
        if let Some(latency) = &it.latency_us {
            self.more(format_args!("ready after {}", percentiles(latency)));
        }
        if let Some(compression) = report.compression() {
            self.more(format_args!("compression {compression}"));
        }
        self.reopened(it);
        for failure in &it.failures {
            self.more(format_args!("{} failed: {}", count(failure.count), failure.text()));
            if let Some(remedy) = &failure.remedy {
                self.more(format_args!("  ({remedy})"));
            }
        }
        for detour in &it.detours {
            self.more(format_args!("{} went on to the next address: {}", count(detour.count), detour.text()));
        }
        if it.slow_ended > 0 {
            self.more(format_args!("{} slow readers cut off by the server", count(it.slow_ended)));
        }
        if it.closed_early > 0 {
            self.more(format_args!("{} closed early by the server", count(it.closed_early)));
            for end in &it.early_ends {
                self.more(format_args!("  {} by {}", count(end.count), end.text()));
                if let Some(remedy) = &end.remedy {
                    self.more(format_args!("    ({remedy})"));
                }
            }
        }
        for violation in &it.violations {
            self.more(format_args!("{} given up: {}", count(violation.count), violation.what));
        }
        if it.closes_answered < it.closes_sent {
            let unanswered = it.closes_sent - it.closes_answered;
            self.more(format_args!("{} did not answer the final Close in time", count(unanswered)));
        }
        if it.lingered > 0 {
            let lingered = count(it.lingered);
            self.more(format_args!(
                "{lingered} answered the Close and left the TCP connection open for another second: ended on this side"
            ));
        }
        if it.no_close_notify > 0 {
            self.more(format_args!("{} ended TLS without a close_notify", count(it.no_close_notify)));
        }
        if it.retired > 0 {
            self.more(format_args!("{} closed in order, as planned", count(it.retired)));
        }
    }

    fn reopened(&mut self, it: &Connections) {
        if it.recycled > 0 {
            let failed = it.failed.saturating_sub(it.failed_at_first);
            let again = it.recycled.saturating_sub(failed);
            let recycled = count(it.recycled);
            let (again, failed) = (count(again), count(failed));
            self.more(format_args!("{recycled} closed in order, to be opened again: {again} were, {failed} failed"));
        }
    }

    fn messages(&mut self, report: &Report) {
        // Rare outcomes have a row only if they occurred.
        let seldom = |name: &str| !["sent", "echoed", "answered", "lost", "corrupted"].contains(&name);
        let rows = report
            .messages
            .rows(report.is_verified())
            .into_iter()
            .filter(|&(name, number)| number > 0 || !seldom(name));
        let text: Vec<_> = rows.map(|(name, number)| format!("{} {name}", count(number))).collect();
        self.row("messages", text.join(", "));
        if let Some(pings) = &report.ping_us {
            self.row("pings", format_args!("{} (from a ping to its pong)", percentiles(pings)));
        }
        if report.messages.pings_unanswered > 0 {
            let (unanswered, sent) = (count(report.messages.pings_unanswered), count(report.messages.pings_sent));
            self.more(format_args!("WARNING: {unanswered} of {sent} pings were not answered (RFC 6455 section 5.5.2)"));
        }
        if report.messages.pongs_unasked > 0 {
            let unasked = count(report.messages.pongs_unasked);
            self.more(format_args!("WARNING: {unasked} pongs answer no ping: other bytes, or once more"));
        }
    }

    fn measured(&mut self, it: &MeasuredReport, what: &str) {
        self.row(
            "measured",
            format_args!(
                "{} {what} in {:.2} s: {}/s, {}/s of payload each way",
                count(it.echoes),
                it.seconds,
                count(it.echoes_per_s as u64),
                bytes(it.payload_bytes_per_s)
            ),
        );
        if let Some(latency) = &it.latency_us {
            self.row("latency", percentiles(latency));
        }
        if let Some(lag) = &it.lag_us {
            self.row("lag", format_args!("{} (how late ringload itself was)", percentiles(lag)));
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
            text = format!("{} per echo, {text}", time(us_per_echo));
        }
        if let Some(it) = &it.throttling {
            let (quota, throttled) = (it.quota_cores, count(it.periods_throttled));
            text = format!(
                "{text}; CPU quota {quota:.2} cores, throttled in {throttled} of {} periods",
                count(it.periods)
            );
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

/// The common percentiles.
fn percentiles(it: &LatencyReport) -> String {
    let named =
        [("p50", it.p50), ("p90", it.p90), ("p95", it.p95), ("p99", it.p99), ("p99.9", it.p99_9), ("max", it.max)];
    named.map(|(name, us)| format!("{name} {}", time(us))).join("  ")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn on_a_terminal_lines_are_broken_between_words() {
        let table = render(&report(), &[]);
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for columns in [40, 60, 80] {
            let folded = fold(&table, columns);
            assert_eq!(words(&folded), words(&table));
            assert!(folded.lines().all(|line| line.chars().count() <= columns), "{columns}:\n{folded}");
        }
        assert_eq!(fold(&table, 1000), table);
        assert_eq!(fold("latency        p50 1.48 µs  p90 37.7 µs  p99 100 µs\n", 45).lines().count(), 2);
        let long = format!("target         ws://{}/\n", "x".repeat(100));
        assert_eq!(fold(&long, 40), long, "a word that does not fit is left to the terminal");
    }

    #[test]
    fn the_result_and_its_reason_come_first_and_times_have_units() {
        let text = render(&report(), &[]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "result         ok: 100 connections held, 1,100 echoes right");
        assert!(lines[2].starts_with("verdict        neither"), "{text}");
        let latency = lines.iter().find(|line| line.starts_with("latency")).unwrap();
        assert_eq!(
            *latency,
            "latency        p50 100 µs  p90 100 µs  p95 100 µs  p99 100 µs  p99.9 2.00 ms  max 2.00 ms"
        );
    }

    /// Each row must add up: 2 requested cannot be 2 opened and 2 failed.
    #[test]
    fn what_became_of_the_connections_adds_up() {
        let mut report = report();
        let it = &mut report.connections;
        (it.opened, it.ready, it.failed, it.failed_at_first, it.not_opened) = (95, 70, 25, 25, 5);
        let text = render(&report, &[]);
        assert!(text.contains("70 of 100 opened in 1.00 s (100/s), 25 failed, 5 not opened: ended early"), "{text}");
        let it = &mut report.connections;
        (it.failed, it.recycled) = (28, 40);
        assert!(render(&report, &[]).contains("40 closed in order, to be opened again: 37 were, 3 failed"));
    }
}
