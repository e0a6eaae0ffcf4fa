"""Python's websockets against an echo server: echo.py URL [plain|deflate]. See scripts/other-clients."""

import asyncio
import random
import sys

from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory as Offer

URL = sys.argv[1]
IS_DEFLATE = sys.argv[2:] == ["deflate"]
SIZES = [0, 1, 125, 126, 1000, 65_535, 65_536, 200_000]
OFFERS = {
    "as by default": Offer(client_max_window_bits=True),
    "without context": Offer(server_no_context_takeover=True, client_no_context_takeover=True),
    "windows of 512 bytes": Offer(server_max_window_bits=9, client_max_window_bits=9),
}


def messages():
    """Texts and binary messages of each size: some compressible, some not, some beyond ASCII."""
    dice = random.Random(7)
    for size in SIZES:
        yield "{\"id\": 12345, \"name\": \"an echo\"}, " * (size // 32)
        yield "".join(dice.choice("aäß水🦀") for _ in range(size))
        yield dice.randbytes(size)
        yield bytes(size)


async def exchange(name, offer):
    async with connect(URL, compression=None, extensions=[offer], max_size=None) as socket:
        agreed = [extension.name for extension in socket.protocol.extensions]
        assert agreed == (["permessage-deflate"] if IS_DEFLATE else []), f"{name}: {agreed} agreed on"
        expected = list(messages())

        async def send_all():
            for message in expected:
                await socket.send(message)
            await socket.send(part for part in ["in ", "", "three ", "fragments"])

        sending = asyncio.create_task(send_all())
        for index, message in enumerate([*expected, "in three fragments"]):
            assert await socket.recv() == message, f"{name}: message {index} comes back differently"
        await sending
        await (await socket.ping())
    assert socket.close_code == 1000, f"{name}: closed with {socket.close_code}"
    print(f"websockets, {name}: {len(expected) + 1} messages came back")


async def main():
    for name, offer in OFFERS.items():
        await asyncio.wait_for(exchange(name, offer), 60)


asyncio.run(main())
