// Looks at the built documentation in a browser: `make docs-check`, or
// `node check.mjs FOLDER [PART-OF-A-NAME...]`.
//
// Each page is opened at the width of a desktop and of a phone, light and dark. It must have no fault
// of WCAG 2 A and AA that axe-core finds, must not be wider than its window, and the keyboard must
// reach the link that skips the navigation, and show where it is. The words of pictures are large enough
// to be read, and pictures are dark where the theme is. Before the pages, the search is tried, and whether
// the keyboard reaches the contents; neither is repeated for each page.

import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

// npm's packages are where `make docs-check` has put them.
const require = createRequire(pathToFileURL(path.resolve("build/docs-check/package.json")));
const puppeteer = require("puppeteer-core");
const axe = require.resolve("axe-core/axe.min.js");

const WIDTHS = [1280, 360];
const SCHEMES = ["light", "dark"];
const READABLE = 9; // pixels of the smallest font in a picture
const here = path.dirname(fileURLToPath(import.meta.url));
// By word, the page of the guide that it finds.
const searches = JSON.parse(await readFile(path.join(here, "../../docs/searches.json"), "utf8"));

const [folder, ...parts] = process.argv.slice(2);
const names = (await readdir(folder, { recursive: true }))
  .filter((name) => name.endsWith(".html"))
  // Sources: their one heading and their highlighting are Sphinx's own, the same on each.
  .filter((name) => !name.startsWith("_modules/"))
  .filter((name) => !parts.length || parts.some((part) => name.includes(part)))
  .sort();
if (!names.length) {
  console.error(`there is no page in ${folder} whose name has ${parts.join(" or ") || ".html"}`);
  process.exit(2);
}

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});
let faults = 0;
const report = (name, where, text) => {
  faults += 1;
  console.log(`${name} (${where}): ${text}`);
};
const url = (name) => pathToFileURL(path.resolve(folder, name)).href;

// Each word finds its page of the guide among the first five.
async function checkSearch(page) {
  for (const [word, wanted] of Object.entries(searches)) {
    await page.goto(`${url("search.html")}?q=${encodeURIComponent(word)}`);
    await page.waitForFunction(
      () => /finished|did not match/.test(document.querySelector("#search-results .search-summary")?.textContent ?? ""),
      { timeout: 10_000 });
    const found = await page.evaluate(() =>
      [...document.querySelectorAll("#search-results li > a")].slice(0, 5).map((a) => a.getAttribute("href")));
    if (!found.some((href) => href.includes(`guide/${wanted}.html`))) {
      report("search.html", word, `does not find guide/${wanted}.html first, but ${found.join(", ") || "nothing"}`);
    }
  }
}

// Tab reaches the search and both contents; in a narrow window, once their drawers are open.
async function checkContents(page) {
  const name = "guide/serve.html";
  for (const width of WIDTHS) {
    await page.setViewport({ width, height: 900 });
    for (const [part, box] of [
      [".sidebar-search", "__navigation"],
      [".sidebar-tree", "__navigation"],
      [".toc-tree", "__toc"],
    ]) {
      await page.goto(url(name));
      const drawn = () => page.evaluate(async (part) => {
        await Promise.all(document.getAnimations().map((animation) => animation.finished));
        const focused = document.activeElement;
        const { left, right } = focused.getBoundingClientRect();
        return {
          id: focused.id,
          reached: focused.closest(part) !== null,
          seen: right > 0 && left < innerWidth,
          html: focused.outerHTML.slice(0, 120),
        };
      }, part);
      let reached = false;
      for (let nth = 0; nth < 400 && !reached; nth += 1) {
        await page.keyboard.press("Tab");
        const focus = await drawn();
        if (!focus.seen) {
          report(name, `${width} px, Tab`, `goes out of sight: ${focus.html}`);
          break;
        }
        if (focus.id === box) await page.keyboard.press("Space");
        reached = focus.reached;
      }
      if (!reached) report(name, `${width} px, Tab`, `does not reach ${part}`);
    }
  }
}

