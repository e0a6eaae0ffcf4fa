//! A comparison without a file: several commands, and one load for all.

use std::str::FromStr;
use std::time::Duration;

use super::file::{Comparison, check_quick_name, quick_server, quick_settings};
use crate::message::sizes::Sizes;

/// `NAME=CMD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCommand {
    /// The server's name.
    pub name: String,
    /// The command, with placeholders.
    pub command: String,
}

impl FromStr for NamedCommand {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, command) =
            text.split_once('=').ok_or_else(|| format!("{text:?} is no server like \"a=./server --port {{port}}\""))?;
        check_quick_name(name)?;
        Ok(Self { name: name.to_owned(), command: command.to_owned() })
    }
}

/// The load.
#[derive(Clone, Debug)]
pub struct Cells {
    /// Numbers of connections, with a cell for each.
    pub connections: Vec<u32>,
    /// Payload bytes.
    pub sizes: Vec<Sizes>,
    /// Messages in flight per connection.
    pub depths: Vec<u32>,
    /// Measured time.
    pub duration: Duration,
    /// Warm-up before it.
    pub warmup: Duration,
}

/// Default rounds: with seven, the interval spans all ratios and covers 98 %.
const ROUNDS: u32 = 7;

/// A comparison of `commands`; the first one is the baseline. `urls` is empty, or has one URL for all.
pub fn comparison(commands: &[NamedCommand], urls: &[String], cells: &Cells) -> Result<Comparison, String> {
    let url = match urls {
        [] => None,
        [url] => Some(url.as_str()),
        _ => return Err("with --server give one URL for all servers; {port} in it is each server's port".to_owned()),
    };
    let mut servers = Vec::new();
    for command in commands {
        if !command.command.contains("{port}") && url.is_none_or(|url| url.contains("{port}")) {
            let help = "write {port} in place of its port, or give a URL without {port}";
            return Err(format!("--server {:?}: it does not know where to listen: {help}", command.name));
        }
        if servers.iter().any(|server: &super::file::Server| server.name == command.name) {
            return Err(format!("there are two servers named `{}`", command.name));
        }
        servers.push(quick_server(&command.name, &command.command, url)?);
    }
    let settings = quick_settings(&commands[0].name, ROUNDS, cells.duration, cells.warmup);
    let cells = super::file::quick_cells(&settings, &cells.connections, &cells.sizes, &cells.depths)?;
    Ok(Comparison { settings, servers, cells })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells() -> Cells {
        let second = Duration::from_secs(1);
        Cells {
            connections: vec![1, 100],
            sizes: vec![Sizes::Fixed(128)],
            depths: vec![1, 16],
            duration: second,
            warmup: second,
        }
    }

    fn compare(servers: &[&str], urls: &[&str]) -> Result<Comparison, String> {
        let servers: Vec<NamedCommand> = servers.iter().map(|it| it.parse()).collect::<Result<_, _>>()?;
        comparison(&servers, &urls.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>(), &cells())
    }

    #[test]
    fn commands_become_a_comparison() {
        let it = compare(&["a=./a -p {port}", "b=node b.js {port}"], &["ws://127.0.0.1:{port}/ws"]).unwrap();
        assert_eq!((it.settings.baseline.as_str(), it.settings.rounds), ("a", 7));
        assert_eq!(it.servers[1].command, ["node", "b.js", "{port}"]);
        assert_eq!(it.servers[1].url, "ws://127.0.0.1:{port}/ws");
        assert_eq!(it.cells.len(), 4);
    }

    #[test]
    fn what_is_no_comparison_is_refused() {
        for (servers, urls, message) in [
            (&["a"][..], &[][..], "is no server like"),
            (&["a b=x {port}"], &[], "is not made of letters"),
            (&["a=x"], &[], "it does not know where to listen"),
            (&["a=x {port}", "a=y {port}"], &[], "two servers named `a`"),
            (&["a=x {prot} {port}"], &[], "did you mean `{port}`?"),
            (&["a='x {port}"], &[], "its quotes do not match"),
            (&["a=x {port}"], &["ws://a/", "ws://b/"], "one URL for all"),
        ] {
            let error = compare(servers, urls).unwrap_err();
            assert!(error.contains(message), "{servers:?}: {error}");
        }
    }
}
