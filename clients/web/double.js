// Starts a double in a process of its own: `latchkey serve`, built from this repository.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const execute = promisify(execFile);
const here = import.meta.dirname;

export class Double {
  log = "";

  /** Starts a double. When the test `t` ends, the double stops, and its store is removed. */
  static async start(t) {
    const double = new Double();
    const dir = await mkdtemp(join(tmpdir(), "latchkey-web-"));
    t.after(async () => {
      await double.stop();
      await rm(dir, { recursive: true });
    });
    double.command = await command(dir);
    const [store, tokens] = [join(dir, "keys.db"), join(dir, "tokens.json")];
    await execute(double.command, ["init", "--store", store]);
    double.flags = ["serve", "--store", store, "--app-id", "clients-abcde", "--control", "--log-format", "json"];
    double.flags.push("--seed", join(here, "../seed.yaml"), "--tokens", tokens);
    await double.#run("127.0.0.1:0");
    double.seeded = JSON.parse(await readFile(tokens));
    return double;
  }

  async restart(...flags) {
    await this.stop();
    await this.#run(new URL(this.url).host, ...flags);
    this.changed = flags.length > 0;
  }

  /** Undoes the flags of a restart, and ends all faults. */
  async reset() {
    if (this.changed) await this.restart();
    await this.control("DELETE", "faults");
  }

  async stop() {
    this.process.kill("SIGTERM");
    const [status] = await this.ended;
    if (status !== 0) throw new Error(`latchkey serve ended with status ${status}:\n${this.log}`);
  }

  async control(method, what, body) {
    const reply = await fetch(`${this.url}/.latchkey/control/${what}`, { method, body: JSON.stringify(body) });
    if (!reply.ok) throw new Error(`control endpoint: ${await reply.text()}`);
  }

  /** Waits for a mail to an address and returns the last one. The double writes mails to its log. */
  async mail(email) {
    for (;;) {
      const lines = this.log.split("\n").filter((line) => line.includes(`"msg":"mail"`) && line.endsWith("}"));
      const mail = lines.map((line) => JSON.parse(line)).findLast((m) => m.email === email);
      if (mail) return { kind: mail.kind, token: mail.token, tokenId: mail.token_id };
      await once(this.process.stderr, "data");
    }
  }

  async #run(address, ...flags) {
    this.process = spawn(this.command, [...this.flags, "--addr", address, ...flags]);
    this.process.stderr.on("data", (text) => (this.log += text));
    this.ended = once(this.process, "exit");
    const started = once(this.process.stdout, "data").then(([line]) => (this.url = String(line).trim()));
    const failed = this.ended.then(([status]) => {
      throw new Error(`latchkey serve ended with status ${status}:\n${this.log}`);
    });
    await Promise.race([started, failed]);
    failed.catch(() => {});
  }
}

/** Returns the path of the command: the value of LATCHKEY, or a command that it builds in dir. */
async function command(dir) {
  if (process.env.LATCHKEY) return process.env.LATCHKEY;
  const file = join(dir, "latchkey");
  await execute("go", ["build", "-o", file, "."], { cwd: join(here, "../../cmd/latchkey") });
  return file;
}
