// The keyboard alone, from signing in to revoking the key of a lost laptop.

import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { dialog, gone, hears, Person, row, startBrowser, stopBrowser } from "./browser.js";
import { fill, Server } from "./server.js";

before(startBrowser);
after(stopBrowser);

async function begin(t) {
  const server = await Server.start(t);
  const has = await fill(server);
  const person = await Person.meet(t, server);
  return { server, has, person, tab: await person.signIn() };
}

/** Returns the name of what has the focus, as a screen reader says it. */
const focused = (tab) => tab.evaluate(() => {
  const e = document.activeElement;
  return e.getAttribute("aria-label") ?? e.labels?.[0]?.textContent ?? e.textContent;
});

/** Presses a key until something with a name has the focus, and fails if a round has not got there. */
async function pressUntil(tab, key, name) {
  const passed = [];
  for (let i = 0; i < 60; i++) {
    await tab.keyboard.press(key);
    const now = await focused(tab);
    if (now === name) {
      assert.ok(await tab.evaluate(() => document.activeElement.matches(":focus-visible")), `nothing shows that ${name} has the focus`);
      return;
    }
    passed.push(now);
  }
  assert.fail(`${key} does not reach ${name}, only ${passed.join(" | ")}`);
}

test("the key of a lost laptop is found and revoked", async (t) => {
  const { server, has, tab } = await begin(t);
  assert.equal(await focused(tab), "Search keys");
  await tab.keyboard.type("laptop");
  await tab.keyboard.press("Enter");
  await gone(row(tab, "phone"));
  await pressUntil(tab, "Tab", "lost-laptop");
  await pressUntil(tab, "Tab", "Disable lost-laptop");
  assert.match(await tab.evaluate(() => document.activeElement.getAttribute("aria-description")), /grace@example\.com/); // others may have the name
  await tab.keyboard.press("Enter");
  const d = dialog(tab, "Disable the key?");
  await d.waitFor();
  await pressUntil(tab, "Tab", "Disable");
  await tab.keyboard.press("Space");
  await gone(d);
  await row(tab, "lost-laptop").getByText("disabled", { exact: true }).waitFor();
  assert.equal(await server.stateOf(has.lost.token), "refused");
  assert.equal(await focused(tab), "Enable lost-laptop"); // the focus stays in the row
});

test("a key is made, its token copied, and the focus comes back", async (t) => {
  const { server, has, tab } = await begin(t);
  await pressUntil(tab, "Shift+Tab", "New key");
  await tab.keyboard.press("Enter");
  await dialog(tab, "New key").waitFor();
  assert.equal(await focused(tab), "User");
  await tab.keyboard.type("grace@example.com");
  await pressUntil(tab, "Tab", "Name");
  await tab.keyboard.type("watch");
  await tab.keyboard.press("Enter");
  const d = dialog(tab, "The new token");
  await d.waitFor();
  await pressUntil(tab, "Tab", "Copy");
  await tab.keyboard.press("Enter");
  const token = await tab.evaluate(() => navigator.clipboard.readText());
  await pressUntil(tab, "Tab", "I have stored it");
  await tab.keyboard.press("Space");
  await tab.keyboard.press("Escape");
  await gone(d);
  assert.equal(await focused(tab), "New key");
  assert.equal(await server.stateOf(token), "live");
  assert.equal((await server.api("GET", `/v1/keys?owner=${has.grace.id}`)).items.length, 2);
});

test("a dialog keeps the focus inside, and Escape closes it and gives the focus back", async (t) => {
  const { tab } = await begin(t);
  await pressUntil(tab, "Tab", "phone");
  await tab.keyboard.press("Enter");
  await dialog(tab, "Key").waitFor();
  for (let i = 0; i < 40; i++) {
    await tab.keyboard.press("Tab");
    // The browser's own controls come between the last and the first element.
    assert.ok(await tab.evaluate(() => document.activeElement === document.body || document.activeElement.closest("dialog") !== null), "the focus is behind the dialog");
  }
  await tab.keyboard.press("Escape");
  await gone(dialog(tab, "Key"));
  assert.equal(await focused(tab), "phone");
});

test("arrows move through the rows, and every view is reached", async (t) => {
  const { tab } = await begin(t);
  await pressUntil(tab, "Tab", "laptop");
  for (const name of ["phone", "lost-laptop", "build"]) {
    await tab.keyboard.press("ArrowDown");
    assert.equal(await focused(tab), name);
  }
  await tab.keyboard.press("ArrowUp");
  assert.equal(await focused(tab), "lost-laptop");
  for (const view of ["Users", "Server keys", "Groups", "Audit", "Health", "Keys"]) {
    await pressUntil(tab, "Shift+Tab", view).catch(() => pressUntil(tab, "Tab", view));
    await tab.keyboard.press("Enter");
    await tab.getByRole("heading", { level: 1, name: view, exact: true }).waitFor();
  }
});

test("the first key press offers to skip the links", async (t) => {
  const { tab } = await begin(t);
  await tab.evaluate(() => document.activeElement.blur());
  await pressUntil(tab, "Tab", "Skip to the content");
  await tab.keyboard.press("Enter");
  assert.equal(await focused(tab), "Keys");
});

test("what happened is said to screen readers", async (t) => {
  const { tab } = await begin(t);
  assert.deepEqual(await tab.locator("#status").evaluate((e) => [e.role, e.isConnected]), ["status", true]);
  await tab.getByRole("button", { name: "Disable phone" }).press("Enter");
  await dialog(tab, "Disable the key?").getByRole("button", { name: "Disable", exact: true }).press("Enter");
  await hears(tab, "The key is disabled.");
  await tab.getByRole("searchbox").fill("nothing like it");
  await hears(tab, "No key found");
});
