// The edges of a hub: what the page shows of them, and how many have confirmed a revocation.

import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { dialog, go, Person, press, row, sees, startBrowser, stopBrowser } from "./browser.js";
import { Server } from "./server.js";

before(startBrowser);
after(stopBrowser);

test("an edge is listed, confirms a revocation, claims, and is revoked", async (t) => {
  const server = await Server.start(t, undefined, "hub");
  const ada = await server.newUser("ada@example.com", { group: "north" });
  await server.newKey(ada, "lost-laptop");
  const edge = await server.join("till-1", "*", "nothing");
  const person = await Person.meet(t, server);
  const tab = await person.signIn("Edges");
  await row(tab, "till-1").getByText("away", { exact: true }).waitFor();

  // A revocation is confirmed when the edge has it.
  await go(tab, "Keys");
  await tab.getByRole("cell").getByRole("button", { name: "lost-laptop", exact: true }).click();
  const key = dialog(tab, "Key");
  await press(key, "Disable");
  await press(dialog(tab, "Disable the key?"), "Disable");
  await sees(key, "0 of 1 edges have confirmed it.");
  await edge("sync", "--once");
  await sees(key, "1 of 1 edges have confirmed it.");
  await press(key, "Close");

  // A claim is decided.
  await edge("user", "disable", "ada@example.com");
  await edge("sync", "--once");
  await go(tab, "Edges");
  await press(tab, "Refuse claim 1");
  await press(dialog(tab, "Refuse the claim?"), "Refuse");
  await tab.getByRole("button", { name: "Refuse claim 1" }).waitFor({ state: "detached" });

  await press(tab, "Revoke till-1");
  const d = dialog(tab, "Revoke the edge?");
  await sees(d, "latchkey replica revoke");
  await press(d, "Revoke");
  await row(tab, "till-1").getByText("revoked", { exact: true }).waitFor();
  await assert.rejects(edge("sync", "--once"), /cut the edge off/);
});

test("without a hub there is no view of edges", async (t) => {
  const server = await Server.start(t);
  const person = await Person.meet(t, server);
  const tab = await person.signIn();
  assert.equal(await tab.getByRole("link", { name: "Edges" }).count(), 0);
});
