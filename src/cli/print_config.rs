//! `--print-config`: all settings, as a file for `--config`, with the origin of each.

use std::fmt::Write;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command};

use super::config_file::ConfigFile;
use super::serve_args::ServeArgs;

/// The settings in `matches`, of which `file` has brought some as arguments.
pub(super) fn render(matches: &ArgMatches, file: &ConfigFile, summary: &str) -> String {
    let mut text = format!("# ringecho {}: {summary}\n", env!("CARGO_PKG_VERSION"));
    let command = ServeArgs::augment_args(Command::new("serve"));
    for arg in command.get_arguments() {
        let Some(flag) = arg.get_long().filter(|flag| !["config", "print-config"].contains(flag)) else { continue };
        let source = matches.value_source(arg.get_id().as_str());
        let raw = matches.get_raw(arg.get_id().as_str());
        let values: Vec<String> = raw.into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect();
        if values.is_empty() {
            if !arg.is_hide_set() {
                let _ = writeln!(text, "# {flag} = # not set");
            }
            continue;
        }
        let source = match source {
            _ if file.has(flag) && source == Some(ValueSource::CommandLine) && !is_typed(flag) => "file".to_owned(),
            Some(ValueSource::CommandLine) => format!("--{flag}"),
            Some(ValueSource::EnvVariable) => arg.get_env().unwrap_or_default().to_string_lossy().into_owned(),
            _ => "default".to_owned(),
        };
        let _ = writeln!(text, "{flag} = {} # {source}", toml_of(arg, &values));
    }
    text
}

/// Whether the real command line has the flag: what the file brings looks the same.
fn is_typed(flag: &str) -> bool {
    let is_it = |argument: &str| {
        let name = argument.strip_prefix("--").map(|rest| rest.split('=').next().unwrap_or_default());
        name == Some(flag)
    };
    std::env::args_os().any(|argument| is_it(&argument.to_string_lossy()))
}

fn toml_of(arg: &Arg, values: &[String]) -> String {
    if matches!(arg.get_action(), ArgAction::Append) || arg.get_value_delimiter().is_some() {
        let items: Vec<_> = values.iter().map(|value| scalar(value)).collect();
        return format!("[{}]", items.join(", "));
    }
    match values {
        [value] if matches!(arg.get_action(), ArgAction::SetTrue) => {
            ["true", "1", "yes", "on", "y", "t"].contains(&value.to_lowercase().as_str()).to_string()
        }
        values => scalar(&values.join(",")),
    }
}

fn scalar(value: &str) -> String {
    let is_number =
        value.bytes().all(|byte| byte.is_ascii_digit()) && value.parse::<i64>().is_ok_and(|it| it.to_string() == value);
    if is_number { value.to_owned() } else { toml::Value::String(value.to_owned()).to_string() }
}
