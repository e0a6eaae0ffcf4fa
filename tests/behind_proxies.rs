//! Behind nginx and `HAProxy`, where these are installed, with the configurations of `deploy/`.

#![cfg(feature = "tls")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::{fs, thread};

use common::frames::{FIN, PING, close_frame, frame};
use common::peer::{Peer, connect};
use common::server::{Server, command};
use common::tls::{Client, Files, Made};
use common::{KIB, eventually, pattern, pattern_text};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustls::version;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

/// Where Debian's libnginx-mod-stream has it.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// The ringecho of most routes: of plain, of TLS, and of those with a PROXY header.
const LISTEN: &str = "127.0.0.1:0,tls:127.0.0.1:0,127.0.0.1:0?proxy=v1,tls:127.0.0.1:0?proxy=any";

trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

type Socket = WebSocket<Box<dyn Duplex>>;

/// Where a proxy listens, and how clients are to speak there.
#[derive(Clone, Copy)]
enum Route {
    Ws(SocketAddr),
    Wss(SocketAddr),
}

impl Route {
    /// Connects and upgrades. The address is the client's own.
    fn try_open(self, path: &str) -> Result<(Socket, SocketAddr), Box<tungstenite::Error>> {
        let (Route::Ws(address) | Route::Wss(address)) = self;
        let socket = connect(address);
        let own = socket.local_addr().unwrap();
        let stream: Box<dyn Duplex> = match self {
            Route::Ws(_) => Box::new(socket),
            Route::Wss(_) => Box::new(Client::new(&version::TLS13).stream_over(socket)),
        };
        let scheme = if matches!(self, Route::Ws(_)) { "ws" } else { "wss" };
        match tungstenite::client(format!("{scheme}://localhost{path}"), stream) {
            Ok((client, _)) => Ok((client, own)),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(Box::new(error)),
            Err(tungstenite::HandshakeError::Interrupted(_)) => panic!("the proxy does not answer"),
        }
    }

    fn open(self, path: &str) -> Socket {
        self.try_open(path).unwrap_or_else(|error| panic!("no upgrade at {path}: {error}")).0
    }

    /// Echoes of all sizes, Pings, and Close codes in both directions.
    fn exercise(self) {
        let mut client = self.open("/");
        for message in [
            Message::text("hello"),
            Message::binary(pattern(1, 20 * KIB)),
            Message::text(pattern_text(2, 300 * KIB)),
            Message::binary(Vec::new()),
        ] {
            client.send(message.clone()).unwrap();
            assert!(client.read().unwrap() == message, "not the same");
        }
        client.send(Message::Ping("alive?".into())).unwrap();
        assert_eq!(client.read().unwrap(), Message::Pong("alive?".into()));
        close(client, 1000).unwrap();
        close(self.open("/"), 4001).unwrap();

        // The client says more behind its Close; its bytes must not cost it the answer.
        let mut client = self.open("/");
        let stream = client.get_mut();
        stream.write_all(&[close_frame(4001, b"enough"), frame(FIN | PING, &[0; 100])].concat()).unwrap();
        stream.flush().unwrap();
        assert_eq!(close_code(&mut client), Some(4001));

        let mut client = self.open("/close?code=4321&after=1");
        client.send(Message::text("once")).unwrap();
        assert_eq!(client.read().unwrap(), Message::text("once"));
        assert_eq!(close_code(&mut client), Some(4321));
        while client.read().is_ok() {}
    }
}

/// Closes with this code, and insists on the same from the server.
fn close(mut client: Socket, code: u16) -> Result<(), String> {
    client.close(Some(CloseFrame { code: code.into(), reason: "".into() })).map_err(|error| error.to_string())?;
    match close_code(&mut client) {
        Some(answer) if answer == code => Ok(()),
        other => Err(format!("Close {code} was answered with {other:?}")),
    }
}

/// The code of the Close frame that comes next. `None`: the connection ends without one.
fn close_code(client: &mut Socket) -> Option<u16> {
    match client.read() {
        Ok(Message::Close(frame)) => Some(frame.map_or(1005, |frame| frame.code.into())),
        Ok(other) => panic!("{other:?} instead of a Close frame"),
        Err(_) => None,
    }
}

