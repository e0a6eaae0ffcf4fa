// Node's ws against an echo server: echo.cjs URL [plain|deflate]. See scripts/other-clients.
'use strict';
const assert = require('node:assert');
const { randomBytes } = require('node:crypto');
const { WebSocket } = require('ws');

const [url, kind] = process.argv.slice(2);
const SIZES = [0, 1, 125, 126, 1000, 65535, 65536, 200000];
const OFFERS = {
  'as by default': {},
  'without context': { serverNoContextTakeover: true, clientNoContextTakeover: true },
  'windows of 512 bytes': { serverMaxWindowBits: 9, clientMaxWindowBits: 9 },
};

// Binary messages and texts of each size: some compressible, some not, some beyond ASCII.
const messages = SIZES.flatMap((size) => [
  '{"id": 12345, "name": "an echo"}, '.repeat(size / 32),
  'aäß水🦀'.repeat(size / 6),
  randomBytes(size),
  Buffer.alloc(size),
]);

function exchange(name, options) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, { perMessageDeflate: { threshold: 0, ...options }, maxPayload: 0 });
    let next = 0;
    socket.on('error', reject);
    socket.on('open', () => {
      assert.equal(socket.extensions.startsWith('permessage-deflate'), kind === 'deflate', `${name}: ${socket.extensions}`);
      for (const message of messages) socket.send(message);
    });
    socket.on('message', (data, isBinary) => {
      const expected = messages[next];
      assert.equal(isBinary, typeof expected !== 'string', `${name}: message ${next} is of another kind`);
      assert(data.equals(Buffer.from(expected)), `${name}: message ${next} comes back differently`);
      if (++next === messages.length) socket.ping('x');
    });
    socket.on('pong', () => socket.close(1000));
    socket.on('close', (code) => {
      assert.equal(code, 1000, `${name}: closed with ${code} after ${next} messages`);
      console.log(`ws, ${name}: ${next} messages came back`);
      resolve();
    });
  });
}

(async () => {
  for (const [name, options] of Object.entries(OFFERS)) await exchange(name, options);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
