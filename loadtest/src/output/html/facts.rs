//! The page's tables: what came out, what was asked for, and where.

use super::super::report::{CpuReport, MemoryAt, Report, RunReport};
use super::super::table::{bytes, count};
use super::chart::add;
use super::escape;

/// The line under the title.
pub(super) fn result(report: &Report) -> String {
    let (class, text) = match (report.ok, report.interrupted) {
        (true, false) => ("good", "all connections held, every echo right".to_owned()),
        (true, true) => ("warn", "ended early; until then all connections held and every echo was right".to_owned()),
        (false, _) => ("bad", format!("{} errors", count(report.errors()))),
    };
    let doubt = if report.is_verified() { "" } else { " (echoes were not compared: --no-verify)" };
    format!("<p class=\"result {class}\">{text}{doubt}</p>")
}

/// The numbers that people look for first.
pub(super) fn key_figures(report: &Report) -> String {
    let mut figures = vec![(
        "connections",
        count(report.opened_first()),
        format!("of {} opened", count(report.connections.requested)),
    )];
    if let Some(measured) = &report.measured {
        figures.push((
            "echoes per second",
            count(measured.echoes_per_s as u64),
            format!("over {:.1} s", measured.seconds),
        ));
        if let Some(latency) = &measured.latency_us {
            figures.push(("median latency", micros(latency.p50), format!("90 % within {}", micros(latency.p90))));
            figures.push(("99th percentile", micros(latency.p99), format!("99.9 % within {}", micros(latency.p99_9))));
        }
        if let Some(cpu) = measured.server_cpu.as_ref().and_then(|cpu| cpu.us_per_echo) {
            figures.push((
                "server CPU per echo",
                micros(cpu),
                format!("generator: {}", measured.load_cpu.us_per_echo.map_or("-".to_owned(), micros)),
            ));
        }
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

fn micros(value: f64) -> String {
    match value {
        it if it >= 1e6 => format!("{:.2} s", it / 1e6),
        it if it >= 1e4 => format!("{:.1} ms", it / 1e3),
        it if it >= 1e3 => format!("{:.2} ms", it / 1e3),
        it if it >= 100.0 => format!("{it:.0} µs"),
        it => format!("{it:.2} µs"),
    }
}

/// Connections, messages, processor time and memory in full.
pub(super) fn details(report: &Report) -> String {
    let it = &report.connections;
    let mut rows = vec![
        (
            "opened".to_owned(),
            format!(
                "{} of {} in {:.2} s ({}/s)",
                count(report.opened_first()),
                count(it.requested),
                it.connect_s,
                count(it.opened_per_s as u64)
            ),
        ),
        ("failed".to_owned(), count(it.failed)),
        ("closed early by the server".to_owned(), count(it.closed_early)),
        ("Close answered".to_owned(), format!("{} of {}", count(it.closes_answered), count(it.closes_sent))),
    ];
    if it.recycled + it.slow_ended > 0 {
        rows.push(("closed and opened again".to_owned(), count(it.recycled)));
        rows.push(("slow readers cut off".to_owned(), count(it.slow_ended)));
    }
    if let Some(latency) = &it.latency_us {
        let (p50, p99, max) = (micros(latency.p50), micros(latency.p99), micros(latency.max));
        rows.push(("time until ready".to_owned(), format!("median {p50}, 99 % within {p99}, at most {max}")));
    }
    for failure in &it.failures {
        let remedy = failure.remedy.as_ref().map_or(String::new(), |remedy| format!(" ({remedy})"));
        rows.push((format!("failed: {}{remedy}", failure.cause), count(failure.count)));
    }
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
    report.messages.rows().into_iter().map(|(name, number)| (name.to_owned(), count(number))).collect()
}

fn processor_time(cpu: &CpuReport) -> String {
    let each = cpu.us_per_echo.map_or(String::new(), |each| format!(", {each:.2} µs per echo"));
    format!(
        "{:.2} of {} cores (user {:.2} s, system {:.2} s; busiest thread {:.0} %){each}",
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
        row("server, proportional", &|at| Some(at.server?.pss_bytes), None),
        row("load generator, resident", &|at| Some(at.load.rss_bytes), it.load_bytes_per_connection),
        row("kernel, slab", &|at| Some(at.kernel.slab_bytes), it.slab_bytes_per_connection),
        row("kernel, TCP queues", &|at| Some(at.kernel.tcp_queue_bytes), None),
    ];
    rows.into_iter().flatten().collect()
}

/// What was asked for.
pub(super) fn scenario(report: &Report) -> String {
    let tables: String = report.runs.iter().map(|run| table(&title(report, run), &asked_for(run))).collect();
    format!("<section><h2>Scenario</h2><div class=\"tables\">{tables}</div></section>\n")
}

fn asked_for(run: &RunReport) -> Vec<(String, String)> {
    let mut rows = vec![("target".to_owned(), run.target.clone()), ("threads".to_owned(), run.threads.to_string())];
    let fields = serde_json::to_value(&run.scenario).unwrap_or_default();
    flatten("", &fields, &mut rows);
    rows
}

/// The fields of nested objects, named by their way.
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

/// Where the load generator ran.
pub(super) fn machines(report: &Report) -> String {
    let mut tables = String::new();
    for (index, run) in report.runs.iter().enumerate() {
        let it = &run.machine;
        // Two runs on one machine need not tell of it twice.
        if report.runs[..index].iter().any(|before| before.machine.boot_id == it.boot_id) {
            continue;
        }
        let descriptors = it.descriptors_max.map_or("unlimited".to_owned(), count);
        let mut rows = vec![
            ("name".to_owned(), it.hostname.clone()),
            ("kernel".to_owned(), it.kernel.clone()),
            ("processor".to_owned(), it.cpu_model.clone()),
            ("processors usable".to_owned(), it.cpus_usable.to_string()),
            ("frequency governor".to_owned(), it.cpu_governor.clone().unwrap_or_else(|| "not told".to_owned())),
            ("memory".to_owned(), bytes(it.memory_bytes as f64)),
            ("descriptors per process".to_owned(), descriptors),
        ];
        rows.extend(it.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())));
        tables.push_str(&table(&title(report, run), &rows));
    }
    format!("<section><h2>Machine of the load generator</h2><div class=\"tables\">{tables}</div></section>\n")
}

/// Tables of several runs need to be told apart.
fn title(report: &Report, run: &RunReport) -> String {
    if report.runs.len() > 1 {
        format!("{}, from {:.0} s", run.machine.hostname, run.started_unix_s)
    } else {
        String::new()
    }
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
