//! Close codes (RFC 6455, section 7.4, and the registry that it founded).

/// The status code of a Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the endpoint goes away: a server stops, or gives an idle connection up.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer has violated the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1007: a text message is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1009: a message is larger than the endpoint takes.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1013: the endpoint cannot serve this now.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// Whether an endpoint may put this code into a Close frame: registered codes but for the three that stand for the
    /// lack of one (1005, 1006, 1015), and the ranges for libraries and applications (sections 7.4.1 and 7.4.2).
    pub const fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl From<u16> for CloseCode {
    fn from(code: u16) -> Self {
        Self(code)
    }
}

impl From<CloseCode> for u16 {
    fn from(CloseCode(code): CloseCode) -> Self {
        code
    }
}
