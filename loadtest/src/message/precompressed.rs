//! Messages compressed in advance: the generator then costs less than a server that inflates them.
//!
//! Each message is still unique: its identification is a stored DEFLATE block (RFC 1951 section 3.2.4) in front of the
//! compressed rest, and neither part refers to earlier data. So they are valid under any negotiated context takeover, if the
//! window is large enough.

use super::{ID_LEN, MessageId, Messages, PERIOD};
use crate::websocket::deflate::Deflater;

/// Of each size there are so many, so that messages next to each other mostly differ in more than their identification.
const VARIANTS: usize = 8;

/// How far apart in the table they start.
const DISTANCE: usize = 512;

/// Bits of the places in the table where such messages start.
pub(super) const STARTS: usize = (VARIANTS - 1) * DISTANCE;

/// A stored block of [`ID_LEN`] bytes that is not the last one: its header, its length and the complement of that.
const STORED: [u8; 5] = [0, ID_LEN as u8, 0, !(ID_LEN as u8), 0xff];

/// The compressed messages of a load.
#[derive(Debug)]
pub struct Precompressed {
    /// In ascending order; none where messages are the user's.
    sizes: Vec<usize>,
    /// Each size's variants, or each of the user's messages.
    bodies: Vec<Box<[u8]>>,
}

impl Precompressed {
    /// Compresses with a window of at most 2^`window_bits` bytes.
    #[must_use]
    pub fn new(messages: &Messages, window_bits: u8) -> Self {
        let mut deflater = Deflater::new(window_bits);
        let mut compress = |bytes: &[u8]| {
            let mut body = Vec::new();
            deflater.reset();
            deflater.push(bytes, &mut body);
            deflater.end(0, &mut body);
            body.into_boxed_slice()
        };
        if let Some(own) = &messages.own {
            return Self { sizes: Vec::new(), bodies: own.list().iter().map(|message| compress(message)).collect() };
        }
        let sizes = messages.sizes.all();
        let body = |size: usize, variant: usize| -> Vec<u8> {
            let first = if size < ID_LEN { 0 } else { ID_LEN };
            (first..size).map(|at| messages.table[(variant * DISTANCE + at) % PERIOD]).collect()
        };
        let variants = sizes.iter().flat_map(|&size| (0..VARIANTS).map(move |variant| (size, variant)));
        let bodies = variants.map(|(size, variant)| compress(&body(size, variant))).collect();
        Self { sizes, bodies }
    }

    /// Puts message `id` behind what is in `out`.
    pub fn write(&self, id: MessageId, messages: &Messages, out: &mut Vec<u8>) {
        if let Some((index, _)) = messages.own(id) {
            return out.extend_from_slice(&self.bodies[index]);
        }
        let size = messages.size_of(id);
        if size >= ID_LEN {
            out.extend_from_slice(&STORED);
            out.extend_from_slice(&id.encode());
        }
        let class = self.sizes.binary_search(&size).expect("all sizes that there may be");
        out.extend_from_slice(&self.bodies[class * VARIANTS + messages.start_of(id) / DISTANCE]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::own::OwnMessages;
    use crate::scenario::{Deflate, tests::scenario};
    use crate::websocket::deflate::Inflater;

    /// What an inflater makes of the first messages of some connections, one behind the other.
    fn check(sizes: &str, text: bool, own: Option<OwnMessages>, window_bits: u8) {
        let mut traffic = scenario(1, 1, None).traffic;
        (traffic.sizes, traffic.text, traffic.own) = (sizes.parse().unwrap(), text, own);
        traffic.compressibility = 50;
        traffic.deflate = Some(Deflate { is_precompressed: true, ..Deflate::default() });
        let messages = Messages::of(&traffic);
        let all = Precompressed::new(&messages, window_bits);
        let (mut inflater, mut piece) = (Inflater::new(window_bits), vec![0; 1000]);
        let mut seen = std::collections::HashSet::new();
        for (connection, sequence) in (0..10).flat_map(|connection| (0..20).map(move |it| (connection, it))) {
            let id = MessageId { connection, sequence };
            let (mut compressed, mut message) = (Vec::new(), Vec::new());
            all.write(id, &messages, &mut compressed);
            let inflation = inflater.inflate(&compressed, true, u64::MAX, &mut piece, |bytes, _| {
                message.extend_from_slice(bytes);
                Ok(())
            });
            inflation.unwrap();
            assert_eq!(message.len(), messages.size_of(id), "{sizes} {id:?}");
            assert!(messages.matches(id, 0, &message), "{sizes} {id:?}");
            assert!(seen.insert(message) || !messages.are_identified() || messages.size_of(id) < ID_LEN);
            if sequence % 3 == 0 {
                // Whether context is taken over is all the same.
                inflater.reset();
            }
        }
    }

    #[test]
    fn they_are_the_messages_themselves() {
        for sizes in ["0", "1", "15", "16", "17", "128", "5000", "70000", "0:1,16:1,300:2,9000:1", "10-20"] {
            for text in [false, true] {
                check(sizes, text, None, 15);
                check(sizes, text, None, 9);
            }
        }
        check("5", true, Some(OwnMessages::text("hello")), 15);
    }

    #[test]
    fn with_a_small_window_nothing_refers_further_back() {
        let messages = Messages::new(PERIOD + 5000, false, true);
        let len = |bits| Precompressed::new(&messages, bits).bodies[0].len();
        assert!(len(9) >= PERIOD, "random bytes that repeat behind 64 KiB are not compressible");
    }
}
