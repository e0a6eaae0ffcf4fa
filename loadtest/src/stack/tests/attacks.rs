//! What comes from outside of a connection: forged segments, ICMP errors, packets of no connection.

use super::*;

#[test]
fn only_the_next_sequence_number_resets() {
    let mut bench = Bench::open();
    bench.peer(RST, 1, 0, b"");
    assert_eq!((bench.events(), bench.controls()), (vec![], vec![(ACK, 0, 0)]), "a challenge (RFC 5961 section 3)");
    bench.peer(RST, -1, 0, b"");
    bench.peer(RST, 1 << 20, 0, b"");
    assert_eq!((bench.events(), bench.controls()), (vec![], vec![]), "outside of the window");
    bench.peer(RST, 0, 0, b"");
    assert_eq!((bench.events(), bench.state()), (vec![Event::Failed(Failure::Reset)], State::Closed));
}

#[test]
fn blind_syns_and_acknowledgements_are_challenged_with_a_limit() {
    let mut bench = Bench::open();
    for (control, at, acked) in [(SYN, 0, 0), (SYN, 1 << 20, 0), (ACK, 0, 1), (ACK, 0, -70_000), (ACK, 1 << 20, 0)] {
        bench.peer(control, at, acked, b"");
        assert_eq!(bench.controls(), [(ACK, 0, 0)], "{control} {at} {acked}");
    }
    bench.peer(ACK, 0, 1, b"forged");
    assert_eq!((bench.events(), bench.state()), (vec![], State::Established), "its data is not taken");
    for _ in 0..5_000 {
        bench.peer(SYN, 7, 0, b"");
    }
    let challenges = bench.stack.counters().challenges;
    assert!((500..1_500).contains(&challenges), "{challenges}");
    bench.sent();
    for (at, payload) in [(-1, &b""[..]), (-5, b"again")] {
        bench.peer(ACK, at, 0, payload);
        assert_eq!(bench.controls(), [(ACK, 0, 0)], "keep-alives and old data are answered all the same");
    }
}

fn report(bench: &mut Bench, error: Error, at: u32) {
    let (source, target, seq) = (bench.client, bench.server, bench.base.wrapping_add(at));
    let mut packet = icmp::write(&Report { error, source, target, seq });
    bench.stack.input(&mut packet, bench.now_ns, &mut bench.log);
}

#[test]
fn icmp_errors_end_a_connection_that_opens_and_no_other() {
    for server in 0..2 {
        for (error, failure) in [(Error::Refused, Failure::Refused), (Error::Unreachable, Failure::Unreachable)] {
            let mut bench = Bench::opening(server);
            report(&mut bench, error, 5);
            assert!(bench.events().is_empty(), "about what was never sent");
            report(&mut bench, error, u32::MAX);
            assert_eq!((bench.events(), bench.stack.active()), (vec![Event::Failed(failure)], 0));
        }
    }
    let mut bench = Bench::open();
    bench.send(b"?");
    report(&mut bench, Error::Unreachable, 0);
    assert_eq!((bench.events(), bench.state()), (vec![], State::Established));
}

#[test]
fn a_smaller_path_mtu_makes_smaller_segments() {
    let mut bench = Bench::opening(0);
    bench.window = u16::MAX;
    let head = Head { mss: Some(1460), ..bench.head(SYN | ACK, SERVER_ISS, bench.base) };
    bench.give(&head, b"");
    bench.send(&[1; 2000]);
    assert_eq!(bench.data(), [(0, 1460), (1460, 540)]);
    report(&mut bench, Error::TooBig { mtu: 1040 }, 2000);
    assert!(bench.data().is_empty(), "not in flight");
    report(&mut bench, Error::TooBig { mtu: 1040 }, 0);
    assert_eq!(bench.data(), [(0, 1000), (1000, 1000)]);
    report(&mut bench, Error::TooBig { mtu: 10 }, 0);
    assert_eq!(bench.data()[0], (0, 512), "there is a least");
}

#[test]
fn an_error_with_less_than_ipv6s_least_mtu_is_discarded() {
    let mut bench = Bench::opening(1);
    bench.window = u16::MAX;
    let head = Head { mss: Some(1440), ..bench.head(SYN | ACK, SERVER_ISS, bench.base) };
    bench.give(&head, b"");
    bench.send(&[1; 2000]);
    assert_eq!(bench.data(), [(0, 1440), (1440, 560)]);
    report(&mut bench, Error::TooBig { mtu: 600 }, 0);
    assert!(bench.data().is_empty());
    report(&mut bench, Error::TooBig { mtu: 1280 }, 0);
    assert_eq!(bench.data(), [(0, 1220), (1220, 780)]);
}

