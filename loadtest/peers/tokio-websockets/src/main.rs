//! tokio-websockets, set as in its examples/echo_server.rs, the one for benchmarks: frames of any size, tasks without
//! tokio's budget; answers are flushed when no further message has come.

use common::Arguments;
use tokio::net::TcpStream;
use tokio_websockets::{Config, Error, Limits, Message, ServerBuilder};

fn main() {
    common::serve(Arguments::parse(), |stream| tokio::task::unconstrained(echo(stream)));
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    let (_request, socket) = ServerBuilder::new()
        .config(Config::default().frame_size(usize::MAX))
        .limits(Limits::default().max_payload_len(Some(common::MAX_MESSAGE_BYTES)))
        .accept(stream)
        .await?;
    common::echo(socket, |message: &Message| message.is_text() || message.is_binary()).await
}
