//! Messages as people have them: their own, to servers that do something else than to echo. And how servers end connections.

mod runner;
mod server;

use std::io::Write;
use std::sync::mpsc;

use runner::{Running, ringload, run, run_any};
use rustix::process::Signal;
use server::scripted::{answer, serve, start, upgrade};
use server::{Behaviour, start_tls_with};
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;

#[test]
fn a_welcome_that_is_expected_is_no_fault_and_echoes_are_compared() {
    let address = server::start(Behaviour::Welcomes);
    let outcome = run(address, &["--welcome", "1"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!((outcome.number("/messages/welcomes"), outcome.number("/messages/unexpected")), (4, 0));
    assert_eq!(outcome.json["runs"][0]["scenario"]["verify"], true);
}

#[test]
fn answers_that_are_no_echoes_need_only_come() {
    let (address, _) = start(|stream, request| answer(stream, request, |_| vec![Message::text("ok")]));
    assert_eq!(run(address, &["--connect-timeout", "0.3"]).code, Some(1), "no echo");
    for more in [&[][..], &["--depth", "4"], &["--rate", "500"]] {
        let outcome = run(address, &[&["--expect", "any"], more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert!(outcome.number("/measured/echoes") > 0, "{}", outcome.output);
        assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
        assert!(outcome.output.contains("answered") && outcome.output.contains("answers were not compared"));
        let load = &outcome.json["runs"][0]["scenario"];
        assert_eq!((load["expect"].as_str(), load["verify"].as_bool()), (Some("any"), Some(false)));
    }
}

#[test]
fn several_answers_to_each_message_are_awaited() {
    let (address, _) = start(|stream, request| answer(stream, request, |message| vec![message; 3]));
    let outcome = run(address, &["--expect", "3", "--depth", "2"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
    assert_eq!(outcome.number("/messages/pushed"), 0, "{}", outcome.output);
    let outcome = run(address, &["--expect", "4", "--connect-timeout", "0.3"]);
    assert_eq!(outcome.failures(), [("greeting not echoed in time".to_owned(), 4)]);
}

#[test]
fn where_nothing_is_awaited_silence_is_right() {
    let outcome = run(server::start(Behaviour::Deaf), &["--expect", "none", "--rate", "1000"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert!(outcome.number("/messages/unawaited") > 100, "{}", outcome.output);
    assert_eq!(outcome.number("/messages/unawaited"), outcome.number("/messages/sent"));
    assert!(outcome.output.contains("no answers were awaited"), "{}", outcome.output);
    let paceless = ringload(&["run", "ws://127.0.0.1:1/", "--expect", "none"]);
    assert_eq!(paceless.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&paceless.stderr).contains("--rate"));
}

#[test]
fn what_a_server_pushes_is_counted() {
    let (address, _) = start(|mut stream, request| {
        stream.write_all(upgrade(request, "").as_bytes())?;
        for _ in 0..5 {
            stream.write_all(b"\x81\x04news")?;
        }
        serve(stream, |_| Vec::new())
    });
    let outcome = run(address, &["--expect", "none", "--active", "0"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(outcome.number("/messages/pushed"), 20, "{}", outcome.output);
    assert!(outcome.output.contains("20 pushed by the server"), "{}", outcome.output);
}

#[test]
fn what_is_not_compared_is_never_called_corrupted() {
    let outcome = run(server::start(Behaviour::CorruptTenth), &["--no-verify"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(outcome.number("/messages/corrupted"), 0);
    assert!(outcome.output.contains("answers were not compared"), "{}", outcome.output);
}

#[test]
fn own_messages_are_sent_as_they_are() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("messages-{}.txt", std::process::id()));
    let large = "x".repeat(20_000);
    std::fs::write(&path, format!("one\n{{\"two\": 2}}\n\n{large}\n")).unwrap();
    let file = path.to_str().unwrap();
    for (args, texts, is_text) in [
        (&["--message", "hällo"][..], &["hällo"][..], true),
        (&["--message", "hi", "--binary"], &["hi"], false),
        (&["--message-file", file, "--lines", "--depth", "3"], &["one", "{\"two\": 2}", &large], true),
        (&["--message-file", file], &[&format!("one\n{{\"two\": 2}}\n\n{large}\n")], true),
    ] {
        let (seen, messages) = mpsc::channel();
        let (address, _) = start(move |stream, request| {
            let seen = seen.clone();
            answer(stream, request, move |message| {
                let _ = seen.send(message.clone());
                vec![message]
            })
        });
        let outcome = run(address, &[args, &["-n", "30", "--duration", "20"]].concat());
        assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.output);
        assert_eq!(outcome.number("/messages/echoed"), 34);
        let seen: Vec<Message> = messages.try_iter().collect();
        assert!(seen.len() == 34 && seen.iter().all(|message| message.is_text() == is_text), "{args:?}");
        for text in texts {
            let times = seen.iter().filter(|message| message.to_text().is_ok_and(|it| it == *text)).count();
            assert!(times >= 34 / texts.len() - 4, "{text}: {times} of {}", seen.len());
        }
        assert!(seen.iter().all(|message| texts.contains(&message.to_text().unwrap())), "{args:?}");
    }
    std::fs::remove_file(path).unwrap();
    let missing = ringload(&["run", "ws://127.0.0.1:1/", "--message-file", "/no/such/file"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn a_changed_byte_of_an_own_message_is_corruption() {
    let outcome = run(server::start(Behaviour::CorruptTenth), &["--message", "a message", "--binary"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert!(outcome.number("/messages/corrupted") > 0);
    assert_eq!(outcome.number("/messages/unexpected") + outcome.number("/messages/lost"), 0, "{}", outcome.output);
}

/// How the server ended the connections, by the words for it.
fn early_ends(outcome: &runner::Outcome) -> Vec<(String, Option<u64>, Option<String>, u64)> {
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    let list = outcome.json["connections"]["early_ends"].as_array().expect("a list");
    let end = |it: &serde_json::Value| {
        let reason = it["reason"].as_str().map(str::to_owned);
        (it["how"].as_str().unwrap().to_owned(), it["code"].as_u64(), reason, it["count"].as_u64().unwrap())
    };
    list.iter().map(end).collect()
}

#[test]
fn closes_are_told_by_code_and_reason() {
    let close = |code: u16, reason: &'static str| CloseFrame { code: code.into(), reason: reason.into() };
    for (frame, how) in [
        (close(1009, "at most 10 bytes"), "Close 1009 (message too big)"),
        (close(1001, ""), "Close 1001 (going away)"),
        (close(4321, "\u{1b}[2Jbye"), "Close 4321"),
    ] {
        let (code, reason) =
            (u64::from(u16::from(frame.code)), Some(frame.reason.to_string()).filter(|it| !it.is_empty()));
        let expected = [(how.to_owned(), Some(code), reason, 4)];
        let ends = [false, true].map(|is_tls| {
            let frame = frame.clone();
            let url = if is_tls {
                let address = start_tls_with(move |stream| {
                    let mut socket = tungstenite::accept(stream).map_err(|error| error.to_string())?;
                    let message = socket.read()?;
                    socket.send(message)?;
                    socket.close(Some(frame.clone()))?;
                    loop {
                        socket.read()?;
                    }
                });
                format!("wss://{}/", address.0)
            } else {
                let (address, _) = start(move |stream, request| {
                    answer(stream, request, |message| vec![message, Message::Close(Some(frame.clone()))])
                });
                format!("ws://{address}/")
            };
            let outcome = run_any(&[&url, "--insecure"]);
            assert!(outcome.output.contains(how) && !outcome.output.contains('\u{1b}'), "{}", outcome.output);
            early_ends(&outcome)
        });
        assert_eq!(ends, [expected.to_vec(), expected.to_vec()]);
    }
}

#[test]
fn an_end_and_a_reset_of_tcp_are_told_apart() {
    for (is_reset, how) in [(false, "end of the TCP connection, without a Close"), (true, "TCP reset, without a Close")]
    {
        let (address, _) = start(move |mut stream, request| {
            stream.write_all(upgrade(request, "").as_bytes())?;
            // With the greeting unread, the kernel would reset in any case.
            server::scripted::read_frame(&mut stream)?;
            if is_reset {
                socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
            }
            Ok(())
        });
        assert_eq!(early_ends(&run(address, &["--size", "100"])), [(how.to_owned(), None, None, 4)]);
    }
}

/// A ringecho whose connections take, and one whose connections send.
#[test]
fn sinks_and_sources_of_a_ringecho_are_load_like_any() {
    let mut server = Running::start(&["serve", "--listen", "127.0.0.1:0", "--behaviours"]);
    let line = server.wait_for("ringecho listening on ");
    let url = |path: &str| format!("ws://{}{path}", line.split_whitespace().nth(3).unwrap());

    let sink = run_any(&[&url("/sink"), "--expect", "none", "--rate", "2000"]);
    assert_eq!(sink.code, Some(0), "{}", sink.output);
    assert!(sink.number("/messages/unawaited") > 100, "{}", sink.output);
    assert_eq!((sink.number("/messages/echoed"), sink.number("/messages/pushed")), (0, 0), "{}", sink.output);

    let source = run_any(&[&url("/source?size=100&rate=1000"), "--expect", "10", "--no-greet"]);
    assert_eq!(source.code, Some(0), "{}", source.output);
    assert!(source.number("/messages/echoed") > 10, "ten messages of the source answer one: {}", source.output);

    let pushed = run_any(&[&url("/source?size=100&rate=0"), "--expect", "none", "--rate", "100"]);
    assert_eq!(pushed.code, Some(0), "{}", pushed.output);
    assert!(pushed.number("/messages/pushed") > 10_000, "{}", pushed.output);

    let missing = run_any(&[&url("/sink"), "--connect-timeout", "0.3"]);
    assert_eq!(missing.code, Some(1), "a sink is no echo: {}", missing.output);
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
}
