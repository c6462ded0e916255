// Every view and every dialog, for people with a screen reader, a narrow window, and in the dark.

import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { assertAccessible, assertNoSideways, Person, startBrowser, stopBrowser } from "./browser.js";
import { fill, Server } from "./server.js";
import { tour } from "./tour.js";

before(startBrowser);
after(stopBrowser);

async function begin(t, options) {
  const server = await Server.start(t);
  await fill(server);
  const person = await Person.meet(t, server, options);
  return person.signIn();
}

for (const colorScheme of ["light", "dark"]) {
  test(`axe-core finds nothing, ${colorScheme}`, async (t) => {
    const tab = await begin(t, { colorScheme });
    let seen = 0;
    await tour(tab, async (name) => {
      seen++;
      await assertAccessible(tab, name);
    });
    assert.ok(seen > 30, `the tour has ${seen} stops`);
  });
}

test("nothing is wider than a window of 360 pixels, and axe-core finds nothing in it", async (t) => {
  const tab = await begin(t, { viewport: { width: 360, height: 740 }, hasTouch: true });
  await tour(tab, async (name) => {
    await assertNoSideways(tab, name);
    await assertAccessible(tab, name);
  });
});

test("dark and light are different, and follow the system while the page is open", async (t) => {
  const tab = await begin(t, { colorScheme: "light" });
  const colours = () => tab.evaluate(() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]);
  const light = await colours();
  await tab.emulateMedia({ colorScheme: "dark" });
  const dark = await colours();
  assert.notDeepEqual(light, dark);
  const brightness = (c) => c.match(/\d+/g).slice(0, 3).reduce((sum, n) => sum + Number(n), 0);
  assert.ok(brightness(light[0]) > brightness(light[1]) && brightness(dark[0]) < brightness(dark[1]), `${light} ${dark}`);
});

test("at 400 %, and with forced colours, the page is no wider than its window", async (t) => {
  // 1280 pixels at 400 %, as WCAG 1.4.10 has it.
  const tab = await begin(t, { forcedColors: "active", viewport: { width: 320, height: 256 }, deviceScaleFactor: 4 });
  await tour(tab, (name) => assertNoSideways(tab, name));
});
