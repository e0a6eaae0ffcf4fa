//! Close frames and failing the connection (RFC 6455, sections 5.5.1 and 7).

use super::{
    CloseCode,
    frame::{self, Opcode},
    utf8::InvalidUtf8,
};

const MAX_REASON_LEN: usize = frame::MAX_CONTROL_LEN - size_of::<u16>();

/// A violation of the protocol or of the limits by the peer; the connection fails (section 7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("reserved bits must be zero")]
    ReservedBits,
    #[error("unknown opcode")]
    UnknownOpcode,
    #[error("control frames must not be fragmented")]
    FragmentedControl,
    #[error("control frames carry at most 125 bytes")]
    LongControl,
    #[error("frames from a client must be masked")]
    Unmasked,
    #[error("length not in its shortest form")]
    LongLengthForm,
    #[error("length with its highest bit set")]
    HugeLength,
    #[error("continuation without a message")]
    StrayContinuation,
    #[error("new message before the last one ended")]
    InterruptedMessage,
    #[error("close frame with one byte of payload")]
    CutCloseCode,
    #[error("invalid close code")]
    CloseCode,
    #[error("invalid UTF-8")]
    InvalidUtf8,
    #[error("invalid compressed data")]
    CorruptDeflate,
    #[error("message too big")]
    MessageTooBig,
}

impl Violation {
    pub(super) fn code(self) -> CloseCode {
        match self {
            Violation::InvalidUtf8 | Violation::CorruptDeflate => CloseCode::INVALID_PAYLOAD,
            Violation::MessageTooBig => CloseCode::MESSAGE_TOO_BIG,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// The Close frame that tells the peer.
    pub(super) fn close_frame(self) -> Vec<u8> {
        close_frame(self.code(), &self.to_string())
    }
}

impl From<InvalidUtf8> for Violation {
    fn from(InvalidUtf8: InvalidUtf8) -> Self {
        Violation::InvalidUtf8
    }
}

/// An unmasked Close frame. A reason beyond the 123 bytes that fit is left out.
pub(super) fn close_frame(code: CloseCode, reason: &str) -> Vec<u8> {
    let reason = if reason.len() <= MAX_REASON_LEN { reason } else { "" };
    let len = 2 + reason.len();
    let mut bytes = Vec::with_capacity(2 + len);
    bytes.extend_from_slice(&[frame::FIN | Opcode::Close as u8, len as u8]);
    bytes.extend_from_slice(&u16::from(code).to_be_bytes());
    bytes.extend_from_slice(reason.as_bytes());
    bytes
}

/// The code in the (unmasked) payload of a peer's Close frame, which is empty or a code and a reason in UTF-8 (section
/// 5.5.1).
pub(super) fn check_close(payload: &[u8]) -> Result<Option<CloseCode>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::CutCloseCode),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !CloseCode::from(code).may_be_sent() {
        return Err(Violation::CloseCode);
    }
    std::str::from_utf8(reason).map(|_| Some(code.into())).map_err(|_| Violation::InvalidUtf8)
}
