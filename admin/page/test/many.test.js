// 10,000 keys. `bash admin/page/run measure` measures how long they take.

import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { dialog, gone, Person, press, row, startBrowser, stopBrowser } from "./browser.js";
import { scrollToEnd, startWith } from "./many.js";

before(startBrowser);
after(stopBrowser);

test("10,000 keys are scrolled through with a bounded document, and each is reached", async (t) => {
  const { server, keys } = await startWith(t, 10_000);
  const name = (i) => keys.at(i).name;
  const person = await Person.meet(t, server);
  const tab = await person.signIn("Keys");
  await row(tab, name(0)).waitFor();
  const elements = () => tab.evaluate(() => document.querySelectorAll("*").length);
  const atFirst = await elements();
  let most = 0;
  await scrollToEnd(tab, 5, (rows) => (most = Math.max(most, rows)));
  await row(tab, name(-1)).waitFor();
  await tab.getByText("10,000 keys", { exact: true }).first().waitFor();
  assert.ok(most < 100, `the document had ${most} rows`);
  assert.ok(await elements() < atFirst + 500, "the document has grown");
  assert.equal(await row(tab, name(-1)).getAttribute("aria-rowindex"), "10001");
  assert.equal(await tab.getByRole("table", { name: "Keys" }).getAttribute("aria-rowcount"), "10001");

  // At the end, too, one acts on the row that one sees, and changes appear.
  await press(tab, `Disable ${name(-3)}`);
  await press(dialog(tab, "Disable the key?"), "Disable");
  await row(tab, name(-3)).getByText("disabled", { exact: true }).waitFor();
  await server.changeKey(keys.at(-5).id, { disabled: true });
  await row(tab, name(-5)).getByText("disabled", { exact: true }).waitFor();

  await tab.getByRole("searchbox").fill(name(4321));
  await row(tab, name(4321)).waitFor();
  await gone(row(tab, name(-1)));
});
