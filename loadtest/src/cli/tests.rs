//! Tests of the meaning of arguments, and of those that are refused.

use std::time::Duration;

use super::*;
use crate::websocket::deflate::Offer;

fn resolve(args: &[&str]) -> Result<Settings, String> {
    let args = [&["ringload", "run"], args].concat();
    let given = super::command().try_get_matches_from(args).map_err(|error| error.to_string())?;
    let cli = Cli::from_arg_matches(&given).map_err(|error| error.to_string())?;
    let Command::Run(mut args) = cli.command else { unreachable!("the first argument is run") };
    let search = args.search.resolve()?;
    args.scenario.fill_in(search.map(|search| search.quantity));
    args.resolve()
}

#[test]
fn the_definition_is_consistent() {
    super::command().debug_assert();
}

#[test]
fn nothing_said_is_a_run_against_an_own_server() {
    let settings = resolve(&[]).unwrap();
    assert!(matches!(settings.server, ServerChoice::Own { .. }));
    assert_eq!((settings.scenario.connections, settings.scenario.active), (10_000, 10_000));
    assert_eq!(settings.scenario.warmup, Duration::from_secs(2));
    assert!(settings.scenario.connect.greet && settings.scenario.traffic.expect.compares());
    assert_eq!(resolve(&["--messages", "5"]).unwrap().scenario.warmup, Duration::ZERO);
    assert_eq!(resolve(&["ws://127.0.0.1:1/"]).unwrap().scenario.connections, 100, "kind to somebody's server");
}

#[test]
fn a_stack_of_its_own_has_addresses_of_its_own_and_no_sockets() {
    let user =
        |args: &[&str]| resolve(args).map(|settings| settings.user_stack.map(|it| (it.name, it.clients.to_string())));
    let named = |name: &str, clients: &str| Ok(Some((name.to_owned(), clients.to_owned())));
    assert_eq!(user(&["--stack", "kernel"]), Ok(None));
    assert_eq!(user(&["--stack", "user"]), named("ringload", "198.19.0.0/16"));
    assert_eq!(user(&["--stack", "user", "--tun", "x", "--clients", "10.1.1.1/8"]), named("x", "10.0.0.0/8"));
    for refused in [
        &["--tun", "x"][..],
        &["--clients", "10.0.0.0/8"],
        &["--no-offloads"],
        &["--stack", "user", "--clients", "10.0.0.1"],
        &["--stack", "user", "--transport", "ring"],
        &["--stack", "user", "--source", "127.0.0.2", "ws://10.0.0.1:1/"],
    ] {
        assert!(user(refused).is_err(), "{refused:?}");
    }
}

#[test]
fn every_number_and_time_takes_a_unit() {
    let args = ["-c", "10k", "-s", "16KiB", "-t", "1m30s", "--warmup", "500ms", "-r", "2.5k", "--connect-rate", "1k/s"];
    let more = ["--active", "1k", "--ping-every", "30s", "--lifetime", "10m", "--connect-window", "1k"];
    let scenario = resolve(&[&args[..], &more].concat()).unwrap().scenario;
    assert_eq!((scenario.connections, scenario.active, scenario.connect.window), (10_000, 1000, 1000));
    assert_eq!((scenario.traffic.sizes.max(), scenario.traffic.open.unwrap().rate as u32), (16_384, 2500));
    assert_eq!((scenario.duration, scenario.warmup), (Duration::from_secs(90), Duration::from_millis(500)));
    assert_eq!(scenario.upkeep.ping_every, Some(Duration::from_secs(30)));
    assert_eq!(scenario.upkeep.reconnect_every, Some(Duration::from_millis(60)));
    assert_eq!(resolve(&["--messages", "1.5M"]).unwrap().scenario.traffic.limit, Some(1_500_000));
    assert!(resolve(&["--fail-if", "rate<10k", "--fail-if", "bytes-rate<1GiB", "--fail-if", "p99>1.5s"]).is_ok());
}

