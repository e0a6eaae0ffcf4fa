//! The command line: what it accepts, what it says, and how a start that cannot succeed ends.

mod common;

use std::net::{SocketAddr, TcpListener};

use common::frames::{BINARY, FIN, TEXT, frame};
use common::peer::{Peer, UPGRADE};
use common::server::{Exit, Server, command, run_to_end, tungstenite_client};

const BAD_ARGUMENTS: i32 = 2;
const FAILURE: i32 = 1;

fn run(arguments: &[&str]) -> Exit {
    run_to_end(command(arguments))
}

#[test]
fn the_start_up_line() {
    let server = Server::start(&["--workers", "1", "--max-connections", "123"]);
    let line = server.start_up_line();
    let address = server.address();
    assert!(line.starts_with(&format!("ringecho listening on {address}")), "{line}");
    assert!(address.port() != 0, "{line}");
    assert!(line.contains("123"), "the capacity is missing: {line}");
    assert!(line.contains("1 worker"), "the number of workers is missing: {line}");
    assert!(["uring", "epoll"].iter().any(|engine| line.contains(engine)), "the engine is missing: {line}");
}

#[test]
fn serve_is_what_the_plain_command_does() {
    let server = Server::launch(command(&["--listen", "127.0.0.1:0"]));
    server.open().expect_echo(TEXT, "plain");
}

#[test]
fn two_listeners() {
    let server = Server::start(&["--listen", "127.0.0.1:0"]);
    let addresses = server.addresses();
    assert_eq!(addresses.len(), 2, "{}", server.start_up_line());
    assert_ne!(addresses[0], addresses[1]);
    for address in addresses {
        // More than there are workers, so that each has its share of each listener.
        let mut peers: Vec<Peer> = (0..20).map(|_| Peer::open(*address)).collect();
        for peer in &mut peers {
            peer.expect_echo(TEXT, "on both");
        }
    }
    server.stop();
}

#[test]
fn more_listeners_than_workers() {
    let listeners = ["--listen", "127.0.0.1:0"].repeat(5);
    let server = Server::launch(command(&[&["serve", "--workers", "1"], &listeners[..]].concat()));
    // Some of one's are on their way while the other's wait.
    let mut peers: Vec<Peer> =
        server.addresses().iter().cycle().take(100).map(|&address| Peer::open(address)).collect();
    for peer in &mut peers {
        peer.expect_echo(TEXT, "on each");
    }
    server.stop();
}

#[test]
fn ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6 loopback: nothing to test");
        return;
    }
    let server = Server::launch(command(&["serve", "--listen", "[::1]:0", "--listen", "127.0.0.1:0"]));
    let addresses = server.addresses();
    assert!(matches!(addresses, [SocketAddr::V6(_), SocketAddr::V4(_)]), "{addresses:?}");
    for address in addresses {
        Peer::open(*address).expect_echo(TEXT, "either way");
        let mut client = tungstenite_client(*address);
        client.send("either way".into()).expect("sent");
        assert_eq!(client.read().expect("an echo"), "either way".into());
    }
}

#[test]
fn environment_variables() {
    let mut from_environment = command(&[]);
    from_environment.env("RINGECHO_LISTEN", "127.0.0.1:0");
    from_environment.env("RINGECHO_MAX_MESSAGE_SIZE", "10");
    from_environment.env("RINGECHO_MAX_CONNECTIONS", "77");
    let server = Server::launch(from_environment);
    assert!(server.start_up_line().contains("77"), "{}", server.start_up_line());
    let mut peer = server.open();
    peer.expect_echo(BINARY, [0; 10]);
    peer.send(frame(FIN | BINARY, &[0; 11]));
    peer.expect_close(1009);
}

#[test]
fn flags_win_over_environment_variables() {
    let mut both = command(&["serve", "--listen", "127.0.0.1:0", "--max-message-size", "20"]);
    both.env("RINGECHO_MAX_MESSAGE_SIZE", "10");
    let server = Server::launch(both);
    server.open().expect_echo(BINARY, [0; 20]);
}

#[test]
fn sizes_may_have_suffixes() {
    for (given, bytes) in [("2048", 2048), ("2KiB", 2048), ("2kb", 2000)] {
        let server = Server::start(&["--max-message-size", given]);
        let mut peer = server.open();
        peer.expect_echo(BINARY, vec![0; bytes]);
        peer.send(frame(FIN | BINARY, &vec![0; bytes + 1]));
        peer.expect_close(1009);
    }
}

#[test]
fn help_and_version() {
    let version = run(&["--version"]);
    assert_eq!(version.code, Some(0), "{version}");
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let help = run(&["serve", "--help"]);
    assert_eq!(help.code, Some(0), "{help}");
    for flag in [
        "--listen",
        "--workers",
        "--max-connections",
        "--max-message-size",
        "--handshake-timeout",
        "--idle-timeout",
        "--backlog-per-connection",
        "--drain-timeout",
        "--protocol",
        "--engine",
        "--subprotocol",
    ] {
        assert!(help.stdout.contains(flag), "{flag} is not explained\n{help}");
        let variable = format!("RINGECHO_{}", flag[2..].replace('-', "_").to_uppercase());
        assert!(help.stdout.contains(&variable), "{variable} is not named\n{help}");
    }
}

