//! Commands of the documentation are understood by the command line as they stand there.

mod runner;

use std::fs;
use std::path::Path;

/// The `ringload` commands in the code blocks of a page.
fn commands(page: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text = text.replace("\\\n", " ");
    let mut is_code = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = line.starts_with("```sh");
        } else if is_code && let Some(command) = line.strip_prefix("ringload ") {
            commands.push(shlex::split(command).unwrap_or_else(|| panic!("quotes do not match: {line}")));
        }
    }
    commands
}

#[test]
fn runs_are_understood() {
    for (page, least) in [("HOWTO.md", 8), ("LOADTEST.md", 5), ("MEMBERS.md", 3), ("../README.md", 5)] {
        let runs: Vec<_> = commands(page).into_iter().filter(|command| command[0] == "run").collect();
        assert!(runs.len() >= least, "{page} has {} runs", runs.len());
        for run in runs {
            let mut args: Vec<&str> = run.iter().map(String::as_str).collect();
            // Resolves all options, and runs nothing.
            args.push("--print-scenario");
            let output = runner::ringload(&args);
            assert_eq!(output.status.code(), Some(0), "{page}: {run:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
