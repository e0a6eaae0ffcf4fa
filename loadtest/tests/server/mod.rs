//! A server made of threads and tungstenite, which can misbehave on purpose.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod compressing;
pub(crate) mod scripted;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::{HeaderValue, StatusCode};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader, FrameSocket};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

/// Misbehaviours, and where the results count each.
pub(crate) const FAULTS: [(Behaviour, &str); 7] = [
    (Behaviour::CorruptTenth, "/messages/corrupted"),
    (Behaviour::DropTenth, "/messages/lost"),
    (Behaviour::RepeatTenth, "/messages/duplicated"),
    (Behaviour::CloseAfterTen, "/connections/closed_early"),
    (Behaviour::HangUpAfterTen, "/connections/closed_early"),
    (Behaviour::Status(503), "/connections/failed"),
    (Behaviour::HangUpAtOnce, "/connections/failed"),
];

/// What is wrong with the server, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Nothing.
    Echo,
    /// Changes the last byte of every tenth message.
    CorruptTenth,
    /// Does not echo every tenth message.
    DropTenth,
    /// Echoes every tenth message twice.
    RepeatTenth,
    /// Answers the upgrade with this HTTP status.
    Status(u16),
    /// Answers the upgrade with a wrong accept key.
    WrongAccept,
    /// Accepts, and says nothing.
    Mute,
    /// Upgrades, and echoes nothing.
    Deaf,
    /// Sends a Close after ten echoes.
    CloseAfterTen,
    /// Ends the TCP connection after ten echoes.
    HangUpAfterTen,
    /// Echoes in fragments with a ping between, each byte of the header in a segment of its own.
    Fragments,
    /// Masks its frames, which only clients do.
    Masked,
    /// Sends an unrequested message.
    Greeter,
    /// Echoes bytes, without any WebSocket.
    Tcp,
    /// Echoes each tenth message of a connection only behind the next one.
    SwapTenth,
    /// Echoes the first message at once, and then always so many together.
    Together(usize),
    /// Keeps the third message of a connection back until the client has sent its Close.
    LateThird,
    /// Closes every connection as soon as it is there.
    HangUpAtOnce,
    /// Sends another message behind its own Close.
    TalksAfterClose,
    /// Does not echo anything for a second, once, from this many messages on.
    Stall(u64),
    /// Greets in words before the first echo.
    Welcomes,
    /// Takes clients from 127.5.5.0/24 only.
    OnlyFrom127_5_5,
    /// Takes requests with `Authorization: let me in` only, and speaks subprotocol `b`.
    Picky,
    /// Answers 503 to all but this many connections at a time.
    Full(u64),
    /// Takes a few milliseconds for each message, one after the other.
    Slow,
    /// Sends each answer, to the upgrade and to messages, in two segments.
    TwoSegments,
    /// Answers a Close with one that gives no reason.
    BareClose,
    /// Answers a Close, and resets the TCP connection at once.
    ResetBehindClose,
    /// Answers a Close with another code than the client's.
    OtherClose,
    /// Does not answer a Close.
    IgnoresClose,
    /// Echoes nothing, does not answer a Close, and resets the TCP connection when the client ends it.
    Unmoved,
    /// Answers a Close, and leaves the TCP connection open.
    OpenBehindClose,
    /// Answers a Ping with a Pong that has another payload.
    OtherPong,
    /// Takes messages up to 64 KiB only, and ends the connection at a larger one.
    SmallMessages,
    /// Answers each frame, whatever it is, with a binary message of its payload.
    EachFrame,
    /// Echoes each fragment as a message of its own.
    EachFragment,
    /// Echoes text as binary.
    TextAsBinary,
    /// Leaves out the last byte of messages of this length.
    ShortAt(usize),
    /// Sends a message behind its answer to a Close.
    TalksBehindClose,
    /// Echoes bytes, without any WebSocket, and leaves the connection open when the client has ended it.
    OpenTcp,
    /// Lets each connection wait before it is accepted.
    SlowAccept,
}

/// How long [`Behaviour::Stall`] lasts.
pub(crate) const STALL: Duration = Duration::from_secs(1);

