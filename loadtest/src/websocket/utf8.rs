//! UTF-8 that arrives in pieces (RFC 6455 section 8.1, RFC 3629 section 4).

/// The open state after the bytes so far: eight states, so three bits hold them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Utf8 {
    /// A code point may begin, or the text may end.
    #[default]
    Boundary,
    /// One more byte.
    One,
    /// Two more bytes.
    Two,
    /// Three more bytes.
    Three,
    /// Two more bytes behind E0: the first of them must not make the form longer than necessary.
    BehindE0,
    /// Two more bytes behind ED: the first of them must not make a surrogate.
    BehindEd,
    /// Three more bytes behind F0: the first of them must not make the form longer than necessary.
    BehindF0,
    /// Three more bytes behind F4: the first of them must not lead beyond U+10FFFF.
    BehindF4,
}

impl Utf8 {
    /// All states, each at the place of its number.
    pub(super) const STATES: [Self; 8] = [
        Self::Boundary,
        Self::One,
        Self::Two,
        Self::Three,
        Self::BehindE0,
        Self::BehindEd,
        Self::BehindF0,
        Self::BehindF4,
    ];

    /// The state behind `piece`; `None` as soon as a byte cannot be right, even if its code point is not complete.
    #[inline]
    pub(crate) fn push(self, piece: &[u8]) -> Option<Self> {
        // Text that ringload sends, and so gets back, is ASCII.
        if self == Self::Boundary && piece.is_ascii() { Some(self) } else { self.push_any(piece) }
    }

    #[cold]
    fn push_any(mut self, mut piece: &[u8]) -> Option<Self> {
        while self != Self::Boundary
            && let Some((&byte, rest)) = piece.split_first()
        {
            self = self.step(byte)?;
            piece = rest;
        }
        match str::from_utf8(piece) {
            Ok(_) => Some(self),
            Err(error) if error.error_len().is_some() => None,
            Err(error) => piece[error.valid_up_to()..].iter().try_fold(Self::Boundary, |state, &byte| state.step(byte)),
        }
    }

    /// The rows of RFC 3629's grammar.
    fn step(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Boundary, 0..=0x7f) | (Self::One, 0x80..=0xbf) => Self::Boundary,
            (Self::Boundary, 0xc2..=0xdf)
            | (Self::Two, 0x80..=0xbf)
            | (Self::BehindE0, 0xa0..=0xbf)
            | (Self::BehindEd, 0x80..=0x9f) => Self::One,
            (Self::Boundary, 0xe0) => Self::BehindE0,
            (Self::Boundary, 0xed) => Self::BehindEd,
            (Self::Boundary, 0xe1..=0xef)
            | (Self::Three, 0x80..=0xbf)
            | (Self::BehindF0, 0x90..=0xbf)
            | (Self::BehindF4, 0x80..=0x8f) => Self::Two,
            (Self::Boundary, 0xf0) => Self::BehindF0,
            (Self::Boundary, 0xf1..=0xf3) => Self::Three,
            (Self::Boundary, 0xf4) => Self::BehindF4,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces_of(size: usize, text: &[u8]) -> Option<Utf8> {
        text.chunks(size).try_fold(Utf8::Boundary, Utf8::push)
    }

    #[test]
    fn states_are_at_their_places() {
        for (number, state) in Utf8::STATES.into_iter().enumerate() {
            assert_eq!(state as usize, number);
        }
    }

    #[test]
    fn every_code_point_is_valid_however_it_is_cut() {
        for code_point in ('\0'..=char::MAX).step_by(7).chain("\u{7f}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{10ffff}".chars())
        {
            let mut bytes = [0; 4];
            let text = code_point.encode_utf8(&mut bytes).as_bytes();
            for size in 1..=4 {
                assert_eq!(in_pieces_of(size, text), Some(Utf8::Boundary), "{code_point:?} in pieces of {size}");
            }
            for cut in 1..text.len() {
                assert_ne!(in_pieces_of(1, &text[..cut]), Some(Utf8::Boundary), "{cut} bytes of {code_point:?}");
            }
        }
    }

    #[test]
    fn whether_bytes_can_be_right_is_what_the_standard_library_says() {
        // All beginnings, with second bytes at and around each boundary of the grammar.
        let seconds = [0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff];
        for first in 0..=255 {
            for second in seconds {
                for third in seconds {
                    let bytes = [first, second, third];
                    let can_be_right = str::from_utf8(&bytes).err().is_none_or(|error| error.error_len().is_none());
                    for size in 1..=3 {
                        assert_eq!(
                            in_pieces_of(size, &bytes).is_some(),
                            can_be_right,
                            "{bytes:x?} in pieces of {size}"
                        );
                    }
                }
            }
        }
    }
}
