// A client of grpc-js. Argument: the target.
import * as grpc from "@grpc/grpc-js";
import { asked, control, fromBase64, load, toBase64 } from "./lines.mjs";

const target = process.argv[2];
const same = (bytes) => Buffer.from(bytes);
const makeClient = (options) => new grpc.Client(target, grpc.credentials.createInsecure(), options);

function metadataOf(pairs) {
  const metadata = new grpc.Metadata();
  for (const [key, value] of pairs) {
    metadata.add(key, key.endsWith("-bin") ? Buffer.from(value, "base64") : value);
  }
  return metadata;
}

function pairsOf(metadata) {
  return Object.keys(metadata?.getMap() ?? {}).flatMap((key) =>
    metadata.get(key).map((value) => [key, typeof value === "string" ? value : toBase64(value)]),
  );
}

// A callback where there is one response, events where there are more.
function start(client, call, options, answered) {
  const kind = `make${call.clientStreaming ? (call.serverStreaming ? "Bidi" : "Client") : call.serverStreaming ? "Server" : "Unary"}${call.clientStreaming || call.serverStreaming ? "Stream" : ""}Request`;
  const given = [call.path, same, same];
  if (!call.clientStreaming) given.push(fromBase64(call.requests[0]));
  given.push(metadataOf(call.metadata), options);
  if (!call.serverStreaming) given.push(answered);
  return client[kind](...given);
}

function run(client, call) {
  const outcome = { code: 0, message: "", details: [], count: 0, responses: [], initial: [], trailing: [] };
  const requests = call.clientStreaming ? call.requests.map(fromBase64) : [];
  return new Promise((resolve) => {
    const options = call.timeout ? { deadline: Date.now() + call.timeout * 1000 } : {};
    const running = start(client, call, options, (error, response) => {
      if (!error) received(response);
    });
    const received = (response) => {
      outcome.count++;
      if (!call.slow || outcome.count === 1) outcome.responses.push(toBase64(response));
    };
    const send = () => {
      if (requests.length) running.write(requests.shift());
      else if (call.clientStreaming && !call.open) running.end();
    };
    control.cancelled.addEventListener("abort", () => running.cancel());
    running.on("metadata", (metadata) => (outcome.initial = pairsOf(metadata)));
    running.on("status", ({ code, details, metadata }) => {
      const status = metadata.get("grpc-status-details-bin")[0];
      const trailing = pairsOf(metadata).filter(([key]) => key !== "grpc-status-details-bin");
      resolve({ ...outcome, code, message: details, trailing, status: status && toBase64(status) });
    });
    if (call.serverStreaming) {
      running.on("error", () => {}); // it comes as a status as well
      running.on("data", (response) => {
        received(response);
        if (call.alternate) send();
        if (call.slow && outcome.count === 1) {
          running.pause();
          control.tell({ first: true });
          control.goOn.then(() => running.resume());
        }
      });
    }
    if (call.alternate) send();
    else for (let left = requests.length; left >= 0; left--) send();
  });
}

if (asked.clients) {
  const connect = () => makeClient({ "grpc.use_local_subchannel_pool": 1 });
  control.tell(await load(asked, connect, (client) => run(client, asked)));
} else {
  control.tell(await run(makeClient({}), asked));
}
