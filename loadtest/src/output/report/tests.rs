//! Results for tests of the code that shows them.

use std::time::Duration;

use super::*;
use crate::sampling::CpuTime;
use crate::series::tests::sample;

/// 100 connections and 1000 echoes in a second: most took 100 µs, ten took 2 ms.
pub(crate) fn report() -> Report {
    let mut latencies = Latencies::default();
    (0..990).for_each(|_| latencies.record(100_000));
    (0..10).for_each(|_| latencies.record(2_000_000));
    let mut tally = Tally { latencies, ..Tally::default() };
    for (counter, count) in [
        (Counter::Attempted, 100),
        (Counter::Settled, 100),
        (Counter::Opened, 100),
        (Counter::Ended, 100),
        (Counter::ClosesSent, 100),
        (Counter::ClosesAnswered, 100),
        (Counter::Sent, 1100),
        (Counter::Echoed, 1100),
        (Counter::MeasuredEchoes, 1000),
    ] {
        tally.counts[counter] = count;
    }
    let scenario = crate::scenario::tests::scenario(100, 10, None);
    let usage = |cores, cpu| Usage {
        cpu: CpuTime { user: Duration::from_secs_f64(cores), system: Duration::ZERO },
        busiest_thread: Duration::from_secs_f64(cores),
        cpus: vec![cpu],
        cores_max: 1,
        others: Duration::ZERO,
        shared_softirqs: Duration::ZERO,
        throttling: None,
    };
    let memory = Memory { rss_bytes: 1 << 20, pss_bytes: Some(1 << 20), anonymous_bytes: 1 << 19 };
    let at = MemoryAt { server: Some(memory), load: memory, kernel: KernelMemory::default() };
    Report::new(Outcome {
        scenario: &scenario,
        target: "ws://127.0.0.1:9001/".to_owned(),
        addresses: vec!["127.0.0.1:9001".to_owned()],
        server_pid: Some(7),
        threads: 1,
        transport: crate::scenario::Transport::Ring,
        machine: Machine::this(),
        started: Duration::from_secs(1_700_000_000),
        ready: tally.counts[Counter::Settled] - tally.counts[Counter::Failed],
        at_first: tally.counts,
        tally,
        connect_time: Duration::from_secs(1),
        connect_cpu: ConnectCpu {
            server: Some(CpuTime { user: Duration::from_micros(500), system: Duration::from_micros(1500) }),
            load: CpuTime { user: Duration::from_micros(200), system: Duration::from_micros(800) },
        },
        measured: Some(Measured {
            time: Duration::from_secs(1),
            echoes: 1000,
            wire_sent_bytes: 22_000,
            wire_received_bytes: 18_000,
            server: Some(usage(0.5, 0)),
            load: usage(0.25, 1),
        }),
        memory: MemoryMarks { before: at, idle: at, at_end: at, open_when_idle: 100 },
        series: vec![sample(1.0, 1000.0, 100), sample(2.0, 900.0, 150)],
        interrupted: false,
        server_end: None,
        stall: Duration::ZERO,
    })
}
