// Runs the steps in headless Chromium, on a page whose origin is not the double's. So nothing works
// without the double's CORS headers.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { once } from "node:events";
import { chromium } from "playwright-core";
import { drive } from "./drive.js";
import { steps } from "./steps.js";

const FILES = {
  "/": ["text/html", "page.html"],
  "/realm-web.js": ["text/javascript", "node_modules/realm-web/dist/bundle.iife.js"],
  "/steps.js": ["text/javascript", "steps.js"],
  "/check.js": ["text/javascript", "check.js"],
};

drive("realm-web 2.0.1 in Chromium", Object.keys(steps), async (t, data, outside) => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"], // needed if root runs Chromium
  });
  t.after(() => browser.close());
  const page = await browser.newPage();
  for (const [name, call] of Object.entries(outside)) await page.exposeFunction(name, call);
  await page.goto(await serve(t));
  return (step) => page.evaluate(([step, data]) => runStep(step, data), [step, { ...data, version: "2.0.1" }]);
});

/** Serves the page at an address of its own. */
async function serve(t) {
  const server = createServer(async (request, reply) => {
    const file = FILES[request.url];
    if (!file) return reply.writeHead(404).end();
    reply.writeHead(200, { "Content-Type": file[0] }).end(await readFile(new URL(file[1], import.meta.url)));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close().closeAllConnections());
  return `http://localhost:${server.address().port}/`;
}
