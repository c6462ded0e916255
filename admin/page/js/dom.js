export function h(tag, props = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
        if (name === "on") {
            for (const [event, listener] of Object.entries(value))
                element.addEventListener(event, listener);
        }
        else if (value !== false && value !== undefined && value !== null) {
            element.setAttribute(name, value === true ? "" : String(value));
        }
    }
    add(element, ...children);
    return element;
}
export function add(element, ...children) {
    for (const child of children)
        if (child !== null && child !== undefined && child !== false)
            element.append(child);
}
export function button(label, run, props = {}) {
    return h("button", { type: "button", ...props, on: { click: () => run() } }, label);
}
const hostile = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]/gu;
export function visible(text) {
    return text.replace(hostile, "\uFFFD");
}
export function visibleLines(text) {
    return text.split("\n").map(visible).join("\n");
}
export function name(text, props = {}) {
    const shown = visible(text);
    return h("bdi", { title: shown, ...props }, shown);
}
let ids = 0;
export function newID() {
    return `e${++ids}`;
}
function later(message, life) {
    const box = document.getElementById("status");
    setTimeout(() => {
        const top = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
        if (box.parentElement !== top)
            top.append(box);
        setTimeout(() => box.append(message), 60);
    }, 60);
    setTimeout(() => message.remove(), life);
}
export function saveStatus(from) {
    const box = document.getElementById("status");
    if (from.contains(box))
        document.body.append(box);
}
export function say(text) {
    for (const old of document.querySelectorAll(".toast"))
        old.remove();
    later(h("p", { class: "toast" }, visibleLines(text)), 8000);
}
export function announce(text) {
    later(h("p", { class: "hidden" }, text), 3000);
}
export function copyButton(text, label = "Copy") {
    const b = button(label, () => {
        navigator.clipboard.writeText(text()).then(() => {
            b.textContent = "Copied";
            announce("Copied");
            setTimeout(() => { b.textContent = label; }, 2000);
        }, () => say("The browser does not permit copying. Select the text, and copy it by hand."));
    }, { class: "small" });
    return b;
}
