// Looks at the built documentation in a browser: `make docs-check`, or
// `node check.mjs FOLDER [PART-OF-A-NAME...]`.
//
// Each page is opened at the width of a desktop and of a phone, light and dark. It must have no fault
// of WCAG 2 A and AA that axe-core finds, must not be wider than its window, and the keyboard must
// reach the link that skips the navigation, and show where it is.

import { readdir } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

// npm's packages are where `make docs-check` has put them.
const require = createRequire(pathToFileURL(path.resolve("build/docs-check/package.json")));
const puppeteer = require("puppeteer-core");
const axe = require.resolve("axe-core/axe.min.js");

const WIDTHS = [1280, 360];
const SCHEMES = ["light", "dark"];

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
try {
  const page = await browser.newPage();
  for (const name of names) {
    for (const width of WIDTHS) {
      await page.setViewport({ width, height: 900 });
      for (const scheme of SCHEMES) {
        const where = `${width} px, ${scheme}`;
        await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
        await page.goto(pathToFileURL(path.resolve(folder, name)).href);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        if (wide > width) report(name, where, `is ${wide} px wide`);
        await page.addScriptTag({ path: axe });
        const found = await page.evaluate(() =>
          axe.run({ runOnly: ["wcag2a", "wcag2aa"], resultTypes: ["violations"] }));
        for (const { id, help, nodes } of found.violations) {
          report(name, where, `${id}: ${help}; ${nodes.length} times, first ${nodes[0].html.slice(0, 160)}`);
        }
      }
    }
    await page.setViewport({ width: WIDTHS[0], height: 900 });
    await page.goto(pathToFileURL(path.resolve(folder, name)).href);
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
