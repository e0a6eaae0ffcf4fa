//! A server made of threads and tungstenite, which can misbehave on purpose.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::{Message, WebSocket};

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
    /// Sends a message that nobody asked for.
    Greeter,
    /// Echoes bytes, without any WebSocket.
    Tcp,
}

/// Starts a server; its threads end with the test process.
pub(crate) fn start(behaviour: Behaviour) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let messages = Arc::new(AtomicU64::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let messages = Arc::clone(&messages);
            // An error is the end of one connection, as it is meant to be.
            std::thread::spawn(move || serve(stream, behaviour, &messages));
        }
    });
    address
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn serve(mut stream: TcpStream, behaviour: Behaviour, messages: &AtomicU64) -> Outcome {
    stream.set_nodelay(true)?;
    match behaviour {
        Behaviour::Mute => {
            std::io::copy(&mut stream, &mut std::io::sink())?;
            return Ok(());
        }
        Behaviour::Status(status) => {
            read_request(&mut stream)?;
            write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            return Ok(());
        }
        Behaviour::WrongAccept => {
            read_request(&mut stream)?;
            let accept = derive_accept_key(b"something else");
            write!(
                stream,
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            )?;
            std::io::copy(&mut stream, &mut std::io::sink())?;
            return Ok(());
        }
        Behaviour::Tcp => {
            std::io::copy(&mut stream.try_clone()?, &mut stream)?;
            return Ok(());
        }
        _ => {}
    }
    let mut socket = tungstenite::accept(stream)?;
    if behaviour == Behaviour::Greeter {
        socket.send(Message::Binary(vec![1, 2, 3].into()))?;
    }
    let mut echoed = 0;
    loop {
        let message = socket.read()?;
        let (Message::Binary(_) | Message::Text(_)) = message else { continue };
        let is_tenth = messages.fetch_add(1, Ordering::Relaxed) % 10 == 9;
        echo(&mut socket, message, behaviour, is_tenth)?;
        echoed += 1;
        match behaviour {
            Behaviour::CloseAfterTen if echoed == 10 => socket.close(None)?,
            Behaviour::HangUpAfterTen if echoed == 10 => return Ok(()),
            _ => {}
        }
    }
}

fn echo(socket: &mut WebSocket<TcpStream>, message: Message, behaviour: Behaviour, is_tenth: bool) -> Outcome {
    match behaviour {
        Behaviour::CorruptTenth if is_tenth => {
            let mut bytes = message.into_data().to_vec();
            *bytes.last_mut().expect("not empty") ^= 1;
            socket.send(Message::Binary(bytes.into()))?;
        }
        Behaviour::DropTenth if is_tenth => {}
        Behaviour::Deaf => {}
        Behaviour::RepeatTenth if is_tenth => {
            socket.send(message.clone())?;
            socket.send(message)?;
        }
        Behaviour::Fragments => in_fragments(socket.get_mut(), &message.into_data())?,
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

fn read_request(stream: &mut TcpStream) -> Outcome {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    Ok(())
}
