// A page that makes calls of connect-web, as it is asked. Where it comes from tells it what to do:
// GET /asked waits for what is asked, and POST /told takes what is told, as lines.mjs has it.
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { run } from "./connect.mjs";

const tell = (what) => fetch("/told", { method: "POST", body: JSON.stringify(what) });
let control;
for (;;) {
  const asked = await (await fetch("/asked")).json();
  if (asked === null) continue; // nothing yet
  if (asked === "cancel") control.abort.abort();
  else if (asked === "go") control.go();
  else {
    const abort = new AbortController();
    control = { abort, cancelled: abort.signal, tell };
    control.goOn = new Promise((resolve) => (control.go = resolve));
    const options = { baseUrl: asked.target, useHttpGet: asked.get };
    const transport =
      asked.protocol === "grpc-web"
        ? createGrpcWebTransport(options)
        : createConnectTransport({ ...options, useBinaryFormat: asked.protocol === "connect" });
    run(asked, transport, control).then(tell);
  }
}