/// The body of a plain GET, which must be answered with 200.
fn get(address: SocketAddr, path: &str) -> String {
    let mut peer = Peer::connect(address);
    peer.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    let answer = peer.read_answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// The address of the admin listener.
fn admin(server: &Server) -> SocketAddr {
    let line = server.start_up_line();
    line.split_once("| admin ").and_then(|(_, address)| address.parse().ok()).expect("an admin listener")
}

fn is_installed(program: &str) -> bool {
    let is_there = Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_there {
        eprintln!("NOT TESTED: {program} is not installed");
    }
    is_there
}

/// The values of places in a configuration of `deploy/`, in this test.
type Places = BTreeMap<&'static str, String>;

fn configured(name: &str, places: &Places) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    places.iter().fold(text, |text, (place, value)| text.replace(place, value))
}

/// A proxy as a child process.
struct Proxy {
    process: Child,
    /// Where it listens, by the ports of the configuration.
    ports: BTreeMap<u16, u16>,
    files: Files,
}

impl Proxy {
    /// Starts one with free ports, of which others may have taken one meanwhile.
    fn start(name: &str, ports: &[u16], launch: impl Fn(&Files, &BTreeMap<u16, u16>) -> Command) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        for _ in 0..10 {
            let files = Files::new(&format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
            let made = Made::new();
            files.write("ringecho.pem", &[&*made.pem, &made.key_pem].concat());
            files.write("ringecho.key", &made.key_pem);
            let held: Vec<_> = ports.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let free = held.iter().map(|listener| listener.local_addr().unwrap().port());
            let ports: BTreeMap<u16, u16> = ports.iter().copied().zip(free).collect();
            let mut command = launch(&files, &ports);
            command.stdin(Stdio::null());
            // SAFETY: between fork and exec only async-signal-safe calls are allowed, and prctl is a bare system call.
            unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?)) };
            drop(held);
            let mut proxy = Self { process: command.spawn().unwrap(), ports, files };
            if proxy.has_started() {
                return proxy;
            }
        }
        panic!("{name} does not start")
    }

    fn has_started(&mut self) -> bool {
        let mut has_ended = false;
        let ports: Vec<_> = self.ports.values().copied().collect();
        eventually("the proxy listens", || {
            has_ended = self.process.try_wait().unwrap().is_some();
            has_ended || ports.iter().all(|&port| TcpStream::connect(("127.0.0.1", port)).is_ok())
        });
        !has_ended
    }

    /// Where it listens in place of a port of the configuration.
    fn at(&self, port: u16) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[&port]).into()
    }

    fn ws(&self, port: u16) -> Route {
        Route::Ws(self.at(port))
    }

    fn wss(&self, port: u16) -> Route {
        Route::Wss(self.at(port))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx ends its workers then. An error says that it has ended already.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

/// The ringechos that a configuration names, the one of most routes and the second one of the backend.
fn servers_in(places: &mut Places, one: &Server, second: &Server) {
    let addresses = one.addresses();
    places.insert("127.0.0.1:9001", addresses[0].to_string());
    places.insert("port 9002", format!("port {}", admin(one).port()));
    places.insert("127.0.0.1:9011", second.address().to_string());
    places.insert("port 9012", format!("port {}", admin(second).port()));
    for (place, address) in ["127.0.0.1:9443", "127.0.0.1:9003", "127.0.0.1:9444"].into_iter().zip(&addresses[1..]) {
        places.insert(place, address.to_string());
    }
}

fn haproxy(one: &Server, second: &Server) -> Proxy {
    const PORTS: [(&str, u16); 5] =
        [("*:80", 80), ("*:443", 443), ("*:8443", 8443), ("*:9400", 9400), ("*:9401", 9401)];
    let mut listened: Vec<u16> = PORTS.iter().map(|(_, port)| *port).collect();
    listened.push(0); // of the section that is added
    Proxy::start("haproxy", &listened, |files, ports| {
        let mut places = Places::new();
        servers_in(&mut places, one, second);
        for (place, port) in PORTS {
            places.insert(place, format!("127.0.0.1:{}", ports[&port]));
        }
        places.insert("/etc/haproxy/ringecho.pem", files.path("ringecho.pem"));
        let mut text = configured("haproxy.cfg", &places);
        let _ = write!(
            text,
            "\nglobal\n    stats socket {} mode 600 level user\n\
            listen checked-by-tcp\n    mode tcp\n    bind 127.0.0.1:{}\n    server a {} check\n",
            files.path("stats"),
            ports[&0],
            one.address(),
        );
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f", &files.write("haproxy.cfg", &text)]);
        command
    })
}

/// Server, state and last check of each server of a backend, as `HAProxy` tells; none as long as its socket is not there, which
/// comes after its ports.
fn checks(haproxy: &Proxy) -> Vec<(String, String, String)> {
    let Ok(mut socket) = UnixStream::connect(haproxy.files.path("stats")) else { return Vec::new() };
    socket.write_all(b"show stat\n").unwrap();
    let mut table = String::new();
    socket.read_to_string(&mut table).unwrap();
    let mut lines = table.trim_start_matches("# ").lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = lines.next().unwrap();
    let at = |name: &str| names.iter().position(|it| *it == name).unwrap();
    let (backend, server, state, check) = (at("pxname"), at("svname"), at("status"), at("check_status"));
    let rows = lines.filter(|row| row.len() > check && !["FRONTEND", "BACKEND"].contains(&row[server]));
    rows.map(|row| (format!("{}/{}", row[backend], row[server]), row[state].into(), row[check].into())).collect()
}

fn nginx(one: &Server, second: &Server) -> Proxy {
    let has_stream = Path::new(STREAM_MODULE).exists();
    if !has_stream {
        eprintln!("NOT TESTED: nginx's stream module (libnginx-mod-stream) is not installed");
    }
    let listened: &[u16] = if has_stream { &[80, 443, 8443, 9400, 9401] } else { &[80, 443, 8443] };
    Proxy::start("nginx", listened, |files, ports| {
        let mut places = Places::new();
        servers_in(&mut places, one, second);
        let mut listen = |place: &'static str, port: u16| {
            let taken = ports.get(&port).copied().unwrap_or_default();
            places.insert(place, place.replace(&port.to_string(), &format!("127.0.0.1:{taken}")));
        };
        listen("listen 80;", 80);
        listen("listen 443 ssl;", 443);
        listen("listen 8443 ssl;", 8443);
        listen("listen 9400;", 9400);
        listen("listen 9401;", 9401);
        places.insert("/etc/nginx/ringecho.pem", files.path("ringecho.pem"));
        places.insert("/etc/nginx/ringecho.key", files.path("ringecho.key"));
        // What Debian's main configuration has, and what needs root by default.
        let mut own = format!("http {{\n    access_log off;\n    proxy_temp_path {};\n", files.path("proxy"));
        for kind in ["client_body", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(own, "    {kind}_temp_path {};", files.path(kind));
        }
        places.insert("http {\n", own);
        let mut text = configured("nginx.conf", &places);
        if has_stream {
            text = format!("load_module {STREAM_MODULE};\n{text}\n{}", configured("nginx-stream.conf", &places));
        }
        let log = files.path("error.log");
        let mut command = Command::new("nginx");
        command.args(["-e", &log, "-c", &files.write("nginx.conf", &text), "-g"]);
        command.arg(format!("daemon off; worker_processes 1; pid {}; error_log {log};", files.path("pid")));
        command
    })
}

