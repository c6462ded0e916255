// The view Edges, which is there if the program serves a hub: its edges, and their claims.

import { call, type List } from "./api.js";
import { act } from "./dialog.js";
import { button, h, name, say, visible } from "./dom.js";
import { ago, badge, line } from "./format.js";
import { Table } from "./table.js";
import { heading, nothing, searchField, type View } from "./view.js";

type Edge = {
	id: string; name: string; policy: { groups: string[]; push: string }; last_seen?: string; connected: boolean;
	revoked?: boolean; dropped?: boolean; cloned?: boolean; claims?: number; refused?: string;
};
type Claim = { number: number; edge: string; table: string; id?: string; group?: string; what: string };
type Confirmed = { have: number; all: number };

let served = false;

// findHub asks whether the program serves a hub.
export async function findHub(): Promise<boolean> {
	served = await call("GET", "/v1/hub", { background: true }).then(() => true, () => false);
	return served;
}

function confirmedText(c: Confirmed): string {
	return c.all === 0 ? "The hub has no edges." : `${c.have} of ${c.all} edges have confirmed it.`;
}

// confirmedBy returns an element that says how many edges have confirmed the last change of the
// entry with a path, and asks again until all have. Without a hub, it returns null.
export function confirmedBy(path: string): HTMLElement | null {
	if (!served) return null;
	const box = h("span", {}, "…");
	const ask = async (): Promise<void> => {
		try {
			const c = await call<Confirmed>("GET", `${path}/confirmed`, { background: true });
			box.textContent = confirmedText(c);
			if (c.have < c.all) setTimeout(() => { if (box.isConnected) void ask(); }, 1000);
		} catch {
			box.textContent = "not known";
		}
	};
	void ask();
	return box;
}

function stateOf(e: Edge): HTMLElement {
	if (e.revoked) return badge("revoked", "off");
	if (e.cloned) return badge("cloned", "bad", "Two devices use the credential of the edge.");
	if (e.connected) return badge("connected", "good");
	return e.dropped ? badge("dropped", "warn", "The edge was silent for so long that it compares its records when it is back.") : badge("away", "warn");
}

function subjectOf(e: Edge): HTMLElement {
	return h("p", { class: "subject" }, h("strong", {}, name(e.name)), " ", h("code", {}, e.id));
}

function claimText(c: Claim): string {
	const kind = { users: "user", deadusers: "user", keys: "key", deadkeys: "key", groups: "group" }[c.table] ?? c.table;
	return `${kind} ${visible(c.group ?? c.id ?? "")}: ${c.what.replace(/^.*\./, "")}`;
}

