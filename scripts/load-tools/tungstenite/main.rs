//! A closed loop as one writes it with tokio-tungstenite: `tungstenite-client URL CONNECTIONS SECONDS BYTES` prints how
//! many echoes came back in the time. Each is compared with what was sent.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinSet;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

async fn echo(url: String, text: String, end: Instant) -> u64 {
    let (mut socket, _) = connect_async(url).await.expect("connect");
    let mut echoes = 0;
    while Instant::now() < end {
        socket.send(Message::text(text.clone())).await.expect("send");
        let echo = socket.next().await.expect("an echo").expect("no error");
        assert_eq!(echo.into_text().expect("text").as_str(), text);
        echoes += 1;
    }
    socket.close(None).await.expect("close");
    echoes
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, connections, seconds, bytes] = &arguments[..] else { panic!("URL CONNECTIONS SECONDS BYTES") };
    let text = "x".repeat(bytes.parse().expect("a number of bytes"));
    let end = Instant::now() + Duration::from_secs(seconds.parse().expect("a number of seconds"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let echoes = runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..connections.parse().expect("a number of connections") {
            clients.spawn(echo(url.clone(), text.clone(), end));
        }
        clients.join_all().await.into_iter().sum::<u64>()
    });
    println!("{echoes}");
}
