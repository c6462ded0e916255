// Each action of the page, and what it leaves in the store.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test, { after, before } from "node:test";
import { assertNowhere, dialog, go, gone, hears, Person, press, pressUnusable, putAway, row, sees, shownToken, startBrowser, stopBrowser } from "./browser.js";
import { fill, Server } from "./server.js";

before(startBrowser);
after(stopBrowser);

/** Begins with a full store, a person, and a tab that shows a view. */
async function begin(t, view = "Keys") {
  const server = await Server.start(t);
  const has = await fill(server);
  const person = await Person.meet(t, server);
  const tab = await person.signIn(view);
  return { server, has, person, tab };
}

/** Opens the details of a row. */
async function open(tab, name, title) {
  await tab.getByRole("cell").getByRole("button", { name, exact: true }).click();
  return dialog(tab, title);
}

test("a new key has what was asked for, and its token is nowhere after closing", async (t) => {
  const { server, has, person, tab } = await begin(t);
  await press(tab, "New key");
  const d = dialog(tab, "New key");
  await d.getByLabel("User").fill("ada@example.com");
  await d.getByLabel("Name").fill("watch");
  await d.getByLabel("Expires").selectOption("30");
  await d.getByLabel("Scopes").fill("files:read mail:*");
  await d.getByLabel("Networks").fill("198.51.100.0/24 2001:db8::1");
  await sees(d, /^latchkey key create --expires 20\S+Z --scopes 'files:read mail:\*' --networks '198\.51\.100\.0\/24 2001:db8::1\/128' ada@example\.com watch$/);
  await press(d, "Create");
  const token = await shownToken(person, tab);
  await press(dialog(tab, "The new token"), "Copy");
  await hears(tab, "Copied");
  assert.equal(await tab.evaluate(() => navigator.clipboard.readText()), token);
  const downloading = tab.waitForEvent("download");
  await press(dialog(tab, "The new token"), "Download");
  assert.equal(await readFile(await (await downloading).path(), "utf8"), token + "\n");
  await putAway(tab);
  await assertNowhere(person, tab, token);
  await row(tab, "watch").waitFor();

  const keys = await server.api("GET", `/v1/keys?owner=${has.ada.id}&search=watch`);
  const [key] = keys.items;
  assert.deepEqual([key.scopes, key.networks], [["files:read", "mail:*"], ["198.51.100.0/24", "2001:db8::1/128"]]);
  const days = (Date.parse(key.expires) - Date.now()) / 86_400_000;
  assert.ok(days > 29.9 && days < 30.1, `it expires in ${days} days`);
  assert.equal(await server.stateOf(token), "live");
});

test("closing a token that was not stored asks, with the button, Escape and Escape again", async (t) => {
  const { person, tab } = await begin(t, "Server keys");
  await press(tab, "New server key");
  await dialog(tab, "New server key").getByLabel("Name").fill("cron");
  await press(dialog(tab, "New server key"), "Create");
  const token = await shownToken(person, tab);
  const d = dialog(tab, "The new token");
  for (const close of [() => press(d, "Done"), () => press(d, "Close"), () => tab.keyboard.press("Escape"), () => tab.keyboard.press("Escape")]) {
    await close();
    await sees(d, /Close all the same\?/);
    assert.ok(await d.isVisible());
  }
  await press(d, "Go back");
  assert.equal(await d.getByRole("status", { name: "Token" }).textContent(), token);
  await press(d, "Done");
  await press(d, "Close without storing");
  await gone(d);
  await assertNowhere(person, tab, token);
});

test("leaving the page with a token that was not stored asks", async (t) => {
  const { person, tab } = await begin(t, "Server keys");
  await press(tab, "New server key");
  await dialog(tab, "New server key").getByLabel("Name").fill("cron");
  await press(dialog(tab, "New server key"), "Create");
  const token = await shownToken(person, tab);
  const asked = tab.waitForEvent("dialog");
  const left = tab.reload();
  const question = await asked;
  assert.equal(question.type(), "beforeunload");
  await question.accept();
  await left;
  await assertNowhere(person, tab, token);
});

