//! `--stack user`: ringload's own TCP over TUN devices, against the kernel's, in network namespaces of which nothing is left.

mod runner;
mod server;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Barrier, mpsc};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use runner::{PATIENCE, Running, check_schema, ringload, run, run_any, run_to_end, run_whole};
use server::{Behaviour, FAULTS, start_on};

const USER: [&str; 2] = ["--stack", "user"];

/// The first device's own address, at which a server that listens on all addresses can be reached.
const OWN: &str = "198.19.0.1";

/// Why this cannot be tried here, if it cannot. Where it is known that it can, as in CI, that is a failure.
fn obstacle() -> Option<String> {
    let tried = std::thread::spawn(|| {
        enter_a_namespace().map_err(|error| format!("no network namespace can be had here: {error}"))?;
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        device.map_err(|error| format!("/dev/net/tun cannot be opened here: {error}"))?;
        let tool = Command::new("ip").arg("-V").output();
        tool.map(drop).map_err(|error| format!("there is no `ip` of iproute2 here: {error}"))
    });
    let obstacle = tried.join().expect("it only tries").err();
    if let Some(obstacle) = &obstacle {
        skip(obstacle);
    }
    obstacle
}

/// Says why something is not tried. Fails where it has to be.
fn skip(obstacle: &str) {
    assert!(std::env::var_os("RINGLOAD_NEEDS_NAMESPACES").is_none(), "{obstacle}");
    eprintln!("SKIPPED: {obstacle}");
}