/// How long a connection waits at [`Behaviour::SlowAccept`].
pub(crate) const ACCEPT: Duration = Duration::from_millis(50);

/// What a server's threads share.
#[derive(Default)]
struct Shared {
    messages: AtomicU64,
    connections: AtomicU64,
    /// Held while nothing is to be echoed.
    gate: Mutex<()>,
}

/// Starts a server; its threads end with the test process.
pub(crate) fn start(behaviour: Behaviour) -> SocketAddr {
    start_on("127.0.0.1:0", behaviour)
}

/// The same at this address.
pub(crate) fn start_on(address: &str, behaviour: Behaviour) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let shared = Arc::new(Shared::default());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if behaviour == Behaviour::SlowAccept {
                std::thread::sleep(ACCEPT);
            }
            let shared = Arc::clone(&shared);
            // An error is the end of one connection, as it is meant to be.
            std::thread::spawn(move || {
                let others = shared.connections.fetch_add(1, Ordering::SeqCst);
                let is_full = matches!(behaviour, Behaviour::Full(most) if others >= most);
                let outcome = serve(stream, if is_full { Behaviour::Status(503) } else { behaviour }, &shared);
                shared.connections.fetch_sub(1, Ordering::SeqCst);
                outcome
            });
        }
    });
    address
}

/// Starts a server that echoes at a socket in the file system.
pub(crate) fn start_at_path(path: &std::path::Path) {
    let listener = UnixListener::bind(path).expect("a free path");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> Outcome {
                let mut socket = tungstenite::accept(stream)?;
                loop {
                    let message = socket.read()?;
                    if message.is_binary() || message.is_text() {
                        socket.send(message)?;
                    }
                }
            });
        }
    });
}

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn serve(mut stream: TcpStream, behaviour: Behaviour, shared: &Shared) -> Outcome {
    stream.set_nodelay(true)?;
    if is_served_without_upgrade(&mut stream, behaviour)? {
        return Ok(());
    }
    let mut socket = match behaviour {
        Behaviour::Picky => tungstenite::accept_hdr(stream, pick).map_err(|error| error.to_string())?,
        Behaviour::TwoSegments => accept_in_two_segments(stream)?,
        Behaviour::SmallMessages => {
            let config = WebSocketConfig::default().max_message_size(Some(64 << 10)).max_frame_size(Some(64 << 10));
            tungstenite::accept_with_config(stream, Some(config))?
        }
        _ => tungstenite::accept(stream)?,
    };
    match behaviour {
        Behaviour::EachFrame | Behaviour::EachFragment => {
            return answer_each_frame(socket.get_ref().try_clone()?, behaviour);
        }
        Behaviour::Greeter => socket.send(Message::Binary(vec![1, 2, 3].into()))?,
        Behaviour::Welcomes => socket.send(Message::Text("Request served by an echo server".into()))?,
        _ => {}
    }
    let mut echoed = 0;
    let mut kept = None;
    let mut together = Vec::new();
    loop {
        let message = socket.read()?;
        if message.is_close() && is_own_close(behaviour) {
            return close(socket.get_mut(), behaviour);
        }
        if message.is_ping() && behaviour == Behaviour::OtherPong {
            socket.send(Message::Pong(b"another payload".as_slice().into()))?;
        }
        if message.is_close()
            && let Some(kept) = kept.take()
        {
            // The answer to the Close is still to be written.
            write_frame(socket.get_mut(), kept)?;
        }
        let (Message::Binary(_) | Message::Text(_)) = message else { continue };
        let count = shared.messages.fetch_add(1, Ordering::Relaxed) + 1;
        let open = shared.gate.lock().expect("no thread panics with it");
        if behaviour == Behaviour::Stall(count) {
            std::thread::sleep(STALL);
        }
        drop(open);
        if behaviour == Behaviour::Slow {
            std::thread::sleep(Duration::from_millis(4));
        }
        echoed += 1;
        match behaviour {
            Behaviour::SwapTenth if echoed % 10 == 0 => kept = Some(message),
            Behaviour::LateThird if echoed == 3 => kept = Some(message),
            Behaviour::Together(count) if echoed > 1 => {
                together.push(message);
                if together.len() == count {
                    together.drain(..).try_for_each(|message| socket.send(message))?;
                }
            }
            _ => echo(&mut socket, message, behaviour, count.is_multiple_of(10))?,
        }
        match behaviour {
            Behaviour::SwapTenth if echoed % 10 == 1 => kept.take().map_or(Ok(()), |kept| socket.send(kept))?,
            Behaviour::CloseAfterTen | Behaviour::TalksAfterClose if echoed == 10 => {
                socket.close(None)?;
                if behaviour == Behaviour::TalksAfterClose {
                    write_frame(socket.get_mut(), Message::Binary(vec![7].into()))?;
                }
            }
            Behaviour::HangUpAfterTen if echoed == 10 => return Ok(()),
            _ => {}
        }
    }
}

