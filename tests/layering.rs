//! Layering: imports between the modules of `src/` point downwards, and `src/protocol` and `src/connection` do not import
//! what they must not know.

use std::{fs, path::Path};

/// The modules of the crate from the top to the bottom; each may use those below it.
const LAYERS: [&str; 15] = [
    "main",
    "lib",
    "cli",
    "admin",
    "server",
    "doctor",
    "config",
    "machine",
    "options",
    "engine",
    "connection",
    "worker",
    "transport",
    "protocol",
    "sys",
];

/// What bytes mean and what a connection's life is: without I/O and without a clock, so that tests and the simulation can
/// run all of it.
const PURE: [&str; 3] = ["protocol", "transport", "connection"];

const FORBIDDEN: [(&str, &str); 10] = [
    ("std::net", "it knows no sockets"),
    ("std::io", "it does no I/O"),
    ("std::os", "it knows no descriptors"),
    ("std::time", "it has no clock"),
    ("std::thread", "it knows no threads"),
    ("crate::engine", "engines use it, not the other way round"),
    ("ringio", "it knows no rings"),
    ("rustix", "it makes no system calls"),
    ("libc", "it makes no system calls"),
    ("unsafe", "it is safe Rust"),
];

#[test]
fn arrows_between_modules_go_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut arrows = 0;
    for_each_source(&source, &mut |path, text| {
        let module = path.strip_prefix(&source).unwrap().iter().next().unwrap().to_str().unwrap();
        let module = module.trim_end_matches(".rs");
        for line in text.lines().map(code) {
            assert!(!line.contains("crate::{"), "one line for each module: {line}");
            for target in line.split("crate::").skip(1).map(first_word) {
                // The crate's own re-exports are of modules as well.
                let is_module = LAYERS.contains(&target);
                assert!(is_module || !target.starts_with(char::is_lowercase), "{target} is in no layer: {line}");
                assert!(!is_module || layer(module) <= layer(target), "{module} is below {target}: {line}");
                arrows += usize::from(is_module && module != target);
            }
            let is_outside = line.contains("clap") && !["main", "lib", "cli"].contains(&module);
            assert!(!is_outside, "{}: the command line is the business of cli: {line}", path.display());
        }
    });
    assert!(arrows > 50, "{arrows} arrows: are these still the sources?");
}

/// Where in the list it stands. A module that is not in it has no layer yet.
fn layer(module: &str) -> usize {
    LAYERS.iter().position(|&layer| layer == module).unwrap_or_else(|| panic!("{module} is in no layer"))
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

#[test]
fn protocol_transport_and_connection_import_no_socket_no_ring_no_clock_and_no_engine() {
    for module in PURE {
        let mut sources = 0;
        for_each_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module), &mut |path, source| {
            sources += 1;
            for line in source.lines().map(code) {
                for (word, rule) in FORBIDDEN {
                    let is_lint = line.contains("#![forbid(unsafe_code)]");
                    assert!(is_lint || !line.contains(word), "{}: {rule}: {line}", path.display());
                }
            }
        });
        assert!(sources > 0, "{module} has {sources} files");
    }
}

/// Rings have their own crate, `ringio`, whose interface is safe.
#[test]
fn unsafe_code_is_in_the_engines_but_for_one_call() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut in_engines, mut elsewhere) = (0, Vec::new());
    for_each_source(&source, &mut |path, text| {
        let module = path.strip_prefix(&source).unwrap();
        let lines = text.lines().map(code).filter(|line| !line.contains("unsafe_code"));
        let count = lines
            .filter(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|it| it == "unsafe"))
            .count();
        match count {
            0 => {}
            _ if module.starts_with("engine/uring") => panic!("{}: a ring is driven without unsafe", path.display()),
            _ if module.starts_with("engine") => in_engines += count,
            _ => elsewhere.push((module.to_owned(), count)),
        }
    });
    assert_eq!(elsewhere, [("sys.rs".into(), 1)], "the allocator's option");
    assert!(in_engines > 0, "are these still the sources?");
}

fn for_each_source(directory: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for_each_source(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}
