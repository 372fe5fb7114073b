// grpc-js: `main.mjs server ADDRESS`, or `main.mjs client ADDRESS`; the protos' folders follow.
// What is asked and answered on stdin and stdout is in benchmarks/native/loads.py.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [role, address, ...includeDirs] = process.argv.slice(2);
const definition = loader.loadSync("native.proto", { includeDirs, longs: Number, keepCase: true });
const { Native } = grpc.loadPackageDefinition(definition).txzmq.benchmarks.native.v1;

const tell = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const versionOf = (name) => JSON.parse(readFileSync(`${import.meta.dirname}/node_modules/${name}/package.json`)).version;

function fail(what) {
  process.stderr.write(`${what}\n`);
  process.exit(1);
}

// ---- the server

const service = {
  Echo: ({ request }, answer) => answer(null, { sequence: request.sequence, payload: request.payload }),

  Watch(call) {
    let sequence = 0;
    const { payload } = call.request;
    const fill = () => {
      while (!call.cancelled && call.write({ sequence: ++sequence, payload }));
    };
    call.on("drain", fill);
    call.on("error", () => {});
    fill();
  },

  Upload(call, answer) {
    let items = 0;
    call.on("data", () => (items += 1));
    call.on("end", () => answer(null, { items }));
  },

  Chat(call) {
    call.on("data", (item) => call.write(item));
    call.on("end", () => call.end());
  },

  async Ticks(call) {
    const { burst, pause, payload_bytes } = call.request;
    const payload = Buffer.alloc(payload_bytes, 0xa5);
    call.on("error", () => {});
    for (let sequence = 0; !call.cancelled; ) {
      for (let number = 0; number < burst && !call.cancelled; ++number) {
        if (!call.write({ sequence: ++sequence, payload })) {
          await new Promise((resolve) => {
            call.once("drain", resolve);
            call.once("cancelled", resolve);
          });
          call.removeAllListeners("drain").removeAllListeners("cancelled");
        }
      }
      await sleep(pause);
    }
  },
};

function serve() {
  const server = new grpc.Server();
  server.addService(Native.service, service);
  server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) fail(error);
    const versions = { node: process.versions.node, "grpc-js": versionOf("@grpc/grpc-js") };
    tell({ address: address.startsWith("unix:") ? address : `127.0.0.1:${port}`, versions });
  });
  process.stdin.resume().on("end", () => process.exit(0));
}

// ---- the client

// A connection of its own, where equal channels would share one.
const connect = () => new Native(address, grpc.credentials.createInsecure(), { "grpc.use_local_subchannel_pool": 1 });
const seconds = () => performance.now() / 1000;
const timeout = () => ({ deadline: Date.now() + 60_000 });
const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

// What all of those at once count.
class Tally {
  count = 0;
  latencies = [];

  complete(begun) {
    const now = seconds();
    this.count += 1;
    this.latencies.push(now - begun);
    return now;
  }
}

const unary = (client, { payload, over }, tally, done) => {
  let sequence = 0;
  const next = () => {
    const begun = seconds();
    const request = { sequence: ++sequence, payload };
    client.Echo(request, timeout(), (error, reply) => {
      if (error) fail(error);
      if (reply.sequence !== request.sequence || reply.payload.length !== payload.length)
        fail("Echo: a reply is not the request's");
      if (tally.complete(begun) < over) next();
      else done();
    });
  };
  next();
};

const responses = (client, { payload, over }, tally, done) => {
  let count = 0;
  let left = false;
  const call = client.Watch({ sequence: 0, payload }, timeout());
  call.on("data", () => {
    if (left) return;
    count += 1;
    if (count % 100 === 0 && seconds() >= over) {
      left = true;
      tally.count += count;
      call.cancel();
    }
  });
  call.on("error", (error) => (left ? done() : fail(error)));
};

const requests = (client, { payload, over }, tally, done) => {
  let count = 0;
  const call = client.Upload(timeout(), (error, reply) => {
    if (error) fail(error);
    if (reply.items !== count) fail("Upload: items were lost");
    tally.count += count;
    done();
  });
  const fill = () => {
    for (;;) {
      if (count % 100 === 0 && seconds() >= over) {
        call.end();
        return;
      }
      if (!call.write({ sequence: ++count, payload })) {
        call.once("drain", fill);
        return;
      }
    }
  };
  fill();
};

const both = (client, { payload, over }, tally, done) => {
  let sequence = 0;
  let begun;
  const call = client.Chat(timeout());
  const next = () => {
    begun = seconds();
    call.write({ sequence: ++sequence, payload });
  };
  call.on("data", (reply) => {
    if (reply.sequence !== sequence) fail("Chat: an answer is not the item's");
    if (tally.complete(begun) < over) next();
    else call.end();
  });
  call.on("error", fail);
  call.on("end", done);
  next();
};

const loads = { unary, responses, requests, both };

// Has the CPU time of the server read.
const tellBegun = () => tell({ begun: true });

function report(tally, since, cpu) {
  const latencies = Float64Array.from(tally.latencies).sort();
  const percentile = (percent) =>
    latencies.length ? latencies[Math.ceil((latencies.length * percent) / 100) - 1] : 0;
  const [p50, p90, p99, p999] = [50, 90, 99, 99.9].map(percentile);
  tell({ count: tally.count, seconds: since, cpu, p50, p90, p99, p999 });
}

async function keep(client, order) {
  const tally = new Tally();
  tellBegun();
  const [begun, cpu] = [seconds(), cpuSeconds()];
  order.over = begun + order.seconds;
  const one = loads[order.load];
  await Promise.all(
    Array.from({ length: order.at_once }, () => new Promise((done) => one(client, order, tally, done))),
  );
  report(tally, seconds() - begun, cpuSeconds() - cpu);
}

const others = [];

// Subscribers, each with a connection of its own; counts from the moment when all have begun.
async function fanOut(order) {
  while (others.length < order.at_once) others.push(connect());
  const tally = new Tally();
  const request = { burst: order.burst, pause: order.pause, payload_bytes: order.payload.length };
  const calls = others.slice(0, order.at_once).map((client) => client.Ticks(request, timeout()));
  const ended = calls.map(
    (call) =>
      new Promise((resolve) =>
        call.on("error", (error) => (error.code === grpc.status.CANCELLED ? resolve() : fail(error))),
      ),
  );
  await Promise.all(calls.map((call) => new Promise((resolve) => call.once("data", resolve))));
  for (const call of calls) call.on("data", () => (tally.count += 1));
  tellBegun();
  const [begun, cpu] = [seconds(), cpuSeconds()];
  await sleep(order.seconds * 1000);
  const [since, used] = [seconds() - begun, cpuSeconds() - cpu];
  report(tally, since, used);
  for (const call of calls) call.cancel();
  await Promise.all(ended);
}

async function drive() {
  const client = connect();
  tell({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) {
    const [load, ...numbers] = line.split(" ");
    const [at_once, bytes, seconds, burst, pause] = numbers.map(Number);
    const order = { load, at_once, payload: Buffer.alloc(bytes, 0xa5), seconds, burst, pause };
    if (load === "fan-out") await fanOut(order);
    else if (load in loads) await keep(client, order);
    else fail(`no such load: ${load}`);
  }
  process.exit(0);
}

if (role === "server") serve();
else await drive();
