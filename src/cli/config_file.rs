//! The configuration file: a TOML table whose keys are the names of the flags.
//!
//! It becomes arguments for settings that neither the command line nor the environment gives, so that all values go through
//! the same checks. Errors have their line and the closest valid key.

use std::fs;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::serve_args::ServeArgs;

/// Flags that are none of the file's business.
const NOT_IN_FILES: [&str; 2] = ["config", "print-config"];
/// Least similarity of a suggested word, as in clap.
const LIKENESS_MIN: f64 = 0.7;

/// The content of a file: flags and their values.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ConfigFile {
    settings: Vec<(String, Vec<String>)>,
}

impl ConfigFile {
    /// Reads the file at `path`. The error is for people: where, what, and what might be meant.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("cannot read --config {}: {e}", path.display()))?;
        Self::parse(&text).map_err(|mistake| format!("{}:{mistake}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let flags = Flags::new();
        let table = DeTable::parse(text).map_err(|e| {
            let line = e.span().map_or(1, |span| line_of(text, span.start));
            format!("{line}: {}", e.message())
        })?;
        let mut settings: Vec<_> = table.get_ref().iter().collect();
        settings.sort_by_key(|(key, _)| key.span().start);
        let setting = |(key, value): (&Spanned<_>, &Spanned<DeValue>)| flags.setting(text, key, value);
        Ok(Self { settings: settings.into_iter().map(setting).collect::<Result<_, _>>()? })
    }

    /// Whether the file sets this flag.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.settings.iter().any(|(it, _)| it == flag)
    }

    /// The arguments that stand for what the file alone says: `given` is what comes from elsewhere.
    pub(super) fn arguments(&self, given: &ArgMatches) -> Vec<String> {
        let command = ServeArgs::augment_args(Command::new("serve"));
        let is_given = |flag: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag)).expect("checked");
            let source = given.value_source(arg.get_id().as_str());
            matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
        };
        let alone = self.settings.iter().filter(|(flag, _)| !is_given(flag));
        alone.flat_map(|(flag, values)| arguments(flag, values)).collect()
    }
}

