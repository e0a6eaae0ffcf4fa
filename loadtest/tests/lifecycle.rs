//! The life of connections beside their messages: pings, closing, and attempts that come to nothing.

mod runner;
mod server;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use runner::{Outcome, run, run_any};
use server::{scripted, start_tls_with};
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// What a server does about a ping.
#[derive(Clone, Copy)]
enum Pongs {
    Right,
    None,
    Wrong,
    Triple,
}

/// Upgrades and echoes by hand, so that pings and Closes are answered as the test wants it; returns with the client's Close.
fn echo(
    mut stream: TcpStream,
    request: &str,
    pongs: Pongs,
) -> Result<TcpStream, Box<dyn std::error::Error + Send + Sync>> {
    stream.write_all(scripted::upgrade(request, "").as_bytes())?;
    loop {
        let mut head = [0; 6];
        stream.read_exact(&mut head)?;
        let (opcode, len) = (head[0] & 15, usize::from(head[1] & 127));
        assert!(len < 126, "the test sends short messages");
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload)?;
        payload.iter_mut().zip(head[2..].iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        let frame = |opcode: u8, payload: &[u8]| [&[0x80 | opcode, payload.len() as u8], payload].concat();
        match (opcode, pongs) {
            (8, _) => return Ok(stream),
            (9, Pongs::None) => {}
            (9, Pongs::Wrong) => stream.write_all(&frame(10, b"other"))?,
            (9, Pongs::Triple) => stream.write_all(&frame(10, &payload).repeat(3))?,
            (9, Pongs::Right) => stream.write_all(&frame(10, &payload))?,
            _ => stream.write_all(&frame(opcode, &payload))?,
        }
    }
}

const CLOSE: [u8; 4] = [0x88, 2, 3, 0xe8];

/// Starts a server that answers the Close and leaves the TCP connection open until the client ends it.
fn start_lingering() -> std::net::SocketAddr {
    let serve = |stream: TcpStream, request: &str| {
        let mut stream = echo(stream, request, Pongs::Right)?;
        stream.write_all(&CLOSE)?;
        std::io::copy(&mut stream, &mut std::io::sink())?;
        Ok(())
    };
    scripted::start(serve).0
}

const TRANSPORTS: [[&str; 2]; 2] = [["--transport", "ring"], ["--transport", "epoll"]];

