//! Cases that random schedules reach too rarely or cannot judge.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{Driver, Load, Route, Want};
use crate::control::Phase;
use crate::message::Messages;
use crate::scenario::tests::scenario;
use crate::scenario::{Arrivals, OpenLoop, Scenario};
use crate::stats::{Cause, Counter, Tally};
use crate::target::Target;
use crate::target::routes::Routes;
use crate::websocket::handshake::{Extras, UpgradeRequest};

const MS: u64 = 1_000_000;

/// An output that counts what is added.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl super::Output for Bytes {
    fn has_room(&self, _: crate::message::MessageId, _: &Messages) -> bool {
        true
    }

    fn add_message(&mut self, id: crate::message::MessageId, messages: &Messages) -> usize {
        let start = self.0.len();
        self.0.resize(start + messages.size_of(id), 0);
        messages.write_masked(id, 0, [0; 4], &mut self.0[start..]);
        messages.size_of(id)
    }

    fn has_room_for(&self, _: usize) -> bool {
        true
    }

    fn add_frame(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) {
        let start = self.0.len();
        self.0.resize(start + bytes, 0);
        write(&mut self.0[start..]);
    }

    fn add(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        let start = self.0.len();
        self.0.resize(start + 600, 0);
        let written = write(&mut self.0[start..]);
        self.0.truncate(start + written);
    }
}

/// A perfect server that echoes bytes without frames in no time; connections open at once.
fn serve(driver: &mut Driver<'_, ()>, now_ns: u64) {
    serve_some(driver, now_ns, usize::MAX);
}

/// The same, for at most this many wants.
fn serve_some(driver: &mut Driver<'_, ()>, now_ns: u64, most: usize) {
    for _ in 0..most {
        let Some(want) = driver.next_want() else { return };
        match want {
            Want::Connect { key, .. } => driver.connected(key),
            Want::Send { key } => {
                let mut bytes = Bytes::default();
                driver.fill(key, &mut bytes);
                driver.sent(key);
                driver.received(key, &bytes.0, now_ns);
            }
            Want::Release { key } => driver.released(key),
        }
    }
}

