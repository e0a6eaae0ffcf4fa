//! The hot parts of the load generator: judging echoes, and the schedule of an open loop.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use instructions::counted;
use ringload::message::Messages;
use ringload::scenario::{Arrivals, OpenLoop};
use ringload::schedule::Schedule;
use ringload::session::{Judging, Session};
use ringload::stats::{Counter, Measuring, Tally};
use ringload::times::SendTimes;

/// A session whose messages are under way, and their echoes.
struct Echoes {
    session: Session,
    messages: Messages,
    times: SendTimes,
    tally: Tally,
    received: Vec<u8>,
}

fn echoes(size: usize, count: u32) -> Echoes {
    let messages = Messages::new(size, false, true);
    let mut times = SendTimes::closed(count);
    let mut tally = Tally { measuring: Measuring::ByArrival, ..Tally::default() };
    let mut session = Session::new(0, &messages);
    let mut received = Vec::new();
    for _ in 0..count {
        let id = session.send(1_000, &messages, &mut times, &mut tally);
        received.push(0x82);
        match size {
            0..126 => received.push(size as u8),
            126..65_536 => {
                received.push(126);
                received.extend((size as u16).to_be_bytes());
            }
            _ => {
                received.push(127);
                received.extend((size as u64).to_be_bytes());
            }
        }
        let payload = received.len();
        received.resize(payload + size, 0);
        messages.write_masked(id, 0, [0; 4], &mut received[payload..]);
    }
    Echoes { session, messages, times, tally, received }
}

#[library_benchmark]
#[bench::one_of_128(args = (128, 1), setup = echoes, config = counted(786))]
#[bench::sixteen_of_128(args = (128, 16), setup = echoes, config = counted(8_371))]
#[bench::one_of_64k(args = (65_536, 1), setup = echoes, config = counted(9_488))]
fn judge(mut echoes: Echoes) -> Echoes {
    let mut judging = Judging {
        now_ns: 51_000,
        messages: &echoes.messages,
        times: &mut echoes.times,
        tally: &mut echoes.tally,
        is_closing: false,
        is_closed: false,
        codecs: None,
        key: 0,
    };
    let signals = echoes.session.receive(black_box(&echoes.received), &mut judging);
    assert!(signals.is_ok() && echoes.tally.counts[Counter::Echoed] > 0);
    echoes
}

/// The messages of an open loop that come due on 1,000 connections, all queued.
fn schedule(arrivals: Arrivals) -> Schedule {
    let open = OpenLoop { rate: 100_000.0, arrivals };
    let mut schedule = Schedule::new(&open, 1_000, 0);
    schedule.begin(0);
    for number in 0..1_000 {
        let index = schedule.start(number, number, f64::from(number) / 1_000.0, 0);
        assert_eq!(index, number);
        schedule.queue(index);
    }
    schedule
}

// 10 ms of it, in turns of 100 µs: some 1,000 messages.
#[library_benchmark]
#[bench::constant(args = (Arrivals::Constant), setup = schedule, config = counted(320_922))]
#[bench::poisson(args = (Arrivals::Poisson), setup = schedule, config = counted(383_823))]
fn open_loop(mut schedule: Schedule) -> Schedule {
    for turn in 1..=100 {
        while let Some(due) = schedule.pop(black_box(turn * 100_000)) {
            schedule.sent(due.key, due.key);
            schedule.queue(due.key);
        }
    }
    schedule
}

library_benchmark_group!(name = hot; benchmarks = judge, open_loop);

main!(library_benchmark_groups = hot);
