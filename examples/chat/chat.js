// Speaks Connect, in JSON: https://connectrpc.com/docs/protocol

const RETRY_MS = 2000;
// Errors of the request itself: to try again would not help. A name may still be that of the stream
// before, so that only the first join gives up for it.
const FINAL = ["invalid_argument", "permission_denied", "unimplemented"];
const SERVICE = "/demo.chat.v1.Chat/";
const gateway = (await (await fetch("/gateway")).text()).trim();
const at = (id) => document.getElementById(id);

let current = null; // the AbortController of the room that we are in
let ticket = "";

class CallError extends Error {
  constructor({ code = "unknown", message = "" }) {
    super(message || code);
    this.code = code;
  }
}

function call(method, type, body, signal) {
  const headers = { "content-type": type, "connect-protocol-version": "1" };
  return fetch(gateway + SERVICE + method, { method: "POST", headers, body, signal });
}

async function unary(method, request) {
  const response = await call(method, "application/json", JSON.stringify(request));
  const answer = await response.json();
  if (!response.ok) throw new CallError(answer);
  return answer;
}

// An envelope: a byte of flags, four bytes of length, and the message.
function envelope(message) {
  const data = new TextEncoder().encode(JSON.stringify(message));
  const bytes = new Uint8Array(5 + data.length);
  new DataView(bytes.buffer).setUint32(1, data.length);
  bytes.set(data, 5);
  return bytes;
}

async function* stream(method, request, signal) {
  const response = await call(method, "application/connect+json", envelope(request), signal);
  if (!response.ok) throw new CallError({ code: "unavailable", message: `status ${response.status}` });
  const reader = response.body.getReader();
  let bytes = new Uint8Array();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new CallError({ code: "unavailable", message: "the connection was lost" });
      const more = new Uint8Array(bytes.length + value.length);
      more.set(bytes);
      more.set(value, bytes.length);
      bytes = more;
      while (bytes.length >= 5) {
        const end = 5 + new DataView(bytes.buffer, bytes.byteOffset).getUint32(1);
        if (bytes.length < end) break;
        const message = JSON.parse(new TextDecoder().decode(bytes.subarray(5, end)));
        if (bytes[0] & 2) { // the end of the stream
          if (message.error) throw new CallError(message.error);
          return;
        }
        yield message;
        bytes = bytes.subarray(end);
      }
    }
  } finally { // whoever stops reading leaves the room
    await reader.cancel().catch(() => {});
  }
}

// textContent, everywhere: what guests write is text, and never becomes HTML.
function show({ name, text }) {
  const line = document.createElement("li");
  line.textContent = `${name}: ${text}`;
  at("messages").append(line);
}

async function stay(room, name, signal) {
  let after = 0;
  let id = null;
  while (!signal.aborted) {
    let problem = "The stream has ended";
    try {
      for await (const event of stream("Join", { room, name, after }, signal)) {
        if (event.welcome) {
          const known = id;
          ({ ticket, roomId: id } = event.welcome);
          at("state").textContent = `You are ${name} in ${room}.`;
          if (known !== null && known !== id) {
            // The server has forgotten the room, and counts anew: ask for all that it has.
            after = 0;
            at("messages").replaceChildren();
            break;
          }
        } else if (event.message) {
          after = event.message.number;
          show(event.message);
        } else if (event.present) {
          at("present").textContent = event.present.names.join(", ");
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      problem = error.message;
      if (FINAL.includes(error.code) || (error.code === "already_exists" && id === null)) {
        at("state").textContent = problem;
        return;
      }
    }
    ticket = "";
    at("present").textContent = "";
    at("state").textContent = `${problem}. Joining again…`;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

at("join").addEventListener("submit", (event) => {
  event.preventDefault();
  current?.abort();
  current = new AbortController();
  ticket = "";
  at("messages").replaceChildren();
  at("present").textContent = "";
  stay(at("room").value, at("name").value, current.signal);
});

at("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = at("text").value;
  try {
    await unary("Say", { ticket, text });
    at("text").value = "";
  } catch (error) { // the text stays, to be said again
    at("state").textContent = `Not said: ${error.message}`;
  }
});
