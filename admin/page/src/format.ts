// Times, durations and command lines as people read them.

import { h, visible } from "./dom.js";
import type { Identity, Key, User } from "./api.js";

let offset = 0; // of the store's time from the browser's, in ms

// setStoreTime notes the store's time, which decides which keys have expired.
export function setStoreTime(now: string): void {
	offset = Date.parse(now) - Date.now();
}

// storeNow returns the store's time.
export function storeNow(): number {
	return Date.now() + offset;
}

const short = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

const minute = 60_000, hour = 60 * minute, day = 24 * hour;

// distance returns how far a time is from now, such as "3 days ago".
export function distance(time: number): string {
	const ms = time - storeNow(), size = Math.abs(ms);
	// The clocks of the store and of the browser are not quite in step.
	if (size < minute) return ms > 10_000 ? "in less than a minute" : "just now";
	// A key that was made for 30 days just now expires in 30 days, and not in 29.
	const units = (unit: number): number => ms > 0 ? Math.round(ms / unit) : Math.trunc(ms / unit);
	if (size < hour) return relative.format(units(minute), "minute");
	if (size < day) return relative.format(units(hour), "hour");
	if (size < 60 * day) return relative.format(units(day), "day");
	if (size < 730 * day) return relative.format(units(30.44 * day), "month");
	return relative.format(units(365.25 * day), "year");
}

function exactly(time: string): string {
	return `${exact.format(Date.parse(time))} (${time})`;
}

// when returns a time in the reader's zone. The exact time is its title.
export function when(time: string): HTMLElement {
	return h("time", { datetime: time, title: exactly(time) }, short.format(Date.parse(time)));
}

// ago returns how far a time is from now. The exact time is its title.
export function ago(time: string | undefined, otherwise = "never"): HTMLElement {
	if (time === undefined) return h("span", { class: "faint" }, otherwise);
	return h("time", { datetime: time, title: exactly(time) }, distance(Date.parse(time)));
}

// whenAndAgo returns both.
export function whenAndAgo(time: string | undefined, otherwise = "never"): HTMLElement {
	if (time === undefined) return h("span", {}, otherwise);
	return h("span", {}, when(time), " ", h("span", { class: "faint" }, `(${distance(Date.parse(time))})`));
}

const soon = 14 * day;

// expiry returns when a key expires, with a badge if that is soon.
export function expiry(key: Key): HTMLElement {
	if (key.expires === undefined) return h("span", { class: "faint" }, "never");
	const at = Date.parse(key.expires);
	if (key.expired || at <= storeNow()) return badge(`expired ${distance(at)}`, "bad", exactly(key.expires));
	if (at - storeNow() < soon) return badge(`expires ${distance(at)}`, "warn", exactly(key.expires));
	return ago(key.expires);
}

// badge returns a short text in a frame.
export function badge(text: string, tone: "good" | "warn" | "bad" | "off", title?: string): HTMLElement {
	return h("span", { class: `badge ${tone}`, title }, text);
}

// keyState returns whether a key logs in.
export function keyState(key: Key): HTMLElement {
	if (key.disabled) return badge("disabled", "off");
	if (key.expired) return badge("expired", "bad");
	if (key.stopped) return badge(`${key.stopped} disabled`, "off", `The key does not log in, because its ${key.stopped} is disabled.`);
	return badge("enabled", "good");
}

// count returns a number and a noun.
export function count(n: number, one: string, many = one + "s"): string {
	return `${n.toLocaleString()} ${n === 1 ? one : many}`;
}

// quote returns a word of a command line for a POSIX shell. Characters that cannot be seen are
// written as escapes, which bash, zsh and ksh read.
export function quote(word: string): string {
	// The shell zsh replaces a word that begins with =.
	if (/^[A-Za-z0-9_@%+:,./-][A-Za-z0-9_@%+=:,./-]*$/.test(word)) return word;
	if (visible(word) === word) return `'${word.replaceAll("'", `'\\''`)}'`;
	let text = "";
	for (const c of word) {
		const code = c.codePointAt(0)!.toString(16);
		text += visible(c) === c ? c.replace(/[\\']/, "\\$&") : code.length <= 4 ? `\\u${code.padStart(4, "0")}` : `\\U${code.padStart(8, "0")}`;
	}
	return `$'${text}'`;
}

// line returns a command line of the command latchkey. The arguments are not flags, even if one
// begins as a flag does.
export function line(command: string[], args: string[] = []): string {
	const all = ["latchkey", ...command, ...(args.some((a) => a.startsWith("-")) ? ["--"] : []), ...args];
	return all.map(quote).join(" ");
}

// typable reports whether a text from the store can be typed as an argument: it does not look like
// a flag, and what one sees is what it is.
function typable(text: string): boolean {
	return text !== "" && !text.startsWith("-") && visible(text) === text && text.normalize("NFC") === text;
}

// likeID reports whether the command takes a text for an ID, which would name somebody else.
function likeID(text: string): boolean {
	return /^[0-9a-f-]{36}$/i.test(text);
}

// identityWord returns an identity as the command reads it.
export function identityWord(i: Identity): string {
	return i.provider === "local-userpass" && !i.subject.includes(":") && !likeID(i.subject) ? i.subject : `${i.provider}:${i.subject}`;
}

// personWord returns the argument USER for a user with an identity and an ID.
function personWord(first: Identity | undefined, id: string): string {
	return first && typable(first.subject) ? identityWord(first) : id;
}

// userWord returns the argument USER for a user.
export function userWord(user: User): string {
	return personWord(user.identities[0], user.id);
}

// keyLine returns a command line for a key. args follow the key.
export function keyLine(key: Key, command: string[], ...args: string[]): string {
	const word = typable(key.name) && !likeID(key.name) ? key.name : key.id;
	if (key.owner === "server") return line([...command, "--server"], [word, ...args]);
	return line(command, [personWord(key.identity, key.owner), word, ...args]);
}

// ownerTitle returns how people know the owner of a key.
export function ownerTitle(key: Key): string {
	if (key.owner === "server") return "server";
	return key.identity ? key.identity.subject || key.identity.provider : key.owner;
}

// userTitle returns how people know a user.
// whose tells two keys with one name apart, for who hears a list and does not see it.
export function whose(key: Key): string {
	return key.owner === "server" ? "a server key" : `a key of ${visible(ownerTitle(key))}`;
}

export function userTitle(user: User): string {
	return user.identities.map((i) => i.subject || i.provider).join(", ");
}
