//! wtx: its parts are borrowed apart so that a frame is written back from the buffer that it was read into
//! (`WebSocketPayloadOrigin::Adaptive`: no copy).

use common::Arguments;
use tokio::net::TcpStream;
use wtx::collection::Vector;
use wtx::web_socket::{OpCode, WebSocketAcceptor, WebSocketPayloadOrigin};

fn main() {
    common::serve(Arguments::parse(), echo);
}

async fn echo(stream: TcpStream) -> wtx::Result<()> {
    let mut socket = WebSocketAcceptor::default().accept(stream).await?;
    socket.set_max_payload_len(common::MAX_MESSAGE_BYTES);
    let (mut common, mut reader, mut writer) = socket.split_mut();
    let mut buffer = Vector::new();
    loop {
        let mut frame = reader.read_frame(&mut buffer, &mut common, WebSocketPayloadOrigin::Adaptive).await?;
        match frame.op_code() {
            OpCode::Text | OpCode::Binary => writer.write_frame(&mut common, &mut frame).await?,
            OpCode::Close => return Ok(()),
            _ => {}
        }
    }
}
