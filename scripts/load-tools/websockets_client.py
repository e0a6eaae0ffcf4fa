"""A closed loop as one writes it with websockets: URL CONNECTIONS SECONDS BYTES; prints how many echoes came back in the
time. Each is compared with what was sent."""
import asyncio
import sys
import time

from websockets.asyncio.client import connect


async def echo(url, text, end):
    echoes = 0
    async with connect(url, compression=None) as socket:
        while time.monotonic() < end:
            await socket.send(text)
            assert await socket.recv() == text
            echoes += 1
    return echoes


async def main(url, connections, seconds, size):
    end = time.monotonic() + int(seconds)
    print(sum(await asyncio.gather(*(echo(url, "x" * int(size), end) for _ in range(int(connections))))))


asyncio.run(main(*sys.argv[1:]))