export function edgesView(): View {
	const names = new Map<string, string>();
	let text = "", closed = false;
	const revoke = (e: Edge): void => {
		act({
			title: "Revoke the edge?",
			content: [subjectOf(e), h("p", {}, "Its key is disabled, and its stream ends. What the edge has, it keeps. To come back, the device needs a new invitation.")],
			button: "Revoke",
			danger: true,
			command: () => line(["replica", "revoke"], [e.id]),
			run: async () => {
				table.put(await call<Edge>("POST", `/v1/replicas/${e.id}/revoke`));
				say("The edge is revoked.");
			},
		});
	};
	const decide = (c: Claim, confirm: boolean): void => {
		act({
			title: confirm ? "Confirm the claim?" : "Refuse the claim?",
			content: [h("p", { class: "subject" }, h("strong", {}, claimText(c)), ", at ", name(names.get(c.edge) ?? c.edge)), h("p", {}, confirm
				? "The change is made at the hub, and all edges get it."
				: "The claim is dropped, and the edge takes over what the hub has.")],
			button: confirm ? "Confirm" : "Refuse",
			command: () => line(["replica", "claims", confirm ? "confirm" : "refuse"], [String(c.number)]),
			run: async () => {
				await call("POST", `/v1/claims/${c.number}/${confirm ? "confirm" : "refuse"}`);
				say(confirm ? "The claim is confirmed." : "The claim is refused.");
				void loadClaims();
			},
		});
	};
	const claims = h("div", {});
	const loadClaims = async (): Promise<void> => {
		const list = await call<List<Claim>>("GET", "/v1/claims", { background: true }).catch(() => null);
		if (closed || list === null) return;
		claims.replaceChildren();
		if (list.items.length === 0) return;
		const rows = h("ul", { class: "findings" });
		for (const c of list.items) rows.append(h("li", {}, h("strong", {}, claimText(c)), h("span", {}, name(names.get(c.edge) ?? c.edge), " ",
			button("Confirm", () => decide(c, true), { class: "small", "data-focus": `claim ${c.number} confirm`, "aria-label": `Confirm claim ${c.number}` }), " ",
			button("Refuse", () => decide(c, false), { class: "small", "data-focus": `claim ${c.number} refuse`, "aria-label": `Refuse claim ${c.number}` }))));
		claims.append(h("h2", {}, "Claims"), h("p", { class: "lead" }, "An edge has disabled this without the right to push it. It holds at that edge alone."), rows);
	};
	const table = new Table<Edge>({
		label: "Edges",
		noun: "edge",
		columns: [
			{ title: "Name", class: "c-name", cell: (e) => [name(e.name)] },
			{ title: "Gets", class: "c-owner", cell: (e) => [h("span", { title: `The edge may push: ${e.policy.push}.` }, e.policy.groups.map(visible).join(", "))] },
			{ title: "State", class: "c-state", cell: (e) => [stateOf(e)] },
			{ title: "Last seen", class: "c-used", cell: (e) => [h("span", { class: "narrow" }, "last seen "), ago(e.last_seen)] },
			{ title: "", class: "c-actions", cell: (e) => e.revoked ? [] : [button("Revoke", () => revoke(e), { class: "small", "data-part": "revoke", "data-focus": `${e.id} revoke`, "aria-label": `Revoke ${visible(e.name)}` })] },
		],
		empty: () => text !== "" ? nothing("No edge fits.") : nothing("The hub has no edges. latchkey replica invite makes an invitation for one."),
		changed: () => { head.count.textContent = table.summary(); },
	});
	const head = heading("Edges");
	const search = searchField("Search edges", "Name or ID", (t) => { text = t; load(); });
	const page = async (cursor: string | undefined, limit: number, signal: AbortSignal, background: boolean): Promise<List<Edge>> => {
		const list = await call<List<Edge>>("GET", "/v1/replicas", { query: { cursor, limit: String(limit), search: text || undefined }, signal, background });
		for (const e of list.items) names.set(e.id, e.name);
		void loadClaims();
		return list;
	};
	// The cursor behind an edge is its name, a zero byte and the bytes of its ID, in base64.
	const cursorOf = (e: Edge): string => {
		let bytes = "";
		for (const b of new TextEncoder().encode(`${e.name}\0`)) bytes += String.fromCharCode(b);
		for (const b of e.id.replaceAll("-", "").match(/../g) ?? []) bytes += String.fromCharCode(parseInt(b, 16));
		return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
	};
	const load = (): void => table.show({ id: (e) => e.id, load: (after, limit, signal, background) => page(after && cursorOf(after), limit, signal, background), resume: (cursor, limit, signal) => page(cursor, limit, signal, false) });
	load();
	// An edge that connects, or is seen, is no change of the store.
	const timer = setInterval(() => { if (!document.hidden) table.stale(); }, 10_000);
	return {
		root: h("div", { class: "view five" }, head.root, h("p", { class: "lead" }, "An edge is a store that follows this one, and checks tokens alone."), claims, h("div", { class: "toolbar" }, search.root), table.root),
		changed: () => { table.stale(); void loadClaims(); },
		close: () => { closed = true; clearInterval(timer); table.close(); },
	};
}