/// The ringecho of most routes.
fn first(arguments: &[&str]) -> Server {
    let start = ["serve", "--listen", LISTEN, "--admin", "127.0.0.1:0", "--behaviours", "--log-connections"];
    Server::launch(command(&[&start, arguments].concat()))
}

/// The second one of the backend.
fn second() -> Server {
    Server::start(&["--admin", "127.0.0.1:0", "--behaviours"])
}

/// A PROXY header tells the server who the client is.
fn expect_client_named(server: &Server, route: Route) {
    let (client, own) = route.try_open("/").expect("an upgrade");
    close(client, 1000).unwrap();
    server.await_stderr(&format!("peer=\"{own}\""));
}

#[test]
fn everything_goes_through_haproxy() {
    if !is_installed("haproxy") {
        return;
    }
    let (one, other) = (first(&[]), second());
    let haproxy = haproxy(&one, &other);
    let mut seen = Vec::new();
    eventually("all servers are checked", || {
        seen = checks(&haproxy);
        let is_checked = |check: &str| !check.is_empty() && !check.starts_with("INI") && !check.starts_with('*');
        !seen.is_empty() && seen.iter().all(|(_, _, check)| is_checked(check))
    });
    let mut expected: Vec<_> = ["ringecho/a", "ringecho/b", "tls-to-tls/a", "passed-through-v1/a"]
        .map(|server| (server, "L7OK"))
        .into_iter()
        .chain(["passed-through-v2/a", "checked-by-tcp/a"].map(|server| (server, "L4OK")))
        .map(|(server, check)| (server.to_owned(), "UP".to_owned(), check.to_owned()))
        .collect();
    expected.sort();
    seen.sort();
    assert_eq!(seen, expected);

    for route in [haproxy.ws(80), haproxy.wss(443), haproxy.wss(8443), haproxy.wss(9400), haproxy.ws(9401)] {
        route.exercise();
    }
    haproxy.ws(0).exercise();
    expect_client_named(&one, haproxy.wss(9400));
    expect_client_named(&one, haproxy.ws(9401));
    assert_eq!(get(haproxy.at(80), "/healthz"), "ok\n");
}

