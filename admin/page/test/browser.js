// Headless Chromium, and what every test asks of a tab.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const axe = await readFile(new URL("../node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

let browser;

/** Starts a browser for all tests of a file. */
export async function startBrowser() {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"], // needed if root runs Chromium
  });
}

export const stopBrowser = () => browser.close();

/**
 * A Person has a browser of their own, with cookies of its own. What a tab must never do fails the
 * test at its end: requests to other hosts, violations of the content security policy, errors on
 * the page, and tokens in URLs.
 */
export class Person {
  wrong = [];
  requests = [];
  tokens = [];

  static async meet(t, server, options = {}) {
    const person = new Person();
    person.server = server;
    person.context = await browser.newContext({
      viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", locale: "en-GB", timezoneId: "Europe/London", ...options,
    });
    person.context.setDefaultTimeout(Number(process.env.PW_LIMIT ?? 60_000)); // a busy machine is slow
    await person.context.grantPermissions(["clipboard-read", "clipboard-write"]);
    await person.context.addInitScript(() => {
      // What was said to screen readers, for it does not stay.
      globalThis.said = [];
      new MutationObserver((changes) => {
        for (const c of changes) if (c.target.id === "status") for (const node of c.addedNodes) globalThis.said.push(node.textContent);
      }).observe(document, { childList: true, subtree: true });
      addEventListener("securitypolicyviolation", (e) => console.error(`violated ${e.effectiveDirective}: ${e.blockedURI} ${e.sample}`));
    });
    person.context.on("request", (request) => {
      person.requests.push(request.url());
      if (!/^(blob|data):/.test(request.url()) && ![server.url, person.elsewhere].includes(new URL(request.url()).origin)) person.wrong.push(`a request to ${request.url()}`);
    });
    person.context.on("console", (message) => {
      // Chromium reports each answer that is no success.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) person.wrong.push(message.text());
    });
    person.context.on("weberror", (e) => person.wrong.push(String(e.error().stack)));
    t.after(async () => {
      await person.context.close();
      assert.deepEqual(person.wrong, []);
      for (const token of person.tokens) {
        assert.ok(!person.requests.some((url) => url.includes(token)), "a URL had a token");
        assert.ok(!server.log.includes(token), "the log has a token");
      }
    });
    return person;
  }

  /** Opens a tab, signed in. */
  async signIn(path = "") {
    const tab = await this.context.newPage();
    await tab.goto(await this.server.signInURL());
    await live(tab);
    if (path) await go(tab, path);
    return tab;
  }

  /** Opens another tab, in which the session goes on. */
  async anotherTab(path = "") {
    const tab = await this.context.newPage();
    await tab.goto(`${this.server.url}/${path}`);
    await live(tab);
    return tab;
  }
}

/** Waits until a tab follows the changes. */
export const live = (tab) => tab.getByText("live", { exact: true }).waitFor();

/** Goes to a view by its link. */
export async function go(tab, title) {
  await tab.getByRole("navigation").getByRole("link", { name: title, exact: true }).click();
  await tab.getByRole("heading", { level: 1, name: title, exact: true }).waitFor();
}

/** Returns the row of a table with a text. */
export const row = (tab, text) => tab.getByRole("row").filter({ hasText: text });

/** Returns the open dialog with a title. */
export const dialog = (tab, title) => tab.getByRole("dialog", { name: title, exact: true });

/** Presses a button. */
export const press = (where, name) => where.getByRole("button", { name, exact: true }).click();

/** Presses a button that is there only to say why it cannot be used. */
export const pressUnusable = (where, name) => where.getByRole("button", { name, exact: true }).press("Enter");

/** Waits until a text is there. */
export const sees = (where, text) => where.getByText(text).first().waitFor();

/** Waits until a message with a text was shown, or was said to screen readers. */
export const hears = (tab, text) => tab.waitForFunction((text) => globalThis.said.some((one) => one.includes(text)), text);

/** Waits until a locator has gone. */
export const gone = (locator) => locator.waitFor({ state: "detached" });

/** Returns a token that a dialog shows, and remembers that it must not be in a URL. */
export async function shownToken(person, tab) {
  const token = await dialog(tab, "The new token").getByRole("status", { name: "Token" }).textContent();
  assert.match(token, /^lk_[0-9A-Za-z_-]{40,}$/);
  person.tokens.push(token);
  return token;
}

/** Closes the dialog with a token, as somebody who has stored it. */
export async function putAway(tab) {
  const d = dialog(tab, "The new token");
  await d.getByRole("checkbox", { name: "I have stored it" }).check();
  await press(d, "Done");
  await gone(d);
}

/** Fails if a tab, its history or what it stores has a text. */
export async function assertNowhere(person, tab, text) {
  const cdp = await person.context.newCDPSession(tab);
  const { entries } = await cdp.send("Page.getNavigationHistory");
  const places = {
    history: JSON.stringify(entries.map((e) => [e.url, e.title])), // and not what was typed into the browser
    state: await tab.evaluate(() => JSON.stringify([history.state, document.title, document.cookie, name])),
    document: await tab.content(),
    values: await tab.evaluate(() => [...document.querySelectorAll("input, textarea, select, output")].map((e) => e.value).join("\n")),
    storage: await tab.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }])),
    databases: await tab.evaluate(async () => JSON.stringify([await indexedDB.databases(), await caches.keys()])),
    cookies: JSON.stringify(await person.context.storageState()),
  };
  for (const [place, has] of Object.entries(places)) assert.ok(!has.includes(text), `the ${place} of the tab has it`);
  assert.equal(places.databases, "[[],[]]");
  await cdp.detach();
}

/** Fails if axe-core finds a violation. */
export async function assertAccessible(tab, where) {
  await tab.evaluate(axe);
  const { violations } = await tab.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const found = violations.map((v) => `${v.id}: ${v.help}\n${v.nodes.map((n) => `  ${n.html}\n  ${n.failureSummary}`).join("\n")}`);
  assert.equal(found.join("\n"), "", where);
}

/** Fails if the page, or a dialog, is wider than the window. */
export async function assertNoSideways(tab, where) {
  const wide = await tab.evaluate(() => {
    const found = [];
    const root = document.scrollingElement;
    if (root.scrollWidth > root.clientWidth) found.push(`the document: ${root.scrollWidth} of ${root.clientWidth}`);
    for (const e of document.querySelectorAll("dialog, main, [role=table]")) {
      if (e.scrollWidth > e.clientWidth + 1) found.push(`${e.tagName} ${e.className}: ${e.scrollWidth} of ${e.clientWidth}`);
      const body = e.querySelector(".body");
      if (body && body.scrollWidth > body.clientWidth) found.push(`the body of a dialog: ${body.scrollWidth} of ${body.clientWidth}`);
      const box = e.getBoundingClientRect();
      if (box.left < -0.5 || box.right > innerWidth + 0.5) found.push(`${e.tagName} ${e.className}: from ${box.left} to ${box.right}`);
    }
    return found;
  });
  assert.deepEqual(wide, [], where);
}