// Pictures that have a dark form take it where furo's button has chosen the dark theme.
async function checkTheme(page) {
  const name = "inside.html";
  await page.setViewport({ width: WIDTHS[0], height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
  await page.goto(url(name));
  for (let nth = 0; nth < 3; nth += 1) {
    await page.evaluate(() => document.querySelector(".theme-toggle").click());
    const theme = await page.evaluate(() => document.body.dataset.theme);
    const image = await page.$('img[src$="house.svg"]');
    const shot = await image.screenshot({ encoding: "base64" });
    const light = await page.evaluate(async (data) => {
      const picture = new Image();
      picture.src = `data:image/png;base64,${data}`;
      await picture.decode();
      const canvas = document.createElement("canvas");
      const context = canvas.getContext("2d");
      context.drawImage(picture, 0, 0);
      return context.getImageData(2, 2, 1, 1).data[0] > 127;
    }, shot);
    if (light !== (theme !== "dark")) report(name, `theme ${theme}`, `house.svg is ${light ? "light" : "dark"}`);
  }
  await page.evaluate(() => localStorage.clear());
}

// How many pixels the smallest words of each picture have where it is shown.
async function checkPictures(page, name, where) {
  const shown = await page.evaluate(() =>
    [...document.querySelectorAll("article img")].map((img) => ({
      src: img.src, width: img.clientWidth,
    })));
  for (const { src, width } of shown.filter(({ src }) => src.startsWith("file:") && src.endsWith(".svg"))) {
    const svg = await readFile(fileURLToPath(src), "utf8");
    const wide = Number(/viewBox="0 0 ([\d.]+)/.exec(svg)[1]);
    const fonts = [...svg.matchAll(/font(?:-size)?:\s*(?:\w+ )?([\d.]+)px/g)].map((match) => Number(match[1]));
    const smallest = (Math.min(...fonts) * width) / wide;
    if (!(smallest >= READABLE)) {
      report(name, where, `the words of ${path.basename(src)} are ${smallest.toFixed(1)} px high`);
    }
  }
}

try {
  const page = await browser.newPage();
  if (!parts.length) {
    await checkSearch(page);
    await checkContents(page);
    await checkTheme(page);
  }
  for (const name of names) {
    for (const width of WIDTHS) {
      await page.setViewport({ width, height: 900 });
      for (const scheme of SCHEMES) {
        const where = `${width} px, ${scheme}`;
        await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
        await page.goto(url(name));
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        if (wide > width) report(name, where, `is ${wide} px wide`);
        await checkPictures(page, name, where);
        await page.addScriptTag({ path: axe });
        const found = await page.evaluate(() =>
          axe.run({ runOnly: ["wcag2a", "wcag2aa"], resultTypes: ["violations"] }));
        for (const { id, help, nodes } of found.violations) {
          report(name, where, `${id}: ${help}; ${nodes.length} times, first ${nodes[0].html.slice(0, 160)}`);
        }
      }
    }
    await page.setViewport({ width: WIDTHS[0], height: 900 });
    await page.goto(url(name));
    for (const nth of [1, 2, 3]) {
      await page.keyboard.press("Tab");
      const focus = await page.evaluate(async () => {
        const element = document.activeElement;
        // The skip link slides in.
        await Promise.all(element.getAnimations().map((animation) => animation.finished));
        const box = element.getBoundingClientRect();
        const style = getComputedStyle(element);
        return {
          html: element.outerHTML.slice(0, 120),
          skips: element.classList.contains("skip-to-content"),
          shown: box.top >= 0 && box.left >= 0 && box.width > 0 && style.outlineStyle !== "none",
        };
      });
      if (nth === 1 && !focus.skips) report(name, "Tab", `first reaches ${focus.html}`);
      if (!focus.shown) report(name, "Tab", `does not show where it is: ${focus.html}`);
    }
  }
} finally {
  await browser.close();
}
console.log(`${names.length} pages, ${faults} faults`);
process.exit(faults ? 1 : 0);
