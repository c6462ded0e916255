import { Problem } from "./api.js";
import { add, button, copyButton, h, name, newID, saveStatus, visibleLines } from "./dom.js";
const dialogs = new Set();
export class Dialog {
    root;
    body;
    foot;
    problem;
    opener;
    mayClose = () => true;
    closed = () => { };
    constructor(title, className = "") {
        const heading = newID();
        this.opener = document.activeElement;
        this.body = h("div", { class: "body" });
        this.problem = h("div", { role: "alert", class: "problem" });
        this.foot = h("div", { class: "foot" });
        this.root = h("dialog", { class: className, "aria-labelledby": heading }, h("header", {}, h("h2", { id: heading, tabindex: "-1" }, title), button("Close", () => this.ask(), { class: "quiet small" })), this.body, this.problem, this.foot);
        this.root.addEventListener("cancel", (e) => { e.preventDefault(); this.ask(); });
        this.root.addEventListener("keydown", (e) => {
            if (e.key === "Escape") {
                e.preventDefault();
                e.stopPropagation();
                this.ask();
            }
        });
        this.root.addEventListener("close", () => this.gone());
        document.body.append(this.root);
        dialogs.add(this);
    }
    open(first) {
        this.root.showModal();
        (first ?? this.root.querySelector("h2"))?.focus();
        return this;
    }
    ask() {
        if (this.mayClose())
            this.close();
    }
    close() {
        this.root.close();
        this.gone();
    }
    gone() {
        if (!dialogs.delete(this))
            return;
        saveStatus(this.root);
        this.root.remove();
        this.closed();
        if (!(this.opener instanceof HTMLElement))
            return;
        const mark = this.opener.getAttribute("data-focus");
        const back = this.opener.isConnected || mark === null ? this.opener : document.querySelector(`[data-focus="${CSS.escape(mark)}"]`);
        (back?.isConnected ? back : document.querySelector("h1"))?.focus({ preventScroll: true });
    }
    fail(err) {
        this.problem.replaceChildren(err instanceof Problem ? visibleLines(err.message) : "Something went wrong on the page. Load it again.");
        if (!(err instanceof Problem))
            console.error(err);
        this.problem.scrollIntoView({ block: "nearest" });
    }
    clearProblem() {
        this.problem.replaceChildren();
    }
}
export function closeDialogs() {
    for (const d of [...dialogs].reverse()) {
        d.root.close();
        d.gone();
    }
}
export function mayLeave() {
    return [...dialogs].reverse().every((d) => d.mayClose());
}
export function commandBox(command) {
    const code = h("code", {});
    const root = h("div", { class: "command" }, h("div", { class: "commandhead" }, h("span", { class: "faint" }, "The same in a shell"), copyButton(command)), h("pre", { tabindex: "0", role: "group", "aria-label": "Command line" }, code));
    const update = () => { code.textContent = visibleLines(command()); };
    update();
    return { root, update };
}
export function facts(...rows) {
    const list = h("dl", { class: "facts" });
    for (const row of rows)
        if (row !== null)
            add(list, h("dt", {}, row[0]), h("dd", {}, row[1]));
    return list;
}
export function act(a) {
    const d = new Dialog(a.title);
    const changes = h("div", { role: "alert" });
    const command = commandBox(a.command);
    const form = h("form", { novalidate: true }, ...a.content, changes, command.root);
    const submit = h("button", { type: "submit", class: a.danger ? "danger" : "primary" }, a.button);
    const id = newID();
    form.id = id;
    submit.setAttribute("form", id);
    form.addEventListener("input", command.update);
    form.addEventListener("change", command.update);
    let busy = false;
    form.addEventListener("submit", async (e) => {
        e.preventDefault();
        if (busy)
            return;
        busy = true;
        submit.setAttribute("aria-disabled", "true");
        d.clearProblem();
        changes.replaceChildren();
        try {
            await a.run();
            d.close();
        }
        catch (err) {
            if (err instanceof Problem && err.kind === "changed-meanwhile" && a.changed) {
                try {
                    changes.replaceChildren();
                    add(changes, ...await a.changed());
                    command.update();
                }
                catch (again) {
                    d.fail(again);
                }
            }
            else if (err instanceof Invalid) {
                d.fail(new Problem({ type: "invalid", title: err.message, status: 0 }));
                err.field.setAttribute("aria-invalid", "true");
                err.field.focus();
            }
            else {
                d.fail(err);
            }
        }
        busy = false;
        submit.removeAttribute("aria-disabled");
    });
    form.addEventListener("input", (e) => e.target.removeAttribute("aria-invalid"));
    d.body.append(form);
    d.foot.append(button("Cancel", () => d.ask()), submit);
    return d.open(a.first);
}
export class Invalid extends Error {
    field;
    constructor(field, message) {
        super(message);
        this.field = field;
    }
}
export function field(label, input, hint) {
    input.id = newID();
    const described = hint ? newID() : undefined;
    if (described)
        input.setAttribute("aria-describedby", described);
    return h("div", { class: "field" }, h("label", { for: input.id }, label), input, hint ? h("p", { class: "hint", id: described }, hint) : null);
}
export function input(value = "", props = {}) {
    return h("input", { type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false", value, ...props });
}
export function check(label, checked = false) {
    const box = h("input", { type: "checkbox", checked });
    return { root: h("label", { class: "check" }, box, h("span", {}, label)), box };
}
export function select(options, value = "") {
    const s = h("select", {});
    for (const [v, label] of options)
        s.append(h("option", { value: v, selected: v === value }, label));
    return s;
}
export function showToken(keyID, keyName, token, note, after) {
    const d = new Dialog("The new token", "token");
    let secret = token;
    const shown = h("output", { class: "secret", "aria-label": "Token", tabindex: "0" }, secret);
    const stored = check("I have stored it");
    const ask = h("div", { role: "alert" });
    const warn = (e) => { if (!stored.box.checked)
        e.preventDefault(); };
    addEventListener("beforeunload", warn);
    const download = button("Download", () => {
        const url = URL.createObjectURL(new Blob([secret + "\n"], { type: "text/plain" }));
        const link = h("a", { href: url, download: `latchkey-token-${keyID}.txt` });
        link.click();
        setTimeout(() => URL.revokeObjectURL(url), 1000);
    }, { class: "small" });
    const done = button("Done", () => d.ask(), { class: "primary" });
    add(d.body, h("p", {}, "This is the token of the key ", h("strong", {}, name(keyName)), ". It is shown only now, because the store does not keep it."), h("div", { class: "secretbox" }, shown, h("div", { class: "tools" }, copyButton(() => secret), download)), ...note, stored.root, ask);
    d.foot.append(done);
    stored.box.addEventListener("change", () => ask.replaceChildren());
    d.mayClose = () => {
        if (stored.box.checked)
            return true;
        if (ask.childElementCount === 0) {
            const back = button("Go back", () => { ask.replaceChildren(); shown.focus(); });
            ask.append(h("div", { class: "ask" }, h("p", {}, "Nobody can show the token again. If it is lost, the key needs a rotation. Close all the same?"), h("div", { class: "tools" }, back, button("Close without storing", () => d.close(), { class: "danger" }))));
            back.focus();
        }
        return false;
    };
    d.closed = () => {
        removeEventListener("beforeunload", warn);
        secret = "";
        shown.textContent = "";
        d.root.replaceChildren();
        after();
    };
    d.open(shown);
}
