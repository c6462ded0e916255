import { call, keyPath, Problem, userPath } from "./api.js";
import { button, h, name, say, visible } from "./dom.js";
import { ago, expiry, keyState, ownerTitle, storeNow, whose } from "./format.js";
import { KeyActions, KeyDetails } from "./keyactions.js";
import { Table } from "./table.js";
import { filter, heading, nothing, searchField } from "./view.js";
function looksLikeToken(text) {
    return /^[0-9A-Za-z]{1,16}_[0-9A-Za-z]{22,}$/.test(text) || text.length >= 60 && !/[\s@]/.test(text);
}
export function keysView(show) {
    let details = null;
    let text = "", asName = false;
    const actions = new KeyActions({
        put: (key) => {
            table.put(key);
            if (details?.id === key.id)
                details.put(key);
            table.stale();
        },
        removed: (id) => {
            table.remove(id);
            if (details?.id === id)
                details.close();
        },
    });
    const table = new Table({
        label: show.server ? "Server keys" : "Keys",
        noun: show.server ? "server key" : "key",
        columns: [
            { title: "Name", class: "c-name", cell: (k) => [button("", () => open(k), { class: "link", "data-part": "open", "data-focus": `${k.id} open` })].map((b) => (b.append(name(k.name)), b)) },
            { title: show.server ? "Group" : "Owner", class: "c-owner", cell: (k) => [show.server ? k.group === undefined ? h("span", { class: "faint" }, "none") : name(k.group) : k.owner === "server" ? h("span", { class: "faint" }, "server key") : name(ownerTitle(k))] },
            { title: "State", class: "c-state", cell: (k) => [keyState(k)] },
            { title: "Last used", class: "c-used", cell: (k) => [h("span", { class: "narrow" }, "used "), ago(k.last_used)] },
            { title: "Expires", class: "c-expires", cell: (k) => [h("span", { class: "narrow" }, expiry(k).classList.contains("badge") ? "" : "expires "), expiry(k)] },
            { title: "", class: "c-actions", cell: (k) => [k.disabled
                        ? button("Enable", () => actions.enable(k), { class: "small", "data-part": "state", "data-focus": `${k.id} state`, "aria-label": `Enable ${visible(k.name)}`, "aria-description": whose(k) })
                        : button("Disable", () => actions.disable(k), { class: "small", "data-part": "state", "data-focus": `${k.id} state`, "aria-label": `Disable ${visible(k.name)}`, "aria-description": whose(k) })] },
        ],
        empty: () => looksLikeToken(text) && !asName ? nothing("This looks like a token, and no key of the store has it.", "Search the names for it", () => { asName = true; load(); })
            : filtered() ? nothing("No key fits.", "Clear search and filters", clear)
                : nothing(show.server ? "There are no server keys. A server key authenticates a service." : "There are no keys yet.", show.server ? "New server key" : "New key", create),
        changed: () => { head.count.textContent = table.summary(); },
    });
    const create = () => {
        if (show.server)
            actions.create("server");
        else if (show.owner === undefined)
            actions.create(undefined);
        else
            call("GET", userPath(show.owner)).then((u) => actions.create(u), (err) => say(err.message));
    };
    const head = heading(show.server ? "Server keys" : "Keys", button(show.server ? "New server key" : "New key", create, { class: "primary" }));
    const search = searchField("Search keys", show.server ? "Name or ID" : "Name of the key, user, ID, or a token that was found", (t) => { text = t; asName = false; load(); });
    const state = filter("State", [["", "all"], ["enabled", "enabled"], ["disabled", "disabled"], ["expired", "expired"]], () => load());
    const expires = filter("Expires within", [["", "any time"], ["7", "7 days"], ["30", "30 days"], ["90", "90 days"]], () => load());
    const unused = filter("Unused for", [["", "any time"], ["30", "30 days"], ["90", "90 days"], ["365", "a year"]], () => load());
    const chips = h("div", { class: "chips" });
    const chip = (label, value) => {
        const b = button("", show.all, { class: "chip", "aria-label": `Remove the filter ${label} ${visible(value)}` });
        b.append(`${label} `, name(value), h("span", { "aria-hidden": "true" }, " ×"));
        chips.append(b);
    };
    if (show.group !== undefined)
        chip("Group:", show.group);
    if (show.owner !== undefined) {
        call("GET", userPath(show.owner)).then((u) => chip("User:", u.identities[0]?.subject || u.id), () => chip("User:", show.owner));
    }
    const filtered = () => text !== "" || [state, expires, unused].some((f) => f.select.value !== "") || show.owner !== undefined || show.group !== undefined;
    const clear = () => {
        search.input.value = text = "";
        for (const f of [state, expires, unused])
            f.select.value = "";
        if (show.owner !== undefined || show.group !== undefined)
            show.all();
        else
            load();
        search.input.focus();
    };
    const days = (n, sign) => n === "" ? undefined : new Date(storeNow() + sign * Number(n) * 86_400_000).toISOString();
    const source = () => {
        const query = {
            search: text || undefined, state: state.select.value || undefined, owner: show.server ? "server" : show.owner, group: show.group,
            expiring_before: days(expires.select.value, 1), unused_since: days(unused.select.value, -1),
        };
        const page = async (cursor, limit, signal, background) => {
            for (;;) {
                const list = await call("GET", "/v1/keys", { query: { ...query, cursor, limit: String(limit) }, signal, background });
                if (list.items.length > 0 || list.next === undefined)
                    return list;
                cursor = list.next;
            }
        };
        return { id: (k) => k.id, load: (after, limit, signal, background) => page(after?.id, limit, signal, background), resume: (cursor, limit, signal) => page(cursor, limit, signal, false) };
    };
    const byToken = (token) => {
        const load = async (signal) => {
            try {
                return { items: [(await call("POST", "/v1/find-token", { body: { token }, signal })).key] };
            }
            catch (err) {
                if (err instanceof Problem && err.kind === "token-unknown")
                    return { items: [] };
                throw err;
            }
        };
        return { id: (k) => k.id, load: (_after, _limit, signal) => load(signal), resume: (_cursor, _limit, signal) => load(signal) };
    };
    const load = () => {
        if (looksLikeToken(text) && !asName)
            table.show(byToken(text));
        else
            table.show(source());
    };
    const open = (key) => {
        show.mark(key.id);
        details = new KeyDetails(key, actions, show.showUser, () => { details = null; show.mark(""); });
    };
    load();
    return {
        root: h("div", { class: "view" }, head.root, h("div", { class: "toolbar" }, search.root, state.root, expires.root, unused.root), chips, table.root),
        changed: () => { table.stale(); void details?.changed(); },
        open: (id) => { call("GET", keyPath(id)).then(open, (err) => say(err.message)); },
        close: () => { table.close(); details?.close(); },
    };
}
