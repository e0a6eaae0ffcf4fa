"""websockets, its asyncio server: no compression, no keepalive (its documentation on performance and memory), uvloop. With
DEFLATE set it compresses as it does by default."""

import os

from websockets.asyncio.server import serve

import workers


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main(port):
    options = {"compression": os.environ.get("DEFLATE"), "max_size": 64 << 20, "ping_interval": None, "backlog": 4096, "reuse_port": True}
    async with serve(echo, "127.0.0.1", port, **options):
        await workers.forever()


workers.run(main)
