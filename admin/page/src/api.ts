// The API, as openapi.yaml describes it.

export type Identity = { provider: string; subject: string };

export type User = {
	id: string; identities: Identity[]; created: string; disabled: boolean;
	group?: string; metadata?: Record<string, string>; etag: string;
};

export type Token = { id: string; ends?: string; last_used?: string; foreign?: boolean };

export type Key = {
	id: string; owner: string; identity?: Identity; name: string; created: string; expires?: string; expired: boolean;
	disabled: boolean; stopped?: "user" | "group"; scopes: string[]; networks: string[];
	metadata: Record<string, string>; group?: string; tokens: Token[]; last_used?: string; etag: string;
};

export type KeyWithToken = { key: Key; token?: string; repeated?: boolean; advice?: string };
export type Group = { name: string; disabled: boolean; etag: string };
export type List<T> = { items: T[]; next?: string };

export type Change = {
	actions: string[]; time: string; actor?: string; user?: string; key?: string; owner?: string; provider?: string;
	group?: string; name?: string; expires?: string; scopes?: string; networks?: string[];
};
export type Entry = { chain?: string; number: number; change: Change; hash: string };
export type Head = string; // a number, a colon and a hash, behind the name of the chain and a slash if it has one
export type AuditPage = List<Entry> & { heads: Head[] };
export type Verdict = { ok: boolean; heads: Head[]; problem?: Finding };
export type Finding = { type: string; title: string; status: number; detail?: string };
export type Health = { ok: boolean; findings: Finding[] };
export type Findings = { findings: Finding[]; more: boolean };
export type StoreInfo = { domain: string; replica: string; now: string };
export type Stats = Record<string, number>;

// A Problem is an answer that is no success, or no answer at all.
export class Problem extends Error {
	readonly kind: string;
	readonly status: number;
	constructor(finding: Finding) {
		const text = finding.detail ?? finding.title;
		super(text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : "."));
		this.kind = finding.type.replace("urn:latchkey:problem:", "");
		this.status = finding.status;
	}
}

// A Session is what the page keeps of its session. The cookie, which the page cannot read, is the
// other half.
type Session = { actor: string; proof: string };

const stored = "latchkey-session";

let mine: Session | null = null; // where the browser keeps nothing

// session returns the session, or null.
export function session(): Session | null {
	try {
		return JSON.parse(localStorage.getItem(stored) ?? "null") as Session | null ?? mine;
	} catch {
		return mine;
	}
}

function setSession(s: Session | null): void {
	mine = s;
	try {
		if (s) localStorage.setItem(stored, JSON.stringify(s));
		else localStorage.removeItem(stored);
	} catch { /* the session is good for this tab, until it is loaded again */ }
}

// onSession runs a function when another tab signs in or out.
export function onSession(run: () => void): void {
	addEventListener("storage", (e) => {
		if (e.key !== stored && e.key !== null) return;
		mine = null;
		run();
	});
}

let signedOut: () => void = () => {};

// onSignedOut sets what happens when the server no longer knows the session.
export function onSignedOut(run: () => void): void {
	signedOut = run;
}

type Options = {
	body?: unknown;
	query?: Record<string, string | undefined>;
	match?: string;
	idempotency?: string;
	background?: boolean; // nobody asked for it
	signal?: AbortSignal | undefined;
};

function headers(o: Options): Record<string, string> {
	const all: Record<string, string> = { "Latchkey-Proof": session()?.proof ?? "" };
	if (o.body !== undefined) all["Content-Type"] = "application/json";
	if (o.match) all["If-Match"] = o.match;
	if (o.idempotency) all["Idempotency-Key"] = o.idempotency;
	if (o.background) all["Latchkey-Background"] = "1";
	return all;
}

