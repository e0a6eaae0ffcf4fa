//! Test data in which every byte identifies its position, and reproducible pseudo-random numbers.

/// Fills `bytes` with what stands at `offset` (a multiple of 8) in the endless stream named `seed`.
///
/// Any loss, repetition, or swap in an echo of it changes the bytes, and the stream needs no memory to compare with.
pub(crate) fn fill_pattern(seed: u64, offset: u64, bytes: &mut [u8]) {
    assert_eq!(offset % 8, 0, "the pattern is made of 8-byte words");
    let first_word = (offset / 8) ^ (seed << 40);
    for (word, chunk) in (first_word..).zip(bytes.chunks_mut(8)) {
        chunk.copy_from_slice(&scatter(word).to_le_bytes()[..chunk.len()]);
    }
}

/// The first `length` bytes of the stream named `seed`.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fill_pattern(seed, 0, &mut bytes);
    bytes
}

/// Text of exactly `length` bytes with characters of one to four bytes.
pub(crate) fn pattern_text(seed: u64, length: usize) -> String {
    const LETTERS: [char; 8] = ['a', 'é', '→', '😀', 'ß', 'z', '語', '𝄞'];
    let mut text = String::with_capacity(length + 4);
    let mut random = Random::new(seed);
    while text.len() < length {
        let letter = LETTERS[random.below(LETTERS.len())];
        text.push(if text.len() + letter.len_utf8() <= length { letter } else { '.' });
    }
    text
}

/// A small deterministic generator: a failing run repeats.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        scatter(self.0)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The output function of splitmix64: neighbouring numbers become unrelated ones.
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
