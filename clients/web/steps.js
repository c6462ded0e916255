// The steps that realm-web takes against the double. The same list runs in Node, with several versions
// of realm-web, and in the browser.

import { equal, matches, refused } from "./check.js";

const PASSWORD = "correct horse battery";
const HEX = /^[0-9a-f]{24}$/;

const BAD_LENGTH = { status: 400, code: "BadRequest", text: "password must be between 6 and 128 characters" };
const BAD_EMAIL = { status: 400, code: "BadRequest", text: "email invalid" };
const EMAIL_TAKEN = { status: 409, code: "AccountNameInUse", text: "name already in use" };
const NOT_FOUND = { status: 404, code: "APIKeyNotFound", text: "API key not found" };
const BAD_PASSWORD = { status: 401, code: "InvalidPassword", text: "unauthorized" };
const BAD_KEY = { status: 401, code: "AuthError", text: "unauthorized" };
const BAD_NAME = {
  status: 400,
  code: "InvalidParameter",
  text: "can only contain ASCII letters, numbers, underscores, and hyphens",
};
const NAME_LONG = { status: 400, code: "InvalidParameter", text: "'name' must have at most 256 characters" };
const NAME_NEEDED = { status: 400, code: undefined, text: "'name' is a required string" };
const NAME_TAKEN = { status: 409, code: "APIKeyAlreadyExists", text: "API key with name already exists" };
const TOO_MANY = { status: 400, code: "BadRequest", text: "user has reached the limit of 20 API keys" };
const FORBIDDEN = { status: 403, code: undefined, text: undefined };
const NO_TOKEN = { status: 401, code: undefined, text: "expected Authorization header with JWT (Bearer schema)" };
const SESSION_ENDED = { status: 401, code: "InvalidSession", text: "invalid session: failed to find refresh token" };
const NO_USER = { status: 404, code: "UserNotFound", text: "user not found" };
const CONFIRMED = { status: 400, code: "UserAlreadyConfirmed", text: "already confirmed" };
const STRANGE_TOKEN = { token: "ab".repeat(64), tokenId: "65a1b2c3d4e5f60718293a4f" };
const TOKEN_INVALID = { status: 400, code: "UserpassTokenInvalid", text: "userpass token is expired or invalid" };

