//! The negotiation of extensions (RFC 6455, section 9.1), of which there is one: permessage-deflate (RFC 7692).
//!
//! The echo of a compressed message is the client's own bytes. They are a valid compressed message in the other direction if
//! 1. the client's window is not larger than the server's may be: `Wc <= Ws`; and
//! 2. the server may take its context over if the client does: not `TCc and not TCs`.
//!
//! Each back-reference of the client's deflater then lies in what the client's inflater has kept, as long as each compressed
//! message is echoed once, in order, and the server compresses none of its own. The server writes the answer, and can nearly
//! always ensure both conditions; other offers are declined. A server that recompresses needs neither.

use std::borrow::Cow;
use std::fmt::Write;

use super::{Deflate, handshake::is_token};

const DEFLATE: &[u8] = b"permessage-deflate";
const SERVER_NO_CONTEXT: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT: &str = "client_no_context_takeover";
const SERVER_BITS: &str = "server_max_window_bits";
const CLIENT_BITS: &str = "client_max_window_bits";

/// The negotiated handling of compressed messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Compression {
    /// None may come.
    #[default]
    None,
    /// They are echoed as they are. Each is compressed by itself; text is inflated, to be checked.
    Pass,
    /// They are echoed as they are. Each is compressed by itself; all are inflated, to be checked.
    Verify,
    /// They are echoed as they are. Each may refer to those before: all go through an inflater of the connection's own.
    Context,
    /// They are inflated, and compressed anew with this window.
    Recompress(WindowBits),
}

const _: () = assert!(size_of::<Compression>() == 1, "an idle connection pays for every byte");

/// The logarithm of the size of an LZ77 window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum WindowBits {
    W8 = 8,
    W9,
    W10,
    W11,
    W12,
    W13,
    W14,
    W15,
}

impl WindowBits {
    const ALL: [Self; 8] = [Self::W8, Self::W9, Self::W10, Self::W11, Self::W12, Self::W13, Self::W14, Self::W15];

    /// A decimal number from 8 to 15, without leading zeros (RFC 7692, section 7.1.2).
    fn parse(value: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|&bits| (bits as u8).to_string().as_bytes() == value)
    }
}

/// The answer to a client's offers; empty: none is accepted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Agreed {
    /// The value of `Sec-WebSocket-Extensions`.
    pub(super) answer: String,
    pub(super) compression: Compression,
}

/// A header that is no list of extensions. The connection fails (RFC 6455, section 9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The answer to the offers in these header lines: to the first that can be accepted. `takes_context`: clients may take their
/// context over from one message to the next, where the server may do so, too.
pub(super) fn negotiate<'h>(
    lines: impl Iterator<Item = &'h [u8]>,
    deflate: Deflate,
    takes_context: bool,
) -> Result<Option<Agreed>, Malformed> {
    let mut agreed = None;
    // A mistake behind an offer that is accepted is one nevertheless.
    for line in lines {
        let mut scanner = Scanner { rest: line };
        while let Some(extension) = scanner.extension()? {
            let offer = Offer::of(&extension);
            agreed = agreed.or_else(|| offer?.accept(deflate, takes_context));
        }
    }
    Ok(agreed)
}

/// An offer of permessage-deflate (RFC 7692, section 7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offer {
    /// The server is not to take its context over.
    server_no_context: bool,
    /// The client will not.
    client_no_context: bool,
    /// The server's window, at most.
    server_bits: Option<WindowBits>,
    /// The client's window, at most, in any case; `None`: it does not understand a limit to it.
    client_bits: Option<WindowBits>,
}

impl Offer {
    /// `None`: another extension; or a parameter is unknown, stands there twice or has a wrong value, and the offer is to be
    /// declined.
    fn of(extension: &Extension) -> Option<Self> {
        if extension.name != DEFLATE {
            return None;
        }
        let mut offer = Offer::default();
        for (name, value) in &extension.parameters {
            let bits = value.as_deref().map(WindowBits::parse);
            let is_first = match (str::from_utf8(name).ok()?, bits) {
                (SERVER_NO_CONTEXT, None) => !std::mem::replace(&mut offer.server_no_context, true),
                (CLIENT_NO_CONTEXT, None) => !std::mem::replace(&mut offer.client_no_context, true),
                (SERVER_BITS, Some(Some(bits))) => offer.server_bits.replace(bits).is_none(),
                (CLIENT_BITS, None) => offer.client_bits.replace(WindowBits::W15).is_none(),
                (CLIENT_BITS, Some(Some(bits))) => offer.client_bits.replace(bits).is_none(),
                _ => false,
            };
            if !is_first {
                return None;
            }
        }
        Some(offer)
    }

