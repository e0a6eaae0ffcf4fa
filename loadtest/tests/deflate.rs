//! permessage-deflate (RFC 7692) against servers that speak it, decline it, and do it wrong.

mod runner;
mod server;

use runner::{Files, Outcome, check_schema, ringload, run_any};
use server::compressing::{Way, start, start_tls};
use server::{Behaviour, scripted};

/// Both sides take context over.
const PLAIN: &str = "permessage-deflate";

/// Neither side does.
const NO_CONTEXT: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Neither side does, and both have the smallest window.
const SMALL: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                     server_max_window_bits=9; client_max_window_bits=9";

fn run(answer: &'static str, way: Way, args: &[&str]) -> Outcome {
    run_any(&[&[format!("ws://{}/", start(answer, way)).as_str(), "--deflate"], args].concat())
}

/// All connections were compressed, all echoes right.
fn assert_right(outcome: &Outcome, what: &str) {
    assert_eq!(outcome.code, Some(0), "{what}: {}", outcome.output);
    check_schema(&outcome.json);
    assert_eq!(outcome.number("/connections/deflating"), outcome.number("/connections/opened"), "{what}");
    assert_eq!(outcome.number("/messages/compressed_sent"), outcome.number("/messages/sent"), "{what}");
    assert_eq!(outcome.number("/messages/echoed"), outcome.number("/messages/sent"), "{what}");
    assert!(outcome.number("/measured/echoes") > 0, "{what}: {}", outcome.output);
    assert!(outcome.output.contains("compression agreed on 4 of 4 connections (offered: "), "{}", outcome.output);
}

#[test]
fn all_kinds_of_messages_are_compressed_and_come_back_right() {
    for transport in ["ring", "epoll"] {
        for args in [
            &[][..],
            &["--text", "--size", "1-300", "--depth", "5"],
            &["--size", "0"],
            &["--size", "16:5,200000:1", "--depth", "3", "--compressibility", "30"],
            &["--size", "20000", "--compressibility", "0", "--depth", "2"],
            &["--rate", "1000", "--arrivals", "poisson", "--active", "50%"],
            &["--message", "{\"hello\": \"wörld\"}"],
            &["--reconnect-every", "0.02", "--ping-every", "0.05"],
            &["--deflate-precompressed", "--size", "10:1,300:2,9000:1", "--depth", "4"],
            &["--deflate-precompressed", "--message", "again and again and again"],
        ] {
            for answer in [PLAIN, NO_CONTEXT] {
                let outcome = run(answer, Way::Recompress, &[&["--transport", transport], args].concat());
                let what = format!("{transport} {args:?} {answer}");
                if args.contains(&"--reconnect-every") {
                    assert_eq!(outcome.code, Some(0), "{what}: {}", outcome.output);
                    assert!(outcome.number("/connections/recycled") > 0, "{what}: {}", outcome.output);
                } else {
                    assert_right(&outcome, &what);
                }
                let messages = match args {
                    ["--deflate-precompressed", "--size", ..] => {
                        "; messages 75 % compressible, compressed before the run)"
                    }
                    ["--deflate-precompressed", ..] => "client_max_window_bits, compressed before the run)",
                    ["--size", .., "--compressibility", "30"] => "; messages 30 % compressible)",
                    ["--message", ..] => "client_max_window_bits)",
                    _ => " % compressible)",
                };
                assert!(outcome.output.contains(messages), "{what}: {}", outcome.output);
            }
        }
    }
}

