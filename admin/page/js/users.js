import { call, Problem, userPath } from "./api.js";
import { add, button, h, name, say, visible } from "./dom.js";
import { act, check, commandBox, Dialog, facts, field, input, Invalid, select } from "./dialog.js";
import { ago, badge, identityWord, line, userTitle, userWord, whenAndAgo } from "./format.js";
import { KeyActions } from "./keyactions.js";
import { Table } from "./table.js";
import { filter, heading, nothing, Once, searchField } from "./view.js";
const providers = [
    ["local-userpass", "e-mail address (local-userpass)"], ["custom-token", "custom-token"], ["custom-function", "custom-function"],
    ["oauth2-google", "oauth2-google"], ["oauth2-facebook", "oauth2-facebook"], ["oauth2-apple", "oauth2-apple"], ["api-key", "api-key"], ["anon-user", "anonymous (anon-user)"],
];
function userState(u) {
    return u.disabled ? badge("disabled", "off") : badge("enabled", "good");
}
function label(u) {
    return h("p", { class: "subject" }, h("strong", {}, name(userTitle(u))));
}
function differences(before, after) {
    const rows = [];
    if (before.disabled !== after.disabled)
        rows.push(after.disabled ? "The user is disabled now." : "The user is enabled now.");
    if (before.group !== after.group)
        rows.push(`Group: ${visible(before.group ?? "none")} → ${visible(after.group ?? "none")}`);
    if (userTitle(before) !== userTitle(after))
        rows.push(`Identities: ${visible(userTitle(before))} → ${visible(userTitle(after))}`);
    if (JSON.stringify(before.metadata) !== JSON.stringify(after.metadata))
        rows.push("The metadata have changed.");
    return [h("div", { class: "changed" }, h("p", {}, "Somebody else has changed the user meanwhile, and nothing was done. Look again, and repeat if you still want to."), h("ul", {}, ...rows.map((r) => h("li", {}, r))))];
}
function identityFields() {
    const provider = select(providers, "local-userpass");
    const subject = input("", { maxlength: "256", placeholder: "ada@example.com" });
    const box = field("Subject", subject, "Who the provider says it is: an e-mail address, or an ID of the provider.");
    provider.addEventListener("change", () => { box.hidden = provider.value === "anon-user"; });
    return {
        root: h("div", { class: "fields" }, field("Provider", provider), box), subject,
        value: () => ({ provider: provider.value, subject: provider.value === "anon-user" ? "" : subject.value.trim() }),
    };
}
class UserActions {
    watcher;
    constructor(watcher) {
        this.watcher = watcher;
    }
    async again(u) {
        const now = await call("GET", userPath(u.id));
        this.watcher.put(now);
        return now;
    }
    create() {
        const f = identityFields(), once = new Once();
        const group = input("");
        act({
            title: "New user",
            content: [f.root, field("Group", group, "The tenant, site or project. It may be empty.")],
            button: "Create",
            first: f.subject,
            command: () => {
                const i = f.value(), flags = group.value.trim() === "" ? [] : ["--group", group.value.trim()];
                if (i.provider === "anon-user")
                    return line(["user", "add", ...flags, "--anonymous"]);
                return line(["user", "add", ...flags], [i.subject === "" ? "IDENTITY" : identityWord(i)]);
            },
            run: async () => {
                const identity = f.value();
                if (identity.provider !== "anon-user" && identity.subject === "")
                    throw new Invalid(f.subject, "Give the subject.");
                const body = { identity, ...(group.value.trim() === "" ? {} : { group: group.value.trim() }) };
                const user = await call("POST", "/v1/users", { body, idempotency: once.of(body) });
                this.watcher.put(user);
                say("The user is created.");
            },
        });
    }
    disable(u) {
        act({
            title: "Disable the user?", content: [label(u), h("p", {}, "None of the user's keys logs in from now on. You can enable the user again.")], button: "Disable", danger: true,
            command: () => line(["user", "disable"], [userWord(u)]),
            run: async () => {
                this.watcher.put(await call("PATCH", userPath(u.id), { body: { disabled: true } }));
                say("The user is disabled.");
            },
        });
    }
    enable(u) {
        act({
            title: "Enable the user?", content: [label(u), h("p", {}, "The user's keys log in again, except those that are disabled themselves.")], button: "Enable",
            command: () => line(["user", "enable"], [userWord(u)]),
            run: async () => {
                this.watcher.put(await call("PATCH", userPath(u.id), { body: { disabled: false }, match: u.etag }));
                say("The user is enabled.");
            },
            changed: async () => { const before = u; u = await this.again(u); return differences(before, u); },
        });
    }
    remove(u) {
        const sure = check("Delete the user and all keys of the user for good");
        act({
            title: "Delete the user?", content: [label(u), h("p", {}, "A deleted user never comes back, and neither do the user's keys."), sure.root], button: "Delete", danger: true,
            command: () => line(["user", "delete", "--yes"], [userWord(u)]),
            run: async () => {
                if (!sure.box.checked)
                    throw new Invalid(sure.box, "Tick the box first.");
                await call("DELETE", userPath(u.id), { match: u.etag });
                this.watcher.removed(u.id);
                say("The user is deleted.");
            },
            changed: async () => { const before = u; u = await this.again(u); return differences(before, u); },
        });
    }
    group(u) {
        const group = input(u.group ?? "", { maxlength: "256" });
        act({
            title: "Move the user to a group", content: [label(u), field("Group", group, "The user's keys belong to the group, too. Empty for none.")], button: "Save", first: group,
            command: () => line(["user", "set", "--group", group.value.trim()], [userWord(u)]),
            run: async () => {
                this.watcher.put(await call("PATCH", userPath(u.id), { body: { group: group.value.trim() }, match: u.etag }));
                say("The user is changed.");
            },
            changed: async () => { const before = u; u = await this.again(u); return differences(before, u); },
        });
    }
    link(u) {
        const f = identityFields();
        act({
            title: "Link an identity", content: [label(u), f.root], button: "Link", first: f.subject,
            command: () => line(["user", "link"], [userWord(u), f.value().subject === "" ? "IDENTITY" : identityWord(f.value())]),
            run: async () => {
                const identity = f.value();
                if (identity.subject === "")
                    throw new Invalid(f.subject, "Give the subject.");
                this.watcher.put(await call("POST", `${userPath(u.id)}/identities`, { body: identity }));
                say("The identity is linked.");
            },
        });
    }
    unlink(u, i) {
        act({
            title: "Unlink the identity?", content: [label(u), h("p", {}, "The user is no longer known as ", h("strong", {}, name(identityWord(i))), ". Another user can then get this identity.")], button: "Unlink", danger: true,
            command: () => line(["user", "unlink"], [userWord(u), identityWord(i)]),
            run: async () => {
                this.watcher.put(await call("DELETE", `${userPath(u.id)}/identities`, { query: { provider: i.provider, subject: i.subject } }));
                say("The identity is unlinked.");
            },
        });
    }
}
class UserDetails {
    user;
    actions;
    showKeys;
    dialog;
    box = h("div", {});
    keys = new KeyActions({ put: () => { }, removed: () => { } });
    constructor(user, actions, showKeys, closed) {
        this.user = user;
        this.actions = actions;
        this.showKeys = showKeys;
        this.dialog = new Dialog("User", "sheet");
        this.dialog.body.append(this.box);
        this.dialog.closed = closed;
        this.draw();
        this.dialog.open();
    }
    get id() {
        return this.user.id;
    }
    put(user) {
        this.user = user;
        this.draw();
    }
    close() {
        this.dialog.close();
    }
    async changed() {
        try {
            const user = await call("GET", userPath(this.user.id), { background: true });
            if (user.etag !== this.user.etag)
                this.put(user);
        }
        catch (err) {
            if (err instanceof Problem && err.kind === "user-not-found") {
                this.close();
                say("The user that you were looking at was deleted.");
            }
        }
    }
    draw() {
        const u = this.user, a = this.actions;
        const active = document.activeElement?.getAttribute("data-focus");
        const tools = h("div", { class: "tools" }, button("Keys of the user", () => { this.close(); this.showKeys(u.id); }, { "data-focus": "u-keys", class: "primary" }), button("New key", () => this.keys.create(u), { "data-focus": "u-new" }), u.disabled ? button("Enable", () => a.enable(u), { "data-focus": "u-state" }) : button("Disable", () => a.disable(u), { "data-focus": "u-state", class: "danger" }), button("Group", () => a.group(u), { "data-focus": "u-group" }), button("Link identity", () => a.link(u), { "data-focus": "u-link" }), button("Delete", () => u.disabled ? a.remove(u) : say("Disable the user first."), { "data-focus": "u-delete", "aria-disabled": u.disabled ? false : "true" }));
        const identities = h("ul", { class: "identities" });
        for (const i of u.identities) {
            identities.append(h("li", {}, name(i.subject || "(anonymous)"), " ", h("span", { class: "faint" }, i.provider), u.identities.length > 1 && button("Unlink", () => a.unlink(u, i), { class: "small quiet", "aria-label": `Unlink ${visible(i.subject)}` })));
        }
        this.box.replaceChildren();
        add(this.box, h("p", { class: "title" }, name(userTitle(u)), " ", userState(u)), tools, !u.disabled && h("p", { class: "hint" }, "Only a disabled user can be deleted."), facts(["Identities", identities], ["Group", u.group === undefined ? "none" : name(u.group)], ["Created", whenAndAgo(u.created)], ["ID", h("code", {}, u.id)], ...Object.entries(u.metadata ?? {}).map(([n, v]) => [`metadata: ${visible(n)}`, name(v)])), commandBox(() => line(["user", "show"], [userWord(u)])).root);
        if (active)
            this.box.querySelector(`[data-focus="${active}"]`)?.focus();
    }
}
export function usersView(show) {
    let details = null;
    let text = "";
    const actions = new UserActions({
        put: (user) => {
            table.put(user);
            if (details?.id === user.id)
                details.put(user);
            table.stale();
        },
        removed: (id) => {
            table.remove(id);
            if (details?.id === id)
                details.close();
        },
    });
    const table = new Table({
        label: "Users",
        noun: "user",
        columns: [
            { title: "Identity", class: "c-name", cell: (u) => [button("", () => open(u), { class: "link", "data-part": "open", "data-focus": `${u.id} open` })].map((b) => (b.append(name(userTitle(u))), b)) },
            { title: "Group", class: "c-owner", cell: (u) => [u.group === undefined ? h("span", { class: "faint" }, "none") : name(u.group)] },
            { title: "State", class: "c-state", cell: (u) => [userState(u)] },
            { title: "Created", class: "c-used", cell: (u) => [h("span", { class: "narrow" }, "created "), ago(u.created)] },
            { title: "", class: "c-actions", cell: (u) => [button("Keys", () => show.showKeys(u.id), { class: "small", "data-part": "keys", "data-focus": `${u.id} keys`, "aria-label": `Keys of ${visible(userTitle(u))}` })] },
        ],
        empty: () => text !== "" || state.select.value !== "" || show.group !== undefined ? nothing("No user fits.", "Clear search and filters", clear) : nothing("There are no users yet.", "New user", () => actions.create()),
        changed: () => { head.count.textContent = table.summary(); },
    });
    const head = heading("Users", button("New user", () => actions.create(), { class: "primary" }));
    const search = searchField("Search users", "E-mail address, subject or ID", (t) => { text = t; load(); });
    const state = filter("State", [["", "all"], ["false", "enabled"], ["true", "disabled"]], () => load());
    const chips = h("div", { class: "chips" });
    if (show.group !== undefined) {
        const b = button("", show.all, { class: "chip", "aria-label": `Remove the filter Group: ${visible(show.group)}` });
        b.append("Group: ", name(show.group), h("span", { "aria-hidden": "true" }, " ×"));
        chips.append(b);
    }
    const clear = () => {
        search.input.value = text = state.select.value = "";
        if (show.group !== undefined)
            show.all();
        else
            load();
        search.input.focus();
    };
    const load = () => {
        const query = { search: text || undefined, disabled: state.select.value || undefined, group: show.group };
        const page = async (cursor, limit, signal, background) => {
            for (;;) {
                const list = await call("GET", "/v1/users", { query: { ...query, cursor, limit: String(limit) }, signal, background });
                if (list.items.length > 0 || list.next === undefined)
                    return list;
                cursor = list.next;
            }
        };
        const source = { id: (u) => u.id, load: (after, limit, signal, background) => page(after?.id, limit, signal, background), resume: (cursor, limit, signal) => page(cursor, limit, signal, false) };
        table.show(source);
    };
    const open = (user) => {
        show.mark(user.id);
        details = new UserDetails(user, actions, show.showKeys, () => { details = null; show.mark(""); });
    };
    load();
    return {
        root: h("div", { class: "view five" }, head.root, h("div", { class: "toolbar" }, search.root, state.root), chips, table.root),
        changed: () => { table.stale(); void details?.changed(); },
        open: (id) => { call("GET", userPath(id)).then(open, (err) => say(err.message)); },
        close: () => { table.close(); details?.close(); },
    };
}
