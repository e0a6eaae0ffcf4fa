//! permessage-deflate (RFC 7692), the client's side: offers, and validation of the answer.

pub mod stream;
mod window;

use std::fmt;

pub use self::stream::{Deflater, Inflater};

/// RSV1 in a frame's first byte: the message is compressed (RFC 7692 section 6).
pub const RSV1: u8 = 0x40;

/// The extension's name.
const NAME: &str = "permessage-deflate";

/// The binary logarithm of the largest window, which is meant where nothing is said.
pub const MAX_BITS: u8 = 15;

/// The same of the smallest one that zlib can compress with: its raw streams have no window of 2^8.
pub const MIN_BITS: u8 = 9;

/// Parameters (RFC 7692 section 7.1).
const SERVER_NO_CONTEXT: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT: &str = "client_no_context_takeover";
const SERVER_BITS: &str = "server_max_window_bits";
const CLIENT_BITS: &str = "client_max_window_bits";

/// An offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// No message, of either side, is to need earlier ones.
    pub no_context: bool,
    /// The binary logarithm of both sides' largest window, if it is limited.
    pub window_bits: Option<u8>,
}

/// The negotiated parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// This side's messages may refer to earlier ones.
    pub client_takes_over: bool,
    /// The server's messages may refer to earlier ones.
    pub server_takes_over: bool,
    /// The binary logarithm of this side's largest window.
    pub client_bits: u8,
    /// The binary logarithm of the server's largest window.
    pub server_bits: u8,
}

impl fmt::Display for Offer {
    /// The value of `Sec-WebSocket-Extensions`. Without a wish it is what browsers send.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        if self.no_context {
            write!(f, "; {SERVER_NO_CONTEXT}; {CLIENT_NO_CONTEXT}")?;
        }
        match self.window_bits {
            Some(bits) => write!(f, "; {SERVER_BITS}={bits}; {CLIENT_BITS}={bits}"),
            None => write!(f, "; {CLIENT_BITS}"),
        }
    }
}

/// The parameters of an answer: a value where there is one.
#[derive(Debug, Default)]
struct Parameters {
    server_no_context: bool,
    client_no_context: bool,
    server_bits: Option<u8>,
    client_bits: Option<u8>,
}

impl Offer {
    /// What the values of the answer's `Sec-WebSocket-Extensions` agree to: `None` if the server declines. An answer that
    /// was not offered fails the connection (RFC 7692 sections 5.1 and 7.1).
    pub fn accept<'v>(self, values: impl Iterator<Item = &'v [u8]>) -> Result<Option<Agreed>, &'static str> {
        let mut elements = extensions(values);
        let Some(element) = elements.next() else { return Ok(None) };
        let mut parts = element.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        if parts.next() != Some(NAME.as_bytes()) {
            return Err(NOT_ASKED_FOR);
        }
        match elements.next() {
            Some(more) if more.starts_with(NAME.as_bytes()) => return Err("permessage-deflate answered twice"),
            Some(_) => return Err(NOT_ASKED_FOR),
            None => {}
        }
        self.agree(&Parameters::read(parts)?).map(Some)
    }

    fn agree(self, answer: &Parameters) -> Result<Agreed, &'static str> {
        let allowed = self.window_bits.unwrap_or(MAX_BITS);
        if self.no_context && !answer.server_no_context {
            return Err("permessage-deflate without the server_no_context_takeover that was asked for");
        }
        if self.window_bits.is_some() && answer.server_bits.is_none() {
            return Err("permessage-deflate without the server_max_window_bits that was asked for");
        }
        let (server_bits, client_bits) =
            (answer.server_bits.unwrap_or(MAX_BITS), answer.client_bits.unwrap_or(allowed));
        if server_bits > allowed || client_bits > allowed {
            return Err("permessage-deflate with a larger window than was asked for");
        }
        if client_bits < MIN_BITS {
            return Err("permessage-deflate with client_max_window_bits=8, with which zlib cannot compress");
        }
        Ok(Agreed {
            client_takes_over: !(self.no_context || answer.client_no_context),
            server_takes_over: !answer.server_no_context,
            client_bits,
            server_bits,
        })
    }
}

