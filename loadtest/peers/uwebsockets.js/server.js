// uWebSockets.js 20.30, from the package that Ganache has it from: the authors' own is on GitHub only. The package falls
// back to ws where its binary does not fit: that would measure something else, so the binary is loaded by its name.
// Each process listens with SO_REUSEPORT. With DEFLATE, messages are compressed by one compressor of the process, as its
// documentation advises for little memory.
'use strict';
const cluster = require('node:cluster');
const { dirname, join } = require('node:path');

const [port, threads] = process.argv.slice(2).map(Number);
const isCompressed = Boolean(process.env.DEFLATE);

if (threads > 1 && cluster.isPrimary) {
  for (let i = 0; i < threads; i++) cluster.fork();
} else {
  const root = dirname(dirname(require.resolve('@trufflesuite/uws-js-unofficial')));
  const uws = require(join(root, 'binaries', `uws_${process.platform}_${process.arch}_${process.versions.modules}.node`));
  uws.App().ws('/*', {
    compression: isCompressed ? uws.SHARED_COMPRESSOR : uws.DISABLED,
    maxPayloadLength: 64 << 20,
    maxBackpressure: 64 << 20,
    idleTimeout: 0,
    message: (socket, message, isBinary) => socket.send(message, isBinary, isCompressed),
  }).listen('127.0.0.1', port, (listening) => {
    if (!listening) process.exit(1);
  });
}
