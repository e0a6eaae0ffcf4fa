//! ntex on its own runtime with io_uring (`neon-uring`). `web::ws::start` takes no codec, and its codec's limit is
//! 64 KiB: so the dispatcher is started here, as `start_with` does it. Fragments are echoed fragment for fragment.

use std::io;

use common::Arguments;
use ntex::http::{body::BodySize, h1};
use ntex::io::{DispatchItem, Dispatcher, IoConfig, IoRef};
use ntex::time::Seconds;
use ntex::util::ByteString;
use ntex::web::{self, App, HttpRequest, HttpResponse, HttpServer};
use ntex::ws::{Codec, Frame, Message, handshake};
use ntex::{SharedCfg, rt, service::fn_service};

thread_local! {
    /// As `web::ws` has it: idle connections stay.
    static WITHOUT_KEEPALIVE: SharedCfg =
        SharedCfg::new("WS").add(IoConfig::new().set_keepalive_timeout(Seconds::ZERO)).into();
}

#[ntex::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    HttpServer::new(async || App::new().service(web::resource("/").route(web::get().to(accept))))
        .workers(arguments.threads)
        .maxconn(1_000_000)
        .listen(common::listen(arguments.port))?
        .run()
        .await
}

async fn accept(request: HttpRequest) -> Result<HttpResponse, web::Error> {
    let response = handshake(request.head())?.finish().into_parts().0;
    let (io, http) = request.head().take_io().ok_or(ntex::ws::error::HandshakeError::NoWebsocketUpgrade)?;
    io.encode(h1::Message::Item((response, BodySize::Empty)), &http)
        .map_err(|_| ntex::ws::error::HandshakeError::NoWebsocketUpgrade)?;
    io.set_config(WITHOUT_KEEPALIVE.with(Clone::clone));
    io.stop_timer();
    let codec = Codec::new().max_size(common::MAX_MESSAGE_BYTES);
    let connection = io.get_ref();
    let service = fn_service(move |item| echo(item, connection.clone()));
    rt::spawn(Dispatcher::new(io, codec, service));
    Ok(HttpResponse::Ok().finish())
}

async fn echo(item: DispatchItem<Codec>, connection: IoRef) -> Result<Option<Message>, io::Error> {
    let DispatchItem::Item(frame) = item else { return Ok(None) };
    Ok(match frame {
        Frame::Text(text) => {
            Some(Message::Text(ByteString::try_from(text).map_err(|_| io::Error::other("text that is not UTF-8"))?))
        }
        Frame::Binary(bytes) => Some(Message::Binary(bytes)),
        Frame::Continuation(item) => Some(Message::Continuation(item)),
        Frame::Ping(bytes) => Some(Message::Pong(bytes)),
        Frame::Pong(_) => None,
        Frame::Close(reason) => {
            rt::spawn(async move { connection.close() }); // once the answer is written
            Some(Message::Close(reason))
        }
    })
}