/// Serves the connections of behaviours that do not come to an upgrade. Returns whether this was one.
fn is_served_without_upgrade(
    stream: &mut TcpStream,
    behaviour: Behaviour,
) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    match behaviour {
        Behaviour::HangUpAtOnce => {}
        Behaviour::OnlyFrom127_5_5 if !stream.peer_addr()?.to_string().starts_with("127.5.5.") => {}
        Behaviour::Mute => {
            std::io::copy(stream, &mut std::io::sink())?;
        }
        Behaviour::Status(status) => {
            read_request(stream)?;
            write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        }
        Behaviour::WrongAccept => {
            read_request(stream)?;
            let accept = derive_accept_key(b"something else");
            write!(
                stream,
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            )?;
            std::io::copy(stream, &mut std::io::sink())?;
        }
        Behaviour::Tcp => {
            std::io::copy(&mut stream.try_clone()?, stream)?;
        }
        Behaviour::OpenTcp => {
            std::io::copy(&mut stream.try_clone()?, stream)?;
            stay_open(stream);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Whether [`close`] takes the place of tungstenite's answer to a Close.
fn is_own_close(behaviour: Behaviour) -> bool {
    use Behaviour::{
        BareClose, IgnoresClose, OpenBehindClose, OtherClose, ResetBehindClose, TalksBehindClose, Unmoved,
    };
    matches!(
        behaviour,
        BareClose | ResetBehindClose | OtherClose | IgnoresClose | OpenBehindClose | TalksBehindClose | Unmoved
    )
}

/// Answers a Close, or not. tungstenite would write its own answer at the next read.
fn close(stream: &mut TcpStream, behaviour: Behaviour) -> Outcome {
    if matches!(behaviour, Behaviour::ResetBehindClose | Behaviour::Unmoved) {
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
    }
    match behaviour {
        Behaviour::IgnoresClose | Behaviour::Unmoved => {}
        Behaviour::OtherClose => stream.write_all(&[0x88, 2, 0x03, 0xf3])?, // 1011
        Behaviour::TalksBehindClose => stream.write_all(&[0x88, 0, 0x82, 1, 7])?,
        _ => stream.write_all(&[0x88, 0])?,
    }
    if matches!(behaviour, Behaviour::IgnoresClose | Behaviour::OpenBehindClose | Behaviour::Unmoved) {
        std::io::copy(stream, &mut std::io::sink())?;
    }
    Ok(())
}

/// Until the client's process ends.
fn stay_open(stream: &TcpStream) -> ! {
    loop {
        std::hint::black_box(stream);
        std::thread::park();
    }
}

fn answer_each_frame(stream: TcpStream, behaviour: Behaviour) -> Outcome {
    let mut frames = FrameSocket::new(stream);
    while let Some(frame) = frames.read(None)? {
        let opcode = frame.header().opcode;
        let mask = frame.header().mask.ok_or("a client's frame without a masking key")?;
        let payload = frame.into_payload();
        let payload: Vec<u8> = payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
        let answer = match (opcode, behaviour) {
            (OpCode::Control(Control::Close), Behaviour::EachFragment) => return Ok(frames.send(Frame::close(None))?),
            (OpCode::Control(Control::Ping), Behaviour::EachFragment) => Frame::pong(payload),
            (OpCode::Data(Data::Text), Behaviour::EachFragment) => Frame::message(payload, opcode, true),
            _ => Frame::message(payload, OpCode::Data(Data::Binary), true),
        };
        frames.send(answer)?;
    }
    Ok(())
}

/// Writes a message as one frame, whatever the connection's state.
fn write_frame(stream: &mut TcpStream, message: Message) -> Outcome {
    let frame = Frame::message(message.into_data(), OpCode::Data(Data::Binary), true);
    let mut bytes = Vec::new();
    frame.format(&mut bytes)?;
    Ok(stream.write_all(&bytes)?)
}

/// Takes only requests with the right header, and chooses subprotocol `b` if it is offered.
#[expect(clippy::result_large_err, reason = "the form that tungstenite asks for")]
fn pick(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    if request.headers().get("authorization").is_none_or(|value| value != "let me in") {
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = StatusCode::UNAUTHORIZED;
        return Err(refusal);
    }
    let offered = request.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
    if offered.is_some_and(|offered| offered.split(", ").any(|name| name == "b")) {
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("b"));
    }
    Ok(response)
}

fn echo(socket: &mut WebSocket<TcpStream>, message: Message, behaviour: Behaviour, is_tenth: bool) -> Outcome {
    match behaviour {
        Behaviour::CorruptTenth if is_tenth => {
            let mut bytes = message.into_data().to_vec();
            *bytes.last_mut().expect("not empty") ^= 1;
            socket.send(Message::Binary(bytes.into()))?;
        }
        Behaviour::DropTenth if is_tenth => {}
        Behaviour::TextAsBinary => socket.send(Message::Binary(message.into_data()))?,
        Behaviour::ShortAt(len) if message.len() == len => {
            socket.send(Message::Binary(message.into_data().slice(..len - 1)))?;
        }
        Behaviour::Deaf | Behaviour::Unmoved => {}
        Behaviour::RepeatTenth if is_tenth => {
            socket.send(message.clone())?;
            socket.send(message)?;
        }
        Behaviour::Fragments => in_fragments(socket.get_mut(), &message.into_data())?,
        Behaviour::TwoSegments => {
            let frame = Frame::message(message.into_data(), OpCode::Data(Data::Binary), true);
            let mut bytes = Vec::new();
            frame.format(&mut bytes)?;
            in_two_segments(socket.get_mut(), &bytes)?;
        }
        Behaviour::Masked => {
            let mut frame = Frame::message(message.into_data(), OpCode::Data(Data::Binary), true);
            frame.header_mut().mask = Some([1, 2, 3, 4]);
            let mut bytes = Vec::new();
            frame.format(&mut bytes)?;
            socket.get_mut().write_all(&bytes)?;
        }
        _ => socket.send(message)?,
    }
    Ok(())
}

fn in_fragments(stream: &mut TcpStream, payload: &[u8]) -> Outcome {
    let mut segments: Vec<Vec<u8>> = Vec::new();
    let frame = |opcode, is_final, payload: &[u8]| {
        let header = FrameHeader { is_final, opcode, ..FrameHeader::default() };
        let mut bytes = Vec::new();
        header.format(payload.len() as u64, &mut bytes).expect("a vector takes everything");
        (bytes, payload.to_vec())
    };
    let (first, second) = payload.split_at(payload.len() / 2);
    for (header, payload) in [
        frame(OpCode::Data(Data::Binary), false, first),
        frame(OpCode::Control(Control::Ping), true, b"between"),
        frame(OpCode::Data(Data::Continue), true, second),
    ] {
        segments.extend(header.iter().map(|&byte| vec![byte]));
        segments.push(payload);
    }
    for segment in segments {
        stream.write_all(&segment)?;
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The second one comes when the first one has probably been read.
fn in_two_segments(stream: &mut TcpStream, bytes: &[u8]) -> Outcome {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    stream.write_all(first)?;
    std::thread::sleep(Duration::from_micros(200));
    Ok(stream.write_all(second)?)
}

fn accept_in_two_segments(
    mut stream: TcpStream,
) -> Result<WebSocket<TcpStream>, Box<dyn std::error::Error + Send + Sync>> {
    let request = read_request(&mut stream)?;
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).ok_or("no key")?;
    let accept = derive_accept_key(key.as_bytes());
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept:";
    in_two_segments(&mut stream, format!("{answer} {accept}\r\n\r\n").as_bytes())?;
    Ok(WebSocket::from_raw_socket(stream, Role::Server, None))
}

fn read_request(stream: &mut TcpStream) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    Ok(String::from_utf8(request)?)
}

/// The server's end of a connection through TLS.
pub(crate) type TlsStream = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;

/// Starts a server that echoes through TLS; its certificate is for localhost. Returns where, and the certificate in PEM.
pub(crate) fn start_tls() -> (SocketAddr, String) {
    start_tls_up_to(usize::MAX, echo_through_tls)
}

/// The same for so many connections; all others it closes at once.
pub(crate) fn start_tls_for(connections: usize) -> SocketAddr {
    start_tls_up_to(connections, echo_through_tls).0
}

fn echo_through_tls(stream: TlsStream) -> Outcome {
    let mut socket = tungstenite::accept(stream).map_err(|it| it.to_string())?;
    loop {
        let message = socket.read()?;
        if message.is_binary() || message.is_text() {
            socket.send(message)?;
        }
    }
}

/// Starts a server that does something else through TLS, on a thread for each connection.
pub(crate) fn start_tls_with(serve: impl Fn(TlsStream) -> Outcome + Send + Sync + 'static) -> (SocketAddr, String) {
    start_tls_up_to(usize::MAX, serve)
}

/// The same for clients whose kernel takes only a few dozen KiB at a time: it makes room for ten segments, and they are short.
pub(crate) fn start_tls_in_short_segments(serve: impl Fn(TlsStream) -> Outcome + Send + Sync + 'static) -> SocketAddr {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket2::SockRef::from(&listener).set_tcp_mss(536).expect("a length of segments");
    start_tls_on(listener, &certified, None, usize::MAX, serve)
}

fn start_tls_up_to(
    connections: usize,
    serve: impl Fn(TlsStream) -> Outcome + Send + Sync + 'static,
) -> (SocketAddr, String) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let address = start_tls_as(&certified, None, connections, serve);
    (address, certified.cert.pem())
}

