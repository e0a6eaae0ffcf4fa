//! The HTML report in a real browser, where there is one.

mod runner;
mod server;

use std::fmt::Write;
use std::process::Command;

use runner::{Files, ringload, run_to_end};
use server::{Behaviour, start};

/// What finds labels that lie on each other, and says so on the console.
const OVERLAPS: &str = r#"<script>
for (const svg of document.querySelectorAll("svg")) {
  const labels = [...svg.querySelectorAll("text")].filter(it => getComputedStyle(it).display !== "none");
  const boxes = labels.map(it => [it.textContent, it.getBoundingClientRect()]);
  const caption = svg.parentElement.querySelector("figcaption");
  if (caption) boxes.push(["the caption " + caption.textContent, caption.getBoundingClientRect()]);
  for (const [index, [text, a]] of boxes.entries()) for (const [other, b] of boxes.slice(index + 1)) {
    // A pixel of tolerance: boxes are a little higher than their letters.
    const is_apart = a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
    if (!is_apart) console.log("OVERLAP in " + svg.getAttribute("aria-label") + ": " + text + " and " + other);
  }
}
if (document.documentElement.scrollWidth > innerWidth) console.log("TOO WIDE: " + document.documentElement.scrollWidth);
console.log("LOOKED AT " + document.querySelectorAll("svg text").length + " labels at " + innerWidth);
</script>"#;

fn browser() -> Option<&'static str> {
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()));
    if found.is_none() {
        eprintln!("SKIPPED: there is no Chromium here, the page was not opened");
    }
    found
}

/// What the page says on the console, and itself, in frames of these widths: a window has a least width, a frame has none.
fn look_at(browser: &str, files: &Files, page: &str, widths: &[u32], more: &[&str]) -> (String, Vec<String>) {
    let text = std::fs::read_to_string(page).unwrap();
    let probed = files.path("probed.html");
    std::fs::write(&probed, text.replace("</body>", &format!("{OVERLAPS}</body>"))).unwrap();
    let mut frames = "<!DOCTYPE html><body>".to_owned();
    for width in widths {
        write!(frames, "<iframe src=\"probed.html\" style=\"width: {width}px; height: 900px; border: 0\"></iframe>")
            .unwrap();
    }
    let all = files.path("frames.html");
    std::fs::write(&all, frames).unwrap();
    let profile = format!("--user-data-dir={}", files.path("profile"));
    let output = run_to_end(
        Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000"])
            .args(["--enable-logging=stderr", "--window-size=1400,1000", &profile])
            .args(more)
            .arg(format!("file://{all}")),
    );
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    (log, said)
}

/// Nothing but that all labels were looked at, at each width.
fn check(browser: &str, files: &Files, page: &str) {
    check_with(browser, files, page, &["--dump-dom"]);
}

fn check_with(browser: &str, files: &Files, page: &str, more: &[&str]) {
    let widths = [400, 700, 1200];
    let (log, said) = look_at(browser, files, page, &widths, more);
    let (looks, complaints): (Vec<_>, Vec<_>) = said.iter().partition(|line| line.contains("LOOKED AT"));
    assert!(complaints.is_empty(), "{complaints:#?}");
    for width in widths {
        let has_looked = |line: &&String| line.contains(&format!("labels at {width}")) && !line.contains("AT 0 labels");
        assert!(looks.iter().any(has_looked), "{width}: {looks:?}\n{log}");
    }
}

