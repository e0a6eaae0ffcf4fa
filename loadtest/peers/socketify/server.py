"""socketify: uWebSockets with libuv, called from CPython. Its documentation advises a process for each CPU."""

import sys

from socketify import App, AppListenOptions, CompressOptions

import workers


def serve():
    app = App()
    app.ws(
        "/*",
        {
            "compression": CompressOptions.DISABLED,
            "max_payload_length": 64 << 20,
            "max_backpressure": 64 << 20,
            "idle_timeout": 0,
            "message": lambda socket, message, opcode: socket.send(message, opcode),
        },
    )
    app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"))
    app.run()


workers.in_processes(int(sys.argv[2]), serve)
