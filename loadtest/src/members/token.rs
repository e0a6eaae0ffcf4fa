//! The shared token: each side proves that it has the token without sending it (HMAC-SHA256 of the other side's random
//! bytes).
//!
//! Peers without the token, or of another run, are refused. Messages after the hello are neither encrypted nor signed:
//! use a trusted network or a tunnel.

use std::fmt;

use data_encoding::HEXLOWER;
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};

/// The token.
#[derive(Clone)]
pub struct Token(hmac::Key);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The side that signs: a signature of one side is not valid for the other.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// Members sign their hello.
    Member,
    /// The conductor signs its welcome.
    Conductor,
}

impl Token {
    /// The token with this text. Without one, all members share the empty token.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(hmac::Key::new(HMAC_SHA256, text.as_bytes()))
    }

    /// The signature of `text` for the side that has sent `nonce`.
    #[must_use]
    pub fn sign(&self, side: Side, nonce: &str, text: &str) -> String {
        HEXLOWER.encode(hmac::sign(&self.0, signed(side, nonce, text).as_bytes()).as_ref())
    }

    /// Whether `proof` is that signature, compared in constant time.
    #[must_use]
    pub fn is_signed(&self, side: Side, nonce: &str, text: &str, proof: &str) -> bool {
        let Ok(proof) = HEXLOWER.decode(proof.as_bytes()) else { return false };
        hmac::verify(&self.0, signed(side, nonce, text).as_bytes(), &proof).is_ok()
    }

    /// A digest of a value that only holders of the token can compute or guess by trial.
    #[must_use]
    pub fn digest(&self, value: &[u8]) -> String {
        HEXLOWER.encode(&hmac::sign(&self.0, value).as_ref()[..8])
    }
}

/// Nonces have a fixed form and no line feeds, so two texts are never signed as one.
fn signed(side: Side, nonce: &str, text: &str) -> String {
    format!("ringload {side:?}\n{nonce}\n{text}")
}

/// Random bytes, in hexadecimal digits.
#[must_use]
pub fn nonce() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the kernel has random bytes");
    HEXLOWER.encode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_side_nonce_and_text_pass() {
        let (token, nonce) = (Token::new("secret"), nonce());
        let proof = token.sign(Side::Member, &nonce, "text");
        assert!(token.is_signed(Side::Member, &nonce, "text", &proof));
        assert!(!token.is_signed(Side::Conductor, &nonce, "text", &proof));
        assert!(!token.is_signed(Side::Member, &super::nonce(), "text", &proof));
        assert!(!token.is_signed(Side::Member, &nonce, "texts", &proof));
        assert!(
            !token.is_signed(Side::Member, &nonce, "text", "") && !token.is_signed(Side::Member, &nonce, "text", "zz")
        );
        assert!(!Token::new("").is_signed(Side::Member, &nonce, "text", &proof));
        assert_eq!(format!("{token:?}"), "Token");
    }
}
