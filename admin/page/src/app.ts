// The beginning: signing in, the frame around the views, and which view is shown.

import { call, onSession, onSignedOut, Problem, session, signIn, signOut, type StoreInfo, Stream } from "./api.js";
import { auditView } from "./audit.js";
import { closeDialogs, mayLeave } from "./dialog.js";
import { announce, button, h, say } from "./dom.js";
import { edgesView, findHub } from "./edges.js";
import { setStoreTime } from "./format.js";
import { groupsView } from "./groups.js";
import { healthView } from "./health.js";
import { keysView } from "./keys.js";
import { usersView } from "./users.js";
import type { View } from "./view.js";

const app = document.getElementById("app")!;

let views: [route: string, title: string][] = [];

const allViews: [route: string, title: string][] = [
	["keys", "Keys"], ["users", "Users"], ["server-keys", "Server keys"], ["groups", "Groups"], ["edges", "Edges"], ["audit", "Audit"], ["health", "Health"],
];

// takeSecret returns the secret of a sign-in URL, and takes it out of the address and the history
// at once.
function takeSecret(): string | undefined {
	const secret = /^#sign-in=(.+)$/.exec(location.hash)?.[1];
	if (secret !== undefined) history.replaceState(null, "", location.pathname);
	return secret;
}

let frame: Frame | null = null;

// A Frame is what is around the views while somebody is signed in.
class Frame {
	private readonly main = h("main", { id: "main" });
	private readonly links = new Map<string, HTMLAnchorElement>();
	private readonly live = h("span", { class: "live" });
	private readonly stream: Stream;
	private readonly timer: number;
	private view: View | null = null;
	private shown = ""; // the route without the ID of an entry

	constructor(actor: string) {
		const nav = h("nav", { "aria-label": "Views" });
		for (const [route, title] of views) {
			const link = h("a", { href: `#/${route}` }, title);
			this.links.set(route, link);
			nav.append(link);
		}
		app.replaceChildren(
			h("header", { class: "top" },
				h("a", { class: "skip", href: "#main", on: { click: (e) => { e.preventDefault(); this.main.querySelector<HTMLElement>("h1")?.focus(); } } }, "Skip to the content"),
				h("span", { class: "brand" }, h("img", { src: "/icon.svg", alt: "", width: "22", height: "22" }), "Latchkey"),
				nav,
				h("span", { class: "who" }, this.live, h("span", { class: "faint", title: "The audit trail names this session so." }, actor), button("Sign out", () => void leave(), { class: "small quiet" }))),
			this.main);
		this.setLive(null);
		addEventListener("hashchange", this.route);
		// Uses of keys are no changes, and times such as "2 minutes ago" pass.
		this.timer = setInterval(() => { if (!document.hidden) this.view?.changed(); }, 60_000);
		this.stream = new Stream(() => this.view?.changed(), (live) => this.setLive(live));
		this.route();
	}

	close(): void {
		removeEventListener("hashchange", this.route);
		clearInterval(this.timer);
		this.stream.close();
		this.view?.close();
		closeDialogs();
	}

	private setLive(live: boolean | null): void {
		this.live.className = `live ${live ? "on" : "off"}`;
		this.live.textContent = live ? "live" : live === null ? "connecting" : "reconnecting";
		this.live.title = live ? "Changes appear at once." : "Changes do not appear until the server answers again.";
	}

	private readonly route = (): void => {
		const [, name = "keys", id, query] = /^#\/([a-z-]+)(?:\/([0-9a-f-]{36}))?(?:\?(.*))?$/.exec(location.hash) ?? [];
		const known = views.some(([route]) => route === name) ? name : "keys";
		const shown = `${known}?${query ?? ""}`;
		if (shown !== this.shown) {
			if (!mayLeave()) { // a token is lost if the browser goes back
				history.pushState(null, "", `#/${this.shown.replace(/\?$/, "")}`);
				return;
			}
			this.shown = shown;
			this.show(known, new URLSearchParams(query ?? ""));
		}
		if (id !== undefined) this.view?.open?.(id);
	};

