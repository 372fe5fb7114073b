// What a program is asked, a line of JSON on standard input, and what it answers, one on standard output.
//
// The first line is a call:
//   path, clientStreaming, serverStreaming
//   requests   bytes of each, in base64
//   metadata   pairs; values of keys that end in -bin in base64
//   timeout    seconds, or null
//   alternate  whether to send a request when the one before is answered
//   open       whether the requests do not end
//   slow       whether to read no more behind the first response until a line "go" comes, and to
//              tell of that one only
// or, with a number of clients, a load: each client makes `each` calls, `atOnce` at one time, or goes
// on for `seconds`.
// A line "cancel" cancels the call. The answer is its outcome: code, message, details, count and
// responses, initial, trailing; of a load, how many calls ended with each code.
import { once } from "node:events";
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin });
const [first] = await once(lines, "line");
export const asked = JSON.parse(first);

const abort = new AbortController();
let go;
export const control = {
  cancelled: abort.signal,
  // Resolves when a slow reader may go on.
  goOn: new Promise((resolve) => (go = resolve)),
  tell: (what) => console.log(JSON.stringify(what)),
};
// The process lives on behind its answer, as an application does: its end would end its connections.
lines.on("close", () => process.exit());
lines.on("line", (line) => (line === "cancel" ? abort.abort() : go()));

export const fromBase64 = (text) => new Uint8Array(Buffer.from(text, "base64"));
export const toBase64 = (bytes) => Buffer.from(bytes).toString("base64");

// Make a load of calls, by `make(client)`, which resolves to a code, and never rejects.
export async function load({ clients, each, atOnce, seconds }, connect, make) {
  const codes = {};
  const last = [];
  const end = seconds ? performance.now() + seconds * 1000 : Infinity;
  const lane = async (client, number) => {
    for (let left = seconds ? Infinity : each / atOnce; left > 0 && performance.now() < end; left--) {
      const code = await make(client);
      codes[code] = (codes[code] ?? 0) + 1;
      last[number] = code;
    }
  };
  const lanes = [];
  for (let number = 0; number < clients; number++) {
    const client = connect();
    for (let index = 0; index < atOnce; index++) lanes.push(lane(client, lanes.length));
  }
  await Promise.all(lanes);
  return { codes, last: [...new Set(last)] };
}
