//! UTF-8 that arrives in pieces (RFC 6455, section 8.1; RFC 3629).

/// The text so far is not UTF-8, whatever may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidUtf8;

/// Below this a plain scan for non-ASCII bytes costs less than setting out for the vectorised validation.
const SHORT: usize = 256;

/// The start of a code point that is cut at the end of a piece; empty when none is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    bytes: [u8; 3],
    len: u8,
}

impl Utf8 {
    /// Takes the text's next piece. A byte that cannot be right is reported with the piece that brings it, even when
    /// its code point is not complete.
    #[inline]
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), InvalidUtf8> {
        if self.len == 0 && piece.len() < SHORT && piece.is_ascii() {
            return Ok(());
        }
        self.push_any(piece)
    }

    /// Ends the text: no code point may be cut now.
    #[inline]
    pub(super) fn end(self) -> Result<(), InvalidUtf8> {
        if self.len == 0 { Ok(()) } else { Err(InvalidUtf8) }
    }

    fn push_any(&mut self, piece: &[u8]) -> Result<(), InvalidUtf8> {
        let rest = self.complete(piece)?;
        let Err(error) = simdutf8::compat::from_utf8(rest) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(InvalidUtf8);
        }
        let cut = &rest[error.valid_up_to()..];
        self.bytes[..cut.len()].copy_from_slice(cut);
        self.len = cut.len() as u8;
        Ok(())
    }

    /// Completes the cut code point with the first bytes of `piece` and gives back the bytes behind it.
    fn complete<'a>(&mut self, mut piece: &'a [u8]) -> Result<&'a [u8], InvalidUtf8> {
        while self.len > 0
            && let Some((&next, rest)) = piece.split_first()
        {
            let known = usize::from(self.len);
            let mut code_point = [0; 4];
            code_point[..known].copy_from_slice(&self.bytes[..known]);
            code_point[known] = next;
            match std::str::from_utf8(&code_point[..=known]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_some() => return Err(InvalidUtf8),
                Err(_) => {
                    self.bytes[known] = next;
                    self.len += 1;
                }
            }
            piece = rest;
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces_of(size: usize, text: &[u8]) -> Result<(), InvalidUtf8> {
        let mut utf8 = Utf8::default();
        text.chunks(size).try_for_each(|piece| utf8.push(piece))?;
        utf8.end()
    }

    #[test]
    fn valid_text_is_valid_however_it_is_cut() {
        let text = "Hello-µ@ßöäüàá-UTF-8!! κόσμε \u{7ff}\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}".repeat(9);
        for size in 1..=text.len() {
            assert_eq!(in_pieces_of(size, text.as_bytes()), Ok(()), "pieces of {size}");
        }
    }

    #[test]
    fn an_impossible_byte_is_reported_at_once() {
        // The last byte of each is the first that cannot be right.
        let texts: [&[u8]; 10] = [
            b"\x80",
            b"\xc0",
            b"\xc1",
            b"\xf5",
            b"\xff",
            b"\xe0\x9f",
            b"\xed\xa0",
            b"\xf0\x8f",
            b"\xf4\x90",
            b"\xe2\x28",
        ];
        for text in texts {
            let mut whole = Utf8::default();
            assert_eq!(whole.push(text), Err(InvalidUtf8), "{text:x?}");

            let mut cut = Utf8::default();
            let (last, head) = text.split_last().unwrap();
            for byte in head {
                cut.push(&[*byte]).unwrap();
            }
            assert_eq!(cut.push(&[*last]), Err(InvalidUtf8), "{text:x?} byte by byte");
        }
    }

    #[test]
    fn a_text_must_not_end_within_a_code_point() {
        for text in ["é", "€", "\u{10ffff}"] {
            for len in 1..text.len() {
                let mut utf8 = Utf8::default();
                utf8.push(&text.as_bytes()[..len]).unwrap();
                assert_eq!(utf8.end(), Err(InvalidUtf8), "{len} bytes of {text}");
            }
        }
    }

    #[test]
    fn empty_pieces_change_nothing() {
        let mut utf8 = Utf8::default();
        for piece in [&b"\xe2"[..], b"", b"\x82", b"", b"\xac", b""] {
            utf8.push(piece).unwrap();
        }
        assert_eq!(utf8.end(), Ok(()));
    }
}
