//! zlib itself, in C, as the judge of what the server's inflater takes: no line of it is the server's.

use std::mem::MaybeUninit;

use libz_sys::{
    Z_BUF_ERROR, Z_NO_FLUSH, Z_OK, Z_STREAM_END, inflate, inflateEnd, inflateInit2_, inflateReset, z_stream,
    zlibVersion,
};

/// An inflater of raw DEFLATE.
pub struct Inflater {
    // zlib's state points back at it: it must not move.
    stream: Box<MaybeUninit<z_stream>>,
}

/// What an inflater has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that it has taken.
    pub taken: usize,
    /// Bytes that it has written.
    pub written: usize,
    /// How it stands.
    pub state: State,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There may be more.
    Open,
    /// A block that is marked as the last one has ended.
    Ended,
    /// Behind what was taken comes what is not DEFLATE.
    Wrong,
}

impl Inflater {
    /// With a window of 2^`bits` bytes.
    #[must_use]
    pub fn new(bits: u8) -> Self {
        let mut stream = Box::new(MaybeUninit::<z_stream>::zeroed());
        // SAFETY: the stream is as zlib wants it before the first call: no input, no output, and its own allocator, which it
        // puts where null pointers are.
        let code = unsafe {
            inflateInit2_(stream.as_mut_ptr(), -i32::from(bits), zlibVersion(), size_of::<z_stream>() as i32)
        };
        assert_eq!(code, Z_OK);
        Self { stream }
    }

    /// Forgets what was before.
    pub fn reset(&mut self) {
        // SAFETY: the stream was set up by `new`.
        assert_eq!(unsafe { inflateReset(self.stream.as_mut_ptr()) }, Z_OK);
    }

    /// Inflates as much as there is room for.
    pub fn inflate(&mut self, input: &[u8], output: &mut [u8]) -> Progress {
        // SAFETY: zlib has put its allocator in, so that the stream is a valid z_stream since `new`.
        let stream = unsafe { self.stream.assume_init_mut() };
        stream.next_in = input.as_ptr().cast_mut();
        stream.avail_in = input.len() as u32;
        stream.next_out = output.as_mut_ptr();
        stream.avail_out = output.len() as u32;
        // SAFETY: both slices outlive the call; zlib only reads the input.
        let code = unsafe { inflate(&raw mut *stream, Z_NO_FLUSH) };
        Progress {
            taken: input.len() - stream.avail_in as usize,
            written: output.len() - stream.avail_out as usize,
            state: match code {
                // Z_BUF_ERROR: there was nothing to do.
                Z_OK | Z_BUF_ERROR => State::Open,
                Z_STREAM_END => State::Ended,
                _ => State::Wrong,
            },
        }
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: the stream was set up by `new`, and is not used again.
        unsafe { inflateEnd(self.stream.as_mut_ptr()) };
    }
}
