//! What the operator can choose about the protocol.

/// What the server speaks on its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// WebSocket as in RFC 6455.
    #[default]
    WebSocket,
    /// A bare echo of bytes: the yardstick for what WebSocket costs, and useful behind load balancers on layer 4.
    Tcp,
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
    /// Subprotocols in the server's order of preference; the first that the client offers is selected (section 4.2.2).
    pub subprotocols: Vec<String>,
    /// The only path that is served (others get 404); `None`: every path is.
    pub path: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            protocol: Protocol::WebSocket,
            max_message_size: 64 << 20,
            max_handshake_size: 8192,
            subprotocols: Vec::new(),
            path: None,
        }
    }
}
