"""picows, its core API ("superior performance by a non-async data path"): fragments are echoed fragment for fragment,
straight from the read buffer. It answers Ping by itself."""

from picows import WSListener, WSMsgType, ws_create_server

import workers

CLOSE = WSMsgType.CLOSE
PONG = WSMsgType.PONG


class Echo(WSListener):
    def on_ws_frame(self, transport, frame):
        kind = frame.msg_type
        if kind == CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif kind != PONG:
            transport.send(kind, frame.get_payload_as_memoryview(), frame.fin)


async def main(port):
    options = {"max_frame_size": 64 << 20, "backlog": 4096, "reuse_port": True}
    await ws_create_server(lambda request: Echo(), "127.0.0.1", port, **options)
    await workers.forever()


workers.run(main)
