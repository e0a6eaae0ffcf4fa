//! actix-ws: one worker for each CPU, which is what actix-web does by itself; messages go to the session's channel as
//! they came, and actix-web writes out what stands in it.

use actix_web::{App, HttpRequest, HttpServer, Responder, rt, web};
use actix_ws::AggregatedMessage as Message;
use common::Arguments;

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    HttpServer::new(|| App::new().route("/", web::get().to(accept)))
        .workers(arguments.threads)
        .max_connections(1_000_000)
        .listen(common::listen(arguments.port))?
        .run()
        .await
}

async fn accept(request: HttpRequest, body: web::Payload) -> actix_web::Result<impl Responder> {
    let (response, mut session, messages) = actix_ws::handle(&request, body)?;
    let mut messages = messages
        .max_frame_size(common::MAX_MESSAGE_BYTES)
        .aggregate_continuations()
        .max_continuation_size(common::MAX_MESSAGE_BYTES);
    rt::spawn(async move {
        while let Some(Ok(message)) = messages.recv().await {
            let sent = match message {
                Message::Text(text) => session.text(text).await,
                Message::Binary(bytes) => session.binary(bytes).await,
                Message::Ping(bytes) => session.pong(&bytes).await,
                Message::Pong(_) => Ok(()),
                Message::Close(reason) => {
                    let _ = session.close(reason).await;
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    });
    Ok(response)
}