export const steps = {
  "a user registers with an email that nobody has, and a password of 6 to 128 characters": async (t) => {
    const auth = t.emails(t.app());
    const email = t.email("ada");
    for (const password of ["", "12345", "x".repeat(129)]) {
      await t.refused(auth.registerUser({ email, password }), BAD_LENGTH);
    }
    await t.refused(auth.registerUser({ email: "", password: PASSWORD }), BAD_EMAIL);

    await auth.registerUser({ email, password: PASSWORD });
    await t.refused(auth.registerUser({ email, password: PASSWORD }), EMAIL_TAKEN);
  },

  "a user logs in, and is told who they are": async (t) => {
    const app = t.app();
    await t.register(app, "ada");
    await t.refused(t.logIn(app, "ada", "wrong password"), BAD_PASSWORD);
    await t.refused(t.logIn(app, "nobody"), BAD_PASSWORD);
    equal(app.currentUser, null, "current user");

    const user = await t.logIn(app, "ada");
    matches(user.id, HEX, "user ID");
    matches(user.deviceId, HEX, "device ID");
    equal(user.isLoggedIn, true, "logged in");
    equal(user.profile, { email: t.email("ada") }, "profile");
    equal(user.customData, {}, "custom data");
    equal(user.identities.map((i) => i.providerType), ["local-userpass"], "providers");
    matches(user.identities[0].id, HEX, "identity");
    equal(user.toJSON().profile.type, "normal", "type");

    const { id, deviceId } = user;
    const again = await t.logIn(app, "ada");
    equal([again.id, again.deviceId], [id, deviceId], "user and device of the second login");
  },

  "an email differs from the same in capitals": async (t) => {
    const app = t.app();
    await t.register(app, "ada");
    const credentials = t.Realm.Credentials.emailPassword(t.email("ada").toUpperCase(), PASSWORD);
    await t.refused(app.logIn(credentials), BAD_PASSWORD);
  },

  "a key is created, listed, fetched, disabled, refused, enabled, used and deleted": async (t) => {
    const app = t.app();
    const user = await t.user(app, "ada");
    equal(await user.apiKeys.fetchAll(), [], "no keys");

    const { key, ...laptop } = await t.createKey(user, "laptop");
    matches(laptop._id, HEX, "key ID");
    equal(laptop, { _id: laptop._id, name: "laptop", disabled: false }, "created");
    matches(key, /^[A-Za-z0-9_-]{40,}$/, "key");
    const age = Date.now() / 1000 - parseInt(laptop._id.slice(0, 8), 16);
    equal(age > -2 && age < 600, true, `the ID begins with the time of creation, ${age} s ago`);

    const { key: _, ...phone } = await t.createKey(user, "phone");
    equal(await user.apiKeys.fetchAll(), [laptop, phone], "keys, oldest first");
    equal(await user.apiKeys.fetch(laptop._id), laptop, "fetched");

    const stranger = t.app();
    equal((await t.logInWithKey(stranger, key)).id, user.id, "user of the key");

    await user.apiKeys.disable(laptop._id);
    await user.apiKeys.disable(laptop._id);
    equal(await user.apiKeys.fetch(laptop._id), { ...laptop, disabled: true }, "disabled");
    equal((await user.apiKeys.fetchAll()).map((k) => k.disabled), [true, false], "disabled in the list");
    await t.refused(t.logInWithKey(app, key), BAD_KEY);

    await user.apiKeys.enable(laptop._id);
    await user.apiKeys.enable(laptop._id);
    equal(await user.apiKeys.fetch(laptop._id), laptop, "enabled");
    const sameUser = await t.logInWithKey(app, key);
    equal(sameUser.id, user.id, "user of the key");
    equal(user.identities.map((i) => i.providerType), ["local-userpass", "api-key"], "providers");

    await t.logIn(app, "ada");
    await user.apiKeys.delete(laptop._id);
    await t.refused(user.apiKeys.fetch(laptop._id), NOT_FOUND);
    await t.refused(user.apiKeys.delete(laptop._id), NOT_FOUND);
    await t.refused(user.apiKeys.enable(laptop._id), NOT_FOUND);
    await t.refused(user.apiKeys.disable(laptop._id), NOT_FOUND);
    equal(await user.apiKeys.fetchAll(), [phone], "what is left");
    await t.refused(t.logInWithKey(app, key), BAD_KEY);
    await user.refreshProfile();
    equal(user.identities.map((i) => i.providerType), ["local-userpass"], "providers without the key");
  },

  "a session that was opened with a key manages no keys": async (t) => {
    const app = t.app();
    const user = await t.user(app, "ada");
    const { key, _id } = await t.createKey(user, "laptop");
    await t.logInWithKey(app, key);
    await t.refusesAllKeyCalls(user, _id, FORBIDDEN);

    await t.logIn(app, "ada");
    await user.apiKeys.delete(_id);
    equal(await user.apiKeys.fetchAll(), [], "keys after a login by email");
  },

  "a session that was opened with a key ends when the key is disabled or deleted": async (t) => {
    const user = await t.user(t.app(), "ada");
    const { key, _id } = await t.createKey(user, "laptop");
    const first = await t.logInWithKey(t.app(), key);
    await first.refreshAccessToken();
    await user.apiKeys.disable(_id);
    await user.apiKeys.enable(_id);
    await t.refused(first.refreshAccessToken(), SESSION_ENDED);
    const second = await t.logInWithKey(t.app(), key);
    await user.apiKeys.delete(_id);
    await t.refused(second.refreshAccessToken(), SESSION_ENDED);
  },

  "a session that was opened with a key links no identity": async (t) => {
    const user = await t.user(t.app(), "ada");
    const { key } = await t.createKey(user, "laptop");
    await t.register(t.app(), "thief");
    const holder = await t.logInWithKey(t.app(), key);
    await t.refused(holder.linkCredentials(t.credentials("thief")), FORBIDDEN);
  },

  "a string that is no key does not log in": async (t) => {
    const app = t.app();
    const user = await t.user(app, "ada");
    const { key } = await t.createKey(user, "laptop");
    const changed = key.slice(0, -1) + (key.endsWith("A") ? "B" : "A");
    for (const bad of ["foo", changed, key.toUpperCase(), key + "A", "A".repeat(64), user.id]) {
      await t.refused(t.logInWithKey(app, bad), BAD_KEY);
    }
  },

  "a key's name has ASCII letters, digits, underscores and hyphens, and is the only one of its user": async (t) => {
    const user = await t.user(t.app(), "ada");
    for (const name of ["%s", "My very cool key", "$()!$", "schlüssel", "a.b", "a/b"]) {
      await t.refused(user.apiKeys.create(name), BAD_NAME);
    }
    await t.refused(user.apiKeys.create("n".repeat(257)), NAME_LONG);
    for (const name of ["", undefined, null, 7, ["a"]]) {
      await t.refused(user.apiKeys.create(name), NAME_NEEDED);
    }
    for (const name of ["my-key", "Name_of_the_API_Key", "key-0", "7"]) {
      equal((await t.createKey(user, name)).name, name, "name");
    }

    await t.refused(user.apiKeys.create("my-key"), NAME_TAKEN);
    await t.createKey(await t.user(t.app(), "grace"), "my-key");
    const [{ _id }] = await user.apiKeys.fetchAll();
    await user.apiKeys.delete(_id);
    await t.createKey(user, "my-key");
  },

  "a user has at most twenty keys": async (t) => {
    const user = await t.user(t.app(), "ada");
    const names = Array.from({ length: 20 }, (_, i) => `key-${i}`);
    for (const name of names) await t.createKey(user, name);
    await t.refused(user.apiKeys.create("key-20"), TOO_MANY);
    const keys = await user.apiKeys.fetchAll();
    equal(keys.map((k) => k.name), names, "names, oldest first");
    equal(new Set(keys.map((k) => k._id)).size, 20, "IDs");

    await user.apiKeys.delete(keys[3]._id);
    await t.createKey(user, "key-20");
    await t.refused(user.apiKeys.create("key-21"), TOO_MANY);
  },

  "another user's key is not found, and stays as it is": async (t) => {
    const ada = await t.user(t.app(), "ada");
    const { key, ...laptop } = await t.createKey(ada, "laptop");
    const grace = await t.user(t.app(), "grace");
    const unknown = "65a1b2c3d4e5f60718293a4f";
    for (const id of [laptop._id, unknown, "no-object-id"]) {
      await t.refused(grace.apiKeys.fetch(id), NOT_FOUND);
      await t.refused(grace.apiKeys.enable(id), NOT_FOUND);
      await t.refused(grace.apiKeys.disable(id), NOT_FOUND);
      await t.refused(grace.apiKeys.delete(id), NOT_FOUND);
    }
    equal(await grace.apiKeys.fetchAll(), [], "the other user's keys");
    equal(await ada.apiKeys.fetchAll(), [laptop], "the owner's keys");
    equal((await t.logInWithKey(t.app(), key)).id, ada.id, "user of the key");
  },

  "an anonymous user manages no keys until an email is linked": async (t) => {
    const app = t.app();
    const user = await app.logIn(t.Realm.Credentials.anonymous());
    equal(user.profile, {}, "profile");
    equal(user.identities.map((i) => i.providerType), ["anon-user"], "providers");
    matches(user.identities[0].id, /^[0-9a-f]{24}-[a-z]{24}$/, "identity");
    await t.refusesAllKeyCalls(user, "65a1b2c3d4e5f60718293a4f", FORBIDDEN);

    await t.register(app, "ada");
    const { id, refreshToken } = user;
    await user.linkCredentials(t.credentials("ada"));
    equal([user.id, user.refreshToken === refreshToken], [id, true], "user and session after linking");
    equal(user.identities.map((i) => i.providerType), ["anon-user", "local-userpass"], "providers");
    equal(user.profile, { email: t.email("ada") }, "profile");
    await t.createKey(user, "laptop");

    const byEmail = await t.logIn(t.app(), "ada");
    equal(byEmail.id, id, "user of the linked email");
    equal((await byEmail.apiKeys.fetchAll()).map((k) => k.name), ["laptop"], "keys");
  },

  "every new anonymous login makes another user": async (t) => {
    const app = t.app();
    const first = await app.logIn(t.Realm.Credentials.anonymous());
    const reused = await app.logIn(t.Realm.Credentials.anonymous());
    const second = await app.logIn(t.Realm.Credentials.anonymous(false));
    const reuses = t.version === "2.0.1"; // earlier versions always log in
    equal([reused.id === first.id, second.id === first.id], [reuses, false], "reused, new");
  },

  "a link that the double refuses is asked for only once": async (t) => {
    const app = t.app();
    const grace = await t.user(app, "grace");
    const { key } = await t.createKey(grace, "laptop");
    const ada = await t.user(app, "ada");
    await t.register(app, "second");
    t.requests.length = 0;

    const retold = { status: 403, code: "AuthError", text: /^unauthorized: ./ };
    const { apiKey, emailPassword, anonymous } = t.Realm.Credentials;
    await t.refused(ada.linkCredentials(emailPassword(t.email("nobody"), PASSWORD)), retold);
    await t.refused(ada.linkCredentials(t.credentials("grace")), retold);
    await t.refused(ada.linkCredentials(apiKey("foo")), retold);
    await t.refused(ada.linkCredentials(apiKey(key)), {
      status: 400,
      code: "InvalidParameter",
      text: /invalid user link request/,
    });
    await t.refused(ada.linkCredentials(anonymous()), {
      status: 400,
      code: "InvalidParameter",
      text: "linking an anonymous identity is not allowed",
    });
    await t.refused(ada.linkCredentials(t.credentials("second")), retold);
    equal(t.requests.length, 6, "requests");

    await ada.linkCredentials(t.credentials("ada"));
    equal(ada.identities.map((i) => i.providerType), ["local-userpass"], "providers");
  },

  "logging out ends that session, and no other": async (t) => {
    const app = t.app();
    const user = await t.user(app, "ada");
    const { _id } = await t.createKey(user, "laptop");
    const elsewhere = await t.logIn(t.app(), "ada");
    const { accessToken, refreshToken } = user;

    await user.logOut();
    equal([user.state, app.currentUser], ["logged-out", null], "state, current user");
    await t.refusesAllKeyCalls(user, _id, NO_TOKEN);

    Object.assign(user, { accessToken, refreshToken });
    await t.refused(user.refreshAccessToken(), SESSION_ENDED);
    equal([user.accessToken, user.refreshToken], [null, null], "what realm-web makes of an ended session");
    equal((await elsewhere.apiKeys.fetchAll()).length, 1, "keys, in the other session");
  },

  "logging out works after the session has expired": async (t) => {
    const app = t.app();
    const user = await t.user(app, "ada");
    const other = await t.user(app, "grace");
    await t.later("1441h", async () => {
      if (t.version === "1.2.1") await t.refused(user.logOut(), SESSION_ENDED); // it ignores no refusal
      else await user.logOut();
      await app.removeUser(other).catch((e) => equal(t.version, "1.2.1", `${e}`));
    });
    equal([user.state, app.currentUser], ["logged-out", null], "state, current user");
  },

  "an app switches between its users": async (t) => {
    const app = t.app();
    const ada = await t.user(app, "ada");
    const grace = await t.user(app, "grace");
    await t.createKey(ada, "of-ada");
    equal(app.currentUser.id, grace.id, "current user");
    app.switchUser(ada);
    equal(app.currentUser.id, ada.id, "current user");
    equal((await app.currentUser.apiKeys.fetchAll()).map((k) => k.name), ["of-ada"], "keys");
    equal(await grace.apiKeys.fetchAll(), [], "keys");
  },

  "a deleted user is gone, with sessions and keys, and the email is free again": async (t) => {
    if (t.version === "1.2.1") return; // it cannot delete users
    const app = t.app();
    const user = await t.user(app, "ada");
    const { key } = await t.createKey(user, "laptop");
    const elsewhere = await t.logIn(t.app(), "ada");

    await app.deleteUser(user);
    equal([user.state, app.currentUser], ["removed", null], "state, current user");
    await t.refused(t.logIn(app, "ada"), BAD_PASSWORD);
    await t.refused(t.logInWithKey(app, key), BAD_KEY);
    await t.refused(elsewhere.apiKeys.fetchAll(), SESSION_ENDED);

    const again = await t.user(app, "ada");
    equal([again.id === user.id, await again.apiKeys.fetchAll()], [false, []], "the same ID, keys");
  },

  "an access token that the double did not make is replaced, and the call goes through": async (t) => {
    const user = await t.user(t.app(), "ada");
    for (const bad of ["invalid", "e30.e30.e30", "", user.accessToken.slice(0, -4) + "AAAA", user.refreshToken]) {
      user.accessToken = bad;
      t.requests.length = 0;
      await user.refreshProfile();
      equal(t.requests, ["GET /auth/profile 401", "POST /auth/session 201", "GET /auth/profile 200"], "requests");
      equal(user.accessToken.split(".").length, 3, "parts of the new token");
    }
  },

  "an access token that has expired is replaced, and the call goes through": async (t) => {
    const user = await t.user(t.app(), "ada");
    await t.later("31m", async () => {
      t.requests.length = 0;
      await user.refreshProfile();
      equal(t.requests, ["GET /auth/profile 401", "POST /auth/session 201", "GET /auth/profile 200"], "requests");
      equal(await user.apiKeys.fetchAll(), [], "keys");
    });
  },

  "a link with an access token that has expired goes through": async (t) => {
    const app = t.app();
    const user = await app.logIn(t.Realm.Credentials.anonymous());
    await t.register(app, "ada");
    await t.later("31m", async () => {
      await user.linkCredentials(t.credentials("ada"));
      equal(user.identities.map((i) => i.providerType), ["anon-user", "local-userpass"], "providers");
    });
  },

  "a session ends after sixty days, and an anonymous user's does not": async (t) => {
    const app = t.app();
    const user = await t.user(app, "ada");
    const anonymous = await app.logIn(t.Realm.Credentials.anonymous());
    await t.later("1441h", async () => {
      await t.refused(user.apiKeys.fetchAll(), SESSION_ENDED);
      equal([user.state, user.refreshToken], ["logged-out", null], "what realm-web makes of it");
      await anonymous.refreshProfile();
    });
  },

  "a session, its user and its keys outlive a restart of the double": async (t) => {
    const app = t.app();
    const user = await t.user(app, "ada");
    const { key, ...laptop } = await t.createKey(user, "laptop");
    const { key: off, _id } = await t.createKey(user, "off");
    await user.apiKeys.disable(_id);
    const gone = await t.user(t.app(), "grace");
    const { accessToken, refreshToken } = gone;
    await gone.logOut();

    await t.restart();
    await user.refreshProfile();
    equal(user.profile, { email: t.email("ada") }, "profile");
    equal(await user.apiKeys.fetchAll(), [laptop, { _id, name: "off", disabled: true }], "keys");
    await user.refreshAccessToken();
    equal((await t.logInWithKey(t.app(), key)).id, user.id, "user of the key");
    await t.refused(t.logInWithKey(t.app(), off), BAD_KEY);
    equal((await t.logIn(t.app(), "ada")).id, user.id, "user of the email");
    Object.assign(gone, { accessToken, refreshToken });
    await t.refused(gone.refreshAccessToken(), SESSION_ENDED);
  },

  "a program that starts again goes on with the session that it kept": async (t) => {
    const storage = t.storage();
    const user = await t.user(t.app({ storage }), "ada");
    const { currentUser } = t.app({ storage });
    equal([currentUser.id, currentUser.profile], [user.id, { email: t.email("ada") }], "user, profile");
    equal(await currentUser.apiKeys.fetchAll(), [], "keys");
    await currentUser.refreshAccessToken();
  },

  "a base URL may end with a slash, and the location need not be asked for": async (t) => {
    await t.user(t.app({ baseUrl: t.url + "/" }), "ada");
    await t.user(t.app({ skipLocationRequest: true }), "grace");
    await t.user(t.app({ baseUrl: t.url + "/", skipLocationRequest: true }), "edsger");
  },

  "registering does not mind the token of an earlier user": async (t) => {
    const app = t.app();
    const user = await t.user(app, "ada");
    user.accessToken = "invalid";
    await t.register(app, "grace");
  },

  "a disabled user cannot log in at all": async (t) => {
    const app = t.app();
    const [{ email, keys }] = t.seeded.users;
    const disabled = { status: 401, code: "UserDisabled", text: "unauthorized" };
    await t.refused(app.logIn(t.Realm.Credentials.emailPassword(email, PASSWORD)), disabled);
    await t.refused(t.logInWithKey(app, keys[0].token), disabled);
  },

  "a server key logs in a user of its own, who manages no keys": async (t) => {
    const [backup, retired] = t.seeded.server_keys;
    const app = t.app();
    const server = await t.logInWithKey(app, backup.token);
    equal(server.toJSON().profile.type, "server", "type");
    equal(server.profile, { name: "backup-job" }, "profile");
    equal(server.identities, [{ id: backup.id, providerType: "api-key" }], "identities");
    await t.refusesAllKeyCalls(server, backup.id, FORBIDDEN);
    equal((await t.logInWithKey(t.app(), backup.token)).id, server.id, "user of the next login");
    await t.refused(t.logInWithKey(app, retired.token), BAD_KEY);
  },

  "an app that the double does not know is not found": async (t) => {
    const app = t.app({ id: "nosuch-abcde" });
    const notFound = { status: 404, code: undefined, text: "cannot find app using Client App ID 'nosuch-abcde'" };
    await t.refused(t.register(app, "ada"), notFound);
    await t.refused(t.register(t.app({ id: "nosuch-abcde", skipLocationRequest: true }), "ada"), notFound);
  },

  "a password is reset with the token of a mail, once": async (t) => {
    const app = t.app();
    const auth = t.emails(app);
    const user = await t.user(app, "ada");
    const email = t.email("ada");
    await t.refused(auth.sendResetPasswordEmail({ email: t.email("nobody") }), NO_USER);
    await t.refused(auth.resetPassword({ ...STRANGE_TOKEN, password: PASSWORD }), TOKEN_INVALID);

    await auth.sendResetPasswordEmail({ email });
    const { kind, token, tokenId } = await t.mail(email);
    equal(kind, "reset", "kind of mail");
    await t.refused(auth.resetPassword({ token, tokenId, password: "short" }), BAD_LENGTH);
    await auth.resetPassword({ token, tokenId, password: "a new password" });
    await t.refused(auth.resetPassword({ token, tokenId, password: "another one" }), TOKEN_INVALID);
    await t.refused(t.logIn(app, "ada"), BAD_PASSWORD);
    equal((await t.logIn(app, "ada", "a new password")).id, user.id, "user");
  },

  "with manual confirmation an email is confirmed with the token of a mail": async (t) => {
    const app = t.app();
    const auth = t.emails(app);
    const email = t.email("ada");
    await t.restart("--confirm", "manual");
    await t.register(app, "ada");
    await t.refused(t.logIn(app, "ada"), { status: 401, code: "AuthError", text: "unauthorized" });
    const { kind, ...first } = await t.mail(email);
    equal(kind, "confirm", "kind of mail");
    await t.refused(auth.confirmUser(STRANGE_TOKEN), TOKEN_INVALID);
    await t.refused(auth.confirmUser({ token: "x", tokenId: "y" }), {
      status: 400,
      code: "BadRequest",
      text: "invalid token data",
    });
    await auth.resendConfirmationEmail({ email });

    await auth.confirmUser(first);
    await t.logIn(app, "ada");
    await t.refused(auth.resendConfirmationEmail({ email }), CONFIRMED);
    await t.refused(auth.resendConfirmationEmail({ email: t.email("nobody") }), NO_USER);
  },

  "credentials that nobody vouches for are refused": async (t) => {
    const { jwt, google, facebook, apple } = t.Realm.Credentials;
    const app = t.app();
    for (const credentials of [jwt("a.b.c"), google({ idToken: "x" }), facebook("x"), apple("x")]) {
      await t.refused(app.logIn(credentials), { status: 401, code: "InvalidSession", text: "unauthorized" });
    }
  },

  "a service is not found": async (t) => {
    const user = await t.user(t.app(), "ada");
    const notFound = {
      status: 404,
      code: "ServiceNotFound",
      text: "service not found: 'mongodb-atlas': this double of App Services has no service 'mongodb-atlas'",
    };
    const collection = user.mongoClient("mongodb-atlas").db("shop").collection("orders");
    await t.refused(collection.find(), notFound);
    await t.refused(collection.watch().next(), notFound);
  },

  "a function is not found": async (t) => {
    const user = await t.user(t.app(), "ada");
    const notFound = { status: 404, code: "FunctionNotFound", text: "function not found: 'sum'" };
    await t.refused(user.functions.sum(1, 2), notFound);
  },

  "a fault that was asked for reaches the program until it ends": async (t) => {
    const user = await t.user(t.app(), "ada");
    const path = "/auth/api_keys";
    const unlucky = { status: 500, error_code: "InternalServerError", error: "no luck" };
    await t.fault({ path, method: "POST", to: 1, status: 503 });
    await t.fault({ path, method: "POST", from: 2, to: 2, ...unlucky });
    await t.fault({ path, method: "POST", from: 3, drop: true }); // Chromium sends it a second time by itself
    await t.refused(user.apiKeys.create("laptop"), { status: 503, code: undefined, text: undefined });
    await t.refused(user.apiKeys.create("laptop"), { status: 500, code: "InternalServerError", text: "no luck" });
    const dropped = await user.apiKeys.create("laptop").catch((e) => e);
    equal([dropped instanceof Error, dropped.statusCode], [true, undefined], `${dropped}: the connection is dropped`);
    await t.endFaults();
    await t.createKey(user, "laptop");
  },

  "pages of other origins are allowed unless the double has a list of origins": async (t) => {
    const inBrowser = "location" in globalThis;
    await t.restart("--allow-origin", "https://app.example.com");
    const outcome = await t.register(t.app(), "ada").catch((e) => e);
    equal(outcome instanceof TypeError, inBrowser, `${outcome}: a browser keeps the reply from the page`);
    const origin = inBrowser ? location.origin : "https://www.example.com";
    await t.restart("--allow-origin", "https://app.example.com", "--allow-origin", origin);
    await t.user(t.app(), "grace");
  },
};

