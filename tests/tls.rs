//! TLS listeners, seen by rustls' client and by OpenSSL.

#![cfg(feature = "tls")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use common::data::pattern_text;
use common::frames::{BINARY, CLOSE, FIN, close_frame, frame};
use common::peer::{UPGRADE, connect, full_duplex};
use common::server::{Server, command, engine, run_to_end};
use common::tls::{Client, Files, Made, Stream};
use common::{KIB, MIB, pattern};
use rustix::process::Signal;
use rustls::{HandshakeKind, version};
use tungstenite::{Message, WebSocket};

fn serve(arguments: &[&str]) -> Server {
    Server::launch(command(&[&["serve", "--listen", "tls:127.0.0.1:0"], arguments].concat()))
}

fn exercise(client: &mut WebSocket<Stream>) {
    for message in [
        Message::text("hello"),
        Message::binary(pattern(1, 20 * KIB)),
        Message::text(pattern_text(2, 300 * KIB)),
        Message::binary(Vec::new()),
        Message::binary(pattern(3, MIB)),
    ] {
        client.send(message.clone()).unwrap();
        assert!(client.read().unwrap() == message, "not the same");
    }
}

#[test]
fn both_versions_of_tls() {
    let server = serve(&[]);
    assert!(server.start_up_line().contains("listening on tls:127.0.0.1:"), "{}", server.start_up_line());
    for version in [&version::TLS12, &version::TLS13] {
        let client = Client::new(version);
        let mut connections: Vec<_> = (0..5).map(|_| client.open(server.address())).collect();
        for connection in &mut connections {
            assert_eq!(connection.get_ref().conn.protocol_version(), Some(version.version));
            assert_eq!(connection.get_ref().conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            exercise(connection);
        }
    }
}

/// The next one that a client makes needs no signature.
#[test]
fn sessions_are_resumed() {
    let server = serve(&["--workers", "2"]);
    for version in [&version::TLS12, &version::TLS13] {
        let client = Client::new(version);
        let mut kinds = Vec::new();
        for _ in 0..4 {
            let mut connection = client.open(server.address());
            exercise(&mut connection);
            kinds.push(connection.get_ref().conn.handshake_kind());
        }
        assert_eq!(kinds[0], Some(HandshakeKind::Full));
        assert_eq!(kinds[3], Some(HandshakeKind::Resumed), "{version:?}");
    }
}

/// More is sent than all buffers hold before anything is read, from a thread of its own.
#[test]
fn a_large_message_in_both_directions_at_once() {
    let server = serve(&["--max-message-size", "64MiB"]);
    let client = Client::new(&version::TLS13);
    let mut stream = client.stream(server.address());
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    read_answer(&mut stream);
    let payload = pattern(5, 24 * MIB);
    let sent = frame(FIN | BINARY, &payload);
    // Sealed by hand, so that reading and writing do not wait for each other.
    let mut records = Vec::new();
    for piece in sent.chunks(16 * KIB) {
        stream.conn.writer().write_all(piece).unwrap();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut records).unwrap();
        }
    }
    let socket = stream.sock.try_clone().unwrap();
    let transmit = |mut socket: TcpStream| socket.write_all(&records).expect("the server reads");
    let echo = full_duplex(&socket, transmit, || {
        let mut echo = vec![0; sent.len() - 4];
        stream.read_exact(&mut echo).unwrap();
        echo
    });
    assert!(echo[10..] == payload, "not the same");
}

/// A blocking client sends all of it first: what the server keeps for it is in records.
#[test]
fn a_slow_reader_gets_everything() {
    let server = serve(&[]);
    let mut connection = Client::new(&version::TLS13).open(server.address());
    let message = Message::binary(pattern(6, 12 * MIB));
    connection.send(message.clone()).unwrap();
    assert!(connection.read().unwrap() == message);
    exercise(&mut connection);
}

fn read_answer(stream: &mut Stream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

/// The end is said twice: by a Close frame, and by TLS. A client that is told the former alone cannot know that nothing was
/// cut off.
#[test]
fn a_closing_handshake_ends_with_a_goodbye_of_tls() {
    let server = serve(&[]);
    for version in [&version::TLS12, &version::TLS13] {
        let mut stream = Client::new(version).stream(server.address());
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        assert!(read_answer(&mut stream).starts_with("HTTP/1.1 101"));
        stream.write_all(&close_frame(1000, b"bye")).unwrap();
        let mut rest = Vec::new();
        // An end without a goodbye would be an error.
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [&[FIN | CLOSE, 5, 3, 232][..], b"bye"].concat());
    }
}

#[test]
fn a_refusal_ends_with_a_goodbye_of_tls() {
    let server = serve(&[]);
    let mut stream = Client::new(&version::TLS13).stream(server.address());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
}

