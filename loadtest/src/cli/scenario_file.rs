//! Scenario files: a TOML table whose keys are the names of the options.
//!
//! A file becomes arguments that stand before the real ones, so both are checked by the same code, and what is said on
//! the command line wins.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use clap::Args;
use toml::{Table, Value};

use super::scenario_args::ScenarioArgs;

/// The key for what is no option on the command line: the targets.
const URL: &str = "url";

/// The arguments that stand for the scenario file at `path`. Those keys of which `is_given` says that the command line
/// has its own list are left out: lists would only grow.
pub(super) fn arguments(path: &Path, is_given: impl Fn(&str) -> bool) -> Result<Vec<OsString>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse(&text, is_given).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(text: &str, is_given: impl Fn(&str) -> bool) -> Result<Vec<OsString>, String> {
    let table: Table = text.parse().map_err(|error| format!("not a scenario in TOML: {error}"))?;
    let options = options();
    let mut arguments = Vec::new();
    for (key, value) in &table {
        if !options.contains(key) {
            return Err(format!("`{key}` is not an option of a scenario; there are: {}", join(&options)));
        }
        let values = match value {
            Value::Array(values) => values.as_slice(),
            _ if is_given(key) => &[],
            single => std::slice::from_ref(single),
        };
        for value in if is_given(key) { &[] } else { values } {
            arguments.extend(argument(key, value)?);
        }
    }
    Ok(arguments)
}

fn argument(key: &str, value: &Value) -> Result<Option<OsString>, String> {
    let text = match value {
        Value::Boolean(true) => return Ok(Some(format!("--{key}").into())),
        Value::Boolean(false) => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
            return Err(format!("`{key}` must be a number, a text, true or false, or a list of those"));
        }
    };
    Ok(Some(if key == URL { text.into() } else { format!("--{key}={text}").into() }))
}

/// The names of all options of a scenario.
fn options() -> BTreeSet<String> {
    let command = ScenarioArgs::augment_args(clap::Command::new("scenario"));
    command.get_arguments().map(|argument| argument.get_long().unwrap_or(URL).to_owned()).collect()
}

fn join(options: &BTreeSet<String>) -> String {
    options.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_options() {
        let text = "url = 'ws://a/'\nconnections = 5\nduration = 1.5\nactive = '1%'\ntext = true\nno-greet = false\n\
                    header = ['A: 1', 'B: 2']\n";
        let mut arguments = parse(text, |_| false).unwrap();
        arguments.sort();
        let expected =
            ["--active=1%", "--connections=5", "--duration=1.5", "--header=A: 1", "--header=B: 2", "--text", "ws://a/"];
        assert_eq!(arguments, expected.map(OsString::from));
        assert_eq!(parse("header = ['A: 1']\nurl = 'ws://a/'", |_| true), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_scenario_is_refused_with_the_reason() {
        for (text, reason) in [
            ("connections", "TOML"),
            ("conections = 5", "`conections` is not an option of a scenario; there are: active"),
            ("json = 'x'", "not an option of a scenario"),
            ("size = 2026-11-24", "must be a number"),
            ("[connect]\nrate = 5", "not an option"),
        ] {
            let error = parse(text, |_| false).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
