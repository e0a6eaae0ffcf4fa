//! Every kind of listener, one at a time and mixed.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use common::frames::{BINARY, FIN, TEXT, frame};
use common::peer::{Frame, Peer};
use common::server::{Server, command, engine, limit_descriptors, run_to_end};
use common::{MIB, PATIENCE, eventually, pattern};
use rustix::process::Signal;
use socket2::{Domain, Protocol, Socket, Type};

/// A path that no other test has.
struct TestPath(PathBuf);

impl TestPath {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("ringecho-{name}-{}-{}", engine(), std::process::id()));
        let _ = fs::remove_file(&path);
        Self(path)
    }

    fn listen(&self) -> String {
        format!("unix:{}", self.0.display())
    }
}

impl Drop for TestPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What a peer does with a stream holds for streams of Unix sockets, too.
fn peer_over(stream: UnixStream) -> Peer {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    Peer::over(TcpStream::from(OwnedFd::from(stream)))
}

fn connect(path: &Path) -> Peer {
    peer_over(UnixStream::connect(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

fn open(path: &Path) -> Peer {
    let mut peer = connect(path);
    peer.upgrade();
    peer
}

fn serve(listen: &[&str]) -> Server {
    Server::launch(command(&["serve", "--listen", &listen.join(",")]))
}

/// Small messages, and one that is larger than all buffers, so that receives and sends fall short.
fn exercise(peer: &mut Peer) {
    peer.expect_echo(TEXT, "hello");
    let large = pattern(1, 3 * MIB);
    let sent = frame(FIN | BINARY, &large);
    let echo = peer.while_sending(&sent, Peer::read_message);
    assert!(echo == Frame::new(FIN | BINARY, large), "not the same");
    for number in 0..20 {
        peer.expect_echo(TEXT, format!("message {number}"));
    }
}

#[test]
fn a_socket_file() {
    let path = TestPath::new("file");
    let server = serve(&[&format!("{}?mode=600", path.listen())]);
    assert!(server.start_up_line().contains(&path.listen()), "{}", server.start_up_line());
    let metadata = fs::symlink_metadata(&path.0).expect("it is there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let mut peers: Vec<Peer> = (0..10).map(|_| open(&path.0)).collect();
    peers.iter_mut().for_each(exercise);
    server.signal(Signal::TERM);
    for peer in &mut peers {
        peer.expect_close(1001);
        peer.send(common::frames::close_frame(1001, b""));
        peer.expect_end();
    }
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit}");
    assert!(!path.0.exists(), "the file has outlived its server");
}

/// The end of a peer's input tells of itself, also when it comes together with the last bytes.
#[test]
fn the_end_of_a_unix_peer_is_noticed() {
    let path = TestPath::new("end");
    let _server = serve(&[&format!("{}?protocol=tcp", path.listen())]);
    for _ in 0..20 {
        let mut peer = connect(&path.0);
        peer.send(b"all of it");
        peer.shut_down_sending();
        assert_eq!(peer.read_to_end().expect("an orderly end"), b"all of it");
    }
}

#[test]
fn a_slow_reader_at_a_socket_file_gets_everything() {
    let path = TestPath::new("slow");
    let _server = serve(&[&path.listen()]);
    let mut peer = open(&path.0);
    let message = frame(FIN | BINARY, &pattern(2, 2 * MIB));
    // All of it is sent before anything is read.
    peer.send(&message);
    peer.send(&message);
    for _ in 0..2 {
        assert!(peer.read_message() == Frame::new(FIN | BINARY, pattern(2, 2 * MIB)));
    }
    exercise(&mut peer);
}

#[test]
fn a_file_that_was_left_behind_is_replaced() {
    let path = TestPath::new("stale");
    drop(UnixListener::bind(&path.0).unwrap());
    assert!(path.0.exists(), "the listener has left its file");
    let server = serve(&[&path.listen()]);
    exercise(&mut open(&path.0));
    // Killed, the server leaves it behind itself.
    server.signal(Signal::KILL);
    let _ = server.wait();
    assert!(path.0.exists());
    let _server = serve(&[&path.listen()]);
    exercise(&mut open(&path.0));
}

#[test]
fn a_file_that_is_listened_on_is_left_alone() {
    let path = TestPath::new("live");
    let _server = serve(&[&path.listen()]);
    let exit = run_to_end(command(&["serve", "--listen", &path.listen()]));
    assert_eq!(exit.code, Some(1), "{exit}");
    assert!(exit.stderr.contains("another process listens there") && exit.stderr.contains(&path.listen()), "{exit}");
    exercise(&mut open(&path.0));
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let path = TestPath::new("file-of-another-kind");
    fs::write(&path.0, "precious").unwrap();
    let exit = run_to_end(command(&["serve", "--listen", &path.listen()]));
    assert_eq!(exit.code, Some(1), "{exit}");
    assert!(exit.stderr.contains("no socket"), "{exit}");
    assert_eq!(fs::read_to_string(&path.0).unwrap(), "precious");
}

/// A server that is being replaced must not remove what its successor has put there.
#[test]
fn a_file_of_another_server_is_not_removed() {
    let path = TestPath::new("successor");
    let server = serve(&[&path.listen()]);
    fs::remove_file(&path.0).unwrap();
    let _successor = serve(&[&path.listen()]);
    assert_eq!(server.stop().code, Some(0));
    exercise(&mut open(&path.0));
}

#[test]
fn an_abstract_name() {
    let name = format!("ringecho-test-{}-{}", engine(), std::process::id());
    let server = serve(&[&format!("unix:@{name}")]);
    assert!(server.start_up_line().contains(&format!("unix:@{name}")), "{}", server.start_up_line());
    let stream = UnixStream::connect_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
    let mut peer = peer_over(stream);
    peer.upgrade();
    exercise(&mut peer);
}

/// Of three kinds, of which two speak something else; with fewer slots than listeners, accepts take turns.
#[test]
fn listeners_of_several_kinds() {
    let path = TestPath::new("mixed");
    let unix = format!("{}?protocol=tcp", path.listen());
    for slots in ["2", "100"] {
        let arguments = ["serve", "--workers", "1", "--max-connections", slots, "--when-full", "wait", "--listen"];
        let listen = format!("127.0.0.1:0,{unix},127.0.0.1:0?protocol=tcp");
        let server = Server::launch(command(&[&arguments[..], &[&listen]].concat()));
        for _ in 0..5 {
            exercise(&mut Peer::open(server.addresses()[0]));
            for mut bare in [Peer::connect(server.addresses()[1]), connect(&path.0)] {
                bare.send(b"as it is");
                bare.shut_down_sending();
                assert_eq!(bare.read_to_end().unwrap(), b"as it is");
            }
        }
    }
}

#[test]
fn the_ipv6_wildcard_takes_ipv4_connections() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("NOT TESTED: no IPv6 here");
        return;
    }
    let v4 = |server: &Server| SocketAddr::from((Ipv4Addr::LOCALHOST, server.address().port()));
    let v6 = |server: &Server| SocketAddr::from((Ipv6Addr::LOCALHOST, server.address().port()));
    let server = serve(&["[::]:0"]);
    exercise(&mut Peer::open(v4(&server)));
    exercise(&mut Peer::open(v6(&server)));

    let only = Server::launch(command(&["serve", "--listen", "[::]:0", "--ipv6-only"]));
    exercise(&mut Peer::open(v6(&only)));
    assert!(TcpStream::connect(v4(&only)).is_err(), "IPv4 in spite of --ipv6-only");
}

/// As `0.0.0.0:9001,[::]:9001`, which has always worked.
#[test]
fn both_wildcards_at_one_port() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("NOT TESTED: no IPv6 here");
        return;
    }
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let server = serve(&[&format!("[::]:{port}"), &format!("0.0.0.0:{port}")]);
    assert_eq!(server.addresses().len(), 2);
    exercise(&mut Peer::open(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
    exercise(&mut Peer::open(SocketAddr::from((Ipv6Addr::LOCALHOST, port))));
}

#[test]
fn all_addresses_of_a_name_are_listened_on() {
    let hosts = TestPath::new("hosts");
    fs::write(&hosts.0, "::1 both\n127.0.0.1 both\n127.0.0.2 both\n::1 both\n192.0.2.1 both\n").unwrap();
    let namespace = || {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(&hosts.0);
        command
    };
    if !namespace().arg("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!("NOT TESTED: a mount namespace for /etc/hosts takes root");
        return;
    }
    let serve = command(&["serve", "--listen", "both:0"]);
    let mut inside = namespace();
    inside.arg(serve.get_program()).args(serve.get_args());
    inside.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::launch(inside);
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    assert_eq!(server.addresses().len(), if has_ipv6 { 3 } else { 2 }, "{}", server.start_up_line());
    for &address in server.addresses() {
        assert_eq!(address.port(), server.address().port(), "one port for all");
        exercise(&mut Peer::open(address));
    }
    // The address of another machine is said, and does not keep the server from serving at the others.
    assert!(server.stderr().contains("not listening on 192.0.2.1"), "{}", server.stderr());
}

#[test]
fn localhost_is_listened_on() {
    let server = serve(&["localhost:0"]);
    let mut found = ("localhost", server.address().port()).to_socket_addrs().unwrap();
    let address = found.find(|address| server.addresses().contains(address)).expect("at its address");
    exercise(&mut Peer::open(address));
}

/// Starts a server with sockets from descriptor 3 on, as a service manager does.
fn with_sockets(sockets: Vec<OwnedFd>, listen: &str) -> Command {
    let serve = command(&["serve", "--listen", listen]);
    let mut activated = Command::new("sh");
    activated.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(serve.get_program()).args(serve.get_args());
    activated.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    activated.env("LISTEN_FDS", sockets.len().to_string());
    // SAFETY: between fork and exec only async-signal-safe calls are allowed, and dup2 is a bare system call. The
    // descriptors are high enough not to be overwritten before they are copied.
    unsafe {
        activated.pre_exec(move || {
            for (number, socket) in sockets.iter().enumerate() {
                if libc::dup2(socket.as_raw_fd(), 3 + number as i32) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    activated
}

/// A copy with a high number.
fn high(socket: impl Into<OwnedFd>) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(socket.into(), 100).unwrap()
}

/// They may block or not: service managers differ.
#[test]
fn sockets_of_the_service_manager() {
    let path = TestPath::new("systemd");
    for nonblocking in [false, true] {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let _ = fs::remove_file(&path.0);
        let unix = UnixListener::bind(&path.0).unwrap();
        tcp.set_nonblocking(nonblocking).unwrap();
        unix.set_nonblocking(nonblocking).unwrap();
        // A client that has come before the server.
        let mut early = Peer::connect(address);
        early.send(common::peer::UPGRADE);
        let server = Server::launch(with_sockets(vec![high(tcp), high(unix)], "systemd"));
        assert_eq!(server.addresses(), [address], "{}", server.start_up_line());
        early.expect_upgrade();
        exercise(&mut early);
        exercise(&mut Peer::open(address));
        exercise(&mut open(&path.0));
        drop(early);
        assert_eq!(server.stop().code, Some(0));
        assert!(path.0.exists(), "the file is the service manager's");
    }
}

/// A restart under socket activation: the client waits for the next server.
#[test]
fn clients_that_wait_at_a_socket_of_the_service_manager_outlive_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut activated = with_sockets(vec![high(listener.try_clone().unwrap())], "systemd");
    activated.envs([("RINGECHO_WORKERS", "1"), ("RINGECHO_MAX_CONNECTIONS", "1"), ("RINGECHO_WHEN_FULL", "wait")]);
    let server = Server::launch(activated);
    let mut inside = Peer::open(address);
    let waiting = Peer::connect(address);
    server.signal(Signal::TERM);
    inside.expect_close(1001);
    inside.send(common::frames::close_frame(1001, b""));
    inside.expect_end();
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit}");
    listener.set_nonblocking(true).unwrap();
    let (_, client) = listener.accept().expect("the client still waits");
    assert_eq!(client, waiting.socket().local_addr().unwrap());
}

/// MPTCP sockets (`SocketProtocol=mptcp` of a unit) do not say after a receive whether they hold more.
#[test]
fn multipath_tcp_of_the_service_manager() {
    let Ok(listener) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) else { return };
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    let _server = Server::launch(with_sockets(vec![high(listener)], "systemd"));
    let client = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).unwrap();
    client.connect(&address).unwrap();
    let mut peer = Peer::over(TcpStream::from(client));
    peer.send(common::peer::UPGRADE);
    peer.expect_upgrade();
    for size in [10, 100_000, MIB] {
        peer.expect_echo(BINARY, pattern(1, size));
    }
}