    /// The answer that makes the echo of the client's bytes right, or that suits a server which compresses anew. `None`:
    /// there is no such answer.
    fn accept(self, deflate: Deflate, takes_context: bool) -> Option<Agreed> {
        let server_bits = self.server_bits.unwrap_or(WindowBits::W15);
        // zlib has no raw stream with a window of 256 bytes, neither ours nor that of clients which say so.
        if server_bits == WindowBits::W8 {
            return None;
        }
        let has_context = takes_context && !self.server_no_context && !self.client_no_context;
        let compression = match deflate {
            Deflate::Off => return None,
            Deflate::Recompress => Compression::Recompress(server_bits),
            Deflate::Pass | Deflate::Verify if has_context => Compression::Context,
            Deflate::Pass => Compression::Pass,
            Deflate::Verify => Compression::Verify,
        };
        let mut answer = String::from("permessage-deflate");
        // Unasked for, either is the server's to say (RFC 7692, section 7.1.1).
        if compression != Compression::Context {
            answer.extend(["; ", SERVER_NO_CONTEXT, "; ", CLIENT_NO_CONTEXT]);
        }
        if let Some(bits) = self.server_bits {
            let _ = write!(answer, "; {SERVER_BITS}={}", bits as u8);
        }
        if deflate != Deflate::Recompress && server_bits < WindowBits::W15 {
            // A client that does not understand the limit must not be given one: its window is of 32 KiB.
            let bits = self.client_bits?.min(server_bits);
            let _ = write!(answer, "; {CLIENT_BITS}={}", bits as u8);
        }
        Some(Agreed { answer, compression })
    }
}

/// One element of the list: an extension, with what is to be known of it.
struct Extension<'h> {
    name: &'h [u8],
    parameters: Vec<Parameter<'h>>,
}

/// A parameter's name and, if it has one, its value.
type Parameter<'h> = (&'h [u8], Option<Cow<'h, [u8]>>);

/// The rest of a header line.
struct Scanner<'h> {
    rest: &'h [u8],
}

impl<'h> Scanner<'h> {
    /// The next element, if there is one. Empty ones mean nothing (RFC 9110, section 5.6.1).
    fn extension(&mut self) -> Result<Option<Extension<'h>>, Malformed> {
        while self.takes(b',') {}
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (name, mut parameters) = (self.token()?, Vec::new());
        while self.takes(b';') {
            let parameter = self.token()?;
            let value = if self.takes(b'=') { Some(self.value()?) } else { None };
            parameters.push((parameter, value));
        }
        if self.rest.is_empty() || self.takes(b',') { Ok(Some(Extension { name, parameters })) } else { Err(Malformed) }
    }

    /// Takes this byte, if it is next but for spaces, and the spaces around it.
    fn takes(&mut self, byte: u8) -> bool {
        self.rest = self.rest.trim_ascii_start();
        let is_next = self.rest.first() == Some(&byte);
        if is_next {
            self.rest = self.rest[1..].trim_ascii_start();
        }
        is_next
    }

    fn token(&mut self) -> Result<&'h [u8], Malformed> {
        let len = self.rest.iter().position(|&byte| !is_token(&[byte])).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(len);
        self.rest = rest;
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// A token, or one in quotation marks.
    fn value(&mut self) -> Result<Cow<'h, [u8]>, Malformed> {
        let Some(quoted) = self.rest.strip_prefix(b"\"") else { return self.token().map(Cow::Borrowed) };
        let (mut value, mut bytes) = (Vec::new(), quoted.iter());
        loop {
            match bytes.next().ok_or(Malformed)? {
                b'"' => break,
                b'\\' => value.push(*bytes.next().ok_or(Malformed)?),
                byte => value.push(*byte),
            }
        }
        self.rest = bytes.as_slice();
        if is_token(&value) { Ok(Cow::Owned(value)) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests;
