//! Unmasking (RFC 6455, section 5.3): byte `i` of the payload, XOR byte `i mod 4` of the masking
//! key.
//!
//! Both functions handle the last eight bytes as one word that is read before and written after all others, so that
//! no payload of eight bytes or more pays for a byte-wise rest.

/// A masking key, turned so that its first byte belongs to the next payload byte.
pub type MaskingKey = [u8; 4];

/// Bytes per step of the long loop: four 16-byte vectors.
const STEP: usize = 64;
const WORD: usize = size_of::<u64>();

/// The key for what follows `len` bytes that were masked with `key`.
#[must_use]
#[inline]
pub fn turn(mut key: MaskingKey, len: usize) -> MaskingKey {
    key.rotate_left(len % 4);
    key
}

/// Unmasks `payload` where it is.
#[inline]
pub fn unmask(payload: &mut [u8], key: MaskingKey) {
    let Some(last) = payload.last_chunk::<WORD>().copied() else {
        return unmask_bytes(payload, key);
    };
    let len = payload.len();
    let key_word = repeat(key);
    // One byte less than there are: the last word is not unmasked twice when the length is a multiple of eight.
    let (words, _) = payload[..len - 1].as_chunks_mut::<WORD>();
    for word in words {
        *word = xor(*word, key_word);
    }
    payload[len - WORD..].copy_from_slice(&xor(last, repeat(turn(key, len))));
}

/// Unmasks the `len` bytes at `from` and puts them at `to`, which is not behind `from`, in one pass.
///
/// # Panics
/// If `to` is greater than `from`, or the buffer ends before `from + len`.
#[inline]
pub fn unmask_down(buf: &mut [u8], from: usize, to: usize, len: usize, key: MaskingKey) {
    let gap = from.checked_sub(to).expect("payload moves down");
    let region = &mut buf[to..from + len];
    let Some(last) = region[gap..].last_chunk::<WORD>().copied() else {
        region.copy_within(gap.., 0);
        return unmask_bytes(&mut region[..len], key);
    };
    let key_word = repeat(key);
    let mut at = 0;
    // Each step reads before it writes, and writes below everything that is still to be read.
    while at + STEP < len {
        let mut step: [u8; STEP] = read(region, at + gap);
        for word in step.as_chunks_mut::<WORD>().0 {
            *word = xor(*word, key_word);
        }
        region[at..at + STEP].copy_from_slice(&step);
        at += STEP;
    }
    while at + WORD < len {
        let word: [u8; WORD] = read(region, at + gap);
        region[at..at + WORD].copy_from_slice(&xor(word, key_word));
        at += WORD;
    }
    region[len - WORD..len].copy_from_slice(&xor(last, repeat(turn(key, len))));
}

/// Fewer than eight bytes.
#[inline]
fn unmask_bytes(payload: &mut [u8], key: MaskingKey) {
    for (byte, key) in payload.iter_mut().zip(repeat(key).to_ne_bytes()) {
        *byte ^= key;
    }
}

#[inline]
fn repeat([a, b, c, d]: MaskingKey) -> u64 {
    u64::from_ne_bytes([a, b, c, d, a, b, c, d])
}

#[inline]
fn xor(word: [u8; WORD], key: u64) -> [u8; WORD] {
    (u64::from_ne_bytes(word) ^ key).to_ne_bytes()
}

#[inline]
fn read<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("callers stay within the payload")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: MaskingKey = [0x37, 0xfa, 0x21, 0x3d];

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    fn unmasked_by_the_book(payload: &[u8], key: MaskingKey) -> Vec<u8> {
        payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect()
    }

    #[test]
    fn the_rfc_example_unmasks_to_hello() {
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        unmask(&mut payload, KEY);
        assert_eq!(&payload, b"Hello");
    }

    #[test]
    fn every_length_is_unmasked_in_place() {
        for len in 0..400 {
            let mut bytes = payload(len);
            unmask(&mut bytes, KEY);
            assert_eq!(bytes, unmasked_by_the_book(&payload(len), KEY), "{len} bytes");
        }
    }

    #[test]
    fn every_length_is_unmasked_while_it_moves_by_any_distance() {
        for len in 0..300 {
            for gap in (0..20).chain([63, 64, 65, 500]) {
                let mut buf = vec![0xee; 3 + gap + len + 5];
                buf[3 + gap..3 + gap + len].copy_from_slice(&payload(len));
                unmask_down(&mut buf, 3 + gap, 3, len, KEY);
                assert_eq!(buf[3..3 + len], unmasked_by_the_book(&payload(len), KEY), "{len} bytes by {gap}");
                assert_eq!(buf[..3], [0xee; 3], "bytes before stay");
                assert_eq!(buf[3 + gap + len..], [0xee; 5], "bytes behind stay");
            }
        }
    }

    #[test]
    fn a_payload_in_pieces_is_unmasked_like_a_whole_one() {
        for cut in 0..50 {
            let mut bytes = payload(50);
            let (head, tail) = bytes.split_at_mut(cut);
            unmask(head, KEY);
            unmask(tail, turn(KEY, cut));
            assert_eq!(bytes, unmasked_by_the_book(&payload(50), KEY), "cut at {cut}");
        }
    }
}