	private show(name: string, query: URLSearchParams): void {
		const before = this.view;
		const title = views.find(([route]) => route === name)![1];
		before?.close();
		closeDialogs();
		for (const [route, link] of this.links) {
			if (route === name) link.setAttribute("aria-current", "page");
			else link.removeAttribute("aria-current");
		}
		this.links.get(name)?.scrollIntoView({ block: "nearest", inline: "nearest" });
		document.title = `${title} · Latchkey`;
		this.view = this.make(name, query);
		this.main.replaceChildren(this.view.root);
		if (before !== null) {
			announce(title);
			if (!this.links.get(name)!.contains(document.activeElement)) this.view.root.querySelector<HTMLElement>("h1")?.focus({ preventScroll: true });
		} else {
			this.view.root.querySelector<HTMLElement>("input[type=search]")?.focus({ preventScroll: true });
		}
	}

	private make(name: string, query: URLSearchParams): View {
		const go = (route: string): void => { location.hash = route; };
		// The address names the entry that is open, so that it can be opened again.
		const mark = (id: string): void => {
			const rest = query.size > 0 ? `?${query}` : "";
			history.replaceState(null, "", `#/${name}${id === "" ? "" : `/${id}`}${rest}`);
		};
		const showKeys = (owner: string): void => go(`/keys?owner=${owner}`);
		const showUser = (id: string): void => go(`/users/${id}`);
		const all = (): void => go(`/${name}`);
		const group = query.get("group") ?? undefined, owner = query.get("owner") ?? undefined;
		switch (name) {
		case "users": return usersView({ ...(group === undefined ? {} : { group }), showKeys, mark, all });
		case "server-keys": return keysView({ server: true, showUser, mark, all });
		case "groups": return groupsView({ showKeys: (g) => go(`/keys?${new URLSearchParams({ group: g })}`), showUsers: (g) => go(`/users?${new URLSearchParams({ group: g })}`) });
		case "edges": return edgesView();
		case "audit": return auditView({ showKey: (id) => go(`/keys/${id}`), showUser });
		case "health": return healthView();
		}
		return keysView({ server: false, ...(owner === undefined ? {} : { owner }), ...(group === undefined ? {} : { group }), showUser, mark, all });
	}
}

async function leave(): Promise<void> {
	try {
		await signOut();
	} catch { /* the session ends by itself */ }
	showSignedOut("You have signed out.");
}

// showSignedOut shows how to sign in. Nothing of the store stays in the document.
function showSignedOut(why: string): void {
	frame?.close();
	frame = null;
	closeDialogs();
	document.getElementById("status")!.replaceChildren();
	document.title = "Latchkey";
	history.replaceState(null, "", location.pathname);
	const title = h("h1", { tabindex: "-1" }, "Signed out");
	app.replaceChildren(h("main", { class: "plain" },
		h("img", { src: "/icon.svg", alt: "", width: "40", height: "40" }), title,
		h("p", {}, why),
		h("p", {}, "To sign in, run this on the machine of the store, and open the URL that it prints:"),
		h("pre", { tabindex: "0", role: "group", "aria-label": "Command line" }, h("code", {}, "latchkey page --store FILE")),
		h("p", { class: "faint" }, "A URL is good once, for 5 minutes.")));
	title.focus();
}

async function begin(): Promise<void> {
	const secret = takeSecret();
	if (secret !== undefined) {
		try {
			await signIn(secret);
		} catch (err) {
			if (session() === null || !(err instanceof Problem)) {
				showSignedOut((err as Error).message);
				return;
			}
			say(err.message); // the session of before goes on
		}
	}
	const mine = session();
	if (mine === null) {
		showSignedOut("This page administers a store of keys.");
		return;
	}
	try {
		setStoreTime((await call<StoreInfo>("GET", "/v1/store")).now);
		const hub = await findHub();
		views = allViews.filter(([route]) => route !== "edges" || hub);
	} catch (err) {
		if (session() === null) return;
		const title = h("h1", { tabindex: "-1" }, "The store cannot be reached");
		app.replaceChildren(h("main", { class: "plain" }, title, h("p", { role: "alert" }, (err as Error).message), button("Try again", () => void begin(), { class: "primary" })));
		title.focus();
		return;
	}
	frame?.close();
	frame = new Frame(mine.actor);
}

onSignedOut(() => showSignedOut("The session has ended."));
onSession(() => {
	if (session() === null) showSignedOut("Another tab has signed out.");
	else void begin();
});
// A sign-in URL can be opened in a tab that shows the page already.
addEventListener("hashchange", () => { if (location.hash.startsWith("#sign-in=")) void begin(); });
void begin();
