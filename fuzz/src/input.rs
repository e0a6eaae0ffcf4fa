//! What a fuzzer's bytes mean. Flat on purpose: a seed is written by hand in a line, and a mutated byte stays local.

use arbitrary::{Arbitrary, Result, Unstructured};
use ringecho::protocol::Settings;

use crate::model;

/// What `max_message_size` can be: small ones are reached by small inputs.
const MESSAGE_SIZES: [u64; 4] = [1 << 16, 300, 125, 10];

/// Payload bytes of one message at most, whatever the settings: what the targets have to be prepared for.
pub const MAX_MESSAGE_SIZE: u64 = MESSAGE_SIZES[0];

/// Sizes of reads, used over and over.
#[derive(Clone, Debug)]
pub struct Cuts(Vec<usize>);

impl<'a> Arbitrary<'a> for Cuts {
    /// A count, then a byte for each read: fine ones are chosen exactly, coarse ones in steps.
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let count = u.int_in_range(0..=8)?;
        let size = |&byte: &u8| match byte {
            0..200 => usize::from(byte) + 1,
            _ => (usize::from(byte) - 199) * 100,
        };
        Ok(Self(u.bytes(count)?.iter().map(size).collect()))
    }
}

impl Cuts {
    /// No cut at all.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// The stream in reads.
    pub fn of<'s>(&self, mut stream: &'s [u8]) -> impl Iterator<Item = &'s [u8]> {
        let mut sizes = self.0.clone().into_iter().cycle();
        std::iter::from_fn(move || {
            let size = sizes.next().unwrap_or(stream.len()).min(stream.len());
            let (read, rest) = stream.split_at(size);
            stream = rest;
            (size > 0).then_some(read)
        })
    }
}

/// A client's frames, and how the server reads them.
#[derive(Debug)]
pub struct Frames {
    pub settings: Settings,
    pub cuts: Cuts,
    /// Whether the first read brings the upgrade request, too.
    pub is_eager: bool,
    /// The server sends a Ping before the read with this number.
    pub ping_at: Option<usize>,
    /// The server starts to close before the read with this number.
    pub close_at: Option<usize>,
    /// As the client sends them.
    pub stream: Vec<u8>,
}

impl<'a> Arbitrary<'a> for Frames {
    /// The rest of the input is the stream before masking: wherever a header says that a payload is masked, it will be.
    /// So a fuzzer can change text or a close code without knowing the key. Any stream at all has such a form.
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let settings = Settings { max_message_size: *u.choose(&MESSAGE_SIZES)?, ..Settings::default() };
        let number =
            |u: &mut Unstructured| -> Result<_> { Ok(Some(usize::from(u.arbitrary::<u8>()?)).filter(|&n| n < 64)) };
        let (ping_at, close_at) = (number(u)?, number(u)?);
        let is_eager = u.ratio(1, 4)?;
        let cuts = u.arbitrary()?;
        let stream = model::mask(u.bytes(u.len())?);
        Ok(Self { settings, cuts, is_eager, ping_at, close_at, stream })
    }
}
