"""A process for each CPU: asyncio uses one. All listen on the same port with SO_REUSEPORT."""

import asyncio
import logging
import os
import signal
import sys


def run(serve):
    """Runs `serve(port)`, a function that returns an endless coroutine, in as many processes as the arguments say."""
    import uvloop  # socketify has a loop of its own

    logging.disable(logging.CRITICAL)  # connections that break off are not worth a traceback

    port, processes = (int(argument) for argument in sys.argv[1:3])
    in_processes(processes, lambda: uvloop.run(serve(port)))


def in_processes(processes, work):
    """Runs `work` in so many processes, this one among them; SIGTERM and SIGINT end them all."""
    children = []
    for _ in range(processes - 1):
        child = os.fork()
        if child == 0:
            children = []
            break
        children.append(child)

    def stop(*_):
        for child in children:
            os.kill(child, signal.SIGTERM)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    work()


def forever():
    return asyncio.Event().wait()