fn enter_a_namespace() -> rustix::io::Result<()> {
    // SAFETY: descriptors stay shared: it is this thread's view of the network that changes.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// Does it on a thread in a network namespace, with a server that behaves so.
fn with_server(behaviour: Behaviour, test: impl FnOnce(SocketAddr) + Send + 'static) {
    with_server_at(OWN, behaviour, test);
}

/// The same with a server of that address's family.
fn with_server_at(own: &'static str, behaviour: Behaviour, test: impl FnOnce(SocketAddr) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        enter_a_namespace().expect("it was tried");
        ip("link set lo up");
        let own: IpAddr = own.parse().expect("an address");
        let port = start_on(if own.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }, behaviour).port();
        test(SocketAddr::new(own, port));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_thousand_connections_echo_and_close_in_order() {
    if obstacle().is_some() {
        return;
    }
    for clients in ["198.19.0.0/16", "fd19::/64"] {
        let load = ["-c", "1000", "-t", "500ms", "--warmup", "0", "--threads", "2", "--close-timeout", "30"];
        let outcome = run_whole(&[&USER[..], &["--clients", clients], &load].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert_eq!(outcome.number("/connections/opened"), 1000);
        assert_eq!(outcome.number("/connections/closes_answered"), 1000, "{}", outcome.output);
        assert!(outcome.number("/measured/echoes") > 1000, "{}", outcome.output);
        assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
        let run = &outcome.json["runs"][0];
        assert_eq!((run["stack"].as_str(), run["transport"].as_str()), (Some("user"), Some("tun")));
        assert!(outcome.output.contains("over a TCP of its own"), "{}", outcome.output);
        assert!(outcome.output.contains("ringload's own: "), "{}", outcome.output);
        assert!(run["segments"]["repeated"].is_u64(), "{run}");
        // The server's settings, and not those of the namespace that this process is in.
        assert_eq!(run["machine"]["sysctls"]["net.core.somaxconn"].as_str(), Some("65535"), "{run}");
        check_schema(&outcome.json);
        // All are the server's sockets: this side has none.
        let sockets = outcome.number("/memory/idle/kernel/tcp_sockets");
        assert!((1000..1100).contains(&sockets), "{sockets}");
    }
}

/// The server closes first, and remembers a connection's addresses and ports for a minute. A SYN that has them again would be
/// answered with an acknowledgement of the old connection, which would count as a stray, and every other one would come too late.
#[test]
fn a_second_run_does_not_meet_the_connections_of_the_first() {
    if obstacle().is_some() {
        return;
    }
    with_server(Behaviour::Echo, |address| {
        for run_before in [false, true] {
            let sockets = fs::read_to_string("/proc/thread-self/net/tcp").expect("the server's sockets");
            let is_waiting = |line: &&str| line.split_whitespace().nth(3) == Some("06");
            assert_eq!(sockets.lines().filter(is_waiting).count() > 50, run_before, "{sockets}");
            let outcome = run(address, &[&USER[..], &["-c", "100"]].concat());
            assert_eq!(outcome.code, Some(0), "{}", outcome.output);
            assert_eq!(outcome.number("/connections/opened"), 100, "{}", outcome.output);
            assert_eq!(outcome.number("/runs/0/segments/strays"), 0, "{}", outcome.output);
        }
    });
}

/// Three times as many as a process may have descriptors on a usual machine: this side has no sockets, and each of the
/// server's workers has a table of its own.
#[test]
fn sixty_four_thousand_connections_open_echo_and_close_in_order() {
    const CONNECTIONS: u64 = 64_000;
    if obstacle().is_some() {
        return;
    }
    let load = ["-c", "64000", "--active", "1%", "-t", "1s", "--warmup", "0", "--threads", "2"];
    let times = ["--connect-timeout", "120", "--drain-timeout", "60", "--close-timeout", "120"];
    let outcome = run_whole(&[&USER[..], &load, &times].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    let number = |name| outcome.number(name);
    assert_eq!((number("/connections/opened"), number("/connections/failed")), (CONNECTIONS, 0), "{}", outcome.output);
    assert_eq!(number("/connections/closes_answered"), CONNECTIONS, "{}", outcome.output);
    // Each has its greeting back, and those that are active echo.
    assert!(number("/messages/echoed") > CONNECTIONS, "{}", outcome.output);
    assert_eq!(number("/messages/sent"), number("/messages/echoed"), "{}", outcome.output);
    assert!(number("/measured/echoes") > 0, "{}", outcome.output);
}

#[test]
fn good_echoes_of_all_sizes_and_depths_are_good() {
    if obstacle().is_some() {
        return;
    }
    for args in [
        &["--size", "0"][..],
        &["--size", "1-300", "--depth", "5"],
        &["--size", "65536", "--text"],
        &["--size", "3000000", "--depth", "3"],
        &["--no-greet", "--active", "50%"],
        &["--rate", "1000", "--arrivals", "poisson"],
        &["--messages", "1000", "--duration", "20", "--threads", "2"],
        &["--deflate", "--size", "20000"],
        &["--no-offloads", "--size", "1-300000", "--depth", "2"],
        &["--tcp", "--size", "5000"],
    ] {
        // Of its own namespace with packets of 64 KiB, and of another one with those of Ethernet.
        let check = move |outcome: runner::Outcome| {
            assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.output);
            assert_eq!(outcome.number("/connections/opened"), 4);
            assert!(outcome.number("/measured/echoes") > 0, "{args:?}: {}", outcome.output);
            assert_eq!(outcome.number("/messages/sent"), outcome.number("/messages/echoed"));
        };
        check(run_any(&[&USER[..], args].concat()));
        if !args.contains(&"--tcp") {
            with_server(Behaviour::Echo, move |address| check(run(address, &[&USER[..], args].concat())));
        }
    }
}

/// Bytes and packets that went to the stack through a device, and those from it.
fn passed(device: &str) -> [(u64, u64); 2] {
    let devices = fs::read_to_string("/proc/thread-self/net/dev").expect("devices");
    let line = devices.lines().find_map(|line| line.trim().strip_prefix(device)).expect("the device");
    let numbers: Vec<u64> = line.split_ascii_whitespace().map(|it| it.parse().expect("a number")).collect();
    [(numbers[8], numbers[9]), (numbers[0], numbers[1])]
}

/// Packets of an Ethernet's length, or of many segments each, in both directions.
#[test]
fn large_messages_are_divided_by_the_device_if_it_can() {
    if obstacle().is_some() {
        return;
    }
    for (own, clients) in [(OWN, "198.19.0.0/16"), ("fd19::1", "fd19::/64")] {
        with_server_at(own, Behaviour::Echo, move |address| {
            ip("tuntap add trial0 mode tun");
            ip(&format!("addr add {own}/{} dev trial0", clients.split_once('/').expect("a prefix").1));
            ip("link set trial0 up");
            for (more, is_long) in [(&[][..], true), (&["--no-offloads"], false), (&[], true)] {
                let before = passed("trial0:");
                let load = ["--tun", "trial", "--threads", "1", "--clients", clients, "--size", "1000000"];
                let outcome =
                    run(address, &[&USER[..], &load, &["--messages", "40", "--duration", "60"], more].concat());
                assert_eq!(outcome.code, Some(0), "{}", outcome.output);
                assert_eq!(outcome.number("/measured/echoes"), 40, "{}", outcome.output);
                let after = passed("trial0:");
                for (before, after) in before.into_iter().zip(after) {
                    let (bytes, packets) = (after.0 - before.0, after.1 - before.1);
                    assert!(bytes > 40_000_000, "{bytes} bytes");
                    assert_eq!(bytes / packets > 1500, is_long, "{more:?}: {bytes} bytes in {packets} packets");
                }
            }
        });
    }
}

/// Neighbours know each other from the start: IPv6 could ask for them only when the kernel has come to give the new devices
/// addresses for that, and would have given up before on a busy machine.
const ROUTER_MAC: &str = "02:00:00:00:00:01";
const SERVER_MAC: &str = "02:00:00:00:00:02";

/// A server elsewhere, as docs/LOADTEST.md has it: this namespace is the router between its network and the clients' block.
fn reach_a_server_by_way_of_this_namespace(
    own: &'static str,
    clients: &str,
    [server, router]: [&str; 2],
    setting: &str,
) {
    let clients = clients.to_owned();
    let [server, router] = [server, router].map(|address| address.parse::<IpAddr>().expect("an address"));
    let (prefix, nodad) = if server.is_ipv4() { (24, "") } else { (64, " nodad") };
    let setting = format!("/proc/sys/net/{setting}");
    with_server_at(own, Behaviour::Echo, move |at| {
        let server_namespace =
            format!("/proc/{}/task/{}/ns/net", std::process::id(), rustix::thread::gettid().as_raw_nonzero());
        let step = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                enter_a_namespace().expect("it was tried");
                ip(&format!("link add veth1 address {ROUTER_MAC} type veth peer name veth0 address {SERVER_MAC}"));
                ip(&format!("link set veth0 netns {server_namespace}"));
                ip(&format!("addr add {router}/{prefix} dev veth1{nodad}"));
                ip("link set veth1 up");
                ip(&format!("neigh add {server} lladdr {SERVER_MAC} dev veth1 nud permanent"));
                fs::write(&setting, "1").expect("a namespace of our own");
                step.wait();
                step.wait();
                for load in [&["-c", "100"][..], &["-s", "300000"]] {
                    let address = SocketAddr::new(server, at.port());
                    let outcome = run(address, &[&USER[..], &["--clients", &clients], load].concat());
                    assert_eq!(outcome.code, Some(0), "{load:?}: {}", outcome.output);
                    assert!(outcome.number("/measured/echoes") > 0, "{load:?}: {}", outcome.output);
                }
            });
            step.wait();
            ip(&format!("addr add {server}/{prefix} dev veth0{nodad}"));
            ip("link set veth0 up");
            ip(&format!("neigh add {router} lladdr {ROUTER_MAC} dev veth0 nud permanent"));
            ip(&format!("route add {clients} via {router}"));
            step.wait();
        });
    });
}

