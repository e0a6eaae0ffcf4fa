//! The layering is part of the build: what `src/protocol` must not know, it does not import.

use std::{fs, path::Path};

const FORBIDDEN: [(&str, &str); 8] = [
    ("std::net", "the protocol knows no sockets"),
    ("std::io", "the protocol does no I/O"),
    ("std::os", "the protocol knows no descriptors"),
    ("std::time", "the protocol has no clock"),
    ("std::thread", "the protocol knows no threads"),
    ("engine", "engines use the protocol, not the other way round"),
    ("unsafe", "the protocol is safe Rust"),
    ("libc", "the protocol makes no system calls"),
];

#[test]
fn the_protocol_imports_no_socket_no_clock_and_no_engine() {
    for_each_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protocol"), &mut |path, source| {
        for line in source.lines() {
            let code = line.split("//").next().unwrap_or_default();
            for (word, rule) in FORBIDDEN {
                let is_lint = code.contains("#![forbid(unsafe_code)]");
                assert!(is_lint || !code.contains(word), "{}: {rule}: {line}", path.display());
            }
        }
    });
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
