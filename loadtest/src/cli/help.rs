//! Help on one screen, help with all options, manual pages and completions: all from one definition of the options,
//! grouped here.

use std::path::Path;

use clap::{Arg, Command};

/// The options of `ringload run` by groups, in the order of their importance. Those of the first list of each group are in
/// `--help`, those of the second only in `--help-all`.
const GROUPS: [Group; 9] = [
    Group {
        title: "Load",
        short: &["connections", "rate", "depth", "stages", "duration", "size", "message", "expect", "deflate"],
        more: &[
            "connection-stages",
            "active",
            "warmup",
            "messages",
            "arrivals",
            "message-file",
            "lines",
            "welcome",
            "text",
            "binary",
            "no-verify",
            "compressibility",
            "deflate-no-context",
            "deflate-window-bits",
            "deflate-precompressed",
        ],
    },
    Group {
        title: "Connections",
        short: &[],
        more: &[
            "connect-rate",
            "connect-window",
            "connect-timeout",
            "no-greet",
            "reconnect-every",
            "lifetime",
            "messages-per-connection",
            "ping-every",
            "slow-readers",
            "source",
            "drain-timeout",
            "close-timeout",
        ],
    },
    Group {
        title: "Requests and TLS",
        short: &["header", "insecure"],
        more: &["subprotocol", "connect-to", "resolve", "ca", "sni", "cert", "key"],
    },
    Group {
        title: "Searches and scenarios",
        short: &["find-max-rate", "slo", "scenario"],
        more: &["find-max-connections", "without", "print-scenario"],
    },
    Group {
        title: "The server's process",
        short: &["server-pid", "server-cmd"],
        more: &["server-args", "server-cpus", "tcp"],
    },
    Group { title: "Many machines", short: &[], more: &["members", "member", "meet", "meet-timeout", "meet-token"] },
    Group {
        title: "This side",
        short: &[],
        more: &["threads", "cpus", "transport", "stack", "tun", "clients", "no-offloads"],
    },
    Group {
        title: "Results",
        short: &["json", "html", "fail-if", "quiet"],
        more: &["summary", "csv", "hdr", "metrics", "no-tui"],
    },
    Group { title: "Help", short: &["help", "help-all"], more: &[] },
];

struct Group {
    title: &'static str,
    short: &'static [&'static str],
    more: &'static [&'static str],
}

const EXAMPLES: &str = "\
Examples:
  ringload run ws://127.0.0.1:9001/ -c 1k                       how fast is it?
  ringload run ws://host/ws -r 5k -t 1m --fail-if 'p99>50ms'    does it keep up?
  ringload run wss://host/ --stages '1m:2k, 5m:2k, 1m:0'        up, hold, down

Numbers and times take units: 10k, 16KiB, 500ms, 30s, 5m.";

/// Where to find the rest.
const MORE: &str = "\
`ringload run --help` shows the common options, `ringload run --help-all` all of them.
Manual pages: `ringload man DIRECTORY`. Completions: `ringload completions bash`, for example.";

const EXIT_CODES: &str = "\
Exit code: 0 success; 1 an echo was lost or wrong, a connection failed or a
--fail-if condition held; 2 bad arguments; 3 no run was possible, or results
could not be read, written or printed; 130, 143 ... (128 + number of a signal)
ended early, with partial results.";

/// The command, with what the definition of its options leaves out.
pub(super) fn complete(command: Command) -> Command {
    command
        .after_help(format!("{EXAMPLES}\n\n{MORE}"))
        .mut_subcommand("run", |run| {
            run.mut_args(group).after_help(EXAMPLES).after_long_help(format!("{EXAMPLES}\n\n{EXIT_CODES}"))
        })
        .mut_subcommand("report", |report| report.after_help(EXIT_CODES))
}

fn group(arg: Arg) -> Arg {
    let Some(name) = arg.get_long().map(str::to_owned) else { return arg };
    for group in &GROUPS {
        let options = group.short.iter().map(|option| (option, true)).chain(group.more.iter().map(|it| (it, false)));
        for (order, (option, is_short)) in options.enumerate() {
            if *option == name {
                return arg.help_heading(group.title).display_order(order).hide_short_help(!is_short);
            }
        }
    }
    arg.hide_short_help(true)
}

/// Writes a manual page for the command and for each of its subcommands into `directory`.
pub(super) fn write_manual(command: Command, directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command, directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run() -> Command {
        let mut command = complete(super::super::Cli::command()).term_width(80);
        command.build();
        command.find_subcommand("run").expect("it is there").clone()
    }

    #[test]
    fn each_option_is_in_one_group() {
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|it| it.short.iter().chain(it.more)).copied().collect();
        let command = run();
        let mut options: Vec<&str> = command.get_arguments().filter_map(Arg::get_long).collect();
        let mut sorted = grouped.clone();
        sorted.sort_unstable();
        options.sort_unstable();
        assert_eq!(sorted, options);
    }

    #[test]
    fn help_fits_a_screen_and_help_all_says_everything() {
        let short = run().render_help().to_string();
        assert!(short.lines().count() <= 50, "{} lines:\n{short}", short.lines().count());
        assert!(short.lines().all(|line| line.chars().count() <= 80), "{short}");
        assert_eq!(short.matches("\n  ringload run ").count(), 3, "examples:\n{short}");
        let long = run().render_long_help().to_string();
        for arg in run().get_arguments() {
            let Some(name) = arg.get_long() else { continue };
            assert!(long.contains(&format!("--{name}")), "--{name} is not in\n{long}");
        }
        assert!(long.contains("Exit code:") && long.contains("130"), "{long}");
        // The library takes `{n}` for the end of a line, and goes on in an odd column.
        let indent = |line: &str| line.len() - line.trim_start().len();
        assert!(long.lines().all(|line| indent(line).is_multiple_of(2)), "{long}");
    }
}
