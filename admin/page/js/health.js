import { call, Problem } from "./api.js";
import { add, button, h, say } from "./dom.js";
import { act, commandBox, facts } from "./dialog.js";
import { badge, line, when } from "./format.js";
import { heading } from "./view.js";
function findings(all) {
    const list = h("ul", { class: "findings" });
    for (const f of all)
        list.append(h("li", {}, h("strong", {}, f.type.replace("urn:latchkey:problem:", "")), h("span", {}, f.detail ?? f.title)));
    return list;
}
const names = [
    ["users", "Users"], ["keys", "Keys"], ["sequence", "Commits in the file"], ["commits", "Commits since the start"], ["hits", "Logins from the cache"], ["misses", "Logins with a hash"],
    ["refused", "Refused logins"], ["forged", "Forged tokens"], ["malformed", "Malformed tokens"], ["unknown", "Unknown keys"], ["busy", "Turned away as busy"], ["clock_resets", "Clock resets"],
];
export function healthView() {
    const state = h("div", { class: "panel", role: "status" }, h("p", { class: "wait" }, "Loading…"));
    const numbers = h("div", { class: "numbers" });
    const store = h("div", {});
    const result = h("div", { role: "status" });
    let closed = false;
    const load = async (background) => {
        try {
            const [health, stats, info] = await Promise.all([
                call("GET", "/v1/health", { background }), call("GET", "/v1/stats", { background }), call("GET", "/v1/store", { background }),
            ]);
            if (closed)
                return;
            state.replaceChildren();
            if (health.ok)
                add(state, h("p", { class: "title" }, badge("well", "good"), " Nothing is wrong with the store."));
            else
                add(state, h("p", { class: "title" }, badge("not well", "bad"), " The store needs attention."), findings(health.findings), commandBox(() => line(["doctor"])).root);
            numbers.replaceChildren();
            for (const [field, label] of names)
                add(numbers, h("div", { class: "number" }, h("span", { class: "value" }, (stats[field] ?? 0).toLocaleString()), h("span", { class: "faint" }, label)));
            store.replaceChildren(facts(["Domain", h("code", {}, info.domain)], ["Replica", h("code", {}, info.replica)], ["The store's time", when(info.now)]));
        }
        catch (err) {
            if (closed || !(err instanceof Problem))
                return;
            state.replaceChildren(h("div", { role: "alert", class: "failed" }, h("p", {}, err.message), button("Try again", () => void load(false))));
        }
    };
    const check = async () => {
        result.replaceChildren(h("p", { class: "wait" }, "Checking…"));
        try {
            const f = await call("POST", "/v1/check", { body: {} });
            result.replaceChildren();
            if (f.findings.length === 0)
                add(result, h("p", {}, badge("sound", "good"), " The check has found no damage."), commandBox(() => line(["check"])).root);
            else
                add(result, h("p", {}, badge("damaged", "bad"), f.more ? " The check has found much damage. This is the beginning:" : " The check has found damage:"), findings(f.findings), commandBox(() => line(["doctor"])).root);
        }
        catch (err) {
            result.replaceChildren(h("p", { class: "failed" }, err.message));
        }
    };
    const compact = () => {
        act({
            title: "Compact the file?", content: [h("p", {}, "The store writes its file anew without unused space. Logins and changes go on meanwhile. It takes as much disk space again.")], button: "Compact",
            command: () => line(["compact"]),
            run: async () => { await call("POST", "/v1/compact"); say("The file is compacted."); },
        });
    };
    const head = heading("Health", button("Check for damage", () => void check()), button("Compact", compact));
    void load(false);
    const timer = setInterval(() => { if (!document.hidden)
        void load(true); }, 10_000);
    return {
        root: h("div", { class: "view health" }, head.root, state, result, h("h2", {}, "Counters"), numbers, h("h2", {}, "Store"), store, h("h2", {}, "Backup"), h("p", {}, "A backup has the secrets of the store, so the page cannot make one."), commandBox(() => line(["backup"], ["keys.backup"])).root),
        changed: () => void load(true),
        close: () => { closed = true; clearInterval(timer); },
    };
}
