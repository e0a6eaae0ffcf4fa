// `deno serve --parallel` with DENO_JOBS threads, each with an isolate of its own; upgradeWebSocket, which is
// fastwebsockets inside. ArrayBuffers: no Blob is made for each binary message.
export default {
  fetch(request: Request): Response {
    if (request.headers.get("upgrade") !== "websocket") return new Response("WebSocket only", { status: 426 });
    const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => socket.send(event.data);
    return response;
  },
};
