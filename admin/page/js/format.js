import { h, visible } from "./dom.js";
let offset = 0;
export function setStoreTime(now) {
    offset = Date.parse(now) - Date.now();
}
export function storeNow() {
    return Date.now() + offset;
}
const short = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const minute = 60_000, hour = 60 * minute, day = 24 * hour;
export function distance(time) {
    const ms = time - storeNow(), size = Math.abs(ms);
    if (size < minute)
        return ms > 10_000 ? "in less than a minute" : "just now";
    const units = (unit) => ms > 0 ? Math.round(ms / unit) : Math.trunc(ms / unit);
    if (size < hour)
        return relative.format(units(minute), "minute");
    if (size < day)
        return relative.format(units(hour), "hour");
    if (size < 60 * day)
        return relative.format(units(day), "day");
    if (size < 730 * day)
        return relative.format(units(30.44 * day), "month");
    return relative.format(units(365.25 * day), "year");
}
function exactly(time) {
    return `${exact.format(Date.parse(time))} (${time})`;
}
export function when(time) {
    return h("time", { datetime: time, title: exactly(time) }, short.format(Date.parse(time)));
}
export function ago(time, otherwise = "never") {
    if (time === undefined)
        return h("span", { class: "faint" }, otherwise);
    return h("time", { datetime: time, title: exactly(time) }, distance(Date.parse(time)));
}
export function whenAndAgo(time, otherwise = "never") {
    if (time === undefined)
        return h("span", {}, otherwise);
    return h("span", {}, when(time), " ", h("span", { class: "faint" }, `(${distance(Date.parse(time))})`));
}
const soon = 14 * day;
export function expiry(key) {
    if (key.expires === undefined)
        return h("span", { class: "faint" }, "never");
    const at = Date.parse(key.expires);
    if (key.expired || at <= storeNow())
        return badge(`expired ${distance(at)}`, "bad", exactly(key.expires));
    if (at - storeNow() < soon)
        return badge(`expires ${distance(at)}`, "warn", exactly(key.expires));
    return ago(key.expires);
}
export function badge(text, tone, title) {
    return h("span", { class: `badge ${tone}`, title }, text);
}
export function keyState(key) {
    if (key.disabled)
        return badge("disabled", "off");
    if (key.expired)
        return badge("expired", "bad");
    if (key.stopped)
        return badge(`${key.stopped} disabled`, "off", `The key does not log in, because its ${key.stopped} is disabled.`);
    return badge("enabled", "good");
}
export function count(n, one, many = one + "s") {
    return `${n.toLocaleString()} ${n === 1 ? one : many}`;
}
export function quote(word) {
    if (/^[A-Za-z0-9_@%+:,./-][A-Za-z0-9_@%+=:,./-]*$/.test(word))
        return word;
    if (visible(word) === word)
        return `'${word.replaceAll("'", `'\\''`)}'`;
    let text = "";
    for (const c of word) {
        const code = c.codePointAt(0).toString(16);
        text += visible(c) === c ? c.replace(/[\\']/, "\\$&") : code.length <= 4 ? `\\u${code.padStart(4, "0")}` : `\\U${code.padStart(8, "0")}`;
    }
    return `$'${text}'`;
}
export function line(command, args = []) {
    const all = ["latchkey", ...command, ...(args.some((a) => a.startsWith("-")) ? ["--"] : []), ...args];
    return all.map(quote).join(" ");
}
function typable(text) {
    return text !== "" && !text.startsWith("-") && visible(text) === text && text.normalize("NFC") === text;
}
function likeID(text) {
    return /^[0-9a-f-]{36}$/i.test(text);
}
export function identityWord(i) {
    return i.provider === "local-userpass" && !i.subject.includes(":") && !likeID(i.subject) ? i.subject : `${i.provider}:${i.subject}`;
}
function personWord(first, id) {
    return first && typable(first.subject) ? identityWord(first) : id;
}
export function userWord(user) {
    return personWord(user.identities[0], user.id);
}
export function keyLine(key, command, ...args) {
    const word = typable(key.name) && !likeID(key.name) ? key.name : key.id;
    if (key.owner === "server")
        return line([...command, "--server"], [word, ...args]);
    return line(command, [personWord(key.identity, key.owner), word, ...args]);
}
export function ownerTitle(key) {
    if (key.owner === "server")
        return "server";
    return key.identity ? key.identity.subject || key.identity.provider : key.owner;
}
export function whose(key) {
    return key.owner === "server" ? "a server key" : `a key of ${visible(ownerTitle(key))}`;
}
export function userTitle(user) {
    return user.identities.map((i) => i.subject || i.provider).join(", ");
}