fn with_driver(scenario: &Scenario, test: impl FnOnce(Driver<'_, ()>)) {
    with_driver_to(1, scenario, test);
}

/// For a target with this many addresses.
fn with_driver_to(addresses: usize, scenario: &Scenario, test: impl FnOnce(Driver<'_, ()>)) {
    let messages = Messages::new(20, false, true).unframed();
    let target = Target::parse("tcp://127.0.0.1:1", &Routes::default()).unwrap();
    let request = UpgradeRequest::new(&target, &Extras::default(), 1).unwrap();
    let routes = vec![Route { request: &request, addresses: 0..addresses }];
    let part = scenario.divide(1)[0];
    let closing_progress_ns = &AtomicU64::new(0);
    let load = Load { scenario, messages: &messages, routes, part, threads: 1, closing_progress_ns };
    test(Driver::new(load, Tally::default(), 0));
}

#[test]
fn lag_and_latency_are_those_of_the_same_messages() {
    let mut scenario = scenario(1, 1, None);
    (scenario.connect.greet, scenario.traffic.depth) = (false, u32::MAX);
    scenario.traffic.open = Some(OpenLoop { rate: 1000.0, arrivals: Arrivals::Constant });
    with_driver(&scenario, |mut driver| {
        let mut go = |ms: u64, phase| {
            driver.advance(ms * MS, phase);
            serve(&mut driver, ms * MS);
        };
        go(0, Phase::Connect);
        go(10, Phase::WarmUp);
        // The thread was delayed from the warm-up into the measured time: messages that were due earlier do not belong
        // to it.
        go(600, Phase::Measure);
        for ms in 601..900 {
            go(ms, Phase::Measure);
        }
        go(900, Phase::Measure);
        // The same at the end of the measured time.
        go(1000, Phase::Drain);
        go(1001, Phase::Drain);
        let tally = driver.tally();
        assert_eq!(tally.counts[Counter::Echoed], 991, "{:?}", tally.counts);
        assert_eq!(tally.lag.count(), tally.latencies.count());
        assert_eq!(tally.counts[Counter::MeasuredDue], tally.lag.count());
        assert!((400..=401).contains(&tally.lag.count()), "{}", tally.lag.count());
        let (lag, latency) = (tally.lag.max().unwrap(), tally.latencies.max().unwrap());
        assert!(lag <= latency && lag > Duration::from_millis(98) && lag < Duration::from_millis(101), "{lag:?}");
    });
}

#[test]
fn a_plan_opens_and_closes_connections_one_after_the_other() {
    let mut scenario = scenario(40, 0, None);
    scenario.connect.greet = false;
    let stages = [(1000, 40.0), (500, 40.0), (1000, 0.0)];
    let stages = stages.map(|(ms, value)| (Duration::from_millis(ms), value));
    scenario.plan.connections = Some(super::plan::Ramp::new(10.0, &stages));
    with_driver(&scenario, |mut driver| {
        let mut open = Vec::new();
        for ms in 0..3000_u64 {
            let phase = if ms == 0 { Phase::Connect } else { Phase::Measure };
            driver.advance(ms * MS, phase);
            serve(&mut driver, ms * MS);
            open.push(driver.tally().counts.open());
        }
        for (ms, expected) in [(0, 10), (500, 25), (1000, 40), (1500, 40), (2000, 20), (2600, 0), (2999, 0)] {
            assert!(open[ms].abs_diff(expected) <= 2, "{} are open at {ms} ms", open[ms]);
        }
        assert_eq!(driver.tally().counts[Counter::Retired], 40);
    });
}

#[test]
fn attempts_that_never_succeed_are_given_up_after_a_window_of_them() {
    let mut scenario = scenario(1000, 0, None);
    scenario.connect.window = 20;
    with_driver(&scenario, |mut driver| {
        let mut now_ns = 0;
        for _ in 0..10 {
            driver.advance(now_ns, Phase::Connect);
            let mut begun = 0;
            while let Some(want) = driver.next_want() {
                match want {
                    Want::Connect { .. } => begun += 1,
                    Want::Release { key } => driver.released(key),
                    Want::Send { .. } => unreachable!("there is no connection"),
                }
            }
            assert!(begun <= 20);
            now_ns += 1001 * MS;
        }
        let counts = driver.tally().counts;
        assert_eq!((counts[Counter::Failed], counts[Counter::Untried]), (20, 980));
        assert_eq!(driver.upcoming().0, None, "there is nothing left to be done");
    });
}

#[test]
fn an_address_that_does_not_answer_takes_its_part_of_the_time_and_the_next_one_is_tried() {
    let mut scenario = scenario(3, 0, None);
    scenario.connect.greet = false;
    with_driver_to(2, &scenario, |mut driver| {
        // Of two addresses the first does not answer, and the second refuses connection 1.
        let mut connects = Vec::new();
        for ms in (0..=1100).step_by(50) {
            driver.advance(ms * MS, Phase::Connect);
            while let Some(want) = driver.next_want() {
                match want {
                    Want::Connect { key, number, address } => {
                        connects.push((ms, number, address));
                        match (address, number) {
                            (1, 1) => driver.connect_failed(key, Cause::Refused),
                            (1, _) => driver.connected(key),
                            _ => {}
                        }
                    }
                    Want::Release { key } => driver.released(key),
                    Want::Send { .. } => {}
                }
            }
        }
        // Connection 1 begins at the second address; the first address is its last one and gets all of the time left.
        assert_eq!(connects, [(0, 0, 0), (0, 1, 1), (0, 2, 0), (0, 1, 0), (500, 0, 1), (500, 2, 1)]);
        let tally = driver.tally();
        assert_eq!((tally.counts[Counter::Ready], tally.counts[Counter::Failed]), (2, 1), "{:?}", tally.counts);
        assert_eq!(tally.detours[&(Cause::ConnectTimeout, 0)], 2);
        assert_eq!(tally.detours[&(Cause::Refused, 1)], 1);
        assert_eq!(tally.failures[&(Cause::ConnectTimeout, 0)], 1);
        assert!(tally.connects.max().unwrap() >= Duration::from_millis(500), "from the beginning of the attempt");
    });
}

#[test]
fn a_stall_of_this_side_fails_no_attempt_that_the_server_has_answered() {
    let mut scenario = scenario(1, 0, None);
    scenario.connect.greet = false;
    with_driver(&scenario, |mut driver| {
        driver.advance(0, Phase::Connect);
        let Some(Want::Connect { key, .. }) = driver.next_want() else { panic!("there is an attempt") };
        // The thread was delayed for five seconds, while the attempt has one second, before it processes its events.
        driver.advance(5000 * MS, Phase::Connect);
        assert!(driver.upcoming().0.is_some_and(|due_ns| due_ns > 5000 * MS), "it looks first");
        driver.connected(key);
        driver.advance(7000 * MS, Phase::Connect);
        assert_eq!(driver.tally().counts[Counter::Ready], 1, "{:?}", driver.tally().counts);
    });
}

/// The layering: the driver must not import the means of I/O.
#[test]
fn the_driver_imports_no_ring_no_socket_and_no_clock() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/driver");
    let mut files = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/src/session.rs").into()];
    let mut folders = vec![std::path::PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() > 5);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for word in [
            "io_uring",
            "ringio",
            "socket2",
            "rustix",
            "libc",
            "rustls",
            "crate::engine",
            "Instant",
            "std::net",
            "std::os",
        ] {
            let finds = |line: &&str| line.trim_start().starts_with("use ") && line.contains(word);
            let line = text.lines().find(finds);
            assert_eq!(line, None, "{} is above what moves bytes and tells time", file.display());
        }
    }
}

#[test]
fn a_connection_that_has_carried_its_messages_is_opened_again() {
    for (greet, depth) in [(false, 1), (true, 1), (true, 4)] {
        let mut scenario = scenario(2, 2, None);
        (scenario.connect.greet, scenario.traffic.depth) = (greet, depth);
        scenario.upkeep.messages_per_connection = Some(10);
        with_driver(&scenario, |mut driver| {
            for ms in 0..100 {
                driver.advance(ms * MS, if ms == 0 { Phase::Connect } else { Phase::Measure });
                // A server without a clock would keep the loop going for ever: each turn has a limit of wants.
                serve_some(&mut driver, ms * MS, 100);
            }
            let counts = &driver.tally().counts;
            let (opened, recycled) = (counts[Counter::Opened], counts[Counter::Recycled]);
            assert!(
                recycled > 10 && opened >= recycled && opened <= recycled + 2,
                "{opened} opened, {recycled} recycled"
            );
            let each = 10 + u64::from(greet);
            let sent = counts[Counter::Sent];
            assert!(sent <= opened * each && sent + 2 * each >= opened * each, "{sent} on {opened}");
        });
    }
}