test("going back with a token that was not stored asks, too", async (t) => {
  const { person, tab } = await begin(t, "Server keys");
  await press(tab, "New server key");
  await dialog(tab, "New server key").getByLabel("Name").fill("cron");
  await press(dialog(tab, "New server key"), "Create");
  const token = await shownToken(person, tab);
  const d = dialog(tab, "The new token");
  await tab.evaluate(() => history.back());
  await sees(d, /Close all the same\?/);
  assert.equal(await d.getByRole("status", { name: "Token" }).textContent(), token);
  await press(d, "Close without storing");
  await gone(d);
  await tab.getByRole("heading", { level: 1, name: "Server keys", exact: true }).waitFor();
  await tab.evaluate(() => history.back());
  await tab.getByRole("heading", { level: 1, name: "Keys", exact: true }).waitFor();
});

test("a server key has a group, and a name that is taken is told in the dialog", async (t) => {
  const { server, person, tab } = await begin(t, "Server keys");
  await press(tab, "New server key");
  const d = dialog(tab, "New server key");
  await press(d, "Create");
  await sees(d, "Give the key a name.");
  await d.getByLabel("Name").fill("mail");
  await press(d, "Create");
  await d.getByRole("alert").filter({ hasText: "mail" }).waitFor();
  await d.getByLabel("Name").fill("cron");
  await d.getByLabel("Group").fill("west");
  await sees(d, "latchkey key create --group west --server cron");
  await press(d, "Create");
  await shownToken(person, tab);
  await putAway(tab);
  await row(tab, "cron").filter({ hasText: "west" }).waitFor();
  const { items } = await server.api("GET", "/v1/keys?owner=server&search=cron");
  assert.equal(items[0].group, "west");
});

test("disabling shows the last use before it is confirmed, and stops the key", async (t) => {
  const { server, has, tab } = await begin(t);
  await press(tab, "Disable lost-laptop");
  const d = dialog(tab, "Disable the key?");
  await sees(d, "Last used");
  await sees(d, "latchkey key disable grace@example.com lost-laptop");
  await press(d, "Cancel");
  await gone(d);
  assert.equal((await server.key(has.lost.key.id)).disabled, false);
  await press(tab, "Disable lost-laptop");
  await press(d, "Disable");
  await gone(d);
  await row(tab, "lost-laptop").getByText("disabled", { exact: true }).waitFor();
  assert.equal(await server.stateOf(has.lost.token), "refused");
});

test("enabling lets the key log in again", async (t) => {
  const { server, has, tab } = await begin(t);
  await press(tab, "Enable build");
  await press(dialog(tab, "Enable the key?"), "Enable");
  await row(tab, "build").getByText("enabled", { exact: true }).waitFor();
  assert.equal(await server.stateOf(has.build.token), "live");
});

test("only a disabled key can be deleted", async (t) => {
  const { server, has, tab } = await begin(t);
  const d = await open(tab, "laptop", "Key");
  await pressUnusable(d, "Delete");
  await hears(tab, "Disable the key first");
  await press(d, "Disable");
  await press(dialog(tab, "Disable the key?"), "Disable");
  await d.getByText("disabled", { exact: true }).waitFor();
  await press(d, "Delete");
  const sure = dialog(tab, "Delete the key?");
  await sees(sure, "Last used");
  await press(sure, "Delete");
  await sees(sure, "Tick the box first.");
  await sure.getByRole("checkbox").check();
  await press(sure, "Delete");
  await gone(sure);
  await gone(d);
  await gone(tab.getByRole("cell").getByRole("button", { name: "laptop", exact: true }));
  await assert.rejects(server.key(has.laptop.key.id), /key-deleted|key-not-found/);
});

