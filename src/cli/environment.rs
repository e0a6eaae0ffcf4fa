//! Environment variables as deployments write them: empty ones count as unset, and spaces and line ends around values, as in
//! a ConfigMap's block, are ignored.
//!
//! The argument parser reads the environment literally. Variables that need this treatment are hidden from it, and become
//! arguments instead, unless the command line has that flag.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// A flag whose variable is not written plainly, with what is meant; `None`: nothing.
type Untidy = (Arg, Option<String>);

/// Keeps the parser from variables that are not written plainly, and says what they mean.
pub(super) fn take_untidy(command: Command, value_of: impl Fn(&str) -> Option<OsString>) -> (Command, Vec<Untidy>) {
    let mut untidy: Vec<Untidy> = Vec::new();
    for arg in command.get_arguments() {
        let Some(value) = arg.get_env().and_then(|name| value_of(name.to_str()?)) else { continue };
        let Some(value) = value.to_str() else { continue };
        let meant = tidy(value);
        if meant != value || meant.is_empty() {
            untidy.push((arg.clone(), Some(meant).filter(|value| !value.is_empty())));
        }
    }
    let forget = |arg: Arg, with_values: bool| {
        let is_of = |(it, value): &Untidy| it.get_env() == arg.get_env() && (with_values || value.is_none());
        if untidy.iter().any(is_of) { arg.env(None::<&'static str>) } else { arg }
    };
    let command = command.mut_args(|arg| forget(arg, true)).mut_subcommands(|command| {
        // Only this one has flags that values can be given with.
        let is_serve = command.get_name() == "serve";
        command.mut_args(|arg| forget(arg, is_serve))
    });
    (command, untidy)
}

/// Elements of a list one behind the other, those that there are.
fn tidy(value: &str) -> String {
    value.split(',').map(str::trim).filter(|element| !element.is_empty()).collect::<Vec<_>>().join(",")
}

/// The arguments that stand for them, but for flags that are among the arguments already.
pub(super) fn arguments(untidy: &[Untidy], given: &ArgMatches) -> Vec<OsString> {
    let argument = |(arg, value): &Untidy| {
        let (flag, value) = (arg.get_long()?, value.as_ref()?);
        let is_given = given.try_contains_id(arg.get_id().as_str()).is_ok()
            && given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        match arg.get_action() {
            _ if is_given => None,
            ArgAction::SetTrue if matches!(value.as_str(), "false" | "0" | "no" | "off" | "n" | "f") => None,
            ArgAction::SetTrue => Some(format!("--{flag}").into()),
            _ => Some(format!("--{flag}={value}").into()),
        }
    };
    untidy.iter().filter_map(argument).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_trimmed() {
        for (value, meant) in [("", ""), (" \n", ""), ("8\n", "8"), ("a, b,\n", "a,b"), ("64x16,whole", "64x16,whole")]
        {
            assert_eq!(tidy(value), meant);
        }
    }
}
