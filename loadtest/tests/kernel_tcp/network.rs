//! A network that loses, repeats, reorders, delays and damages packets.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::bench::{Bench, End, Talk, V4, V6, pattern, within};
use super::link::Roughness;

/// Each has a namespace of its own, and all run at the same time.
const SEEDS: u64 = 8;

const CONNECTIONS: u32 = 6;

/// Bytes of a stream at most.
const STREAM: u64 = 60_000;

fn roughness(seed: u64) -> Roughness {
    // From bad to worse: one packet in 60 is lost, to one in 12.
    Roughness {
        seed,
        loss: [60, 30, 20, 12][seed as usize % 4],
        repetition: 10 + seed,
        damage: 30,
        delay: Duration::from_millis(2 + 4 * seed),
    }
}

/// Connections whose ends send, then close, in different orders.
fn run(seed: u64) {
    let mut bench = Bench::new(CONNECTIONS);
    bench.link.roughen(roughness(seed));
    for key in 0..CONNECTIONS {
        bench.connect(key, [V4, V6][key as usize % 2]);
    }
    // Sockets are accepted in any order: which connection one is of, its first byte says.
    let mut talks: Vec<Talk> = Vec::new();
    let mut sockets = Vec::new();
    let mut streams: Vec<[Vec<u8>; 2]> = Vec::new();
    for key in 0..CONNECTIONS {
        let len = |n: u64| ((seed * 7 + u64::from(key) * 3 + n) * 7919 % STREAM) as usize;
        let first = |kind: u32| [&[key as u8][..], &pattern(key + 10 * kind, len(kind.into()))].concat();
        streams.push([first(1), first(2)]);
        sockets.push(bench.accept([V4, V6][key as usize % 2]));
    }
    bench.until("open", |bench| (0..CONNECTIONS).all(|key| bench.told(key).is_open).then_some(()));
    for key in 0..CONNECTIONS {
        bench.stack.send(key, &[&[key as u8]], bench.now_ns());
    }
    for socket in sockets {
        let key = bench.until("introduced", |_| {
            let mut byte = [0];
            matches!(socket.peek(&mut byte), Ok(1)).then_some(byte[0])
        });
        let mut talk = Talk::new(key.into(), socket);
        [talk.of_client, talk.of_server] = std::mem::take(&mut streams[usize::from(key)]);
        talk.taken = 1;
        talks.push(talk);
    }
    let begun = Instant::now();
    bench.until("over", |bench| {
        for talk in &mut talks {
            if bench.told(talk.key).end.is_none() && talk.send(bench) && may_close(bench, talk, 0) {
                bench.finish(talk.key);
            }
            talk.read();
            if talk.write() && may_close(bench, talk, 1) {
                let _ = talk.socket.shutdown(Shutdown::Write); // it may be already
            }
        }
        talks.iter().all(|talk| talk.has_heard_all && bench.told(talk.key).end.is_some()).then_some(())
    });
    for talk in &talks {
        assert_eq!(bench.told(talk.key).end, Some(End::Closed), "seed {seed}");
        talk.check(&mut bench);
    }
    let counters = *bench.stack.counters();
    eprintln!("seed {seed}: {:?}, {counters:?}", begun.elapsed());
    assert!(
        bench.link.damaged_to_stack > 0 && counters.repeated > 0 && counters.early > 0,
        "a smooth network: {counters:?}"
    );
    assert_eq!((bench.stack.active(), bench.stack.early_bytes()), (0, 0));
}

/// Either side closes first, or both as soon as they have sent what they have.
fn may_close(bench: &mut Bench, talk: &Talk, side: u32) -> bool {
    let other_has = if side == 0 { bench.told(talk.key).has_finished } else { talk.has_heard_all };
    talk.key % 3 == 2 || talk.key % 3 == side || other_has
}

#[test]
fn streams_are_whole_and_no_connection_is_stuck() {
    let threads: Vec<_> = (0..SEEDS).map(|seed| std::thread::spawn(move || within(move || run(seed)))).collect();
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
