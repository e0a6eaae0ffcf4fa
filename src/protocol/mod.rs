//! WebSocket (RFC 6455) without I/O and without a clock: bytes in, bytes out.
