//! The opening handshake as browsers send it, beside tungstenite's over memory.

use std::{
    hint::black_box,
    io::{self, Read, Write},
    time::Duration,
};

use criterion::{Criterion, criterion_group, criterion_main};
use ringecho::protocol::{Phase, Session, Shared};

mod frames;

use frames::REQUEST;

/// A socket that has received a request and takes the answer.
struct Wire {
    received: &'static [u8],
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.received.read(buf)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(black_box(buf).len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);

    let mut shared = Shared::default();
    let mut buf = vec![0; REQUEST.len()];
    for (name, pieces) in [("ringecho", 1), ("ringecho_in_two_pieces", 2), ("ringecho_byte_by_byte", REQUEST.len())] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                buf.copy_from_slice(black_box(REQUEST));
                let mut session = Session::new(&shared.settings);
                for piece in buf.chunks_mut(REQUEST.len().div_ceil(pieces)) {
                    let _ = black_box(session.receive(&mut shared, piece));
                }
                assert_eq!(session.phase(), Phase::Open);
            });
        });
    }
    group.bench_function("tungstenite", |bencher| {
        bencher.iter(|| tungstenite::accept(Wire { received: black_box(REQUEST) }).unwrap());
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
