//! A real browser, where there is one, driven by the `DevTools` protocol.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::peer::prepare;
use super::{PATIENCE, eventually};

/// A browser with one page.
pub(crate) struct Browser {
    process: Child,
    profile: PathBuf,
    client: WebSocket<TcpStream>,
    /// Of the page.
    session: Value,
    commands: u64,
    /// What the browser complains about: violations of the page's policy, exceptions, failed loads.
    pub(crate) complaints: Vec<Value>,
}

impl Browser {
    /// `None`: there is none on this machine.
    pub(crate) fn start() -> Option<Self> {
        let is_there =
            |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
        let Some(name) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(is_there) else {
            eprintln!("SKIPPED: there is no Chromium here");
            return None;
        };
        let profile = std::env::temp_dir().join(format!("ringecho-page-{}", std::process::id()));
        let mut command = Command::new(name);
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // SAFETY: between fork and exec only async-signal-safe calls are allowed, and prctl is a bare system call.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        let mut process = command.spawn().expect("it has just told its version");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let url = lines
            .find_map(|line| Some(line.ok()?.strip_prefix("DevTools listening on ")?.to_owned()))
            .expect("the browser says where it listens");
        std::thread::spawn(move || lines.for_each(drop)); // a full pipe would stop it
        let address = url.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).expect("a URL");
        let stream = TcpStream::connect(address).expect("it listens");
        prepare(&stream);
        let (client, _) = tungstenite::client(&url, stream).expect("an upgrade");
        let mut browser = Self { process, profile, client, session: Value::Null, commands: 0, complaints: Vec::new() };
        let target = browser.command("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session = browser.command("Target.attachToTarget", &attach)["sessionId"].clone();
        for domain in ["Log.enable", "Runtime.enable", "Page.enable"] {
            browser.command(domain, &json!({}));
        }
        Some(browser)
    }

    pub(crate) fn command(&mut self, method: &str, parameters: &Value) -> Value {
        self.commands += 1;
        let mut command = json!({ "id": self.commands, "method": method, "params": parameters });
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        self.client.send(command.to_string().into()).expect("the browser listens");
        loop {
            let Message::Text(text) = self.client.read().expect("the browser answers") else { continue };
            let mut answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == self.commands {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            if matches!(answer["method"].as_str(), Some("Log.entryAdded" | "Runtime.exceptionThrown")) {
                self.complaints.push(answer["params"].take());
            }
        }
    }

    /// Opens a page as a screen of this width with this colour scheme shows it.
    pub(crate) fn open(&mut self, url: &str, width: u32, scheme: &str) {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", &metrics);
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.command("Emulation.setEmulatedMedia", &json!({ "features": [feature] }));
        self.command("Page.navigate", &json!({ "url": url }));
    }

    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        self.command("Runtime.evaluate", &parameters)["result"]["value"].take()
    }

    /// Waits until the expression is true.
    pub(crate) fn await_true(&mut self, expression: &str) {
        eventually(expression, || self.evaluate(expression) == true);
    }

    /// The text of the first element that a selector finds.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        self.evaluate(&format!("document.querySelector('{selector}').textContent")).as_str().unwrap_or_default().into()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // An error only says that it has ended already.
        let _ = self.client.send(json!({ "id": 0, "method": "Browser.close" }).to_string().into());
        let started = std::time::Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && started.elapsed() < PATIENCE / 6 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
