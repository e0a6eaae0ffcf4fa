//! tokio-tungstenite behind tokio-rustls: `wss://` with a certificate of its own, and tickets for resumption. Beyond TLS it
//! is the same as the server in `tokio-tungstenite`, with small buffers: an idle connection would keep 128 KiB.

use std::sync::{Arc, OnceLock};

use common::Arguments;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::{Ticketer, default_provider};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_tungstenite::tungstenite::{Error, Message, protocol::WebSocketConfig};

fn main() {
    common::serve(Arguments::parse(), echo);
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    let stream = acceptor().accept(stream).await?;
    let config = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(16 << 10)
        .max_message_size(Some(common::MAX_MESSAGE_BYTES))
        .max_frame_size(Some(common::MAX_MESSAGE_BYTES));
    let socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    common::echo(socket, |message: &Message| message.is_text() || message.is_binary()).await
}

/// That of all threads.
fn acceptor() -> &'static TlsAcceptor {
    static ACCEPTOR: OnceLock<TlsAcceptor> = OnceLock::new();
    ACCEPTOR.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into());
        let mut config = config.expect("a certificate and its key");
        config.ticketer = Ticketer::new().expect("random bytes");
        TlsAcceptor::from(Arc::new(config))
    })
}