#[test]
fn a_server_that_stops_says_so_through_tls() {
    let server = serve(&[]);
    let mut connection = Client::new(&version::TLS13).open(server.address());
    exercise(&mut connection);
    server.signal(Signal::TERM);
    let Message::Close(Some(close)) = connection.read().unwrap() else { panic!("no Close frame") };
    assert_eq!(u16::from(close.code), 1001);
    while connection.read().is_ok() {}
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn an_idle_connection_is_pinged_and_closed_through_tls() {
    let server = serve(&["--idle-timeout", "1"]);
    let mut stream = Client::new(&version::TLS13).stream(server.address());
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    read_answer(&mut stream);
    let mut rest = Vec::new();
    let mut frame = [0; 2];
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(frame, [0x89, 0], "a Ping");
    // It is not answered.
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(frame[0], FIN | CLOSE);
    stream.conn.send_close_notify();
    let _ = stream.flush();
    let _ = stream.read_to_end(&mut rest);
}

#[test]
fn bare_tcp_through_tls() {
    let server = Server::launch(command(&["serve", "--listen", "tls:127.0.0.1:0?protocol=tcp"]));
    let mut stream = Client::new(&version::TLS13).stream(server.address());
    stream.write_all(b"as it is").unwrap();
    let mut echo = [0; 8];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"as it is");
    // The end of one direction is the end of the other, too, when all is echoed.
    stream.write_all(b"all of it").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"all of it");
}

#[test]
fn tls_behind_a_proxy_header() {
    let server = Server::launch(command(&["serve", "--listen", "tls:127.0.0.1:0?proxy=v1"]));
    let client = Client::new(&version::TLS13);
    let mut socket = connect(server.address());
    socket.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n").unwrap();
    let stream = client.stream_over(socket);
    let mut connection = tungstenite::client("wss://localhost/", stream).expect("an upgrade").0;
    exercise(&mut connection);
}

#[test]
fn what_is_no_tls_is_refused_and_others_are_served() {
    let server = serve(&["--max-connections", "3", "--when-full", "wait"]);
    for _ in 0..4 {
        let mut plain = connect(server.address());
        plain.write_all(UPGRADE.as_bytes()).unwrap();
        let mut answer = String::new();
        plain.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("wss://"), "{answer}");

        let mut nonsense = connect(server.address());
        nonsense.write_all(&[0x16, 3, 1, 0, 4, 99, 0, 0, 0]).unwrap();
        let mut alert = Vec::new();
        nonsense.read_to_end(&mut alert).unwrap();
        assert_eq!(alert.first(), Some(&0x15), "{alert:02x?}");
        // It is gone in the midst of its handshake.
        connect(server.address()).write_all(&[0x16, 3, 1]).unwrap();
    }
    exercise(&mut Client::new(&version::TLS13).open(server.address()));
}

