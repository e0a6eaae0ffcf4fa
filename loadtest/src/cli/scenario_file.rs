//! Scenario files: a TOML table whose keys are the names of the options.
//!
//! A file becomes arguments in front of the real ones, so both are checked by the same code. The command line wins: options
//! that it gives, options that contradict these, and those named by `--without` are left out of the file's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command};
use toml::{Table, Value};

use super::scenario_args::ScenarioArgs;
use crate::output::files::Results;

/// The key for what is no option on the command line: the targets.
const URL: &str = "url";

/// The key for what must not be in the results: the one of their options that is part of a scenario.
const FAIL_IF: &str = "fail-if";

/// The arguments that stand for the scenario file at `path`, where the command line of `command` has `given`.
pub(super) fn arguments(path: &Path, command: &Command, given: &ArgMatches) -> Result<Vec<OsString>, String> {
    let without: Vec<&String> = given.get_many("without").into_iter().flatten().collect();
    let options = options();
    if let Some(unknown) = without.iter().find(|&&key| !options.contains_key(key)) {
        return Err(format!("--without {unknown}: not an option of a scenario; there are: {}", names(&options)));
    }
    let is_out = |key: &str| without.iter().any(|it| *it == key) || is_overruled(key, command, given);
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse(&text, &options, is_out).map_err(|error| format!("{}: {error}", path.display()))
}

/// Whether the command line gives this option itself, or one that contradicts it.
fn is_overruled(key: &str, command: &Command, given: &ArgMatches) -> bool {
    let is_given = |arg: &Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let Some(option) = command.get_arguments().find(|arg| name(arg) == key) else { return false };
    let contradict =
        |one, other: &Arg| command.get_arg_conflicts_with(one).iter().any(|it| it.get_id() == other.get_id());
    let mut overruling = command
        .get_arguments()
        .filter(|arg| arg.get_id() == option.get_id() || contradict(arg, option) || contradict(option, arg));
    overruling.any(is_given)
}

fn parse(text: &str, options: &Options, is_out: impl Fn(&str) -> bool) -> Result<Vec<OsString>, String> {
    let table: Table = text.parse().map_err(|error| format!("not a scenario in TOML: {error}"))?;
    let mut arguments = Vec::new();
    for (key, value) in &table {
        let Some(&takes_value) = options.get(key) else {
            return Err(format!("`{key}` is not an option of a scenario; there are: {}", names(options)));
        };
        let values = match value {
            Value::Array(values) => values.as_slice(),
            single => std::slice::from_ref(single),
        };
        for value in if is_out(key) { &[] } else { values } {
            arguments.extend(argument(key, value, takes_value)?);
        }
    }
    Ok(arguments)
}

fn argument(key: &str, value: &Value, takes_value: bool) -> Result<Option<OsString>, String> {
    let text = match value {
        Value::Boolean(is_on) if !takes_value => return Ok(is_on.then(|| format!("--{key}").into())),
        _ if !takes_value => return Err(format!("`{key}` must be true or false")),
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
            return Err(format!("`{key}` must be a number, a text, or a list of those"));
        }
    };
    Ok(Some(if key == URL { text.into() } else { format!("--{key}={text}").into() }))
}

/// The options of a scenario by name, and whether each takes a value.
type Options = BTreeMap<String, bool>;

fn options() -> Options {
    let is_option = |arg: &&Arg| name(arg) == FAIL_IF;
    let results = Results::augment_args(Command::new("results"));
    let command = ScenarioArgs::augment_args(Command::new("scenario"));
    let args = command.get_arguments().chain(results.get_arguments().filter(is_option));
    args.map(|arg| (name(arg).to_owned(), arg.get_action().takes_values())).collect()
}

fn name(arg: &Arg) -> &str {
    arg.get_long().unwrap_or(URL)
}

fn names(options: &Options) -> String {
    options.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_options() {
        let text = "url = 'ws://a/'\nconnections = 5\nduration = 1.5\nactive = '1%'\ntext = true\nno-greet = false\n\
                    header = ['A: 1', 'B: 2']\nfail-if = ['p99>5ms']\nstages = '1s:5, 2s:0'\n";
        let mut arguments = parse(text, &options(), |_| false).unwrap();
        arguments.sort();
        let expected = [
            "--active=1%",
            "--connections=5",
            "--duration=1.5",
            "--fail-if=p99>5ms",
            "--header=A: 1",
            "--header=B: 2",
            "--stages=1s:5, 2s:0",
            "--text",
            "ws://a/",
        ];
        assert_eq!(arguments, expected.map(OsString::from));
        assert_eq!(parse("header = ['A: 1']\nurl = 'ws://a/'", &options(), |_| true), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_scenario_is_refused_with_the_reason() {
        for (text, reason) in [
            ("connections", "TOML"),
            ("conections = 5", "`conections` is not an option of a scenario; there are: active"),
            ("json = 'x'", "not an option of a scenario"),
            ("size = 2026-11-24", "must be a number"),
            ("connections = true", "must be a number"),
            ("no-verify = 1", "must be true or false"),
            ("[connect]\nrate = 5", "not an option"),
        ] {
            let error = parse(text, &options(), |_| false).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
