// ws on Node. Its README advises `bufferutil` for speed with a Node before 26.12, and to leave
// permessage-deflate off, which it is unless DEFLATE is set: then with its defaults, but that messages of any size are
// compressed. A process for each CPU (node:cluster) if there are several.
'use strict';
const cluster = require('node:cluster');
const { WebSocketServer } = require('ws');

const [port, threads] = process.argv.slice(2).map(Number);

if (threads > 1 && cluster.isPrimary) {
  cluster.schedulingPolicy = cluster.SCHED_NONE; // each worker accepts by itself: no hop through this process
  for (let i = 0; i < threads; i++) cluster.fork();
} else {
  const options = { host: '127.0.0.1', port, backlog: 4096, maxPayload: 64 << 20, clientTracking: false,
    perMessageDeflate: process.env.DEFLATE ? { threshold: 0 } : false };
  new WebSocketServer(options).on('connection', (socket) => {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
    socket.on('error', () => {}); // the connection ends, and nothing else
  });
}
