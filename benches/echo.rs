//! What a receive costs per frame size, number of frames and kind of payload, beside tungstenite on the same work.
//!
//! Both sides get the client's bytes by a copy, as from a kernel, and have done when the bytes of the echo are ready to
//! be sent. `copy` is that first copy alone.

use std::{
    hint::black_box,
    io::{self, Cursor, Read, Write},
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringecho::protocol::{Session, Shared};
use tungstenite::protocol::{Role, WebSocketContext, frame::FrameHeader};

mod frames;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

const MAX_RECEIVE: usize = 1 << 20;

/// Opcode, and what the payload repeats.
const KINDS: [(&str, u8, &str); 3] = [("binary", 0x82, "bytes"), ("ascii", 0x81, "text."), ("utf8", 0x81, "żółw 🐢 ")];

/// A session whose handshake is done.
fn open(shared: &mut Shared) -> Session {
    let mut session = Session::new(&shared.settings);
    let _ = black_box(session.receive(shared, &mut REQUEST.to_vec()));
    session
}

/// A socket that has received `received` and takes what is sent.
struct Wire<'a> {
    received: &'a [u8],
}

impl Read for Wire<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.received.read(buf)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(black_box(buf).len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A payload of exactly this size; a code point that would be cut at its end is left out.
fn payload(pattern: &str, size: usize) -> Vec<u8> {
    let mut text = pattern.repeat(size / pattern.len() + 1);
    let end = (0..=size).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
    text.truncate(end);
    text.extend(std::iter::repeat_n('.', size - end));
    text.into_bytes()
}

fn bench_frames(criterion: &mut Criterion) {
    let mut shared = Shared::default();
    for (kind, first, pattern) in KINDS {
        let mut group = criterion.benchmark_group(format!("echo/{kind}"));
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
        for size in [16, 128, 1 << 10, 16 << 10, 64 << 10, 1 << 20] {
            for frames in [1, 16, 256].into_iter().filter(|frames| frames * size <= MAX_RECEIVE) {
                let mut stream = Vec::new();
                for _ in 0..frames {
                    frames::masked(&mut stream, first, &payload(pattern, size));
                }
                let name = format!("{frames}x{size}");
                group.throughput(Throughput::Bytes((frames * size) as u64));

                let mut buf = stream.clone();
                group.bench_function(BenchmarkId::new("copy", &name), |bencher| {
                    bencher.iter(|| black_box(&mut buf).copy_from_slice(black_box(&stream)));
                });
                let mut session = open(&mut shared);
                group.bench_function(BenchmarkId::new("ringecho", &name), |bencher| {
                    bencher.iter(|| {
                        buf.copy_from_slice(black_box(&stream));
                        let reply = session.receive(&mut shared, &mut buf);
                        assert_eq!(reply.messages as usize, frames);
                        black_box(reply.output.len())
                    });
                });
                let mut context = WebSocketContext::new(Role::Server, None);
                group.bench_function(BenchmarkId::new("tungstenite", &name), |bencher| {
                    bencher.iter(|| {
                        let mut wire = Wire { received: black_box(&stream) };
                        for _ in 0..frames {
                            let message = context.read(&mut wire).unwrap();
                            context.write(&mut wire, message).unwrap();
                        }
                        context.flush(&mut wire).unwrap();
                    });
                });
            }
        }
        group.finish();
    }
}

/// A message of 1 MiB that comes in many receives: binary streams through, a piece of text becomes a frame of its own.
fn bench_cut(criterion: &mut Criterion) {
    let mut shared = Shared::default();
    let mut group = criterion.benchmark_group("cut");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    group.throughput(Throughput::Bytes(MAX_RECEIVE as u64));
    for (kind, first, pattern) in KINDS {
        let mut stream = Vec::new();
        frames::masked(&mut stream, first, &payload(pattern, MAX_RECEIVE));
        for receive in [16 << 10, 256 << 10] {
            let mut buf = vec![0; receive];
            let mut session = open(&mut shared);
            group.bench_function(BenchmarkId::new(kind, receive), |bencher| {
                bencher.iter(|| {
                    for piece in stream.chunks(receive) {
                        let data = &mut buf[..piece.len()];
                        data.copy_from_slice(black_box(piece));
                        let reply = session.receive(&mut shared, data);
                        black_box(reply.output.len());
                    }
                });
            });
        }
    }
    group.finish();
}

/// Headers alone: 256 empty frames parsed, and their answers' headers written.
fn bench_headers(criterion: &mut Criterion) {
    const FRAMES: usize = 256;
    let mut stream = Vec::new();
    for _ in 0..FRAMES {
        frames::masked(&mut stream, 0x82, b"");
    }
    let mut group = criterion.benchmark_group("headers");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    group.throughput(Throughput::Elements(FRAMES as u64));

    let mut shared = Shared::default();
    let mut session = open(&mut shared);
    let mut buf = stream.clone();
    group.bench_function("ringecho", |bencher| {
        bencher.iter(|| {
            buf.copy_from_slice(black_box(&stream));
            let _ = black_box(session.receive(&mut shared, &mut buf));
        });
    });
    let mut answer = Vec::with_capacity(stream.len());
    group.bench_function("tungstenite", |bencher| {
        bencher.iter(|| {
            buf.copy_from_slice(black_box(&stream));
            answer.clear();
            let mut cursor = Cursor::new(&buf);
            while let Some((mut header, len)) = FrameHeader::parse(&mut cursor).unwrap() {
                header.mask = None;
                header.format(len, &mut answer).unwrap();
            }
            black_box(&answer);
        });
    });
    group.finish();
}

criterion_group!(benches, bench_frames, bench_cut, bench_headers);
criterion_main!(benches);
