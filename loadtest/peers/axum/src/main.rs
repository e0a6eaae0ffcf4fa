//! axum: its WebSocket is tokio-tungstenite behind hyper. `TCP_NODELAY` is inherited from the listener.

use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::Response;
use axum::{Router, routing::get};
use common::Arguments;

fn main() {
    common::run(Arguments::parse(), async |listener| {
        axum::serve(listener, Router::new().route("/", get(accept))).await.expect("axum serves");
    });
}

async fn accept(upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(common::MAX_MESSAGE_BYTES).max_frame_size(common::MAX_MESSAGE_BYTES).on_upgrade(
        async |socket| {
            let is_data = |message: &Message| matches!(message, Message::Text(_) | Message::Binary(_));
            // An error ends the connection, and nothing else.
            let _ = common::echo(socket, is_data).await;
        },
    )
}