#[test]
fn stages_are_ramps_from_where_the_load_is() {
    let second = 1_000_000_000;
    let scenario = resolve(&["--stages", "30s:1000, 2m:20k,30s:0"]).unwrap().scenario;
    let rate = scenario.plan.rate.unwrap();
    assert_eq!([0, 15, 30, 90, 150, 180].map(|at| rate.at(at * second) as u32), [0, 500, 1000, 10_500, 20_000, 0]);
    assert_eq!((scenario.duration, scenario.warmup), (Duration::from_secs(180), Duration::ZERO));
    assert_eq!((scenario.traffic.open.unwrap().rate as u32, scenario.traffic.depth), (20_000, u32::MAX));
    assert_eq!(scenario.connections, 10_000);

    let args = ["-c", "10", "--connection-stages", "1s:50", "--connection-stages", "1s:0", "--warmup", "500ms"];
    let scenario = resolve(&[&args[..], &["-r", "100", "--stages", "4s:300"]].concat()).unwrap().scenario;
    let connections = scenario.plan.connections.unwrap();
    assert_eq!([0, 1, 2, 3].map(|at| connections.at(at * second) as u32), [10, 50, 0, 0]);
    assert_eq!((scenario.connections, scenario.active), (50, 50));
    assert_eq!(scenario.plan.rate.unwrap().at(2 * second) as u32, 200);
    assert_eq!(scenario.duration, Duration::from_millis(3500), "the longer of both, less what is not measured");
}

#[test]
fn shares_and_counts_of_active_connections() {
    let active = |text| resolve(&["-c", "1000", "--active", text]).map(|settings| settings.scenario.active);
    assert_eq!(active("1%"), Ok(10));
    assert_eq!(active("0"), Ok(0));
    assert_eq!(active("1000"), Ok(1000));
    assert!(active("1001").is_err() && active("101%").is_err() && active("-1").is_err() && active("x").is_err());
}

#[test]
fn an_open_loop_is_not_limited_in_depth_unless_asked_for() {
    let traffic = |args: &[&str]| resolve(args).unwrap().scenario.traffic;
    assert_eq!((traffic(&[]).depth, traffic(&[]).open), (1, None));
    let open = traffic(&["--rate", "1000", "--arrivals", "poisson"]);
    assert_eq!((open.depth, open.open.unwrap().rate as u32), (u32::MAX, 1000));
    assert_eq!(traffic(&["--rate", "1000", "--depth", "4"]).depth, 4);
}

#[test]
fn compression_is_what_the_options_say() {
    let traffic = |args: &[&str]| resolve(args).unwrap().scenario.traffic;
    assert_eq!((traffic(&[]).deflate, traffic(&[]).compressibility), (None, 0));
    let plain = traffic(&["--deflate"]);
    assert_eq!((plain.deflate.unwrap().offer, plain.compressibility), (Offer::default(), 75));
    let args = ["--deflate", "--deflate-no-context", "--deflate-window-bits", "9", "--deflate-precompressed"];
    let all = traffic(&[&args[..], &["--compressibility", "5", "--size", "9:1,7:2"]].concat());
    assert_eq!(all.deflate.unwrap().offer, Offer { no_context: true, window_bits: Some(9) });
    assert!(all.deflate.unwrap().is_precompressed && all.compressibility == 5);
    assert_eq!(traffic(&["--deflate", "--message", "x"]).compressibility, 0);
}

#[test]
fn a_life_of_all_is_a_turn_of_each() {
    let every = |args: &[&str]| resolve(args).unwrap().scenario.upkeep.reconnect_every;
    assert_eq!(every(&["-c", "1000", "--lifetime", "60"]), Some(Duration::from_millis(60)));
    assert_eq!(every(&["--reconnect-every", "0.5"]), Some(Duration::from_millis(500)));
    assert!(resolve(&["--reconnect-every", "1", "--lifetime", "1"]).is_err());
}