#[test]
fn a_server_that_leaves_tcp_open_behind_both_closes_does_not_hold_up_the_end() {
    for transport in TRANSPORTS {
        let begun = Instant::now();
        let outcome = run(start_lingering(), &[&transport[..], &["--size", "20", "--close-timeout", "200"]].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert_eq!(outcome.number("/connections/closes_answered"), 4, "{}", outcome.output);
        assert_eq!(outcome.number("/connections/lingered"), 4, "{}", outcome.output);
        assert!(
            begun.elapsed() < Duration::from_secs(100),
            "far less than the time for a Close: {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn churn_goes_on_with_a_server_that_leaves_tcp_open() {
    let args = ["--size", "20", "--reconnect-every", "0.05", "--duration", "4", "--close-timeout", "200"];
    let outcome = run(start_lingering(), &args);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    // Each connection takes a second to come back: without an end of it the four would be opened once.
    assert!(outcome.number("/connections/opened") >= 8, "{}", outcome.output);
}

#[test]
fn closing_takes_as_long_as_it_needs_while_the_server_goes_on_answering() {
    let turn = Arc::new(Mutex::new(()));
    let serve = move |stream: TcpStream, request: &str| {
        let mut stream = echo(stream, request, Pongs::Right)?;
        let _turn = turn.lock().expect("no thread panics with it");
        std::thread::sleep(Duration::from_millis(100));
        Ok(stream.write_all(&CLOSE)?)
    };
    let address = scripted::start(serve).0;
    // Four seconds for all of them, and two for the next one.
    let outcome = run(address, &["-c", "40", "--size", "20", "--close-timeout", "2"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(outcome.number("/connections/closes_answered"), 40, "{}", outcome.output);
}

#[test]
fn a_server_that_ends_one_tcp_connection_after_the_other_is_waited_for() {
    let turn = Arc::new(Mutex::new(()));
    let serve = move |stream: TcpStream, request: &str| {
        let mut stream = echo(stream, request, Pongs::Right)?;
        stream.write_all(&CLOSE)?;
        let _turn = turn.lock().expect("no thread panics with it");
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    };
    // Three seconds for all of them, and one for the next one.
    let outcome = run(scripted::start(serve).0, &["-c", "30", "--size", "20"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(outcome.number("/connections/closes_answered"), 30, "{}", outcome.output);
    assert_eq!(outcome.number("/connections/lingered"), 0, "{}", outcome.output);
}

#[test]
fn a_server_that_answers_no_close_is_given_up() {
    let serve = |stream: TcpStream, request: &str| {
        let mut stream = echo(stream, request, Pongs::Right)?;
        std::io::copy(&mut stream, &mut std::io::sink())?;
        Ok(())
    };
    let outcome = run(scripted::start(serve).0, &["--size", "20", "--close-timeout", "0.5"]);
    assert_eq!(outcome.number("/connections/closes_sent"), 4, "{}", outcome.output);
    assert_eq!(outcome.number("/connections/closes_answered"), 0, "{}", outcome.output);
}

#[test]
fn nothing_is_tried_for_ever_where_nothing_opens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let args = ["-c", "4000", "--connect-window", "40", "--connect-timeout", "1", "--threads", "1"];
    let begun = Instant::now();
    let outcome = run(address, &args);
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert_eq!(outcome.number("/connections/untried"), 4000 - 40, "{}", outcome.output);
    assert_eq!(outcome.number("/connections/failed"), 40, "{}", outcome.output);
    assert!(begun.elapsed() < Duration::from_secs(50), "one round of a hundred: {:?}", begun.elapsed());
}

/// A run with pings against a server that answers them in this way.
fn ping(pongs: Pongs) -> Outcome {
    let serve = move |stream: TcpStream, request: &str| {
        let mut stream = echo(stream, request, pongs)?;
        Ok(stream.write_all(&CLOSE)?)
    };
    let args = ["--size", "20", "--ping-every", "0.05", "--duration", "0.5"];
    run(scripted::start(serve).0, &args)
}

#[test]
fn pings_are_answered_or_not_and_that_is_told() {
    let counts = |outcome: &Outcome| {
        let names = ["pings_sent", "pongs", "pongs_unasked", "pings_unanswered"];
        names.map(|name| outcome.number(&format!("/messages/{name}")))
    };
    let right = ping(Pongs::Right);
    let [sent, pongs, unasked, unanswered] = counts(&right);
    assert!(sent > 4, "{}", right.output);
    assert_eq!((right.code, pongs, unasked, unanswered), (Some(0), sent, 0, 0), "{}", right.output);
    let none = ping(Pongs::None);
    let [sent, pongs, unasked, unanswered] = counts(&none);
    assert_eq!((pongs, unasked, unanswered), (0, 0, sent), "{}", none.output);
    let wrong = ping(Pongs::Wrong);
    let [sent, pongs, unasked, unanswered] = counts(&wrong);
    assert_eq!((pongs, unasked, unanswered), (sent, sent, sent), "{}", wrong.output);
    let triple = ping(Pongs::Triple);
    let [sent, pongs, unasked, unanswered] = counts(&triple);
    assert_eq!((pongs, unasked, unanswered), (3 * sent, 2 * sent, 0), "{}", triple.output);
    for told in [none, wrong, triple] {
        assert!(told.output.contains("ping") && told.output.contains("WARNING"), "{}", told.output);
    }
}

/// As a proxy does that shuts down: a Ping and a Close in one piece, and a reset.
#[test]
fn a_ping_a_close_and_a_reset_at_once_are_an_early_end() {
    for transport in TRANSPORTS {
        let (address, _) = start_tls_with(|stream| {
            let mut socket = tungstenite::accept(stream).map_err(|error| error.to_string())?;
            for _ in 0..5 {
                let message = socket.read()?;
                if message.is_binary() {
                    socket.send(message)?;
                }
            }
            let stream = socket.get_mut();
            stream.write_all(b"\x89\x00\x88\x02\x03\xe9")?;
            stream.flush()?;
            Ok(socket2::SockRef::from(&stream.sock).set_linger(Some(Duration::ZERO))?)
        });
        let url = format!("wss://{address}/");
        let outcome = run_any(&[&[url.as_str(), "--insecure"], &transport[..]].concat());
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        assert_eq!(outcome.number("/connections/closed_early"), 4, "{}", outcome.output);
    }
}

#[test]
fn a_server_through_tls_is_told_of_the_end() {
    for transport in TRANSPORTS {
        let (ends, told) = std::sync::mpsc::channel();
        let ends = Mutex::new(ends);
        let (address, _) = start_tls_with(move |stream| {
            let mut socket = tungstenite::accept(stream).map_err(|error| error.to_string())?;
            loop {
                match socket.read() {
                    Ok(message) if message.is_binary() => socket.send(message)?,
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            let stream = socket.get_mut();
            stream.conn.send_close_notify();
            stream.flush()?;
            // `UnexpectedEof` if there is no close_notify.
            let end = stream.read(&mut [0; 16]).map_err(|error| error.kind());
            ends.lock().expect("no thread panics with it").send(end)?;
            Ok(())
        });
        let url = format!("wss://{address}/");
        let outcome = run_any(&[&[url.as_str(), "--insecure"], &transport[..]].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        let ends: Vec<_> = (0..4).map(|_| told.recv_timeout(runner::PATIENCE).expect("all connections end")).collect();
        assert_eq!(ends, vec![Ok(0); 4], "{}", outcome.output);
    }
}

/// Deadlines are those of attempts: a slot that is used again has nothing to do with the one before.
#[test]
fn many_reconnects_fail_no_young_attempt_for_an_old_one() {
    // One attempt is never answered; others follow in its slot and in others, far faster than its time is over.
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let serve = move |mut stream: TcpStream, request: &str| {
        if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 10 {
            std::io::copy(&mut stream, &mut std::io::sink())?;
            return Ok(());
        }
        stream.write_all(scripted::upgrade(request, "").as_bytes())?;
        let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
        while !matches!(socket.read(), Ok(Message::Close(_)) | Err(_)) {}
        Ok(())
    };
    let args =
        ["--no-greet", "--active", "0", "--reconnect-every", "0.005", "--connect-timeout", "1", "--duration", "3"];
    let outcome = run(scripted::start(serve).0, &args);
    assert_eq!(outcome.failures(), [("upgrade timed out".to_owned(), 1)], "{}", outcome.output);
}
