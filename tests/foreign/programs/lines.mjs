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
// or, with a number of clients, a load: each client has `atOnce` calls at one time, and makes `each`
// of them, or goes on until a line "stop" comes. Of the latter it tells when all go on, and when all
// go on again that had failed.
// A line "cancel" cancels the call. The answer is its outcome: code, message, details, count and
// responses, initial, trailing; of a load, how many calls ended with each code, and a message of each.
import { once } from "node:events";
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin });
const [first] = await once(lines, "line");
export const asked = JSON.parse(first);

const abort = new AbortController();
let go;
let stopped = false;
export const control = {
  cancelled: abort.signal,
  // Resolves when a slow reader may go on.
  goOn: new Promise((resolve) => (go = resolve)),
  tell: (what) => console.log(JSON.stringify(what)),
};
// The process lives on behind its answer, as an application does: its end would end its connections.
lines.on("close", () => process.exit());
lines.on("line", (line) => {
  if (line === "cancel") abort.abort();
  else if (line === "stop") stopped = true;
  else go();
});

export const fromBase64 = (text) => new Uint8Array(Buffer.from(text, "base64"));
export const toBase64 = (bytes) => Buffer.from(bytes).toString("base64");

// Make a load of calls, by `make(client)`, which resolves to a code and a message, and never rejects.
export async function load({ clients, each, atOnce }, connect, make) {
  const codes = {};
  const messages = {};
  const going = { first: 0, again: 0 };
  const tell = (what) => each || ++going[what] < clients * atOnce || control.tell({ [what]: true });
  const lane = async (client) => {
    let seen = "nothing";
    for (let left = each ? each / atOnce : Infinity; left > 0 && !stopped; left--) {
      const { code, message } = await make(client);
      codes[code] = (codes[code] ?? 0) + 1;
      messages[code] = message;
      if (code === 0 && seen === "nothing") tell("first");
      if (code === 0 && seen === "failure") tell("again");
      if (seen !== "recovery") seen = code ? "failure" : seen === "failure" ? "recovery" : "success";
    }
  };
  const lanes = [];
  for (let number = 0; number < clients; number++) {
    const client = connect();
    for (let index = 0; index < atOnce; index++) lanes.push(lane(client));
  }
  await Promise.all(lanes);
  return { codes, messages };
}