#[test]
fn a_server_in_another_network_is_reached_by_way_of_this_one() {
    if obstacle().is_some() {
        return;
    }
    let ends = ["10.9.0.1", "10.9.0.2"];
    reach_a_server_by_way_of_this_namespace(OWN, "198.19.0.0/16", ends, "ipv4/ip_forward");
    let ends = ["fd09::1", "fd09::2"];
    reach_a_server_by_way_of_this_namespace("fd19::1", "fd19::/64", ends, "ipv6/conf/all/forwarding");
}

#[test]
fn faults_are_seen() {
    if obstacle().is_some() {
        return;
    }
    for (behaviour, fault) in FAULTS {
        with_server(behaviour, move |address| {
            let outcome = run(address, &[&USER[..], &["--depth", "2"]].concat());
            assert_eq!(outcome.code, Some(1), "{behaviour:?}: {}", outcome.output);
            assert!(outcome.number(fault) > 0, "{behaviour:?}: {}", outcome.output);
        });
    }
}

#[test]
fn a_refusal_a_reset_and_silence_are_what_they_are_called() {
    if obstacle().is_some() {
        return;
    }
    with_server(Behaviour::ResetBehindClose, |mut address| {
        let outcome = run(address, &USER);
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert_eq!(outcome.number("/connections/closes_answered"), 4, "{}", outcome.output);
        address.set_port(1);
        assert_eq!(run(address, &USER).failures(), [("connection refused".to_owned(), 4)]);
        // An address that is routed to the device, where no client has it.
        let outcome = run("198.19.0.0:1".parse().unwrap(), &[&USER[..], &["--connect-timeout", "300ms"]].concat());
        assert_eq!(outcome.code, Some(1), "{}", outcome.output);
        assert_eq!(outcome.failures(), [("connect timed out".to_owned(), 4)]);
        assert!(outcome.output.contains("net.ipv4.ip_forward"), "{}", outcome.output);
    });
}

