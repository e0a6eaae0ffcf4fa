"""aiohttp with its C extensions and uvloop, without access log and compression; text is not decoded and encoded again
(`decode_text=False`)."""

from aiohttp import WSMsgType, web

import workers


async def echo(request):
    socket = web.WebSocketResponse(compress=False, max_msg_size=64 << 20, decode_text=False)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
            await socket.send_frame(message.data, message.type)
    return socket


async def main(port):
    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096, reuse_port=True).start()
    await workers.forever()


workers.run(main)
