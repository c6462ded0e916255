// Starts `latchkey serve --admin` in a process of its own, with a store of its own.

import { spawn, execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const execute = promisify(execFile);

/** The command: `run` builds it, and sets LATCHKEY. */
const command = process.env.LATCHKEY;

export class Server {
  log = "";

  /**
   * Starts a server. When the test `t` ends, the server stops, and its store is removed. `prepare` can
   * run the command before the server has the store. It can make keys with names that `latchkey serve`
   * does not accept. `program` is the command that serves the page: serve, or hub.
   */
  static async start(t, prepare = async () => {}, program = "serve") {
    const server = new Server();
    server.program = program;
    const dir = await mkdtemp(join(tmpdir(), "latchkey-page-"));
    server.store = join(dir, "keys.db");
    await server.command("init");
    await server.command("audit", "begin");
    await prepare(server);
    await server.run("127.0.0.1:0");
    t.after(async () => {
      await server.stop();
      await rm(dir, { recursive: true });
    });
    return server;
  }

  /** Runs the command latchkey on the store, and returns what it prints. */
  async command(...args) {
    return (await execute(command, [...args, "--store", this.store])).stdout.trim();
  }

  async run(address) {
    const args = [this.program, "--store", this.store, "--addr", "127.0.0.1:0", `--admin=${address}`, "--cost", "light"];
    this.process = spawn(command, [...args, "--log-format", "json"]);
    this.process.stderr.on("data", (text) => (this.log += text));
    this.ended = once(this.process, "exit");
    this.ended.catch(() => {});
    let printed = "";
    for await (const text of this.process.stdout) {
      printed += text;
      if (printed.split("\n").length > 2) break; // the URL of the double, and a sign-in URL
    }
    [this.double, this.printed] = printed.split("\n");
    if (!this.printed) throw new Error(`latchkey serve has ended:\n${this.log}`);
    this.url = new URL(this.printed).origin;
  }

  /**
   * Makes an edge of the hub that the server is. Returns a function that runs the command latchkey on
   * the store of the edge.
   */
  async join(name, group, push) {
    const invitation = await this.command("replica", "invite", "--group", group, "--push", push);
    const store = `${this.store}.${name}`;
    const joining = execute(command, ["join", this.double, "--store", store, "--name", name]);
    joining.child.stdin.end(invitation);
    await joining;
    return async (...args) => (await execute(command, [...args, "--store", store])).stdout.trim();
  }

  async stop() {
    this.process.kill("SIGTERM");
    const [status] = await this.ended;
    if (status !== 0) throw new Error(`latchkey serve ended with status ${status}:\n${this.log}`);
  }

  /** Starts the server again, at the address that it had. */
  start() {
    return this.run(new URL(this.url).host);
  }

  /** Returns a URL that signs one browser in. */
  async signInURL() {
    return (await this.api("POST", "/v1/page/sign-in-url")).url;
  }

  /** Sends a request through the socket, as other administrators do. Returns the body of the answer. */
  async api(method, path, body, headers = {}) {
    const sent = request({ socketPath: `${this.store}.sock`, method, path, headers: { ...headers, ...(body && { "Content-Type": "application/json" }) } });
    sent.end(body && JSON.stringify(body));
    const [reply] = await once(sent, "response");
    let text = "";
    for await (const part of reply) text += part;
    const answer = text === "" ? undefined : JSON.parse(text);
    if (reply.statusCode >= 300) throw new Error(`${method} ${path}: ${text}`);
    return answer;
  }

  newUser(subject, fields = {}) {
    return this.api("POST", "/v1/users", { identity: { provider: "local-userpass", subject }, ...fields });
  }

  /** Makes a key, and returns it with its token. */
  newKey(user, name, fields = {}) {
    return this.api("POST", `/v1/users/${user.id}/keys`, { name, ...fields });
  }

  newServerKey(name, fields = {}) {
    return this.api("POST", "/v1/server-keys", { name, ...fields });
  }

  key(id) {
    return this.api("GET", `/v1/keys/${id}`);
  }

  changeKey(id, change) {
    return this.api("PATCH", `/v1/keys/${id}`, change, { "If-Match": "*" });
  }

  /** Logs in with the token of a user's key, as a client does. */
  async use(token) {
    const login = `${this.double}/api/client/v2.0/app/page-abcde/auth/providers/api-key/login`;
    const reply = await fetch(login, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key: token }) });
    if (!reply.ok) throw new Error(`${login}: ${await reply.text()}`);
  }

  /** Returns whether a token is "live" or "refused". */
  async stateOf(token) {
    const found = await this.api("POST", "/v1/find-token", { token });
    return found.state;
  }
}

/** Fills a store with something of each kind, and returns it. */
export async function fill(server) {
  const day = 24 * 3600 * 1000, at = (days) => new Date(Date.now() + days * day).toISOString().replace(/\.\d+Z/, "Z");
  const [ada, grace, edith, linus] = [
    await server.newUser("ada@example.com", { group: "north", metadata: { room: "4" } }),
    await server.newUser("grace@example.com", { group: "north" }),
    await server.newUser("edith@example.com"),
    await server.newUser("linus@example.com", { group: "south" }),
  ];
  const laptop = await server.newKey(ada, "laptop", { scopes: ["files:read", "files:write"], networks: ["192.0.2.0/24"], expires: at(90), metadata: { os: "debian" } });
  const phone = await server.newKey(ada, "phone", { scopes: ["files:read"], expires: at(5) });
  const lost = await server.newKey(grace, "lost-laptop");
  const build = await server.newKey(edith, "build");
  await server.newKey(linus, "tablet");
  const backup = await server.newServerKey("backup-job", { group: "north", expires: at(365) });
  const mail = await server.newServerKey("mail");
  await server.api("POST", `/v1/keys/${backup.key.id}/rotate`, { overlap_seconds: 86400 }, { "If-Match": "*" });
  await server.changeKey(build.key.id, { disabled: true });
  await server.api("PATCH", `/v1/users/${linus.id}`, { disabled: true });
  for (const { token } of [phone, lost]) await server.use(token);
  return { ada, grace, edith, linus, laptop, phone, lost, build, backup, mail };
}