/// A name that has addresses of both families, as most have.
#[test]
fn addresses_of_another_family_than_the_clients_are_not_used() {
    if obstacle().is_some() {
        return;
    }
    with_server(Behaviour::Echo, |address| {
        let url = format!("ws://both.example:{}/", address.port());
        let route = format!("both.example:{}:fd01::1,{OWN}", address.port());
        let outcome = run_any(&[&USER[..], &[url.as_str(), "--resolve", route.as_str()]].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert_eq!(outcome.number("/connections/opened"), 4, "{}", outcome.output);
        assert_eq!(outcome.json["connections"]["detours"].as_array().map(Vec::len), Some(0), "{}", outcome.json);
    });
}

#[test]
fn churn_pings_and_slow_readers_are_possible() {
    if obstacle().is_some() {
        return;
    }
    with_server(Behaviour::Echo, |address| {
        let args =
            ["-c", "8", "--slow-readers", "2", "--reconnect-every", "0.02", "--ping-every", "0.05", "--duration", "1"];
        let outcome = run(address, &[&USER[..], &args].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert!(outcome.number("/connections/recycled") >= 5, "{}", outcome.output);
        assert!(outcome.number("/messages/slow_sent") > 100, "{}", outcome.output);
        assert_eq!(outcome.number("/messages/pings_sent"), outcome.number("/messages/pongs"), "{}", outcome.output);
        assert_eq!(outcome.number("/messages/lost"), 0, "{}", outcome.output);
    });
}

#[test]
fn stages_and_searches_are_possible() {
    if obstacle().is_some() {
        return;
    }
    with_server(Behaviour::Echo, |address| {
        let url = format!("ws://{address}/");
        let in_stages = |args: &[&str]| {
            let outcome = run_whole(&[&USER[..], &[url.as_str()], args].concat());
            assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.output);
            assert_eq!(outcome.number("/messages/lost"), 0, "{}", outcome.output);
            outcome
        };
        // 150 on the way up and on the way down, beside the greetings of four connections.
        let outcome = in_stages(&["--stages", "300ms:1000, 300ms:0"]);
        let due = outcome.number("/messages/sent") + outcome.number("/messages/unsent") - 4;
        assert!((290..=310).contains(&due), "{due}: {}", outcome.output);
        let outcome = in_stages(&["-c", "2", "--connection-stages", "300ms:40, 300ms:40, 300ms:5"]);
        assert!(outcome.number("/connections/opened") > 2, "{}", outcome.output);
        assert!(outcome.number("/connections/retired") > 0, "{}", outcome.output);

        let search = ["run", &url, "-c", "4", "--find-max-rate=4000", "--duration", "0.3", "--warmup", "0"];
        let output = ringload(&[&search[..], &USER].concat());
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("1,000 messages/s") && said.contains("holds"), "{said}");
    });
}

/// TLS to a server that is started by a command.
#[test]
fn tls_goes_through_it() {
    if obstacle().is_some() {
        return;
    }
    with_server(Behaviour::Echo, |address| {
        let port = address.port() ^ 1;
        let command = format!("{} serve --listen tls:0.0.0.0:{port}", env!("CARGO_BIN_EXE_ringload"));
        let url = format!("wss://{OWN}:{port}/");
        for size in ["100", "300000"] {
            let load = [url.as_str(), "--insecure", "--server-cmd", command.as_str(), "--size", size];
            let outcome = run_any(&[&USER[..], &load].concat());
            assert_eq!(outcome.code, Some(0), "{}", outcome.output);
            assert!(outcome.number("/measured/echoes") > 0, "{}", outcome.output);
        }
    });
}

/// The run gives up waiting for Closes, and closes connections that nobody has ended.
#[test]
fn what_an_early_end_cuts_off_is_lost() {
    if obstacle().is_some() {
        return;
    }
    with_server(Behaviour::Unmoved, |address| {
        let url = format!("ws://{address}/");
        let load = ["run", "--stack", "user", &url, "-c", "10", "-t", "60s", "--warmup", "0", "--no-greet"];
        let mut running = Running::start(&[&load[..], &["--drain-timeout", "60s", "--close-timeout", "60s"]].concat());
        running.wait_for("measure");
        running.signal(Signal::INT);
        let (code, text) = running.end();
        assert_eq!(code, Some(130), "{text}");
        assert!(text.contains("10 lost"), "{text}");
    });
}

