// Opens the page of examples/chat in two windows of a browser, as two guests do: `node chat.mjs URL`.
// It prints what each sees, a line of JSON each, and waits for a line of input before the last part, for
// which the server was started anew.

import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const [url] = process.argv.slice(2);
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const browser = await puppeteer.launch({
  executablePath: "/usr/bin/chromium",
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});
const tell = (what) => console.log(JSON.stringify(what));

async function join(name) {
  const page = await browser.newPage();
  page.on("pageerror", (error) => tell({ error: String(error) }));
  page.on("console", (message) => message.type() === "error" && tell({ console: message.text() }));
  await page.goto(url);
  await page.type("#name", name);
  await page.click("#join button");
  await shows(page, "#state", `You are ${name} in lobby.`);
  return page;
}

function shows(page, where, text) {
  return page.waitForFunction(
    (where, text) => document.querySelector(where).textContent.includes(text),
    { polling: 100 }, where, text); // windows behind others draw no frames
}

async function says(page, text) {
  await page.type("#text", text);
  await page.click("#say button");
}

const seen = (page) => page.$$eval("#messages li", (lines) => lines.map((line) => line.innerHTML));

const ann = await join("Ann");
await says(ann, "<b>hello</b>");
await shows(ann, "#messages", "hello");
const bob = await join("Bob");
await shows(ann, "#present", "Ann, Bob");
await shows(bob, "#messages", "hello");
await says(bob, "good morning");
await shows(ann, "#messages", "good morning");
tell({ ann: await seen(ann), bob: await seen(bob) });

await input.next();
for (const [page, name] of [[ann, "Ann"], [bob, "Bob"]]) await shows(page, "#present", name);
await shows(ann, "#present", "Bob");
await says(bob, "again");
await shows(ann, "#messages", "again");
tell({ ann: await seen(ann) });
await browser.close();
process.exit(0); // its input is still open