/// The error for an answer with another extension.
pub const NOT_ASKED_FOR: &str = "an extension that was not asked for";

/// The extensions in all values, without those that are only commas (RFC 9110 section 5.6.1).
pub fn extensions<'v>(values: impl Iterator<Item = &'v [u8]>) -> impl Iterator<Item = &'v [u8]> {
    values.flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii).filter(|it| !it.is_empty())
}

impl Parameters {
    fn read<'v>(parts: impl Iterator<Item = &'v [u8]>) -> Result<Self, &'static str> {
        let mut all = Self::default();
        for part in parts {
            let mut halves = part.splitn(2, |&byte| byte == b'=').map(<[u8]>::trim_ascii);
            let (name, value) = (halves.next().unwrap_or_default(), halves.next());
            let is_new = match str::from_utf8(name) {
                Ok(SERVER_NO_CONTEXT) => flag(&mut all.server_no_context, value)?,
                Ok(CLIENT_NO_CONTEXT) => flag(&mut all.client_no_context, value)?,
                Ok(SERVER_BITS) => all.server_bits.replace(bits(value)?).is_none(),
                Ok(CLIENT_BITS) => all.client_bits.replace(bits(value)?).is_none(),
                _ => return Err("permessage-deflate with a parameter that there is not"),
            };
            if !is_new {
                return Err("permessage-deflate with a parameter that is given twice");
            }
        }
        Ok(all)
    }
}

/// Sets what has no value; returns whether it is new.
fn flag(is_set: &mut bool, value: Option<&[u8]>) -> Result<bool, &'static str> {
    if value.is_some() {
        Err("permessage-deflate with a value where there is none")
    } else {
        Ok(!std::mem::replace(is_set, true))
    }
}

