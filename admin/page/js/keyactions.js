import { call, keyPath, Problem } from "./api.js";
import { add, button, h, name, newID, say, visible } from "./dom.js";
import { confirmedBy } from "./edges.js";
import { act, check, commandBox, Dialog, facts, field, input, Invalid, select, showToken } from "./dialog.js";
import { ago, badge, distance, expiry, identityWord, keyLine, keyState, line, ownerTitle, userTitle, userWord, when, whenAndAgo } from "./format.js";
import { Once } from "./view.js";
function label(key) {
    return h("p", { class: "subject" }, h("strong", {}, name(key.name)), key.owner === "server" ? ", a server key" : ", a key of ", key.owner !== "server" && name(ownerTitle(key)));
}
function uses(key) {
    return facts(["Last used", whenAndAgo(key.last_used)], ["Created", whenAndAgo(key.created)], ["State", keyState(key)], ["ID", h("code", {}, key.id)]);
}
function differences(before, after) {
    const rows = [];
    const look = (what, of) => { if (of(before) !== of(after))
        rows.push([what, of(before), of(after)]); };
    look("Name", (k) => k.name);
    look("State", (k) => k.disabled ? "disabled" : "enabled");
    look("Expires", (k) => k.expires ?? "never");
    look("Scopes", (k) => k.scopes.join(" ") || "none");
    look("Networks", (k) => k.networks.join(" ") || "everywhere");
    look("Group", (k) => k.group ?? "none");
    look("Tokens", (k) => k.tokens.map((t) => t.id).join(" "));
    look("Metadata", (k) => JSON.stringify(k.metadata));
    const list = h("ul", {});
    for (const [what, a, b] of rows) {
        if (what === "Tokens" || what === "Metadata")
            list.append(h("li", {}, what === "Tokens" ? "The key was rotated, and has another token." : "The metadata have changed."));
        else
            list.append(h("li", {}, `${what}: `, name(a), " → ", h("strong", {}, name(b))));
    }
    return [h("div", { class: "changed" }, h("p", {}, "Somebody else has changed the key meanwhile, and nothing was done. Look at it again, and repeat if you still want to."), rows.length > 0 && list)];
}
export class KeyActions {
    watcher;
    constructor(watcher) {
        this.watcher = watcher;
    }
    disable(key) {
        act({
            title: "Disable the key?",
            content: [label(key), uses(key), h("p", {}, "Its tokens are refused from the next login on. You can enable the key again.")],
            button: "Disable",
            danger: true,
            command: () => keyLine(key, ["key", "disable"]),
            run: async () => {
                this.watcher.put(await call("PATCH", keyPath(key.id), { body: { disabled: true } }));
                say("The key is disabled.");
            },
        });
    }
    enable(key) {
        const box = h("div", {}, uses(key));
        act({
            title: "Enable the key?",
            content: [label(key), box, h("p", {}, "Whoever has a token of the key can log in with it again. If somebody else may have the token, rotate the key as well.")],
            button: "Enable",
            command: () => keyLine(key, ["key", "enable"]),
            run: async () => {
                this.watcher.put(await call("PATCH", keyPath(key.id), { body: { disabled: false }, match: key.etag }));
                say("The key is enabled.");
            },
            changed: async () => {
                const before = key;
                key = await this.again(key);
                box.replaceChildren(uses(key));
                return differences(before, key);
            },
        });
    }
    remove(key) {
        const box = h("div", {}, uses(key));
        const sure = check("Delete it for good");
        act({
            title: "Delete the key?",
            content: [label(key), box, h("p", {}, "A deleted key never comes back. A disabled key does no harm, so there is no need to delete it."), sure.root],
            button: "Delete",
            danger: true,
            command: () => keyLine(key, ["key", "delete", "--yes"]),
            run: async () => {
                if (!sure.box.checked)
                    throw new Invalid(sure.box, "Tick the box first.");
                await call("DELETE", keyPath(key.id), { match: key.etag });
                this.watcher.removed(key.id);
                say("The key is deleted.");
            },
            changed: async () => {
                const before = key;
                key = await this.again(key);
                box.replaceChildren(uses(key));
                if (!key.disabled)
                    sure.box.checked = false;
                return differences(before, key);
            },
        });
    }
    rotate(key) {
        const overlap = select([["0", "None: it ends now"], ["3600", "1 hour"], ["86400", "1 day"], ["604800", "7 days"], ["2592000", "30 days"]], "86400");
        const untilUsed = check("End it at the first login with the new token");
        const box = h("div", {}, tokenTable(key));
        const look = () => { untilUsed.box.disabled = overlap.value === "0"; };
        overlap.addEventListener("change", look);
        const words = { "3600": "1h", "86400": "24h", "604800": "7d", "2592000": "30d" };
        const until = () => untilUsed.box.checked && overlap.value !== "0";
        act({
            title: "Rotate the key?",
            content: [label(key), box,
                h("p", {}, "The key gets a new token, which you see once. A key has at most two good tokens: a third one ends the oldest."),
                field("How long the present token stays good", overlap, "If somebody else may have the token, choose none."), untilUsed.root],
            button: "Rotate",
            first: overlap,
            command: () => keyLine(key, ["key", "rotate", ...(overlap.value === "0" ? [] : ["--overlap", words[overlap.value]]), ...(until() ? ["--until-used"] : [])]),
            run: async () => {
                const seconds = Number(overlap.value);
                const answer = await call("POST", `${keyPath(key.id)}/rotate`, {
                    match: key.etag, body: { ...(seconds > 0 ? { overlap_seconds: seconds } : {}), ...(until() ? { until_used: true } : {}) },
                });
                this.watcher.put(answer.key);
                const old = answer.key.tokens.find((t) => t.ends !== undefined);
                const note = old?.ends === undefined ? "The old token has ended." : `The old token is good until ${new Date(old.ends).toLocaleString()}${until() ? ", or until the new one logs in" : ""}.`;
                setTimeout(() => showToken(answer.key.id, answer.key.name, answer.token ?? "", [h("p", {}, note)], () => { }));
            },
            changed: async () => {
                const before = key;
                key = await this.again(key);
                box.replaceChildren(tokenTable(key));
                return differences(before, key);
            },
        });
    }
    edit(key) {
        const fields = new KeyFields(key.owner === "server", key);
        const initial = JSON.stringify(fields.values());
        const first = fields.values();
        act({
            title: "Edit the key",
            content: [label(key), fields.root],
            button: "Save",
            first: fields.name,
            command: () => this.editCommand(key, first, fields),
            run: async () => {
                const now = fields.values(), body = {};
                if (JSON.stringify(now) !== initial) {
                    if (now.name !== first.name)
                        body["name"] = now.name;
                    if (now.expires !== first.expires)
                        body["expires"] = now.expires ?? null;
                    if (now.scopes.join(" ") !== first.scopes.join(" "))
                        body["scopes"] = now.scopes;
                    if (now.networks.join(" ") !== first.networks.join(" "))
                        body["networks"] = now.networks;
                    if (now.group !== first.group)
                        body["group"] = now.group ?? "";
                }
                if (Object.keys(body).length === 0)
                    return;
                this.watcher.put(await call("PATCH", keyPath(key.id), { body, match: key.etag }));
                say("The key is changed.");
            },
            changed: async () => {
                const before = key;
                key = await this.again(key);
                return differences(before, key);
            },
        });
    }
    editCommand(key, first, fields) {
        const now = fields.values(true), flags = [];
        if (now.expires !== first.expires)
            flags.push("--expires", now.expires ?? "never");
        if (now.scopes.join(" ") !== first.scopes.join(" "))
            flags.push("--scopes", now.scopes.join(" "));
        if (now.networks.join(" ") !== first.networks.join(" "))
            flags.push("--networks", now.networks.join(" "));
        if (now.group !== first.group)
            flags.push("--group", now.group ?? "");
        const lines = [];
        if (flags.length > 0)
            lines.push(keyLine(key, ["key", "set", ...flags]));
        if (now.name !== first.name)
            lines.push(keyLine(key, ["key", "rename"], now.name));
        return lines.join("\n") || keyLine(key, ["key", "show"]);
    }
    create(owner) {
        const fields = new KeyFields(owner === "server");
        const once = new Once();
        let user = owner === "server" ? undefined : owner;
        const who = input(user ? userTitle(user) : "", { type: "search", placeholder: "ada@example.com", readonly: user !== undefined });
        const whoID = () => user ? userWord(user) : who.value.trim() || "USER";
        const content = [owner !== "server" && field("User", who, user ? null : "The identity or the ID of a user who exists."), fields.root];
        if (owner === undefined)
            content.push(propose(who));
        act({
            title: owner === "server" ? "New server key" : "New key",
            content,
            button: "Create",
            first: owner === undefined ? who : fields.name,
            command: () => {
                const v = fields.values(true), flags = [];
                if (v.expires !== undefined)
                    flags.push("--expires", v.expires);
                if (v.scopes.length > 0)
                    flags.push("--scopes", v.scopes.join(" "));
                if (v.networks.length > 0)
                    flags.push("--networks", v.networks.join(" "));
                if (v.group !== undefined)
                    flags.push("--group", v.group);
                if (owner === "server")
                    return line(["key", "create", ...flags, "--server"], [v.name || "NAME"]);
                return line(["key", "create", ...flags], [whoID(), v.name || "NAME"]);
            },
            run: async () => {
                const body = fields.body();
                if (owner === undefined)
                    user = await findUser(who);
                const path = owner === "server" ? "/v1/server-keys" : `/v1/users/${user.id}/keys`;
                const answer = await call("POST", path, { body, idempotency: once.of([path, body]) });
                this.watcher.put(answer.key);
                setTimeout(() => {
                    if (answer.token !== undefined)
                        showToken(answer.key.id, answer.key.name, answer.token, [], () => say("The key is created."));
                    else
                        this.lost(answer.key);
                });
            },
        });
    }
    lost(key) {
        const d = new Dialog("The token is lost");
        add(d.body, label(key), h("p", {}, "The key was made by an earlier attempt whose answer was lost on the way, and its token with it. Rotate the key to get another token."));
        d.foot.append(button("Rotate", () => { d.close(); this.rotate(key); }, { class: "primary" }));
        d.open();
    }
    async again(key) {
        const now = await call("GET", keyPath(key.id));
        this.watcher.put(now);
        return now;
    }
}
function propose(who) {
    const list = h("datalist", { id: newID() });
    who.setAttribute("list", list.id);
    let timer = 0;
    who.addEventListener("input", () => {
        clearTimeout(timer);
        const text = who.value.trim();
        if (text.length < 2)
            return;
        timer = setTimeout(async () => {
            try {
                const users = (await call("GET", "/v1/users", { query: { search: text, limit: "8" } })).items;
                if (text === who.value.trim())
                    list.replaceChildren(...users.map((u) => h("option", { value: userWord(u) })));
            }
            catch { }
        }, 200);
    });
    return list;
}
export async function findUser(who) {
    const text = who.value.trim();
    if (text === "")
        throw new Invalid(who, "Say whose key it is.");
    if (/^[0-9a-f-]{36}$/.test(text))
        return call("GET", `/v1/users/${text}`);
    const colon = text.indexOf(":");
    const query = colon < 0 ? { provider: "local-userpass", subject: text } : { provider: text.slice(0, colon), subject: text.slice(colon + 1) };
    const list = await call("GET", "/v1/users", { query });
    if (list.items[0])
        return list.items[0];
    const similar = (await call("GET", "/v1/users", { query: { search: text, limit: "10" } })).items;
    const exact = similar.filter((u) => u.identities.some((i) => i.subject === text));
    if (exact.length === 1)
        return exact[0];
    const proposals = similar.slice(0, 3).map((u) => u.identities.map(identityWord).join(", ")).join("; ");
    throw new Invalid(who, proposals ? `There is no user with exactly this identity. Similar: ${proposals}` : "There is no such user.");
}
class KeyFields {
    server;
    key;
    root;
    name;
    expires;
    date;
    scopes;
    networks;
    group;
    constructor(server, key) {
        this.server = server;
        this.key = key;
        this.name = input(key?.name ?? "", { maxlength: "256", placeholder: server ? "backup-job" : "laptop", required: true });
        const choices = [["", "Never"], ["7", "In 7 days"], ["30", "In 30 days"], ["90", "In 90 days"], ["365", "In a year"], ["date", "At a time…"]];
        if (key?.expires !== undefined)
            choices.unshift(["keep", `As now: ${distance(Date.parse(key.expires))}`]);
        this.expires = select(choices, key?.expires !== undefined ? "keep" : "");
        this.date = h("input", { type: "datetime-local", hidden: true, "aria-label": "Time of expiry" });
        this.expires.addEventListener("change", () => {
            this.date.hidden = this.expires.value !== "date";
            if (!this.date.hidden)
                this.date.focus();
        });
        this.scopes = input(key?.scopes.join(" ") ?? "", { placeholder: "files:read mail:*" });
        this.networks = input(key?.networks.join(" ") ?? "", { placeholder: "192.0.2.0/24 2001:db8::/32" });
        this.group = input(key?.group ?? "", {});
        this.root = h("div", { class: "fields" }, field("Name", this.name), h("div", { class: "field" }, field("Expires", this.expires), this.date), field("Scopes", this.scopes, "What the key permits, with blanks between them. A key without scopes logs in and is permitted nothing."), field("Networks", this.networks, "Where the key may be used from, with blanks between them. Empty for everywhere."), server && field("Group", this.group, "The tenant, site or project. It may be empty."));
    }
    values(show = false) {
        const group = this.group.value.trim();
        return {
            name: this.name.value.trim(), expires: this.time(show), scopes: this.scopes.value.split(/\s+/).filter(Boolean),
            networks: this.networks.value.split(/[\s,]+/).filter(Boolean).map((n) => n.includes("/") ? n : `${n}/${n.includes(":") ? 128 : 32}`),
            group: this.server && group !== "" ? group : undefined,
        };
    }
    time(show) {
        switch (this.expires.value) {
            case "": return undefined;
            case "keep": return this.key.expires;
            case "date": {
                const at = Date.parse(this.date.value);
                if (Number.isNaN(at)) {
                    if (show)
                        return undefined;
                    throw new Invalid(this.date, "Give the date and the time at which the key expires.");
                }
                return toSecond(at);
            }
        }
        const now = Math.floor(Date.now() / 60_000) * 60_000;
        return toSecond(now + Number(this.expires.value) * 86_400_000);
    }
    body() {
        const v = this.values();
        if (v.name === "")
            throw new Invalid(this.name, "Give the key a name.");
        return {
            name: v.name, ...(v.expires === undefined ? {} : { expires: v.expires }), ...(v.scopes.length > 0 ? { scopes: v.scopes } : {}),
            ...(v.networks.length > 0 ? { networks: v.networks } : {}), ...(v.group === undefined ? {} : { group: v.group }),
        };
    }
}
function toSecond(at) {
    return new Date(at).toISOString().replace(/\.\d+Z$/, "Z");
}
export function tokenTable(key) {
    const body = h("tbody", {});
    key.tokens.forEach((t, i) => {
        const only = key.tokens.length === 1;
        body.append(h("tr", {}, h("th", { scope: "row" }, only ? "Present" : i === key.tokens.length - 1 ? "New" : "Old", " ", h("code", { class: "faint" }, t.id), t.foreign && badge("made elsewhere", "off")), h("td", {}, t.ends === undefined ? "no end" : when(t.ends)), h("td", {}, t.last_used !== undefined || !only ? ago(t.last_used, "never") : ago(key.last_used))));
    });
    return h("table", { class: "small" }, h("caption", { class: "hidden" }, "Tokens"), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Token"), h("th", { scope: "col" }, "Good until"), h("th", { scope: "col" }, "Last used"))), body);
}
export class KeyDetails {
    key;
    actions;
    showUser;
    dialog;
    box = h("div", {});
    constructor(key, actions, showUser, closed) {
        this.key = key;
        this.actions = actions;
        this.showUser = showUser;
        this.dialog = new Dialog("Key", "sheet");
        this.dialog.body.append(this.box);
        this.dialog.closed = closed;
        this.draw();
        this.dialog.open();
    }
    get id() {
        return this.key.id;
    }
    put(key) {
        this.key = key;
        this.draw();
    }
    close() {
        this.dialog.close();
    }
    async changed() {
        try {
            const key = await call("GET", keyPath(this.key.id), { background: true });
            if (key.etag !== this.key.etag || key.last_used !== this.key.last_used || key.stopped !== this.key.stopped)
                this.put(key);
        }
        catch (err) {
            if (err instanceof Problem && err.kind === "key-not-found") {
                this.close();
                say("The key that you were looking at was deleted.");
            }
        }
    }
    draw() {
        const k = this.key, a = this.actions;
        const active = document.activeElement?.getAttribute("data-focus");
        const metadata = Object.entries(k.metadata);
        const tools = h("div", { class: "tools" }, k.disabled ? button("Enable", () => a.enable(k), { "data-focus": "d-state", class: "primary" }) : button("Disable", () => a.disable(k), { "data-focus": "d-state", class: "danger" }), button("Rotate", () => a.rotate(k), { "data-focus": "d-rotate" }), button("Edit", () => a.edit(k), { "data-focus": "d-edit" }), button("Delete", () => k.disabled ? a.remove(k) : say("Disable the key first. Delete it when nobody misses it."), { "data-focus": "d-delete", "aria-disabled": k.disabled ? false : "true", "aria-describedby": k.disabled ? false : "why-not" }));
        const command = commandBox(() => keyLine(k, ["key", "show"]));
        const edges = confirmedBy(keyPath(k.id));
        const owner = k.owner === "server" ? h("span", {}, "none: it is a server key") : button("", () => { this.close(); this.showUser(k.owner); }, { class: "link" });
        if (k.owner !== "server")
            owner.append(name(ownerTitle(k)));
        this.box.replaceChildren();
        add(this.box, h("p", { class: "title" }, name(k.name), " ", keyState(k)), tools, !k.disabled && h("p", { class: "hint", id: "why-not" }, "Only a disabled key can be deleted."), facts(["Owner", owner], ["Last used", whenAndAgo(k.last_used)], ["Expires", k.expires === undefined ? "never" : h("span", {}, whenAndAgo(k.expires), " ", expiry(k).classList.contains("badge") && expiry(k))], ["Scopes", k.scopes.length === 0 ? "none: it is permitted nothing" : words(k.scopes)], ["Networks", k.networks.length === 0 ? "everywhere" : words(k.networks)], k.group !== undefined ? ["Group", name(k.group)] : null, ["Created", whenAndAgo(k.created)], edges !== null ? ["Last change", edges] : null, ["ID", h("code", {}, k.id)], ...metadata.map(([n, v]) => [`metadata: ${visible(n)}`, name(v)])), h("h3", {}, "Tokens"), tokenTable(k), command.root);
        if (active)
            this.box.querySelector(`[data-focus="${active}"]`)?.focus();
    }
}
function words(all) {
    const box = h("span", { class: "words" });
    for (const w of all)
        box.append(h("code", { class: "word" }, name(w)));
    return box;
}
