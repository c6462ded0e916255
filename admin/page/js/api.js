export class Problem extends Error {
    kind;
    status;
    constructor(finding) {
        const text = finding.detail ?? finding.title;
        super(text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : "."));
        this.kind = finding.type.replace("urn:latchkey:problem:", "");
        this.status = finding.status;
    }
}
const stored = "latchkey-session";
let mine = null;
export function session() {
    try {
        return JSON.parse(localStorage.getItem(stored) ?? "null") ?? mine;
    }
    catch {
        return mine;
    }
}
function setSession(s) {
    mine = s;
    try {
        if (s)
            localStorage.setItem(stored, JSON.stringify(s));
        else
            localStorage.removeItem(stored);
    }
    catch { }
}
export function onSession(run) {
    addEventListener("storage", (e) => {
        if (e.key !== stored && e.key !== null)
            return;
        mine = null;
        run();
    });
}
let signedOut = () => { };
export function onSignedOut(run) {
    signedOut = run;
}
function headers(o) {
    const all = { "Latchkey-Proof": session()?.proof ?? "" };
    if (o.body !== undefined)
        all["Content-Type"] = "application/json";
    if (o.match)
        all["If-Match"] = o.match;
    if (o.idempotency)
        all["Idempotency-Key"] = o.idempotency;
    if (o.background)
        all["Latchkey-Background"] = "1";
    return all;
}
async function send(method, path, o) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(o.query ?? {}))
        if (value !== undefined)
            query.set(name, value);
    const target = query.size > 0 ? `${path}?${query}` : path;
    let res;
    try {
        res = await fetch(target, {
            method, headers: headers(o), body: o.body === undefined ? null : JSON.stringify(o.body),
            credentials: "same-origin", cache: "no-store", redirect: "error", signal: o.signal ?? null,
        });
    }
    catch (err) {
        if (o.signal?.aborted)
            throw err;
        throw new Problem({ type: "unreachable", title: "The server does not answer. The program may have ended.", status: 0 });
    }
    if (res.ok)
        return res;
    let finding = { type: "unknown", title: `The server answered with status ${res.status}.`, status: res.status };
    try {
        finding = await res.json();
    }
    catch { }
    if (finding.type === "urn:latchkey:problem:signed-out") {
        setSession(null);
        signedOut();
    }
    throw new Problem(finding);
}
export async function call(method, path, o = {}) {
    const res = await send(method, path, o);
    return (res.status === 204 ? undefined : await res.json());
}
export async function signIn(secret) {
    setSession(await call("POST", "/sign-in", { body: { secret } }));
}
export async function signOut() {
    try {
        await call("POST", "/sign-out", { body: {} });
    }
    finally {
        setSession(null);
    }
}
export const keyPath = (id) => `/v1/keys/${id}`;
export const userPath = (id) => `/v1/users/${id}`;
export const groupPath = (name) => `/v1/groups/${encodeURIComponent(name)}`;
const silence = 40_000;
export class Stream {
    changed;
    state;
    last = "";
    abort = null;
    ended = false;
    constructor(changed, state) {
        this.changed = changed;
        this.state = state;
        document.addEventListener("visibilitychange", this.see);
        void this.run();
    }
    close() {
        this.ended = true;
        document.removeEventListener("visibilitychange", this.see);
        this.abort?.abort();
    }
    see = () => {
        if (document.hidden)
            this.abort?.abort();
    };
    async run() {
        for (let wait = 1000; !this.ended;) {
            await seen();
            if (this.ended)
                return;
            const began = Date.now();
            try {
                await this.follow();
            }
            catch { }
            if (this.ended)
                return;
            this.state(false);
            if (document.hidden)
                continue;
            wait = Date.now() - began > 10_000 ? 1000 : Math.min(wait * 2, 30_000);
            await new Promise((resolve) => setTimeout(resolve, wait));
        }
    }
    async follow() {
        const abort = this.abort = new AbortController();
        const late = () => setTimeout(() => abort.abort(), silence);
        let timer = late();
        try {
            const res = await send("GET", "/v1/changes", { background: true, signal: abort.signal });
            const reader = res.body.pipeThrough(new TextDecoderStream()).getReader();
            let text = "";
            for (;;) {
                const { done, value } = await reader.read();
                if (done)
                    return;
                clearTimeout(timer);
                timer = late();
                text += value;
                const events = text.split("\n\n");
                text = events.pop();
                for (const event of events)
                    this.take(event);
            }
        }
        finally {
            clearTimeout(timer);
        }
    }
    take(event) {
        const kind = /^event: (.*)$/m.exec(event)?.[1];
        if (kind === undefined)
            return;
        if (kind === "ready") {
            this.state(true);
            if (this.last !== "")
                this.changed();
            this.last = "seen";
            return;
        }
        this.changed();
    }
}
function seen() {
    return new Promise((resolve) => {
        const look = () => {
            if (document.hidden)
                return;
            document.removeEventListener("visibilitychange", look);
            resolve();
        };
        document.addEventListener("visibilitychange", look);
        look();
    });
}
