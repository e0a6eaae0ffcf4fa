// The load tester `loadtest` at its WebSocket client, driven by its interface: URL CONNECTIONS SECONDS BYTES; prints how
// many requests it counted. It takes JSON only, parses what comes back, and compares nothing.
import { loadTest } from "loadtest";

const [url, connections, seconds, size] = process.argv.slice(2);
const text = JSON.stringify("x".repeat(Number(size) - 2));
const result = await loadTest({
  url,
  concurrency: Number(connections),
  maxSeconds: Number(seconds),
  cores: 1,
  quiet: true,
  requestGenerator: (options, parameters, request) => request().write(text),
});
console.log(result.totalRequests);
process.exit(0);
