//! Requests: what is asked for is what the server is sent, wherever it is, and what it answers is told.

mod runner;
mod server;

use std::time::Duration;

use runner::{Outcome, ringload, run, run_any};
use server::scripted::{echo, reply, start, start_on, upgrade, values};

/// The request of the first connection.
fn first_request(url_of: impl Fn(u16) -> String, args: &[&str]) -> String {
    let (address, requests) = start(echo);
    let outcome = run_any(&[&[url_of(address.port()).as_str()], args].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    requests.recv().unwrap()
}

fn local(port: u16) -> String {
    format!("ws://127.0.0.1:{port}/")
}

#[test]
fn a_header_replaces_that_of_the_same_name() {
    let request = first_request(local, &["-H", "Host: chat.example", "-H", "X-Test: 1"]);
    assert_eq!((values(&request, "host"), values(&request, "x-test")), (vec!["chat.example"], vec!["1"]));
    let request = first_request(|port| format!("ws://user:p%40ss@127.0.0.1:{port}/"), &[]);
    assert_eq!(values(&request, "authorization"), ["Basic dXNlcjpwQHNz"]);
}

#[test]
fn a_subprotocol_asked_for_with_a_header_is_asked_for() {
    let (address, _) = start(|mut stream, request| {
        std::io::Write::write_all(&mut stream, upgrade(request, "Sec-WebSocket-Protocol: mqtt\r\n").as_bytes())?;
        server::scripted::serve(stream, |message| vec![message])
    });
    let outcome = run(address, &["-H", "Sec-WebSocket-Protocol: mqtt"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(run(address, &[]).failures(), [("a subprotocol that was not asked for".to_owned(), 4)]);
}

#[test]
fn what_cannot_be_asked_for_is_refused_in_words() {
    for (args, why) in [
        (&["-H", "Upgrade: h2c"][..], "handshake itself"),
        (&["-H", "Host: a", "-H", "host: b"], "more than once"),
        (&["-H", "X: {user}"], "no placeholder"),
        (&["-H", "nonsense"], "not a header"),
        (&["--connect-to", "somewhere"], "HOST:PORT"),
        (&["--resolve", "a:1:b"], "no IP address"),
    ] {
        let output = ringload(&[&["run", "ws://127.0.0.1:1/"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(why), "{args:?}: {said}");
    }
    for url in ["ws://127.0.0.1:99999/", "ws://127.0.0.1/#a", "ws://127.0.0.1/{x}", "ws:127.0.0.1"] {
        assert_eq!(ringload(&["run", url]).status.code(), Some(2), "{url}");
    }
    assert_eq!(ringload(&["run", "ws://127.0.0.1:1/{line:/no/such/file}"]).status.code(), Some(3));
}

#[test]
fn the_url_says_what_is_asked_for_and_options_where() {
    let line = |request: String| request.lines().next().unwrap().to_owned();
    let request = first_request(|port| format!("WS://127.0.0.1:{port}?a=ü"), &[]);
    assert_eq!(line(request), "GET /?a=%C3%BC HTTP/1.1");
    let (address, requests) = start(echo);
    let outcome = run_any(&["ws://chat.example/x", "--connect-to", &address.to_string()]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let request = requests.recv().unwrap();
    assert_eq!(values(&request, "host"), ["chat.example"], "without the default port");
}

#[test]
fn placeholders_have_a_value_for_each_connection() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tokens-{}.txt", std::process::id()));
    std::fs::write(&path, "first token\nsecond\n").unwrap();
    let (address, requests) = start(echo);
    let line = format!("{{line:{}}}", path.display());
    let url = format!("ws://{address}/room/{{n}}?token={line}");
    let outcome = run_any(&[&url, "-H", &format!("X-Token: {line}")]);
    std::fs::remove_file(path).unwrap();
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let mut seen: Vec<_> = requests.try_iter().collect();
    seen.sort();
    let expected =
        [("0", "first%20token", "first token"), ("1", "second", "second"), ("2", "first%20token", "first token")];
    for (request, (number, encoded, token)) in seen.iter().zip(expected) {
        assert!(request.starts_with(&format!("GET /room/{number}?token={encoded} HTTP/1.1\r\n")), "{request}");
        assert_eq!(values(request, "x-token"), [token]);
    }
    assert_eq!(seen.len(), 4);
}

/// Two servers that echo, at the same port of two addresses.
fn start_two() -> (u16, [std::sync::mpsc::Receiver<String>; 2]) {
    loop {
        let (first, of_first) = start(echo);
        // The port may be in use there.
        if let Ok((_, of_second)) = start_on(&format!("127.0.0.2:{}", first.port()), echo) {
            return (first.port(), [of_first, of_second]);
        }
    }
}

#[test]
fn all_addresses_of_a_name_take_turns() {
    let (port, requests) = start_two();
    let resolve = format!("many.example:{port}:127.0.0.1,127.0.0.2");
    let outcome = run_any(&[&format!("ws://many.example:{port}/"), "--resolve", &resolve]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    assert_eq!(requests.map(|received| received.try_iter().count()), [2, 2]);
}

/// The addresses that something is told of, with how often.
fn addresses(outcome: &Outcome, list: &str) -> Vec<(String, u64)> {
    let list = outcome.json["connections"][list].as_array().expect("a list");
    list.iter().map(|it| (it["address"].as_str().unwrap().to_owned(), it["count"].as_u64().unwrap())).collect()
}

#[test]
fn where_an_address_fails_the_next_one_is_tried_and_it_is_named() {
    let (echoes, _) = start(echo);
    let (tls, _) = server::start_tls();
    for (scheme, port) in [("ws", echoes.port()), ("wss", tls.port())] {
        let url = format!("{scheme}://many.example:{port}/");
        let resolve = |list: &str| format!("many.example:{port}:{list}");
        let outcome = run_any(&[&url, "--insecure", "--resolve", &resolve("127.0.0.3,127.0.0.1,127.0.0.4")]);
        assert_eq!(outcome.code, Some(0), "{scheme}: {}", outcome.output);
        assert_eq!(outcome.number("/connections/opened"), 4, "{scheme}");
        // The connections 0 and 3 begin at the first address, 2 at the last, from where the first is the next.
        let expected = [(format!("127.0.0.3:{port}"), 3), (format!("127.0.0.4:{port}"), 1)];
        assert_eq!(addresses(&outcome, "detours"), expected, "{scheme}: {}", outcome.output);
        assert!(outcome.output.contains(&format!("connection refused at 127.0.0.3:{port}")), "{}", outcome.output);
        let none = run_any(&[&url, "--insecure", "--resolve", &resolve("127.0.0.3,127.0.0.4")]);
        assert_eq!((none.code, none.number("/connections/failed")), (Some(1), 4), "{}", none.output);
        let expected = [(format!("127.0.0.3:{port}"), 2), (format!("127.0.0.4:{port}"), 2)];
        assert_eq!(addresses(&none, "failures"), expected, "{}", none.output);
    }
}

/// A listener whose queue of connections is full: further ones are not answered at all.
fn start_silent(address: &str) -> (socket2::Socket, Vec<std::net::TcpStream>) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let address: std::net::SocketAddr = address.parse().unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
    }
    (listener, queued)
}

#[test]
fn where_an_address_does_not_answer_the_next_one_is_tried() {
    let (echoes, _) = start(echo);
    let port = echoes.port();
    let _silent = start_silent(&format!("127.0.0.6:{port}"));
    let resolve = format!("many.example:{port}:127.0.0.6,127.0.0.1");
    for transport in ["ring", "epoll"] {
        // As long as a busy machine takes for all that is behind the time at the first address.
        let args = ["--resolve", &resolve, "--connect-timeout", "8s", "--transport", transport];
        let outcome = run_any(&[&[format!("ws://many.example:{port}/").as_str()], &args[..]].concat());
        assert_eq!(outcome.code, Some(0), "{transport}: {}", outcome.output);
        assert_eq!(outcome.number("/connections/opened"), 4, "{transport}: {}", outcome.output);
        assert_eq!(addresses(&outcome, "detours"), [(format!("127.0.0.6:{port}"), 2)], "{}", outcome.output);
        assert!(outcome.output.contains("connect timed out at 127.0.0.6"), "{}", outcome.output);
    }
}

#[test]
fn informational_answers_and_many_headers_are_no_fault() {
    let (address, _) = start(|mut stream, request| {
        let lines = (0..70).map(|index| format!("X-Field-{index}: y\r\n")).collect::<Vec<_>>().concat();
        let answer = format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}", upgrade(request, &lines));
        std::io::Write::write_all(&mut stream, answer.as_bytes())?;
        server::scripted::serve(stream, |message| vec![message])
    });
    let outcome = run(address, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
}

#[test]
fn a_refusal_is_told_with_what_the_server_says_and_what_can_be_done() {
    for (answer, status, said, remedy) in [
        (
            "301 x\r\nLocation: wss://x.example/y\r\nContent-Length: 0\r\n\r\n",
            301,
            "Location: wss://x.example/y",
            "redirect",
        ),
        (
            "401 x\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n",
            401,
            "WWW-Authenticate: Bearer",
            "Authorization",
        ),
        ("200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "\"hi\"", "path"),
        (
            "503 x\r\nRetry-After: 7\r\nContent-Length: 20\r\n\r\n<p>\nfull up</p>\nbye\n.",
            503,
            "Retry-After: 7; \"full up\"",
            "full",
        ),
    ] {
        let bytes = format!("HTTP/1.1 {answer}");
        let (address, _) = start(move |stream, _| reply(stream, bytes.as_bytes()));
        let outcome = run(address, &[]);
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        assert_eq!(outcome.failures(), [(format!("HTTP status {status}"), 4)]);
        let failure = &outcome.json["connections"]["failures"][0];
        assert_eq!(failure["said"], said);
        assert!(failure["remedy"].as_str().unwrap().contains(remedy), "{failure}");
        assert!(outcome.output.contains(said) && outcome.output.contains(remedy), "{}", outcome.output);
    }
}

#[test]
fn a_refusal_that_is_cut_is_told_as_far_as_it_came() {
    let head = "HTTP/1.1 500 x\r\nContent-Length: 99\r\n\r\nout of ord";
    let (closes, _) = start(move |mut stream, _| Ok(std::io::Write::write_all(&mut stream, head.as_bytes())?));
    let (waits, _) = start(move |stream, _| reply(stream, head.as_bytes()));
    for (address, more) in [(closes, &[][..]), (waits, &["--connect-timeout", "0.3"])] {
        let outcome = run(address, more);
        assert_eq!(outcome.failures(), [("HTTP status 500".to_owned(), 4)]);
        assert_eq!(outcome.json["connections"]["failures"][0]["said"], "\"out of ord\"", "{}", outcome.output);
    }
}