#[test]
fn everything_goes_through_nginx() {
    if !is_installed("nginx") {
        return;
    }
    let (one, other) = (first(&[]), second());
    let nginx = nginx(&one, &other);
    for route in [nginx.ws(80), nginx.wss(443), nginx.wss(8443)] {
        route.exercise();
    }
    if nginx.ports.contains_key(&9401) {
        for route in [nginx.wss(9400), nginx.ws(9401)] {
            route.exercise();
            expect_client_named(&one, route);
        }
    }
    assert_eq!(get(nginx.at(80), "/healthz"), "ok\n");
}

/// Clients that come and go all the while. None of them may fail; Close 1001 is the drain's.
fn come_and_go(route: Route, served: &AtomicU32, is_over: &AtomicBool) {
    // A failure here ends the others, too.
    let end = SetWhenDropped(is_over);
    while !is_over.load(Ordering::Relaxed) {
        let (mut client, _) = route.try_open("/").unwrap_or_else(|error| panic!("a request has failed: {error}"));
        client.send(Message::text("served")).unwrap();
        let mut message = client.read().unwrap();
        if message == Message::text("served") {
            client.close(Some(CloseFrame { code: 1000.into(), reason: "".into() })).unwrap();
            message = client.read().unwrap();
        }
        let Message::Close(Some(frame)) = message else { panic!("{message:?} instead of an echo or a Close frame") };
        assert!([1000, 1001].contains(&u16::from(frame.code)), "{frame:?}");
        served.fetch_add(1, Ordering::Relaxed);
    }
    drop(end);
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One of two servers behind a proxy is drained and ends while clients come, then the other.
fn drain(one: Server, other: Server, route: Route) {
    const HELD: u32 = 8;
    let held: Vec<_> = (0..HELD).map(|_| route.open("/")).collect();
    let (served, left) = (AtomicU32::new(0), AtomicU32::new(0));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when something here fails.
        let end = SetWhenDropped(&is_over);
        for mut client in held {
            let left = &left;
            scope.spawn(move || {
                assert_eq!(close_code(&mut client), Some(1001));
                while client.read().is_ok() {} // sends the answer
                left.fetch_add(1, Ordering::Relaxed);
            });
        }
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(|| come_and_go(route, &served, &is_over))).collect();
        let some_more = |served: &AtomicU32| {
            let target = served.load(Ordering::Relaxed) + 30;
            eventually("further clients are served", || {
                served.load(Ordering::Relaxed) >= target || is_over.load(Ordering::Relaxed)
            });
        };
        some_more(&served);
        let exit = one.stop();
        assert!(!exit.stdout.contains("cut off"), "{exit}");
        some_more(&served);
        drop(end);
        for client in clients {
            client.join().unwrap();
        }
        // Those that were on it have heard of it, the others are served on.
        eventually("clients are sent away", || left.load(Ordering::Relaxed) > 0);
        assert!(left.load(Ordering::Relaxed) < HELD);
        let exit = other.stop();
        assert!(!exit.stdout.contains("cut off"), "{exit}");
    });
    assert_eq!(left.into_inner(), HELD);
}

#[test]
fn a_drain_behind_haproxy_fails_no_request() {
    if !is_installed("haproxy") {
        return;
    }
    let (one, other) = (first(&["--drain-delay", "3s"]), second());
    let haproxy = haproxy(&one, &other);
    let route = haproxy.wss(443);
    drain(one, other, route);
}

#[test]
fn a_drain_behind_nginx_fails_no_request() {
    if !is_installed("nginx") {
        return;
    }
    let (one, other) = (first(&["--drain-delay", "1s"]), second());
    let nginx = nginx(&one, &other);
    let route = nginx.ws(80);
    drain(one, other, route);
}
