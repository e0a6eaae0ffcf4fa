//! tokio-tungstenite. Its configuration keeps the defaults, which are those for a high load (buffers of 128 KiB); answers
//! are written with `feed` and flushed when no further message has come, as `WebSocket::write` recommends.

use common::Arguments;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message, protocol::WebSocketConfig};

fn main() {
    common::serve(Arguments::parse(), echo);
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(common::MAX_MESSAGE_BYTES))
        .max_frame_size(Some(common::MAX_MESSAGE_BYTES));
    let socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    common::echo(socket, |message: &Message| message.is_text() || message.is_binary()).await
}