#[test]
fn a_printed_scenario_means_the_same_when_read_again() {
    let path = std::env::temp_dir().join(format!("ringload-scenario-{}.toml", std::process::id()));
    let text = |args: &[&str]| {
        let args = ["ringload", "run"].iter().chain(args).map(OsString::from).collect();
        let Command::Run(run) = parse(args).unwrap() else { unreachable!("the first argument is run") };
        run.to_toml()
    };
    let said =
        ["ws://127.0.0.1:1/", "ws+unix:/x", "--rate", "12.5", "-s", "1:2,3:4", "--text", "-a", "7%", "-H", "A: b"];
    let more = ["--lifetime", "9", "--slow-readers", "3", "--no-verify", "--source", "127.1.0.0/16", "--warmup", "0"];
    let more = [&more[..], &["--deflate", "--deflate-window-bits", "10", "--compressibility", "30"]].concat();
    let more = [&more[..], &["--depth", "3", "--fail-if", "p99>5ms", "--fail-if", "errors>0"]].concat();
    let first = text(&[&said[..], &more].concat());
    std::fs::write(&path, &first).unwrap();
    let file = ["--scenario", path.to_str().unwrap()];
    let (again, won) = (text(&file), text(&[&file[..], &["ws://b/", "--rate", "99", "--binary"]].concat()));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(again, first);
    assert!(
        won.contains("url = [\"ws://b/\"]") && won.contains("rate = 99.0") && won.contains("text = false"),
        "{won}"
    );
    assert!(first.contains("deflate = true") && first.contains("deflate-window-bits = 10"), "{first}");
    assert!(first.contains("compressibility = \"30%\"") && first.contains("deflate-no-context = false"), "{first}");
    assert!(first.contains("depth = 3") && first.contains(r#"fail-if = ["p99>5ms", "errors>0"]"#), "{first}");
}

#[test]
fn a_printed_scenario_has_all_defaults() {
    let text = |args: &[&str]| {
        let args = ["ringload", "run"].iter().chain(args).map(OsString::from).collect();
        let Command::Run(mut run) = parse(args).unwrap() else { unreachable!("the first argument is run") };
        run.scenario.fill_in(None);
        run.to_toml()
    };
    let plain = text(&["ws://127.0.0.1:1/"]);
    for line in ["connections = 100", "depth = 1", "duration = \"10s\"", "warmup = \"2s\"", "connect-timeout = \"30s\""]
    {
        assert!(plain.lines().any(|it| it == line), "{line} is not in\n{plain}");
    }
    assert!(text(&["--rate", "5"]).contains("depth = \"unlimited\""));
    let stages = text(&["--stages", "30s:1000, 1m30s:0"]);
    assert!(stages.contains(r#"stages = ["30s:1000", "1m30s:0"]"#) && !stages.contains("duration"), "{stages}");
}

#[test]
fn whatever_a_file_says_can_be_taken_back() {
    let path = std::env::temp_dir().join(format!("ringload-taken-back-{}.toml", std::process::id()));
    let all = "url = 'ws://a/'\nno-verify = true\nno-greet = true\ninsecure = true\nrate = 5\nlifetime = 9\n";
    std::fs::write(&path, all).unwrap();
    let parsed = |more: &[&str]| {
        let args = [&["ringload", "run", "--scenario", path.to_str().unwrap()], more].concat();
        match parse(args.into_iter().map(OsString::from).collect()) {
            Ok(Command::Run(mut args)) => {
                args.scenario.fill_in(None);
                args.resolve()
            }
            Ok(_) => unreachable!("the first argument is run"),
            Err(error) => Err(error),
        }
    };
    let file = parsed(&[]).unwrap();
    assert!(!file.scenario.traffic.expect.compares() && file.tls.insecure && file.scenario.traffic.open.is_some());
    let without = parsed(&["--without", "no-verify,no-greet", "--without", "insecure,rate"]).unwrap();
    assert!(without.scenario.traffic.expect.compares() && without.scenario.connect.greet && !without.tls.insecure);
    assert!(without.scenario.traffic.open.is_none());
    // What contradicts the command line has lost, too.
    let every = parsed(&["--reconnect-every", "1"]).unwrap().scenario.upkeep.reconnect_every;
    assert_eq!(every, Some(Duration::from_secs(1)));
    assert!(matches!(parsed(&["--tcp"]).unwrap().server, ServerChoice::Own { protocol: Protocol::Tcp, .. }));
    // What the command line alone would lack, the file may have.
    assert!(matches!(parsed(&["--server-pid", "1"]).unwrap().server, ServerChoice::Running { pid: Some(1), .. }));
    let error = parsed(&["--without", "verify"]).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    assert!(error.contains("--without verify: not an option of a scenario; there are: active"), "{error}");
}

#[test]
fn words_are_split_as_a_shell_does() {
    let args = |text: &str| match resolve(&["--server-args", text]).unwrap().server {
        ServerChoice::Own { args, .. } => args,
        ServerChoice::Running { .. } | ServerChoice::Command { .. } => unreachable!("there is no URL"),
    };
    assert_eq!(args("--workers 1  --subprotocol 'a b'"), ["--workers", "1", "--subprotocol", "a b"]);
    assert!(args("").is_empty());
}

#[test]
fn nonsense_is_refused() {
    for args in [
        &["--connections", "0"][..],
        &["--depth", "0"],
        &["--size", "1073741825"],
        &["--duration", "-1"],
        &["--duration", "inf"],
        &["--connect-rate", "nan"],
        &["--connect-timeout", "0"],
        &["--rate", "0"],
        &["--rate", "5", "--active", "0"],
        &["-c", "5", "--slow-readers", "6"],
        &["-c", "5", "--slow-readers", "3", "--active", "3"],
        &["--size", "5-4"],
        &["--source", "x"],
        &["--header", "x"],
        &["--header", "a: b\r\nc: d"],
        &["--subprotocol", "a b"],
        &["--ping-every", "0"],
        &["--slo", "p99=1ms"],
        &["--find-max-rate", "--slo", "p98=1ms"],
        &["--find-max-rate", "--find-max-connections"],
        &["--find-max-rate", "--rate", "5"],
        &["--find-max-rate", "--stages", "1s:5"],
        &["--stages", "1s"],
        &["--stages", "1s:0"],
        &["--stages", "0s:5"],
        &["--stages", "1s:5", "--duration", "5"],
        &["--stages", "1s:5", "--warmup", "1"],
        &["--connection-stages", "1s:5", "--slow-readers", "1"],
        &["--connection-stages", "1s:1e300"],
        &["-t", "5 parsecs"],
        &["--server-pid", "1"],
        &["--server-cmd", "server"],
        &["ws://127.0.0.1:1/", "--server-cmd", "server", "--server-pid", "1"],
        &["--fail-if", "speed>5"],
        &["ws://127.0.0.1:1/", "--server-cpus", "0"],
        &["ws://127.0.0.1:1/", "--server-args", "x"],
        &["ws://127.0.0.1:1/", "--tcp"],
        &["--server-args", "--path '/unfinished"],
        &["--without", "rate"],
        &["--deflate", "--tcp"],
        &["--deflate", "--deflate-window-bits", "8"],
        &["--deflate-window-bits", "9"],
        &["--deflate-no-context"],
        &["--deflate-precompressed"],
        &["--deflate", "--deflate-precompressed", "--size", "1-9"],
        &["--compressibility", "101"],
        &["--compressibility", "5", "--message", "x"],
    ] {
        assert!(resolve(args).is_err(), "{args:?}");
    }
    assert_eq!(resolve(&["--size", "0"]).unwrap().scenario.traffic.sizes.max(), 0);
}

/// Those of `ringload run` are tried in `tests/documented.rs`; these would start servers.
#[test]
fn comparisons_of_the_documentation_are_understood() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (page, least) in [("README.md", 5), ("docs/COMPARISON.md", 3), ("docs/LOADTEST.md", 1), ("docs/ENGINES.md", 1)]
    {
        let text = std::fs::read_to_string(root.join(page)).unwrap().replace("\\\n", " ");
        let blocks = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
        let lines: Vec<_> = blocks.flat_map(str::lines).filter(|line| line.starts_with("ringload compare ")).collect();
        assert!(lines.len() >= least, "{page} has {} comparisons", lines.len());
        for line in lines {
            let words = shlex::split(line).unwrap_or_else(|| panic!("{page}: quotes do not match: {line}"));
            let parsed = super::command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{page}: {line}: {}", parsed.unwrap_err());
        }
    }
}
