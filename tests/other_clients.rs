//! Other implementations as clients, with and without compression: Python's websockets and Node's ws
//! (`scripts/other-clients`; `scripts/test` installs them), and Chromium.

mod common;

use std::path::Path;
use std::process::Command;

use common::browser::Browser;
use common::server::Server;
use serde_json::json;

/// The values of --deflate, and what else there is to say beside them.
fn modes() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    let with_context = ["pass", "verify"].map(|mode| (mode, &["--deflate-context"][..]));
    ["off", "pass", "verify", "recompress"].map(|mode| (mode, &[][..])).into_iter().chain(with_context)
}

/// What `scripts/other-clients` ends with where they are not installed.
const NOT_INSTALLED: i32 = 77;

#[test]
fn websockets_and_ws_get_back_what_they_send() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/other-clients");
    for (mode, context) in modes() {
        let server = Server::start(&[&["--deflate", mode], context].concat());
        let url = format!("ws://{}", server.address());
        let agreement = if mode == "off" { "plain" } else { "deflate" };
        let output = Command::new(&script).args([&url, agreement]).output().expect("a script of this project");
        if output.status.code() == Some(NOT_INSTALLED) {
            return println!("NOT tested: {}", String::from_utf8_lossy(&output.stdout));
        }
        assert!(output.status.success(), "{mode} {context:?}: {output:?}\n{}", server.output());
    }
}

#[test]
fn chromium_gets_back_what_it_sends() {
    let Some(mut browser) = Browser::start() else { return };
    for (mode, context) in modes() {
        let server = Server::start(&[&["--deflate", mode], context].concat());
        browser.open(&format!("http://{}/", server.address()), 800, "light");
        browser.await_true("document.querySelector('#state')?.textContent === 'connected'");
        let exchange = format!(
            "new Promise((resolve) => {{
                const socket = new WebSocket({url});
                socket.binaryType = 'arraybuffer';
                const messages = [0, 1, 125, 126, 65535, 65536, 200000].flatMap((size) => [
                    'aäß水🦀'.repeat(size / 6), '{{}}, '.repeat(size / 4), new Uint8Array(size),
                    Uint8Array.from({{length: size}}, () => Math.random() * 256)]);
                const bytes = (it) => typeof it === 'string' ? it : new Uint8Array(it).join();
                let next = 0;
                socket.onopen = () => messages.forEach((message) => socket.send(message));
                socket.onmessage = ({{data}}) => {{
                    if (bytes(data) !== bytes(messages[next])) return resolve(`message ${{next}} comes back differently`);
                    next += 1;
                    if (next === messages.length) socket.close(1000);
                }};
                socket.onclose = ({{code}}) => resolve(`${{next === messages.length}} ${{code}} ${{socket.extensions}}`);
            }})",
            url = json!(format!("ws://{}/", server.address())),
        );
        let outcome = browser.evaluate(&exchange);
        let outcome = outcome.as_str().unwrap_or_default();
        let extensions = outcome.strip_prefix("true 1000 ").unwrap_or_else(|| panic!("{mode} {context:?}: {outcome}"));
        let is_agreed = extensions.starts_with("permessage-deflate");
        assert_eq!(is_agreed, mode != "off", "{mode} {context:?}: {extensions:?}");
    }
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);
}