test("rotating with an overlap shows the last use of both tokens", async (t) => {
  const { server, has, person, tab } = await begin(t);
  const d = await open(tab, "phone", "Key");
  await press(d, "Rotate");
  const ask = dialog(tab, "Rotate the key?");
  await ask.getByLabel(/How long/).selectOption("3600");
  await sees(ask, "latchkey key rotate --overlap 1h ada@example.com phone");
  await press(ask, "Rotate");
  const token = await shownToken(person, tab);
  await sees(dialog(tab, "The new token"), /The old token is good until/);
  await putAway(tab);
  await assertNowhere(person, tab, token);
  assert.deepEqual([await server.stateOf(has.phone.token), await server.stateOf(token)], ["live", "live"]);
  const table = d.getByRole("table", { name: "Tokens" });
  const lastUse = (which) => table.getByRole("row").filter({ hasText: which }).getByRole("cell").last();
  await lastUse("Old").getByRole("time").waitFor(); // the phone was in use
  await lastUse("New").getByText("never").waitFor();
  await server.use(token);
  await server.changeKey(has.phone.key.id, { metadata: { rotated: "yes" } }); // a use alone is no change that is told at once
  await lastUse("New").getByRole("time").waitFor();
  await table.getByRole("columnheader", { name: "Last used" }).waitFor();
});

test("rotating without an overlap ends the old token", async (t) => {
  const { server, has, person, tab } = await begin(t);
  await press(await open(tab, "phone", "Key"), "Rotate");
  const ask = dialog(tab, "Rotate the key?");
  await ask.getByLabel(/How long/).selectOption("0");
  await press(ask, "Rotate");
  const token = await shownToken(person, tab);
  await putAway(tab);
  assert.equal(await server.stateOf(token), "live");
  await assert.rejects(server.stateOf(has.phone.token), /token-unknown|invalid-token/);
});

test("editing sends what was changed and nothing else", async (t) => {
  const { server, has, tab } = await begin(t);
  await press(await open(tab, "laptop", "Key"), "Edit");
  const d = dialog(tab, "Edit the key");
  await d.getByLabel("Name").fill("old-laptop");
  await d.getByLabel("Scopes").fill("");
  await d.getByLabel("Expires").selectOption("");
  await sees(d, /latchkey key rename ada@example.com laptop old-laptop/);
  const sent = tab.waitForRequest((r) => r.method() === "PATCH");
  await press(d, "Save");
  await gone(d);
  assert.deepEqual((await sent).postDataJSON(), { name: "old-laptop", expires: null, scopes: [] });
  const key = await server.key(has.laptop.key.id);
  assert.deepEqual([key.name, key.expires, key.scopes, key.networks, key.metadata], ["old-laptop", undefined, [], ["192.0.2.0/24"], { os: "debian" }]);
  await sees(dialog(tab, "Key"), "old-laptop");
});

test("users are made, linked, moved, disabled, enabled and deleted", async (t) => {
  const { server, tab } = await begin(t, "Users");
  await press(tab, "New user");
  let d = dialog(tab, "New user");
  await press(d, "Create");
  await sees(d, "Give the subject.");
  await d.getByLabel("Subject").fill("mary@example.com");
  await d.getByLabel("Group").fill("west");
  await sees(d, "latchkey user add --group west mary@example.com");
  await press(d, "Create");
  await row(tab, "mary@example.com").filter({ hasText: "west" }).waitFor();

  const details = await open(tab, "mary@example.com", "User");
  await press(details, "Link identity");
  d = dialog(tab, "Link an identity");
  await d.getByLabel("Provider").selectOption("custom-token");
  await d.getByLabel("Subject").fill("mary-7");
  await press(d, "Link");
  await details.getByRole("listitem").filter({ hasText: "mary-7" }).waitFor();
  await press(details, "Unlink mary-7");
  await press(dialog(tab, "Unlink the identity?"), "Unlink");
  await gone(details.getByRole("listitem").filter({ hasText: "mary-7" }));

  await press(details, "Group");
  d = dialog(tab, "Move the user to a group");
  await d.getByLabel("Group").fill("east");
  await press(d, "Save");
  await gone(d);
  await sees(details, "east");

  await pressUnusable(details, "Delete");
  await hears(tab, "Disable the user first.");
  await press(details, "Disable");
  await press(dialog(tab, "Disable the user?"), "Disable");
  await details.getByText("disabled", { exact: true }).waitFor();
  await press(details, "Enable");
  await press(dialog(tab, "Enable the user?"), "Enable");
  await details.getByText("enabled", { exact: true }).waitFor();
  const { items: [user] } = await server.api("GET", "/v1/users?provider=local-userpass&subject=mary%40example.com");
  assert.deepEqual([user.disabled, user.group, user.identities.length], [false, "east", 1]);

  await press(details, "Disable");
  await press(dialog(tab, "Disable the user?"), "Disable");
  await details.getByText("disabled", { exact: true }).waitFor();
  await press(details, "Delete");
  d = dialog(tab, "Delete the user?");
  await d.getByRole("checkbox").check();
  await press(d, "Delete");
  await gone(details);
  await gone(row(tab, "mary@example.com"));
  const { items } = await server.api("GET", "/v1/users?provider=local-userpass&subject=mary%40example.com");
  assert.deepEqual(items, []);
});