#[test]
fn without_sockets_of_a_service_manager_it_says_so() {
    let exit = run_to_end(command(&["serve", "--listen", "systemd"]));
    assert_eq!(exit.code, Some(1), "{exit}");
    assert!(exit.stderr.contains("LISTEN_FDS"), "{exit}");
    let connected = UnixStream::pair().unwrap().0;
    let exit = run_to_end(with_sockets(vec![high(connected)], "systemd"));
    assert!(exit.code == Some(1) && exit.stderr.contains("descriptor 3"), "{exit}");
}

#[test]
fn a_tiny_descriptor_limit_is_named() {
    let mut command = command(&["serve", "--listen", "127.0.0.1:0"]);
    limit_descriptors(&mut command, 64);
    let exit = run_to_end(command);
    assert_eq!(exit.code, Some(2), "{exit}");
    assert!(exit.stderr.contains("RLIMIT_NOFILE is 64") && !exit.stderr.contains("--max-connections"), "{exit}");
}

/// A peer that vanishes with its echo unread: its socket resets where TCP's would.
#[test]
fn unix_peers_that_vanish_leave_nothing_behind() {
    let path = TestPath::new("vanish");
    let server = Server::launch(command(&[
        "serve",
        "--max-connections",
        "4",
        "--when-full",
        "wait",
        "--listen",
        &path.listen(),
    ]));
    for _ in 0..50 {
        let mut stream = UnixStream::connect(&path.0).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(common::peer::UPGRADE.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        let _ = stream.write_all(&frame(FIN | TEXT, b"never read"));
    }
    eventually("a place is free", || {
        let mut peer = open(&path.0);
        peer.expect_echo(TEXT, "still here");
        true
    });
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code, Some(0));
}
