//! The comparison as one self-contained HTML page.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use super::analysis::warnings;
use super::file::{Class, Fresh};
use super::plot;
use super::results::{CellReport, Results, ServerReport};
use super::statistics::Verdict;
use super::table::{Matrix, add, legend, rate_note};
use crate::output::html::{begin, end_with, escape};
use crate::output::units::{bytes, count, counted, percent};

/// The last second of the year 9999, behind which a date cannot be shown.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// Writes the page of one comparison, or of several in sequence.
pub fn write(all: &[(String, Results)], file: &mut impl Write) -> io::Result<()> {
    let title = all.first().map_or("Comparison", |(_, results)| results.title.as_str());
    begin(title, file)?;
    for (index, (name, results)) in all.iter().enumerate() {
        let heading = if all.len() > 1 { format!("{} ({name})", results.title) } else { results.title.clone() };
        let tag = if index == 0 { "h1" } else { "h2" };
        if index > 0 {
            writeln!(file, "</main>")?;
        }
        writeln!(file, "<header><{tag}>{}</{tag}>{}</header>\n<main>", escape(&heading), subtitle(results))?;
        write!(file, "{}", one(results))?;
    }
    let version = all.first().map_or(env!("CARGO_PKG_VERSION"), |(_, results)| results.ringload.as_str());
    end_with(&format!("ringload {version}, form of comparisons {}", super::results::VERSION), file)
}

fn one(results: &Results) -> String {
    let matrix = Matrix::of(results);
    let mut html = String::new();
    let warnings = warnings(results);
    if !warnings.is_empty() {
        html.push_str("<section class=\"verdict warn\"><h2>Warnings</h2><ul class=\"warnings\">");
        for warning in warnings {
            add(&mut html, format_args!("<li>{}</li>", escape(&warning)));
        }
        html.push_str("</ul></section>\n");
    }
    html.push_str(&table(&matrix));
    html.push_str(&tied(&matrix));
    html.push_str(&rounds(&matrix));
    if let Some((svg, title)) = plot::scatter(&matrix) {
        add(
            &mut html,
            format_args!(
                "<section><h2>Processor time for an echo against {title}</h2>\n<figure>{svg}<figcaption class=\"unit\">To the left and below is better; both axes are logarithmic.</figcaption></figure></section>\n"
            ),
        );
    }
    html.push_str(&cells(results));
    html.push_str(&servers(results));
    html.push_str(&skipped(results));
    html.push_str(&conditions(results));
    html.push_str(&rules(results));
    html
}

fn subtitle(results: &Results) -> String {
    let when = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(results.started_unix_s.clamp(0.0, LAST_SECOND));
    let machine = &results.machine;
    let (rounds, memory) = (results.rounds_of_cells(), bytes(machine.memory_bytes as f64));
    let text = format!(
        "{}, {} rounds, on {} ({}, {memory}, Linux {})",
        humantime::format_rfc3339_seconds(when),
        rounds,
        machine.hostname,
        machine.cpu_model,
        machine.kernel
    );
    format!("<p class=\"unit\">{}</p>", escape(&text))
}

