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
function inChain(chain, number) {
    return chain === "" ? String(number) : `${chain}/${number}`;
}
const idOf = (e) => inChain(e.chain ?? "", e.number);
function later(a, b) {
    const between = Date.parse(a.change.time) - Date.parse(b.change.time);
    return between > 0 || between === 0 && (a.chain ?? "") > (b.chain ?? "");
}
export function auditView(show) {
    const open = (e) => {
        const d = new Dialog(`Entry ${idOf(e)}`, "sheet"), c = e.change;
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
            { title: "Action", class: "c-name", cell: (e) => [button(e.change.actions.join(", "), () => open(e), { class: "link", "data-part": "open", "data-focus": `${idOf(e)} open` })] },
            { title: "Of", class: "c-owner", cell: (e) => e.chain === undefined ? [what(e.change)] : [what(e.change), h("span", { class: "faint" }, ` · chain ${e.chain}`)] },
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
            const heads = v.heads.join(" ");
            const whole = v.heads.length > 1 ? `The trail is whole, with ${v.heads.length} chains. Keep these heads elsewhere,` : `The trail is a whole chain up to entry ${heads.split(":")[0]}. Keep this head elsewhere,`;
            if (v.ok && heads === "")
                add(result, h("p", {}, "The store has no audit trail."));
            else if (v.ok)
                add(result, h("p", {}, `${whole} to show later that nothing was changed: `, h("code", {}, heads), " ", copyButton(() => heads)), commandBox(() => line(["audit", "verify"])).root);
            else
                add(result, h("p", { class: "failed" }, v.problem?.detail ?? v.problem?.title ?? "The trail is broken."));
        }
        catch (err) {
            result.replaceChildren(err.message);
        }
    };
    const head = heading("Audit", button("Verify the chain", () => void verify()));
    const before = async (chain, number, limit, signal, background) => {
        const after = Math.max(0, number - 1 - limit);
        const page = await call("GET", "/v1/audit", { query: { chain, cursor: after === 0 ? undefined : inChain(chain, after), limit: String(limit) }, signal, background });
        return page.items.filter((e) => e.number < number).reverse();
    };
    const places = new Map();
    const older = async (at, limit, signal, background) => {
        const chains = await Promise.all(Object.entries(at).map(([chain, number]) => before(chain, number, limit, signal, background)));
        const longer = chains.some((entries) => entries.length === limit && entries.at(-1).number > 1);
        const items = [];
        while (items.length < limit) {
            let next = [];
            for (const entries of chains)
                if (entries.length > 0 && (next.length === 0 || later(entries[0], next[0])))
                    next = entries;
            const e = next.shift();
            if (e === undefined)
                break;
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
                const first = await call("GET", "/v1/audit", { query: { limit: "1" }, signal, background });
                at = Object.fromEntries(first.heads.map((head) => {
                    const [, chain, number] = /^(?:(.*)\/)?(\d+):/.exec(head);
                    return [chain ?? "", Number(number) + 1];
                }));
            }
            return older(at, limit, signal, background);
        },
        resume: (cursor, limit, signal) => older(JSON.parse(cursor), limit, signal, false),
    });
    return {
        root: h("div", { class: "view audit" }, head.root, h("p", { class: "lead" }, "Who changed what, the newest change first."), result, table.root),
        changed: () => table.stale(),
        close: () => table.close(),
    };
}
