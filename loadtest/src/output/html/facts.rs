//! The page's tables: results, scenario, machine.

use std::time::{Duration, SystemTime};

use super::super::report::{CpuReport, MemoryAt, Report, RunReport, StagePoint};
use super::super::result::{Mark, Summary};
use super::super::units::{bytes, count, percent, time};
use super::chart::add;
use super::escape;
use crate::parsing::show_duration;
use crate::thresholds::Breach;

/// The line under the title.
pub(super) fn result(report: &Report, breaches: &[Breach]) -> String {
    let result = Summary::of(report, breaches);
    let class = match result.mark {
        Mark::Good => "good",
        Mark::Partial => "warn",
        Mark::Failed => "bad",
    };
    format!("<p class=\"result {class}\">{}</p>", escape(&result.text))
}

/// The key figures, at the top of the page.
pub(super) fn key_figures(report: &Report) -> String {
    let mut figures = vec![(
        "connections",
        count(report.connections.ready),
        format!("of {} opened", count(report.connections.requested)),
    )];
    if let Some(measured) = &report.measured {
        figures.push((
            "echoes per second",
            count(measured.echoes_per_s as u64),
            format!("over {:.1} s", measured.seconds),
        ));
        if let Some(latency) = &measured.latency_us {
            figures.push(("median latency", time(latency.p50), format!("90 % within {}", time(latency.p90))));
            figures.push(("99th percentile", time(latency.p99), format!("99.9 % within {}", time(latency.p99_9))));
        }
        if let Some(cpu) = measured.server_cpu.as_ref().and_then(|cpu| cpu.us_per_echo) {
            figures.push((
                "server CPU per echo",
                time(cpu),
                format!("generator: {}", measured.load_cpu.us_per_echo.map_or("-".to_owned(), time)),
            ));
        }
    }
    if let Some(compression) = report.compression() {
        let share = report.connections.deflating as f64 / report.connections.opened.max(1) as f64;
        figures.push(("connections compressed", percent(share), compression));
    }
    if let Some(each) = report.memory.server_bytes_per_connection {
        figures.push(("server memory per idle connection", format!("{each:.0} B"), "resident".to_owned()));
    }
    let mut html = "<section><h2 class=\"hidden\">Key figures</h2><dl class=\"figures\">".to_owned();
    for (name, value, more) in figures {
        let (value, more) = (escape(&value), escape(&more));
        add(&mut html, format_args!("<div><dt>{name}</dt><dd><b>{value}</b> <small>{more}</small></dd></div>\n"));
    }
    html.push_str("</dl></section>\n");
    html
}

/// All figures of connections, messages, processor time and memory.
pub(super) fn details(report: &Report) -> String {
    let it = &report.connections;
    let mut rows = vec![
        (
            "opened".to_owned(),
            format!(
                "{} of {} in {:.2} s ({}/s)",
                count(report.connections.ready),
                count(it.requested),
                it.connect_s,
                count(it.opened_per_s as u64)
            ),
        ),
        ("failed".to_owned(), count(it.failed_at_first)),
        ("not tried any more".to_owned(), count(it.untried)),
        ("not opened, ended early".to_owned(), count(it.not_opened)),
        ("closed early by the server".to_owned(), count(it.closed_early)),
        ("Close answered".to_owned(), format!("{} of {}", count(it.closes_answered), count(it.closes_sent))),
    ];
    let seldom = [
        ("answered the Close and left TCP open for another second", it.lingered),
        ("did not answer the Close in time", it.close_timeouts),
        ("ended TLS without a close_notify", it.no_close_notify),
        ("closed in order, as planned", it.retired),
    ];
    rows.extend(seldom.iter().filter(|row| row.1 > 0).map(|&(name, number)| (name.to_owned(), count(number))));
    rows.extend(report.compression().map(|compression| ("compression".to_owned(), compression)));
    if it.recycled + it.slow_ended > 0 {
        rows.push(("closed in order, to be opened again".to_owned(), count(it.recycled)));
        rows.push(("failed to be opened again".to_owned(), count(it.failed.saturating_sub(it.failed_at_first))));
        rows.push(("slow readers cut off".to_owned(), count(it.slow_ended)));
    }
    if let Some(latency) = &it.latency_us {
        let (p50, p99, max) = (time(latency.p50), time(latency.p99), time(latency.max));
        rows.push(("time until ready".to_owned(), format!("median {p50}, 99 % within {p99}, at most {max}")));
    }
    for failure in &it.failures {
        let remedy = failure.remedy.as_ref().map_or(String::new(), |remedy| format!(" ({remedy})"));
        rows.push((format!("failed: {}{remedy}", failure.text()), count(failure.count)));
    }
    rows.extend(it.detours.iter().map(|it| (format!("went on to the next address: {}", it.text()), count(it.count))));
    rows.extend(it.early_ends.iter().map(|it| (format!("closed early by {}", it.text()), count(it.count))));
    rows.extend(it.violations.iter().map(|it| (format!("given up: {}", it.what), count(it.count))));
    let mut html = format!("<section><h2>In full</h2><div class=\"tables\">{}", table("Connections", &rows));
    html.push_str(&table("Messages", &messages(report)));
    if let Some(measured) = &report.measured {
        let sides = [("server", measured.server_cpu.as_ref()), ("load generator", Some(&measured.load_cpu))];
        let rows: Vec<_> =
            sides.into_iter().filter_map(|(name, cpu)| Some((name.to_owned(), processor_time(cpu?)))).collect();
        html.push_str(&table("Processor time while measuring", &rows));
    }
    html.push_str(&table("Memory", &memory(report)));
    html.push_str("</div></section>\n");
    html
}