async function send(method: string, path: string, o: Options): Promise<Response> {
	const query = new URLSearchParams();
	for (const [name, value] of Object.entries(o.query ?? {})) if (value !== undefined) query.set(name, value);
	const target = query.size > 0 ? `${path}?${query}` : path;
	let res: Response;
	try {
		res = await fetch(target, {
			method, headers: headers(o), body: o.body === undefined ? null : JSON.stringify(o.body),
			credentials: "same-origin", cache: "no-store", redirect: "error", signal: o.signal ?? null,
		});
	} catch (err) {
		if (o.signal?.aborted) throw err;
		throw new Problem({ type: "unreachable", title: "The server does not answer. The program may have ended.", status: 0 });
	}
	if (res.ok) return res;
	let finding: Finding = { type: "unknown", title: `The server answered with status ${res.status}.`, status: res.status };
	try {
		finding = await res.json() as Finding;
	} catch { /* no problem of the API */ }
	if (finding.type === "urn:latchkey:problem:signed-out") {
		setSession(null);
		signedOut();
	}
	throw new Problem(finding);
}

// call sends a request and returns the body of the answer.
export async function call<T>(method: string, path: string, o: Options = {}): Promise<T> {
	const res = await send(method, path, o);
	return (res.status === 204 ? undefined : await res.json()) as T;
}

// signIn uses up the secret of a sign-in URL.
export async function signIn(secret: string): Promise<void> {
	setSession(await call<Session>("POST", "/sign-in", { body: { secret } }));
}

// signOut ends the session, also if the server cannot be reached.
export async function signOut(): Promise<void> {
	try {
		await call("POST", "/sign-out", { body: {} });
	} finally {
		setSession(null);
	}
}

export const keyPath = (id: string): string => `/v1/keys/${id}`;
export const userPath = (id: string): string => `/v1/users/${id}`;
export const groupPath = (name: string): string => `/v1/groups/${encodeURIComponent(name)}`;

// silence is how long the stream of changes may be silent. The server says something each 15 s.
const silence = 40_000;

// A Stream follows the changes of the store. It is closed while nobody sees the page, because
// browsers open only six connections to a host.
export class Stream {
	private last = "";
	private abort: AbortController | null = null;
	private ended = false;

	constructor(private readonly changed: () => void, private readonly state: (live: boolean) => void) {
		document.addEventListener("visibilitychange", this.see);
		void this.run();
	}

	close(): void {
		this.ended = true;
		document.removeEventListener("visibilitychange", this.see);
		this.abort?.abort();
	}

	private readonly see = (): void => {
		if (document.hidden) this.abort?.abort();
	};

	private async run(): Promise<void> {
		for (let wait = 1000; !this.ended;) {
			await seen();
			if (this.ended) return;
			const began = Date.now();
			try {
				await this.follow();
			} catch { /* it is opened again */ }
			if (this.ended) return;
			this.state(false);
			if (document.hidden) continue;
			wait = Date.now() - began > 10_000 ? 1000 : Math.min(wait * 2, 30_000);
			await new Promise((resolve) => setTimeout(resolve, wait));
		}
	}

	private async follow(): Promise<void> {
		const abort = this.abort = new AbortController();
		const late = (): number => setTimeout(() => abort.abort(), silence);
		let timer = late();
		try {
			const res = await send("GET", "/v1/changes", { background: true, signal: abort.signal });
			const reader = res.body!.pipeThrough(new TextDecoderStream()).getReader();
			let text = "";
			for (;;) {
				const { done, value } = await reader.read();
				if (done) return;
				clearTimeout(timer);
				timer = late();
				text += value;
				const events = text.split("\n\n");
				text = events.pop()!;
				for (const event of events) this.take(event);
			}
		} finally {
			clearTimeout(timer);
		}
	}

	private take(event: string): void {
		const kind = /^event: (.*)$/m.exec(event)?.[1];
		if (kind === undefined) return; // a comment
		if (kind === "ready") {
			this.state(true);
			// What was changed while the stream was closed is not known.
			if (this.last !== "") this.changed();
			this.last = "seen";
			return;
		}
		this.changed();
	}
}

// seen returns when somebody can see the page.
function seen(): Promise<void> {
	return new Promise((resolve) => {
		const look = (): void => {
			if (document.hidden) return;
			document.removeEventListener("visibilitychange", look);
			resolve();
		};
		document.addEventListener("visibilitychange", look);
		look();
	});
}