/// A switch is an argument without a value, or none.
fn arguments(flag: &str, values: &[String]) -> Vec<String> {
    let is_switch = Flags::new().find(flag).is_some_and(is_switch);
    let argument = |value: &String| match (is_switch, value.as_str()) {
        (true, "true") => Some(format!("--{flag}")),
        (true, _) => None,
        (false, value) => Some(format!("--{flag}={value}")),
    };
    values.iter().filter_map(argument).collect()
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The flags that a file can set.
struct Flags {
    command: Command,
}

impl Flags {
    fn new() -> Self {
        Self { command: ServeArgs::augment_args(Command::new("serve")) }
    }

    fn all(&self) -> impl Iterator<Item = (&str, &Arg)> {
        let named = self.command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
        named.filter(|(name, _)| !NOT_IN_FILES.contains(name))
    }

    fn find(&self, name: &str) -> Option<&Arg> {
        self.all().find(|(it, _)| *it == name).map(|(_, arg)| arg)
    }

    /// The flag that a key means, and its values as a command line would have them. Errors begin with the line.
    fn setting(
        &self,
        text: &str,
        key: &Spanned<impl AsRef<str>>,
        value: &Spanned<DeValue>,
    ) -> Result<(String, Vec<String>), String> {
        let line = line_of(text, key.span().start);
        let key = key.get_ref().as_ref();
        let name = key.replace('_', "-");
        let Some(arg) = self.find(&name) else {
            return Err(format!("{line}: there is no setting `{key}`{}", self.proposal(&name)));
        };
        let values =
            values(text, arg, value.get_ref(), value.span()).map_err(|why| format!("{line}: `{key}` {why}"))?;
        if !is_switch(arg) {
            check(arg, &values).map_err(|why| format!("{line}: `{key}`: {why}"))?;
        }
        Ok((name, values))
    }

    fn proposal(&self, name: &str) -> String {
        let likeness = |(it, _): (&str, &Arg)| (strsim::jaro(name, it), it.to_owned());
        let best = self.all().map(likeness).max_by(|one, other| one.0.total_cmp(&other.0));
        match best {
            Some((likeness, word)) if likeness > LIKENESS_MIN => format!("; is `{word}` meant?"),
            _ => {
                let names: Vec<_> = self.all().filter(|(_, arg)| !arg.is_hide_set()).map(|(name, _)| name).collect();
                format!("; there are: {}", names.join(", "))
            }
        }
    }
}

/// A value as a command line would have it.
fn values(text: &str, arg: &Arg, value: &DeValue, span: std::ops::Range<usize>) -> Result<Vec<String>, String> {
    if is_switch(arg) {
        return match value {
            DeValue::Boolean(is_on) => Ok(vec![is_on.to_string()]),
            _ => Err("must be true or false".into()),
        };
    }
    match value {
        DeValue::String(value) => Ok(vec![value.to_string()]),
        // As they stand there: TOML allows for underscores.
        DeValue::Integer(_) | DeValue::Float(_) => Ok(vec![text[span].replace('_', "")]),
        DeValue::Array(items) => {
            let item = |item: &Spanned<DeValue>| match item.get_ref() {
                DeValue::Array(_) => Err("must not have a list in a list".to_owned()),
                value => values(text, arg, value, item.span()),
            };
            Ok(items.iter().map(item).collect::<Result<Vec<_>, _>>()?.concat())
        }
        _ => Err("must be a number, a text, or a list of those".into()),
    }
}

/// Whether the flag takes these values: asked of the flag alone, so that nothing else is blamed.
fn check(arg: &Arg, values: &[String]) -> Result<(), String> {
    let mut alone = Arg::new("value").long("value").value_parser(arg.get_value_parser().clone());
    alone = alone.action(arg.get_action().clone());
    if let Some(delimiter) = arg.get_value_delimiter() {
        alone = alone.value_delimiter(delimiter);
    }
    let command = Command::new("check").no_binary_name(true).arg(alone);
    let outcome = command.try_get_matches_from(values.iter().map(|value| format!("--value={value}")));
    outcome.map(drop).map_err(|e| {
        // "error: invalid value 'x' for '--value <value>': why": of this the flag's name is none that was written.
        let said = e.to_string();
        let first = said.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let possible = said
            .lines()
            .find_map(|line| line.trim().strip_prefix("[possible values: "))
            .map(|it| it.trim_end_matches(']'));
        let first = first.replace(" for '--value <value>'", "");
        possible.map_or(first.clone(), |possible| format!("{first}; it takes {possible}"))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at.min(text.len())].matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<String>, String> {
        let file = ConfigFile::parse(text)?;
        Ok(file.settings.iter().flat_map(|(flag, values)| arguments(flag, values)).collect())
    }

    #[test]
    fn keys_are_flags() {
        let text = "listen = ['127.0.0.1:1', '[::1]:2']\nworkers = 2\nidle_timeout = 1.5\ndrain-timeout = '2min'\n\
                    max-connections = 200_000\nlog-connections = true\ncpus = '0-3'\n";
        let expected = [
            "--listen=127.0.0.1:1",
            "--listen=[::1]:2",
            "--workers=2",
            "--idle-timeout=1.5",
            "--drain-timeout=2min",
            "--max-connections=200000",
            "--log-connections",
            "--cpus=0-3",
        ];
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("log-connections = false").unwrap(), [""; 0]);
    }

    #[test]
    fn mistakes_have_their_line_and_the_nearest_word() {
        for (text, parts) in [
            ("workers = 2\n\nmax-conections = 5", &["3: ", "`max-conections`", "is `max-connections` meant?"][..]),
            ("workers = 2\nworkers = 3", &["2: ", "duplicate"]),
            ("zzz = 1", &["1: ", "there are: listen, "]),
            ("config = 'x'", &["1: ", "no setting `config`"]),
            ("# a\nworkers = 'many'", &["2: ", "`workers`", "many", "invalid digit"]),
            ("engine = 'steam'", &["1: ", "`engine`", "steam", "epoll"]),
            ("log-connections = 1", &["1: ", "true or false"]),
            ("workers = true", &["1: ", "must be a number"]),
            ("[listen]\na = 1", &["1: ", "must be a number"]),
            ("workers", &["1: "]),
        ] {
            let mistake = parse(text).unwrap_err();
            for part in parts {
                assert!(mistake.contains(part), "{text:?}: {part:?} is not in {mistake:?}");
            }
        }
    }
}