#[test]
fn a_tls_handshake_has_the_handshakes_time() {
    let server = serve(&["--handshake-timeout", "0.3"]);
    let mut silent = connect(server.address());
    let mut cut = connect(server.address());
    cut.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
    for socket in [&mut silent, &mut cut] {
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
}

#[test]
fn the_fingerprint_of_a_certificate_that_was_made_is_said() {
    let server = serve(&["--tls-self-signed"]);
    let client = Client::new(&version::TLS13);
    exercise(&mut client.open(server.address()));
    let digest = ring::digest::digest(&ring::digest::SHA256, &client.seen());
    let fingerprint: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    assert!(server.stderr().contains(&fingerprint.join(":")), "{}", server.stderr());
}

#[test]
fn files_that_are_no_certificate_and_key_are_named() {
    let files = Files::new("bad");
    let (one, other) = (Made::new(), Made::new());
    let cert = files.write("cert.pem", &one.pem);
    let key = files.write("key.pem", &one.key_pem);
    let other_key = files.write("other.pem", &other.key_pem);
    let empty = files.write("empty.pem", "");
    let nowhere = files.path("nowhere.pem");
    for (arguments, code, named) in [
        (vec!["--tls-cert", &cert], 2, "--tls-key"),
        (vec!["--tls-cert", &cert, "--tls-key", &key, "--tls-self-signed"], 2, "--tls-self-signed"),
        (vec!["--tls-cert", &nowhere, "--tls-key", &key], 1, "nowhere.pem"),
        (vec!["--tls-cert", &empty, "--tls-key", &key], 1, "no certificate"),
        (vec!["--tls-cert", &cert, "--tls-key", &empty], 1, "empty.pem"),
        (vec!["--tls-cert", &cert, "--tls-key", &other_key], 1, "--tls-cert and --tls-key"),
        (vec!["--tls-client-ca", &empty], 1, "--tls-client-ca"),
    ] {
        let exit = run_to_end(command(&[&["serve", "--listen", "tls:127.0.0.1:0"], &arguments[..]].concat()));
        assert!(exit.code == Some(code) && exit.stderr.contains(named), "{arguments:?}: {exit}");
    }
}

#[test]
fn only_clients_with_a_certificate_are_let_in() {
    let files = Files::new("client-ca");
    let (known, unknown) = (Made::new(), Made::new());
    let authorities = files.write("ca.pem", &known.pem);
    let server = serve(&["--tls-client-ca", &authorities]);
    for version in [&version::TLS12, &version::TLS13] {
        exercise(&mut Client::with(version, Some(&known)).open(server.address()));
        for stranger in [Client::new(version), Client::with(version, Some(&unknown))] {
            let mut stream = stranger.stream(server.address());
            let mut rest = Vec::new();
            let is_refused = stream.write_all(UPGRADE.as_bytes()).is_err() || stream.read_to_end(&mut rest).is_err();
            assert!(is_refused && rest.is_empty());
        }
    }
}

/// As SIGHUP has it done. A certificate that cannot be used leaves the one before in force.
#[test]
fn a_certificate_can_be_loaded_again() {
    let files = Files::new("reload");
    let (first, second) = (Made::new(), Made::new());
    let cert = files.write("cert.pem", &first.pem);
    let key = files.write("key.pem", &first.key_pem);
    let options = ringecho::Options {
        listen: vec!["tls:127.0.0.1:0".into()],
        tls_cert: Some(cert.into()),
        tls_key: Some(key.into()),
        engine: ["uring", "tokio-uring", "epoll"]
            .iter()
            .position(|name| *name == engine())
            .map(|index| [ringecho::Engine::Uring, ringecho::Engine::TokioUring, ringecho::Engine::Epoll][index]),
        ..ringecho::Options::default()
    };
    let server = ringecho::Server::bind(ringecho::Config::new(&options).unwrap()).unwrap();
    let address = server.addresses()[0].inet().unwrap();
    let handle = server.handle();
    let running = thread::spawn(move || server.run());

    let seen = || {
        let client = Client::new(&version::TLS13);
        exercise(&mut client.open(address));
        client.seen()
    };
    let mut early = Client::new(&version::TLS13).open(address);
    assert_eq!(seen(), first.der.to_vec());
    files.write("cert.pem", &second.pem);
    assert!(handle.reload_tls().is_err(), "the key is another's");
    assert_eq!(seen(), first.der.to_vec());
    files.write("key.pem", &second.key_pem);
    assert!(handle.reload_tls().unwrap());
    assert_eq!(seen(), second.der.to_vec());
    files.write("cert.pem", "nonsense");
    assert!(handle.reload_tls().is_err());
    assert_eq!(seen(), second.der.to_vec());
    exercise(&mut early);
    drop(early);
    handle.stop();
    running.join().unwrap().unwrap();
}

/// The running program does so on SIGHUP, and says what it has come to.
#[test]
fn sighup_loads_the_certificate_again() {
    let files = Files::new("sighup");
    let (first, second) = (Made::new(), Made::new());
    let cert = files.write("cert.pem", &first.pem);
    let key = files.write("key.pem", &first.key_pem);
    let server = serve(&["--tls-cert", &cert, "--tls-key", &key]);
    let seen = || {
        let client = Client::new(&version::TLS13);
        exercise(&mut client.open(server.address()));
        client.seen()
    };
    assert_eq!(seen(), first.der.to_vec());
    files.write("cert.pem", &second.pem);
    server.signal(Signal::HUP);
    server.await_stderr("cannot reload certificates, what was in use stays so");
    assert_eq!(seen(), first.der.to_vec());
    files.write("key.pem", &second.key_pem);
    server.signal(Signal::HUP);
    server.await_stderr("reloaded certificates");
    assert_eq!(seen(), second.der.to_vec());
}

/// The sum of a metric's samples over the workers.
fn metric(admin: SocketAddr, name: &str, label: &str) -> u64 {
    let mut stream = connect(admin);
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

#[test]
fn handshakes_are_counted_by_their_result() {
    let server = serve(&["--admin", "127.0.0.1:0"]);
    let line = server.start_up_line();
    let admin: SocketAddr = line.split_once("admin ").unwrap().1.parse().unwrap();
    let client = Client::new(&version::TLS13);
    for _ in 0..3 {
        exercise(&mut client.open(server.address()));
    }
    for _ in 0..2 {
        let mut plain = connect(server.address());
        plain.write_all(UPGRADE.as_bytes()).unwrap();
        plain.read_to_end(&mut Vec::new()).unwrap();
    }
    let count = |result: &str| metric(admin, "ringecho_tls_handshakes_total", &format!("result=\"{result}\""));
    common::eventually("all are counted", || [count("full"), count("resumed"), count("failed")] == [1, 2, 2]);
    assert!(metric(admin, "ringecho_connections_opened_total", "") == 3);
}

/// What sends later or of its own accord goes through TLS as echoes do, in order.
#[test]
fn behaviours_through_tls() {
    let server = serve(&["--behaviours"]);
    for version in [&version::TLS12, &version::TLS13] {
        let client = Client::new(version);
        let open = |path: &str| {
            let url = format!("wss://localhost{path}");
            tungstenite::client(url, client.stream(server.address())).expect("an upgrade").0
        };
        for (size, count) in [(1000, 300), (200_000, 3)] {
            let mut source = open(&format!("/source?size={size}&rate=0&count={count}"));
            for _ in 0..count {
                assert_eq!(source.read().unwrap().len(), size);
            }
            assert!(source.read().unwrap().is_close());
        }
        let mut delayed = open("/delay?ms=30");
        for text in ["one", "two", "three"] {
            delayed.send(Message::text(text)).unwrap();
        }
        for text in ["one", "two", "three"] {
            assert_eq!(delayed.read().unwrap(), Message::text(text));
        }
        delayed.send(Message::text("held back when the client ends")).unwrap();
        delayed.close(None).unwrap();
        assert_eq!(delayed.read().unwrap(), Message::text("held back when the client ends"));
        let mut sink = open("/sink");
        sink.send(Message::binary(pattern(1, MIB))).unwrap();
        sink.send(Message::Ping("alive".into())).unwrap();
        assert_eq!(sink.read().unwrap(), Message::Pong("alive".into()));
        let mut closing = open("/close?code=4321&after=1");
        closing.send(Message::text("once")).unwrap();
        assert_eq!(closing.read().unwrap(), Message::text("once"));
        let Message::Close(Some(frame)) = closing.read().unwrap() else { panic!("no Close frame") };
        assert_eq!(u16::from(frame.code), 4321);
        let mut aborted = open("/abort?after=1");
        aborted.send(Message::text("once")).unwrap();
        while aborted.read().is_ok() {}
    }
}

/// Reads lines until one has this text.
fn await_line(output: &mut impl BufRead, text: &str) {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "{text:?} does not come");
    }
}

