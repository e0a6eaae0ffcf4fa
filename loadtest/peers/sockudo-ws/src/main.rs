//! sockudo-ws with its stream API and `write_coalescing` ("use `feed` followed by `flush` at batch boundaries"), and
//! mimalloc, which it recommends for production. Its own timers for idle connections are off, as everybody's are. With the
//! feature `deflate` it compresses where a client offers that, with its defaults.

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
    let extensions = shake_hands(&mut stream).await?;
    let config = Config::builder()
        .max_message_size(common::MAX_MESSAGE_BYTES)
        .max_frame_size(common::MAX_MESSAGE_BYTES)
        .auto_ping(false)
        .idle_timeout(0)
        .build();
    let is_data = |message: &Message| matches!(message, Message::Text(_) | Message::Binary(_));
    match extensions {
        #[cfg(feature = "deflate")]
        Some(it) => common::echo(sockudo_ws::CompressedWebSocketStream::server(stream, config, it.config), is_data).await,
        _ => common::echo(WebSocketStream::server(stream, config), is_data).await,
    }
}

#[cfg(feature = "deflate")]
use sockudo_ws::deflate::DeflateNegotiation as Agreed;
#[cfg(not(feature = "deflate"))]
type Agreed = std::convert::Infallible;

#[cfg(feature = "deflate")]
fn agree(offers: &str) -> Option<Agreed> {
    sockudo_ws::deflate::negotiate_server_deflate(offers, &Default::default())
}

#[cfg(not(feature = "deflate"))]
fn agree(_: &str) -> Option<Agreed> {
    None
}

/// Upgrades the connection. Returns what was agreed on about compression.
async fn shake_hands(stream: &mut TcpStream) -> Result<Option<Agreed>> {
    let mut buffer = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        if let Some((request, _length)) = parse_request(&buffer)? {
            let agreed = request.extensions.and_then(agree);
            #[cfg(feature = "deflate")]
            let header = agreed.as_ref().map(Agreed::to_response_header);
            #[cfg(not(feature = "deflate"))]
            let header: Option<String> = None;
            let response = build_response(&generate_accept_key(request.key), None, header.as_deref());
            stream.write_all(&response).await?;
            return Ok(agreed);
        }
    }
}
