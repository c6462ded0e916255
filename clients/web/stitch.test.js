// The steps that the SDKs of the time before Realm take against the double.

import { equal, matches } from "./check.js";
import { drive } from "./drive.js";
import { FirstSDK, ServerSDK } from "./stitch.js";

const PASSWORD = "correct horse battery";
const HEX = /^[0-9a-f]{24}$/;

const BAD_PASSWORD = { code: "InvalidPassword", text: "unauthorized" };
const BAD_KEY = { code: "AuthError", text: "unauthorized" };
const UNCONFIRMED = { code: "AuthError", text: "unauthorized" };
const BAD_LENGTH = { code: "BadRequest", text: "password must be between 6 and 128 characters" };
const EMAIL_TAKEN = { code: "AccountNameInUse", text: "name already in use" };
const TOKEN_INVALID = { code: "UserpassTokenInvalid", text: "userpass token is expired or invalid" };
const NO_USER = { code: "UserNotFound", text: "user not found" };
const NOT_FOUND = { code: "APIKeyNotFound", text: "API key not found" };
const SESSION_ENDED = { code: "InvalidSession", text: "invalid session: failed to find refresh token" };
const NO_FUNCTION = { code: "FunctionNotFound", text: "function not found: 'sum'" };
const NO_SERVICE = {
  code: "ServiceNotFound",
  text: "service not found: 'mongodb-atlas': this double of App Services has no service 'mongodb-atlas'",
};

const steps = {
  "a user registers, confirms the email with the token of a mail, and logs in": async (t) => {
    await t.restart("--confirm", "manual");
    const program = await t.program();
    await t.refused(program.register(t.email("ada"), "short"), BAD_LENGTH);
    await program.register(t.email("ada"), PASSWORD);
    await t.refused(program.register(t.email("ada"), PASSWORD), EMAIL_TAKEN);
    await t.refused(program.logIn(t.email("ada"), PASSWORD), UNCONFIRMED);

    const { kind, ...mail } = await t.mail(t.email("ada"));
    equal(kind, "confirm", "kind of mail");
    await program.resendConfirmation(t.email("ada"));
    await t.refused(program.resendConfirmation(t.email("nobody")), NO_USER);
    await program.confirm(mail);
    await t.refused(program.confirm(mail), TOKEN_INVALID);
    const id = await t.logIn(program, "ada");
    matches(id, HEX, "user ID");
    equal(await program.profile(), { providers: ["local-userpass"], email: t.email("ada"), type: "normal" }, "profile");
  },

  "a password is reset with the token of a mail": async (t) => {
    const program = await t.program();
    const id = await t.user(program, "ada");
    await program.sendReset(t.email("ada"));
    await t.refused(program.sendReset(t.email("nobody")), NO_USER);
    const { kind, ...mail } = await t.mail(t.email("ada"));
    equal(kind, "reset", "kind of mail");
    await program.reset(mail, "a new password");
    await t.refused(program.reset(mail, "another one"), TOKEN_INVALID);
    await t.refused(program.logIn(t.email("ada"), PASSWORD), BAD_PASSWORD);
    equal(await t.logIn(program, "ada", "a new password"), id, "user");
  },

  "an anonymous user logs in, is reused, and links an email": async (t) => {
    const program = await t.program();
    const id = await program.logInAnonymously();
    matches(id, HEX, "user ID");
    matches(program.deviceId, HEX, "device ID");
    equal((await program.profile()).providers, ["anon-user"], "providers");
    t.requests.length = 0;
    equal([await program.logInAnonymously(), t.requests], [id, []], "the second login");
    await t.refused(program.createKey("laptop"), t.SDK.forbidden);
    equal((await (await t.program()).logInAnonymously()) === id, false, "another program has the same user");

    await program.register(t.email("ada"), PASSWORD);
    equal(await program.link(t.email("ada"), PASSWORD), id, "user after linking");
    equal((await program.profile()).providers, ["anon-user", "local-userpass"], "providers");
    await program.createKey("laptop");
    const other = await t.program();
    equal(await t.logIn(other, "ada"), id, "user of the email");
  },

  "a device keeps its ID": async (t) => {
    const program = await t.program();
    await t.user(program, "ada");
    const { deviceId } = program;
    await program.logOut();
    await t.logIn(program, "ada");
    equal(program.deviceId, deviceId, "device ID");
  },

  "a key is created, listed, fetched, disabled, refused, enabled, used and deleted": async (t) => {
    const program = await t.program();
    const id = await t.user(program, "ada");
    equal(await program.keys(), [], "no keys");
    const { key, ...laptop } = await program.createKey("laptop");
    t.secrets.push(key);
    equal(laptop, { _id: laptop._id, name: "laptop", disabled: false }, "created");
    const { key: _, ...phone } = await program.createKey("phone");
    equal(await program.keys(), [laptop, phone], "keys, oldest first");
    equal(await program.key(laptop._id), laptop, "fetched");

    const stranger = await t.program();
    await program.disableKey(laptop._id);
    equal(await program.key(laptop._id), { ...laptop, disabled: true }, "disabled");
    await t.refused(stranger.logInWithKey(key), BAD_KEY);
    await program.enableKey(laptop._id);
    equal(await stranger.logInWithKey(key), id, "user of the key");
    equal((await stranger.profile()).providers, ["local-userpass", "api-key"], "providers");
    await t.refused(stranger.keys(), t.SDK.forbidden);

    await program.deleteKey(laptop._id);
    await t.refused(program.key(laptop._id), NOT_FOUND);
    await t.refused(program.deleteKey(laptop._id), NOT_FOUND);
    equal(await program.keys(), [phone], "what is left");
    await t.refused(stranger.logInWithKey(key), BAD_KEY);
  },

  "a server key and a disabled user log in as they should": async (t) => {
    const program = await t.program();
    const [{ email }] = t.seeded.users;
    await t.refused(program.logIn(email, PASSWORD), { code: "UserDisabled", text: "unauthorized" });
    await program.logInWithKey(t.seeded.server_keys[0].token);
    const { type, providers } = await program.profile();
    equal([type, providers], ["server", ["api-key"]], "type, providers");
  },

  "a link that the double refuses is asked for only once": async (t) => {
    const program = await t.program();
    await t.user(program, "grace");
    const { key } = await program.createKey("laptop");
    await program.logOut();
    await t.user(program, "ada");
    await program.register(t.email("second"), PASSWORD);
    t.requests.length = 0;
    const refused = (text) => ({ code: "AuthError", text: "unauthorized: " + text });
    await t.refused(program.link(t.email("nobody"), PASSWORD), refused("invalid username/password"));
    await t.refused(
      program.link(t.email("second"), PASSWORD),
      refused("linking a local-userpass identity is not allowed when one is already linked"),
    );
    await t.refused(program.linkKey(key), { code: "InvalidParameter", text: "invalid user link request" });
    equal(t.requests.length, 3, "requests");
    await program.keys();
  },

  "an access token that has expired is replaced, and the call goes through": async (t) => {
    const program = await t.program();
    await t.user(program, "ada");
    await t.later("31m", async () => {
      t.requests.length = 0;
      await t.refused(program.callFunction("sum"), NO_FUNCTION);
      const call = "POST /app/clients-abcde/functions/call";
      equal(t.requests, [`${call} 401`, "POST /auth/session 201", `${call} 404`], "requests");
      equal(await program.keys(), [], "keys");
      await t.refused(program.callService("mongodb-atlas", "find"), NO_SERVICE);
    });
  },

  "a program whose session has ended is logged out": async (t) => {
    const program = await t.program();
    await t.user(program, "ada");
    await t.later("1441h", async () => {
      await t.refused(program.keys(), SESSION_ENDED);
      equal(program.userId, undefined, "user");
    });
  },

  "logging out works, also after the session has expired": async (t) => {
    const program = await t.program();
    for (const [time, status] of [["1s", 204], ["1441h", 401]]) {
      await t.user(program, "ada" + status);
      await t.later(time, async () => {
        await program.logOut();
        equal([t.requests.at(-1), program.userId], [`DELETE /auth/session ${status}`, undefined], "request, user");
      });
    }
  },
};

