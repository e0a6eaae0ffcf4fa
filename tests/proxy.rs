//! Connections that begin with a PROXY protocol header, as load balancers write it.

mod common;

use std::time::Duration;

use common::frames::{FIN, TEXT, close_frame, frame};
use common::peer::{Frame, Peer, UPGRADE};
use common::server::{Server, command};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    [V2_START, &[0x20 | command, family], &(block.len() as u16).to_be_bytes(), block].concat()
}

/// With addresses, and TLVs as AWS and `HAProxy` add them.
fn v2_with_tlvs() -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 1, 187];
    let tlvs = [&[0xea, 0, 4, 1, b'v', b'p', b'c'][..], &[4, 0, 100], &[0; 100]].concat();
    v2(1, 0x11, &[&addresses[..], &tlvs].concat())
}

fn serve(options: &str, arguments: &[&str]) -> Server {
    let listen = format!("127.0.0.1:0?{options}");
    Server::launch(command(&[&["serve", "--listen", &listen], arguments].concat()))
}

#[test]
fn what_follows_a_header_is_served() {
    for (options, headers) in [
        ("proxy=v1", vec![V1.to_vec(), b"PROXY UNKNOWN\r\n".to_vec()]),
        ("proxy=v2", vec![v2_with_tlvs(), v2(0, 0, &[])]),
        ("proxy=any", vec![V1.to_vec(), v2_with_tlvs()]),
    ] {
        let server = serve(options, &[]);
        for header in headers {
            // All at once, with a frame behind the request.
            let mut peer = server.connect();
            peer.send([&header, UPGRADE.as_bytes(), &frame(FIN | TEXT, b"at once")].concat());
            peer.expect_upgrade();
            assert_eq!(peer.read_message(), Frame::new(FIN | TEXT, *b"at once"));
            peer.expect_echo(TEXT, "and later");
            // Byte by byte.
            let mut peer = server.connect();
            for byte in [&header[..], UPGRADE.as_bytes()].concat() {
                peer.send([byte]);
            }
            peer.expect_upgrade();
            peer.expect_echo(TEXT, vec![b'x'; 100_000]);
            // The header by itself, as balancers send it before they know of a request.
            let mut peer = server.connect();
            peer.send(&header);
            peer.await_acknowledgement();
            peer.upgrade();
            peer.expect_echo(TEXT, "hello");
        }
    }
}

#[test]
fn bare_tcp_behind_a_header() {
    let server = serve("proxy=any&protocol=tcp", &[]);
    for header in [V1, &v2_with_tlvs()] {
        let mut peer = server.connect();
        peer.send([header, b"with it"].concat());
        peer.read_exact(&mut [0; 7]);
        let mut peer = server.connect();
        peer.send(header);
        peer.await_acknowledgement();
        peer.send(b"alone");
        peer.shut_down_sending();
        assert_eq!(peer.read_to_end().unwrap(), b"alone");
    }
}

/// The connection log is of clients, not of the balancer.
#[test]
fn the_connection_log_names_the_client() {
    for (options, header, client) in [
        ("proxy=v1", V1.to_vec(), Some("192.0.2.7:56324")),
        ("proxy=v2", v2_with_tlvs(), Some("192.0.2.7:56324")),
        ("proxy=v2", v2(0, 0, &[]), None),
    ] {
        let server = serve(options, &["--log-connections"]);
        let mut peer = server.connect();
        let own = peer.socket().local_addr().expect("bound").to_string();
        peer.send(header);
        peer.upgrade();
        peer.send(close_frame(1000, b""));
        peer.expect_close(1000);
        peer.expect_end();
        server.await_stderr("connection closed");
        let exit = server.stop();
        let line = exit.stderr.lines().find(|line| line.contains("connection closed")).expect("a line");
        assert!(line.contains(client.unwrap_or(&own)), "{line}");
    }
}

/// A balancer that checks whether the port is open, with the header or without.
#[test]
fn connections_that_end_at_once_leave_nothing_behind() {
    let server = serve("proxy=any", &["--max-connections", "2", "--when-full", "wait"]);
    for _ in 0..10 {
        drop(server.connect());
        let mut checked = server.connect();
        checked.send(v2(0, 0, &[]));
        checked.shut_down_sending();
        checked.expect_end();
    }
    let mut peer = server.connect();
    peer.send(V1);
    peer.upgrade();
}

#[test]
fn connections_without_a_header_are_refused() {
    for (options, sent) in [
        ("proxy=v1", UPGRADE.as_bytes()),
        ("proxy=v1", &v2_with_tlvs()),
        ("proxy=v2", V1),
        ("proxy=any", b"PROXY TCP4 nonsense\r\n"),
        ("proxy=any", &v2(1, 0x11, &vec![0; 5000])),
    ] {
        let server = serve(options, &[]);
        let mut peer = server.connect();
        peer.send(sent);
        let answer = peer.read_answer();
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains("PROXY") && answer.body.contains(options), "{answer:?}");
        peer.expect_end();
    }
    let server = serve("proxy=v1&protocol=tcp", &[]);
    let mut peer = server.connect();
    peer.send(b"neither a header nor a request");
    peer.expect_end();
}

/// It belongs to the handshake, and has no more time than that; what was sent of it is no sign of life.
#[test]
fn a_header_has_the_handshakes_time() {
    let server = serve("proxy=any&protocol=tcp", &["--handshake-timeout", "0.5"]);
    let mut silent = server.connect();
    let mut half = server.connect();
    half.send(&V1[..20]);
    let mut whole = server.connect();
    whole.send(V1);
    silent.expect_disconnect();
    half.expect_disconnect();
    std::thread::sleep(Duration::from_millis(100));
    whole.send(b"still here");
    whole.read_exact(&mut [0; 10]);
}

/// Behind a balancer that was told to send it, and a server that was not: the answer says so.
#[test]
fn an_unexpected_header_is_named() {
    let server = Server::start(&[]);
    for header in [V1, &v2_with_tlvs()] {
        let request = [header, UPGRADE.as_bytes()].concat();
        for cut in [1, 7, 14, request.len()] {
            let mut peer = server.connect();
            for piece in request.chunks(cut) {
                if peer.try_send(piece).is_err() {
                    break; // it is refused already
                }
            }
            let answer = peer.read_answer();
            assert!(answer.status == 400 && answer.body.contains("PROXY"), "{answer:?}");
        }
    }
    Peer::open(server.address()).expect_echo(TEXT, "undisturbed");
}
