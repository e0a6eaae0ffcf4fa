//! sockudo-ws with its stream API and `write_coalescing` ("use `feed` followed by `flush` at batch boundaries"), and
//! mimalloc, which it recommends for production. Its own timers for idle connections are off, as everybody's are.

use bytes::BytesMut;
use common::Arguments;
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::{Config, Error, Message, Result, WebSocketStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn main() {
    common::serve(Arguments::parse(), echo);
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    shake_hands(&mut stream).await?;
    let config = Config::builder()
        .max_message_size(common::MAX_MESSAGE_BYTES)
        .max_frame_size(common::MAX_MESSAGE_BYTES)
        .auto_ping(false)
        .idle_timeout(0)
        .build();
    let socket = WebSocketStream::server(stream, config);
    common::echo(socket, |message: &Message| matches!(message, Message::Text(_) | Message::Binary(_))).await
}

async fn shake_hands(stream: &mut TcpStream) -> Result<()> {
    let mut buffer = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        if let Some((request, _length)) = parse_request(&buffer)? {
            let response = build_response(&generate_accept_key(request.key), None, None);
            stream.write_all(&response).await?;
            return Ok(());
        }
    }
}
