//! Scenarios: what is asked for is what the server sees.

mod runner;
mod server;

use runner::{ringload, run, run_any};
use server::{Behaviour, start, start_at_path, start_on, start_tls};

#[test]
fn sizes_may_be_mixed() {
    let address = start(Behaviour::Echo);
    for size in ["0-300", "1:1,16:1,128:5,70000:2", "1000-200000"] {
        for more in [&[][..], &["--depth", "7"], &["--rate", "500", "--text"]] {
            let outcome = run(address, &[&["--size", size], more].concat());
            assert_eq!(outcome.code, Some(0), "{size} {more:?}: {}", outcome.output);
            assert!(outcome.number("/measured/echoes") > 0);
        }
    }
}

#[test]
fn without_frames_sizes_may_be_mixed_and_rates_kept() {
    let url = format!("tcp://{}", start(Behaviour::Tcp));
    let outcome = run_any(&[&url, "--size", "1-5000", "--rate", "1000", "--arrivals", "poisson"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!((200..400).contains(&outcome.number("/measured/echoes")), "{}", outcome.output);
}

#[test]
fn a_number_of_messages_is_kept_in_an_open_loop_too() {
    let args = ["--rate", "2000", "--messages", "300", "--duration", "20"];
    let outcome = run(start(Behaviour::Echo), &args);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(outcome.number("/messages/echoed"), 304, "with the greetings");
    assert_eq!(outcome.number("/messages/unsent"), 0);
}

#[test]
fn connections_are_opened_again_without_a_loss() {
    for more in [&[][..], &["--depth", "3"], &["--rate", "2000"], &["--active", "1"]] {
        let outcome = run(start(Behaviour::Echo), &[&["--reconnect-every", "0.02"], more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        let recycled = outcome.number("/connections/recycled");
        assert!(recycled >= 5, "{recycled}: {}", outcome.output);
        assert!(outcome.number("/connections/opened") >= 4 + recycled - 4, "{}", outcome.output);
        assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
    }
}

/// While its only connection is away, a run is not over.
#[test]
fn a_single_connection_may_be_opened_again() {
    let (plain, tls) = (format!("ws://{}/", start(Behaviour::Echo)), format!("wss://{}/", start_tls().0));
    for url in [&plain, &tls] {
        let outcome = run_any(&[url, "--insecure", "-c", "1", "--reconnect-every", "0.05", "--duration", "1"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert!(outcome.json["measured"]["seconds"].as_f64() >= Some(1.0), "{}", outcome.output);
        assert!(outcome.output.contains("1 of 1 opened"), "{}", outcome.output);
        assert!(outcome.number("/connections/recycled") >= 2, "{}", outcome.output);
    }
}

#[test]
fn pings_are_answered() {
    let outcome = run(start(Behaviour::Echo), &["--ping-every", "0.05", "--active", "1"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(outcome.number("/messages/pings_sent") >= 4 * 4, "{}", outcome.output);
    assert_eq!(outcome.number("/messages/pings_sent"), outcome.number("/messages/pongs"), "{}", outcome.output);
}

#[test]
fn slow_readers_disturb_nobody_else() {
    let outcome = run_any(&["-c", "20", "--slow-readers", "5", "--duration", "1"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(outcome.number("/messages/slow_sent") > 1000, "{}", outcome.output);
    assert!(outcome.number("/measured/echoes") > 0);
    assert_eq!(outcome.number("/connections/closes_answered"), 15);
}

#[test]
fn several_targets_take_turns() {
    // A port that was free a moment ago.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = [start(Behaviour::Echo), start(Behaviour::Status(500)), nobody].map(|it| format!("ws://{it}/"));
    let outcome = run_any(&[&urls[0], &urls[1], &urls[2], "-c", "9"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(outcome.number("/connections/opened"), 3);
    assert_eq!(outcome.failures(), [("connection refused".to_owned(), 3), ("HTTP status 500".to_owned(), 3)]);
}

#[test]
fn ip_6_and_sockets_in_the_file_system_are_targets() {
    let ip_6 = format!("ws://{}/", start_on("[::1]:0", Behaviour::Echo));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("echo-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    start_at_path(&path);
    let unix = format!("ws+unix:{}:/", path.display());
    for args in [&[ip_6.as_str()][..], &[unix.as_str()], &[unix.as_str(), ip_6.as_str(), "--size", "100000"]] {
        let outcome = run_any(args);
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.output);
        assert_eq!(outcome.number("/connections/opened"), 4);
        assert!(outcome.number("/measured/echoes") > 0);
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn connections_come_from_the_addresses_asked_for() {
    let address = start(Behaviour::OnlyFrom127_5_5);
    assert_eq!(run(address, &["--source", "127.5.5.7,127.5.5.64/26"]).code, Some(0));
    assert_eq!(run(address, &[]).number("/connections/failed"), 4);
    let outcome = run(address, &["--source", "192.0.2.1"]);
    assert!(outcome.output.contains("--source names an address that is not this machine's"), "{}", outcome.output);
}

#[test]
fn headers_and_subprotocols_reach_the_server() {
    let address = start(Behaviour::Picky);
    assert_eq!(run(address, &[]).failures(), [("HTTP status 401".to_owned(), 4)]);
    let header = ["-H", "Authorization: let me in"];
    assert_eq!(run(address, &header).code, Some(0));
    let outcome = run(address, &[&header[..], &["--subprotocol", "a", "--subprotocol", "b"]].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
}

#[test]
fn a_file_can_say_it_all_and_the_command_line_wins() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.toml", std::process::id()));
    let url = format!("ws://{}/", start(Behaviour::Echo));
    std::fs::write(&path, format!("url = '{url}'\nsize = '10-20'\nno-greet = true\nconnections = 99\n")).unwrap();
    let file = ["--scenario", path.to_str().unwrap()];
    let outcome = run_any(&[&file[..], &["-c", "5"]].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(outcome.number("/connections/opened"), 5);
    assert_eq!(outcome.json["runs"][0]["scenario"]["greet"], false);
    let printed = ringload(&[&["run", "--print-scenario"][..], &file].concat());
    let text = String::from_utf8_lossy(&printed.stdout);
    assert!(text.contains("connections = 99") && text.contains("size = \"10-20\""), "{text}");
    std::fs::write(&path, format!("url = '{url}'\nfail-if = ['rate>=0', 'errors>0']\nduration = '200ms'\n")).unwrap();
    let broken = ringload(&[&["run", "-q", "-c", "2", "--warmup", "0"][..], &file].concat());
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");
    assert!(String::from_utf8_lossy(&broken.stdout).contains("rate>=0"), "{broken:?}");
    let overruled = [&["run", "-q", "-c", "2", "--warmup", "0", "--fail-if", "errors>0"][..], &file].concat();
    assert_eq!(ringload(&overruled).status.code(), Some(0));
    std::fs::write(&path, "sise = 5").unwrap();
    let refused = ringload(&[&["run"][..], &file].concat());
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`sise` is not an option"));
    std::fs::remove_file(&path).unwrap();
}
