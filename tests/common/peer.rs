//! A client that shows every byte: HTTP answers and frames as they came, violations sent as they are.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::PATIENCE;
use super::frames::{CLOSE, FIN, PING, PONG, close_payload, frame};

/// A complete upgrade request, with the example key of RFC 6455, section 1.3.
pub(crate) const UPGRADE: &str = "GET /echo HTTP/1.1\r\n\
    Host: localhost\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\
    \r\n";

/// A connected stream that fails instead of waiting for ever.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    prepare(&stream);
    stream
}

/// Gives a stream the options that every client here has.
pub(crate) fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).expect("a TCP socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("a TCP socket");
}

/// Sends from a thread of its own while `read` reads, as a client must that sends more than the path's buffers hold.
///
/// When reading fails the test, the connection is cut, so that the sender does not wait for a reader that is gone.
pub(crate) fn full_duplex<R>(stream: &TcpStream, send: impl FnOnce(TcpStream) + Send, read: impl FnOnce() -> R) -> R {
    struct CutOnPanic(TcpStream);
    impl Drop for CutOnPanic {
        fn drop(&mut self) {
            if thread::panicking() {
                let _ = self.0.shutdown(Shutdown::Both);
            }
        }
    }
    let clone = || stream.try_clone().expect("a descriptor");
    thread::scope(|scope| {
        let _cut = CutOnPanic(clone());
        let sender = clone();
        scope.spawn(move || send(sender));
        read()
    })
}

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// FIN bit and opcode: `FIN | TEXT`, say.
    pub(crate) first_byte: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(first_byte: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { first_byte, payload: payload.into() }
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// By `Content-Length`; empty without one.
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header that may occur once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert!(values.next().is_none(), "{name} occurs twice in {self:?}");
        first
    }
}

