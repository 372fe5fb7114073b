// Calls by Connect's TypeScript, in Node and in a browser. lines.mjs says what is asked and answered.
import { createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { ConnectError, createClient } from "@connectrpc/connect";

export const fromBase64 = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
export const toBase64 = (bytes) => {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
};

function methodOf(asked) {
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, fromBase64(asked.schema)));
  const [, service, name] = asked.path.split("/");
  return registry.getService(service).methods.find((method) => method.name === name);
}

const pairsOf = (headers) => [...(headers ?? [])];

export function prepare(asked, transport) {
  const method = methodOf(asked);
  const call = createClient(method.parent, transport)[method.localName];
  const requests = asked.requests.map((request) => fromBinary(method.input, fromBase64(request)));
  return { method, call, requests };
}

export async function run(asked, transport, control) {
  const { method, call, requests } = prepare(asked, transport);
  const outcome = { code: 0, message: "", details: [], count: 0, responses: [], initial: [], trailing: [] };
  let answered = () => {};
  async function* stream() {
    for (const request of requests) {
      yield request;
      if (asked.alternate) await new Promise((resolve) => (answered = resolve));
    }
    if (asked.open) await new Promise(() => {}); // to end is not to cancel
  }
  const headers = new Headers();
  for (const [key, value] of asked.metadata) headers.append(key, value);
  const options = {
    headers,
    signal: control.cancelled,
    onHeader: (got) => (outcome.initial = pairsOf(got)),
    onTrailer: (got) => (outcome.trailing = pairsOf(got)),
  };
  if (asked.timeout) options.timeoutMs = asked.timeout * 1000;
  const received = async (response) => {
    outcome.count++;
    if (!asked.slow || outcome.count === 1) outcome.responses.push(toBase64(toBinary(method.output, response)));
    if (asked.slow && outcome.count === 1) {
      control.tell({ first: true });
      await control.goOn;
    }
    answered();
  };
  const given = asked.clientStreaming ? stream() : requests[0];
  try {
    if (asked.serverStreaming) for await (const response of call(given, options)) await received(response);
    else await received(await call(given, options));
  } catch (reason) {
    const error = ConnectError.from(reason);
    outcome.code = error.code;
    outcome.message = error.rawMessage;
    outcome.details = error.details.map(({ type, value }) => ({ type, value: toBase64(value) }));
    // Of what is trailing and what is not, an error does not tell.
    outcome.trailing = pairsOf(error.metadata);
  }
  return outcome;
}
