// A closed loop as one writes it with ws: URL CONNECTIONS SECONDS BYTES; prints how many echoes came back in the time.
// Each is compared with what was sent.
import { WebSocket } from "ws";

const [url, connections, seconds, size] = process.argv.slice(2);
const text = "x".repeat(Number(size));
const end = performance.now() + Number(seconds) * 1000;
let echoes = 0;

function echo() {
  const socket = new WebSocket(url, { perMessageDeflate: false });
  socket.on("open", () => socket.send(text));
  socket.on("message", (data) => {
    if (data.toString() !== text) throw new Error("not what was sent");
    echoes += 1;
    if (performance.now() < end) socket.send(text);
    else socket.close();
  });
}

for (let i = 0; i < Number(connections); i++) echo();
process.on("exit", () => console.log(echoes));