#[test]
fn bad_arguments() {
    let cases: &[(&[&str], &str)] = &[
        (&["--no-such-flag"], "--no-such-flag"),
        (&["no-such-command"], "no-such-command"),
        (&["serve", "--listen", "nonsense"], "--listen"),
        (&["serve", "--listen", "127.0.0.1:65536"], "--listen"),
        (&["serve", "--workers", "0"], "--workers"),
        (&["serve", "--workers", "many"], "--workers"),
        (&["serve", "--max-connections", "0"], "--max-connections"),
        (&["serve", "--max-connections=-1"], "--max-connections"),
        (&["serve", "--max-message-size", "12 parsecs"], "--max-message-size"),
        (&["serve", "--max-message-size", "99999999999999999999"], "--max-message-size"),
        (&["serve", "--handshake-timeout", "soon"], "--handshake-timeout"),
        (&["serve", "--handshake-timeout=-1"], "--handshake-timeout"),
        (&["serve", "--idle-timeout", "NaN"], "--idle-timeout"),
        (&["serve", "--idle-timeout", "inf"], "--idle-timeout"),
        (&["serve", "--drain-timeout", ""], "--drain-timeout"),
        (&["serve", "--protocol", "carrier-pigeon"], "--protocol"),
        (&["serve", "--engine", "steam"], "--engine"),
        (&["serve", "--subprotocol", "not a token"], "--subprotocol"),
        (&["serve", "--subprotocol", ""], "--subprotocol"),
    ];
    for (arguments, named) in cases {
        let exit = run(arguments);
        assert_eq!(exit.code, Some(BAD_ARGUMENTS), "{arguments:?}\n{exit}");
        assert!(exit.stderr.contains(named), "{arguments:?}: {named} is not named\n{exit}");
        assert_eq!(exit.stdout, "", "{arguments:?}");
    }
}

#[test]
fn bad_environment_variable() {
    let mut bad = command(&["serve", "--listen", "127.0.0.1:0"]);
    bad.env("RINGECHO_MAX_CONNECTIONS", "lots");
    let exit = run_to_end(bad);
    assert_eq!(exit.code, Some(BAD_ARGUMENTS), "{exit}");
    assert!(exit.stderr.contains("lots") && exit.stderr.contains("RINGECHO_MAX_CONNECTIONS"), "{exit}");
}

/// As `RINGECHO_WORKERS=` in a unit file, or an unset `$WORKERS` in a compose file: nobody has typed a flag.
#[test]
fn an_empty_environment_variable_is_named() {
    for variable in ["WORKERS", "LISTEN", "PATH", "SUBPROTOCOL", "MAX_MESSAGE_SIZE", "DRAIN_TIMEOUT"] {
        let mut empty = command(&["serve"]);
        empty.env(format!("RINGECHO_{variable}"), "");
        let exit = run_to_end(empty);
        assert_eq!(exit.code, Some(BAD_ARGUMENTS), "{exit}");
        assert!(exit.stderr.contains(&format!("RINGECHO_{variable} is set to \"\"")), "{exit}");
    }
    let mut help = command(&["serve", "--help"]);
    help.env("RINGECHO_WORKERS", "");
    let exit = run_to_end(help);
    assert!(exit.code == Some(0) && exit.stderr.is_empty(), "{exit}");
}

fn assert_refused(address: SocketAddr) {
    let exit = run(&["serve", "--listen", &address.to_string()]);
    assert_eq!(exit.code, Some(FAILURE), "{exit}");
    assert!(exit.stderr.contains(&address.to_string()), "the address is not named\n{exit}");
    assert!(exit.stderr.contains("in use"), "the cause is not named\n{exit}");
    assert!(exit.stderr.contains("--listen"), "the remedy is not named\n{exit}");
    assert_eq!(exit.stdout, "", "a start-up line of a server that did not start");
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    assert_refused(taken.local_addr().expect("bound"));
}

/// Even by another ringecho: two servers that share a port would each get a part of the clients.
#[test]
fn a_port_that_another_server_has() {
    let server = Server::start(&[]);
    assert_refused(server.address());
    server.open().expect_echo(TEXT, "undisturbed");
}

#[test]
fn an_address_of_another_machine() {
    // TEST-NET-1 (RFC 5737): nobody has it.
    let exit = run(&["serve", "--listen", "192.0.2.1:9001"]);
    assert_eq!(exit.code, Some(FAILURE), "{exit}");
    assert!(exit.stderr.contains("192.0.2.1:9001"), "{exit}");
}

#[test]
fn one_listener_of_two_that_fails() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound").to_string();
    let exit = run(&["serve", "--listen", "127.0.0.1:0", "--listen", &taken]);
    assert_eq!(exit.code, Some(FAILURE), "{exit}");
    assert!(exit.stderr.contains(&taken), "{exit}");
}

#[test]
fn bare_tcp_echoes_any_bytes() {
    let server = Server::start(&["--protocol", "tcp"]);
    let mut peer = server.connect();
    let bytes = [UPGRADE.as_bytes(), &frame(FIN | TEXT, b"as it is"), &[0, 0xff, 0x88, 0x00]].concat();
    peer.send(&bytes);
    let mut echo = vec![0; bytes.len()];
    peer.read_exact(&mut echo);
    assert!(echo == bytes, "{echo:02x?}");
    peer.send(b"and its end");
    peer.shut_down_sending();
    assert_eq!(peer.read_to_end().expect("an orderly end"), b"and its end");
}

#[test]
fn bare_tcp_has_no_handshake_timeout() {
    let server = Server::start(&["--protocol", "tcp", "--handshake-timeout", "0.1"]);
    let mut silent = server.connect();
    // Something else takes longer than the timeout would.
    let websocket = Server::start(&["--handshake-timeout", "0.3"]);
    websocket.connect().expect_disconnect();
    silent.send(b"hello");
    silent.read_exact(&mut [0; 5]);
}