fn table(matrix: &Matrix) -> String {
    let mut html =
        "<section><h2>Matrix</h2>\n<div class=\"scroll\"><table class=\"matrix\"><thead><tr><th>server</th>".to_owned();
    for cell in &matrix.cells {
        let about = cell.about.as_ref().map_or(String::new(), |about| format!(" title=\"{}\"", escape(about)));
        let (name, metric) = (escape(&cell.name), format!("{}{}", cell.metric.title(), rate_note(cell)));
        add(&mut html, format_args!("<th{about}>{name}<small>{}</small></th>", escape(&metric)));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for server in &matrix.servers {
        let version = server.version.as_ref().map_or(String::new(), |it| format!("<small>{}</small>", escape(it)));
        add(&mut html, format_args!("<tr><th>{}{version}</th>", escape(&server.name)));
        for (index, cell) in matrix.cells.iter().enumerate() {
            html.push_str(&field(matrix, server, cell, index));
        }
        html.push_str("</tr>\n");
    }
    add(
        &mut html,
        format_args!(
            "</tbody></table></div>\n<p class=\"unit\">{}</p></section>\n",
            escape(&legend(matrix.results).replace("*:", "★:"))
        ),
    );
    html
}

fn field(matrix: &Matrix, server: &ServerReport, cell: &CellReport, index: usize) -> String {
    let Some(compared) = matrix.compared(server, cell) else { return "<td>-</td>".to_owned() };
    let (value, more) = matrix.field(server, index);
    let mut classes = Vec::new();
    if matrix.is_first(server, index) {
        classes.push("first");
    }
    if compared.is_generator_bound {
        classes.push("generator");
    }
    if compared.ratio.is_none() && compared.reason.is_some() {
        classes.push("why");
    }
    let verdict = match compared.verdict {
        Some(Verdict::Better) => " class=\"verdict-better\"",
        Some(Verdict::Worse) => " class=\"verdict-worse\"",
        _ => "",
    };
    let ratio = compared.ratio.as_ref().filter(|ratio| ratio.reaches(matrix.results.settings.confidence));
    let bar = ratio.map_or(String::new(), |ratio| plot::bar(ratio, compared.verdict));
    let tip = compared.reason.as_ref().map_or(String::new(), |reason| format!(" title=\"{}\"", escape(reason)));
    let (value, more, classes) = (escape(&value), escape(&more), classes.join(" "));
    format!("<td class=\"{classes}\"{tip}><b>{value}</b>{bar}<small{verdict}>{more}</small></td>")
}

/// Groups of servers instead of ranks.
fn tied(matrix: &Matrix) -> String {
    let mut html =
        "<section><h2>Servers that cannot be told apart</h2>\n<p class=\"unit\">Best first; within brackets the order says \
                    nothing. Servers with too few valid rounds have no place.</p>\n<ul class=\"groups\">\n"
            .to_owned();
    for (cell, groups) in matrix.cells.iter().zip(&matrix.groups) {
        let mut parts: Vec<String> = groups.told.iter().map(|group| format!("[{}]", group.join(", "))).collect();
        if !groups.untold.is_empty() {
            let untold = groups.untold.iter().map(|it| format!("{} ({})", it.0, counted(it.1.into(), "round")));
            parts.push(format!("not told: {}", untold.collect::<Vec<_>>().join(", ")));
        }
        let groups = if parts.is_empty() { "no server was measured".to_owned() } else { escape(&parts.join(" ")) };
        add(&mut html, format_args!("<li><b>{}</b>: {groups}</li>\n", escape(&cell.name)));
    }
    html.push_str("</ul></section>\n");
    html
}

fn rounds(matrix: &Matrix) -> String {
    if matrix.servers.len() < 2 {
        return String::new();
    }
    let baseline = escape(&matrix.results.settings.baseline);
    let mut html = format!(
        "<section><h2>Every round</h2>\n<p class=\"unit\">A dot is one round's ratio to {baseline}, the line their median, the box \
         its interval; 1 is {baseline} itself.</p>\n<div class=\"charts\">\n"
    );
    for cell in &matrix.cells {
        let (name, metric) = (escape(&cell.name), escape(&format!("{}{}", cell.metric.title(), rate_note(cell))));
        let svg = plot::dots(matrix, cell);
        add(
            &mut html,
            format_args!(
                "<figure><figcaption><b>{name}</b> <span class=\"unit\">{metric}</span></figcaption>{svg}</figure>\n"
            ),
        );
    }
    html.push_str("</div></section>\n");
    html
}

/// What the load of each cell was.
fn cells(results: &Results) -> String {
    let mut html = begin_table(
        "Cells",
        &[
            "cell",
            "connections",
            "payload in bytes",
            "load",
            "messages per connection",
            "measured for",
            "rounds",
            "more arguments",
        ],
    );
    for cell in &results.cells {
        let load = match (cell.active.as_deref(), cell.depth, &cell.rate) {
            (Some("0"), ..) => "none: idle".to_owned(),
            (_, _, Some(rate)) => format!("open loop, {rate}{}", rate_note(cell)),
            (_, depth, None) => format!("closed loop, depth {}", depth.unwrap_or(1)),
        };
        let active = cell.active.as_ref().filter(|it| *it != "0").map(|active| format!("active: {active}"));
        let slow = (cell.slow_readers > 0).then(|| counted(cell.slow_readers.into(), "slow reader"));
        let load = std::iter::once(load).chain(active).chain(slow).collect::<Vec<_>>().join("; ");
        let messages = cell.messages_per_connection.map_or("-".to_owned(), |it| it.to_string());
        let time = format!("{} s after {} s of load", cell.duration_s, cell.warmup_s);
        let args = if cell.args.is_empty() { "-".to_owned() } else { cell.args.join(" ") };
        let (connections, rounds) = (count(cell.connections.into()), cell.rounds.to_string());
        add(&mut html, format_args!("<tr><th>{}</th>", escape(&cell.name)));
        for field in [&connections, &cell.size, &load, &messages, &time, &rounds, &args] {
            add(&mut html, format_args!("<td>{}</td>", escape(field)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div></section>\n");
    html
}

fn begin_table(title: &str, heads: &[&str]) -> String {
    let mut html = format!("<section><h2>{title}</h2>\n<div class=\"scroll\"><table><thead><tr>");
    for head in heads {
        add(&mut html, format_args!("<th style=\"text-align:left\">{head}</th>"));
    }
    html.push_str("</tr></thead><tbody>\n");
    html
}

fn servers(results: &Results) -> String {
    let mut html = begin_table("Servers", &["server", "version", "kind", "started by", "built by", "notes"]);
    for server in &results.servers {
        let code = |text: &str| if text.is_empty() { "-".to_owned() } else { format!("<code>{}</code>", escape(text)) };
        let kind = match &server.language {
            Some(language) => format!("{}, {language}", server.class.name()),
            None => server.class.name().to_owned(),
        };
        let env: String = server.env.iter().fold(String::new(), |all, (name, value)| all + name + "=" + value + " ");
        let (version, build) = (server.version.as_deref().unwrap_or("-"), server.build.as_deref().unwrap_or_default());
        add(
            &mut html,
            format_args!(
                "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                escape(&server.name),
                escape(version),
                escape(&kind),
                code(&format!("{env}{}", server.command)),
                code(build),
                escape(&notes(server))
            ),
        );
    }
    html.push_str("</tbody></table></div></section>\n");
    html
}

fn notes(server: &ServerReport) -> String {
    let tuned = server.tuned.as_ref().map(|why| format!("tuned: {why}"));
    let gate = (!server.gate.is_empty() && server.gate.iter().all(|check| check.fault.is_none()))
        .then(|| format!("passes the gate ({} checks)", server.gate.len()));
    let all = server.about.iter().cloned().chain(tuned).chain(gate).chain(server.remarks.iter().cloned());
    all.collect::<Vec<_>>().join("; ")
}

fn skipped(results: &Results) -> String {
    let skipped: Vec<&ServerReport> = results.servers.iter().filter(|server| server.skipped.is_some()).collect();
    if skipped.is_empty() {
        return String::new();
    }
    let mut html = "<section><h2>What was skipped, and why</h2>\n<ul class=\"groups\">\n".to_owned();
    for server in skipped {
        let why = server.skipped.as_deref().unwrap_or_default();
        add(&mut html, format_args!("<li><b>{}</b>: {}</li>\n", escape(&server.name), escape(why)));
    }
    html.push_str("</ul></section>\n");
    html
}

fn conditions(results: &Results) -> String {
    let (machine, settings) = (&results.machine, &results.settings);
    let list = |cpus: &[usize]| cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut rows = vec![
        ("machine".to_owned(), machine.hostname.clone()),
        ("processors".to_owned(), format!("{} of {}", machine.cpus_usable, machine.cpu_model)),
        ("memory".to_owned(), bytes(machine.memory_bytes as f64)),
        ("kernel".to_owned(), machine.kernel.clone()),
        ("servers run on processors".to_owned(), list(&settings.server_cpus)),
        ("the load runs on processors".to_owned(), list(&settings.load_cpus)),
        ("rounds".to_owned(), format!("{}, behind {} that do not count", results.rounds_of_cells(), settings.discard)),
        ("seed".to_owned(), results.seed.to_string()),
        ("same within".to_owned(), percent(settings.same_within)),
    ];
    // Cells beyond a server's limits were not run at all.
    let is_exact = results.runs.iter().filter(|run| !run.values.is_empty()).all(|run| run.by_control_group);
    let how = if is_exact { "control group" } else { "/proc, of the processes that were there" };
    rows.push(("processor time by".to_owned(), how.to_owned()));
    rows.extend(results.conditions.iter().map(|(name, value)| (name.clone(), value.clone())));
    rows.extend(machine.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())));
    let mut html = "<section><h2>Conditions</h2>\n<div class=\"scroll\"><table><tbody>\n".to_owned();
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        add(&mut html, format_args!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(value)));
    }
    html.push_str("</tbody></table></div></section>\n");
    html
}

fn rules(results: &Results) -> String {
    let fresh = match results.settings.fresh {
        Fresh::Cell => "Each server is started anew for each cell of each round.",
        Fresh::Round => "Each server is started anew for each round, and for each cell that measures idle memory.",
    };
    let reference = if results.servers.iter().any(|server| server.class == Class::Reference) {
        "<li>References are measured for comparison and in no group.</li>"
    } else {
        ""
    };
    let settings = &results.settings;
    let is_shared = settings.load_cpus.iter().any(|cpu| settings.server_cpus.contains(cpu));
    let load = if is_shared { "shares them" } else { "runs on others" };
    let is_plain = |arg: &String| !arg.starts_with("--deflate") && !arg.starts_with("--scenario");
    let compression = if results.cells.iter().all(|cell| cell.args.iter().all(is_plain)) {
        "<li>No compression is offered.</li>"
    } else {
        ""
    };
    let has = |option: &str| results.cells.iter().any(|cell| cell.args.iter().any(|arg| arg.starts_with(option)));
    let compared = if has("--no-verify") || has("--expect") {
        "Which cells compare every echo with what was sent is in their arguments (--no-verify, --expect)."
    } else {
        "Every echo of every run is compared with what was sent, byte by byte; messages of 16 bytes or more also carry their \
         connection and number."
    };
    format!(
        "<section><h2>Rules</h2>\n<ul class=\"groups\">\
         <li>All servers run on the same processors; {{threads}} in a command stands for their number. The load {load}.</li>\
         <li>{fresh} In each round they come in an order by chance, which the seed decides.</li>\
         <li>A server is measured only if it passes the gate: handshake, text, binary, fragments, ping, 1 MiB, 16 messages in \
         one segment, Close. {compared}</li>\
         <li>A measurement does not count if an echo was lost, if others took the processors, or if rate, latency and messages in \
         flight do not go together (Little's law); it is repeated up to {} times. Where the generator was full, rates and \
         latencies are not compared.</li>\
         <li>What counts is the median of the ratios to {} in the same round; the best round is never used. A difference is called \
         one only if the interval leaves 1 out and a paired t test does, corrected for the number of pairs (Holm).</li>\
         <li>How each server is set is the choice of the comparison's author; \"tuned\" in its notes tells why it differs from its \
         documentation.</li>\
         {compression}{reference}</ul></section>\n",
        settings.retries,
        escape(&settings.baseline)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::results;
    use crate::output::html::tests::check_tags;

    fn page(all: &[(String, Results)]) -> String {
        let mut page = Vec::new();
        write(all, &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn the_page_is_complete_and_loads_nothing() {
        let mut it = results(&[("base", 10.0), ("slow", 11.0), ("gone", 1.0)]);
        it.servers[2].skipped = Some("it did not <b>start</b>".to_owned());
        crate::compare::analysis::analyse(&mut it);
        let page = page(&[("one.json".to_owned(), it)]);
        for part in ["Matrix", "Every round", "slower by 10 %", "did not &lt;b&gt;start", "Conditions", "Rules", "seed"]
        {
            assert!(page.contains(part), "{part}");
        }
        check_tags(&page);
        for reference in ["src=", "@import", "url(", "fetch(", "http://", "https://", "<b>start"] {
            assert!(!page.contains(reference), "{reference}");
        }
    }

    #[test]
    fn a_server_with_too_few_rounds_has_no_place_and_no_interval() {
        let mut it = results(&[("base", 10.0), ("slow", 20.0)]);
        it.runs.retain(|run| run.server != "slow" || run.round <= 3);
        crate::compare::analysis::analyse(&mut it);
        let page = page(&[("one.json".to_owned(), it)]);
        assert!(page.contains("[base] not told: slow (3 rounds)"), "{page}");
        assert!(page.contains("2.00 (3 of 9 rounds) cannot tell, place not told (3 rounds)"), "{page}");
        assert!(!page.contains("<svg class=\"bar\""), "{page}");
    }

    #[test]
    fn several_days_are_on_one_page() {
        let days =
            ["monday.json", "tuesday.json"].map(|day| (day.to_owned(), results(&[("base", 10.0), ("slow", 11.0)])));
        let page = page(&days);
        assert!(page.contains("(monday.json)</h1>") && page.contains("(tuesday.json)</h2>"));
        check_tags(&page);
    }

    #[test]
    fn the_page_says_only_what_is_so() {
        let mut it = results(&[("base", 10.0), ("slow", 11.0)]);
        (it.settings.server_cpus, it.settings.load_cpus) = (vec![0], vec![1]);
        let plain = page(&[("one.json".to_owned(), it.clone())]);
        assert!(plain.contains("No compression is offered.") && plain.contains("The load runs on others."), "{plain}");
        let by = "<th>processor time by</th><td>control group</td>";
        assert!(plain.contains(by), "{plain}");

        it.cells[0].args = vec!["--text".to_owned(), "--deflate".to_owned()];
        (it.settings.server_cpus, it.settings.load_cpus) = (vec![0, 1], vec![1]);
        // Beyond the server's limits.
        let run = it.runs.last_mut().unwrap();
        (run.values, run.by_control_group) = (std::collections::BTreeMap::new(), false);
        let other = page(&[("one.json".to_owned(), it)]);
        assert!(!other.contains("No compression") && other.contains("The load shares them."), "{other}");
        assert!(other.contains("<td>--text --deflate</td>") && other.contains("Every echo of every run"), "{other}");
        assert!(other.contains(by), "{other}");

        let mut it = results(&[("base", 10.0), ("slow", 11.0)]);
        it.cells[0].args = vec!["--no-verify".to_owned()];
        (it.cells[0].duration_s, it.cells[0].rounds) = (7.0, 3);
        it.started_unix_s = f64::MAX;
        let other = page(&[("one.json".to_owned(), it)]);
        assert!(!other.contains("Every echo of every run") && other.contains("(--no-verify, --expect)"), "{other}");
        assert!(
            other.contains("9999-12-31T23:59:59Z, 3 rounds, on ") && other.contains("<td>7 s after 1 s"),
            "{other}"
        );
    }
}