/** A World is the argument of a step. It has the SDK, a double, and helpers for logins. */
export class World {
  /**
   * @param {object} o
   * @param {object} o.Realm the module realm-web
   * @param {string} o.url the double's URL
   * @param {object} o.seeded the users and server keys that the double has from the start
   * @param {string} o.version the version of realm-web
   * @param {string} o.step the step's name, from which its emails are derived
   * @param {function(...string): Promise<void>} o.restart starts the double again, on the same store and
   *   address. Additional flags stay in force until the step ends
   * @param {function(string): Promise<void>} o.advance moves the double's clock
   * @param {function(object): Promise<void>} o.fault makes the double fail requests
   * @param {function(): Promise<void>} o.endFaults ends all faults
   * @param {function(string): Promise<object>} o.mail returns the last mail to an address
   */
  constructor(o) {
    Object.assign(this, o);
    this.domain = o.step.replaceAll(/[^a-z]+/g, "-").slice(0, 40) + ".example.com";
    this.requests = []; // as "METHOD /path status", without the common beginning of all paths
    this.secrets = []; // tokens and passwords that the step has seen; none may be in the log
    this.programs = 0;
    this.Realm.getEnvironment().defaultStorage.clear();
  }

  /** Makes an app of the SDK as a program does, with a storage of its own unless one is given. */
  app(options) {
    const own = { id: "clients-abcde", baseUrl: this.url, storage: this.storage() };
    return new this.Realm.App({ ...own, ...this.recording(), ...options });
  }

