//! `wss://` targets.

mod runner;
mod server;

use runner::run_any;
use server::{Behaviour, authority, start, start_tls, start_tls_echo_as, start_tls_for};

#[test]
fn echoes_through_tls_are_checked_like_others() {
    let (address, _) = start_tls();
    let url = format!("wss://{address}/");
    for args in [
        &["--size", "0"][..],
        &["--size", "1-300", "--depth", "5"],
        &["--size", "1000000", "--depth", "2"],
        &["--rate", "1000", "--arrivals", "poisson", "--text"],
        &["--messages", "500", "--duration", "20"],
        &["--source", "127.5.6.0/24", "--active", "50%"],
    ] {
        let outcome = run_any(&[&[url.as_str(), "--insecure"], args].concat());
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.output);
        assert_eq!(outcome.number("/connections/opened"), 4);
        assert_eq!(outcome.number("/connections/closes_answered"), 4, "{}", outcome.output);
        assert!(outcome.number("/measured/echoes") > 0, "{args:?}: {}", outcome.output);
        assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
    }
}

#[test]
fn connections_are_opened_again_and_pinged() {
    let url = format!("wss://{}/", start_tls().0);
    for more in [&[][..], &["--depth", "3"], &["--rate", "2000"], &["--active", "1"]] {
        let upkeep = ["--insecure", "--reconnect-every", "0.02", "--ping-every", "0.05"];
        let outcome = run_any(&[&[url.as_str(), "--duration", "0.6"], &upkeep[..], more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        let recycled = outcome.number("/connections/recycled");
        assert!(recycled >= 5, "{recycled}: {}", outcome.output);
        assert!(outcome.number("/connections/opened") >= 4 + recycled - 4, "{}", outcome.output);
        assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
        assert!(outcome.number("/messages/pings_sent") > 4, "{}", outcome.output);
        assert_eq!(outcome.number("/messages/pings_sent"), outcome.number("/messages/pongs"), "{}", outcome.output);
    }
}

#[test]
fn a_connection_that_cannot_come_back_has_failed() {
    let url = format!("wss://{}/", start_tls_for(6));
    // The run ends when there is no connection left.
    let outcome = run_any(&[&url, "--insecure", "--reconnect-every", "0.02", "--duration", "60"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(outcome.number("/connections/opened"), 6);
    assert_eq!(outcome.failures(), [("reset or closed before the upgrade".to_owned(), 4)]);
    assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
}

#[test]
fn slow_readers_disturb_nobody_else() {
    let url = format!("wss://{}/", start_tls().0);
    let outcome = run_any(&[&url, "--insecure", "-c", "8", "--slow-readers", "3", "--duration", "1"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(outcome.number("/messages/slow_sent") > 1000, "{}", outcome.output);
    assert!(outcome.number("/measured/echoes") > 0);
    assert_eq!(outcome.number("/connections/closes_answered"), 5);
    assert_eq!(outcome.number("/messages/lost"), 0);
}

#[test]
fn a_certificate_must_convince() {
    let (address, certificate) = start_tls();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ca-{}.pem", std::process::id()));
    std::fs::write(&path, certificate).unwrap();
    let ca = ["--ca", path.to_str().unwrap()];
    let port = address.port();
    let good = run_any(&[&[format!("wss://localhost:{port}/").as_str()][..], &ca].concat());
    assert_eq!(good.code, Some(0), "{}", good.output);
    let other_name = run_any(&[&[format!("wss://127.0.0.1:{port}/").as_str()][..], &ca].concat());
    assert!(other_name.failures()[0].0.contains("for another name"), "{:?}", other_name.failures());
    let (stranger, _) = start_tls();
    let strange = run_any(&[&[format!("wss://localhost:{}/", stranger.port()).as_str()][..], &ca].concat());
    assert!(strange.failures()[0].0.contains("not trusted"), "{:?}", strange.failures());
    assert_eq!(strange.failures()[0].1, 4);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_is_no_tls_is_told_as_such() {
    let url = |behaviour| format!("wss://{}/", start(behaviour));
    let quick = ["--insecure", "--connect-timeout", "0.5"];
    let outcome = |url: &str| run_any(&[&[url][..], &quick].concat());
    assert_eq!(outcome(&url(Behaviour::Mute)).failures(), [("upgrade timed out".to_owned(), 4)]);
    assert_eq!(outcome(&url(Behaviour::Tcp)).failures(), [("TLS: the handshake failed".to_owned(), 4)]);
    assert_eq!(
        outcome(&url(Behaviour::HangUpAtOnce)).failures(),
        [("reset or closed before the upgrade".to_owned(), 4)]
    );
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(outcome(&format!("wss://{nobody}/")).failures(), [("connection refused".to_owned(), 4)]);
}

/// Writes a file for one test.
fn file(name: &str, text: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.pem", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_self_signed_certificate_that_is_named_is_trusted_under_its_name() {
    let certified = authority("chat.example");
    let address = start_tls_echo_as(&certified, None);
    let ca = file("self-signed", &certified.cert.pem());
    let (url, named) = (format!("wss://{address}/"), format!("wss://chat.example:{}/", address.port()));
    let route = address.to_string();
    let resolve = format!("chat.example:{}:{}", address.port(), address.ip());
    for args in [
        [url.as_str(), "--sni", "chat.example"],
        [named.as_str(), "--connect-to", &route],
        [named.as_str(), "--resolve", &resolve],
    ] {
        let outcome = run_any(&[&args[..], &["--ca", &ca]].concat());
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.output);
        assert!(outcome.number("/measured/echoes") > 0, "{args:?}: {}", outcome.output);
    }
    let other = run_any(&[&url, "--ca", &ca]);
    assert!(other.failures()[0].0.contains("another name (--sni"), "{:?}", other.failures());
    std::fs::remove_file(ca).unwrap();
}

#[test]
fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let client = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
    let url = format!("wss://{}/", start_tls_echo_as(&authority("localhost"), Some(&client)));
    let (certificate, key) =
        (file("client-cert", &client.cert.pem()), file("client-key", &client.signing_key.serialize_pem()));
    let good = run_any(&[&url, "--insecure", "--cert", &certificate, "--key", &key]);
    assert_eq!(good.code, Some(0), "{}", good.output);
    let without = run_any(&[&url, "--insecure"]);
    assert!(without.failures()[0].0.contains("client certificate (--cert"), "{}", without.output);
    let keyless = run_any(&[&url, "--insecure", "--cert", &certificate]);
    assert_eq!(keyless.code, Some(3), "{}", keyless.output);
    assert!(keyless.output.contains("private key"), "{}", keyless.output);
    for path in [certificate, key] {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn without_tls_a_tls_port_says_what_it_is() {
    let outcome = run_any(&[&format!("ws://{}/", start_tls().0)]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert!(outcome.output.contains("wss://"), "{}", outcome.output);
}