test("a user leads to the user's keys, and to a new key", async (t) => {
  const { person, tab } = await begin(t, "Users");
  await press(tab, "Keys of ada@example.com");
  await row(tab, "laptop").waitFor();
  await row(tab, "phone").waitFor();
  assert.equal(await row(tab, "build").count(), 0);
  await press(tab, "New key");
  const d = dialog(tab, "New key");
  assert.equal(await d.getByLabel("User").inputValue(), "ada@example.com");
  await d.getByLabel("Name").fill("watch");
  await press(d, "Create");
  await shownToken(person, tab);
  await putAway(tab);
  await row(tab, "watch").waitFor();
  await press(tab, "Remove the filter User: ada@example.com");
  await row(tab, "build").waitFor();
});

test("disabling a group stops its keys, and enabling it lets them in", async (t) => {
  const { server, has, tab } = await begin(t, "Groups");
  await tab.getByRole("searchbox", { name: "Search groups" }).fill("west");
  await sees(tab, "No group fits.");
  await tab.getByRole("searchbox", { name: "Search groups" }).fill("NOR");
  await press(tab, "Disable north");
  const d = dialog(tab, "Disable the group?");
  await sees(d, "latchkey group disable north");
  await press(d, "Disable");
  await row(tab, "north").getByText("disabled", { exact: true }).waitFor();
  assert.equal(await server.stateOf(has.laptop.token), "refused");
  await press(tab, "Keys of north");
  await row(tab, "lost-laptop").getByText("group disabled").waitFor();
  await go(tab, "Groups");
  await press(tab, "Enable north");
  await press(dialog(tab, "Enable the group?"), "Enable");
  await row(tab, "north").getByText("enabled", { exact: true }).waitFor();
  assert.equal(await server.stateOf(has.laptop.token), "live");
});

test("keys are found by name, user, state, expiry, and by a token that is in no URL", async (t) => {
  const { has, person, tab } = await begin(t);
  const search = tab.getByRole("searchbox", { name: "Search keys" });
  const only = async (...names) => {
    for (const name of names) await row(tab, name).first().waitFor();
    await tab.getByText(`${names.length} key${names.length === 1 ? "" : "s"}`, { exact: true }).first().waitFor();
  };
  await search.fill("LOST");
  await only("lost-laptop");
  await search.fill("edith");
  await only("build");
  await search.fill(has.phone.key.id);
  await only("phone");
  await search.fill(has.laptop.token);
  person.tokens.push(has.laptop.token);
  await only("laptop");
  await search.fill("nothing like it");
  await sees(tab, "No key fits.");
  await press(tab, "Clear search and filters");
  await tab.getByLabel("State").selectOption("disabled");
  await only("build");
  await tab.getByLabel("State").selectOption("");
  await tab.getByLabel("Expires within").selectOption("7");
  await only("phone");
  await row(tab, "phone").getByText("expires in 5 days").waitFor();
});

test("the audit trail tells who did it, and is verified", async (t) => {
  const { has, tab } = await begin(t);
  await press(tab, "Disable phone");
  await press(dialog(tab, "Disable the key?"), "Disable");
  await row(tab, "phone").getByText("disabled", { exact: true }).waitFor();
  await go(tab, "Audit");
  const first = tab.getByRole("row").nth(1);
  await first.getByText(/^page [0-9a-f]{8}$/).waitFor();
  await first.getByRole("button", { name: "key.disabled" }).click();
  const entry = tab.getByRole("dialog", { name: /^Entry / });
  await press(entry, has.phone.key.id);
  await dialog(tab, "Key").getByText("phone").first().waitFor();
  await press(dialog(tab, "Key"), "Close");
  await go(tab, "Audit");
  await press(tab, "Verify the chain");
  await sees(tab, /The trail is a whole chain up to entry/);
});

