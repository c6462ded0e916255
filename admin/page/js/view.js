import { button, h } from "./dom.js";
export function searchField(label, placeholder, run) {
    const input = h("input", { type: "search", placeholder, "aria-label": label, autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: "300" });
    let timer = 0, last = "";
    const now = () => {
        clearTimeout(timer);
        const text = input.value.trim();
        if (text !== last)
            run(last = text);
    };
    input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(now, 200); });
    input.addEventListener("keydown", (e) => {
        if (e.key === "Enter")
            now();
        if (e.key === "Escape" && input.value !== "") {
            e.preventDefault();
            input.value = "";
            now();
        }
    });
    return { root: h("div", { class: "search", role: "search" }, input), input };
}
export function filter(label, options, run) {
    const select = h("select", { on: { change: run } });
    for (const [value, text] of options)
        select.append(h("option", { value }, text));
    return { root: h("label", { class: "filter" }, h("span", {}, label), select), select };
}
export function heading(title, ...right) {
    const count = h("span", { class: "count" });
    return { root: h("div", { class: "heading" }, h("h1", { tabindex: "-1" }, title), count, h("div", { class: "right" }, ...right)), count };
}
export function nothing(text, label, run) {
    return h("div", { class: "empty" }, h("p", {}, text), label !== undefined && run !== undefined && button(label, run));
}
export class Once {
    body = "";
    key = "";
    of(body) {
        const text = JSON.stringify(body);
        if (text !== this.body) {
            this.body = text;
            this.key = crypto.randomUUID();
        }
        return this.key;
    }
}
