//! Runs the real `ringload` and reads its results.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// What a run came to.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) json: Value,
    pub(crate) output: String,
}

impl Outcome {
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        let value = self.json.pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no number {pointer} in {}\n{}", self.json, self.output))
    }

    /// The causes of failed attempts with their counts.
    pub(crate) fn failures(&self) -> Vec<(String, u64)> {
        let failures = self.json["connections"]["failures"].as_array().expect("a list");
        let failure = |it: &Value| (it["cause"].as_str().unwrap().to_owned(), it["count"].as_u64().unwrap());
        failures.iter().map(failure).collect()
    }
}

pub(crate) fn ringload(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringload")).args(args).output().expect("ringload starts")
}

pub(crate) fn run(address: SocketAddr, args: &[&str]) -> Outcome {
    let url = format!("ws://{address}/");
    run_any(&[&[url.as_str()], args].concat())
}

pub(crate) fn run_any(args: &[&str]) -> Outcome {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let name = format!("run-{}-{}.json", std::process::id(), FILES.fetch_add(1, Ordering::Relaxed));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let fixed = ["run", "-c", "4", "--duration", "0.3", "--warmup", "0", "--json", path.to_str().unwrap()];
    let quick = ["--drain-timeout", "0.5", "--close-timeout", "2"];
    let output = ringload(&[&fixed[..], &quick, args].concat());
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let json = std::fs::read(&path).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).expect("valid JSON"));
    let _ = std::fs::remove_file(&path);
    Outcome { code: output.status.code(), json, output: text }
}
