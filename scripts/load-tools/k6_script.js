// k6, a virtual user for each connection: URL, CONNECTIONS, SECONDS and SIZE come as variables of its environment. Prints how
// many echoes came back in the time. Each is compared with what was sent.
import { Counter } from "k6/metrics";
import ws from "k6/ws";

const text = "x".repeat(Number(__ENV.SIZE));
const echoes = new Counter("echoes");

export const options = {
  scenarios: { echo: { executor: "per-vu-iterations", vus: Number(__ENV.CONNECTIONS), iterations: 1, maxDuration: "10m" } },
};

export default function () {
  const end = Date.now() + Number(__ENV.SECONDS) * 1000;
  ws.connect(__ENV.URL, null, (socket) => {
    socket.on("open", () => socket.send(text));
    socket.on("message", (data) => {
      if (data !== text) throw new Error("not what was sent");
      echoes.add(1);
      if (Date.now() < end) socket.send(text);
      else socket.close();
    });
  });
}

export function handleSummary(data) {
  return { stdout: `${data.metrics.echoes.values.count}\n` };
}