#[test]
fn segments_of_no_connection_are_answered_with_a_reset_and_resets_are_not() {
    let mut bench = Bench::open();
    bench.client.set_port(bench.client.port() + 1);
    bench.peer(ACK, 0, 3, b"");
    bench.peer(RST, 0, 0, b"");
    assert_eq!(bench.controls().iter().map(|sent| (sent.0, sent.1)).collect::<Vec<_>>(), [(RST, 3)]);
    bench.client.set_ip(Ipv4Addr::new(198, 20, 0, 0).into());
    bench.peer(ACK, 0, 3, b"");
    assert!(bench.controls().is_empty(), "addresses that are not ours");
    bench.stack.input(&mut [0x45; 10], 0, &mut bench.log);
    assert_eq!((bench.stack.counters().unread, bench.stack.counters().strays), (1, 1));
}

/// The layering, kept by a test: packets and times are arguments.
#[test]
fn the_stack_imports_no_socket_no_ring_no_clock_and_no_transport() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/stack"))];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() > 15);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for word in ["ringio", "socket2", "rustix", "libc", "std::io", "std::os", "std::time", "::driver", "::engine"] {
            let is_use = |line: &&str| line.trim_start().starts_with("use ") && line.contains(word);
            assert_eq!(text.lines().find(is_use), None, "{} is without I/O", file.display());
        }
    }
}

#[test]
fn impossible_stacks_are_refused() {
    let small = Config { mtu: 100, ..config(0) };
    assert_eq!(Stack::new(small).err(), Some(ConfigError::Mtu(100)));
    let many = Config { connections: 1_000_000, ..config(0) };
    assert_eq!(Stack::new(many).err(), Some(ConfigError::Addresses));
}

#[test]
fn random_segments_leave_a_connection_in_order() {
    let mut random = SplitMix(19);
    for round in 0..500 {
        let mut bench = Bench::opening(round % 2);
        let mut events = Vec::new();
        for _ in 0..80 {
            random_step(&mut bench, &mut random);
            bench.sent(); // which reads them all
            events.append(&mut bench.log.0);
        }
        let is_end = |event: &Event| matches!(event, Event::Closed | Event::Failed(_));
        let ends = events.iter().filter(|&event| is_end(event)).count();
        assert!(ends == 0 || (ends == 1 && events.last().is_some_and(is_end)), "{events:?}");
        assert_eq!(ends == 1, bench.state() == State::Closed, "{events:?}");
        bench.stack.abort(0, bench.now_ns);
        assert_eq!((bench.stack.active(), bench.stack.reassembly.used()), (0, 0));
    }
}

/// The server or the transport does something, or time passes. The server's numbers are near those that are right.
fn random_step(bench: &mut Bench, random: &mut SplitMix) {
    let mut below = |bound: u64| random.next() % bound;
    let bytes = [5; 40];
    let is_opening = matches!(bench.state(), State::SynSent | State::SynReceived);
    match below(14) {
        0 => {
            bench.send(&bytes);
        }
        1 if below(4) == 0 => bench.stack.finish(0, bench.now_ns),
        2 if below(4) == 0 && !is_opening => {
            bench.stack.close(0, bench.now_ns);
        }
        3 => bench.stack.pause(0, below(2) == 0, bench.now_ns),
        4 => {
            bench.now_ns += below(5) * 100 * MS;
            bench.stack.advance(bench.now_ns, &mut bench.log);
        }
        5 => bench.answer(if below(8) == 0 { SYN } else { SYN | ACK }),
        6 => bench.window = [0, 1, 1000, 1000][below(4) as usize],
        _ => {
            let control = if below(5) == 0 { below(32) as u8 } else { ACK };
            let deltas = [0, 0, 0, 0, 1, -1, 40, below(200) as i32 - 100];
            let entry = bench.stack.entry(0);
            let next = entry.rcv_nxt.wrapping_sub(SERVER_ISS.wrapping_add(1)) as i32;
            let una = entry.una.wrapping_sub(bench.base) as i32;
            let at = next.wrapping_add(deltas[below(8) as usize]);
            let acked = una.wrapping_add(deltas[below(8) as usize]);
            bench.peer(control, at, acked, &bytes[..below(41) as usize]);
        }
    }
}
