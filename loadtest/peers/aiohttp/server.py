"""aiohttp with its C extensions and uvloop, without access log and compression. Text is decoded and encoded
again: `decode_text=False` would save that, and the check for UTF-8 with it."""

from aiohttp import WSMsgType, web

import workers


async def echo(request):
    socket = web.WebSocketResponse(compress=False, max_msg_size=64 << 20)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def main(port):
    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096, reuse_port=True).start()
    await workers.forever()


workers.run(main)
