//! tokio-tungstenite. Answers are written with `feed` and flushed when no further message has come, as `WebSocket::write`
//! recommends. The read buffer is the default one, which is that for a high load (128 KiB), or as large as `READ_BUFFER` says: its
//! documentation recommends 4 KiB for many connections.

use common::Arguments;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message, protocol::WebSocketConfig};

fn main() {
    common::serve(Arguments::parse(), echo);
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    let read_buffer = std::env::var("READ_BUFFER").map_or(128 << 10, |bytes| bytes.parse().expect("READ_BUFFER is a number"));
    let config = WebSocketConfig::default()
        .read_buffer_size(read_buffer)
        .max_message_size(Some(common::MAX_MESSAGE_BYTES))
        .max_frame_size(Some(common::MAX_MESSAGE_BYTES));
    let socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    common::echo(socket, |message: &Message| message.is_text() || message.is_binary()).await
}
