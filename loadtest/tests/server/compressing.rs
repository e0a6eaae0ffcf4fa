//! A server that speaks permessage-deflate with the DEFLATE library alone, and does it wrong on purpose.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::Outcome;
use super::scripted::{self, upgrade};

/// What the server does with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Inflates them, and compresses them again.
    Recompress,
    /// Sends back the bytes that came.
    Pass,
    /// Inflates them, and sends them back as they are.
    Uncompressed,
    /// As `Recompress`, in fragments of so many bytes with a ping between.
    Fragments(usize),
    /// As `Recompress`, with the last byte of every tenth message changed before.
    CorruptTenth,
    /// As `Recompress`, with references to earlier messages although none were agreed on.
    KeepsContext,
    /// As `Recompress`, with a window of 32 KiB whatever was agreed on.
    LargeWindow,
    /// Sends these bytes instead of every echo.
    Bytes(&'static [u8]),
    /// Sends a message of 1 GiB in 1 MiB instead of every echo, on the first connection; on others as `Recompress`.
    BombFirst,
}

/// Starts a server with this answer to the offer (empty declines). Every message must come compressed if there is an answer.
pub(crate) fn start(answer: &'static str, way: Way) -> SocketAddr {
    let is_first = Arc::new(AtomicBool::new(true));
    scripted::start(move |mut stream, request| {
        stream.write_all(upgrade(request, &extensions(answer)).as_bytes())?;
        let is_bombed = way == Way::BombFirst && is_first.swap(false, Ordering::Relaxed);
        serve(stream, answer, if way == Way::BombFirst && !is_bombed { Way::Recompress } else { way })
    })
    .0
}

/// The same through TLS.
pub(crate) fn start_tls(answer: &'static str, way: Way) -> SocketAddr {
    let serve = move |mut stream: super::TlsStream| {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            request.push(byte[0]);
        }
        stream.write_all(upgrade(str::from_utf8(&request)?, &extensions(answer)).as_bytes())?;
        serve(stream, answer, way)
    };
    super::start_tls_with(serve).0
}

fn extensions(answer: &str) -> String {
    if answer.is_empty() { String::new() } else { format!("Sec-WebSocket-Extensions: {answer}\r\n") }
}

/// The window that an answer gives a side.
fn window_bits(answer: &str, parameter: &str) -> u8 {
    let value = answer.split(parameter).nth(1).and_then(|rest| rest.strip_prefix('='));
    value.map_or(15, |value| value.split(';').next().unwrap().parse().unwrap())
}

fn serve(mut stream: impl Read + Write, answer: &str, way: Way) -> Outcome {
    let bits = if way == Way::LargeWindow { 15 } else { window_bits(answer, "server_max_window_bits") };
    let mut deflate = Compress::new_with_window_bits(Compression::new(6), false, bits);
    let mut inflate = Decompress::new_with_window_bits(false, 15);
    for count in 1_u64.. {
        let (first, payload) = read_frame(&mut stream)?;
        match first & 0x0f {
            1 | 2 => {}
            8 => {
                write_frame(&mut stream, 0x88, &payload)?;
                return Ok(stream.flush()?);
            }
            _ => continue,
        }
        assert_eq!(first & 0x40 != 0, !answer.is_empty(), "compressed exactly where that was agreed on");
        let mut message = if first & 0x40 == 0 { payload.clone() } else { inflated(&mut inflate, &payload) };
        if answer.contains("client_no_context_takeover") {
            inflate.reset(false);
        }
        if way == Way::CorruptTenth && count % 10 == 0 {
            *message.last_mut().unwrap() ^= 1;
        }
        let opcode = first & 0x0f;
        match way {
            _ if answer.is_empty() => write_frame(&mut stream, first, &payload)?,
            Way::Pass => write_frame(&mut stream, first, &payload)?,
            Way::Uncompressed => write_frame(&mut stream, 0x80 | opcode, &message)?,
            Way::Bytes(bytes) => stream.write_all(bytes)?,
            Way::BombFirst => write_frame(&mut stream, 0xc0 | opcode, &bomb())?,
            Way::Recompress | Way::CorruptTenth | Way::KeepsContext | Way::LargeWindow | Way::Fragments(_) => {
                let payload = compressed(&mut deflate, &message);
                if answer.contains("server_no_context_takeover") && way != Way::KeepsContext {
                    deflate.reset();
                }
                let size = if let Way::Fragments(size) = way { size } else { usize::MAX };
                write_fragments(&mut stream, opcode, &payload, size)?;
            }
        }
        stream.flush()?;
    }
    Ok(())
}

fn write_fragments(stream: &mut impl Write, opcode: u8, payload: &[u8], size: usize) -> Outcome {
    let last = payload.len().div_ceil(size) - 1;
    for (index, part) in payload.chunks(size).enumerate() {
        let first = if index == 0 { 0x40 | opcode } else { 0 } | if index == last { 0x80 } else { 0 };
        write_frame(stream, first, part)?;
        if index < last {
            write_frame(stream, 0x89, b"between")?;
        }
    }
    Ok(())
}

fn inflated(inflate: &mut Decompress, payload: &[u8]) -> Vec<u8> {
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let (mut message, start) = (Vec::with_capacity(1 << 20), inflate.total_in());
    loop {
        let used = (inflate.total_in() - start) as usize;
        let room = message.capacity();
        inflate.decompress_vec(&input[used..], &mut message, FlushDecompress::Sync).expect("what ringload compresses");
        if (inflate.total_in() - start) as usize == input.len() && message.len() < room {
            return message;
        }
        message.reserve(1 << 20);
    }
}

/// 1,024 blocks of 1 MiB of zeros, each of which needs none before it.
fn bomb() -> Vec<u8> {
    let mut deflate = Compress::new_with_window_bits(Compression::best(), false, 15);
    let block = compressed(&mut deflate, &vec![0; 1 << 20]);
    [&block[..], &[0, 0, 0xff, 0xff]].concat().repeat(1023).into_iter().chain(block).collect()
}

fn compressed(deflate: &mut Compress, message: &[u8]) -> Vec<u8> {
    // Room for all of it, and for the flush.
    let (mut payload, start) = (Vec::with_capacity(message.len() * 9 / 8 + 100), deflate.total_in());
    deflate.compress_vec(message, &mut payload, FlushCompress::Sync).expect("room");
    assert_eq!((deflate.total_in() - start) as usize, message.len());
    if payload.is_empty() {
        return vec![0];
    }
    assert!(payload.ends_with(&[0, 0, 0xff, 0xff]));
    payload.truncate(payload.len() - 4);
    payload
}

/// The first byte and the payload, unmasked, of the next frame.
fn read_frame(stream: &mut impl Read) -> Result<(u8, Vec<u8>), Box<dyn std::error::Error + Send + Sync>> {
    let mut start = [0; 2];
    stream.read_exact(&mut start)?;
    let len = match start[1] & 0x7f {
        126 => {
            let mut bytes = [0; 2];
            stream.read_exact(&mut bytes)?;
            u16::from_be_bytes(bytes).into()
        }
        127 => {
            let mut bytes = [0; 8];
            stream.read_exact(&mut bytes)?;
            u64::from_be_bytes(bytes) as usize
        }
        short => usize::from(short),
    };
    let mut key = [0; 4];
    stream.read_exact(&mut key)?;
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload)?;
    payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Ok((start[0], payload))
}

fn write_frame(stream: &mut impl Write, first: u8, payload: &[u8]) -> Outcome {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(len as u8),
        len @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    Ok(stream.write_all(&frame)?)
}
