// Signing in and out, and what a session is worth.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import test, { after, before } from "node:test";
import { assertNowhere, go, live, Person, press, row, sees, startBrowser, stopBrowser } from "./browser.js";
import { fill, Server } from "./server.js";

before(startBrowser);
after(stopBrowser);

test("a sign-in URL is good once, and its secret is nowhere afterwards", async (t) => {
  const server = await Server.start(t);
  const person = await Person.meet(t, server);
  const url = await server.signInURL();
  const secret = new URL(url).hash.slice("#sign-in=".length);
  assert.match(secret, /^[\w-]{43}$/);
  person.tokens.push(secret); // the fragment is not sent, so no request and no log has it
  const tab = await person.context.newPage();
  await tab.goto(url);
  await live(tab);
  assert.equal(new URL(tab.url()).hash.includes(secret), false);
  await assertNowhere(person, tab, secret);

  const other = await Person.meet(t, server);
  const second = await other.context.newPage();
  await second.goto(url);
  await second.getByRole("heading", { name: "Signed out" }).waitFor();
  await assertNowhere(other, second, secret);
  assert.deepEqual(await other.context.cookies(), []);
});

test("the URL that latchkey serve prints signs in, and another one comes from latchkey page", async (t) => {
  const server = await Server.start(t);
  const person = await Person.meet(t, server);
  for (const url of [server.printed, await server.command("page")]) {
    const tab = await person.context.newPage();
    await tab.goto(url);
    await live(tab);
  }
  assert.ok(!server.log.includes("sign-in="), "the log has a sign-in URL");
});

test("nothing of the store is shown without a session", async (t) => {
  const server = await Server.start(t);
  await fill(server);
  const person = await Person.meet(t, server);
  const tab = await person.context.newPage();
  for (const path of ["", "#/keys", "#/audit"]) {
    await tab.goto(`${server.url}/${path}`);
    await tab.getByRole("heading", { name: "Signed out" }).waitFor();
  }
  await sees(tab, "latchkey page --store FILE");
  assert.equal((await tab.request.get(`${server.url}/v1/keys`)).status(), 401);
});

test("the cookie is HttpOnly, strict and of the session, and it is not enough", async (t) => {
  const server = await Server.start(t);
  const person = await Person.meet(t, server);
  const tab = await person.signIn("Keys");
  const [cookie, ...more] = await person.context.cookies();
  assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.path, more.length], [true, "Strict", "/", 0]);
  assert.equal(await tab.evaluate(() => document.cookie), "");
  const stolen = await fetch(`${server.url}/v1/keys`, { headers: { Cookie: `${cookie.name}=${cookie.value}` } });
  assert.equal(stolen.status, 401);
});

test("the session goes on after loading the page again, at the entry that was open", async (t) => {
  const server = await Server.start(t);
  await fill(server);
  const person = await Person.meet(t, server);
  const tab = await person.signIn("Keys");
  await tab.getByRole("button", { name: "phone", exact: true }).click();
  await tab.getByRole("dialog", { name: "Key" }).waitFor();
  await tab.reload();
  await tab.getByRole("dialog", { name: "Key" }).getByText("phone").first().waitFor();
});

test("signing out ends the session, takes everything out of the tab, and back does not bring it back", async (t) => {
  const server = await Server.start(t);
  await fill(server);
  const person = await Person.meet(t, server);
  const tab = await person.signIn("Users");
  await row(tab, "ada@example.com").waitFor();
  await go(tab, "Keys");
  await row(tab, "lost-laptop").waitFor();
  const [cookie] = await person.context.cookies();
  const { proof } = JSON.parse(await tab.evaluate(() => localStorage.getItem("latchkey-session")));
  await press(tab, "Sign out");
  await tab.getByRole("heading", { name: "Signed out" }).waitFor();
  for (const text of ["lost-laptop", "ada@example.com", proof, cookie.value]) await assertNowhere(person, tab, text);
  await tab.evaluate(() => history.back());
  await tab.goto(`${server.url}/#/keys`);
  await tab.getByRole("heading", { name: "Signed out" }).waitFor();
  const again = await fetch(`${server.url}/v1/keys`, { headers: { Cookie: `${cookie.name}=${cookie.value}`, "Latchkey-Proof": proof } });
  assert.equal(again.status, 401);
});

test("a page of another site cannot use the session", async (t) => {
  const server = await Server.start(t);
  const { key } = await server.newServerKey("mail");
  const person = await Person.meet(t, server);
  const tab = await person.signIn("Keys");
  const { proof } = JSON.parse(await tab.evaluate(() => localStorage.getItem("latchkey-session")));
  // The other page is one of another port of the same host, to which browsers send the same cookies.
  const other = createServer((_, reply) => reply.writeHead(200, { "Content-Type": "text/html" }).end("<title>Other</title>"));
  other.listen(0, "127.0.0.1");
  await once(other, "listening");
  t.after(() => other.close().closeAllConnections());
  const foreign = await person.context.newPage();
  person.elsewhere = `http://127.0.0.1:${other.address().port}`;
  await foreign.goto(person.elsewhere);
  const statuses = await foreign.evaluate(async ([url, id, proof]) => {
    const tried = [];
    for (const init of [{}, { method: "DELETE" }, { method: "PATCH", body: `{"disabled":true}`, headers: { "Content-Type": "text/plain" } }, { method: "DELETE", headers: { "Latchkey-Proof": proof } }]) {
      try {
        tried.push((await fetch(`${url}/v1/keys/${id}`, { credentials: "include", mode: init.headers?.["Latchkey-Proof"] ? "cors" : "no-cors", ...init })).type);
      } catch {
        tried.push("refused");
      }
    }
    return tried;
  }, [server.url, key.id, proof]);
  assert.ok(statuses.every((s) => s === "refused" || s === "opaque"), String(statuses));
  assert.equal((await server.key(key.id)).disabled, false);
  person.wrong = []; // the refusals
});
