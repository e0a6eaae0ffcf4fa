//! Frames (RFC 6455, section 5.2) as bytes. Written for the tests alone, so that the server's own code is not the
//! measure of what it sends, and able to build frames that no client may send.

use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) const FIN: u8 = 0x80;
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

const MASKED: u8 = 0x80;

/// How a payload's length is written: `Minimal` is what the RFC demands, the others are for building violations.
#[derive(Clone, Copy)]
pub(crate) enum LengthForm {
    Minimal,
    Bits16,
    Bits64,
}

/// A client's frame: the first byte as given (`FIN | TEXT`, say), then length, a masking key and the masked payload.
pub(crate) fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    frame_with(first_byte, LengthForm::Minimal, payload)
}

pub(crate) fn frame_with(first_byte: u8, form: LengthForm, payload: &[u8]) -> Vec<u8> {
    let key = masking_key();
    let mut bytes = header(first_byte, MASKED, form, payload.len() as u64);
    bytes.extend_from_slice(&key);
    bytes.extend_from_slice(payload);
    let start = bytes.len() - payload.len();
    apply_mask(key, &mut bytes[start..]);
    bytes
}

/// A frame without a masking key, as only a server may send it.
pub(crate) fn unmasked_frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first_byte, 0, LengthForm::Minimal, payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes
}

/// The header of a client's frame, for a payload that is sent piece by piece (or never).
pub(crate) fn masked_header(first_byte: u8, payload_length: u64, key: [u8; 4]) -> Vec<u8> {
    let mut bytes = header(first_byte, MASKED, LengthForm::Minimal, payload_length);
    bytes.extend_from_slice(&key);
    bytes
}

/// A Close frame with a status code and a reason.
pub(crate) fn close_frame(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &close_payload(code, reason))
}

pub(crate) fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason].concat()
}

/// Masks (or unmasks) bytes that begin at a multiple of four in their payload.
pub(crate) fn apply_mask(key: [u8; 4], bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(4) {
        for (byte, key) in chunk.iter_mut().zip(key) {
            *byte ^= key;
        }
    }
}

/// A different key for every frame.
fn masking_key() -> [u8; 4] {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    COUNTER.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9).to_be_bytes()
}

fn header(first_byte: u8, mask_bit: u8, form: LengthForm, length: u64) -> Vec<u8> {
    let form = match (form, length) {
        (LengthForm::Minimal, 0..126) => return vec![first_byte, mask_bit | length as u8],
        (LengthForm::Minimal, 126..0x1_0000) => LengthForm::Bits16,
        (LengthForm::Minimal, _) => LengthForm::Bits64,
        (other, _) => other,
    };
    let bits16 = (length as u16).to_be_bytes();
    let bits64 = length.to_be_bytes();
    let (marker, extended) = if let LengthForm::Bits16 = form { (0x7e, &bits16[..]) } else { (0x7f, &bits64[..]) };
    [&[first_byte, mask_bit | marker], extended].concat()
}
