//! yawc, set as "yawc tuned" in the benchmarks of its README: a read buffer of 128 KiB, backpressure from 64 KiB on,
//! batches of up to 32 messages that are there.

use common::Arguments;
use futures_util::StreamExt;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use yawc::{Frame, OpCode, Options, Result, UpgradeFut, WebSocket};

fn main() {
    common::serve(Arguments::parse(), |stream| {
        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(accept)).with_upgrades()
    });
}

async fn accept(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>> {
    let options = Options::default()
        .without_compression()
        .with_limits(common::MAX_MESSAGE_BYTES, 2 * common::MAX_MESSAGE_BYTES)
        .with_read_buffer_capacity(128 << 10)
        .with_backpressure_boundary(64 << 10)
        .with_utf8()
        .with_no_delay();
    let (response, upgraded) = WebSocket::upgrade_with_options(&mut request, options)?;
    tokio::spawn(echo(upgraded));
    Ok(response)
}

async fn echo(upgraded: UpgradeFut) -> Result<()> {
    // Its stream has no errors: it ends.
    common::echo(upgraded.await?.map(Ok), |frame: &Frame| matches!(frame.opcode(), OpCode::Text | OpCode::Binary)).await
}