#[test]
fn options_are_offers() {
    for (args, answer, offer) in [
        (&[][..], PLAIN, "permessage-deflate; client_max_window_bits"),
        (
            &["--deflate-no-context"],
            NO_CONTEXT,
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
        ),
        (
            &["--deflate-window-bits", "9", "--deflate-no-context"],
            SMALL,
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; \
             client_max_window_bits=9",
        ),
    ] {
        let (address, requests) = scripted::start(scripted::echo);
        let outcome = run_any(&[&[format!("ws://{address}/").as_str(), "--deflate"], args].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert_eq!(scripted::values(&requests.recv().unwrap(), "sec-websocket-extensions"), [offer]);
        assert_eq!(outcome.json["runs"][0]["scenario"]["deflate"].as_str(), Some(offer));
        assert_right(&run(answer, Way::Recompress, &[args, &["--size", "3000"]].concat()), offer);
    }
}

#[test]
fn wire_and_payload_are_told_apart() {
    let files = Files::new("wire");
    let (csv, html, summary) = (files.path("r.csv"), files.path("r.html"), files.path("r.md"));
    let args = ["--size", "4000", "--compressibility", "90", "--csv", &csv, "--html", &html, "--summary", &summary];
    let outcome = run(NO_CONTEXT, Way::Recompress, &args);
    assert_right(&outcome, "90 %");
    let rate = |name: &str| outcome.json["measured"][name].as_f64().unwrap();
    let payload = rate("payload_bytes_per_s");
    for wire in ["wire_sent_bytes_per_s", "wire_received_bytes_per_s"] {
        assert!((0.05..0.4).contains(&(rate(wire) / payload)), "{wire}: {} of {payload}", rate(wire));
    }
    assert!(outcome.output.contains("\nwire           "), "{}", outcome.output);
    for (file, text) in [("r.csv", "wire_sent_bytes_per_s"), ("r.html", "On the wire"), ("r.md", "| on the wire |")] {
        let all = files.text(file).to_lowercase();
        assert!(all.contains(&text.to_lowercase()), "{text} is not in {file}");
    }
    // What cannot be compressed is not.
    let random = run(NO_CONTEXT, Way::Recompress, &["--size", "4000", "--compressibility", "0"]);
    let share = random.json["measured"]["wire_received_bytes_per_s"].as_f64().unwrap()
        / random.json["measured"]["payload_bytes_per_s"].as_f64().unwrap();
    assert!((0.99..1.2).contains(&share), "{share}");
}

#[test]
fn a_server_that_declines_is_sent_uncompressed_messages_and_that_is_said() {
    let files = Files::new("declined");
    let (html, summary) = (files.path("r.html"), files.path("r.md"));
    let outcome = run("", Way::Recompress, &["--html", &html, "--summary", &summary]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    check_schema(&outcome.json);
    let number = |name| outcome.number(name);
    assert_eq!((number("/connections/deflating"), number("/messages/compressed_sent")), (0, 0));
    let said = "agreed on 0 of 4 connections, declined on 4: those went uncompressed";
    for text in [&outcome.output, &files.text("r.html"), &files.text("r.md")] {
        assert!(text.contains(said), "{text}");
    }
    assert!(outcome.output.contains("compression was declined on 4 of 4 connections"), "{}", outcome.output);
    let failed = run("", Way::Recompress, &["--fail-if", "uncompressed>0"]);
    assert_eq!(failed.code, Some(1), "{}", failed.output);
    let plain = run_any(&[&format!("ws://{}/", server::start(Behaviour::Echo))]);
    assert!(!plain.output.contains("compression") && !plain.output.contains("\nwire"), "{}", plain.output);
}

#[test]
fn an_echo_may_come_back_in_any_form() {
    for args in [&["--size", "300", "--depth", "3"][..], &["--size", "70000", "--text"]] {
        let passed = run(PLAIN, Way::Pass, args);
        assert_right(&passed, "the same bytes");
        assert_eq!(passed.number("/messages/compressed_received"), passed.number("/messages/sent"));
        let plain = run(PLAIN, Way::Uncompressed, args);
        assert_right(&plain, "as they were");
        assert_eq!(plain.number("/messages/compressed_received"), 0);
    }
    assert_right(&run(PLAIN, Way::Fragments(1), &["--size", "100"]), "each byte a fragment");
    assert_right(&run(NO_CONTEXT, Way::Fragments(7), &["--text", "--size", "1-500"]), "fragments");
}

#[test]
fn through_tls_it_is_the_same() {
    for (answer, way) in [(PLAIN, Way::Recompress), (NO_CONTEXT, Way::Pass)] {
        let url = format!("wss://{}/", start_tls(answer, way));
        for args in [&["--size", "1-3000", "--depth", "4"][..], &["--size", "200000"], &["--rate", "500"]] {
            assert_right(&run_any(&[&[url.as_str(), "--insecure", "--deflate"], args].concat()), "TLS");
        }
    }
}

#[test]
fn an_answer_that_was_not_offered_fails_the_connection_with_the_reason() {
    for (answer, args, why) in [
        ("permessage-deflate; foo=1", &["--deflate"][..], "permessage-deflate with a parameter that there is not"),
        ("permessage-deflate; server_max_window_bits=9; server_max_window_bits=9", &["--deflate"], "given twice"),
        ("permessage-deflate; client_max_window_bits=99", &["--deflate"], "a window that cannot be"),
        ("permessage-deflate", &["--deflate", "--deflate-no-context"], "without the server_no_context_takeover"),
        ("permessage-deflate, permessage-deflate", &["--deflate"], "answered twice"),
        ("x-webkit-deflate-frame", &["--deflate"], "an extension that was not asked for"),
        ("permessage-deflate", &[], "an extension that was not asked for"),
    ] {
        let url = format!("ws://{}/", start(answer, Way::Pass));
        let outcome = run_any(&[&[url.as_str()], args].concat());
        assert_eq!(outcome.code, Some(1), "{answer}: {}", outcome.output);
        let failures = outcome.failures();
        assert!(matches!(&failures[..], [(cause, 4)] if cause.contains(why)), "{answer}: {failures:?}");
    }
}

#[test]
fn compression_gone_wrong_breaks_the_protocol() {
    for (way, what) in [
        // Compressed in the continuation only; a Ping that is.
        (Way::Bytes(b"\x02\x01a\xc0\x01a"), "frame marked as compressed (RSV1) that begins no message"),
        (Way::Bytes(b"\xc9\x00"), "frame marked as compressed (RSV1) that begins no message"),
        (Way::Bytes(b"\xe2\x00"), "reserved bit set"),
        // A block of a type that there is not; a reference to before the beginning.
        (Way::Bytes(b"\xc2\x03\x06\x00\x00"), "compressed message that cannot be inflated"),
        (Way::Bytes(b"\xc2\x05\xf2\x00\x11\x00\x00"), "compressed message that cannot be inflated"),
        // Text that is none behind compression: a stored block.
        (
            Way::Bytes(b"\xc1\x07\x00\x01\x00\xfe\xff\xff\x00"),
            "text, or the reason of a close frame, that is not UTF-8",
        ),
    ] {
        let outcome = run(PLAIN, way, &[]);
        assert_eq!(outcome.code, Some(1), "{way:?}: {}", outcome.output);
        let violations = &outcome.json["connections"]["violations"];
        assert_eq!(violations[0]["what"].as_str(), Some(what), "{way:?}: {}", outcome.output);
        assert_eq!(violations[0]["count"].as_u64(), Some(4), "{way:?}: {}", outcome.output);
    }
    // What was not agreed on is still a breach where it was offered and declined.
    let declined = run_any(&[&format!("ws://{}/", scripted_declining(b"\xc2\x01\x00")), "--deflate"]);
    assert_eq!(declined.json["connections"]["violations"][0]["what"].as_str(), Some("reserved bit set"));
}

/// Declines, and answers the first message with these bytes.
fn scripted_declining(bytes: &'static [u8]) -> std::net::SocketAddr {
    scripted::start(move |mut stream, request| {
        std::io::Write::write_all(&mut stream, scripted::upgrade(request, "").as_bytes())?;
        scripted::reply(stream, bytes)
    })
    .0
}

/// It ends its own connection, and the others go on.
#[test]
fn a_bomb_does_not_stop_the_generator() {
    for transport in ["ring", "epoll"] {
        for args in [&["--size", "200"][..], &["--size", "200000"], &["--expect", "any"]] {
            let outcome = run(NO_CONTEXT, Way::BombFirst, &[&["--transport", transport], args].concat());
            assert_eq!(outcome.code, Some(1), "{transport} {args:?}: {}", outcome.output);
            let violations = &outcome.json["connections"]["violations"];
            let what = "compressed message that is inflated to more than can be expected";
            assert_eq!(violations[0]["what"].as_str(), Some(what), "{transport} {args:?}: {}", outcome.output);
            assert_eq!(violations[0]["count"].as_u64(), Some(1), "{transport} {args:?}: {}", outcome.output);
            assert_eq!(outcome.number("/messages/corrupted"), 0, "{transport} {args:?}: {}", outcome.output);
            assert_eq!(outcome.number("/messages/lost"), 1, "{transport} {args:?}: {}", outcome.output);
            assert!(outcome.number("/measured/echoes") > 0, "{transport} {args:?}: {}", outcome.output);
        }
    }
}

#[test]
fn wrong_content_behind_compression_is_found() {
    let outcome = run(PLAIN, Way::CorruptTenth, &["--size", "500"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert!(outcome.number("/messages/corrupted") > 0, "{}", outcome.output);
    assert_eq!(outcome.json["connections"]["violations"].as_array().map(Vec::len), Some(0), "{}", outcome.output);
}

/// A server that has promised not to refer to earlier messages, and does.
#[test]
fn context_that_was_not_agreed_on_is_found() {
    let outcome = run(NO_CONTEXT, Way::KeepsContext, &["--size", "500"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let what = outcome.json["connections"]["violations"][0]["what"].as_str();
    assert_eq!(what, Some("compressed message that cannot be inflated"), "{}", outcome.output);
}

/// A server that refers further back than it has promised.
#[test]
fn a_window_larger_than_agreed_on_is_found() {
    let half = (0..600).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    let args = ["--deflate-window-bits", "9", "--deflate-no-context", "--message", &half.repeat(2)];
    assert_right(&run(SMALL, Way::Recompress, &args), "a window as agreed on");
    let outcome = run(SMALL, Way::LargeWindow, &args);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let what = outcome.json["connections"]["violations"][0]["what"].as_str();
    assert_eq!(what, Some("compressed message that cannot be inflated"), "{}", outcome.output);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (args, why) in [
        (&["--deflate", "--tcp"][..], "cannot be used with"),
        (&["tcp://127.0.0.1:1", "--deflate"], "--deflate is an extension of WebSocket, and tcp has none"),
        (&["--deflate", "--deflate-window-bits", "8"], "8 is not in 9..=15"),
        (&["--deflate", "--deflate-window-bits", "16"], "16 is not in 9..=15"),
        (&["--deflate-no-context"], "--deflate"),
        (&["--deflate-precompressed"], "--deflate"),
        (&["--deflate", "--deflate-precompressed", "--size", "1-9"], "a range has too many"),
        (&["--compressibility", "101%"], "not a share from 0% to 100%"),
        (&["--compressibility", "5%", "--message", "x"], "cannot be used with"),
    ] {
        let output = ringload(&[&["run", "-t", "0.1"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(why), "{args:?}: {said}");
    }
}