  /** Returns the option of the SDK that lets this world see the requests. */
  recording() {
    const record = (url, { method }, reply) => {
      const path = new URL(url).pathname.replace(/^\/+api\/client\/v2\.0/, "");
      this.requests.push(`${method} ${path} ${reply.status}`);
      return reply;
    };
    if (this.version === "2.0.1") {
      return { fetch: async (url, request) => record(url, request, await fetch(url, request)) };
    }
    const { transport } = new this.Realm.App("any").fetcher;
    return { transport: { fetch: async (request) => record(request.url, request, await transport.fetch(request)) } };
  }

  /** Returns an app's calls about emails. Version 1.2.1 takes their arguments one by one. */
  emails({ emailPasswordAuth: auth }) {
    if (this.version !== "1.2.1") return auth;
    return {
      registerUser: ({ email, password }) => auth.registerUser(email, password),
      confirmUser: ({ token, tokenId }) => auth.confirmUser(token, tokenId),
      resendConfirmationEmail: ({ email }) => auth.resendConfirmationEmail(email),
      sendResetPasswordEmail: ({ email }) => auth.sendResetPasswordEmail(email),
      resetPassword: ({ token, tokenId, password }) => auth.resetPassword(token, tokenId, password),
    };
  }

  storage() {
    return this.Realm.getEnvironment().defaultStorage.prefix(`program-${this.programs++}`);
  }