test("the entries of all chains of the audit trail are one list, the newest first", async (t) => {
  const server = await Server.start(t, async (before) => {
    for (let i = 1; i <= 4; i++) await before.command("group", i % 2 ? "disable" : "enable", "--chain", i < 3 ? "shop-1" : "", "north");
    await before.command("group", "disable", "--chain", "shop-2", "south");
  });
  const person = await Person.meet(t, server);
  const tab = await person.signIn("Audit");
  const rows = async () => (await tab.getByRole("row").allInnerTexts()).slice(1).map((text) => text.replaceAll("\n", " "));
  await row(tab, "chain shop-2").waitFor();
  for (const [i, text] of (await rows()).entries()) {
    assert.match(text, [/group south · chain shop-2/, /group.enabled group north(?! ·)/, /group.disabled group north(?! ·)/, /group.enabled group north · chain shop-1/, /group.disabled group north · chain shop-1/, /the store/][i]);
  }
  assert.equal((await rows()).length, 6);
  await row(tab, "shop-2").getByRole("button", { name: "group.disabled" }).click();
  await dialog(tab, "Entry shop-2/1").waitFor();
  await press(dialog(tab, "Entry shop-2/1"), "Close");
  await press(tab, "Verify the chain");
  await sees(tab, /The trail is whole, with 3 chains/);
});

test("the health is shown, and the store is checked and compacted", async (t) => {
  const { tab } = await begin(t, "Health");
  await sees(tab, "Nothing is wrong with the store.");
  await press(tab, "Check for damage");
  await sees(tab, "The check has found no damage.");
  await press(tab, "Compact");
  const d = dialog(tab, "Compact the file?");
  await sees(d, "latchkey compact");
  await press(d, "Compact");
  await gone(d);
  await hears(tab, "The file is compacted.");
});

test("names that look like markup, or that reverse the text, are shown as they are", async (t) => {
  const tag = `<img src=x onerror=alert(1)><script>alert(2)</script>`, shell = "' ; rm -rf $HOME `id` \\";
  const server = await Server.start(t, async (before) => {
    await before.command("user", "add", `"><b>ada@example.com`, "--group", `<svg onload=alert(3)>`);
    await before.command("key", "create", `"><b>ada@example.com`, tag);
    for (const name of ["report\u202Efdp.exe", shell]) await before.command("key", "create", "--server", name);
  });
  const { items: [user] } = await server.api("GET", "/v1/users");
  const { items: [key] } = await server.api("GET", `/v1/keys?owner=${user.id}`);
  await server.changeKey(key.id, { metadata: { [tag]: "</bdi><script>alert(4)</script>" } });
  const person = await Person.meet(t, server);
  const tab = await person.signIn("Keys");
  tab.on("dialog", (d) => person.wrong.push(d.message()));
  await (await open(tab, tag, "Key")).getByText(`metadata: ${tag}`).waitFor();
  await press(dialog(tab, "Key"), "Disable");
  const d = dialog(tab, "Disable the key?");
  await sees(d, `latchkey key disable '"><b>ada@example.com' '${tag}'`);
  await press(d, "Disable");
  await gone(d);
  assert.equal((await server.key(key.id)).disabled, true);
  await press(dialog(tab, "Key"), "Close");
  await row(tab, "report\uFFFDfdp.exe").waitFor();
  await press(tab, `Disable ${shell}`);
  await sees(d, `latchkey key disable --server ''\\'' ; rm -rf $HOME \`id\` \\'`);
  await press(d, "Cancel");
  for (const view of ["Users", "Groups", "Audit"]) {
    await go(tab, view);
    await tab.getByRole("row").nth(1).waitFor();
  }
  assert.equal(await tab.locator("img[src=x], svg, #app b, #app i, #app script").count(), 0);
});
