//! Unmasking (RFC 6455, section 5.3): byte `i` of the payload, XOR byte `i mod 4` of the masking
//! key.
//!
//! A payload of four bytes or more is never processed byte by byte: its last bytes are read before and written after all
//! others, as one vector or word that may overlap the one before it.

/// A masking key, turned so that its first byte belongs to the next payload byte.
pub type MaskingKey = [u8; 4];

/// Bytes per step of a long payload: four vectors.
const STEP: usize = 64;
const VECTOR: usize = 16;

/// The key for what follows `len` bytes that were masked with `key`.
#[must_use]
#[inline]
pub fn turn(key: MaskingKey, len: usize) -> MaskingKey {
    u32::from_le_bytes(key).rotate_right(8 * (len % 4) as u32).to_le_bytes()
}

/// Unmasks `payload` where it is.
#[inline]
pub fn unmask(payload: &mut [u8], key: MaskingKey) {
    unmask_by(payload, 0, key);
}

/// Unmasks the `len` bytes at `from` and puts them at `to`, which is not behind `from`, in one pass.
///
/// # Panics
/// If `to` is greater than `from`, or the buffer ends before `from + len`.
#[inline]
pub fn unmask_down(buf: &mut [u8], from: usize, to: usize, len: usize, key: MaskingKey) {
    let gap = from.checked_sub(to).expect("payload moves down");
    unmask_by(&mut buf[to..from + len], gap, key);
}

/// Unmasks what is behind the first `gap` bytes of `region`, and moves it down by them.
#[inline]
fn unmask_by(region: &mut [u8], gap: usize, key: MaskingKey) {
    match region.len() - gap {
        0..4 => unmask_bytes(region, gap, key),
        4..8 => unmask_ends::<4>(region, gap, key),
        8..VECTOR => unmask_ends::<8>(region, gap, key),
        _ => unmask_vectors(region, gap, key),
    }
}

/// Everything reads before it writes, and writes below (or exactly) what it has read.
#[inline]
fn unmask_vectors(region: &mut [u8], gap: usize, key: MaskingKey) {
    let len = region.len() - gap;
    let last: [u8; VECTOR] = unmasked(region, gap + len - VECTOR, turn(key, len));
    let mut at = 0;
    while at + STEP <= len {
        let step: [u8; STEP] = unmasked(region, gap + at, key);
        region[at..at + STEP].copy_from_slice(&step);
        at += STEP;
    }
    while at + VECTOR <= len {
        let vector: [u8; VECTOR] = unmasked(region, gap + at, key);
        region[at..at + VECTOR].copy_from_slice(&vector);
        at += VECTOR;
    }
    region[len - VECTOR..len].copy_from_slice(&last);
}

/// A payload of `N` to `2 * N` bytes: its first and its last `N`.
#[inline]
fn unmask_ends<const N: usize>(region: &mut [u8], gap: usize, key: MaskingKey) {
    let len = region.len() - gap;
    let first: [u8; N] = unmasked(region, gap, key);
    let last: [u8; N] = unmasked(region, gap + len - N, turn(key, len));
    region[..N].copy_from_slice(&first);
    region[len - N..len].copy_from_slice(&last);
}

#[inline]
fn unmask_bytes(region: &mut [u8], gap: usize, key: MaskingKey) {
    for (at, key) in (0..region.len() - gap).zip(key) {
        region[at] = region[at + gap] ^ key;
    }
}

/// The `N` bytes at `at`, unmasked; `N` is a multiple of the key's length.
#[inline]
fn unmasked<const N: usize>(bytes: &[u8], at: usize, key: MaskingKey) -> [u8; N] {
    let mut bytes = *bytes[at..].first_chunk().expect("callers stay within the payload");
    let (words, _) = <[u8; N]>::as_mut_slice(&mut bytes).as_chunks_mut();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    bytes
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
