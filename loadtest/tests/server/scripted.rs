//! Servers that answer by the byte: what a library would not send, and what it would not tell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use super::{Outcome, read_request};

/// Starts a server that reads a request and leaves the rest to `serve`, on a thread for each connection. Returns where it
/// listens, and the requests as they come.
pub(crate) fn start(
    serve: impl Fn(TcpStream, &str) -> Outcome + Clone + Send + 'static,
) -> (SocketAddr, Receiver<String>) {
    start_on("127.0.0.1:0", serve).expect("a free port")
}

/// The same at this address.
pub(crate) fn start_on(
    address: &str,
    serve: impl Fn(TcpStream, &str) -> Outcome + Clone + Send + 'static,
) -> std::io::Result<(SocketAddr, Receiver<String>)> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    let (requests, received) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (serve, requests) = (serve.clone(), requests.clone());
            // An error is the end of one connection, as it is meant to be.
            std::thread::spawn(move || -> Outcome {
                stream.set_nodelay(true)?;
                let request = read_request(&mut stream)?;
                // Not every test looks at them.
                let _ = requests.send(request.clone());
                serve(stream, &request)
            });
        }
    });
    Ok((address, received))
}

/// The values of a header in a request.
pub(crate) fn values<'a>(request: &'a str, name: &str) -> Vec<&'a str> {
    let headers = request.lines().filter_map(|line| line.split_once(": "));
    headers.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// The right answer to a request, with more header lines.
pub(crate) fn upgrade(request: &str, more: &str) -> String {
    let accept = derive_accept_key(values(request, "sec-websocket-key")[0].as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

/// Upgrades, then has each message answered by `answer`.
pub(crate) fn answer(mut stream: TcpStream, request: &str, answer: impl Fn(Message) -> Vec<Message>) -> Outcome {
    stream.write_all(upgrade(request, "").as_bytes())?;
    serve(stream, answer)
}

/// Has each message of an upgraded connection answered by `answer`.
pub(crate) fn serve(stream: TcpStream, answer: impl Fn(Message) -> Vec<Message>) -> Outcome {
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    loop {
        let message = socket.read()?;
        if message.is_binary() || message.is_text() {
            for answer in answer(message) {
                socket.send(answer)?;
            }
        }
    }
}

/// Upgrades and echoes.
pub(crate) fn echo(stream: TcpStream, request: &str) -> Outcome {
    answer(stream, request, |message| vec![message])
}

/// Answers with these bytes and ends the connection when the client has.
pub(crate) fn reply(mut stream: TcpStream, bytes: &[u8]) -> Outcome {
    stream.write_all(bytes)?;
    std::io::copy(&mut stream, &mut std::io::sink())?;
    Ok(())
}

/// Reads a client's frame of up to 125 bytes.
pub(crate) fn read_frame(stream: &mut TcpStream) -> Outcome {
    let mut header = [0; 6];
    stream.read_exact(&mut header)?;
    let mut payload = vec![0; usize::from(header[1] & 0x7f)];
    Ok(stream.read_exact(&mut payload)?)
}