/// A certificate with its key.
pub(crate) type Certified = rcgen::CertifiedKey<rcgen::KeyPair>;

/// A certificate like those of `openssl req -x509`: its own issuer, and an authority.
pub(crate) fn authority(name: &str) -> Certified {
    let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let signing_key = rcgen::KeyPair::generate().expect("a key");
    rcgen::CertifiedKey { cert: parameters.self_signed(&signing_key).expect("a certificate"), signing_key }
}

/// Starts a server that echoes through TLS with this certificate, for clients that show one issued by `clients`, if it is
/// given.
pub(crate) fn start_tls_echo_as(certified: &Certified, clients: Option<&Certified>) -> SocketAddr {
    start_tls_as(certified, clients, usize::MAX, echo_through_tls)
}

fn start_tls_as(
    certified: &Certified,
    clients: Option<&Certified>,
    connections: usize,
    serve: impl Fn(TlsStream) -> Outcome + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    start_tls_on(listener, certified, clients, connections, serve)
}

fn start_tls_on(
    listener: TcpListener,
    certified: &Certified,
    clients: Option<&Certified>,
    connections: usize,
    serve: impl Fn(TlsStream) -> Outcome + Send + Sync + 'static,
) -> SocketAddr {
    let (certificate, key) = (certified.cert.der().clone(), certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(issuer) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(issuer.cert.der().clone()).expect("a certificate");
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("an issuer"))
        }
    };
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key).into();
    let config = Arc::new(builder.with_single_cert(vec![certificate], key).expect("the key fits"));
    let address = listener.local_addr().expect("bound");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().flatten().enumerate() {
            if index >= connections {
                continue;
            }
            let (config, serve) = (Arc::clone(&config), Arc::clone(&serve));
            std::thread::spawn(move || serve(TlsStream::new(rustls::ServerConnection::new(config)?, stream)));
        }
    });
    address
}