  email(name) {
    return `${name}@${this.domain}`;
  }

  credentials(name, password = PASSWORD) {
    return this.Realm.Credentials.emailPassword(this.email(name), password);
  }

  async register(app, name) {
    await this.emails(app).registerUser({ email: this.email(name), password: PASSWORD });
  }

  async logIn(app, name, password) {
    return this.remember(await app.logIn(this.credentials(name, password)));
  }

  async logInWithKey(app, key) {
    return this.remember(await app.logIn(this.Realm.Credentials.apiKey(key)));
  }

  async user(app, name) {
    await this.register(app, name);
    return this.logIn(app, name);
  }

  async createKey(user, name) {
    const created = await user.apiKeys.create(name);
    this.secrets.push(created.key);
    return created;
  }

  remember(user) {
    this.secrets.push(PASSWORD, user.accessToken, user.refreshToken);
    return user;
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

  refused(call, want) {
    return refused(call, this.url, want);
  }

  async refusesAllKeyCalls({ apiKeys }, id, want) {
    await this.refused(apiKeys.create("name"), want);
    await this.refused(apiKeys.fetchAll(), want);
    await this.refused(apiKeys.fetch(id), want);
    await this.refused(apiKeys.enable(id), want);
    await this.refused(apiKeys.disable(id), want);
    await this.refused(apiKeys.delete(id), want);
  }
}

/** Runs one step, and returns the secrets that the step has seen. */
export async function run(step, o) {
  const world = new World({ ...o, step });
  await steps[step](world);
  return world.secrets;
}
