//! tokio-websockets, set as in its examples/echo_server.rs, the one for benchmarks: frames of any size, tasks without
//! tokio's budget. Its stream flushes what was fed before it gives out a message; so those that have come together are
//! taken first, then fed, and flushed together.

use common::Arguments;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_websockets::{Config, Error, Limits, ServerBuilder};

/// Messages to answer in one write at most.
const BATCH: usize = 32;

fn main() {
    common::serve(Arguments::parse(), |stream| tokio::task::unconstrained(echo(stream)));
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    let (_request, mut socket) = ServerBuilder::new()
        .config(Config::default().frame_size(usize::MAX))
        .limits(Limits::default().max_payload_len(Some(common::MAX_MESSAGE_BYTES)))
        .accept(stream)
        .await?;
    let mut batch = Vec::new();
    while let Some(first) = socket.next().await {
        let mut next = Some(first);
        while let Some(message) = next {
            batch.push(message?);
            next = if batch.len() < BATCH { socket.next().now_or_never().flatten() } else { None };
        }
        for message in batch.drain(..).filter(|it| it.is_text() || it.is_binary()) {
            socket.feed(message).await?;
        }
        socket.flush().await?;
    }
    Ok(())
}
