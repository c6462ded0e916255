// The view Audit.

import { call, type AuditPage, type Change, type Entry, type Verdict } from "./api.js";
import { add, button, copyButton, h, name, type Child } from "./dom.js";
import { commandBox, Dialog, facts } from "./dialog.js";
import { ago, line, whenAndAgo } from "./format.js";
import { Table, type Page } from "./table.js";
import { heading, nothing, type View } from "./view.js";

type Show = { showKey: (id: string) => void; showUser: (id: string) => void };

// what returns what a change was about.
function what(c: Change): HTMLElement {
	if (c.key !== undefined) return h("span", {}, "key ", name(c.name || c.key));
	if (c.user !== undefined) return h("span", {}, "user ", name(c.user));
	if (c.group !== undefined) return h("span", {}, "group ", name(c.group));
	return h("span", {}, c.name === undefined ? "the store" : name(c.name));
}

// inChain returns the number of an entry, behind the name of the chain and a slash if it has one.
function inChain(chain: string, number: number): string {
	return chain === "" ? String(number) : `${chain}/${number}`;
}

const idOf = (e: Entry): string => inChain(e.chain ?? "", e.number);

// later reports whether a comes before b, the newest entry first.
function later(a: Entry, b: Entry): boolean {
	const between = Date.parse(a.change.time) - Date.parse(b.change.time);
	return between > 0 || between === 0 && (a.chain ?? "") > (b.chain ?? "");
}

// A Place is where the list goes on: of each chain, before which number.
type Place = Record<string, number>;

export function auditView(show: Show): View {
	const open = (e: Entry): void => {
		const d = new Dialog(`Entry ${idOf(e)}`, "sheet"), c = e.change;
		const jump = (label: string, run: () => void): HTMLElement => button(label, () => { d.close(); run(); }, { class: "link" });
		const rows: ([string, Child] | null)[] = [
			["Actions", c.actions.join(", ")], ["Time", whenAndAgo(c.time)], ["Actor", c.actor ? name(c.actor) : "none"],
			c.key !== undefined ? ["Key", jump(c.key, () => show.showKey(c.key!))] : null,
			c.name !== undefined ? ["Name", name(c.name)] : null,
			c.owner !== undefined && c.owner !== "ffffffff-ffff-ffff-ffff-ffffffffffff" && c.owner !== "server" ? ["Owner", jump(c.owner, () => show.showUser(c.owner!))] : null,
			c.user !== undefined ? ["User", jump(c.user, () => show.showUser(c.user!))] : null,
			c.provider !== undefined ? ["Provider", name(c.provider)] : null,
			c.group !== undefined ? ["Group", name(c.group)] : null,
			c.expires !== undefined ? ["Expires", whenAndAgo(c.expires)] : null,
			c.scopes !== undefined && c.scopes !== "" ? ["Scopes", name(c.scopes)] : null,
			c.networks !== undefined ? ["Networks", c.networks.join(" ")] : null,
			["Hash", h("code", {}, e.hash)],
		];
		add(d.body, facts(...rows), commandBox(() => line(["audit", "show"])).root);
		d.open();
	};
	const table = new Table<Entry>({
		label: "Audit trail",
		noun: "entry",
		columns: [
			{ title: "Action", class: "c-name", cell: (e) => [button(e.change.actions.join(", "), () => open(e), { class: "link", "data-part": "open", "data-focus": `${idOf(e)} open` })] },
			{ title: "Of", class: "c-owner", cell: (e) => e.chain === undefined ? [what(e.change)] : [what(e.change), h("span", { class: "faint" }, ` · chain ${e.chain}`)] },
			{ title: "Actor", class: "c-actor", cell: (e) => [e.change.actor ? name(e.change.actor) : h("span", { class: "faint" }, "none")] },
			{ title: "When", class: "c-used", cell: (e) => [ago(e.change.time)] },
		],
		empty: () => nothing("The store has no audit trail. The command latchkey audit begin begins one."),
		changed: () => { head.count.textContent = ""; },
	});
	const result = h("div", { role: "status", class: "verdict" });
	const verify = async (): Promise<void> => {
		result.replaceChildren("Verifying…");
		try {
			const v = await call<Verdict>("POST", "/v1/audit/verify", { body: {} });
			result.replaceChildren();
			const heads = v.heads.join(" ");
			const whole = v.heads.length > 1 ? `The trail is whole, with ${v.heads.length} chains. Keep these heads elsewhere,` : `The trail is a whole chain up to entry ${heads.split(":")[0]}. Keep this head elsewhere,`;
			if (v.ok && heads === "") add(result, h("p", {}, "The store has no audit trail."));
			else if (v.ok) add(result, h("p", {}, `${whole} to show later that nothing was changed: `, h("code", {}, heads), " ", copyButton(() => heads)), commandBox(() => line(["audit", "verify"])).root);
			else add(result, h("p", { class: "failed" }, v.problem?.detail ?? v.problem?.title ?? "The trail is broken."));
		} catch (err) {
			result.replaceChildren((err as Error).message);
		}
	};
	const head = heading("Audit", button("Verify the chain", () => void verify()));
	// The API lists the oldest entry first, and here the newest one comes first. So each chain is read
	// by itself, from its end.
	const before = async (chain: string, number: number, limit: number, signal: AbortSignal, background: boolean): Promise<Entry[]> => {
		const after = Math.max(0, number - 1 - limit);
		const page = await call<AuditPage>("GET", "/v1/audit", { query: { chain, cursor: after === 0 ? undefined : inChain(chain, after), limit: String(limit) }, signal, background });
		return page.items.filter((e) => e.number < number).reverse();
	};
	const places = new Map<string, Place>(); // behind each entry that was read
	const older = async (at: Place, limit: number, signal: AbortSignal, background: boolean): Promise<Page<Entry>> => {
		const chains = await Promise.all(Object.entries(at).map(([chain, number]) => before(chain, number, limit, signal, background)));
		const longer = chains.some((entries) => entries.length === limit && entries.at(-1)!.number > 1);
		const items: Entry[] = [];
		while (items.length < limit) {
			let next: Entry[] = [];
			for (const entries of chains) if (entries.length > 0 && (next.length === 0 || later(entries[0]!, next[0]!))) next = entries;
			const e = next.shift();
			if (e === undefined) break;
			at = { ...at, [e.chain ?? ""]: e.number };
			places.set(idOf(e), at);
			items.push(e);
		}
		return longer || chains.some((entries) => entries.length > 0) ? { items, next: JSON.stringify(at) } : { items };
	};
	table.show({
		id: idOf,
		load: async (after, limit, signal, background) => {
			let at = after && places.get(idOf(after));
			if (at === undefined) {
				const first = await call<AuditPage>("GET", "/v1/audit", { query: { limit: "1" }, signal, background });
				at = Object.fromEntries(first.heads.map((head) => {
					const [, chain, number] = /^(?:(.*)\/)?(\d+):/.exec(head)!;
					return [chain ?? "", Number(number) + 1];
				}));
			}
			return older(at, limit, signal, background);
		},
		resume: (cursor, limit, signal) => older(JSON.parse(cursor) as Place, limit, signal, false),
	});
	return {
		root: h("div", { class: "view audit" }, head.root, h("p", { class: "lead" }, "Who changed what, the newest change first."), result, table.root),
		changed: () => table.stale(),
		close: () => table.close(),
	};
}
