// What the page shows while there is nothing, while it waits, and when something fails.

import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { dialog, go, gone, live, Person, press, putAway, row, sees, shownToken, startBrowser, stopBrowser } from "./browser.js";
import { fill, Server } from "./server.js";

before(startBrowser);
after(stopBrowser);

async function begin(t, full = true) {
  const server = await Server.start(t);
  const has = full ? await fill(server) : {};
  const person = await Person.meet(t, server);
  return { server, has, person };
}

/** Holds the requests that fit, until the returned function is called. */
async function hold(tab, pattern) {
  let release;
  const released = new Promise((resolve) => (release = resolve));
  await tab.context().route(pattern, async (route) => {
    await released;
    await route.continue();
  });
  return release;
}

test("an empty store says what is missing, and offers to make it", async (t) => {
  const { person } = await begin(t, false);
  const tab = await person.signIn("Keys");
  await sees(tab, "There are no keys yet.");
  await go(tab, "Groups");
  await sees(tab, /There are no groups/);
  await go(tab, "Server keys");
  await sees(tab, /There are no server keys/);
  await go(tab, "Users");
  await sees(tab, "There are no users yet.");
  await tab.getByRole("main").getByRole("button", { name: "New user" }).last().click();
  await dialog(tab, "New user").getByLabel("Subject").fill("ada@example.com");
  await press(dialog(tab, "New user"), "Create");
  await row(tab, "ada@example.com").waitFor();
  await sees(tab, "1 user");
});

test("lists say that they are loading, and then have rows", async (t) => {
  const { person } = await begin(t);
  const tab = await person.signIn("Health");
  const release = await hold(tab, /\/v1\/keys\?/);
  await go(tab, "Keys");
  await sees(tab, "Loading…");
  assert.equal(await tab.getByRole("table", { name: "Keys" }).getAttribute("aria-busy"), "true");
  release();
  await row(tab, "lost-laptop").waitFor();
  await gone(tab.getByText("Loading…"));
});

test("the health says that it is loading", async (t) => {
  const { person } = await begin(t);
  const tab = await person.signIn("Keys");
  const release = await hold(tab, /\/v1\/(health|stats)/);
  await go(tab, "Health");
  await sees(tab, "Loading…");
  release();
  await sees(tab, "Nothing is wrong with the store.");
});

test("a list that cannot be read says why, and is read again on demand", async (t) => {
  const { person } = await begin(t);
  for (const [view, pattern, noun] of [["Keys", "**/v1/keys?*", "lost-laptop"], ["Users", "**/v1/users?*", "ada@example.com"], ["Groups", "**/v1/groups?*", "north"], ["Audit", "**/v1/audit?*", "user"]]) {
    const tab = await person.signIn("Health");
    let answer = (route) => route.fulfill({
      status: 500, contentType: "application/problem+json",
      body: JSON.stringify({ type: "urn:latchkey:problem:corrupt", title: "damaged", status: 500, detail: "the file is damaged at page 7" }),
    });
    await tab.route(pattern, (route) => answer(route));
    await go(tab, view);
    const alert = tab.getByRole("alert").filter({ hasText: "the file is damaged at page 7" });
    await alert.waitFor();
    answer = (route) => route.abort();
    await press(tab, "Try again");
    await tab.getByRole("alert").filter({ hasText: "The server does not answer" }).waitFor();
    answer = (route) => route.continue();
    await press(tab, "Try again");
    await row(tab, noun).first().waitFor();
    assert.equal(await tab.getByRole("button", { name: "Try again" }).count(), 0);
    await tab.close();
  }
});

test("an action that fails keeps the dialog and what was typed, and can be repeated", async (t) => {
  const { server, person } = await begin(t);
  const tab = await person.signIn("Server keys");
  await press(tab, "New server key");
  const d = dialog(tab, "New server key");
  await d.getByLabel("Name").fill("cron");
  let reached = 0;
  // The request arrives, and its answer is lost.
  await tab.route("**/v1/server-keys", async (route) => {
    if (reached++ === 0) {
      await route.fetch();
      await route.abort();
    } else {
      await route.continue();
    }
  });
  await press(d, "Create");
  await sees(d, /The server does not answer/);
  assert.equal(await d.getByLabel("Name").inputValue(), "cron");
  await press(d, "Create");
  // The first request has made the key, and its token is lost: there is no second key.
  const lost = dialog(tab, "The token is lost");
  await lost.waitFor();
  await press(lost, "Rotate");
  await press(dialog(tab, "Rotate the key?"), "Rotate");
  await shownToken(person, tab);
  await putAway(tab);
  const { items } = await server.api("GET", "/v1/keys?owner=server&search=cron");
  assert.equal(items.length, 1);
});

test("a button that is pressed twice does its work once", async (t) => {
  const { server, person } = await begin(t);
  const tab = await person.signIn("Server keys");
  await press(tab, "New server key");
  const d = dialog(tab, "New server key");
  await d.getByLabel("Name").fill("cron");
  let posts = 0;
  tab.on("request", (r) => { if (r.method() === "POST") posts++; });
  await d.getByRole("button", { name: "Create" }).evaluate((b) => { b.click(); b.click(); });
  await shownToken(person, tab);
  await putAway(tab);
  assert.equal(posts, 1);
  assert.equal((await server.api("GET", "/v1/keys?owner=server&search=cron")).items.length, 1);
});

test("a page whose server ends says so, and asks to sign in when the server is back", async (t) => {
  const { server, person } = await begin(t);
  const tab = await person.signIn("Keys");
  await row(tab, "lost-laptop").waitFor();
  await server.stop();
  await tab.getByText("reconnecting", { exact: true }).waitFor();
  await server.start();
  await tab.getByRole("heading", { name: "Signed out" }).waitFor(); // sessions end with the program
  await sees(tab, "The session has ended.");
  assert.equal(await row(tab, "lost-laptop").count(), 0);
  await tab.goto(await server.signInURL());
  await live(tab);
  await row(tab, "lost-laptop").waitFor();
});

test("a page that cannot reach the store at the start offers to try again", async (t) => {
  const { person } = await begin(t);
  const first = await person.signIn("Keys");
  const tab = await person.context.newPage();
  let broken = true;
  await tab.route("**/v1/store", (route) => broken ? route.abort() : route.continue());
  await tab.goto(new URL(first.url()).origin);
  await tab.getByRole("heading", { name: "The store cannot be reached" }).waitFor();
  broken = false;
  await press(tab, "Try again");
  await row(tab, "lost-laptop").waitFor();
});

test("a stream that breaks off misses no change", async (t) => {
  const { server, has, person } = await begin(t);
  const tab = await person.context.newPage();
  let reconnect;
  const back = new Promise((resolve) => (reconnect = resolve));
  let streams = 0;
  // The first stream ends after its beginning.
  await tab.route("**/v1/changes", async (route) => {
    if (streams++ === 0) return route.fulfill({ status: 200, contentType: "text/event-stream", body: `event: ready\ndata: {"sequence":1,"last":"1","trail":true}\n\n` });
    await back;
    await route.continue();
  });
  await tab.goto(await server.signInURL());
  await tab.getByText("reconnecting", { exact: true }).waitFor();
  await row(tab, "phone").waitFor();
  await server.changeKey(has.phone.key.id, { disabled: true });
  reconnect();
  await live(tab);
  await row(tab, "phone").getByText("disabled", { exact: true }).waitFor();
});