/// What the kernel tells of the devices of this thread's namespace (rtnetlink(7)).
struct Devices(OwnedFd);

impl Devices {
    fn watch() -> Self {
        let (kind, route) = (SocketType::RAW, None);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, route);
        let socket = socket.expect("a socket");
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, libc::RTMGRP_LINK as u32)).expect("a socket");
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).expect("a socket");
        Self(socket)
    }

    fn wait_until_gone(&self, name: &str) {
        while has_device(name) {
            // What has changed does not matter, nor does it if there was more than the socket has room for.
            let changed = rustix::net::recv(&self.0, &mut [0; 1 << 13][..], RecvFlags::empty());
            assert!(matches!(changed, Ok(_) | Err(Errno::NOBUFS)), "{name} is not gone: {changed:?}");
        }
    }
}

fn has_device(name: &str) -> bool {
    fs::read_to_string("/proc/thread-self/net/dev").expect("devices").contains(&format!("{name}:"))
}

/// Does it on a thread in the network namespace of a process.
fn in_namespace_of(process: &str, act: impl FnOnce() + Send) {
    let namespace = File::open(format!("/proc/{process}/ns/net")).expect("its namespace");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            entered.expect("its namespace");
            act();
        });
    });
}

/// A namespace lasts as long as there are sockets in it. The server is told to end, and drains; the kernel sends what is left of its
/// connections again and again, without a device to send it to, for 102 s by default. Neither has to be waited for here.
#[test]
fn nothing_is_left_of_a_run_that_was_killed() {
    if obstacle().is_some() {
        return;
    }
    let load = ["run", "--stack", "user", "-c", "10", "-t", "60s", "--warmup", "0"];
    with_server(Behaviour::Echo, move |address| {
        let devices = Devices::watch();
        let mut running = Running::start(&[&load[..], &["--server-args", "--drain-timeout 0"]].concat());
        running.wait_for("measure");
        let pid = running.pid().to_string();
        let server = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
        let server = server.trim();
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).expect("its namespace");
        assert_eq!(namespace("thread-self"), namespace(&pid), "ringload itself stays where it was");
        assert_ne!(namespace("thread-self"), namespace(server));
        in_namespace_of(server, || {
            fs::write("/proc/sys/net/ipv4/tcp_orphan_retries", "1").expect("a setting of its own");
        });
        // The kernel removes both ends of a pair when the namespace of one of them is gone.
        ip("link add witness0 type veth peer name witness1");
        ip(&format!("link set witness1 netns {server}"));
        assert!(has_device("witness0"));
        running.signal(Signal::KILL);
        assert_eq!(running.end().0, None);
        devices.wait_until_gone("witness0");

        let url = format!("ws://{address}/");
        let mut running = Running::start(&[&load[..], &["--tun", "trial", url.as_str()]].concat());
        running.wait_for("measure");
        assert!(has_device("trial0"));
        running.signal(Signal::KILL);
        assert_eq!(running.end().0, None);
        devices.wait_until_gone("trial0");
    });
}

/// Whether another user, without rights, may run programs of this directory and open `/dev/net/tun`; if not, that is said. Where it
/// is known that one may, as in CI, it is a failure if not.
fn has_others() -> bool {
    let program = env!("CARGO_BIN_EXE_ringload");
    let can_run = || Command::new(program).uid(OTHER).gid(OTHER).arg("--version").output();
    // udev's rules give it 0666; without udev it can be the administrator's alone.
    let is_open = |file: fs::Metadata| file.permissions().mode() & 0o006 == 0o006;
    let obstacle = if !rustix::process::geteuid().is_root() {
        "only root can be another user".to_owned()
    } else if !fs::metadata("/dev/net/tun").is_ok_and(is_open) {
        "another user may not open /dev/net/tun here".to_owned()
    } else if !can_run().is_ok_and(|output| output.status.success()) {
        format!("another user may not run {program} here")
    } else {
        return true;
    };
    skip(&obstacle);
    false
}

/// The user that owns nothing (`nobody`).
const OTHER: u32 = 65_534;