/// What OpenSSL's client says and hears: it renews its keys in between, and asks for the server's.
#[test]
fn openssl_is_served_also_when_it_renews_its_keys() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("NOT TESTED: openssl(1) is missing");
        return;
    }
    let server = Server::launch(command(&["serve", "--listen", "tls:127.0.0.1:0?protocol=tcp"]));
    for tls in ["-tls1_2", "-tls1_3"] {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-no_ign_eof", tls, "-connect", &server.address().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = client.stdin.take().unwrap();
        let mut output = BufReader::new(client.stdout.take().unwrap());
        let mut line = |text: &str| {
            writeln!(input, "{text}").unwrap();
            let mut echo = String::new();
            output.read_line(&mut echo).unwrap();
            assert_eq!(echo, format!("{text}\n"));
        };
        line("hello");
        line("and again");
        drop(input);
        client.wait().unwrap();
    }
    // Commands are lines of one letter: `K` has both sides renew their keys, `k` the client alone.
    let mut client = Command::new("openssl")
        .args(["s_client", "-tls1_3", "-connect", &server.address().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    let mut output = BufReader::new(client.stdout.take().unwrap());
    let mut errors = BufReader::new(client.stderr.take().unwrap());
    for (index, renewal) in ["k", "K", "k", "K"].iter().enumerate() {
        writeln!(input, "before {index}").unwrap();
        await_line(&mut output, &format!("before {index}"));
        // A letter is a command if it comes by itself.
        writeln!(input, "{renewal}").unwrap();
        await_line(&mut errors, "KEYUPDATE");
        writeln!(input, "behind {index}").unwrap();
        await_line(&mut output, &format!("behind {index}"));
    }
    drop(input);
    client.wait().unwrap();
}

/// Many handshakes, some of which never end: another client's messages are echoed meanwhile.
#[test]
fn established_connections_are_served_in_a_storm_of_handshakes() {
    let server = serve(&["--workers", "1"]);
    let address = server.address();
    let mut established = Client::new(&version::TLS13).open(address);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                let client = Client::new(&version::TLS13);
                for _ in 0..25 {
                    let mut left = client.stream(address);
                    left.conn.complete_io(&mut left.sock).map(drop).unwrap();
                    let mut cut = client.stream(address);
                    cut.conn.write_tls(&mut cut.sock).map(drop).unwrap();
                }
            });
        }
        for _ in 0..100 {
            established.send(Message::text("in between")).unwrap();
            assert_eq!(established.read().unwrap(), Message::text("in between"));
        }
    });
}
