import { call } from "./api.js";
import { add, button, copyButton, h, name } from "./dom.js";
import { commandBox, Dialog, facts } from "./dialog.js";
import { ago, line, whenAndAgo } from "./format.js";
import { Table } from "./table.js";
import { heading, nothing } from "./view.js";
function what(c) {
    if (c.key !== undefined)
        return h("span", {}, "key ", name(c.name || c.key));
    if (c.user !== undefined)
        return h("span", {}, "user ", name(c.user));
    if (c.group !== undefined)
        return h("span", {}, "group ", name(c.group));
    return h("span", {}, c.name === undefined ? "the store" : name(c.name));
}
export function auditView(show) {
    const open = (e) => {
        const d = new Dialog(`Entry ${e.number}`, "sheet"), c = e.change;
        const jump = (label, run) => button(label, () => { d.close(); run(); }, { class: "link" });
        const rows = [
            ["Actions", c.actions.join(", ")], ["Time", whenAndAgo(c.time)], ["Actor", c.actor ? name(c.actor) : "none"],
            c.key !== undefined ? ["Key", jump(c.key, () => show.showKey(c.key))] : null,
            c.name !== undefined ? ["Name", name(c.name)] : null,
            c.owner !== undefined && c.owner !== "ffffffff-ffff-ffff-ffff-ffffffffffff" && c.owner !== "server" ? ["Owner", jump(c.owner, () => show.showUser(c.owner))] : null,
            c.user !== undefined ? ["User", jump(c.user, () => show.showUser(c.user))] : null,
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
    const table = new Table({
        label: "Audit trail",
        noun: "entry",
        columns: [
            { title: "Action", class: "c-name", cell: (e) => [button(e.change.actions.join(", "), () => open(e), { class: "link", "data-part": "open", "data-focus": `${e.number} open` })] },
            { title: "Of", class: "c-owner", cell: (e) => [what(e.change)] },
            { title: "Actor", class: "c-actor", cell: (e) => [e.change.actor ? name(e.change.actor) : h("span", { class: "faint" }, "none")] },
            { title: "When", class: "c-used", cell: (e) => [ago(e.change.time)] },
        ],
        empty: () => nothing("The store has no audit trail. The command latchkey audit begin begins one."),
        changed: () => { head.count.textContent = ""; },
    });
    const result = h("div", { role: "status", class: "verdict" });
    const verify = async () => {
        result.replaceChildren("Verifying…");
        try {
            const v = await call("POST", "/v1/audit/verify", { body: {} });
            result.replaceChildren();
            if (v.ok)
                add(result, h("p", {}, `The trail is a whole chain up to entry ${parseInt(v.head, 10)}. Keep this head elsewhere, to show later that nothing was changed: `, h("code", {}, v.head), " ", copyButton(() => v.head)), commandBox(() => line(["audit", "verify"])).root);
            else
                add(result, h("p", { class: "failed" }, v.problem?.detail ?? v.problem?.title ?? "The trail is broken."));
        }
        catch (err) {
            result.replaceChildren(err.message);
        }
    };
    const head = heading("Audit", button("Verify the chain", () => void verify()));
    const before = async (number, limit, signal, background) => {
        const after = Math.max(0, number - 1 - limit);
        const page = await call("GET", "/v1/audit", { query: { cursor: after === 0 ? undefined : String(after), limit: String(limit) }, signal, background });
        const items = page.items.filter((e) => e.number < number).reverse();
        return after === 0 || items.length < Math.min(limit, number - 1 - after) ? { items } : { items, next: String(items.at(-1).number) };
    };
    table.show({
        id: (e) => String(e.number),
        load: async (after, limit, signal, background) => {
            if (after)
                return before(after.number, limit, signal, background);
            const first = await call("GET", "/v1/audit", { query: { limit: "1" }, signal, background });
            return first.items.length === 0 ? { items: [] } : before(parseInt(first.head, 10) + 1, limit, signal, background);
        },
        resume: (cursor, limit, signal) => before(Number(cursor), limit, signal, false),
    });
    return {
        root: h("div", { class: "view audit" }, head.root, h("p", { class: "lead" }, "Who changed what, the newest change first."), result, table.root),
        changed: () => table.stale(),
        close: () => table.close(),
    };
}
