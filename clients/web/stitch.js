// The two SDKs of the time before Realm, with the same methods, so that one list of steps is for both.

import { StitchClientFactory } from "mongodb-stitch";
import * as server from "mongodb-stitch-server-sdk";

const APP = "clients-abcde";

/** mongodb-stitch 3.18.0, the last release of the first SDK. */
export class FirstSDK {
  /** Starts a program. `record` is called with the method, the URL and the status of each request. */
  static async start(url, record) {
    const program = new FirstSDK();
    globalThis.fetch = recordingFetch(record); // the SDK looks for fetch at each request
    program.client = await StitchClientFactory.create(APP, { baseUrl: url });
    program.emails = program.client.auth.provider("userpass");
    return program;
  }

  close() {}

  register = (email, password) => this.client.register(email, password);
  confirm = ({ token, tokenId }) => this.emails.emailConfirm(tokenId, token);
  resendConfirmation = (email) => this.emails.sendEmailConfirm(email);
  sendReset = (email) => this.emails.sendPasswordReset(email);
  reset = ({ token, tokenId }, password) => this.emails.passwordReset(tokenId, token, password);

  logInAnonymously = () => this.client.login();
  logIn = (email, password) => this.client.login(email, password);
  logInWithKey = (key) => this.client.authenticate("apiKey", key);
  logOut = () => this.client.logout();
  link = (username, password) => this.client.linkWithProvider("userpass", { username, password });
  linkKey = (key) => this.client.linkWithProvider("apiKey", key);
  get userId() {
    return this.client.authedId() ?? undefined;
  }
  get deviceId() {
    return this.client.auth.getDeviceId();
  }
  get tokens() {
    return [this.client.auth.getAccessToken(), this.client.auth.getRefreshToken()];
  }
  async profile() {
    const { identities, data, type } = await this.client.userProfile();
    return { providers: identities.map((i) => i.provider_type), email: data.email, type };
  }

  createKey = (name) => this.client.createApiKey(name);
  keys = () => this.client.getApiKeys();
  key = (id) => this.client.getApiKeyByID(id);
  enableKey = (id) => this.client.enableApiKeyByID(id);
  disableKey = (id) => this.client.disableApiKeyByID(id);
  deleteKey = (id) => this.client.deleteApiKeyByID(id);

  callFunction = (name) => this.client.executeFunction(name);
  callService = (service, name) => this.client.executeServiceFunction(service, name);

  /** Returns the code and the text of a refusal. */
  static refusal = (error) => ({ code: error.code, text: error.message });
  static refusalOf = ({ code, text }) => ({ code, text });
  static forbidden = { code: undefined, text: "Forbidden" };
}

/** mongodb-stitch-server-sdk 4.9.0, the last release of the SDK for servers. */
export class ServerSDK {
  static start(url, record) {
    const program = new ServerSDK();
    const { Stitch, StitchAppClientConfiguration, NodeFetchStreamTransport, MemoryStorage } = server;
    const transport = new NodeFetchStreamTransport();
    const recording = {
      stream: (...args) => transport.stream(...args),
      roundTrip: async (request) => {
        const reply = await transport.roundTrip(request);
        record(request.method, request.url, reply.statusCode);
        return reply;
      },
    };
    Stitch.clearApps();
    program.client = Stitch.initializeAppClient(
      APP,
      new StitchAppClientConfiguration.Builder()
        .withBaseUrl(url)
        .withStorage(new MemoryStorage("program"))
        .withTransport(recording)
        .build(),
    );
    program.emails = program.client.auth.getProviderClient(server.UserPasswordAuthProviderClient.factory);
    return program;
  }

  /** Stops the timer that looks after the access token. */
  close() {
    this.client.close();
  }

  register = (email, password) => this.emails.registerWithEmail(email, password);
  confirm = ({ token, tokenId }) => this.emails.confirmUser(token, tokenId);
  resendConfirmation = (email) => this.emails.resendConfirmationEmail(email);
  sendReset = (email) => this.emails.sendResetPasswordEmail(email);
  reset = ({ token, tokenId }, password) => this.emails.resetPassword(token, tokenId, password);

  logInAnonymously = () => this.#logIn(new server.AnonymousCredential());
  logIn = (email, password) => this.#logIn(new server.UserPasswordCredential(email, password));
  logInWithKey = (key) => this.#logIn(new server.UserApiKeyCredential(key));
  logOut = () => this.client.auth.logout();
  link = (email, password) => this.#link(new server.UserPasswordCredential(email, password));
  linkKey = (key) => this.#link(new server.UserApiKeyCredential(key));
  get userId() {
    return this.client.auth.user?.id;
  }
  get deviceId() {
    return this.client.auth.deviceId;
  }
  get tokens() {
    const { accessToken, refreshToken } = this.client.auth.authInfo;
    return [accessToken, refreshToken];
  }
  async profile() {
    const { identities, profile, userType } = this.client.auth.user;
    return { providers: identities.map((i) => i.providerType), email: profile.email, type: userType };
  }
  #logIn = async (credential) => (await this.client.auth.loginWithCredential(credential)).id;
  #link = async (credential) => (await this.client.auth.user.linkWithCredential(credential)).id;

  get #apiKeys() {
    return this.client.auth.getProviderClient(server.UserApiKeyAuthProviderClient.factory);
  }
  createKey = async (name) => plainKey(await this.#apiKeys.createApiKey(name));
  keys = async () => (await this.#apiKeys.fetchApiKeys()).map(plainKey);
  key = async (id) => plainKey(await this.#apiKeys.fetchApiKey(objectId(id)));
  enableKey = (id) => this.#apiKeys.enableApiKey(objectId(id));
  disableKey = (id) => this.#apiKeys.disableApiKey(objectId(id));
  deleteKey = (id) => this.#apiKeys.deleteApiKey(objectId(id));

  callFunction = (name) => this.client.callFunction(name, []);
  callService = (service, name) => this.client.getGeneralServiceClient(service).callFunction(name, []);

  /** Returns the code and the text of a refusal. */
  static refusal = (error) => ({ code: error.errorCodeName, text: error.message });
  /** Returns a refusal as the SDK shows it. The SDK has another spelling of APIKey, and does not know all codes. */
  static refusalOf = ({ code, text }) => {
    const name = String(code).replace("APIKey", "ApiKey");
    return { code: name in server.StitchServiceErrorCode ? name : "Unknown", text };
  };
  static forbidden = { code: "Unknown", text: "" };
}

const objectId = (id) => new server.BSON.ObjectID(id);

function plainKey({ id, key, name, disabled }) {
  const plain = { _id: id.toHexString(), name, disabled };
  return key === undefined ? plain : { ...plain, key };
}

const plainFetch = globalThis.fetch;

function recordingFetch(record) {
  return async (url, request) => {
    const reply = await plainFetch(url, request);
    record(request?.method ?? "GET", url, reply.status);
    return reply;
  };
}