#[test]
fn a_device_that_was_prepared_needs_no_rights() {
    if obstacle().is_some() || !has_others() {
        return;
    }
    with_server(Behaviour::Echo, |address| {
        ip(&format!("tuntap add trial0 mode tun user {OTHER}"));
        ip("addr add 198.19.0.1/16 dev trial0");
        ip("link set trial0 up");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringload"));
        command.args(["run", "--stack", "user", "--tun", "trial", "--threads", "1", &format!("ws://{address}/")]);
        command.args(["-c", "10", "--messages", "100", "--warmup", "0"]).uid(OTHER).gid(OTHER);
        let output = run_to_end(&mut command);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("ok: 10 connections held"), "{said}");
    });
}

#[test]
fn what_is_missing_is_said() {
    if obstacle().is_none() {
        with_server(Behaviour::Echo, |_| {
            for (address, word) in
                [("127.0.0.1:9", "loopback"), ("0.0.0.0:9", "all addresses"), ("[fd01::1]:9", "--clients")]
            {
                let outcome = run(address.parse().unwrap(), &USER);
                assert_eq!(outcome.code, Some(2), "{}", outcome.output);
                assert!(outcome.output.contains(word), "{}", outcome.output);
            }
            let few = ["--clients", "10.0.0.0/30", "--threads", "2"];
            let outcome = run("10.0.0.1:9".parse().unwrap(), &[&USER[..], &few].concat());
            assert_eq!(outcome.code, Some(2), "{}", outcome.output);
            assert!(outcome.output.contains("--clients 10.0.0.0/30 cannot be divided"), "{}", outcome.output);
        });
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringload"));
    command.args(["run", "--stack", "user", "-c", "4"]);
    if rustix::process::geteuid().is_root() {
        if !has_others() {
            return;
        }
        command.uid(OTHER).gid(OTHER);
    }
    let output = run_to_end(&mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("CAP_NET_ADMIN") && said.contains("unshare --user"), "{said}");
}

/// A TUN device of this thread's namespace, with this address of its network of 256, and an Ethernet's MTU.
fn device(address: &str) -> Arc<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("it was tried");
    // SAFETY: all-zero bytes are valid: characters, and a union of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"relay") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes the request, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    ip(&format!("addr add {address}/24 dev relay"));
    ip("link set relay up");
    Arc::new(file)
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2");
    assert!(status.success(), "ip {arguments}");
}

/// Hands on packets from one device to another. One in a hundred is lost, as many come twice, late, or with a bit changed.
fn relay(from: &Arc<File>, to: &Arc<File>, mut seed: u64) {
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        let mut late: Option<Vec<u8>> = None;
        while let Ok(count) = (&*from).read(&mut buffer) {
            let packet = &mut buffer[..count];
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut copies = 1;
            match (seed >> 33) % 100 {
                0 => copies = 0,
                1 => copies = 2,
                2 if late.is_none() => (late, copies) = (Some(packet.to_vec()), 0),
                3 => packet[(seed >> 50) as usize % count] ^= 1,
                _ => {}
            }
            for _ in 0..copies {
                // One that cannot be written is lost, too.
                let _ = (&*to).write(packet);
            }
            if copies > 0
                && let Some(late) = late.take()
            {
                let _ = (&*to).write(&late);
            }
        }
    });
}

/// A server elsewhere: in another namespace, to which this one is the router, over a network that does what networks do.
#[test]
fn streams_are_whole_over_a_network_that_is_not() {
    if obstacle().is_some() {
        return;
    }
    let (sender, receiver) = mpsc::channel();
    let server = std::thread::spawn(move || {
        enter_a_namespace().expect("it was tried");
        let device = device("10.19.0.2");
        ip("route add 198.19.0.0/16 via 10.19.0.1");
        sender.send((device, start_on("10.19.0.2:0", Behaviour::Echo))).expect("it is waited for");
    });
    server.join().expect("a server");
    let (far, address) = receiver.recv().expect("a server");
    let load = std::thread::spawn(move || {
        enter_a_namespace().expect("it was tried");
        let near = device("10.19.0.1");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a router");
        relay(&near, &far, 1);
        relay(&far, &near, 2);
        let load = ["-c", "40", "--size", "1-6000", "--depth", "3", "--messages", "4000", "--duration", "120"];
        let times = ["--connect-timeout", "60", "--drain-timeout", "60", "--close-timeout", "60"];
        let outcome = run(address, &[&USER[..], &load, &times].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert_eq!(outcome.number("/measured/echoes"), 4000, "{}", outcome.output);
        assert_eq!(outcome.number("/connections/closes_answered"), 40, "{}", outcome.output);
    });
    if let Err(panic) = load.join() {
        std::panic::resume_unwind(panic);
    }
}