/// A client that sees every byte.
pub(crate) struct Peer {
    stream: BufReader<TcpStream>,
    /// permessage-deflate was agreed upon: RSV1 may be set.
    pub(crate) takes_compressed: bool,
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(connect(address))
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        // Small enough for tens of thousands of clients.
        Self { stream: BufReader::with_capacity(2048, stream), takes_compressed: false }
    }

    /// Connects and upgrades.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let mut peer = Self::connect(address);
        peer.upgrade();
        peer
    }

    /// Performs the handshake.
    pub(crate) fn upgrade(&mut self) {
        self.send(UPGRADE);
        self.expect_upgrade();
    }

    pub(crate) fn expect_upgrade(&mut self) {
        let answer = self.read_answer();
        assert_eq!(answer.status, 101, "{answer:?}");
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("sending: {error}"));
    }

    /// For sending to a server that may have closed already.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Ends the sending direction.
    pub(crate) fn shut_down_sending(&self) {
        self.socket().shutdown(Shutdown::Write).expect("a connected socket");
    }

    /// Sends bytes from a thread of its own while `read` reads; see [`full_duplex`].
    pub(crate) fn while_sending<R>(&mut self, bytes: &[u8], read: impl FnOnce(&mut Self) -> R) -> R {
        let stream = self.socket().try_clone().expect("a descriptor");
        let send = |mut sender: TcpStream| sender.write_all(bytes).expect("the server reads");
        full_duplex(&stream, send, || read(self))
    }

    /// Drops the connection with a reset (RST), as a client that crashed does.
    pub(crate) fn reset(self) {
        SockRef::from(self.socket()).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    }

    /// Reads an HTTP answer's head, and its body if it has a `Content-Length`.
    pub(crate) fn read_answer(&mut self) -> Answer {
        let status_line = self.read_line();
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let Some(status) = status else { panic!("not a status line: {status_line:?}") };
        let mut headers = Vec::new();
        loop {
            let line = self.read_line();
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(": ") else { panic!("not a header: {line:?}") };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut answer = Answer { status, headers, body: String::new() };
        if let Some(length) = answer.header("content-length") {
            let mut body = vec![0; length.parse().expect("a decimal Content-Length")];
            self.read_exact(&mut body);
            answer.body = String::from_utf8(body).expect("a body in UTF-8");
        }
        answer
    }

    fn read_line(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap_or_else(|error| panic!("reading an answer: {error}"));
        let line = String::from_utf8(line).expect("an answer in UTF-8");
        let Some(line) = line.strip_suffix("\r\n") else { panic!("the answer breaks off with {line:?}") };
        line.to_owned()
    }

    pub(crate) fn read_exact(&mut self, bytes: &mut [u8]) {
        self.stream.read_exact(bytes).unwrap_or_else(|error| panic!("reading {} bytes: {error}", bytes.len()));
    }

    /// Whatever comes next, at least one byte unless the stream has ended.
    pub(crate) fn read_some(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.read(bytes)
    }

    /// Reads a frame's header: the first byte and the payload's length. Insists on what every server's frame must be.
    pub(crate) fn read_header(&mut self) -> (u8, u64) {
        let mut start = [0; 2];
        self.read_exact(&mut start);
        let [first_byte, second_byte] = start;
        let reserved = if self.takes_compressed { 0x30 } else { 0x70 };
        assert_eq!(first_byte & reserved, 0, "reserved bits in a frame: {start:02x?}");
        assert_eq!(second_byte & 0x80, 0, "a masked frame from the server: {start:02x?}");
        let length = match second_byte {
            126 => {
                let mut bytes = [0; 2];
                self.read_exact(&mut bytes);
                let length = u64::from(u16::from_be_bytes(bytes));
                assert!(length > 125, "{length} in 16 bits");
                length
            }
            127 => {
                let mut bytes = [0; 8];
                self.read_exact(&mut bytes);
                let length = u64::from_be_bytes(bytes);
                assert!(length > 0xffff, "{length} in 64 bits");
                length
            }
            short => u64::from(short),
        };
        if first_byte & 0x8 != 0 {
            assert!(first_byte & FIN != 0 && length <= 125, "a control frame {first_byte:#x} of {length} bytes");
        }
        (first_byte, length)
    }

    pub(crate) fn read_frame(&mut self) -> Frame {
        let (first_byte, length) = self.read_header();
        let mut payload = vec![0; length as usize];
        self.read_exact(&mut payload);
        Frame { first_byte, payload }
    }

    /// Reads the frames of one message and returns its opcode and payload.
    pub(crate) fn read_message(&mut self) -> Frame {
        let mut message = self.read_frame();
        assert_ne!(message.first_byte, 0, "a continuation of nothing");
        while message.first_byte & FIN == 0 {
            let next = self.read_frame();
            assert_eq!(next.first_byte & !FIN, 0, "within a fragmented message: {next:?}");
            message.payload.extend(next.payload);
            message.first_byte |= next.first_byte;
        }
        message
    }

    pub(crate) fn expect_frame(&mut self, first_byte: u8, payload: impl AsRef<[u8]>) {
        assert_eq!(self.read_frame(), Frame::new(first_byte, payload.as_ref()));
    }

    /// Sends one complete message and insists on its echo.
    pub(crate) fn expect_echo(&mut self, opcode: u8, payload: impl AsRef<[u8]>) {
        let payload = payload.as_ref();
        self.send(frame(FIN | opcode, payload));
        assert_eq!(self.read_message(), Frame::new(FIN | opcode, payload));
    }

    /// Insists on a Close frame with this status code, whatever its reason says.
    pub(crate) fn expect_close(&mut self, code: u16) {
        let frame = self.read_frame();
        assert_eq!(frame.first_byte, FIN | CLOSE, "Close {code} expected, {frame:?} received");
        let expected = close_payload(code, b"");
        assert_eq!(frame.payload.get(..2), Some(&expected[..]), "Close {code} expected, {frame:?} received");
        assert!(std::str::from_utf8(&frame.payload[2..]).is_ok(), "the reason is not UTF-8: {frame:?}");
    }

    /// Insists on an orderly end (FIN) with nothing before it; a reset would have lost what came before it.
    pub(crate) fn expect_end(&mut self) {
        let rest = self.read_to_end().unwrap_or_else(|error| panic!("the connection must end with FIN: {error}"));
        assert!(rest.is_empty(), "bytes where the connection should end: {rest:02x?}");
    }

    /// Everything until the server ends the connection.
    pub(crate) fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Waits for the end of the connection, whether by FIN or by RST, and fails if anything comes before it.
    pub(crate) fn expect_disconnect(&mut self) {
        match self.read_to_end() {
            Ok(rest) => assert!(rest.is_empty(), "bytes where the connection should end: {rest:02x?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }

    /// Waits until the server's kernel has everything that was sent (`TIOCOUTQ`, see `tcp(7)`).
    pub(crate) fn await_acknowledgement(&self) {
        super::eventually("everything sent is acknowledged", || {
            self.expect_no_reset();
            let mut unacknowledged: libc::c_int = 0;
            // SAFETY: TIOCOUTQ writes one int, for which there is room.
            let result = unsafe { libc::ioctl(self.socket().as_raw_fd(), libc::TIOCOUTQ, &raw mut unacknowledged) };
            assert_eq!(result, 0, "TIOCOUTQ: {}", io::Error::last_os_error());
            unacknowledged == 0
        });
    }

    /// Insists that the server has not reset the connection (RST) up to now, whatever was read before.
    pub(crate) fn expect_no_reset(&self) {
        let error = self.socket().take_error().expect("a TCP socket");
        assert!(error.is_none(), "the server has reset the connection: {error:?}");
    }

    /// Whether nothing has arrived yet.
    pub(crate) fn is_silent(&self) -> bool {
        if !self.stream.buffer().is_empty() {
            return false;
        }
        self.socket().set_nonblocking(true).expect("a TCP socket");
        let peeked = self.socket().peek(&mut [0]);
        self.socket().set_nonblocking(false).expect("a TCP socket");
        matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Proves that everything sent before has been dealt with: a ping is answered after it, in order.
    pub(crate) fn synchronize(&mut self) {
        self.send(frame(FIN | PING, b"in step?"));
        self.expect_frame(FIN | PONG, b"in step?");
    }
}
