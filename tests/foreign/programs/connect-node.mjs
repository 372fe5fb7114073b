// A client of connect-node. Arguments: where the gateway is, as http://host:port, and the protocol.
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { ConnectError } from "@connectrpc/connect";
import { prepare, run } from "./connect.mjs";
import { asked, control, load } from "./lines.mjs";

const [, , baseUrl, protocol] = process.argv;

function connect() {
  const options = { baseUrl, useHttpGet: asked.get, useBinaryFormat: protocol !== "connect-json" };
  if (protocol === "grpc") return createGrpcTransport({ ...options, httpVersion: "2" });
  if (protocol === "grpc-web") return createGrpcWebTransport({ ...options, httpVersion: "1.1" });
  return createConnectTransport({ ...options, httpVersion: "1.1" });
}

async function make({ call, requests }) {
  try {
    await call(requests[0]);
    return { code: 0, message: "" };
  } catch (reason) {
    const { code, message } = ConnectError.from(reason);
    return { code, message };
  }
}

if (asked.clients) control.tell(await load(asked, () => prepare(asked, connect()), make));
else control.tell(await run(asked, connect(), control));