/// 8 to 15, without a zero before it, also in quotes.
fn bits(value: Option<&[u8]>) -> Result<u8, &'static str> {
    let value = value.unwrap_or_default();
    let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    match value {
        [digit @ b'8'..=b'9'] => Ok(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Ok(10 + digit - b'0'),
        _ => Err("permessage-deflate with a window that cannot be"),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::message::SplitMix;

    fn accept(offer: Offer, answers: &[&str]) -> Result<Option<Agreed>, &'static str> {
        offer.accept(answers.iter().map(|answer| answer.as_bytes()))
    }

    const PLAIN: Offer = Offer { no_context: false, window_bits: None };
    const STRICT: Offer = Offer { no_context: true, window_bits: Some(10) };

    #[test]
    fn offers_are_what_browsers_send_and_what_is_wished() {
        assert_eq!(PLAIN.to_string(), "permessage-deflate; client_max_window_bits");
        assert_eq!(
            STRICT.to_string(),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10; \
             client_max_window_bits=10"
        );
    }

    #[test]
    fn a_server_may_decline_and_may_limit_both_sides() {
        assert_eq!(accept(PLAIN, &[]), Ok(None));
        assert_eq!(accept(PLAIN, &["", " , "]), Ok(None));
        let agreed = |answer| accept(PLAIN, &[answer]).unwrap().unwrap();
        let all = Agreed { client_takes_over: true, server_takes_over: true, client_bits: 15, server_bits: 15 };
        assert_eq!(agreed("permessage-deflate"), all);
        assert_eq!(agreed(", permessage-deflate ,"), all);
        let limited = agreed(
            "permessage-deflate; client_max_window_bits=9;server_max_window_bits = \"8\" ; server_no_context_takeover; \
             client_no_context_takeover",
        );
        let none = Agreed { client_takes_over: false, server_takes_over: false, client_bits: 9, server_bits: 8 };
        assert_eq!(limited, none);
        let strict = accept(STRICT, &["permessage-deflate; server_no_context_takeover; server_max_window_bits=10"]);
        let own = Agreed { client_takes_over: false, server_takes_over: false, client_bits: 10, server_bits: 10 };
        assert_eq!(strict, Ok(Some(own)), "what was promised holds, answered or not");
    }

    #[test]
    fn answers_that_were_not_offered_are_refused_with_the_reason() {
        for (offer, answer, why) in [
            (PLAIN, "x-webkit-deflate-frame", "an extension that was not asked for"),
            (PLAIN, "permessage-deflate, x", "an extension that was not asked for"),
            (PLAIN, "Permessage-Deflate", "an extension that was not asked for"),
            (PLAIN, "permessage-deflate, permessage-deflate", "answered twice"),
            (PLAIN, "permessage-deflate; foo", "a parameter that there is not"),
            (PLAIN, "permessage-deflate;", "a parameter that there is not"),
            (PLAIN, "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9", "given twice"),
            (PLAIN, "permessage-deflate; client_no_context_takeover; client_no_context_takeover", "given twice"),
            (PLAIN, "permessage-deflate; client_no_context_takeover=1", "a value where there is none"),
            (PLAIN, "permessage-deflate; server_max_window_bits", "a window that cannot be"),
            (PLAIN, "permessage-deflate; server_max_window_bits=7", "a window that cannot be"),
            (PLAIN, "permessage-deflate; server_max_window_bits=16", "a window that cannot be"),
            (PLAIN, "permessage-deflate; server_max_window_bits=09", "a window that cannot be"),
            (PLAIN, "permessage-deflate; client_max_window_bits", "a window that cannot be"),
            (PLAIN, "permessage-deflate; client_max_window_bits=8", "zlib cannot compress"),
            (STRICT, "permessage-deflate; server_max_window_bits=10", "without the server_no_context_takeover"),
            (STRICT, "permessage-deflate; server_no_context_takeover", "without the server_max_window_bits"),
            (
                STRICT,
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
                "a larger window than was asked for",
            ),
            (
                STRICT,
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits=11",
                "a larger window than was asked for",
            ),
        ] {
            let refused = accept(offer, &[answer]).expect_err(answer);
            assert!(refused.contains(why), "{answer}: {refused}");
        }
        assert!(accept(PLAIN, &["permessage-deflate", "permessage-deflate"]).is_err(), "in two lines");
    }

    /// Answers put together at random: what is accepted is within what was offered.
    #[test]
    fn whatever_is_agreed_on_was_offered() {
        let mut random = SplitMix(3);
        let mut below = |bound: usize| (random.next() % bound as u64) as usize;
        let names = [SERVER_NO_CONTEXT, CLIENT_NO_CONTEXT, SERVER_BITS, CLIENT_BITS, "x", ""];
        let values = ["", "=8", "=9", "=12", "=15", "=16", "=\"11\"", "=", "= 10"];
        let mut accepted = 0;
        for _ in 0..20_000 {
            let offer = Offer { no_context: below(2) == 0, window_bits: [None, Some(9), Some(12), Some(15)][below(4)] };
            let mut answer = NAME.to_owned();
            for _ in 0..below(4) {
                let name = names[below(names.len())];
                let value = if name.ends_with("takeover") && below(8) > 0 { "" } else { values[below(values.len())] };
                write!(answer, "; {name}{value}").unwrap();
            }
            let Ok(agreed) = accept(offer, &[&answer]) else { continue };
            let agreed = agreed.expect("it is there");
            let most = offer.window_bits.unwrap_or(MAX_BITS);
            accepted += 1;
            assert!((MIN_BITS..=most).contains(&agreed.client_bits), "{offer:?} {answer}");
            assert!((8..=most).contains(&agreed.server_bits), "{offer:?} {answer}");
            assert!(!offer.no_context || !(agreed.client_takes_over || agreed.server_takes_over), "{offer:?} {answer}");
            let has = |name| answer.contains(name);
            assert_eq!(agreed.server_takes_over, !has(SERVER_NO_CONTEXT), "{answer}");
        }
        assert!(accepted > 1000, "{accepted}");
    }
}
