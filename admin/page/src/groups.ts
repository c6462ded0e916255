// The view Groups.

import { call, groupPath, type Group, type List } from "./api.js";
import { button, h, name, say, visible } from "./dom.js";
import { act } from "./dialog.js";
import { badge, line } from "./format.js";
import { Table } from "./table.js";
import { heading, nothing, searchField, type View } from "./view.js";

type Show = { showKeys: (group: string) => void; showUsers: (group: string) => void };

// cursorOf returns the cursor behind a group, which is its name in base64.
function cursorOf(group: Group): string {
	let text = "";
	for (const byte of new TextEncoder().encode(group.name)) text += String.fromCharCode(byte);
	return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export function groupsView(show: Show): View {
	const change = (group: Group, disable: boolean): void => {
		act({
			title: disable ? "Disable the group?" : "Enable the group?",
			content: [h("p", { class: "subject" }, h("strong", {}, name(group.name))), h("p", {}, disable
				? "None of the keys in the group logs in from now on, and neither do keys that come into the group later. You can enable the group again."
				: "The keys in the group log in again, except those that are disabled themselves or whose user is disabled.")],
			button: disable ? "Disable" : "Enable",
			danger: disable,
			command: () => line(["group", disable ? "disable" : "enable"], [group.name]),
			run: async () => {
				table.put(await call<Group>("PATCH", groupPath(group.name), { body: { disabled: disable }, ...(disable ? {} : { match: group.etag }) }));
				say(disable ? "The group is disabled." : "The group is enabled.");
			},
			changed: async () => {
				group = await call<Group>("GET", groupPath(group.name));
				table.put(group);
				return [h("div", { class: "changed" }, h("p", {}, `Somebody else has changed the group meanwhile, and nothing was done. It is ${group.disabled ? "disabled" : "enabled"} now.`))];
			},
		});
	};
	const table = new Table<Group>({
		label: "Groups",
		noun: "group",
		columns: [
			{ title: "Name", class: "c-name", cell: (g) => [button("", () => show.showKeys(g.name), { class: "link", "data-part": "open" })].map((b) => (b.append(name(g.name)), b)) },
			{ title: "State", class: "c-state", cell: (g) => [g.disabled ? badge("disabled", "off") : badge("enabled", "good")] },
			{ title: "", class: "c-actions", cell: (g) => [
				button("Keys", () => show.showKeys(g.name), { class: "small", "data-part": "keys", "data-focus": `${g.name} keys`, "aria-label": `Keys of ${visible(g.name)}` }),
				button("Users", () => show.showUsers(g.name), { class: "small", "data-part": "users", "data-focus": `${g.name} users`, "aria-label": `Users of ${visible(g.name)}` }),
				button(g.disabled ? "Enable" : "Disable", () => change(g, !g.disabled), { class: "small", "data-part": "state", "data-focus": `${g.name} state`, "aria-label": `${g.disabled ? "Enable" : "Disable"} ${visible(g.name)}` })] },
		],
		empty: () => text !== "" ? nothing("No group fits.") : nothing("There are no groups. A group is there as soon as a user or a server key is in it."),
		changed: () => { head.count.textContent = table.summary(); },
	});
	const head = heading("Groups");
	let text = "";
	const search = searchField("Search groups", "Name of the group", (t) => { text = t; load(); });
	const page = async (cursor: string | undefined, limit: number, signal: AbortSignal, background: boolean): Promise<List<Group>> => {
		for (;;) {
			const list = await call<List<Group>>("GET", "/v1/groups", { query: { cursor, limit: String(limit), search: text || undefined }, signal, background });
			if (list.items.length > 0 || list.next === undefined) return list;
			cursor = list.next;
		}
	};
	const load = (): void => table.show({ id: (g) => g.name, load: (after, limit, signal, background) => page(after && cursorOf(after), limit, signal, background), resume: (cursor, limit, signal) => page(cursor, limit, signal, false) });
	load();
	return {
		root: h("div", { class: "view groups" }, head.root, h("p", { class: "lead" }, "A group is a tenant, a site or a project. Disabling it stops all its keys at once."), h("div", { class: "toolbar" }, search.root), table.root),
		changed: () => table.stale(),
		close: () => table.close(),
	};
}