#[test]
fn pages_have_labels_that_do_not_overlap() {
    let Some(browser) = browser() else { return };
    let files = Files::new("page");
    let [html, a, b, both] = ["r.html", "a.json", "b.json", "both.html"].map(|name| files.path(name));
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let run = ["run", &url, "-c", "4", "--duration", "2.3", "--warmup", "0.2"];
    let output = ringload(&[&run[..], &["--rate", "500", "--html", &html, "--json", &a]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    check(browser, &files, &html);
    assert_eq!(ringload(&[&run[..], &["--json", &b]].concat()).status.code(), Some(0));
    assert_eq!(ringload(&["report", "--diff", &a, &b, "--html", &both]).status.code(), Some(0));
    check(browser, &files, &both);
}

/// Two million connections and latencies from microseconds to minutes: the longest labels there are.
#[test]
fn large_numbers_have_room_too() {
    let Some(browser) = browser() else { return };
    let files = Files::new("large-page");
    let [json, html] = ["r.json", "r.html"].map(|name| files.path(name));
    let url = format!("ws://{}/", start(Behaviour::Echo));
    let output = ringload(&["run", &url, "-c", "4", "--duration", "2.3", "--warmup", "0.5", "--json", &json]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut results = files.json("r.json");
    for (index, sample) in results["series"].as_array_mut().unwrap().iter_mut().enumerate() {
        sample["time_s"] = (138.0 + 97.0 * index as f64).into();
        sample["interval_s"] = 97.0.into();
        sample["connections_open"] = 2_000_000.into();
        sample["connections_per_s"] = 19_999.5.into();
        sample["echoes_per_s"] = 1_234_567.8.into();
        sample["load"]["rss_bytes"] = 21_474_836_480_u64.into();
        sample["latency_us"] = serde_json::json!({ "p50": 7.5, "p99": 81_000.0, "max": 412_000_000.0 });
    }
    std::fs::write(files.path("r.json"), results.to_string()).unwrap();
    assert_eq!(ringload(&["report", &json, "--html", &html]).status.code(), Some(0));
    check(browser, &files, &html);
}

/// A comparison of three servers, with long names and invented results: in light, in dark and on paper.
#[test]
fn a_comparison_is_readable_everywhere() {
    let Some(browser) = browser() else { return };
    let files = Files::new("compare-page");
    let server = |name: &str| {
        format!(
            "[[server]]\nname = '{name}'\ncommand = '{{ringecho}} --listen 127.0.0.1:{{port}} --engine epoll --max-connections 50'\n"
        )
    };
    let names = ["ringecho", "a-server-with-a-name-that-is-too-long", "third", "few"];
    let cpus = ringecho::sys::usable_cpus().unwrap();
    let mut text = format!(
        "[compare]\nrounds = 1\nwarmup = 0\nduration = '100ms'\nretries = 0\nserver-cpus = '{}'\nload-cpus = '{}'\n",
        cpus[0],
        cpus[cpus.len() - 1]
    );
    for name in &names {
        text += &server(name);
    }
    text += "[[server]]\nname = 'left-out'\ncommand = 'x {port}'\nskip = 'it crashed with a message that has a word of \
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'\n";
    text += "[[cell]]\nconnections = [1, 5]\n";
    std::fs::write(files.path("c.toml"), text).unwrap();
    let [toml, json, html] = ["c.toml", "r.json", "r.html"].map(|name| files.path(name));
    let output = ringload(&["compare", &toml, "-q", "--json", &json]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // Nine rounds of each, one server much faster and one a little slower; of the last one too few rounds or none.
    let mut results = files.json("r.json");
    let run = results["runs"][0].clone();
    let mut runs = Vec::new();
    for round in 0..10 {
        for cell in ["128 B x 1", "128 B x 5"] {
            for (name, cost) in names.iter().zip([5.0, 0.9, 5.6, 7.0]) {
                let mut run = run.clone();
                (run["server"], run["cell"], run["round"]) = ((*name).into(), cell.into(), round.into());
                (run["faults"], run["bound"]) =
                    (serde_json::json!([]), if cost > 5.5 { "generator-bound" } else { "server-bound" }.into());
                run["values"] = serde_json::json!({ "cpu-per-echo": cost * (1.0 + 0.001 * f64::from(round)), "peak-memory": cost * 1e6 });
                if *name == "few" && (cell == "128 B x 5" || round > 3) {
                    run["faults"] = serde_json::json!([{ "kind": "failed", "why": "the server died: it ended" }]);
                }
                runs.push(run);
            }
        }
    }
    results["runs"] = runs.into();
    results["settings"]["rounds"] = 9.into();
    results["cells"].as_array_mut().unwrap().iter_mut().for_each(|cell| cell["rounds"] = 9.into());
    std::fs::write(&json, results.to_string()).unwrap();
    assert_eq!(ringload(&["compare", "report", &json, "--html", &html]).status.code(), Some(0));
    let page = files.text("r.html");
    for part in
        ["faster by 82 %", "slower by 12 %", "place not told (3 rounds)", "failed in 9 of 9 rounds", "left-out</b>"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    check(browser, &files, &html);
    // Blink's number for a preference for dark.
    check_with(browser, &files, &html, &["--dump-dom", "--blink-settings=preferredColorScheme=0"]);
    let pdf = files.path("page.pdf");
    check_with(browser, &files, &html, &["--no-pdf-header-footer", &format!("--print-to-pdf={pdf}")]);
    let printed = std::fs::read(&pdf).expect("it was printed");
    assert!(printed.starts_with(b"%PDF") && printed.len() > 10_000, "{} bytes", printed.len());
}
