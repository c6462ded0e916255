// Two tabs, and two people, at once.

import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { dialog, gone, hears, Person, press, row, sees, startBrowser, stopBrowser } from "./browser.js";
import { fill, Server } from "./server.js";

before(startBrowser);
after(stopBrowser);

async function begin(t) {
  const server = await Server.start(t);
  const has = await fill(server);
  return { server, has, person: await Person.meet(t, server) };
}

const open = (tab, name) => tab.getByRole("cell").getByRole("button", { name, exact: true }).click();

test("another tab goes on with the session, and changes appear in it at once", async (t) => {
  const { server, person } = await begin(t);
  const first = await person.signIn("Keys");
  const second = await person.anotherTab();
  await open(second, "phone");
  await press(first, "Disable phone");
  await press(dialog(first, "Disable the key?"), "Disable");
  await dialog(second, "Key").getByText("disabled", { exact: true }).waitFor();
  await press(dialog(second, "Key"), "Close");
  await row(second, "phone").getByText("disabled", { exact: true }).waitFor();
  // What the command, or another administrator, does appears, too.
  await server.newServerKey("cron");
  for (const tab of [first, second]) await row(tab, "cron").waitFor();
});

test("an entry that is deleted elsewhere disappears, and its details close", async (t) => {
  const { server, has, person } = await begin(t);
  const tab = await person.signIn("Keys");
  await open(tab, "phone");
  await server.api("DELETE", `/v1/keys/${has.phone.key.id}`);
  await gone(dialog(tab, "Key"));
  await hears(tab, "The key that you were looking at was deleted.");
  await gone(row(tab, "phone"));
});

test("a change of something that another tab has changed is refused, shown, and can be repeated", async (t) => {
  const { server, has, person } = await begin(t);
  const [first, second] = [await person.signIn("Keys"), await person.anotherTab()];
  for (const tab of [first, second]) {
    await open(tab, "laptop");
    await press(dialog(tab, "Key"), "Edit");
  }
  await dialog(first, "Edit the key").getByLabel("Scopes").fill("files:read");
  await press(dialog(first, "Edit the key"), "Save");
  await gone(dialog(first, "Edit the key"));

  const d = dialog(second, "Edit the key");
  await d.getByLabel("Name").fill("notebook");
  await press(d, "Save");
  await sees(d, /Somebody else has changed the key meanwhile/);
  await sees(d, "files:read files:write"); // before
  assert.deepEqual((await server.key(has.laptop.key.id)).name, "laptop");
  await press(d, "Save");
  await gone(d);
  const key = await server.key(has.laptop.key.id);
  assert.deepEqual([key.name, key.scopes], ["notebook", ["files:read"]]); // and the first change is still there
});

test("enabling is refused if somebody has disabled the key again meanwhile", async (t) => {
  const { server, has, person } = await begin(t);
  const tab = await person.signIn("Keys");
  await press(tab, "Enable build");
  const d = dialog(tab, "Enable the key?");
  await server.changeKey(has.build.key.id, { name: "stolen-build" });
  await press(d, "Enable");
  await sees(d, /Somebody else has changed the key meanwhile/);
  await sees(d, "stolen-build");
  assert.equal((await server.key(has.build.key.id)).disabled, true);
});

test("disabling works whatever somebody else has done", async (t) => {
  const { server, has, person } = await begin(t);
  const tab = await person.signIn("Keys");
  await press(tab, "Disable laptop");
  await server.changeKey(has.laptop.key.id, { scopes: ["mail"] });
  await press(dialog(tab, "Disable the key?"), "Disable");
  await gone(dialog(tab, "Disable the key?"));
  const key = await server.key(has.laptop.key.id);
  assert.deepEqual([key.disabled, key.scopes], [true, ["mail"]]);
});

test("a rotation that somebody else was faster with ends no token", async (t) => {
  const { server, has, person } = await begin(t);
  const tab = await person.signIn("Keys");
  await open(tab, "phone");
  await press(dialog(tab, "Key"), "Rotate");
  const d = dialog(tab, "Rotate the key?");
  await d.getByLabel(/How long/).selectOption("0");
  const { token } = await server.api("POST", `/v1/keys/${has.phone.key.id}/rotate`, { overlap_seconds: 60 }, { "If-Match": "*" });
  await press(d, "Rotate");
  await sees(d, /Somebody else has changed the key meanwhile/);
  assert.deepEqual([await server.stateOf(token), await server.stateOf(has.phone.token)], ["live", "live"]);
});

test("signing out in one tab signs all tabs out, and another person stays signed in", async (t) => {
  const { server, person } = await begin(t);
  const tabs = [await person.signIn("Keys"), await person.anotherTab(), await person.anotherTab("#/audit")];
  const other = await Person.meet(t, server);
  const theirs = await other.signIn("Keys");
  await row(tabs[1], "lost-laptop").waitFor();
  await press(tabs[0], "Sign out");
  for (const tab of tabs) await tab.getByRole("heading", { name: "Signed out" }).waitFor();
  await sees(tabs[1], "Another tab has signed out.");
  assert.equal(await row(tabs[1], "lost-laptop").count(), 0);
  await server.newServerKey("cron");
  await row(theirs, "cron").waitFor();
});

test("a tab that was signed out by another one signs in with it again", async (t) => {
  const { person } = await begin(t);
  const [first, second] = [await person.signIn("Keys"), await person.anotherTab()];
  await press(first, "Sign out");
  await second.getByRole("heading", { name: "Signed out" }).waitFor();
  await person.signIn("Keys");
  await row(second, "lost-laptop").waitFor();
});
