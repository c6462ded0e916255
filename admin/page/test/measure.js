// Measures how 10,000 keys scroll, and fails if a task takes 100 ms or longer. The machine must be quiet.

import { Person, live, row, startBrowser, stopBrowser } from "./browser.js";
import { scrollToEnd, startWith } from "./many.js";

const limit = 100; // ms
const ends = [];
const t = { after: (end) => ends.unshift(end) };
await startBrowser();
try {
  const { server, keys } = await startWith(t, 10_000);
  const person = await Person.meet(t, server);
  const tab = await person.context.newPage();
  await tab.addInitScript(() => {
    globalThis.tasks = []; // Chromium reports tasks of 50 ms and more
    new PerformanceObserver((list) => globalThis.tasks.push(...list.getEntries().map((e) => e.duration))).observe({ type: "longtask", buffered: true });
  });
  await tab.goto(await server.signInURL());
  await live(tab);
  await row(tab, keys[0].name).waitFor();
  const report = async (what, start) => {
    const tasks = await tab.evaluate(() => globalThis.tasks.splice(0));
    const longest = Math.max(0, ...tasks);
    console.log(`${what}: ${((performance.now() - start) / 1000).toFixed(1)} s, ${tasks.length} tasks of 50 ms or more, the longest ${Math.round(longest)} ms`);
    if (longest >= limit) process.exitCode = 1;
  };
  await report("opening the page", 0);
  let start = performance.now();
  await scrollToEnd(tab, 0.9);
  await report("scrolling to the end while the rows are loaded", start);
  start = performance.now();
  await tab.evaluate(() => new Promise((resolve) => {
    // As somebody who drags the bar of the scroller: one jump a frame, back and forth.
    const scroller = document.querySelector("[role=table] .scroller");
    let frames = 0;
    const frame = () => {
      scroller.scrollTop = (Math.sin(frames / 20) + 1) / 2 * scroller.scrollHeight;
      if (++frames < 300) requestAnimationFrame(frame);
      else resolve();
    };
    frame();
  }));
  await report("dragging through all rows in 300 frames", start);
  start = performance.now();
  for (const key of keys.slice(0, 50)) await server.changeKey(key.id, { disabled: true });
  await tab.locator(".scroller").evaluate((scroller) => (scroller.scrollTop = 0));
  await row(tab, keys[0].name).getByText("disabled", { exact: true }).waitFor();
  await report("50 changes by somebody else", start);
} finally {
  for (const end of ends) await end();
  await stopBrowser();
}
