// Bun.serve with its WebSocket handlers, which are uWebSockets inside. Bun's guide for clusters: a process for each CPU,
// all with `reusePort`. No compression (the default), unless DEFLATE is set.
const [port, threads] = process.argv.slice(2).map(Number);
const isCompressed = Boolean(process.env.DEFLATE);

if (threads > 1) {
  const workers = Array.from({ length: threads }, () =>
    Bun.spawn([process.execPath, import.meta.path, String(port), "1"], { stdio: ["ignore", "inherit", "inherit"] }));
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => { for (const worker of workers) worker.kill(); process.exit(0); });
  }
} else {
  Bun.serve({
    hostname: "127.0.0.1",
    port,
    reusePort: true,
    fetch: (request, server) => server.upgrade(request) ? undefined : new Response("WebSocket only", { status: 426 }),
    websocket: {
      perMessageDeflate: isCompressed,
      maxPayloadLength: 64 << 20,
      backpressureLimit: 64 << 20,
      idleTimeout: 0,
      sendPings: false,
      message: (socket, message) => { socket.send(message, isCompressed); },
    },
  });
}