class World {
  requests = []; // as "METHOD /path status", without the common beginning of all paths
  secrets = []; // tokens and passwords that the step has seen; none may be in the log
  programs = [];

  constructor(o) {
    Object.assign(this, o);
    this.domain = o.step.replaceAll(/[^a-z]+/g, "-").slice(0, 40) + ".example.com";
  }

  async program() {
    const program = await this.SDK.start(this.url, (method, url, status) => {
      const path = new URL(url).pathname;
      const call = path.replace("/api/client/v2.0", "");
      if (call !== path) this.requests.push(`${method} ${call} ${status}`);
    });
    this.programs.push(program);
    return program;
  }

  email(name) {
    return `${name}@${this.domain}`;
  }

  async logIn(program, name, password = PASSWORD) {
    const id = await program.logIn(this.email(name), password);
    this.secrets.push(password, ...program.tokens);
    return id;
  }

  async user(program, name) {
    await program.register(this.email(name), PASSWORD);
    return this.logIn(program, name);
  }

  /** Moves the double's clock forward, runs `then`, and moves the clock back. */
  async later(time, then) {
    await this.advance(time);
    try {
      await then();
    } finally {
      await this.advance("-" + time);
    }
  }

  /** Waits for a call, which must be refused. */
  async refused(call, want) {
    let error;
    try {
      await call;
    } catch (e) {
      error = e;
    }
    if (!error) throw new Error(`not refused, want ${JSON.stringify(want)}`);
    equal(this.SDK.refusal(error), want === this.SDK.forbidden ? want : this.SDK.refusalOf(want), `refusal: ${error.stack}`);
  }
}

for (const [name, SDK] of [
  ["mongodb-stitch 3.18.0", FirstSDK],
  ["mongodb-stitch-server-sdk 4.9.0", ServerSDK],
]) {
  drive(`${name} in Node`, Object.keys(steps), (_, data, outside) => async (step) => {
    const world = new World({ ...data, ...outside, SDK, step });
    try {
      await steps[step](world);
    } finally {
      for (const program of world.programs) program.close();
    }
    return world.secrets;
  });
}
