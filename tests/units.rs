//! Settings named in packaged files and in commands of docs/HOWTO.md exist.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::server::{Exit, command, run_to_end};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The values of a key in a unit file.
fn values<'a>(unit: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    unit.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
}

/// What the server's parser makes of these arguments; it starts nothing.
fn parsed(arguments: &[&str]) -> Exit {
    run_to_end(command(&[arguments, &["--print-config"]].concat()))
}

/// A configuration file with this text, and what becomes of it.
fn configured(name: &str, text: &str) -> Exit {
    let path: PathBuf = std::env::temp_dir().join(format!("ringecho-units-{name}-{}.toml", std::process::id()));
    fs::write(&path, text).expect("a writable directory");
    let exit = parsed(&["--config", path.to_str().expect("UTF-8")]);
    let _ = fs::remove_file(&path);
    exit
}

#[test]
fn the_service_starts_with_settings_that_there_are() {
    let unit = read("deploy/systemd/ringecho.service");
    let start: Vec<_> = values(&unit, "ExecStart").collect();
    let [start] = start[..] else { panic!("one command: {start:?}") };
    let arguments: Vec<_> = start.split_whitespace().skip(1).collect();
    // The installed file is not there yet; the one that becomes it is.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/ringecho.toml");
    let file = file.to_str().expect("UTF-8");
    let arguments: Vec<_> =
        arguments.into_iter().map(|it| if it == "/etc/ringecho/ringecho.toml" { file } else { it }).collect();
    assert!(arguments.contains(&file), "{start}");
    let exit = parsed(&arguments);
    assert_eq!(exit.code, Some(0), "{exit}");
    assert!(exit.stdout.contains("\nlisten = [\"127.0.0.1:9001\"] # file\n"), "{exit}");
}

#[test]
fn variables_in_units_are_read() {
    let help = run_to_end(command(&["--help"])).stdout;
    for unit in ["deploy/systemd/ringecho.service", "deploy/systemd/ringecho.socket", "deploy/ringecho.toml"] {
        let text = read(unit);
        for word in text.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
            // A bare RINGECHO_ is the prefix of all.
            if word.starts_with("RINGECHO_") && word != "RINGECHO_" {
                assert!(help.contains(&format!("[env: {word}=")), "{word} of {unit} is not in\n{help}");
            }
        }
    }
}

#[test]
fn the_service_runs_as_the_user_that_is_made() {
    let (unit, users) = (read("deploy/systemd/ringecho.service"), read("deploy/systemd/ringecho.sysusers"));
    for user in values(&unit, "User").chain(values(&unit, "Group")) {
        assert!(users.lines().any(|line| line.starts_with(&format!("u {user} "))), "{user} is not in {users:?}");
    }
    assert_eq!(values(&unit, "User").count(), 1);
    // cargo-deb packs units by itself, but no users, and its scripts make none.
    let packed = r#"["deploy/systemd/ringecho.sysusers", "usr/lib/sysusers.d/ringecho.conf", "644"]"#;
    assert!(read("Cargo.toml").contains(packed), "the Debian package has no users");
    assert!(
        read("deploy/debian/postinst").contains("systemd-sysusers ringecho.conf"),
        "the Debian package makes no user"
    );
}

/// The example's settings hold, also those in its comments, each alone.
#[test]
fn the_example_has_settings_that_there_are() {
    let example = read("deploy/ringecho.toml");
    let exit = configured("example", &example);
    assert_eq!(exit.code, Some(0), "{exit}");
    let commented = example.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| line.contains(" = "));
    let mut checked = 0;
    for (number, line) in commented.enumerate() {
        let exit = configured(&number.to_string(), &format!("{line}\n"));
        // A key needs its certificate, and files may be missing here: only what the line itself says counts.
        assert!(!exit.stderr.contains(".toml:"), "{line}: {exit}");
        checked += 1;
    }
    assert!(checked >= 8, "{checked} settings in comments");
    assert!(configured("mistake", "lisen = 1\n").stderr.contains(".toml:1:"), "a mistake is told that way");
}

#[test]
fn documented_commands_are_understood() {
    let page = read("docs/HOWTO.md");
    let (mut checked, mut is_code) = (0, false);
    for line in page.replace("\\\n", " ").lines() {
        if line.starts_with("```") {
            is_code = line.starts_with("```sh");
        }
        let Some(arguments) = line.strip_prefix("ringecho ").filter(|_| is_code) else { continue };
        let arguments = arguments.split(" #").next().unwrap_or_default();
        let arguments: Vec<_> = arguments.split_whitespace().map(|it| it.trim_matches('\'')).collect();
        let exit = match arguments[0] {
            // Help comes behind what is wrong before it.
            "doctor" | "health" => run_to_end(command(&[&arguments[..], &["--help"]].concat())),
            _ => parsed(&arguments),
        };
        let is_mistake = exit.stderr.starts_with("error:");
        assert!(!is_mistake, "{line}: {exit}");
        checked += 1;
    }
    assert!(checked >= 3, "{checked} commands");
}

#[test]
fn manual_pages_and_completions_know_the_flags() {
    let directory = std::env::temp_dir().join(format!("ringecho-man-{}", std::process::id()));
    let exit = run_to_end(command(&["man", directory.to_str().expect("UTF-8")]));
    assert_eq!(exit.code, Some(0), "{exit}");
    let page = fs::read_to_string(directory.join("ringecho.1")).expect("the page");
    let _ = fs::remove_dir_all(&directory);
    assert!(page.contains("max\\-connections"), "{page}");
    for shell in ["bash", "zsh", "fish"] {
        let exit = run_to_end(command(&["completions", shell]));
        assert!(exit.code == Some(0) && exit.stdout.contains("max-connections"), "{shell}: {exit}");
    }
}

/// Files of the packages that are in the repository, rather than made by `scripts/package`.
#[test]
fn files_of_the_packages_are_there() {
    for (manifest, root) in [("Cargo.toml", ""), ("loadtest/Cargo.toml", "loadtest/")] {
        let manifest: toml::Table = read(manifest).parse().expect("TOML");
        let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().expect("a list");
        let mut checked = 0;
        for asset in assets {
            let path = asset[0].as_str().expect("a path");
            if path.contains("target/") || path.contains('*') {
                continue;
            }
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(root).join(path);
            assert!(file.is_file(), "{}", file.display());
            checked += 1;
        }
        assert!(checked >= 2, "{root}: {checked} files");
    }
}
