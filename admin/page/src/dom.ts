// Building elements. Text is only ever set as text, so that nothing in the store can become HTML.

export type Child = Node | string | null | undefined | false;

type Props = {
	class?: string;
	on?: { [event: string]: (event: Event) => void };
	[attribute: string]: unknown;
};

// h returns a new element. An attribute that is false or undefined is left out.
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(props)) {
		if (name === "on") {
			for (const [event, listener] of Object.entries(value as NonNullable<Props["on"]>)) element.addEventListener(event, listener);
		} else if (value !== false && value !== undefined && value !== null) {
			element.setAttribute(name, value === true ? "" : String(value));
		}
	}
	add(element, ...children);
	return element;
}

// add appends children to an element.
export function add(element: Element, ...children: Child[]): void {
	for (const child of children) if (child !== null && child !== undefined && child !== false) element.append(child);
}

// button returns a button that runs a function.
export function button(label: string, run: () => void, props: Props = {}): HTMLButtonElement {
	return h("button", { type: "button", ...props, on: { click: () => run() } }, label);
}

// hostile matches characters that are not shown but act on the text around them, such as marks that
// reverse the direction of writing.
const hostile = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]/gu;

// visible returns a text with a replacement character for each hostile one.
export function visible(text: string): string {
	return text.replace(hostile, "\uFFFD");
}

// visibleLines is visible for a text of several lines.
export function visibleLines(text: string): string {
	return text.split("\n").map(visible).join("\n");
}

// name returns a text from the store, isolated from the direction of the text around it.
export function name(text: string, props: Props = {}): HTMLElement {
	const shown = visible(text);
	return h("bdi", { title: shown, ...props }, shown);
}

let ids = 0;

// newID returns an ID for an element.
export function newID(): string {
	return `e${++ids}`;
}

// later puts a message where it is read aloud. While a dialog is open, everything outside it is
// silent, so the messages move into it. The message comes a moment after, because a region that was
// just moved is not read.
function later(message: HTMLElement, life: number): void {
	const box = document.getElementById("status")!;
	setTimeout(() => {
		const top = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
		if (box.parentElement !== top) top.append(box);
		setTimeout(() => box.append(message), 60);
	}, 60);
	setTimeout(() => message.remove(), life);
}

// saveStatus takes the messages out of an element that is about to go.
export function saveStatus(from: Element): void {
	const box = document.getElementById("status")!;
	if (from.contains(box)) document.body.append(box);
}

// say shows a message for a while, and has it read aloud.
export function say(text: string): void {
	for (const old of document.querySelectorAll(".toast")) old.remove();
	later(h("p", { class: "toast" }, visibleLines(text)), 8000);
}

// announce has a message read aloud, and does not show it.
export function announce(text: string): void {
	later(h("p", { class: "hidden" }, text), 3000);
}

// copyButton returns a button that copies a text.
export function copyButton(text: () => string, label = "Copy"): HTMLButtonElement {
	const b = button(label, () => {
		navigator.clipboard.writeText(text()).then(
			() => {
				b.textContent = "Copied";
				announce("Copied");
				setTimeout(() => { b.textContent = label; }, 2000);
			},
			() => say("The browser does not permit copying. Select the text, and copy it by hand."),
		);
	}, { class: "small" });
	return b;
}
