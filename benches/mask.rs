//! Unmasking per payload size: in place, while moving, and as tungstenite does it.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringecho::protocol::mask;

const KEY: mask::MaskingKey = [0x37, 0xfa, 0x21, 0x3d];
/// How far the second of two 128-byte frames moves down: one masking key.
const GAP: usize = 4;

/// tungstenite 0.30's `apply_mask_fast32`, which it does not export.
fn apply_mask_fast32(payload: &mut [u8], mask: [u8; 4]) {
    let bytewise = |bytes: &mut [u8], mask: [u8; 4]| {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= mask[i & 3];
        }
    };
    // SAFETY: every bit pattern is a valid `u32`.
    let (prefix, words, suffix) = unsafe { payload.align_to_mut::<u32>() };
    bytewise(prefix, mask);
    let mask = u32::from_ne_bytes(mask).rotate_right(8 * (prefix.len() as u32 & 3));
    for word in words {
        *word ^= mask;
    }
    bytewise(suffix, mask.to_ne_bytes());
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mask");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    for size in [16, 125, 128, 1 << 10, 16 << 10, 64 << 10, 1 << 20] {
        // Not aligned to anything, like payloads in a stream.
        let mut buf = vec![0x5a; GAP + 3 + size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("in_place", size), |bencher| {
            bencher.iter(|| mask::unmask(black_box(&mut buf[GAP + 3..]), black_box(KEY)));
        });
        group.bench_function(BenchmarkId::new("moving", size), |bencher| {
            bencher.iter(|| mask::unmask_down(black_box(&mut buf), GAP + 3, 3, size, black_box(KEY)));
        });
        group.bench_function(BenchmarkId::new("tungstenite", size), |bencher| {
            bencher.iter(|| apply_mask_fast32(black_box(&mut buf[GAP + 3..]), black_box(KEY)));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
