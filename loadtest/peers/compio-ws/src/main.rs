//! compio-ws: tungstenite on compio, a runtime of completions (io_uring). It flushes after each message by itself.

use common::Arguments;
use compio_net::{TcpListener, TcpStream};
use compio_runtime::Runtime;
use compio_ws::tungstenite::{Error, protocol::WebSocketConfig};
use compio_ws::{Config, accept_async_with_config};

fn main() {
    common::on_threads(Arguments::parse(), |listener| {
        Runtime::new().expect("a runtime").block_on(async {
            let listener = TcpListener::from_std(listener).expect("the runtime takes the listener");
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                compio_runtime::spawn(echo(stream)).detach();
            }
        });
    });
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    let websocket = WebSocketConfig::default()
        .max_message_size(Some(common::MAX_MESSAGE_BYTES))
        .max_frame_size(Some(common::MAX_MESSAGE_BYTES));
    let config = Config::from(websocket).disable_nagle(true);
    let mut socket = accept_async_with_config(stream, config).await?;
    loop {
        let message = socket.read().await?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
}
