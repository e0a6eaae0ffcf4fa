//! The settings of the protocol.

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// WebSocket as in RFC 6455.
    #[default]
    WebSocket,
    /// A bare echo of bytes: the yardstick for what WebSocket costs, and useful behind load balancers on layer 4.
    Tcp,
}

/// The handling of permessage-deflate (RFC 7692).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deflate {
    /// It declines it.
    #[default]
    Off,
    /// Compressed messages are echoed as they are, which the answer to the client's offer makes right; text is inflated to be
    /// checked.
    Pass,
    /// Like pass, and binary messages are checked, too.
    Verify,
    /// Messages are inflated, and compressed anew for the echo, as other servers do.
    Recompress,
}

impl Deflate {
    /// As on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Pass => "pass",
            Self::Verify => "verify",
            Self::Recompress => "recompress",
        }
    }

    /// The mode of permessage-deflate, and whether context takeover is accepted.
    pub(crate) fn with_context(self, has_context: bool) -> String {
        format!("{}{}", self.name(), if has_context { " with context" } else { "" })
    }
}

/// The protocol's settings: read-only, shared by all connections of a worker.
#[derive(Clone, Debug)]
pub struct Settings {
    pub protocol: Protocol,
    /// Payload bytes of a whole message, the sum over its fragments; beyond it the connection fails with 1009.
    /// `u64::MAX`: no limit.
    pub max_message_size: u64,
    /// Bytes of an upgrade request, from its first to the empty line that ends it; beyond it the answer is 431.
    pub max_handshake_size: usize,
    /// Its header lines; beyond them the answer is 431, too.
    pub max_handshake_headers: usize,
    /// Subprotocols in the server's order of preference; the first that the client offers is selected (section 4.2.2).
    /// [`Settings::ANY`] stands for the first that it offers, whatever that is.
    pub subprotocols: Vec<String>,
    /// The only path that is served (others get 404), in normal form; `None`: every path is.
    pub path: Option<String>,
    /// The path that answers a GET without an upgrade with 200, in normal form.
    pub health_path: Option<String>,
    /// Whether browsers that ask for no WebSocket get the test page.
    pub has_page: bool,
    /// Whether there are [`Behaviour`](super::Behaviour)s at their paths, whatever `path` says.
    pub has_behaviours: bool,
    /// The handling of offers of permessage-deflate.
    pub deflate: Deflate,
    /// Whether clients may take the context of their compression over from one message to the next.
    pub has_deflate_context: bool,
}

impl Settings {
    /// In the list of subprotocols: any.
    pub const ANY: &str = "*";
    /// The default of `max_handshake_size`: as much as Node.js takes; cookies and tokens fill it.
    pub const HANDSHAKE_SIZE: usize = 16 << 10;
    /// The default of `max_handshake_headers`: browsers send 20, and each proxy on the way adds some.
    pub const HANDSHAKE_HEADERS: usize = 128;
    /// The default of `health_path`.
    pub const HEALTH_PATH: &str = "/healthz";
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            protocol: Protocol::WebSocket,
            max_message_size: 64 << 20,
            max_handshake_size: Self::HANDSHAKE_SIZE,
            max_handshake_headers: Self::HANDSHAKE_HEADERS,
            subprotocols: Vec::new(),
            path: None,
            health_path: Some(Self::HEALTH_PATH.to_owned()),
            has_page: true,
            has_behaviours: false,
            deflate: Deflate::Off,
            has_deflate_context: false,
        }
    }
}
