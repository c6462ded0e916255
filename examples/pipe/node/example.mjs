// A program for Node that keeps users and keys in a Latchkey store, by way of the command latchkey.
//
//     node example.mjs keys.db

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

// LatchkeyError is the answer to a call that has failed. Branch on code; message is for people.
class LatchkeyError extends Error {
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

// Latchkey is a running latchkey pipe.
class Latchkey {
  #process;
  #waiting = new Map(); // from the id of a request to its promise
  #last = 0;
  #ended;
  #failed; // why no more calls can be made

  // open starts the pipe, and returns when the store is open.
  static async open(store) {
    const latchkey = new Latchkey();
    await latchkey.#start(store);
    return latchkey;
  }

  #start(store) {
    return new Promise((resolve, reject) => {
      // Detached, because a console's Ctrl-C is for this program, which then ends the pipe in order.
      this.#process = spawn("latchkey", ["pipe", "--init", "--store", store], {
        stdio: ["pipe", "pipe", "inherit"],
        detached: true,
        windowsHide: true,
      });
      this.#process.stdin.on("error", () => {}); // the end of the process tells more
      this.#ended = new Promise((done) => {
        const end = (error) => {
          this.#failed = error;
          reject(error);
          for (const { reject } of this.#waiting.values()) reject(error);
          this.#waiting.clear();
          done();
        };
        this.#process.on("error", end);
        this.#process.on("close", (status, signal) => end(new Error(`latchkey has ended with ${signal ?? `status ${status}`}`)));
      });
      let greeted = false;
      createInterface({ input: this.#process.stdout, crlfDelay: Infinity }).on("line", (line) => {
        const message = JSON.parse(line);
        if (!greeted) {
          greeted = true;
          if (message.error) reject(new LatchkeyError(message.error));
          else if (message.protocol !== 1) reject(new Error("this latchkey speaks another protocol"));
          else resolve();
          return;
        }
        const waiting = this.#waiting.get(message.id);
        if (!waiting) return; // an event, or a line that was no request
        this.#waiting.delete(message.id);
        if (message.error) waiting.reject(new LatchkeyError(message.error));
        else waiting.resolve(message.result);
      });
    });
  }

  // call makes a call, and returns its result.
  call(name, fields = {}) {
    return new Promise((resolve, reject) => {
      if (this.#failed) {
        reject(this.#failed);
        return;
      }
      const id = ++this.#last;
      this.#waiting.set(id, { resolve, reject });
      this.#process.stdin.write(JSON.stringify({ ...fields, id, call: name }) + "\n");
    });
  }

  // close ends the pipe, which closes the store. Calls under way are answered first.
  close() {
    this.#process.stdin.end();
    return this.#ended;
  }
}

const latchkey = await Latchkey.open(process.argv[2]);
try {
  const identity = { provider: "local-userpass", subject: "ada@example.com" };
  const user = await latchkey.call("create_user", { identity });
  const { key, token } = await latchkey.call("create_key", { owner: user.id, name: "laptop" });
  // The token is shown once: give it to the user, and do not log it.
  console.log("made a user and a key");

  const who = await latchkey.call("login", { token });
  console.log("good: the token is that of", who.identity.subject);

  await latchkey.call("disable_key", { owner: user.id, key: key.id });
  try {
    await latchkey.call("login", { token });
  } catch (e) {
    console.log("refused:", e.code);
  }
} finally {
  await latchkey.close();
}