fn messages(report: &Report) -> Vec<(String, String)> {
    let rows = report.messages.rows(report.is_verified()).into_iter();
    let rows = rows.map(|(name, number)| (name.to_owned(), count(number)));
    let pings = report.ping_us.map(|it| {
        let (p50, p99, max) = (time(it.p50), time(it.p99), time(it.max));
        ("from a ping to its pong".to_owned(), format!("median {p50}, 99 % within {p99}, at most {max}"))
    });
    let wire = report.wire().map(|wire| ("on the wire".to_owned(), wire));
    rows.chain(pings).chain(wire).chain([("verified".to_owned(), report.verified())]).collect()
}

fn processor_time(cpu: &CpuReport) -> String {
    let mut more = cpu.us_per_echo.map_or(String::new(), |each| format!(", {} per echo", time(each)));
    if let Some(it) = &cpu.throttling {
        let (throttled, periods) = (count(it.periods_throttled), count(it.periods));
        let quota = it.quota_cores;
        add(&mut more, format_args!("; CPU quota {quota:.2} cores, throttled in {throttled} of {periods} periods"));
    }
    format!(
        "{:.2} of {} cores (user {:.2} s, system {:.2} s; busiest thread {:.0} %){more}",
        cpu.cores,
        cpu.cores_max,
        cpu.user_s,
        cpu.system_s,
        cpu.busiest_thread_cores * 100.0
    )
}

fn memory(report: &Report) -> Vec<(String, String)> {
    let it = &report.memory;
    let row = |name: &str, value: &dyn Fn(&MemoryAt) -> Option<u64>, each: Option<f64>| {
        let values = [&it.before, &it.idle, &it.at_end].map(|at| value(at).map(|value| bytes(value as f64)));
        let [Some(before), Some(idle), Some(at_end)] = values else { return None };
        let each = each.map_or(String::new(), |each| format!("; {each:.0} B per connection"));
        Some((name.to_owned(), format!("{before} at start, {idle} when connected, {at_end} at the end{each}")))
    };
    let rows = [
        row("server, resident", &|at| Some(at.server?.rss_bytes), it.server_bytes_per_connection),
        row("server, proportional", &|at| at.server?.pss_bytes, None),
        row("load generator, resident", &|at| Some(at.load.rss_bytes), it.load_bytes_per_connection),
        row("kernel, slab", &|at| Some(at.kernel.slab_bytes), it.slab_bytes_per_connection),
        row("kernel, TCP queues", &|at| Some(at.kernel.tcp_queue_bytes), None),
    ];
    rows.into_iter().flatten().collect()
}

/// The scenario.
pub(super) fn scenario(report: &Report) -> String {
    let mut tables: String = report.runs.iter().map(|run| table(&title(report, run), &asked_for(run))).collect();
    if let Some(meeting) = &report.meeting {
        let mut rows = vec![("members".to_owned(), meeting.text())];
        rows.extend(meeting.missing.iter().map(|missing| ("missing".to_owned(), missing.text())));
        tables.insert_str(0, &table("Members", &rows));
    }
    format!("<section><h2>Scenario</h2><div class=\"tables\">{tables}</div></section>\n")
}

pub(in crate::output) fn asked_for(run: &RunReport) -> Vec<(String, String)> {
    let mut rows = vec![("target".to_owned(), run.target.clone()), ("threads".to_owned(), run.threads.to_string())];
    rows.push(("transport".to_owned(), run.transport.clone()));
    rows.push(("TCP stack".to_owned(), run.stack.clone()));
    rows.extend(run.place.iter().map(|place| ("member".to_owned(), format!("{} of {}", place.member, place.members))));
    let stages = [("rate stages", &run.scenario.rate_stages), ("connection stages", &run.scenario.connection_stages)];
    rows.extend(stages.into_iter().filter_map(|(name, points)| Some((name.to_owned(), in_words(points.as_ref()?)))));
    let mut fields = serde_json::to_value(&run.scenario).unwrap_or_default();
    if let Some(fields) = fields.as_object_mut() {
        fields.retain(|name, _| !name.ends_with("_stages"));
    }
    flatten("", &fields, &mut rows);
    rows
}

/// `0, in 30s to 1,000, in 2m to 20,000`
fn in_words(points: &[StagePoint]) -> String {
    let value = |point: &StagePoint| count(point.value.round() as u64);
    let stages = points.windows(2).map(|pair| {
        let time = show_duration(Duration::from_secs_f64((pair[1].at_s - pair[0].at_s).max(0.0)));
        format!("in {time} to {}", value(&pair[1]))
    });
    points.first().map(value).into_iter().chain(stages).collect::<Vec<_>>().join(", ")
}

/// The leaf fields of nested objects, named by their path.
fn flatten(way: &str, value: &serde_json::Value, rows: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('_', " ");
                flatten(&if way.is_empty() { name } else { format!("{way}: {name}") }, value, rows);
            }
        }
        serde_json::Value::Null => rows.push((way.to_owned(), "-".to_owned())),
        serde_json::Value::Bool(yes) => rows.push((way.to_owned(), if *yes { "yes" } else { "no" }.to_owned())),
        serde_json::Value::String(text) => rows.push((way.to_owned(), text.clone())),
        serde_json::Value::Number(number) => {
            let whole = number.as_f64().filter(|it| it.fract() == 0.0 && it.abs() < 1e15);
            rows.push((way.to_owned(), whole.map_or(number.to_string(), |it| count(it as u64))));
        }
        serde_json::Value::Array(_) => rows.push((way.to_owned(), value.to_string())),
    }
}

/// The machine of the load generator.
pub(super) fn machines(report: &Report) -> String {
    let mut tables = String::new();
    for (index, run) in report.runs.iter().enumerate() {
        let it = &run.machine;
        // Several runs on one machine share one table.
        if report.runs[..index].iter().any(|before| before.machine.boot_id == it.boot_id) {
            continue;
        }
        let descriptors = it.descriptors_max.map_or("unlimited".to_owned(), count);
        let mut rows = vec![
            ("name".to_owned(), it.hostname.clone()),
            ("kernel".to_owned(), it.kernel.clone()),
            ("processor".to_owned(), it.cpu_model.clone()),
            ("processors usable".to_owned(), it.cpus_usable.to_string()),
            ("CPU quota".to_owned(), it.cpu_quota_cores.map_or("none".to_owned(), |it| format!("{it:.2} processors"))),
            ("frequency governor".to_owned(), it.cpu_governor.clone().unwrap_or_else(|| "not told".to_owned())),
            ("memory".to_owned(), bytes(it.memory_bytes as f64)),
            ("descriptors per process".to_owned(), descriptors),
        ];
        rows.extend(it.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())));
        tables.push_str(&table(&title(report, run), &rows));
    }
    format!("<section><h2>Machine of the load generator</h2><div class=\"tables\">{tables}</div></section>\n")
}

/// The run's name, if several runs need to be told apart.
fn title(report: &Report, run: &RunReport) -> String {
    let Some(number) = report.runs.iter().position(|it| it == run).filter(|_| report.runs.len() > 1) else {
        return String::new();
    };
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(run.started_unix_s.max(0.0));
    let started = humantime::format_rfc3339_seconds(started);
    format!("run {}: {}, started {started}", number + 1, run.machine.hostname)
}

fn table(title: &str, rows: &[(String, String)]) -> String {
    let caption = if title.is_empty() { String::new() } else { format!("<caption>{}</caption>", escape(title)) };
    let mut html = format!("<div class=\"scroll\"><table>{caption}<tbody>");
    for (name, value) in rows {
        let (name, value) = (escape(name), escape(value));
        add(&mut html, format_args!("<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>\n"));
    }
    html.push_str("</tbody></table></div>\n");
    html
}
